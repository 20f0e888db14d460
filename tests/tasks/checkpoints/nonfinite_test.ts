// Weights that are no finite numbers, in every kind of file, and weights whose arithmetic leaves the range: no
// score, answer or converted folder comes of them, unless asked for.

import assert from "node:assert/strict";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { ModelConfig } from "../../../models/config.ts";
import { type Dtype, DTYPE_BYTES, encodeHeader } from "../../../models/formats/safetensors.ts";
import { parameterShapes } from "../../../models/parameters.ts";
import { Random } from "../../../ops/graph/random.ts";
import { convertModel } from "../../../tasks/checkpoints/convert.ts";
import { loadModel, type ModelOptions } from "../../../tasks/checkpoints/model.ts";
import { restoreRun, saveRun } from "../../../tasks/checkpoints/run_folder.ts";
import { seq2seqObjective } from "../../../tasks/train/objective.ts";
import { Trainer } from "../../../tasks/train/trainer.ts";
import { rank } from "../../../tasks/evaluate/rank.ts";
import { generate, STRATEGIES } from "../../../tasks/generate/generate.ts";
import { cpuTest } from "../../device.ts";
import { gpuTest, softwareDevice } from "../../gpu.ts";
import { torchFile } from "../../models/formats/torch_file.ts";
import {
  bench,
  type FileTensors,
  METRO,
  metroTokenizer,
  randomTensors,
  T5,
  T5_GATED,
  writeCheckpoint,
  writeTensorFile,
} from "../small_checkpoint.ts";

const { device, scratch, newFolder } = bench("nonfinite-");

/** Values as bytes of a type. */
function encoded(dtype: Dtype, values: Float64Array): Uint8Array {
  const bytes = DTYPE_BYTES[dtype], view = new DataView(new ArrayBuffer(bytes * values.length));
  for (const [i, x] of values.entries()) {
    if (dtype === "F64") view.setFloat64(8 * i, x, true);
    else if (dtype === "F32") view.setFloat32(4 * i, x, true);
    else if (dtype === "F16") view.setFloat16(2 * i, x, true);
    else view.setUint16(2 * i, new Uint32Array(Float32Array.of(x).buffer)[0] >>> 16, true);
  }
  return new Uint8Array(view.buffer);
}

/** Writes one value of one tensor into a checkpoint's file of a kind. */
type WriteBad = (folder: string, name: string, at: number, value: number) => Promise<void>;

const withValue = (tensors: FileTensors, name: string, at: number, value: number) =>
  Array.from(tensors, ([own, { shape, values }]) => {
    const wide = Float64Array.from(values);
    if (own === name) wide[at] = value;
    return { name: own, shape, values: wide };
  });

function asSafetensors(dtype: Dtype, config: ModelConfig): WriteBad {
  return async (folder, name, at, value) => {
    const all = withValue(randomTensors(config), name, at, value);
    const specs = all.map(({ name, shape }) => ({ name, shape, dtype }));
    const { bytes, tensors } = encodeHeader(specs, {});
    const end = Math.max(...tensors.values().map((t) => t.offset + t.bytes));
    const file = new Uint8Array(end);
    file.set(bytes);
    for (const { name, values } of all) file.set(encoded(dtype, values), tensors.get(name)!.offset);
    await writeFile(join(folder, "model.safetensors"), file);
  };
}

function asTorch(type: string, dtype: Dtype, config: ModelConfig): WriteBad {
  return async (folder, name, at, value) => {
    const all = withValue(randomTensors(config), name, at, value);
    const storages = Object.fromEntries(all.map(({ values }, key) => {
      return [`${key}`, { type, elements: values.length, bytes: encoded(dtype, values) }];
    }));
    const tensors = all.map(({ name, shape }, key) => {
      const strides = shape.map((_, d) => shape.slice(d + 1).reduce((a, b) => a * b, 1));
      return { name, key: `${key}`, shape, strides };
    });
    await rm(join(folder, "model.safetensors"));
    await writeFile(join(folder, "pytorch_model.bin"), torchFile(storages, tensors));
  };
}

const FORMATS: Record<string, [ModelConfig, WriteBad, bad: readonly number[]]> = {
  "safetensors": [METRO, asSafetensors("F32", METRO), [NaN, Infinity, -Infinity]],
  "safetensors of 64 bits": [T5, asSafetensors("F64", T5), [NaN, 1e300]],
  "safetensors of 16 bits": [T5_GATED, asSafetensors("F16", T5_GATED), [NaN, 1e6]],
  "safetensors of bfloat16": [METRO, asSafetensors("BF16", METRO), [Infinity]],
  "PyTorch's format": [T5, asTorch("FloatStorage", "F32", T5), [NaN, -Infinity]],
  "PyTorch's format, 16 bits": [METRO, asTorch("HalfStorage", "F16", METRO), [Infinity]],
};
const PROMPT = "is rain wet? yes or no?";

/** Everything that makes something of a model. */
const USES: Record<string, (folder: string, options?: ModelOptions) => Promise<unknown>> = {
  load: async (folder, options) => (await loadModel(device(), folder, options)).destroy(),
  convert: (folder, options) => convertModel(folder, newFolder(), options),
};

for (const [format, [config, writeBad, values]] of Object.entries(FORMATS)) {
  cpuTest(`${format}: the tensor is named, and nothing comes of it`, async () => {
    const random = new Random(5), names = [...randomTensors(config)];
    for (const bad of values) {
      const [name, { values: { length } }] = names[random.below(names.length)];
      const at = random.below(length), folder = await writeCheckpoint(newFolder(), config);
      await writeBad(folder, name, at, bad);
      const before = (await readdir(scratch())).length;
      for (const [what, use] of Object.entries(USES)) {
        await assert.rejects(use(folder), (error: Error) => {
          assert.equal(error.name, "UserError", error.stack);
          assert.ok(error.message.startsWith(folder), error.message);
          assert.ok(error.message.includes(`tensor ${name}: value `), `${what}: ${error.message}`);
          assert.equal(error.message.split(folder).length, 2, error.message);
          assert.match(error.message, /is (NaN|-?Infinity), expected finite.* --allow-nonfinite$/);
          return true;
        });
      }
      assert.equal((await readdir(scratch())).length, before);
      for (const use of Object.values(USES)) await use(folder, { allowNonfinite: true });
    }
  });
}

cpuTest("a run's own weights: named as in its file", async () => {
  const folder = newFolder();
  await mkdir(folder);
  const config = {
    ...{ kind: "finetune", model: METRO, sourceLength: 64, targetLength: 32 },
    ...{ datasets: [], preset: "tiny", source: "code" },
  };
  await writeFile(join(folder, "config.json"), JSON.stringify(config));
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(metroTokenizer()));
  const bad = randomTensors(METRO, "reference"), name = "decoder.layers.0.fc1.bias";
  bad.get(name)!.values[3] = NaN;
  await writeTensorFile(join(folder, "model.safetensors"), bad);
  for (const use of Object.values(USES)) {
    const message = /model\.safetensors: tensor decoder\.layers\.0\.fc1\.bias: value 3 is NaN/;
    await assert.rejects(use(folder), { name: "UserError", message });
    await use(folder, { allowNonfinite: true });
  }
  assert.ok((await readFile(join(folder, "model.safetensors"))).length > 0);
});

cpuTest("a run is not resumed from weights that are no numbers", async () => {
  const run = newFolder(), objective = seq2seqObjective(T5, 0);
  await mkdir(run);
  const adamw = { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weightDecay: 0, clipNorm: 1 };
  const trainerOf = (bad: string) => {
    const trainer = new Trainer(device(), T5, objective, adamw, 1);
    trainer.initialize((name) => {
      const length = parameterShapes(T5).get(name)!.reduce((a, b) => a * b, 1);
      return new Float32Array(length).fill(name === bad ? Infinity : 0.5);
    });
    return trainer;
  };
  const trainer = trainerOf("decoder.norm.gain"), other = trainerOf("");
  await saveRun(run, trainer, { update: 3 });
  const message =
    /tensor decoder\.final_layer_norm\.weight: value 0 is Infinity, expected finite numbers; put back a copy/;
  await assert.rejects(restoreRun(run, other), { name: "UserError", message });
  trainer.destroy();
  other.destroy();
});

/** A model whose arithmetic leaves the range of 32 bits, though each weight is in it. */
async function overflowing(config: ModelConfig, name: RegExp): Promise<string> {
  const tensors = randomTensors(config);
  for (const [own, { values }] of tensors) if (name.test(own)) values.fill(3e38);
  return await writeCheckpoint(newFolder(), config, tensors);
}

const OVERFLOWS: [string, ModelConfig, RegExp][] = [
  ["METRO's feed-forward layers", METRO, /DenseReluDense\.w[io]\.weight$/],
  ["METRO's values", METRO, /SelfAttention\.[vo]\.weight$/],
  ["METRO's last norm", METRO, /^decoder\.block\.0\.layer\.2\.layer_norm\.weight$/],
  ["T5's outputs", T5_GATED, /^lm_head|^decoder\.final_layer_norm/],
  ["T5's gated layers", T5_GATED, /wi_[01]\.weight$/],
];

for (const kind of ["CPU", "GPU"] as const) {
  const test = kind === "CPU" ? cpuTest : gpuTest;
  for (const [what, config, name] of OVERFLOWS) {
    test(`${kind}: ${what} overflow: no scores, no answers`, async () => {
      const at = kind === "CPU" ? device() : await softwareDevice();
      const folder = await overflowing(config, name);
      const model = await loadModel(at, folder);
      const message = /log-probability( of a token)? is (NaN|-?Infinity), expected a finite number/;
      await assert.rejects(rank(model, PROMPT, ["yes", "no"]), { name: "UserError", message });
      for (const strategy of STRATEGIES) {
        let written = "";
        const onToken = (text: string) => written += text;
        const answer = generate(model, PROMPT, { strategy, maxTokens: 4, onToken });
        await assert.rejects(answer, { name: "UserError", message }, strategy);
        assert.equal(written, "");
      }
      model.destroy();

      const allowed = await loadModel(at, folder, { allowNonfinite: true });
      const { scores } = await rank(allowed, PROMPT, ["yes", "no"]);
      assert.ok(scores.some((score) => !Number.isFinite(score)), `${scores}`);
      for (const strategy of STRATEGIES) {
        assert.equal(typeof await generate(allowed, PROMPT, { strategy, maxTokens: 4 }), "string");
      }
      allowed.destroy();
    });
  }
}
