/**
 * Times the kernels of {@link KernelCase}s, each beside a matrix product of fixed size.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import {
  compile,
  type Device,
  input,
  type Program,
  state,
  StateMemory,
  Workspace,
} from "../../ops/mod.ts";
import { lowerProgram, type ProgramSpec } from "../../ops/program/compile.ts";
import type { DeviceBuffer } from "../../ops/program/device.ts";
import { writesOf } from "../../ops/program/fuse.ts";
import { Random } from "../../ops/graph/random.ts";
import { sizeOf, storageOf, type Tensor } from "../../ops/graph/tensor.ts";
import { type Graph, type KernelCase, matmulCase, type Sources } from "./kernel_cases.ts";
import { mib } from "../command/number_text.ts";
import type { KernelResult, Skipped } from "./report.ts";
import { median, type Patience, repeatedly, summary, timeOnce, warmUp } from "./timing.ts";

/** A case on a device, compiled and filled with random numbers. */
interface Prepared {
  program: Program;
  /** First dispatch that is timed. */
  first: number;
  inputs: Record<string, Uint32Array>;
  destroy(): void;
}

/** A matrix product of fixed size, timed again and again: how fast the machine is at this moment. */
export interface Yardstick {
  /** Its three sizes. */
  size: number;
  /** Billions of operations per second of every measurement so far. */
  readonly samples: number[];
  /** Measures once more. */
  sample(): Promise<number>;
  /** Middle of the measurements so far, for estimates. */
  rate(): Promise<number>;
  /** Frees its memory. */
  destroy(): void;
}

const YARDSTICK_SIZES = [256, 512, 1024, 2048, 4096];
/** Milliseconds that the yardstick should take. */
const YARDSTICK_TIME = 20;
/** Measurements on which estimates rest at least. */
const FOR_ESTIMATES = 5;

/** The smallest of a few cubes that takes long enough to be measured well, or the largest. */
export async function openYardstick(device: Device): Promise<Yardstick> {
  for (const size of YARDSTICK_SIZES) {
    const kernel = matmulCase("cube", "NN", [size, size, size]);
    const work = await prepare(device, kernel);
    await timeOnce(device, { program: work.program, options: {} });
    const expected = await timeOnce(device, { program: work.program, options: {} });
    if (expected < YARDSTICK_TIME && size !== YARDSTICK_SIZES.at(-1)) {
      work.destroy();
      continue;
    }
    const samples: number[] = [];
    const sample = async () => {
      const timed = { program: work.program, options: {} };
      const milliseconds = await timeOnce(device, timed, expected);
      samples.push(kernel.flops! / milliseconds / 1e6);
      return samples.at(-1)!;
    };
    const rate = async () => {
      while (samples.length < FOR_ESTIMATES) await sample();
      return median(samples);
    };
    return { size, samples, sample, rate, destroy: work.destroy };
  }
  throw new Error("unreachable");
}

/** Limits of {@link timeKernel}. */
export interface KernelLimits extends Patience {
  /** A case is left out if one run is expected to take more seconds. */
  longest: number;
  /** A case is left out if its operands need more bytes. */
  memory: number;
}

/** Times a case, or says why not. */
export async function timeKernel(
  device: Device,
  kernel: KernelCase,
  yardstick: Yardstick,
  limits: KernelLimits,
): Promise<KernelResult | Skipped> {
  const { family, of, shape, flops, bytes } = kernel;
  const what = `${family} ${of} ${shape}`;
  const rate = await yardstick.rate();
  const seconds = (flops ?? 0) / rate / 1e9;
  if (seconds > limits.longest) {
    const longest = `more than ${limits.longest} s`;
    return { what, why: `it would take about ${seconds.toFixed(0)} s, ${longest}` };
  }
  const why = tooLarge(device, kernel, limits.memory);
  if (why) return { what, why };
  let prepared: Prepared | undefined;
  try {
    prepared = await prepare(device, kernel);
    const { program, inputs, first } = prepared;
    program.run({ inputs });
    const work = { program, options: {}, first };
    // Touches the memory; a slow run is its own warm-up.
    const expected = seconds < 0.3 ? await timeOnce(device, work) : seconds * 1000;
    const shares: number[] = [];
    const times = await repeatedly(limits, async () => {
      const reference = flops ? await yardstick.sample() : 0;
      const milliseconds = await timeOnce(device, work, expected);
      if (flops) shares.push(flops / milliseconds / 1e6 / reference);
      return milliseconds;
    });
    const milliseconds = summary(times);
    return {
      family,
      of,
      shape,
      dispatches: program.kernels.length - first,
      milliseconds,
      ...(flops && { gflops: flops / milliseconds.min / 1e6, ofMatmul: median(shares) }),
      ...(bytes && { gbps: bytes / milliseconds.min / 1e6 }),
    };
  } catch (error) {
    if (error instanceof UserError) return { what, why: error.message };
    throw error;
  } finally {
    prepared?.destroy();
  }
}

/** Why a case does not fit the device; undefined if it does. */
function tooLarge(device: Device, kernel: KernelCase, memory: number): string | undefined {
  const sizes: number[] = [];
  const count = (shape: readonly number[]) => sizes.push(sizeOf(shape) * 4);
  const { outputs = {} } = kernel.build({
    floats: (name, shape) => (count(shape), state(name, shape)),
    ids: (name, shape) => (count(shape), input(name, shape, "u32")),
  });
  for (const output of Object.values(outputs)) count(output.shape);
  const largest = Math.max(...sizes), limit = device.limits.bindingBytes;
  if (largest > limit) {
    return `it needs a binding of ${mib(largest)}, the device allows ${mib(limit)}`;
  }
  const total = sizes.reduce((a, b) => a + b, 0);
  return total > memory ? `it needs ${mib(total)}, ${mib(memory)} may be used` : undefined;
}

async function prepare(device: Device, kernel: KernelCase): Promise<Prepared> {
  const memory = new Map<string, StateMemory>();
  const inputs: Record<string, Uint32Array> = {};
  const sources: Sources = {
    floats(name, shape) {
      // Each in a buffer of its own, as the operands of a training program mostly are.
      if (!memory.has(name)) {
        memory.set(name, new StateMemory(device, [[name, shape]], name));
        fill(device, memory.get(name)!.slab(0).buffer);
      }
      return state(name, shape);
    },
    ids(name, shape, below) {
      const random = new Random(1);
      inputs[name] = Uint32Array.from({ length: sizeOf(shape) }, () => random.below(below));
      return input(name, shape, "u32");
    },
  };
  const workspace = new Workspace(device);
  const at = { workspace, view: (name: string) => memory.get(name)!.view(name) };
  const programs: Program[] = [];
  const destroy = () => {
    for (const owner of [...programs, workspace, ...memory.values()]) owner.destroy();
  };
  try {
    const graph: Graph = kernel.build(sources);
    const { outputs, updates, forward } = graph;
    const program = compile(device, { name: kernel.family, outputs, updates }, at);
    programs.push(program);
    const first = forward
      ? gradientStart(device, { name: kernel.family, outputs, updates }, forward)
      : 0;
    await warmUp(device, program);
    return { program, first, inputs, destroy };
  } catch (error) {
    destroy();
    throw error;
  }
}

/**
 * The launch with which the gradients begin: behind those that make the forward pass's results, and behind the
 * product of the loss's gradient with the weights of the sum, which is no part of what is measured.
 *
 * @param forward what the forward pass computes, all of it part of the program
 */
export function gradientStart(
  device: Pick<Device, "target">,
  program: ProgramSpec,
  forward: Readonly<Record<string, Tensor>>,
): number {
  const { lowered, steps } = lowerProgram(device.target, program);
  const made = new Set(Object.values(forward).map(storageOf));
  const anchored = new Set(steps.filter(({ anchor }) => anchor).flatMap(writesOf));
  const end = 1 + lowered.findLastIndex(({ writes }) => writes.some((t) => made.has(t)));
  return lowered.findIndex(({ writes }, i) => i >= end && writes.some((t) => anchored.has(t)));
}

/** Uniform random numbers, over and over. */
const NOISE = 1 << 16;
let noise: Float32Array | undefined;

function fill(device: Device, buffer: DeviceBuffer): void {
  if (!noise) {
    const random = new Random(1);
    noise = Float32Array.from({ length: NOISE }, () => random.uniform() - 0.5);
  }
  for (let at = 0; at < buffer.size; at += NOISE * 4) {
    device.write(buffer, at, noise.subarray(0, Math.min(NOISE, (buffer.size - at) / 4)));
  }
}
