// `deno task doctor` and `deno task bench` from the outside, with the permissions that their tasks grant.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { BenchReport } from "../../tasks/bench/report.ts";
import { run } from "./command.ts";

let folder = "";

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "machine-"));
});

Deno.test.afterAll(() => rm(folder, { recursive: true }));

Deno.test("doctor says what there is to compute on, and changes nothing", async () => {
  const { code, out, err } = await run("doctor", [], folder);
  assert.equal(code, 0, err);
  assert.equal(err, "");
  assert.match(out, /^GPU\n/);
  assert.match(out, /\nCPU\n +Name +\S.*\n +Cores +\d+\n +WebAssembly +.*\n +Memory +\d/);
  assert.match(out, /Computes on +(the GPU|the CPU, \d+ threads?)$/m);
  assert.match(out, /Largest preset +\S/);
  assert.deepEqual(await Array.fromAsync(Deno.readDir(folder)), []);
});

Deno.test("bench times the work on text and writes its numbers where it is told to", async () => {
  const file = join(folder, "numbers.json");
  const flags = ["--quick", "--only", "data", "--repeat", "1"];
  const { code, out, err } = await run("bench", [...flags, "--out", file], folder);
  assert.equal(code, 0, err);
  assert.match(out, /encoding BPE, cold/);
  assert.match(out, /rendering, truncated .* renders\/s/);
  assert.ok(out.trimEnd().endsWith(`All numbers: ${file}`));
  const report: BenchReport = JSON.parse(await readFile(file, "utf8"));
  assert.deepEqual(report.skipped, []);
  assert.deepEqual([report.kernels, report.updates, report.ranking], [[], [], []]);
  assert.equal(report.data.filter(({ unit }) => unit === "renders").length, 1);
  const written = await Array.fromAsync(Deno.readDir(folder), ({ name }) => name);
  assert.deepEqual(written, ["numbers.json"]);
});

Deno.test("bench's mistakes are one line", async () => {
  const cases: [string[], RegExp][] = [
    [["--only", "dat"], /^error: --only: .* got 'dat'; did you mean data\?\n$/],
    [["--preset", "bse"], /^error: --preset: .* got 'bse'; did you mean base\?\n$/],
    [["--parallel", "--preset", "tiny", "base"], /^error: .*expected one of .*\n$/],
  ];
  for (const [flags, message] of cases) {
    const { code, out, err } = await run("bench", flags, folder);
    assert.deepEqual([code, out], [1, ""], err);
    assert.match(err, message);
  }
});
