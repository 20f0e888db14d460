import assert from "node:assert/strict";
import { parameterCount, preset, PRESETS } from "../../../models/mod.ts";
import {
  bench,
  BENCH_PARTS,
  BENCH_SCALES,
  type BenchScale,
  chosen,
} from "../../../tasks/bench/bench.ts";
import { benchParallel, onePreset, parallelTable } from "../../../tasks/bench/parallel.ts";
import { forwardFlopsPerToken, pairFlops } from "../../../tasks/train/flops.ts";
import { cubeCases, layerCases, type Sources } from "../../../tasks/bench/kernel_cases.ts";
import { gradientStart } from "../../../tasks/bench/kernels.ts";
import { type BenchReport, tables } from "../../../tasks/bench/report.ts";
import { input, state } from "../../../ops/mod.ts";
import { cpuTarget } from "../../../ops/cpu/target.ts";
import { gpuTarget } from "../../../ops/gpu/target.ts";
import { lowerProgram, type ProgramSpec } from "../../../ops/program/compile.ts";
import { cpuTest, openTestDevice } from "../../device.ts";

/** As little as can be measured. */
const SCALE: BenchScale = {
  ...BENCH_SCALES.quick,
  repeat: 2,
  tokens: () => 64,
  cubes: [64],
  kernel: { seconds: 0, longest: 1 },
  update: { seconds: 1, longest: 20 },
  finetuning: { seconds: 0, longest: 20 },
  ranking: { seconds: 0, longest: 20, prompts: () => 12 },
  text: 3e5,
};

/** Every number inside, with its path. */
function* numbersIn(value: unknown, path = ""): Generator<[string, number]> {
  if (typeof value === "number") yield [path, value];
  if (typeof value !== "object" || value === null) return;
  for (const [key, inner] of Object.entries(value)) yield* numbersIn(inner, `${path}/${key}`);
}

/** Numbers that are 0 when all is well. */
const MAY_BE_ZERO = /(buffersCreated|pipelinesCreated|growth\/bytes|profile\/.*)$/;

cpuTest("a benchmark measures everything it names, in finite positive numbers", async () => {
  const device = await openTestDevice();
  const report = await bench({ device, scale: SCALE, memory: 2e9 });
  device.destroy();
  const parsed: BenchReport = JSON.parse(JSON.stringify(report));
  for (const [path, value] of numbersIn(parsed)) {
    assert.ok(Number.isFinite(value), path);
    assert.ok(value > 0 || (value === 0 && MAY_BE_ZERO.test(path)), `${path}: ${value}`);
  }
  const { model } = preset("tiny");
  const batch = { rows: 1, length: 64, selected: 12 };
  const cases = [...cubeCases(64), ...layerCases("tiny", model, batch)];
  assert.deepEqual(parsed.skipped, []);
  assert.deepEqual(
    parsed.kernels.map(({ family, of, shape }) => `${family} ${of} ${shape}`),
    [...cases, { family: "AdamW", of: "tiny", shape: `${parameterCount(model)} parameters` }]
      .map(({ family, of, shape }) => `${family} ${of} ${shape}`),
  );
  for (const k of parsed.kernels) assert.ok(k.gflops || k.gbps, k.family);
  assert.deepEqual(parsed.updates.map((u) => u.preset), ["tiny"]);
  const [update] = parsed.updates;
  assert.equal(update.buffersCreated, 0);
  assert.equal(update.pipelinesCreated, 0);
  assert.ok(update.workspaceBytes < update.deviceBytes);
  const [tuned] = parsed.finetuning;
  assert.deepEqual([tuned.preset, tuned.batch], ["tiny", { rows: 1, length: 64, target: 8 }]);
  assert.deepEqual([tuned.buffersCreated, tuned.pipelinesCreated], [0, 0]);
  const [ranked] = parsed.ranking;
  assert.deepEqual([ranked.preset, ranked.prompts, ranked.choices], ["tiny", 12, 2]);
  assert.ok(ranked.outsideDevice === undefined || ranked.outsideDevice < 1);
  assert.deepEqual(parsed.data.map(({ unit }) => unit).slice(-2), ["tokens", "renders"]);

  const text = tables(parsed);
  for (const k of parsed.kernels) assert.ok(text.includes(k.shape));
  assert.match(text, /Update of tiny/);
  assert.match(text, /Finetuning update of tiny \(.* 1 × 64 → 8 tokens\)/);
  assert.match(text, /Ranking with tiny \(.* 12 prompts of 2 choices\)/);
  assert.match(text, /encoding BPE, cold/);
  assert.match(text, /rendering, truncated .* renders\/s/);
});

cpuTest("what does not fit or would take too long is skipped with the reason", async () => {
  const device = await openTestDevice();
  const limit = device.limits.bindingBytes;
  const scale: BenchScale = {
    ...SCALE,
    cubes: [],
    kernel: { seconds: 0, longest: 1e-9 },
    update: { seconds: 1, longest: 1e-9 },
    finetuning: { seconds: 1, longest: 1e-9 },
    ranking: { seconds: 1, longest: 1e-9, prompts: () => 12 },
  };
  const presets = ["tiny", "large++"] as const;
  const only = ["kernels", "updates", "finetuning", "ranking"] as const;
  const job = { device, scale, only, presets, memory: 1 << 20 };
  const { skipped, kernels, updates, finetuning, ranking, data } = await bench(job);
  device.destroy();
  assert.deepEqual([updates, finetuning, ranking, data], [[], [], [], []]);
  // Only small streaming kernels are within these limits.
  assert.ok(kernels.every(({ gbps }) => gbps !== undefined));
  for (const { what, why } of skipped) {
    assert.match(why, /^(it would take|an update would take|it needs|a parameter of)/, what);
  }
  const reason = (what: string) => skipped.find((s) => s.what === what)?.why ?? "";
  for (const what of ["update of", "finetuning update of", "ranking with"]) {
    assert.match(reason(`${what} tiny`), /MiB may be used$/);
  }
  if (limit < 264_241_152) assert.match(reason("update of large++"), /binding size/);
});

cpuTest("the benchmark of two ranks: both ways of an update, what is sent and kept", async () => {
  const report = await benchParallel({
    ...{ preset: "tiny", tokens: 64, repeat: 2, output: { write: () => {} } },
    placement: {
      adapter: "cpu",
      threads: 1,
      environment: [{}, {}],
      expect: [undefined, undefined],
    },
  });
  assert.deepEqual([report.isolated.length, report.exchanging.length], [2, 2]);
  for (const [path, value] of numbersIn(report)) assert.ok(value > 0, `${path}: ${value}`);
  assert.ok(Math.abs(report.bytesSent / report.formulaBytes - 1) < 0.05);
  assert.ok(Math.abs(report.momentBytes / (4 * report.parameters) - 1) < 0.05);
  assert.match(parallelTable(report), /2 ranks as workers, tiny, 64 tokens each, .*\n.*without/);
  assert.throws(() => onePreset(["tinny"], "small"), /did you mean tiny\?/);
  assert.throws(() => onePreset(["tiny", "base"], "small"), /expected one of/);
});

Deno.test("model FLOPs are those of the formula", () => {
  // d 768, L 512, V 33280 / 64512; d 1024, 24 layers: in MFLOP per token.
  const expected = { "base": 532.5, "base++": 547.0, "large++": 1766.0 };
  for (const [name, mflops] of Object.entries(expected)) {
    const { model, objective } = preset(name as keyof typeof expected);
    const flops = forwardFlopsPerToken(model, objective, 512);
    assert.ok(Math.abs(flops / 1e6 - mflops) < 0.5, `${name}: ${flops / 1e6}`);
  }
});

Deno.test("model FLOPs of pairs are those of the matrix products", () => {
  const { model } = preset("tiny");
  const d = model.dModel, { dFf, encoderLayers, decoderLayers } = model;
  const product = (m: number, n: number, k: number) => 2 * m * n * k;
  const [rows, s, t] = [3, 20, 7];
  const scores = (queries: number, keys: number) => 2 * product(queries, keys, d);
  const encoder = 4 * product(s, d, d) + scores(s, s) + 2 * product(s, dFf, d);
  const decoder = 4 * product(t, d, d) + scores(t, t) + 2 * product(t, dFf, d) +
    2 * product(t, d, d) + 2 * product(s, d, d) + scores(t, s);
  const head = product(t, model.vocabSize, d) +
    (model.clmHead === "roberta" ? product(t, d, d) : 0);
  assert.equal(
    pairFlops(model, { rows, length: s, target: t }),
    rows * (encoderLayers * encoder + decoderLayers * decoder + head),
  );
});

Deno.test("parts and presets are checked, with the nearest name", () => {
  assert.deepEqual(chosen("--only", ["data", "kernels"], BENCH_PARTS), ["data", "kernels"]);
  assert.throws(() => chosen("--preset", ["bse"], PRESETS), {
    name: "UserError",
    message: /^--preset: expected some of tiny, .*, got 'bse'; did you mean base\?$/,
  });
});

Deno.test("a backward kernel is timed from its gradient on, on both targets", () => {
  const sources: Sources = {
    floats: (name, shape) => state(name, shape),
    ids: (name, shape) => input(name, shape, "u32"),
  };
  for (const target of [cpuTarget(1), gpuTarget]) {
    for (const name of ["tiny", "small"] as const) {
      const batch = { rows: 2, length: 64, selected: 100 };
      for (const kernel of layerCases(name, preset(name).model, batch)) {
        const { outputs, updates, forward } = kernel.build(sources);
        if (!forward) continue;
        const namesOf = (spec: Omit<ProgramSpec, "name">) =>
          lowerProgram(target, { name: "case", ...spec }).lowered.map(({ launch }) => launch.name);
        const whole = { name: "case", outputs, updates };
        const first = gradientStart({ target }, whole, forward), all = namesOf(whole);
        const alone = namesOf({ outputs: forward });
        assert.deepEqual(all.slice(0, first), [...alone, "spread+mul"], kernel.family);
        // What is computed behind is the gradients alone: in a program without the forward pass's result.
        assert.ok(first < all.length, kernel.family);
        if (!kernel.family.startsWith("cross entropy")) continue;
        const products = (names: string[]) => names.filter((n) => /NN|NT|TN/.test(n)).length;
        assert.equal(products(all.slice(first)), 3 * products(alone), kernel.family);
      }
    }
  }
});
