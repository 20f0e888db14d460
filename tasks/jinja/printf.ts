/**
 * Python's `%` on strings: `"%s, %.2f" % (a, b)` and `"%(name)s" % dict`.
 *
 * @module
 */
import { PyDecimal } from "./decimal.ts";
import { spend } from "./limits.ts";
import { exponentialText, fixedText, floatOf, generalText, integerText } from "./numbers.ts";
import { getItem, repr, str } from "./python.ts";
import { asciiRepr, slicePoints } from "./text.ts";
import {
  hasKey,
  integral,
  isDict,
  JinjaError,
  numeric,
  PyObject,
  Tuple,
  typeName,
  wholeNumber,
} from "./values.ts";

const DIRECTIVE = /%(?:\((.*?)\))?([-+ 0#]*)(\*|\d+)?(\.(?:\*|\d+)?)?[hlL]?(.?)/gsu;

/**
 * Fills in a format string.
 *
 * @param value a tuple of as many values as it names, a dict for names in parentheses, or one value
 *
 * @example
 * ```ts
 * import { printf } from "./printf.ts";
 * import { Tuple } from "./values.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(printf("%s: %.1f %%", Tuple.from(["share", 12.25])), "share: 12.2 %");
 * ```
 */
export function printf(format: string, value: unknown): string {
  const values = value instanceof Tuple ? value : [value];
  let used = 0, byName = false;
  const next = () => {
    if (used < values.length) return values[used++];
    throw new JinjaError("TypeError", "not enough arguments for format string");
  };
  const fill = ([, name, flags, width, point, kind]: readonly string[]) => {
    if (kind === "%") return "%";
    if (kind === "") throw new JinjaError("ValueError", "incomplete format");
    if (name !== undefined) byName = true;
    const size = width === "*" ? small(next()) : Number(width ?? 0);
    const digits = point === ".*" ? small(next()) : point && Number(point.slice(1));
    const item = name === undefined ? next() : named(value, name);
    spend(Math.abs(size) + (digits || 0));
    const shown = directive(kind, item, digits === "" ? undefined : digits, flags);
    return pad(shown, Math.abs(size), size < 0 ? flags + "-" : flags, kind);
  };
  let text = "", at = 0;
  // One after the other: the first that is wrong ends it.
  for (const match of format.matchAll(DIRECTIVE)) {
    const part = format.slice(at, match.index) + fill(match);
    spend(part.length);
    text += part;
    at = match.index + match[0].length;
  }
  text += format.slice(at);
  if (used < values.length && !byName && !hasItems(value)) {
    throw new JinjaError("TypeError", "not all arguments converted during string formatting");
  }
  return text;
}

/** Python does not mind what it does not use of these: it takes them for dicts of named values. */
function hasItems(value: unknown): boolean {
  return value === undefined || isDict(value) ||
    (Array.isArray(value) && !(value instanceof Tuple));
}

function named(values: unknown, name: string): unknown {
  if (!isDict(values)) throw new JinjaError("TypeError", "format requires a mapping");
  if (!hasKey(values, name)) throw new JinjaError("KeyError", repr(name));
  return getItem(values, name);
}

function directive(kind: string, value: unknown, digits: number | undefined, flags: string) {
  switch (kind) {
    case "s":
    case "r":
    case "a": {
      const text = kind === "s" ? str(value) : kind === "r" ? repr(value) : asciiRepr(repr(value));
      return digits === undefined ? text : slicePoints(text, 0, digits);
    }
    case "c":
      return character(value);
    case "d":
    case "i":
    case "u":
      return signed(integerText(truncated(value, kind)), digits ?? 0, flags);
    case "e":
    case "E":
    case "f":
    case "F":
    case "g":
    case "G":
      return signed(floatText(kind, real(value, kind), digits ?? 6, flags), 0, flags);
    case "x":
    case "X":
    case "o":
      return based(kind, value, digits ?? 0, flags);
  }
  throw new JinjaError("ValueError", `unsupported format character '${kind}'`);
}

function floatText(kind: string, value: number, digits: number, flags: string): string {
  const lower = kind.toLowerCase(), keepZeros = flags.includes("#");
  const text = lower === "f"
    ? fixedText(value, digits)
    : lower === "e"
    ? exponentialText(value, digits)
    : generalText(value, digits, keepZeros);
  return kind === lower ? text : text.toUpperCase();
}

function based(kind: string, value: unknown, digits: number, flags: string): string {
  const radix = kind === "o" ? 8 : 16, prefix = flags.includes("#") ? `0${kind}` : "";
  const body = signed(integer(value, kind).toString(radix), digits, flags);
  const text = kind === "X" ? body.toUpperCase() : body;
  return text.replace(/^[-+ ]?/, (sign) => sign + prefix);
}

function character(value: unknown): string {
  if (typeof value === "string" && [...value].length === 1) return value;
  const code = integral(value);
  if (code === undefined) throw new JinjaError("TypeError", "%c requires int or char");
  if (code >= 0 && code <= 0x10ffff) return String.fromCodePoint(Number(code));
  throw new JinjaError("OverflowError", "%c arg not in range(0x110000)");
}

/** Adds leading zeros up to a number of digits, and the sign that the flags ask for. */
function signed(text: string, digits: number, flags: string): string {
  const negative = text.startsWith("-");
  const sign = negative ? "-" : flags.includes("+") ? "+" : flags.includes(" ") ? " " : "";
  return sign + (negative ? text.slice(1) : text).padStart(digits, "0");
}

function pad(text: string, width: number, flags: string, kind: string): string {
  const missing = width - [...text].length;
  if (missing <= 0) return text;
  if (flags.includes("-")) return text + " ".repeat(missing);
  const isText = "srac".includes(kind);
  if (!flags.includes("0") || isText) return " ".repeat(missing) + text;
  const sign = /^[-+ ]?(?:0[xXo])?/.exec(flags.includes("#") ? text : text[0] ?? "")![0];
  const kept = flags.includes("#") ? sign : sign.replace("0", "");
  return kept + "0".repeat(missing) + text.slice(kept.length);
}

function real(value: unknown, kind: string): number {
  if (value instanceof PyDecimal) return value.toNumber();
  const number = numeric(value);
  if (number !== undefined) return floatOf(number);
  throw notReal(value, kind);
}

/** A number without what stands behind its point. */
function truncated(value: unknown, kind: string): number | bigint {
  if (value instanceof PyDecimal) return value.toInteger();
  const number = numeric(value);
  if (number === undefined) throw notReal(value, kind);
  return toInteger(number);
}

/** `int(number)`. */
export function toInteger(number: number | bigint): number | bigint {
  if (typeof number === "bigint") return number;
  if (Number.isNaN(number)) {
    throw new JinjaError("ValueError", "cannot convert float NaN to integer");
  }
  if (!Number.isFinite(number)) {
    throw new JinjaError("OverflowError", "cannot convert float infinity to integer");
  }
  return wholeNumber(Math.trunc(number))!;
}

function notReal(value: unknown, kind: string): JinjaError {
  return new JinjaError(
    "TypeError",
    `%${kind} format: a real number is required, not ${typeName(value)}`,
  );
}

function integer(value: unknown, kind: string): number | bigint {
  const number = integral(value);
  if (number !== undefined) return number;
  throw new JinjaError(
    "TypeError",
    `%${kind} format: an integer is required, not ${typeName(value)}`,
  );
}

function small(value: unknown): number {
  const number = value instanceof PyObject ? undefined : integral(value);
  if (number !== undefined) return Number(number);
  throw new JinjaError("TypeError", "* wants int");
}
