/**
 * The two pretraining objectives behind one face, as the trainer sees them: a graph to build for a batch
 * shape, inputs and scalars to compute on the host, and figures to make of the sums.
 *
 * @module
 */

import {
  lossScalars,
  metro,
  METRO_SUMS,
  metroInputs,
  type ModelConfig,
  type ObjectiveConfig,
  type Parameters,
  type Part,
  PARTS,
  prepareMetroBatch,
  prepareT5Batch,
  seq2seq,
  seq2seqInputs,
  t5Lengths,
} from "../models/mod.ts";
import type { Tensor } from "../ops/mod.ts";
import type { MicroBatch } from "./batches.ts";

/** What a training graph yields for one micro-batch. */
export interface TrainingGraph {
  /** Shape []: this micro-batch's part of the update's loss. */
  loss: Tensor;
  /** Sums for the metrics, each [], by name. */
  sums: Readonly<Record<string, Tensor>>;
}

/** What decides the program of a micro-batch. */
export interface BatchShape {
  /** Rows, used or not. */
  rows: number;
  /** Padded length of the sequences, or of the encoder's where there are pairs. */
  length: number;
  /** Padded length of the decoder's sequences, where there are pairs. */
  target?: number;
}

/** A micro-batch, ready for the device. */
export interface PreparedBatch extends BatchShape {
  /** Values of the program's inputs. */
  inputs: Record<string, Uint32Array>;
  /** What the losses are averaged over; summed over an update. */
  counts: Record<string, number>;
  /** Tokens that are not padding. */
  tokens: number;
}

/** What a {@link Trainer} trains for. */
export interface Objective {
  /** Parts of the model that it trains. */
  parts: readonly Part[];
  /** Names of the sums, in the order of {@link TrainingGraph.sums}. */
  sums: readonly string[];
  /** Names of the counts of a micro-batch. */
  counts: readonly string[];
  /** The graph for micro-batches of a shape; `train: false` switches dropout off. */
  build(parameters: Parameters, shape: BatchShape, train: boolean): TrainingGraph;
  /** Scalar inputs of a micro-batch, from its counts and those of the whole update. */
  scalars(
    micro: Record<string, number>,
    update: Record<string, number>,
  ): Record<string, number>;
  /** Figures for the metrics, from sums and counts. */
  figures(sums: Record<string, number>, counts: Record<string, number>): Record<string, number>;
}

/** A pretraining objective: it makes its own inputs out of plain text. */
export interface PretrainObjective extends Objective {
  /** Masks or corrupts a batch; a function of the seed and the sequences' own numbers. */
  prepare(batch: MicroBatch): PreparedBatch;
}

/**
 * METRO: an auxiliary model makes the noise, the main model detects and corrects it.
 *
 * @param options `givenNoise`: batches bring the noise as another input, `noise`; nothing is sampled
 */
export function metroObjective(
  model: ModelConfig,
  config: ObjectiveConfig,
  seed: number,
  options: { givenNoise?: boolean } = {},
): PretrainObjective {
  return {
    parts: PARTS,
    sums: METRO_SUMS,
    counts: ["selected", "tokens"],
    build: (parameters, { rows, length }, train) =>
      metro(parameters, model, config, metroInputs(config, rows, length, options), { train }),
    prepare(batch) {
      const { inputs, counts } = prepareMetroBatch(model, config, batch, seed);
      return { ...shapeOf(batch), inputs, counts: { ...counts } };
    },
    scalars: (micro, update) => lossScalars(config, lossCounts(micro), lossCounts(update)),
    figures(s, counts) {
      const { selected, tokens } = counts;
      const clmCount = config.maskedPositionsOnly === "none" ? tokens : selected;
      const rtdCount = config.maskedPositionsOnly === "both" ? selected : tokens;
      const hasRtd = model.rtdHead !== "none";
      const mlmLoss = s.mlmNll / selected, clmLoss = s.clmLoss / clmCount;
      const rtdLoss = hasRtd ? s.rtdLoss / rtdCount : 0;
      return {
        loss: config.mlmWeight * mlmLoss + config.rtdWeight * rtdLoss + config.clmWeight * clmLoss,
        mlmLoss,
        ...(hasRtd && { rtdLoss }),
        clmLoss,
        mlmAccuracy: s.mlmCorrect / selected,
        ...(hasRtd && {
          rtdRecall: s.rtdReplacedPredicted / s.rtdReplaced,
          rtdPrecision: s.rtdReplacedPredicted / s.rtdPredicted,
        }),
        clmAccuracyReplaced: s.clmReplacedCorrect / s.clmReplaced,
        clmAccuracyOther: s.clmOtherCorrect / s.clmOther,
      };
    },
  };
}

/** T5: the same main model learns to write spans that were cut out of its input. */
export function t5Objective(
  model: ModelConfig,
  seed: number,
  labelSmoothing: number,
): PretrainObjective {
  return {
    ...seq2seqObjective(model, labelSmoothing),
    counts: ["targets", "truncated"],
    build: (parameters, { rows, length }, train) =>
      seq2seq(parameters, model, seq2seqInputs(rows, t5Lengths(length)), {
        train,
        labelSmoothing: train ? labelSmoothing : 0,
      }),
    prepare(batch) {
      const { inputs, counts } = prepareT5Batch(model, batch, seed);
      return { ...shapeOf(batch), inputs, counts: { ...counts } };
    },
  };
}

/** Targets given sources, for finetuning; the count `targets` is the number of target tokens. */
export function seq2seqObjective(model: ModelConfig, labelSmoothing: number): Objective {
  return {
    parts: ["main"],
    sums: ["clmNll", "clmLoss", "clmCorrect", "clmTokens"],
    counts: ["targets", "examples"],
    build: (parameters, { rows, length, target = length }, train) =>
      seq2seq(parameters, model, seq2seqInputs(rows, { source: length, target }), {
        train,
        labelSmoothing: train ? labelSmoothing : 0,
      }),
    scalars: (_micro, update) => ({ clmScale: 1 / Math.max(update.targets, 1) }),
    figures: (s, { targets }) => ({ loss: s.clmLoss / targets, accuracy: s.clmCorrect / targets }),
  };
}

function shapeOf({ length, rows, realTokens }: MicroBatch) {
  return { length, rows, tokens: realTokens };
}

function lossCounts({ selected, tokens }: Record<string, number>) {
  return { selected, tokens };
}

/** Adds counts up. */
export function addCounts(all: readonly Record<string, number>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const counts of all) {
    for (const name in counts) total[name] = (total[name] ?? 0) + counts[name];
  }
  return total;
}
