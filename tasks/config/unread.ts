/**
 * Which settings of pretraining are read under which others. A flag that would change nothing is refused: who
 * gives it expects something of it.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { flagName } from "../command/options.ts";
import type { GivenPretrain, PretrainConfig } from "./pretrain.ts";

/** When a setting is read. */
interface Condition {
  /** In the words of the flags. */
  goesWith: string;
  /** Whether it is. */
  holds(config: PretrainConfig): boolean;
}

const METRO: Condition = {
  goesWith: "--objective metro",
  holds: ({ objective }) => objective === "metro",
};
const DETECTION: Condition = {
  goesWith: "a --rtd-head",
  holds: ({ rtdHead }) => rtdHead !== "none",
};
const OWN_TOKENIZER: Condition = {
  goesWith: "--tokenizer bpe or unigram, which trains one",
  holds: ({ tokenizer }) => tokenizer === "bpe" || tokenizer === "unigram",
};
const HELD_OUT: Condition = {
  goesWith: "--held-out above 0",
  holds: ({ heldOut }) => heldOut > 0,
};

/** Settings that are not always read; all conditions must hold. */
export const READ_UNDER: Readonly<Partial<Record<keyof PretrainConfig, readonly Condition[]>>> = {
  auxLayers: [METRO],
  auxDropout: [METRO],
  share: [METRO],
  rtdHead: [METRO],
  mlmHead: [METRO],
  maskProbability: [METRO],
  keepShare: [METRO],
  randomShare: [METRO],
  maskSpecials: [METRO],
  spanLength: [METRO],
  spanStdev: [METRO],
  maskedPositionsOnly: [METRO],
  decoderTarget: [METRO],
  weightedLmLoss: [METRO],
  divideByMeanWeight: [METRO, {
    goesWith: "--weighted-lm-loss",
    holds: ({ weightedLmLoss }) => weightedLmLoss,
  }],
  copyMechanism: [METRO],
  rtdAverage: [METRO, DETECTION, {
    goesWith: "--masked-positions-only lm",
    holds: ({ maskedPositionsOnly }) => maskedPositionsOnly === "lm",
  }],
  rtdLocation: [METRO, DETECTION],
  mlmWeight: [METRO],
  rtdWeight: [METRO, DETECTION],
  clmWeight: [METRO],
  lowercase: [OWN_TOKENIZER],
  longLines: [{
    goesWith: "--packing complete_doc",
    holds: ({ packing }) => packing === "complete_doc",
  }],
  evaluateTokens: [HELD_OUT],
};

/**
 * Refuses settings that nothing reads.
 *
 * @param given what the user has set
 * @param config what follows from it
 * @throws {UserError} naming the first flag that would change nothing, and what it goes with
 *
 * @example
 * ```ts
 * import { resolvePretrain } from "./pretrain.ts";
 * import { expectAllRead } from "./unread.ts";
 * import assert from "node:assert/strict";
 *
 * const given = { objective: "t5", maskProbability: 0.3 } as const;
 * assert.throws(() => expectAllRead(given, resolvePretrain(given, [])), {
 *   message: "--mask-probability: goes with --objective metro, else nothing reads it; leave it out",
 * });
 * ```
 */
export function expectAllRead(given: GivenPretrain, config: PretrainConfig): void {
  for (const name of Object.keys(given) as (keyof PretrainConfig)[]) {
    if (given[name] === undefined) continue;
    const missing = READ_UNDER[name]?.find(({ holds }) => !holds(config));
    if (!missing) continue;
    throw new UserError(
      `--${flagName(name)}: goes with ${missing.goesWith}, else nothing reads it; leave it out`,
    );
  }
}
