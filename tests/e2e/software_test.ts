// Every job once on WebGPU's software adapter, in short: the kernels of GPUs from the outside. What the jobs
// do is tested on the processor.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { trainByWorkers } from "../../tasks/launch/train.ts";
import { gpuTest } from "../gpu.ts";
import { goldenPath, hasGolden } from "../models/golden.ts";
import type { FaultySettings } from "../tasks/parallel/training_rank.ts";
import { type Flags, recordsOf, succeed, words } from "./prompted.ts";
import { SMALL, TEXT } from "./small_run.ts";

let folder = "", run = "", made = 0;

/** A folder that no attempt before has used. */
const fresh = () => join(folder, `${made++}`);
const ON_SOFTWARE = ["--adapter", "software"];
const LONG = { seconds: 140 };

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-software-"));
  await writeFile(join(folder, "text.txt"), TEXT);
});
Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

async function pretrain(changes: Flags): Promise<string> {
  const run = fresh();
  await succeed("pretrain", words({ ...SMALL, text: join(folder, "text.txt"), run, ...changes }));
  return run;
}

gpuTest("30 updates have the losses that the processor computes", async () => {
  const few = { "static-lengths": "1", "held-out": "0" }; // programs take long to compile
  const of = (adapter: string) => pretrain({ ...few, adapter, updates: "30", "log-every": "1" });
  run = await of("software");
  const [here, there] = await Promise.all([of("cpu").then(recordsOf), recordsOf(run)]);
  assert.equal(here.length, there.length);
  for (const [i, line] of here.entries()) {
    for (const [name, value] of Object.entries(line)) {
      if (typeof value !== "number" || !/[lL]oss|[nN]ll/.test(name)) continue;
      const error = Math.abs(Number(there[i][name]) / value - 1);
      assert.ok(error <= 1e-3, `${name} of line ${i + 1}: ${there[i][name]} instead of ${value}`);
    }
  }
}, LONG);

gpuTest("a run goes on where it was not begun, and says so", async () => {
  const resumed = (adapter: string) =>
    succeed("pretrain", ["--run", run, "--resume", "--adapter", adapter]);
  const { err } = await resumed("cpu");
  assert.match(err, /Resumed at update 30 of 30\.\nIt was saved on .+; on CPU, .* numbers differ/);
  assert.doesNotMatch((await resumed("software")).err, /numbers differ/);
}, LONG);

gpuTest("finetuning, evaluation and generation", async () => {
  const start = await pretrain({
    ...{ "adapter": "software", "updates": "2", "warmup-updates": "1" },
    ...{ "sequence-length": "64", "static-lengths": "1", "held-out": "0" },
  });
  const out = fresh();
  const finetune = { run: start, out, updates: "2", "source-length": "56", "target-length": "16" };
  const shapes = { "source-shapes": "1", "target-shapes": "1", "batch-size": "4" };
  const rest = { "micro-batch": "256", "evaluate-examples": "4" };
  await succeed("finetune", [...words({ ...finetune, ...shapes, ...rest }), ...ON_SOFTWARE]);
  const evaluated = await succeed("eval_t0", ["--run", out, "--limit", "4", ...ON_SOFTWARE]);
  assert.match(evaluated.out, /^Results: /m);
  const { out: answer } = await succeed("generate", ["--run", out, "the", "mill", ...ON_SOFTWARE]);
  assert.match(answer, /\n$/);
}, LONG);

gpuTest("two ranks, of which one loses its device", async () => {
  let said = "";
  const run = fresh();
  const given = Object.fromEntries(
    Object.entries({ ...SMALL, updates: "8" }).map(([name, value]) => [
      name.replace(/-(\w)/g, (_, letter) => letter.toUpperCase()),
      Number(value),
    ]),
  );
  const settings: FaultySettings = {
    ...{ run, resume: false, given, sampleCorpus: join(folder, "text.txt"), workers: 1 },
    ...{ fault: "loses its device", marker: fresh() },
  };
  const placement = { environment: [{}, {}], expect: [undefined, undefined] };
  await trainByWorkers(
    { recipe: "pretrain", settings, placement: { ...placement, adapter: "software" } },
    { timeout: 60, retries: 1, output: { write: (text) => said += text } },
    new URL("../tasks/parallel/training_rank.ts", import.meta.url),
  );
  assert.match(said, /^rank 1: the GPU device was lost.*; starting again \(1 of 1\)$/m);
  assert.match(said, /Resumed at update 4 of 8/);
  assert.equal((await recordsOf(run)).at(-1)?.update, 8);
}, LONG);

for (const [check, golden] of [["step", "metro_step/tiny_lm"], ["model", "metro_hf/tiny"]]) {
  gpuTest(`verify ${check} ${golden}`, async () => {
    const { out } = await succeed("verify", [check, goldenPath(golden), ...ON_SOFTWARE]);
    assert.match(out, /^PASS /m);
  }, { ...LONG, ignore: !hasGolden });
}
