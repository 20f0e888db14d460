/**
 * Layer normalisation. A row is read three times: for the mean, for the variance about it (which the
 * one-pass formula would lose to cancellation), and to write the result.
 *
 * @module
 */

import { asMatrix, type Node } from "../graph/tensor.ts";
import type { Operand } from "../program/lowering.ts";
import { type Code, type Func, i32, type Local, v } from "./assembler.ts";
import { bitsOf, type CpuLaunch, type Kernel, pieceOf } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import { total } from "./math.ts";
import type { Finish, Lanes } from "./pointwise.ts";
import { eachColumn, read, summand, write } from "./rows.ts";

/** Rows of a matrix. */
interface Rows {
  rows: number;
  cols: number;
}

/** Reads one of the row's operands at a column. */
type Reader = (bytes: Code, lanes: Lanes) => Code;

/** What the body of such a kernel works with. */
interface Row {
  k: Kernel;
  f: Func;
  row: Local;
  /** Number of columns as a float, in all lanes. */
  count: Local;
  /** An operand that has a row for each row. */
  matrix(i: number): Reader & { pointer: Local };
  /** An operand that has one row for all. */
  vector(i: number): Reader;
  /** An operand that has one number for each row: its address. */
  number(i: number): Code;
  /** Σ over columns. */
  sum(value: (bytes: Local, lanes: Lanes) => Code): Local;
  /** Statements for each column. */
  each(use: (bytes: Local, lanes: Lanes) => void): void;
}

function rowLaunch(
  name: string,
  { rows, cols }: Rows,
  operands: readonly Operand[],
  body: (row: Row) => void,
  { eps = 0, finish }: { eps?: number; finish?: Finish } = {},
): CpuLaunch {
  const piece = pieceOf(rows, cols), whole = cols % 4 === 0;
  const all = [...operands, ...finish?.operands ?? []];
  return {
    name,
    operands: all,
    params: [piece, rows, cols, bitsOf(cols), bitsOf(eps), ...finish?.params ?? []],
    items: Math.ceil(rows / piece),
    source: {
      key: `${name} ${whole} ${finish?.key}`,
      operands: all.length,
      emit(k) {
        const { f } = k;
        const columns = k.param(2);
        k.items((item) =>
          k.range(item, k.param(0), k.param(1), (row) => {
            const first = f.local("i32", i32.mul(row, columns));
            const each = (use: (bytes: Local, lanes: Lanes) => void) =>
              eachColumn(f, columns, whole, use);
            body({
              ...{ k, f, row, each, count: k.floatParam(3) },
              matrix: (i) => {
                const pointer = f.pointer(f.at(k.operand(i), first));
                const reader: Reader = (bytes, lanes) => read(f, pointer, bytes, lanes);
                return Object.assign(reader, { pointer });
              },
              vector: (i) => (bytes, lanes) => read(f, k.operand(i), bytes, lanes),
              number: (i) => f.at(k.operand(i), row),
              sum(value) {
                const sums = f.local("v128", f.float(0));
                each((bytes, lanes) => {
                  f.set(sums, v.add(sums, summand(f, value(bytes, lanes), lanes)));
                });
                return f.local("v128", total(f, sums));
              },
            });
          })
        );
      },
    },
  };
}

const epsilon = ({ k }: Row): Code => k.floatParam(4);
const PARAMS = 5;

/** Operands x, gain, bias, y, mean, rstd. */
export function layerNorm(
  rows: Rows & { eps: number },
  operands: readonly Operand[],
): CpuLaunch {
  return rowLaunch("layerNorm", rows, operands, (r) => {
    const { f } = r;
    const x = r.matrix(0), gain = r.vector(1), bias = r.vector(2), y = r.matrix(3);
    const mean = f.local("v128", v.div(r.sum(x), r.count));
    const squares = r.sum((bytes, lanes) => {
      const d = f.local("v128", v.sub(x(bytes, lanes), mean));
      return v.mul(d, d);
    });
    const deviation = v.sqrt(v.add(v.div(squares, r.count), epsilon(r)));
    const rstd = f.local("v128", v.div(f.float(1), deviation));
    r.each((bytes, lanes) => {
      const normal = v.mul(v.sub(x(bytes, lanes), mean), rstd);
      const value = v.add(v.mul(normal, gain(bytes, lanes)), bias(bytes, lanes));
      write(f, y.pointer, bytes, lanes, value);
    });
    f.storeLane(r.number(4), mean);
    f.storeLane(r.number(5), rstd);
  }, rows);
}

/** Operands g, x, gain, mean, rstd; dx goes to `finish`. */
export function layerNormGrad(
  rows: Rows,
  operands: readonly Operand[],
  finish: Finish,
): CpuLaunch {
  return rowLaunch("layerNormGrad", rows, operands, (r) => {
    const { f, k } = r;
    const g = r.matrix(0), x = r.matrix(1), gain = r.vector(2);
    const mean = f.local("v128", v.loadSplat(r.number(3)));
    const rstd = f.local("v128", v.loadSplat(r.number(4)));
    const scaled: Reader = (bytes, lanes) => v.mul(g(bytes, lanes), gain(bytes, lanes));
    const normal: Reader = (bytes, lanes) => v.mul(v.sub(x(bytes, lanes), mean), rstd);
    const products = f.local("v128", f.float(0));
    const a = r.sum((bytes, lanes) => {
      const h = f.local("v128", scaled(bytes, lanes));
      const product = summand(f, v.mul(h, normal(bytes, lanes)), lanes);
      f.set(products, v.add(products, product));
      return h;
    });
    const averageA = f.local("v128", v.div(a, r.count));
    const averageB = f.local("v128", v.div(total(f, products), r.count));
    finish.emit(k, k.scope(operands.length, PARAMS), {
      row: r.row,
      from: i32.const(0),
      to: k.param(2),
      seed: (bytes, lanes) => {
        const away = v.mul(normal(bytes, lanes), averageB);
        return v.mul(rstd, v.sub(v.sub(scaled(bytes, lanes), averageA), away));
      },
    });
  }, { finish });
}

/** Without mean and bias. Operands x, gain, y, rstd. */
export function rmsNorm(rows: Rows & { eps: number }, operands: readonly Operand[]): CpuLaunch {
  return rowLaunch("rmsNorm", rows, operands, (r) => {
    const { f } = r;
    const x = r.matrix(0), gain = r.vector(1), y = r.matrix(2);
    const square = r.sum((bytes, lanes) => {
      const value = f.local("v128", x(bytes, lanes));
      return v.mul(value, value);
    });
    const root = v.sqrt(v.add(v.div(square, r.count), epsilon(r)));
    const rstd = f.local("v128", v.div(f.float(1), root));
    r.each((bytes, lanes) => {
      const value = v.mul(v.mul(x(bytes, lanes), rstd), gain(bytes, lanes));
      write(f, y.pointer, bytes, lanes, value);
    });
    f.storeLane(r.number(3), rstd);
  }, rows);
}

/** Operands g, x, gain, rstd; dx goes to `finish`. */
export function rmsNormGrad(
  rows: Rows,
  operands: readonly Operand[],
  finish: Finish,
): CpuLaunch {
  return rowLaunch("rmsNormGrad", rows, operands, (r) => {
    const { f, k } = r;
    const g = r.matrix(0), x = r.matrix(1), gain = r.vector(2);
    const rstd = f.local("v128", v.loadSplat(r.number(3)));
    const scaled: Reader = (bytes, lanes) => v.mul(g(bytes, lanes), gain(bytes, lanes));
    const normal: Reader = (bytes, lanes) => v.mul(x(bytes, lanes), rstd);
    const products = r.sum((bytes, lanes) => v.mul(scaled(bytes, lanes), normal(bytes, lanes)));
    const average = f.local("v128", v.div(products, r.count));
    finish.emit(k, k.scope(operands.length, PARAMS), {
      row: r.row,
      from: i32.const(0),
      to: k.param(2),
      seed: (bytes, lanes) =>
        v.mul(rstd, v.sub(scaled(bytes, lanes), v.mul(normal(bytes, lanes), average))),
    });
  }, { finish });
}

type Eps = { eps: number };
const all = ({ inputs, outputs }: Node, to: CpuLowering): Operand[] =>
  [...inputs, ...outputs].map((t) => to.at(t));
const inputsOf = ({ inputs }: Node, to: CpuLowering): Operand[] => inputs.map((t) => to.at(t));

/** Emits {@link LAYER_NORM}. */
export function lowerLayerNorm(node: Node<Eps>, to: CpuLowering): void {
  to.emit(layerNorm({ ...asMatrix(node.inputs[0].shape), ...node.attrs }, all(node, to)));
}

/** Emits {@link LAYER_NORM_GRAD}. */
export function lowerLayerNormGrad(node: Node<null>, to: CpuLowering): void {
  to.emit(layerNormGrad(asMatrix(node.inputs[1].shape), inputsOf(node, to), to.finish()));
}

/** Emits {@link RMS_NORM}. */
export function lowerRmsNorm(node: Node<Eps>, to: CpuLowering): void {
  to.emit(rmsNorm({ ...asMatrix(node.inputs[0].shape), ...node.attrs }, all(node, to)));
}

/** Emits {@link RMS_NORM_GRAD}. */
export function lowerRmsNormGrad(node: Node<null>, to: CpuLowering): void {
  to.emit(rmsNormGrad(asMatrix(node.inputs[1].shape), inputsOf(node, to), to.finish()));
}
