/**
 * Batches of prompts and their choices: similar lengths go through one of few static shapes.
 *
 * @module
 */

import { type RankShape } from "../../models/rank.ts";
import { greatestDivisor } from "../parallel/share.ts";

/** A prompt and its choices as ids. */
export interface RankRequest {
  /** `<s>` … `</s>`. */
  source: Uint32Array;
  /** … `</s>` each; at least one. */
  choices: readonly Uint32Array[];
}

/** A batch: the shape it goes through, and its requests by number. */
export interface RankBatch {
  /** Static sizes. */
  shape: RankShape;
  /** Places of its requests; unused rows follow. */
  requests: number[];
}

/** Limits of {@link groupRequests}. */
export interface RankLimits {
  /** Longest prompt. */
  maxSource: number;
  /** Padded tokens of a batch. */
  batchTokens: number;
  /** Prompts of a batch, instead. */
  batchSize?: number;
  /** Tells the shapes that cost nothing to compile; none if absent. */
  known?: (shape: RankShape) => boolean;
}

/** Rungs of static lengths: a quarter of an octave apart, and no less than so many tokens. */
const RUNGS = 4, LEAST_STEP = 4;

/** Numbers of rows: few different ones, so that few programs are compiled. */
const ROWS = [1, ...Array.from({ length: 16 }, (_, k) => [2 << k, 3 << k]).flat()];

/** Rows of an operand of which kernels like to have a multiple; other numbers need kernels of their own. */
const ALIGNED = 32;

/** What a batch, and a shape that must be compiled, cost beside the padded tokens, in tokens. */
const BATCH_COST = 64, SHAPE_COST = 50;

/**
 * Puts requests of similar lengths into batches of few static shapes.
 *
 * @example
 * ```ts
 * import { groupRequests } from "./rank_batches.ts";
 * import assert from "node:assert/strict";
 *
 * const requests = [30, 31, 9].map((n) => ({
 *   source: new Uint32Array(n),
 *   choices: [new Uint32Array(2), new Uint32Array(3)],
 * }));
 * const batches = groupRequests(requests, { maxSource: 512, batchTokens: 100 });
 * assert.deepEqual(batches.map(({ requests }) => requests), [[1, 0], [2]]);
 * ```
 */
export function groupRequests(requests: readonly RankRequest[], limits: RankLimits): RankBatch[] {
  const totals = requests.map(lengthOf), rising = totals.toSorted((a, b) => a - b);
  const longestFirst = [...requests.keys()].sort((a, b) =>
    requests[b].source.length - requests[a].source.length || totals[b] - totals[a] || a - b
  );
  // All together or split by the choices' length first, in large batches or in smaller ones that leave
  // less of the last one empty: whichever costs least.
  const plans = [1, 2, 3, 4, 6, 8].flatMap((parts) => {
    const tops = quantiles(rising, parts);
    const groups = tops.map((top, k) => {
      const above = k === 0 ? 0 : tops[k - 1];
      return longestFirst.filter((i) => totals[i] <= top && totals[i] > above);
    });
    return [1, 2].map((share) => {
      const smaller = { ...limits, batchTokens: limits.batchTokens / share };
      return groups.flatMap((group) => fillBatches(requests, totals, group, smaller));
    });
  });
  const costs = plans.map((plan) => cost(plan, limits));
  return plans[costs.indexOf(Math.min(...costs))];
}

/** Consecutive batches of requests in the order of their prompts' lengths, longest first. */
function fillBatches(
  requests: readonly RankRequest[],
  totals: readonly number[],
  order: readonly number[],
  { maxSource, batchTokens, batchSize }: RankLimits,
): RankBatch[] {
  const batches: RankBatch[] = [];
  for (let at = 0; at < order.length;) {
    const length = Math.min(rung(requests[order[at]].source.length), maxSource);
    let shape: RankShape | undefined;
    for (const rows of batchSize ? [batchSize] : ROWS) {
      const widest = order.slice(at, at + rows).reduce((max, i) => Math.max(max, totals[i]), 0);
      const step = batchSize ? 1 : ALIGNED / greatestDivisor(rows, ALIGNED);
      const choices = Math.ceil(rung(widest) / step) * step;
      // The first one is always taken, however long.
      if (shape && rows * (length + choices) > batchTokens) break;
      shape = { rows, length, choices };
      if (at + rows >= order.length) break;
    }
    batches.push({ shape: shape!, requests: order.slice(at, at + shape!.rows) });
    at += shape!.rows;
  }
  return batches;
}

/** Tokens of all choices. */
export function lengthOf({ choices }: RankRequest): number {
  return choices.reduce((sum, ids) => sum + ids.length, 0);
}

/** The next rung for a length. */
function rung(length: number): number {
  const step = Math.max(LEAST_STEP, 2 ** Math.ceil(Math.log2(length)) / 2 / RUNGS);
  return Math.ceil(length / step) * step;
}

/** Upper limits of equally large parts of rising numbers of tokens, each on a rung. */
function quantiles(rising: readonly number[], parts: number): number[] {
  const limits = Array.from({ length: parts }, (_, i) => {
    const at = Math.ceil((i + 1) * rising.length / parts) - 1;
    return rung(rising[Math.max(0, at)] ?? 0);
  });
  return [...new Set(limits)];
}

/** Padded tokens, and a little for every batch and every shape that is new. */
function cost(batches: readonly RankBatch[], { known = () => false }: RankLimits): number {
  const shapes = new Map(batches.map(({ shape }) => [idOf(shape), shape]));
  const compiled = [...shapes.values()].filter((shape) => !known(shape)).length;
  return batches.reduce(
    (sum, { shape: { rows, length, choices } }) => sum + rows * (length + choices) + BATCH_COST,
    SHAPE_COST * compiled,
  );
}

/** What a shape's program is called. */
export function idOf({ rows, length, choices }: RankShape): string {
  return `rank ${rows}×${length}→${choices}`;
}
