/**
 * Softmax cross entropy fused with the projection that makes the logits, so that kernels need not hold
 * [rows, vocabulary] logits whole; the backward pass computes them again.
 *
 * The same pass over the logits finds the most probable token and, if asked, draws one: Gumbel-max
 * sampling adds noise −log(−log u) to every logit and takes the largest, which is a draw from the softmax.
 *
 * @module
 */

import { mix32 } from "../graph/random.ts";
import {
  apply,
  asMatrix,
  expectShape,
  type Node,
  type Primitive,
  sizeOf,
  type Tensor,
  type TensorType,
  type Values,
} from "../graph/tensor.ts";

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Added to the logits, [V]. */
  bias?: Tensor;
  /** Also draw a token per row. */
  sample?: {
    /** Identifies this use of randomness. */
    stream: number;
    /** Rows that belong to one sequence, so that a sequence's draws do not depend on its neighbours. */
    rowsPerSequence: number;
  };
}

/** How to draw tokens. */
export type SampleOptions = NonNullable<CrossEntropyOptions["sample"]>;

/** Attributes of {@link CROSS_ENTROPY}. */
export interface CrossEntropyAttrs {
  /** Whether there is a bias, input 3. */
  bias: boolean;
  /** How to draw tokens, output 3, if asked. */
  sample?: SampleOptions;
}

/** Attributes of {@link CROSS_ENTROPY_GRAD}. */
export interface CrossEntropyGradAttrs {
  /** Whether there is a bias, input 5. */
  bias: boolean;
  /** Whether the table's gradient is added to another tensor, the last input. */
  base: boolean;
}

/** Inputs: h, table, targets, [bias]. Outputs: nll, log-sum-exp, most probable token, [drawn token]. */
export const CROSS_ENTROPY: Primitive<CrossEntropyAttrs> = {
  name: "crossEntropy",
  infer(inputs, attrs) {
    const [h, table, targets, bias] = inputs;
    const n = h.shape.at(-1)!;
    const ok = table.shape.length === 2 && table.shape[1] === n && targets.dtype === "u32" &&
      sizeOf(targets.shape) * n === sizeOf(h.shape) && attrs.bias === (bias !== undefined) &&
      (!bias || (bias.shape.length === 1 && bias.shape[0] === table.shape[0]));
    expectShape(
      ok,
      "crossEntropy",
      "h [..., n], table [V, n], u32 targets [...], bias [V]",
      inputs,
    );
    const f32: TensorType = { shape: targets.shape, dtype: "f32" };
    const u32: TensorType = { shape: targets.shape, dtype: "u32" };
    return attrs.sample ? [f32, f32, u32, u32] : [f32, f32, u32];
  },
  reference([h, table, targets, bias], node, run) {
    const { rows, vocab } = crossEntropySizes(node);
    const nll = new Float64Array(rows), lse = new Float64Array(rows);
    const best = new Uint32Array(rows), drawn = new Uint32Array(rows);
    const { sample } = node.attrs;
    for (let r = 0; r < rows; r++) {
      const logits = referenceLogits(h, table, bias, r, node);
      const max = Math.max(...logits);
      lse[r] = max + Math.log(logits.reduce((s, x) => s + Math.exp(x - max), 0));
      nll[r] = lse[r] - logits[targets[r]];
      best[r] = logits.indexOf(max);
      if (!sample) continue;
      const { stream, rowsPerSequence } = sample;
      const global = (Math.imul(run.sequence, rowsPerSequence) + r) >>> 0;
      const rowKey = mix32(mix32(run.key ^ stream) ^ global);
      let top = -Infinity;
      for (let v = 0; v < vocab; v++) {
        const u = ((mix32(rowKey ^ v) >>> 8) + 0.5) / 16777216;
        const score = logits[v] - Math.log(-Math.log(u));
        if (score > top) [top, drawn[r]] = [score, v];
      }
    }
    return sample ? [nll, lse, best, drawn] : [nll, lse, best];
  },
  accumulates: [1],
  vjp({ inputs: [h, table, targets, bias], outputs: [, lse], attrs }, [g], into) {
    if (!g) return [];
    const operands = [h, table, targets, lse, g];
    if (bias) operands.push(bias);
    if (into[1]) operands.push(into[1]);
    const grads = apply(CROSS_ENTROPY_GRAD, operands, { bias: attrs.bias, base: !!into[1] });
    return [grads[0], grads[1], undefined, grads[2]];
  },
};

/**
 * Inputs: h, table, targets, log-sum-exp, gradient of the nll, [bias], [base]. Outputs: gradients to hidden
 * rows, table (added to `base` if given) and [bias]. A row whose gradient is 0 counts for nothing, whatever
 * it holds.
 */
export const CROSS_ENTROPY_GRAD: Primitive<CrossEntropyGradAttrs> = {
  name: "crossEntropyGrad",
  infer([h, table], { bias }) {
    const types: TensorType[] = [{ shape: h.shape, dtype: "f32" }, {
      shape: table.shape,
      dtype: "f32",
    }];
    return bias ? [...types, { shape: [table.shape[0]], dtype: "f32" }] : types;
  },
  reference(values, node) {
    const [h, table, targets, lse, g] = values;
    const { bias, base } = optionalInputs(values, node.attrs);
    const { rows, vocab, width } = crossEntropySizes(node);
    const dh = new Float64Array(rows * width);
    const dTable = base ? Float64Array.from(base) : new Float64Array(vocab * width);
    const dBias = new Float64Array(vocab);
    for (let r = 0; r < rows; r++) {
      const logits = referenceLogits(h, table, bias, r, node);
      for (let v = 0; v < vocab; v++) {
        const d = (Math.exp(logits[v] - lse[r]) - (v === targets[r] ? 1 : 0)) * g[r];
        dBias[v] += d;
        for (let c = 0; c < width; c++) {
          dh[r * width + c] += d * table[v * width + c];
          dTable[v * width + c] += d * h[r * width + c];
        }
      }
    }
    return bias ? [dh, dTable, dBias] : [dh, dTable];
  },
  inPlace: ({ inputs, attrs }) => attrs.base ? [[1, inputs.length - 1]] : [],
};

/** Sizes of a cross entropy or of its gradient. */
export interface CrossEntropySizes {
  /** Hidden rows. */
  rows: number;
  /** Rows of the table. */
  vocab: number;
  /** Columns of both. */
  width: number;
}

/** Sizes of a cross entropy or of its gradient, in a graph. */
export function crossEntropySizes(node: Node): CrossEntropySizes {
  const [h, table] = node.inputs;
  const { rows, cols } = asMatrix(h.shape);
  return { rows, vocab: table.shape[0], width: cols };
}

/** The optional inputs of {@link CROSS_ENTROPY_GRAD}. */
export function optionalInputs<T>(
  inputs: readonly T[],
  { bias, base }: CrossEntropyGradAttrs,
): { bias?: T; base?: T } {
  return { bias: bias ? inputs[5] : undefined, base: base ? inputs[inputs.length - 1] : undefined };
}

function referenceLogits(
  h: Values,
  table: Values,
  bias: Values | undefined,
  r: number,
  node: Node,
) {
  const { vocab, width } = crossEntropySizes(node);
  const logits = new Array<number>(vocab);
  for (let v = 0; v < vocab; v++) {
    let x = bias ? bias[v] : 0;
    for (let c = 0; c < width; c++) x += h[r * width + c] * table[v * width + c];
    logits[v] = x;
  }
  return logits;
}

/** What {@link crossEntropy} returns, each [...] like the targets. */
export interface CrossEntropy {
  /** −log softmax(logits)[target]. */
  nll: Tensor;
  /** u32: the most probable token; the first of equals. */
  best: Tensor;
  /** u32: a draw from the softmax, if asked; no gradient flows through it. */
  sample?: Tensor;
}

/**
 * Cross entropy of logits h·tableᵀ + bias against targets.
 *
 * @param h [..., n] hidden rows
 * @param table [V, n], usually the token embedding
 * @param targets u32 [...]
 *
 * @example
 * ```ts
 * import { crossEntropy, input, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const { nll } = crossEntropy(state("h", [6, 8]), state("E", [50, 8]), input("y", [6], "u32"));
 * assert.deepEqual(nll.shape, [6]);
 * ```
 */
export function crossEntropy(
  h: Tensor,
  table: Tensor,
  targets: Tensor,
  { bias, sample }: CrossEntropyOptions = {},
): CrossEntropy {
  const inputs = bias ? [h, table, targets, bias] : [h, table, targets];
  const [nll, , best, drawn] = apply(CROSS_ENTROPY, inputs, { bias: !!bias, sample });
  return { nll, best, sample: drawn };
}
