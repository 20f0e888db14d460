/**
 * Sums, with what is fused before and after them. Long sums are cut by shape alone: pieces leave partial
 * sums, which a second launch adds in order.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";
import type { Axis } from "../primitives/reduce.ts";
import type { Operand } from "../program/lowering.ts";
import { type Code, i32, type Local, v } from "./assembler.ts";
import { type CpuLaunch, type Kernel, pieceOf } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import { total } from "./math.ts";
import type { Finish, Group } from "./pointwise.ts";
import { eachColumn, read, summand, write } from "./rows.ts";

/** Asks for memory that lives for the step. */
export type Scratch = (bytes: number, label: string) => Operand;

/** The sum of the values of a piece of a row, lane by lane, added to `sums`. */
function addPiece(
  k: Kernel,
  group: Group,
  at: [firstOperand: number, firstParam: number],
  piece: { row?: Local; from: Code; to: Code },
  sums: Local,
): void {
  const { f } = k;
  group.each(k, k.scope(...at), piece, (value, _bytes, lanes) => {
    f.set(sums, v.add(sums, summand(f, value, lanes)));
  });
}

/** Hands one number to `finish`, as column 0 of a row. */
function finishOne(
  k: Kernel,
  finish: Finish,
  at: [firstOperand: number, firstParam: number],
  row: Local,
  value: Code,
): void {
  const known = k.f.local("v128", value);
  const piece = { row, from: i32.const(0), to: i32.const(1), seed: () => known };
  finish.emit(k, k.scope(...at), piece);
}

/** [rows, cols] → [rows, 1]. The group keeps its rows. */
export function sumColumns(group: Group, finish: Finish): CpuLaunch {
  const { rows, cols } = group;
  const piece = pieceOf(rows, cols);
  const operands = [...group.operands, ...finish.operands];
  return {
    name: "sumColumns",
    operands,
    params: [piece, rows, ...group.params, ...finish.params],
    items: Math.ceil(rows / piece),
    source: {
      key: `sumColumns ${group.key} ${finish.key}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        k.items((item) =>
          k.range(item, k.param(0), k.param(1), (row) => {
            const sums = f.local("v128", f.float(0));
            addPiece(k, group, [0, 2], { row, from: i32.const(0), to: k.param(2) }, sums);
            finishOne(
              k,
              finish,
              [group.operands.length, 2 + group.params.length],
              row,
              total(f, sums),
            );
          })
        );
      },
    },
  };
}

/** Rows of a piece of a sum over rows, and most pieces. */
const PIECE_ROWS = 32, MOST_PIECES = 32;

/** [rows, cols] → [cols]. The group keeps its rows. */
export function sumRows(group: Group, finish: Finish, scratch: Scratch): CpuLaunch[] {
  const { rows, cols } = group;
  const pieces = Math.max(1, Math.min(MOST_PIECES, Math.ceil(rows / PIECE_ROWS)));
  const piece = Math.ceil(rows / pieces);
  const partial = scratch(pieces * cols * 4, "partial sums");
  const whole = cols % 4 === 0;
  const operands = [partial, ...group.operands];
  const first: CpuLaunch = {
    name: "sumRows",
    operands,
    params: [piece, rows, ...group.params],
    items: Math.ceil(rows / piece),
    source: {
      key: `sumRows ${group.key}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const columns = k.param(2);
        k.items((item) => {
          const sums = f.pointer(f.at(k.operand(0), i32.mul(item, columns)));
          eachColumn(f, columns, whole, (bytes, lanes) => {
            write(f, sums, bytes, lanes, f.float(0));
          });
          k.range(item, k.param(0), k.param(1), (row) => {
            const line = { row, from: i32.const(0), to: columns };
            group.each(k, k.scope(1, 2), line, (value, bytes, lanes) => {
              write(f, sums, bytes, lanes, v.add(read(f, sums, bytes, lanes), value));
            });
          });
        });
      },
    },
  };
  return [first, addPieces(partial, first.items, cols, cols, finish)];
}

/** Adds rows of partial sums, `stride` numbers apart, in order: [pieces, cols] → [cols]. */
export function addPieces(
  partial: Operand,
  pieces: number,
  cols: number,
  stride: number,
  finish: Finish,
): CpuLaunch {
  const size = 256;
  const operands = [partial, ...finish.operands];
  return {
    name: "sumRowsEnd",
    operands,
    params: [size, pieces, cols, stride * 4, ...finish.params],
    items: Math.ceil(cols / size),
    source: {
      key: `addPieces ${finish.key}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const row = f.local("i32");
        k.items((item) => {
          const from = f.local("i32", i32.mul(item, k.param(0)));
          const to = f.local("i32", i32.minU(i32.add(from, k.param(0)), k.param(2)));
          finish.emit(k, k.scope(1, 4), {
            row,
            from,
            to,
            seed: (bytes, lanes) => {
              const sum = f.local("v128", f.float(0));
              const at = f.pointer(k.operand(0)), i = f.local("i32", i32.const(0));
              f.for(i, k.param(1), 1, () => {
                f.set(sum, v.add(sum, read(f, at, bytes, lanes)));
                f.set(at, f.plus(at, k.param(3)));
              });
              return sum;
            },
          });
        });
      },
    },
  };
}

/** Numbers of a piece of a sum over everything. */
const PIECE_NUMBERS = 16384;

/** [rows, cols] → []. */
export function sumAll(group: Group, finish: Finish, scratch: Scratch): CpuLaunch[] {
  const { rows, cols } = group;
  const isLine = rows === 1;
  const piece = isLine ? PIECE_NUMBERS : Math.max(1, Math.ceil(PIECE_NUMBERS / cols));
  const items = Math.ceil((isLine ? cols : rows) / piece);
  const partial = items > 1 ? scratch(items * 4, "partial sums") : undefined;
  const own = partial ? [partial] : finish.operands;
  const operands = [...group.operands, ...own];
  const params = [piece, rows, ...group.params];
  const first: CpuLaunch = {
    name: "sumAll",
    operands,
    params: partial ? params : [...params, ...finish.params],
    items,
    source: {
      key: `sumAll ${isLine} ${group.key} ${partial ? "" : finish.key}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const columns = k.param(2), nothing = f.local("i32");
        k.items((item) => {
          const sums = f.local("v128", f.float(0));
          if (isLine) {
            const from = f.local("i32", i32.mul(item, k.param(0)));
            const to = f.local("i32", i32.minU(i32.add(from, k.param(0)), columns));
            addPiece(k, group, [0, 2], { from, to }, sums);
          } else {
            k.range(item, k.param(0), k.param(1), (row) => {
              addPiece(k, group, [0, 2], { row, from: i32.const(0), to: columns }, sums);
            });
          }
          const sum = total(f, sums), at = group.operands.length;
          if (partial) f.storeLane(f.at(k.operand(at), item), sum);
          else finishOne(k, finish, [at, params.length], nothing, sum);
        });
      },
    },
  };
  if (!partial) return [first];
  const last: CpuLaunch = {
    name: "sumAllEnd",
    operands: [partial, ...finish.operands],
    params: [items, ...finish.params],
    items: 1,
    source: {
      key: `sumAllEnd ${finish.key}`,
      operands: 1 + finish.operands.length,
      emit(k) {
        const { f } = k;
        const nothing = f.local("i32");
        k.items(() => {
          const sum = f.local("v128", f.float(0)), i = f.local("i32", i32.const(0));
          f.for(i, k.param(0), 1, () => {
            f.set(sum, v.add(sum, v.loadSplat(f.at(k.operand(0), i))));
          });
          finishOne(k, finish, [1, 1], nothing, sum);
        });
      },
    },
  };
  return [first, last];
}

/** Emits {@link SUM}. */
export function lowerSum({ attrs: { over } }: Node<{ over: Axis }>, to: CpuLowering): void {
  const { scratch } = to;
  const finish = to.finish();
  const launches = over === "all"
    ? sumAll(to.prologue(false), finish, scratch)
    : over === "rows"
    ? sumRows(to.prologue(true), finish, scratch)
    : [sumColumns(to.prologue(true), finish)];
  for (const launch of launches) to.emit(launch);
}
