/**
 * Who does what of an update. The global micro-batches of an update are the same for any number of ranks;
 * every one of them is cut into slices of rows, and each rank gets as many slices as the others.
 *
 * Rows keep their number within the update, and what is drawn for a row is keyed by that number: the
 * number of ranks decides where a row is computed, not what is computed.
 *
 * @module
 */

/** A rank of a group; a `Communicator` is one, too. */
export interface RankPlace {
  /** The rank, from 0. */
  readonly rank: number;
  /** How many ranks there are. */
  readonly size: number;
}

/** A slice of a micro-batch's rows. */
export interface Slice {
  /** Which micro-batch of the update, from 0. */
  micro: number;
  /** Which slice of it, from 0. */
  part: number;
  /** Into how many slices it is cut. */
  parts: number;
}

/** A batch of one rank, with its place among all. */
export interface Numbered<T> {
  /** The batch. */
  batch: T;
  /** The micro-batch that it is, or that it is a slice of, from 0. */
  micro: number;
  /** Number of its first row among the rows of all micro-batches. */
  sequence: number;
}

/** What one rank does of an update. */
export interface Share<T> {
  /** This rank's batches, in order. */
  batches: Numbered<T>[];
  /** Micro-batches of the whole update. */
  micros: number;
  /** Their rows, used or not. */
  rows: number;
  /** Their tokens that are not padding. */
  tokens: number;
}

/** A group of one. */
export const ALONE: RankPlace = { rank: 0, size: 1 };

/**
 * Into how many slices each micro-batch is cut so that all ranks get equally many: the fewest that do.
 *
 * @param micros micro-batches of an update
 * @param size ranks
 *
 * @example
 * ```ts
 * import { partsOf } from "./share.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([1, 2, 4, 6, 8].map((size) => partsOf(4, size)), [1, 1, 1, 3, 2]);
 * ```
 */
export function partsOf(micros: number, size: number): number {
  return size / greatestDivisor(micros, size);
}

/**
 * The slices of a rank: those of all micro-batches, in order, are dealt in runs of equal length.
 *
 * @param micros micro-batches of the update
 *
 * @example
 * ```ts
 * import { slicesOf } from "./share.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(slicesOf(3, 1, 2), [
 *   { micro: 1, part: 1, parts: 2 },
 *   { micro: 2, part: 0, parts: 2 },
 *   { micro: 2, part: 1, parts: 2 },
 * ]);
 * ```
 */
export function slicesOf(micros: number, rank: number, size: number): Slice[] {
  const parts = partsOf(micros, size);
  const count = micros * parts / size;
  return Array.from({ length: count }, (_, i) => {
    const slice = rank * count + i;
    return { micro: Math.floor(slice / parts), part: slice % parts, parts };
  });
}

/**
 * The rows of a slice. All slices of a micro-batch have the same static number of rows, so that they run
 * the same program; rows of the last ones that lie beyond the micro-batch are padding.
 *
 * @param rows of the whole micro-batch
 * @returns `first`: its first row's number in the micro-batch; `count`: its rows
 *
 * @example
 * ```ts
 * import { rowsOfSlice } from "./share.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(rowsOfSlice(10, { part: 2, parts: 3 }), { first: 8, count: 4 }); // Two are used.
 * ```
 */
export function rowsOfSlice(
  rows: number,
  { part, parts }: Pick<Slice, "part" | "parts">,
): { first: number; count: number } {
  const count = Math.ceil(rows / parts);
  return { first: part * count, count };
}

/** The greatest common divisor. */
export function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
