/**
 * The T5 baseline: the same main model, pretrained by span corruption (paper, equation 1). Its objective is
 * also that of finetuning, of any model.
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import { key, Random } from "../ops/graph/random.ts";
import { equal, input, mul, notEqual, runScalar, scalar, sum, type Tensor } from "../ops/mod.ts";
import { maskId, type ModelConfig, SPECIAL, specialIds } from "./config.ts";
import { languageModel } from "./heads.ts";
import { sequenceAt, type TokenBatch } from "./metro_batch.ts";
import type { Parameters } from "./parameters.ts";
import { corruptSpans, longestTarget, sentinelsNeeded } from "./spans.ts";
import { decode, encode } from "./transformer.ts";

/** Keeps the spans' randomness apart from other uses of the same seed. */
const SPANS = 0x7370616e;

/** The program's inputs, all u32. */
export interface Seq2SeqInputs {
  /** What the encoder reads, [batch, source length]. */
  source: Tensor;
  /** What the decoder reads, [batch, target length]: the start symbol, then the target but its end. */
  decoderTokens: Tensor;
  /** What the decoder must write, [batch, target length]; pads do not count. */
  targets: Tensor;
}

/** Static lengths of a batch. */
export interface Seq2SeqLengths {
  /** Columns of the encoder's input. */
  source: number;
  /** Columns of the decoder's input and of the targets. */
  target: number;
}

/** What {@link seq2seq} returns, each []. */
export interface Seq2SeqOutputs {
  /** This batch's part of the update's mean cross entropy; needs the run's scalar `clmScale`. */
  loss: Tensor;
  /** Sums over target tokens, for metrics: `clmNll` plain, `clmLoss` smoothed. */
  sums: Record<"clmNll" | "clmLoss" | "clmCorrect" | "clmTokens", Tensor>;
}

/**
 * Declares the inputs of {@link seq2seq}.
 *
 * @param batch pairs
 * @param lengths columns of the encoder's input; columns of the decoder's input and of the targets
 *
 * @example
 * ```ts
 * import { seq2seqInputs } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(seq2seqInputs(2, { source: 496, target: 112 }).source.shape, [2, 496]);
 * ```
 */
export function seq2seqInputs(
  batch: number,
  lengths: { source: number; target: number },
): Seq2SeqInputs {
  return {
    source: input("source", [batch, lengths.source], "u32"),
    decoderTokens: input("decoderTokens", [batch, lengths.target], "u32"),
    targets: input("targets", [batch, lengths.target], "u32"),
  };
}

/**
 * Mean cross entropy of targets given sources: the objective of the baseline, and of finetuning.
 * The run's scalar `clmScale` is 1 / (target tokens of the whole update).
 *
 * @param options `train: false` switches dropout off; `labelSmoothing` is 0 by default
 *
 * @example
 * ```ts
 * import { declareParameters, preset, seq2seq, seq2seqInputs } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny");
 * const inputs = seq2seqInputs(2, { source: 16, target: 8 });
 * const { loss } = seq2seq(declareParameters(model, ["main"]), model, inputs);
 * assert.deepEqual(loss.shape, []);
 * ```
 */
export function seq2seq(
  parameters: Parameters,
  config: ModelConfig,
  { source, decoderTokens, targets }: Seq2SeqInputs,
  { train = true, labelSmoothing = 0 }: { train?: boolean; labelSmoothing?: number } = {},
): Seq2SeqOutputs {
  const dropout = train ? config.dropout : 0;
  const memory = encode(parameters, config, source, { dropout });
  const h = decode(parameters, config, decoderTokens, { memory, memoryTokens: source, dropout });
  const clm = languageModel(parameters, config, "clm", h, targets, { labelSmoothing });
  const counted = notEqual(targets, scalar(specialIds(config).pad, "u32"));
  const clmLoss = sum(mul(clm.loss, counted));
  return {
    loss: mul(clmLoss, runScalar("clmScale")),
    sums: {
      clmNll: sum(mul(clm.nll, counted)),
      clmLoss,
      clmCorrect: sum(mul(equal(clm.best, targets), counted)),
      clmTokens: sum(counted),
    },
  };
}

/**
 * Static lengths for corrupted sequences of up to `length` tokens. No target is ever longer. Sources
 * have .926·length tokens with a small spread: fewer than one in a hundred thousand is longer.
 *
 * @example
 * ```ts
 * import { t5Lengths } from "./t5.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(t5Lengths(512), { source: 496, target: 112 });
 * ```
 */
export function t5Lengths(length: number): Seq2SeqLengths {
  const multipleOf8 = (x: number) => Math.ceil(x / 8) * 8;
  return { source: multipleOf8(0.945 * length + 6), target: multipleOf8(longestTarget(length)) };
}

/** A batch of the baseline, ready to run. */
export interface T5Batch {
  /** Values of the program's inputs. */
  inputs: Record<"source" | "decoderTokens" | "targets", Uint32Array>;
  /** `targets`: tokens that count in the loss; `truncated`: sources that lost their end. */
  counts: { targets: number; truncated: number };
}

/**
 * Corrupts a batch and lays it out for {@link seq2seq} at {@link t5Lengths}. A sequence's spans depend
 * on the seed, its epoch and its index alone.
 *
 * @throws {UserError} sequences longer than the model's positions, or too few sentinels for them
 *
 * @example
 * ```ts
 * import { prepareT5Batch, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const batch = { tokens: new Uint32Array(64).fill(9), length: 64, sequences: [[0, 0] as const] };
 * const { inputs, counts } = prepareT5Batch(preset("tiny").model, batch, 1);
 * assert.equal(inputs.source.length, 72);
 * assert.ok(counts.targets > 5);
 * ```
 */
export function prepareT5Batch(model: ModelConfig, batch: TokenBatch, seed: number): T5Batch {
  const { tokens, length, sequences } = batch;
  if (length > model.maxPositions) {
    throw new UserError(`length: expected at most ${model.maxPositions} positions, got ${length}`);
  }
  if (sentinelsNeeded(length) > model.sentinels) {
    throw new UserError(
      `sentinels: expected at least ${sentinelsNeeded(length)} for sequences of ${length}, ` +
        `got ${model.sentinels}`,
    );
  }
  const rows = tokens.length / length, lengths = t5Lengths(length);
  const padded = (columns: number) => new Uint32Array(rows * columns).fill(SPECIAL.pad);
  const source = padded(lengths.source), targets = padded(lengths.target);
  const decoderTokens = padded(lengths.target);
  const counts = { targets: 0, truncated: 0 };
  for (const [row, [epoch, index]] of sequences.entries()) {
    const random = new Random(key(SPANS, seed, epoch, index));
    const corrupted = corruptSpans(random, sequenceAt(tokens, row, length), model);
    source.set(corrupted.source.subarray(0, lengths.source), row * lengths.source);
    targets.set(corrupted.target, row * lengths.target);
    decoderTokens[row * lengths.target] = maskId(model);
    decoderTokens.set(corrupted.target.subarray(0, -1), row * lengths.target + 1);
    counts.targets += corrupted.target.length;
    counts.truncated += corrupted.source.length > lengths.source ? 1 : 0;
  }
  return { inputs: { source, decoderTokens, targets }, counts };
}
