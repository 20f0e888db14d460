/**
 * The two pretraining objectives behind one face, as the trainer sees them: a graph to build for a batch
 * shape, inputs and scalars to compute on the host, and figures to make of the sums.
 *
 * @module
 */

import {
  lossScalars,
  metro,
  metroInputs,
  type ModelConfig,
  type ObjectiveConfig,
  type Parameters,
  type Part,
  prepareMetroBatch,
  prepareT5Batch,
  seq2seq,
  seq2seqInputs,
} from "../../models/mod.ts";
import { areaUnderRoc } from "../../models/roc.ts";
import { METRO_SUMS } from "../../models/metro.ts";
import { PARTS } from "../../models/parameters.ts";
import { t5Lengths } from "../../models/t5.ts";
import { type Tensor } from "../../ops/mod.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import type { Share } from "../parallel/share.ts";
import type { MicroBatch } from "../text/batches.ts";

/** What a training graph yields for one micro-batch. */
export interface TrainingGraph {
  /** Shape []: this micro-batch's part of the update's loss. */
  loss: Tensor;
  /** Sums for the metrics, by name. */
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

/** An endless sequence of updates' micro-batches, with a position that can be saved. */
export interface BatchSource {
  /** Epoch of the next batch, from 0. */
  readonly epoch: number;
  /** This rank's share of the micro-batches of the next update. */
  next(): Share<PreparedBatch> | Promise<Share<PreparedBatch>>;
  /** The position of the next update; plain data for JSON. */
  state(): unknown;
  /** Continues from a position that {@link BatchSource.state} gave. */
  restore(state: unknown): void | Promise<void>;
}

/** Metric sums as the host reads them, by name: one value, or those of a vector. */
export type Sums = Record<string, number[]>;

/** What a {@link Trainer} trains for. */
export interface Objective {
  /** Parts of the model that it trains. */
  parts: readonly Part[];
  /** Names and shapes of {@link TrainingGraph.sums}; [] for one number. */
  sums: Readonly<Record<string, readonly number[]>>;
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
  figures(sums: Sums, counts: Record<string, number>): Record<string, number>;
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
    figures(sums, counts) {
      const s = scalarsOf(sums);
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
          rtdAuc: areaUnderRoc(sums.rtdAbove, sums.rtdReplacedAbove),
        }),
        clmAccuracyReplaced: s.clmReplacedCorrect / s.clmReplaced,
        clmAccuracyOther: s.clmOtherCorrect / s.clmOther,
        // A lucky guess of the auxiliary model looks like what was never hidden: whether the decoder has to
        // write it, the source does not tell (paper, A.9).
        ...(config.decoderTarget === "maskedTokens" && {
          targetAmbiguity: s.clmOther / (s.clmReplaced + s.clmOther),
        }),
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
    sums: { clmNll: [], clmLoss: [], clmCorrect: [], clmTokens: [] },
    counts: ["targets", "examples"],
    build: (parameters, { rows, length, target = length }, train) =>
      seq2seq(parameters, model, seq2seqInputs(rows, { source: length, target }), {
        train,
        labelSmoothing: train ? labelSmoothing : 0,
      }),
    scalars: (_micro, update) => ({ clmScale: 1 / Math.max(update.targets, 1) }),
    figures(sums, { targets }) {
      const { clmLoss, clmCorrect } = scalarsOf(sums);
      return { loss: clmLoss / targets, accuracy: clmCorrect / targets };
    },
  };
}

function shapeOf({ length, rows, realTokens }: MicroBatch) {
  return { length, rows, tokens: realTokens };
}

function lossCounts({ selected, tokens }: Record<string, number>) {
  return { selected, tokens };
}

/**
 * Sums of one number each as numbers; of a vector, its first.
 *
 * @example
 * ```ts
 * import { scalarsOf } from "./objective.ts";
 * import assert from "node:assert/strict";
 *
 * const { clmLoss, clmTokens } = scalarsOf({ clmLoss: [9], clmTokens: [3] });
 * assert.equal(clmLoss / clmTokens, 3);
 * ```
 */
export function scalarsOf(sums: Sums): Record<string, number> {
  return Object.fromEntries(Object.entries(sums).map(([name, [first]]) => [name, first]));
}

/**
 * Cuts a list of numbers into the sums that it holds one after the other.
 *
 * @param tensors names and shapes, in the order of the list
 *
 * @example
 * ```ts
 * import { namedSums } from "./objective.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(namedSums([["a", []], ["b", [2]]], [1, 2, 3]), { a: [1], b: [2, 3] });
 * ```
 */
export function namedSums(
  tensors: readonly (readonly [string, readonly number[]])[],
  values: ArrayLike<number>,
): Sums {
  let at = 0;
  return Object.fromEntries(
    tensors.map(([name, shape]) => [
      name,
      Array.from({ length: sizeOf(shape) }, () => values[at++]),
    ]),
  );
}

/** Adds counts up. */
export function addCounts(all: readonly Record<string, number>[]): Record<string, number> {
  const total: Record<string, number> = {};
  for (const counts of all) {
    for (const name in counts) total[name] = (total[name] ?? 0) + counts[name];
  }
  return total;
}
