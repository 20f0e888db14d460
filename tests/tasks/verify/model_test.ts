// Checkpoints against what the released modelling code and Hugging Face's T5 computed with them. The
// folders lie beside the repository; skipped elsewhere.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Device } from "../../../ops/mod.ts";
import { modelFailures, modelReportLines, verifyModel } from "../../../tasks/verify/model.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";
import { readTensorFile, writeTensorFile } from "../small_checkpoint.ts";

const TOLERANCE = 1e-4;
const GOLDEN = [
  "metro_hf/tiny",
  "metro_hf/tiny_large_buckets",
  "t5_hf/t5_relu_tied",
  "t5_hf/t5_v1_1_gated_untied",
];
if (!hasGolden) console.log("verify model: the reference's folders are not here, skipping them");

let device: Device, scratch: string;

Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "verify-model-"));
  device = await openTestDevice();
});
Deno.test.afterAll(async () => {
  device.destroy();
  await rm(scratch, { recursive: true });
});

for (const name of GOLDEN) {
  cpuTest(`verify model: ${name} passes`, async () => {
    const report = await verifyModel(device, goldenPath(name));
    const lines = modelReportLines(report, TOLERANCE);
    assert.deepEqual(modelFailures(report, TOLERANCE), [], lines.join("\n"));
    assert.match(lines.at(-1)!, /^PASS /);
    const groups = new Set(report.figures.map(({ group }) => group));
    assert.equal(groups.size, name === "metro_hf/tiny" ? 4 : 3);
  }, { ignore: !hasGolden });
}

/** A golden folder that can be changed. */
async function copy(name: string): Promise<string> {
  const folder = join(scratch, name.replace("/", "-"));
  await mkdir(folder);
  for (const file of await readdir(goldenPath(name))) {
    await writeFile(join(folder, file), await readFile(join(goldenPath(name), file)));
  }
  return folder;
}

cpuTest("verify model: one changed weight fails every figure that it is in", async () => {
  const folder = await copy("metro_hf/tiny"), path = join(folder, "model.safetensors");
  const tensors = await readTensorFile(path);
  tensors.get("decoder.block.1.layer.2.DenseReluDense.wo.bias")!.values[5] += 9;
  await writeTensorFile(path, tensors);
  const report = await verifyModel(device, folder);
  const failed = modelFailures(report, TOLERANCE);
  assert.match(failed[0], /^logits, example 1: off by \d\.\de[-+]\d, more than 0\.0001$/);
  assert.match(failed.find((line) => line.startsWith("scores"))!, /^scores, example 1: off by/);
  assert.match(
    failed.find((line) => /^greedy/.test(line))!,
    /example \d: expected [\d ]+, got [\d ]+$/,
  );
  const copies = failed.filter((line) => line.startsWith("copies"));
  assert.deepEqual(copies, [
    "copies, decoder.block.1.layer.2.DenseReluDense.wo.bias: differs in pytorch_model.bin",
  ]);
  assert.match(modelReportLines(report, TOLERANCE).at(-1)!, /^FAIL \S+: \d+ of 105 figures/);
}, { ignore: !hasGolden });

cpuTest("verify model: expectations that do not belong to the model are one line", async () => {
  const folder = await copy("t5_hf/t5_relu_tied"), path = join(folder, "expected.json");
  const json = JSON.parse(await readFile(path, "utf8"));
  const refused = async (changes: object, message: RegExp) => {
    await writeFile(path, JSON.stringify({ ...json, ...changes }));
    const verified = verifyModel(device, folder);
    await assert.rejects(verified, { name: "UserError", message });
  };
  await refused({ labels: undefined }, /expected\.json: labels: expected rows of ids below 160/);
  await refused({ input_ids: [[160]] }, /expected\.json: input_ids: expected rows of ids below/);
  await refused({ scores: [1] }, /expected as many labels, scores and greedy answers as input_ids/);
  await refused({ labels: [[1], [1], [1]] }, /logits: expected shape \[3,1,160\], got/);
  await rm(path);
  const verified = verifyModel(device, folder);
  await assert.rejects(verified, { name: "UserError", message: /expected\.json: no such file/ });
}, { ignore: !hasGolden });
