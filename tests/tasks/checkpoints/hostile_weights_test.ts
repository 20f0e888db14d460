// Weights of models, damaged everywhere but in the numbers themselves: headers, indexes, archives, pickles, the
// configuration that goes with them. Each gives the numbers of the undamaged files, or is refused in one line.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { cp, readdir, readFile, rm, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "../../../models/config.ts";
import { headerSize } from "../../../models/formats/safetensors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { readModel, withParameters } from "../../../tasks/checkpoints/model.ts";
import { assertUserError, fuzz, fuzzJson, joined, type Outcome } from "../../fuzz.ts";
import { torchFile } from "../../models/formats/torch_file.ts";
import {
  bench,
  METRO,
  randomTensors,
  T5,
  T5_GATED,
  UMT5,
  writeCheckpoint,
  writeTensorFile,
} from "../small_checkpoint.ts";

const { newFolder } = bench("hostile-weights-");

/** What a folder's model is: its sizes and every number, by our names. */
async function contents(folder: string): Promise<object> {
  const model = await readModel(folder), values: Record<string, Float32Array> = {};
  await withParameters(model, ["main"], async (weights, found) => {
    for (const [name, { name: theirs, transposed }] of found) {
      const parts: Float32Array[] = [];
      await weights.readInto(theirs, (part) => void parts.push(part.slice()), { transposed });
      values[name] = Float32Array.from(parts.flatMap((part) => [...part]));
    }
  });
  // Rates of dropout are no part of what is computed.
  const { dropout: _, ...config } = model.config;
  return { config, values };
}

/** Reads a folder whose file was damaged: the same, or a `UserError`. */
function same(folder: string, path: string, whole: Uint8Array, expected: object) {
  return async (bytes: Uint8Array | string) => {
    await writeFile(path, bytes);
    try {
      assert.deepEqual(await contents(folder), expected);
    } finally {
      await writeFile(path, whole);
    }
  };
}

function assertBoth({ read, refused }: Outcome): void {
  assert.ok(read > 0 && refused > 20, JSON.stringify({ read, refused }));
}

for (const [kind, config] of Object.entries({ METRO, UMT5 })) {
  Deno.test(`${kind}: a damaged header of safetensors`, async () => {
    const folder = await writeCheckpoint(newFolder(), config);
    const path = join(folder, "model.safetensors"), whole = await readFile(path);
    const expected = await contents(folder);
    const size = headerSize(whole, whole.length), payload = whole.subarray(size);
    const read = same(folder, path, whole, expected);
    const header = Uint8Array.from(whole.subarray(0, size));
    const outcome = await fuzz([header], 150, (bytes) => read(joined(bytes, payload)));
    assert.ok(outcome.refused > 50, JSON.stringify(outcome));

    // Values of its JSON, at the length that the first eight bytes say.
    const json = JSON.parse(new TextDecoder().decode(whole.subarray(8, size)));
    assertBoth(
      await fuzzJson(json, 150, async (text) => {
        const bytes = new TextEncoder().encode(text), length = new Uint8Array(8);
        new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length), true);
        await read(joined(length, bytes, payload));
      }),
    );
  });
}

/** A checkpoint in shards with an index. */
async function sharded(config: ModelConfig): Promise<string> {
  const folder = await writeCheckpoint(newFolder(), config);
  await rm(join(folder, "model.safetensors"));
  const weight_map: Record<string, string> = {};
  for (const shard of [0, 1, 2]) {
    const file = `model-0000${shard + 1}-of-00003.safetensors`;
    const part = new Map([...randomTensors(config)].filter((_, i) => i % 3 === shard));
    for (const name of part.keys()) weight_map[name] = file;
    await writeTensorFile(join(folder, file), part);
  }
  const index = { metadata: { total_size: 1 }, weight_map };
  await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify(index));
  return folder;
}

Deno.test("a damaged index of shards, and shards that are missing, swapped or there twice", async () => {
  const folder = await sharded(METRO), expected = await contents(folder);
  const path = join(folder, "model.safetensors.index.json"), whole = await readFile(path);
  const read = same(folder, path, whole, expected);
  assertBoth(await fuzzJson(JSON.parse(whole.toString()), 200, read));

  const shards = (await readdir(folder)).filter((name) => name.startsWith("model-"));
  for (const [i, shard] of shards.entries()) {
    const other = join(folder, shards[(i + 1) % 3]), mine = join(folder, shard);
    const bytes = await readFile(mine);
    for (const change of [() => unlink(mine), () => cp(other, mine), () => writeFile(mine, "")]) {
      await change();
      await assert.rejects(contents(folder), (error) => {
        assertUserError(error);
        assert.match(error.message, /missing|should have it|too$|safetensors file/);
        return true;
      });
      await writeFile(mine, bytes);
    }
  }
  assert.deepEqual(await contents(folder), expected);
});

Deno.test("a damaged archive of PyTorch, but for its numbers", async () => {
  const folder = await writeCheckpoint(newFolder(), T5);
  await rm(join(folder, "model.safetensors"));
  const all = [...randomTensors(T5)];
  const storages = Object.fromEntries(all.map(([, { values }], key) => {
    const bytes = new Uint8Array(values.buffer.slice(0));
    return [`${key}`, { type: "FloatStorage", elements: values.length, bytes }];
  }));
  const tensors = all.map(([name, { shape }], key) => {
    const strides = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
    return { name, key: `${key}`, shape, strides };
  });
  const path = join(folder, "pytorch_model.bin"), whole = torchFile(storages, tensors);
  await writeFile(path, whole);
  const expected = await contents(folder), read = same(folder, path, whole, expected);
  // The places of the numbers.
  const isNumber = new Uint8Array(whole.length);
  for (const { bytes } of Object.values(storages)) {
    const at = Buffer.from(whole.buffer).indexOf(Buffer.from(bytes));
    isNumber.fill(1, at, at + bytes.length);
  }
  const places = [...whole.keys()].filter((at) => !isNumber[at]);
  const random = new Random(key(4)), outcome = { read: 0, refused: 0 };
  for (let round = 0; round < 200; round++) {
    const bytes = whole.slice();
    for (let n = 1 + random.below(2); n > 0; n--) {
      bytes[places[random.below(places.length)]] ^= 1 << random.below(8);
    }
    try {
      await read(bytes);
      outcome.read++;
    } catch (error) {
      assertUserError(error);
      outcome.refused++;
    }
  }
  assertBoth(outcome);
});

/** Fields that say what is computed with the same weights. */
const HONOURED = new Set([
  ...["layer_norm_epsilon", "relative_attention_max_distance", "max_positions", "num_sentinels"],
  ...["scale_decoder_outputs", "tie_word_embeddings", "decoder_start_token_id"],
]);

for (const [kind, config] of Object.entries({ METRO, "T5 1.1": T5_GATED, UMT5 })) {
  Deno.test(`${kind}: every field of config.json, absent or of any kind`, async () => {
    const folder = await writeCheckpoint(newFolder(), config);
    const path = join(folder, "config.json"), whole = await readFile(path);
    const expected = await contents(folder), json = JSON.parse(whole.toString());
    const read = same(folder, path, whole, expected);
    const strange = [
      undefined,
      null,
      true,
      false,
      -1,
      0,
      1,
      3.5,
      1e9,
      1e300,
      "1",
      "relu",
      [],
      [1],
      {},
    ];
    const outcome = { read: 0, refused: 0 };
    for (const field of Object.keys(json)) {
      for (const value of strange) {
        const text = JSON.stringify({ ...json, [field]: value });
        try {
          await read(text);
          outcome.read++;
        } catch (error) {
          // What is honoured may be something else; what is not must have no effect.
          if (error instanceof assert.AssertionError && HONOURED.has(field)) continue;
          assertUserError(error);
          outcome.refused++;
        }
      }
    }
    assertBoth(outcome);
    await assertRefusedKinds(read, json);
  });
}

/** Another kind of model with these weights is none. */
async function assertRefusedKinds(read: (text: string) => Promise<void>, json: object) {
  for (const model_type of ["t5", "umt5", "fairseq_t5", "mt5", "bart", 7, null]) {
    if ((json as { model_type: string }).model_type === model_type) continue;
    await assert.rejects(read(JSON.stringify({ ...json, model_type })), (error) => {
      assertUserError(error);
      return true;
    });
  }
}
