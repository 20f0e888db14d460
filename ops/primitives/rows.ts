/**
 * Rows by index: embedding look-up, selected positions, and their deterministic gradient.
 *
 * @module
 */

import { apply, expectShape, type Primitive, sizeOf, type Tensor } from "../graph/tensor.ts";

/** Reads through an index; the compiler fuses it like a pointwise operation. */
export const GATHER: Primitive<null> = {
  name: "gatherRows",
  infer(inputs) {
    const [table, ids] = inputs;
    const ok = inputs.length === 2 && ids.dtype === "u32" &&
      (table.shape.length === 1 || table.shape.length === 2);
    expectShape(ok, "gatherRows", "table [V, n] or [V], u32 ids [...]", inputs);
    return [{ shape: [...ids.shape, ...table.shape.slice(1)], dtype: table.dtype }];
  },
  reference([table, ids], node) {
    const n = sizeOf(node.inputs[0].shape.slice(1));
    const last = node.inputs[0].shape[0] - 1;
    const out = table instanceof Float64Array
      ? new Float64Array(ids.length * n)
      : new Uint32Array(ids.length * n);
    for (let i = 0; i < ids.length; i++) {
      const at = Math.min(ids[i], last) * n;
      for (let c = 0; c < n; c++) out[i * n + c] = table[at + c];
    }
    return [out];
  },
  accumulates: [0],
  vjp({ inputs: [table, ids] }, [g], [into]) {
    if (!g) return [];
    if (table.shape.length !== 2) throw new Error("gatherRows: no gradient for a table of scalars");
    return [scatterAddRows(g, ids, table.shape[0], into)];
  },
};

/** out[v] = base[v] + Σ over i with ids[i] = v of g[i], summed in the order of i. */
export const SCATTER_ADD: Primitive<{ rows: number }> = {
  name: "scatterAddRows",
  infer(inputs, { rows }) {
    const [g, ids, base] = inputs;
    const n = g.shape.at(-1)!;
    const ok = ids.dtype === "u32" && sizeOf(ids.shape) * n === sizeOf(g.shape) &&
      (!base || (base.shape[0] === rows && base.shape[1] === n));
    expectShape(ok, "scatterAddRows", "g [..., n], u32 ids [...], base [V, n]", inputs);
    return [{ shape: [rows, n], dtype: "f32" }];
  },
  reference([g, ids, base], node) {
    const n = node.outputs[0].shape[1];
    const out = base ? Float64Array.from(base) : new Float64Array(node.attrs.rows * n);
    for (let i = 0; i < ids.length; i++) {
      if (ids[i] >= node.attrs.rows) continue;
      for (let c = 0; c < n; c++) out[ids[i] * n + c] += g[i * n + c];
    }
    return [out];
  },
  inPlace: ({ inputs }) => inputs.length === 3 ? [[0, 2]] : [],
};

/** Position rows of a batch of token sequences. */
export const POSITION_IDS: Primitive<{ pad: number }> = {
  name: "positionIds",
  infer(inputs) {
    const [tokens] = inputs;
    const ok = inputs.length === 1 && tokens.dtype === "u32" && tokens.shape.length === 2;
    expectShape(ok, "positionIds", "u32 [batch, length]", inputs);
    return [{ shape: tokens.shape, dtype: "u32" }];
  },
  reference([tokens], { inputs: [{ shape }], attrs: { pad } }) {
    const [batch, length] = shape;
    const out = new Uint32Array(batch * length);
    for (let b = 0, i = 0; b < batch; b++) {
      for (let t = 0, seen = 0; t < length; t++, i++) {
        out[i] = tokens[i] === pad ? pad : pad + ++seen;
      }
    }
    return [out];
  },
};

/**
 * Rows of a table, by index. Indices past the end read the last row.
 *
 * @param table [V, n], or [V] for single values
 * @param ids u32 [...]
 * @returns [..., n], or [...]
 *
 * @example
 * ```ts
 * import { gatherRows, input, state } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const x = gatherRows(state("table", [100, 8]), input("tokens", [2, 5], "u32"));
 * assert.deepEqual(x.shape, [2, 5, 8]);
 * ```
 */
export function gatherRows(table: Tensor, ids: Tensor): Tensor {
  return apply(GATHER, [table, ids], null)[0];
}

/**
 * Sums rows into a table, in a fixed order: the gradient of {@link gatherRows}. Indices past the end are
 * dropped.
 *
 * @param g [..., n]
 * @param ids u32 [...]
 * @param rows rows of the table
 * @param base added to the sums, [rows, n]; zeros if absent
 */
export function scatterAddRows(g: Tensor, ids: Tensor, rows: number, base?: Tensor): Tensor {
  return apply(SCATTER_ADD, base ? [g, ids, base] : [g, ids], { rows })[0];
}

/**
 * Position rows: `pad` + the number of non-pad tokens up to and including this one; `pad` at pads. The
 * first token of a sequence has row 2 when pad is 1.
 *
 * @param tokens u32 [batch, length]
 * @returns u32 [batch, length]
 */
export function positionIds(tokens: Tensor, pad: number): Tensor {
  return apply(POSITION_IDS, [tokens], { pad })[0];
}
