/**
 * How much arithmetic a model is, by its formula: what a benchmark divides by time, whatever the kernels
 * really compute.
 *
 * @module
 */

import type { ModelConfig, ObjectiveConfig } from "../../models/mod.ts";

/**
 * Floating-point operations per token of METRO's forward pass: 2 per multiplication and addition of the
 * matrix products, attention over full squares, language modeling heads on the positions they read.
 *
 * @param length tokens per sequence
 *
 * @example
 * ```ts
 * import { forwardFlopsPerToken } from "./flops.ts";
 * import { preset } from "../../models/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("base");
 * assert.equal(Math.round(forwardFlopsPerToken(model, objective, 512) / 1e6), 533);
 * ```
 */
export function forwardFlopsPerToken(
  model: ModelConfig,
  objective: ObjectiveConfig,
  length: number,
): number {
  const { dModel: d, dFf, vocabSize, encoderLayers, decoderLayers, auxLayers } = model;
  const { maskProbability, maskedPositionsOnly, decoderTarget } = objective;
  const attention = 8 * d * d + 4 * length * d, feedForward = 4 * d * dFf;
  // The decoder's share of the sequence; it reads all of the encoder's output in any case.
  const written = decoderTarget === "allTokens" ? 1 : maskProbability;
  const own = written * (8 * d * d + 4 * written * length * d);
  const cross = 4 * d * d + written * (4 * d * d + 4 * length * d);
  const dense = 2 * d * d, logits = 2 * d * vocabSize;
  const head = (kind: ModelConfig["clmHead"]) => logits + (kind === "roberta" ? dense : 0);
  const clmShare = maskedPositionsOnly === "none" ? 1 : maskProbability;
  return (encoderLayers + auxLayers) * (attention + feedForward) +
    decoderLayers * (own + cross + written * feedForward) +
    maskProbability * head(model.mlmHead) +
    clmShare * head(model.clmHead) +
    (model.rtdHead === "roberta" ? dense : 0);
}

/** The same for a training step: the backward pass is twice the forward pass. */
export function trainingFlopsPerToken(
  model: ModelConfig,
  objective: ObjectiveConfig,
  length: number,
): number {
  return 3 * forwardFlopsPerToken(model, objective, length);
}

/** Sequences that go through encoder and decoder, without padding. */
export interface PairShape {
  /** Pairs. */
  rows: number;
  /** Tokens of a source. */
  length: number;
  /** Tokens of a target, or of all choices. */
  target: number;
}

/**
 * Floating-point operations of the forward pass over pairs of sources and targets, counted as in
 * {@link forwardFlopsPerToken}: the decoder predicts every token of the target.
 *
 * @example
 * ```ts
 * import { pairFlops } from "./flops.ts";
 * import { preset } from "../../models/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("base");
 * assert.equal(Math.round(pairFlops(model, { rows: 1, length: 32, target: 20 }) / 1e7), 1140);
 * ```
 */
export function pairFlops(model: ModelConfig, { rows, length, target }: PairShape): number {
  const { dModel: d, dFf, vocabSize, encoderLayers, decoderLayers, clmHead } = model;
  const dense = 2 * d * d, feedForward = 4 * d * dFf;
  const encoder = length * (4 * dense + 4 * length * d + feedForward);
  const crossAttention = target * (2 * dense + 4 * length * d) + length * 2 * dense;
  const decoder = target * (4 * dense + 4 * target * d + feedForward) + crossAttention;
  const head = target * (2 * d * vocabSize + (clmHead === "roberta" ? dense : 0));
  return rows * (encoderLayers * encoder + decoderLayers * decoder + head);
}
