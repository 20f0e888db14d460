/**
 * Numbers as text. A share of nothing is 0/0: wherever figures are printed, what is not a number
 * stands as a dash.
 *
 * @module
 */

/** What stands where there is no number. */
export const NO_NUMBER = "–";

/**
 * Writes a number, or a dash if there is none.
 *
 * @param value `null` and `undefined` are no numbers either, nor are infinities
 * @param write makes text of a number
 *
 * @example
 * ```ts
 * import { numberText } from "./number_text.ts";
 * import assert from "node:assert/strict";
 *
 * const texts = [2.5, 0 / 0, 1 / 0, null].map((x) => numberText(x, (x) => `${x} s`));
 * assert.deepEqual(texts, ["2.5 s", "–", "–", "–"]);
 * ```
 */
export function numberText(
  value: number | null | undefined,
  write: (value: number) => string,
): string {
  return typeof value === "number" && Number.isFinite(value) ? write(value) : NO_NUMBER;
}

/**
 * A number with so many digits after the point, or a dash.
 *
 * @example
 * ```ts
 * import { fixedText } from "./number_text.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([2 / 3, 0 / 0].map((x) => fixedText(x, 3)), ["0.667", "–"]);
 * ```
 */
export function fixedText(value: number | null | undefined, digits: number): string {
  return numberText(value, (value) => value.toFixed(digits));
}

/**
 * A share in percent, or a dash.
 *
 * @param digits after the point
 * @param unit what follows the number, and falls away with it
 *
 * @example
 * ```ts
 * import { percentText } from "./number_text.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(percentText(0.1234), "12.3%");
 * assert.equal(percentText(0.1234, 0, " %"), "12 %");
 * assert.equal(percentText(0 / 0), "–");
 * ```
 */
export function percentText(
  share: number | null | undefined,
  digits = 1,
  unit = "%",
): string {
  return numberText(share, (share) => `${(100 * share).toFixed(digits)}${unit}`);
}

/** A number with about three digits. */
export function figureText(value: number): string {
  return numberText(value, (x) => {
    if (x === 0) return "0";
    if (x >= 1000) return Math.round(x).toLocaleString("en-US");
    return x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 1 ? x.toFixed(2) : x.toFixed(3);
  });
}

/** A whole number with separators. */
export function wholeText(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

/** Bytes in MiB. */
export function mib(bytes: number): string {
  return `${figureText(bytes / 1048576)} MiB`;
}

/** Bytes in 10⁹. */
export function gigabytes(bytes: number, digits = 3): string {
  return `${(bytes / 1e9).toFixed(digits)} GB`;
}

/** So many of something: `1 template`, `2 templates`. */
export function counted(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}
