/**
 * The stacks: the bidirectional encoder, which the main and the auxiliary model both are, and the
 * causal decoder. Neither has a final LayerNorm, since every layer ends in one; T5's layers begin with one.
 *
 * @module
 */

import {
  constant,
  equal,
  gatherRows,
  mul,
  notEqual,
  reshape,
  scalar,
  type Tensor,
  where,
} from "../ops/mod.ts";
import { isT5, type ModelConfig, specialIds } from "./config.ts";
import { attentionLayer, embed, feedForward, finishStack, type LayerContext } from "./layers.ts";
import { embeddingNames, type Parameters, type Stack } from "./parameters.ts";
import { relativeBuckets, t5Buckets } from "./relative.ts";

/**
 * Runs an encoder. Pads are never attended to (and embedded as zeros, but in T5); a row of pads gives finite
 * values that mean nothing.
 *
 * @param tokens u32 [batch, length], right-padded
 * @param options `stack`: the main model's encoder (default) or the auxiliary model; `dropout`: probability, 0,
 *   the default, outside training
 * @returns [batch, length, hidden]
 *
 * @example
 * ```ts
 * import { declareParameters, encode, preset } from "@metro/t0/models";
 * import { input } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny");
 * const h = encode(declareParameters(model), model, input("tokens", [2, 8], "u32"));
 * assert.deepEqual(h.shape, [2, 8, 128]);
 * ```
 */
export function encode(
  parameters: Parameters,
  config: ModelConfig,
  tokens: Tensor,
  { stack = "encoder", dropout = 0 }: { stack?: "encoder" | "aux"; dropout?: number } = {},
): Tensor {
  const layers = stack === "encoder" ? config.encoderLayers : config.auxLayers;
  const context = (layer: number) => layerContext(parameters, config, dropout, stack, layer);
  const bias = relativeBias(parameters, config, stack, tokens.shape[1]);
  const mask = paddingMask(tokens, config);

  let x = embed(context(0), embeddingNames(config, stack), tokens);
  if (!isT5(config)) x = mul(x, realTokens(tokens, config));
  for (let i = 0; i < layers; i++) {
    x = attentionLayer(context(i), `${stack}.${i}.attention`, x, { mask, bias: bias(i) });
    x = feedForward(context(i), `${stack}.${i}.ffn`, x);
  }
  return finishStack(context(layers), stack, x);
}

/**
 * Runs the decoder under teacher forcing.
 *
 * @param tokens u32 [batch, length]: the start symbol, then the target without its last token
 * @param options `memory`: the encoder's output, [batch, source, hidden]; `memoryTokens`: the tokens that it
 *   read, u32 [batch, source], whose pads are not attended to; `dropout`: probability, 0, the default, outside
 *   training; `segments`, where a row holds several targets of one source, both u32 [batch, length]: the
 *   number of a token's target, from 1, 0 for pads, and its row of the position table, counted from the start
 *   of its target
 * @returns [batch, length, hidden]; row i predicts target i
 *
 * @example
 * ```ts
 * import { declareParameters, decode, encode, preset } from "@metro/t0/models";
 * import { input } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), p = declareParameters(model);
 * const memoryTokens = input("source", [2, 8], "u32"), tokens = input("target", [2, 5], "u32");
 * const memory = encode(p, model, memoryTokens);
 * assert.deepEqual(decode(p, model, tokens, { memory, memoryTokens }).shape, [2, 5, 128]);
 * ```
 */
export function decode(
  parameters: Parameters,
  config: ModelConfig,
  tokens: Tensor,
  { memory, memoryTokens, dropout = 0, segments }: {
    memory: Tensor;
    memoryTokens: Tensor;
    dropout?: number;
    segments?: { numbers: Tensor; positions: Tensor };
  },
): Tensor {
  const context = (layer: number) => layerContext(parameters, config, dropout, "decoder", layer);
  const bias = isT5(config)
    ? relativeBias(parameters, config, "decoder", tokens.shape[1])
    : undefined;
  const own = segments
    ? { mask: segments.numbers, causal: true, segments: true }
    : { mask: isT5(config) ? everywhere(tokens) : paddingMask(tokens, config), causal: true };
  const memoryMask = paddingMask(memoryTokens, config);

  let x = embed(context(0), embeddingNames(config, "decoder"), tokens, segments?.positions);
  for (let i = 0; i < config.decoderLayers; i++) {
    x = attentionLayer(context(i), `decoder.${i}.attention`, x, { ...own, bias: bias?.(i) });
    x = attentionLayer(context(i), `decoder.${i}.cross`, x, { memory, mask: memoryMask });
    x = feedForward(context(i), `decoder.${i}.ffn`, x);
  }
  return finishStack(context(config.decoderLayers), "decoder", x);
}

/**
 * The relative bias of the layers of a stack, by number. In METRO and UMT5 each has a table of its own; in T5
 * the first one's serves all. Columns of a row may hold several segments: within one, distances are those of columns.
 */
function relativeBias(
  parameters: Parameters,
  config: ModelConfig,
  stack: Stack,
  length: number,
): (layer: number) => Tensor {
  const positions = stack === "encoder" ? config.positionRows - 2 : config.maxPositions;
  const buckets = isT5(config)
    ? t5Buckets(length, length, config, stack === "encoder")
    : relativeBuckets(length, length, config, positions);
  const rows = constant(buckets, [2 * length - 1]);
  const biasOf = (layer: number) =>
    gatherRows(parameters[`${stack}.${layer}.attention.relative`], rows);
  if (!isT5(config) || config.t5.relativeTables === "layer") return biasOf;
  const shared = biasOf(0);
  return () => shared;
}

/** [batch, length, 1]: 1 at tokens, 0 at pads. */
function realTokens(tokens: Tensor, config: ModelConfig): Tensor {
  const real = notEqual(tokens, scalar(specialIds(config).pad, "u32"));
  return reshape(real, [...tokens.shape, 1]);
}

/** u32 [batch, length]: 1 at tokens, 0 at pads. */
function paddingMask(tokens: Tensor, config: ModelConfig): Tensor {
  const pad = equal(tokens, scalar(specialIds(config).pad, "u32"));
  return where(pad, scalar(0, "u32"), scalar(1, "u32"));
}

/**
 * u32 [batch, length] of ones: T5 starts from the pad symbol, which must be seen; the pads behind a target
 * are hidden from its tokens by causality alone.
 */
function everywhere(tokens: Tensor): Tensor {
  const [batch, length] = tokens.shape;
  return constant(new Uint32Array(batch * length).fill(1), [batch, length]);
}

const STACKS: readonly Stack[] = ["encoder", "decoder", "aux"];
/** Streams per layer, and layers per stack, that the numbering leaves room for. */
const USES = 16, LAYERS = 256;

function layerContext(
  parameters: Parameters,
  config: ModelConfig,
  dropout: number,
  stack: Stack,
  layer: number,
): LayerContext {
  const stream = ((STACKS.indexOf(stack) + 1) * LAYERS + layer) * USES;
  return { parameters, config, dropout, stream };
}
