/**
 * Softmax cross entropy fused with the projection that makes the logits. The vocabulary is walked in
 * tiles, so [rows, vocabulary] logits are never held whole; the backward pass computes each tile again.
 *
 * The same pass over the logits finds the most probable token and, if asked, draws one: Gumbel-max
 * sampling adds noise −log(−log u) to every logit and takes the largest, which is a draw from the softmax.
 *
 * @module
 */

import { addColumnSums } from "../kernels/reduce.ts";
import {
  ceUpdateKernel,
  logitGradientEpilogue,
  logitTileEpilogue,
} from "../kernels/cross_entropy.ts";
import { matmul as matmulKernel } from "../kernels/matmul.ts";
import { accumulateEpilogue } from "../kernels/matrix.ts";
import type { Lowering, Operand } from "../lower.ts";
import { mix32 } from "../random.ts";
import {
  apply,
  asMatrix,
  expectShape,
  type Node,
  type Primitive,
  sizeOf,
  type Tensor,
  type TensorType,
  type Values,
} from "../tensor.ts";

/** How to draw tokens. */
export interface SampleOptions {
  /** Identifies this use of randomness. */
  stream: number;
  /** Rows that belong to one sequence, so that a sequence's draws do not depend on its neighbours. */
  rowsPerSequence: number;
}

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Added to the logits, [V]. */
  bias?: Tensor;
  /** Also draw a token per row. */
  sample?: SampleOptions;
}

interface Attrs {
  bias: boolean;
  sample?: SampleOptions;
}

/** Largest scratch memory for a tile of logits, bytes. */
const TILE_BYTES = 32 << 20;

/** Columns of a tile: all if they fit, else a multiple of 64, so that windows of the table stay aligned. */
export function tileColumns(rows: number, vocab: number, tileBytes = TILE_BYTES): number {
  const padded = Math.ceil(vocab / 64) * 64;
  return Math.max(64, Math.min(padded, Math.floor(tileBytes / 4 / Math.max(rows, 1) / 64) * 64));
}

interface Tile {
  first: number;
  columns: number;
  /** Row stride of the scratch, in elements: a multiple of 64. */
  stride: number;
}

function* tilesOf(rows: number, vocab: number): Generator<Tile> {
  const stride = tileColumns(rows, vocab);
  for (let first = 0; first < vocab; first += stride) {
    yield { first, columns: Math.min(stride, vocab - first), stride };
  }
}

const CROSS_ENTROPY: Primitive<Attrs> = {
  name: "crossEntropy",
  infer(inputs, attrs) {
    const [h, table, targets, bias] = inputs;
    const n = h.shape.at(-1)!;
    const ok = table.shape.length === 2 && table.shape[1] === n && targets.dtype === "u32" &&
      sizeOf(targets.shape) * n === sizeOf(h.shape) && attrs.bias === (bias !== undefined) &&
      (!bias || (bias.shape.length === 1 && bias.shape[0] === table.shape[0]));
    expectShape(
      ok,
      "crossEntropy",
      "h [..., n], table [V, n], u32 targets [...], bias [V]",
      inputs,
    );
    const f32: TensorType = { shape: targets.shape, dtype: "f32" };
    const u32: TensorType = { shape: targets.shape, dtype: "u32" };
    return attrs.sample ? [f32, f32, u32, u32] : [f32, f32, u32];
  },
  reference([h, table, targets, bias], node, run) {
    const { rows, vocab } = sizes(node);
    const nll = new Float64Array(rows), lse = new Float64Array(rows);
    const best = new Uint32Array(rows), drawn = new Uint32Array(rows);
    const { sample } = node.attrs;
    for (let r = 0; r < rows; r++) {
      const logits = referenceLogits(h, table, bias, r, node);
      const max = Math.max(...logits);
      lse[r] = max + Math.log(logits.reduce((s, x) => s + Math.exp(x - max), 0));
      nll[r] = lse[r] - logits[targets[r]];
      best[r] = logits.indexOf(max);
      if (!sample) continue;
      const { stream, rowsPerSequence } = sample;
      const global = (Math.imul(run.sequence, rowsPerSequence) + r) >>> 0;
      const rowKey = mix32(mix32(run.key ^ stream) ^ global);
      let top = -Infinity;
      for (let v = 0; v < vocab; v++) {
        const u = ((mix32(rowKey ^ v) >>> 8) + 0.5) / 16777216;
        const score = logits[v] - Math.log(-Math.log(u));
        if (score > top) [top, drawn[r]] = [score, v];
      }
    }
    return sample ? [nll, lse, best, drawn] : [nll, lse, best];
  },
  accumulates: [1],
  vjp({ inputs: [h, table, targets, bias], outputs: [, lse], attrs }, [g], into) {
    if (!g) return [];
    const operands = [h, table, targets, lse, g];
    if (bias) operands.push(bias);
    if (into[1]) operands.push(into[1]);
    const grads = apply(CROSS_ENTROPY_GRAD, operands, { bias: attrs.bias, base: !!into[1] });
    return [grads[0], grads[1], undefined, grads[2]];
  },
  lower(node, to) {
    const [h, table, targets, bias] = node.inputs;
    const { rows, vocab, width } = sizes(node);
    const [nll, lse, best, drawn] = node.outputs;
    const { sample } = node.attrs;
    // Running state of every row: maximum, sum of exponentials, best draw so far, target's logit.
    const state = to.scratch(rows * 16, "softmax state");
    const logits = to.scratch(rows * tileColumns(rows, vocab) * 4, "logit tile");
    for (const tile of tilesOf(rows, vocab)) {
      projectTile(
        to,
        { h, table, bias, rows, width },
        tile,
        logits,
        logitTileEpilogue(tile, bias !== undefined),
      );
      const launch = ceUpdateKernel({ rows, tile, sample, deviceClass: to.deviceClass });
      to.emit(launch, {
        logits,
        state,
        targets: to.at(targets),
        nll: to.at(nll),
        lse: to.at(lse),
        best: to.at(best),
        ...(sample ? { drawn: to.at(drawn) } : {}),
      });
    }
  },
};

/** Gradients to hidden rows, table (added to `base` if given) and bias, from the gradient of the nll. */
const CROSS_ENTROPY_GRAD: Primitive<{ bias: boolean; base: boolean }> = {
  name: "crossEntropyGrad",
  infer([h, table], { bias }) {
    const types: TensorType[] = [{ shape: h.shape, dtype: "f32" }, {
      shape: table.shape,
      dtype: "f32",
    }];
    return bias ? [...types, { shape: [table.shape[0]], dtype: "f32" }] : types;
  },
  reference(values, node) {
    const [h, table, targets, lse, g] = values;
    const { bias, base } = optional(values, node.attrs);
    const { rows, vocab, width } = sizes(node);
    const dh = new Float64Array(rows * width);
    const dTable = base ? Float64Array.from(base) : new Float64Array(vocab * width);
    const dBias = new Float64Array(vocab);
    for (let r = 0; r < rows; r++) {
      const logits = referenceLogits(h, table, bias, r, node);
      for (let v = 0; v < vocab; v++) {
        const d = (Math.exp(logits[v] - lse[r]) - (v === targets[r] ? 1 : 0)) * g[r];
        dBias[v] += d;
        for (let c = 0; c < width; c++) {
          dh[r * width + c] += d * table[v * width + c];
          dTable[v * width + c] += d * h[r * width + c];
        }
      }
    }
    return bias ? [dh, dTable, dBias] : [dh, dTable];
  },
  inPlace: ({ inputs, attrs }) => attrs.base ? [[1, inputs.length - 1]] : [],
  lower(node, to) {
    const [h, table, targets, lse, g] = node.inputs;
    const { bias, base } = optional(node.inputs, node.attrs);
    const [dh, dTable, dBias] = node.outputs;
    const { rows, vocab, width } = sizes(node);
    const gradients = to.scratch(rows * tileColumns(rows, vocab) * 4, "logit gradient tile");
    const { deviceClass, subgroupSize } = to;
    const emitMatmul = (
      spec: Omit<Parameters<typeof matmulKernel>[0], "deviceClass" | "subgroupSize">,
      operands: Record<string, Operand>,
    ) => {
      const { launches, scratchBytes } = matmulKernel({ ...spec, deviceClass, subgroupSize });
      const partials = scratchBytes > 0 ? to.scratch(scratchBytes, "partial sums") : undefined;
      for (const launch of launches) to.emit(launch, { ...operands, partials });
    };
    for (const tile of tilesOf(rows, vocab)) {
      projectTile(
        to,
        { h, table, bias, rows, width },
        tile,
        gradients,
        logitGradientEpilogue(tile, bias !== undefined),
        {
          targets: to.at(targets),
          lse: to.at(lse),
          g: to.at(g),
        },
      );
      const window = tableWindow(to, table, tile, width);
      // dh += gradients · table: columns of the tile past the vocabulary hold zeros.
      emitMatmul({
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
      emitMatmul({
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
        const bytes = tile.columns * 4;
        addColumnSums(
          to,
          gradients,
          to.at(dBias, tile.first * 4, bytes),
          rows,
          tile.columns,
          tile.stride,
        );
      }
    }
  },
};

/** logits tile = h · table[tile]ᵀ, passed through an epilogue. */
function projectTile(
  to: Lowering,
  { h, table, bias, rows, width }: {
    h: Tensor;
    table: Tensor;
    bias?: Tensor;
    rows: number;
    width: number;
  },
  tile: Tile,
  logits: Operand,
  epilogue: ReturnType<typeof logitTileEpilogue>,
  operands: Record<string, Operand> = {},
): void {
  const { launches, scratchBytes } = matmulKernel({
    m: rows,
    n: Math.ceil(tile.columns / 4) * 4,
    k: width,
    transB: true,
    bRows: tile.columns,
    epilogue,
    deviceClass: to.deviceClass,
    subgroupSize: to.subgroupSize,
  });
  const partials = scratchBytes > 0 ? to.scratch(scratchBytes, "partial sums") : undefined;
  const biasWindow = bias && { bias: to.at(bias) };
  for (const launch of launches) {
    to.emit(launch, {
      a: to.at(h),
      b: tableWindow(to, table, tile, width),
      logits,
      ...biasWindow,
      ...operands,
      partials,
    });
  }
}

/** Rows `tile.first`… of a [V, width] tensor. */
function tableWindow(to: Lowering, table: Tensor, tile: Tile, width: number): Operand {
  return to.at(table, tile.first * width * 4, tile.columns * width * 4);
}

function sizes(node: Node): { rows: number; vocab: number; width: number } {
  const [h, table] = node.inputs;
  const { rows, cols } = asMatrix(h.shape);
  return { rows, vocab: table.shape[0], width: cols };
}

function optional<T>(inputs: readonly T[], { bias, base }: { bias: boolean; base: boolean }) {
  return { bias: bias ? inputs[5] : undefined, base: base ? inputs[inputs.length - 1] : undefined };
}

function referenceLogits(
  h: Values,
  table: Values,
  bias: Values | undefined,
  r: number,
  node: Node,
) {
  const { vocab, width } = sizes(node);
  const logits = new Array<number>(vocab);
  for (let v = 0; v < vocab; v++) {
    let x = bias ? bias[v] : 0;
    for (let c = 0; c < width; c++) x += h[r * width + c] * table[v * width + c];
    logits[v] = x;
  }
  return logits;
}

/** What {@link crossEntropy} returns, each [...] like the targets. */
export interface CrossEntropy {
  /** −log softmax(logits)[target]. */
  nll: Tensor;
  /** u32: the most probable token; the first of equals. */
  best: Tensor;
  /** u32: a draw from the softmax, if asked; no gradient flows through it. */
  sample?: Tensor;
}

/**
 * Cross entropy of logits h·tableᵀ + bias against targets.
 *
 * @param h [..., n] hidden rows
 * @param table [V, n], usually the token embedding
 * @param targets u32 [...]
 *
 * @example
 * ```ts
 * import { crossEntropy } from "./cross_entropy.ts";
 * import { input, state } from "../tensor.ts";
 * import assert from "node:assert/strict";
 *
 * const { nll } = crossEntropy(state("h", [6, 8]), state("E", [50, 8]), input("y", [6], "u32"));
 * assert.deepEqual(nll.shape, [6]);
 * ```
 */
export function crossEntropy(
  h: Tensor,
  table: Tensor,
  targets: Tensor,
  { bias, sample }: CrossEntropyOptions = {},
): CrossEntropy {
  const inputs = bias ? [h, table, targets, bias] : [h, table, targets];
  const [nll, , best, drawn] = apply(CROSS_ENTROPY, inputs, { bias: !!bias, sample });
  return { nll, best, sample: drawn };
}
