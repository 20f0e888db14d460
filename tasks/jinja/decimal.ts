/**
 * Python's `Decimal`, as decimal columns give it to templates: exact, with as many decimal places as
 * the column has.
 *
 * @module
 */
import { JinjaError, PyFloat, PyObject, wholeNumber } from "./values.ts";

/** Significant digits of what arithmetic gives, as in Python's default context. */
const PRECISION = 28;

/** Nothing is rounded to more places than this. */
const MOST_PLACES = 1000;

/**
 * `decimal.Decimal`: a whole number times a power of ten.
 *
 * @example
 * ```ts
 * import { PyDecimal } from "./decimal.ts";
 * import { repr, str } from "./python.ts";
 * import assert from "node:assert/strict";
 *
 * const price = new PyDecimal(110n, 2);
 * assert.equal(str(price), "1.10");
 * assert.equal(repr(price), "Decimal('1.10')");
 * assert.equal(str(price.times(new PyDecimal(3n, 0))), "3.30");
 * ```
 */
export class PyDecimal extends PyObject {
  /** Python's name of its type. */
  readonly type = "decimal.Decimal";
  /** The digits as a whole number. */
  readonly digits: bigint;
  /** How many of them stand behind the point; negative for zeros before it. */
  readonly scale: number;

  /** `digits / 10 ** scale`. */
  constructor(digits: bigint, scale: number) {
    super();
    this.digits = digits;
    this.scale = scale;
  }

  /** `str(value)`: with an exponent where Python writes one. */
  override text(): string {
    const sign = this.digits < 0n ? "-" : "";
    const body = String(this.digits < 0n ? -this.digits : this.digits);
    const adjusted = body.length - 1 - this.scale;
    if (this.scale >= 0 && adjusted >= -6) {
      if (this.scale === 0) return sign + body;
      const padded = body.padStart(this.scale + 1, "0");
      return `${sign}${padded.slice(0, -this.scale)}.${padded.slice(-this.scale)}`;
    }
    const fraction = body.length > 1 ? `.${body.slice(1)}` : "";
    return `${sign}${body[0]}${fraction}E${adjusted < 0 ? "-" : "+"}${Math.abs(adjusted)}`;
  }

  /** `repr(value)`. */
  override repr(): string {
    return `Decimal('${this.text()}')`;
  }

  /** Whether it is not zero. */
  override truthy(): boolean {
    return this.digits !== 0n;
  }

  /** Sorts with all numbers, exactly. */
  override compareTo(other: unknown): number | undefined {
    if (isInfinite(other)) return other > 0 ? -1 : 1;
    const number = decimalOf(other, true);
    if (!number) return undefined;
    const [a, b] = aligned(this, number);
    return a < b ? -1 : a > b ? 1 : 0;
  }

  /** A number where that is exact, so that `Decimal('1.50')` and `1.5` are one key. */
  override get hash(): string | number | bigint {
    const number = Number(this.text());
    return this.compareTo(number) === 0
      ? wholeNumber(number) ?? number
      : `Decimal ${this.#shortest().text()}`;
  }

  /** `float(value)`. */
  toNumber(): number {
    return Number(this.text());
  }

  /** `int(value)`. */
  toInteger(): bigint {
    return this.scale > 0 ? this.digits / 10n ** BigInt(this.scale) : aligned(this, ZERO)[0];
  }

  /** `self + other`. */
  plus(other: PyDecimal): PyDecimal {
    const [a, b] = aligned(this, other);
    return rounded(a + b, Math.max(this.scale, other.scale));
  }

  /** `self * other`. */
  times(other: PyDecimal): PyDecimal {
    return rounded(this.digits * other.digits, this.scale + other.scale);
  }

  /** `self / other`, as few digits as hold it, and 28 where it does not end. */
  over(other: PyDecimal): PyDecimal {
    if (other.digits === 0n) throw new JinjaError("ZeroDivisionError", "division by zero");
    // Two digits more than are kept; where a rest remains, a last digit says so to the rounding.
    const more = Math.max(0, PRECISION + 2 + length(other.digits) - length(this.digits));
    const scaled = this.digits * 10n ** BigInt(more);
    const quotient = scaled / other.digits, scale = this.scale - other.scale + more;
    if (quotient * other.digits !== scaled) {
      const sign = (scaled < 0n) === (other.digits < 0n) ? 1n : -1n;
      return rounded(quotient * 10n + sign, scale + 1);
    }
    let exact = new PyDecimal(quotient, scale);
    const ideal = this.scale - other.scale;
    while (exact.scale > ideal && exact.digits % 10n === 0n) {
      exact = new PyDecimal(exact.digits / 10n, exact.scale - 1);
    }
    return rounded(exact.digits, exact.scale);
  }

  /** With as many places behind the point; halves go to the even digit. */
  toPlaces(places: number): PyDecimal {
    if (Math.abs(places) > MOST_PLACES) {
      throw new JinjaError("ValueError", `a decimal cannot have ${places} places`);
    }
    if (places >= this.scale) {
      return new PyDecimal(this.digits * 10n ** BigInt(places - this.scale), places);
    }
    return new PyDecimal(cut(this.digits, this.scale - places), places);
  }

  /** `-self`. */
  negated(): PyDecimal {
    return new PyDecimal(-this.digits, this.scale);
  }

  #shortest(): PyDecimal {
    let { digits, scale } = this;
    for (; digits !== 0n && digits % 10n === 0n; digits /= 10n) scale--;
    return new PyDecimal(digits, scale);
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.text();
  }
}

const ZERO = new PyDecimal(0n, 0);

function isInfinite(value: unknown): value is number {
  return value === Infinity || value === -Infinity;
}

/**
 * An integer as a decimal, and a float too where it is asked for: Python compares the two but does
 * not calculate with them.
 */
export function decimalOf(value: unknown, floats = false): PyDecimal | undefined {
  if (value instanceof PyDecimal) return value;
  if (typeof value === "boolean" || typeof value === "bigint") {
    return new PyDecimal(BigInt(value), 0);
  }
  const number = value instanceof PyFloat ? value.value : value;
  if (typeof number !== "number" || !Number.isFinite(number)) return undefined;
  if (Number.isInteger(number)) {
    return floats || !(value instanceof PyFloat) ? new PyDecimal(BigInt(number), 0) : undefined;
  }
  return floats ? exact(number) : undefined;
}

/** A float's value, which is a whole number over a power of two. */
function exact(value: number): PyDecimal {
  let scale = 0, number = value;
  for (; !Number.isInteger(number); number *= 2) scale++;
  return new PyDecimal(BigInt(number) * 5n ** BigInt(scale), scale);
}

/** The digits of two numbers with the same scale. */
function aligned(a: PyDecimal, b: PyDecimal): [bigint, bigint] {
  const scale = Math.max(a.scale, b.scale);
  const digits = (x: PyDecimal) => x.digits * 10n ** BigInt(scale - x.scale);
  return [digits(a), digits(b)];
}

function length(digits: bigint): number {
  return String(digits < 0n ? -digits : digits).length;
}

/** Halves go to the even digit. */
function rounded(digits: bigint, scale: number): PyDecimal {
  const extra = length(digits) - PRECISION;
  if (extra <= 0) return new PyDecimal(digits, scale);
  // Rounding up may give one digit more.
  return rounded(cut(digits, extra), scale - extra);
}

/** Without its last digits, rounded. */
function cut(digits: bigint, places: number): bigint {
  const unit = 10n ** BigInt(places), size = digits < 0n ? -digits : digits;
  const whole = size / unit, twice = size % unit * 2n;
  const up = twice > unit || (twice === unit && whole % 2n === 1n) ? whole + 1n : whole;
  return digits < 0n ? -up : up;
}
