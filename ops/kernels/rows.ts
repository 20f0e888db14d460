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
    { name: "ids", type: "array<vec4u>", access: "read" },
    { name: "out", type: array, access: "read_write" },
  ];
  if (base === "separate") bindings.push({ name: "base", type: array, access: "read" });
  const initial = (at: string) =>
    base === "zero" ? `${type}()` : base === "separate" ? `base[${at}]` : `out[${at}]`;
  const params = [tableRows, count, cols / width];
  const source = { bindings, params: ["rows", "count", "groups"] };
  if (deviceClass === "software") {
    return {
      source: {
        name: "scatterAddRows",
        ...source,
        body: softwareScatter(cols / width, initial, base),
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
    for (; i * 4u + 4u <= P.count; i++) {
      let id = ids[i];
      if (any(id == vec4u(row))) {
        ${[0, 1, 2, 3].map((k) => `if (id[${k}] == row) { ${gpuAdd(k)} }`).join("\n        ")}
      }
    }
    // The last ids share their vector with whatever pads the buffer.
    let id = ids[i];
    ${
        [0, 1, 2].map((k) => `if (i * 4u + ${k}u < P.count && id[${k}] == row) { ${gpuAdd(k)} }`)
          .join("\n    ")
      }
    out[at + c] = total;
  }
}`,
    },
    params,
    grid: linearGrid(tableRows),
  };
}

const gpuAdd = (k: number) => `total += g[(i * 4u + ${k}u) * P.groups + c];`;

/**
 * A software driver runs both sides of every `if`, and every loop at least once: so 32 comparisons make a
 * bit mask without branches, and one short loop walks its bits.
 */
function softwareScatter(
  groups: number,
  initial: (at: string) => string,
  base: ScatterSpec["base"],
): string {
  const unroll = groups % 4 === 0 ? 4 : 1;
  const each = (f: (k: number) => string) =>
    Array.from({ length: unroll }, (_, k) => f(k)).join(" ");
  const start = base === "in place" ? "" : `
  for (var c = 0u; c < P.groups; c += ${unroll}u) { ${
    each((k) => `out[at + c + ${k}u] = ${initial(`at + c + ${k}u`)};`)
  } }`;
  const matches = Array.from({ length: 8 }, (_, v) =>
    `{ let id = ids[i * 8u + ${v}u];
      let hit = select(vec4u(), vec4u(${
      [0, 1, 2, 3].map((k) => `${2 ** (v * 4 + k)}u`).join(", ")
    }), id == vec4u(row));
      hits |= hit.x | hit.y | hit.z | hit.w; }`).join("\n    ");
  return `@compute @workgroup_size(${SOFTWARE_LANES})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  let row = ${LINEAR_GROUP} * ${SOFTWARE_LANES}u + l.x;
  if (row >= P.rows) { return; }
  let at = row * P.groups;${start}
  for (var i = 0u; i * 32u < P.count; i++) {
    var hits = 0u;
    ${matches}
    // The last ids share their vectors with whatever pads the buffer.
    let left = P.count - i * 32u;
    hits &= select(0xffffffffu, (1u << (left & 31u)) - 1u, left < 32u);
    while (hits != 0u) {
      let source_at = (i * 32u + firstTrailingBit(hits)) * P.groups;
      hits &= hits - 1u;
      for (var c = 0u; c < P.groups; c += ${unroll}u) {
        ${each((k) => `out[at + c + ${k}u] += g[source_at + c + ${k}u];`)}
      }
    }
  }
}`;
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
