/**
 * The layers of the paper's section 4.2: absolute positions besides relative ones, and LayerNorm after
 * each residual connection, x ↦ LN(x + f(x)). And T5's: relative positions alone, no biases, and RMSNorm
 * before, x ↦ x + f(RMSNorm(x)).
 *
 * Layers are functions of (parameters, input); a path such as `encoder.0.ffn` says which parameters.
 *
 * @module
 */

import {
  add,
  attention,
  dropout,
  gatherRows,
  gelu,
  layerNorm,
  matmul,
  mul,
  relu,
  rmsNorm,
  type Tensor,
} from "../ops/mod.ts";
import { positionIds } from "../ops/primitives/rows.ts";
import { isT5, type ModelConfig, SPECIAL } from "./config.ts";
import type { EmbeddingNames, Parameters, Stack } from "./parameters.ts";

/** What every layer is given besides its parameters and inputs. */
export interface LayerContext {
  /** The model's parameters. */
  parameters: Parameters;
  /** The model. */
  config: ModelConfig;
  /** Dropout probability; 0 outside training. */
  dropout: number;
  /** First number of the layer's dropout streams; each use adds one of {@link DROPOUT_USES}. */
  stream: number;
}

/** The uses of dropout in one layer, as offsets of its streams. */
const DROPOUT_USES = {
  attentionWeights: 0,
  attentionOutput: 1,
  crossWeights: 2,
  crossOutput: 3,
  feedForward: 4,
  embedding: 5,
  activation: 6,
  final: 7,
} as const;

/**
 * x·W + b, or x·W in a model without biases.
 *
 * @param x [..., in]
 * @returns [..., out]
 *
 * @example
 * ```ts
 * import { linear } from "./layers.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const p = { "map.weight": state("map.weight", [3, 4]), "map.bias": state("map.bias", [4]) };
 * assert.deepEqual(linear(p, "map", state("x", [2, 5, 3])).shape, [2, 5, 4]);
 * ```
 */
export function linear(parameters: Parameters, path: string, x: Tensor): Tensor {
  const y = matmul(x, parameters[`${path}.weight`]), bias = parameters[`${path}.bias`];
  return bias ? add(y, bias) : y;
}

/**
 * LayerNorm with gain and bias, or RMSNorm in a model without biases.
 *
 * @param x [..., hidden]
 * @returns [..., hidden]
 *
 * @example
 * ```ts
 * import { norm } from "./layers.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const p = { "n.gain": state("n.gain", [4]), "n.bias": state("n.bias", [4]) };
 * assert.deepEqual(norm(p, "n", state("x", [2, 4]), 1e-5).shape, [2, 4]);
 * ```
 */
export function norm(parameters: Parameters, path: string, x: Tensor, eps: number): Tensor {
  const gain = parameters[`${path}.gain`], bias = parameters[`${path}.bias`];
  return bias ? layerNorm(x, gain, bias, eps) : rmsNorm(x, gain, eps);
}

/** A sub-layer f in its residual connection: LN(x + f(x)), in T5 x + f(RMSNorm(x)). */
function residual(
  { parameters, config }: LayerContext,
  path: string,
  x: Tensor,
  f: (x: Tensor) => Tensor,
): Tensor {
  const normed = (t: Tensor) => norm(parameters, `${path}.norm`, t, config.layerNormEps);
  return isT5(config) ? add(x, f(normed(x))) : normed(add(x, f(x)));
}

/**
 * Tokens and absolute positions: Dropout(LN(E[token] + P[position])). The first token of a sequence
 * has position row 2, pads have row 1. In T5 tokens alone: Dropout(E[token]).
 *
 * @param names the tensors to use
 * @param tokens u32 [batch, length]
 * @param positions rows of the position table, u32 [batch, length]; counted from the tokens if absent
 * @returns [batch, length, hidden]
 *
 * @example
 * ```ts
 * import { embed } from "./layers.ts";
 * import { declareParameters, embeddingNames } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model: config } = preset("tiny");
 * const context = { parameters: declareParameters(config), config, dropout: 0, stream: 0 };
 * const x = embed(context, embeddingNames(config, "encoder"), input("tokens", [2, 8], "u32"));
 * assert.deepEqual(x.shape, [2, 8, 128]);
 * ```
 */
export function embed(
  context: LayerContext,
  names: EmbeddingNames,
  tokens: Tensor,
  positions?: Tensor,
): Tensor {
  const { parameters, config } = context;
  const dropped = (x: Tensor) =>
    dropout(x, context.dropout, context.stream + DROPOUT_USES.embedding);
  const token = gatherRows(parameters[names.tokens], tokens);
  if (isT5(config)) return dropped(token);
  const rows = positions ?? positionIds(tokens, SPECIAL.pad);
  const x = add(token, gatherRows(parameters[names.positions], rows));
  return dropped(norm(parameters, names.norm, x, config.layerNormEps));
}

/** Which keys a query sees. */
export interface AttentionMaskOptions {
  /** u32 [batch, keys], nonzero where a key may be attended to. */
  mask: Tensor;
  /** Hides later keys from each query. */
  causal?: boolean;
  /** The mask numbers segments: a query sees its own only. */
  segments?: boolean;
  /** Relative bias, as `attention` takes it. */
  bias?: Tensor;
}

/** How {@link attentionLayer} treats its keys. */
export interface AttentionLayerOptions extends AttentionMaskOptions {
  /** What is attended to, [batch, keys, hidden]: the encoder's output; the queries themselves if absent. */
  memory?: Tensor;
}

/** What an attention makes of its memory, each [batch, keys, heads · width]. */
export interface KeysAndValues {
  /** Compared with the queries. */
  keys: Tensor;
  /** Mixed by the result of the comparison. */
  values: Tensor;
}

/**
 * LN(x + Dropout(Attention(x, memory))), multi-headed, queries scaled by head width^-½; in T5
 * x + Dropout(Attention(RMSNorm(x), memory)), not scaled.
 *
 * @param path `encoder.0.attention`, `decoder.0.cross`, ...
 * @param x [batch, queries, hidden]
 * @returns [batch, queries, hidden]
 *
 * @example
 * ```ts
 * import { attentionLayer } from "./layers.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model: config } = preset("tiny");
 * const context = { parameters: declareParameters(config), config, dropout: 0, stream: 0 };
 * const x = state("x", [2, 8, 128]), mask = input("mask", [2, 8], "u32");
 * const y = attentionLayer(context, "decoder.0.attention", x, { mask, causal: true });
 * assert.deepEqual(y.shape, [2, 8, 128]);
 * ```
 */
export function attentionLayer(
  context: LayerContext,
  path: string,
  x: Tensor,
  { memory, ...options }: AttentionLayerOptions,
): Tensor {
  const project = (own: Tensor) => keysAndValues(context.parameters, path, memory ?? own);
  return attend(context, path, x, project, options);
}

/**
 * The keys and values of an attention: the part that depends on the memory alone, so that generation
 * computes it once per token.
 *
 * @param path `decoder.0.attention`, `decoder.0.cross`, ...
 * @param memory [batch, keys, hidden]
 *
 * @example
 * ```ts
 * import { keysAndValues } from "./layers.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const parameters = declareParameters(preset("tiny").model);
 * const { keys } = keysAndValues(parameters, "decoder.0.cross", state("memory", [2, 8, 128]));
 * assert.deepEqual(keys.shape, [2, 8, 128]);
 * ```
 */
export function keysAndValues(parameters: Parameters, path: string, memory: Tensor): KeysAndValues {
  return {
    keys: linear(parameters, `${path}.k`, memory),
    values: linear(parameters, `${path}.v`, memory),
  };
}

/**
 * {@link attentionLayer} from keys and values: LN(x + Dropout(Attention(x, keys, values))).
 *
 * @param path `encoder.0.attention`, `decoder.0.cross`, ...
 * @param x [batch, queries, hidden]
 * @param memory keys and values, or what makes them of what the queries are made of
 * @returns [batch, queries, hidden]
 *
 * @example
 * ```ts
 * import { attend, keysAndValues } from "./layers.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { input, state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model: config } = preset("tiny"), parameters = declareParameters(config);
 * const context = { parameters, config, dropout: 0, stream: 0 }, path = "decoder.0.cross";
 * const memory = state("memory", [2, 8, 128]), mask = input("mask", [2, 8], "u32");
 * const x = state("x", [2, 1, 128]);
 * const y = attend(context, path, x, keysAndValues(parameters, path, memory), { mask });
 * assert.deepEqual(y.shape, [2, 1, 128]);
 * ```
 */
export function attend(
  context: LayerContext,
  path: string,
  x: Tensor,
  memory: KeysAndValues | ((own: Tensor) => KeysAndValues),
  { mask, causal, segments, bias }: AttentionMaskOptions,
): Tensor {
  const { parameters: p, config, stream } = context;
  const cross = path.endsWith(".cross");
  const weights = cross ? DROPOUT_USES.crossWeights : DROPOUT_USES.attentionWeights;
  const output = cross ? DROPOUT_USES.crossOutput : DROPOUT_USES.attentionOutput;
  return residual(context, path, x, (own) => {
    const { keys, values } = typeof memory === "function" ? memory(own) : memory;
    const mixed = attention(linear(p, `${path}.q`, own), keys, values, mask, {
      heads: config.heads,
      causal,
      segments,
      bias,
      scale: isT5(config) ? 1 : undefined,
      dropout: context.dropout,
      stream: stream + weights,
    });
    return dropout(linear(p, `${path}.out`, mixed), context.dropout, stream + output);
  });
}

/**
 * LN(x + Dropout(W₂·ReLU(W₁x + b₁) + b₂)). In T5 x + Dropout(W₂·Dropout(h)), where h is one of
 * {@link FEED_FORWARDS} of RMSNorm(x).
 *
 * @param path `encoder.0.ffn`, ...
 * @param x [batch, length, hidden]
 * @returns [batch, length, hidden]
 *
 * @example
 * ```ts
 * import { feedForward } from "./layers.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model: config } = preset("tiny");
 * const context = { parameters: declareParameters(config), config, dropout: 0, stream: 0 };
 * assert.deepEqual(feedForward(context, "aux.0.ffn", state("x", [2, 8, 128])).shape, [2, 8, 128]);
 * ```
 */
export function feedForward(context: LayerContext, path: string, x: Tensor): Tensor {
  const { parameters: p, config, stream } = context;
  return residual(context, path, x, (own) => {
    let h = linear(p, `${path}.in`, own);
    h = isT5(config) && config.t5.feedForward === "gated-gelu"
      ? mul(gelu(h), linear(p, `${path}.linear`, own))
      : relu(h);
    if (isT5(config)) h = dropout(h, context.dropout, stream + DROPOUT_USES.activation);
    const y = linear(p, `${path}.out`, h);
    return dropout(y, context.dropout, stream + DROPOUT_USES.feedForward);
  });
}

/**
 * What comes behind the last layer of a stack: nothing, in T5 Dropout(RMSNorm(x)).
 *
 * @param stack `encoder`, `decoder` or `aux`
 * @param x [batch, length, hidden]
 * @returns [batch, length, hidden]
 *
 * @example
 * ```ts
 * import { finishStack } from "./layers.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import { state } from "../ops/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const { model: config } = preset("tiny"), x = state("x", [2, 8, 128]);
 * const context = { parameters: declareParameters(config), config, dropout: 0, stream: 0 };
 * assert.equal(finishStack(context, "encoder", x), x);
 * ```
 */
export function finishStack(context: LayerContext, stack: Stack, x: Tensor): Tensor {
  const { parameters, config, stream } = context;
  if (!isT5(config)) return x;
  const normed = norm(parameters, `${stack}.norm`, x, config.layerNormEps);
  return dropout(normed, context.dropout, stream + DROPOUT_USES.final);
}
