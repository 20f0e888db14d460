/**
 * What an update of pretraining consists of, in numbers: for training, and for a plan of it.
 *
 * @module
 */

import type { BatchShapes } from "../text/batches.ts";
import type { PretrainConfig } from "../config/pretrain.ts";

/**
 * Micro-batches of an update, whatever the number of ranks.
 *
 * @example
 * ```ts
 * import { microBatches } from "./update_shapes.ts";
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
 * import { batchShapes } from "./update_shapes.ts";
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
  const longest = upTo(maxLength);
  const lengths = Array.from(
    { length: staticLengths },
    (_, i) => upTo(longest * (i + 1) / staticLengths),
  );
  return { microBatchTokens: microBatch, lengths: [...new Set(lengths)] };
}

/** Rounds up to a multiple of 8. */
function upTo(length: number): number {
  return Math.max(8, Math.ceil(length / 8) * 8);
}
