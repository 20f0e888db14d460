/**
 * Matrix multiplication: one generator for the three layouts of training (`NN` forward, `NT` for input
 * gradients and logits, `TN` for weight gradients).
 *
 * The classic two-level scheme: a workgroup computes a 128 × 128 block (64 × 64 where the output is small)
 * from slabs of A and B in workgroup memory, both stored with k first so that a thread's 8 × 8 cell reads
 * vec4; the next slab travels through registers meanwhile. Outputs with too few blocks to fill a large GPU
 * are split along k into partial sums, which a second launch adds.
 *
 * The order of summation is fixed: the same launch gives the same bits. Sizes are params, so that one
 * pipeline serves many shapes; the text depends on layout, tile, which edges need guards, and epilogue.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";
import { type MatmulOptions, matmulSizes } from "../primitives/matmul.ts";
import type { Operand } from "../program/lowering.ts";
import {
  ceilDiv,
  type Dispatch,
  type Epilogue,
  type KernelSource,
  LINEAR_GROUP,
  linearGrid,
  MAX_GRID,
} from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";

/** A multiplication `C[z, m, n] = Σ_k opA[z, m, k] · opB[z, k, n]`; all sizes in elements. */
export interface MatmulSpec {
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
  /**
   * Distance between stored rows of A; contiguous if absent. The last row's padding must exist too:
   * vec4 loads touch it.
   */
  lda?: number;
  /** Distance between stored rows of B; contiguous if absent. */
  ldb?: number;
  /** Distance between rows of C in the default epilogue; `n` if absent. */
  ldc?: number;
  /** Distance between A's matrices; contiguous if absent, 0 shares one. */
  strideA?: number;
  /** Distance between B's matrices; contiguous if absent, 0 shares one. */
  strideB?: number;
  /**
   * Stored rows of B that exist. Loads past them read the last one: the matching columns of A must
   * be zero (k rows) or the matching columns of C ignored by the epilogue (n rows).
   */
  bRows?: number;
  /**
   * Consumer of the results, at flat row `z·m + row`; stores into binding `c` if absent. Its params
   * must not bear the names of the kernel's own (`m`, `n`, `k`, `batch`, …).
   */
  epilogue?: Epilogue;
  /** Overrides {@link chooseTile}, for tuners and tests. */
  tile?: Tile;
}

/** How a kernel cuts its work. */
export type Tile =
  /** A workgroup owns a square block of C, a thread a square cell of it; k is cut in `splits`. */
  | { kind: "block"; block: 128 | 64; cell: 8 | 4; splits: number }
  /** Element by element, for sizes that vec4 cannot address. */
  | { kind: "scalar" };

/** Launches of a multiplication, in order. */
export interface MatmulPlan {
  /**
   * One launch with bindings `a`, `b` and the epilogue's; or, with k split, one with `a`, `b`,
   * `partials` and one with `partials` and the epilogue's.
   */
  launches: Dispatch[];
  /** Bytes that `partials` needs; 0 without split. */
  scratchBytes: number;
}

/** Workgroups that keep a large GPU busy: two on each of its 132 multiprocessors. */
const FULL_GPU = 264;
/** Threads of a workgroup of the scalar kernel. */
const SCALAR_THREADS = 64;
/** Rows and columns that a thread of the scalar kernel owns. */
const SCALAR_CELL = 4;

/** The spec with defaults filled in. */
type Full = Required<Omit<MatmulSpec, "epilogue" | "tile">>;

function complete(spec: MatmulSpec): Full {
  const { m, n, k, batch = 1, transA = false, transB = false } = spec;
  for (const [name, size] of Object.entries({ m, n, k, batch })) {
    if (!Number.isInteger(size) || size < 1) {
      throw new RangeError(`matmul: ${name} is ${size}, expected a positive integer`);
    }
  }
  if (transA && transB) {
    throw new RangeError("matmul: both operands transposed; transpose the product instead");
  }
  const [rowsA, colsA] = transA ? [k, m] : [m, k];
  const [rowsB, colsB] = transB ? [n, k] : [k, n];
  const { lda = colsA, ldb = colsB, ldc = n } = spec;
  const bRows = Math.min(spec.bRows ?? rowsB, rowsB);
  if (lda < colsA || ldb < colsB || ldc < n || bRows < 1) {
    throw new RangeError(
      `matmul ${m}×${n}×${k}: lda ${lda}, ldb ${ldb}, ldc ${ldc} or bRows ${bRows} is too small`,
    );
  }
  // A single product never moves; 0 keeps its vec4 path open whatever its size.
  const strideA = batch === 1 ? 0 : spec.strideA ?? rowsA * lda;
  const strideB = batch === 1 ? 0 : spec.strideB ?? bRows * ldb;
  return { m, n, k, batch, transA, transB, lda, ldb, ldc, strideA, strideB, bRows };
}

/**
 * Elements per value that the epilogue of this multiplication will get: 4 if every size and stride
 * allows vec4 access, else 1.
 *
 * @example
 * ```ts
 * import { matmulWidth } from "./matmul.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(matmulWidth({ m: 3, n: 8, k: 4 }), 4);
 * assert.equal(matmulWidth({ m: 3, n: 7, k: 4 }), 1);
 * ```
 */
export function matmulWidth(spec: MatmulSpec): 1 | 4 {
  const { n, k, lda, ldb, ldc, strideA, strideB } = complete(spec);
  const sizes = [n, k, lda, ldb, strideA, strideB, spec.epilogue ? 0 : ldc];
  return spec.tile?.kind !== "scalar" && sizes.every((size) => size % 4 === 0) ? 4 : 1;
}

/**
 * The kernels that compute `spec`.
 *
 * @param spec sizes and layout
 * @throws {RangeError} if a size or stride makes no sense, or both operands are transposed
 *
 * @example
 * ```ts
 * import { matmul } from "./matmul.ts";
 * import assert from "node:assert/strict";
 *
 * const forward = matmul({ m: 4096, n: 512, k: 128 });
 * assert.deepEqual(forward.launches[0].source.bindings.map((b) => b.name), ["a", "b", "c"]);
 *
 * // A weight gradient has few blocks and long sums: a GPU splits it.
 * const dW = matmul({ m: 768, n: 768, k: 8192, transA: true });
 * assert.equal(dW.launches.length, 2);
 * assert.equal(dW.scratchBytes, 8 * 768 * 768 * 4);
 * ```
 */
export function matmul(spec: MatmulSpec): MatmulPlan {
  const full = complete(spec);
  const tile = chooseTile(spec);
  const epilogue = spec.epilogue ?? storeTo("c", tile.kind === "scalar" ? 1 : 4, full.ldc);
  switch (tile.kind) {
    case "scalar":
      return { launches: [scalarLaunch(full, epilogue)], scratchBytes: 0 };
    case "block": {
      if (tile.splits === 1) {
        return { launches: [blockLaunch(full, tile, epilogue)], scratchBytes: 0 };
      }
      const partial = blockLaunch(full, tile, storeTo("partials", 4, full.n));
      const sum = sumLaunch(full, tile.splits, epilogue);
      const scratchBytes = tile.splits * full.batch * full.m * full.n * 4;
      return { launches: [partial, sum], scratchBytes };
    }
  }
}

/** Emits the kernels of a product, with scratch memory for partial sums if it needs any. */
export function emitMatmul(
  to: GpuLowering,
  spec: MatmulSpec,
  operands: Record<string, Operand>,
): void {
  const { launches, scratchBytes } = matmul(spec);
  const partials = scratchBytes > 0 ? to.scratch(scratchBytes, "partial sums") : undefined;
  for (const launch of launches) to.emit(launch, { ...operands, partials });
}

/** Kernels of the primitive `matmul`. */
export function lowerMatmul(node: Node<MatmulOptions>, to: GpuLowering): void {
  const { inputs: [a, b], attrs: { transA, transB } } = node;
  const { epilogue, operands } = to.epilogue();
  const spec = { ...matmulSizes(node), transA, transB, epilogue };
  emitMatmul(to, spec, { a: to.at(a), b: to.at(b), ...operands });
}

/**
 * The tile for a multiplication: `spec.tile` if given, else the cheapest by a small cost model.
 *
 * @example
 * ```ts
 * import { chooseTile } from "./matmul.ts";
 * import assert from "node:assert/strict";
 *
 * const logits = chooseTile({ m: 8192, n: 3072, k: 768 });
 * assert.deepEqual(logits, { kind: "block", block: 128, cell: 8, splits: 1 });
 * ```
 */
export function chooseTile(spec: MatmulSpec): Tile {
  if (matmulWidth(spec) === 1) return { kind: "scalar" };
  if (spec.tile) return spec.tile;
  return chooseBlock(complete(spec));
}

function chooseBlock({ m, n, k, batch }: Full): Tile {
  const plan = (block: 128 | 64, cell: 8 | 4, shortest: number): Tile & { kind: "block" } => {
    const blocks = ceilDiv(m, block) * ceilDiv(n, block) * batch;
    // A nearly full GPU is not worth the second launch.
    const wanted = blocks * 4 >= FULL_GPU * 3 ? 1 : ceilDiv(FULL_GPU, blocks);
    const splits = Math.max(1, Math.min(wanted, Math.floor(k / shortest), 32));
    return { kind: "block", block, cell, splits };
  };
  const large = plan(128, 8, 512);
  const groups = ceilDiv(m, 128) * ceilDiv(n, 128) * batch * large.splits;
  const fits = Math.min(m, n) > 64 && groups * 2 >= FULL_GPU;
  return fits ? large : plan(64, 4, 256);
}

// ---------------------------------------------------------------------------------------------------
// Pieces of text that all kernels share

/** Params of every multiplying kernel, ahead of the epilogue's. */
const PARAMS = "m n k lda ldb strideA strideB bRows batch tilesM tilesN groups splitK".split(" ");

function paramValues(full: Full, tilesM: number, tilesN: number, groups: number, splitK: number) {
  const { m, n, k, lda, ldb, strideA, strideB, bRows, batch } = full;
  return [m, n, k, lda, ldb, strideA, strideB, bRows, batch, tilesM, tilesN, groups, splitK];
}

/** The default epilogue: plain stores into one buffer with row distance `ldc`. */
function storeTo(name: string, width: 1 | 4, ldc: number): Epilogue {
  const type = width === 4 ? "array<vec4f>" : "array<f32>";
  return {
    bindings: [{ name, type, access: "read_write" }],
    params: ["ldc"],
    values: [ldc],
    functions: "",
    usesRun: false,
    store: (value, row, col, w) =>
      w === 4
        ? `${name}[(${row} * P.ldc + ${col}) >> 2u] = ${value};`
        : `${name}[${row} * P.ldc + ${col}] = ${value};`,
  };
}

/** The epilogue as a function, so that unrolled kernels repeat a call and not its text. */
function finishFunction(epilogue: Epilogue, width: 1 | 4): string {
  const type = width === 4 ? "vec4f" : "f32";
  return `${epilogue.functions}
fn finish(value: ${type}, row: u32, col: u32) {
  ${epilogue.store("value", "row", "col", width)}
}`;
}

function source(
  name: string,
  width: 1 | 4,
  inputs: string[],
  params: string[],
  epilogue: Epilogue,
  body: string,
): KernelSource {
  const type = width === 4 ? "array<vec4f>" : "array<f32>";
  const taken = epilogue.params.find((param) => params.includes(param));
  if (taken) throw new Error(`${name}: the epilogue's param ${taken} is one of the kernel's own`);
  return {
    name,
    bindings: [
      ...inputs.map((input) => ({ name: input, type, access: "read" as const })),
      ...epilogue.bindings,
    ],
    params: [...params, ...epilogue.params],
    body: `${finishFunction(epilogue, width)}\n${body}`,
    usesRun: epilogue.usesRun,
  };
}

/**
 * Finds a workgroup's tile. Column tiles come first: neighbouring workgroups then share their rows of
 * A, and B, mostly the smaller one in training, stays in the cache (up to 20 % faster than rows first).
 */
function findTile(groups: number): string {
  // The check is only for folded grids; it is uniform, so barriers may follow.
  const check = groups > MAX_GRID ? "\n  if (group >= P.groups) { return; }" : "";
  return `let group = ${LINEAR_GROUP};${check}
  let tileN = group % P.tilesN;
  let tileM = group / P.tilesN % P.tilesM;
  let slice = group / (P.tilesM * P.tilesN);`;
}

function entry(threads: number, text: string): string {
  return `@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
  ${text}
}`;
}

function layoutName({ transA, transB }: Full): string {
  return `${transA ? "T" : "N"}${transB ? "T" : "N"}`;
}

/** `min(x, limit - 1)`, or `x` without a limit. */
function clamped(x: string, limit: string | undefined): string {
  return limit ? `min(${x}, ${limit} - 1u)` : x;
}

/** `text` under a condition, if there is one. */
function guarded(conditions: string[], text: string): string {
  return conditions.length === 0 ? text : `if (${conditions.join(" && ")}) { ${text} }`;
}

/** `[0, 1, …, n − 1]`. */
function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** Joins the text that `emit` gives for 0…n−1. */
function repeat(n: number, emit: (i: number) => string, separator = "\n  "): string {
  return range(n).map(emit).join(separator);
}

/** True if B's stored rows need clamping because some do not exist. */
function clampsB({ transB, bRows, n, k }: Full): boolean {
  return bRows < (transB ? n : k);
}

// ---------------------------------------------------------------------------------------------------
// Blocks in workgroup memory

/** What the text of a block kernel depends on. */
interface BlockShape {
  block: number;
  cell: number;
  /** Steps of k in a slab. */
  depth: number;
  transA: boolean;
  transB: boolean;
  edgeM: boolean;
  edgeN: boolean;
  /** k is not a multiple of the slab's depth. */
  edgeK: boolean;
  clampB: boolean;
  split: boolean;
}

/** Threads of a block kernel, in a 16 × 16 square. */
const THREADS = 256;

function blockLaunch(
  full: Full,
  { block, cell, splits }: Tile & { kind: "block" },
  epilogue: Epilogue,
): Dispatch {
  // Each thread moves one 4 × 4 piece of a slab, half of the threads for A and half for B.
  const depth = THREADS * 16 / (2 * block);
  const shape: BlockShape = {
    ...{ block, cell, depth, transA: full.transA, transB: full.transB },
    edgeM: full.m % block !== 0,
    edgeN: full.n % block !== 0,
    edgeK: full.k % depth !== 0,
    clampB: clampsB(full),
    split: splits > 1,
  };
  const tilesM = ceilDiv(full.m, block);
  const tilesN = ceilDiv(full.n, block);
  const groups = tilesM * tilesN * full.batch * splits;
  const splitK = ceilDiv(ceilDiv(full.k, splits), depth) * depth;
  const name = `matmul${layoutName(full)} ${block}x${block}${splits > 1 ? " split" : ""}`;
  return {
    source: source(name, 4, ["a", "b"], PARAMS, epilogue, blockBody(shape, groups)),
    params: [...paramValues(full, tilesM, tilesN, groups, splitK), ...epilogue.values],
    grid: linearGrid(groups),
  };
}

/**
 * Slabs lie in workgroup memory with k first. The outer index is always a constant of the text, so
 * that the compiler's bounds check of the inner one is shared by all steps; the odd row length keeps
 * the transposing stores free of bank conflicts. 2 × 16 × 33 vec4 are 16.5 KiB, 2 × 32 × 17 are 17 KiB:
 * half of what every desktop GPU offers, and two workgroups fit on a multiprocessor.
 */
function blockBody(shape: BlockShape, groups: number): string {
  const { block, depth, split } = shape;
  const perSide = (emit: (side: Side) => string) =>
    `if (forA) {
      ${emit(sideA(shape))}
    } else {
      ${emit(sideB(shape))}
    }`;
  const row = `array<vec4f, ${block / 4 + 1}>`;
  const bounds = split
    ? `let z = slice % P.batch;
  let first = slice / P.batch * P.splitK;
  let end = min(first + P.splitK, P.k);`
    : `let z = slice;
  let first = 0u;
  let end = P.k;`;
  return `var<workgroup> slabA: array<${row}, ${depth}>;
var<workgroup> slabB: array<${row}, ${depth}>;
` + entry(
    THREADS,
    `${findTile(groups)}
  ${bounds}
  let row = tileM * ${block}u;
  let col = tileN * ${block}u;
  let lda = P.lda >> 2u;
  let ldb = P.ldb >> 2u;
  let startA = z * (P.strideA >> 2u);
  let startB = z * (P.strideB >> 2u);
  let thread = l.x;
  let tx = thread & 15u;
  let ty = thread >> 4u;
  let forA = thread < ${THREADS / 2}u;
  let piece = thread & ${THREADS / 2 - 1}u;
  ${pieceOfSlab(shape)}
  ${accumulators(shape)}
  var p0 = vec4f(); var p1 = vec4f(); var p2 = vec4f(); var p3 = vec4f();
  var next = first;
  ${perSide((side) => fetch(shape, side))}
  for (var k0 = first; k0 < end; k0 += ${depth}u) {
    ${perSide(put)}
    workgroupBarrier();
    // The next slab is under way while this one is used.
    next = k0 + ${depth}u;
    if (next < end) {
      ${perSide((side) => fetch(shape, side))}
    }
    ${multiplySlab(shape)}
    workgroupBarrier();
  }
  ${finishBlock(shape)}`,
  );
}

/**
 * Which 4 × 4 piece of a slab a thread moves: `x` is its vec4 of rows (A) or columns (B), `kg` its
 * group of four steps. Where memory runs along rows or columns ("direct"), neighbouring threads take
 * neighbouring vec4. Where memory runs along k ("turned"), eight neighbours take 2 groups × 4 pieces,
 * so that their stores meet different banks and their loads whole sectors.
 */
function pieceOfSlab({ block, depth }: BlockShape): string {
  const half = depth / 8;
  const bits = Math.log2(half);
  return `let xDirect = piece & ${block / 4 - 1}u;
  let kgDirect = piece / ${block / 4}u;
  let kgTurned = (piece & 1u) | (((piece >> 3u) & ${half - 1}u) << 1u);
  let xTurned = ((piece >> 1u) & 3u) | ((piece >> ${3 + bits}u) << 2u);`;
}

/** One operand of a block kernel, as text. */
interface Side {
  buffer: string;
  slab: string;
  /** First row of A, or column of B, of the block. */
  origin: string;
  /** Rows of A, or columns of B, that exist; loads past them are clamped. */
  limit?: string;
  /** Stored rows that exist where they run along k, if loads must be clamped. */
  limitK?: string;
  /** Distance of stored rows and start of the matrix, in vec4. */
  stride: string;
  start: string;
  /** Memory runs along k, so pieces must be transposed on their way. */
  turned: boolean;
}

function sideA({ transA, edgeM }: BlockShape): Side {
  return {
    ...{ buffer: "a", slab: "slabA", origin: "row", stride: "lda", start: "startA" },
    limit: edgeM ? "P.m" : undefined,
    turned: !transA,
  };
}

function sideB({ transB, edgeN, clampB }: BlockShape): Side {
  const side = { buffer: "b", slab: "slabB", origin: "col", stride: "ldb", start: "startB" };
  return transB ? { ...side, limit: edgeN || clampB ? "P.bRows" : undefined, turned: true } : {
    ...side,
    limit: edgeN ? "P.n" : undefined,
    limitK: clampB ? "P.bRows" : undefined,
    turned: false,
  };
}

/** Loads a thread's piece of the slab that starts at `next` into `p0…p3`, as it lies in memory. */
function fetch({ edgeK }: BlockShape, side: Side): string {
  const { buffer, origin, limit, limitK, stride, start, turned } = side;
  const at = turned
    ? `${start} + (next >> 2u) + kgTurned`
    : `${start} + ${clamped(`(${origin} >> 2u) + xDirect`, limit && `((${limit} + 3u) >> 2u)`)}`;
  return `let at = ${at};\n      ` + repeat(4, (i) => {
    const step = turned ? "next + kgTurned * 4u" : `next + kgDirect * 4u + ${i}u`;
    const row = turned ? clamped(`${origin} + xTurned * 4u + ${i}u`, limit) : clamped(step, limitK);
    const load = `${buffer}[at + (${row}) * ${stride}]`;
    return `p${i} = ${edgeK ? `select(vec4f(), ${load}, ${step} < end)` : load};`;
  }, "\n      ");
}

/** Stores a piece into its slab, k first. */
function put({ slab, turned }: Side): string {
  return repeat(
    4,
    (i) =>
      turned
        ? `${slab}[kgTurned * 4u + ${i}u][xTurned] = vec4f(p0[${i}], p1[${i}], p2[${i}], p3[${i}]);`
        : `${slab}[kgDirect * 4u + ${i}u][xDirect] = p${i};`,
    "\n      ",
  );
}

/** Vec4 of rows, and of columns, in a thread's cell; they lie half a block apart. */
function halves({ cell }: BlockShape): number {
  return cell / 4;
}

function accumulators(shape: BlockShape): string {
  return repeat(
    shape.cell * halves(shape),
    (i) => `var c${i % shape.cell}_${Math.floor(i / shape.cell)} = vec4f();`,
    " ",
  );
}

function multiplySlab(shape: BlockShape): string {
  const parts = halves(shape);
  return repeat(shape.depth, (step) => {
    const loads = repeat(
      parts,
      (h) =>
        `let a${h} = slabA[${step}][ty + ${16 * h}u]; let b${h} = slabB[${step}][tx + ${16 * h}u];`,
      " ",
    );
    const fmas = repeat(shape.cell * parts, (at) => {
      const i = at % shape.cell;
      const j = Math.floor(at / shape.cell);
      return `c${i}_${j} = fma(vec4f(a${i >> 2}[${i & 3}]), b${j}, c${i}_${j});`;
    }, " ");
    return `{ ${loads} ${fmas} }`;
  }, "\n    ");
}

function finishBlock(shape: BlockShape): string {
  return `let flat = slice * P.m;\n  ` + repeat(halves(shape), (j) => {
    const cells = repeat(shape.cell, (i) => {
      const r = `r${i}_${j}`;
      const at = `let ${r} = row + ty * 4u + ${64 * (i >> 2) + (i & 3)}u;`;
      const call = `finish(c${i}_${j}, flat + ${r}, x${j});`;
      return `${at} ${guarded(shape.edgeM ? [`${r} < P.m`] : [], call)}`;
    });
    const at = `let x${j} = col + tx * 4u + ${64 * j}u;`;
    return `${at}\n  ${guarded(shape.edgeN ? [`x${j} < P.n`] : [], cells)}`;
  });
}

/** Adds the partial sums of a split multiplication in order, four columns per thread. */
function sumLaunch(full: Full, splits: number, epilogue: Epilogue): Dispatch {
  const { m, n, batch } = full;
  const total = batch * m * n / 4;
  const body = entry(
    THREADS,
    `let i = ${LINEAR_GROUP} * ${THREADS}u + l.x;
  if (i >= P.total) { return; }
  var sum = partials[i];
  for (var s = 1u; s < P.splits; s++) { sum += partials[i + s * P.total]; }
  finish(sum, i / P.perRow, i % P.perRow * 4u);`,
  );
  const params = ["total", "splits", "perRow"];
  return {
    source: source("matmul sum", 4, ["partials"], params, epilogue, body),
    params: [total, splits, n / 4, ...epilogue.values],
    grid: linearGrid(ceilDiv(total, THREADS)),
  };
}

// ---------------------------------------------------------------------------------------------------
// Element by element, for odd sizes

/** A kernel without vec4: each thread owns 4 × 4 cells, its columns one workgroup width apart. */
function scalarLaunch(full: Full, epilogue: Epilogue): Dispatch {
  const lanes = SCALAR_THREADS;
  const tilesM = ceilDiv(full.m, SCALAR_CELL);
  const tilesN = ceilDiv(full.n, SCALAR_CELL * lanes);
  const groups = tilesM * tilesN * full.batch;
  const cells = (emit: (i: number, j: number) => string) =>
    repeat(SCALAR_CELL, (i) => repeat(SCALAR_CELL, (j) => emit(i, j), " "));
  const kRow = clamped("k", !full.transB && clampsB(full) ? "P.bRows" : undefined);
  const atA = (i: number) => full.transA ? `k * P.lda + row${i}` : `row${i} * P.lda + k`;
  const atB = (j: number) => full.transB ? `col${j} * P.ldb + k` : `${kRow} * P.ldb + col${j}`;
  const columns = full.transB ? "P.bRows" : "P.n";
  const body = entry(
    lanes,
    `${findTile(groups)}
  let row = tileM * ${SCALAR_CELL}u;
  let col = tileN * ${SCALAR_CELL * lanes}u + l.x;
  let startA = slice * P.strideA;
  let startB = slice * P.strideB;
  ${repeat(SCALAR_CELL, (i) => `let row${i} = ${clamped(`row + ${i}u`, "P.m")};`)}
  ${repeat(SCALAR_CELL, (j) => `let col${j} = ${clamped(`col + ${j * lanes}u`, columns)};`)}
  ${cells((i, j) => `var c${i}_${j} = 0.0;`)}
  for (var k = 0u; k < P.k; k++) {
  ${repeat(SCALAR_CELL, (i) => `let a${i} = a[startA + ${atA(i)}];`)}
  ${repeat(SCALAR_CELL, (j) => `let b${j} = b[startB + ${atB(j)}];`)}
  ${cells((i, j) => `c${i}_${j} = fma(a${i}, b${j}, c${i}_${j});`)}
  }
  let flat = slice * P.m + row;
  ${
      cells((i, j) =>
        guarded(
          [`row + ${i}u < P.m`, `col + ${j * lanes}u < P.n`],
          `finish(c${i}_${j}, flat + ${i}u, col + ${j * lanes}u);`,
        )
      )
    }`,
  );
  return {
    source: source(`matmul${layoutName(full)} scalar`, 1, ["a", "b"], PARAMS, epilogue, body),
    params: [...paramValues(full, tilesM, tilesN, groups, full.k), ...epilogue.values],
    grid: linearGrid(groups),
  };
}

// ---------------------------------------------------------------------------------------------------
// Reference

/**
 * The same product in plain TypeScript, summed in float64; for tests. Ignores the epilogue: returns
 * C densely, `[batch, m, n]`.
 *
 * @param spec as for {@link matmul}
 * @param a A's buffer
 * @param b B's buffer
 *
 * @example
 * ```ts
 * import { matmulReference } from "./matmul.ts";
 * import assert from "node:assert/strict";
 *
 * const spec = { m: 1, n: 2, k: 2 };
 * assert.deepEqual([...matmulReference(spec, [1, 2], [3, 4, 5, 6])], [13, 16]);
 * ```
 */
export function matmulReference(
  spec: MatmulSpec,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
): Float64Array {
  const { m, n, k, batch, transA, transB, lda, ldb, strideA, strideB, bRows } = complete(spec);
  const c = new Float64Array(batch * m * n);
  for (let z = 0; z < batch; z++) {
    for (let row = 0; row < m; row++) {
      for (let col = 0; col < n; col++) {
        let sum = 0;
        for (let i = 0; i < k; i++) {
          const [rowA, colA] = transA ? [i, row] : [row, i];
          const [rowB, colB] = transB ? [col, i] : [i, col];
          sum += a[z * strideA + rowA * lda + colA] *
            b[z * strideB + Math.min(rowB, bRows - 1) * ldb + colB];
        }
        c[(z * m + row) * n + col] = sum;
      }
    }
  }
  return c;
}
