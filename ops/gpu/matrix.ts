/**
 * Small pieces that matrix kernels share: an epilogue, and how threads share a row.
 *
 * @module
 */

import { type Epilogue, LINEAR_GROUP, linearGrid } from "./kernel.ts";

/**
 * An epilogue that stores into `c`, [rows, columns], adding what was there (`"in place"`) or another
 * buffer named `previous` (`"separate"`).
 */
export function accumulateEpilogue(
  { columns, previous }: { columns: number; previous: "none" | "in place" | "separate" },
): Epilogue {
  const bindings: Epilogue["bindings"] = [{
    name: "c",
    type: "array<vec4f>",
    access: "read_write",
  }];
  if (previous === "separate") {
    bindings.push({ name: "previous", type: "array<vec4f>", access: "read" });
  }
  return {
    bindings,
    params: ["cColumns"],
    values: [columns],
    functions: "",
    usesRun: false,
    store(value, row, col, width) {
      if (width === 1) {
        const at = `let e = ${row} * P.cColumns + ${col};`;
        if (previous === "none") return `{ ${at} c[e >> 2u][e & 3u] = ${value}; }`;
        const from = previous === "in place" ? "c" : "previous";
        return `{ ${at} c[e >> 2u][e & 3u] = ${from}[e >> 2u][e & 3u] + ${value}; }`;
      }
      const at = `let e = (${row} * P.cColumns + ${col}) >> 2u;`;
      if (previous === "none") return `{ ${at} c[e] = ${value}; }`;
      return `{ ${at} c[e] = ${previous === "in place" ? "c" : "previous"}[e] + ${value}; }`;
    },
  };
}

/** Threads of a workgroup that work on one row together. */
export const ROW_THREADS = 64;

/** The frame of a kernel that handles whole rows: a workgroup shares a row, and reduces in its memory. */
export interface RowFrame {
  /** Opening of `main`: defines `row` and `lane`, returns past `P.rows`. */
  head: string;
  /** WGSL helper functions for {@link reduce}. */
  functions: string;
  /** Grid for a number of rows. */
  grid(rows: number): [number, number, number];
  /** Statements: `body(c)` for every column group c in 0…count−1 that this thread owns. */
  loop(count: string, body: (c: string) => string): string;
  /** Statement: replaces the variable by its sum or maximum over the row's threads. */
  reduce(variable: string, how: "sum" | "max"): string;
  /** Statement: replaces (score, index) by the pair of largest score, smallest index among equals. */
  reduceBest(score: string, index: string): string;
  /** WGSL condition that holds in one thread of the row. */
  first: string;
}

/** Makes the {@link RowFrame}. */
export function rowFrame(): RowFrame {
  return {
    head: `@compute @workgroup_size(${ROW_THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let row = ${LINEAR_GROUP};
  let lane = l.x;
  if (row >= P.rows) { return; }`,
    functions: `var<workgroup> shared_value: array<f32, ${ROW_THREADS}>;
var<workgroup> shared_index: array<u32, ${ROW_THREADS}>;
fn reduce_sum(x: f32, lane: u32) -> f32 {
  shared_value[lane] = x;
  workgroupBarrier();
  for (var s = ${ROW_THREADS / 2}u; s > 0u; s >>= 1u) {
    if (lane < s) { shared_value[lane] += shared_value[lane + s]; }
    workgroupBarrier();
  }
  let total = shared_value[0];
  workgroupBarrier();
  return total;
}
fn reduce_max(x: f32, lane: u32) -> f32 {
  shared_value[lane] = x;
  workgroupBarrier();
  for (var s = ${ROW_THREADS / 2}u; s > 0u; s >>= 1u) {
    if (lane < s) { shared_value[lane] = max(shared_value[lane], shared_value[lane + s]); }
    workgroupBarrier();
  }
  let top = shared_value[0];
  workgroupBarrier();
  return top;
}
fn reduce_best(x: f32, i: u32, lane: u32) -> u32 {
  shared_value[lane] = x;
  shared_index[lane] = i;
  workgroupBarrier();
  for (var s = ${ROW_THREADS / 2}u; s > 0u; s >>= 1u) {
    if (lane < s) {
      let a = shared_value[lane]; let b = shared_value[lane + s];
      if (b > a || (b == a && shared_index[lane + s] < shared_index[lane])) {
        shared_value[lane] = b;
        shared_index[lane] = shared_index[lane + s];
      }
    }
    workgroupBarrier();
  }
  let best = shared_index[0];
  workgroupBarrier();
  return best;
}`,
    grid: (rows) => linearGrid(rows),
    loop: (count, body) =>
      `for (var c = lane; c < ${count}; c += ${ROW_THREADS}u) { ${body("c")} }`,
    reduce: (variable, how) => `${variable} = reduce_${how}(${variable}, lane);`,
    reduceBest: (score, index) =>
      `{ ${index} = reduce_best(${score}, ${index}, lane); ${score} = reduce_max(${score}, lane); }`,
    first: "lane == 0u",
  };
}
