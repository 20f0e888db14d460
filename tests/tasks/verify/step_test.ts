// Training steps on the device against two oracles: folders of the reference implementation, which
// lie beside the repository (skipped elsewhere), and folders that the float64 interpreter writes.

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Device } from "../../../ops/mod.ts";
import { openTensors, writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import { readStepFolder } from "../../../tasks/verify/step_folder.ts";
import {
  stepFailures,
  type StepReport,
  stepReportLines,
  verifyStep,
} from "../../../tasks/verify/step.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";
import { type OracleSpec, writeOracle } from "./step_oracle.ts";

const TOLERANCE = 1e-3;
let device: Device, scratch: string;

Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "verify-"));
  device = await openTestDevice();
});
Deno.test.afterAll(async () => {
  device.destroy();
  await rm(scratch, { recursive: true });
});

const GOLDEN = ["tiny_lm", "tiny_all_positions", "tiny_weighted_shared_norm", "tiny_masked_target"];
if (!hasGolden) console.log("verify step: the reference's folders are not here, skipping them");

const CLM_ALONE: OracleSpec = {
  model: { share: "token", rtdHead: "none", heads: 1, dModel: 20, dFf: 28 },
  objective: { maskedPositionsOnly: "lm", mlmWeight: 0, rtdWeight: 0, clmWeight: 3 },
  optimizer: { weight_decay: 0.1, beta2: 0.999 },
  lengths: [13],
};
const SMALL_EPSILON = 1e-10;

/** Between them: every sharing mode, RTD head and choice of positions, and odd sizes. */
const ORACLES: Record<string, OracleSpec> = {
  "share none, simple RTD head, both, divided weights, clipped": {
    model: { share: "none", rtdHead: "simple", encoderLayers: 3, decoderLayers: 1, auxLayers: 2 },
    objective: { maskedPositionsOnly: "both", weightedLmLoss: true, divideByMeanWeight: true },
    optimizer: { clip_norm: 0.5 },
    lengths: [17, 9, 12],
  },
  "share token, no RTD head, CLM alone": CLM_ALONE,
  "share token_pos, label smoothing at all positions": {
    model: { share: "token_pos", rtdHead: "roberta", vocabSize: 70, decoderLayers: 2 },
    objective: { maskedPositionsOnly: "none", labelSmoothing: 0.1, rtdWeight: 7, mlmWeight: 0.5 },
    lengths: [8, 19],
  },
  "share token_pos_norm, copying, other heads, initial weights, small epsilon": {
    model: { share: "token_pos_norm", mlmHead: "linear", clmHead: "roberta", heads: 2 },
    objective: { copyMechanism: true, rtdLocation: "decoder" },
    // Updates of key biases are rounding alone, and nothing holds them back.
    optimizer: { eps: SMALL_EPSILON },
    lengths: [17, 16],
    spread: 0,
  },
};

for (const name of GOLDEN) {
  cpuTest(`verify step: golden ${name} passes`, async () => {
    const report = await passes(goldenPath(`metro_step/${name}`));
    assert.equal(report.roundingOnly, 0);
  }, { ignore: !hasGolden });
}

for (const [i, [name, spec]] of Object.entries(ORACLES).entries()) {
  cpuTest(`verify step: float64, ${name}`, async () => {
    const folder = join(scratch, `${i}`);
    await writeOracle(folder, spec);
    const report = await passes(folder);
    assert.equal(report.roundingOnly > 0, spec.optimizer?.eps === SMALL_EPSILON);
  });
}

cpuTest("verify step: what differs fails, and is named", async () => {
  const folder = join(scratch, "changed");
  await writeOracle(folder, CLM_ALONE);
  await nudge(join(folder, "params_after.safetensors"), "decoder.layers.0.fc1.weight");
  await nudge(join(folder, "grads.safetensors"), "encoder.layers.0.self_attn.v_proj.bias");
  await nudge(join(folder, "logits.safetensors"), "clm_logits");
  await edit(folder, (step) => step.steps[1].mlm_correct++);
  const report = await verifyStep(device, await readStepFolder(folder), TOLERANCE);
  const failed = stepFailures(report, TOLERANCE);
  assert.match(failed[0], /^counts, mlm_correct of update 2: expected \d+, got \d+$/);
  assert.match(failed[1], /^CLM logits, clm_logits: off by 2\.\de-3, more than 0\.001$/);
  assert.match(failed[2], /^gradients, encoder\.layers\.0\.self_attn\.v_proj\.bias: off by/);
  assert.match(failed[3], /^weights, decoder\.layers\.0\.fc1\.weight: off by/);
  assert.equal(failed.length, 4);
  const lines = stepReportLines(report, TOLERANCE);
  assert.deepEqual(lines.slice(-5, -1), failed.map((line) => `  ${line}`));
  assert.match(lines.at(-1)!, /^FAIL changed: 4 of \d+ figures beyond 0\.001$/);
});

async function passes(folder: string): Promise<StepReport> {
  const report = await verifyStep(device, await readStepFolder(folder), TOLERANCE);
  const lines = stepReportLines(report, TOLERANCE);
  assert.deepEqual(stepFailures(report, TOLERANCE), [], lines.join("\n"));
  assert.match(lines.at(-1)!, /^PASS /);
  return report;
}

/** Changes one number of a tensor by 2.5 thousandths of the tensor's largest magnitude. */
async function nudge(path: string, name: string): Promise<void> {
  const tensors = await openTensors(path);
  const values = new Map<string, Float32Array>();
  for (const name of tensors.names) values.set(name, await tensors.read(name));
  const specs = tensors.names.map((name) => ({ name, shape: tensors.shape(name) }));
  await tensors.close();
  const nudged = values.get(name)!;
  nudged[1] += 2.5e-3 * nudged.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  await writeTensors(path, specs, (name) => values.get(name)!, {});
}

// deno-lint-ignore no-explicit-any
type Step = any;

async function edit(folder: string, change: (step: Step) => void): Promise<void> {
  const path = join(folder, "step.json");
  const step = JSON.parse(await readFile(path, "utf8"));
  change(step);
  await writeFile(path, JSON.stringify(step));
}

const MALFORMED: [what: string, change: (step: Step) => void, message: RegExp][] = [
  ["an unknown objective field", (s) => s.objective.rtd_only = true, /objective: .*"rtd_only"/],
  ["a missing field", (s) => delete s.config.d_ff, /config: d_ff: missing$/],
  ["a missing part", (s) => delete s.batch, /step\.json: batch: missing$/],
  ["an unknown part", (s) => s.dropout = 1, /step\.json: dropout: unknown/],
  ["a word for a number", (s) => s.optimizer.lr = "1", /optimizer: lr: expected a number/],
  ["another optimizer", (s) => s.optimizer.name = "sgd", /optimizer: name: expected one of adamw/],
  ["a bad sharing mode", (s) => s.config.share = "pos", /config: share: expected one of none/],
  ["dropout", (s) => s.config.dropout = 0.1, /config: dropout: expected a number from 0 to 0/],
  ["heads that do not divide", (s) => s.config.num_heads = 7, /config: num_heads: expected a div/],
  ["another mask", (s) => s.config.mask = 4, /config: mask: expected 81, got 4$/],
  ["an id out of range", (s) => s.batch.aux_input[0][3] = 101, /aux_input: row 0, column 3: expec/],
  ["a short row", (s) => s.batch.tokens[0].pop(), /batch: selected: row 0: expected 12 numbers/],
  ["no selection", (s) => s.batch.selected[0].fill(0), /batch: selected: expected a 1, got none$/],
  ["a wrong decoder input", (s) => s.batch.decoder_input[0][0] = 2, /decoder_input: row 0, column/],
  [
    "noise elsewhere",
    (s) => s.steps[1].noise[0] = s.steps[1].noise[0].map(() => 9),
    /not selected/,
  ],
  ["no updates", (s) => s.steps = [], /steps: expected at least one update, got 0$/],
  ["a missing loss", (s) => delete s.steps[1].clm, /steps\[1\]: clm: missing$/],
  ["an unknown figure", (s) => s.steps[0].ppl = 1, /steps\[0\]: unknown key "ppl"/],
  ["another width", (s) => s.config.d_ff = 30, /grads\.safetensors: \S+fc1\.bias: expected shape/],
  ["more layers", (s) => s.config.decoder_layers = 2, /grads\.safetensors: decoder\S+: missing$/],
  [
    "another head",
    (s) => s.config.mlm_head = "linear",
    /grads\.safetensors: generator\.lm_head\S+: the/,
  ],
];

Deno.test("readStepFolder: a malformed folder is one line that names file and field", async () => {
  const good = join(scratch, "good"), bad = join(scratch, "bad");
  await writeOracle(good, CLM_ALONE);
  await cp(good, bad, { recursive: true });
  for (const [what, change, message] of MALFORMED) {
    await cp(join(good, "step.json"), join(bad, "step.json"));
    await edit(bad, change);
    await assert.rejects(readStepFolder(bad), { name: "UserError", message }, what);
    await assert.rejects(readStepFolder(bad), (error: Error) => !error.message.includes("\n"));
  }
  await writeFile(join(bad, "step.json"), "{");
  await assert.rejects(readStepFolder(bad), { name: "UserError", message: /step\.json: not JSON/ });
  await rm(join(bad, "step.json"));
  await assert.rejects(readStepFolder(bad), { name: "UserError", message: /json: no such file/ });
  await cp(join(good, "step.json"), join(bad, "step.json"));
  await writeFile(join(bad, "logits.safetensors"), "short");
  await assert.rejects(readStepFolder(bad), { name: "UserError", message: /logits\.safetensors/ });
});
