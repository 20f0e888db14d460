/**
 * The models of the paper and two small ones, as data: one set of shared settings per size, and one
 * table of everything on which paper, code and released checkpoints disagree.
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import type { ModelConfig, ObjectiveConfig } from "./config.ts";

/** Which of three sources to follow where they disagree. */
export const SOURCES = ["paper", "code", "release"] as const;
/** Which of three sources to follow where they disagree: the paper, its training code, the released models. */
export type Source = "paper" | "code" | "release";

/** Names of the presets. */
export const PRESETS = ["tiny", "small", "base", "base++", "large++"] as const;
/** One of {@link PRESETS}: two small models for trying out, and the paper's. */
export type PresetName = "tiny" | "small" | "base" | "base++" | "large++";

/** How a model is optimised. */
export interface OptimisationConfig {
  /** Highest learning rate, reached at the end of the warm-up. */
  peakLearningRate: number;
  /** Updates of linear warm-up from 0. */
  warmupUpdates: number;
  /** Update at which the linear decay reaches 0. */
  scheduleUpdates: number;
  /** Update at which training stops; less than scheduleUpdates cuts the schedule short. */
  updates: number;
  /** Nominal sequences per update. */
  batchSequences: number;
  /** Longest block of a batch. */
  sequenceLength: number;
  /** Adam's decay of the mean gradient. */
  beta1: number;
  /** Adam's decay of the mean square. */
  beta2: number;
  /** Added to the root of the mean square, before bias correction. */
  epsilon: number;
  /** Decoupled weight decay, on every parameter. */
  weightDecay: number;
  /** Largest global gradient norm; 0 switches clipping off. */
  clipNorm: number;
  /** Seed of everything random. */
  seed: number;
}

/** Everything a preset sets. */
export interface Preset {
  /** Sizes and parts. */
  model: ModelConfig;
  /** METRO objective. */
  objective: ObjectiveConfig;
  /** METRO pretraining. */
  optimisation: OptimisationConfig;
  /** Span corruption pretraining of the T5 baseline, where it differs. */
  t5Optimisation: OptimisationConfig;
  /** Prompt-finetuning (paper, Table 6). */
  finetuning: OptimisationConfig & {
    /** Longest target; longer ones are cut. */
    targetLength: number;
  };
  /** Vocabulary and casing. */
  tokenizer: {
    /** Ids without the sentinels. */
    vocabSize: number;
    /** Family of the subword model. */
    algorithm: "bpe" | "unigram";
    /** Whether text is lower-cased first. */
    lowercase: boolean;
  };
}

/** Some settings of some parts of a preset. */
export type Settings = { readonly [Part in keyof Preset]?: Readonly<Partial<Preset[Part]>> };

/** One item on which the sources disagree. */
export interface Dispute {
  /** What it is about. */
  item: string;
  /** The presets that it concerns; all if absent. */
  presets?: readonly PresetName[];
  /** What the paper says, in words. */
  says: Readonly<Record<Source, string>>;
  /** What follows for a preset; nothing where no setting depends on it. */
  settings: Readonly<Partial<Record<Source, Settings>>>;
}

const twice = (settings: Settings) => ({ code: settings, release: settings });

/** The sizes of the paper; the small ones follow base. */
const OF_THE_PAPER = ["base", "base++", "large++"] as const;

/**
 * Everything on which the paper, the training code and the released checkpoints disagree and that
 * bears on a model or its pretraining.
 */
export const DISPUTES: readonly Dispute[] = [
  {
    item: "noise at the selected positions",
    says: {
      paper: "[MASK] at each (A.2)",
      code: "80% mask, 10% kept, 10% random",
      release: "as the code",
    },
    settings: {
      paper: { objective: { keepShare: 0, randomShare: 0 } },
      ...twice({ objective: { keepShare: 0.1, randomShare: 0.1 } }),
    },
  },
  {
    item: "special tokens can be selected",
    says: { paper: "not said", code: "<s> and </s> can", release: "as the code" },
    settings: {},
  },
  {
    item: "MLM head",
    says: {
      paper: "a single linear transformation (A.2)",
      code: "dense + ReLU + LayerNorm, tied table with bias",
      release: "as the code (not released)",
    },
    settings: {
      paper: { model: { mlmHead: "linear" } },
      ...twice({ model: { mlmHead: "roberta" } }),
    },
  },
  {
    item: "relative positions",
    says: {
      paper: "in addition to absolute ones (4.2)",
      code: "encoders only, one table per layer",
      release: "encoder only, one table per layer",
    },
    settings: {},
  },
  {
    item: "relative buckets and distance of large++",
    presets: ["large++"],
    says: { paper: "64 / 128 (Table 5)", code: "128 / 256", release: "128 / 128" },
    settings: {
      paper: { model: { relativeBuckets: 64, relativeMaxDistance: 128 } },
      code: { model: { relativeBuckets: 128, relativeMaxDistance: 256 } },
      release: { model: { relativeBuckets: 128, relativeMaxDistance: 128 } },
    },
  },
  {
    item: "peak learning rate of large++",
    presets: ["large++"],
    says: { paper: "2e-4 (Table 5)", code: "1e-4", release: "as the code" },
    settings: {
      paper: {
        optimisation: { peakLearningRate: 2e-4 },
        t5Optimisation: { peakLearningRate: 2e-4 },
      },
      ...twice({
        optimisation: { peakLearningRate: 1e-4 },
        t5Optimisation: { peakLearningRate: 1e-4 },
      }),
    },
  },
  {
    item: "clipping of the T5 baseline",
    presets: ["base++", "large++"],
    says: { paper: "2.0 (Table 5)", code: "off", release: "not released" },
    settings: {
      paper: { t5Optimisation: { clipNorm: 2 } },
      ...twice({ t5Optimisation: { clipNorm: 0 } }),
    },
  },
  {
    item: "dropout of the auxiliary model",
    presets: ["small", ...OF_THE_PAPER],
    says: { paper: "0.1 (Table 5 has one row)", code: "0", release: "not released" },
    settings: {
      paper: { model: { auxDropout: 0.1 } },
      ...twice({ model: { auxDropout: 0 } }),
    },
  },
  {
    item: "sharing with the auxiliary model in base++",
    presets: ["base++"],
    says: {
      paper: "token embeddings (5)",
      code: "tokens, encoder positions and their LayerNorm",
      release: "not released",
    },
    settings: {
      paper: { model: { share: "token" } },
      ...twice({ model: { share: "token_pos_norm" } }),
    },
  },
  {
    item: "CLM weights of base",
    presets: ["base"],
    says: { paper: "uniform (equation 12)", code: "σ(RTD logit)", release: "not known" },
    settings: {
      paper: { objective: { weightedLmLoss: false } },
      ...twice({ objective: { weightedLmLoss: true } }),
    },
  },
  {
    item: "average of the RTD loss",
    says: {
      paper: "over all tokens (equation 11)",
      code: "micro-batch means, weighted by selected positions",
      release: "as the code",
    },
    settings: {
      paper: { objective: { rtdAverage: "tokens" } },
      ...twice({ objective: { rtdAverage: "microBatch" } }),
    },
  },
  {
    item: "subword algorithm",
    presets: OF_THE_PAPER,
    says: { paper: "BPE (A.1)", code: "unigram", release: "unigram" },
    settings: {
      paper: { tokenizer: { algorithm: "bpe" } },
      ...twice({ tokenizer: { algorithm: "unigram" } }),
    },
  },
  {
    item: "casing of base++ and large++",
    presets: ["base++", "large++"],
    says: { paper: "cased (A.1)", code: "lower-cased", release: "lower-cased" },
    settings: {
      paper: { tokenizer: { lowercase: false } },
      ...twice({ tokenizer: { lowercase: true } }),
    },
  },
  {
    item: "parameters of base++",
    presets: ["base++"],
    says: { paper: "256M (Table 2)", code: "249.6M", release: "249.6M" },
    settings: {},
  },
];

const MODEL: ModelConfig = {
  vocabSize: 33_280,
  sentinels: 512,
  dModel: 768,
  heads: 12,
  dFf: 3072,
  encoderLayers: 12,
  decoderLayers: 12,
  auxLayers: 4,
  relativeBuckets: 32,
  relativeMaxDistance: 128,
  maxPositions: 1024,
  positionRows: 1026,
  share: "token",
  rtdHead: "roberta",
  mlmHead: "roberta",
  clmHead: "linear",
  dropout: 0.1,
  auxDropout: 0,
  layerNormEps: 1e-5,
};

const OBJECTIVE: ObjectiveConfig = {
  maskProbability: 0.15,
  keepShare: 0.1,
  randomShare: 0.1,
  maskSpecials: true,
  spanLength: 1,
  spanStdev: 0,
  maskedPositionsOnly: "lm",
  decoderTarget: "allTokens",
  weightedLmLoss: false,
  divideByMeanWeight: false,
  rtdLocation: "encoder",
  copyMechanism: false,
  labelSmoothing: 0,
  rtdAverage: "microBatch",
  mlmWeight: 1,
  rtdWeight: 50,
  clmWeight: 1,
};

const OPTIMISATION: OptimisationConfig = {
  peakLearningRate: 4e-4,
  warmupUpdates: 10_000,
  scheduleUpdates: 125_000,
  updates: 125_000,
  batchSequences: 2048,
  sequenceLength: 512,
  beta1: 0.9,
  beta2: 0.98,
  epsilon: 1e-6,
  weightDecay: 0.01,
  clipNorm: 0,
  seed: 1,
};

/** Table 6: as pretraining, at a tenth of the learning rate, never clipped. */
const FINETUNING: Preset["finetuning"] = {
  ...OPTIMISATION,
  peakLearningRate: 4e-5,
  targetLength: 256,
};

const BASE: Preset = {
  model: MODEL,
  objective: OBJECTIVE,
  optimisation: OPTIMISATION,
  t5Optimisation: OPTIMISATION,
  finetuning: FINETUNING,
  tokenizer: { vocabSize: 32_768, algorithm: "unigram", lowercase: true },
};

const TINY_OPTIMISATION = {
  peakLearningRate: 2.5e-3,
  warmupUpdates: 40,
  scheduleUpdates: 450,
  updates: 450,
  batchSequences: 32,
  sequenceLength: 64,
  beta2: 0.95,
  clipNorm: 2,
};
const SMALL_OPTIMISATION = {
  peakLearningRate: 5e-4,
  warmupUpdates: 1000,
  scheduleUpdates: 20_000,
  updates: 20_000,
  batchSequences: 256,
  clipNorm: 2,
};
const PLUS = {
  peakLearningRate: 2e-4,
  scheduleUpdates: 2_000_000,
  updates: 2_000_000,
  clipNorm: 2,
};
const LARGE = { ...PLUS, peakLearningRate: 1e-4, updates: 1_335_000 };

/** What each preset changes in base. */
const CHANGES: Readonly<Record<PresetName, Settings>> = {
  "tiny": {
    // A run of minutes sees every text a few times at most: there is nothing for dropout to prevent.
    model: {
      vocabSize: 512 + 64,
      sentinels: 64,
      dModel: 128,
      heads: 4,
      dFf: 512,
      encoderLayers: 2,
      decoderLayers: 1,
      auxLayers: 1,
      rtdHead: "simple",
      clmHead: "roberta",
      dropout: 0,
      auxDropout: 0,
    },
    optimisation: TINY_OPTIMISATION,
    t5Optimisation: TINY_OPTIMISATION,
    finetuning: {
      ...TINY_OPTIMISATION,
      peakLearningRate: 1.5e-3,
      warmupUpdates: 15,
      batchSequences: 64,
      scheduleUpdates: 700,
      updates: 700,
      sequenceLength: 128,
      targetLength: 64,
      clipNorm: 0,
    },
    tokenizer: { vocabSize: 512, algorithm: "bpe" },
  },
  "small": {
    model: { dModel: 512, heads: 8, dFf: 2048, encoderLayers: 6, decoderLayers: 6, auxLayers: 2 },
    optimisation: SMALL_OPTIMISATION,
    t5Optimisation: SMALL_OPTIMISATION,
    finetuning: { ...SMALL_OPTIMISATION, peakLearningRate: 1e-4, clipNorm: 0 },
    tokenizer: { algorithm: "bpe" },
  },
  "base": {},
  "base++": {
    model: { vocabSize: 64_512 },
    optimisation: PLUS,
    t5Optimisation: PLUS,
    finetuning: { peakLearningRate: 2e-5 },
    tokenizer: { vocabSize: 64_000 },
  },
  "large++": {
    model: {
      vocabSize: 64_512,
      dModel: 1024,
      heads: 16,
      dFf: 4096,
      encoderLayers: 24,
      decoderLayers: 24,
      auxLayers: 6,
    },
    optimisation: LARGE,
    t5Optimisation: LARGE,
    finetuning: { peakLearningRate: 2e-5 },
    tokenizer: { vocabSize: 64_000 },
  },
};

/**
 * The settings of a preset.
 *
 * @param name one of {@link PRESETS}
 * @param source whom to follow where they disagree ({@link DISPUTES})
 * @throws {UserError} an unknown name or source
 *
 * @example
 * ```ts
 * import { preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.equal(preset("large++", "paper").model.relativeBuckets, 64);
 * assert.equal(preset("large++", "release").model.relativeBuckets, 128);
 * ```
 */
export function preset(name: PresetName, source: "paper" | "code" | "release" = "code"): Preset {
  expectOneOf(PRESETS, "preset", name);
  expectOneOf(SOURCES, "source", source);
  const disputes = DISPUTES.filter(({ presets }) => !presets || presets.includes(name));
  return [CHANGES[name], ...disputes.map(({ settings }) => settings[source] ?? {})]
    .reduce(merge, BASE);
}

function merge(base: Preset, { model, objective, ...rest }: Settings): Preset {
  return {
    model: { ...base.model, ...model },
    objective: { ...base.objective, ...objective },
    optimisation: { ...base.optimisation, ...rest.optimisation },
    t5Optimisation: { ...base.t5Optimisation, ...rest.t5Optimisation },
    finetuning: { ...base.finetuning, ...rest.finetuning },
    tokenizer: { ...base.tokenizer, ...rest.tokenizer },
  };
}

function expectOneOf(choices: readonly string[], what: string, got: string): void {
  if (!choices.includes(got)) {
    throw new UserError(`${what}: expected one of ${choices.join(", ")}, got '${got}'`);
  }
}
