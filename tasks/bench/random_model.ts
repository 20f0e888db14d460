/**
 * Models of the right size without training: what a benchmark runs on.
 *
 * @module
 */

import type { ModelConfig } from "../../models/mod.ts";
import { type Device } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import { mib } from "../command/number_text.ts";

type Shapes = ReadonlyMap<string, readonly number[]>;

/**
 * Random weights by name: fast to make, and as good as any for timing.
 *
 * @example
 * ```ts
 * import { noiseOf } from "./random_model.ts";
 * import assert from "node:assert/strict";
 *
 * const values = noiseOf(new Map([["a.weight", [2, 3]], ["a.gain", [3]]]));
 * assert.equal(values("a.weight").length, 6);
 * assert.deepEqual([...values("a.gain")], [1, 1, 1]);
 * ```
 */
export function noiseOf(shapes: Shapes): (name: string) => Float32Array {
  const random = new Random(1);
  const noise = Float32Array.from({ length: 1 << 16 }, () => (random.uniform() - 0.5) * 0.06);
  return (name) => {
    const values = new Float32Array(sizeOf(shapes.get(name)!));
    if (name.endsWith(".gain")) return values.fill(1);
    for (let at = 0; at < values.length; at += noise.length) {
      values.set(noise.subarray(0, Math.min(noise.length, values.length - at)), at);
    }
    return values;
  };
}

/** Random ids of words: no special tokens, no sentinels. */
export function randomIds(random: Random, model: ModelConfig, length: number): Uint32Array {
  const words = model.vocabSize - model.sentinels;
  return Uint32Array.from({ length }, () => 4 + random.below(words - 4));
}

/**
 * Why a model does not fit the device; undefined if it does, as far as one can tell.
 *
 * @param needed bytes in all, about
 * @param memory bytes that may be used
 */
export function doesNotFit(
  device: Device,
  shapes: Shapes,
  needed: number,
  memory: number,
): string | undefined {
  const limit = device.limits.bindingBytes;
  const largest = Math.max(...[...shapes.values()].map((shape) => 4 * sizeOf(shape)));
  if (largest > limit) {
    return `a parameter of ${mib(largest)} exceeds the device's binding size of ${mib(limit)}`;
  }
  return needed > memory ? `it needs about ${mib(needed)}, ${mib(memory)} may be used` : undefined;
}
