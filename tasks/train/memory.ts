/**
 * Device and host memory of a training run, from the layouts and memory plans that training itself uses.
 *
 * @module
 */

import { type ModelConfig, parameterShapes } from "../../models/mod.ts";
import { STAGING_BYTES } from "../../ops/gpu/device.ts";
import { layout } from "../../ops/program/memory.ts";
import { estimateProgram, sharedWorkspace } from "../../ops/program/estimate.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import type { Target } from "../../ops/program/lowering.ts";
import { mib } from "../command/number_text.ts";
import type { BatchShape, Objective } from "./objective.ts";
import { cutSlabs, slabMultiple } from "../parallel/buckets.ts";
import { UNDER_WAY } from "../parallel/exchange.ts";
import type { PretrainConfig } from "../config/pretrain.ts";
import { type AdamWConfig, memoryOrder, microSpec, sumTensors, updateSpec } from "./programs.ts";
import { subjectOf, workOf } from "./work.ts";

/** Part of the memory, and how it comes about. */
export interface MemoryItem {
  /** What it holds. */
  what: string;
  /** The arithmetic. */
  how: string;
  /** Bytes. */
  bytes: number;
}

/** What is trained, and on what. */
export interface Training {
  /** The model. */
  model: ModelConfig;
  /** What it learns. */
  objective: Objective;
  /** How it is updated. */
  optimizer: AdamWConfig;
  /** Shapes of micro-batches, or of one device's slices of them, the largest last. */
  shapes: readonly BatchShape[];
  /** Shapes of evaluations: as many, or none. */
  heldout: readonly BatchShape[];
}

/** What {@link planMemory} foresees, for one device. */
export interface MemoryPlan {
  /** Parts of the device's memory. */
  items: MemoryItem[];
  /** Their sum. */
  bytes: number;
  /** Bytes on the host that buckets pass through, for one rank. */
  hostBytes: number;
  /** The largest window that a kernel binds. */
  largestBinding: { what: string; bytes: number };
  /** The largest buffer. */
  largestBuffer: { what: string; bytes: number };
  /** Numbers that training changes. */
  parameters: number;
  /** Bytes of all gradients as they lie in memory; those of the weights are the same. */
  gradientBytes: number;
  /** Bytes of them that are complete only when the backward pass is over: the token table. */
  lateBytes: number;
  /** Pieces in which gradients and weights travel. */
  buckets: number;
  /** Bytes of the largest. */
  bucketBytes: number;
}

/**
 * The memory of one of several devices that pretrain.
 *
 * @param devices that share the optimizer's state
 * @param target the kind of device
 *
 * @example
 * ```ts
 * import { planMemory } from "./memory.ts";
 * import { gpuTarget } from "../../ops/gpu/target.ts";
 * import { resolvePretrain } from "../config/pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * const config = resolvePretrain({ preset: "tiny" }, []);
 * const [one, two] = [1, 2].map((devices) => planMemory(config, devices, gpuTarget));
 * const moments = (plan: typeof one) => plan.items.find(({ what }) => what === "moments")!.bytes;
 * assert.ok(Math.abs(moments(one) / moments(two) - 2) < 0.01);
 * ```
 */
export function planMemory(
  config: PretrainConfig,
  devices: number,
  target: Target,
): MemoryPlan {
  const { shapes, heldout } = workOf(config, devices);
  const training = { ...subjectOf(config), optimizer: config, shapes, heldout };
  return planTraining(training, devices, target);
}

/**
 * The memory of one of several devices in training.
 *
 * @param devices that share the optimizer's state
 * @param target the kind of device
 */
export function planTraining(
  { model, objective, optimizer, shapes, heldout }: Training,
  devices: number,
  target: Target,
): MemoryPlan {
  const tensors = parameterShapes(model, objective.parts);
  const elements = [...tensors].map(([name, shape]) => ({ name, size: sizeOf(shape) }));
  const parameters = total(elements.map(({ size }) => size));
  const tables = elements.filter(({ name }) => name.endsWith("embed.tokens"));
  const { slabs } = layout(memoryOrder(model, objective, devices), slabMultiple(devices));
  const gradientBytes = total(slabs);
  const buckets = cutSlabs(slabs, devices).map(({ bytes }) => bytes);
  const parts = buckets.map((bytes) => bytes / devices);
  const moments = layout(parts.map((bytes, i): [string, number[]] => [`${i}`, [bytes / 4]])).slabs;
  const sums = layout(sumTensors(objective)).slabs;

  const programs = [
    estimateProgram(updateSpec(parts, optimizer, devices > 1), target),
    ...shapes.flatMap((shape, i) => [
      estimateProgram(microSpec(model, objective, shape, true), target),
      ...heldout.slice(i, i + 1).map((whole) =>
        estimateProgram(microSpec(model, objective, whole, false), target)
      ),
    ]),
  ];
  const workspace = sharedWorkspace(programs);
  const bucketBytes = Math.max(...buckets);
  const readbacks = devices > 1 ? Math.min(UNDER_WAY, buckets.length) : 0;
  const items = itemsOf({
    ...{ gradientBytes, parameters, devices, buckets: buckets.length, programs: programs.length },
    momentBytes: 2 * total(moments),
    workspaceBytes: total(workspace),
    ownBytes: total(programs.map(({ ownBytes }) => ownBytes)) + total(sums),
    shape: shapes.at(-1)!,
    readback: { count: readbacks, bytes: bucketBytes },
  });
  const largest = <T extends { bytes: number }>(all: readonly T[]) =>
    all.reduce((a, b) => b.bytes > a.bytes ? b : a);
  return {
    items,
    bytes: total(items.map(({ bytes }) => bytes)),
    // Those that have arrived, the one that is exchanged, and the sum.
    hostBytes: devices > 1 ? (readbacks + 2) * bucketBytes : 0,
    largestBinding: largest(programs.map(({ largest: { what, bytes } }, i) => {
      return { what: i === 0 ? "what AdamW updates at once" : what, bytes };
    })),
    largestBuffer: largest([
      { what: "weights", bytes: Math.max(...slabs) },
      { what: "intermediate values", bytes: Math.max(...workspace) },
    ]),
    parameters,
    gradientBytes,
    lateBytes: Math.min(
      gradientBytes,
      Math.max(bucketBytes, 4 * total(tables.map(({ size }) => size))),
    ),
    buckets: buckets.length,
    bucketBytes,
  };
}

/** What the parts of a device's memory follow from. */
interface Sizes {
  parameters: number;
  devices: number;
  buckets: number;
  programs: number;
  /** Of the largest micro-batch. */
  shape: BatchShape;
  /** Buckets that are read at a time. */
  readback: { count: number; bytes: number };
  gradientBytes: number;
  momentBytes: number;
  workspaceBytes: number;
  ownBytes: number;
}

/** The parts of a device's memory, in words and bytes. */
function itemsOf(sizes: Sizes): MemoryItem[] {
  const { parameters, devices, buckets, programs, shape: { rows, length }, readback } = sizes;
  const { gradientBytes, momentBytes, workspaceBytes, ownBytes } = sizes;
  const staging = readback.count * readback.bytes;
  const numbers = `${parameters.toLocaleString("en-US")} × 4 bytes`;
  return [
    { what: "weights", how: numbers, bytes: gradientBytes },
    { what: "gradients", how: numbers, bytes: gradientBytes },
    {
      what: "moments",
      how: `2 × ${numbers}${devices > 1 ? ` / ${devices}, in ${buckets} buckets` : ""}`,
      bytes: momentBytes,
    },
    {
      what: "intermediate values",
      how: `${rows} × ${length} tokens, by the memory plan of ${programs} programs`,
      bytes: workspaceBytes,
    },
    {
      what: "inputs, uniform blocks, sums",
      how: `of ${programs} programs`,
      bytes: ownBytes,
    },
    {
      what: "buffers for reading",
      how: `${mib(STAGING_BYTES)}${
        staging > 0 ? ` + ${readback.count} buckets of ${mib(readback.bytes)}` : ""
      }`,
      bytes: STAGING_BYTES + staging,
    },
  ];
}

function total(sizes: readonly number[]): number {
  return sizes.reduce((a, b) => a + b, 0);
}
