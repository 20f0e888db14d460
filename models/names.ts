/**
 * Other people's names for our parameters: the reference implementation's (fairseq) and the released
 * checkpoints' (Hugging Face). One table, read in both directions. Both keep linear maps as [out, in];
 * ours are [in, out]. T5 has a table of its own, and one scheme.
 *
 * @module
 */

import { isT5, type ModelConfig } from "./config.ts";
import { parameterShapes, type Part } from "./parameters.ts";

/**
 * A naming scheme: `reference` is fairseq's, `release` that of the published models. For T5 both are the
 * published models'.
 */
export type Scheme = "reference" | "release";

type Row = readonly [ours: string, reference: string, release?: string];

/** The linear maps of an attention. */
const ATTENTION_MAPS: readonly Row[] = [
  ["q", "q_proj", "q"],
  ["k", "k_proj", "k"],
  ["v", "v_proj", "v"],
  ["out", "out_proj", "o"],
];

/** Weight and bias of a linear map. */
function linearRows(ours: string, reference: string, release?: string): Row[] {
  return ["weight", "bias"].map((kind) => row(ours, kind, reference, kind, release));
}

/** Gain and bias of a LayerNorm. */
function normRows(ours: string, reference: string, release?: string): Row[] {
  return [
    row(ours, "gain", reference, "weight", release),
    row(ours, "bias", reference, "bias", release),
  ];
}

function row(ours: string, kind: string, reference: string, theirs: string, release?: string): Row {
  const released = release && `${release}.${theirs}`;
  return [`${ours}.${kind}`, `${reference}.${theirs}`, released];
}

function attentionRows(ours: string, reference: string, norm: string, release?: string): Row[] {
  const block = release?.slice(0, release.lastIndexOf("."));
  return [
    ...ATTENTION_MAPS.flatMap(([our, theirs, released]) =>
      linearRows(`${ours}.${our}`, `${reference}.${theirs}`, release && `${release}.${released}`)
    ),
    ...normRows(`${ours}.norm`, norm, block && `${block}.layer_norm`),
  ];
}

function feedForwardRows(ours: string, reference: string, release?: string): Row[] {
  return [
    ...linearRows(
      `${ours}.ffn.in`,
      `${reference}.fc1`,
      release && `${release}.DenseReluDense.wi`,
    ),
    ...linearRows(
      `${ours}.ffn.out`,
      `${reference}.fc2`,
      release && `${release}.DenseReluDense.wo`,
    ),
    ...normRows(
      `${ours}.ffn.norm`,
      `${reference}.final_layer_norm`,
      release && `${release}.layer_norm`,
    ),
  ];
}

function encoderRows(ours: string, reference: string, release?: string): Row[] {
  const layer = `${reference}.layers.#`, block = release && `${release}.block.#`;
  return [
    ...attentionRows(
      `${ours}.#.attention`,
      `${layer}.self_attn`,
      `${layer}.self_attn_layer_norm`,
      block && `${block}.layer.0.SelfAttention`,
    ),
    [
      `${ours}.#.attention.relative`,
      `${layer}.self_attn_rel_pos.rel_attn_bias.weight`,
      block && `${block}.layer.0.SelfAttention.relative_attention_bias.weight`,
    ],
    ...feedForwardRows(`${ours}.#`, layer, block && `${block}.layer.1`),
  ];
}

function decoderRows(): Row[] {
  const layer = "decoder.layers.#", block = "decoder.block.#";
  return [
    ...attentionRows(
      "decoder.#.attention",
      `${layer}.self_attn`,
      `${layer}.self_attn_layer_norm`,
      `${block}.layer.0.SelfAttention`,
    ),
    ...attentionRows(
      "decoder.#.cross",
      `${layer}.encoder_attn`,
      `${layer}.encoder_attn_layer_norm`,
      `${block}.layer.1.EncDecAttention`,
    ),
    ...feedForwardRows("decoder.#", layer, `${block}.layer.2`),
  ];
}

function embeddingRows(ours: string, reference: string, release?: string): Row[] {
  return [
    [
      `${ours}.embed.positions`,
      `${reference}.embed_positions.weight`,
      release && `${release}.pos_embed.weight`,
    ],
    ...normRows(
      `${ours}.embed.norm`,
      `${reference}.layernorm_embedding`,
      release && `${release}.first_layer_norm`,
    ),
  ];
}

function headRows(ours: string, reference: string): Row[] {
  return [
    ...linearRows(`${ours}.dense`, `${reference}.dense`),
    ...normRows(`${ours}.norm`, `${reference}.layer_norm`),
  ];
}

const AUX = "generator.sentence_encoder";

/** Our name, the reference's, the release's; `#` is the number of a layer. */
const TABLE: readonly Row[] = [
  ["embed.tokens", "encoder.embed_tokens.weight", "shared.weight"],
  ...embeddingRows("encoder", "encoder", "encoder"),
  ...embeddingRows("decoder", "decoder", "decoder"),
  ...encoderRows("encoder", "encoder", "encoder"),
  ...decoderRows(),
  ["aux.embed.tokens", `${AUX}.embed_tokens.weight`],
  ...embeddingRows("aux", AUX),
  ...encoderRows("aux", AUX),
  ...headRows("mlm", "generator.lm_head"),
  ["mlm.bias", "generator.lm_head.bias"],
  ...headRows("rtd", "rtd_head"),
  ...linearRows("rtd.out", "rtd_head"),
  // The reference has no such head; these are what it would call it.
  ...headRows("clm", "clm_head"),
  ["clm.bias", "clm_head.bias"],
];

function t5AttentionRows(ours: string, block: string, kind: string): Row[] {
  return [
    ...ATTENTION_MAPS.map(([map, , theirs]): Row =>
      t5Row(`${ours}.${map}.weight`, `${block}.${kind}.${theirs}.weight`)
    ),
    t5Row(`${ours}.norm.gain`, `${block}.layer_norm.weight`),
  ];
}

function t5LayerRows(stack: string, gated: boolean): Row[] {
  const layer = `${stack}.block.#.layer`, ffn = stack === "encoder" ? 1 : 2;
  const dense = `${layer}.${ffn}.DenseReluDense`;
  return [
    ...t5AttentionRows(`${stack}.#.attention`, `${layer}.0`, "SelfAttention"),
    ...t5AttentionRows(`${stack}.#.cross`, `${layer}.1`, "EncDecAttention"),
    t5Row(
      `${stack}.#.attention.relative`,
      `${layer}.0.SelfAttention.relative_attention_bias.weight`,
    ),
    t5Row(`${stack}.#.ffn.in.weight`, `${dense}.${gated ? "wi_0" : "wi"}.weight`),
    t5Row(`${stack}.#.ffn.linear.weight`, `${dense}.wi_1.weight`),
    t5Row(`${stack}.#.ffn.out.weight`, `${dense}.wo.weight`),
    t5Row(`${stack}.#.ffn.norm.gain`, `${layer}.${ffn}.layer_norm.weight`),
    t5Row(`${stack}.norm.gain`, `${stack}.final_layer_norm.weight`),
  ];
}

function t5Row(ours: string, theirs: string): Row {
  return [ours, theirs, theirs];
}

function t5Table(gated: boolean): readonly Row[] {
  return [
    t5Row("embed.tokens", "shared.weight"),
    ...t5LayerRows("encoder", gated),
    ...t5LayerRows("decoder", gated),
    t5Row("clm.tokens", "lm_head.weight"),
  ];
}

/** Other names under which a file may hold the token table again, or alone. */
const TIED: Readonly<Record<Scheme, readonly string[]>> = {
  reference: ["decoder.embed_tokens.weight", "decoder.output_projection.weight"],
  release: ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"],
};

/** A parameter in another scheme. */
export interface ForeignTensor {
  /** Its name there. */
  name: string;
  /** Its shape there. */
  shape: readonly number[];
  /** Whether it is our matrix transposed. */
  transposed: boolean;
  /** Further names of the same tensor: a file may hold it under any of them, or under several. */
  aliases?: readonly string[];
}

/**
 * What another scheme calls the parameters of a model, in order.
 *
 * @param parts which parts to name; the release has `main` alone
 * @returns by our name
 * @throws {Error} if the scheme has no name for a parameter
 *
 * @example
 * ```ts
 * import { foreignNames, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const names = foreignNames(preset("base").model, "release", ["main"]);
 * assert.deepEqual(names.get("encoder.3.ffn.in.weight"), {
 *   name: "encoder.block.3.layer.1.DenseReluDense.wi.weight",
 *   shape: [3072, 768],
 *   transposed: true,
 * });
 * ```
 */
export function foreignNames(
  config: ModelConfig,
  scheme: "reference" | "release",
  parts: readonly Part[],
): Map<string, ForeignTensor> {
  const column = scheme === "reference" ? 1 : 2;
  const table = isT5(config) ? t5Table(config.t5.feedForward === "gated-gelu") : TABLE;
  const byOurs = new Map(table.map((row) => [row[0], row[column]]));
  const names = new Map<string, ForeignTensor>();
  for (const [ours, shape] of parameterShapes(config, parts)) {
    const [, before, layer, after] = /^(\w+\.)(\d+)(\..*)$/.exec(ours) ?? [, ours, "", ""];
    const pattern = byOurs.get(layer ? `${before}#${after}` : ours);
    if (!pattern) throw new Error(`names: the ${scheme} scheme has no name for ${ours}`);
    const transposed = ours.endsWith(".weight");
    names.set(ours, {
      name: pattern.replace("#", layer!),
      shape: transposed ? shape.toReversed() : shape,
      transposed,
      ...(ours === "embed.tokens" && { aliases: tokenAliases(config, scheme) }),
    });
  }
  return names;
}

function tokenAliases(config: ModelConfig, scheme: Scheme): readonly string[] {
  if (!isT5(config)) return TIED[scheme];
  return config.t5.tiedHead
    ? TIED.release
    : TIED.release.filter((name) => name !== "lm_head.weight");
}

/**
 * Every name that a file in another scheme may hold, with its shape: the structure of a checkpoint without
 * its weights. Tied tensors count under each of their names.
 *
 * @example
 * ```ts
 * import { foreignShapes } from "./names.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const shapes = foreignShapes(preset("base").model, "release", ["main"]);
 * assert.equal(shapes.size, 526);
 * assert.deepEqual(shapes.get("lm_head.weight"), [33_280, 768]);
 * ```
 */
export function foreignShapes(
  config: ModelConfig,
  scheme: Scheme,
  parts: readonly Part[],
): Map<string, readonly number[]> {
  const foreign = foreignNames(config, scheme, parts);
  const names = ourNames(config, scheme, parts);
  return new Map(Array.from(names, ([theirs, ours]) => [theirs, foreign.get(ours)!.shape]));
}

/**
 * Our names for the tensors of a file in another scheme.
 *
 * @returns by their name; the names of tied copies of the token table included
 *
 * @example
 * ```ts
 * import { ourNames, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const names = ourNames(preset("base").model, "release", ["main"]);
 * assert.equal(names.get("lm_head.weight"), "embed.tokens");
 * assert.equal(names.get("decoder.block.0.layer.1.EncDecAttention.o.bias"), "decoder.0.cross.out.bias");
 * ```
 */
export function ourNames(
  config: ModelConfig,
  scheme: "reference" | "release",
  parts: readonly Part[],
): Map<string, string> {
  const names = new Map<string, string>();
  for (const [ours, { name, aliases = [] }] of foreignNames(config, scheme, parts)) {
    for (const theirs of [name, ...aliases]) names.set(theirs, ours);
  }
  for (const [name, ours] of sharedNames(config, scheme, parts)) names.set(name, ours);
  return names;
}

/** The names, with ours, of the copies that the reference keeps of what the auxiliary model shares. */
function sharedNames(
  config: ModelConfig,
  scheme: Scheme,
  parts: readonly Part[],
): [theirs: string, ours: string][] {
  if (scheme !== "reference" || !parts.includes("aux") || config.auxLayers === 0) return [];
  const token = config.share === "none" ? "aux.embed.tokens" : "embed.tokens";
  const names: [string, string][] = [
    [`${AUX}.embed_tokens.weight`, token],
    ["generator.lm_head.weight", token],
  ];
  if (config.share.startsWith("token_pos")) {
    names.push([`${AUX}.embed_positions.weight`, "encoder.embed.positions"]);
  }
  if (config.share === "token_pos_norm") {
    names.push([`${AUX}.layernorm_embedding.weight`, "encoder.embed.norm.gain"]);
    names.push([`${AUX}.layernorm_embedding.bias`, "encoder.embed.norm.bias"]);
  }
  return names;
}

/**
 * A matrix with rows and columns exchanged.
 *
 * @param values row-major, [rows, columns]
 * @returns row-major, [columns, rows]
 *
 * @example
 * ```ts
 * import { transpose } from "./names.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(transpose(Float32Array.of(1, 2, 3, 4, 5, 6), 2, 3), Float32Array.of(1, 4, 2, 5, 3, 6));
 * ```
 */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) result[c * rows + r] = values[r * columns + c];
  }
  return result;
}
