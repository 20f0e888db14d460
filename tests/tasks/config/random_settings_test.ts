// Random settings of models and objectives: each is refused in one line that names a flag, before anything is
// compiled; or it has kernels on both kinds of device, and learns a finite loss on this one.

import assert from "node:assert/strict";
import { declareParameters } from "../../../models/mod.ts";
import { initialize } from "../../../models/initialize.ts";
import { choiceLosses } from "../../../models/rank.ts";
import { cpuTarget } from "../../../ops/cpu/target.ts";
import { gpuTarget } from "../../../ops/gpu/target.ts";
import type { Device } from "../../../ops/mod.ts";
import { Random } from "../../../ops/graph/random.ts";
import { lowerProgram } from "../../../ops/program/compile.ts";
import {
  type GivenPretrain,
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "../../../tasks/config/pretrain.ts";
import { expectAllRead } from "../../../tasks/config/unread.ts";
import { metroObjective, seq2seqObjective, t5Objective } from "../../../tasks/train/objective.ts";
import { microSpec } from "../../../tasks/train/programs.ts";
import { Trainer, wholeUpdate } from "../../../tasks/train/trainer.ts";
import { assertUserError } from "../../fuzz.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { gpuTest, softwareDevice } from "../../gpu.ts";

const PIECES = 50;

/** Values worth trying: usual ones mostly, odd ones, and some that are too much. */
const VALUES: Record<string, readonly unknown[]> = {
  objective: ["metro", "metro", "t5"],
  preset: ["tiny", "base", "large++"],
  sequenceLength: [8, 9, 31, 64, 130],
  dModel: [4, 8, 12, 20, 36, 60, 64, 132, 256, 6, 30, 1000],
  heads: [1, 2, 3, 4, 6, 5],
  dFf: [1, 2, 7, 16, 33, 64, 130],
  encoderLayers: [1, 2],
  decoderLayers: [1, 2],
  auxLayers: [1, 2],
  relativeBuckets: [4, 8, 32, 128, 6],
  relativeMaxDistance: [4, 16, 128],
  share: ["none", "token", "token_pos", "token_pos_norm"],
  rtdHead: ["none", "simple", "roberta"],
  mlmHead: ["linear", "roberta"],
  clmHead: ["linear", "roberta"],
  dropout: [0, 0.1, 0.9],
  auxDropout: [0, 0.3],
  maskProbability: [0.01, 0.15, 1, 0],
  keepShare: [0, 0.1, 1],
  randomShare: [0, 0.1, 0.5],
  maskSpecials: [true, false],
  spanLength: [1, 3, 8, 60],
  spanStdev: [0, 1, 5],
  maskedPositionsOnly: ["lm", "none", "both"],
  weightedLmLoss: [true, false],
  divideByMeanWeight: [true, false],
  copyMechanism: [false, false, true],
  labelSmoothing: [0, 0.1],
  rtdAverage: ["microBatch", "tokens"],
  rtdLocation: ["encoder", "decoder"],
  mlmWeight: [1, 0],
  rtdWeight: [50, 0],
  clmWeight: [1, 0],
};

function randomSettings(random: Random): GivenPretrain {
  const pick = (values: readonly unknown[]) => values[random.below(values.length)];
  // Few at a time, or nothing passes; sizes always, or nothing is small.
  const always = ["sequenceLength", "dModel", "heads", "dFf", "encoderLayers", "decoderLayers"];
  const chosen = Object.keys(VALUES).filter((name) =>
    always.includes(name) || random.below(8) === 0
  );
  const given = Object.fromEntries(chosen.map((name) => [name, pick(VALUES[name])]));
  return { auxLayers: given.objective === "t5" ? undefined : 1, vocabSize: 260, ...given };
}

function subject(config: PretrainConfig) {
  const { sequenceLength } = config;
  const model = modelConfig(config, PIECES + sequenceLength, sequenceLength);
  const objective = config.objective === "metro"
    ? metroObjective(model, objectiveConfig(config), 1)
    : t5Objective(model, 1, config.labelSmoothing);
  return { model, objective, length: sequenceLength };
}

/** Everything that a run, its finetuning and its evaluation compile. */
function lowerAll(config: PretrainConfig): void {
  const { model, objective, length } = subject(config);
  const shape = { rows: 2, length };
  const tuning = seq2seqObjective({ ...model, auxLayers: 0, rtdHead: "none" }, 0.1);
  const parameters = declareParameters(model, ["main"]);
  const ranking = { rows: 3, length, choices: 20 };
  const specs = [
    microSpec(model, objective, shape, true),
    microSpec(model, objective, shape, false),
    microSpec(model, tuning, { rows: 1, length, target: 6 }, true),
    { name: "rank", outputs: { losses: choiceLosses(parameters, model, ranking) } },
  ];
  for (const target of [cpuTarget(2), gpuTarget]) {
    for (const spec of specs) lowerProgram(target, spec);
  }
}

Deno.test("random settings: refused in the words of a flag, or with kernels on every device", () => {
  const random = new Random(2), count = { refused: 0, lowered: 0 };
  for (let round = 0; round < 90; round++) {
    const given = randomSettings(random);
    let config: PretrainConfig;
    try {
      config = resolvePretrain(given, []);
      expectAllRead(given, config);
    } catch (error) {
      assertUserError(error);
      const [, flag] = /^--([a-z0-9-]+)[,:] /.exec(error.message) ?? [];
      const name = flag?.replace(/-(.)/g, (_, c) => c.toUpperCase());
      assert.ok(name in PRETRAIN_CONFIG, error.message);
      count.refused++;
      continue;
    }
    try {
      lowerAll(config);
    } catch (error) {
      throw new Error(`${JSON.stringify(given)}: ${(error as Error).stack}`);
    }
    count.lowered++;
  }
  assert.ok(count.refused > 20 && count.lowered > 20, JSON.stringify(count));
});

/** Trains so many random settings for an update. */
async function train(device: Device, random: Random, most: number): Promise<void> {
  for (let trained = 0; trained < most;) {
    const given = randomSettings(random);
    let config: PretrainConfig;
    try {
      config = resolvePretrain(given, []);
      expectAllRead(given, config);
    } catch {
      continue;
    }
    trained++;
    const { model, objective, length } = subject(config), rows = 2;
    const tokens = Uint32Array.from({ length: rows * length }, (_, i) => {
      return i % length === 0 ? 0 : i % length === length - 1 ? 2 : 4 + random.below(PIECES - 4);
    });
    const batch = objective.prepare({
      ...{ epoch: 0, length, rows, blocks: [0, 1], tokens, sequences: [[0, 0], [0, 1]] },
      ...{ lengths: new Uint32Array(rows).fill(length), realTokens: tokens.length },
    });
    const trainer = new Trainer(device, model, objective, config, 1);
    trainer.initialize(initialize(model, 1));
    await trainer.update(wholeUpdate([batch]), { update: 1, learningRate: 1e-3 });
    const sums = await trainer.takeSums("train");
    assert.equal(sums.badUpdate[0], 0, JSON.stringify(given));
    const finite = Object.values(sums).flat().every(Number.isFinite);
    assert.ok(finite, `${JSON.stringify(given)}: ${JSON.stringify(sums)}`);
    trainer.destroy();
  }
}

cpuTest("random settings that pass learn a finite loss", async () => {
  const device = await openTestDevice();
  await train(device, new Random(3), 12);
  device.destroy();
});

gpuTest("GPU: random settings that pass learn a finite loss", async () => {
  await train(await softwareDevice(), new Random(8), 2);
});
