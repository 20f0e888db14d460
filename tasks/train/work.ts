/**
 * Who computes what in an update, in numbers: micro-batches, their slices, tokens per device.
 *
 * @module
 */

import { type ModelConfig } from "../../models/mod.ts";
import { t5Lengths } from "../../models/t5.ts";
import { rowsOf } from "../text/batches.ts";
import { pairFlops, trainingFlopsPerToken } from "./flops.ts";
import { type BatchShape, metroObjective, type Objective, t5Objective } from "./objective.ts";
import { partsOf, rowsOfSlice } from "../parallel/share.ts";
import { modelConfig, objectiveConfig, type PretrainConfig } from "../config/pretrain.ts";
import { batchShapes, microBatches } from "./static_shapes.ts";

/** The share of one device in an update. */
export interface Work {
  /** Micro-batches of the update. */
  micros: number;
  /** Rows and length of the longest ones. */
  micro: BatchShape;
  /** Slices of micro-batches that each device computes. */
  slices: number;
  /** Rows and length of such a slice, at every static length. */
  shapes: BatchShape[];
  /** Rows and length of the micro-batches of an evaluation, which are not cut. */
  heldout: BatchShape[];
  /** Tokens that each device computes, padding included. */
  tokens: number;
  /** The same over an equal share of the update: more than 1 if rows do not divide. */
  surplus: number;
}

/** Model and objective of a run whose text is not there yet. */
export function subjectOf(config: PretrainConfig): { model: ModelConfig; objective: Objective } {
  const { vocabSize, sequenceLength, seed, labelSmoothing } = config;
  const model = modelConfig(config, vocabSize + sequenceLength, sequenceLength);
  const objective = config.objective === "metro"
    ? metroObjective(model, objectiveConfig(config), seed)
    : t5Objective(model, seed, labelSmoothing);
  return { model, objective };
}

/**
 * Deals an update out.
 *
 * @param devices that share it
 *
 * @example
 * ```ts
 * import { workOf } from "./work.ts";
 * import { resolvePretrain } from "../config/pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * const { micros, slices, tokens } = workOf(resolvePretrain({ preset: "base" }, []), 64);
 * assert.deepEqual([micros, slices, tokens], [128, 2, 2 * 8192]);
 * ```
 */
export function workOf(config: PretrainConfig, devices: number): Work {
  const micros = microBatches(config);
  const parts = partsOf(micros, devices);
  const all = batchShapes(config, { maxLength: config.sequenceLength });
  const heldout = all.lengths.map((length) => ({ rows: rowsOf(all, length), length }));
  const shapes = heldout.map(({ rows, length }) => {
    return { rows: rowsOfSlice(rows, { part: 0, parts }).count, length };
  });
  const micro = heldout.at(-1)!, longest = shapes.at(-1)!;
  const slices = micros * parts / devices;
  const tokens = slices * longest.rows * longest.length;
  const surplus = tokens * devices / (micros * micro.rows * micro.length);
  return { micros, micro, slices, shapes, heldout, tokens, surplus };
}

/** Floating-point operations per token of the text, forward and backward, by the model's formula. */
export function flopsPerToken(config: PretrainConfig): number {
  const { model } = subjectOf(config);
  const { sequenceLength } = config;
  if (config.objective === "metro") {
    return trainingFlopsPerToken(model, objectiveConfig(config), sequenceLength);
  }
  const { source, target } = t5Lengths(sequenceLength);
  return 3 * pairFlops(model, { rows: 1, length: source, target }) / sequenceLength;
}
