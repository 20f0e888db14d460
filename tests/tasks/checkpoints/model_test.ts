// Models that are no runs: published checkpoints, under every naming and in every file layout, load to the
// same parameters; files that do not belong together are refused, by name.

import assert from "node:assert/strict";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isT5, type ModelConfig, type T5Model } from "../../../models/config.ts";
import { generate } from "../../../tasks/generate/generate.ts";
import { loadModel, readModel } from "../../../tasks/checkpoints/model.ts";
import { rank } from "../../../tasks/evaluate/rank.ts";
import { openDevice } from "../../../ops/mod.ts";
import { cpuTest } from "../../device.ts";
import { goldenModel, goldenPath, hasGolden } from "../../models/golden.ts";
import {
  bench,
  type FileTensors,
  METRO,
  metroTokenizer,
  randomTensors,
  T5,
  T5_GATED,
  t5Tokenizer,
  UMT5,
  writeCheckpoint,
  writeTensorFile,
} from "../small_checkpoint.ts";

const { device, newFolder } = bench("model-");
const checkpoint = (config: ModelConfig, tensors?: FileTensors) =>
  writeCheckpoint(newFolder(), config, tensors);

/** What a folder's model holds on the device, by our names. */
async function loaded(folder: string): Promise<Record<string, Float32Array>> {
  const model = await loadModel(device(), folder);
  const values: Record<string, Float32Array> = {};
  for (const name of model.parameters.names) values[name] = await model.parameters.read(name);
  model.destroy();
  return values;
}

const KINDS = { METRO, "T5 1.0": T5, "T5 1.1": T5_GATED, UMT5 };

// ---- What loads ----

const GOLDEN = [
  "metro_hf/tiny",
  "metro_hf/tiny_large_buckets",
  "t5_hf/t5_relu_tied",
  "t5_hf/t5_v1_1_gated_untied",
];
if (!hasGolden) console.log("models: the reference's checkpoints are not here, skipping them");

for (const name of GOLDEN) {
  cpuTest(`${name}: every file of it loads to the same parameters`, async () => {
    const { config, weights } = goldenModel(name);
    for (const file of ["model.safetensors", "pytorch_model.bin"]) {
      if (file.endsWith(".bin") && name !== "metro_hf/tiny") continue;
      const folder = newFolder();
      await mkdir(folder);
      for (const part of ["config.json", file]) {
        await cp(join(goldenPath(name), part), join(folder, part));
      }
      const json = isT5(config) ? t5Tokenizer() : metroTokenizer(config.vocabSize);
      await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
      assert.deepEqual(await loaded(folder), weights);
      const model = await loadModel(device(), folder);
      const [source, target] = isT5(config)
        ? [512, 256]
        : [config.maxPositions, Math.min(256, config.maxPositions)];
      const { start, maxSource, maxTarget } = model;
      assert.deepEqual([start, maxSource, maxTarget], [isT5(config) ? 0 : 2, source, target]);
      model.destroy();
    }
  }, { ignore: !hasGolden });
}

for (const [kind, config] of Object.entries(KINDS)) {
  cpuTest(
    `${kind}: published names, shards, and tied copies give the same parameters`,
    async () => {
      const tensors = randomTensors(config);
      const expected = await loaded(await checkpoint(config, tensors));
      assert.ok(Object.values(expected).every((values) => values.some((x) => x !== 0)));

      const tied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];
      const untied = isT5(config) && !config.t5.tiedHead;
      const copies = new Map(tensors);
      for (const name of untied ? tied : [...tied, "lm_head.weight"]) {
        copies.set(name, tensors.get("shared.weight")!);
      }
      assert.deepEqual(await loaded(await checkpoint(config, copies)), expected);
      for (const name of tied) {
        const renamed = new Map(tensors);
        renamed.set(name, tensors.get("shared.weight")!);
        renamed.delete("shared.weight");
        assert.deepEqual(await loaded(await checkpoint(config, renamed)), expected, name);
      }

      const sharded = await checkpoint(config);
      await rm(join(sharded, "model.safetensors"));
      const weight_map: Record<string, string> = {};
      for (const shard of [0, 1, 2]) {
        const file = `model-${shard + 1}.safetensors`;
        const part = new Map([...copies].filter((_, i) => i % 3 === shard));
        for (const name of part.keys()) weight_map[name] = file;
        await writeTensorFile(join(sharded, file), part);
      }
      const index = join(sharded, "model.safetensors.index.json");
      await writeFile(index, JSON.stringify({ metadata: {}, weight_map }));
      assert.deepEqual(await loaded(sharded), expected);
    },
  );
}

/** Changes fields of a folder's configuration; what is undefined goes. */
async function changeConfig(folder: string, change: object, file = "config.json"): Promise<string> {
  const path = join(folder, file);
  const json = JSON.parse(await readFile(path, "utf8").catch(() => "{}"));
  await writeFile(path, JSON.stringify({ ...json, ...change }));
  return folder;
}

cpuTest(
  "T5 as version 5 of Hugging Face's library writes it: the weights say what is tied",
  async () => {
    const always = { tie_word_embeddings: true, eos_token_id: [1], dtype: "float32" };
    const written = async (config: T5Model, scale: boolean, change: (t: FileTensors) => void) => {
      const tensors = randomTensors(config);
      change(tensors);
      const folder = await checkpoint(config, tensors);
      await changeConfig(folder, { ...always, scale_decoder_outputs: scale });
      return await changeConfig(
        folder,
        { eos_token_id: [1], do_sample: false },
        "generation_config.json",
      );
    };
    const headOf = async (folder: string) => {
      const { t5 } = (await readModel(folder)).config as T5Model;
      return [t5.tiedHead, t5.scaleOutputs];
    };
    const copied = (t: FileTensors) => t.set("lm_head.weight", t.get("shared.weight")!);
    const dropped = (t: FileTensors) => t.delete("lm_head.weight");
    const asIs = () => {};

    const own = await written(T5_GATED, false, asIs);
    assert.deepEqual(await headOf(own), [false, false]);
    assert.deepEqual(await loaded(own), await loaded(await checkpoint(T5_GATED)));
    assert.deepEqual(await headOf(await written(UMT5, false, asIs)), [false, false]);
    assert.deepEqual(await headOf(await written(T5_GATED, true, asIs)), [false, true]);
    for (const change of [copied, dropped]) {
      const one = await written(T5_GATED, false, change);
      assert.deepEqual(await headOf(one), [true, false]);
      assert.equal("clm.tokens" in await loaded(one), false);
    }
    assert.deepEqual(await headOf(await written(T5, true, asIs)), [true, true]);
    // The head alone is the table, whatever it is called.
    const alone = (t: FileTensors) => {
      copied(t);
      t.delete("shared.weight");
    };
    assert.deepEqual(await headOf(await written(T5, true, alone)), [true, true]);
  },
);

Deno.test("refused: generation_config.json with other ids than config.json", async () => {
  for (const field of ["eos_token_id", "pad_token_id", "decoder_start_token_id"]) {
    const folder = await changeConfig(
      await checkpoint(T5),
      { [field]: 5 },
      "generation_config.json",
    );
    const message = new RegExp(
      `generation_config\\.json: ${field}: expected [01], as in config\\.json, got 5$`,
    );
    await assert.rejects(readModel(folder), { name: "UserError", message });
  }
});

Deno.test("a finetuned T5 of an older version, which says nothing of scaling, scales where it is tied", async () => {
  for (const model of [T5, T5_GATED]) {
    const folder = newFolder();
    await mkdir(folder);
    const { scaleOutputs, relativeTables: _, ...t5 } = model.t5;
    const config = {
      ...{ kind: "finetune", model: { ...model, t5 }, sourceLength: 64, targetLength: 32 },
      ...{ datasets: [], preset: "tiny", source: "code" },
    };
    await writeFile(join(folder, "config.json"), JSON.stringify(config));
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(t5Tokenizer()));
    await writeTensorFile(join(folder, "model.safetensors"), randomTensors(model, "reference"));
    const read = (await readModel(folder)).config as T5Model;
    assert.deepEqual([read.t5.scaleOutputs, read.t5.relativeTables], [scaleOutputs, "stack"]);
  }
});

cpuTest("METRO under fairseq's names, with what fairseq saves besides", async () => {
  const expected = await loaded(await checkpoint(METRO));
  const fairseq = randomTensors(METRO, "reference");
  const one = { shape: [1], values: Float32Array.of(3) };
  for (const name of ["encoder.version", "decoder.version", "rtd_head.bias"]) {
    fairseq.set(name, one);
  }
  fairseq.set("decoder.output_projection.weight", fairseq.get("encoder.embed_tokens.weight")!);
  assert.deepEqual(await loaded(await checkpoint(METRO, fairseq)), expected);
});

cpuTest("T5 1.0: the table that it has and never uses is no obstacle", async () => {
  const tensors = randomTensors(T5), expected = await loaded(await checkpoint(T5));
  tensors.set("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", {
    shape: [T5.relativeBuckets, T5.heads],
    values: new Float32Array(T5.relativeBuckets * T5.heads),
  });
  assert.deepEqual(await loaded(await checkpoint(T5, tensors)), expected);
});

cpuTest("rows that are no ids of T5's tokenizer can be chosen, and say nothing", async () => {
  const tensors = randomTensors(T5_GATED), table = tensors.get("lm_head.weight")!.values;
  // Only rows from 92 on are ever chosen, by a feature that every position has.
  table.fill(0);
  for (const name of ["encoder", "decoder"]) {
    tensors.get(`${name}.final_layer_norm.weight`)!.values.fill(1);
  }
  for (let row = 92; row < 96; row++) {
    for (let i = 0; i < 16; i++) table[row * 16 + i] = row % 2 === 0 ? 10 * (i + 1) : -10 * (i + 1);
  }
  const model = await loadModel(device(), await checkpoint(T5_GATED, tensors));
  assert.ok(model.tokenizer.rows <= 92);
  assert.equal(await generate(model, "yes?", { maxTokens: 5 }), "");
  model.destroy();
});

cpuTest("without a device: loadModel opens one, answers, and closes it", async () => {
  const model = await loadModel(await checkpoint(T5));
  assert.notEqual(model.device, device());
  const { best } = await rank(model, "Good or bad?", ["good", "bad"]);
  const again = await loadModel(device(), model.name);
  assert.equal((await rank(again, "Good or bad?", ["good", "bad"])).best, best);
  again.destroy();
  model.destroy();
  await assert.rejects(model.device.read(model.parameters.buffers[0], 0, 4));
});

cpuTest("a model larger than the processor's memory is refused in one line", async () => {
  const small = await openDevice({ adapter: "cpu", threads: 1, memoryBytes: (4 << 20) + 1024 });
  await assert.rejects(loadModel(small, await checkpoint(T5)), {
    name: "UserError",
    message: /^parameters 0 needs .* but there are 4 MiB of memory/,
  });
  small.destroy();
});

Deno.test("the distance of the last bucket can be set, and else is the config's", async () => {
  const folder = await checkpoint({ ...METRO, relativeBuckets: 128 });
  assert.equal((await readModel(folder)).config.relativeMaxDistance, 128);
  const { config } = await readModel(folder, { relativeMaxDistance: 256 });
  assert.equal(config.relativeMaxDistance, 256);
});

// ---- What is refused ----

const refusals: [what: string, config: ModelConfig, (t: FileTensors) => void, RegExp][] = [
  [
    "a missing tensor",
    METRO,
    (t) => t.delete("decoder.block.0.layer.1.EncDecAttention.o.bias"),
    /EncDecAttention\.o\.bias is missing; expected it with shape \[16\]$/,
  ],
  ["no token table", T5, (t) => t.delete("shared.weight"), /tensor shared\.weight is missing/],
  [
    "another shape",
    T5_GATED,
    (t) => {
      const wi = t.get("encoder.block.1.layer.1.DenseReluDense.wi_0.weight")!;
      wi.shape = wi.shape.toReversed();
    },
    /block\.1\S+wi_0\.weight: expected shape \[32,16\], got \[16,32\]/,
  ],
  [
    "a tensor too many",
    METRO,
    (t) =>
      t.set("encoder.block.2.layer.0.layer_norm.bias", t.get("encoder.first_layer_norm.bias")!),
    /encoder\.block\.2\S+ has no place in the model that config\.json describes/,
  ],
  [
    "a head that is not the token table",
    METRO,
    (t) => {
      const { shape, values } = t.get("shared.weight")!;
      t.set("lm_head.weight", { shape, values: values.with(1000, 7) });
    },
    /(lm_head|shared)\.weight and (lm_head|shared)\.weight are tied .* differ at element 1000;/,
  ],
];

for (const [what, config, change, message] of refusals) {
  cpuTest(`refused: ${what}`, async () => {
    const tensors = randomTensors(config);
    change(tensors);
    const folder = await checkpoint(config, tensors);
    await assert.rejects(loadModel(device(), folder), (error: Error) => {
      assert.equal(error.name, "UserError");
      assert.ok(error.message.startsWith(join(folder, "model.safetensors")), error.message);
      assert.match(error.message, message);
      return !error.message.includes("\n");
    });
  });
}

Deno.test("refused: a tokenizer or a config of another model", async () => {
  const refused = async (config: ModelConfig, json: object, message: RegExp) => {
    const folder = await checkpoint(config);
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
    await assert.rejects(readModel(folder), { name: "UserError", message });
  };
  await refused(METRO, metroTokenizer(91), /tokenizer has 91 ids .* 90 rows; expected as many/);
  await refused(METRO, metroTokenizer(89), /tokenizer has 89 ids .* 90 rows; expected as many/);
  await refused({ ...T5, vocabSize: 50 }, t5Tokenizer(), /expected at most as many ids$/);
  await refused(T5, metroTokenizer(), /pad is 1 for the tokenizer and 0 for config\.json/);

  const folder = await checkpoint(METRO), path = join(folder, "config.json");
  const json = JSON.parse(await readFile(path, "utf8"));
  await writeFile(path, JSON.stringify({ ...json, num_heads: 3 }));
  await assert.rejects(readModel(folder), { name: "UserError", message: /config\.json: d_kv/ });
  await rm(path);
  await assert.rejects(readModel(folder), { name: "UserError", message: /no config\.json in it/ });
});
