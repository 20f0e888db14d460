/**
 * The processor in words.
 *
 * @module
 */

import { cpus } from "node:os";
import type { CpuSupport } from "../../ops/cpu/support.ts";

/** Its name, e.g. `"AMD EPYC"`; undefined without `--allow-sys=cpus`, or if the system does not tell. */
export function processorName(): string | undefined {
  if (Deno.permissions.querySync({ name: "sys", kind: "cpus" }).state !== "granted") {
    return undefined;
  }
  return cpus()[0]?.model.trim() || undefined;
}

/**
 * What its device computes with.
 *
 * @example
 * ```ts
 * import { featuresOf } from "./processor.ts";
 * import assert from "node:assert/strict";
 *
 * const support = { vectors: true, fused: false, shared: true, wide: true, cores: 2 };
 * assert.deepEqual(featuresOf(support), ["128-bit vectors", "threads", "64-bit addresses"]);
 * ```
 */
export function featuresOf({ vectors, fused, shared, wide }: CpuSupport): string[] {
  const features: [boolean, string][] = [
    [vectors, "128-bit vectors"],
    [fused, "fused multiply-add"],
    [shared, "threads"],
    [wide, "64-bit addresses"],
  ];
  return features.filter(([there]) => there).map(([, name]) => name);
}
