/**
 * Kernels that move rows by index.
 *
 * @module
 */

import { asMatrix, type Node } from "../graph/tensor.ts";
import { type Binding, type Dispatch, LINEAR_GROUP, linearGrid } from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";

/** Kernels of the primitive `scatterAddRows`. */
export function lowerScatterAddRows(node: Node<{ rows: number }>, to: GpuLowering): void {
  const [g, ids, base] = node.inputs, [out] = node.outputs;
  const { rows: count, cols } = asMatrix(g.shape);
  const shared = base !== undefined && to.shares(out, base);
  const kernel = scatterAddRowsKernel({
    tableRows: node.attrs.rows,
    count,
    cols,
    base: base === undefined ? "zero" : shared ? "in place" : "separate",
  });
  const operands = { g: to.at(g), ids: to.at(ids), out: to.at(out) };
  to.emit(kernel, base && !shared ? { ...operands, base: to.at(base) } : operands);
}

/** Kernel of the primitive `positionIds`. */
export function lowerPositionIds(node: Node<{ pad: number }>, to: GpuLowering): void {
  const [tokens] = node.inputs, [out] = node.outputs;
  const [batch, length] = tokens.shape;
  const kernel = positionIdsKernel({ batch, length, pad: node.attrs.pad });
  to.emit(kernel, { tokens: to.at(tokens), positions: to.at(out) });
}

/** Sizes of a scatter-add. */
interface ScatterSpec {
  /** Rows of the table. */
  tableRows: number;
  /** Rows to add. */
  count: number;
  /** Columns. */
  cols: number;
  /** What the sums start from. */
  base: "zero" | "in place" | "separate";
}

/**
 * out[v] = base[v] + Σ g[i] over ids[i] = v, in the order of i: no atomics, the same bits every time.
 *
 * Every table row has its own workgroup, whose threads scan all ids (a scan of 8,192 ids is a few
 * microseconds of cached reads), add the rows that match, and share the columns.
 *
 * Binds g, ids, out and, if base is separate, base.
 */
function scatterAddRowsKernel(spec: ScatterSpec): Dispatch {
  const { tableRows, count, cols, base } = spec;
  const width = cols % 4 === 0 ? 4 : 1;
  const array = width === 4 ? "array<vec4f>" : "array<f32>";
  const type = width === 4 ? "vec4f" : "f32";
  const bindings: Binding[] = [
    { name: "g", type: array, access: "read" },
    { name: "ids", type: "array<vec4u>", access: "read" },
    { name: "out", type: array, access: "read_write" },
  ];
  if (base === "separate") bindings.push({ name: "base", type: array, access: "read" });
  const initial = (at: string) =>
    base === "zero" ? `${type}()` : base === "separate" ? `base[${at}]` : `out[${at}]`;
  const threads = 64;
  return {
    source: {
      name: "scatterAddRows",
      bindings,
      params: ["rows", "count", "groups"],
      body: `@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let row = ${LINEAR_GROUP};
  if (row >= P.rows) { return; }
  let at = row * P.groups;
  for (var c = l.x; c < P.groups; c += ${threads}u) {
    var total = ${initial("at + c")};
    var i = 0u;
    for (; i * 4u + 4u <= P.count; i++) {
      let id = ids[i];
      if (any(id == vec4u(row))) {
        ${[0, 1, 2, 3].map((k) => `if (id[${k}] == row) { ${addRow(k)} }`).join("\n        ")}
      }
    }
    // The last ids share their vector with whatever pads the buffer.
    let id = ids[i];
    ${
        [0, 1, 2].map((k) => `if (i * 4u + ${k}u < P.count && id[${k}] == row) { ${addRow(k)} }`)
          .join("\n    ")
      }
    out[at + c] = total;
  }
}`,
    },
    params: [tableRows, count, cols / width],
    grid: linearGrid(tableRows),
  };
}

const addRow = (k: number) => `total += g[(i * 4u + ${k}u) * P.groups + c];`;

/** Position rows of token sequences, a thread per sequence. Binds tokens, positions. */
function positionIdsKernel(
  { batch, length, pad }: { batch: number; length: number; pad: number },
): Dispatch {
  return {
    source: {
      name: "positionIds",
      bindings: [
        { name: "tokens", type: "array<u32>", access: "read" },
        { name: "positions", type: "array<u32>", access: "read_write" },
      ],
      params: ["batch", "length", "padId"],
      body: `@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= P.batch) { return; }
  var next = P.padId;
  for (var t = 0u; t < P.length; t++) {
    let at = id.x * P.length + t;
    let real = tokens[at] != P.padId;
    next += select(0u, 1u, real);
    positions[at] = select(P.padId, next, real);
  }
}`,
    },
    params: [batch, length, pad],
    grid: linearGrid(Math.ceil(batch / 8)),
  };
}
