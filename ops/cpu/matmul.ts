/**
 * Matrix multiplication in the three layouts of training: `NN` forward, `NT` for input gradients and logits,
 * `TN` for weight gradients.
 *
 * The scheme is Goto's. A piece of work is a block of C, which a thread keeps in its own memory until it is
 * complete. It walks k in slices of 256: a slice of B is packed into panels of 8 columns (8 KiB, which stay
 * in the first-level cache), and tiles of 6 × 8 numbers of C stay in registers while k passes by. Sixteen
 * registers hold 12 vectors of C, two of B and one of A, whose numbers are spread as they are read. A is
 * read where it lies; a slice of it is transposed first if it is stored so, or copied if its rows lie at
 * multiples of 1 KiB, which a cache can keep few of. One micro-kernel serves all.
 *
 * Every number of C is one chain of multiply-adds along k: cutting C differently does not change the bits.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";
import { type MatmulOptions, matmulSizes } from "../primitives/matmul.ts";
import type { Operand } from "../program/lowering.ts";
import { type Code, type Func, i32, type Local, type Module, v } from "./assembler.ts";
import type { CpuLaunch, Kernel } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import type { Finish } from "./pointwise.ts";

/** A multiplication `C[z, m, n] = Σ_k opA[z, m, k] · opB[z, k, n]`; all sizes in elements. */
export interface MatmulSpec {
  /** Shown in profiles. */
  name?: string;
  /** Rows of C. */
  m: number;
  /** Columns of C. */
  n: number;
  /** Length of the sums. */
  k: number;
  /** Number of products; 1 if absent. */
  batch?: number;
  /** A is stored `[k, m]` instead of `[m, k]`. */
  transA?: boolean;
  /** B is stored `[n, k]` instead of `[k, n]`. */
  transB?: boolean;
  /** Threads that share the work. */
  threads: number;
  /** Distance between stored rows of A; contiguous if absent. */
  lda?: number;
}

/** Rows of a tile of C in registers. */
export const TILE_ROWS = 6;
/** Columns of such a tile, and of a panel of B. */
export const PANEL = 8;
/** Steps of k for which operands are packed at a time. */
export const SLICE = 256;
/** Most numbers of C in a block, and of B in a packed slice: 66 and 128 KiB of the second-level cache. */
const BLOCK_C = 16896, BLOCK_B = 32768;
/** Where a thread keeps its block of C, its packed slice of B, and its transposed slice of A. */
const AT_B = 4 * BLOCK_C + 1024, AT_A = AT_B + 4 * BLOCK_B + 1024;

/**
 * The micro-kernels: C[rows × 8] (+)= A · panel, for 1 to 6 rows.
 *
 * Arguments of each: address of A; bytes from one row of A to the next; address of the panel; address of C;
 * bytes from one row of C to the next; steps of k; 0 to start C from zero, 1 to add to it.
 */
export function microKernels(module: Module): Func[] {
  return Array.from({ length: TILE_ROWS }, (_, i) => microKernel(module, i + 1));
}

function microKernel(module: Module, rows: number): Func {
  const pointer = module.kind.wide ? "i64" : "i32";
  const f = module.func([pointer, "i32", pointer, pointer, "i32", "i32", "i32"]);
  const [a, strideA, panel, c, strideC, count, add] = [0, 1, 2, 3, 4, 5, 6].map((i) => f.param(i));
  const rowsOfA = [a];
  while (rowsOfA.length < rows) {
    rowsOfA.push(f.pointer(f.plus(rowsOfA.at(-1)!, strideA)));
  }
  const sums = Array.from({ length: rows }, () => [f.local("v128"), f.local("v128")]);
  const eachRow = (use: (at: Code, r: number) => void) => {
    const at = f.pointer(c);
    for (let r = 0; r < rows; r++) {
      use(at, r);
      if (r + 1 < rows) f.set(at, f.plus(at, strideC));
    }
  };
  f.if(add, () =>
    eachRow((at, r) => {
      f.set(sums[r][0], v.load(at));
      f.set(sums[r][1], v.load(at, 16));
    }));
  const b = [f.local("v128"), f.local("v128")], factor = f.local("v128");
  const steps = (number: number) => {
    for (let u = 0; u < number; u++) {
      for (const [half, local] of b.entries()) f.set(local, v.load(panel, u * 32 + half * 16));
      for (let r = 0; r < rows; r++) {
        f.set(factor, v.loadSplat(rowsOfA[r], u * 4));
        for (const half of [0, 1]) f.set(sums[r][half], f.madd(factor, b[half], sums[r][half]));
      }
    }
    for (const at of rowsOfA) f.increase(at, number * 4);
    f.increase(panel, number * 32);
    f.increase(count, -number);
  };
  // The loop itself costs a twentieth where it is short; full tiles are what most time is spent on.
  if (rows === TILE_ROWS) f.while(i32.geU(count, i32.const(16)), () => steps(16));
  f.while(i32.geU(count, i32.const(4)), () => steps(4));
  f.while(count, () => steps(1));
  eachRow((at, r) => {
    f.store(at, sums[r][0]);
    f.store(at, sums[r][1], 16);
  });
  return f;
}

/**
 * Packs rows of B, stored [k, n], into panels. Arguments: address of the first number, bytes from one row to
 * the next, address of the panels, steps of k, panels. Reads up to 7 numbers behind a row's end.
 */
export function packRows(module: Module): Func {
  const pointer = module.kind.wide ? "i64" : "i32";
  const f = module.func([pointer, "i32", pointer, "i32", "i32"]);
  const [b, stride, to, steps, panels] = [0, 1, 2, 3, 4].map((i) => f.param(i));
  const i = f.local("i32"), from = f.pointer();
  const panelBytes = f.local("i32", i32.shl(steps, i32.const(5)));
  const panel = [to, ...Array.from({ length: 3 }, () => f.pointer())];
  // Many panels at a time: their parts of a row are whole lines of the cache, one after the other.
  const some = (number: number) => {
    f.set(from, b);
    for (let p = 1; p < number; p++) f.set(panel[p], f.plus(panel[p - 1], panelBytes));
    f.set(i, i32.const(0));
    f.for(i, steps, 1, () => {
      for (let p = 0; p < number; p++) {
        for (const half of [0, 16]) f.store(panel[p], v.load(from, 32 * p + half), half);
      }
      f.set(from, f.plus(from, stride));
      for (let p = 0; p < number; p++) f.increase(panel[p], 32);
    });
    if (number > 1) f.set(to, panel[number - 1]);
    f.increase(b, 32 * number);
    f.increase(panels, -number);
  };
  for (const number of [4, 2]) f.while(i32.geU(panels, i32.const(number)), () => some(number));
  f.if(panels, () => some(1));
  return f;
}

/** Transposes four vectors. */
export function transpose4(f: Func, rows: readonly Code[]): Local[] {
  const low = (a: Code, b: Code) => v.shuffle(a, b, [0, 4, 1, 5]);
  const high = (a: Code, b: Code) => v.shuffle(a, b, [2, 6, 3, 7]);
  const [a, b, c, d] = rows;
  const [e, g] = [low(a, b), low(c, d)].map((x) => f.local("v128", x));
  const [h, l] = [high(a, b), high(c, d)].map((x) => f.local("v128", x));
  return [
    v.shuffle(e, g, [0, 1, 4, 5]),
    v.shuffle(e, g, [2, 3, 6, 7]),
    v.shuffle(h, l, [0, 1, 4, 5]),
    v.shuffle(h, l, [2, 3, 6, 7]),
  ].map((x) => f.local("v128", x));
}

/**
 * Packs B, stored [n, k], into panels. Arguments: address of the first row's first step, bytes from one row
 * to the next, address of the panels, steps of k, rows. Rows that are missing in the last panel repeat the
 * last; up to 3 numbers are read behind a row's end, and up to 3 steps are written behind the last panel.
 */
export function packColumns(module: Module): Func {
  const pointer = module.kind.wide ? "i64" : "i32";
  const f = module.func([pointer, "i32", pointer, "i32", "i32"]);
  const [b, stride, to, steps, rows] = [0, 1, 2, 3, 4].map((i) => f.param(i));
  const first = f.local("i32"), i = f.local("i32");
  const last = f.local("i32", i32.sub(rows, i32.const(1)));
  f.for(first, rows, PANEL, () => {
    for (const half of [0, 1]) {
      const from = [0, 1, 2, 3].map((r) => {
        const row = i32.add(first, i32.const(half * 4 + r));
        return f.pointer(f.plus(b, i32.mul(i32.minU(row, last), stride)));
      });
      const at = f.pointer(to);
      f.set(i, i32.const(0));
      f.for(i, steps, 4, () => {
        const columns = transpose4(f, from.map((p) => f.local("v128", v.load(p))));
        for (const [step, column] of columns.entries()) {
          f.store(at, column, step * 32 + half * 16);
        }
        for (const p of from) f.increase(p, 16);
        f.increase(at, 128);
      });
    }
    f.set(to, f.plus(to, i32.shl(steps, i32.const(5))));
  });
  return f;
}

/**
 * Transposes a piece of A, stored [k, m]. Arguments: address of the first number, bytes from one row to the
 * next, address of the result, bytes from one row of the result to the next, steps of k, columns. Reads up to
 * 3 numbers behind a row's end; up to 3 numbers behind each row of the result, and 3 rows, hold anything.
 */
function transposeRows(module: Module): Func {
  const pointer = module.kind.wide ? "i64" : "i32";
  const f = module.func([pointer, "i32", pointer, "i32", "i32", "i32"]);
  const [a, stride, to, strideTo, steps, columns] = [0, 1, 2, 3, 4, 5].map((i) => f.param(i));
  const column = f.local("i32"), k = f.local("i32");
  const last = f.local("i32", i32.sub(steps, i32.const(1)));
  const from = [0, 1, 2, 3].map(() => f.pointer()), into = [0, 1, 2, 3].map(() => f.pointer());
  const square = () => {
    const rows = transpose4(f, from.map((p) => f.local("v128", v.load(p))));
    for (const [j, row] of rows.entries()) {
      f.store(into[j], row);
      f.increase(into[j], 16);
    }
  };
  const fourRows = f.local("i32", i32.shl(stride, i32.const(2)));
  f.for(column, columns, 4, () => {
    for (const [i, p] of from.entries()) {
      f.set(p, i === 0 ? a : f.plus(from[i - 1], stride));
      f.set(into[i], i === 0 ? to : f.plus(into[i - 1], strideTo));
    }
    f.set(k, i32.const(0));
    f.while(i32.leU(i32.add(k, i32.const(4)), steps), () => {
      square();
      for (const p of from) f.set(p, f.plus(p, fourRows));
      f.increase(k, 4);
    });
    f.if(i32.ltU(k, steps), () => {
      for (const [i, p] of from.entries()) {
        const row = i32.add(k, i32.const(i));
        f.set(p, f.plus(a, i32.mul(i32.minU(row, last), stride)));
      }
      square();
    });
    f.increase(a, 16);
    f.set(to, f.plus(to, i32.shl(strideTo, i32.const(2))));
  });
  return f;
}

/**
 * Copies a piece of A. Arguments: address of the first number, bytes from one row to the next, address of the
 * copy, bytes from one of its rows to the next, numbers of a row, rows. Up to 3 numbers behind each row of
 * the copy hold anything.
 */
function copyRows(module: Module): Func {
  const pointer = module.kind.wide ? "i64" : "i32";
  const f = module.func([pointer, "i32", pointer, "i32", "i32", "i32"]);
  const [a, stride, to, strideTo, numbers, rows] = [0, 1, 2, 3, 4, 5].map((i) => f.param(i));
  const row = f.local("i32"), i = f.local("i32");
  const from = f.pointer(), into = f.pointer();
  f.for(row, rows, 1, () => {
    f.set(from, a);
    f.set(into, to);
    f.set(i, i32.const(0));
    f.for(i, numbers, 4, () => {
      f.store(into, v.load(from));
      f.increase(from, 16);
      f.increase(into, 16);
    });
    f.set(a, f.plus(a, stride));
    f.set(to, f.plus(to, strideTo));
  });
  return f;
}

/** What {@link multiplyBlock} multiplies. */
export interface BlockSpec {
  /** Rows of C. */
  rows: Code;
  /** Panels of 8 columns. */
  panels: Code;
  /** Steps of k. */
  steps: Code;
  /** Address of A. */
  a: Code;
  /** Bytes from one row of A to the next. */
  strideA: Local;
  /** Address of the panels. */
  b: Code;
  /** Address of C. */
  c: Code;
  /** Bytes from one row of C to the next. */
  strideC: Local;
  /** 0 to start C from zero. */
  add: Code;
}

/** C (+)= A · panels, tile by tile. */
export function multiplyBlock(f: Func, micro: readonly Func[], s: BlockSpec): void {
  const panel = f.local("i32", i32.const(0)), row = f.local("i32");
  const b = f.pointer(s.b), column = f.pointer(s.c);
  const a = f.pointer(), c = f.pointer();
  const rows = f.local("i32", s.rows), panels = f.local("i32", s.panels);
  const steps = f.local("i32", s.steps), add = f.local("i32", s.add);
  const strideC6 = f.local("i32", i32.mul(s.strideC, i32.const(TILE_ROWS)));
  const strideA6 = f.local("i32", i32.mul(s.strideA, i32.const(TILE_ROWS)));
  f.for(panel, panels, 1, () => {
    f.set(a, s.a);
    f.set(c, column);
    f.set(row, i32.const(0));
    f.while(i32.leU(i32.add(row, i32.const(TILE_ROWS)), rows), () => {
      f.call(micro[TILE_ROWS - 1], a, s.strideA, b, c, s.strideC, steps, add);
      f.set(a, f.plus(a, strideA6));
      f.set(c, f.plus(c, strideC6));
      f.increase(row, TILE_ROWS);
    });
    const left = f.local("i32", i32.sub(rows, row));
    for (let r = 1; r < TILE_ROWS; r++) {
      f.if(i32.eq(left, i32.const(r)), () => {
        f.call(micro[r - 1], a, s.strideA, b, c, s.strideC, steps, add);
      });
    }
    f.set(b, f.plus(b, i32.shl(steps, i32.const(5))));
    f.increase(column, 32);
  });
}

/** Rows at multiples of so many numbers fall on few places of a cache. */
const AWKWARD = 256;
/** Bytes from one row of a transposed or copied slice of A to the next: no power of two. */
const TURNED_BYTES = (SLICE + 16) * 4;

/** How C is cut into blocks. */
interface Blocks {
  rows: number;
  cols: number;
  down: number;
  across: number;
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;
/** The size of equal pieces, none larger than `most`, rounded up to a multiple. */
const evenly = (n: number, most: number, multiple: number): number =>
  Math.min(roundUp(n, multiple), roundUp(Math.ceil(n / Math.ceil(n / most)), multiple));

/** Multiplications of a block below which cutting it further does not pay, and blocks for each thread. */
const LEAST_WORK = 300_000, BLOCKS_PER_THREAD = 2;

/**
 * Blocks that keep their C and slices of B in the second-level cache and are enough for all threads to have
 * some, if each is still worth taking. How C is cut does not show in it.
 */
export function blocksOf(
  { m, n, k, batch = 1, transA, threads, lda = transA ? m : k }: MatmulSpec,
): Blocks {
  // Rows of A are used once for each block of columns; where they are packed, more columns are better.
  let rows = evenly(m, transA || lda % AWKWARD === 0 ? 132 : 192, TILE_ROWS);
  const most = Math.min(BLOCK_B / SLICE, Math.floor(BLOCK_C / rows / PANEL) * PANEL);
  let cols = evenly(n, Math.max(PANEL, most), PANEL);
  const count = () => Math.ceil(m / rows) * Math.ceil(n / cols) * batch;
  while (count() < BLOCKS_PER_THREAD * threads && rows * cols * k > LEAST_WORK) {
    if (cols > 32 && (cols >= rows || rows <= 24)) cols = evenly(cols, Math.ceil(cols / 2), PANEL);
    else if (rows > 24) rows = evenly(rows, Math.ceil(rows / 2), TILE_ROWS);
    else break;
  }
  return { rows, cols, down: Math.ceil(m / rows), across: Math.ceil(n / cols) };
}

/**
 * The launch that computes a product and hands its rows to `finish`.
 *
 * @throws {RangeError} if both operands are transposed
 */
export function matmulLaunch(spec: MatmulSpec, a: Operand, b: Operand, finish: Finish): CpuLaunch {
  const { m, n, k, batch = 1, transA = false, transB = false, name = "matmul" } = spec;
  if (transA && transB) throw new RangeError("matmul: both operands transposed");
  const { lda = transA ? m : k } = spec;
  const ldb = transB ? k : n;
  const blocks = blocksOf(spec);
  const isCopied = lda % AWKWARD === 0 && k > PANEL ? 1 : 0;
  const { rows, cols, down, across } = blocks;
  const own = [m, n, k, lda * 4, ldb * 4, rows, cols, down, across, isCopied];
  return {
    name: `${name} ${transA ? "T" : "N"}${transB ? "T" : "N"}`,
    operands: [a, b, ...finish.operands],
    params: [...own, ...finish.params],
    items: batch * blocks.down * blocks.across,
    source: {
      key: `matmul ${transA} ${transB} ${finish.key}`,
      operands: 2 + finish.operands.length,
      emit: (kernel) => emitMatmul(kernel, transA, transB, finish, own.length),
    },
  };
}

function emitMatmul(
  kernel: Kernel,
  transA: boolean,
  transB: boolean,
  finish: Finish,
  params: number,
): void {
  const { f, module } = kernel;
  const micro = microKernels(module);
  const packB = transB ? packColumns(module) : packRows(module);
  const turn = transA ? transposeRows(module) : copyRows(module);
  const [m, n, k, strideA, strideB, blockRows, blockCols, down, across, isCopied] = Array.from(
    { length: params },
    (_, i) => kernel.param(i),
  );
  const scope = kernel.scope(2, params);
  const turnedBytes = i32.const(TURNED_BYTES);
  const near = f.pointer(), nearStride = f.local("i32");
  const [c, panels, turned] = [0, AT_B, AT_A].map((at) => kernel.scratch(at));
  kernel.items((item) => {
    const rest = f.local("i32", i32.divU(item, across));
    const col = f.local("i32", i32.mul(i32.remU(item, across), blockCols));
    const row = f.local("i32", i32.mul(i32.remU(rest, down), blockRows));
    const z = f.local("i32", i32.divU(rest, down));
    const rows = f.local("i32", i32.minU(i32.sub(m, row), blockRows));
    const cols = f.local("i32", i32.minU(i32.sub(n, col), blockCols));
    const panelCount = f.local("i32", i32.shrU(i32.add(cols, i32.const(7)), i32.const(3)));
    const strideC = f.local("i32", i32.shl(panelCount, i32.const(5)));
    // Where the block's part of A and B begins: at step 0 of k.
    const storedA = i32.mul(transA ? k : m, strideA), storedB = i32.mul(transB ? n : k, strideB);
    const fromA = transA ? i32.shl(row, i32.const(2)) : i32.mul(row, strideA);
    const fromB = transB ? i32.mul(col, strideB) : i32.shl(col, i32.const(2));
    const a = f.pointer(f.plus(kernel.operand(0), i32.add(i32.mul(z, storedA), fromA)));
    const b = f.pointer(f.plus(kernel.operand(1), i32.add(i32.mul(z, storedB), fromB)));
    const done = f.local("i32", i32.const(0));
    f.for(done, k, SLICE, () => {
      const steps = f.local("i32", i32.minU(i32.sub(k, done), i32.const(SLICE)));
      f.call(packB, b, strideB, panels, steps, transB ? cols : panelCount);
      const stepBytes = i32.shl(steps, i32.const(2));
      const fetch = () => {
        f.call(turn, a, strideA, turned, turnedBytes, steps, rows);
        f.set(near, turned);
        f.set(nearStride, turnedBytes);
      };
      if (transA) fetch();
      else {
        f.if(isCopied, fetch, () => {
          f.set(near, a);
          f.set(nearStride, strideA);
        });
      }
      multiplyBlock(f, micro, {
        rows,
        panels: panelCount,
        steps,
        a: near,
        strideA: nearStride,
        b: panels,
        c,
        strideC,
        add: i32.ne(done, i32.const(0)),
      });
      f.set(a, f.plus(a, transA ? i32.mul(steps, strideA) : stepBytes));
      f.set(b, f.plus(b, transB ? stepBytes : i32.mul(steps, strideB)));
    });
    const r = f.local("i32", i32.const(0));
    const source = f.pointer(f.minus(c, i32.shl(col, i32.const(2))));
    f.for(r, rows, 1, () => {
      const flat = f.local("i32", i32.add(i32.add(i32.mul(z, m), row), r));
      finish.emit(kernel, scope, {
        row: flat,
        from: col,
        to: i32.add(col, cols),
        seed: (bytes, lanes) => {
          const at = f.plus(source, bytes);
          return lanes === 4 ? v.load(at) : v.loadSplat(at);
        },
      });
      f.set(source, f.plus(source, strideC));
    });
  });
}

/** Emits {@link MATMUL}. */
export function lowerMatmul(node: Node<MatmulOptions>, to: CpuLowering): void {
  const [a, b] = node.inputs, { transA, transB } = node.attrs;
  const spec = { ...matmulSizes(node), transA, transB, threads: to.threads };
  to.emit(matmulLaunch(spec, to.at(a), to.at(b), to.finish()));
}
