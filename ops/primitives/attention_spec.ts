/**
 * Sizes and options of one attention: what its reference and the kernels of every target are made from.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";

/** Attributes of the primitives `attention` and `attentionGrad`. */
export interface AttentionAttrs {
  /** Attention heads. */
  heads: number;
  /** True if query i may only attend to keys j ≤ i. */
  causal: boolean;
  /** True if `mask` numbers segments, and a query may only attend to its own; needs Lq = Lk. */
  segments?: boolean;
  /** True if a relative position bias is added to the scores. */
  bias: boolean;
  /** True if every sequence has a bias of its own; forward only. */
  ownBias?: boolean;
  /** What queries are multiplied by; headDim^-½ if absent. */
  scale?: number;
  /** Probability with which an attention weight is dropped, below 1; 0 switches dropout off. */
  dropout: number;
  /** Unsigned 32-bit number of this op in its program: different streams draw different masks. */
  stream: number;
}

/**
 * Shape and options of one attention.
 *
 * Attention weight (b, h, i, j) survives dropout if `mix32(key ^ (i·Lk + j)) ≥ floor(dropout·2³²)`, where
 * key is `mix32(mix32(run key ^ stream) ^ mix32((first sequence of the run + b)·heads + h))`. A query that
 * may attend nowhere gives 0.
 */
export interface AttentionSpec extends AttentionAttrs {
  /** Sequences in the batch. */
  batch: number;
  /** Queries per sequence, Lq. */
  queryLength: number;
  /** Keys per sequence, Lk. */
  keyLength: number;
  /** Width of one head: a multiple of 4, at most 128. */
  headDim: number;
}

/** The spec of an attention, or of its gradient, in a graph. */
export function attentionSpec({ inputs: [q, k], attrs }: Node<AttentionAttrs>): AttentionSpec {
  return {
    ...attrs,
    batch: q.shape[0],
    queryLength: q.shape[1],
    keyLength: k.shape[1],
    headDim: q.shape[2] / attrs.heads,
  };
}
