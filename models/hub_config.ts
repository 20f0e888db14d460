/**
 * Configurations as models on the Hugging Face Hub carry them, in both directions: the released METRO-T0
 * (`fairseq_t5`), the T5 family with T0 and Flan-T5 (`t5`), and UMT5 (`umt5`).
 *
 * @module
 */

import { UserError } from "../ops/graph/errors.ts";
import {
  attentionWidth,
  checkModelConfig,
  FEED_FORWARDS,
  FIRST_ORDINARY,
  isT5,
  type MetroModel,
  type ModelConfig,
  SPECIAL,
  specialIds,
  type T5Model,
} from "./config.ts";
import { isRecord, shown } from "./formats/untrusted.ts";

/** What to believe rather than the configuration. */
interface HubConfigOptions {
  relativeMaxDistance?: number;
  ownHead?: boolean;
}

/** Sentinels at the end of the released vocabularies. */
const SENTINELS = 512;
/** Rows of the position tables in the released code, whatever `max_positions` says. */
const POSITION_ROWS = 1026;
/** Fields that would change what the weights are, or a layer. */
const UNKNOWN = ["quantization_config", "per_layer_config"] as const;
/** Longest sequence that we give to a T5, which has no limit of its own. */
const T5_POSITIONS = 4096;

/**
 * The model that a `config.json` of the Hub describes.
 *
 * @param json its contents
 * @param options `relativeMaxDistance`: distance from which all relative positions share the last bucket, where
 *   the configuration is not to be believed: those of large METRO models say 128, and they may have been
 *   pretrained with 256; `ownHead`: whether the weights of a T5 hold an output table that differs from the token
 *   table. Version 5 of the library says of all of them that both are tied, and looks. Unless given, output
 *   tables are taken to be separate where the configuration says so, or that outputs are not scaled
 * @throws {UserError} naming the field that is missing, wrong, or asks for what there is not
 *
 * @example
 * ```ts
 * import { hubConfig, modelFromHubConfig, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("large++", "release");
 * const read = modelFromHubConfig(hubConfig(model));
 * assert.deepEqual([read.encoderLayers, read.relativeMaxDistance], [24, 128]);
 * ```
 */
export function modelFromHubConfig(
  json: unknown,
  options: { relativeMaxDistance?: number; ownHead?: boolean } = {},
): ModelConfig {
  if (!isRecord(json)) throw new UserError(`config.json: expected an object, got ${quoted(json)}`);
  const fields = new Fields(json);
  const kind = fields.oneOf("model_type", ["fairseq_t5", "t5", "umt5"]);
  for (const name of UNKNOWN) fields.absent(name);
  fields.only("is_encoder_decoder", true, { orAbsent: true });
  fields.only("is_decoder", false, { orAbsent: true });
  fields.only("tie_encoder_decoder", false, { orAbsent: true });
  const model = kind === "fairseq_t5" ? readMetro(fields, options) : readT5(fields, kind, options);
  try {
    checkModelConfig(model);
  } catch (error) {
    if (error instanceof UserError) throw new UserError(`config.json: ${error.message}`);
    throw error;
  }
  return model;
}

function readMetro(fields: Fields, options: HubConfigOptions): MetroModel {
  const sizes = readSizes(fields, options);
  const { dModel, heads, vocabSize } = sizes;
  fields.only("d_kv", dModel / heads, { orAbsent: true });
  fields.only("feed_forward_proj", "relu", { orAbsent: true });
  checkActivation(fields, "relu");
  fields.only("tie_word_embeddings", true, { orAbsent: true });
  fields.only("pad_token_id", SPECIAL.pad);
  fields.only("eos_token_id", SPECIAL.eos, { orList: true });
  fields.only("decoder_start_token_id", SPECIAL.eos);
  return {
    ...sizes,
    sentinels: fields.count("num_sentinels", Math.min(SENTINELS, vocabSize - FIRST_ORDINARY)),
    maxPositions: fields.count("max_positions"),
    positionRows: POSITION_ROWS,
    layerNormEps: fields.number("layer_norm_epsilon", 1e-5),
  };
}

function readT5(fields: Fields, kind: "t5" | "umt5", options: HubConfigOptions): T5Model {
  const pad = fields.count("pad_token_id", 0);
  const feedForward = fields.oneOf(
    "feed_forward_proj",
    FEED_FORWARDS,
    kind === "t5" ? "relu" : "gated-gelu",
  );
  checkActivation(fields, feedForward);
  return {
    ...readSizes(fields, options),
    sentinels: 0,
    maxPositions: T5_POSITIONS,
    positionRows: T5_POSITIONS + 2,
    layerNormEps: fields.number("layer_norm_epsilon", 1e-6),
    t5: {
      headWidth: fields.count("d_kv", 64, "head_dim"),
      feedForward,
      ...readHead(fields, options),
      relativeTables: kind === "t5" ? "stack" : "layer",
      pad,
      eos: fields.id("eos_token_id", 1),
      start: fields.count("decoder_start_token_id", pad),
    },
  };
}

/**
 * The output map. Until version 4 of the library `tie_word_embeddings` says both whether there is a table of its
 * own and whether outputs are scaled; from 5 on it is always true, the weights tell the one and
 * `scale_decoder_outputs` the other.
 */
function readHead(
  fields: Fields,
  { ownHead }: HubConfigOptions,
): Pick<T5Model["t5"], "tiedHead" | "scaleOutputs"> {
  const tie = fields.optionalFlag("tie_word_embeddings");
  const scale = fields.optionalFlag("scale_decoder_outputs");
  if (ownHead && tie === undefined && scale === undefined) {
    throw new UserError(
      "config.json: scale_decoder_outputs: missing; the weights have an output table of their own, so expected " +
        "it, true or false, or tie_word_embeddings",
    );
  }
  const own = tie === false || (ownHead ?? scale === false);
  return { tiedHead: !own, scaleOutputs: scale ?? tie !== false };
}

/** Two fields that follow from `feed_forward_proj`, and overrule it in the library. */
function checkActivation(fields: Fields, feedForward: T5Model["t5"]["feedForward"]): void {
  const gated = feedForward === "gated-gelu";
  fields.only("dense_act_fn", gated ? "gelu_new" : "relu", { orAbsent: true });
  fields.only("is_gated_act", gated, { orAbsent: true });
}

/** What both kinds have, under the same names; and no more than a main model. */
function readSizes(fields: Fields, { relativeMaxDistance }: HubConfigOptions) {
  const encoderLayers = fields.count("num_layers", undefined, "num_hidden_layers");
  return {
    vocabSize: fields.count("vocab_size"),
    dModel: fields.count("d_model", undefined, "hidden_size"),
    heads: fields.count("num_heads", undefined, "num_attention_heads"),
    dFf: fields.count("d_ff"),
    encoderLayers,
    decoderLayers: fields.count("num_decoder_layers", encoderLayers),
    relativeBuckets: fields.count("relative_attention_num_buckets", 32),
    relativeMaxDistance: relativeMaxDistance ??
      fields.count("relative_attention_max_distance", 128),
    dropout: fields.number("dropout_rate", 0.1),
    auxLayers: 0,
    auxDropout: 0,
    share: "none",
    rtdHead: "none",
    mlmHead: "linear",
    clmHead: "linear",
  } as const;
}

/** The fields of a configuration, checked one by one. What is absent or null has the library's default. */
class Fields {
  readonly #json: Readonly<Record<string, unknown>>;

  constructor(json: Readonly<Record<string, unknown>>) {
    this.#json = json;
  }

  /** @param alias another name of the field; where both are there, they must agree */
  count(name: string, otherwise?: number, alias?: string): number {
    const aliased = alias === undefined ? undefined : this.#json[alias] ?? undefined;
    const isCount = (x: unknown) => Number.isSafeInteger(x) && x as number >= 0;
    const value = this.#read(
      name,
      (aliased as number | undefined) ?? otherwise,
      "an integer of at least 0",
      isCount,
    );
    if (aliased !== undefined) this.only(alias!, value);
    return value;
  }

  /** An id, or a list of one: the library knows models with several. */
  id(name: string, otherwise: number): number {
    const isId = (x: unknown) => Number.isSafeInteger(x) && x as number >= 0;
    const one = (x: unknown) => Array.isArray(x) && x.length === 1 ? x[0] : x;
    const value = this.#read<unknown>(name, otherwise, "one id", (x) => isId(one(x)));
    return one(value) as number;
  }

  number(name: string, otherwise?: number): number {
    return this.#read(name, otherwise, "a number", Number.isFinite);
  }

  flag(name: string, otherwise?: boolean): boolean {
    return this.#read(name, otherwise, "true or false", (x) => typeof x === "boolean");
  }

  optionalFlag(name: string): boolean | undefined {
    return (this.#json[name] ?? undefined) === undefined ? undefined : this.flag(name);
  }

  oneOf<T extends string>(name: string, choices: readonly T[], otherwise?: T): T {
    const expected = choices.length === 1 ? choices[0] : `one of ${choices.join(", ")}`;
    return this.#read(name, otherwise, expected, (x) => choices.includes(x as T));
  }

  /** A field that says what the code does anyway; with `orList`, also as a list of one. */
  only<T>(name: string, value: T, { orAbsent = false, orList = false } = {}): void {
    const is = (x: unknown) =>
      x === value || orList && Array.isArray(x) && x.length === 1 && x[0] === value;
    const otherwise = orAbsent ? value : undefined;
    this.#read<unknown>(name, otherwise, JSON.stringify(value), is);
  }

  /** A field that asks for what there is not. */
  absent(name: string): void {
    const value = this.#json[name] ?? null;
    if (value !== null) {
      throw new UserError(
        `config.json: ${name}: expected none, which is all that is known here, got ${
          quoted(value)
        }`,
      );
    }
  }

  #read<T>(name: string, otherwise: T | undefined, expected: string, ok: (x: unknown) => boolean) {
    const value = this.#json[name] ?? otherwise;
    if (value === undefined) {
      throw new UserError(`config.json: ${name}: missing; is it the config.json of a model?`);
    }
    if (ok(value)) return value as T;
    throw new UserError(`config.json: ${name}: expected ${expected}, got ${quoted(value)}`);
  }
}

/** A text in its quotes: `"1"` is no number. */
function quoted(value: unknown): string {
  return shown(JSON.stringify(value));
}

/**
 * The `config.json` with which others read a model: METRO as released, by the released code; T5 by the
 * library itself.
 *
 * @throws {UserError} for a METRO model that the released code cannot express
 *
 * @example
 * ```ts
 * import { hubConfig, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const json = hubConfig(preset("base").model);
 * assert.deepEqual([json.model_type, json.d_kv, json.vocab_size], ["fairseq_t5", 64, 33_280]);
 * ```
 */
export function hubConfig(config: ModelConfig): Record<string, unknown> {
  const { pad, eos, start } = specialIds(config);
  const t5 = isT5(config) ? config.t5 : undefined;
  if (!t5) checkReleasable(config);
  const [architecture, type] = !t5
    ? ["FairseqT5", "fairseq_t5"]
    : t5.relativeTables === "stack"
    ? ["T5", "t5"]
    : ["UMT5", "umt5"];
  return {
    architectures: [`${architecture}ForConditionalGeneration`],
    model_type: type,
    is_encoder_decoder: true,
    vocab_size: config.vocabSize,
    d_model: config.dModel,
    d_kv: attentionWidth(config) / config.heads,
    d_ff: config.dFf,
    num_layers: config.encoderLayers,
    num_decoder_layers: config.decoderLayers,
    num_heads: config.heads,
    relative_attention_num_buckets: config.relativeBuckets,
    relative_attention_max_distance: config.relativeMaxDistance,
    ...(!t5 && { max_positions: config.maxPositions, num_sentinels: config.sentinels }),
    dropout_rate: config.dropout,
    layer_norm_epsilon: config.layerNormEps,
    feed_forward_proj: t5?.feedForward ?? "relu",
    // Version 5 of the library takes tables for tied if they are equal; older ones by this field.
    tie_word_embeddings: t5?.tiedHead ?? true,
    ...(t5 && { scale_decoder_outputs: t5.scaleOutputs }),
    pad_token_id: pad,
    eos_token_id: eos,
    decoder_start_token_id: start,
    [t5 ? "dtype" : "torch_dtype"]: "float32",
  };
}

/** The released code knows one head, and one size of its position tables. */
function checkReleasable({ clmHead, positionRows }: MetroModel): void {
  if (clmHead !== "linear") {
    throw new UserError(`clmHead: expected linear, which the released code knows, got ${clmHead}`);
  }
  if (positionRows !== POSITION_ROWS) {
    throw new UserError(
      `positionRows: expected ${POSITION_ROWS}, as in the released code, got ${positionRows}`,
    );
  }
}
