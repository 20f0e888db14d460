/**
 * What kernels of rows share, and those that move rows by index.
 *
 * @module
 */

import { asMatrix, type Node } from "../graph/tensor.ts";
import type { Operand } from "../program/lowering.ts";
import { type Code, type Func, i32, type Local, v } from "./assembler.ts";
import { type CpuLaunch, pieceOf } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import type { Lanes } from "./pointwise.ts";

/**
 * Statements for each column of a row: four at a time, then one at a time.
 *
 * @param use gets the byte offset of the (first) column
 */
export function eachColumn(
  f: Func,
  cols: Code,
  isMultipleOf4: boolean,
  use: (bytes: Local, lanes: Lanes) => void,
): void {
  const bytes = f.local("i32", i32.const(0));
  const end = f.local("i32", i32.shl(cols, i32.const(2)));
  f.while(i32.leU(i32.add(bytes, i32.const(16)), end), () => {
    use(bytes, 4);
    f.increase(bytes, 16);
  });
  if (!isMultipleOf4) f.for(bytes, end, 4, () => use(bytes, 1));
}

/** Reads four columns, or one into all lanes. */
export function read(f: Func, pointer: Code, bytes: Code, lanes: Lanes): Code {
  const at = f.plus(pointer, bytes);
  return lanes === 4 ? v.load(at) : v.loadSplat(at);
}

/** Writes four columns, or one. */
export function write(f: Func, pointer: Code, bytes: Code, lanes: Lanes, value: Code): void {
  const at = f.plus(pointer, bytes);
  if (lanes === 4) f.store(at, value);
  else f.storeLane(at, value);
}

/** A value as a summand: where it stands for one column only, zeros in the other lanes. */
export function summand(f: Func, value: Code, lanes: Lanes): Code {
  return lanes === 4 ? value : v.and(value, f.constant("lane 0", v.bits(0xffffffff, 0, 0, 0)));
}

/** out[v] = base[v] + Σ g[i] over ids[i] = v, in the order of i. */
export interface ScatterSpec {
  /** Rows of the table. */
  tableRows: number;
  /** Rows to add. */
  count: number;
  /** Columns. */
  cols: number;
  /** What the sums start from. */
  base: "zero" | "in place" | "separate";
}

/** Ranges of the table's rows, of which each thread takes some: every one walks all ids. */
const RANGES = 64;

/** Binds g, ids, out and, if base is separate, base. */
export function scatterAddRows(
  { tableRows, count, cols, base }: ScatterSpec,
  operands: readonly Operand[],
): CpuLaunch {
  const range = Math.ceil(tableRows / RANGES);
  const whole = cols % 4 === 0;
  return {
    name: "scatterAddRows",
    operands,
    params: [range, tableRows, count, cols],
    items: Math.ceil(tableRows / range),
    source: {
      key: `scatterAddRows ${base} ${whole}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const [size, rows, ids, columns] = [0, 1, 2, 3].map((i) => k.param(i));
        const [g, id, out] = [0, 1, 2].map((i) => k.operand(i));
        k.items((item) => {
          const first = f.local("i32", i32.mul(item, size));
          const own = f.local("i32", i32.minU(size, i32.sub(rows, first)));
          if (base !== "in place") {
            const at = i32.mul(first, columns);
            const to = f.pointer(f.at(out, at));
            const from = base === "separate" ? f.pointer(f.at(k.operand(3), at)) : undefined;
            eachColumn(f, i32.mul(own, columns), whole, (bytes, lanes) => {
              write(f, to, bytes, lanes, from ? read(f, from, bytes, lanes) : f.float(0));
            });
          }
          const i = f.local("i32", i32.const(0));
          f.for(i, ids, 1, () => {
            const row = f.local("i32", i32.load(f.at(id, i)));
            f.if(i32.ltU(i32.sub(row, first), own), () => {
              const from = f.pointer(f.at(g, i32.mul(i, columns)));
              const to = f.pointer(f.at(out, i32.mul(row, columns)));
              eachColumn(f, columns, whole, (bytes, lanes) => {
                const sum = v.add(read(f, to, bytes, lanes), read(f, from, bytes, lanes));
                write(f, to, bytes, lanes, sum);
              });
            });
          });
        });
      },
    },
  };
}

/** Position rows of token sequences. Binds tokens, positions. */
export function positionIds(
  { batch, length, pad }: { batch: number; length: number; pad: number },
  operands: readonly [Operand, Operand],
): CpuLaunch {
  const piece = pieceOf(batch, length);
  return {
    name: "positionIds",
    operands,
    params: [piece, batch, length, pad],
    items: Math.ceil(batch / piece),
    source: {
      key: "positionIds",
      operands: 2,
      emit(k) {
        const { f } = k;
        const [size, all, count, none] = [0, 1, 2, 3].map((i) => k.param(i));
        k.items((item) =>
          k.range(item, size, all, (row) => {
            const first = i32.mul(row, count);
            const [from, to] = [0, 1].map((i) => f.pointer(f.at(k.operand(i), first)));
            const next = f.local("i32", none), t = f.local("i32", i32.const(0));
            f.for(t, count, 1, () => {
              const isPad = f.local("i32", i32.eq(i32.load(f.at(from, t)), none));
              f.set(next, i32.add(next, i32.eqz(isPad)));
              f.storeInt(f.at(to, t), i32.select(isPad, none, next));
            });
          })
        );
      },
    },
  };
}

/** Copies so many numbers of 4 bytes. */
export function copyNumbers(from: Operand, to: Operand, count: number): CpuLaunch {
  const piece = 16384;
  return {
    name: "copy",
    operands: [from, to],
    params: [piece, count],
    items: Math.ceil(count / piece),
    source: {
      key: `copy ${count % 4 === 0}`,
      operands: 2,
      emit(k) {
        const { f } = k;
        k.items((item) => {
          const first = f.local("i32", i32.mul(item, k.param(0)));
          const own = i32.minU(k.param(0), i32.sub(k.param(1), first));
          const [source, target] = [0, 1].map((i) => f.pointer(f.at(k.operand(i), first)));
          eachColumn(f, own, count % 4 === 0, (bytes, lanes) => {
            write(f, target, bytes, lanes, read(f, source, bytes, lanes));
          });
        });
      },
    },
  };
}

/** Emits {@link SCATTER_ADD}. */
export function lowerScatterAddRows(node: Node<{ rows: number }>, to: CpuLowering): void {
  const [g, ids, base] = node.inputs, [out] = node.outputs;
  const { rows: count, cols } = asMatrix(g.shape);
  const shared = base !== undefined && to.shares(out, base);
  const operands = [to.at(g), to.at(ids), to.at(out)];
  to.emit(scatterAddRows({
    tableRows: node.attrs.rows,
    count,
    cols,
    base: base === undefined ? "zero" : shared ? "in place" : "separate",
  }, base && !shared ? [...operands, to.at(base)] : operands));
}

/** Emits {@link POSITION_IDS}. */
export function lowerPositionIds(node: Node<{ pad: number }>, to: CpuLowering): void {
  const [tokens] = node.inputs, [out] = node.outputs;
  const [batch, length] = tokens.shape;
  to.emit(positionIds({ batch, length, pad: node.attrs.pad }, [to.at(tokens), to.at(out)]));
}
