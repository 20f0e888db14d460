/**
 * Layer normalisation over the last axis, with the mean taken out or, as in T5, without.
 *
 * @module
 */

import {
  apply,
  asMatrix,
  expectShape,
  type Primitive,
  sizeOf,
  type Tensor,
} from "../graph/tensor.ts";
import { mul, sub } from "./pointwise.ts";
import { sumRows } from "./reduce.ts";

/** Outputs: the normalised tensor, and mean and 1/deviation of every row, which the gradients need. */
export const LAYER_NORM: Primitive<{ eps: number }> = {
  name: "layerNorm",
  infer(inputs) {
    const [x, gain, bias] = inputs;
    const n = x.shape.at(-1);
    const ok = inputs.length === 3 &&
      [gain, bias].every((p) => p.shape.length === 1 && p.shape[0] === n);
    expectShape(ok, "layerNorm", "x [..., n], gain [n], bias [n]", inputs);
    const row = { shape: [...x.shape.slice(0, -1), 1], dtype: "f32" as const };
    return [{ shape: x.shape, dtype: "f32" }, row, row];
  },
  reference([x, gain, bias], node) {
    const { rows, cols } = asMatrix(node.inputs[0].shape);
    const y = new Float64Array(rows * cols),
      means = new Float64Array(rows),
      rstds = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      const row = x.subarray(r * cols, (r + 1) * cols);
      let mean = 0, variance = 0;
      for (const v of row) mean += v / cols;
      for (const v of row) variance += (v - mean) ** 2 / cols;
      const rstd = 1 / Math.sqrt(variance + node.attrs.eps);
      for (let c = 0; c < cols; c++) y[r * cols + c] = (row[c] - mean) * rstd * gain[c] + bias[c];
      means[r] = mean;
      rstds[r] = rstd;
    }
    return [y, means, rstds];
  },
  vjp({ inputs: [x, gain], outputs: [, mean, rstd] }, [g]) {
    if (!g) return [];
    const normalised = mul(sub(x, mean), rstd);
    return [
      apply(LAYER_NORM_GRAD, [g, x, gain, mean, rstd], null)[0],
      sumRows(mul(g, normalised)),
      sumRows(g),
    ];
  },
};

/** dx = rstd · (h − mean(h) − x̂ · mean(h · x̂)) with h = g · gain and x̂ the normalised row. */
export const LAYER_NORM_GRAD: Primitive<null> = {
  name: "layerNormGrad",
  infer: ([g]) => [{ shape: g.shape, dtype: "f32" }],
  reference([g, x, gain, mean, rstd], node) {
    const { rows, cols } = asMatrix(node.inputs[0].shape);
    const dx = new Float64Array(sizeOf(node.inputs[0].shape));
    for (let r = 0; r < rows; r++) {
      let a = 0, b = 0;
      const at = r * cols;
      for (let c = 0; c < cols; c++) {
        const h = g[at + c] * gain[c];
        a += h / cols;
        b += h * (x[at + c] - mean[r]) * rstd[r] / cols;
      }
      for (let c = 0; c < cols; c++) {
        dx[at + c] = rstd[r] * (g[at + c] * gain[c] - a - (x[at + c] - mean[r]) * rstd[r] * b);
      }
    }
    return [dx];
  },
  hasEpilogue: true,
};

/** Outputs: the normalised tensor, and 1/(root of the mean square) of every row. */
export const RMS_NORM: Primitive<{ eps: number }> = {
  name: "rmsNorm",
  infer(inputs) {
    const [x, gain] = inputs;
    const ok = inputs.length === 2 && gain.shape.length === 1 && gain.shape[0] === x.shape.at(-1);
    expectShape(ok, "rmsNorm", "x [..., n], gain [n]", inputs);
    return [
      { shape: x.shape, dtype: "f32" },
      { shape: [...x.shape.slice(0, -1), 1], dtype: "f32" },
    ];
  },
  reference([x, gain], node) {
    const { rows, cols } = asMatrix(node.inputs[0].shape);
    const y = new Float64Array(rows * cols), rstds = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      const row = x.subarray(r * cols, (r + 1) * cols);
      let square = 0;
      for (const v of row) square += v * v / cols;
      rstds[r] = 1 / Math.sqrt(square + node.attrs.eps);
      for (let c = 0; c < cols; c++) y[r * cols + c] = row[c] * rstds[r] * gain[c];
    }
    return [y, rstds];
  },
  vjp({ inputs: [x, gain], outputs: [, rstd] }, [g]) {
    if (!g) return [];
    return [apply(RMS_NORM_GRAD, [g, x, gain, rstd], null)[0], sumRows(mul(g, mul(x, rstd)))];
  },
};

/** dx = rstd · (h − x̂ · mean(h · x̂)) with h = g · gain and x̂ the normalised row. */
export const RMS_NORM_GRAD: Primitive<null> = {
  name: "rmsNormGrad",
  infer: ([g]) => [{ shape: g.shape, dtype: "f32" }],
  reference([g, x, gain, rstd], node) {
    const { rows, cols } = asMatrix(node.inputs[0].shape);
    const dx = new Float64Array(rows * cols);
    for (let r = 0; r < rows; r++) {
      const at = r * cols;
      let b = 0;
      for (let c = 0; c < cols; c++) b += g[at + c] * gain[c] * x[at + c] * rstd[r] / cols;
      for (let c = 0; c < cols; c++) {
        dx[at + c] = rstd[r] * (g[at + c] * gain[c] - x[at + c] * rstd[r] * b);
      }
    }
    return [dx];
  },
  hasEpilogue: true,
};

/**
 * (x − mean) / √(variance + eps) · gain + bias, over the last axis.
 *
 * @param x [..., n]
 * @param gain [n]
 * @param bias [n]
 *
 * @example
 * ```ts
 * import { layerNorm, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const y = layerNorm(state("x", [2, 8]), state("g", [8]), state("b", [8]), 1e-5);
 * assert.deepEqual(y.shape, [2, 8]);
 * ```
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, eps: number): Tensor {
  return apply(LAYER_NORM, [x, gain, bias], { eps })[0];
}

/**
 * x / √(mean square + eps) · gain, over the last axis.
 *
 * @param x [..., n]
 * @param gain [n]
 *
 * @example
 * ```ts
 * import { rmsNorm, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(rmsNorm(state("x", [2, 8]), state("g", [8]), 1e-6).shape, [2, 8]);
 * ```
 */
export function rmsNorm(x: Tensor, gain: Tensor, eps: number): Tensor {
  return apply(RMS_NORM, [x, gain], { eps })[0];
}
