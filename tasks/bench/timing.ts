/**
 * How long device work takes: by the device's clock where it has one, else by the wall clock over many
 * submissions.
 *
 * @module
 */

import type { Device, Program, RunOptions } from "../../ops/mod.ts";
import type { Times } from "./report.ts";

/** Work to be timed: the launches of a program from `first` on. */
export interface Work {
  /** The program. */
  program: Program;
  /** What it is run with. */
  options: RunOptions;
  /** First launch that counts; 0 if absent. */
  first?: number;
}

/** Milliseconds below which a wall clock measurement says little. */
const LONG_ENOUGH = 100;
/** Milliseconds of work submitted before a measurement, so that a GPU is up to speed. */
const RUN_UP = 5;
const MOST_AHEAD = 50;

/** Whether the device can time its own kernels. */
export function hasTimestamps(device: Device): boolean {
  const watch = device.stopwatch(1);
  watch?.destroy();
  return watch !== undefined;
}

/** Compiles what a driver compiles at the first launch, by running a program once on what is there. */
export async function warmUp(device: Device, program: Program): Promise<void> {
  device.submit(program.list);
  await device.finish();
}

/**
 * Milliseconds of one run of some work. The program must have been warmed up.
 *
 * @param expected about how long it takes, if known
 */
export async function timeOnce(device: Device, work: Work, expected?: number): Promise<number> {
  const { program, options, first = 0 } = work;
  if (!hasTimestamps(device)) return await wallTime(device, work);
  if (expected !== undefined && expected < RUN_UP) {
    const ahead = Math.min(MOST_AHEAD, Math.ceil(RUN_UP / Math.max(expected, 0.01)));
    for (let i = 0; i < ahead; i++) program.run(options);
  }
  const times = await program.profile(options);
  const sum = times.slice(first).reduce((total, { milliseconds }) => total + milliseconds, 0);
  // A clock that did not move says nothing; the shortest time is not 0.
  return sum > 0 ? sum : await wallTime(device, work);
}

async function wallTime(device: Device, { program, options, first = 0 }: Work): Promise<number> {
  program.run(options);
  await device.finish();
  for (let count = 1;; count *= 4) {
    const start = performance.now();
    for (let i = 0; i < count; i++) device.submit(program.list, { from: first });
    await device.finish();
    const elapsed = performance.now() - start;
    if (elapsed >= LONG_ENOUGH || count >= 4096) return elapsed / count;
  }
}

/** How often to measure something. */
export interface Patience {
  /** At most so often. */
  repeat: number;
  /** No new measurement after so many seconds; the first is always made. */
  seconds: number;
}

/** Measures until patience ends. */
export async function repeatedly(
  { repeat, seconds }: Patience,
  measure: () => Promise<number>,
): Promise<number[]> {
  const start = performance.now();
  const samples: number[] = [];
  do samples.push(await measure()); while (
    samples.length < repeat && performance.now() - start < seconds * 1000
  );
  return samples;
}

/** Shortest and middle of some times. */
export function summary(milliseconds: readonly number[]): Times {
  return {
    min: Math.min(...milliseconds),
    median: median(milliseconds),
    repeats: milliseconds.length,
  };
}

/**
 * The middle one of some numbers, or the mean of the middle two.
 *
 * @example
 * ```ts
 * import { median } from "./timing.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(median([3, 1, 2]), 2);
 * assert.equal(median([4, 1, 2, 3]), 2.5);
 * ```
 */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
