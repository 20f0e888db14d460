/**
 * Attention in plain TypeScript and float64: what kernels are compared with.
 * Written to be obviously right, not fast; it does hold the [Lq, Lk] matrices.
 *
 * @module
 */

import { mix32 } from "../graph/random.ts";
import type { AttentionSpec } from "./attention_spec.ts";

/** Arguments of attention. */
export interface AttentionInputs {
  /** [batch, Lq, heads·headDim] */
  q: ArrayLike<number>;
  /** [batch, Lk, heads·headDim] */
  k: ArrayLike<number>;
  /** [batch, Lk, heads·headDim] */
  v: ArrayLike<number>;
  /** [batch, Lk], nonzero where the key may be attended; the key's segment, if the spec has segments */
  mask: ArrayLike<number>;
  /** [Lq + Lk − 1, heads], if the spec has a bias; [batch, Lq + Lk − 1, heads] if it is of each sequence */
  bias?: ArrayLike<number>;
  /** Random key of the run (dropout only); 0 if absent. */
  runKey?: number;
  /** Index of the batch's first sequence within the global batch (dropout only); 0 if absent. */
  firstSequence?: number;
}

/** Results of {@link attentionReference}. */
export interface AttentionResult {
  /** [batch, Lq, heads·headDim] */
  out: Float64Array;
  /** [batch, heads, Lq]; −∞ for a row without keys (the kernels store a finite number) */
  lse: Float64Array;
}

/** Results of {@link attentionReferenceBackward}, each like what it is the gradient of. */
export interface AttentionGradients {
  /** Gradient of the queries. */
  dq: Float64Array;
  /** Gradient of the keys. */
  dk: Float64Array;
  /** Gradient of the values. */
  dv: Float64Array;
  /** Gradient of the bias; all 0 without one. */
  dbias: Float64Array;
}

/**
 * Attention, forward.
 *
 * @example
 * ```ts
 * import { attentionReference } from "./attention_reference.ts";
 * import assert from "node:assert/strict";
 *
 * const { out } = attentionReference({
 *   batch: 1, heads: 1, queryLength: 1, keyLength: 2, headDim: 4,
 *   causal: false, bias: false, dropout: 0, stream: 0,
 * }, { q: [0, 0, 0, 0], k: [1, 2, 3, 4, 5, 6, 7, 8], v: [1, 1, 1, 1, 3, 3, 3, 3], mask: [1, 1] });
 * assert.deepEqual([...out], [2, 2, 2, 2]);
 * ```
 */
export function attentionReference(spec: AttentionSpec, inputs: AttentionInputs): AttentionResult {
  const out = new Float64Array(spec.batch * spec.queryLength * spec.heads * spec.headDim);
  const lse = new Float64Array(spec.batch * spec.heads * spec.queryLength);
  forEachRow(spec, inputs, (row) => {
    lse[row.statistic] = row.lse;
    row.weights.forEach((p, j) => {
      for (let d = 0; d < spec.headDim; d++) {
        out[row.at + d] += p * row.kept[j] * inputs.v[row.keyAt(j) + d];
      }
    });
  });
  return { out, lse };
}

/**
 * Attention, backward: gradients of sum(out · gOut).
 *
 * @example
 * ```ts
 * import { attentionReferenceBackward } from "./attention_reference.ts";
 * import assert from "node:assert/strict";
 *
 * const { dv } = attentionReferenceBackward({
 *   batch: 1, heads: 1, queryLength: 1, keyLength: 1, headDim: 4,
 *   causal: false, bias: false, dropout: 0, stream: 0,
 * }, { q: [0, 0, 0, 0], k: [1, 2, 3, 4], v: [1, 1, 1, 1], mask: [1] }, [5, 6, 7, 8]);
 * assert.deepEqual([...dv], [5, 6, 7, 8]);
 * ```
 */
export function attentionReferenceBackward(
  spec: AttentionSpec,
  inputs: AttentionInputs,
  gOut: ArrayLike<number>,
): AttentionGradients {
  const { headDim, queryLength, heads } = spec;
  const dq = new Float64Array(inputs.q.length);
  const dk = new Float64Array(inputs.k.length), dv = new Float64Array(inputs.v.length);
  const dbias = new Float64Array((queryLength + spec.keyLength - 1) * heads);
  const scale = scaleOf(spec);
  forEachRow(spec, inputs, (row) => {
    const gP = row.weights.map((p, j) => {
      let dot = 0;
      for (let d = 0; d < headDim; d++) {
        dot += gOut[row.at + d] * inputs.v[row.keyAt(j) + d];
        dv[row.keyAt(j) + d] += p * row.kept[j] * gOut[row.at + d];
      }
      return dot * row.kept[j];
    });
    const delta = row.weights.reduce((sum, p, j) => sum + p * gP[j], 0);
    row.weights.forEach((p, j) => {
      const gS = p * (gP[j] - delta);
      dbias[(j - row.i + queryLength - 1) * heads + row.h] += gS;
      for (let d = 0; d < headDim; d++) {
        dq[row.at + d] += gS * scale * inputs.k[row.keyAt(j) + d];
        dk[row.keyAt(j) + d] += gS * scale * inputs.q[row.at + d];
      }
    });
  });
  return { dq, dk, dv, dbias };
}

const scaleOf = ({ headDim, scale = headDim ** -0.5 }: AttentionSpec): number => scale;

/** One query of one head. */
interface Row {
  /** Head. */
  h: number;
  /** Query. */
  i: number;
  /** Its first element in q and out. */
  at: number;
  /** Its element in lse. */
  statistic: number;
  lse: number;
  /** Probabilities of the keys before dropout; 0 where excluded. */
  weights: number[];
  /** 1 / (1 − dropout) for each key that survives dropout, else 0. */
  kept: number[];
  /** First element of a key in k and v. */
  keyAt: (j: number) => number;
}

function forEachRow(spec: AttentionSpec, inputs: AttentionInputs, visit: (row: Row) => void): void {
  const { batch, heads, queryLength, keyLength, headDim } = spec;
  const { q, k, mask, bias, runKey = 0, firstSequence = 0 } = inputs;
  const keys = Array.from({ length: keyLength }, (_, j) => j);
  const threshold = Math.floor(spec.dropout * 2 ** 32);
  const scale = scaleOf(spec);
  for (let b = 0; b < batch; b++) {
    const table = spec.ownBias ? b * (queryLength + keyLength - 1) : 0;
    const firstDiagonal = table + queryLength - 1;
    for (let h = 0; h < heads; h++) {
      const head = (firstSequence + b) * heads + h;
      const dropKey = mix32(mix32(runKey ^ spec.stream) ^ mix32(head));
      const keyAt = (j: number) => ((b * keyLength + j) * heads + h) * headDim;
      for (let i = 0; i < queryLength; i++) {
        const at = ((b * queryLength + i) * heads + h) * headDim;
        const scores = keys.map((j) => {
          if (!mask[b * keyLength + j] || (spec.causal && j > i)) return -Infinity;
          const other = spec.segments && mask[b * keyLength + j] !== mask[b * keyLength + i];
          if (other) return -Infinity;
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[at + d] * k[keyAt(j) + d];
          const offset = spec.bias ? bias![(firstDiagonal + j - i) * heads + h] : 0;
          return dot * scale + offset;
        });
        const max = Math.max(...scores);
        const terms = scores.map((s) => s === -Infinity ? 0 : Math.exp(s - max));
        const sum = terms.reduce((a, b) => a + b, 0);
        visit({
          h,
          i,
          at,
          statistic: (b * heads + h) * queryLength + i,
          lse: sum > 0 ? max + Math.log(sum) : -Infinity,
          weights: terms.map((x) => sum > 0 ? x / sum : 0),
          kept: keys.map((j) =>
            mix32(dropKey ^ (i * keyLength + j)) >= threshold ? 1 / (1 - spec.dropout) : 0
          ),
          keyAt,
        });
      }
    }
  }
}
