import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Device, openDevice } from "../../../ops/mod.ts";
import { layout } from "../../../ops/program/memory.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { gpuTarget } from "../../../ops/gpu/target.ts";
import { Random } from "../../../ops/graph/random.ts";
import { defaults } from "../../../tasks/command/options.ts";
import { cutSlabs, slabMultiple } from "../../../tasks/parallel/buckets.ts";
import { alone } from "../../../tasks/parallel/communicator.ts";
import { PLAN_OPTIONS, planRun, type PlanSettings } from "../../../tasks/plan/plan.ts";
import { examplesText, paperExamples } from "../../../tasks/plan/examples.ts";
import { planMemory } from "../../../tasks/train/memory.ts";
import { rateOf } from "../../../tasks/plan/rate.ts";
import { planText } from "../../../tasks/plan/print.ts";
import { planTime } from "../../../tasks/plan/time.ts";
import { flopsPerToken, subjectOf, workOf } from "../../../tasks/train/work.ts";
import { type GivenPretrain, resolvePretrain } from "../../../tasks/config/pretrain.ts";
import { Trainer } from "../../../tasks/train/trainer.ts";
import { batchShapes } from "../../../tasks/train/static_shapes.ts";
import { ROOT, run } from "../../e2e/command.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { gpuTest } from "../../gpu.ts";

const TINY: GivenPretrain = { preset: "tiny", batchTokens: 2048, microBatch: 1024 };
const LINKS = {
  interconnect: 12.5e9,
  latency: 20e-6,
  hostLink: 12e9,
  hostSums: 3e9,
  readWait: 0.01,
  overlap: 1,
};
const sum = (sizes: readonly number[]) => sizes.reduce((total, size) => total + size, 0);
const settings = (given: Partial<PlanSettings>): PlanSettings => ({
  ...defaults(PLAN_OPTIONS),
  ...given,
});

/** Compares plans with what Trainers allocate on a device. */
function comparePlans(device: Device, tolerance: number): void {
  const cases: [GivenPretrain, number][] = [
    [{ ...TINY, staticLengths: 2 }, 1],
    [{ ...TINY, objective: "t5", clipNorm: 0 }, 1],
    [TINY, 2],
    [{ ...TINY, vocabSize: 1000 }, 6], // micro-batches are cut
  ];
  for (const [given, size] of cases) {
    const config = resolvePretrain(given, []);
    const before = device.allocatedBytes;
    const { model, objective } = subjectOf(config);
    const group = { ...alone(), rank: size - 1, size };
    const trainer = new Trainer(device, model, objective, config, config.seed, group);
    const { shapes, heldout } = workOf(config, size);
    for (const [i, shape] of shapes.entries()) {
      trainer.compileShape(shape, "train");
      trainer.compileShape(heldout[i], "heldout");
    }
    const plan = planMemory(config, size, device.target);
    // The device's own buffer was there before.
    const allocated = device.allocatedBytes - before + (4 << 20);
    assert.ok(
      Math.abs(plan.bytes / allocated - 1) <= tolerance,
      `${size} devices: planned ${plan.bytes}, allocated ${allocated}`,
    );
    assert.equal(plan.parameters, trainer.parameterCount);
    trainer.destroy();
  }
  device.check();
  device.destroy();
}

cpuTest("planMemory: is what a Trainer allocates on the processor, to the byte", async () => {
  comparePlans(await openTestDevice(), 0);
});

gpuTest("planMemory: is within 1 % of what a Trainer allocates on a GPU", async () => {
  comparePlans(await openDevice({ adapter: "software" }), 0.01);
}, { seconds: 120 });

cpuTest("planMemory: cuts several slabs into the buckets of a Trainer", async () => {
  const device = await openTestDevice();
  const config = resolvePretrain({ preset: "small" }, []);
  const { model, objective } = subjectOf(config);
  for (const size of [1, 8]) {
    const group = { ...alone(), rank: size - 1, size };
    const trainer = new Trainer(device, model, objective, config, config.seed, group);
    const slabs = trainer.gradients.buffers.map((buffer) => buffer.size);
    assert.ok(slabs.length > 2, `${slabs.length} slabs`);
    const buckets = cutSlabs(slabs, size).map(({ bytes }) => bytes);
    const plan = planMemory(config, size, device.target);
    assert.deepEqual(
      [plan.buckets, plan.bucketBytes, plan.gradientBytes, plan.largestBuffer.bytes],
      [buckets.length, Math.max(...buckets), sum(buckets), Math.max(...slabs)],
      `${size} devices`,
    );
    const moments = plan.items.find(({ what }) => what === "moments")!;
    assert.equal(moments.bytes, trainer.momentBytes, `${size} devices`);
    // In the order of declaration there would be one bucket more.
    const declared = layout(trainer.shapes, slabMultiple(size)).slabs;
    assert.equal(cutSlabs(declared, size).length - buckets.length, size === 1 ? 0 : 1);
    trainer.destroy();
  }
  device.check();
  device.destroy();
});

Deno.test("planMemory: only the moments are divided by the number of devices", () => {
  // As many micro-batches for each, so that shapes stay the same.
  const of = (devices: number) =>
    planMemory(
      resolvePretrain({ ...TINY, batchTokens: 4096 * devices }, []),
      devices,
      gpuTarget,
    );
  const one = of(1);
  const bytes = (plan: typeof one, what: string) =>
    plan.items.find((item) => item.what === what)!.bytes;
  for (const devices of [2, 3, 8, 64]) {
    const many = of(devices);
    assert.ok(bytes(many, "intermediate values") <= bytes(one, "intermediate values"));
    for (const what of ["weights", "gradients"]) {
      const growth = bytes(many, what) / bytes(one, what);
      assert.ok(growth >= 0.999 && growth < 1.02, `${what}, ${devices} devices: ${growth}`);
    }
    const share = devices * bytes(many, "moments") / bytes(one, "moments");
    assert.ok(share >= 1 && share < 1.02, `moments, ${devices} devices: ${share}`);
  }
});

Deno.test("workOf: the devices together compute the update, and rarely more", () => {
  const random = new Random(1);
  for (let i = 0; i < 200; i++) {
    const microBatch = 64 * (1 + random.below(20));
    const config = resolvePretrain({
      preset: "tiny",
      microBatch,
      batchTokens: microBatch * (1 + random.below(12)),
    }, []);
    const devices = 1 + random.below(20);
    const { tokens, surplus, micros, micro, slices, shapes } = workOf(config, devices);
    assert.ok(Number.isInteger(slices), `${slices} slices`);
    assert.ok(tokens * devices >= micros * micro.rows * micro.length);
    assert.ok(surplus >= 1);
    const parts = slices * devices / micros;
    if (micro.rows % parts === 0) assert.ok(Math.abs(surplus - 1) < 1e-9);
    assert.equal(tokens, slices * shapes.at(-1)!.rows * micro.length);
  }
});

Deno.test("batchShapes: lengths are the fewest multiples of 8 that reach every step", () => {
  for (let maxLength = 1; maxLength <= 600; maxLength += 7) {
    for (let staticLengths = 1; staticLengths <= 12; staticLengths++) {
      const { lengths } = batchShapes({ staticLengths, microBatch: 4096 }, { maxLength });
      const longest = 8 * Math.ceil(maxLength / 8);
      // Whole numbers, so that nothing is rounded before it is rounded up.
      const steps = Array.from({ length: staticLengths }, (_, i) => longest * (i + 1));
      const expected = steps.map((step) => 8 * Math.ceil(step / (8 * staticLengths)));
      assert.deepEqual(lengths, [...new Set(expected)], `${maxLength} in ${staticLengths}`);
    }
  }
});

Deno.test("planTime: adds up, and hides no more than there is to hide behind", () => {
  const random = new Random(2);
  for (let i = 0; i < 300; i++) {
    const bucketBytes = 1e6 * (1 + random.below(30)), buckets = 1 + random.below(60);
    const gradientBytes = bucketBytes * buckets;
    const lateBytes = Math.max(bucketBytes, Math.floor(random.uniform() * gradientBytes));
    const memory = { gradientBytes, lateBytes, buckets, bucketBytes };
    const work = { tokens: 1 + random.below(20_000), slices: 1 + random.below(4) };
    const rate = 1 + random.below(30_000), devices = 1 + random.below(300);
    const links = {
      interconnect: 1e9 * (0.1 + 30 * random.uniform()),
      latency: 1e-4 * random.uniform(),
      hostLink: 1e9 * (0.1 + 30 * random.uniform()),
      hostSums: 1e9 * (0.1 + 30 * random.uniform()),
      readWait: 0.01 * random.uniform(),
      overlap: random.uniform(),
    };
    const plan = planTime(work, rate, memory, devices, links);
    const sum = plan.items.reduce((total, { seconds }) => total + seconds, 0);
    assert.ok(Math.abs(sum - plan.seconds) < 1e-9 * plan.seconds);
    assert.equal(plan.compute, work.tokens / rate);
    assert.ok(plan.exposed >= 0);
    if (devices === 1) {
      assert.deepEqual([plan.traffic, plan.exposed], [0, 0]);
      continue;
    }
    const expected = 2 * (gradientBytes + 8) * (devices - 1) / devices;
    assert.ok(Math.abs(plan.traffic / expected - 1) < 1e-9);
    const hidden = Math.max(0, ...plan.items.map(({ seconds }) => -seconds));
    assert.ok(hidden <= 2 / 3 * plan.compute * links.overlap / work.slices + 1e-9);
    for (const link of ["interconnect", "hostLink", "hostSums"] as const) {
      const faster = planTime(work, rate, memory, devices, { ...links, [link]: 2 * links[link] });
      assert.ok(faster.seconds < plan.seconds, link);
    }
    const nothingHidden = planTime(work, rate, memory, devices, { ...links, overlap: 0 });
    assert.ok(Math.abs(nothingHidden.seconds - hidden - plan.seconds) < 1e-9 * plan.seconds);
  }
});

Deno.test("planTime: the arithmetic by hand", () => {
  const memory = { gradientBytes: 1e9, lateBytes: 1e8, buckets: 40, bucketBytes: 25e6 };
  const { items } = planTime({ tokens: 16_384, slices: 2 }, 8192, memory, 4, LINKS);
  assert.deepEqual(items.at(-1)!.how, [
    "3 × 10 ms",
    "1.250 GB / 12 GB/s",
    "0.750 GB / 12.5 GB/s",
    "1.000 GB / 3 GB/s",
    "40 × 2 × 20 µs",
  ]);
  const seconds = Object.fromEntries(items.map((item) => [item.what, item.seconds]));
  const messages = (count: number) => count * 2 * 20e-6;
  // Seconds for 10⁹ bytes: by the host's link, from host to host, in the host.
  const perByte = 1.25 / 12 + 0.75 / 12.5 + 1 / 3;
  const expected = {
    "compute": 2,
    // Four reads share a wait.
    "gradients, early": 9 * 0.01 + 0.9 * perByte + messages(36),
    "gradients, late": 1 * 0.01 + 0.1 * perByte + messages(4),
    "norm": 2 * 2 * 20e-6,
    // A quarter of the weights is 10 buckets' worth of reading.
    "weights": 3 * 0.01 + perByte + messages(40),
  };
  for (const [what, value] of Object.entries(expected)) {
    assert.ok(Math.abs(seconds[what] - value) < 1e-9, `${what}: ${seconds[what]}, not ${value}`);
  }
  const early = expected["gradients, early"];
  assert.ok(Math.abs(seconds["hidden of the early ones"] + early) < 1e-9, "all of it hides");
});

Deno.test("rateOf: told, by the formula, or from a benchmark", async () => {
  const config = resolvePretrain({ preset: "base" }, []);
  assert.equal((await rateOf(config, { rate: 5 })).tokensPerSecond, 5);
  const flops = flopsPerToken(config);
  assert.equal((await rateOf(config, { tflops: 2 })).tokensPerSecond, 2e12 / flops);

  const folder = await Deno.makeTempDir();
  try {
    const bench = join(folder, "bench.json");
    await writeFile(bench, JSON.stringify({ updates: [{ preset: "base", gflops: 3000 }] }));
    const { tokensPerSecond } = await rateOf(config, { bench });
    assert.equal(tokensPerSecond, 3e12 / flops);
    const other = resolvePretrain({ preset: "small" }, []);
    await assert.rejects(() => rateOf(other, { bench }), {
      name: "UserError",
      message: /training updates of small, found those of base; run `deno task bench --only/,
    });
    for (const text of ["", "[]", "{}", '{"updates": 3}', "null"]) {
      await writeFile(bench, text);
      await assert.rejects(() => rateOf(config, { bench }), /deno task bench has written/);
    }
    await writeFile(bench, '{"updates": [null, {"preset": "base", "gflops": "9"}]}');
    await assert.rejects(() => rateOf(config, { bench }), UserError);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }

  await assert.rejects(() => rateOf(config, {}), /deno task bench --only updates --preset base/);
  await assert.rejects(() => rateOf(config, { rate: 1, tflops: 1 }), /--rate and --tflops/);
});

Deno.test("flopsPerToken: the baseline's tokens are those of the text", () => {
  const t5 = flopsPerToken(resolvePretrain({ preset: "base", objective: "t5" }, []));
  // 0.750 GFLOP by the lengths without padding.
  assert.ok(t5 > 0.75e9 && t5 < 0.9e9, `${t5}`);
});

Deno.test("planRun: refuses with reasons what cannot be", async () => {
  const rate = 1000, preset = "tiny";
  const reasons = async (given: Partial<PlanSettings>) =>
    (await planRun(settings({ preset, rate, ...given }))).reasons;
  assert.deepEqual(await reasons({}), []);
  assert.deepEqual(await reasons({ memory: 1 }), []);
  const [tight] = await reasons({ memory: 0.08 });
  assert.match(
    tight,
    /^0\.\d\d GB per GPU do not fit the 0\.08 GB of --memory: --micro-batch \d+ /,
  );
  const [hopeless] = await reasons({ memory: 0.001 });
  assert.match(hopeless, /not even micro-batches of one sequence/);
  await assert.rejects(() => reasons({ gpus: 2 }), {
    name: "UserError",
    message: /^expected --interconnect/,
  });
});

Deno.test("planText: every total follows from its lines", async () => {
  const plan = await planRun(settings({
    preset: "base",
    rate: 27_350,
    gpus: 64,
    interconnect: 12.5,
  }));
  const text = planText(plan);
  const lines = text.split("\n").map((line) => line.trim().split(/ {2,}/));
  const figure = (what: string) =>
    Number(lines.find(([first]) => first === what)!.at(-1)!.replace(/[ a-zA-Z,%]/g, ""));
  const parts = ["weights", "gradients", "moments", "intermediate values"];
  const sum = parts.reduce((total, what) => total + figure(what), 0);
  assert.ok(Math.abs(sum / figure("together") - 1) < 0.01, `${sum}`);
  assert.equal(figure("each GPU"), 16_384);
  assert.equal(figure("GPU-hours"), Math.round(64 * 125_000 * plan.time.seconds / 3600));
  for (const line of text.split("\n")) assert.ok(line.length < 125, line);
});

Deno.test("paperExamples: only base, whose rate is put in, agrees by itself; docs show it", async () => {
  const examples = paperExamples();
  const [base, plus, large] = examples;
  const ratio = ({ hours, paperHours }: typeof base) => (hours / paperHours).toFixed(2);
  assert.deepEqual([base, plus, large].map(ratio), ["1.00", "1.15", "0.63"]);
  assert.equal((base.rate * base.gflopsPerToken / 1e3).toFixed(1), "47.3");
  const text = await readFile(join(ROOT, "docs", "plan.md"), "utf8");
  assert.ok(text.includes(examplesText(examples)), "copy the output of deno task plan --examples");
});

Deno.test("deno task plan: prints the plan, then why it cannot be", async () => {
  const { code, out, err } = await run("plan", ["--preset", "tiny", "--tflops", "1"]);
  assert.equal(code, 0, err);
  assert.match(out, /^Pretraining METRO-T5 tiny on one GPU/);
  const refused = await run("plan", ["--preset", "tiny", "--tflops", "1", "--memory", "0.08"]);
  assert.equal(refused.code, 1);
  assert.match(refused.out, /^Pretraining METRO-T5 tiny on one GPU/);
  assert.match(refused.err, /^error: \d\.\d\d GB per GPU do not fit the 0\.08 GB of --memory.*\n$/);
});

Deno.test("planRun: of the processor, by its own kernels and without the limits of adapters", async () => {
  const plan = await planRun(settings({ preset: "tiny", rate: 2000, target: "cpu" }));
  const { bytes } = planMemory(plan.config, 1, plan.target);
  assert.equal(plan.memory.bytes, bytes);
  const text = planText(plan);
  assert.match(text, /on one CPU[\s\S]*Memory of each CPU/);
  assert.doesNotMatch(text, /GPU|NVIDIA/);
  const tight = { preset: "tiny", rate: 2000, target: "cpu", memory: 0.05 } as const;
  assert.match((await planRun(settings(tight))).reasons[0], /per CPU do not fit the 0\.05 GB/);
});
