/**
 * Cross entropy over tiles of logits: the epilogues of the projection, and the kernel that folds a tile
 * into the running softmax of every row.
 *
 * @module
 */

import type { Binding, DeviceClass, Epilogue, Launch } from "../kernel.ts";
import { HASH_WGSL } from "../random.ts";
import { rowFrame } from "./matrix.ts";

/** A tile of the vocabulary. */
interface TileSpec {
  /** First vocabulary row. */
  first: number;
  /** Vocabulary rows in the tile. */
  columns: number;
  /** Row stride of the tile's memory, in elements. */
  stride: number;
}

/** Logit of columns past the vocabulary: never chosen, and its exponential is 0. */
const NEVER = "-1e30";

const LOGITS: Binding = { name: "logits", type: "array<vec4f>", access: "read_write" };
const BIAS: Binding = { name: "bias", type: "array<f32>", access: "read" };

const addBias = (bias: boolean) =>
  bias ? `y += vec4f(bias[v], bias[v + 1u], bias[v + 2u], bias[v + 3u]);` : "";

function onlyVec4(width: 1 | 4): void {
  if (width !== 4) {
    throw new Error("crossEntropy: the hidden size must be a multiple of 4");
  }
}

/** Stores logits (plus bias) into the tile. */
export function logitTileEpilogue(tile: TileSpec, bias: boolean): Epilogue {
  return {
    bindings: bias ? [LOGITS, BIAS] : [LOGITS],
    params: ["eFirst", "eColumns", "eStride"],
    values: [tile.first, tile.columns, tile.stride],
    functions: `fn store_logits(x: vec4f, row: u32, col: u32) {
  let v = P.eFirst + col;
  var y = x;
  ${addBias(bias)}
  y = select(vec4f(${NEVER}), y, vec4u(col) + vec4u(0u, 1u, 2u, 3u) < vec4u(P.eColumns));
  logits[(row * P.eStride + col) >> 2u] = y;
}`,
    usesRun: false,
    store(value, row, col, width) {
      onlyVec4(width);
      return `store_logits(${value}, ${row}, ${col});`;
    },
  };
}

/** Stores the gradient of the logits: (softmax − one-hot) · g. Binds logits, [bias,] targets, lse, g. */
export function logitGradientEpilogue(tile: TileSpec, bias: boolean): Epilogue {
  return {
    bindings: [
      LOGITS,
      ...(bias ? [BIAS] : []),
      { name: "targets", type: "array<u32>", access: "read" },
      { name: "lse", type: "array<f32>", access: "read" },
      { name: "g", type: "array<f32>", access: "read" },
    ],
    params: ["eFirst", "eColumns", "eStride"],
    values: [tile.first, tile.columns, tile.stride],
    functions: `fn store_gradient(x: vec4f, row: u32, col: u32) {
  let v = P.eFirst + col;
  var y = x;
  ${addBias(bias)}
  let lanes = vec4u(0u, 1u, 2u, 3u);
  let hot = select(vec4f(0.0), vec4f(1.0), vec4u(v) + lanes == vec4u(targets[row]));
  let d = (exp(y - lse[row]) - hot) * g[row];
  // Columns past the vocabulary and rows without weight count for nothing, whatever they hold.
  let live = (vec4u(col) + lanes < vec4u(P.eColumns)) & vec4<bool>(g[row] != 0.0);
  logits[(row * P.eStride + col) >> 2u] = select(vec4f(0.0), d, live);
}`,
    usesRun: false,
    store(value, row, col, width) {
      onlyVec4(width);
      return `store_gradient(${value}, ${row}, ${col});`;
    },
  };
}

/**
 * Folds a tile of logits into every row's running softmax. Binds logits, state ([rows] vec4f: maximum,
 * sum of exponentials, best draw's score, target's logit), targets, nll, lse, best, [drawn].
 */
export function ceUpdateKernel(
  { rows, tile, sample, deviceClass }: {
    rows: number;
    tile: TileSpec;
    sample?: { stream: number; rowsPerSequence: number };
    deviceClass: DeviceClass;
  },
): Launch {
  const frame = rowFrame(deviceClass);
  const draw = sample
    ? {
      key: `let row_key = mix32(mix32(R[0].x ^ P.stream) ^ (R[0].y * P.perSequence + row));
  var score = ${NEVER}; var drawn_at = 0u;`,
      pick: (c: string) =>
        [0, 1, 2, 3].map((k) =>
          `{ let v = P.first + ${c} * 4u + ${k}u;
      let u = (f32(mix32(row_key ^ v) >> 8u) + 0.5) * 5.9604645e-8;
      let s = x[${k}] - log(-log(u));
      if (s > score) { score = s; drawn_at = v; } }`
        ).join("\n"),
      end: `${frame.reduceBest("score", "drawn_at")}
  if (${frame.first}) {
    if (P.first == 0u || score > kept.z) { kept.z = score; drawn[row] = drawn_at; }
  }`,
    }
    : { key: "", pick: () => "", end: "" };
  return {
    source: {
      name: "softmaxTile",
      bindings: [
        { ...LOGITS, access: "read" },
        { name: "state", type: "array<vec4f>", access: "read_write" },
        { name: "targets", type: "array<u32>", access: "read" },
        { name: "nll", type: "array<f32>", access: "read_write" },
        { name: "lse", type: "array<f32>", access: "read_write" },
        { name: "best", type: "array<u32>", access: "read_write" },
        ...(sample ? [{ name: "drawn", type: "array<u32>", access: "read_write" } as Binding] : []),
      ],
      params: [
        "rows",
        "groups",
        "strideGroups",
        "first",
        "columns",
        ...(sample ? ["stream", "perSequence"] : []),
      ],
      usesRun: sample !== undefined,
      body: `${sample ? HASH_WGSL : ""}
${frame.functions}
${frame.head}
  let at = row * P.strideGroups;
  var top = ${NEVER};
  var top_at = 0u;
  ${draw.key}
  ${
        frame.loop("P.groups", (c) =>
          `let x = logits[at + ${c}];
    ${
            [0, 1, 2, 3].map((k) =>
              `if (x[${k}] > top) { top = x[${k}]; top_at = P.first + ${c} * 4u + ${k}u; }`
            ).join("\n    ")
          }
    ${draw.pick(c)}`)
      }
  ${frame.reduceBest("top", "top_at")}
  var kept = state[row];
  if (P.first == 0u) { kept = vec4f(${NEVER}, 0.0, ${NEVER}, 0.0); }
  let peak = max(top, kept.x);
  var sums = vec4f();
  ${frame.loop("P.groups", (c) => `sums += exp(logits[at + ${c}] - peak);`)}
  var total = dot(sums, vec4f(1.0));
  ${frame.reduce("total", "sum")}
  ${draw.end}
  if (${frame.first}) {
    if (P.first == 0u || top > kept.x) { best[row] = top_at; }
    kept.y = kept.y * exp(kept.x - peak) + total;
    kept.x = peak;
    let t = targets[row];
    if (t >= P.first && t - P.first < P.columns) {
      let i = t - P.first;
      kept.w = logits[at + (i >> 2u)][i & 3u];
    }
    state[row] = kept;
    let whole = peak + log(kept.y);
    lse[row] = whole;
    nll[row] = whole - kept.w;
  }
}`,
    },
    params: [
      rows,
      Math.ceil(tile.columns / 4),
      tile.stride / 4,
      tile.first,
      tile.columns,
      ...(sample ? [sample.stream, sample.rowsPerSequence] : []),
    ],
    grid: frame.grid(rows),
  };
}
