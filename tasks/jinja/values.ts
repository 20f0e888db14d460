/**
 * What a template's values are. Most are JavaScript's own:
 *
 * | Python                 | here                                                       |
 * | ---------------------- | ---------------------------------------------------------- |
 * | `str`, `bool`, `None`  | string, boolean, `null`                                    |
 * | `int`                  | a whole number                                             |
 * | `float`                | a number that is not whole, or a {@link PyFloat}           |
 * | `list`, `tuple`        | an array, a {@link Tuple}                                  |
 * | `dict`                 | an object (keys are strings), or a `Map` (keys are values) |
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
  | "IndexError"
  | "KeyError"
  | "OverflowError"
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
    super(message);
    this.kind = kind;
    this.line = line;
  }
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
  #items: unknown[];

  /** Items under a type's name. */
  constructor(type: string, items: unknown[]) {
    super();
    this.type = type;
    this.#items = items;
  }

  /** Whether it has a length, an order to reverse, and a text; it can then be read again, too. */
  get isView(): boolean {
    return this.type.startsWith("dict_");
  }

  /** Goes through the items. */
  take(): unknown[] {
    const items = this.#items;
    if (!this.isView) this.#items = [];
    return items;
  }
}

/** A function of Python's or Jinja's, or a method with its object. */
export class Callable extends PyObject {
  /** Always `"builtin_function_or_method"`. */
  readonly type = "builtin_function_or_method";
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

/** Either form of a `dict`. */
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

/** The value of a number or boolean as a JavaScript number; `undefined` for everything else. */
export function numeric(value: unknown): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value === "boolean" || typeof value === "bigint") return Number(value);
  return value instanceof PyFloat ? value.value : undefined;
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
  if (!(dict instanceof Map)) {
    return typeof key === "string" && Object.hasOwn(dict, key) ? dict[key] : undefined;
  }
  const value = dict.get(key);
  return value !== undefined || typeof key === "string" ? value : dict.get(sameKey(dict, key));
}

/** Whether a dict has a key. */
export function hasKey(dict: Dict, key: unknown): boolean {
  if (!(dict instanceof Map)) return typeof key === "string" && Object.hasOwn(dict, key);
  return dict.has(sameKey(dict, key));
}

/** Sets a key of a dict. */
export function setKey(dict: Map<unknown, unknown>, key: unknown, value: unknown): void {
  checkHashable(key);
  dict.set(sameKey(dict, key), value);
}

/** Lists and dicts are no keys. */
export function checkHashable(key: unknown): void {
  if (Array.isArray(key) && !(key instanceof Tuple) || isDict(key)) {
    throw new JinjaError("TypeError", `unhashable type: '${typeName(key)}'`);
  }
}

/** The key that a dict knows a key as: 1, 1.0 and `True` are one key to Python, three to a `Map`. */
function sameKey(dict: Map<unknown, unknown>, key: unknown): unknown {
  if (typeof key === "string" || key === null || dict.has(key)) return key;
  if (key instanceof Tuple) return [...dict.keys()].find((known) => sameTuple(known, key)) ?? key;
  const number = numeric(key);
  if (number === undefined) return key;
  for (const known of dict.keys()) if (numeric(known) === number) return known;
  return key;
}

function sameTuple(a: unknown, b: unknown): boolean {
  if (!(a instanceof Tuple && b instanceof Tuple)) return (numeric(a) ?? a) === (numeric(b) ?? b);
  return a.length === b.length && a.every((item, i) => sameTuple(item, b[i]));
}

/** Keys and values of a dict, in order. */
export function entriesOf(dict: Dict): [unknown, unknown][] {
  return dict instanceof Map ? [...dict] : Object.entries(dict);
}
