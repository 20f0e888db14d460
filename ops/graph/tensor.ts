/**
 * The graph: symbolic tensors, the nodes that make them, and what a primitive must state about itself.
 *
 * An op is a pure function from tensors to a tensor; calling it appends a node and checks shapes, and
 * computes nothing. `ops/grad.ts` differentiates the graph, `ops/program/` turns it into a program,
 * `ops/reference.ts` evaluates it slowly in float64.
 *
 * @module
 */

import type { PointwiseRule } from "./expression.ts";

/** Element types. Half precision will join here. */
export type DType = "f32" | "u32";

/** A symbolic tensor: one output of a node. Operations make them; nothing is computed until a program runs. */
export interface Tensor {
  /** Sizes, outermost first; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** Element type. */
  readonly dtype: DType;
  /**
   * The node that makes it.
   *
   * @ignore
   */
  readonly node: Node;
  /**
   * Which of the node's outputs it is.
   *
   * @ignore
   */
  readonly index: number;
}

/** Shape and element type. */
export type TensorType = Pick<Tensor, "shape" | "dtype">;

/** One application of a primitive. */
// deno-lint-ignore no-explicit-any
export interface Node<A = any> {
  /** Number in order of creation: inputs always have smaller ids. */
  readonly id: number;
  /** What it computes. */
  readonly primitive: Primitive<A>;
  /** Operands. */
  readonly inputs: readonly Tensor[];
  /** Constant arguments. */
  readonly attrs: A;
  /** Results. */
  readonly outputs: readonly Tensor[];
}

/** Values on the host, as the reference sees them: f32 tensors in float64, u32 tensors as they are. */
export type Values = Float64Array | Uint32Array;

/** What a run passes besides tensors, for the reference. */
export interface RunContext {
  /** Random key of the run. */
  key: number;
  /** Index of the run's first sequence in the global batch. */
  sequence: number;
  /** Values of the program's scalar inputs. */
  scalars: Record<string, number>;
}

/** What an operation is: everything but the kernels, which the targets have. */
// deno-lint-ignore no-explicit-any
export interface Primitive<A = any> {
  /** Name, shown in errors. */
  readonly name: string;
  /** Shape rule: the types of the outputs. Throws with both shapes if the inputs do not fit. */
  infer(inputs: readonly TensorType[], attrs: A): TensorType[];
  /** Plain evaluation in float64. */
  reference(inputs: readonly Values[], node: Node<A>, run: RunContext): Values[];
  /**
   * Vector-Jacobian product: given the gradients of the outputs (undefined = zero), the gradients of
   * the inputs (undefined = none). `into[i]` is what other uses of input `i` contributed so far; only
   * primitives that list `i` in {@link accumulates} add it.
   */
  vjp?(
    node: Node<A>,
    grads: readonly (Tensor | undefined)[],
    into: readonly (Tensor | undefined)[],
  ): (Tensor | undefined)[];
  /** Inputs whose vjp already includes `into`. */
  readonly accumulates?: readonly number[];
  /** Elementwise rule, if this is a pointwise operation: targets print it and need know no more. */
  readonly pointwise?: PointwiseRule<A>;
  /** True if its kernels apply fused pointwise operations to output 0. */
  readonly hasEpilogue?: boolean;
  /** True if its kernels compute input 0 on the fly from fused pointwise operations. */
  readonly hasPrologue?: boolean;
  /** Pairs [output, input] that may share memory when the input is not needed afterwards. */
  inPlace?(node: Node<A>): [number, number][];
}

let nextId = 0;

/**
 * Appends a node. Ops call this; users call ops.
 *
 * @throws {Error} from the primitive's shape rule
 */
export function apply<A>(primitive: Primitive<A>, inputs: readonly Tensor[], attrs: A): Tensor[] {
  const types = primitive.infer(inputs, attrs);
  const outputs: Tensor[] = [];
  const node: Node<A> = { id: nextId++, primitive, inputs, attrs, outputs };
  for (const [index, type] of types.entries()) outputs.push({ node, index, ...type });
  return outputs;
}

/** All nodes that outputs depend on, inputs before users. */
export function topological(outputs: readonly Tensor[]): Node[] {
  const seen = new Set<Node>();
  const stack = outputs.map((t) => t.node);
  while (stack.length > 0) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    for (const t of node.inputs) stack.push(t.node);
  }
  // Ids grow with creation, and inputs are created first.
  return [...seen].sort((a, b) => a.id - b.id);
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** `[2, 3]` as `"[2, 3]"`, for messages. */
export function formatShape(shape: readonly number[]): string {
  return `[${shape.join(", ")}]`;
}

/** True if two shapes are equal. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}

/** Rows and columns of a tensor seen as a matrix: the last axis against all others. */
export function asMatrix(shape: readonly number[]): { rows: number; cols: number } {
  const cols = shape.length === 0 ? 1 : shape[shape.length - 1];
  return { rows: cols === 0 ? 0 : sizeOf(shape) / cols, cols };
}

/** Throws a shape error of an op unless `ok`. */
export function expectShape(ok: boolean, op: string, expected: string, got: readonly TensorType[]) {
  if (!ok) {
    const shapes = got.map((t) => `${t.dtype}${formatShape(t.shape)}`).join(", ");
    throw new Error(`${op}: expected ${expected}, got ${shapes}`);
  }
}

// ---- Sources: where tensors come from ----

/** Attributes of a source node. */
export interface SourceAttrs extends TensorType {
  /** Name by which the program finds the value. */
  name: string;
  /** Constant contents, for constants only. */
  data?: Float32Array | Uint32Array;
}

function sourcePrimitive(name: string): Primitive<SourceAttrs> {
  return {
    name,
    infer: (_inputs, { shape, dtype }) => [{ shape, dtype }],
    reference: () => {
      throw new Error(`${name}: its value must be given`);
    },
  };
}

/** Primitive of {@link state}. */
export const STATE: Primitive<SourceAttrs> = sourcePrimitive("state");
/** Primitive of {@link input}. */
export const INPUT: Primitive<SourceAttrs> = sourcePrimitive("input");
/** Primitive of {@link constant}. */
export const CONSTANT: Primitive<SourceAttrs> = {
  ...sourcePrimitive("constant"),
  reference: (_inputs, { attrs }) => [
    attrs.dtype === "f32" ? Float64Array.from(attrs.data!) : attrs.data as Uint32Array,
  ],
};

/**
 * A tensor that lives across runs and that a program may update in place: a parameter, a gradient, an
 * optimizer moment, a metric.
 *
 * @param name unique name; the same name is the same memory in every program
 * @param shape its shape
 *
 * @example
 * ```ts
 * import { state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(state("w", [2, 3]).shape, [2, 3]);
 * ```
 */
export function state(name: string, shape: readonly number[], dtype: DType = "f32"): Tensor {
  return apply(STATE, [], { name, shape, dtype })[0];
}

/**
 * A tensor that the host writes before each run.
 *
 * @example
 * ```ts
 * import { input } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(input("tokens", [2, 8], "u32").shape, [2, 8]);
 * ```
 */
export function input(name: string, shape: readonly number[], dtype: DType = "f32"): Tensor {
  return apply(INPUT, [], { name, shape, dtype })[0];
}

/**
 * A tensor whose contents are fixed when the program is compiled.
 *
 * @example
 * ```ts
 * import { constant, interpret, sum } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = constant(Float32Array.of(1, 2, 3), [3]);
 * assert.equal(interpret([sum(x)])[0][0], 6);
 * ```
 */
export function constant(data: Float32Array | Uint32Array, shape: readonly number[]): Tensor {
  const dtype = data instanceof Float32Array ? "f32" : "u32";
  if (data.length !== sizeOf(shape)) {
    throw new Error(`constant: ${data.length} values for shape ${formatShape(shape)}`);
  }
  return apply(CONSTANT, [], { name: "constant", shape, dtype, data })[0];
}

/** True for state, inputs and constants: tensors that no kernel makes. */
export function isSource(node: Node): boolean {
  return node.primitive === STATE || node.primitive === INPUT || node.primitive === CONSTANT;
}

// ---- Views ----

/** Primitive of {@link reshape}: costs nothing, shares memory. */
export const RESHAPE: Primitive<{ shape: readonly number[] }> = {
  name: "reshape",
  infer: ([x], { shape }) => {
    expectShape(
      sizeOf(x.shape) === sizeOf(shape),
      `reshape to ${formatShape(shape)}`,
      "as many elements",
      [x],
    );
    return [{ shape, dtype: x.dtype }];
  },
  reference: ([x]) => [x],
  vjp: (node, [g]) => [g && reshape(g, node.inputs[0].shape)],
};

/**
 * The same elements in the same order under another shape.
 *
 * @throws {Error} if the number of elements differs
 *
 * @example
 * ```ts
 * import { reshape, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(reshape(state("x", [2, 6]), [3, 4]).shape, [3, 4]);
 * ```
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  return sameShape(x.shape, shape) ? x : apply(RESHAPE, [x], { shape })[0];
}

/** Follows views to the tensor that owns the memory. */
export function storageOf(x: Tensor): Tensor {
  while (x.node.primitive === RESHAPE) x = x.node.inputs[0];
  return x;
}
