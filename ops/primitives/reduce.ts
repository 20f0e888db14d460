/**
 * Sums, over rows, over columns and over everything. Pointwise operations before them are fused in, so
 * a mean of a masked product reads its operands once.
 *
 * @module
 */

import { broadcastIndex, repeatOf } from "../graph/broadcast.ts";
import {
  apply,
  asMatrix,
  expectShape,
  type Primitive,
  reshape,
  sameShape,
  sizeOf,
  type Tensor,
} from "../graph/tensor.ts";
import { matmul } from "./matmul.ts";
import { add, mul, scalar } from "./pointwise.ts";

/** What a sum runs over. */
export type Axis = "rows" | "columns" | "all";

/** Primitive of {@link sum}, {@link sumRows} and {@link sumColumns}. */
export const SUM: Primitive<{ over: Axis }> = {
  name: "sum",
  infer(inputs, { over }) {
    const [x] = inputs;
    expectShape(inputs.length === 1 && x.dtype === "f32", "sum", "one f32 tensor", inputs);
    if (over === "all") return [{ shape: [], dtype: "f32" }];
    expectShape(x.shape.length > 0, "sum", "at least one axis", inputs);
    return over === "columns"
      ? [{ shape: [...x.shape.slice(0, -1), 1], dtype: "f32" }]
      : [{ shape: x.shape.slice(-1), dtype: "f32" }];
  },
  reference([x], node) {
    const { rows, cols } = asMatrix(node.inputs[0].shape);
    const out = new Float64Array(sizeOf(node.outputs[0].shape));
    const { over } = node.attrs;
    for (let r = 0, i = 0; r < rows; r++) {
      for (let c = 0; c < cols; c++, i++) {
        out[over === "all" ? 0 : over === "columns" ? r : c] += x[i];
      }
    }
    return [out];
  },
  // The gradient is the same for every summand: broadcasting spreads it, multiplying gives it its shape.
  vjp: ({ inputs: [x] }, [g]) => [g && spread(g, x.shape)],
  hasPrologue: true,
  hasEpilogue: true,
};

/** Primitive of {@link spread}: no memory, since whatever reads the result broadcasts the operand. */
export const SPREAD: Primitive<{ shape: readonly number[] }> = {
  name: "spread",
  infer: ([x], { shape }) => [{ shape, dtype: x.dtype }],
  reference([x], { inputs, attrs: { shape } }) {
    const at = broadcastIndex(inputs[0].shape, shape);
    return [Float64Array.from({ length: sizeOf(shape) }, (_, i) => x[at(i)])];
  },
  vjp: (node, [g]) => [g && sumTo(g, node.inputs[0].shape)],
  pointwise: { express: ([x]) => x },
};

/**
 * Repeats a tensor to a larger shape it broadcasts to.
 *
 * @example
 * ```ts
 * import { interpret, scalar, spread } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([...interpret([spread(scalar(1), [3])])[0]], [1, 1, 1]);
 * ```
 */
export function spread(x: Tensor, shape: readonly number[]): Tensor {
  return sameShape(x.shape, shape) ? x : apply(SPREAD, [x], { shape })[0];
}

/**
 * Sum over the last axis: [..., n] → [..., 1].
 *
 * @example
 * ```ts
 * import { constant, interpret, sumColumns } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = constant(Float32Array.of(1, 2, 3, 4), [2, 2]);
 * assert.deepEqual([...interpret([sumColumns(x)])[0]], [3, 7]);
 * ```
 */
export function sumColumns(x: Tensor): Tensor {
  return apply(SUM, [x], { over: "columns" })[0];
}

/**
 * Sum over all axes but the last: [..., n] → [n].
 *
 * @example
 * ```ts
 * import { constant, interpret, sumRows } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = constant(Float32Array.of(1, 2, 3, 4), [2, 2]);
 * assert.deepEqual([...interpret([sumRows(x)])[0]], [4, 6]);
 * ```
 */
export function sumRows(x: Tensor): Tensor {
  return apply(SUM, [x], { over: "rows" })[0];
}

/**
 * Sum of all elements: [...] → [].
 *
 * @example
 * ```ts
 * import { state, sum } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(sum(state("x", [2, 3])).shape, []);
 * ```
 */
export function sum(x: Tensor): Tensor {
  return apply(SUM, [x], { over: "all" })[0];
}

/**
 * Sum of squares of all elements: [...] → [].
 *
 * @example
 * ```ts
 * import { constant, interpret, sumSquares } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = constant(Float32Array.of(1, 2, 3, 4), [2, 2]);
 * assert.deepEqual([...interpret([sumSquares(x)])[0]], [30]);
 * ```
 */
export function sumSquares(x: Tensor): Tensor {
  return sum(mul(x, x));
}

/**
 * Undoes broadcasting: sums a gradient down to the shape of the operand it belongs to.
 */
export function sumTo(g: Tensor, shape: readonly number[]): Tensor {
  if (sameShape(g.shape, shape)) return g;
  const repeat = repeatOf(shape, g.shape);
  const size = sizeOf(g.shape);
  switch (repeat.kind) {
    case "same":
      return reshape(g, shape);
    case "one":
      return reshape(sum(g), shape);
    case "suffix":
      return reshape(sumRows(reshape(g, [size / repeat.period, repeat.period])), shape);
    case "prefix":
      return reshape(sumColumns(reshape(g, [size / repeat.run, repeat.run])), shape);
    case "general": {
      // An axis in the middle: the product with a row of ones, then the axes that remain.
      const padded = [...new Array<number>(g.shape.length - shape.length).fill(1), ...shape];
      const axis = padded.findIndex((n, i) => n !== g.shape[i]);
      const outer = sizeOf(g.shape.slice(0, axis)), inner = sizeOf(g.shape.slice(axis + 1));
      const length = g.shape[axis];
      const ones = spread(scalar(1), [outer, 1, length]);
      const summed = matmul(ones, reshape(g, [outer, length, inner]), { batched: true });
      const left = [...g.shape.slice(0, axis), 1, ...g.shape.slice(axis + 1)];
      return sumTo(reshape(summed, left), shape);
    }
  }
}

/** Zeros of a shape, without memory of their own. */
export function zeros(shape: readonly number[]): Tensor {
  return spread(scalar(0), shape);
}

/** Sum of several scalars or tensors of one shape. */
export function addAll(terms: readonly Tensor[]): Tensor {
  return terms.reduce((a, b) => add(a, b));
}
