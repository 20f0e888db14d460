/**
 * Batches for the METRO objective, made on the host: masks (paper, equation 6), selected positions,
 * decoder inputs, and the counts by which the losses are averaged.
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import { key, Random } from "../ops/graph/random.ts";
import { maskId, type ModelConfig, type ObjectiveConfig, SPECIAL } from "./config.ts";
import { maskTokens, selectPositions } from "./masking.ts";

/** Marks an empty slot of `positions`, and an unselected position of `inverse`. */
export const NONE = 0xffffffff;

/** Keeps the masks' randomness apart from other uses of the same seed. */
const MASKS = 0x6d61736b;

/** Padded sequences, as `tasks/` batches them. */
export interface TokenBatch {
  /** Ids `[rows, length]`, padded on the right; unused rows are all padding. */
  tokens: Uint32Array;
  /** Columns. */
  length: number;
  /** `[epoch, index]` of each used row, from the first row on: what its masks depend on. */
  sequences: readonly (readonly [epoch: number, index: number])[];
}

/** A batch, ready to run. */
export interface MetroBatch {
  /** Values of the program's inputs, by name: see `MetroInputs`. */
  inputs: Record<
    "tokens" | "auxTokens" | "decoderTokens" | "positions" | "inverse",
    Uint32Array
  >;
  /** What the losses of this batch are averaged over. */
  counts: {
    /** Selected positions, m. */
    selected: number;
    /** Tokens that are not padding, v. */
    tokens: number;
  };
}

/** How many of something the losses are averaged over. */
export type LossCounts = MetroBatch["counts"];

/** Values of the program's inputs, by name. */
export type MetroValues = MetroBatch["inputs"];

/**
 * How many selected positions a sequence has room for: a multiple of 4 that masking cannot exceed.
 *
 * @example
 * ```ts
 * import { slotsPerSequence } from "./metro_batch.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(slotsPerSequence(preset("base").objective, 512), 80);
 * ```
 */
export function slotsPerSequence(objective: ObjectiveConfig, length: number): number {
  const { maskProbability, spanLength, spanStdev } = objective;
  const starts = Math.floor(maskProbability * length / spanLength) + 1;
  const most = spanStdev === 0 ? Math.min(starts * spanLength, length) : length;
  return Math.ceil(most / 4) * 4;
}

/**
 * Masks a batch and lays it out for the program. A sequence's masks depend on the seed, its epoch and
 * its index alone.
 *
 * @throws {UserError} sequences longer than the model's positions
 *
 * @example
 * ```ts
 * import { prepareMetroBatch, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny");
 * const tokens = Uint32Array.of(0, 9, 8, 7, 6, 5, 2, 1); // One sequence of 7, padded to 8.
 * const batch = prepareMetroBatch(model, objective, { tokens, length: 8, sequences: [[0, 0]] }, 1);
 * assert.equal(batch.counts.tokens, 7);
 * assert.deepEqual(batch.inputs.decoderTokens, Uint32Array.of(512, 0, 9, 8, 7, 6, 5, 1));
 * ```
 */
export function prepareMetroBatch(
  model: ModelConfig,
  objective: ObjectiveConfig,
  batch: TokenBatch,
  seed: number,
): MetroBatch {
  const { length } = batch;
  const selected = new Array<Uint32Array>(batch.tokens.length / length).fill(new Uint32Array());
  const auxTokens = batch.tokens.slice();
  for (const [row, [epoch, index]] of batch.sequences.entries()) {
    const tokens = sequenceAt(auxTokens, row, length);
    const random = new Random(key(MASKS, seed, epoch, index));
    selected[row] = selectPositions(random, tokens, objective);
    maskTokens(random, tokens, selected[row], model, objective);
  }
  return layOutMetroBatch(model, objective, batch, auxTokens, selected);
}

/**
 * Lays out a batch whose masks are given: the second half of {@link prepareMetroBatch}, for masks
 * that come from elsewhere.
 *
 * @param auxTokens what the auxiliary model sees, [rows, length]
 * @param selected the selected positions of each row, rising
 * @throws {UserError} sequences longer than the model's positions
 * @throws {Error} more selected positions than there is room for
 *
 * @example
 * ```ts
 * import { layOutMetroBatch, NONE } from "./metro_batch.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny");
 * const tokens = Uint32Array.of(0, 9, 8, 2), auxTokens = Uint32Array.of(0, 512, 8, 2);
 * const batch = { tokens, length: 4, sequences: [] };
 * const { inputs } = layOutMetroBatch(model, objective, batch, auxTokens, [Uint32Array.of(1)]);
 * assert.deepEqual(inputs.positions, Uint32Array.of(1, NONE, NONE, NONE));
 * assert.deepEqual(inputs.inverse, Uint32Array.of(NONE, 0, NONE, NONE));
 * ```
 */
export function layOutMetroBatch(
  model: ModelConfig,
  objective: ObjectiveConfig,
  { tokens, length }: TokenBatch,
  auxTokens: Uint32Array,
  selected: readonly Uint32Array[],
): MetroBatch {
  if (length > model.maxPositions) {
    throw new UserError(`length: expected at most ${model.maxPositions} positions, got ${length}`);
  }
  const slots = slotsPerSequence(objective, length);
  const positions = new Uint32Array(selected.length * slots).fill(NONE);
  const inverse = new Uint32Array(tokens.length).fill(NONE);
  const onlyMasked = objective.decoderTarget === "maskedTokens";
  const width = onlyMasked ? slots : length;
  const decoderTokens = new Uint32Array(selected.length * width).fill(SPECIAL.pad);
  const counts = { selected: 0, tokens: 0 };
  for (const [row, chosen] of selected.entries()) {
    const sequence = sequenceAt(tokens, row, length);
    if (chosen.length > slots) {
      throw new Error(`selected: expected at most ${slots} positions, got ${chosen.length}`);
    }
    for (const [slot, position] of chosen.entries()) {
      positions[row * slots + slot] = row * length + position;
      inverse[row * length + position] = row * slots + slot;
    }
    const target = onlyMasked ? chosen.map((position) => sequence[position]) : sequence;
    if (target.length > 0) {
      decoderTokens[row * width] = maskId(model);
      decoderTokens.set(target.subarray(0, -1), row * width + 1);
    }
    counts.selected += chosen.length;
    counts.tokens += sequence.length;
  }
  return { inputs: { tokens, auxTokens, decoderTokens, positions, inverse }, counts };
}

/** A view of a row without its padding. */
export function sequenceAt(tokens: Uint32Array, row: number, length: number): Uint32Array {
  const padded = tokens.subarray(row * length, (row + 1) * length);
  const end = padded.indexOf(SPECIAL.pad);
  return end < 0 ? padded : padded.subarray(0, end);
}
