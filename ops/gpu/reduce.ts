/**
 * Sums in a fixed order, with a fused prologue and epilogue. Long sums go in two stages: every workgroup
 * leaves a partial sum in scratch memory, a second kernel adds the partial sums.
 *
 * @module
 */

import { asMatrix, type Node } from "../graph/tensor.ts";
import type { Axis } from "../primitives/reduce.ts";
import type { Operand } from "../program/lowering.ts";
import { ceilDiv, type KernelSource, LINEAR_GROUP, linearGrid } from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";
import { ROW_THREADS, rowFrame } from "./matrix.ts";
import type { BoundPrologue } from "./pointwise.ts";

/** Kernels of the primitive `sum`. */
export function lowerSum({ inputs: [x], attrs: { over } }: Node<{ over: Axis }>, to: GpuLowering) {
  const { rows, cols } = asMatrix(x.shape);
  if (over === "columns") reduceColumns(to, rows, cols);
  else if (over === "rows") reduceRows(to, rows, cols);
  else reduceAll(to, rows, cols);
}

/** [rows, cols] → [rows, 1]. */
function reduceColumns(to: GpuLowering, rows: number, cols: number): void {
  const { parts, operands, load, width } = to.prologue();
  const { epilogue, operands: outputs } = to.epilogue();
  const frame = rowFrame();
  const type = width === 4 ? "vec4f" : "f32";
  const source: KernelSource = {
    name: "sumColumns",
    bindings: [...parts.bindings, ...epilogue.bindings],
    params: ["rows", "groups", ...parts.params, ...epilogue.params],
    usesRun: parts.usesRun || epilogue.usesRun,
    body: `${once(parts.functions, epilogue.functions)}
${frame.functions}
${frame.head}
  var sums = ${type}();
  ${
      frame.loop("P.groups", (c) => {
        const { statements, value } = load("row", `(${c} * ${width}u)`, width);
        return `${statements}\nsums += ${value};`;
      })
    }
  var total = ${width === 4 ? "dot(sums, vec4f(1.0))" : "sums"};
  ${frame.reduce("total", "sum")}
  if (${frame.first}) { ${epilogue.store("total", "row", "0u", 1)} }
}`,
  };
  to.emit({
    source,
    params: [rows, cols / width, ...parts.values, ...epilogue.values],
    grid: frame.grid(rows),
  }, { ...operands, ...outputs });
}

/** [rows, cols] → [cols]. */
function reduceRows(to: GpuLowering, rows: number, cols: number): void {
  const prologue = to.prologue();
  const { width } = prologue;
  const columnGroups = ceilDiv(cols / width, ROW_THREADS);
  // Enough workgroups to fill the machine, but at least 32 rows for each.
  const chunks = Math.max(1, Math.min(ceilDiv(rows, 32), ceilDiv(512, columnGroups)));
  const partial = to.scratch(chunks * cols * 4, "partial sums");
  columnSums(to, prologue, { rows, cols, chunks, columnGroups }, partial);
  const { epilogue, operands } = to.epilogue();
  const type = width === 4 ? "vec4f" : "f32";
  const groups = cols / width;
  to.emit({
    source: {
      name: "sumRowsEnd",
      bindings: [
        { name: "partials", type: `array<${type}>`, access: "read" },
        ...epilogue.bindings,
      ],
      params: ["groups", "chunks", ...epilogue.params],
      usesRun: epilogue.usesRun,
      body: `${epilogue.functions}
@compute @workgroup_size(${ROW_THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let c = w.x * ${ROW_THREADS}u + l.x;
  if (c >= P.groups) { return; }
  var total = ${type}();
  for (var i = 0u; i < P.chunks; i++) { total += partials[i * P.groups + c]; }
  ${epilogue.store("total", "0u", `(c * ${width}u)`, width)}
}`,
    },
    params: [groups, chunks, ...epilogue.values],
    grid: [ceilDiv(groups, ROW_THREADS), 1, 1],
  }, { partials: partial, ...operands });
}

/** How the columns and rows of a sum are shared out. */
interface ColumnSums {
  rows: number;
  cols: number;
  /** Pieces into which the rows are cut. */
  chunks: number;
  /** Workgroups side by side. */
  columnGroups: number;
}

function columnSums(
  to: GpuLowering,
  { parts, operands, load, width }: BoundPrologue,
  s: ColumnSums,
  partial: Operand,
): void {
  const type = width === 4 ? "vec4f" : "f32";
  const add = (row: string) => {
    const { statements, value } = load(row, `(c * ${width}u)`, width);
    return `{ ${statements}\ntotal += ${value}; }`;
  };
  const atOnce = 8;
  to.emit({
    source: {
      name: "sumRows",
      bindings: [...parts.bindings, {
        name: "partials",
        type: `array<${type}>`,
        access: "read_write",
      }],
      params: ["rows", "groups", "chunk", ...parts.params],
      usesRun: parts.usesRun,
      body: `${parts.functions}
@compute @workgroup_size(${ROW_THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let c = w.x * ${ROW_THREADS}u + l.x;
  if (c >= P.groups) { return; }
  var total = ${type}();
  let end = min(P.rows, (w.y + 1u) * P.chunk);
  var r = w.y * P.chunk;
  for (; r + ${atOnce}u <= end; r += ${atOnce}u) {
    ${Array.from({ length: atOnce }, (_, k) => add(`(r + ${k}u)`)).join("\n    ")}
  }
  for (; r < end; r++) { ${add("r")} }
  partials[w.y * P.groups + c] = total;
}`,
    },
    params: [s.rows, s.cols / width, ceilDiv(s.rows, s.chunks), ...parts.values],
    grid: [s.columnGroups, s.chunks, 1],
  }, { ...operands, partials: partial });
}

/** [rows, cols] → []. */
function reduceAll(to: GpuLowering, rows: number, cols: number): void {
  const { parts, operands, loadLinear, width } = to.prologue();
  const { epilogue, operands: outputs } = to.epilogue();
  const count = rows * cols / width;
  const threads = ROW_THREADS;
  const groups = Math.max(1, Math.min(512, ceilDiv(count, 2048)));
  const frame = rowFrame();
  const type = width === 4 ? "vec4f" : "f32";
  const partial = to.scratch(groups * 4, "partial sums");
  const add = (index: string) => {
    const { statements, value } = loadLinear(index);
    return `{ ${statements}\ntotals += ${value}; }`;
  };
  // Threads walk with a stride, so that neighbours read neighbours.
  to.emit({
    source: {
      name: "sumAll",
      bindings: [...parts.bindings, { name: "partials", type: "array<f32>", access: "read_write" }],
      params: ["count", "threads", ...parts.params],
      usesRun: parts.usesRun,
      body: `${parts.functions}
${frame.functions}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let lane = l.x;
  let thread = ${LINEAR_GROUP} * ${threads}u + lane;
  var totals = ${type}();
  var n = thread;
  for (; n + 3u * P.threads < P.count; n += 4u * P.threads) {
    ${
        ["n", "(n + P.threads)", "(n + 2u * P.threads)", "(n + 3u * P.threads)"].map(add).join(
          "\n    ",
        )
      }
  }
  for (; n < P.count; n += P.threads) ${add("n")}
  var total = ${width === 4 ? "dot(totals, vec4f(1.0))" : "totals"};
  ${frame.reduce("total", "sum")}
  if (lane == 0u) { partials[${LINEAR_GROUP}] = total; }
}`,
    },
    params: [count, groups * threads, ...parts.values],
    grid: linearGrid(groups),
  }, { ...operands, partials: partial });
  to.emit({
    source: {
      name: "sumAllEnd",
      bindings: [{ name: "partials", type: "array<f32>", access: "read" }, ...epilogue.bindings],
      params: ["count", ...epilogue.params],
      usesRun: epilogue.usesRun,
      // One thread adds in order: at most a few thousand numbers, and always in the same order.
      body: `${epilogue.functions}
@compute @workgroup_size(1) fn main() {
  var total = 0.0;
  for (var i = 0u; i < P.count; i++) { total += partials[i]; }
  ${epilogue.store("total", "0u", "0u", 1)}
}`,
    },
    params: [groups, ...epilogue.values],
    grid: [1, 1, 1],
  }, { partials: partial, ...outputs });
}

/** out[c] = Σ over rows of x[r, c], for a scratch matrix with a row stride. */
export function addColumnSums(
  to: GpuLowering,
  x: Operand,
  out: Operand,
  rows: number,
  cols: number,
  stride: number,
): void {
  to.emit({
    source: {
      name: "columnSums",
      bindings: [
        { name: "x", type: "array<f32>", access: "read" },
        { name: "out", type: "array<f32>", access: "read_write" },
      ],
      params: ["rows", "cols", "stride"],
      body: `@compute @workgroup_size(${ROW_THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let c = w.x * ${ROW_THREADS}u + l.x;
  if (c >= P.cols) { return; }
  var total = 0.0;
  for (var r = 0u; r < P.rows; r++) { total += x[r * P.stride + c]; }
  out[c] = total;
}`,
    },
    params: [rows, cols, stride],
    grid: [ceilDiv(cols, ROW_THREADS), 1, 1],
  }, { x, out });
}

/** Joins function texts, each once. */
function once(...texts: string[]): string {
  return [...new Set(texts)].join("\n");
}
