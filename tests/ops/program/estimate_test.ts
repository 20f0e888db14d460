// What is foreseen without a device must be what compiling on one allocates.

import assert from "node:assert/strict";
import { type ModelConfig, preset } from "../../../models/mod.ts";
import {
  add,
  compile,
  constant,
  type Device,
  input,
  matmul,
  mul,
  openDevice,
  type ProgramSpec,
  relu,
  state,
  StateMemory,
  sum,
  Workspace,
} from "../../../ops/mod.ts";
import { lowerProgram } from "../../../ops/program/compile.ts";
import { estimateProgram, sharedWorkspace } from "../../../ops/program/estimate.ts";
import { gpuTarget } from "../../../ops/gpu/target.ts";
import { sizeOf } from "../../../ops/graph/tensor.ts";
import { metroObjective, seq2seqObjective } from "../../../tasks/train/objective.ts";
import { microSpec, updateSpec } from "../../../tasks/train/programs.ts";
import { gpuTest } from "../../gpu.ts";

const { model: tiny, objective, optimisation } = preset("tiny");
const MODEL: ModelConfig = {
  ...tiny,
  vocabSize: 700,
  sentinels: 32,
  dModel: 32,
  heads: 2,
  dFf: 64,
  encoderLayers: 2,
  decoderLayers: 1,
  dropout: 0.1,
};

/** Everything that a program can bind, and an update that needs a copy. */
function mixed(): ProgramSpec {
  const x = input("x", [24, 32]), w = state("w", [32, 40]), v = state("v", [32, 40]);
  const c = constant(Float32Array.from({ length: 40 }, (_, i) => i), [40]);
  const y = relu(add(matmul(x, w), c));
  return { name: "mixed", outputs: { y, total: sum(mul(y, y)) }, updates: [[v, w]] };
}

const pretraining = metroObjective(MODEL, objective, 1);
const finetuning = seq2seqObjective(MODEL, 0.1);
const pairs = { rows: 3, length: 24, target: 8 };
const SPECS: Record<string, () => ProgramSpec> = {
  "pretraining": () => microSpec(MODEL, pretraining, { rows: 4, length: 40 }, true),
  "pretraining, held out": () => microSpec(MODEL, pretraining, { rows: 4, length: 40 }, false),
  "finetuning": () => microSpec(MODEL, finetuning, pairs, true),
  "finetuning, held out": () => microSpec(MODEL, finetuning, pairs, false),
  "update": () => updateSpec([4096, 70_400], { ...optimisation, clipNorm: 2 }, false),
  "update of a part": () => updateSpec([4096, 70_400], { ...optimisation, clipNorm: 0 }, true),
  mixed,
};

/** Memory for all states of a program. */
function statesOf(device: Device, spec: ProgramSpec): StateMemory {
  const shapes = new Map<string, readonly number[]>();
  const { storage } = lowerProgram(device.target, spec);
  for (const { source } of storage.values()) {
    if (source?.node.attrs.name !== undefined) shapes.set(source.node.attrs.name, source.shape);
  }
  return new StateMemory(device, shapes, "states");
}

/** Compiles, and measures what estimateProgram foretells. */
function measure(device: Device, spec: ProgramSpec, workspace: Workspace) {
  const states = statesOf(device, spec);
  const before = device.allocatedBytes, held = workspace.bytes;
  let largest = 0;
  const prepare = device.prepare.bind(device);
  device.prepare = (label, launches) => {
    for (const { views } of launches) largest = Math.max(largest, ...views.map(({ size }) => size));
    return prepare(label, launches);
  };
  const program = compile(device, spec, { workspace, state: states });
  device.prepare = prepare;
  const measured = {
    workspaceBytes: program.workspaceBytes,
    ownBytes: device.allocatedBytes - before - (workspace.bytes - held),
    largest,
    launches: program.kernels.length,
  };
  program.destroy();
  states.destroy();
  return measured;
}

gpuTest("estimateProgram: foretells what compiling allocates", async () => {
  const device = await openDevice({ adapter: "software" });
  const workspace = new Workspace(device);
  const estimates = [];
  for (const [name, spec] of Object.entries(SPECS)) {
    const { workspace: sizes, largest, ...estimate } = estimateProgram(spec(), device.target);
    estimates.push({ workspace: sizes });
    assert.equal(sizes.reduce((a, b) => a + b, 0), estimate.workspaceBytes, name);
    const measured = measure(device, spec(), workspace);
    assert.deepEqual({ ...estimate, largest: largest.bytes }, measured, name);
  }
  const shared = sharedWorkspace(estimates);
  assert.equal(shared.reduce((a, b) => a + b, 0), workspace.bytes);
  workspace.destroy();
  device.check();
  device.destroy();
});

Deno.test("estimateProgram: names the largest window", () => {
  const spec = microSpec(MODEL, pretraining, { rows: 1, length: 16 }, true);
  const { largest } = estimateProgram(spec, gpuTarget);
  assert.match(largest.what, /\.embed\.positions$/);
  assert.equal(largest.bytes, 4 * sizeOf([MODEL.positionRows, MODEL.dModel]));
});
