/**
 * What Python's operators and built-in functions do with a template's values.
 *
 * @module
 */
import { decimalOf, PyDecimal } from "./decimal.ts";
import { PyDuration, PyMoment } from "./moments.ts";
import { floatText, integerText } from "./numbers.ts";
import { PyBytes } from "./bytes.ts";
import { characterAt, countPoints, slicePoints } from "./text.ts";
import {
  checkHashable,
  type Dict,
  entriesOf,
  hasKey,
  isDict,
  isFloat,
  JinjaError,
  Lazy,
  lookUp,
  Namespace,
  numeric,
  PyFloat,
  PyObject,
  toFloat,
  Tuple,
  typeName,
} from "./values.ts";

/**
 * `str(value)`; an undefined value is empty.
 *
 * @example
 * ```ts
 * import { str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(str(null), "None");
 * assert.equal(str(["it's", true, { a: 1 }]), `["it's", True, {'a': 1}]`);
 * ```
 */
export function str(value: unknown): string {
  if (typeof value === "string") return value;
  if (value instanceof PyObject) return value.text() ?? repr(value);
  return value === undefined ? "" : repr(value);
}

/** `repr(value)`. */
export function repr(value: unknown): string {
  switch (typeof value) {
    case "string":
      return quote(value);
    case "number":
      return Number.isInteger(value) ? integerText(value) : floatText(value);
    case "boolean":
      return value ? "True" : "False";
    case "undefined":
      return "Undefined";
    case "bigint":
      return String(value);
  }
  if (value === null) return "None";
  if (value instanceof PyFloat) return floatText(value.value);
  if (value instanceof Tuple) {
    return `(${value.map(repr).join(", ")}${value.length === 1 ? "," : ""})`;
  }
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  if (value instanceof Lazy && value.isView) {
    return `${value.type}([${value.take().map(repr).join(", ")}])`;
  }
  if (value instanceof Namespace) return `<Namespace ${repr(value.attributes)}>`;
  if (isDict(value)) {
    return `{${entriesOf(value).map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(", ")}}`;
  }
  return (value as PyObject).repr() ?? noText(value);
}

/** Python would print an address in memory. */
function noText(value: unknown): never {
  throw new JinjaError(
    "TypeError",
    `a ${typeName(value)} has no text that is worth printing` +
      (value instanceof Lazy ? "; put | list behind it" : "; was it meant to be called?"),
  );
}

const ESCAPES: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const body = text.replace(/[\\'\p{C}\p{Z}]/gu, (char) => {
    if (char === " " || (char === "'" && mark === '"')) return char;
    if (char === "'" || char === "\\") return "\\" + char;
    const hex = char.codePointAt(0)!.toString(16);
    if (hex.length <= 2) return ESCAPES[char] ?? "\\x" + hex.padStart(2, "0");
    return hex.length <= 4 ? "\\u" + hex.padStart(4, "0") : "\\U" + hex.padStart(8, "0");
  });
  return mark + body + mark;
}

/** `bool(value)`. */
export function truthy(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return Boolean(value);
  if (Array.isArray(value)) return value.length > 0;
  if (value instanceof PyFloat) return value.value !== 0;
  if (value instanceof Lazy) return !value.isView || value.take().length > 0;
  if (value instanceof PyObject) return value.truthy();
  return value instanceof Map ? value.size > 0 : Object.keys(value).length > 0;
}

/** `a == b`: `1`, `1.0` and `True` are equal, `1` and `"1"` are not, nor a list and a tuple. */
export function equals(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a === "string" || typeof b === "string") return false;
  if (b instanceof PyObject && !(b instanceof PyFloat)) return b.compareTo(a) === 0;
  if (a instanceof PyObject && !(a instanceof PyFloat)) return a.compareTo(b) === 0;
  const number = numeric(a);
  if (number !== undefined) return number === numeric(b);
  if (Array.isArray(a)) {
    return Array.isArray(b) && a instanceof Tuple === b instanceof Tuple &&
      a.length === b.length && a.every((item, i) => equals(item, b[i]));
  }
  return isDict(a) && isDict(b) && equalDicts(a, b);
}

function equalDicts(a: Dict, b: Dict): boolean {
  const entries = entriesOf(a);
  return entries.length === entriesOf(b).length &&
    entries.every(([key, item]) => hasKey(b, key) && equals(item, lookUp(b, key)));
}

/**
 * Which comes first: below 0 if `a` does, 0 if they are equal.
 *
 * @param symbol the operator, for the message
 * @throws {JinjaError} if Python does not compare the two
 */
export function compare(a: unknown, b: unknown, symbol = "<"): number {
  const x = numeric(a), y = numeric(b);
  if (x !== undefined && y !== undefined) return x < y ? -1 : x > y ? 1 : x === y ? 0 : NaN;
  if (typeof a === "string" && typeof b === "string") return compareText(a, b);
  if (a instanceof PyObject) {
    const order = a.compareTo(b);
    if (order !== undefined) return order;
  }
  if (b instanceof PyObject) {
    const order = b.compareTo(a);
    if (order !== undefined) return -order;
  }
  if (Array.isArray(a) && Array.isArray(b) && a instanceof Tuple === b instanceof Tuple) {
    const at = a.findIndex((item, i) => i >= b.length || !equals(item, b[i]));
    if (at < 0) return a.length - b.length;
    return at >= b.length ? 1 : compare(a[at], b[at], symbol);
  }
  throw notFor(`'${symbol}' not supported between instances of`, a, b, " and ");
}

/** By code points: UTF-16 units put what lies beyond U+FFFF before U+E000. */
function compareText(a: string, b: string): number {
  if (a === b) return 0;
  let at = 0;
  while (at < a.length && at < b.length && a[at] === b[at]) at++;
  const x = a.charCodeAt(at), y = b.charCodeAt(at);
  const isSurrogate = (unit: number) => unit >= 0xd800 && unit < 0xe000;
  if (isSurrogate(x) && y >= 0xe000) return 1;
  if (isSurrogate(y) && x >= 0xe000) return -1;
  return a < b ? -1 : 1;
}

/** `item in container`. */
export function isIn(item: unknown, container: unknown): boolean {
  if (typeof container === "string") {
    if (typeof item === "string") return container.includes(item);
    throw new JinjaError(
      "TypeError",
      `'in <string>' requires string as left operand, not ${typeName(item)}`,
    );
  }
  if (isDict(container)) {
    checkHashable(item);
    return hasKey(container, item);
  }
  return iterate(container).some((other) => equals(item, other));
}

/** The items of whatever can be gone through; an undefined value has none. */
export function iterate(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  if (value === undefined) return [];
  if (typeof value === "string") return [...value];
  if (value instanceof Lazy) return value.take();
  if (isDict(value)) return value instanceof Map ? [...value.keys()] : Object.keys(value);
  const items = value instanceof PyObject ? value.items() : undefined;
  if (items) return items;
  throw new JinjaError("TypeError", `'${typeName(value)}' object is not iterable`);
}

/** `len(value)`; of an undefined value, 0. */
export function lengthOf(value: unknown): number {
  if (Array.isArray(value)) return value.length;
  if (value instanceof PyBytes) return value.value.length;
  if (typeof value === "string") return countPoints(value);
  if (value === undefined) return 0;
  if (isDict(value) || (value instanceof Lazy && value.isView)) return iterate(value).length;
  throw new JinjaError("TypeError", `object of type '${typeName(value)}' has no len()`);
}

/** `value[key]`; what is not there is undefined, as everywhere in Jinja. */
export function getItem(value: unknown, key: unknown): unknown {
  if (typeof key === "string") return isDict(value) ? lookUp(value, key) : undefined;
  if (Array.isArray(value) || typeof value === "string") {
    const index = key instanceof PyFloat ? undefined : numeric(key);
    if (index === undefined || !Number.isInteger(index)) return undefined;
    if (typeof value === "string") return characterAt(value, index);
    return value[index < 0 ? index + value.length : index];
  }
  return isDict(value) ? lookUp(value, key) : undefined;
}

/** `value[start:stop:step]`; `undefined` is a bound left out. */
export function slice(
  value: unknown,
  start: number | undefined,
  stop: number | undefined,
  step: number | undefined,
): unknown {
  if (typeof value === "string") {
    if (step === undefined || step === 1) return slicePoints(value, start, stop);
    return stepThrough([...value], start, stop, step).join("");
  }
  if (!Array.isArray(value)) {
    throw new JinjaError("TypeError", `'${typeName(value)}' object is not subscriptable`);
  }
  if (step === undefined || step === 1) return value.slice(start, stop);
  return (value instanceof Tuple ? Tuple : Array).from(stepThrough(value, start, stop, step));
}

function stepThrough<T>(items: readonly T[], start?: number, stop?: number, step = 1): T[] {
  if (step === 0) throw new JinjaError("ValueError", "slice step cannot be zero");
  const n = items.length, back = step < 0;
  const clip = (at: number) =>
    Math.min(Math.max(at < 0 ? at + n : at, back ? -1 : 0), back ? n - 1 : n);
  const first = start === undefined ? (back ? n - 1 : 0) : clip(start);
  const end = stop === undefined ? (back ? -1 : n) : clip(stop);
  const taken: T[] = [];
  for (let i = first; back ? i > end : i < end; i += step) taken.push(items[i]);
  return taken;
}

/** `a + b`. */
export function add(a: unknown, b: unknown): unknown {
  if (typeof a === "string" && typeof b === "string") return a + b;
  if (Array.isArray(a) && Array.isArray(b) && a instanceof Tuple === b instanceof Tuple) {
    return a.concat(b);
  }
  return arithmetic("+", a, b, (x, y) => x + y);
}

/** `a * b`. */
export function multiply(a: unknown, b: unknown): unknown {
  if (typeof b === "string" || Array.isArray(b)) [a, b] = [b, a];
  const times = isFloat(b) ? undefined : numeric(b);
  if (times !== undefined && typeof a === "string") return a.repeat(Math.max(0, times));
  if (times !== undefined && Array.isArray(a)) {
    const items = a;
    return (a instanceof Tuple ? Tuple : Array)
      .from({ length: a.length * Math.max(0, times) }, (_, i) => items[i % items.length]);
  }
  return arithmetic("*", a, b, (x, y) => x * y);
}

/** `a / b`, always a float. */
export function divide(a: unknown, b: unknown): unknown {
  return arithmetic("/", a, b, (x, y) => x / notZero(y), true);
}

/** `a // b`. */
export function floorDivide(a: unknown, b: unknown): unknown {
  return arithmetic("//", a, b, (x, y) => Math.floor(x / notZero(y)));
}

/** `a % b` of numbers: the result has the sign of `b`. */
export function modulo(a: unknown, b: unknown): unknown {
  return arithmetic("%", a, b, (x, y) => {
    const rest = x % notZero(y);
    return rest !== 0 && rest < 0 !== y < 0 ? rest + y : rest;
  });
}

/** `a ** b`. */
export function power(a: unknown, b: unknown): unknown {
  const exponent = numeric(b);
  if (numeric(a) === 0 && exponent !== undefined && exponent < 0) notZero(0);
  return arithmetic("**", a, b, (x, y) => x ** y, exponent !== undefined && exponent < 0);
}

/** `a - b`. */
export function subtract(a: unknown, b: unknown): unknown {
  return arithmetic("-", a, b, (x, y) => x - y);
}

/** `-value`. */
export function negate(value: unknown): unknown {
  return subtract(isFloat(value) ? new PyFloat(-0) : 0, value);
}

function arithmetic(
  symbol: string,
  a: unknown,
  b: unknown,
  compute: (x: number, y: number) => number,
  always = false,
): unknown {
  const x = numeric(a), y = numeric(b);
  if (x === undefined || y === undefined) {
    const special = ofMoments(symbol, a, b) ?? ofDecimals(symbol, a, b);
    if (special !== undefined) return special;
    throw notFor(`unsupported operand type(s) for ${symbol}:`, a, b, " and ");
  }
  const result = compute(x, y);
  return always || isFloat(a) || isFloat(b) ? toFloat(result) : result;
}

/** Decimals calculate with one another and with integers, not with floats. */
function ofDecimals(symbol: string, a: unknown, b: unknown): unknown {
  if (!(a instanceof PyDecimal || b instanceof PyDecimal)) return undefined;
  const x = decimalOf(a), y = decimalOf(b);
  if (!x || !y) return undefined;
  switch (symbol) {
    case "+":
      return x.plus(y);
    case "-":
      return x.plus(y.negated());
    case "*":
      return x.times(y);
    case "/":
      return x.over(y);
  }
}

/** A moment less another is a duration; a duration moves it. */
function ofMoments(symbol: string, a: unknown, b: unknown): unknown {
  if (symbol === "+" && b instanceof PyMoment && a instanceof PyDuration) return b.moved(a, 1n);
  if (!(a instanceof PyMoment)) return undefined;
  if (b instanceof PyDuration && (symbol === "+" || symbol === "-")) {
    return a.moved(b, symbol === "+" ? 1n : -1n);
  }
  return symbol === "-" ? a.since(b) : undefined;
}

function notZero(divisor: number): number {
  if (divisor === 0) throw new JinjaError("ZeroDivisionError", "division by zero");
  return divisor;
}

function notFor(text: string, a: unknown, b: unknown, between: string): JinjaError {
  const isUndefined = a === undefined || b === undefined;
  return new JinjaError(
    isUndefined ? "UndefinedError" : "TypeError",
    `${text} '${typeName(a)}'${between}'${typeName(b)}'`,
  );
}
