/**
 * What a kernel is on a GPU: a piece of WGSL, the buffers it binds, a few integers, and a grid.
 *
 * Kernel generators are pure functions that return a {@link Dispatch}; they know nothing of devices or
 * graphs. Sizes travel as {@link Dispatch.params}, not as constants in the text, wherever speed does not
 * suffer, so that one pipeline serves every shape.
 *
 * @module
 */

import { RUN_WORDS } from "../program/device.ts";
import type { Launch } from "../program/lowering.ts";

/** A storage buffer as a kernel sees it. */
export interface Binding {
  /** Name of the WGSL variable. */
  name: string;
  /** WGSL store type, e.g. `"array<vec4f>"` or `"array<u32>"`. */
  type: string;
  /** `"read_write"` also for outputs that are only written. */
  access: "read" | "read_write";
}

/** The text of a kernel without its binding declarations, which {@link assemble} adds. */
export interface KernelSource {
  /** Short name, shown in errors and in profiles. */
  name: string;
  /** Storage buffers, in binding order. */
  bindings: Binding[];
  /** Names of the `u32` fields of the uniform `P`, in order. */
  params: string[];
  /** WGSL: helper functions and the entry point `main`. */
  body: string;
  /** True if the body reads the run block `R` (step, seed, scalars). */
  usesRun?: boolean;
}

/**
 * What a kernel family does with each value it computes. The default stores it; the compiler passes
 * one that also applies fused pointwise operations. It is text: `store` gets WGSL expressions and
 * returns WGSL statements.
 */
export interface Epilogue {
  /** Buffers it reads or writes, appended to the kernel's own. */
  bindings: Binding[];
  /** Params it needs, appended to the kernel's own. */
  params: string[];
  /** Values of its params: a kernel that uses the epilogue appends them to its launch's. */
  values: number[];
  /** WGSL helper functions. */
  functions: string;
  /** True if it reads the run block. */
  usesRun: boolean;
  /**
   * Statements that consume one value.
   *
   * @param value WGSL expression, `vec4f` if width is 4 (four consecutive columns), else `f32`
   * @param row WGSL `u32` expression: flat row of the result
   * @param col WGSL `u32` expression: first column, in elements
   * @param width elements in `value`
   */
  store(value: string, row: string, col: string, width: 1 | 4): string;
}

/** A kernel with its arguments but without memory. */
export interface Dispatch {
  /** The text. */
  source: KernelSource;
  /** Values of `source.params`, unsigned 32-bit integers. */
  params: number[];
  /** Workgroups in x, y, z; each at most 65,535. */
  grid: [number, number, number];
}

/** What this target makes of a step: the launches that a program passes on to the device. */
export interface GpuLaunch extends Launch, Dispatch {}

/** Most workgroups that WebGPU allows in one dimension of a dispatch. */
export const MAX_GRID = 65535;

/**
 * Completes a kernel's text with its declarations: bindings 0…n−1 are its buffers, then `P` (its
 * params) if it has any, then `R` (the run block) if it uses it.
 *
 * @returns a whole WGSL module
 *
 * @example
 * ```ts
 * import { assemble } from "./kernel.ts";
 * import assert from "node:assert/strict";
 *
 * const code = assemble({
 *   name: "double",
 *   bindings: [{ name: "x", type: "array<f32>", access: "read_write" }],
 *   params: ["n"],
 *   body: `@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3u) {
 *     if (id.x < P.n) { x[id.x] *= 2.0; }
 *   }`,
 * });
 * assert.match(code, /@binding\(1\) var<uniform> P: Params;/);
 * ```
 */
export function assemble(source: KernelSource): string {
  const lines = source.bindings.map((b, i) =>
    `@group(0) @binding(${i}) var<storage, ${b.access}> ${b.name}: ${b.type};`
  );
  let next = source.bindings.length;
  if (source.params.length > 0) {
    // Uniform structs are padded to 16 bytes by hand: not every driver forgives a shorter binding.
    const fields = source.params.map((p) => `${p}: u32,`);
    for (let i = 0; i < paddingWords(source.params.length); i++) fields.push(`pad${i}: u32,`);
    lines.push(`struct Params { ${fields.join(" ")} };`);
    lines.push(`@group(0) @binding(${next++}) var<uniform> P: Params;`);
  }
  if (source.usesRun) {
    lines.push(`@group(0) @binding(${next++}) var<uniform> R: array<vec4u, ${RUN_WORDS / 4}>;`);
  }
  return lines.join("\n") + "\n" + source.body + "\n";
}

/** Number of `u32` that bring `n` words up to a multiple of four (16 bytes). */
export function paddingWords(n: number): number {
  return (4 - n % 4) % 4;
}

/**
 * A grid for `groups` workgroups in a line. Past 65,535 it folds into two dimensions; kernels find
 * their place with {@link LINEAR_GROUP} and must check the end themselves.
 *
 * @example
 * ```ts
 * import { linearGrid } from "./kernel.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(linearGrid(10), [10, 1, 1]);
 * assert.deepEqual(linearGrid(70_000), [65535, 2, 1]);
 * ```
 */
export function linearGrid(groups: number): [number, number, number] {
  return groups <= MAX_GRID
    ? [Math.max(groups, 1), 1, 1]
    : [MAX_GRID, Math.ceil(groups / MAX_GRID), 1];
}

/** WGSL expression of the workgroup's number in a {@link linearGrid}, given `w = workgroup_id`. */
export const LINEAR_GROUP = `(w.x + w.y * ${MAX_GRID}u)`;

/** Integer division rounded up. */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}
