/**
 * The parameters of a model: names, shapes and counts.
 *
 * Names are paths: `encoder.0.attention.q.weight`, `aux.embed.norm.gain`. A name that ends in
 * `.weight` is a linear map `[in, out]`, used as `x·W`; `.bias` and `.gain` are vectors; the rest
 * (`embed.tokens`, `*.embed.positions`, `*.attention.relative`, `clm.tokens`) are tables with one row per
 * index. What a model has none of, T5 its biases for one, is not there.
 *
 * @module
 */

import { state, type Tensor } from "../ops/graph/tensor.ts";
import { attentionWidth, isT5, type LmHead, type ModelConfig, type T5Model } from "./config.ts";

/** Tensors by parameter name. */
export type Parameters = Readonly<Record<string, Tensor>>;

/** Parts of the whole pretraining model. Finetuning needs `main` alone. */
export const PARTS = ["main", "rtd", "aux"] as const;
/** A part of the whole pretraining model: the main model, the RTD head, the auxiliary model. */
export type Part = "main" | "rtd" | "aux";

type Shapes = Map<string, readonly number[]>;

/**
 * Names and shapes of the parameters, each shared tensor once, in a fixed order.
 *
 * @param config the model
 * @param parts which parts, by default the whole pretraining model
 *
 * @example
 * ```ts
 * import { parameterShapes, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const shapes = parameterShapes(preset("base").model);
 * assert.deepEqual(shapes.get("encoder.0.ffn.in.weight"), [768, 3072]);
 * ```
 */
export function parameterShapes(
  config: ModelConfig,
  parts: readonly Part[] = PARTS,
): Map<string, readonly number[]> {
  const shapes: Shapes = new Map();
  if (parts.includes("main")) addMain(shapes, config);
  if (parts.includes("rtd")) addRtdHead(shapes, config);
  if (parts.includes("aux") && config.auxLayers > 0) addAuxiliary(shapes, config);
  return shapes;
}

/**
 * How many numbers the parameters hold.
 *
 * @example
 * ```ts
 * import { parameterCount, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * assert.equal(parameterCount(preset("base").model, ["main"]), 225_618_432);
 * ```
 */
export function parameterCount(config: ModelConfig, parts: readonly Part[] = PARTS): number {
  let count = 0;
  for (const shape of parameterShapes(config, parts).values()) {
    count += shape.reduce((a, b) => a * b, 1);
  }
  return count;
}

/**
 * The parameters as tensors of a program.
 *
 * @example
 * ```ts
 * import { declareParameters, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const p = declareParameters(preset("tiny").model, ["main"]);
 * assert.deepEqual(p["embed.tokens"].shape, [576, 128]);
 * ```
 */
export function declareParameters(config: ModelConfig, parts: readonly Part[] = PARTS): Parameters {
  const tensors: Record<string, Tensor> = {};
  for (const [name, shape] of parameterShapes(config, parts)) tensors[name] = state(name, shape);
  return tensors;
}

/** Names of the tensors that an embedding stage uses; `norm` is the path of a gain and a bias. */
export interface EmbeddingNames {
  /** Token table [vocab, hidden]. */
  tokens: string;
  /** Position table [rows, hidden]. */
  positions: string;
  /** LayerNorm. */
  norm: string;
}

/** The three stacks of layers. */
export type Stack = "encoder" | "decoder" | "aux";

/**
 * The embedding tensors of a stack, with the auxiliary model's sharing resolved.
 *
 * @example
 * ```ts
 * import { embeddingNames } from "./parameters.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(embeddingNames({ share: "token_pos" }, "aux").positions, "encoder.embed.positions");
 * assert.equal(embeddingNames({ share: "token_pos" }, "aux").norm, "aux.embed.norm");
 * ```
 */
export function embeddingNames(
  { share }: Pick<ModelConfig, "share">,
  stack: Stack,
): EmbeddingNames {
  const ownTokens = stack === "aux" && share === "none";
  const positions = stack === "aux" && share.startsWith("token_pos") ? "encoder" : stack;
  const norm = stack === "aux" && share === "token_pos_norm" ? "encoder" : stack;
  return {
    tokens: ownTokens ? "aux.embed.tokens" : "embed.tokens",
    positions: `${positions}.embed.positions`,
    norm: `${norm}.embed.norm`,
  };
}

function addMain(shapes: Shapes, config: ModelConfig): void {
  if (isT5(config)) return addT5(shapes, config);
  const { vocabSize, dModel, positionRows, clmHead } = config;
  shapes.set("embed.tokens", [vocabSize, dModel]);
  for (const stack of ["encoder", "decoder"] as const) {
    shapes.set(`${stack}.embed.positions`, [positionRows, dModel]);
    addNorm(shapes, `${stack}.embed.norm`, dModel);
  }
  for (let i = 0; i < config.encoderLayers; i++) addEncoderLayer(shapes, config, `encoder.${i}`);
  for (let i = 0; i < config.decoderLayers; i++) addDecoderLayer(shapes, config, `decoder.${i}`);
  addLmHead(shapes, config, "clm", clmHead);
}

function addT5(shapes: Shapes, config: T5Model): void {
  const { feedForward, tiedHead, relativeTables } = config.t5;
  const { vocabSize, dModel, dFf, heads, relativeBuckets } = config;
  const width = attentionWidth(config);
  const layers = { encoder: config.encoderLayers, decoder: config.decoderLayers };
  shapes.set("embed.tokens", [vocabSize, dModel]);
  for (const stack of ["encoder", "decoder"] as const) {
    for (let i = 0; i < layers[stack]; i++) {
      const path = `${stack}.${i}`;
      for (const kind of stack === "encoder" ? ["attention"] : ["attention", "cross"]) {
        for (const map of "qkv") shapes.set(`${path}.${kind}.${map}.weight`, [dModel, width]);
        shapes.set(`${path}.${kind}.out.weight`, [width, dModel]);
        shapes.set(`${path}.${kind}.norm.gain`, [dModel]);
      }
      if (i === 0 || relativeTables === "layer") {
        shapes.set(`${path}.attention.relative`, [relativeBuckets, heads]);
      }
      shapes.set(`${path}.ffn.in.weight`, [dModel, dFf]);
      if (feedForward === "gated-gelu") shapes.set(`${path}.ffn.linear.weight`, [dModel, dFf]);
      shapes.set(`${path}.ffn.out.weight`, [dFf, dModel]);
      shapes.set(`${path}.ffn.norm.gain`, [dModel]);
    }
    shapes.set(`${stack}.norm.gain`, [dModel]);
  }
  if (!tiedHead) shapes.set("clm.tokens", [vocabSize, dModel]);
}

function addAuxiliary(shapes: Shapes, config: ModelConfig): void {
  const { vocabSize, dModel, maxPositions, auxLayers, mlmHead } = config;
  const { tokens, positions, norm } = embeddingNames(config, "aux");
  if (tokens.startsWith("aux.")) shapes.set(tokens, [vocabSize, dModel]);
  if (positions.startsWith("aux.")) shapes.set(positions, [maxPositions + 2, dModel]);
  if (norm.startsWith("aux.")) addNorm(shapes, norm, dModel);
  for (let i = 0; i < auxLayers; i++) addEncoderLayer(shapes, config, `aux.${i}`);
  addLmHead(shapes, config, "mlm", mlmHead);
}

function addRtdHead(shapes: Shapes, { rtdHead, dModel }: ModelConfig): void {
  if (rtdHead === "roberta") {
    addLinear(shapes, "rtd.dense", dModel, dModel);
    addNorm(shapes, "rtd.norm", dModel);
  }
  if (rtdHead !== "none") addLinear(shapes, "rtd.out", dModel, 1);
}

function addLmHead(shapes: Shapes, config: ModelConfig, path: string, head: LmHead): void {
  if (head === "linear") return;
  addLinear(shapes, `${path}.dense`, config.dModel, config.dModel);
  addNorm(shapes, `${path}.norm`, config.dModel);
  shapes.set(`${path}.bias`, [config.vocabSize]);
}

function addEncoderLayer(shapes: Shapes, config: ModelConfig, path: string): void {
  addAttention(shapes, config, `${path}.attention`);
  shapes.set(`${path}.attention.relative`, [config.relativeBuckets, config.heads]);
  addFeedForward(shapes, config, `${path}.ffn`);
}

function addDecoderLayer(shapes: Shapes, config: ModelConfig, path: string): void {
  addAttention(shapes, config, `${path}.attention`);
  addAttention(shapes, config, `${path}.cross`);
  addFeedForward(shapes, config, `${path}.ffn`);
}

function addAttention(shapes: Shapes, { dModel }: ModelConfig, path: string): void {
  for (const map of ["q", "k", "v", "out"]) addLinear(shapes, `${path}.${map}`, dModel, dModel);
  addNorm(shapes, `${path}.norm`, dModel);
}

function addFeedForward(shapes: Shapes, { dModel, dFf }: ModelConfig, path: string): void {
  addLinear(shapes, `${path}.in`, dModel, dFf);
  addLinear(shapes, `${path}.out`, dFf, dModel);
  addNorm(shapes, `${path}.norm`, dModel);
}

function addLinear(shapes: Shapes, path: string, inputs: number, outputs: number): void {
  shapes.set(`${path}.weight`, [inputs, outputs]);
  shapes.set(`${path}.bias`, [outputs]);
}

function addNorm(shapes: Shapes, path: string, size: number): void {
  shapes.set(`${path}.gain`, [size]);
  shapes.set(`${path}.bias`, [size]);
}
