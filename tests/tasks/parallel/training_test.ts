/** Training on several devices: what a rank keeps and sends, and what becomes of a job whose rank fails. */

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parameterCount, preset } from "../../../models/mod.ts";
import { UserError } from "../../../ops/mod.ts";
import { metroObjective } from "../../../tasks/train/objective.ts";
import { alone, trafficOf } from "../../../tasks/parallel/communicator.ts";
import { trainByWorkers } from "../../../tasks/launch/train.ts";
import { runWorkers } from "../../../tasks/parallel/workers.ts";
import { Trainer } from "../../../tasks/train/trainer.ts";
import { results, SMALL, TEXT } from "../../e2e/small_run.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import type { Fault, FaultySettings } from "./training_rank.ts";
import type { TrafficArgs } from "./traffic_rank.ts";

cpuTest("the moments of a rank are 1/N of those of one device", async () => {
  const { model, objective, optimisation } = preset("tiny");
  const device = await openTestDevice();
  const bytesOf = (size: number) =>
    Array.from({ length: size }, (_, rank) => {
      const trainer = new Trainer(
        device,
        model,
        metroObjective(model, objective, 1),
        optimisation,
        1,
        { ...alone(), rank, size },
      );
      const { momentBytes } = trainer;
      trainer.destroy();
      return momentBytes;
    });
  const [whole] = bytesOf(1);
  assert(whole >= 8 * parameterCount(model) && whole < 8.1 * parameterCount(model));
  for (const size of [2, 3, 4, 8]) {
    for (const bytes of bytesOf(size)) {
      assert(bytes < 1.05 * whole / size, `${size} ranks: ${bytes} of ${whole} bytes`);
    }
  }
  device.destroy();
});

for (const size of [2, 4]) {
  cpuTest(`${size} ranks send 2·P·4·(N−1)/N bytes each in an update`, async () => {
    const { model } = preset("tiny");
    const sent = await runWorkers<TrafficArgs, number[]>({
      module: new URL("./traffic_rank.ts", import.meta.url),
      args: { updates: 2 },
      size,
      timeout: 60,
      output: { write: () => {} },
    });
    const expected = trafficOf(4 * parameterCount(model), size, 2);
    for (const bytes of sent) {
      assert(Math.abs(bytes / expected - 1) < 0.05, `${bytes} instead of ${expected}`);
    }
  });
}

/** The flags of a small run as settings. */
const given = Object.fromEntries(
  Object.entries({ ...SMALL, updates: "20" }).map(([name, value]) => [
    name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()),
    Number(value),
  ]),
);

async function train(folder: string, name: string, fault?: Fault, retries = 1): Promise<string> {
  let said = "";
  const run = join(folder, name);
  const settings: FaultySettings = {
    ...{ run, resume: false, given, sampleCorpus: join(folder, "text.txt"), workers: 1 },
    ...{ fault, marker: join(folder, `${name} failed`) },
  };
  const placement = { environment: [{}, {}], expect: [undefined, undefined] };
  await trainByWorkers(
    { recipe: "pretrain", settings, placement: { ...placement, adapter: "cpu", threads: 1 } },
    { timeout: 60, retries, output: { write: (text) => said += text } },
    new URL("./training_rank.ts", import.meta.url),
  );
  return said;
}

cpuTest("a rank that fails is started again from the checkpoint: the same weights", async () => {
  const folder = await mkdtemp(join(tmpdir(), "metro-faults-"));
  try {
    await writeFile(join(folder, "text.txt"), TEXT);
    await train(folder, "undisturbed");
    const faults = {
      "throws": /RangeError: made up/,
      "loses its device": /the device was lost/,
    };
    for (const [fault, words] of Object.entries(faults) as [Fault, RegExp][]) {
      const said = await train(folder, fault, fault);
      assert.match(said, words);
      assert.match(said, /^rank 1: .*; starting again \(1 of 1\)$/m);
      assert.match(said, /Resumed at update 4 of 20/);
      assert.deepEqual(
        await results(join(folder, fault)),
        await results(join(folder, "undisturbed")),
      );
    }
    const refused = train(folder, "without retries", "loses its device", 0);
    await assert.rejects(
      refused,
      (error) => error instanceof UserError && /^rank 1/.test(error.message),
    );
  } finally {
    await rm(folder, { recursive: true });
  }
});
