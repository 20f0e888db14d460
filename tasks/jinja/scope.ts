/**
 * Where a template's variables live, decided while compiling. A render holds two arrays: the values
 * of the variables that come from outside, and what loops and blocks keep for themselves.
 *
 * Jinja's rules: what is set at the top stays set; what is set in a loop or a block is forgotten at
 * its end, and at the start of every iteration; `if` is no such border. A macro, and a loop that calls
 * itself, have an array of their own each time that they are called, and see those around them.
 *
 * @module
 */
import type { Choose } from "./values.ts";

/** What one render works on. */
export interface Frame {
  /** Variables from outside, in the order of {@link Names}. */
  values: unknown[];
  /** Variables of loops and blocks. */
  locals: unknown[];
  /** That of the part of the template around, where the macro or loop stands. */
  outer?: Frame;
  /** Picks for `choice` and `random`. */
  choose: Choose;
}

/** Reads from a frame. */
export type Read = (frame: Frame) => unknown;
/** Writes to a frame. */
export type Write = (frame: Frame, value: unknown) => void;

/** The variables of a whole template. */
export class Names {
  /** Every name at the top, in the order of {@link Frame.values}. */
  readonly all: string[] = [];
  /** Those that are read before the template sets them, if it does. */
  readonly read: Set<string> = new Set();
  /** Those that are somewhere read in a way that copes without them. */
  readonly optional: Set<string> = new Set();
  readonly #set = new Set<string>();
  readonly #places = new Map<string, number>();

  /** The place of a name, which it gets when it first comes up. */
  place(name: string): number {
    const place = this.#places.get(name) ?? this.all.push(name) - 1;
    this.#places.set(name, place);
    return place;
  }

  /** Notes that the template reads a name from outside. */
  noteRead(name: string, isOptional: boolean): void {
    if (isOptional) this.optional.add(name);
    if (!this.#set.has(name)) this.read.add(name);
  }

  /** Notes that the template sets a name. */
  noteSet(name: string): void {
    this.#set.add(name);
  }
}

/** The variables that one call keeps: of a macro, of a loop that calls itself, or of the template. */
class Locals {
  count = 0;
}

/** What can be seen from one place of a template. */
export class Scope {
  readonly #names: Names;
  readonly #outer?: Scope;
  readonly #locals: Locals;
  readonly #own = new Map<string, number>();
  readonly #read = new Set<string>();
  /** Copies of outer variables that are set in here, made anew whenever the scope is entered. */
  readonly #copies: Write[] = [];

  /** The top of a template, or a scope within another. */
  constructor(names: Names, outer?: Scope, locals?: Locals) {
    this.#names = names;
    this.#outer = outer;
    this.#locals = locals ?? (outer ? outer.#locals : new Locals());
  }

  /** A scope within this one. */
  inner(): Scope {
    return new Scope(this.#names, this);
  }

  /** A scope within this one whose variables are new in each call. */
  call(): Scope {
    return new Scope(this.#names, this, new Locals());
  }

  /** A frame for one call. */
  frame(outer: Frame): Frame {
    const { values, choose } = outer;
    return { values, locals: new Array(this.#locals.count), choose, outer };
  }

  /** How many variables one call has; known when all is compiled. */
  get size(): number {
    return this.#locals.count;
  }

  /** Whether something within reads a variable of this scope. */
  isRead(name: string): boolean {
    return this.#read.has(name);
  }

  /** Reads a variable, from the innermost scope that has it. */
  read(name: string, isOptional = false): Read {
    const { scope, calls } = this.#find(name);
    const own = scope.#own.get(name);
    if (own !== undefined) {
      scope.#read.add(name);
      if (calls === 0) return (frame) => frame.locals[own];
      if (calls === 1) return (frame) => frame.outer!.locals[own];
      return (frame) => {
        for (let i = 0; i < calls; i++) frame = frame.outer!;
        return frame.locals[own];
      };
    }
    this.#names.noteRead(name, isOptional);
    const place = this.#names.place(name);
    return (frame) => frame.values[place];
  }

  /** The scope that has a name, and how many calls lie between; the top has all that no other has. */
  #find(name: string): { scope: Scope; calls: number } {
    if (this.#own.has(name) || !this.#outer) return { scope: this, calls: 0 };
    const { scope, calls } = this.#outer.#find(name);
    return { scope, calls: calls + (this.#locals === this.#outer.#locals ? 0 : 1) };
  }

  /** A variable of this scope alone, such as a loop's. */
  declare(name: string): Write {
    const place = this.#own.get(name) ?? this.#locals.count++;
    this.#own.set(name, place);
    return (frame, value) => frame.locals[place] = value;
  }

  /** Sets a variable as `{% set %}` does: here, whatever it was outside. */
  assign(name: string): Write {
    if (!this.#outer) {
      this.#names.noteSet(name);
      const place = this.#names.place(name);
      return (frame, value) => frame.values[place] = value;
    }
    if (this.#own.has(name)) return this.declare(name);
    const outside = this.read(name, true);
    const write = this.declare(name);
    this.#copies.push((frame) => write(frame, outside(frame)));
    return write;
  }

  /** What to do on entering the scope; for a loop, before each iteration. */
  enter(frame: Frame): void {
    for (const copy of this.#copies) copy(frame, undefined);
  }
}
