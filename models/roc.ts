/**
 * How well a score tells two kinds of positions apart, whatever threshold one would choose: the area
 * under the ROC curve. The device counts positions above fixed thresholds, which adds up over batches
 * and ranks like any sum; the host makes the curve of the counts.
 *
 * @module
 */

import { constant, greater, mul, reshape, sumRows, type Tensor } from "../ops/mod.ts";
import { sizeOf } from "../ops/graph/tensor.ts";

/** Below every logit, so that what is above it is everything. */
const LOWEST = -3.4e38;

/**
 * Where a detector of noise stands that knows only how much there is of it: at 15 % of tokens. Its first
 * steps away from there are of hundredths.
 */
const UNDECIDED = Math.log(0.15 / 0.85);
/** Thresholds on either side of it; with it and the lowest, 128 in all, which kernels read in fours. */
const SIDE = 63;
/** How far the last of them is away, and within what distance they stand evenly. */
const REACH = 10, EVEN = 0.25;

/**
 * Thresholds on a logit, ascending, the first below all numbers: every 0.017 where a detector begins,
 * and further apart with the distance from there.
 */
export const ROC_THRESHOLDS: readonly number[] = [
  LOWEST,
  ...Array.from({ length: 2 * SIDE + 1 }, (_, i) => {
    const place = (i - SIDE) / SIDE;
    return UNDECIDED + EVEN * Math.sinh(place * Math.asinh(REACH / EVEN));
  }),
];

/**
 * How many positions have a score above each of {@link ROC_THRESHOLDS}, [thresholds].
 *
 * @param scores logits
 * @param counted 1 for positions that count, 0 for others; of the shape of the scores
 *
 * @example
 * ```ts
 * import { countAbove } from "./roc.ts";
 * import { interpret, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const above = countAbove(state("scores", [4]), state("counted", [4]));
 * const values = { scores: Float32Array.of(-99, 0.1, 99, 99), counted: Float32Array.of(1, 1, 1, 0) };
 * const [counts] = interpret([above], { values });
 * assert.deepEqual([counts[0], counts[1], counts.at(-1)], [3, 2, 1]);
 * ```
 */
export function countAbove(scores: Tensor, counted: Tensor): Tensor {
  const column = (x: Tensor) => reshape(x, [sizeOf(x.shape), 1]);
  const thresholds = constant(Float32Array.from(ROC_THRESHOLDS), [ROC_THRESHOLDS.length]);
  return sumRows(mul(greater(column(scores), thresholds), column(counted)));
}

/**
 * The area under the ROC curve: how likely a position of the kind looked for has a higher score than one
 * that is not. Between thresholds the curve is straight, as if equal scores came in any order.
 *
 * @param all positions above each threshold, ascending; the first counts all of them
 * @param sought those among them that are of the kind looked for
 * @returns 1 for a perfect score, 0.5 for one that knows nothing; NaN if there is only one kind
 *
 * @example
 * ```ts
 * import { areaUnderRoc } from "./roc.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(areaUnderRoc([4, 2, 0], [2, 2, 0]), 1);
 * assert.equal(areaUnderRoc([4, 2, 0], [2, 1, 0]), 0.5);
 * assert.equal(areaUnderRoc([4, 2, 0], [0, 0, 0]), NaN);
 * ```
 */
export function areaUnderRoc(all: readonly number[], sought: readonly number[]): number {
  const others = all.map((count, i) => count - sought[i]);
  let area = 0;
  for (const [i, count] of others.entries()) {
    // Above the last threshold lies the corner where nothing is.
    const [next, nextSought] = [others[i + 1] ?? 0, sought[i + 1] ?? 0];
    area += (count - next) * (sought[i] + nextSought) / 2;
  }
  return area / (others[0] * sought[0]);
}
