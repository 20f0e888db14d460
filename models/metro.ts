/**
 * The METRO pretraining objective (paper, section 4.1): mask, sample, detect, correct.
 *
 * - **Mask** (6): some positions of each sequence are hidden from the auxiliary model; the host did
 *   that when it prepared the batch.
 * - **Sample** (7, 10): the auxiliary model predicts the tokens there, and one is drawn at each.
 * - **Detect** (8, 11): the main model's encoder reads the result, and tells at each position whether
 *   the token was replaced.
 * - **Correct** (9, 12): its decoder writes the original sequence; the loss counts the selected positions.
 *
 * @module
 */

import {
  add,
  div,
  equal,
  exp,
  gatherRows,
  greater,
  input,
  log,
  mul,
  neg,
  notEqual,
  reshape,
  runScalar,
  scalar,
  sigmoid,
  sigmoidCrossEntropy,
  stopGradient,
  sub,
  sum,
  type Tensor,
  where,
} from "../ops/mod.ts";
import { addAll, zeros } from "../ops/primitives/reduce.ts";
import { type ModelConfig, type ObjectiveConfig, SPECIAL } from "./config.ts";
import { languageModel, languageModelLogits, rtdLogits } from "./heads.ts";
import { type MetroBatch, NONE, slotsPerSequence } from "./metro_batch.ts";
import type { Parameters } from "./parameters.ts";
import { countAbove, ROC_THRESHOLDS } from "./roc.ts";
import { decode, encode } from "./transformer.ts";

/** Identifies the randomness of sampling; the streams of dropout are smaller. */
const SAMPLING = 0x73616d70;

/** The program's inputs, all u32. */
export interface MetroInputs {
  /** The original sequences, [batch, length]. */
  tokens: Tensor;
  /** What the auxiliary model sees, [batch, length]. */
  auxTokens: Tensor;
  /**
   * What the decoder sees, [batch, length], or [batch, slots] where it writes the selected tokens alone: the
   * start symbol, then all that it writes but the last token.
   */
  decoderTokens: Tensor;
  /** Selected positions as indices into batch × length, [batch, slots]; `NONE` in empty slots. */
  positions: Tensor;
  /** The slot of each position as an index into batch × slots, [batch, length]; else `NONE`. */
  inverse: Tensor;
  /** What the main model's encoder sees, [batch, length], where it is given instead of sampled. */
  noise?: Tensor;
}

/** Names of the sums of {@link MetroOutputs}, with their shapes. */
export const METRO_SUMS = {
  mlmNll: [],
  mlmCorrect: [],
  clmNll: [],
  clmLoss: [],
  clmReplaced: [],
  clmReplacedCorrect: [],
  clmOther: [],
  clmOtherCorrect: [],
  rtdLoss: [],
  rtdReplaced: [],
  rtdPredicted: [],
  rtdReplacedPredicted: [],
  rtdAbove: [ROC_THRESHOLDS.length],
  rtdReplacedAbove: [ROC_THRESHOLDS.length],
} as const satisfies Readonly<Record<string, readonly number[]>>;

/** What {@link metro} returns. */
export interface MetroOutputs {
  /** This batch's part of equation 13 for the whole update, []; needs the run's {@link lossScalars}. */
  loss: Tensor;
  /**
   * Sums over the batch, for metrics. `mlm*` are over the selected positions. `clm*` and `rtd*` are over
   * the positions that count in their losses: `clmNll` is plain, `clmLoss` as it is minimised; they
   * split into positions whose token was `Replaced` and `Other` ones. `rtdPredicted` counts positions
   * taken for replaced, `rtdReplacedPredicted` those where that is right. `rtd*Above` are the same two
   * counts at each of many thresholds, from which follows the area under the ROC curve.
   */
  sums: Record<
    | `mlm${"Nll" | "Correct"}`
    | `clm${"Nll" | "Loss" | "Replaced" | "ReplacedCorrect" | "Other" | "OtherCorrect"}`
    | `rtd${"Loss" | "Replaced" | "Predicted" | "ReplacedPredicted" | "Above" | "ReplacedAbove"}`,
    Tensor
  >;
  /** What the main model's encoder read, u32 [batch, length]. */
  noise: Tensor;
}

/** The sums of {@link MetroOutputs}. */
export type MetroSums = MetroOutputs["sums"];

/**
 * Declares the inputs of {@link metro}.
 *
 * @param batch sequences
 * @param length of each
 * @param options `givenNoise`: the noise is an input too, instead of being sampled
 *
 * @example
 * ```ts
 * import { metroInputs, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(metroInputs(preset("base").objective, 2, 512).positions.shape, [2, 80]);
 * ```
 */
export function metroInputs(
  objective: ObjectiveConfig,
  batch: number,
  length: number,
  { givenNoise = false }: { givenNoise?: boolean } = {},
): MetroInputs {
  const ids = (name: string, columns: number) => input(name, [batch, columns], "u32");
  const slots = slotsPerSequence(objective, length);
  return {
    tokens: ids("tokens", length),
    auxTokens: ids("auxTokens", length),
    decoderTokens: ids("decoderTokens", objective.decoderTarget === "allTokens" ? length : slots),
    positions: ids("positions", slots),
    inverse: ids("inverse", length),
    ...(givenNoise && { noise: ids("noise", length) }),
  };
}

/**
 * The scalars of a run: what each sum of losses is multiplied by, so that the losses and gradients of
 * an update's micro-batches, on whatever device, add up to equation 13.
 *
 * @param micro counts of the micro-batch
 * @param update counts of the whole update
 * @returns values for the program's `runScalar`s; 0 where there is nothing to average over
 *
 * @example
 * ```ts
 * import { lossScalars, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const counts = { selected: 10, tokens: 100 };
 * const scalars = lossScalars(preset("base").objective, counts, counts);
 * assert.deepEqual(scalars, { mlmScale: 1 / 10, clmScale: 1 / 10, rtdScale: 50 / 100 });
 * ```
 */
export function lossScalars(
  objective: ObjectiveConfig,
  micro: MetroBatch["counts"],
  update: MetroBatch["counts"],
): Record<"mlmScale" | "clmScale" | "rtdScale", number> {
  const { mlmWeight, clmWeight, rtdWeight, maskedPositionsOnly, rtdAverage } = objective;
  const share = (part: number, whole: number) => whole === 0 ? 0 : part / whole;
  if (maskedPositionsOnly === "none") {
    const microShare = share(micro.tokens, update.tokens);
    return {
      mlmScale: mlmWeight * share(microShare, micro.selected),
      clmScale: clmWeight * share(1, update.tokens),
      rtdScale: rtdWeight * share(1, update.tokens),
    };
  }
  const overTokens = rtdAverage === "tokens"
    ? share(1, update.tokens)
    : share(share(micro.selected, update.selected), micro.tokens);
  return {
    mlmScale: mlmWeight * share(1, update.selected),
    clmScale: clmWeight * share(1, update.selected),
    rtdScale: rtdWeight * (maskedPositionsOnly === "both" ? share(1, update.selected) : overTokens),
  };
}

/**
 * The objective as a pure function of parameters and a batch (equations 7 to 13).
 *
 * @param options `train: false` switches dropout off
 *
 * @example
 * ```ts
 * import { declareParameters, metro, metroInputs, preset } from "@metro/t0/models";
 * import { grad } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny"), p = declareParameters(model);
 * const { loss } = metro(p, model, objective, metroInputs(objective, 2, 16));
 * const [gradient] = grad(loss, [p["embed.tokens"]]);
 * assert.deepEqual(gradient.shape, [576, 128]);
 * ```
 */
export function metro(
  parameters: Parameters,
  config: ModelConfig,
  objective: ObjectiveConfig,
  inputs: MetroInputs,
  { train = true }: { train?: boolean } = {},
): MetroOutputs {
  const mlm = sample(parameters, config, inputs, train);
  const { noise } = mlm;
  const dropout = train ? config.dropout : 0;
  const encoded = encode(parameters, config, noise, { dropout });
  const memory = { memory: encoded, memoryTokens: noise, dropout };
  const decoded = decode(parameters, config, inputs.decoderTokens, memory);
  const read = objective.rtdLocation === "encoder" ? encoded : decoded;
  const rtd = config.rtdHead === "none"
    ? undefined
    : detect(parameters, config, objective, inputs, noise, read);
  const clm = correct(parameters, config, objective, inputs, noise, decoded, rtd?.logits);

  const weighted = [
    mul(mlm.sums.mlmNll, runScalar("mlmScale")),
    mul(clm.clmLoss, runScalar("clmScale")),
    ...(rtd ? [mul(rtd.sums.rtdLoss, runScalar("rtdScale"))] : []),
  ];
  const sums: MetroSums = { ...mlm.sums, ...clm, ...(rtd?.sums ?? noRtdSums()) };
  return { loss: addAll(weighted), sums, noise };
}

/** Runs the auxiliary model and draws the noise: equations 7 and 10. */
function sample(p: Parameters, config: ModelConfig, inputs: MetroInputs, train: boolean) {
  const { tokens, positions, inverse } = inputs;
  const dropout = train ? config.auxDropout : 0;
  const h = encode(p, config, inputs.auxTokens, { stack: "aux", dropout });
  const targets = valuesAt(tokens, positions);
  const sample = { stream: SAMPLING, rowsPerSequence: positions.shape[1] };
  const mlm = languageModel(
    p,
    config,
    "mlm",
    rowsAt(h, positions),
    targets,
    inputs.noise ? {} : { sample },
  );
  const valid = isSome(positions);
  return {
    // What is not selected stays as it was.
    noise: inputs.noise ?? where(isSome(inverse), valuesAt(mlm.sample!, inverse), tokens),
    sums: {
      mlmNll: sum(mul(mlm.nll, valid)),
      mlmCorrect: sum(mul(equal(mlm.best, targets), valid)),
    },
  };
}

/** Tells replaced tokens from original ones: equations 8 and 11. A lucky draw counts as original. */
function detect(
  p: Parameters,
  config: ModelConfig,
  objective: ObjectiveConfig,
  { tokens, positions }: MetroInputs,
  noise: Tensor,
  h: Tensor,
) {
  const selectedOnly = objective.maskedPositionsOnly === "both";
  const isReplaced = notEqual(noise, tokens);
  const logits = rtdLogits(p, config, selectedOnly ? rowsAt(h, positions) : h);
  const labels = selectedOnly ? valuesAt(isReplaced, positions) : isReplaced;
  const counted = selectedOnly ? isSome(positions) : isToken(tokens);
  const replaced = mul(labels, counted);
  const predicted = mul(counted, sub(scalar(1), greater(scalar(0), logits)));
  return {
    logits,
    sums: {
      rtdLoss: sum(mul(sigmoidCrossEntropy(logits, labels), counted)),
      rtdReplaced: sum(replaced),
      rtdPredicted: sum(predicted),
      rtdReplacedPredicted: sum(mul(predicted, labels)),
      rtdAbove: countAbove(logits, counted),
      rtdReplacedAbove: countAbove(logits, replaced),
    },
  };
}

/** Writes the original sequence: equations 9 and 12. */
function correct(
  p: Parameters,
  config: ModelConfig,
  objective: ObjectiveConfig,
  { tokens, positions }: MetroInputs,
  noise: Tensor,
  decoded: Tensor,
  rtd: Tensor | undefined,
) {
  const everywhere = objective.maskedPositionsOnly === "none";
  const at = (x: Tensor) => everywhere ? x : valuesAt(x, positions);
  // Where the decoder writes the selected tokens alone, its rows are those of the slots.
  const isWhole = objective.decoderTarget === "allTokens";
  const h = everywhere || !isWhole ? decoded : rowsAt(decoded, positions);
  const counted = everywhere ? isToken(tokens) : isSome(positions);

  const targets = at(tokens), isReplaced = at(notEqual(noise, tokens));
  const { labelSmoothing, copyMechanism, weightedLmLoss } = objective;
  const { nll, loss, best } = languageModel(p, config, "clm", h, targets, { labelSmoothing });
  // Under `lm` the RTD head answers for all tokens, but only the selected ones count here.
  const replacedness = rtd && sigmoid(objective.maskedPositionsOnly === "lm" ? at(rtd) : rtd);
  const copied = copyMechanism ? copyLoss(nll, replacedness!, isReplaced) : loss;
  const weights = weightedLmLoss ? rtdWeights(objective, replacedness!, counted) : counted;
  const replaced = mul(counted, isReplaced);
  const other = sub(counted, replaced);
  const isCorrect = equal(best, targets);
  return {
    clmNll: sum(mul(nll, counted)),
    clmLoss: sum(mul(copied, weights)),
    clmReplaced: sum(replaced),
    clmReplacedCorrect: sum(mul(replaced, isCorrect)),
    clmOther: sum(other),
    clmOtherCorrect: sum(mul(other, isCorrect)),
  };
}

/** Weights of the CLM loss: how likely the RTD head thinks each counted token was replaced. */
function rtdWeights(objective: ObjectiveConfig, replacedness: Tensor, counted: Tensor): Tensor {
  const weights = stopGradient(mul(replacedness, counted));
  if (!objective.divideByMeanWeight) return weights;
  return div(weights, div(orOne(sum(weights)), orOne(sum(counted))));
}

/** −log(c·[not replaced] + (1 − c)·softmax), where 1 − c is what the RTD head thinks. */
function copyLoss(nll: Tensor, replacedness: Tensor, isReplaced: Tensor): Tensor {
  const written = stopGradient(replacedness);
  const copied = stopGradient(mul(sub(scalar(1), written), sub(scalar(1), isReplaced)));
  // Far below any probability that matters, and keeps the logarithm finite.
  const least = scalar(1e-30);
  return neg(log(add(least, add(copied, mul(written, exp(neg(nll)))))));
}

/**
 * The whole logits of the three heads without dropout, for verification: nothing of the size of a
 * vocabulary is held in training.
 *
 * @param noise what the main model's encoder sees, u32 [batch, length]
 * @param options `rtdLocation`: what the RTD head reads
 * @returns `mlm` [batch, slots, vocab], `clm` [batch, length or slots, vocab], and `rtd` [batch, length] if the
 *   model has an RTD head
 *
 * @example
 * ```ts
 * import { metroInputs, metroLogits } from "./metro.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny");
 * const inputs = metroInputs(objective, 2, 16, { givenNoise: true });
 * const { clm } = metroLogits(declareParameters(model), model, inputs, inputs.noise!);
 * assert.deepEqual(clm.shape, [2, 16, 576]);
 * ```
 */
export function metroLogits(
  parameters: Parameters,
  config: ModelConfig,
  inputs: MetroInputs,
  noise: Tensor,
  { rtdLocation = "encoder" }: Partial<Pick<ObjectiveConfig, "rtdLocation">> = {},
): Record<"mlm" | "clm", Tensor> & { rtd?: Tensor } {
  const aux = encode(parameters, config, inputs.auxTokens, { stack: "aux" });
  const memory = encode(parameters, config, noise);
  const decoded = decode(parameters, config, inputs.decoderTokens, { memory, memoryTokens: noise });
  return {
    mlm: languageModelLogits(parameters, config, "mlm", rowsAt(aux, inputs.positions)),
    clm: languageModelLogits(parameters, config, "clm", decoded),
    ...(config.rtdHead !== "none" && {
      rtd: rtdLogits(parameters, config, rtdLocation === "encoder" ? memory : decoded),
    }),
  };
}

/**
 * What the models make of each token, to look at: equations 7 to 12 without their losses and without dropout.
 *
 * @returns all [batch, length]: `noise` u32, what the main model's encoder reads; `replacedness`, how probable
 *   its RTD head finds it that the token was replaced (absent without such a head); `correction` u32, the most
 *   probable token of the decoder, given the original ones before it
 *
 * @example
 * ```ts
 * import { metroInputs, metroTokens } from "./metro.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny"), inputs = metroInputs(objective, 2, 16);
 * const { correction } = metroTokens(declareParameters(model), model, objective, inputs);
 * assert.deepEqual(correction.shape, [2, 16]);
 * ```
 */
export function metroTokens(
  parameters: Parameters,
  config: ModelConfig,
  { rtdLocation, decoderTarget }: Pick<ObjectiveConfig, "rtdLocation" | "decoderTarget">,
  inputs: MetroInputs,
): Record<"noise" | "correction", Tensor> & { replacedness?: Tensor } {
  const { noise } = sample(parameters, config, inputs, false);
  const memory = encode(parameters, config, noise);
  const decoded = decode(parameters, config, inputs.decoderTokens, { memory, memoryTokens: noise });
  const read = rtdLocation === "encoder" ? memory : decoded;
  const isWhole = decoderTarget === "allTokens", { tokens, positions, inverse } = inputs;
  const targets = isWhole ? tokens : valuesAt(tokens, positions);
  const { best } = languageModel(parameters, config, "clm", decoded, targets);
  return {
    noise,
    // A decoder that writes the selected tokens alone says nothing of the others.
    correction: isWhole ? best : where(isSome(inverse), valuesAt(best, inverse), noise),
    ...(config.rtdHead !== "none" && {
      replacedness: sigmoid(rtdLogits(parameters, config, read)),
    }),
  };
}

/** Rows of [batch, length, hidden] at flat indices [...]; an arbitrary row at `NONE`. */
function rowsAt(x: Tensor, indices: Tensor): Tensor {
  const [batch, length, hidden] = x.shape;
  return gatherRows(reshape(x, [batch * length, hidden]), indices);
}

/** Values of [batch, length] at flat indices [...], without gradient; any value at `NONE`. */
function valuesAt(x: Tensor, indices: Tensor): Tensor {
  const [batch, length] = x.shape;
  return gatherRows(reshape(x, [batch * length]), indices);
}

/** 1 where an index is not `NONE`. */
function isSome(indices: Tensor): Tensor {
  return notEqual(indices, scalar(NONE, "u32"));
}

/** 1 where a token is not padding. */
function isToken(tokens: Tensor): Tensor {
  return notEqual(tokens, scalar(SPECIAL.pad, "u32"));
}

/** A sum that is not negative, or 1 where it is 0, so that a batch of pads divides by something. */
function orOne(total: Tensor): Tensor {
  return add(total, sub(scalar(1), greater(total, scalar(0))));
}

function noRtdSums() {
  const zero = scalar(0), none = zeros(METRO_SUMS.rtdAbove);
  return {
    rtdLoss: zero,
    rtdReplaced: zero,
    rtdPredicted: zero,
    rtdReplacedPredicted: zero,
    rtdAbove: none,
    rtdReplacedAbove: none,
  };
}
