/**
 * The plain interpreter: evaluates a graph in float64 with each primitive's own reference, one node at a
 * time. Slow, and right: kernels and derivatives are tested against it.
 *
 * @module
 */

import {
  CONSTANT,
  isSource,
  type RunContext,
  sizeOf,
  type Tensor,
  topological,
  type Values,
} from "./graph/tensor.ts";

/**
 * Evaluates tensors on the host, in float64.
 *
 * @param options `values` of states and inputs, by name; `run`: random key, index of the first sequence in the
 *   global batch, and scalar inputs by name
 * @returns the elements of each tensor
 * @throws {Error} if a source has no value or one of the wrong length
 *
 * @example
 * ```ts
 * import { interpret, state, sum } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const [s] = interpret([sum(state("x", [3]))], { values: { x: [1, 2, 3] } });
 * assert.equal(s[0], 6);
 * ```
 */
export function interpret(
  outputs: readonly Tensor[],
  { values = {}, run = {} }: {
    values?: Record<string, ArrayLike<number>>;
    run?: { key?: number; sequence?: number; scalars?: Record<string, number> };
  } = {},
): (Float64Array | Uint32Array)[] {
  const context: RunContext = { key: 0, sequence: 0, scalars: {}, ...run };
  const known = new Map<Tensor, Values>();
  for (const node of topological(outputs)) {
    if (isSource(node) && node.primitive !== CONSTANT) {
      const [t] = node.outputs;
      const given = values[node.attrs.name];
      if (given === undefined || given.length !== sizeOf(t.shape)) {
        throw new Error(
          `interpret: ${node.attrs.name} needs ${sizeOf(t.shape)} values, got ${
            given?.length ?? "none"
          }`,
        );
      }
      known.set(t, t.dtype === "f32" ? Float64Array.from(given) : Uint32Array.from(given));
      continue;
    }
    const results = node.primitive.reference(node.inputs.map((t) => known.get(t)!), node, context);
    for (const [i, t] of node.outputs.entries()) known.set(t, results[i]);
  }
  return outputs.map((t) => known.get(t)!);
}
