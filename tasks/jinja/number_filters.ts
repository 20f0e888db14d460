/**
 * Filters that make numbers, or texts of them.
 *
 * @module
 */
import { PyDecimal } from "./decimal.ts";
import { type Filter, filter } from "./filter.ts";
import { plainText } from "./markup.ts";
import {
  fixedText,
  floatOf,
  parseFloatText,
  parseInteger,
  roundEven,
  roundInteger,
} from "./numbers.ts";
import { toInteger } from "./printf.ts";
import { negate, str, truthy } from "./python.ts";
import { integral, isFloat, JinjaError, numeric, PyFloat, toFloat, typeName } from "./values.ts";

type Args = readonly unknown[];

/** The filters by name. */
export const NUMBER_FILTERS: readonly (readonly [string, Filter])[] = [
  ["abs", filter([], absolute)],
  ["filesizeformat", filter(["binary"], fileSize)],
  ["float", filter(["default"], toPythonFloat)],
  ["int", filter(["default", "base"], toPythonInt)],
  ["round", filter(["precision", "method"], round)],
];

/** Undefined values fail in `int` and `float`; all else that is no number becomes the default. */
function refuseUndefined(value: unknown): void {
  if (value === undefined) throw new JinjaError("UndefinedError", "the value is undefined");
}

function toPythonInt(value: unknown, [instead = 0, base = 10]: Args): unknown {
  refuseUndefined(value);
  const text = plainText(value);
  if (text !== undefined) {
    // A base that Python refuses is like digits that it refuses.
    const radix = integral(base);
    const whole = radix === undefined ? undefined : parseInteger(text, radix);
    const number = whole ?? parseFloatText(text);
    return number !== undefined && Number.isFinite(Number(number)) || typeof number === "bigint"
      ? toInteger(number)
      : instead;
  }
  if (value instanceof PyDecimal) return toInteger(value.toInteger());
  const number = numeric(value);
  return number === undefined || Number.isNaN(number) ? instead : toInteger(number);
}

function toPythonFloat(value: unknown, [instead = new PyFloat(0)]: Args): unknown {
  refuseUndefined(value);
  if (value instanceof PyDecimal) return toFloat(value.toNumber());
  const text = plainText(value);
  const number = text === undefined ? numeric(value) : parseFloatText(text);
  return number === undefined ? instead : toFloat(floatOf(number));
}

function absolute(value: unknown): unknown {
  if (value instanceof PyDecimal) return value.digits < 0n ? value.negated() : value;
  const number = numeric(value);
  if (number === undefined) {
    throw new JinjaError("TypeError", `bad operand type for abs(): '${typeName(value)}'`);
  }
  if (isFloat(value)) return toFloat(Math.abs(Number(number)));
  return number < 0 ? negate(number) : number;
}

/** Integers stay integers by the common method, and become floats by the other two. */
function round(value: unknown, [precision = 0, method = "common"]: Args): unknown {
  const digits = integral(precision);
  if (digits === undefined) throw notRounded(value, precision);
  const places = Number(digits), number = numeric(value);
  if (method === "common") {
    if (value instanceof PyDecimal) return value.toPlaces(places);
    if (number === undefined) throw notRounded(value, precision);
    return isFloat(value)
      ? toFloat(roundEven(Number(number), places))
      : roundInteger(number, places);
  }
  if (method !== "ceil" && method !== "floor") {
    throw new JinjaError("FilterArgumentError", "method must be common, ceil or floor");
  }
  if (number === undefined) throw notRounded(value, precision);
  const scale = 10 ** places;
  const whole = toInteger(Math[method](floatOf(number) * scale));
  return toFloat(Number(whole) / scale);
}

function notRounded(value: unknown, precision: unknown): JinjaError {
  return new JinjaError("TypeError", `cannot round ${typeName(value)} to ${str(precision)} digits`);
}

const UNITS = "kMGTPEZY";

function fileSize(value: unknown, [binary]: Args): string {
  const isBinary = truthy(binary), base = isBinary ? 1024 : 1000;
  const text = plainText(value);
  const number = text === undefined ? numeric(value) : parseFloatText(text);
  if (number === undefined) {
    throw new JinjaError("TypeError", `filesizeformat: expected a number, got ${typeName(value)}`);
  }
  const bytes = floatOf(number);
  if (bytes === 1) return "1 Byte";
  if (bytes < base) return `${Math.trunc(bytes)} Bytes`;
  const power = [...UNITS].findIndex((_, i) => bytes < base ** (i + 2));
  const at = power < 0 ? UNITS.length - 1 : power, unit = UNITS[at];
  const shown = fixedText(base * bytes / base ** (at + 2), 1);
  return `${shown} ${isBinary ? `${unit.toUpperCase()}iB` : `${unit}B`}`;
}
