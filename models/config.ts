/**
 * What a model and its pretraining objective are: sizes, heads, sharing, masks and loss weights.
 * Every point on which paper, code and checkpoints disagree is a field here; `presets.ts` holds the
 * coherent choices.
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import { isRecord, shown } from "./formats/untrusted.ts";

/** Ids of the special tokens, the same in every vocabulary of METRO's. See {@link specialIds}. */
export const SPECIAL = { bos: 0, pad: 1, eos: 2, unk: 3 } as const;

/** First id that is not a special token; random replacements are drawn from here on. */
export const FIRST_ORDINARY = 4;

/** Tensors that the auxiliary model shares with the main model; each mode includes the former. */
export const SHARE_MODES = ["none", "token", "token_pos", "token_pos_norm"] as const;

/** Shape of the RTD head: none, Linear(d, 1), or dense + ReLU + LayerNorm + Linear(d, 1). */
export const RTD_HEADS = ["none", "simple", "roberta"] as const;

/**
 * Shape of a language modeling head: `linear` is the tied token table alone; `roberta` is dense +
 * ReLU + LayerNorm, then the tied table with a bias.
 */
export const LM_HEADS = ["linear", "roberta"] as const;

/**
 * Feed-forward layers of the T5 family, each as its configuration files name it: W₂·ReLU(W₁x), or
 * W₂·(GELU(W₁x) · W₁′x).
 */
export const FEED_FORWARDS = ["relu", "gated-gelu"] as const;

/** Relative tables of the T5 family: one per stack, or one per layer. */
const RELATIVE_TABLES = ["stack", "layer"] as const;

/**
 * Sizes far above those of any model: a config that asks for more is wrong, and is refused before
 * anything is allocated or counted by it.
 */
const MOST = {
  vocabSize: 1 << 22,
  dModel: 1 << 16,
  heads: 1 << 12,
  dFf: 1 << 20,
  encoderLayers: 1000,
  decoderLayers: 1000,
  auxLayers: 1000,
  relativeBuckets: 1 << 16,
  relativeMaxDistance: 1 << 20,
  maxPositions: 1 << 20,
  positionRows: 1 << 21,
} as const;

/** Kernels of attention hold a row of a head in registers. */
const WIDEST_HEAD = 128;

/** Sizes and parts of a model of METRO's kind. */
export interface MetroModel {
  /** Rows of the token table, sentinels included. */
  vocabSize: number;
  /** How many of the last rows are sentinels `<sen000>`, `<sen001>`, ...; the first is also the mask. */
  sentinels: number;
  /** Hidden dimension d. */
  dModel: number;
  /** Attention heads; each is dModel / heads wide, unless `headWidth` of {@link T5Model.t5} says otherwise. */
  heads: number;
  /** Width of the feed-forward layers. */
  dFf: number;
  /** Layers of the main encoder. */
  encoderLayers: number;
  /** Layers of the main decoder. */
  decoderLayers: number;
  /** Layers of the auxiliary model; 0 means there is none. */
  auxLayers: number;
  /** Rows of each relative position table (METRO: encoders only, one table per layer). */
  relativeBuckets: number;
  /** Distance from which all relative positions share the last bucket. */
  relativeMaxDistance: number;
  /** Longest sequence that may be given to the model. */
  maxPositions: number;
  /**
   * Rows of the main model's position tables, at least maxPositions + 2 (rows 0 and 1 are spare). T5 has no
   * such tables, and as many positions all the same.
   */
  positionRows: number;
  /** What the auxiliary model shares with the main model. */
  share: "none" | "token" | "token_pos" | "token_pos_norm";
  /** Replaced token detection head. */
  rtdHead: "none" | "simple" | "roberta";
  /** Head of the auxiliary model. */
  mlmHead: "linear" | "roberta";
  /** Head of the decoder. */
  clmHead: "linear" | "roberta";
  /** Dropout of the main model: embeddings, attention weights and sub-layer outputs. */
  dropout: number;
  /** The same for the auxiliary model. */
  auxDropout: number;
  /** Added to the variance in every LayerNorm. */
  layerNormEps: number;
}

/** The same of T5's kind; it has neither auxiliary model nor RTD head. */
export interface T5Model extends MetroModel {
  /**
   * What sets T5 and its offspring (T0, Flan-T5, UMT5) apart from METRO's main model, besides what they all
   * have: pre-RMSNorm with one more after each stack, no biases, no absolute positions, no attention scale,
   * relative positions in the decoder too.
   */
  t5: {
    /** Fills rows up. */
    pad: number;
    /** Ends sources and targets. */
    eos: number;
    /** What decoding starts from. */
    start: number;
    /** Width of one attention head; heads · headWidth need not be dModel. */
    headWidth: number;
    /** Feed-forward layers: `relu` in version 1.0, `gated-gelu` in 1.1. */
    feedForward: "relu" | "gated-gelu";
    /** Whether the token table is also the output map (version 1.0), or there is another table for it (1.1). */
    tiedHead: boolean;
    /** Whether the decoder's output is scaled by dModel^-½ before the output map (version 1.0), or not (1.1). */
    scaleOutputs: boolean;
    /** Relative tables: one for all layers of a stack (T5), or one for each layer (UMT5). */
    relativeTables: "stack" | "layer";
  };
}

/** What {@link specialIds} returns. */
export type SpecialIds = ReturnType<typeof specialIds>;
/** One of {@link SHARE_MODES}. */
export type ShareMode = MetroModel["share"];
/** One of {@link RTD_HEADS}. */
export type RtdHead = MetroModel["rtdHead"];
/** One of {@link LM_HEADS}. */
export type LmHead = MetroModel["clmHead"];
/** What sets T5 apart. */
export type T5Config = T5Model["t5"];
/** One of {@link FEED_FORWARDS}. */
export type FeedForward = T5Config["feedForward"];

/** Sizes and parts of a model. */
export type ModelConfig = MetroModel | T5Model;

/**
 * Whether a model is of the T5 family.
 *
 * @example
 * ```ts
 * import { isT5, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.equal(isT5(preset("base").model), false);
 * ```
 */
export function isT5(config: ModelConfig): config is T5Model {
  return "t5" in config;
}

/** Which positions count in the losses: see {@link ObjectiveConfig.maskedPositionsOnly}. */
export const MASKED_POSITIONS_ONLY = ["lm", "none", "both"] as const;
/** How micro-batches are averaged in the RTD loss: see {@link ObjectiveConfig.rtdAverage}. */
export const RTD_AVERAGES = ["microBatch", "tokens"] as const;

/** What the RTD head reads: see {@link ObjectiveConfig.rtdLocation}. */
export const RTD_LOCATIONS = ["encoder", "decoder"] as const;

/** What the decoder writes: see {@link ObjectiveConfig.decoderTarget}. */
export const DECODER_TARGETS = ["allTokens", "maskedTokens"] as const;

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
  maskedPositionsOnly: "lm" | "none" | "both";
  /**
   * `allTokens`: the decoder writes the whole sequence (METRO); `maskedTokens`: the selected tokens in order
   * and nothing else, the first row of the paper's Table 1, which its appendix A.9 shows to be ambiguous.
   */
  decoderTarget: "allTokens" | "maskedTokens";
  /** Weighs each position of the CLM loss by σ(RTD logit), without gradient to the RTD head. */
  weightedLmLoss: boolean;
  /** Divides those weights by their mean over the micro-batch. */
  divideByMeanWeight: boolean;
  /** Whether the RTD head reads the encoder's output (METRO), or the decoder's (an ablation). */
  rtdLocation: "encoder" | "decoder";
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
  rtdAverage: "microBatch" | "tokens";
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
 * import { maskId } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.equal(maskId({ vocabSize: 33_280, sentinels: 512 }), 32_768);
 * ```
 */
export function maskId(config: Pick<ModelConfig, "vocabSize" | "sentinels">): number {
  return config.vocabSize - config.sentinels;
}

/**
 * The special ids of a model, on which its inputs depend.
 *
 * @returns `pad` fills rows up, is never attended to by others and never counted; `eos` ends sources and
 * targets; decoding starts from `start` when a model is prompted
 *
 * @example
 * ```ts
 * import { preset, specialIds } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(specialIds(preset("base").model), { pad: 1, eos: 2, start: 2 });
 * ```
 */
export function specialIds(config: ModelConfig): { pad: number; eos: number; start: number } {
  const { pad, eos, start } = isT5(config) ? config.t5 : { ...SPECIAL, start: SPECIAL.eos };
  return { pad, eos, start };
}

/**
 * Width of all attention heads together.
 *
 * @example
 * ```ts
 * import { attentionWidth } from "./config.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(attentionWidth(preset("base").model), 768);
 * ```
 */
export function attentionWidth(config: ModelConfig): number {
  return isT5(config) ? config.heads * config.t5.headWidth : config.dModel;
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
  const sizes = ["vocabSize", "dModel", "heads", "dFf", "encoderLayers", "decoderLayers"] as const;
  for (const field of sizes) {
    expect(isCount(config[field], 1), field, "a positive integer", config[field]);
  }
  const { dModel } = config;
  expect(dModel % 4 === 0, "dModel", "a multiple of 4, which kernels read at a time", dModel);
  const least = isT5(config) ? 0 : 1;
  expect(
    isCount(config.sentinels, least),
    "sentinels",
    `an integer of at least ${least}`,
    config.sentinels,
  );
  expect(isCount(config.auxLayers, 0), "auxLayers", "an integer of at least 0", config.auxLayers);
  expect(
    config.sentinels <= config.vocabSize - FIRST_ORDINARY,
    "sentinels",
    `at most vocabSize - ${FIRST_ORDINARY} = ${config.vocabSize - FIRST_ORDINARY}`,
    config.sentinels,
  );
  const { relativeBuckets: bins } = config;
  expect(isCount(bins, 4) && bins % 4 === 0, "relativeBuckets", "a multiple of 4", bins);
  if (isT5(config)) checkT5(config);
  else checkMetro(config);
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
  for (const [field, most] of Object.entries(MOST) as [keyof typeof MOST, number][]) {
    expect(config[field] <= most, field, `at most ${most}`, config[field]);
  }
  const { layerNormEps: eps } = config;
  expect(Number.isFinite(eps) && eps > 0, "layerNormEps", "a positive number", eps);
}

function checkMetro({ dModel, heads, relativeBuckets, relativeMaxDistance }: MetroModel): void {
  expect(dModel % heads === 0, "heads", `a divisor of ${dModel}`, heads);
  expect(
    dModel / heads <= WIDEST_HEAD,
    "heads",
    `at least ${Math.ceil(dModel / WIDEST_HEAD)}, so that none is wider than ${WIDEST_HEAD}`,
    heads,
  );
  expect(
    isCount(relativeMaxDistance, relativeBuckets / 4 + 2),
    "relativeMaxDistance",
    `an integer above ${relativeBuckets / 4 + 1}, a quarter of the buckets and one`,
    relativeMaxDistance,
  );
}

function checkT5({ t5, ...config }: T5Model): void {
  expect(isRecord(t5), "t5", "an object", t5);
  const { vocabSize, relativeBuckets, relativeMaxDistance, auxLayers, rtdHead, clmHead } = config;
  const { headWidth } = t5;
  expect(
    isCount(headWidth, 1) && headWidth <= WIDEST_HEAD,
    "headWidth",
    `a positive integer of at most ${WIDEST_HEAD}`,
    headWidth,
  );
  expect(
    isCount(relativeMaxDistance, relativeBuckets / 2 + 1),
    "relativeMaxDistance",
    `an integer above ${relativeBuckets / 2}, half of the buckets`,
    relativeMaxDistance,
  );
  expectOneOf(FEED_FORWARDS, "feedForward", t5.feedForward);
  for (const field of ["tiedHead", "scaleOutputs"] as const) {
    expect(typeof t5[field] === "boolean", field, "true or false", t5[field]);
  }
  expectOneOf(RELATIVE_TABLES, "relativeTables", t5.relativeTables);
  for (const field of ["pad", "eos", "start"] as const) {
    const ok = isCount(t5[field], 0) && t5[field] < vocabSize;
    expect(ok, field, `an id below ${vocabSize}`, t5[field]);
  }
  expect(auxLayers === 0, "auxLayers", "0 in a T5", auxLayers);
  expect(rtdHead === "none", "rtdHead", "none in a T5", rtdHead);
  expect(clmHead === "linear", "clmHead", "linear in a T5", clmHead);
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
  expectOneOf(DECODER_TARGETS, "decoderTarget", objective.decoderTarget);
  const { decoderTarget, maskedPositionsOnly, rtdLocation } = objective;
  expect(
    decoderTarget === "allTokens" || maskedPositionsOnly !== "none",
    "maskedPositionsOnly",
    "lm or both where decoderTarget is maskedTokens, since the decoder writes no others",
    maskedPositionsOnly,
  );
  expect(
    decoderTarget === "allTokens" || rtdLocation === "encoder" || model.rtdHead === "none",
    "rtdLocation",
    "encoder where decoderTarget is maskedTokens, since the decoder does not see the other tokens",
    rtdLocation,
  );
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
  return typeof x === "number" && x >= 0 && x <= 1;
}

function expect(ok: boolean, field: string, expected: string, got: unknown): void {
  if (ok) return;
  const value = typeof got === "number" ? got : shown(got);
  throw new UserError(`${field}: expected ${expected}, got ${value}`);
}

function expectOneOf(choices: readonly string[], field: string, got: string): void {
  expect(choices.includes(got), field, `one of ${choices.join(", ")}`, `'${shown(got)}'`);
}
