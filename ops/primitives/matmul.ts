/**
 * Matrix multiplication. Both gradients are matrix multiplications again, in the layouts that need no
 * transposed copy: forward NN (x·W), gradient of x NT (g·Wᵀ), gradient of W TN (xᵀ·g).
 *
 * @module
 */

import {
  apply,
  asMatrix,
  expectShape,
  formatShape,
  type Node,
  type Primitive,
  reshape,
  sameShape,
  sizeOf,
  type Tensor,
  type TensorType,
} from "../graph/tensor.ts";

/** Options of {@link matmul}. */
export interface MatmulOptions {
  /** Use the first operand transposed. */
  transA?: boolean;
  /** Use the second operand transposed. */
  transB?: boolean;
  /** Multiply matrix by matrix over equal leading axes, instead of seeing all leading axes as rows. */
  batched?: boolean;
}

/** Sizes of a product: `batch` times [m, k] · [k, n]. */
export interface MatmulSizes {
  /** Number of products. */
  batch: number;
  /** Rows of the result. */
  m: number;
  /** Columns of the result. */
  n: number;
  /** Length of the sums. */
  k: number;
}

function dims(a: TensorType, b: TensorType, o: MatmulOptions): MatmulSizes {
  const fail = (why: string): never => {
    const t = (x: TensorType, on?: boolean) => formatShape(x.shape) + (on ? "ᵀ" : "");
    throw new Error(`matmul: ${t(a, o.transA)} × ${t(b, o.transB)}: ${why}`);
  };
  if (a.dtype !== "f32" || b.dtype !== "f32") fail("expected f32");
  if (o.transA && o.transB) fail("at most one operand may be transposed");
  if (a.shape.length < 2 || b.shape.length < 2) fail("expected matrices");
  const batch = o.batched ? sizeOf(a.shape.slice(0, -2)) : 1;
  if (o.batched && !sameShape(a.shape.slice(0, -2), b.shape.slice(0, -2))) {
    fail("leading axes differ");
  }
  const matrix = ({ shape }: TensorType) => {
    const { rows, cols } = asMatrix(shape);
    return [rows / batch, cols];
  };
  const [a0, a1] = matrix(a), [b0, b1] = matrix(b);
  const [m, k] = o.transA ? [a1, a0] : [a0, a1];
  const [kb, n] = o.transB ? [b1, b0] : [b0, b1];
  if (k !== kb) fail(`inner sizes ${k} and ${kb} differ`);
  return { batch, m, n, k };
}

/** Sizes of a product in a graph. */
export function matmulSizes({ inputs: [a, b], attrs }: Node<MatmulOptions>): MatmulSizes {
  return dims(a, b, attrs);
}

/** Primitive of {@link matmul}. */
export const MATMUL: Primitive<MatmulOptions> = {
  name: "matmul",
  infer(inputs, o) {
    expectShape(inputs.length === 2, "matmul", "two tensors", inputs);
    const [a, b] = inputs;
    const { m, n } = dims(a, b, o);
    const leading = o.batched
      ? [...a.shape.slice(0, -2), m]
      : o.transA
      ? [m]
      : a.shape.slice(0, -1);
    return [{ shape: [...leading, n], dtype: "f32" }];
  },
  reference([a, b], node) {
    const { batch, m, n, k } = matmulSizes(node), { attrs } = node;
    const [am, ak] = attrs.transA ? [1, m] : [k, 1];
    const [bk, bn] = attrs.transB ? [1, k] : [n, 1];
    const out = new Float64Array(batch * m * n);
    for (let z = 0; z < batch; z++) {
      for (let i = 0; i < m; i++) {
        for (let p = 0; p < k; p++) {
          const x = a[z * m * k + i * am + p * ak];
          if (x === 0) continue;
          const at = z * k * n + p * bk, to = (z * m + i) * n;
          for (let j = 0; j < n; j++) out[to + j] += x * b[at + j * bn];
        }
      }
    }
    return [out];
  },
  vjp({ inputs: [a, b], attrs: { transA, transB, batched } }, [g]) {
    if (!g) return [];
    const like = (x: Tensor, grad: Tensor) => reshape(grad, x.shape);
    if (transA) {
      return [
        like(a, matmul(b, g, { transB: true, batched })),
        like(b, matmul(a, g, { batched })),
      ];
    }
    return [
      like(a, matmul(g, b, { transB: !transB, batched })),
      like(
        b,
        transB ? matmul(g, a, { transA: true, batched }) : matmul(a, g, { transA: true, batched }),
      ),
    ];
  },
  hasEpilogue: true,
};

/**
 * Matrix product.
 *
 * @param a [..., m, k]; all its leading axes count as rows unless `batched`
 * @param b [k, n], or [..., k, n] if `batched`
 * @returns [..., m, n]
 * @throws {Error} with both shapes if they do not fit
 *
 * @example
 * ```ts
 * import { matmul, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = state("x", [2, 5, 3]), w = state("w", [3, 4]);
 * assert.deepEqual(matmul(x, w).shape, [2, 5, 4]);
 * assert.throws(() => matmul(w, x), /inner sizes/);
 * ```
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const { transA = false, transB = false, batched = false } = options;
  return apply(MATMUL, [a, b], { transA, transB, batched })[0];
}
