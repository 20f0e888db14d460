/**
 * Everything that can be set about a pretraining run: one description, from which flags, `--help`,
 * `config.json` and their checks follow. Presets give the values that nobody sets.
 *
 * @module
 */

import {
  type ModelConfig,
  type ObjectiveConfig,
  type OptimisationConfig,
  preset,
  type PresetName,
  PRESETS,
} from "../../models/mod.ts";
import {
  checkModelConfig,
  checkObjectiveConfig,
  DECODER_TARGETS,
  LM_HEADS,
  MASKED_POSITIONS_ONLY,
  RTD_AVERAGES,
  RTD_HEADS,
  RTD_LOCATIONS,
  SHARE_MODES,
} from "../../models/config.ts";
import { SOURCES } from "../../models/presets.ts";
import { STARTS } from "../../models/initialize.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { defaults, describe, flagName, type Option } from "../command/options.ts";
import { TRAIN_DEVICE_OPTIONS } from "./device_flags.ts";
import { counted } from "../command/number_text.ts";

/** Every setting of a run. */
export interface PretrainConfig
  extends
    Omit<ModelConfig, "vocabSize" | "sentinels" | "maxPositions" | "positionRows">,
    ObjectiveConfig,
    Omit<OptimisationConfig, "batchSequences"> {
  /** Sizes and training recipe. */
  preset: PresetName;
  /** Whom to follow where paper, code and released checkpoints disagree. */
  source: "paper" | "code" | "release";
  /** What to learn: METRO, or the baseline. */
  objective: "metro" | "t5";
  /** Files, folders and globs of the corpus. */
  text: readonly string[];
  /** How much of each of `text` an epoch has, in tokens; all of everything if absent. */
  textWeights?: readonly number[];
  /** What to train a tokenizer with, "bpe" or "unigram", or a tokenizer.json to use instead. */
  tokenizer: string;
  /** Pieces and special tokens of the tokenizer to train. */
  vocabSize: number;
  /** Lower-case the text. */
  lowercase: boolean;
  /** Blocks of whole lines of one document, or one stream cut into equal pieces. */
  packing: "complete_doc" | "concat";
  /** What happens to lines longer than a block. */
  longLines: "split" | "crop";
  /** Where weights and biases start. */
  start: "reference" | "short";
  /** Number of padded lengths for which programs are compiled. */
  staticLengths: number;
  /** Share of the documents that is kept for evaluation. */
  heldOut: number;
  /** Padded tokens of one update. */
  batchTokens: number;
  /** Padded tokens on the device at a time. */
  microBatch: number;
  /** Updates between lines of metrics. */
  logEvery: number;
  /** Updates between evaluations; 0 for the end only. */
  evaluateEvery: number;
  /** Held-out tokens of an evaluation at most. */
  evaluateTokens: number;
  /** Updates between checkpoints; 0 for the end only. */
  saveEvery: number;
}

/** Some settings, as flags or a config file give them. */
export type GivenPretrain = Partial<PretrainConfig>;

const count = (help: string, group: string, min = 1) =>
  ({ type: "integer", min, help, group }) as const;
const share = (help: string, group: string) =>
  ({ type: "number", min: 0, max: 1, help, group }) as const;
const amount = (help: string, group: string) => ({ type: "number", min: 0, help, group }) as const;
const MODEL = "Model", OBJECTIVE = "Objective", DATA = "Data", TRAINING = "Optimisation";

/** Flags and checks of {@link PretrainConfig}: what a run folder remembers in `config.json`. */
export const PRETRAIN_CONFIG = describe(
  {
    preset: {
      type: "choice",
      choices: PRESETS,
      default: "tiny",
      help:
        "Sizes and training recipe. `tiny` is for trying out; `base`, `base++` and `large++` are the paper's.",
    },
    source: {
      type: "choice",
      choices: SOURCES,
      default: "code",
      help:
        "Whom to follow where the paper, its training code and the released checkpoints disagree.",
    },
    objective: {
      type: "choice",
      choices: ["metro", "t5"] as const,
      default: "metro",
      help:
        "What to learn: METRO's model-generated corrections, or T5's span corruption (the baseline).",
    },
    seed: { type: "integer", min: 0, default: 1, help: "Seed of everything random." },

    text: {
      type: "paths",
      help:
        "Files, folders or globs: .txt (a blank line ends a document), .jsonl and .jsonl.gz with a " +
        "`text` field, .parquet with a `text` column. The sample corpus if not given.",
      group: DATA,
    },
    textWeights: {
      type: "numbers",
      above: 0,
      help:
        "One number for each --text: each is a corpus of its own, and training draws tokens from them " +
        "in these proportions. Without it, all text is one corpus.",
      group: DATA,
    },
    tokenizer: {
      type: "path",
      help: "How to train a tokenizer on the text, `bpe` (byte-level) or `unigram` (as " +
        "SentencePiece does), or a tokenizer.json to use instead.",
      unit: "name or path",
      group: DATA,
    },
    vocabSize: {
      type: "integer",
      min: 260,
      max: 1_000_000,
      help:
        "Subword pieces and special tokens of the tokenizer to train; the sentinels come on top.",
      group: DATA,
    },
    lowercase: { type: "boolean", help: "Lower-case the text.", group: DATA },
    sequenceLength: {
      type: "integer",
      min: 8,
      max: 1024,
      help: "Longest block of text, in tokens; also the number of sentinels.",
      group: DATA,
    },
    packing: {
      type: "choice",
      choices: ["complete_doc", "concat"] as const,
      help:
        "Blocks of whole lines of one document, as in the paper, or one stream cut into equal pieces.",
      group: DATA,
    },
    longLines: {
      type: "choice",
      choices: ["split", "crop"] as const,
      default: "split",
      help:
        "Lines longer than a block: cut into pieces, or, as the paper's code does, keep a random window.",
      group: DATA,
    },
    staticLengths: {
      type: "integer",
      min: 1,
      max: 16,
      help: "Number of padded lengths for which programs are compiled.",
      group: DATA,
    },
    heldOut: {
      type: "number",
      min: 0,
      max: 0.5,
      help: "Share of the documents that is kept for evaluation.",
      group: DATA,
    },

    updates: count("Updates to make.", TRAINING),
    batchTokens: { ...count("Padded tokens of one update.", TRAINING), unit: "tokens" },
    microBatch: {
      ...count("Padded tokens on the device at a time; gradients of several are summed.", TRAINING),
      unit: "tokens",
    },
    peakLearningRate: { type: "number", above: 0, help: "Highest learning rate.", group: TRAINING },
    warmupUpdates: count(
      "Updates of linear warm-up from 0; at most a tenth of --updates where only that is given.",
      TRAINING,
      0,
    ),
    scheduleUpdates: count(
      "Update at which the linear decay reaches 0; the last one where only --updates is given.",
      TRAINING,
    ),
    beta1: {
      type: "number",
      min: 0,
      below: 1,
      help: "Adam's decay of the mean gradient.",
      group: TRAINING,
    },
    beta2: {
      type: "number",
      min: 0,
      below: 1,
      help: "Adam's decay of the mean square.",
      group: TRAINING,
    },
    epsilon: { type: "number", above: 0, help: "Adam's epsilon.", group: TRAINING },
    weightDecay: amount("Decoupled weight decay, on every parameter.", TRAINING),
    clipNorm: amount("Largest global gradient norm; 0 switches clipping off.", TRAINING),
    logEvery: count("Updates between lines of metrics.", TRAINING),
    evaluateEvery: count(
      "Updates between evaluations on the held-out part; 0 for the end only.",
      TRAINING,
      0,
    ),
    evaluateTokens: {
      ...count("Held-out tokens of an evaluation at most.", TRAINING),
      default: 1_000_000,
      unit: "tokens",
    },
    saveEvery: count("Updates between checkpoints; 0 for the end only.", TRAINING, 0),

    dModel: count("Hidden size.", MODEL),
    heads: count("Attention heads.", MODEL),
    dFf: count("Width of the feed-forward layers.", MODEL),
    encoderLayers: count("Layers of the encoder.", MODEL),
    decoderLayers: count("Layers of the decoder.", MODEL),
    auxLayers: count("Layers of the auxiliary model.", MODEL),
    relativeBuckets: count("Rows of each relative position table.", MODEL, 4),
    relativeMaxDistance: count(
      "Distance from which all relative positions share a bucket.",
      MODEL,
      4,
    ),
    share: {
      type: "choice",
      choices: SHARE_MODES,
      help: "Embeddings that the auxiliary model shares with the main model.",
      group: MODEL,
    },
    rtdHead: {
      type: "choice",
      choices: RTD_HEADS,
      help: "Replaced token detection head.",
      group: MODEL,
    },
    mlmHead: {
      type: "choice",
      choices: LM_HEADS,
      help: "Head of the auxiliary model.",
      group: MODEL,
    },
    clmHead: { type: "choice", choices: LM_HEADS, help: "Head of the decoder.", group: MODEL },
    dropout: { type: "number", min: 0, below: 1, help: "Dropout of the main model.", group: MODEL },
    auxDropout: {
      type: "number",
      min: 0,
      below: 1,
      help: "Dropout of the auxiliary model.",
      group: MODEL,
    },
    layerNormEps: { type: "number", above: 0, help: "Epsilon of the layer norms.", group: MODEL },

    start: {
      type: "choice",
      choices: STARTS,
      help:
        "Initial values: the reference code's, or larger ones for short runs, with the heads' biases at " +
        "how often each token, and a replacement, is to be expected.",
      group: TRAINING,
    },
    maskProbability: share("Share of the positions that are selected.", OBJECTIVE),
    keepShare: share("Share of the selected that the auxiliary model sees unchanged.", OBJECTIVE),
    randomShare: share("Share of the selected that it sees as a random token.", OBJECTIVE),
    maskSpecials: { type: "boolean", help: "Special tokens can be selected.", group: OBJECTIVE },
    spanLength: count("Consecutive positions per selection; 1 selects them one by one.", OBJECTIVE),
    spanStdev: amount("Standard deviation of the span length.", OBJECTIVE),
    maskedPositionsOnly: {
      type: "choice",
      choices: MASKED_POSITIONS_ONLY,
      help: "Losses that count selected positions only: CLM (`lm`), none, or CLM and RTD (`both`).",
      group: OBJECTIVE,
    },
    decoderTarget: {
      type: "choice",
      choices: DECODER_TARGETS,
      help:
        "What the decoder writes: the whole sequence, or, as an ablation, the selected tokens alone.",
      group: OBJECTIVE,
    },
    weightedLmLoss: {
      type: "boolean",
      help: "Weigh the CLM loss of a position by the detected probability of a replacement.",
      group: OBJECTIVE,
    },
    divideByMeanWeight: {
      type: "boolean",
      help: "Divide those weights by their mean.",
      group: OBJECTIVE,
    },
    labelSmoothing: {
      type: "number",
      min: 0,
      below: 1,
      help: "Of the decoder's loss.",
      group: OBJECTIVE,
    },
    rtdAverage: {
      type: "choice",
      choices: RTD_AVERAGES,
      help:
        "Mean of the RTD loss: per micro-batch, as the code does, or over all tokens of the update.",
      group: OBJECTIVE,
    },
    rtdLocation: {
      type: "choice",
      choices: RTD_LOCATIONS,
      help: "Stack whose output the RTD head reads; `decoder` is an ablation of the paper.",
      group: OBJECTIVE,
    },
    copyMechanism: {
      type: "boolean",
      help:
        "Let the decoder copy a token with the probability that it was not replaced (an ablation).",
      group: OBJECTIVE,
    },
    mlmWeight: amount("Weight of the MLM loss.", OBJECTIVE),
    rtdWeight: amount("Weight of the RTD loss.", OBJECTIVE),
    clmWeight: amount("Weight of the CLM loss.", OBJECTIVE),
  } satisfies Record<keyof PretrainConfig, Option>,
);

/** Flags of the command that are not part of a run's config. */
export const PRETRAIN_COMMAND = describe({
  run: {
    type: "path",
    help: "Folder of the run; a new one under runs/ if not given.",
    unit: "folder",
  },
  resume: { type: "boolean", default: false, help: "Go on from the run's last checkpoint." },
  packed: {
    type: "path",
    help:
      "Folder for the packed corpus, reused if it is up to date; inside the run folder if not given.",
    unit: "folder",
    group: DATA,
  },
  workers: {
    type: "integer",
    min: 1,
    max: 64,
    default: 1,
    help: "Threads that encode the text.",
    group: DATA,
  },
  ...TRAIN_DEVICE_OPTIONS,
});

/** What the presets say about data and rhythm. */
const RECIPES = {
  // Blocks of equal length waste nothing on padding; the larger presets follow the paper.
  "tiny": {
    packing: "concat",
    start: "short",
    staticLengths: 1,
    heldOut: 0.05,
    microBatch: 2048,
    logEvery: 10,
    evaluateEvery: 50,
    saveEvery: 100,
  },
  "small": { ...ofThePaper(8192), logEvery: 20, evaluateEvery: 500, saveEvery: 500 },
  "base": { ...ofThePaper(8192), logEvery: 50, evaluateEvery: 5000, saveEvery: 5000 },
  "base++": { ...ofThePaper(8192), logEvery: 50, evaluateEvery: 25_000, saveEvery: 5000 },
  "large++": { ...ofThePaper(2048), logEvery: 50, evaluateEvery: 25_000, saveEvery: 5000 },
} as const;

function ofThePaper(microBatch: number) {
  return { packing: "complete_doc", staticLengths: 4, heldOut: 0.02, microBatch } as const;
}

/**
 * Completes what was given with the preset's values.
 *
 * @param given flags over config file
 * @param text the corpus to read when none is given
 * @throws {UserError} if the settings contradict each other
 *
 * @example
 * ```ts
 * import { resolvePretrain } from "./pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * const config = resolvePretrain({ preset: "base", updates: 10 }, ["data"]);
 * assert.equal(config.batchTokens, 2048 * 512);
 * assert.equal(config.updates, 10);
 * ```
 */
export function resolvePretrain(given: GivenPretrain, text: readonly string[]): PretrainConfig {
  const { preset: name = "tiny", source = "code", objective = "metro" } = given;
  const p = preset(name, source);
  const { batchSequences, ...optimisation } = objective === "t5"
    ? p.t5Optimisation
    : p.optimisation;
  const { vocabSize: _rows, sentinels: _s, maxPositions: _m, positionRows: _p, ...model } = p.model;
  const config = {
    ...defaults(PRETRAIN_CONFIG),
    source,
    objective,
    start: "reference",
    text,
    tokenizer: p.tokenizer.algorithm,
    vocabSize: p.tokenizer.vocabSize,
    lowercase: p.tokenizer.lowercase,
    ...optimisation,
    ...model,
    ...p.objective,
    ...RECIPES[name],
    batchTokens: batchSequences * optimisation.sequenceLength,
    // A schedule that nobody set ends with the training.
    ...(given.updates !== undefined && { scheduleUpdates: given.updates }),
    ...given,
    preset: name,
  } as PretrainConfig;
  if (given.batchTokens !== undefined && given.microBatch === undefined) {
    config.microBatch = Math.min(config.microBatch, config.batchTokens);
  }
  if (given.updates !== undefined && given.warmupUpdates === undefined) {
    config.warmupUpdates = Math.min(config.warmupUpdates, Math.floor(given.updates / 10));
  }
  check(config);
  return config;
}

function check(config: PretrainConfig): void {
  const { batchTokens, microBatch, sequenceLength, updates, scheduleUpdates } = config;
  if (config.textWeights) checkTextWeights(config.textWeights, config.text.length);
  const fail = (key: string, expected: string, got: unknown): never => {
    throw new UserError(`--${flagName(key)}: expected ${expected}, got ${got}`);
  };
  if (microBatch < sequenceLength) {
    fail("microBatch", `at least one block of ${sequenceLength} tokens`, microBatch);
  }
  if (batchTokens < microBatch) {
    fail("batchTokens", `at least --micro-batch ${microBatch}`, batchTokens);
  }
  if (scheduleUpdates < updates) {
    fail("scheduleUpdates", `at least --updates ${updates}`, scheduleUpdates);
  }
  if (config.warmupUpdates >= scheduleUpdates) {
    fail("warmupUpdates", `less than --schedule-updates ${scheduleUpdates}`, config.warmupUpdates);
  }
  const model = modelConfig(
    config,
    config.vocabSize + config.sequenceLength,
    config.sequenceLength,
  );
  inFlags(() => {
    checkModelConfig(model);
    if (config.objective === "metro") checkObjectiveConfig(objectiveConfig(config), model);
  });
  if (config.objective === "metro") checkSomethingToLearn(config);
}

/** The model's fields are the user's flags. */
function inFlags(check: () => void): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(
      error.message.replace(
        /^(\w+)(?=: )/,
        (field) => field in PRETRAIN_CONFIG ? `--${flagName(field)}` : field,
      ),
    );
  }
}

/** Without a selected position there is no noise, and without a weight no loss. */
function checkSomethingToLearn(config: PretrainConfig): void {
  const { maskProbability, spanLength, sequenceLength, mlmWeight, clmWeight, rtdWeight } = config;
  if (maskProbability === 0) {
    throw new UserError(
      "--mask-probability: expected a share above 0, or nothing is selected; got 0",
    );
  }
  if (spanLength > sequenceLength) {
    throw new UserError(
      `--span-length: expected at most --sequence-length ${sequenceLength}, got ${spanLength}`,
    );
  }
  if (mlmWeight + clmWeight + (config.rtdHead === "none" ? 0 : rtdWeight) === 0) {
    throw new UserError(
      "--mlm-weight, --rtd-weight, --clm-weight: expected a loss with a weight above 0, got none",
    );
  }
}

/** The model part of a config, for a tokenizer with so many rows and sentinels. */
export function modelConfig(config: PretrainConfig, rows: number, sentinels: number): ModelConfig {
  const { maxPositions, positionRows } = preset(config.preset, config.source).model;
  const { dModel, heads, dFf, encoderLayers, decoderLayers, auxLayers } = config;
  const { relativeBuckets, relativeMaxDistance, share, rtdHead, mlmHead, clmHead } = config;
  const { dropout, auxDropout, layerNormEps } = config;
  return {
    vocabSize: rows,
    sentinels,
    dModel,
    heads,
    dFf,
    encoderLayers,
    decoderLayers,
    auxLayers,
    relativeBuckets,
    relativeMaxDistance,
    maxPositions,
    positionRows,
    share,
    rtdHead,
    mlmHead,
    clmHead,
    dropout,
    auxDropout,
    layerNormEps,
  };
}

/** The objective part of a config. */
export function objectiveConfig(config: PretrainConfig): ObjectiveConfig {
  const { maskProbability, keepShare, randomShare, maskSpecials, spanLength, spanStdev } = config;
  const { maskedPositionsOnly, weightedLmLoss, divideByMeanWeight, labelSmoothing } = config;
  const { decoderTarget } = config;
  const { rtdAverage, rtdLocation, copyMechanism, mlmWeight, rtdWeight, clmWeight } = config;
  return {
    maskProbability,
    keepShare,
    randomShare,
    maskSpecials,
    spanLength,
    spanStdev,
    maskedPositionsOnly,
    decoderTarget,
    weightedLmLoss,
    divideByMeanWeight,
    labelSmoothing,
    rtdAverage,
    rtdLocation,
    copyMechanism,
    mlmWeight,
    rtdWeight,
    clmWeight,
  };
}

/**
 * Checks `--text-weights` against `--text`.
 *
 * @param texts how many corpora there are
 * @throws {UserError} too few or too many weights, or one that is not above 0
 *
 * @example
 * ```ts
 * import { checkTextWeights } from "./pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * checkTextWeights([3, 1], 2);
 * assert.throws(() => checkTextWeights([3, 1], 3), /--text-weights: expected 3 numbers/);
 * ```
 */
export function checkTextWeights(weights: readonly number[], texts: number): void {
  if (weights.length !== texts) {
    const expected = `expected ${counted(texts, "number")}, one for each --text`;
    throw new UserError(`--text-weights: ${expected}, got ${weights.length}: ${weights.join(" ")}`);
  }
  const wrong = weights.find((weight) => !(weight > 0 && Number.isFinite(weight)));
  if (wrong === undefined) return;
  throw new UserError(
    `--text-weights: expected numbers above 0, got ${wrong}; leave a --text out that is not to be used`,
  );
}
