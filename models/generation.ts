/**
 * Generation, one position at a time: the decoder with keys and values kept from position to position,
 * as pure functions. Who calls them holds the caches as state and updates them with what they return.
 *
 * @module
 */

import {
  add,
  constant,
  crossEntropy,
  equal,
  gatherRows,
  greater,
  mul,
  reshape,
  scalar,
  sigmoidCrossEntropy,
  sub,
  sumColumns,
  type Tensor,
  toFloat,
  where,
} from "../ops/mod.ts";
import { isT5, type ModelConfig, SPECIAL, specialIds, type T5Model } from "./config.ts";
import { headProjection } from "./heads.ts";
import {
  attend,
  embed,
  feedForward,
  finishStack,
  type KeysAndValues,
  keysAndValues,
  type LayerContext,
} from "./layers.ts";
import { embeddingNames, type Parameters } from "./parameters.ts";
import { t5Bucket } from "./relative.ts";

/** Row of the position table that belongs to the first token of a sequence. T5 counts from here, too. */
export const FIRST_POSITION: number = SPECIAL.pad + 1;

/**
 * What every decoder layer's cross-attention makes of the encoder's output, once per prompt.
 *
 * @param memory the encoder's output, [prompts, source, hidden]
 * @returns one per layer, each [prompts, source, heads · width]
 *
 * @example
 * ```ts
 * import { crossCache } from "./generation.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny");
 * const cross = crossCache(declareParameters(model), model, state("memory", [2, 8, 128]));
 * assert.deepEqual(cross.map(({ keys }) => keys.shape), [[2, 8, 128]]);
 * ```
 */
export function crossCache(
  parameters: Parameters,
  config: ModelConfig,
  memory: Tensor,
): KeysAndValues[] {
  return Array.from(
    { length: config.decoderLayers },
    (_, i) => keysAndValues(parameters, `decoder.${i}.cross`, memory),
  );
}

/** What {@link decodeStep} reads. */
export interface DecodeStepInputs {
  /** The token that each row has come to, u32 [rows]. */
  tokens: Tensor;
  /** Its row of the position table, u32 [rows]: {@link FIRST_POSITION} for the start symbol. */
  positions: Tensor;
  /** What the self-attentions have kept, one per layer, each [rows, slots, heads · width]. */
  self: readonly KeysAndValues[];
  /** What {@link crossCache} made, one per layer, each [prompts, source, heads · width]. */
  cross: readonly KeysAndValues[];
  /** u32 [prompts, source], nonzero at the tokens of the prompts. */
  memoryMask: Tensor;
  /**
   * Where each slot's contents come from, u32 [rows, slots]: row · slots + slot. Beam search passes it,
   * because a row may go on from what another row was; without it every row goes on from itself.
   */
  origins?: Tensor;
}

/** What {@link decodeStep} returns. */
export interface DecodeStepOutputs {
  /** The decoder's output at this position, [rows, 1, hidden]. */
  hidden: Tensor;
  /** What `self` must be at the next position. */
  self: KeysAndValues[];
}

/**
 * One position of the decoder. It equals the row of `decode` at that position if the tokens before went
 * through here one by one; what the caches hold beyond does not matter.
 *
 * There may be several rows per prompt, those of one prompt in a row. To the cross-attention they are so
 * many queries, so the prompt's keys and values are there once.
 *
 * @example
 * ```ts
 * import { crossCache, decodeStep } from "./generation.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), parameters = declareParameters(model);
 * const { hidden, self } = decodeStep(parameters, model, {
 *   tokens: input("tokens", [6], "u32"), // three rows for each of two prompts
 *   positions: input("positions", [6], "u32"),
 *   self: [{ keys: state("keys", [6, 32, 128]), values: state("values", [6, 32, 128]) }],
 *   cross: crossCache(parameters, model, state("memory", [2, 8, 128])),
 *   memoryMask: input("memoryMask", [2, 8], "u32"),
 * });
 * assert.deepEqual(hidden.shape, [6, 1, 128]);
 * assert.deepEqual(self[0].keys.shape, [6, 32, 128]);
 * ```
 */
export function decodeStep(
  parameters: Parameters,
  config: ModelConfig,
  { tokens, positions, self, cross, memoryMask, origins }: DecodeStepInputs,
): DecodeStepOutputs {
  const [rows, slots, width] = self[0].keys.shape, [prompts] = memoryMask.shape;
  const context: LayerContext = { parameters, config, dropout: 0, stream: 0 };
  const column = (x: Tensor) => reshape(x, [rows, 1]);
  const { here, seen: mask } = slotMasks(rows, slots, column(positions));
  const isHere = reshape(here, [rows, slots, 1]);
  const ownRow = perSlot(rows, slots, (row) => row);
  // Look-ups by row of a [rows · slots, width] matrix, where broadcasting [rows, 1, width] would cost
  // integer divisions for every element.
  const store = (cache: Tensor, added: Tensor) => {
    const kept = origins ? gatherRows(reshape(cache, [rows * slots, width]), origins) : cache;
    return where(isHere, gatherRows(reshape(added, [rows, width]), ownRow), kept);
  };

  const bias = isT5(config) ? slotBias(parameters, config, slots, positions) : () => undefined;
  const names = embeddingNames(config, "decoder");
  let x = embed(context, names, column(tokens), column(positions));
  const next: KeysAndValues[] = [];
  for (let i = 0; i < config.decoderLayers; i++) {
    const path = `decoder.${i}`;
    const kept = (own: Tensor) => {
      const { keys, values } = keysAndValues(parameters, `${path}.attention`, own);
      return next[i] = { keys: store(self[i].keys, keys), values: store(self[i].values, values) };
    };
    x = attend(context, `${path}.attention`, x, kept, { mask, bias: bias(i) });
    x = reshape(x, [prompts, rows / prompts, config.dModel]);
    x = attend(context, `${path}.cross`, x, cross[i], { mask: memoryMask });
    x = reshape(feedForward(context, `${path}.ffn`, x), [rows, 1, config.dModel]);
  }
  return { hidden: finishStack(context, "decoder", x), self: next };
}

/**
 * T5's relative bias of each slot, seen from each row's position, by layer: [rows, slots, heads].
 *
 * @param positions as in {@link DecodeStepInputs.positions}
 */
function slotBias(
  parameters: Parameters,
  config: T5Model,
  slots: number,
  positions: Tensor,
): (layer: number) => Tensor {
  const rows = FIRST_POSITION + slots;
  const buckets = perSlot(rows, slots, (position, slot) => {
    return t5Bucket(slot - (position - FIRST_POSITION), config, false);
  });
  const there = gatherRows(buckets, positions);
  const biasOf = (layer: number) =>
    gatherRows(parameters[`decoder.${layer}.attention.relative`], there);
  if (config.t5.relativeTables === "layer") return biasOf;
  const shared = biasOf(0);
  return () => shared;
}

/** What {@link greedyStep} reads. */
export interface GreedyStepInputs extends Omit<DecodeStepInputs, "origins"> {
  /** Tokens chosen so far, u32 [rows, slots]. */
  chosen: Tensor;
  /** Their log-probabilities, [rows, slots]. */
  logProbs: Tensor;
}

/** What {@link greedyStep} returns: what its inputs of these names must be at the next position. */
export interface GreedyStepOutputs {
  /** The token that was chosen, u32 [rows]. */
  tokens: Tensor;
  /** With that token in the slot of the position. */
  chosen: Tensor;
  /** With its log-probability there. */
  logProbs: Tensor;
  /** See {@link DecodeStepOutputs}. */
  self: KeysAndValues[];
}

/**
 * {@link decodeStep}, and the choice of the most probable token (see {@link neverWritten}): a device can go
 * on from position to position without asking the host.
 *
 * @throws {Error} if the decoder's head is more than the token table
 *
 * @example
 * ```ts
 * import { crossCache, greedyStep } from "./generation.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const model = { ...preset("tiny").model, clmHead: "linear" as const };
 * const parameters = declareParameters(model);
 * const { tokens, chosen } = greedyStep(parameters, model, {
 *   tokens: state("tokens", [2], "u32"),
 *   positions: input("positions", [2], "u32"),
 *   self: [{ keys: state("keys", [2, 32, 128]), values: state("values", [2, 32, 128]) }],
 *   cross: crossCache(parameters, model, state("memory", [2, 8, 128])),
 *   memoryMask: input("memoryMask", [2, 8], "u32"),
 *   chosen: state("chosen", [2, 32], "u32"),
 *   logProbs: state("logProbs", [2, 32]),
 * });
 * assert.deepEqual([tokens.shape, chosen.shape], [[2], [2, 32]]);
 * ```
 */
export function greedyStep(
  parameters: Parameters,
  config: ModelConfig,
  { chosen, logProbs, ...inputs }: GreedyStepInputs,
): GreedyStepOutputs {
  if (config.clmHead !== "linear") throw new Error(`greedyStep: the head is ${config.clmHead}`);
  const [rows, slots] = chosen.shape;
  const column = (x: Tensor) => reshape(x, [rows, 1]);
  const { hidden, self } = decodeStep(parameters, config, inputs);
  const { features, table } = headProjection(parameters, config, "clm", hidden);
  const h = reshape(features, [rows, config.dModel]);
  const { best, logProb } = mostProbable(h, table, neverWritten(config));
  const { here } = slotMasks(rows, slots, column(inputs.positions));
  return {
    tokens: best,
    chosen: where(here, column(best), chosen),
    logProbs: where(here, column(logProb), logProbs),
    self,
  };
}

/**
 * The token that generation never chooses: METRO never writes padding, as the toolkit that it was made with
 * does not. T5, as published, may.
 *
 * @example
 * ```ts
 * import { neverWritten } from "./generation.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(neverWritten(preset("base").model), 1);
 * ```
 */
export function neverWritten(config: ModelConfig): number | undefined {
  return isT5(config) ? undefined : specialIds(config).pad;
}

/** Small enough to make any logit hopeless, and no more than float32 can hold. */
const HOPELESS = -1e30;

/** The most probable token but one, of [rows, hidden], and its log-probability among all tokens. */
function mostProbable(
  h: Tensor,
  table: Tensor,
  never: number | undefined,
): { best: Tensor; logProb: Tensor } {
  const [rows] = h.shape, [vocab] = table.shape;
  const every = (id: number) => constant(new Uint32Array(rows).fill(id), [rows]);
  const logit = (ids: Tensor) => reshape(sumColumns(mul(h, gatherRows(table, ids))), [rows]);

  const some = every(SPECIAL.eos); // any token that may be chosen
  const bias = new Float32Array(vocab);
  if (never !== undefined) bias[never] = HOPELESS;
  const { nll, best } = crossEntropy(h, table, some, { bias: constant(bias, [vocab]) });
  const others = add(nll, logit(some));
  if (never === undefined) return { best, logProb: sub(logit(best), others) };
  // ln(e^others + e^pad) = others + ln(1 + e^(pad − others)), and the latter is a cross entropy.
  const all = add(others, sigmoidCrossEntropy(sub(logit(every(never)), others), scalar(0)));
  return { best, logProb: sub(logit(best), all) };
}

/** For each slot of each row, a number that depends on row and slot. */
function perSlot(
  rows: number,
  slots: number,
  value: (row: number, slot: number) => number,
): Tensor {
  const values = Uint32Array.from(
    { length: rows * slots },
    (_, i) => value(Math.floor(i / slots), i % slots),
  );
  return constant(values, [rows, slots]);
}

/**
 * Which slots belong to which positions, as [rows, slots].
 *
 * @param positions rows of the position table, u32 [rows, 1]
 * @returns `here`: 1 at the position's own slot; `seen`: u32 1 up to it; else 0
 */
function slotMasks(rows: number, slots: number, positions: Tensor): { here: Tensor; seen: Tensor } {
  const slotPositions = perSlot(rows, slots, (_, slot) => FIRST_POSITION + slot);
  const later = greater(toFloat(slotPositions), toFloat(positions));
  return {
    here: equal(slotPositions, positions),
    seen: where(later, scalar(0, "u32"), scalar(1, "u32")),
  };
}
