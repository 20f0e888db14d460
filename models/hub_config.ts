/**
 * Configurations as models on the Hugging Face Hub carry them, in both directions: the released METRO-T0
 * (`fairseq_t5`) and the T5 family with T0 and Flan-T5 (`t5`).
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
}

/** Sentinels at the end of the released vocabularies. */
const SENTINELS = 512;
/** Rows of the position tables in the released code, whatever `max_positions` says. */
const POSITION_ROWS = 1026;
/** Longest sequence that we give to a T5, which has no limit of its own. */
const T5_POSITIONS = 4096;

/**
 * The model that a `config.json` of the Hub describes.
 *
 * @param json its contents
 * @param options `relativeMaxDistance`: distance from which all relative positions share the last bucket, where
 *   the configuration is not to be believed: those of large METRO models say 128, and they may have been
 *   pretrained with 256
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
  options: { relativeMaxDistance?: number } = {},
): ModelConfig {
  if (!isRecord(json)) throw new UserError(`config.json: expected an object, got ${quoted(json)}`);
  const fields = new Fields(json);
  const kind = fields.oneOf("model_type", ["fairseq_t5", "t5"]);
  const model = kind === "t5" ? readT5(fields, options) : readMetro(fields, options);
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
  fields.only("tie_word_embeddings", true, { orAbsent: true });
  fields.only("pad_token_id", SPECIAL.pad);
  fields.only("eos_token_id", SPECIAL.eos);
  fields.only("decoder_start_token_id", SPECIAL.eos);
  return {
    ...sizes,
    sentinels: fields.count("num_sentinels", Math.min(SENTINELS, vocabSize - FIRST_ORDINARY)),
    maxPositions: fields.count("max_positions"),
    positionRows: POSITION_ROWS,
    layerNormEps: fields.number("layer_norm_epsilon", 1e-5),
  };
}

function readT5(fields: Fields, options: HubConfigOptions): T5Model {
  const pad = fields.count("pad_token_id", 0);
  return {
    ...readSizes(fields, options),
    sentinels: 0,
    maxPositions: T5_POSITIONS,
    positionRows: T5_POSITIONS + 2,
    layerNormEps: fields.number("layer_norm_epsilon", 1e-6),
    t5: {
      headWidth: fields.count("d_kv", 64),
      feedForward: fields.oneOf("feed_forward_proj", FEED_FORWARDS, "relu"),
      tiedHead: fields.flag("tie_word_embeddings", true),
      pad,
      eos: fields.count("eos_token_id", 1),
      start: fields.count("decoder_start_token_id", pad),
    },
  };
}

/** What both kinds have, under the same names; and no more than a main model. */
function readSizes(fields: Fields, { relativeMaxDistance }: HubConfigOptions) {
  const encoderLayers = fields.count("num_layers");
  return {
    vocabSize: fields.count("vocab_size"),
    dModel: fields.count("d_model"),
    heads: fields.count("num_heads"),
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

  count(name: string, otherwise?: number): number {
    return this.#read(name, otherwise, "an integer of at least 0", (x) => {
      return Number.isSafeInteger(x) && x as number >= 0;
    });
  }

  number(name: string, otherwise?: number): number {
    return this.#read(name, otherwise, "a number", Number.isFinite);
  }

  flag(name: string, otherwise?: boolean): boolean {
    return this.#read(name, otherwise, "true or false", (x) => typeof x === "boolean");
  }

  oneOf<T extends string>(name: string, choices: readonly T[], otherwise?: T): T {
    const expected = choices.length === 1 ? choices[0] : `one of ${choices.join(", ")}`;
    return this.#read(name, otherwise, expected, (x) => choices.includes(x as T));
  }

  /** A field that says what the code does anyway. */
  only<T>(name: string, value: T, { orAbsent = false } = {}): void {
    this.#read(name, orAbsent ? value : undefined, JSON.stringify(value), (x) => x === value);
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
  return {
    architectures: [t5 ? "T5ForConditionalGeneration" : "FairseqT5ForConditionalGeneration"],
    model_type: t5 ? "t5" : "fairseq_t5",
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
    tie_word_embeddings: t5?.tiedHead ?? true,
    pad_token_id: pad,
    eos_token_id: eos,
    decoder_start_token_id: start,
    torch_dtype: "float32",
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
