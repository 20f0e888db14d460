/**
 * The few static shapes to which micro-batches are padded: each costs a program, each spares padding. For
 * training, and for a plan of it.
 *
 * @module
 */

import type { BatchShapes } from "../text/batches.ts";
import type { PretrainConfig } from "../config/pretrain.ts";

/** Lengths are multiples of this. */
const STEP = 8;

/**
 * Micro-batches of an update, whatever the number of ranks.
 *
 * @example
 * ```ts
 * import { microBatches } from "./static_shapes.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(microBatches({ batchTokens: 10_000, microBatch: 4096 }), 2); // the nearest number
 * ```
 */
export function microBatches(
  { batchTokens, microBatch }: Pick<PretrainConfig, "batchTokens" | "microBatch">,
): number {
  return Math.max(1, Math.round(batchTokens / microBatch));
}

/**
 * Shapes of micro-batches: equal steps up to the longest block, in multiples of 8.
 *
 * @param maxLength tokens of the longest block
 *
 * @example
 * ```ts
 * import { batchShapes } from "./static_shapes.ts";
 * import assert from "node:assert/strict";
 *
 * const { lengths } = batchShapes({ staticLengths: 4, microBatch: 1024 }, { maxLength: 100 });
 * assert.deepEqual(lengths, [32, 56, 80, 104]);
 * ```
 */
export function batchShapes(
  { staticLengths, microBatch }: Pick<PretrainConfig, "staticLengths" | "microBatch">,
  { maxLength }: { maxLength: number },
): BatchShapes {
  const longest = roundUp(maxLength);
  const lengths = Array.from(
    { length: staticLengths },
    (_, i) => roundUp(longest * (i + 1) / staticLengths),
  );
  return { microBatchTokens: microBatch, lengths: [...new Set(lengths)] };
}

/**
 * The `count` lengths that hold all sequences with the least padding in total, by dynamic programming
 * over the multiples of 8.
 *
 * @param lengths one entry per sequence
 * @param count how many lengths at most
 * @param limit longest sequence that may ever come: always the last length
 * @returns rising, the last one `limit` rounded up to a multiple of 8
 *
 * @example
 * ```ts
 * import { chooseLengths } from "./static_shapes.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(chooseLengths([7, 8, 8, 60, 61], 2, 64), [8, 64]);
 * assert.deepEqual(chooseLengths([7, 30], 3, 512), [8, 32, 512]);
 * ```
 */
export function chooseLengths(lengths: readonly number[], count: number, limit: number): number[] {
  const last = roundUp(limit);
  const buckets = last / STEP;
  /** sequences[i]: how many need a length of (i + 1)·STEP. */
  const sequences = new Float64Array(buckets);
  for (const length of lengths) {
    sequences[Math.min(Math.ceil(Math.max(length, 1) / STEP), buckets) - 1]++;
  }
  const upTo = new Float64Array(buckets + 1);
  for (let i = 0; i < buckets; i++) upTo[i + 1] = upTo[i] + sequences[i];
  // best[k][j]: padded tokens of the sequences in the first j buckets with k lengths, the last one j.
  const best = [new Float64Array(buckets + 1).fill(Infinity)];
  const from: Int32Array[] = [new Int32Array(buckets + 1)];
  best[0][0] = 0;
  for (let k = 1; k <= count; k++) {
    best.push(new Float64Array(buckets + 1).fill(Infinity));
    from.push(new Int32Array(buckets + 1));
    for (let j = 1; j <= buckets; j++) {
      for (let i = 0; i < j; i++) {
        const cost = best[k - 1][i] + (upTo[j] - upTo[i]) * j;
        if (cost < best[k][j]) [best[k][j], from[k][j]] = [cost, i];
      }
    }
  }
  let k = 1;
  for (let more = 2; more <= count; more++) if (best[more][buckets] < best[k][buckets]) k = more;
  const chosen: number[] = [];
  for (let j = buckets; k > 0; j = from[k--][j]) chosen.unshift(j * STEP);
  return chosen;
}

/**
 * The shortest of rising lengths that holds a sequence; the last one if none does.
 *
 * @example
 * ```ts
 * import { fittingLength } from "./static_shapes.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(fittingLength([8, 24, 64], 9), 24);
 * ```
 */
export function fittingLength(lengths: readonly number[], length: number): number {
  return lengths.find((l) => l >= length) ?? lengths.at(-1)!;
}

/** Rounds up to a multiple of {@link STEP}. */
function roundUp(length: number): number {
  return Math.max(STEP, Math.ceil(length / STEP) * STEP);
}
