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

/** What {@link evaluate} needs besides the graph. */
export interface EvaluateOptions {
  /** Values of states and inputs, by name. */
  values?: Record<string, ArrayLike<number>>;
  /** Run key, sequence base and scalar inputs. */
  run?: Partial<RunContext>;
}

/**
 * Evaluates tensors on the host.
 *
 * @throws {Error} if a source has no value or one of the wrong length
 *
 * @example
 * ```ts
 * import { evaluate } from "./reference.ts";
 * import { sum } from "./primitives/reduce.ts";
 * import { state } from "./graph/tensor.ts";
 * import assert from "node:assert/strict";
 *
 * const [s] = evaluate([sum(state("x", [3]))], { values: { x: [1, 2, 3] } });
 * assert.equal(s[0], 6);
 * ```
 */
export function evaluate(outputs: readonly Tensor[], options: EvaluateOptions = {}): Values[] {
  const { values = {}, run = {} } = options;
  const context: RunContext = { key: 0, sequence: 0, scalars: {}, ...run };
  const known = new Map<Tensor, Values>();
  for (const node of topological(outputs)) {
    if (isSource(node) && node.primitive !== CONSTANT) {
      const [t] = node.outputs;
      const given = values[node.attrs.name];
      if (given === undefined || given.length !== sizeOf(t.shape)) {
        throw new Error(
          `evaluate: ${node.attrs.name} needs ${sizeOf(t.shape)} values, got ${
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
