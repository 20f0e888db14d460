/**
 * The three heads of the paper's Figure 2: MLM on the auxiliary model, RTD on the encoder, CLM on the
 * decoder.
 *
 * @module
 */

import {
  add,
  crossEntropy,
  gatherRows,
  matmul,
  mul,
  relu,
  reshape,
  scale,
  sub,
  sumColumns,
  sumRows,
  type Tensor,
} from "../ops/mod.ts";
import { isT5, type ModelConfig } from "./config.ts";
import { linear, norm } from "./layers.ts";
import { embeddingNames, type Parameters } from "./parameters.ts";

/** Which language modeling head: the auxiliary model's or the decoder's. */
export type LmHeadName = "mlm" | "clm";

/** Options of {@link languageModel}. */
export interface LanguageModelOptions {
  /** Label smoothing; 0 by default. */
  labelSmoothing?: number;
  /** Also draw a token per row. */
  sample?: { stream: number; rowsPerSequence: number };
}

/** What {@link languageModel} returns, each shaped like the targets. */
export interface LanguageModelOutput {
  /** −log p(target). */
  nll: Tensor;
  /** What to minimise: the nll, smoothed if asked. */
  loss: Tensor;
  /** u32: the most probable token. */
  best: Tensor;
  /** u32: a draw from p, if asked. */
  sample?: Tensor;
}

/**
 * The distribution of a language modeling head, against targets. Logits are never held whole.
 *
 * @param head `mlm` or `clm`
 * @param h [..., hidden]
 * @param targets u32 [...]
 *
 * @example
 * ```ts
 * import { languageModel } from "./heads.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), p = declareParameters(model);
 * const h = state("h", [2, 5, 128]), targets = input("targets", [2, 5], "u32");
 * assert.deepEqual(languageModel(p, model, "clm", h, targets).nll.shape, [2, 5]);
 * ```
 */
export function languageModel(
  parameters: Parameters,
  config: ModelConfig,
  head: LmHeadName,
  h: Tensor,
  targets: Tensor,
  { labelSmoothing = 0, sample }: LanguageModelOptions = {},
): LanguageModelOutput {
  const { features, table, bias } = headProjection(parameters, config, head, h);
  const output = crossEntropy(features, table, targets, { bias, sample });
  const loss = labelSmoothing === 0
    ? output.nll
    : smoothed(output.nll, features, table, bias, targets, labelSmoothing);
  return { ...output, loss };
}

/**
 * The whole logits of a language modeling head, for verification and for scoring few rows.
 *
 * @param h [..., hidden]
 * @returns [..., vocab]
 *
 * @example
 * ```ts
 * import { languageModelLogits } from "./heads.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), h = state("h", [2, 5, 128]);
 * const logits = languageModelLogits(declareParameters(model), model, "mlm", h);
 * assert.deepEqual(logits.shape, [2, 5, 576]);
 * ```
 */
export function languageModelLogits(
  parameters: Parameters,
  config: ModelConfig,
  head: LmHeadName,
  h: Tensor,
): Tensor {
  const { features, table, bias } = headProjection(parameters, config, head, h);
  const logits = matmul(features, table, { transB: true });
  return bias ? add(logits, bias) : logits;
}

/**
 * The RTD head: one logit per position, positive where it takes the token for a replacement.
 *
 * @param h [..., hidden]
 * @returns [...]
 * @throws {Error} if the model has no such head
 *
 * @example
 * ```ts
 * import { rtdLogits } from "./heads.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), h = state("h", [2, 5, 128]);
 * assert.deepEqual(rtdLogits(declareParameters(model), model, h).shape, [2, 5]);
 * ```
 */
export function rtdLogits(parameters: Parameters, config: ModelConfig, h: Tensor): Tensor {
  if (config.rtdHead === "none") throw new Error("rtdLogits: the model has no RTD head");
  const features = config.rtdHead === "roberta" ? dense(parameters, config, "rtd", h) : h;
  // One output: a dot product per row, which a sum does better than a matrix product of one column.
  const weight = reshape(parameters["rtd.out.weight"], h.shape.slice(-1));
  const logits = add(sumColumns(mul(features, weight)), parameters["rtd.out.bias"]);
  return reshape(logits, h.shape.slice(0, -1));
}

/** What the logits of a language modeling head are made of: features·tableᵀ + bias. */
export interface Projection {
  /** [..., hidden] */
  features: Tensor;
  /** [vocab, hidden] */
  table: Tensor;
  /** [vocab], in heads that have one. */
  bias?: Tensor;
}

/**
 * The last features of a language modeling head and its output map.
 *
 * @param h [..., hidden]
 *
 * @example
 * ```ts
 * import { headProjection } from "./heads.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("base"), h = state("h", [2, 5, 768]), p = declareParameters(model);
 * assert.deepEqual(headProjection(p, model, "clm", h), { features: h, table: p["embed.tokens"] });
 * ```
 */
export function headProjection(
  p: Parameters,
  config: ModelConfig,
  head: LmHeadName,
  h: Tensor,
): Projection {
  const { tokens } = embeddingNames(config, head === "mlm" ? "aux" : "decoder");
  const table = p[tokens];
  if (isT5(config)) {
    return {
      features: config.t5.scaleOutputs ? scale(h, config.dModel ** -0.5) : h,
      table: config.t5.tiedHead ? table : p["clm.tokens"],
    };
  }
  const shape = head === "mlm" ? config.mlmHead : config.clmHead;
  return shape === "linear"
    ? { features: h, table }
    : { features: dense(p, config, head, h), table, bias: p[`${head}.bias`] };
}

/** LN(ReLU(x·W + b)). */
function dense(p: Parameters, config: ModelConfig, head: string, x: Tensor): Tensor {
  return norm(p, `${head}.norm`, relu(linear(p, `${head}.dense`, x)), config.layerNormEps);
}

/**
 * (1 − ε)·nll(target) + ε·(mean nll of the other tokens). The sum of all logits is h·Σrows(table), so
 * this needs no logits either.
 */
function smoothed(
  nll: Tensor,
  h: Tensor,
  table: Tensor,
  bias: Tensor | undefined,
  targets: Tensor,
  epsilon: number,
): Tensor {
  const [vocab, width] = table.shape;
  const like = (x: Tensor) => reshape(x, targets.shape);
  let logit = like(sumColumns(mul(h, gatherRows(table, targets))));
  let allLogits = like(matmul(h, reshape(sumRows(table), [width, 1])));
  if (bias) {
    const column = reshape(bias, [vocab, 1]);
    logit = add(logit, like(gatherRows(column, targets)));
    allLogits = add(allLogits, sumRows(column));
  }
  const logNormaliser = add(nll, logit);
  const everyNll = sub(scale(logNormaliser, vocab), allLogits);
  const share = epsilon / (vocab - 1);
  return add(scale(nll, 1 - epsilon - share), scale(everyNll, share));
}
