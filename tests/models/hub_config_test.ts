/** `config.json` of the Hub, read and written. */
import assert from "node:assert/strict";
import { isT5, type ModelConfig, specialIds, type T5Model } from "../../models/config.ts";
import { hubConfig, modelFromHubConfig } from "../../models/hub_config.ts";
import { parameterCount, parameterShapes } from "../../models/parameters.ts";
import { preset } from "../../models/presets.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { goldenJson, hasGolden } from "./golden.ts";

/** What published models say; what else they say does not bear on the model. */
const METRO = {
  model_type: "fairseq_t5",
  architectures: ["FairseqT5ForConditionalGeneration"],
  vocab_size: 64_512,
  d_model: 1024,
  d_kv: 64,
  d_ff: 4096,
  num_layers: 24,
  num_decoder_layers: 24,
  num_heads: 16,
  relative_attention_num_buckets: 128,
  relative_attention_max_distance: 128,
  max_positions: 1024,
  dropout_rate: 0.1,
  layer_norm_epsilon: 1e-5,
  feed_forward_proj: "relu",
  pad_token_id: 1,
  eos_token_id: 2,
  decoder_start_token_id: 2,
};
const T5_SMALL = {
  model_type: "t5",
  vocab_size: 32_128,
  d_model: 512,
  d_kv: 64,
  d_ff: 2048,
  num_layers: 6,
  num_heads: 8,
  n_positions: 512,
  relative_attention_num_buckets: 32,
  dropout_rate: 0.1,
  layer_norm_epsilon: 1e-6,
  pad_token_id: 0,
  eos_token_id: 1,
  decoder_start_token_id: 0,
};
/** T0_3B and T5 1.1 XL. */
const T5_XL = {
  ...T5_SMALL,
  d_model: 2048,
  d_ff: 5120,
  num_layers: 24,
  num_decoder_layers: 24,
  num_heads: 32,
  feed_forward_proj: "gated-gelu",
  tie_word_embeddings: false,
};

const t5 = (json: object) => modelFromHubConfig(json) as T5Model;

Deno.test("modelFromHubConfig: a released METRO is its preset, without what was not released", () => {
  const { model } = preset("large++", "release");
  assert.deepEqual(modelFromHubConfig(METRO), {
    ...model,
    auxLayers: 0,
    share: "none",
    rtdHead: "none",
    mlmHead: "linear",
  });
  assert.equal(parameterCount(modelFromHubConfig(METRO)), 773_644_288);
  const far = modelFromHubConfig(METRO, { relativeMaxDistance: 256 });
  assert.equal(far.relativeMaxDistance, 256);
});

Deno.test("modelFromHubConfig: T5 1.0 by the library's defaults, and T0 3B", () => {
  assert.deepEqual(t5(T5_SMALL).t5, {
    headWidth: 64,
    feedForward: "relu",
    tiedHead: true,
    scaleOutputs: true,
    relativeTables: "stack",
    pad: 0,
    eos: 1,
    start: 0,
  });
  assert.equal(t5(T5_SMALL).decoderLayers, 6);
  // As published.
  assert.equal(parameterCount(t5(T5_SMALL)), 60_506_624);
  assert.equal(parameterCount(t5(T5_XL)), 2_849_757_184);
  assert.deepEqual(t5(T5_XL).t5.feedForward, "gated-gelu");
  assert.ok(parameterShapes(t5(T5_XL)).has("clm.tokens"));
});

Deno.test("modelFromHubConfig: other special ids are kept, as code models have them", () => {
  const model = t5({ ...T5_SMALL, eos_token_id: 2 });
  assert.deepEqual(specialIds(model), { pad: 0, eos: 2, start: 0 });
});

// What each version writes and reads, by hand: until 4, tied tables and scaled outputs are one setting; from 5
// on, tables are tied unless the weights say otherwise, and outputs scaled unless a field says otherwise.
for (
  const [tie, scale, ownHead, tiedHead, scaleOutputs] of [
    [undefined, undefined, undefined, true, true],
    [undefined, undefined, false, true, true],
    [true, undefined, undefined, true, true],
    [true, undefined, true, false, true],
    [true, true, false, true, true],
    [true, false, undefined, false, false],
    [true, false, true, false, false],
    [true, false, false, true, false],
    [undefined, false, true, false, false],
    [null, true, true, false, true],
    [false, undefined, undefined, false, false],
    [false, undefined, true, false, false],
    [false, undefined, false, false, false],
    [false, true, true, false, true],
  ] as const
) {
  const fields = { tie_word_embeddings: tie, scale_decoder_outputs: scale };
  Deno.test(`modelFromHubConfig: ${JSON.stringify(fields)}, own head: ${ownHead}`, () => {
    for (const model_type of ["t5", "umt5"]) {
      const { t5 } = modelFromHubConfig({ ...T5_SMALL, ...fields, model_type }, {
        ownHead,
      }) as T5Model;
      assert.deepEqual([t5.tiedHead, t5.scaleOutputs], [tiedHead, scaleOutputs]);
    }
  });
}

Deno.test("modelFromHubConfig: an output table of which the configuration says nothing", () => {
  const message = /^config\.json: scale_decoder_outputs: missing; the weights have an output table/;
  assert.throws(() => modelFromHubConfig(T5_SMALL, { ownHead: true }), {
    name: "UserError",
    message,
  });
});

Deno.test("modelFromHubConfig: what version 5 writes besides changes nothing", () => {
  const besides = {
    dtype: "float32",
    eos_token_id: [1],
    is_decoder: false,
    is_gated_act: true,
    dense_act_fn: "gelu_new",
    use_cache: true,
    classifier_dropout: 0.0,
    transformers_version: "5.18.0",
    hidden_size: 2048,
    quantization_config: null,
  };
  assert.deepEqual(t5({ ...T5_XL, ...besides }), t5(T5_XL));
  const { d_model: hidden_size, num_layers: num_hidden_layers, d_kv: head_dim, ...rest } = T5_XL;
  assert.deepEqual(t5({ ...rest, hidden_size, num_hidden_layers, head_dim }), t5(T5_XL));
  assert.deepEqual(modelFromHubConfig({ ...METRO, eos_token_id: [2] }), modelFromHubConfig(METRO));
});

Deno.test("modelFromHubConfig: UMT5 has a relative table in every layer", () => {
  const model = t5({ ...T5_SMALL, model_type: "umt5", tie_word_embeddings: false });
  assert.equal(model.t5.feedForward, "gated-gelu");
  const tables = [...parameterShapes(model).keys()].filter((name) => name.endsWith(".relative"));
  assert.equal(tables.length, 12);
});

for (
  const [json, message] of [
    [null, "config.json: expected an object, got null"],
    [[], "config.json: expected an object, got []"],
    [{}, "config.json: model_type: missing; is it the config.json of a model?"],
    [
      { ...METRO, model_type: "bert" },
      'model_type: expected one of fairseq_t5, t5, umt5, got "bert"',
    ],
    [{ ...METRO, d_model: "1024" }, 'd_model: expected an integer of at least 0, got "1024"'],
    [{ ...METRO, num_layers: undefined }, "num_layers: missing"],
    [{ ...METRO, d_kv: 32 }, "d_kv: expected 64, got 32"],
    [{ ...METRO, num_heads: 10 }, "d_kv: expected 102.4, got 64"],
    [{ ...METRO, feed_forward_proj: "gated-gelu" }, 'feed_forward_proj: expected "relu"'],
    [{ ...METRO, tie_word_embeddings: false }, "tie_word_embeddings: expected true, got false"],
    [{ ...METRO, pad_token_id: 0 }, "pad_token_id: expected 1, got 0"],
    [{ ...METRO, decoder_start_token_id: 0 }, "decoder_start_token_id: expected 2, got 0"],
    [{ ...METRO, layer_norm_epsilon: 0 }, "layerNormEps: expected a positive number, got 0"],
    [{ ...METRO, max_positions: 2000 }, "positionRows: expected an integer of at least"],
    [{ ...METRO, dropout_rate: 1 }, "dropout: expected a number in [0, 1), got 1"],
    [{ ...T5_SMALL, d_ff: 0 }, "dFf: expected a positive integer, got 0"],
    [
      { ...T5_SMALL, vocab_size: 1e15 },
      "vocabSize: expected at most 4194304, got 1000000000000000",
    ],
    [{ ...T5_SMALL, num_layers: 1e9 }, "encoderLayers: expected at most 1000, got 1000000000"],
    [{ ...T5_SMALL, d_model: NaN }, "d_model: expected an integer of at least 0, got null"],
    [{ ...METRO, num_layers: 1.5 }, "num_layers: expected an integer of at least 0, got 1.5"],
    [{ ...T5_SMALL, d_kv: 129 }, "headWidth: expected a positive integer of at most 128, got 129"],
    [{ ...T5_SMALL, d_model: 510 }, "dModel: expected a multiple of 4, which kernels read"],
    [{ ...METRO, num_heads: 4, d_kv: 256 }, "heads: expected at least 8, so that none is wider"],
    [
      { ...T5_SMALL, feed_forward_proj: "gated-silu" },
      'feed_forward_proj: expected one of relu, gated-gelu, got "gated-silu"',
    ],
    [{ ...T5_SMALL, eos_token_id: [1, 7] }, "eos_token_id: expected one id, got [1,7]"],
    [{ ...T5_SMALL, eos_token_id: [] }, "eos_token_id: expected one id, got []"],
    [{ ...METRO, eos_token_id: [1] }, "eos_token_id: expected 2, got [1]"],
    [{ ...T5_SMALL, scale_decoder_outputs: 1 }, "scale_decoder_outputs: expected true or false"],
    [{ ...T5_SMALL, dense_act_fn: "gelu" }, 'dense_act_fn: expected "relu", got "gelu"'],
    [{ ...T5_XL, dense_act_fn: "silu" }, 'dense_act_fn: expected "gelu_new", got "silu"'],
    [{ ...T5_XL, is_gated_act: false }, "is_gated_act: expected true, got false"],
    [{ ...T5_SMALL, hidden_size: 768 }, "hidden_size: expected 512, got 768"],
    [{ ...T5_SMALL, is_decoder: true }, "is_decoder: expected false, got true"],
    [{ ...T5_SMALL, is_encoder_decoder: false }, "is_encoder_decoder: expected true, got false"],
    [{ ...METRO, tie_encoder_decoder: true }, "tie_encoder_decoder: expected false, got true"],
    [{ ...T5_SMALL, quantization_config: { bits: 8 } }, "quantization_config: expected none"],
    [{ ...METRO, per_layer_config: [1] }, "per_layer_config: expected none"],
    [{ ...T5_SMALL, tie_word_embeddings: "no" }, "tie_word_embeddings: expected true or false"],
    [{ ...T5_SMALL, eos_token_id: 50_000 }, "eos: expected an id below 32128, got 50000"],
    [
      { ...T5_SMALL, relative_attention_num_buckets: 30 },
      "relativeBuckets: expected a multiple of 4",
    ],
  ] as [unknown, string][]
) {
  Deno.test(`modelFromHubConfig: ${message}`, () => {
    assert.throws(() => modelFromHubConfig(json), (error: Error) => {
      assert.ok(error instanceof UserError && error.message.startsWith("config.json: "));
      assert.ok(error.message.includes(message), error.message);
      return true;
    });
  });
}

Deno.test("hubConfig: what it writes is read as it was", () => {
  const tiny = preset("tiny").model;
  const trained: ModelConfig = {
    ...tiny,
    auxLayers: 0,
    auxDropout: 0,
    share: "none",
    rtdHead: "none",
    mlmHead: "linear",
    clmHead: "linear",
  };
  const umt5 = t5({ ...T5_XL, model_type: "umt5" });
  const untied = { ...t5(T5_SMALL), t5: { ...t5(T5_SMALL).t5, tiedHead: false } };
  const unscaled = { ...t5(T5_XL), t5: { ...t5(T5_XL).t5, tiedHead: true } };
  const T5S = [t5(T5_SMALL), t5(T5_XL), umt5, untied, unscaled];
  for (const model of [trained, modelFromHubConfig(METRO), ...T5S]) {
    const json = JSON.parse(JSON.stringify(hubConfig(model)));
    const ownHead = isT5(model) && !model.t5.tiedHead;
    assert.deepEqual(modelFromHubConfig(json, { ownHead }), model);
    assert.equal(json.model_type, model === umt5 ? "umt5" : isT5(model) ? "t5" : "fairseq_t5");
  }
  assert.throws(() => hubConfig(tiny), /clmHead: expected linear/);
  const short = { ...trained, maxPositions: 62, positionRows: 64 };
  assert.throws(() => hubConfig(short), /positionRows: expected 1026/);
});

Deno.test({
  name: "hubConfig: says of golden models what their own files say",
  ignore: !hasGolden,
  fn() {
    for (const folder of ["metro_hf/tiny_large_buckets", "t5_hf/t5_v1_1_gated_untied"]) {
      const theirs = goldenJson<Record<string, unknown>>(`${folder}/config.json`);
      const ours = hubConfig(modelFromHubConfig(theirs));
      for (const [field, value] of Object.entries(theirs)) assert.deepEqual(ours[field], value);
    }
  },
});
