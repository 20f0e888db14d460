/**
 * Cross entropy over tiles of logits: a product leaves a tile, one kernel folds it into the running softmax of
 * every row; the backward pass makes the tile again, as gradients, for two more products.
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
import { RUN_KEY, RUN_SEQUENCE } from "../program/device.ts";
import type { Operand } from "../program/lowering.ts";
import { type Code, type Func, i32, type Local, v } from "./assembler.ts";
import { type CpuLaunch, type Kernel, pieceOf, type Scope } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import { matmulLaunch } from "./matmul.ts";
import { exp, largest, log, mix32, total } from "./math.ts";
import { type Finish, type Lanes } from "./pointwise.ts";
import { addPieces } from "./reduce.ts";
import { eachColumn, read, summand, write } from "./rows.ts";

/** Largest scratch memory for a tile of logits, bytes: it should stay in a cache. */
const TILE_BYTES = 8 << 20;

interface Tile {
  first: number;
  columns: number;
  /** From one row of the tile's memory to the next, in numbers. */
  stride: number;
}

/** Tiles start at multiples of 64 columns, so that windows of the table stay aligned. */
function tilesOf(rows: number, vocab: number): Tile[] {
  const padded = Math.ceil(vocab / 64) * 64;
  const fit = Math.floor(TILE_BYTES / 4 / Math.max(rows, 1) / 64) * 64;
  const stride = Math.max(64, Math.min(padded, fit));
  return Array.from({ length: Math.ceil(vocab / stride) }, (_, i) => {
    const first = i * stride;
    return { first, columns: Math.min(stride, vocab - first), stride };
  });
}

/** Stores the rows of a product into a matrix: [rows, stride], from a first column on. */
function storeRows(
  to: Operand,
  stride: number,
  part: {
    key: string;
    operands?: Operand[];
    /** Params behind the stride. */
    params?: number[];
    /** What to store, given what the product made. */
    value?: (k: Kernel, scope: Scope, at: Place) => Code;
  },
): Finish {
  const { key, operands = [], params = [], value } = part;
  return {
    key: `store ${key}`,
    operands: [to, ...operands],
    params: [stride, ...params],
    emit(k, scope, { row, from, to: end, seed }) {
      const { f } = k;
      const out = f.pointer(f.at(scope.operand(0), i32.mul(row, scope.param(0))));
      const inner: Scope = { ...scope, operand: (i) => scope.operand(i + 1) };
      const bytes = f.local("i32", i32.shl(from, i32.const(2)));
      const last = f.local("i32", i32.shl(end, i32.const(2)));
      const step = (lanes: Lanes) => {
        const made = seed(bytes, lanes);
        const at = { row, bytes, lanes, made };
        write(f, out, bytes, lanes, value ? value(k, inner, at) : made);
      };
      f.while(i32.leU(i32.add(bytes, i32.const(16)), last), () => {
        step(4);
        f.increase(bytes, 16);
      });
      f.for(bytes, last, 4, () => step(1));
    },
  };
}

/** A column, or four, of a row of logits. */
interface Place {
  row: Local;
  bytes: Local;
  lanes: Lanes;
  /** h · table. */
  made: Code;
}

/** The projection of hidden rows on a tile of the table. */
interface Projection {
  h: Tensor;
  table: Tensor;
  rows: number;
  width: number;
}

function window(to: CpuLowering, table: Tensor, { first, columns }: Tile, width: number): Operand {
  return to.at(table, first * width * 4, columns * width * 4);
}

/** A row of the bias, if any, or of something else that has a number for each token of the vocabulary. */
function biasOf(to: CpuLowering, bias: Tensor | undefined, tile: Tile): Operand[] {
  return bias ? [to.at(bias, tile.first * 4, tile.columns * 4)] : [];
}

function project(
  to: CpuLowering,
  { h, table, rows, width }: Projection,
  tile: Tile,
  finish: Finish,
): void {
  const { threads } = to;
  const spec = { name: "logits", m: rows, n: tile.columns, k: width, transB: true, threads };
  to.emit(matmulLaunch(spec, to.at(h), window(to, table, tile, width), finish));
}

/** Emits {@link CROSS_ENTROPY}. */
export function lowerCrossEntropy(node: Node<CrossEntropyAttrs>, to: CpuLowering): void {
  const [h, table, targets, bias] = node.inputs;
  const { rows, vocab, width } = crossEntropySizes(node);
  const { sample } = node.attrs;
  const tiles = tilesOf(rows, vocab);
  // Of every row: maximum, sum of exponentials, best draw so far, target's logit.
  const state = to.scratch(rows * 16, "softmax state");
  const logits = to.scratch(rows * tiles[0].stride * 4, "logit tile");
  for (const tile of tiles) {
    const store = storeRows(logits, tile.stride, {
      key: bias ? "bias" : "",
      operands: biasOf(to, bias, tile),
      value: bias &&
        ((k, scope, { bytes, lanes, made }) =>
          v.add(made, read(k.f, scope.operand(0), bytes, lanes))),
    });
    project(to, { h, table, rows, width }, tile, store);
    const operands = [logits, state, targets, ...node.outputs]
      .map((x) => "node" in x ? to.at(x) : x);
    to.emit(softmaxTile({ rows, tile, sample }, operands));
  }
}

/** A logit that is never chosen, and whose exponential is 0. */
const NEVER = -1e30;

/** The largest value of a row and its first place, found four columns at a time. */
class Best {
  readonly #f: Func;
  readonly top: Local;
  readonly at: Local;

  constructor(f: Func) {
    this.#f = f;
    this.top = f.local("v128", f.float(NEVER));
    this.at = f.local("v128", f.int(0));
  }

  /** Considers values at places. */
  see(value: Code, at: Code): void {
    const f = this.#f;
    const better = f.local("v128", v.gt(value, this.top));
    f.set(this.at, v.select(better, at, this.at));
    f.set(this.top, v.select(better, value, this.top));
  }

  /** Puts the lanes together. */
  end(): void {
    const f = this.#f;
    const top = f.local("v128", largest(f, this.top));
    const missed = v.or(v.gt(top, this.top), v.lt(top, this.top));
    const a = f.local("v128", v.or(this.at, missed));
    const b = f.local("v128", v.iMinU(a, v.shuffle(a, a, [2, 3, 0, 1])));
    f.set(this.at, v.iMinU(b, v.shuffle(b, b, [1, 0, 3, 2])));
    f.set(this.top, top);
  }
}

/** Folds a tile into the running softmax. Operands logits, state, targets, nll, lse, best, [drawn]. */
function softmaxTile(
  { rows, tile, sample }: { rows: number; tile: Tile; sample?: SampleOptions },
  operands: readonly Operand[],
): CpuLaunch {
  const { first, columns, stride } = tile;
  const piece = pieceOf(rows, columns);
  const start = first === 0, whole = columns % 4 === 0;
  return {
    name: "softmaxTile",
    operands,
    params: [
      piece,
      rows,
      columns,
      stride,
      first,
      sample?.stream ?? 0,
      sample?.rowsPerSequence ?? 0,
    ],
    items: Math.ceil(rows / piece),
    source: {
      key: `softmaxTile ${start} ${whole} ${sample !== undefined}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const [size, all, count, step, begin, stream, perSequence] = [0, 1, 2, 3, 4, 5, 6]
          .map((i) => k.param(i));
        k.items((item) =>
          k.range(item, size, all, (row) => {
            const logits = f.pointer(f.at(k.operand(0), i32.mul(row, step)));
            const place = (bytes: Code) =>
              v.iAdd(
                v.splat(i32.add(begin, i32.shrU(bytes, i32.const(2)))),
                f.constant("lanes", v.bits(0, 1, 2, 3)),
              );
            const best = new Best(f), draw = sample && new Best(f);
            const rowKey = draw && f.local("v128", keyOfRow(k, row, stream, perSequence));
            eachColumn(f, count, whole, (bytes, lanes) => {
              const x = f.local("v128", read(f, logits, bytes, lanes));
              // A single column stands in all lanes: so does its place.
              const at = f.local("v128", place(bytes));
              const its = lanes === 4 ? at : f.local("v128", v.shuffle(at, at, [0, 0, 0, 0]));
              best.see(x, its);
              if (draw) draw.see(f.local("v128", v.add(x, gumbel(f, v.xor(rowKey!, its)))), its);
            });
            best.end();
            draw?.end();
            const state = f.pointer(f.plus(k.operand(1), i32.shl(row, i32.const(4))));
            const before = (word: number) =>
              start
                ? f.float(word === 1 || word === 3 ? 0 : NEVER)
                : f.local("v128", v.loadSplat(state, 4 * word));
            const peakBefore = before(0), sumBefore = before(1);
            const drawBefore = before(2), targetBefore = before(3);
            const peak = f.local("v128", v.max(best.top, peakBefore));
            const sums = f.local("v128", f.float(0));
            eachColumn(f, count, whole, (bytes, lanes) => {
              const term = exp(f, v.sub(read(f, logits, bytes, lanes), peak));
              f.set(sums, v.add(sums, summand(f, term, lanes)));
            });
            const shrink = exp(f, v.sub(peakBefore, peak));
            const sum = f.local("v128", v.add(v.mul(sumBefore, shrink), total(f, sums)));
            const isBetter = (new_: Code, old: Code) => i32.anyTrue(v.gt(new_, old));
            const number = (i: number) => f.at(k.operand(i), row);
            const keepIf = (condition: Code, keep: () => void) =>
              start ? keep() : f.if(condition, keep);
            keepIf(isBetter(best.top, peakBefore), () => f.storeLane(number(5), best.at));
            f.storeLane(state, peak);
            f.storeLane(state, sum, 0, 4);
            if (draw) {
              keepIf(isBetter(draw.top, drawBefore), () => {
                f.storeLane(number(6), draw.at);
                f.storeLane(state, draw.top, 0, 8);
              });
            }
            const logit = f.local("v128", targetBefore);
            const target = f.local("i32", i32.sub(i32.load(number(2)), begin));
            f.if(i32.ltU(target, count), () => f.set(logit, v.loadSplat(f.at(logits, target))));
            f.storeLane(state, logit, 0, 12);
            const lse = f.local("v128", v.add(peak, log(f, sum)));
            f.storeLane(number(4), lse);
            f.storeLane(number(3), v.sub(lse, logit));
          })
        );
      },
    },
  };
}

/** Random key of a row: a function of its number in the global batch. */
function keyOfRow(k: Kernel, row: Local, stream: Local, perSequence: Local): Code {
  const { f } = k;
  const first = v.iMul(k.run(RUN_SEQUENCE), v.splat(perSequence));
  const run = mix32(f, v.xor(k.run(RUN_KEY), v.splat(stream)));
  return mix32(f, v.xor(run, v.iAdd(first, v.splat(row))));
}

/** −log(−log u) for u in (0, 1) made of random bits. */
function gumbel(f: Func, bits: Code): Code {
  const number = v.fromInt(v.shrU(mix32(f, bits), 8));
  const u = v.mul(v.add(number, f.float(0.5)), f.float(2 ** -24));
  return v.neg(log(f, v.neg(log(f, u))));
}

/** Emits {@link CROSS_ENTROPY_GRAD}. */
export function lowerCrossEntropyGrad(node: Node<CrossEntropyGradAttrs>, to: CpuLowering): void {
  const [h, table, targets, lse, g] = node.inputs;
  const { bias, base } = optionalInputs(node.inputs, node.attrs);
  const [dh, dTable, dBias] = node.outputs;
  const { rows, vocab, width } = crossEntropySizes(node);
  const tiles = tilesOf(rows, vocab);
  const gradients = to.scratch(rows * tiles[0].stride * 4, "logit gradient tile");
  const { threads } = to;
  for (const tile of tiles) {
    const { columns, stride: lda } = tile;
    const finish = logitGradient(to, gradients, tile, { targets, lse, g, bias });
    project(to, { h, table, rows, width }, tile, finish);
    // dh += gradients · table
    to.emit(matmulLaunch(
      { name: "logits dh", m: rows, n: width, k: columns, lda, threads },
      gradients,
      window(to, table, tile, width),
      accumulate(to.at(dh), width, tile.first > 0 ? to.at(dh) : undefined),
    ));
    // dTable = base + gradientsᵀ · h
    to.emit(matmulLaunch(
      { name: "logits dE", m: columns, n: width, k: rows, transA: true, lda, threads },
      gradients,
      to.at(h),
      accumulate(window(to, dTable, tile, width), width, base && window(to, base, tile, width)),
    ));
    if (dBias) {
      const [out] = biasOf(to, dBias, tile);
      to.emit(addPieces(gradients, rows, columns, lda, storeRows(out, columns, { key: "" })));
    }
  }
}

/** Stores a product into a matrix of so many columns, added to another, which may be the same memory. */
function accumulate(to: Operand, columns: number, previous: Operand | undefined): Finish {
  return storeRows(to, columns, {
    key: previous ? "added" : "",
    operands: previous ? [previous] : [],
    value: previous && ((k, scope, { row, bytes, lanes, made }) => {
      const first = k.f.at(scope.operand(0), i32.mul(row, scope.param(0)));
      return v.add(made, read(k.f, first, bytes, lanes));
    }),
  });
}

/** Stores the gradient of the logits: (softmax − one-hot) · g. */
function logitGradient(
  to: CpuLowering,
  gradients: Operand,
  tile: Tile,
  { targets, lse, g, bias }: { targets: Tensor; lse: Tensor; g: Tensor; bias?: Tensor },
): Finish {
  const finish = storeRows(gradients, tile.stride, {
    key: `gradient ${bias ? "bias" : ""}`,
    operands: [to.at(targets), to.at(lse), to.at(g), ...biasOf(to, bias, tile)],
    params: [tile.first],
    value(k, scope, { row, bytes, lanes, made }) {
      const { f } = k;
      const number = (i: number) => f.at(scope.operand(i), row);
      const logit = bias ? v.add(made, read(f, scope.operand(3), bytes, lanes)) : made;
      const p = exp(f, v.sub(logit, v.loadSplat(number(1))));
      const column = v.iAdd(
        v.splat(i32.add(scope.param(1), i32.shrU(bytes, i32.const(2)))),
        f.constant("lanes", v.bits(0, 1, 2, 3)),
      );
      const hot = v.and(v.iEq(column, v.splat(i32.load(number(0)))), f.float(1));
      const weight = f.local("v128", v.loadSplat(number(2)));
      // Rows without weight count for nothing, whatever they hold.
      return v.and(v.mul(v.sub(p, hot), weight), v.ne(weight, f.float(0)));
    },
  });
  return finish;
}
