// Conversions: what a run or a checkpoint becomes has the published names and layout, loads to the same
// numbers, and is there whole or not at all.

import assert from "node:assert/strict";
import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { isT5, type ModelConfig } from "../../../models/config.ts";
import { modelFromHubConfig } from "../../../models/hub_config.ts";
import { foreignNames } from "../../../models/names.ts";
import { convertModel, convertTokenizer } from "../../../tasks/checkpoints/convert.ts";
import { generate } from "../../../tasks/generate/generate.ts";
import { loadModel } from "../../../tasks/checkpoints/model.ts";
import { loadTokenizer } from "../../../tasks/tokenizer/load.ts";
import { cpuTest } from "../../device.ts";
import { modelBytes } from "../tokenizer/sentencepiece_bytes.ts";
import {
  bench,
  METRO,
  metroTokenizer,
  randomTensors,
  readTensorFile,
  T5,
  T5_GATED,
  t5Tokenizer,
  UMT5,
  writeCheckpoint,
  writeTensorFile,
} from "../small_checkpoint.ts";

const { device, scratch, newFolder } = bench("convert-");

const KINDS: Record<string, ModelConfig> = {
  METRO,
  "T5 1.0": T5,
  "T5 1.1": T5_GATED,
  "T5 1.1 with one table": { ...T5_GATED, t5: { ...T5_GATED.t5, tiedHead: true } },
  UMT5,
};

/** A folder like that of a finetuning run. */
async function writeRun(model: ModelConfig): Promise<string> {
  const run = newFolder(), json = isT5(model) ? t5Tokenizer() : metroTokenizer();
  await mkdir(run);
  const lengths = { sourceLength: 64, targetLength: 32 };
  const config = {
    kind: "finetune",
    model,
    ...lengths,
    datasets: [],
    preset: "tiny",
    source: "code",
  };
  await writeFile(join(run, "config.json"), JSON.stringify(config));
  await writeFile(join(run, "tokenizer.json"), JSON.stringify(json));
  await writeTensorFile(join(run, "model.safetensors"), randomTensors(model, "reference"));
  return run;
}

/** Everything that a folder's model computes follows from this. */
async function contents(folder: string) {
  const model = await loadModel(device(), folder);
  const { config, start, tokenizer } = model;
  const values: Record<string, Float32Array> = {};
  for (const name of model.parameters.names) values[name] = await model.parameters.read(name);
  const answer = await generate(model, "is rain wet? yes or no?", { maxTokens: 6 });
  model.destroy();
  // What only pretraining knows of is not part of a published model.
  const { maxPositions: _p, positionRows: _r, ...sizes } = config;
  return { sizes, start, hash: tokenizer.hash, values, answer };
}

for (const [kind, config] of Object.entries(KINDS)) {
  cpuTest(`${kind}: a run becomes a published checkpoint, with the same answers`, async () => {
    const run = await writeRun(config), out = newFolder();
    const { tensors } = await convertModel(run, out);
    assert.deepEqual((await readdir(out)).toSorted(), [
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "special_tokens_map.json",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    assert.deepEqual(await contents(out), await contents(run));

    const file = await readTensorFile(join(out, "model.safetensors"));
    const names = foreignNames(config, "release", ["main"]);
    assert.equal(file.size, tensors);
    assert.deepEqual(
      new Map(Array.from(file, ([name, { shape }]) => [name, shape])),
      new Map(Array.from(names.values(), ({ name, shape }) => [name, shape])),
    );
    const json = async (name: string) => JSON.parse(await readFile(join(out, name), "utf8"));
    assert.equal(modelFromHubConfig(await json("config.json")).vocabSize, config.vocabSize);
    const [pad, start] = isT5(config) ? [0, 0] : [1, 2];
    const generation = await json("generation_config.json");
    assert.deepEqual([generation.pad_token_id, generation.decoder_start_token_id], [pad, start]);
    const special = await json("special_tokens_map.json");
    assert.equal(special.bos_token, isT5(config) ? undefined : "<s>");
    assert.equal((await json("tokenizer_config.json")).eos_token, "</s>");
  });

  cpuTest(`${kind}: a checkpoint converts to itself, its copies tied`, async () => {
    const tensors = randomTensors(config), table = tensors.get("shared.weight")!;
    tensors.set("encoder.embed_tokens.weight", table).set("decoder.embed_tokens.weight", table);
    const folder = await writeCheckpoint(newFolder(), config, tensors), out = newFolder();
    await convertModel(folder, out);
    assert.deepEqual(await contents(out), await contents(folder));
    const file = await readTensorFile(join(out, "model.safetensors"));
    assert.deepEqual([...file.keys()].filter((name) => /embed_tokens/.test(name)), []);
    assert.deepEqual(file.get("shared.weight")!.values, table.values);
  });
}

cpuTest("METRO under fairseq's names becomes a published checkpoint", async () => {
  const folder = await writeCheckpoint(newFolder(), METRO, randomTensors(METRO, "reference"));
  const out = newFolder();
  await convertModel(folder, out);
  const file = await readTensorFile(join(out, "model.safetensors"));
  assert.deepEqual(new Set(file.keys()), new Set(randomTensors(METRO).keys()));
  assert.deepEqual(await contents(out), await contents(folder));
});

Deno.test("a head that the released architecture does not have is refused, with the way out", async () => {
  const run = await writeRun({ ...METRO, clmHead: "roberta" }), out = newFolder();
  const message = /roberta head.*released architecture.*pretrain with --clm-head linear$/;
  await assert.rejects(convertModel(run, out), { name: "UserError", message });
  assert.deepEqual((await readdir(scratch())).filter((name) => name.startsWith(out)), []);
});

Deno.test("nothing half-written: a damaged tensor leaves no folder, one that is there stays", async () => {
  const run = await writeRun(METRO), path = join(run, "model.safetensors");
  const bytes = await readFile(path);
  bytes[bytes.length - 9] ^= 1;
  await writeFile(path, bytes);
  const before = await readdir(scratch());
  const converted = convertModel(run, join(scratch(), "new"));
  await assert.rejects(converted, { name: "UserError", message: /have changed since/ });
  assert.deepEqual(await readdir(scratch()), before);
  const there = convertModel(run, run);
  await assert.rejects(there, { name: "UserError", message: /is there already; choose another/ });
});

Deno.test("a SentencePiece vocabulary becomes a tokenizer.json with the same ids", async () => {
  const normal = ["▁", ..."abcdefghijklmnopqrstuvwxyz", "▁the", "▁boat"];
  const pieces = [
    ["<pad>", 0, "control"],
    ["</s>", 0, "control"],
    ["<unk>", 0, "unknown"],
    ...normal.map((piece, i) => [piece, -1 - i / 8] as const),
  ] as const;
  const folder = newFolder(), out = newFolder();
  await mkdir(folder);
  await writeFile(join(folder, "spiece.model"), modelBytes({ pieces }));
  const { rows } = await convertTokenizer(folder, out);
  const [before, after] = [loadTokenizer(folder), loadTokenizer(out)];
  assert.equal(rows, pieces.length + 100);
  assert.equal(after.hash, before.hash);
  assert.deepEqual(after.encode("the boat, the old one"), before.encode("the boat, the old one"));
});
