/**
 * Arrays of numbers.
 *
 * @module
 */

/**
 * One array of several.
 *
 * @example
 * ```ts
 * import { joinArrays } from "./arrays.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(joinArrays(Uint32Array, [[1], [2, 3]]), Uint32Array.of(1, 2, 3));
 * ```
 */
export function joinArrays<A extends Uint8Array | Uint32Array | Float64Array>(
  type: { new (length: number): A },
  parts: readonly ArrayLike<number>[],
): A {
  const whole = new type(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
