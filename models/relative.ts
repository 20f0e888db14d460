/**
 * Relative position buckets: which row of a layer's table biases the attention from one position to
 * another. Near positions have buckets of their own, far ones share logarithmically wider ones.
 *
 * @module
 */

/** The two numbers of the bucket rule. */
export interface RelativeConfig {
  /** Rows of a table; half for each direction, and the last row is never used. */
  relativeBuckets: number;
  /** Distance from which all positions share the last bucket. */
  relativeMaxDistance: number;
}

/**
 * The bucket of a relative position: exact up to a quarter of the buckets, then logarithmic and
 * rounded up, and symmetric about the bucket of distance 0.
 *
 * @param delta key position − query position
 * @param positions most positions that the model can have; few positions leave far buckets out, and
 *   rows are counted from the first bucket that is left
 * @returns a row from 0 to relativeBuckets − 2
 *
 * @example
 * ```ts
 * import { relativeBucket } from "./relative.ts";
 * import assert from "node:assert/strict";
 *
 * const config = { relativeBuckets: 32, relativeMaxDistance: 128 };
 * assert.equal(relativeBucket(0, config), 15);
 * assert.equal(relativeBucket(-8, config), 15 - 8);
 * assert.equal(relativeBucket(1000, config), 30);
 * assert.equal(relativeBucket(0, config, 64), 14);
 * ```
 */
export function relativeBucket(
  delta: number,
  config: RelativeConfig,
  positions = Infinity,
): number {
  return Math.sign(delta) * distanceBucket(Math.abs(delta), config) +
    distanceBucket(positions - 1, config);
}

/**
 * The bucket of a relative position in T5: exact for the nearer half of a direction's buckets, then
 * logarithmic and rounded down. Encoders give half of the table to keys behind the query; decoders see none
 * and use all rows for keys before it. In float32, as the weights were trained.
 *
 * @param delta key position − query position
 * @param bidirectional true in encoders
 * @returns a row from 0 to relativeBuckets − 1
 *
 * @example
 * ```ts
 * import { t5Bucket } from "./relative.ts";
 * import assert from "node:assert/strict";
 *
 * const config = { relativeBuckets: 32, relativeMaxDistance: 128 };
 * assert.deepEqual([-1000, -8, 0, 8].map((d) => t5Bucket(d, config, true)), [15, 8, 0, 24]);
 * assert.deepEqual([-1000, -8, 0, 8].map((d) => t5Bucket(d, config, false)), [31, 8, 0, 0]);
 * ```
 */
export function t5Bucket(
  delta: number,
  { relativeBuckets, relativeMaxDistance }: RelativeConfig,
  bidirectional: boolean,
): number {
  const count = bidirectional ? relativeBuckets / 2 : relativeBuckets, exact = count / 2;
  const first = bidirectional && delta > 0 ? count : 0;
  const distance = bidirectional ? Math.abs(delta) : Math.max(-delta, 0);
  if (distance < exact) return first + distance;
  const { fround, log } = Math;
  const depth = fround(
    fround(log(fround(distance / exact))) / fround(log(relativeMaxDistance / exact)),
  );
  return first + Math.min(exact + Math.floor(fround(depth * (count - exact))), count - 1);
}

function distanceBucket(
  distance: number,
  { relativeBuckets, relativeMaxDistance }: RelativeConfig,
): number {
  const half = relativeBuckets / 2, exact = half / 2;
  if (distance < exact) return distance;
  const depth = Math.log(distance / exact) / Math.log((relativeMaxDistance - 1) / exact);
  return Math.min(exact + Math.ceil(depth * (half - 1 - exact)), half - 1);
}

/**
 * The buckets of all relative positions, in the order in which attention takes its bias.
 *
 * @returns for key − query from −(queries − 1) to keys − 1: `[queries + keys - 1]`
 *
 * @example
 * ```ts
 * import { relativeBuckets } from "./relative.ts";
 * import assert from "node:assert/strict";
 *
 * const rows = relativeBuckets(2, 3, { relativeBuckets: 32, relativeMaxDistance: 128 });
 * assert.deepEqual(rows, Uint32Array.of(14, 15, 16, 17));
 * ```
 */
export function relativeBuckets(
  queries: number,
  keys: number,
  config: RelativeConfig,
  positions = Infinity,
): Uint32Array {
  return Uint32Array.from(
    { length: queries + keys - 1 },
    (_, i) => relativeBucket(i - (queries - 1), config, positions),
  );
}

/**
 * The same for T5.
 *
 * @param bidirectional true in encoders
 * @returns for key − query from −(queries − 1) to keys − 1: `[queries + keys - 1]`
 *
 * @example
 * ```ts
 * import { t5Buckets } from "./relative.ts";
 * import assert from "node:assert/strict";
 *
 * const config = { relativeBuckets: 32, relativeMaxDistance: 128 };
 * assert.deepEqual(t5Buckets(2, 3, config, true), Uint32Array.of(1, 0, 17, 18));
 * ```
 */
export function t5Buckets(
  queries: number,
  keys: number,
  config: RelativeConfig,
  bidirectional: boolean,
): Uint32Array {
  return Uint32Array.from(
    { length: queries + keys - 1 },
    (_, i) => t5Bucket(i - (queries - 1), config, bidirectional),
  );
}
