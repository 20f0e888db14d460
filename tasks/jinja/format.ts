/**
 * Python's `str.format`: `"{:>8.2f} {name!r}".format(x, name=y)`.
 *
 * @module
 */
import { getAttribute, getSubscript } from "./attributes.ts";
import { PyDecimal } from "./decimal.ts";
import { spend } from "./limits.ts";
import {
  exponentialText,
  fixedText,
  floatOf,
  floatText,
  generalText,
  integerText,
} from "./numbers.ts";
import { repr, str } from "./python.ts";
import { asciiRepr, countPoints, justify, slicePoints } from "./text.ts";
import { integral, isFloat, JinjaError, type Named, numeric, typeName } from "./values.ts";

type Args = readonly unknown[];

/** How one field is to be written: `[[fill]align][sign][#][0][width][,][.precision][type]`. */
const SPEC = /^(?:([^]?)([<>=^]))?([-+ ]?)(z?)(#?)(0?)(\d*)([,_]?)(?:\.(\d+))?([a-zA-Z%]?)$/u;

/**
 * Fills in a format string.
 *
 * @example
 * ```ts
 * import { formatText } from "./format.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(formatText("{0:>5}|{x:.2f}|{{}}", ["ab"], { x: 1.005 }), "   ab|1.00|{}");
 * ```
 */
export function formatText(format: string, args: Args, named: Named): string {
  return new Formatter(args, named).fill(format, 2);
}

class Formatter {
  #next = 0;
  #isNumbered = false;

  constructor(readonly args: Args, readonly named: Named) {}

  /** @param depth how many levels of fields there may be: a field's format may have fields itself */
  fill(format: string, depth: number): string {
    if (depth === 0) throw wrong("Max string recursion exceeded");
    let text = "", at = 0;
    while (at < format.length) {
      const brace = format.slice(at).search(/[{}]/);
      if (brace < 0) return text + format.slice(at);
      text += format.slice(at, at + brace);
      at += brace;
      if (format[at + 1] === format[at]) {
        text += format[at];
        at += 2;
        continue;
      }
      if (format[at] === "}") throw wrong("Single '}' encountered in format string");
      const end = closing(format, at);
      text += this.#field(format.slice(at + 1, end), depth);
      at = end + 1;
    }
    return text;
  }

  #field(field: string, depth: number): string {
    const [, name, conversion, spec = ""] =
      /^((?:\[[^\]]*\]|[^!:[])*)(?:!([^:]*))?(?::([^]*))?$/.exec(field) ?? [];
    if (name === undefined) throw wrong(`not a field: {${field}}`);
    const value = this.#value(name), filled = spec === "" ? "" : this.fill(spec, depth - 1);
    switch (conversion) {
      case undefined:
        return formatted(value, filled);
      case "s":
        return formatted(str(value), filled);
      case "r":
        return formatted(repr(value), filled);
      case "a":
        return formatted(asciiRepr(repr(value)), filled);
    }
    throw wrong(`Unknown conversion specifier '${conversion}'`);
  }

  #value(name: string): unknown {
    const [first] = /^[^.[]*/.exec(name)!;
    let value = this.#argument(first), rest = name.slice(first.length);
    while (rest !== "") {
      const [part, attribute, key] = /^(?:\.([^.[]+)|\[([^\]]+)\])/.exec(rest) ?? [];
      if (part === undefined) throw wrong(`not a field: {${name}}`);
      value = attribute === undefined
        ? getSubscript(value, /^\d+$/.test(key) ? Number(key) : key)
        : getAttribute(value, attribute);
      rest = rest.slice(part.length);
    }
    return value;
  }

  #argument(name: string): unknown {
    if (name !== "" && !/^\d+$/.test(name)) {
      if (Object.hasOwn(this.named, name)) return this.named[name];
      throw new JinjaError("KeyError", repr(name));
    }
    const isNumbered = name !== "";
    if (isNumbered ? this.#next > 0 : this.#isNumbered) {
      throw wrong("cannot switch between manual and automatic field numbering");
    }
    this.#isNumbered ||= isNumbered;
    const index = isNumbered ? Number(name) : this.#next++;
    if (index < this.args.length) return this.args[index];
    throw new JinjaError(
      "IndexError",
      `Replacement index ${index} out of range for positional args tuple`,
    );
  }
}

function wrong(message: string): JinjaError {
  return new JinjaError("ValueError", message);
}

/** The brace that closes a field. */
function closing(format: string, open: number): number {
  let depth = 0;
  for (let i = open; i < format.length; i++) {
    if (format[i] === "{") depth++;
    else if (format[i] === "}" && --depth === 0) return i;
  }
  throw wrong("expected '}' before end of string");
}

interface Spec {
  fill: string;
  align: string;
  sign: string;
  alternate: boolean;
  width: number;
  grouping: string;
  precision?: number;
  type: string;
}

function formatted(value: unknown, text: string): string {
  if (text === "") return str(value);
  const isText = typeof value === "string";
  if (!isText && numeric(value) === undefined && !(value instanceof PyDecimal)) {
    throw new JinjaError(
      "TypeError",
      `unsupported format string passed to ${typeName(value)}.__format__`,
    );
  }
  const match = SPEC.exec(text);
  if (!match || match[4] !== "") throw wrong(`Invalid format specifier '${text}'`);
  const [, fill, align, sign, , alternate, zero, width, grouping, precision, type] = match;
  const spec: Spec = {
    fill: fill || (zero && !align ? "0" : fill ?? (zero ? "0" : " ")) || (zero ? "0" : " "),
    align: align ?? (zero && !isText ? "=" : isText ? "<" : ">"),
    ...{ sign, alternate: alternate !== "", width: Number(width || 0), grouping, type },
    precision: precision === undefined ? undefined : Number(precision),
  };
  spend(spec.width + (spec.precision ?? 0));
  return isText ? ofText(value, spec) : ofNumber(value, spec);
}

function ofText(value: string, spec: Spec): string {
  if (!["", "s"].includes(spec.type)) {
    throw wrong(`Unknown format code '${spec.type}' for object of type 'str'`);
  }
  if (spec.sign !== "" || spec.align === "=" || spec.grouping !== "" || spec.alternate) {
    throw wrong("signs, '=', '#' and grouping are for numbers");
  }
  return aligned(
    "",
    spec.precision === undefined ? value : slicePoints(value, 0, spec.precision),
    spec,
  );
}

function ofNumber(value: unknown, spec: Spec): string {
  const { type } = spec, whole = integral(value);
  const isInteger = whole !== undefined && ["", "d", "n", "b", "o", "x", "X", "c"].includes(type);
  if (isInteger && spec.precision !== undefined) {
    throw wrong("Precision not allowed in integer format specifier");
  }
  if (typeof value === "boolean" && type === "") return integerSpec(whole!, { ...spec, type: "d" });
  if (isInteger) return integerSpec(whole, spec);
  if (!["", "e", "E", "f", "F", "g", "G", "n", "%"].includes(type)) {
    throw wrong(`Unknown format code '${type}' for object of type '${typeName(value)}'`);
  }
  return signed(realText(value, spec), spec);
}

function integerSpec(value: number | bigint, spec: Spec): string {
  switch (spec.type) {
    case "c":
      return aligned("", String.fromCodePoint(Number(value)), {
        ...spec,
        align: spec.align === ">" ? "<" : spec.align,
      });
    case "b":
    case "o":
    case "x":
    case "X": {
      const radix = { b: 2, o: 8, x: 16, X: 16 }[spec.type];
      const text = value.toString(radix);
      return signed(spec.type === "X" ? text.toUpperCase() : text, spec, `0${spec.type}`);
    }
  }
  return signed(integerText(value), spec);
}

function realText(value: unknown, { type, precision, alternate }: Spec): string {
  if (value instanceof PyDecimal) {
    if (["f", "F"].includes(type) && precision !== undefined) {
      return value.toPlaces(precision).text();
    }
    if (type === "" && precision === undefined) return value.text();
    throw wrong("of decimals, only the formats of fixed places are supported");
  }
  const number = floatOf(numeric(value)!);
  if (type === "" && precision === undefined) {
    return isFloat(value) ? floatText(number) : generalText(number, 6);
  }
  const digits = precision ?? 6;
  switch (type) {
    case "f":
    case "F":
      return fixedText(number, digits).toLowerCase();
    case "%":
      return fixedText(number * 100, digits) + "%";
    case "e":
      return exponentialText(number, digits);
    case "E":
      return exponentialText(number, digits).toUpperCase();
    case "G":
      return generalText(number, digits, alternate).toUpperCase();
  }
  const text = generalText(number, digits, alternate);
  // Without a type a float keeps one place, and its exponent begins one digit earlier.
  if (type !== "") return text;
  throw wrong("a precision without a type is not supported: write .3g or .3f");
}

/** A number with its sign, its groups of digits, and what fills the width. */
function signed(text: string, spec: Spec, prefix = ""): string {
  const negative = text.startsWith("-"), body = negative ? text.slice(1) : text;
  const sign = negative ? "-" : spec.sign === "-" ? "" : spec.sign;
  const size = "bxXo".includes(spec.type) && spec.type !== "" ? 4 : 3;
  const group = (digits: string) =>
    spec.grouping === ""
      ? digits
      : digits.replace(new RegExp(`\\B(?=(?:[\\da-f]{${size}})+$)`, "gi"), spec.grouping);
  const [whole] = /^[\da-fA-F]+/.exec(body) ?? [body], rest = body.slice(whole.length);
  const start = sign + (spec.alternate ? prefix : "");
  if (spec.align === "=" && spec.fill === "0" && spec.grouping !== "" && /^[\da-f]/i.test(body)) {
    // Zeros are grouped like the digits before which they stand.
    let digits = whole;
    while ((start + group("0" + digits) + rest).length <= spec.width) digits = "0" + digits;
    return start + group(digits) + rest;
  }
  return aligned(start, (/^[\da-f]/i.test(body) ? group(whole) : whole) + rest, spec);
}

function aligned(start: string, text: string, { fill, align, width }: Spec): string {
  const missing = width - countPoints(start) - countPoints(text);
  if (missing <= 0) return start + text;
  if (align === "=") return start + fill.repeat(missing) + text;
  if (align !== "^") return justify(start + text, width, fill, align === "<" ? "left" : "right");
  const before = Math.floor(missing / 2);
  return fill.repeat(before) + start + text + fill.repeat(missing - before);
}
