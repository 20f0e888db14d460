/**
 * Python's `range`: as long as one likes, and as small.
 *
 * @module
 */
import { spendSteps } from "./limits.ts";
import { integral, PyObject, wholeNumber } from "./values.ts";

/**
 * `range(start, stop, step)`.
 *
 * @example
 * ```ts
 * import { PyRange } from "./range.ts";
 * import assert from "node:assert/strict";
 *
 * const range = new PyRange(7n, 0n, -3n);
 * assert.deepEqual(range.items(), [7, 4, 1]);
 * assert.equal(range.text(), "range(7, 0, -3)");
 * ```
 */
export class PyRange extends PyObject {
  /** Python's name of its type. */
  readonly type = "range";
  /** The first number. */
  readonly start: bigint;
  /** The number to stop before. */
  readonly stop: bigint;
  /** From one to the next. */
  readonly step: bigint;
  /** How many numbers there are. */
  readonly length: number | bigint;

  /** The numbers from one to before another; the step is not 0. */
  constructor(start: bigint, stop: bigint, step: bigint) {
    super();
    this.start = start;
    this.stop = stop;
    this.step = step;
    const width = step > 0n ? stop - start : start - stop, size = step > 0n ? step : -step;
    this.length = wholeNumber(width > 0n ? (width + size - 1n) / size : 0n)!;
  }

  /** The number at an index, which may be negative; `undefined` beyond the ends. */
  at(index: number | bigint): unknown {
    const length = BigInt(this.length), place = BigInt(index);
    const at = place < 0n ? place + length : place;
    return at < 0n || at >= length ? undefined : wholeNumber(this.start + at * this.step);
  }

  /** All numbers. */
  override items(): unknown[] {
    spendSteps(Number(this.length));
    const start = Number(this.start), step = Number(this.step), length = Number(this.length);
    const isSmall = Number.isSafeInteger(start) && Number.isSafeInteger(start + step * length);
    return Array.from({ length }, (_, i) => isSmall ? start + i * step : this.at(i));
  }

  /** Whether a value is one of its numbers. */
  includes(value: unknown): boolean {
    const number = integral(value);
    if (number === undefined) return false;
    const place = BigInt(number) - this.start, length = BigInt(this.length);
    return place % this.step === 0n && place / this.step >= 0n && place / this.step < length;
  }

  /** Every `step`th of its numbers from one place to before another, both within it. */
  slice(start: number, stop: number, step: number): PyRange {
    const at = (place: number) => this.start + BigInt(place) * this.step;
    return new PyRange(at(start), at(stop), this.step * BigInt(step));
  }

  /** `repr(value)`. */
  override repr(): string {
    const step = this.step === 1n ? "" : `, ${this.step}`;
    return `range(${this.start}, ${this.stop}${step})`;
  }

  /** Whether there are any. */
  override truthy(): boolean {
    return this.length !== 0;
  }

  /** Ranges of the same numbers are equal. */
  override compareTo(other: unknown): number | undefined {
    return other instanceof PyRange && other.hash === this.hash ? 0 : undefined;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    const first = this.length === 0 ? "" : this.start;
    return `range ${this.length} ${first} ${Number(this.length) > 1 ? this.step : ""}`;
  }
}
