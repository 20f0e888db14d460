/**
 * What a template's values are. Most are JavaScript's own:
 *
 * | Python                 | here                                                       |
 * | ---------------------- | ---------------------------------------------------------- |
 * | `str`, `bool`, `None`  | string, boolean, `null`                                    |
 * | `int`                  | a whole number, beyond ±(2⁵³ − 1) a `bigint`               |
 * | `float`                | a number that is not whole, or a {@link PyFloat}           |
 * | `list`, `tuple`        | an array, a {@link Tuple}                                  |
 * | `dict`                 | an object or `Map` with texts as keys, or a {@link ./dict.ts} |
 * | `date`, `Decimal`, ... | a {@link PyObject} of `moments.ts`, `decimal.ts`, `bytes.ts` |
 * | Jinja's `Undefined`    | `undefined`                                                |
 *
 * Objects list keys that look like whole numbers first, whatever the order they came in; give a
 * `Map` where that matters.
 *
 * @module
 */

/** Names of the exceptions of Python and Jinja that a template can raise. */
export type ErrorKind =
  | "AssertionError"
  | "FilterArgumentError"
  | "IndexError"
  | "KeyError"
  | "MemoryError"
  | "OverflowError"
  | "RecursionError"
  | "RuntimeError"
  | "TemplateRuntimeError"
  | "TemplateSyntaxError"
  | "TypeError"
  | "UndefinedError"
  | "ValueError"
  | "ZeroDivisionError";

/**
 * What Jinja would have raised, while compiling a template or rendering it.
 *
 * @example
 * ```ts
 * import { JinjaError } from "./values.ts";
 * import assert from "node:assert/strict";
 *
 * const error = new JinjaError("IndexError", "Cannot choose from an empty sequence");
 * assert.equal(error.kind, "IndexError");
 * ```
 */
export class JinjaError extends Error {
  /** Always `"JinjaError"`. */
  override name = "JinjaError";
  /** The exception's name in Python. */
  readonly kind: ErrorKind;
  /** Line of the template's source, from 1: syntax errors have it. */
  readonly line?: number;

  /** An error of a kind, with Python's message or a clearer one. */
  constructor(kind: ErrorKind, message: string, line?: number) {
    super(inOneLine(message));
    this.kind = kind;
    this.line = line;
  }
}

const LONGEST_MESSAGE = 500;

/** Messages quote templates and rows, which may hold anything. */
function inOneLine(message: string): string {
  const cut = message.length > LONGEST_MESSAGE ? message.slice(0, LONGEST_MESSAGE) + "…" : message;
  return cut.replace(/\p{Cc}/gu, (character) => {
    if (character === "\n") return "\\n";
    return "\\x" + character.charCodeAt(0).toString(16).padStart(2, "0");
  });
}

/** Picks one of `n` things: returns an index from 0 to `n - 1`. */
export type Choose = (n: number) => number;

/** Arguments given by name. */
export type Named = Readonly<Record<string, unknown>>;

/** What a value can be that is neither a JavaScript primitive, nor a list, nor a dict. */
export abstract class PyObject {
  /** Python's name of its type. */
  abstract readonly type: string;

  /** `value.name` in a template; `undefined` where there is no such thing. */
  attribute(_name: string): unknown {
    return undefined;
  }

  /** `str(value)`; by default its `repr`, and `undefined` where neither is worth printing. */
  text(): string | undefined {
    return this.repr();
  }

  /** `repr(value)`. */
  repr(): string | undefined {
    return undefined;
  }

  /** `bool(value)`. */
  truthy(): boolean {
    return true;
  }

  /** Below 0 if it sorts before another, 0 if they are equal, `undefined` if Python does not sort the two. */
  compareTo(_other: unknown): number | undefined {
    return undefined;
  }

  /** What it has in common with all that equal it: as a number, with numbers. */
  get hash(): unknown {
    return this;
  }

  /** What a loop goes through; `undefined` where it cannot. */
  items(): readonly unknown[] | undefined {
    return undefined;
  }
}

/**
 * A `float` with a whole value, which Python prints as `1.0`. Wrap the numbers of float columns.
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./evaluate.ts";
 * import { PyFloat } from "./values.ts";
 * import assert from "node:assert/strict";
 *
 * const template = compileTemplate("{{ stars }}");
 * assert.equal(template.render({ stars: 4 }), "4");
 * assert.equal(template.render({ stars: new PyFloat(4) }), "4.0");
 * ```
 */
export class PyFloat extends PyObject {
  /** Always `"float"`. */
  readonly type = "float";
  /** The number. */
  readonly value: number;

  /** A number that is a float, whatever its value. */
  constructor(value: number) {
    super();
    this.value = value;
  }
}

/** A `tuple`: a list that prints with parentheses and equals no list. */
export class Tuple extends Array<unknown> {}

/** What `namespace()` makes: the one thing whose attributes `{% set ns.x = 1 %}` can set. */
export class Namespace extends PyObject {
  /** Always `"Namespace"`. */
  readonly type = "Namespace";
  /** Attributes by name. */
  readonly attributes: Map<string, unknown>;

  /** A namespace with these attributes. */
  constructor(attributes: Iterable<readonly [string, unknown]>) {
    super();
    this.attributes = new Map(attributes);
  }

  /** An attribute that was set, or `undefined`. */
  override attribute(name: string): unknown {
    return this.attributes.get(name);
  }
}

/**
 * Something that can be gone through but not indexed: generators (of `map`, `select`, ...) and `zip`,
 * which can be gone through only once, and the keys, values and items of dicts.
 */
export class Lazy extends PyObject {
  /** Python's name of its type: `generator`, `zip`, `dict_keys`, ... */
  readonly type: string;
  readonly #items: readonly unknown[];
  /** How many items have been given away. */
  #taken = 0;

  /** Items under a type's name. */
  constructor(type: string, items: readonly unknown[]) {
    super();
    this.type = type;
    this.#items = items;
  }

  /** Whether it has a length, an order to reverse, and a text; it can then be read again, too. */
  get isView(): boolean {
    return this.type.startsWith("dict_");
  }

  /** Goes through the items. */
  take(): readonly unknown[] {
    const items = this.#taken === 0 ? this.#items : this.#items.slice(this.#taken);
    if (!this.isView) this.#taken = this.#items.length;
    return items;
  }

  /** The first item; it is then gone, as all are after {@link Lazy.take}. */
  next(): unknown {
    return this.isView ? this.#items[0] : this.#items[this.#taken++];
  }
}

/** A function of Python's or Jinja's, or a method with its object. */
export class Callable extends PyObject {
  /** Python's name of its type. */
  readonly type: string = "builtin_function_or_method";
  /** Its name in templates. */
  readonly name: string;
  /** What it does. */
  readonly call: (args: readonly unknown[], named?: Named) => unknown;

  /** A function under a name. */
  constructor(name: string, call: (args: readonly unknown[], named?: Named) => unknown) {
    super();
    this.name = name;
    this.call = call;
  }
}

/** Any form of a `dict`. */
export type Dict = Readonly<Record<string, unknown>> | Map<unknown, unknown>;

/** Whether a value is a `dict`. */
export function isDict(value: unknown): value is Dict {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof PyObject);
}

/** Python's name of a value's type. */
export function typeName(value: unknown): string {
  if (value === undefined) return "Undefined";
  if (value === null) return "NoneType";
  if (typeof value === "string") return "str";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "number") return Number.isInteger(value) ? "int" : "float";
  if (typeof value === "bigint") return "int";
  if (value instanceof Tuple) return "tuple";
  if (Array.isArray(value)) return "list";
  return value instanceof PyObject ? value.type : "dict";
}

/** The value of a number or boolean; `undefined` for everything else. */
export function numeric(value: unknown): number | bigint | undefined {
  if (typeof value === "number" || typeof value === "bigint") return value;
  if (typeof value === "boolean") return Number(value);
  return value instanceof PyFloat ? value.value : undefined;
}

/** The value of an `int` or `bool`; `undefined` for everything else. */
export function integral(value: unknown): number | bigint | undefined {
  return isFloat(value) ? undefined : numeric(value);
}

/** A whole number as an `int` has it; `undefined` for one that is not whole. */
export function wholeNumber(value: number | bigint): number | bigint | undefined {
  if (typeof value === "number") {
    if (Number.isSafeInteger(value)) return value + 0; // No -0.
    return Number.isInteger(value) ? BigInt(value) : undefined;
  }
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** Whether a value is a `float`. */
export function isFloat(value: unknown): boolean {
  return value instanceof PyFloat || (typeof value === "number" && !Number.isInteger(value));
}

/** A number as a `float`. */
export function toFloat(value: number): number | PyFloat {
  return Number.isInteger(value) ? new PyFloat(value) : value;
}

/** The value of a dict's key; `undefined` if it has no such key. */
export function lookUp(dict: Dict, key: unknown): unknown {
  if (dict instanceof Map) return dict.get(key);
  return typeof key === "string" && Object.hasOwn(dict, key) ? dict[key] : undefined;
}

/** Whether a dict has a key. */
export function hasKey(dict: Dict, key: unknown): boolean {
  if (dict instanceof Map) return dict.has(key);
  return typeof key === "string" && Object.hasOwn(dict, key);
}

/** Keys and values of a dict, in order. */
export function entriesOf(dict: Dict): [unknown, unknown][] {
  return dict instanceof Map ? [...dict] : Object.entries(dict);
}
