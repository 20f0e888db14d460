// `deno task pretrain` from the outside: same seed, same run; killed and resumed, same weights; bad input,
// one line.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../../ops/graph/random.ts";
import { ended, run, start } from "./command.ts";
import { kill, untilTrained, words } from "./prompted.ts";
import { randomMoment, results, SMALL, TEXT } from "./small_run.ts";

let folder = "";

/** Flags of a small run, some of them changed; undefined leaves one out. */
const flags = (changes: Record<string, string | undefined> = {}) =>
  words({ ...SMALL, text: join(folder, "text.txt"), ...changes });

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-e2e-"));
  await writeFile(join(folder, "text.txt"), TEXT);
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

const pretrain = (args: string[]) => run("pretrain", args);

async function assertOneLine(args: string[], expected: RegExp): Promise<void> {
  const { code, err } = await pretrain(args);
  assert.equal(code, 1, `${args.join(" ")}: exit code ${code}\n${err}`);
  const errors = err.split("\n").filter((l) => l.startsWith("error:"));
  assert.equal(errors.length, 1, err);
  assert.match(errors[0], expected);
  assert.ok(!/^\s+at /m.test(err), `a stack was shown:\n${err}`);
}

Deno.test("the same seed gives the same run, bit for bit, on any number of threads; another seed does not", async () => {
  const at = (name: string) => join(folder, `same-${name}`);
  const [a, b, c, d] = ["a", "b", "c", "d"].map(at);
  for (const [run, seed, threads] of [[a, "1", "2"], [b, "1", "2"], [c, "1", "1"], [d, "2", "2"]]) {
    const { code, err } = await pretrain(flags({ updates: "9", run, seed, threads }));
    assert.equal(code, 0, err);
    assert.match(err, new RegExp(`on CPU, ${threads} thread`));
  }
  for (const same of [b, c]) assert.deepEqual(await results(same), await results(a));
  assert.notEqual((await results(a)).weights, (await results(d)).weights);
  for (const file of ["config.json", "tokenizer.json", "optimizer.safetensors", "report.html"]) {
    assert.ok((await readdir(a)).includes(file), `${file} is missing`);
  }
  assert.match(await readFile(join(a, "report.html"), "utf8"), /<svg/);
});

Deno.test("killed at random moments and resumed, a run ends with the weights of one that was not", async () => {
  const whole = join(folder, "whole"), torn = join(folder, "torn");
  assert.equal((await pretrain(flags({ updates: "30", run: whole }))).code, 0);

  const random = new Random(2026);
  let kills = 0;
  for (let attempt = 0; attempt < 30; attempt++) {
    const started = (await readdir(torn).catch(() => [] as string[])).includes("training.json");
    if (!started) await rm(torn, { recursive: true, force: true });
    const process = start(
      "pretrain",
      started ? ["--run", torn, "--resume"] : flags({ updates: "30", run: torn }),
    );
    if (kills < 4) randomMoment(process, torn, random).then(() => kill(process));
    const { code, err } = await ended(process);
    if (code === 0) break;
    assert.equal(code, 137, err);
    kills++;
  }
  assert.ok(kills > 1, `killed ${kills} times`);
  assert.deepEqual(await results(torn), await results(whole));
});

Deno.test("Ctrl-C saves a checkpoint and exits cleanly; the resumed run is the same run", async () => {
  const whole = join(folder, "calm"), stopped = join(folder, "stopped");
  const args = (run: string) => flags({ updates: "90", "save-every": "0", run });
  assert.equal((await pretrain(args(whole))).code, 0);
  const process = start("pretrain", args(stopped));
  await untilTrained(stopped);
  process.kill("SIGINT");
  const { code, err } = await ended(process);
  assert.equal(code, 0, err);
  assert.match(err, /Saved update \d+/);
  assert.equal((await pretrain(["--run", stopped, "--resume"])).code, 0);
  assert.deepEqual(await results(stopped), await results(whole));
});

Deno.test("the T5 baseline trains and its loss falls", async () => {
  const path = join(folder, "t5");
  const given = flags({ objective: "t5", updates: "30", run: path, "peak-learning-rate": "0.01" });
  await assertOneLine(
    given,
    /^error: --aux-layers: goes with --objective metro, else nothing reads it/,
  );
  const aux = given.indexOf("--aux-layers");
  const { code, err } = await pretrain(given.toSpliced(aux, 2));
  assert.equal(code, 0, err);
  const lines = (await results(path)).metrics.map((l) => JSON.parse(l));
  const losses = lines.filter((l) => l.kind === "heldout").map((l) => l.loss);
  assert.ok(losses.at(-1) < losses[0] - 0.5, losses.join(", "));
});

Deno.test("a loss that is no number stops the run, names the update and keeps the checkpoint", async () => {
  const path = join(folder, "nan");
  await assertOneLine(
    flags({
      "updates": "40",
      "run": path,
      "warmup-updates": "20",
      "peak-learning-rate": "1e38",
      "clip-norm": "0",
      "save-every": "1",
    }),
    /update \d+ is not a finite number; the checkpoint of update \d+ in .* is good/,
  );
  assert.ok((await readdir(path)).includes("model.safetensors"));
});

Deno.test("bad input gets one line and leaves nothing behind", async () => {
  const bad = join(folder, "bad");
  await mkdir(bad, { recursive: true });
  const file = async (name: string, contents: string | Uint8Array) => {
    await writeFile(join(bad, name), contents);
    return { text: join(bad, name) };
  };
  const cases: [Record<string, string>, RegExp][] = [
    [{ text: join(bad, "nowhere") }, /nowhere/],
    [await file("empty.txt", ""), /empty\.txt|no text/],
    [await file("latin1.txt", Uint8Array.of(0x61, 0x0a, 0xe9, 0x0a)), /latin1\.txt:2/],
    [await file("broken.jsonl", '{"text": "fine"}\n{"text": \n'), /broken\.jsonl:2/],
    [await file("other.jsonl", '{"body": "no text field"}\n'), /other\.jsonl:1/],
    [await file("broken.parquet", "PAR1 but not really"), /broken\.parquet/],
    [{ "learning-rate": "1" }, /did you mean --peak-learning-rate/],
    [{ preset: "tinny" }, /did you mean tiny/],
    [{ "vocab-size": "30000" }, /supports at most \d+/],
    [{ "vocab-size": "many" }, /--vocab-size/],
    [{ dropout: "1.5" }, /--dropout/],
    [{ heads: "3" }, /heads/],
    [{ "micro-batch": "8" }, /--micro-batch/],
  ];
  const run = join(folder, "never");
  for (const [changes, expected] of cases) {
    await assertOneLine(flags({ updates: "3", run, ...changes }), expected);
    const left = (await readdir(folder)).filter((name) => name.startsWith("never"));
    assert.deepEqual(left, [], JSON.stringify(changes));
  }
  await assertOneLine(["--run", run, "--resume"], /no run to resume/);
});

Deno.test("without a GPU the CPU computes, and says so once; nothing is installed", async () => {
  const path = join(folder, "auto");
  // Where Vulkan has no driver.
  const without = (...args: string[]) =>
    ended(start("pretrain", args, undefined, { VK_DRIVER_FILES: join(folder, "none.json") }));
  const { code, err } = await without(...flags({ updates: "3", run: path, adapter: "auto" }));
  assert.equal(code, 0, err);
  assert.equal(err.match(/No GPU found: computing on the CPU, \d+ threads?\./g)?.length, 1, err);
  assert.doesNotMatch(err, /install|error|warning/i);
  for (
    const [args, expected] of [
      [{ adapter: "gpu" }, /^error: no GPU: .*--adapter cpu\n$/],
      [{ adapter: "auto", devices: "2" }, /^error: 2 devices asked for, .*--adapter cpu.*\n$/],
      [{ adapter: "gpu", threads: "2" }, /^error: --threads: are those of the CPU and do nothing/],
      [{ adapter: "cpu", threads: "0" }, /^error: --threads: expected an integer from 1 to 256/],
    ] as const
  ) {
    const { code, err } = await without(...flags({ run: join(folder, "never"), ...args }));
    assert.equal(code, 1);
    assert.match(err, expected);
  }
});

Deno.test("a model that does not fit the device is refused before anything is written", async () => {
  const target = join(folder, "huge");
  const huge = { "d-model": "65536", heads: "1024", "d-ff": "65536", updates: "3", run: target };
  await assertOneLine(flags(huge), /training needs .* GB of memory .*, but .* GB are free: choose/);
  assert.ok(!(await readdir(folder)).includes("huge"));
});

Deno.test("a run folder is resumed as it was begun, or not at all", async () => {
  const path = join(folder, "resume");
  const args = flags({ updates: "6", run: path });
  assert.equal((await pretrain(args)).code, 0);
  await assertOneLine(args, /already holds a run/);
  await assertOneLine(
    ["--run", path, "--resume", "--d-model", "32"],
    /--d-model: .* started with 16, got 32/,
  );
  const copy = join(folder, "truncated");
  await cp(path, copy, { recursive: true });
  await truncate(join(copy, "model.safetensors"), 1000);
  await assertOneLine(["--run", copy, "--resume"], /model\.safetensors/);
});

Deno.test({
  name: "a full disk is one line, and the last checkpoint stays good",
  ignore: Deno.build.os !== "linux" || Deno.uid() !== 0,
  async fn(t) {
    const disk = join(folder, "disk");
    await mkdir(disk);
    const mount = await new Deno.Command("mount", {
      args: ["-t", "tmpfs", "-o", "size=420k", "tmpfs", disk],
      stderr: "null",
    }).output();
    if (!mount.success) {
      return void await t.step({ name: "skipped: mounting is not allowed", ignore: true, fn() {} });
    }
    try {
      const run = join(disk, "run");
      await assertOneLine(flags({ updates: "30", run, "save-every": "1" }), /disk|space/i);
    } finally {
      await new Deno.Command("umount", { args: [disk] }).output();
    }
  },
});
