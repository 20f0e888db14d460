/**
 * Fusion: groups the nodes of a graph into steps. A step is one anchor (a matrix product, a sum, …) with
 * the pointwise operations that ride along, or a chain of pointwise operations alone.
 *
 * @module
 */

import {
  isSource,
  type Node,
  RESHAPE,
  sameShape,
  sizeOf,
  storageOf,
  type Tensor,
  topological,
} from "../graph/tensor.ts";
import { RUN_SCALAR, stopGradient } from "../primitives/pointwise.ts";
import { GATHER } from "../primitives/rows.ts";

/** A unit of execution: its intermediate values live in registers. */
export interface Step {
  /** The primitive with kernels of its own, if any. */
  anchor?: Node;
  /** Pointwise nodes that compute the anchor's input 0, in order. */
  prologue: Node[];
  /** Pointwise nodes applied to the anchor's output 0, or the whole step if there is no anchor. */
  epilogue: Node[];
  /** The tensor that the last node makes; the anchor's other outputs are stored as well. */
  result: Tensor;
}

/** True for nodes that are only expressions: literals and run scalars. */
export function isInline(node: Node): boolean {
  return node.primitive.pointwise !== undefined && node.inputs.length === 0;
}

/** True for nodes that a kernel can compute element by element. */
function isPointwise(node: Node): boolean {
  return node.primitive.pointwise !== undefined || node.primitive === GATHER;
}

/**
 * Groups everything that `outputs` need into steps, in an order that respects dependencies.
 *
 * A node joins the step that makes one of its inputs if nothing else uses that input and the shapes are
 * equal. Delaying a step to its last node is safe because only that node waits for it.
 */
export function fuse(outputs: readonly Tensor[]): Step[] {
  const order = topological(outputs);
  const uses = countUses(order, outputs);
  const steps = new Set<Step>();
  const maker = new Map<Tensor, Step>();
  const finish = (step: Step, result: Tensor) => {
    step.result = result;
    steps.add(step);
    maker.set(result, step);
  };

  for (const node of order) {
    const { primitive, outputs: [out] } = node;
    if (isSource(node) || primitive === RESHAPE || isInline(node)) continue;
    const mergeable = (t: Tensor, shape: readonly number[]) => ownStep(t, shape, maker, uses);

    if (isPointwise(node)) {
      const parts = primitive === GATHER
        ? [] // its operands must lie in memory
        : [
          ...new Set(
            node.inputs.map((t) => mergeable(t, out.shape)).filter((s) => s !== undefined),
          ),
        ];
      // The latest anchor carries the group; what other anchors made stays in memory.
      const anchored = parts.filter((s) => s.anchor).sort((a, b) =>
        a.result.node.id - b.result.node.id
      );
      const home = anchored.at(-1) ?? { prologue: [], epilogue: [], result: out };
      for (const part of parts) {
        if (part === home || part.anchor) continue;
        home.epilogue.push(...part.epilogue);
        steps.delete(part);
      }
      home.epilogue.push(node);
      home.epilogue.sort((a, b) => a.id - b.id);
      finish(home, out);
      continue;
    }
    const step: Step = { anchor: node, prologue: [], epilogue: [], result: out };
    if (primitive.hasPrologue) {
      const part = mergeable(node.inputs[0], node.inputs[0].shape);
      if (part && !part.anchor) {
        step.prologue = part.epilogue;
        steps.delete(part);
      }
    }
    finish(step, out);
    for (const other of node.outputs.slice(1)) maker.set(other, step);
  }
  for (const t of inlineInMemory(order, outputs)) {
    steps.add({ prologue: [], epilogue: [stopGradient(t).node], result: t });
  }
  return [...steps].sort((a, b) => a.result.node.id - b.result.node.id);
}

/** Literals and run scalars that must lie in memory: not every reader is a pointwise node that prints them. */
function inlineInMemory(order: readonly Node[], outputs: readonly Tensor[]): Set<Tensor> {
  const found = new Set<Tensor>();
  const add = (t: Tensor) => {
    const owner = storageOf(t);
    if (isInline(owner.node)) found.add(owner);
  };
  for (const node of order) {
    if (node.primitive !== RESHAPE) node.inputs.filter((t) => isRead(t, node)).forEach(add);
  }
  outputs.forEach(add);
  return found;
}

/** Whether a node reads this operand from memory, if it does not compute it itself. */
function isRead(t: Tensor, { primitive }: Node): boolean {
  return !isInline(t.node) || primitive.pointwise === undefined;
}

/** The step that makes `t` for one node alone, if it may be merged into a kernel of `shape`. */
function ownStep(
  t: Tensor,
  shape: readonly number[],
  maker: ReadonlyMap<Tensor, Step>,
  uses: ReadonlyMap<Tensor, number>,
): Step | undefined {
  const step = maker.get(t);
  if (!step || step.result !== t || uses.get(t) !== 1) return undefined;
  if (step.anchor) {
    return step.anchor.primitive.hasEpilogue && sameShape(t.shape, shape) ? step : undefined;
  }
  return sameShape(t.shape, shape) || (sizeOf(t.shape) === 1 && !usesGather(step))
    ? step
    : undefined;
}

function usesGather(step: Step): boolean {
  return step.epilogue.some((n) => n.primitive === GATHER);
}

/** How often each tensor is read, outputs included; a read through a view counts as a read of both. */
function countUses(order: readonly Node[], outputs: readonly Tensor[]): Map<Tensor, number> {
  const uses = new Map<Tensor, number>();
  const count = (t: Tensor) => uses.set(t, (uses.get(t) ?? 0) + 1);
  for (const node of order) {
    for (const t of node.inputs) count(t);
  }
  // Twice, so that an output is never merged away.
  for (const t of outputs) {
    for (let x = t;; x = x.node.inputs[0]) {
      count(x);
      count(x);
      if (x.node.primitive !== RESHAPE) break;
    }
  }
  return uses;
}

/** Tensors that a step reads from memory: operands of its nodes that no node of the step makes. */
export function readsOf(step: Step): Tensor[] {
  const inside = new Set<Tensor>();
  const nodes = [...step.prologue, ...(step.anchor ? [step.anchor] : []), ...step.epilogue];
  for (const node of nodes) for (const t of node.outputs) inside.add(t);
  const reads = new Set<Tensor>();
  for (const node of nodes) {
    for (const t of node.inputs) {
      if (!inside.has(t) && isRead(t, node)) reads.add(storageOf(t));
    }
  }
  return [...reads];
}

/** Tensors that a step leaves in memory. */
export function writesOf(step: Step): Tensor[] {
  return step.anchor ? [step.result, ...step.anchor.outputs.slice(1)] : [step.result];
}

/** Names of the scalar inputs that the steps read, in a fixed order. */
export function runScalarsOf(steps: readonly Step[]): string[] {
  const names = new Set<string>();
  for (const step of steps) {
    for (const node of [...step.prologue, ...step.epilogue]) {
      for (const t of node.inputs) {
        if (t.node.primitive === RUN_SCALAR) names.add(t.node.attrs.name);
      }
    }
  }
  return [...names].sort();
}
