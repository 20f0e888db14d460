// Small checkpoints with random weights, as models on the Hugging Face Hub are: one of METRO's kind, two of
// T5's; and tokenizers for them.

import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { isT5, type MetroModel, type ModelConfig, type T5Model } from "../../models/config.ts";
import { hubConfig } from "../../models/hub_config.ts";
import { foreignNames, type Scheme } from "../../models/names.ts";
import { preset } from "../../models/presets.ts";
import { type Device } from "../../ops/mod.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { openTensors, writeTensors } from "../../tasks/checkpoints/tensors.ts";
import { type TokenizerJson } from "../../tasks/tokenizer/tokenizer.ts";
import { sentencePieceJson } from "../../tasks/tokenizer/sentencepiece_json.ts";
import { cpuTest, openTestDevice } from "../device.ts";

/** Tensors of a file, by name. */
export type FileTensors = Map<string, { shape: readonly number[]; values: Float32Array }>;

const SIZES = { dModel: 16, heads: 2, dFf: 32, encoderLayers: 2, decoderLayers: 1, auxLayers: 0 };
const MAIN_ONLY = { share: "none", rtdHead: "none", mlmHead: "linear", clmHead: "linear" } as const;

/** A METRO model with 20 sentinels. */
export const METRO: MetroModel = {
  ...preset("tiny").model,
  ...SIZES,
  ...MAIN_ONLY,
  vocabSize: 90,
  sentinels: 20,
  dropout: 0.1,
  auxDropout: 0,
};

/** T5 1.0, with more rows than its tokenizer has ids. */
export const T5: T5Model = {
  ...METRO,
  vocabSize: 96,
  sentinels: 0,
  maxPositions: 4096,
  positionRows: 4098,
  layerNormEps: 1e-6,
  t5: {
    headWidth: 4,
    feedForward: "relu",
    tiedHead: true,
    scaleOutputs: true,
    relativeTables: "stack",
    pad: 0,
    eos: 1,
    start: 0,
  },
};

/** T5 1.1. */
export const T5_GATED: T5Model = {
  ...T5,
  t5: { ...T5.t5, feedForward: "gated-gelu", tiedHead: false, scaleOutputs: false },
};

/** UMT5: a relative table in every layer. */
export const UMT5: T5Model = {
  ...T5_GATED,
  decoderLayers: 2,
  t5: { ...T5_GATED.t5, relativeTables: "layer" },
};

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz0123456789.,:?!'"];
const WORDS = ["▁", ..."aeioustr", "th", "er", "in", "▁the", "▁good", "▁bad", "▁yes", "▁no"];
const PIECES = [...new Set([...LETTERS, ...WORDS])];

/** A tokenizer for METRO: the rows that are no pieces are sentinels. */
export function metroTokenizer(rows = METRO.vocabSize): TokenizerJson {
  const sentinels = rows - 4 - PIECES.length;
  const pieces = [{ piece: "<unk>", score: 0, type: "unknown" as const }, ...scored()];
  const model = { pieces, unk: 0, normalization: "identity", charsmap: new Uint8Array() };
  return sentencePieceJson(model, { kind: "metro", dictionary: PIECES, lower: true, sentinels });
}

/** A tokenizer for T5. */
export function t5Tokenizer(): TokenizerJson {
  const pieces = [
    { piece: "<pad>", score: 0, type: "control" as const },
    { piece: "</s>", score: 0, type: "control" as const },
    { piece: "<unk>", score: 0, type: "unknown" as const },
    ...scored(),
  ];
  const model = { pieces, unk: 2, normalization: "identity", charsmap: new Uint8Array() };
  return sentencePieceJson(model, { kind: "t5", extraIds: 10 });
}

function scored() {
  return PIECES.map((piece, i) => ({ piece, score: -1 - i / 8, type: "normal" as const }));
}

/** Random weights under the names of a scheme. */
export function randomTensors(config: ModelConfig, scheme: Scheme = "release"): FileTensors {
  const names = foreignNames(config, scheme, ["main"]);
  return new Map(Array.from(names, ([ours, { name, shape }]) => {
    const random = new Random(key(3, ...new TextEncoder().encode(ours)));
    const length = shape.reduce((a, b) => a * b, 1), mean = ours.endsWith(".gain") ? 1 : 0;
    const values = Float32Array.from({ length }, () => mean + 0.3 * random.normal());
    return [name, { shape, values }];
  }));
}

/** Writes tensors as one file. */
export async function writeTensorFile(path: string, tensors: FileTensors): Promise<void> {
  const specs = Array.from(tensors, ([name, { shape }]) => ({ name, shape }));
  await writeTensors(path, specs, (name) => tensors.get(name)!.values, { format: "pt" });
}

/** Reads them back. */
export async function readTensorFile(path: string): Promise<FileTensors> {
  const file = await openTensors(path);
  const tensors: FileTensors = new Map();
  for (const name of file.names) {
    tensors.set(name, { shape: file.shape(name), values: await file.read(name) });
  }
  await file.close();
  return tensors;
}

/** Writes a whole checkpoint. */
export async function writeCheckpoint(
  folder: string,
  config: ModelConfig,
  tensors = randomTensors(config),
  tokenizer = isT5(config) ? t5Tokenizer() : metroTokenizer(),
): Promise<string> {
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "config.json"), JSON.stringify(hubConfig(config)));
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  await writeTensorFile(join(folder, "model.safetensors"), tensors);
  return folder;
}

/** What the tests of one file share: a device, which its first test opens, and folders that go with it. */
export function bench(
  prefix: string,
): { device(): Device; scratch(): string; newFolder(): string } {
  let scratch: string, device: Device, made = 0;
  Deno.test.beforeAll(async () => {
    scratch = await mkdtemp(join(tmpdir(), prefix));
  });
  Deno.test.afterAll(async () => {
    device?.destroy();
    await rm(scratch, { recursive: true });
  });
  cpuTest("a device opens", async () => {
    device = await openTestDevice();
  });
  return {
    device: () => device,
    scratch: () => scratch,
    newFolder: () => join(scratch, `${made++}`),
  };
}
