/**
 * Reverse-mode differentiation: walks the graph backwards and appends ordinary ops.
 *
 * @module
 */

import { add, scalar } from "./primitives/pointwise.ts";
import { spread } from "./primitives/reduce.ts";
import { formatShape, isSource, type Node, type Tensor, topological } from "./graph/tensor.ts";

/**
 * Gradients of a scalar.
 *
 * @param loss shape []
 * @param wrt tensors to differentiate by, usually parameters
 * @param into tensors to which the gradients are added, one per `wrt`: gradient accumulation costs no
 *   extra pass when they are the accumulators themselves
 * @returns one tensor per `wrt`, of its shape
 * @throws {Error} if loss is not a scalar, or does not depend on one of `wrt`
 *
 * @example
 * ```ts
 * import { grad, state, sumSquares } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const w = state("w", [3]);
 * assert.deepEqual(grad(sumSquares(w), [w])[0].shape, [3]);
 * ```
 */
export function grad(
  loss: Tensor,
  wrt: readonly Tensor[],
  into: readonly (Tensor | undefined)[] = [],
): Tensor[] {
  if (loss.shape.length > 0) {
    throw new Error(`grad: expected a scalar, got ${formatShape(loss.shape)}`);
  }
  const cotangents = new Map<Tensor, Tensor>();
  for (const [i, t] of wrt.entries()) if (into[i]) cotangents.set(t, into[i]);
  const reached = new Set(wrt.filter((t) => t === loss));
  const contribute = (t: Tensor, g: Tensor, included: boolean) => {
    const sofar = cotangents.get(t);
    cotangents.set(t, sofar && !included ? add(sofar, g) : g);
    reached.add(t);
  };
  contribute(loss, spread(scalar(1), loss.shape), false);

  // Only nodes between wrt and loss matter.
  for (const node of nodesBetween(loss, wrt).reverse()) {
    const { primitive, inputs, outputs } = node;
    const grads = outputs.map((t) => cotangents.get(t));
    if (grads.every((g) => g === undefined) || !primitive.vjp) continue;
    const parts = primitive.vjp(node, grads, inputs.map((t) => cotangents.get(t)));
    for (const [i, part] of parts.entries()) {
      if (part) contribute(inputs[i], part, primitive.accumulates?.includes(i) ?? false);
    }
  }
  return wrt.map((t) => {
    if (!reached.has(t)) {
      throw new Error(`grad: the loss does not depend on ${t.node.attrs?.name ?? "a tensor"}`);
    }
    return cotangents.get(t)!;
  });
}

/** Nodes on a path from `wrt` to `loss`, in order of creation. */
function nodesBetween(loss: Tensor, wrt: readonly Tensor[]): Node[] {
  const targets = new Set(wrt.map((t) => t.node));
  const depends = new Map<Node, boolean>();
  const order = topological([loss]);
  for (const node of order) {
    depends.set(node, targets.has(node) || node.inputs.some((t) => depends.get(t.node)!));
  }
  return order.filter((node) => depends.get(node) && !isSource(node));
}
