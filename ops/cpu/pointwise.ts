/**
 * Fused pointwise operations: as a kernel of their own, behind an anchor (epilogue) or before one
 * (prologue). All of them go along a piece of one row, four columns at a time, then one at a time.
 *
 * An operand that broadcasts has either all columns or one; its row follows from the row of the result.
 * So nothing is divided inside the loop over columns.
 *
 * @module
 */

import { type Repeat, repeatOf } from "../graph/broadcast.ts";
import { type Expression, x } from "../graph/expression.ts";
import { asMatrix, type Node, sizeOf, storageOf, type Tensor } from "../graph/tensor.ts";
import { RUN_SCALAR } from "../primitives/pointwise.ts";
import { GATHER } from "../primitives/rows.ts";
import { RUN_KEY, RUN_SEQUENCE } from "../program/device.ts";
import type { Lowering, Operand } from "../program/lowering.ts";
import { type Code, i32, type Local, v } from "./assembler.ts";
import { keyOf, print, usesOf } from "./expression.ts";
import { type CpuLaunch, type Kernel, pieceOf, type Scope } from "./kernel.ts";

/** Bytes that one step of the loop over columns covers: four columns, or one. */
export type Lanes = 4 | 1;

/** Which row of an operand belongs to a row of the result. Numbers are those of params. */
type RowMap =
  | { kind: "same" }
  | { kind: "first" }
  | { kind: "modulo"; period: number }
  | { kind: "divide"; run: number }
  | { kind: "axes"; axes: { inner: number; length: number; stride: number }[] };

/** Where an operand of the group comes from. */
type Leaf =
  /** What the anchor made, from a register or its memory. */
  | { kind: "seed" }
  /** A scalar input of the run. */
  | { kind: "scalar"; word: number }
  /** Memory: all columns of a row, or one number for the row. */
  | { kind: "memory"; operand: number; row: RowMap; wide: boolean }
  /** Rows of a table by number. */
  | { kind: "rows"; table: number; ids: number; last: number }
  /** Single numbers of a table by number. */
  | { kind: "elements"; table: number; ids: number; last: number };

/** The variables of a leaf within one row. */
interface Ready {
  /** Address of the row's first column. */
  pointer?: Local;
  /** The row's number, in all lanes. */
  value?: Local;
  /** Address of the table, for single numbers. */
  table?: Local;
}

/** A piece of a row. */
export interface Piece {
  /** Row of the result; absent where there is only one. */
  row?: Local;
  /** First column. */
  from: Code;
  /** One past the last. */
  to: Code;
  /** What the anchor made, at a column given as a byte offset in the row. */
  seed?: (bytes: Local, lanes: Lanes) => Code;
}

/** A chain of pointwise operations on a matrix. */
export class Group {
  /** Equal for groups whose code is equal. */
  readonly key: string;
  /** Memory that it reads. */
  readonly operands: Operand[] = [];
  /** Its params. */
  readonly params: number[] = [];
  /** Rows and columns that it goes through: one row, where rows do not matter. */
  readonly rows: number;
  /** See {@link Group.rows}. */
  readonly cols: number;

  readonly #shape: readonly number[];
  /** All operands have an element for each, or one for all: rows do not matter. */
  readonly #isLine: boolean;
  readonly #expression: Expression;
  readonly #leaves: Leaf[] = [];
  readonly #leafOf = new Map<Tensor, Expression>();
  readonly #paramOf = new Map<number, number>();
  readonly #operandOf = new Map<Tensor, number>();
  readonly #to: Lowering;
  readonly #seed?: Tensor;

  /**
   * Reads the nodes.
   *
   * @param nodes in order; the last one makes the result. Without any, it is the seed or the target itself
   * @param target shape of the result, and what to read without nodes and seed
   * @param seed the tensor that an anchor makes
   * @param keepRows rows stay rows even where they do not matter
   */
  constructor(
    nodes: readonly Node[],
    target: Tensor,
    to: Lowering,
    { seed, keepRows = false }: { seed?: Tensor; keepRows?: boolean } = {},
  ) {
    this.#shape = target.shape;
    this.#to = to;
    this.#seed = seed;
    const matrix = asMatrix(target.shape);
    this.#ownParam(matrix.cols);
    for (const node of nodes) {
      const { primitive, outputs: [out], inputs, attrs } = node;
      this.#leafOf.set(
        out,
        primitive === GATHER
          ? this.#gather(node)
          : primitive.pointwise!.express(inputs.map((t) => this.#operand(t)), attrs, {
            size: sizeOf(out.shape),
            leading: out.shape[0] ?? 1,
          }),
      );
    }
    const last = nodes.at(-1);
    this.#expression = last ? this.#leafOf.get(last.outputs[0])! : this.#operand(seed ?? target);
    this.#isLine = !seed && !keepRows &&
      this.#leaves.every((leaf) =>
        leaf.kind === "scalar" || leaf.kind === "elements" ||
        (leaf.kind === "memory" && (leaf.row.kind === "first" ? !leaf.wide : this.#isWhole(leaf)))
      );
    this.rows = this.#isLine ? 1 : matrix.rows;
    this.cols = this.#isLine ? matrix.rows * matrix.cols : matrix.cols;
    this.params[0] = this.cols;
    const text = keyOf(this.#expression, (value) => this.#param(value));
    this.key = `${this.#isLine ? "line" : "rows"} ${this.cols % 4} ${
      JSON.stringify(this.#leaves)
    } ${text}`;
  }

  #isWhole({ row, wide }: Leaf & { kind: "memory" }): boolean {
    // One number per row is one per element where there is one column.
    return row.kind === "same" && (wide || asMatrix(this.#shape).cols === 1);
  }

  #param(value: number): number {
    let index = this.#paramOf.get(value);
    if (index === undefined) {
      this.#paramOf.set(value, index = this.params.push(value) - 1);
    }
    return index;
  }

  /** A param of its own, whatever its value: text must not depend on which sizes happen to be equal. */
  #ownParam(value: number): number {
    return this.params.push(value) - 1;
  }

  #bind(t: Tensor): number {
    const owner = storageOf(t);
    let index = this.#operandOf.get(owner);
    if (index === undefined) {
      index = this.operands.push(this.#to.at(owner)) - 1;
      this.#operandOf.set(owner, index);
    }
    return index;
  }

  #leaf(leaf: Leaf, type: "f32" | "u32"): Expression {
    return x.argument(this.#leaves.push(leaf) - 1, type);
  }

  #operand(t: Tensor): Expression {
    let known = this.#leafOf.get(t);
    if (!known) this.#leafOf.set(t, known = this.#newOperand(t));
    return known;
  }

  #newOperand(t: Tensor): Expression {
    const { node, dtype } = t;
    if (t === this.#seed) return this.#leaf({ kind: "seed" }, dtype);
    if (node.primitive === RUN_SCALAR) {
      return this.#leaf({ kind: "scalar", word: this.#to.scalarWord(node.attrs.name) }, dtype);
    }
    if (node.primitive.pointwise && node.inputs.length === 0) {
      return node.primitive.pointwise.express([], node.attrs, { size: 1, leading: 1 });
    }
    const to = this.#shape;
    if (sizeOf(t.shape) === 1 && sizeOf(to) > 1) {
      return this.#leaf(
        { kind: "memory", operand: this.#bind(t), row: { kind: "first" }, wide: false },
        dtype,
      );
    }
    const from = [...new Array<number>(to.length - t.shape.length).fill(1), ...t.shape];
    const wide = to.length > 0 && from.at(-1) === to.at(-1);
    const row = this.#rowMap(repeatOf(from.slice(0, -1), to.slice(0, -1)), from, to);
    return this.#leaf({ kind: "memory", operand: this.#bind(t), row, wide }, dtype);
  }

  #rowMap(repeat: Repeat, from: readonly number[], to: readonly number[]): RowMap {
    switch (repeat.kind) {
      case "same":
        return { kind: "same" };
      case "one":
        return { kind: "first" };
      case "suffix":
        return { kind: "modulo", period: this.#ownParam(repeat.period) };
      case "prefix":
        return { kind: "divide", run: this.#ownParam(repeat.run) };
      case "general": {
        const axes: { inner: number; length: number; stride: number }[] = [];
        for (let axis = to.length - 2, inner = 1, stride = 1; axis >= 0; axis--) {
          if (from[axis] !== 1) {
            axes.push({
              inner: this.#ownParam(inner),
              length: this.#ownParam(to[axis]),
              stride: this.#ownParam(stride),
            });
          }
          inner *= to[axis];
          stride *= from[axis];
        }
        return { kind: "axes", axes };
      }
    }
  }

  #gather({ inputs: [table, ids] }: Node): Expression {
    const last = this.#ownParam(table.shape[0] - 1);
    const kind = table.shape.length === 1 ? "elements" : "rows";
    return this.#leaf(
      { kind, table: this.#bind(table), ids: this.#bind(ids), last },
      table.dtype,
    );
  }

  /**
   * Statements for each column of a piece of a row.
   *
   * @param use statements for the value of four columns or one; `bytes` is the first one's offset in the row
   */
  each(
    k: Kernel,
    scope: Scope,
    { row, from, to, seed }: Piece,
    use: (value: Code, bytes: Local, lanes: Lanes) => void,
  ): void {
    const { f } = k;
    const cols = scope.param(0);
    const ready = this.#leaves.map((leaf) => this.#ready(k, scope, leaf, row, cols));
    const bytes = f.local("i32", i32.shl(from, i32.const(2)));
    const end = f.local("i32", i32.shl(to, i32.const(2)));
    const uses = usesOf(this.#expression);
    const step = (lanes: Lanes) => {
      const value = print(this.#expression, uses, {
        f,
        argument: (e) => this.#value(k, scope, e.value!, ready, bytes, lanes, seed),
        parameter: (value) => {
          const index = this.#paramOf.get(value)!;
          return v.splat(scope.param(index));
        },
        place: () => {
          const column = i32.shrU(bytes, i32.const(2));
          const at = row ? i32.add(i32.mul(row, cols), column) : column;
          return v.iAdd(v.splat(at), v.bits(0, 1, 2, 3));
        },
        runKey: () => k.run(RUN_KEY),
        firstSequence: () => k.run(RUN_SEQUENCE),
      });
      use(value, bytes, lanes);
    };
    f.while(i32.leU(i32.add(bytes, i32.const(16)), end), () => {
      step(4);
      f.increase(bytes, 16);
    });
    // Pieces begin and end at multiples of four columns where rows do.
    if (this.cols % 4 === 0) return;
    f.for(bytes, end, 4, () => step(1));
  }

  #ready(k: Kernel, scope: Scope, leaf: Leaf, row: Local | undefined, cols: Local): Ready {
    const { f } = k;
    switch (leaf.kind) {
      case "seed":
        return {};
      case "scalar":
        return { value: k.run(leaf.word) };
      case "memory": {
        const base = scope.operand(leaf.operand);
        const isWide = leaf.wide || (this.#isLine && leaf.row.kind === "same");
        const at = row && this.#rowOf(scope, leaf.row, row);
        const element = at && (isWide ? i32.mul(at, cols) : at);
        const address = element ? f.at(base, element) : base;
        return isWide
          ? { pointer: element ? f.pointer(address) : base }
          : { value: f.local("v128", v.loadSplat(address)) };
      }
      case "rows": {
        const ids = scope.operand(leaf.ids);
        const id = i32.load(row ? f.at(ids, row) : ids);
        const known = f.local("i32", id);
        const clamped = i32.minU(known, scope.param(leaf.last));
        return { pointer: f.pointer(f.at(scope.operand(leaf.table), i32.mul(clamped, cols))) };
      }
      case "elements": {
        const ids = scope.operand(leaf.ids);
        return {
          pointer: row ? f.pointer(f.at(ids, i32.mul(row, cols))) : ids,
          table: scope.operand(leaf.table),
        };
      }
    }
  }

  /** Row of an operand; undefined for the first. */
  #rowOf(scope: Scope, map: RowMap, row: Local): Code | undefined {
    switch (map.kind) {
      case "same":
        return row;
      case "first":
        return undefined;
      case "modulo":
        return i32.remU(row, scope.param(map.period));
      case "divide":
        return i32.divU(row, scope.param(map.run));
      case "axes":
        return map.axes.map(({ inner, length, stride }) =>
          i32.mul(
            i32.remU(i32.divU(row, scope.param(inner)), scope.param(length)),
            scope.param(stride),
          )
        ).reduce((a, b) => i32.add(a, b));
    }
  }

  #value(
    k: Kernel,
    scope: Scope,
    index: number,
    ready: readonly Ready[],
    bytes: Local,
    lanes: Lanes,
    seed: Piece["seed"],
  ): Code {
    const { f } = k;
    const leaf = this.#leaves[index], { pointer, value, table } = ready[index];
    if (leaf.kind === "seed") return seed!(bytes, lanes);
    if (value) return value;
    const at = f.plus(pointer!, bytes);
    if (leaf.kind !== "elements") return lanes === 4 ? v.load(at) : v.loadSplat(at);
    const last = scope.param(leaf.last);
    const address = (lane: number) => {
      const id = f.local("i32", i32.load(at, 4 * lane));
      return f.at(table!, i32.minU(id, last));
    };
    if (lanes === 1) return v.loadSplat(address(0));
    let vector: Code = v.zero();
    for (let lane = 0; lane < 4; lane++) {
      vector = f.local("v128", v.loadLane(address(lane), vector, lane));
    }
    return vector;
  }
}

/** Stores values into a row: what most groups do with theirs. */
function storeInto(k: Kernel, pointer: Local) {
  return (value: Code, bytes: Local, lanes: Lanes): void => {
    const at = k.f.plus(pointer, bytes);
    if (lanes === 4) k.f.store(at, value);
    else k.f.storeLane(at, value);
  };
}

/** A kernel for a step without anchor. */
export function pointwiseLaunch(
  nodes: readonly Node[],
  result: Tensor,
  to: Lowering,
): CpuLaunch {
  const group = new Group(nodes, result, to);
  const { rows, cols } = group;
  // One row is cut by columns, many are cut by rows.
  const piece = rows === 1 ? 16384 : pieceOf(rows, cols);
  const operands = [to.at(result), ...group.operands];
  return {
    name: nodes.map((n) => n.primitive.name).slice(-3).join("+") || "copy",
    operands,
    params: [piece, rows, ...group.params],
    items: Math.ceil((rows === 1 ? cols : rows) / piece),
    source: {
      key: `pointwise ${rows === 1} ${group.key}`,
      operands: operands.length,
      emit(k) {
        const { f } = k;
        const out = k.operand(0), size = k.param(0), all = k.param(1);
        const scope = k.scope(1, 2);
        const columns = scope.param(0);
        k.items((item) => {
          if (rows === 1) {
            const from = f.local("i32", i32.mul(item, size));
            const to = i32.minU(i32.add(from, size), columns);
            group.each(k, scope, { from, to }, storeInto(k, out));
            return;
          }
          k.range(item, size, all, (row) => {
            const pointer = f.pointer(f.at(out, i32.mul(row, columns)));
            const piece = { row, from: i32.const(0), to: columns };
            group.each(k, scope, piece, storeInto(k, pointer));
          });
        });
      },
    },
  };
}

/** What is done with a row of an anchor's values: the nodes fused to it, and the store. */
export interface Finish {
  /** Equal for equal code. */
  readonly key: string;
  /** Memory, the result's first. */
  readonly operands: readonly Operand[];
  /** Its params. */
  readonly params: readonly number[];
  /** Statements for a piece of a row. */
  emit(k: Kernel, scope: Scope, piece: Required<Piece>): void;
}

/** The epilogue of a step: applies nodes to what the anchor made, and stores the result. */
export function finishOf(
  nodes: readonly Node[],
  seed: Tensor,
  result: Tensor,
  to: Lowering,
): Finish {
  const group = new Group(nodes, result, to, { seed });
  return {
    key: group.key,
    operands: [to.at(result), ...group.operands],
    params: group.params,
    emit(k, scope, piece) {
      const { f } = k;
      const inner: Scope = { operand: (i) => scope.operand(i + 1), param: (i) => scope.param(i) };
      const out = f.pointer(f.at(scope.operand(0), i32.mul(piece.row, inner.param(0))));
      group.each(k, inner, piece, storeInto(k, out));
    },
  };
}
