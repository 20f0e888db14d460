/**
 * Python's numbers: arithmetic, `repr`, `round`, and reading integers and floats. Integers have any size: they
 * are JavaScript's numbers as long as those are exact, and bigints beyond.
 *
 * @module
 */
import { spend } from "./limits.ts";
import { strip } from "./text.ts";
import { JinjaError, toFloat as asFloat, wholeNumber } from "./values.ts";

/** An operator that makes a number of two. */
export type Operator = "+" | "-" | "*" | "/" | "//" | "%" | "**";

/** Python refuses to write and to read integers of more digits. */
const MOST_DIGITS = 4300;
const LONGEST = 10n ** BigInt(MOST_DIGITS);
/** Integers of more bits are not calculated with. */
const MOST_BITS = 2 ** 18;

/** `a OP b` of integers. */
export function ofIntegers(
  symbol: Operator,
  a: number | bigint,
  b: number | bigint,
): unknown {
  if (symbol === "/") return divided(a, notZero(b));
  if (symbol === "**") return integerPower(a, b);
  if (typeof a === "number" && typeof b === "number") {
    const result = ofSmall(symbol, a, b);
    if (Number.isSafeInteger(result)) return result + 0; // No -0.
  }
  return ofLarge(symbol, BigInt(a), BigInt(b));
}

/** The result is exact if it is safe. */
function ofSmall(symbol: Operator, a: number, b: number): number {
  if (symbol !== "%" && symbol !== "//") return ofFloats(symbol, a, b);
  const rest = sameSign(a % notZero(b), b);
  return symbol === "%" ? rest : (a - rest) / b;
}

function sameSign(rest: number, divisor: number): number {
  return rest !== 0 && rest < 0 !== divisor < 0 ? rest + divisor : rest;
}

function ofLarge(symbol: Operator, a: bigint, b: bigint): number | bigint {
  let result: bigint;
  if (symbol === "+") result = a + b;
  else if (symbol === "-") result = a - b;
  else if (symbol === "*") {
    checkBits(bits(a) + bits(b));
    result = a * b;
  } else {
    checkBits(bits(a));
    const remainder = a % notZero(b);
    const rest = remainder !== 0n && remainder < 0n !== b < 0n ? remainder + b : remainder;
    result = symbol === "%" ? rest : (a - rest) / b;
  }
  return wholeNumber(result)!;
}

/** The bits of an integer's size, to four. */
function bits(value: bigint): number {
  return value.toString(16).length * 4;
}

function checkBits(count: number): void {
  spend(count / 2);
  if (count <= MOST_BITS) return;
  throw new JinjaError("MemoryError", `an integer of more than ${MOST_BITS} bits`);
}

function integerPower(a: number | bigint, b: number | bigint): unknown {
  if (b < 0) return asFloat(floatPower(floatOf(a), floatOf(b)));
  const small = Number(a) ** Number(b);
  if (Number.isSafeInteger(small)) return small + 0;
  checkBits(bits(BigInt(a)) * Number(b));
  return wholeNumber(BigInt(a) ** BigInt(b));
}

/** `a / b` of integers, rounded once. */
function divided(a: number | bigint, b: number | bigint): unknown {
  if (typeof a === "number" && typeof b === "number") return asFloat(a / b);
  const n = BigInt(a), d = BigInt(b), negative = n < 0n !== d < 0n;
  const size = n < 0n ? -n : n, divisor = d < 0n ? -d : d;
  // 64 bits and one that says whether anything is left: enough to round rightly.
  const shift = Math.max(0, 64 + bits(divisor) - bits(size));
  const scaled = size << BigInt(shift), quotient = scaled / divisor;
  const sticky = quotient * divisor === scaled ? 0n : 1n;
  const value = Number((quotient << 1n) | sticky) / 2 / 2 ** Math.min(shift, 1000) /
    2 ** Math.max(0, shift - 1000);
  if (value === Infinity) {
    throw new JinjaError("OverflowError", "integer division result too large for a float");
  }
  return asFloat(negative ? -value : value);
}

/** `a OP b` of floats. */
export function ofFloats(symbol: Operator, a: number, b: number): number {
  switch (symbol) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "/":
      return a / notZero(b);
    case "%": {
      const rest = sameSign(a % notZero(b), b);
      return rest === 0 ? (b < 0 ? -0 : 0) : rest;
    }
    case "**":
      return floatPower(a, b);
  }
  const rest = sameSign(a % notZero(b), b), quotient = (a - rest) / b;
  return quotient === 0 ? (a / b < 0 ? -0 : 0) : Math.round(quotient);
}

function floatPower(a: number, b: number): number {
  if (a === 0 && b < 0) {
    throw new JinjaError("ZeroDivisionError", "0.0 cannot be raised to a negative power");
  }
  if (b === 0 || a === 1) return 1; // Of NaN, too.
  if (a === -1 && !Number.isFinite(b) && !Number.isNaN(b)) return 1;
  const result = a ** b;
  if (Number.isNaN(result) && !Number.isNaN(a) && !Number.isNaN(b)) {
    throw new JinjaError("ValueError", "complex numbers are not supported");
  }
  if (!Number.isFinite(result) && Number.isFinite(a) && Number.isFinite(b)) {
    throw new JinjaError("OverflowError", "Numerical result out of range");
  }
  return result;
}

/** A number as a float. */
export function floatOf(value: number | bigint): number {
  const number = Number(value);
  if (Number.isFinite(number) || typeof value === "number") return number;
  throw new JinjaError("OverflowError", "int too large to convert to float");
}

function notZero<T extends number | bigint>(divisor: T): T {
  if (divisor == 0) throw new JinjaError("ZeroDivisionError", "division by zero");
  return divisor;
}

/** A whole number's digits, without JavaScript's exponents. */
export function integerText(value: number | bigint): string {
  if (typeof value === "number") {
    return Math.abs(value) < 1e21 ? String(value) : String(BigInt(value));
  }
  if (value < LONGEST && -value < LONGEST) return String(value);
  throw new JinjaError("ValueError", `an integer of more than ${MOST_DIGITS} digits has no text`);
}

/**
 * Python's `repr` of a float: the same digits as JavaScript's, but exponents begin elsewhere.
 *
 * @example
 * ```ts
 * import { floatText } from "./numbers.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([1, 0.5, 1e-5, 1e16].map(floatText), ["1.0", "0.5", "1e-05", "1e+16"]);
 * ```
 */
export function floatText(value: number): string {
  if (!Number.isFinite(value)) return notFinite(value);
  const [digits, exponent] = value.toExponential().split("e");
  if (Number(exponent) < -4 || Number(exponent) >= 16) return digits + exponentText(exponent);
  const sign = Object.is(value, -0) ? "-" : "";
  return Number.isInteger(value) ? `${sign}${value}.0` : String(value);
}

function notFinite(value: number): string {
  return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
}

/** Python gives exponents two digits at least. */
function exponentText(exponent: string): string {
  return `e${exponent[0]}${exponent.slice(1).padStart(2, "0")}`;
}

/** `"%.2f" % value`: exact, and halves go to the even digit. */
export function fixedText(value: number, digits: number): string {
  if (!Number.isFinite(value)) return notFinite(value);
  spend(digits);
  if (Math.abs(value) >= 1e21) {
    return `${BigInt(value)}${digits > 0 ? "." + "0".repeat(digits) : ""}`;
  }
  const sign = value < 0 || Object.is(value, -0) ? "-" : "";
  if (digits > 40) {
    // A double has fewer than 1,100 digits behind the point.
    const places = Math.min(digits, 1100), text = String(atPlaces(Math.abs(value), places));
    const padded = text.padStart(places + 1, "0");
    return `${sign}${padded.slice(0, -places)}.${padded.slice(-places)}`.padEnd(
      sign.length + padded.length + 1 + digits - places,
      "0",
    );
  }
  const text = value.toFixed(digits);
  // JavaScript rounds exact halves up; a half has all its digits within a few places.
  const beyond = Math.abs(value).toFixed(digits + 60).split(".")[1].slice(digits);
  const isHalf = /^50*$/.test(beyond), isOdd = /[13579]$/.test(text);
  const even = isHalf && isOdd ? towardsZero(value, digits) : text;
  return sign + even.replace("-", "");
}

/** A positive float times a power of ten, halves to the even integer. */
function atPlaces(value: number, places: number): bigint {
  let twos = 0, number = value;
  for (; !Number.isInteger(number); number *= 2) twos++;
  const scaled = BigInt(number) * (places < 0 ? 1n : 10n ** BigInt(places));
  const unit = 2n ** BigInt(twos) * (places < 0 ? 10n ** BigInt(-places) : 1n);
  const whole = scaled / unit, twice = scaled % unit * 2n;
  return twice > unit || (twice === unit && whole % 2n === 1n) ? whole + 1n : whole;
}

/** `"%.3e" % value`. */
export function exponentialText(value: number, digits: number): string {
  if (!Number.isFinite(value)) return notFinite(value);
  const sign = value < 0 || Object.is(value, -0) ? "-" : "", size = Math.abs(value);
  const [body, exponent] = significant(size, digits + 1);
  const fraction = digits > 0 ? "." + body.slice(1) : "";
  const shown = exponentText(`${exponent < 0 ? "-" : "+"}${Math.abs(exponent)}`);
  return sign + body[0] + fraction + shown;
}

/** So many digits of a positive float, and the exponent of the first. */
function significant(size: number, count: number): [digits: string, exponent: number] {
  spend(count);
  if (size === 0) return ["0".repeat(count), 0];
  const kept = Math.min(count, 1100);
  let exponent = Number(size.toExponential().split("e")[1]);
  let digits = String(atPlaces(size, kept - 1 - exponent));
  if (digits.length > kept) {
    exponent++;
    digits = String(atPlaces(size, kept - 1 - exponent));
  }
  return [digits.padEnd(count, "0"), exponent];
}

/** `"%.3g" % value`; with `keepZeros`, `"%#.3g"`. */
export function generalText(value: number, digits: number, keepZeros = false): string {
  if (!Number.isFinite(value)) return notFinite(value);
  const count = Math.max(1, digits), sign = value < 0 || Object.is(value, -0) ? "-" : "";
  const [body, exponent] = significant(Math.abs(value), count);
  const isShort = exponent >= -4 && exponent < count;
  const text = !isShort
    ? `${body[0]}.${body.slice(1)}`
    : exponent < 0
    ? `0.${"0".repeat(-exponent - 1)}${body}`
    : `${body.slice(0, exponent + 1)}.${body.slice(exponent + 1)}`;
  const trimmed = keepZeros ? text : text.replace(/\.?0*$/, "");
  const shown = `${exponent < 0 ? "-" : "+"}${Math.abs(exponent)}`;
  return sign + trimmed + (isShort ? "" : exponentText(shown));
}

/** The neighbour of a half that lies nearer to zero. */
function towardsZero(half: number, digits: number): string {
  return (half - Math.sign(half) * 10 ** -digits / 2).toFixed(digits);
}

/** `round(value, digits)`: halves go to the even digit. */
export function roundEven(value: number, digits: number): number {
  if (!Number.isFinite(value)) return value;
  if (digits >= 0) return digits > 330 ? value : Number(fixedText(value, digits));
  const unit = 10 ** -digits;
  if (!Number.isFinite(unit)) return 0;
  const rest = Math.abs(value % unit), whole = value - value % unit;
  const isOdd = Math.abs(whole / unit) % 2 === 1;
  return rest > unit / 2 || (rest === unit / 2 && isOdd) ? whole + Math.sign(value) * unit : whole;
}

/** `round(value, digits)` of an integer, where digits are negative. */
export function roundInteger(value: number | bigint, digits: number): number | bigint {
  if (digits >= 0) return value;
  if (-digits > MOST_DIGITS) return 0;
  const unit = 10n ** BigInt(-digits),
    number = BigInt(value),
    size = number < 0n ? -number : number;
  const rest = size % unit, whole = size - rest;
  const up = rest * 2n > unit || (rest * 2n === unit && whole / unit % 2n === 1n);
  const rounded = up ? whole + unit : whole;
  return wholeNumber(number < 0n ? -rounded : rounded)!;
}

const DIGIT = /\p{Nd}/u;

/** Digits of all scripts as those of ASCII. */
function asciiDigits(text: string): string {
  return text.replace(/[^\0-\x7f]/gu, (character) => {
    if (!DIGIT.test(character)) return character;
    // They come in tens.
    let digit = 0;
    const code = character.codePointAt(0)!;
    while (digit < 9 && DIGIT.test(String.fromCodePoint(code - digit - 1))) digit++;
    return String(digit);
  });
}

/** `int(text, base)`; `undefined` where Python raises a `ValueError`. */
export function parseInteger(
  text: string,
  base: number | bigint = 10,
): number | bigint | undefined {
  if (base != 0 && (base < 2 || base > 36)) return undefined;
  const trimmed = asciiDigits(strip(text));
  const match = /^([+-]?)(0[box]_?)?([\da-z]+(?:_[\da-z]+)*)$/i.exec(trimmed);
  if (!match) return undefined;
  const [, sign, prefix = "", body] = match;
  const own = { "0b": 2, "0o": 8, "0x": 16 }[prefix.toLowerCase().slice(0, 2)];
  const radix = base == 0 ? own ?? 10 : Number(base);
  // A prefix that is not the base's is digits where it can be: 0b1 in base 16.
  const digits = ((own === radix ? "" : prefix) + body).replaceAll("_", "").toLowerCase();
  if (base == 0 && own === undefined && /^0+[1-9]/.test(digits)) return undefined;
  if (digits.length > MOST_DIGITS && ![2, 4, 8, 16, 32].includes(radix)) return undefined;
  const value = digitsIn(radix, digits);
  return value === undefined ? undefined : wholeNumber(sign === "-" ? -value : value);
}

function digitsIn(radix: number, digits: string): number | bigint | undefined {
  const isSmall = digits.length <= 10, big = BigInt(radix);
  spend(digits.length ** 2 / 64);
  let small = 0, large = 0n;
  for (const digit of digits) {
    const worth = "0123456789abcdefghijklmnopqrstuvwxyz".indexOf(digit);
    if (worth < 0 || worth >= radix) return undefined;
    if (isSmall) small = small * radix + worth;
    else large = large * big + BigInt(worth);
  }
  return isSmall ? small : large;
}

/** `float(text)`; `undefined` where Python raises. */
export function parseFloatText(text: string): number | undefined {
  const trimmed = asciiDigits(strip(text)).toLowerCase();
  const special = /^([+-]?)(inf|infinity|nan)$/.exec(trimmed);
  if (special) return special[2] === "nan" ? NaN : special[1] === "-" ? -Infinity : Infinity;
  return FLOAT.test(trimmed) ? Number(trimmed.replaceAll("_", "")) : undefined;
}

const DIGITS = "\\d+(?:_\\d+)*";
const FLOAT = new RegExp(
  `^[+-]?(?:${DIGITS}(?:\\.(?:${DIGITS})?)?|\\.${DIGITS})(?:e[+-]?${DIGITS})?$`,
);
