/**
 * What a model and its pretraining objective are: sizes, heads, sharing, masks and loss weights.
 * Every point on which paper, code and checkpoints disagree is a field here; `presets.ts` holds the
 * coherent choices.
 *
 * @module
 */

import { UserError } from "../ops/errors.ts";

/** Ids of the special tokens, the same in every vocabulary. */
export const SPECIAL = { bos: 0, pad: 1, eos: 2, unk: 3 } as const;

/** First id that is not a special token; random replacements are drawn from here on. */
export const FIRST_ORDINARY = 4;

/** Tensors that the auxiliary model shares with the main model; each mode includes the former. */
export const SHARE_MODES = ["none", "token", "token_pos", "token_pos_norm"] as const;
/** One of {@link SHARE_MODES}. */
export type ShareMode = typeof SHARE_MODES[number];

/** Shape of the RTD head: none, Linear(d, 1), or dense + ReLU + LayerNorm + Linear(d, 1). */
export const RTD_HEADS = ["none", "simple", "roberta"] as const;
/** One of {@link RTD_HEADS}. */
export type RtdHead = typeof RTD_HEADS[number];

/**
 * Shape of a language modeling head: `linear` is the tied token table alone; `roberta` is dense +
 * ReLU + LayerNorm, then the tied table with a bias.
 */
export const LM_HEADS = ["linear", "roberta"] as const;
/** One of {@link LM_HEADS}. */
export type LmHead = typeof LM_HEADS[number];

/** Sizes and parts of a model. */
export interface ModelConfig {
  /** Rows of the token table, sentinels included. */
  vocabSize: number;
  /** How many of the last rows are sentinels `<sen000>`, `<sen001>`, ...; the first is also the mask. */
  sentinels: number;
  /** Hidden dimension d. */
  dModel: number;
  /** Attention heads; each is dModel / heads wide. */
  heads: number;
  /** Width of the feed-forward layers. */
  dFf: number;
  /** Layers of the main encoder. */
  encoderLayers: number;
  /** Layers of the main decoder. */
  decoderLayers: number;
  /** Layers of the auxiliary model; 0 means there is none. */
  auxLayers: number;
  /** Rows of each relative position table (encoders only, one table per layer). */
  relativeBuckets: number;
  /** Distance from which all relative positions share the last bucket. */
  relativeMaxDistance: number;
  /** Longest sequence that may be given to the model. */
  maxPositions: number;
  /** Rows of the main model's position tables, at least maxPositions + 2 (rows 0 and 1 are spare). */
  positionRows: number;
  /** What the auxiliary model shares with the main model. */
  share: ShareMode;
  /** Replaced token detection head. */
  rtdHead: RtdHead;
  /** Head of the auxiliary model. */
  mlmHead: LmHead;
  /** Head of the decoder. */
  clmHead: LmHead;
  /** Dropout of the main model: embeddings, attention weights and sub-layer outputs. */
  dropout: number;
  /** The same for the auxiliary model. */
  auxDropout: number;
  /** Added to the variance in every LayerNorm. */
  layerNormEps: number;
}

/** Which positions count in the losses: see {@link ObjectiveConfig.maskedPositionsOnly}. */
export const MASKED_POSITIONS_ONLY = ["lm", "none", "both"] as const;
/** How micro-batches are averaged in the RTD loss: see {@link ObjectiveConfig.rtdAverage}. */
export const RTD_AVERAGES = ["microBatch", "tokens"] as const;

/** What the RTD head reads: see {@link ObjectiveConfig.rtdLocation}. */
export const RTD_LOCATIONS = ["encoder", "decoder"] as const;

/** The pretraining objective: masks and losses. */
export interface ObjectiveConfig {
  /** Share of the positions that the auxiliary model must predict. */
  maskProbability: number;
  /** Share of the selected positions that the auxiliary model sees unchanged. */
  keepShare: number;
  /** Share of the selected positions that it sees as a random token; the rest are masks. */
  randomShare: number;
  /** Whether `<s>` and `</s>` can be selected. */
  maskSpecials: boolean;
  /** Consecutive positions per selection: 1 is i.i.d. masking, more the span mask ablation. */
  spanLength: number;
  /** Standard deviation of the span length; 0 is a fixed length. */
  spanStdev: number;
  /**
   * `lm`: CLM counts selected positions and RTD all tokens (METRO); `none`: both count all tokens;
   * `both`: both count selected positions.
   */
  maskedPositionsOnly: typeof MASKED_POSITIONS_ONLY[number];
  /** Weighs each position of the CLM loss by σ(RTD logit), without gradient to the RTD head. */
  weightedLmLoss: boolean;
  /** Divides those weights by their mean over the micro-batch. */
  divideByMeanWeight: boolean;
  /** Whether the RTD head reads the encoder's output (METRO), or the decoder's (an ablation). */
  rtdLocation: typeof RTD_LOCATIONS[number];
  /**
   * Lets the decoder copy (an ablation): p = c·[the noise is the target] + (1 − c)·softmax, where c is
   * the RTD head's probability that the token is original, without gradient to it.
   */
  copyMechanism: boolean;
  /** Label smoothing of the decoder's loss. */
  labelSmoothing: number;
  /**
   * Under `lm`: `microBatch` weighs the mean RTD loss of each micro-batch by its share of selected
   * positions, as the code does; `tokens` is the mean over all tokens of the update, as in equation 11.
   */
  rtdAverage: typeof RTD_AVERAGES[number];
  /** λ_MLM of equation 13. */
  mlmWeight: number;
  /** λ_RTD of equation 13. */
  rtdWeight: number;
  /** λ_CLM of equation 13. */
  clmWeight: number;
}

/**
 * The mask symbol, which is also the decoder's start symbol in pretraining: `<sen000>`.
 *
 * @example
 * ```ts
 * import { maskId } from "./config.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(maskId({ vocabSize: 33_280, sentinels: 512 }), 32_768);
 * ```
 */
export function maskId(config: Pick<ModelConfig, "vocabSize" | "sentinels">): number {
  return config.vocabSize - config.sentinels;
}

/**
 * Checks a model config.
 *
 * @throws {UserError} naming the field, what was expected and what came
 *
 * @example
 * ```ts
 * import { checkModelConfig } from "./config.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny");
 * checkModelConfig(model);
 * assert.throws(() => checkModelConfig({ ...model, heads: 3 }), /heads/);
 * ```
 */
export function checkModelConfig(config: ModelConfig): void {
  const sizes = ["vocabSize", "sentinels", "dModel", "heads", "dFf", "encoderLayers"] as const;
  for (const field of [...sizes, "decoderLayers"] as const) {
    expect(isCount(config[field], 1), field, "a positive integer", config[field]);
  }
  expect(isCount(config.auxLayers, 0), "auxLayers", "an integer of at least 0", config.auxLayers);
  expect(
    config.sentinels <= config.vocabSize - FIRST_ORDINARY,
    "sentinels",
    `at most vocabSize - ${FIRST_ORDINARY} = ${config.vocabSize - FIRST_ORDINARY}`,
    config.sentinels,
  );
  expect(
    config.dModel % config.heads === 0,
    "heads",
    `a divisor of ${config.dModel}`,
    config.heads,
  );
  const { relativeBuckets: bins, relativeMaxDistance: distance } = config;
  expect(isCount(bins, 4) && bins % 4 === 0, "relativeBuckets", "a multiple of 4", bins);
  expect(
    isCount(distance, bins / 4 + 2),
    "relativeMaxDistance",
    `an integer above ${bins / 4 + 1}, a quarter of the buckets and one`,
    distance,
  );
  const { maxPositions, positionRows } = config;
  expect(isCount(maxPositions, 1), "maxPositions", "a positive integer", maxPositions);
  expect(
    isCount(positionRows, maxPositions + 2),
    "positionRows",
    `an integer of at least maxPositions + 2 = ${maxPositions + 2}`,
    positionRows,
  );
  expectOneOf(SHARE_MODES, "share", config.share);
  expectOneOf(RTD_HEADS, "rtdHead", config.rtdHead);
  expectOneOf(LM_HEADS, "mlmHead", config.mlmHead);
  expectOneOf(LM_HEADS, "clmHead", config.clmHead);
  for (const field of ["dropout", "auxDropout"] as const) {
    expect(isShare(config[field]) && config[field] < 1, field, "a number in [0, 1)", config[field]);
  }
  expect(config.layerNormEps > 0, "layerNormEps", "a positive number", config.layerNormEps);
}

/**
 * Checks an objective, on its own and against the model.
 *
 * @throws {UserError} naming the field, what was expected and what came
 *
 * @example
 * ```ts
 * import { checkObjectiveConfig } from "./config.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny");
 * checkObjectiveConfig(objective, model);
 * const weighted = { ...objective, weightedLmLoss: true };
 * assert.throws(() => checkObjectiveConfig(weighted, { ...model, rtdHead: "none" }), /rtdHead/);
 * ```
 */
export function checkObjectiveConfig(objective: ObjectiveConfig, model: ModelConfig): void {
  const shares = ["maskProbability", "keepShare", "randomShare", "labelSmoothing"] as const;
  for (const field of shares) {
    expect(isShare(objective[field]), field, "a number in [0, 1]", objective[field]);
  }
  const { keepShare, randomShare, spanLength, spanStdev } = objective;
  expect(keepShare + randomShare <= 1, "randomShare", `at most ${1 - keepShare}`, randomShare);
  expect(isCount(spanLength, 1), "spanLength", "a positive integer", spanLength);
  for (const field of ["spanStdev", "mlmWeight", "rtdWeight", "clmWeight"] as const) {
    expect(objective[field] >= 0, field, "a number of at least 0", objective[field]);
  }
  expect(spanStdev === 0 || spanLength > 1, "spanStdev", "0 where spanLength is 1", spanStdev);
  expectOneOf(MASKED_POSITIONS_ONLY, "maskedPositionsOnly", objective.maskedPositionsOnly);
  expectOneOf(RTD_AVERAGES, "rtdAverage", objective.rtdAverage);
  expectOneOf(RTD_LOCATIONS, "rtdLocation", objective.rtdLocation);
  for (const field of ["weightedLmLoss", "copyMechanism"] as const) {
    const ok = !objective[field] || model.rtdHead !== "none";
    expect(ok, field, "false where rtdHead is none, since it needs that head", objective[field]);
  }
  expect(
    !objective.copyMechanism || objective.labelSmoothing === 0,
    "labelSmoothing",
    "0 where copyMechanism is on",
    objective.labelSmoothing,
  );
}

function isCount(x: number, least: number): boolean {
  return Number.isSafeInteger(x) && x >= least;
}

function isShare(x: number): boolean {
  return x >= 0 && x <= 1;
}

function expect(ok: boolean, field: string, expected: string, got: unknown): void {
  if (!ok) throw new UserError(`${field}: expected ${expected}, got ${got}`);
}

function expectOneOf(choices: readonly string[], field: string, got: string): void {
  expect(choices.includes(got), field, `one of ${choices.join(", ")}`, `'${got}'`);
}
