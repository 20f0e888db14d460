/**
 * Multi-head attention as one primitive: scores, relative bias, masks, softmax and dropout never leave
 * the kernel, and the backward pass computes them again.
 *
 * @module
 */

import {
  type AttentionInputs,
  attentionReference,
  attentionReferenceBackward,
} from "./attention_reference.ts";
import { type AttentionAttrs, attentionSpec } from "./attention_spec.ts";
import {
  apply,
  constant,
  expectShape,
  formatShape,
  type Node,
  type Primitive,
  reshape,
  type RunContext,
  type Tensor,
  type TensorType,
  type Values,
} from "../graph/tensor.ts";
import { matmul } from "./matmul.ts";

/** Options of {@link attention}. */
export interface AttentionOptions {
  /** Number of heads; divides the width. */
  heads: number;
  /** Query i sees keys j ≤ i only. */
  causal?: boolean;
  /** The mask numbers segments, from 1: a query sees keys of its own only. Needs as many queries as keys. */
  segments?: boolean;
  /**
   * Relative bias, [Lq + Lk − 1, heads]: row key − query + (Lq − 1). Or one for each sequence,
   * [B, Lq + Lk − 1, heads], which is for inference: it has no derivative.
   */
  bias?: Tensor;
  /** What q·k is multiplied by; head width^-½ by default. */
  scale?: number;
  /** Probability of dropping an attention weight. */
  dropout?: number;
  /** Identifies this use of randomness. */
  stream?: number;
}

/** Inputs: q, k, v, mask, [bias]. Outputs: the result, and the log-sum-exp of every row [B, heads, Lq]. */
export const ATTENTION: Primitive<AttentionAttrs> = {
  name: "attention",
  infer(inputs, { heads, bias, ownBias, segments }) {
    const [q, k, v, mask, table] = inputs;
    const [batch, queries, width] = q.shape;
    const keys = k.shape[1];
    const is = (x: TensorType, ...shape: number[]) => formatShape(x.shape) === formatShape(shape);
    const ok = q.shape.length === 3 && is(k, batch, keys, width) && is(v, batch, keys, width) &&
      is(mask, batch, keys) && mask.dtype === "u32" && width % heads === 0 &&
      width / heads % 4 === 0 && width / heads <= 128 &&
      (!bias || is(table, ...(ownBias ? [batch] : []), queries + keys - 1, heads)) &&
      (!segments || queries === keys);
    const expected =
      "q [B, Lq, d], k and v [B, Lk, d], u32 mask [B, Lk], bias [(B,) Lq+Lk-1, heads], " +
      `d / ${heads} heads a multiple of 4, at most 128` + (segments ? ", Lq = Lk" : "");
    expectShape(ok, "attention", expected, inputs);
    return [
      { shape: q.shape, dtype: "f32" },
      { shape: [batch, heads, queries], dtype: "f32" },
    ];
  },
  reference(values, node, run) {
    const { out, lse } = attentionReference(attentionSpec(node), operandsOf(values, node, run));
    return [out, lse];
  },
  vjp(node, [g]) {
    if (!g) return [];
    const { inputs, outputs: [out, lse], attrs } = node;
    if (attrs.ownBias) throw new Error("attention: no derivative with a bias for each sequence");
    const [q, k, v, mask, bias] = inputs;
    const operands = [q, k, v, mask, out, lse, g];
    const [dq, dk, dv, dbias] = apply(ATTENTION_GRAD, bias ? [...operands, bias] : operands, attrs);
    return [dq, dk, dv, undefined, dbias];
  },
};

/** Inputs: q, k, v, mask, result, log-sum-exp, its gradient, [bias]. Outputs: dq, dk, dv, [dbias]. */
export const ATTENTION_GRAD: Primitive<AttentionAttrs> = {
  name: "attentionGrad",
  infer([q, k, v, , , , , bias]) {
    const like = (x: TensorType): TensorType => ({ shape: x.shape, dtype: "f32" });
    return [like(q), like(k), like(v), ...(bias ? [like(bias)] : [])];
  },
  reference([q, k, v, mask, , , g, bias], node, run) {
    const grads = attentionReferenceBackward(
      attentionSpec(node),
      operandsOf([q, k, v, mask, bias], node, run),
      g,
    );
    return [grads.dq, grads.dk, grads.dv, ...(bias ? [grads.dbias] : [])];
  },
};

function operandsOf(
  [q, k, v, mask, bias]: readonly Values[],
  { attrs }: Node<AttentionAttrs>,
  run: RunContext,
): AttentionInputs {
  const inputs = { q, k, v, mask, runKey: run.key, firstSequence: run.sequence };
  return attrs.bias ? { ...inputs, bias } : inputs;
}

/** Kernels read heads four columns at a time. */
const LANES = 4;

/**
 * Heads as wide as kernels want them: columns of 0 behind those of each head, which change no product of heads.
 *
 * @param x [batch, length, heads · from]
 * @returns [batch, length, heads · to], or as many columns less
 */
function withHeadsOf(x: Tensor, heads: number, from: number, to: number): Tensor {
  const [batch, length] = x.shape;
  const unit = Float32Array.from(
    { length: from * to },
    (_, i) => Math.floor(i / to) === i % to ? 1 : 0,
  );
  const each = reshape(x, [batch * length * heads, from]);
  return reshape(matmul(each, constant(unit, [from, to])), [batch, length, heads * to]);
}

/**
 * softmax(scale·q·kᵀ + bias + mask)·v, head by head.
 *
 * @param q [batch, queries, d]: head h has columns h·d/heads …, at most 128
 * @param k [batch, keys, d]
 * @param v [batch, keys, d]
 * @param mask u32 [batch, keys]: not 0 where a key may be attended to. A query that may see no key gets 0
 * @returns [batch, queries, d]
 * @throws {Error} with all shapes if they do not fit
 *
 * @example
 * ```ts
 * import { attention, input, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = state("x", [2, 6, 16]);
 * const y = attention(x, x, x, input("mask", [2, 6], "u32"), { heads: 2, causal: true });
 * assert.deepEqual(y.shape, [2, 6, 16]);
 * ```
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  mask: Tensor,
  { heads, causal = false, segments = false, bias, scale, dropout = 0, stream = 0 }:
    AttentionOptions,
): Tensor {
  const width = q.shape[2] / heads, kernelWidth = Math.ceil(width / LANES) * LANES;
  if (Number.isInteger(width) && width !== kernelWidth) {
    const [wideQ, wideK, wideV] = [q, k, v].map((x) => withHeadsOf(x, heads, width, kernelWidth));
    const own = { heads, causal, segments, bias, scale: scale ?? width ** -0.5, dropout, stream };
    return withHeadsOf(attention(wideQ, wideK, wideV, mask, own), heads, kernelWidth, width);
  }
  const inputs = bias ? [q, k, v, mask, bias] : [q, k, v, mask];
  return apply(ATTENTION, inputs, {
    heads,
    causal,
    segments,
    bias: bias !== undefined,
    ownBias: bias?.shape.length === 3,
    scale,
    dropout,
    stream: stream >>> 0,
  })[0];
}
