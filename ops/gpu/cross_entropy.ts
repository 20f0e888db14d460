/**
 * Cross entropy over tiles of logits, so that they are never held whole: the projection with epilogues, and
 * the kernel that folds a tile into the running softmax of every row.
 *
 * @module
 */

import type { Node, Tensor } from "../graph/tensor.ts";
import {
  type CrossEntropyAttrs,
  type CrossEntropyGradAttrs,
  crossEntropySizes,
  optionalInputs,
  type SampleOptions,
} from "../primitives/cross_entropy.ts";
import type { Operand } from "../program/lowering.ts";
import type { Binding, Dispatch, Epilogue } from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";
import { emitMatmul } from "./matmul.ts";
import { accumulateEpilogue, rowFrame } from "./matrix.ts";
import { addColumnSums } from "./reduce.ts";
import { HASH_WGSL, RUN_KEY_WGSL, RUN_SEQUENCE_WGSL } from "./wgsl.ts";

/** Largest scratch memory for a tile of logits, bytes. */
const TILE_BYTES = 32 << 20;

/** Columns of a tile: all if they fit, else a multiple of 64, so that windows of the table stay aligned. */
function tileColumns(rows: number, vocab: number, tileBytes = TILE_BYTES): number {
  const padded = Math.ceil(vocab / 64) * 64;
  return Math.max(64, Math.min(padded, Math.floor(tileBytes / 4 / Math.max(rows, 1) / 64) * 64));
}

/** A tile of the vocabulary. */
interface Tile {
  /** First vocabulary row. */
  first: number;
  /** Vocabulary rows in the tile. */
  columns: number;
  /** Row stride of the tile's memory, in elements: a multiple of 64. */
  stride: number;
}

function* tilesOf(rows: number, vocab: number): Generator<Tile> {
  const stride = tileColumns(rows, vocab);
  for (let first = 0; first < vocab; first += stride) {
    yield { first, columns: Math.min(stride, vocab - first), stride };
  }
}

/** Kernels of the primitive `crossEntropy`. */
export function lowerCrossEntropy(node: Node<CrossEntropyAttrs>, to: GpuLowering): void {
  const [h, table, targets, bias] = node.inputs;
  const { rows, vocab, width } = crossEntropySizes(node);
  const [nll, lse, best, drawn] = node.outputs;
  const { sample } = node.attrs;
  // Running state of every row: maximum, sum of exponentials, best draw so far, target's logit.
  const state = to.scratch(rows * 16, "softmax state");
  const logits = to.scratch(rows * tileColumns(rows, vocab) * 4, "logit tile");
  const projection = { h, table, bias, rows, width };
  for (const tile of tilesOf(rows, vocab)) {
    projectTile(to, projection, tile, logits, logitTileEpilogue(tile, bias !== undefined));
    to.emit(ceUpdateKernel({ rows, tile, sample }), {
      logits,
      state,
      targets: to.at(targets),
      nll: to.at(nll),
      lse: to.at(lse),
      best: to.at(best),
      ...(sample ? { drawn: to.at(drawn) } : {}),
    });
  }
}

/** Kernels of the primitive `crossEntropyGrad`. */
export function lowerCrossEntropyGrad(node: Node<CrossEntropyGradAttrs>, to: GpuLowering): void {
  const [h, table, targets, lse, g] = node.inputs;
  const { bias, base } = optionalInputs(node.inputs, node.attrs);
  const [dh, dTable, dBias] = node.outputs;
  const { rows, vocab, width } = crossEntropySizes(node);
  const gradients = to.scratch(rows * tileColumns(rows, vocab) * 4, "logit gradient tile");
  const projection = { h, table, bias, rows, width };
  const rowOperands = { targets: to.at(targets), lse: to.at(lse), g: to.at(g) };
  for (const tile of tilesOf(rows, vocab)) {
    const epilogue = logitGradientEpilogue(tile, bias !== undefined);
    projectTile(to, projection, tile, gradients, epilogue, rowOperands);
    const window = tableWindow(to, table, tile, width);
    // dh += gradients · table: columns of the tile past the vocabulary hold zeros.
    emitMatmul(to, {
      m: rows,
      n: width,
      k: Math.ceil(tile.columns / 4) * 4,
      lda: tile.stride,
      bRows: tile.columns,
      epilogue: accumulateEpilogue({
        columns: width,
        previous: tile.first > 0 ? "in place" : "none",
      }),
    }, { a: gradients, b: window, c: to.at(dh) });
    // dTable = base + gradientsᵀ · h
    const shared = base && to.shares(dTable, base);
    emitMatmul(to, {
      m: tile.columns,
      n: width,
      k: rows,
      transA: true,
      lda: tile.stride,
      epilogue: accumulateEpilogue({
        columns: width,
        previous: !base ? "none" : shared ? "in place" : "separate",
      }),
    }, {
      a: gradients,
      b: to.at(h),
      c: tableWindow(to, dTable, tile, width),
      ...(base && !shared ? { previous: tableWindow(to, base, tile, width) } : {}),
    });
    if (dBias) {
      const window = to.at(dBias, tile.first * 4, tile.columns * 4);
      addColumnSums(to, gradients, window, rows, tile.columns, tile.stride);
    }
  }
}

/** Operands of the projection that makes logits. */
interface Projection {
  h: Tensor;
  table: Tensor;
  bias?: Tensor;
  rows: number;
  width: number;
}

/** logits tile = h · table[tile]ᵀ, passed through an epilogue. */
function projectTile(
  to: GpuLowering,
  { h, table, bias, rows, width }: Projection,
  tile: Tile,
  logits: Operand,
  epilogue: Epilogue,
  operands: Record<string, Operand> = {},
): void {
  emitMatmul(to, {
    m: rows,
    n: Math.ceil(tile.columns / 4) * 4,
    k: width,
    transB: true,
    bRows: tile.columns,
    epilogue,
  }, {
    a: to.at(h),
    b: tableWindow(to, table, tile, width),
    logits,
    ...(bias && { bias: to.at(bias) }),
    ...operands,
  });
}

/** Rows `tile.first`… of a [V, width] tensor. */
function tableWindow(to: GpuLowering, table: Tensor, tile: Tile, width: number): Operand {
  return to.at(table, tile.first * width * 4, tile.columns * width * 4);
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
function logitTileEpilogue(tile: Tile, bias: boolean): Epilogue {
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
function logitGradientEpilogue(tile: Tile, bias: boolean): Epilogue {
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
function ceUpdateKernel(
  { rows, tile, sample }: {
    rows: number;
    tile: Tile;
    sample?: SampleOptions;
  },
): Dispatch {
  const frame = rowFrame();
  const draw = sample
    ? {
      key:
        `let row_key = mix32(mix32(${RUN_KEY_WGSL} ^ P.stream) ^ (${RUN_SEQUENCE_WGSL} * P.perSequence + row));
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
