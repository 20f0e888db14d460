/**
 * Kernels that move rows by index.
 *
 * @module
 */

import {
  type Binding,
  type DeviceClass,
  type Launch,
  LINEAR_GROUP,
  linearGrid,
} from "../kernel.ts";
import { SOFTWARE_LANES } from "./matrix.ts";

/** Sizes of a scatter-add. */
export interface ScatterSpec {
  /** Rows of the table. */
  tableRows: number;
  /** Rows to add. */
  count: number;
  /** Columns. */
  cols: number;
  /** What the sums start from. */
  base: "zero" | "in place" | "separate";
  /** Tile family. */
  deviceClass: DeviceClass;
}

/**
 * out[v] = base[v] + Σ g[i] over ids[i] = v, in the order of i: no atomics, the same bits every time.
 *
 * Every table row has its own thread or threads, which scan all ids (a scan of 8,192 ids is a few
 * microseconds of cached reads) and add the rows that match. On a software driver a SIMD lane owns a row
 * and walks its columns; on a GPU a workgroup owns a row and its threads share the columns.
 *
 * Binds g, ids, out and, if base is separate, base.
 */
export function scatterAddRowsKernel(spec: ScatterSpec): Launch {
  const { tableRows, count, cols, base, deviceClass } = spec;
  const width = cols % 4 === 0 ? 4 : 1;
  const array = width === 4 ? "array<vec4f>" : "array<f32>";
  const type = width === 4 ? "vec4f" : "f32";
  const bindings: Binding[] = [
    { name: "g", type: array, access: "read" },
    { name: "ids", type: "array<u32>", access: "read" },
    { name: "out", type: array, access: "read_write" },
  ];
  if (base === "separate") bindings.push({ name: "base", type: array, access: "read" });
  const initial = (at: string) =>
    base === "zero" ? `${type}()` : base === "separate" ? `base[${at}]` : `out[${at}]`;
  const params = [tableRows, count, cols / width];
  const source = { bindings, params: ["rows", "count", "groups"] };
  if (deviceClass === "software") {
    const start = base === "in place" ? "" : `
  for (var c = 0u; c < P.groups; c++) { out[at + c] = ${initial("at + c")}; }`;
    return {
      source: {
        name: "scatterAddRows",
        ...source,
        body: `fn add_row(at: u32, from_row: u32) {
  for (var c = 0u; c < P.groups; c++) { out[at + c] += g[from_row * P.groups + c]; }
}
@compute @workgroup_size(${SOFTWARE_LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let row = ${LINEAR_GROUP} * ${SOFTWARE_LANES}u + l.x;
  if (row >= P.rows) { return; }
  let at = row * P.groups;${start}
  var i = 0u;
  for (; i + 8u <= P.count; i += 8u) {
    ${[0, 1, 2, 3, 4, 5, 6, 7].map((k) => `let id${k} = ids[i + ${k}u];`).join(" ")}
    if (${[0, 1, 2, 3, 4, 5, 6, 7].map((k) => `id${k} == row`).join(" || ")}) {
      ${
          [0, 1, 2, 3, 4, 5, 6, 7].map((k) => `if (id${k} == row) { add_row(at, i + ${k}u); }`)
            .join("\n      ")
        }
    }
  }
  for (; i < P.count; i++) { if (ids[i] == row) { add_row(at, i); } }
}`,
      },
      params,
      grid: linearGrid(Math.ceil(tableRows / SOFTWARE_LANES)),
    };
  }
  const threads = 64;
  return {
    source: {
      name: "scatterAddRows",
      ...source,
      body: `@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let row = ${LINEAR_GROUP};
  if (row >= P.rows) { return; }
  let at = row * P.groups;
  for (var c = l.x; c < P.groups; c += ${threads}u) {
    var total = ${initial("at + c")};
    var i = 0u;
    for (; i + 8u <= P.count; i += 8u) {
      ${[0, 1, 2, 3, 4, 5, 6, 7].map((k) => `let id${k} = ids[i + ${k}u];`).join(" ")}
      ${
        [0, 1, 2, 3, 4, 5, 6, 7].map((k) =>
          `if (id${k} == row) { total += g[(i + ${k}u) * P.groups + c]; }`
        ).join("\n      ")
      }
    }
    for (; i < P.count; i++) { if (ids[i] == row) { total += g[i * P.groups + c]; } }
    out[at + c] = total;
  }
}`,
    },
    params,
    grid: linearGrid(tableRows),
  };
}

/** Position rows of token sequences, a thread per sequence. Binds tokens, positions. */
export function positionIdsKernel(
  { batch, length, pad }: { batch: number; length: number; pad: number },
): Launch {
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
