/**
 * What a kernel of the CPU target is: a WebAssembly module with one function that takes work until there is
 * none left, and a block of arguments in memory.
 *
 * All threads run the same function on the same arguments. Work is numbered; a thread takes the next number
 * by an atomic addition. What a number stands for depends on shapes alone, so the bits do not depend on the
 * threads. Between two launches all threads wait for one another.
 *
 * The argument block: the number of items (8 bytes), the addresses of the run block and of each operand
 * (8 bytes each), then params (4 bytes each).
 *
 * @module
 */

import type { Launch } from "../program/lowering.ts";
import { type Code, type Func, i32, type Local, type MemoryKind, Module, v } from "./assembler.ts";

/** The text of a kernel: how to generate it, and what tells it from others. */
export interface KernelSource {
  /** Equal keys, equal modules. */
  readonly key: string;
  /** Operands that it is given. */
  readonly operands: number;
  /** Writes the function. */
  emit(k: Kernel): void;
}

/** A launch for the CPU. */
export interface CpuLaunch extends Launch {
  /** The kernel. */
  readonly source: KernelSource;
  /** Its params: unsigned 32-bit integers, or floats by {@link bitsOf}. */
  readonly params: readonly number[];
  /** Pieces of work. */
  readonly items: number;
}

/** Bytes of memory that each thread has for itself while a kernel runs. */
export const SCRATCH_BYTES = 1 << 20;

/** The bits of a 32-bit float as an integer. */
export function bitsOf(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0];
}

/** Bytes of a launch's argument block. */
export function argumentBytes(
  { operands, params }: Pick<CpuLaunch, "operands" | "params">,
): number {
  return Math.ceil((16 + 8 * operands.length + 4 * params.length) / 16) * 16;
}

/** Operands and params of a part of a kernel, numbered from 0. */
export interface Scope {
  /** The address of an operand. */
  operand(i: number): Local;
  /** A param. */
  param(i: number): Local;
}

/** A kernel in the making. */
export class Kernel {
  /** The module, for helper functions. */
  readonly module: Module;
  /** The kernel's own function. */
  readonly f: Func;
  readonly #operands: number;
  readonly #loaded = new Map<string, Local>();

  /** Starts one. */
  constructor(kind: MemoryKind, operands: number) {
    this.module = new Module(kind);
    const pointer = kind.wide ? "i64" : "i32";
    this.f = this.module.func([pointer, pointer, pointer]);
    this.#operands = operands;
  }

  #once(key: string, type: Local["type"], value: () => Code): Local {
    let local = this.#loaded.get(key);
    if (!local) this.#loaded.set(key, local = this.f.first(type, value()));
    return local;
  }

  /** The address of an operand. */
  operand(i: number): Local {
    const { f } = this;
    return this.#once(`o${i}`, f.pointerType, () => f.loadPointer(f.param(0), 16 + 8 * i));
  }

  /** A param. */
  param(i: number): Local {
    return this.#once(
      `p${i}`,
      "i32",
      () => i32.load(this.f.param(0), 16 + 8 * this.#operands + 4 * i),
    );
  }

  /** A param that is a float, in all lanes. */
  floatParam(i: number): Local {
    const offset = 16 + 8 * this.#operands + 4 * i;
    return this.#once(`f${i}`, "v128", () => v.loadSplat(this.f.param(0), offset));
  }

  /** A part of the kernel with operands and params of its own. */
  scope(firstOperand: number, firstParam: number): Scope {
    return {
      operand: (i) => this.operand(firstOperand + i),
      param: (i) => this.param(firstParam + i),
    };
  }

  /** A word of the run block, in all lanes. */
  run(word: number): Local {
    const { f } = this;
    return this.#once(
      `r${word}`,
      "v128",
      () => v.loadSplat(f.loadPointer(f.param(0), 8), 4 * word),
    );
  }

  /** A byte of the thread's own memory. */
  scratch(offset: number): Local {
    const { f } = this;
    return this.#once(`s${offset}`, f.pointerType, () => f.plus(f.param(2), i32.const(offset)));
  }

  /** Statements for every piece of work that this thread gets. */
  items(statements: (item: Local) => void): void {
    const { f } = this;
    const count = this.#once("items", "i32", () => i32.load(f.param(0), 0));
    const item = f.local("i32");
    f.forever(() => {
      f.set(item, f.fetchAdd(f.param(1), i32.const(1)));
      f.if(i32.geU(item, count), () => f.return());
      statements(item);
    });
  }

  /** Statements for the numbers `from` to `to` − 1 of one piece of many: the piece has `size` of `all`. */
  range(item: Local, size: Code, all: Code, statements: (i: Local) => void): void {
    const { f } = this;
    const i = f.local("i32", i32.mul(item, size));
    const end = f.local("i32", i32.minU(i32.add(i, size), all));
    f.for(i, end, 1, () => statements(i));
  }

  /** The module. */
  bytes(): Uint8Array<ArrayBuffer> {
    return this.module.bytes(this.f);
  }
}

/** Generates a kernel. */
export function assemble(source: KernelSource, kind: MemoryKind): Uint8Array<ArrayBuffer> {
  const k = new Kernel(kind, source.operands);
  source.emit(k);
  return k.bytes();
}

/** Size of the pieces into which `count` things are cut, of `each` elements, so that a piece is worth taking. */
export function pieceOf(count: number, each: number, elements = 8192): number {
  return Math.max(1, Math.min(count, Math.ceil(elements / Math.max(each, 1))));
}
