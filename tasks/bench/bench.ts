/**
 * The benchmark: kernels, whole training updates, rank classification, and the work on text, timed on
 * whatever device there is. Machines are noisy, so comparisons are ratios to a matrix product measured at the same moment.
 *
 * @module
 */

import { join } from "node:path";
import { preset, type PresetName, PRESETS, slotsPerSequence } from "../../models/mod.ts";
import { CpuDevice } from "../../ops/cpu/device.ts";
import { supportOf } from "../../ops/cpu/support.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { GpuDevice } from "../../ops/gpu/device.ts";
import type { Device } from "../../ops/mod.ts";
import { timeData, timeRendering } from "./data.ts";
import { cubeCases, layerCases } from "./kernel_cases.ts";
import { openYardstick, timeKernel, type Yardstick } from "./kernels.ts";
import type { BenchReport, DataResult, KernelResult, Skipped } from "./report.ts";
import { timeRanking } from "./ranking.ts";
import { hasTimestamps, median, type Patience } from "./timing.ts";
import { timeFinetuning, timeOptimizer, timeUpdates } from "./updates.ts";
import { nearest } from "../command/nearest.ts";
import { describe, type Given } from "../command/options.ts";
import { ADAPTER_OPTIONS } from "../config/device_flags.ts";
import { resolvePretrain } from "../config/pretrain.ts";
import { featuresOf, processorName } from "../devices/processor.ts";

/** Parts of the benchmark. */
export const BENCH_PARTS = ["kernels", "updates", "finetuning", "ranking", "data"] as const;
/** One of {@link BENCH_PARTS}. */
export type BenchPart = typeof BENCH_PARTS[number];

/** Flags of `deno task bench`. */
export const BENCH_OPTIONS = describe({
  only: {
    type: "paths",
    unit: "part...",
    help: `Parts to run: ${BENCH_PARTS.join(", ")}. All if not given.`,
  },
  preset: {
    type: "paths",
    unit: "name...",
    help: `Presets to measure, of ${PRESETS.join(", ")}. tiny and base if not given.`,
  },
  repeat: { type: "integer", min: 1, max: 1000, help: "Measurements of each thing at most." },
  quick: { type: "boolean", default: false, help: "Fewer and smaller measurements, tiny only." },
  parallel: {
    type: "boolean",
    default: false,
    help:
      "Instead of all that: updates of one preset (small if not given) by several ranks, with and " +
      "without the exchange of gradients and weights, alternately.",
  },
  ranks: { type: "integer", min: 2, max: 64, default: 2, help: "Ranks, with --parallel." },
  rankTokens: {
    type: "integer",
    min: 8,
    unit: "tokens",
    help:
      "Tokens of a rank in an update, with --parallel. Default: 1024, or the preset's on a GPU.",
  },
  out: {
    type: "path",
    unit: "file",
    help: "JSON file to write. Default: bench.json; with --parallel, bench-parallel.json.",
  },
  ...ADAPTER_OPTIONS,
});

/** How much is measured, and when to stop. */
export interface BenchScale {
  /** Measurements of each thing at most. */
  repeat: number;
  /** Presets, if the user names none. */
  presets: readonly PresetName[];
  /** Padded tokens of a micro-batch. */
  tokens(preset: PresetName): number;
  /** Sizes of matrix products that belong to no preset. */
  cubes: readonly number[];
  /** Seconds for the measurements of a kernel, and the longest that one run may take. */
  kernel: { seconds: number; longest: number };
  /** Seconds for the updates of a preset, and the longest that one may take. */
  update: { seconds: number; longest: number };
  /** The same for finetuning updates. */
  finetuning: { seconds: number; longest: number };
  /** The same for the ranking of some prompts, and how many. */
  ranking: { seconds: number; longest: number; prompts(preset: PresetName): number };
  /** Bytes of text to work on. */
  text: number;
}

const microBatchOf = (name: PresetName) => resolvePretrain({ preset: name }, []).microBatch;

/** How much to measure on a CPU, on a GPU, and in a hurry. */
export const BENCH_SCALES: Readonly<Record<"cpu" | "gpu" | "quick", BenchScale>> = {
  cpu: {
    repeat: 5,
    presets: ["tiny", "base"],
    tokens: (name) => name === "tiny" ? microBatchOf(name) : 512,
    cubes: [1024, 4096],
    kernel: { seconds: 1, longest: 10 },
    update: { seconds: 15, longest: 60 },
    finetuning: { seconds: 5, longest: 5 },
    ranking: { seconds: 5, longest: 20, prompts: (name) => name === "tiny" ? 200 : 4 },
    text: 4e6,
  },
  gpu: {
    repeat: 10,
    presets: ["tiny", "base"],
    tokens: microBatchOf,
    cubes: [1024, 4096],
    kernel: { seconds: 1, longest: 5 },
    update: { seconds: 10, longest: 10 },
    finetuning: { seconds: 5, longest: 5 },
    ranking: { seconds: 5, longest: 5, prompts: () => 2000 },
    text: 4e6,
  },
  quick: {
    repeat: 3,
    presets: ["tiny"],
    tokens: (name) => name === "tiny" ? 2048 : 512,
    cubes: [1024],
    kernel: { seconds: 0.3, longest: 1 },
    update: { seconds: 5, longest: 10 },
    finetuning: { seconds: 3, longest: 5 },
    ranking: { seconds: 3, longest: 5, prompts: (name) => name === "tiny" ? 100 : 4 },
    text: 1e6,
  },
};

/** What {@link bench} measures and on what. */
export interface BenchJob {
  /** The device. */
  device: Device;
  /** How much to measure. */
  scale: BenchScale;
  /** Parts; all if absent. */
  only?: readonly BenchPart[];
  /** Presets; those of the scale if absent. */
  presets?: readonly PresetName[];
  /** Bytes of device memory that may be used. */
  memory: number;
  /** Called before each measurement. */
  onProgress?: (what: string) => void;
}

/** Whether a device computes on the CPU, by itself or through a driver. */
export function isOnCpu(device: Device): boolean {
  return device instanceof GpuDevice ? device.isFallback : device.kind === "cpu";
}

/**
 * The job that flags describe.
 *
 * @param memory bytes of main memory that are free
 * @throws {UserError} an unknown part or preset
 */
export function benchJob(
  device: Device,
  { only, preset, repeat, quick }: Given<typeof BENCH_OPTIONS>,
  memory: number,
): BenchJob {
  const onCpu = isOnCpu(device);
  const scale = BENCH_SCALES[quick ? "quick" : onCpu ? "cpu" : "gpu"];
  return {
    device,
    scale: repeat === undefined ? scale : { ...scale, repeat },
    only: only && chosen("--only", only, BENCH_PARTS),
    presets: preset && chosen("--preset", preset, PRESETS),
    // WebGPU does not tell a GPU's memory: there an allocation that fails is reported instead.
    memory: onCpu ? memory / 2 : Infinity,
  };
}

/**
 * The words that a flag lists, checked.
 *
 * @throws {UserError} a word that is not a choice
 *
 * @example
 * ```ts
 * import { chosen } from "./bench.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(chosen("--only", ["data"], ["kernels", "data"]), ["data"]);
 * assert.throws(() => chosen("--only", ["dat"], ["kernels", "data"]), /did you mean data/);
 * ```
 */
export function chosen<T extends string>(
  flag: string,
  words: readonly string[],
  choices: readonly T[],
): T[] {
  return words.map((word) => {
    const found = choices.find((choice) => choice === word);
    if (found) return found;
    const near = nearest(word, choices);
    throw new UserError(
      `${flag}: expected some of ${choices.join(", ")}, got '${word}'` +
        (near ? `; did you mean ${near}?` : ""),
    );
  });
}

/**
 * Measures. What does not fit the device is listed as skipped, with the reason.
 *
 * @example
 * ```ts ignore
 * import { bench, BENCH_SCALES } from "./bench.ts";
 * import { openDevice } from "../../ops/mod.ts";
 *
 * const job = { device: await openDevice(), scale: BENCH_SCALES.quick, memory: 4e9 };
 * console.log((await bench(job)).kernels);
 * ```
 */
export async function bench(job: BenchJob): Promise<BenchReport> {
  const start = performance.now();
  const { device, scale, only = BENCH_PARTS, onProgress = () => {} } = job;
  const report: BenchReport = {
    date: new Date().toISOString(),
    deno: Deno.version.deno,
    adapter: {
      name: device.adapterName,
      software: isOnCpu(device),
      kind: device.kind,
      timing: hasTimestamps(device) ? "timestamps" : "wall clock",
      maxStorageBufferBindingSize: device.limits.bindingBytes,
    },
    cores: navigator.hardwareConcurrency,
    processor: {
      name: processorName(),
      features: featuresOf(supportOf()),
      threads: device instanceof CpuDevice ? device.threads : undefined,
    },
    peakBytes: 0,
    kernels: [],
    updates: [],
    finetuning: [],
    ranking: [],
    data: [],
    skipped: [],
    seconds: 0,
  };
  if (only.some((part) => part !== "data")) {
    onProgress("yardstick");
    const yardstick = await openYardstick(device);
    try {
      if (only.includes("kernels")) await benchKernels(job, yardstick, report);
      if (only.includes("updates")) await benchUpdates(job, yardstick, report);
      if (only.includes("finetuning")) await benchFinetuning(job, yardstick, report);
      if (only.includes("ranking")) await benchRanking(job, yardstick, report);
    } finally {
      yardstick.destroy();
    }
    const { size, samples } = yardstick;
    const [min, max] = [Math.min(...samples), Math.max(...samples)];
    report.yardstick = { size, gflops: { min, median: median(samples), max } };
  }
  if (only.includes("data")) {
    onProgress("data");
    const patience = { repeat: scale.repeat, seconds: 3 };
    report.data = await timeData(scale.text, patience);
    const rendering = await benchRendering(patience);
    if ("why" in rendering) report.skipped.push(rendering);
    else report.data.push(rendering);
  }
  report.peakBytes = device.peakBytes;
  report.seconds = (performance.now() - start) / 1000;
  return report;
}

async function benchKernels(
  { device, scale, presets = scale.presets, memory, onProgress }: BenchJob,
  yardstick: Yardstick,
  report: BenchReport,
): Promise<void> {
  const limits = { repeat: scale.repeat, ...scale.kernel, memory };
  const keep = (result: KernelResult | Skipped) =>
    "why" in result ? report.skipped.push(result) : report.kernels.push(result);
  const cases = [
    ...scale.cubes.flatMap(cubeCases),
    ...presets.flatMap((name) => layerCases(name, preset(name).model, shapeOf(scale, name))),
  ];
  for (const kernel of cases) {
    onProgress?.(`${kernel.family} ${kernel.of} ${kernel.shape}`);
    keep(await timeKernel(device, kernel, yardstick, limits));
  }
  for (const name of presets) {
    onProgress?.(`AdamW ${name}`);
    keep(await timeOptimizer(device, name, limits));
  }
}

async function benchUpdates(
  { device, scale, presets = scale.presets, memory, onProgress }: BenchJob,
  yardstick: Yardstick,
  report: BenchReport,
): Promise<void> {
  const limits = { repeat: scale.repeat, ...scale.update, memory };
  for (const name of presets) {
    onProgress?.(`update of ${name}`);
    const result = await timeUpdates(device, name, scale.tokens(name), yardstick, limits);
    if ("why" in result) report.skipped.push(result);
    else report.updates.push(result);
  }
}

async function benchFinetuning(
  { device, scale, presets = scale.presets, memory, onProgress }: BenchJob,
  yardstick: Yardstick,
  report: BenchReport,
): Promise<void> {
  const limits = { repeat: scale.repeat, ...scale.finetuning, memory };
  for (const name of presets) {
    onProgress?.(`finetuning update of ${name}`);
    const result = await timeFinetuning(device, name, scale.tokens(name), yardstick, limits);
    if ("why" in result) report.skipped.push(result);
    else report.finetuning.push(result);
  }
}

async function benchRanking(
  { device, scale, presets = scale.presets, memory, onProgress }: BenchJob,
  yardstick: Yardstick,
  report: BenchReport,
): Promise<void> {
  const { prompts, ...patience } = scale.ranking;
  const limits = { repeat: scale.repeat, ...patience, memory };
  for (const name of presets) {
    onProgress?.(`ranking with ${name}`);
    const result = await timeRanking(device, name, prompts(name), yardstick, limits);
    if ("why" in result) report.skipped.push(result);
    else report.ranking.push(result);
  }
}

/** Renders the sample tasks, which lie beside the toolkit's sources. */
async function benchRendering(patience: Patience): Promise<DataResult | Skipped> {
  const what = "rendering", { dirname } = import.meta;
  if (!dirname) return { what, why: "the sample tasks are not on this machine" };
  const [rows, templates] = ["tasks", "templates"].map((name) =>
    join(dirname, "..", "..", "data", name)
  );
  try {
    return await timeRendering(rows, templates, patience);
  } catch (error) {
    // The library that reads templates asks for variables that only some command lines grant.
    const expected = error instanceof UserError || error instanceof Deno.errors.NotCapable;
    if (expected) return { what, why: error.message };
    throw error;
  }
}

/** Rows and length of a preset's micro-batch, and how many of its positions are selected. */
function shapeOf(scale: BenchScale, name: PresetName) {
  const { objective, optimisation } = preset(name);
  const tokens = scale.tokens(name);
  const length = Math.min(optimisation.sequenceLength, tokens);
  const rows = Math.max(1, Math.floor(tokens / length));
  return { rows, length, selected: rows * slotsPerSequence(objective, length) };
}
