/**
 * What training on some number of devices will need and take, with the arithmetic: memory, traffic, time.
 * Nothing is run; memory comes from the layouts and plans that training itself uses.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import type { PresetName } from "../../models/mod.ts";
import { cpuTarget } from "../../ops/cpu/target.ts";
import { supportOf } from "../../ops/cpu/support.ts";
import { gpuTarget } from "../../ops/gpu/target.ts";
import type { Target } from "../../ops/program/lowering.ts";
import { gigabytes, mib } from "../command/number_text.ts";
import { describe, flagName, type Option } from "../command/options.ts";
import { type MemoryPlan, planMemory } from "../train/memory.ts";
import { type GivenRate, type Rate, rateOf } from "./rate.ts";
import { planTime, type TimePlan } from "./time.ts";
import { type Work, workOf } from "../train/work.ts";
import {
  type GivenPretrain,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "../config/pretrain.ts";

const { preset, source, objective, sequenceLength } = PRETRAIN_CONFIG;
const { updates, batchTokens, microBatch } = PRETRAIN_CONFIG;
const RUN = "Run", DEVICES = "Devices", LINKS = "Between devices";

/** What is to be known about a run to foresee it: flags with their defaults. */
export interface PlanSettings extends
  GivenRate,
  Pick<
    GivenPretrain,
    "source" | "objective" | "updates" | "batchTokens" | "microBatch" | "sequenceLength"
  > {
  /** Sizes and training recipe. */
  preset: PresetName;
  /** Number of devices. */
  gpus: number;
  /** What they are. */
  target: "gpu" | "cpu";
  /** Memory of a device in GB, if what does not fit is to be refused. */
  memory?: number;
  /** GB/s that each device can send to others; needed for more than one. */
  interconnect?: number;
  /** Microseconds for the first byte of a message. */
  latency: number;
  /** GB/s between a device and its host. */
  hostLink: number;
  /** GB/s that a rank's one thread adds up of gradients, and puts together of weights. */
  hostSums: number;
  /** Milliseconds of every wait for bytes from the device, beyond their copy. */
  readWait: number;
  /** Share of the last backward pass behind which exchanging gradients can hide. */
  overlap: number;
}

/** Flags of `deno task plan`. */
export const PLAN_OPTIONS = describe(
  {
    preset: { ...preset, default: "base", group: RUN },
    source: { ...source, group: RUN },
    objective: { ...objective, group: RUN },
    updates: { ...updates, group: RUN },
    batchTokens: { ...batchTokens, group: RUN },
    microBatch: { ...microBatch, group: RUN },
    sequenceLength: { ...sequenceLength, group: RUN },
    gpus: {
      type: "integer",
      min: 1,
      max: 65_536,
      default: 1,
      unit: "number",
      help: "Devices that train together.",
      group: DEVICES,
    },
    target: {
      type: "choice",
      choices: ["gpu", "cpu"] as const,
      default: "gpu",
      help: "What they are. cpu: this machine's processor, with a thread for each core.",
      group: DEVICES,
    },
    rate: {
      type: "number",
      above: 0,
      unit: "tokens/s",
      help: "Tokens per second of one device alone, as `deno task bench` measures them.",
      group: DEVICES,
    },
    bench: {
      type: "path",
      unit: "file",
      help: "Take the rate from a file that `deno task bench` has written.",
      group: DEVICES,
    },
    tflops: {
      type: "number",
      above: 0,
      unit: "TFLOP/s",
      help:
        "Take the rate from the model's formula: 10^12 operations per second that one device reaches " +
        "in training.",
      group: DEVICES,
    },
    memory: {
      type: "number",
      above: 0,
      unit: "GB",
      help: "Memory of a device, 10^9 bytes: refuse what does not fit.",
      group: DEVICES,
    },
    interconnect: {
      type: "number",
      above: 0,
      unit: "GB/s",
      help:
        "10^9 bytes per second that each device can send to others and receive at the same time: " +
        "100 Gbit/s are 12.5. Needed for more than one.",
      group: LINKS,
    },
    latency: {
      type: "number",
      min: 0,
      default: 20,
      unit: "microseconds",
      help: "For the first byte of a message.",
      group: LINKS,
    },
    hostLink: {
      type: "number",
      above: 0,
      default: 12,
      unit: "GB/s",
      help:
        "Copies between a device and its host, which all that is exchanged passes: about 12 are what " +
        "PCIe 3.0 x16 gives; the runtime's own copies can be slower.",
      group: LINKS,
    },
    hostSums: {
      type: "number",
      above: 0,
      default: 3,
      unit: "GB/s",
      help:
        "Of all ranks' gradients that one thread for each device adds up, and of weights that it puts " +
        "together: 3 are what an all-reduce of 64 MiB reached between two threads of a server with two cores.",
      group: LINKS,
    },
    readWait: {
      type: "number",
      min: 0,
      default: 10,
      unit: "milliseconds",
      help:
        "Of every wait for bytes from the device, beyond their copy; Deno's event loop takes 10.",
      group: LINKS,
    },
    overlap: {
      type: "number",
      min: 0,
      max: 1,
      default: 1,
      unit: "share",
      help:
        "Share of the last backward pass behind which exchanging gradients can hide; 1 is the best case.",
      group: LINKS,
    },
    examples: {
      type: "boolean",
      default: false,
      help: "Print the paper's three runs as worked examples, beside the paper's own times.",
    },
  } satisfies Record<keyof PlanSettings | "examples", Option>,
);

/** A run's figures before it is run. */
export interface Plan {
  /** All settings of the run. */
  config: PretrainConfig;
  /** Number of devices. */
  devices: number;
  /** What they are. */
  target: Target;
  /** Who computes what. */
  work: Work;
  /** A device's speed. */
  rate: Rate;
  /** Memory of each device. */
  memory: MemoryPlan;
  /** Time of an update. */
  time: TimePlan;
  /** Why it cannot be; empty if it can. */
  reasons: string[];
}

/**
 * Foresees a run.
 *
 * @param settings flags with their defaults
 * @throws {UserError} settings that contradict each other, or say too little
 *
 * @example
 * ```ts
 * import { PLAN_OPTIONS, planRun } from "./plan.ts";
 * import { defaults } from "../command/options.ts";
 * import assert from "node:assert/strict";
 *
 * const settings = { ...defaults(PLAN_OPTIONS), preset: "tiny", rate: 1e6 } as const;
 * const one = await planRun(settings);
 * const two = await planRun({ ...settings, gpus: 2, interconnect: 12.5 });
 * assert.equal(two.time.compute, one.time.compute / 2);
 * assert.ok(two.memory.items[2].bytes < 0.51 * one.memory.items[2].bytes); // the moments
 * ```
 */
export async function planRun(settings: PlanSettings): Promise<Plan> {
  const { gpus: devices, interconnect, latency, hostLink, hostSums, readWait, overlap } = settings;
  const { rate: told, tflops, bench, memory: room } = settings;
  if (devices > 1 && interconnect === undefined) {
    throw new UserError(
      "expected --interconnect: the GB/s that each GPU can send to others, such as 12.5 for 100 Gbit/s",
    );
  }
  const config = resolvePretrain(givenRun(settings), []);
  const rate = await rateOf(config, { rate: told, tflops, bench });
  const work = workOf(config, devices);
  const target = settings.target === "cpu" ? cpuTarget(supportOf().cores) : gpuTarget;
  const memory = planMemory(config, devices, target);
  const time = planTime(work, rate.tokensPerSecond, memory, devices, {
    interconnect: (interconnect ?? Infinity) * 1e9,
    latency: latency * 1e-6,
    hostLink: hostLink * 1e9,
    hostSums: hostSums * 1e9,
    readWait: readWait * 1e-3,
    overlap,
  });
  const reasons = [
    ...(target.kind === "gpu" ? tooLarge(memory) : []),
    ...(room === undefined ? [] : tooMuch(config, devices, target, memory, room * 1e9)),
  ];
  return { config, devices, target, work, rate, memory, time, reasons };
}

/** What the flags say about the run itself. */
function givenRun(settings: PlanSettings): GivenPretrain {
  const keys = ["preset", "source", "objective", "updates", "batchTokens", "microBatch"] as const;
  const given = [...keys, "sequenceLength" as const].filter((key) => settings[key] !== undefined);
  return Object.fromEntries(given.map((key) => [key, settings[key]]));
}

/** Limits of adapters for a buffer, or for the window of one that a kernel sees. */
export const ADAPTER_LIMITS: readonly {
  /** The limit. */
  bytes: number;
  /** What it holds for. */
  of: readonly ("binding" | "buffer")[];
  /** Which adapters have it. */
  whose: string;
}[] = [
  { bytes: 128 << 20, of: ["binding"], whose: "a binding on the software driver" },
  { bytes: 2 ** 31 - 1, of: ["buffer"], whose: "a buffer on Linux, NVIDIA excepted" },
  { bytes: 2 ** 32 - 4, of: ["binding", "buffer"], whose: "both on NVIDIA" },
];

function tooLarge({ largestBinding, largestBuffer }: MemoryPlan): string[] {
  const { bytes: limit } = ADAPTER_LIMITS.at(-1)!;
  const { what, bytes } = largestBinding.bytes > limit ? largestBinding : largestBuffer;
  if (bytes <= limit) return [];
  return [
    `${what}: ${mib(bytes)} in one piece are more than any adapter allows; lower --micro-batch`,
  ];
}

/** What a device is called. */
export function nameOf({ kind }: Pick<Target, "kind">): string {
  return kind === "cpu" ? "CPU" : "GPU";
}

/** Why the memory does not suffice, and what would fit. */
function tooMuch(
  config: PretrainConfig,
  devices: number,
  target: Target,
  { bytes }: MemoryPlan,
  room: number,
): string[] {
  if (bytes <= room) return [];
  const refusal = `${gigabytes(bytes, 2)} per ${nameOf(target)} do not fit the ${
    gigabytes(room, 2)
  } of --memory: `;
  for (
    let micro = halved(config.microBatch);
    micro >= config.sequenceLength;
    micro = halved(micro)
  ) {
    const smaller = planMemory({ ...config, microBatch: micro }, devices, target);
    if (smaller.bytes <= room) {
      const flag = `--${flagName("microBatch")} ${micro}`;
      return [`${refusal}${flag} would need ${gigabytes(smaller.bytes, 2)}`];
    }
  }
  return [`${refusal}not even micro-batches of one sequence would; choose a smaller preset`];
}

function halved(tokens: number): number {
  return Math.floor(tokens / 2);
}
