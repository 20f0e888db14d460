// A run that is stopped anywhere, between micro-batches and within an evaluation too, goes on as if nothing
// had been.
import assert from "node:assert/strict";
import { existsSync, rmSync } from "node:fs";
import { readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { openDevice } from "../../../ops/mod.ts";
import { exists } from "../../../tasks/files/write.ts";
import { pretrain } from "../../../tasks/pretrain.ts";
import { cpuTest } from "../../device.ts";

let folder: string;
Deno.test.beforeAll(async () => {
  folder = await Deno.makeTempDir();
  const text = Array.from({ length: 60 }, (_, i) => `the cat ${i} sat on mat ${(i * 7) % 31}\n`);
  await writeFile(join(folder, "a.txt"), text.join("\n"));
});
Deno.test.afterAll(() => rm(folder, { recursive: true }));

/** Three updates of four micro-batches, an evaluation of a few batches after each. */
const given = () => ({
  text: [join(folder, "a.txt")],
  ...{ vocabSize: 270, sequenceLength: 16, batchTokens: 128, microBatch: 32, updates: 3 },
  ...{ dModel: 16, heads: 2, dFf: 32, encoderLayers: 1, decoderLayers: 1, auxLayers: 1 },
  ...{ logEvery: 2, evaluateEvery: 1, saveEvery: 2, evaluateTokens: 100, heldOut: 0.3 },
});

/** Trains until it has been asked so many times whether to stop; says whether it was stopped. */
async function train(
  run: string,
  resume: boolean,
  asked = Infinity,
  meanwhile: (asked: number) => void = () => {},
): Promise<boolean> {
  let times = 0;
  const interrupted = {
    get aborted() {
      meanwhile(++times);
      return times > asked;
    },
  };
  const said: string[] = [];
  await pretrain({
    ...{ run, resume, given: resume ? {} : given(), interrupted },
    openDevice: () => openDevice({ adapter: "cpu", threads: 1 }),
    output: { write: (text) => said.push(text) },
  });
  return said.some((text) => /^(Saved update|Stopped before)/.test(text));
}

/** What must not depend on where a run was stopped. */
async function made(run: string): Promise<unknown> {
  const text = await readFile(join(run, "metrics.jsonl"), "utf8");
  const metrics = text.trim().split("\n").map((line) => {
    const { seconds: _, tokensPerSecond: __, ...figures } = JSON.parse(line);
    return figures;
  });
  const bytes = (name: string) => readFile(join(run, name));
  return [metrics, await bytes("model.safetensors"), await bytes("optimizer.safetensors")];
}

cpuTest("a run that is stopped at any moment and goes on is the same run", async () => {
  const whole = join(folder, "whole");
  assert.equal(await train(whole, false), false);
  const expected = await made(whole);
  let stops = 0;
  for (let asked = 1;; asked += 4) {
    const run = join(folder, `stopped-${asked}`);
    if (!await train(run, false, asked)) break;
    stops++;
    // It is stopped again now and then, later each time.
    for (let more = 2, isStopped = true; isStopped; more += 7) {
      const resume = await exists(join(run, "training.json"));
      // Stopped before the first update there is nothing to go on from.
      if (!resume) await rm(run, { recursive: true });
      isStopped = await train(run, resume, more);
    }
    assert.deepEqual(await made(run), expected, `asked ${asked} times`);
  }
  // Between micro-batches, and batches of the evaluations, of three updates.
  assert.ok(stops > 4, String(stops));
});

cpuTest("a run whose folder vanishes ends with what could not be kept", async () => {
  const run = join(folder, "vanishing");
  const isSaved = () => existsSync(join(run, "model.safetensors"));
  const moments: [(asked: number) => boolean, RegExp][] = [
    [(asked) => asked === 2, /: is not there any more: .*; update [12] cannot be saved$/],
    [
      isSaved,
      /: is not there any more: .*; update 3 cannot be saved, and what is left of 2 is whe/,
    ],
  ];
  for (const [isNow, message] of moments) {
    const gone = train(run, false, Infinity, (asked) => {
      if (isNow(asked)) rmSync(run, { recursive: true });
    });
    await assert.rejects(gone, (error) => {
      assert.ok(error instanceof UserError, (error as Error)?.stack);
      assert.match(error.message, message);
      return true;
    });
    assert.ok(!await exists(join(run, "model.safetensors")));
    await rm(run, { recursive: true, force: true });
  }
  // Of the packed corpus what is open stays readable.
  await train(run, false, Infinity, (asked) => {
    if (asked === 2) rmSync(join(run, "corpus"), { recursive: true });
  });
  assert.deepEqual(await made(run), await made(join(folder, "whole")));
});
