/**
 * Span corruption, the T5 baseline's noise (paper, equation 1): runs of tokens are replaced by
 * sentinels, and the target spells the runs out.
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import type { Random } from "../ops/graph/random.ts";
import { maskId, type ModelConfig } from "./config.ts";
import { drawDistinct, roundRandomly } from "./masking.ts";

/** Share of the tokens that sentinels stand for. */
const MASK_PROBABILITY = 0.15;
/** Share of that budget that goes to sentinels for which nothing was removed. */
const EMPTY_SHARE = 0.1;
/** Longest span; lengths are uniform from 1 to this. */
const LONGEST_SPAN = 5;

const SPANS_PER_TOKEN = MASK_PROBABILITY * (1 - EMPTY_SHARE) / ((1 + LONGEST_SPAN) / 2);
const EMPTY_PER_TOKEN = MASK_PROBABILITY * EMPTY_SHARE;

/** A corrupted sequence. */
export interface Corruption {
  /** The sequence with sentinels in place of spans. */
  source: Uint32Array;
  /** Each sentinel followed by its span, then the terminator `<sen000>`. */
  target: Uint32Array;
}

/**
 * Corrupts a sequence. Sentinels are numbered from `<sen001>` in the order of the sequence.
 *
 * @param tokens the sequence, without padding
 * @throws {UserError} if it needs more sentinels than there are
 *
 * @example
 * ```ts
 * import { corruptSpans } from "./spans.ts";
 * import { maskId } from "./config.ts";
 * import { preset } from "./presets.ts";
 * import { Random } from "../ops/graph/random.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("base");
 * const { target } = corruptSpans(new Random(3), new Uint32Array(512).fill(9), model);
 * assert.equal(target[0], maskId(model) + 1);
 * assert.equal(target.at(-1), maskId(model));
 * ```
 */
export function corruptSpans(
  random: Random,
  tokens: Uint32Array,
  model: Pick<ModelConfig, "vocabSize" | "sentinels">,
): Corruption {
  const masked = maskSpans(random, tokens.length);
  const empty = emptySpans(random, masked);
  const terminator = maskId(model);
  const source: number[] = [], target: number[] = [];
  let sentinel = terminator;
  const open = () => {
    if (++sentinel >= model.vocabSize) {
      throw new UserError(
        `sentinels: ${tokens.length} tokens need more than the ${model.sentinels} that there are; ` +
          `expected at least ${sentinelsNeeded(tokens.length)}`,
      );
    }
    source.push(sentinel);
    target.push(sentinel);
  };
  for (const [i, token] of tokens.entries()) {
    if (empty[i] || (masked[i] && !masked[i - 1])) open();
    (masked[i] ? target : source).push(token);
  }
  target.push(terminator);
  return { source: Uint32Array.from(source), target: Uint32Array.from(target) };
}

/**
 * How many sentinels, the terminator included, a sequence can need.
 *
 * @example
 * ```ts
 * import { sentinelsNeeded } from "./spans.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok(sentinelsNeeded(512) <= 512);
 * ```
 */
export function sentinelsNeeded(length: number): number {
  // One span may go on at the beginning of the sequence, and counts twice.
  return mostStarts(length) + 1 + mostEmpty(length) + 1;
}

/**
 * The longest target that a sequence of some length, or a shorter one, can have.
 *
 * @example
 * ```ts
 * import { longestTarget } from "./spans.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok(longestTarget(512) >= 95 && longestTarget(512) < 128);
 * ```
 */
export function longestTarget(length: number): number {
  let heads = mostStarts(length), masked = heads;
  for (let longer = LONGEST_SPAN - 1; longer > 0; longer--) {
    heads = Math.min(heads, Math.floor(heads * longer / (longer + 1)) + 1);
    masked += heads;
  }
  return Math.min(masked, length) + sentinelsNeeded(length);
}

/** Starts at random positions, then grows a share of the spans by one, four times. */
function maskSpans(random: Random, length: number): Uint8Array {
  const masked = new Uint8Array(length);
  const positions = Uint32Array.from(masked.keys());
  let heads = drawDistinct(random, positions, roundRandomly(random, SPANS_PER_TOKEN * length));
  for (const head of heads) masked[head] = 1;
  for (let longer = LONGEST_SPAN - 1; longer > 0; longer--) {
    const count = roundRandomly(random, heads.length * longer / (longer + 1));
    // Past the end, a span goes on at the beginning.
    heads = drawDistinct(random, heads, count).map((head) => (head + 1) % length);
    for (const head of heads) masked[head] = 1;
  }
  return masked;
}

/** Places before which a sentinel stands for nothing; none touches a masked span. */
function emptySpans(random: Random, masked: Uint8Array): Uint8Array {
  const free = Uint32Array.from(masked.keys()).filter((i) => !masked[i] && !masked[i - 1]);
  const empty = new Uint8Array(masked.length);
  const count = roundRandomly(random, EMPTY_PER_TOKEN * masked.length);
  for (const place of drawDistinct(random, free, count)) empty[place] = 1;
  return empty;
}

function mostStarts(length: number): number {
  return Math.floor(SPANS_PER_TOKEN * length) + 1;
}

function mostEmpty(length: number): number {
  return Math.floor(EMPTY_PER_TOKEN * length) + 1;
}
