/**
 * What Python's operators and built-in functions do with a template's values.
 *
 * @module
 */
import { PyBytes } from "./bytes.ts";
import { decimalOf, PyDecimal } from "./decimal.ts";
import { spend, spendReading, spendSteps } from "./limits.ts";
import { escaped, Markup, plainText } from "./markup.ts";
import { PyDuration, PyMoment } from "./moments.ts";
import { floatOf, floatText, integerText, ofFloats, ofIntegers, type Operator } from "./numbers.ts";
import { PyRange } from "./range.ts";
import { characterAt, countPoints, isPlain, slicePoints } from "./text.ts";
import { checkHashable } from "./dict.ts";
import {
  type Dict,
  entriesOf,
  hasKey,
  integral,
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
  if (value instanceof PyObject && !(value instanceof Lazy)) return value.text() ?? repr(value);
  return value === undefined ? "" : repr(value);
}

/** `repr(value)`. */
export function repr(value: unknown): string {
  switch (typeof value) {
    case "string":
      spendReading(value);
      return quote(value);
    case "number":
      return Number.isInteger(value) ? integerText(value) : floatText(value);
    case "boolean":
      return value ? "True" : "False";
    case "undefined":
      return "Undefined";
    case "bigint":
      return integerText(value);
  }
  if (value === null) return "None";
  if (value instanceof PyFloat) return floatText(value.value);
  if (value instanceof Markup) return `Markup(${quote(value.value)})`;
  return container(value) ?? (value as PyObject).repr() ?? noText(value);
}

/** The lists and dicts that are being written: one within itself is `[...]`. */
const open = new Set<unknown>();

function container(value: unknown): string | undefined {
  const [begin, end] = brackets(value);
  if (begin === undefined) return undefined;
  if (open.has(value)) return `${begin}...${end}`;
  open.add(value);
  try {
    const body = isDict(value)
      ? entriesOf(value).map(([key, item]) => `${repr(key)}: ${repr(item)}`).join(", ")
      : itemsOf(value).map(repr).join(", ");
    spend(8 + body.length);
    return `${begin}${body}${value instanceof Tuple && value.length === 1 ? "," : ""}${end}`;
  } finally {
    open.delete(value);
  }
}

function brackets(value: unknown): [string, string] | [] {
  if (Array.isArray(value)) return value instanceof Tuple ? ["(", ")"] : ["[", "]"];
  if (value instanceof Lazy) return value.isView ? [`${value.type}([`, "])"] : [];
  if (value instanceof Namespace) return ["<Namespace {", "}>"];
  return isDict(value) ? ["{", "}"] : [];
}

function itemsOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : (value as Lazy).take();
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
  if (typeof a === "string" && typeof b === "string") {
    if (a.length !== b.length) return false;
    if (a.length > 64) spendReading(a);
    return a === b;
  }
  const x = numeric(a), y = numeric(b);
  if (x !== undefined && y !== undefined) return x == y; // An integer of any size and a float, too.
  if (a === b) return true;
  if (a instanceof Markup || b instanceof Markup) {
    const text = plainText(a);
    return text !== undefined && text === plainText(b);
  }
  if (a instanceof PyObject && !(a instanceof PyFloat)) return a.compareTo(b) === 0;
  if (b instanceof PyObject && !(b instanceof PyFloat)) return b.compareTo(a) === 0;
  if (Array.isArray(a)) {
    spendSteps(1);
    return Array.isArray(b) && a instanceof Tuple === b instanceof Tuple &&
      a.length === b.length && a.every((item, i) => equals(item, b[i]));
  }
  return isDict(a) && isDict(b) && equalDicts(a, b);
}

function equalDicts(a: Dict, b: Dict): boolean {
  const entries = entriesOf(a);
  spendSteps(1 + entries.length);
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
  spend(2);
  const x = numeric(a), y = numeric(b);
  if (x !== undefined && y !== undefined) return x < y ? -1 : x > y ? 1 : x == y ? 0 : NaN;
  const s = plainText(a), t = plainText(b);
  if (s !== undefined && t !== undefined) return compareText(s, t);
  if (a instanceof PyObject) {
    const order = a.compareTo(b);
    if (order !== undefined && !(a instanceof PyRange)) return order;
  }
  if (b instanceof PyObject) {
    const order = b.compareTo(a);
    if (order !== undefined && !(b instanceof PyRange)) return -order;
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
  spendReading(a.length < b.length ? a : b);
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
  const text = plainText(container);
  if (text !== undefined) {
    spendReading(text);
    const part = plainText(item);
    if (part !== undefined) return text.includes(part);
    throw new JinjaError(
      "TypeError",
      `'in <string>' requires string as left operand, not ${typeName(item)}`,
    );
  }
  if (isDict(container)) {
    checkHashable(item);
    return hasKey(container, item);
  }
  if (container instanceof PyRange && integral(item) !== undefined) return container.includes(item);
  const items = iterate(container);
  spendSteps(items.length);
  return items.some((other) => equals(item, other));
}

/** The items of whatever can be gone through; an undefined value has none. */
export function iterate(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  if (value === undefined) return [];
  const text = plainText(value);
  if (text !== undefined) {
    spendSteps(text.length);
    return [...text];
  }
  if (value instanceof Lazy) return value.take();
  if (isDict(value)) {
    const keys = value instanceof Map ? [...value.keys()] : Object.keys(value);
    spendSteps(keys.length);
    return keys;
  }
  const items = value instanceof PyObject ? value.items() : undefined;
  if (items) return items;
  throw new JinjaError("TypeError", `'${typeName(value)}' object is not iterable`);
}

/** `len(value)`; of an undefined value, 0. */
export function lengthOf(value: unknown): number | bigint {
  if (Array.isArray(value)) return value.length;
  if (value === undefined) return 0;
  const text = plainText(value);
  if (text !== undefined) {
    spend(isPlain(text) ? text.length >> 6 : text.length >> 2);
    return countPoints(text);
  }
  if (value instanceof PyBytes) return value.value.length;
  if (value instanceof PyRange) return value.length;
  if (value instanceof Map) return value.size;
  if (isDict(value)) return Object.keys(value).length;
  if (value instanceof Lazy && value.isView) return value.take().length;
  throw new JinjaError("TypeError", `object of type '${typeName(value)}' has no len()`);
}

/** `value[key]`; what is not there is undefined, as everywhere in Jinja. */
export function getItem(value: unknown, key: unknown): unknown {
  if (isDict(value)) return lookUp(value, key instanceof Markup ? key.value : key);
  const index = integral(key);
  if (index === undefined) return undefined;
  if (value instanceof PyRange) return value.at(index);
  const at = Number(index);
  if (Array.isArray(value)) return value[at < 0 ? at + value.length : at];
  if (value instanceof PyBytes) return value.value.at(at < -value.value.length ? Infinity : at);
  const text = plainText(value);
  if (text === undefined) return undefined;
  if (!isPlain(text)) spend(text.length >> 2);
  const character = characterAt(text, at);
  return value instanceof Markup && character !== undefined ? new Markup(character) : character;
}

/** `value[start:stop:step]`; `undefined` is a bound left out. */
export function slice(
  value: unknown,
  start: number | undefined,
  stop: number | undefined,
  step = 1,
): unknown {
  if (step === 0) throw new JinjaError("ValueError", "slice step cannot be zero");
  if (typeof value === "string") {
    if (step === 1) {
      if (!isPlain(value)) spend(value.length >> 2);
      return slicePoints(value, start, stop);
    }
    spendSteps(value.length);
    return stepThrough([...value], start, stop, step).join("");
  }
  if (value instanceof Markup) return new Markup(slice(value.value, start, stop, step) as string);
  if (value instanceof PyRange) {
    return value.slice(...bounds(Number(value.length), start, stop, step), step);
  }
  if (value instanceof PyBytes) {
    return new PyBytes(Uint8Array.from(stepThrough(value.items(), start, stop, step)));
  }
  if (!Array.isArray(value)) {
    throw new JinjaError("TypeError", `'${typeName(value)}' object is not subscriptable`);
  }
  spendSteps(value.length);
  if (step === 1) return value.slice(start, stop);
  return (value instanceof Tuple ? Tuple : Array).from(stepThrough(value, start, stop, step));
}

/** The first place of a slice, and the place to stop before. */
function bounds(n: number, start?: number, stop?: number, step = 1): [number, number] {
  const back = step < 0;
  const clip = (at: number) =>
    Math.min(Math.max(at < 0 ? at + n : at, back ? -1 : 0), back ? n - 1 : n);
  return [
    start === undefined ? (back ? n - 1 : 0) : clip(start),
    stop === undefined ? (back ? -1 : n) : clip(stop),
  ];
}

function stepThrough<T>(items: readonly T[], start?: number, stop?: number, step = 1): T[] {
  const [first, end] = bounds(items.length, start, stop, step);
  const taken: T[] = [];
  for (let i = first; step < 0 ? i > end : i < end; i += step) taken.push(items[i]);
  return taken;
}

/** `a + b`. */
export function add(a: unknown, b: unknown): unknown {
  if (typeof a === "string" && typeof b === "string") {
    spend(a.length + b.length);
    return a + b;
  }
  if (a instanceof Markup || b instanceof Markup) {
    const texts = [a, b].map((part) => typeof part === "string" ? escaped(part) : plainText(part));
    if (!texts.includes(undefined)) return new Markup(add(texts[0], texts[1]) as string);
  }
  if (Array.isArray(a) && Array.isArray(b) && a instanceof Tuple === b instanceof Tuple) {
    spendSteps(a.length + b.length);
    return a.concat(b);
  }
  return arithmetic("+", a, b);
}

/** `a * b`. */
export function multiply(a: unknown, b: unknown): unknown {
  if (typeof b === "string" || Array.isArray(b) || b instanceof Markup) [a, b] = [b, a];
  const times = integral(b);
  if (times !== undefined && (typeof a === "string" || Array.isArray(a) || a instanceof Markup)) {
    const count = Math.max(0, Number(times));
    if (a instanceof Markup) return new Markup(multiply(a.value, times) as string);
    if (typeof a === "string") {
      spend(a.length * count);
      return a === "" ? a : a.repeat(count);
    }
    const items = a;
    spendSteps(items.length * count);
    return (a instanceof Tuple ? Tuple : Array)
      .from({ length: items.length && items.length * count }, (_, i) => items[i % items.length]);
  }
  return arithmetic("*", a, b);
}

/** `a / b`, always a float. */
export function divide(a: unknown, b: unknown): unknown {
  return arithmetic("/", a, b);
}

/** `a // b`. */
export function floorDivide(a: unknown, b: unknown): unknown {
  return arithmetic("//", a, b);
}

/** `a % b` of numbers: the result has the sign of `b`. */
export function modulo(a: unknown, b: unknown): unknown {
  return arithmetic("%", a, b);
}

/** `a ** b`. */
export function power(a: unknown, b: unknown): unknown {
  return arithmetic("**", a, b);
}

/** `a - b`. */
export function subtract(a: unknown, b: unknown): unknown {
  return arithmetic("-", a, b);
}

/** `-value`. */
export function negate(value: unknown): unknown {
  if (value instanceof PyDecimal) return value.negated();
  if (value instanceof PyDuration) return new PyDuration(-value.length);
  return subtract(isFloat(value) ? new PyFloat(-0) : 0, value);
}

function arithmetic(symbol: Operator, a: unknown, b: unknown): unknown {
  const x = numeric(a), y = numeric(b);
  if (x === undefined || y === undefined) {
    const special = ofMoments(symbol, a, b) ?? ofDecimals(symbol, a, b);
    if (special !== undefined) return special;
    throw notFor(`unsupported operand type(s) for ${symbol}:`, a, b, " and ");
  }
  if (isFloat(a) || isFloat(b)) return toFloat(ofFloats(symbol, floatOf(x), floatOf(y)));
  return ofIntegers(symbol, x, y);
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

function notFor(text: string, a: unknown, b: unknown, between: string): JinjaError {
  const isUndefined = a === undefined || b === undefined;
  return new JinjaError(
    isUndefined ? "UndefinedError" : "TypeError",
    `${text} '${typeName(a)}'${between}'${typeName(b)}'`,
  );
}
