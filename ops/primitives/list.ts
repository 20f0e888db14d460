/**
 * All operations there are. A target has kernels for those that are neither pointwise nor a view, and for
 * no other.
 *
 * @module
 */

import { type Primitive, RESHAPE } from "../graph/tensor.ts";
import { ATTENTION, ATTENTION_GRAD } from "./attention.ts";
import { CROSS_ENTROPY, CROSS_ENTROPY_GRAD } from "./cross_entropy.ts";
import { LAYER_NORM, LAYER_NORM_GRAD, RMS_NORM, RMS_NORM_GRAD } from "./layer_norm.ts";
import { MATMUL } from "./matmul.ts";
import { POINTWISE } from "./pointwise.ts";
import { SPREAD, SUM } from "./reduce.ts";
import { GATHER, POSITION_IDS, SCATTER_ADD } from "./rows.ts";

/**
 * The primitives by name, those included that only derivatives use.
 *
 * @example
 * ```ts
 * import { PRIMITIVES } from "./list.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok(PRIMITIVES.get("matmul")?.hasEpilogue);
 * ```
 */
export const PRIMITIVES: ReadonlyMap<string, Primitive> = new Map(
  ([
    ...POINTWISE,
    SPREAD,
    GATHER,
    RESHAPE,
    SUM,
    MATMUL,
    LAYER_NORM,
    LAYER_NORM_GRAD,
    RMS_NORM,
    RMS_NORM_GRAD,
    ATTENTION,
    ATTENTION_GRAD,
    SCATTER_ADD,
    POSITION_IDS,
    CROSS_ENTROPY,
    CROSS_ENTROPY_GRAD,
  ] as Primitive[]).map((primitive) => [primitive.name, primitive]),
);
