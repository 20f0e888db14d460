/**
 * Shuffling without a list: a keyed bijection of [0, n), so that any position of an epoch's order is
 * computed when it is needed, however large the corpus.
 *
 * @module
 */
import { key, mix32 } from "../../ops/graph/random.ts";

const ROUNDS = 8;

/**
 * Where position `i` of a shuffled order of `n` items points.
 *
 * A Feistel network over the smallest even number of bits that holds `n`; a result outside [0, n) is
 * put through again until it is inside, which takes fewer than four passes on average.
 *
 * @param i position, an integer in [0, n)
 * @param n number of items, below 2⁵²
 * @param orderKey 32 bits that choose the order, usually `key(seed, epoch)`
 *
 * @example
 * ```ts
 * import { permute } from "./shuffle.ts";
 * import assert from "node:assert/strict";
 *
 * const order = Array.from({ length: 10 }, (_, i) => permute(i, 10, 7));
 * assert.deepEqual(order.toSorted((a, b) => a - b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
 * ```
 */
export function permute(i: number, n: number, orderKey: number): number {
  const half = 2 ** Math.ceil(Math.log2(Math.max(n, 4)) / 2);
  do {
    let left = Math.floor(i / half);
    let right = i % half;
    for (let round = 0; round < ROUNDS; round++) {
      const mixed = mix32(right ^ mix32(orderKey + key(round))) % half;
      [left, right] = [right, (left ^ mixed) >>> 0];
    }
    i = left * half + right;
  } while (i >= n);
  return i;
}
