/**
 * Whether the machine's memory suffices, before anything is made.
 *
 * @module
 */

import { parameterShapes } from "../../models/mod.ts";
import { cpuTarget } from "../../ops/cpu/target.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { type OpenOptions } from "../../ops/mod.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import { planTraining, type Training } from "./memory.ts";

/** The processor, as far as it is this rank's. */
export interface CpuRoom {
  /** Threads. */
  threads: number;
  /** Bytes of memory; unknown if absent. */
  memoryBytes?: number;
}

/** What a rank has of the processor; undefined if it computes on something else. */
export function cpuRoom({ adapter, threads = 1, memoryBytes }: OpenOptions): CpuRoom | undefined {
  return adapter === "cpu" ? { threads, memoryBytes } : undefined;
}

/**
 * Refuses training that does not fit the memory of the processor.
 *
 * @param devices that share the optimizer's state
 * @throws {UserError} saying how much is needed, and for what
 *
 * @example
 * ```ts
 * import { expectRoom } from "./room.ts";
 * import { subjectOf, workOf } from "./work.ts";
 * import { resolvePretrain } from "../config/pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * const config = resolvePretrain({ preset: "tiny" }, []);
 * const training = { ...subjectOf(config), ...workOf(config, 1), optimizer: config };
 * expectRoom(training, 1, { threads: 2, memoryBytes: 2 ** 30 });
 * assert.throws(() => expectRoom(training, 1, { threads: 2, memoryBytes: 2 ** 26 }), {
 *   message: /^training needs \d+ MB of memory, but 68 MB are free: lower --micro-batch/,
 * });
 * ```
 */
export function expectRoom(
  training: Training,
  devices: number,
  { threads, memoryBytes }: CpuRoom,
): void {
  if (memoryBytes === undefined || 2 * roughly(training) <= memoryBytes) return;
  const state = stateBytes(training, devices);
  const each = devices > 1 ? ` on each of ${devices} devices` : "";
  const fail = (needed: string, advice: string) =>
    new UserError(
      `training needs ${needed}${each}, but ${size(memoryBytes)} are free: ${advice}`,
    );
  // A plan takes seconds, and where not even the state fits it says nothing new.
  if (state > memoryBytes) {
    throw fail(
      `${size(state)} of memory for weights, gradients and moments alone`,
      "choose a smaller model",
    );
  }
  const { bytes } = planTraining(training, devices, cpuTarget(threads));
  if (bytes <= memoryBytes) return;
  throw fail(`${size(bytes)} of memory`, "lower --micro-batch, or choose a smaller model");
}

function parametersOf({ model, objective }: Training): number {
  const shapes = parameterShapes(model, objective.parts);
  return [...shapes.values()].reduce((sum, shape) => sum + sizeOf(shape), 0);
}

/** Bytes of weights and gradients, and of a device's share of two moments. */
function stateBytes(training: Training, devices: number): number {
  return 8 * parametersOf(training) * (1 + 1 / devices);
}

/** Values of a token that a layer keeps for its backward pass, in multiples of its widths: at most. */
const KEPT = 3;

/** About the bytes of training on one device, from the sizes alone; rather too many than too few. */
function roughly(training: Training): number {
  const { model: { encoderLayers, decoderLayers, auxLayers, dModel, dFf }, shapes } = training;
  const tokens = Math.max(
    ...shapes.map(({ rows, length, target = 0 }) => rows * (length + target)),
  );
  const widths = (encoderLayers + decoderLayers + auxLayers) * (4 * dModel + dFf);
  return stateBytes(training, 1) + 4 * KEPT * tokens * widths;
}

function size(bytes: number): string {
  return bytes < 1e9 ? `${Math.ceil(bytes / 1e6)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
