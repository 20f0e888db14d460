/**
 * `loop` within a loop.
 *
 * @module
 */
import { equals } from "./python.ts";
import { Callable, JinjaError, PyObject } from "./values.ts";

/** Where a loop stands. */
export class Loop extends Callable {
  /** Python's name of its type. */
  override readonly type = "LoopContext";
  /** The number of the item, from 0. */
  index = 0;
  /** What it goes through. */
  readonly list: readonly unknown[];
  /** How many loops it lies in that call themselves. */
  readonly depth: number;
  /** Goes through another list with the same body, if it is a loop that may. */
  readonly again?: (list: unknown) => string;
  #changed?: readonly unknown[];

  /** A loop at its first item. */
  constructor(list: readonly unknown[], depth: number, again?: (list: unknown) => string) {
    super("loop", (args) => {
      if (this.again && args.length === 1) return this.again(args[0]);
      throw new JinjaError("TypeError", "only a loop that is 'recursive' can be called");
    });
    this.list = list;
    this.depth = depth;
    this.again = again;
  }

  /** `loop.name`. */
  override attribute(name: string): unknown {
    const { index, list } = this;
    switch (name) {
      case "index":
        return index + 1;
      case "index0":
        return index;
      case "revindex":
        return list.length - index;
      case "revindex0":
        return list.length - index - 1;
      case "first":
        return index === 0;
      case "last":
        return index === list.length - 1;
      case "length":
        return list.length;
      case "depth":
        return this.depth + 1;
      case "depth0":
        return this.depth;
      case "previtem":
        return index > 0 ? list[index - 1] : undefined;
      case "nextitem":
        return list[index + 1];
      case "cycle":
        return new Callable(name, (args) => this.#cycle(args));
      case "changed":
        return new Callable(name, (args) => this.#isChanged(args));
    }
  }

  #cycle(args: readonly unknown[]): unknown {
    if (args.length > 0) return args[this.index % args.length];
    throw new JinjaError("TypeError", "no items for cycling given");
  }

  #isChanged(args: readonly unknown[]): boolean {
    const before = this.#changed;
    this.#changed = [...args];
    return !before || !equals([...before], [...args]);
  }

  /** `repr(loop)`. */
  override repr(): string {
    return `<LoopContext ${this.index + 1}/${this.list.length}>`;
  }
}

/** What `cycler(...)` makes: gives one item after the other, again and again. */
export class Cycler extends PyObject {
  /** Python's name of its type. */
  readonly type = "Cycler";
  readonly #items: readonly unknown[];
  #at = 0;

  /** A cycler of at least one item. */
  constructor(items: readonly unknown[]) {
    super();
    if (items.length === 0) {
      throw new JinjaError("RuntimeError", "at least one item has to be provided");
    }
    this.#items = items;
  }

  /** `current`, `next()` and `reset()`. */
  override attribute(name: string): unknown {
    switch (name) {
      case "current":
        return this.#items[this.#at];
      case "next":
        return new Callable(name, () => {
          const item = this.#items[this.#at];
          this.#at = (this.#at + 1) % this.#items.length;
          return item;
        });
      case "reset":
        return new Callable(name, () => {
          this.#at = 0;
          return null;
        });
    }
  }
}
