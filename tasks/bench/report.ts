/**
 * What a benchmark reports: the JSON file, and the same as tables.
 *
 * @module
 */
import { figureText, mib, percentText } from "../command/number_text.ts";
import { align } from "../command/table.ts";

/** Times of one thing, measured several times. */
export interface Times {
  /** The shortest, in milliseconds. */
  min: number;
  /** The middle one, in milliseconds. */
  median: number;
  /** How often it was measured. */
  repeats: number;
}

/** One kernel, or the kernels of one operation, at one shape. */
export interface KernelResult {
  /** Kind of kernel. */
  family: string;
  /** Preset whose layers have this shape, or `cube`. */
  of: string;
  /** The shape in words. */
  shape: string;
  /** Dispatches per run, where they can be counted. */
  dispatches?: number;
  /** Times of one run. */
  milliseconds: Times;
  /** Billions of floating-point operations per second, by the shortest time. */
  gflops?: number;
  /** Billions of bytes per second, each operand and result counted once, by the shortest time. */
  gbps?: number;
  /** Middle of the ratios to the matrix product measured just before. */
  ofMatmul?: number;
}

/** Whole training updates of one preset. */
export interface UpdateResult {
  /** The preset. */
  preset: string;
  /** Parameters; in pretraining, auxiliary model included. */
  parameters: number;
  /** Sequences and their length, in finetuning also the targets'; one micro-batch per update. */
  batch: { rows: number; length: number; target?: number };
  /** Milliseconds of an update. */
  milliseconds: Times;
  /** Tokens of sources and targets, by the shortest time. */
  tokensPerSecond: number;
  /** Billions of operations per second by the model's formula, by the shortest time. */
  gflops: number;
  /** Middle of the ratios to the matrix products measured before and after. */
  ofMatmul: number;
  /** Device memory of parameters, optimizer, inputs and intermediate values. */
  deviceBytes: number;
  /** The part of it that holds intermediate values. */
  workspaceBytes: number;
  /** Dispatches of the forward and backward pass. */
  dispatches: number;
  /** JavaScript time to record them, in microseconds for each. */
  encodeMicroseconds: number;
  /** Milliseconds of compiling programs and pipelines. */
  compileMilliseconds: number;
  /** Device buffers made by updates; must be 0. */
  buffersCreated: number;
  /** Pipelines made by updates; must be 0. */
  pipelinesCreated: number;
  /** Growth of the process over the updates after the first measurement, if there were any. */
  growth?: { updates: number; bytes: number };
  /** Share of time by kernel, largest first; needs timestamps. */
  profile?: { kernel: string; dispatches: number; milliseconds: number }[];
}

/** Rank classification of many prompts with one preset. */
export interface RankingResult {
  /** The preset. */
  preset: string;
  /** Parameters of the main model. */
  parameters: number;
  /** Prompts. */
  prompts: number;
  /** Choices of each prompt. */
  choices: number;
  /** Tokens of all prompts and choices. */
  tokens: number;
  /** Milliseconds for all prompts. */
  milliseconds: Times;
  /** By the shortest time. */
  promptsPerSecond: number;
  /** Billions of operations per second by the model's formula, padding not counted; shortest time. */
  gflops: number;
  /** Middle of the ratios to the matrix products measured before and after. */
  ofMatmul: number;
  /** Padded over real tokens, minus 1. */
  paddingOverhead: number;
  /** Programs compiled, before anything was timed. */
  programs: number;
  /** Share of the time that the device had nothing to do, by its own clock; needs timestamps. */
  outsideDevice?: number;
}

/** Work on text, on one core. */
export interface DataResult {
  /** What was done. */
  job: string;
  /** How much of what: `bytes` of text, `tokens`, or `renders` of a template for a row. */
  amount: number;
  /** Unit of the amount. */
  unit: "bytes" | "tokens" | "renders";
  /** Milliseconds for all of it. */
  milliseconds: Times;
  /** Amount per second, by the shortest time. */
  perSecond: number;
}

/** Something that was not measured. */
export interface Skipped {
  /** What. */
  what: string;
  /** Why. */
  why: string;
}

/** The JSON file. */
export interface BenchReport {
  /** When it was measured, ISO 8601. */
  date: string;
  /** Version of Deno. */
  deno: string;
  /** The device. */
  adapter: {
    /** The adapter's own description. */
    name: string;
    /** Whether it computes on the CPU. */
    software: boolean;
    /** What kernels are written in: WGSL for a `gpu`, WebAssembly for a `cpu`. */
    kind: "gpu" | "cpu";
    /** How kernels are timed. */
    timing: "timestamps" | "wall clock";
    /** Largest binding in bytes, which decides what fits. */
    maxStorageBufferBindingSize: number;
  };
  /** Logical processors. */
  cores: number;
  /** The processor, whose work on text is always measured. */
  processor?: {
    /** Its name, if the system told it. */
    name?: string;
    /** What the runtime's WebAssembly uses of it. */
    features: string[];
    /** Threads of the device, if that is the processor. */
    threads?: number;
  };
  /** The most device memory that was in use at a time. */
  peakBytes?: number;
  /** The matrix product (size³, NN) that others are compared with, over the whole run. */
  yardstick?: { size: number; gflops: { min: number; median: number; max: number } };
  /** One row per kernel and shape. */
  kernels: KernelResult[];
  /** One entry per preset: pretraining. */
  updates: UpdateResult[];
  /** One entry per preset: finetuning on prompts. */
  finetuning: UpdateResult[];
  /** One entry per preset. */
  ranking: RankingResult[];
  /** One row per job. */
  data: DataResult[];
  /** What was left out. */
  skipped: Skipped[];
  /** Seconds that all of it took. */
  seconds: number;
}

/**
 * The report as aligned tables.
 *
 * @example
 * ```ts
 * import { tables } from "./report.ts";
 * import assert from "node:assert/strict";
 *
 * const milliseconds = { min: 40, median: 50, repeats: 3 };
 * const text = tables({
 *   date: "2026-11-20T12:00:00Z",
 *   deno: "2.9.6",
 *   adapter: {
 *     name: "llvmpipe",
 *     software: true,
 *     kind: "gpu",
 *     timing: "timestamps",
 *     maxStorageBufferBindingSize: 2 ** 27,
 *   },
 *   cores: 2,
 *   kernels: [{ family: "matmul NN", of: "cube", shape: "1024", dispatches: 1, milliseconds }],
 *   updates: [],
 *   finetuning: [],
 *   ranking: [],
 *   data: [],
 *   skipped: [{ what: "update of base", why: "too slow" }],
 *   seconds: 1,
 * });
 * assert.match(text, /matmul NN +cube +1024 +40\.0 +50\.0/);
 * assert.match(text, /Skipped\n {2}update of base: too slow/);
 * ```
 */
export function tables(report: BenchReport): string {
  const { kernels, updates, finetuning, ranking, data, skipped } = report;
  return [
    headline(report),
    kernels.length > 0 && `Kernels\n${kernelTable(kernels)}`,
    ...updates.map(updateTable),
    ...finetuning.map(updateTable),
    ...ranking.map(rankingTable),
    data.length > 0 && `Data, on one core\n${dataTable(data)}`,
    skipped.length > 0 &&
    `Skipped\n${skipped.map(({ what, why }) => `  ${what}: ${why}`).join("\n")}`,
  ].filter((section) => section !== false).join("\n\n");
}

function headline(report: BenchReport): string {
  const { date, deno, adapter, cores, processor, peakBytes, yardstick, seconds } = report;
  const { name, timing } = adapter;
  const lines = [
    `${name}, timed by ${timing}`,
    `Deno ${deno}, ${cores} cores, ${date.slice(0, 10)}, ${seconds.toFixed(0)} s`,
  ];
  if (processor) {
    const { name = "processor", features, threads } = processor;
    const on = threads === undefined ? "" : `, ${threads} ${threads === 1 ? "thread" : "threads"}`;
    lines.push(`${name}: ${features.join(", ")}${on}`);
  }
  if (peakBytes) lines.push(`Most device memory in use: ${mib(peakBytes)}`);
  if (yardstick) {
    const { size, gflops: { min, median, max } } = yardstick;
    lines.push(
      `Yardstick: matmul NN ${size}³, ${figureText(median)} GFLOP/s (${figureText(min)} to ${
        figureText(max)
      })`,
    );
  }
  return lines.join("\n");
}

function kernelTable(kernels: readonly KernelResult[]): string {
  const head = ["kernel", "of", "shape", "ms min", "ms median", "GFLOP/s", "GB/s", "of matmul"];
  const rows = kernels.map((k) => [
    k.family,
    k.of,
    k.shape,
    figureText(k.milliseconds.min),
    figureText(k.milliseconds.median),
    optional(k.gflops),
    optional(k.gbps),
    k.ofMatmul === undefined ? "" : percent(k.ofMatmul),
  ]);
  return align([head, ...rows], 3);
}

/** Kernels of a profile that are shown. */
const SHOWN = 12;

function updateTable(u: UpdateResult): string {
  const { rows, length, target } = u.batch;
  const lines: [string, string][] = [
    [
      "time",
      `${figureText(u.milliseconds.min)} ms, median ${figureText(u.milliseconds.median)} ms`,
    ],
    ["tokens per second", figureText(u.tokensPerSecond)],
    ["model GFLOP/s", `${figureText(u.gflops)}, ${percent(u.ofMatmul)} of matmul`],
    ["device memory", `${mib(u.deviceBytes)}, of it ${mib(u.workspaceBytes)} intermediate values`],
    ["dispatches", `${u.dispatches}, ${figureText(u.encodeMicroseconds)} µs to submit each`],
    ["compiling", `${figureText(u.compileMilliseconds / 1000)} s`],
    ["made by updates", `${u.buffersCreated} buffers, ${u.pipelinesCreated} pipelines`],
  ];
  if (u.growth) {
    lines.push(["process growth", `${mib(u.growth.bytes)} over ${u.growth.updates} updates`]);
  }
  const millions = (u.parameters / 1e6).toFixed(1);
  const what = target === undefined ? "Update" : "Finetuning update";
  const batch = `${rows} × ${length}${target === undefined ? "" : ` → ${target}`} tokens`;
  const title = `${what} of ${u.preset} (${millions} M parameters, ${batch})\n`;
  return title + align(lines, 2) + profileText(u);
}

function rankingTable(r: RankingResult): string {
  const lines: [string, string][] = [
    [
      "time",
      `${figureText(r.milliseconds.min)} ms, median ${figureText(r.milliseconds.median)} ms`,
    ],
    ["prompts per second", figureText(r.promptsPerSecond)],
    ["model GFLOP/s", `${figureText(r.gflops)}, ${percent(r.ofMatmul)} of matmul`],
    ["padding", `${percent(r.paddingOverhead)} over the ${figureText(r.tokens)} tokens`],
    ["programs", `${r.programs}`],
  ];
  if (r.outsideDevice !== undefined) {
    lines.push(["outside the device", `${percentText(r.outsideDevice, 1, " %")} of the time`]);
  }
  const millions = (r.parameters / 1e6).toFixed(1);
  const prompts = `${r.prompts} prompts of ${r.choices} choices`;
  return `Ranking with ${r.preset} (${millions} M parameters, ${prompts})\n` + align(lines, 2);
}

function profileText({ profile }: UpdateResult): string {
  if (!profile) return "";
  const total = profile.reduce((sum, { milliseconds }) => sum + milliseconds, 0);
  const rows = profile.slice(0, SHOWN).map((k) => [
    k.kernel.length > 48 ? k.kernel.slice(0, 47) + "…" : k.kernel,
    `${k.dispatches}`,
    figureText(k.milliseconds),
    percent(k.milliseconds / total),
  ]);
  return "\n" + align([["kernel", "dispatches", "ms", "share"], ...rows], 1);
}

function dataTable(data: readonly DataResult[]): string {
  const rows = data.map((d) => [
    d.job,
    figureText(d.milliseconds.min),
    figureText(d.milliseconds.median),
    rateOf(d),
  ]);
  return align([["job", "ms min", "ms median", "rate"], ...rows], 1);
}

function rateOf({ unit, perSecond }: DataResult): string {
  if (unit === "renders") return `${figureText(perSecond / 1e3)} k renders/s`;
  return `${figureText(perSecond / 1e6)} ${unit === "bytes" ? "MB" : "M tokens"}/s`;
}

function optional(x: number | undefined): string {
  return x === undefined ? "" : figureText(x);
}

function percent(share: number): string {
  return percentText(share, 0, " %");
}
