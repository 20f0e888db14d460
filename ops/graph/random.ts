/**
 * Counter-based randomness, the same bits on host and device.
 *
 * A random number is a pure function of (seed, stream, counter): nothing is stored, nothing depends
 * on the order of evaluation, so dropout masks can be recomputed in the backward pass, a resumed run
 * repeats an uninterrupted one, and sharding does not change a sequence's noise.
 *
 * The mixing function is the 32-bit "lowbias32"-style xor-multiply finaliser; `mixed` of `expression.ts` is
 * the same function for kernels.
 *
 * @module
 */

/**
 * Mixes 32 bits: a bijection of u32 with good avalanche.
 *
 * @param x any number; its low 32 bits are used
 * @returns an unsigned 32-bit integer
 *
 * @example
 * ```ts
 * import { mix32 } from "./random.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(mix32(0), 0);
 * assert.notEqual(mix32(1), mix32(2));
 * ```
 */
export function mix32(x: number): number {
  x = x >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad) >>> 0;
  x = Math.imul(x ^ (x >>> 15), 0xd35a2d97) >>> 0;
  return (x ^ (x >>> 15)) >>> 0;
}

/**
 * Folds any number of integers into one 32-bit key, e.g. `key(seed, epoch, sequence)`.
 *
 * @param parts integers (low 32 bits of each are used; order matters)
 *
 * @example
 * ```ts
 * import { key } from "./random.ts";
 * import assert from "node:assert/strict";
 *
 * assert.notEqual(key(1, 2), key(2, 1));
 * ```
 */
export function key(...parts: number[]): number {
  let h = 0x9e3779b9;
  for (const part of parts) h = mix32(h ^ mix32((part + 0x7f4a7c15) >>> 0)) + 0x9e3779b9 >>> 0;
  return h >>> 0;
}

/**
 * A stream of random numbers that is a pure function of its key: draw `i` is `mix32` of key and `i`.
 *
 * @example
 * ```ts
 * import { key, Random } from "./random.ts";
 * import assert from "node:assert/strict";
 *
 * const a = new Random(key(7, 0)), b = new Random(key(7, 0));
 * assert.equal(a.uniform(), b.uniform());
 * assert.ok(a.below(10) < 10);
 * ```
 */
export class Random {
  #key: number;
  #counter = 0;

  /**
   * Starts a stream.
   *
   * @param streamKey usually the result of {@link key}
   */
  constructor(streamKey: number) {
    this.#key = streamKey >>> 0;
  }

  /** The next unsigned 32-bit integer. */
  bits(): number {
    this.#counter = (this.#counter + 1) >>> 0;
    return mix32(this.#key ^ mix32(Math.imul(this.#counter, 0x9e3779b1) >>> 0));
  }

  /** The next number in [0, 1), 32 bits of resolution. */
  uniform(): number {
    return this.bits() / 4294967296;
  }

  /** The next integer in [0, n), 0 < n < 2³². The bias is below n / 2³². */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }

  /** The next draw from the standard normal distribution (Box–Muller, one of the pair). */
  normal(): number {
    const u = (this.bits() + 1) / 4294967297;
    return Math.sqrt(-2 * Math.log(u)) * Math.cos(2 * Math.PI * this.uniform());
  }
}

/** Rounds of {@link permute}. */
const ROUNDS = 8;

/**
 * Where position `i` of a shuffled order of `n` items points: shuffling without a list, so that any position of
 * an order is computed when it is needed, however long it is.
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
 * import { permute } from "./random.ts";
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

/**
 * Shuffles a list in place.
 *
 * @example
 * ```ts
 * import { Random, shuffle } from "./random.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(shuffle([1, 2, 3], new Random(1)).toSorted(), [1, 2, 3]);
 * ```
 */
export function shuffle<T>(items: T[], random: Random): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [items[i], items[j]] = [items[j], items[i]];
  }
  return items;
}
