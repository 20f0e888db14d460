/**
 * Fused scaled-dot-product attention, forward and backward, with key mask, causal mask, segments, relative
 * position bias and dropout inside. No [Lq, Lk] matrix is ever stored: scores exist tile by tile, in memory
 * that a thread has for itself.
 *
 * **Forward**: a piece of work is a block of queries of one head. It walks the keys in tiles: packs them and
 * their values once, then, for each tile of queries, multiplies, updates an online softmax and multiplies
 * again. **Backward**: a piece of work is one head, so that sums over queries and over keys both stay with
 * one thread and need neither atomics nor a second pass. It computes the probabilities again, from the
 * log-sum-exp of each query. Its tiles are transposed, keys × queries: then both products that sum over
 * queries read a tile as it lies, and only the one for dq needs it turned.
 *
 * Scores are kept in units of ln 2, which saves the exponential a multiplication: scale and bias are
 * multiplied by log₂ e on the way in. Bias and causal mask both depend on key − query alone; their sum is
 * laid out along that difference, one window per tile, from which a row of scores reads it as a vector.
 *
 * Keys behind the last one that the mask lets through cost nothing.
 *
 * Measured in one thread, in shares of what the micro-kernel of `matmul.ts` reaches alone in the same run, and
 * counted as 4·B·H·L²·width operations forward, 10 backward; medians over 80 rounds and more of processor
 * time on two busy cores, where quartiles lie 4 to 10 points away:
 *
 * | batch, heads, width, L | options | forward | backward |
 * |---|---|---|---|
 * | 8, 4, 32, 64 | bias, dropout | 54 % | 63 % |
 * | 64, 4, 32, 64 | bias, dropout | 54 % | 64 % |
 * | 2, 12, 64, 512 | bias, dropout | 78 % | 80 % |
 *
 * At width 32, softmax takes a quarter of the forward pass, of which the hash of dropout is two fifths.
 *
 * The text depends on head width, bias, causality, segments and dropout or not; sizes, scale, stream and
 * dropout probability are params.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";
import {
  type AttentionAttrs,
  type AttentionSpec,
  attentionSpec,
} from "../primitives/attention_spec.ts";
import { RUN_KEY, RUN_SEQUENCE } from "../program/device.ts";
import type { Operand } from "../program/lowering.ts";
import {
  type Code,
  type Func,
  i32,
  type Local,
  type Module,
  v,
  type WasmType,
} from "./assembler.ts";
import { bitsOf, type CpuLaunch, type Kernel, SCRATCH_BYTES } from "./kernel.ts";
import type { CpuLowering } from "./lower.ts";
import { largest, log, mix32, total } from "./math.ts";
import {
  microKernels,
  multiplyBlock,
  packColumns,
  packRows,
  PANEL,
  TILE_ROWS,
  transpose4,
} from "./matmul.ts";

/** Memory of a forward pass. */
export interface AttentionOperands {
  /** Queries, [batch, Lq, heads·headDim]. */
  q: Operand;
  /** Keys, [batch, Lk, heads·headDim]. */
  k: Operand;
  /** Values, like the keys. */
  v: Operand;
  /** u32 [batch, Lk], nonzero where the key may be attended. */
  mask: Operand;
  /** The result, like the queries. */
  out: Operand;
  /** Log-sum-exp of each query's scores, [batch, heads, Lq]. */
  lse: Operand;
  /** [Lq + Lk − 1, heads], row j − i + Lq − 1 for query i and key j; one such table after the other if own. */
  bias?: Operand;
}

/** Memory of a backward pass. */
export interface AttentionGradOperands extends AttentionOperands {
  /** Gradient of the result, like it. */
  gOut: Operand;
  /** Gradient of the queries, like them. */
  dq: Operand;
  /** Gradient of the keys, like them. */
  dk: Operand;
  /** Gradient of the values, like them. */
  dv: Operand;
  /** Gradient of the bias, like it. */
  dbias?: Operand;
}

/** Score of an excluded key: finite, so that no NaN can arise, and far below {@link FLOOR}. */
const MASKED = -1e30;
/** Least running maximum: 2^(MASKED − FLOOR) is 0. */
const FLOOR = -1e20;
/** Log-sum-exp of a query without keys: exp(anything − NOWHERE) is 0. */
const NOWHERE = 1e20;

/** Most queries and keys of a tile of scores: 48 KiB, of the second-level cache. */
const QUERIES = 96, KEYS = 128;
/** The same, backward, where three tiles live at once and common lengths should leave no remainder. */
const BACK_QUERIES = 64, BACK_KEYS = 128;
/** Most queries in a piece of work: packing the keys is shared by them. */
const BLOCK = 384;
/** Pieces of work that fill any processor, and the fewest queries for which keys are worth packing. */
const ENOUGH_BLOCKS = 32, LEAST_BLOCK = 48;

/**
 * The forward launch. A query that may attend nowhere gives output 0 and lse 1e20, with which the backward
 * pass finds all its probabilities to be 0.
 *
 * Attention weight (b, h, i, j) survives dropout if `mix32(key ^ (i·Lk + j)) ≥ floor(dropout·2³²)`, where
 * key is `mix32(mix32(run key ^ stream) ^ mix32((first sequence of the run + b)·heads + h))`.
 *
 * @throws {RangeError} if the spec is not supported
 *
 * @example
 * ```ts
 * import { attentionForward } from "./attention.ts";
 * import assert from "node:assert/strict";
 *
 * const launch = attentionForward({
 *   batch: 64, heads: 4, queryLength: 128, keyLength: 128, headDim: 32,
 *   causal: true, bias: false, dropout: 0.1, stream: 7,
 * }, { q: {}, k: {}, v: {}, mask: {}, out: {}, lse: {} });
 * assert.equal(launch.items, 64 * 4);
 * ```
 */
export function attentionForward(spec: AttentionSpec, o: AttentionOperands): CpuLaunch {
  checkSpec(spec);
  const { batch, heads, queryLength } = spec;
  const rows = blockRows(spec);
  const blocks = Math.ceil(queryLength / rows);
  const text = textOf(spec);
  const operands = [o.q, o.k, o.v, o.mask, o.out, o.lse, ...(spec.bias ? [o.bias!] : [])];
  return {
    name: "attention",
    operands,
    params: paramsOf(spec, {
      blockRows: rows,
      blocks,
      tileRows: evenly(rows, QUERIES, TILE_ROWS),
      tileKeys: evenly(spec.keyLength, KEYS, PANEL),
    }),
    items: batch * heads * blocks,
    source: {
      key: `attention ${JSON.stringify(text)}`,
      operands: operands.length,
      emit: (kernel) => emitForward(kernel, text),
    },
  };
}

/**
 * The backward launches: one for all gradients, whose operands are overwritten, not added to; with bias a
 * second one, which adds up what each sequence contributes to dbias, in their order.
 *
 * @param scratch allocates memory for the contributions
 * @throws {RangeError} if the spec is not supported
 *
 * @example
 * ```ts
 * import { attentionBackward } from "./attention.ts";
 * import assert from "node:assert/strict";
 *
 * const launches = attentionBackward({
 *   batch: 2, heads: 4, queryLength: 128, keyLength: 128, headDim: 32,
 *   causal: true, bias: false, dropout: 0, stream: 7,
 * }, {
 *   q: {}, k: {}, v: {}, mask: {}, out: {}, lse: {}, gOut: {}, dq: {}, dk: {}, dv: {},
 * }, () => ({}));
 * assert.deepEqual(launches.map((launch) => launch.items), [2 * 4]);
 * ```
 */
export function attentionBackward(
  spec: AttentionSpec,
  o: AttentionGradOperands,
  scratch: (bytes: number, label: string) => Operand,
): CpuLaunch[] {
  checkSpec(spec);
  if (spec.ownBias) {
    throw new RangeError("attention: no derivative with a bias for each sequence");
  }
  const { batch, heads, queryLength, keyLength } = spec;
  const text = textOf(spec);
  // Tiles of queries are stored in whole vectors: up to 7 diagonals behind the last.
  const width = roundUp(queryLength + keyLength + 8, 4);
  const parts = spec.bias ? scratch(batch * heads * width * 4, "attention dbias") : undefined;
  const operands = [o.q, o.k, o.v, o.mask, o.out, o.lse, o.gOut, o.dq, o.dk, o.dv];
  if (parts) operands.push(o.bias!, parts);
  const launches: CpuLaunch[] = [{
    name: "attention gradients",
    operands,
    params: paramsOf(spec, {
      partsWidth: width,
      tileRows: evenly(queryLength, BACK_QUERIES, PANEL),
      tileKeys: evenly(keyLength, BACK_KEYS, PANEL),
    }),
    items: batch * heads,
    source: {
      key: `attention gradients ${JSON.stringify(text)}`,
      operands: operands.length,
      emit: (kernel) => emitBackward(kernel, text),
    },
  }];
  if (parts) launches.push(sumPartsLaunch(spec, parts, o.dbias!, width));
  return launches;
}

function checkSpec(spec: AttentionSpec): void {
  const { headDim, dropout } = spec;
  if (headDim % 4 !== 0 || headDim < 4 || headDim > 128) {
    throw new RangeError(`attention: head width ${headDim} is not a multiple of 4 from 4 to 128`);
  }
  if (!(dropout >= 0 && dropout < 1)) {
    throw new RangeError(`attention: dropout ${dropout} is not in [0, 1)`);
  }
  for (const key of ["batch", "heads", "queryLength", "keyLength"] as const) {
    if (!(Number.isInteger(spec[key]) && spec[key] > 0)) {
      throw new RangeError(`attention: ${key} is ${spec[key]}, expected a positive integer`);
    }
  }
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;
/** The size of equal pieces, none larger than `most`, rounded up to a multiple that divides `most`. */
const evenly = (n: number, most: number, multiple: number): number =>
  roundUp(Math.ceil(n / Math.ceil(n / most)), multiple);

/** Queries of a piece of work: enough to pay for packing the keys, few enough to occupy a processor. */
function blockRows({ batch, heads, queryLength }: AttentionSpec): number {
  let rows = evenly(queryLength, BLOCK, TILE_ROWS);
  while (batch * heads * Math.ceil(queryLength / rows) < ENOUGH_BLOCKS && rows > LEAST_BLOCK) {
    rows = evenly(queryLength, Math.max(LEAST_BLOCK, Math.ceil(rows / 2)), TILE_ROWS);
  }
  return rows;
}

// ---- Texts and params ----

/** What the text of a kernel depends on. */
interface Text {
  headDim: number;
  causal: boolean;
  segments: boolean;
  bias: boolean;
  ownBias: boolean;
  drop: boolean;
}

function textOf(spec: AttentionSpec): Text {
  const { headDim, causal, segments = false, bias, ownBias = false, dropout } = spec;
  return { headDim, causal, segments, bias, ownBias, drop: dropout > 0 };
}

const PARAMS = [
  "heads",
  "queries",
  "keys",
  "blockRows", // queries of a piece of work; forward
  "blocks", // such pieces per head; forward
  "partsWidth", // diagonals for which a head has sums; backward
  "tileRows", // queries of a tile
  "tileKeys",
  "scale", // float
  "keep", // float: 1 / (1 − dropout)
  "threshold", // of dropout
  "stream",
] as const;
type Param = typeof PARAMS[number];

function paramsOf(spec: AttentionSpec, own: Partial<Record<Param, number>>): number[] {
  const { heads, queryLength, keyLength, headDim, dropout, stream } = spec;
  const all: Partial<Record<Param, number>> = {
    heads,
    queries: queryLength,
    keys: keyLength,
    scale: bitsOf(spec.scale ?? headDim ** -0.5),
    keep: bitsOf(1 / (1 - dropout)),
    threshold: Math.floor(dropout * 2 ** 32),
    stream: stream >>> 0,
    ...own,
  };
  return PARAMS.map((name) => all[name] ?? 0);
}

/** The params, whatever they mean, as integers. */
function paramsIn(kernel: Kernel): Record<Param, Local> {
  const entries = PARAMS.map((name, i) => [name, kernel.param(i)]);
  return Object.fromEntries(entries) as Record<Param, Local>;
}

/** Scale, keep and threshold, in all lanes. */
function vectorsIn(kernel: Kernel): Local[] {
  const names: Param[] = ["scale", "keep", "threshold"];
  return names.map((name) => kernel.floatParam(PARAMS.indexOf(name)));
}

// ---- Pieces of kernels ----

/** A function of the module whose parameters have names. */
interface Helper<Name extends string> {
  f: Func;
  names: Name[];
  p: Record<Name, Local>;
}

/** Loops over elements are functions of their own, which engines optimise after a few calls, if not before. */
function helper<Name extends string>(
  module: Module,
  params: Record<Name, WasmType | "pointer">,
): Helper<Name> {
  const names = Object.keys(params) as Name[];
  const pointer: WasmType = module.kind.wide ? "i64" : "i32";
  const f = module.func(names.map((name) => {
    const type: WasmType | "pointer" = params[name];
    return type === "pointer" ? pointer : type;
  }));
  const p = Object.fromEntries(names.map((name, i) => [name, f.param(i)])) as Record<Name, Local>;
  return { f, names, p };
}

function call<Name extends string>(f: Func, to: Helper<Name>, args: Record<Name, Code>): void {
  f.call(to.f, ...to.names.map((name) => args[name]));
}

const int = (n: number): Code => i32.const(n);
/** Bytes of `n` numbers. */
const bytes = (n: Code): Code => i32.shl(n, int(2));
/** `n` divided by 8, rounded up: panels of so many columns. */
const panelsOf = (n: Code): Code => i32.shrU(i32.add(n, int(PANEL - 1)), int(3));

/**
 * 2^x for x up to 126. Exactly 1 at 0 and, as the lower bound is a whole number, exactly 0 below −127;
 * relative error 1.6e-7 down to −126. The polynomial is the best of its degree on [−½, ½].
 */
function exp2(f: Func, value: Code): Code {
  const x = f.local("v128", v.max(value, f.float(-127)));
  // Adding 1.5·2²³ leaves the nearest integer in the low bits.
  const shift = f.float(12582912);
  const n = f.local("v128", v.add(x, shift));
  const r = f.local("v128", v.sub(x, v.sub(n, shift)));
  const power = [
    1.326472731307149e-3,
    9.671512991189957e-3,
    5.550733581185341e-2,
    2.4022242426872253e-1,
    6.931470036506653e-1,
    1,
  ].map((c): Code => f.float(c)).reduce((sum, c) => f.madd(sum, r, c));
  return v.iAdd(power, v.shl(n, 23));
}

/** The mask of dropout: ones in the lanes that survive. */
function survives(f: Func, dropKey: Code, place: Code, threshold: Code): Code {
  return v.iGeU(mix32(f, v.xor(dropKey, place)), threshold);
}

/** Places in the thread's own memory for arrays of so many numbers. */
function layout<Name extends string>(sizes: Record<Name, number>): Record<Name, number> {
  let end = 0;
  const places = {} as Record<Name, number>;
  for (const name in sizes) {
    places[name] = end;
    end += roundUp(sizes[name] * 4, 64) + 64;
  }
  if (end > SCRATCH_BYTES) throw new RangeError(`attention: ${end} bytes of scratch memory`);
  return places;
}

/** The key of a head's dropout mask, in all lanes. */
function dropKeyOf(kernel: Kernel, param: Record<Param, Local>, b: Code, h: Code): Local {
  const { f } = kernel;
  const sequence = v.iAdd(kernel.run(RUN_SEQUENCE), v.splat(b));
  const head = v.iAdd(v.iMul(sequence, v.splat(param.heads)), v.splat(h));
  const ofStream = mix32(f, v.xor(kernel.run(RUN_KEY), v.splat(param.stream)));
  return f.local("v128", mix32(f, v.xor(ofStream, mix32(f, head))));
}

/** The number of keys up to the last that may be attended, at least 1. */
function visibleKeys(f: Func, mask: Code, keys: Code): Local {
  const n = f.local("i32", keys);
  const before = f.pointer(f.minus(mask, int(4)));
  const last = i32.load(f.at(before, n));
  f.while(i32.and(i32.ltU(int(1), n), i32.eqz(last)), () => f.increase(n, -1));
  return n;
}

/**
 * Writes a window of the diagonals of a tile: bias in units of ln 2, or 0, and {@link MASKED} where causality
 * forbids. Forward, diagonals ascend with key − query and those from `limit` on are forbidden; backward, they
 * descend, and those before `limit` are.
 */
function diagonals(module: Module, { bias, causal }: Text, backward: boolean) {
  const h = helper(module, {
    to: "pointer", // of `count` numbers, rounded up to whole vectors
    count: "i32",
    from: "pointer", // the first diagonal's bias
    available: "i32", // rows of the table from there on; the last one is repeated
    stride: "i32", // bytes from one row of the table to the next
    limit: "i32",
  });
  const { f, p } = h;
  const at = f.pointer(p.to), t = f.local("i32");
  if (bias) {
    const last = f.local("i32", i32.sub(p.available, int(1)));
    f.for(t, p.count, 1, () => {
      f.storeLane(at, v.mul(v.loadZero(p.from), f.float(Math.LOG2E)));
      f.increase(at, 4);
      f.if(i32.ltU(t, last), () => {
        f.set(p.from, backward ? f.minus(p.from, p.stride) : f.plus(p.from, p.stride));
      });
    });
  } else {
    f.for(t, p.count, 4, () => {
      f.store(at, f.float(0));
      f.increase(at, 16);
    });
  }
  if (!causal) return h;
  f.set(at, p.to);
  if (backward) {
    f.set(t, int(0));
    f.set(p.count, i32.minU(p.count, p.limit));
  } else {
    f.set(t, p.limit);
    f.set(at, f.at(at, t));
  }
  f.for(t, p.count, 1, () => {
    f.storeLane(at, f.float(MASKED));
    f.increase(at, 4);
  });
  return h;
}

// ---- Forward ----

/** 0 for keys that may be attended, {@link MASKED} for others and for those that fill the last panel. */
function maskRow(module: Module) {
  const h = helper(module, { mask: "pointer", to: "pointer", count: "i32" });
  const { f, p } = h;
  const j = f.local("i32");
  f.for(j, p.count, PANEL, () => {
    for (const half of [0, 16]) {
      const lane = v.iAdd(v.splat(j), v.bits(half / 4, half / 4 + 1, half / 4 + 2, half / 4 + 3));
      const outside = v.iGeU(lane, v.splat(p.count));
      const masked = v.or(v.iEq(v.load(p.mask, half), f.int(0)), outside);
      f.store(p.to, v.and(masked, f.float(MASKED)), half);
    }
    f.increase(p.mask, 32);
    f.increase(p.to, 32);
  });
  return h;
}

/** The online softmax: turns a tile of products into weights, and brings earlier sums up to date. */
function softmaxRows(module: Module, { headDim, causal, segments, bias, drop }: Text) {
  const h = helper(module, {
    scores: "pointer",
    stride: "i32",
    rows: "i32",
    length: "i32", // bytes of a row, whole panels
    mask: "pointer",
    diagonal: "pointer", // of the first row; each further row begins one before
    ownSegment: "pointer",
    segments: "pointer",
    maximum: "pointer", // of each row
    sum: "pointer", // of each row
    out: "pointer",
    outStride: "i32",
    further: "i32", // 0 for the first keys
    scale: "v128", // in units of ln 2
    dropKey: "v128",
    threshold: "v128",
    place: "i32", // of the first score
    keys: "i32", // places from one row to the next
  });
  const { f, p } = h;
  const x = f.local("i32"), row = f.local("i32");
  const halves = [0, 16];
  const tops = halves.map(() => f.local("v128")), sums = halves.map(() => f.local("v128"));
  const places = halves.map(() => f.local("v128"));
  f.for(row, p.rows, 1, () => {
    for (const top of tops) f.set(top, f.float(FLOOR));
    const own = segments ? f.local("v128", v.loadSplat(p.ownSegment)) : undefined;
    f.set(x, int(0));
    f.for(x, p.length, 32, () => {
      const at = f.pointer(f.plus(p.scores, x));
      for (const [i, half] of halves.entries()) {
        const mask = v.load(f.plus(p.mask, x), half);
        const added = bias || causal ? v.add(mask, v.load(f.plus(p.diagonal, x), half)) : mask;
        const score = f.local("v128", f.madd(v.load(at, half), p.scale, added));
        if (own) {
          const same = v.iEq(v.load(f.plus(p.segments, x), half), own);
          f.set(score, v.select(same, score, f.float(MASKED)));
        }
        f.store(at, score, half);
        f.set(tops[i], v.max(score, tops[i]));
      }
    });
    const before = f.local("v128", v.loadSplat(p.maximum));
    const top = f.local("v128", v.max(largest(f, v.max(tops[0], tops[1])), before));
    for (const [i, half] of halves.entries()) {
      f.set(sums[i], f.float(0));
      if (!drop) continue;
      const lanes = v.bits(half / 4, half / 4 + 1, half / 4 + 2, half / 4 + 3);
      f.set(places[i], v.iAdd(v.splat(p.place), lanes));
    }
    f.set(x, int(0));
    f.for(x, p.length, 32, () => {
      const at = f.pointer(f.plus(p.scores, x));
      for (const [i, half] of halves.entries()) {
        const weight = f.local("v128", exp2(f, v.sub(v.load(at, half), top)));
        f.set(sums[i], v.add(sums[i], weight));
        if (!drop) {
          f.store(at, weight, half);
          continue;
        }
        f.store(at, v.and(weight, survives(f, p.dropKey, places[i], p.threshold)), half);
        f.set(places[i], v.iAdd(places[i], f.int(8)));
      }
    });
    const sum = f.local("v128", total(f, v.add(sums[0], sums[1])));
    f.if(p.further, () => {
      const shrink = f.local("v128", exp2(f, v.sub(before, top)));
      f.set(sum, f.madd(v.loadSplat(p.sum), shrink, sum));
      f.if(i32.bitmask(v.ne(shrink, f.float(1))), () => {
        for (let d = 0; d < headDim; d += 4) {
          f.store(p.out, v.mul(v.load(p.out, d * 4), shrink), d * 4);
        }
      });
    });
    f.storeLane(p.maximum, top);
    f.storeLane(p.sum, sum);
    f.set(p.scores, f.plus(p.scores, p.stride));
    f.set(p.out, f.plus(p.out, p.outStride));
    f.increase(p.maximum, 4);
    f.increase(p.sum, 4);
    f.increase(p.diagonal, -4);
    f.increase(p.ownSegment, 4);
    f.set(p.place, i32.add(p.place, p.keys));
  });
  return h;
}

/** Divides the sums of a block of queries, and stores them and their lse. */
function finishRows(module: Module, { headDim }: Text) {
  const h = helper(module, {
    rows: "i32",
    sums: "pointer",
    sumStride: "i32",
    maximum: "pointer", // of each row; becomes lse
    sum: "pointer", // of each row; becomes the factor of its sums
    out: "pointer",
    outStride: "i32",
    lse: "pointer",
    keep: "v128",
  });
  const { f, p } = h;
  const row = f.local("i32");
  const maximum = f.pointer(p.maximum), sum = f.pointer(p.sum);
  f.for(row, p.rows, 4, () => {
    // The largest term of a query with keys is 1: its sum cannot be smaller.
    const terms = f.local("v128", v.load(sum));
    const somewhere = f.local("v128", v.gt(terms, f.float(0.5)));
    const lse = f.madd(v.load(maximum), f.float(Math.LN2), log(f, terms));
    f.store(maximum, v.select(somewhere, lse, f.float(NOWHERE)));
    f.store(sum, v.and(v.div(p.keep, terms), somewhere));
    f.increase(maximum, 16);
    f.increase(sum, 16);
  });
  f.set(row, int(0));
  f.for(row, p.rows, 1, () => {
    const factor = f.local("v128", v.loadSplat(p.sum));
    for (let d = 0; d < headDim; d += 4) {
      f.store(p.out, v.mul(v.load(p.sums, d * 4), factor), d * 4);
    }
    f.storeLane(p.lse, v.loadZero(p.maximum));
    f.set(p.sums, f.plus(p.sums, p.sumStride));
    f.set(p.out, f.plus(p.out, p.outStride));
    for (const at of [p.lse, p.maximum, p.sum]) f.increase(at, 4);
  });
  return h;
}

function emitForward(kernel: Kernel, text: Text): void {
  const { f, module } = kernel;
  const { headDim, causal, segments, bias, ownBias, drop } = text;
  const micro = microKernels(module);
  const packKeys = packColumns(module), packValues = packRows(module);
  const masks = maskRow(module), softmax = softmaxRows(module, text);
  const finish = finishRows(module, text);
  const window = bias || causal ? diagonals(module, text, false) : undefined;

  const padded = roundUp(headDim, PANEL);
  const places = layout({
    keys: KEYS * headDim,
    values: KEYS * padded,
    scores: QUERIES * KEYS,
    mask: KEYS,
    diagonal: QUERIES + KEYS,
    maximum: BLOCK,
    sum: BLOCK,
    out: BLOCK * padded,
  });
  const my = (name: keyof typeof places) => kernel.scratch(places[name]);
  const param = paramsIn(kernel);
  const [scale, keep, threshold] = vectorsIn(kernel);
  const [q, k, values, mask, out, lse] = [0, 1, 2, 3, 4, 5].map((i) => kernel.operand(i));
  const table = bias ? kernel.operand(6) : mask;

  kernel.items((item) => {
    const z = f.local("i32", i32.divU(item, param.blocks));
    const b = f.local("i32", i32.divU(z, param.heads));
    const h = f.local("i32", i32.remU(z, param.heads));
    const first = f.local("i32", i32.mul(i32.remU(item, param.blocks), param.blockRows));
    const rows = f.local("i32", i32.minU(i32.sub(param.queries, first), param.blockRows));
    const width = f.local("i32", i32.mul(param.heads, int(headDim)));
    const stride = f.local("i32", bytes(width));
    const scoreStride = f.local("i32", bytes(param.tileKeys));
    const sumStride = f.local("i32", int(padded * 4));
    const column = f.local("i32", i32.mul(h, int(headDim)));
    const element = (row: Code) => i32.add(i32.mul(row, width), column);
    const firstRow = f.local("i32", i32.add(i32.mul(b, param.queries), first));
    const fromQ = f.pointer(f.at(q, element(firstRow)));
    const firstKey = f.local("i32", i32.mul(b, param.keys));
    const fromK = f.pointer(f.at(k, element(firstKey)));
    const fromV = f.pointer(f.at(values, element(firstKey)));
    const fromMask = f.pointer(f.at(mask, firstKey));
    const dropKey = drop ? dropKeyOf(kernel, param, b, h) : scale;
    const scaleInBits = f.local("v128", v.mul(scale, f.float(Math.LOG2E)));

    const end = visibleKeys(f, fromMask, param.keys);
    if (causal) f.set(end, i32.minU(end, i32.add(first, rows)));
    const row = f.local("i32", int(0));
    f.for(row, rows, 4, () => f.store(f.at(my("maximum"), row), f.float(FLOOR)));

    const key = f.local("i32", int(0));
    f.while(i32.ltU(key, end), () => {
      const count = f.local("i32", i32.minU(i32.sub(end, key), param.tileKeys));
      f.call(packKeys, fromK, stride, my("keys"), int(headDim), count);
      f.call(packValues, fromV, stride, my("values"), count, int(padded / PANEL));
      call(f, masks, { mask: fromMask, to: my("mask"), count });
      // The first query that sees any of these keys.
      const tile = f.local("i32", int(0));
      if (causal) f.if(i32.ltU(first, key), () => f.set(tile, i32.sub(key, first)));
      f.while(i32.ltU(tile, rows), () => {
        const size = f.local("i32", i32.minU(i32.sub(rows, tile), param.tileRows));
        const query = f.local("i32", i32.add(first, tile));
        const past = f.local("i32", i32.add(query, size));
        const seen = causal ? f.local("i32", i32.minU(count, i32.sub(past, key))) : count;
        const panels = f.local("i32", panelsOf(seen));
        const a = f.pointer(f.plus(fromQ, i32.mul(tile, stride)));
        const sums = f.pointer(f.plus(my("out"), i32.mul(tile, sumStride)));
        if (window) {
          // Row 0 of the table is key 0 of the last query.
          const before = i32.sub(i32.add(key, param.queries), past);
          const fromRow = f.local("i32", before);
          const length = i32.sub(i32.add(param.queries, param.keys), int(1));
          const tableRow = ownBias ? i32.add(i32.mul(b, length), fromRow) : fromRow;
          call(f, window, {
            to: my("diagonal"),
            count: i32.sub(i32.add(size, i32.shl(panels, int(3))), int(1)),
            from: f.at(table, i32.add(i32.mul(tableRow, param.heads), h)),
            available: i32.sub(length, fromRow),
            stride: bytes(param.heads),
            limit: i32.sub(past, key),
          });
        }
        multiplyBlock(f, micro, {
          rows: size,
          panels,
          steps: int(headDim),
          a,
          strideA: stride,
          b: my("keys"),
          c: my("scores"),
          strideC: scoreStride,
          add: int(0),
        });
        call(f, softmax, {
          scores: my("scores"),
          stride: scoreStride,
          rows: size,
          length: i32.shl(panels, int(5)),
          mask: my("mask"),
          diagonal: f.at(my("diagonal"), i32.sub(size, int(1))),
          ownSegment: segments ? f.at(mask, i32.add(firstKey, query)) : fromMask,
          segments: fromMask,
          maximum: f.at(my("maximum"), tile),
          sum: f.at(my("sum"), tile),
          out: sums,
          outStride: sumStride,
          further: key,
          scale: scaleInBits,
          dropKey,
          threshold,
          place: i32.add(i32.mul(query, param.keys), key),
          keys: param.keys,
        });
        multiplyBlock(f, micro, {
          rows: size,
          panels: int(padded / PANEL),
          steps: seen,
          a: my("scores"),
          strideA: scoreStride,
          b: my("values"),
          c: sums,
          strideC: sumStride,
          add: key,
        });
        f.set(tile, i32.add(tile, size));
      });
      f.set(fromK, f.plus(fromK, i32.mul(count, stride)));
      f.set(fromV, f.plus(fromV, i32.mul(count, stride)));
      f.set(fromMask, f.at(fromMask, count));
      f.set(key, i32.add(key, count));
    });
    call(f, finish, {
      rows,
      sums: my("out"),
      sumStride,
      maximum: my("maximum"),
      sum: my("sum"),
      out: f.at(out, element(firstRow)),
      outStride: stride,
      lse: f.at(lse, i32.add(i32.mul(z, param.queries), first)),
      keep,
    });
  });
}

// ---- Backward ----

/** −lse in units of ln 2, and −Σ gOut·out, of a tile of queries; those that fill the last panel see nothing. */
function rowStatistics(module: Module, { headDim }: Text) {
  const h = helper(module, {
    rows: "i32",
    out: "pointer",
    gOut: "pointer",
    stride: "i32",
    lse: "pointer",
    negLse: "pointer",
    negDelta: "pointer",
  });
  const { f, p } = h;
  const row = f.local("i32"), filled = f.local("i32");
  f.set(filled, i32.shl(panelsOf(p.rows), int(3)));
  const sum = f.local("v128");
  f.for(row, p.rows, 1, () => {
    f.set(sum, f.float(0));
    for (let d = 0; d < headDim; d += 4) {
      f.set(sum, f.madd(v.load(p.out, d * 4), v.load(p.gOut, d * 4), sum));
    }
    f.storeLane(p.negDelta, v.neg(total(f, sum)));
    f.storeLane(p.negLse, v.mul(v.loadZero(p.lse), f.float(-Math.LOG2E)));
    f.set(p.out, f.plus(p.out, p.stride));
    f.set(p.gOut, f.plus(p.gOut, p.stride));
    for (const at of [p.lse, p.negLse, p.negDelta]) f.increase(at, 4);
  });
  f.for(row, filled, 1, () => {
    f.storeLane(p.negDelta, f.float(0));
    f.storeLane(p.negLse, f.float(-NOWHERE));
    for (const at of [p.negLse, p.negDelta]) f.increase(at, 4);
  });
  return h;
}

/**
 * Turns a tile of products q·k into weights, and one of products gOut·v into gradients of scores. Rows are
 * keys. With bias, the gradients are added along diagonals as they are made.
 */
function scoreGradients(module: Module, { causal, segments, bias, drop }: Text) {
  const h = helper(module, {
    weights: "pointer",
    gradients: "pointer",
    stride: "i32",
    rows: "i32",
    length: "i32", // bytes of a row, whole panels
    mask: "pointer", // of each row
    segments: "pointer", // of the queries
    diagonal: "pointer", // of the first row; each further row begins one before
    parts: "pointer", // the same for sums of gradients
    negLse: "pointer",
    negDelta: "pointer",
    scale: "v128", // in units of ln 2
    keep: "v128",
    dropKey: "v128",
    threshold: "v128",
    place: "i32", // of the first score
    keys: "i32", // places from one query to the next
  });
  const { f, p } = h;
  const x = f.local("i32"), row = f.local("i32");
  const halves = [0, 16];
  const places = halves.map(() => f.local("v128"));
  const ahead = drop ? f.local("v128", v.splat(i32.shl(p.keys, int(3)))) : undefined;
  const lanes = drop
    ? halves.map((half) => {
      const numbers = v.bits(half / 4, half / 4 + 1, half / 4 + 2, half / 4 + 3);
      return f.local("v128", v.iMul(v.splat(p.keys), numbers));
    })
    : [];
  f.for(row, p.rows, 1, () => {
    const own = f.local("v128", v.loadSplat(p.mask));
    f.set(x, int(0));
    f.if(
      i32.anyTrue(own),
      () => {
        for (const [i, place] of lanes.entries()) {
          f.set(places[i], v.iAdd(v.splat(p.place), place));
        }
        f.for(x, p.length, 32, () => {
          const weights = f.pointer(f.plus(p.weights, x));
          const gradients = f.pointer(f.plus(p.gradients, x));
          for (const [i, half] of halves.entries()) {
            const negLse = v.load(f.plus(p.negLse, x), half);
            const added = bias || causal
              ? v.add(v.load(f.plus(p.diagonal, x), half), negLse)
              : negLse;
            const weight = f.local(
              "v128",
              exp2(f, f.madd(v.load(weights, half), p.scale, added)),
            );
            if (segments) {
              const same = v.iEq(v.load(f.plus(p.segments, x), half), own);
              f.set(weight, v.and(weight, same));
            }
            const negDelta = v.load(f.plus(p.negDelta, x), half);
            const product = f.local("v128", v.load(gradients, half));
            if (drop) {
              const kept = f.local("v128", survives(f, p.dropKey, places[i], p.threshold));
              f.set(places[i], v.iAdd(places[i], ahead!));
              f.store(weights, v.and(weight, kept), half);
              f.set(product, f.madd(v.and(product, kept), p.keep, negDelta));
            } else {
              f.store(weights, weight, half);
              f.set(product, v.add(product, negDelta));
            }
            f.set(product, v.mul(product, weight));
            f.store(gradients, product, half);
            if (bias) {
              const part = f.pointer(f.plus(p.parts, x));
              f.store(part, v.add(v.load(part, half), product), half);
            }
          }
        });
      },
      () =>
        f.for(x, p.length, 16, () => {
          f.store(f.plus(p.weights, x), f.float(0));
          f.store(f.plus(p.gradients, x), f.float(0));
        }),
    );
    f.set(p.weights, f.plus(p.weights, p.stride));
    f.set(p.gradients, f.plus(p.gradients, p.stride));
    f.increase(p.mask, 4);
    f.increase(p.diagonal, -4);
    f.increase(p.parts, -4);
    f.increase(p.place, 1);
  });
  return h;
}

/** Stores rows of sums times a factor, or adds them to what is there. */
function storeRows(module: Module, { headDim }: Text) {
  const h = helper(module, {
    rows: "i32",
    from: "pointer",
    fromStride: "i32",
    to: "pointer",
    toStride: "i32",
    factor: "v128",
    add: "i32",
  });
  const { f, p } = h;
  const row = f.local("i32");
  const each = (value: (d: number) => Code) => {
    for (let d = 0; d < headDim; d += 4) f.store(p.to, value(d), d * 4);
  };
  f.for(row, p.rows, 1, () => {
    f.if(
      p.add,
      () => each((d) => f.madd(v.load(p.from, d * 4), p.factor, v.load(p.to, d * 4))),
      () => each((d) => v.mul(v.load(p.from, d * 4), p.factor)),
    );
    f.set(p.from, f.plus(p.from, p.fromStride));
    f.set(p.to, f.plus(p.to, p.toStride));
  });
  return h;
}

/** Transposes a tile of whole panels. */
function transpose(module: Module) {
  const h = helper(module, {
    from: "pointer",
    fromStride: "i32",
    to: "pointer",
    toStride: "i32",
    rows: "i32", // rounded up to a multiple of 4
    length: "i32", // bytes of a row, whole vectors
  });
  const { f, p } = h;
  const row = f.local("i32"), x = f.local("i32"), to = f.pointer();
  f.for(row, p.rows, 4, () => {
    const from = [f.pointer(p.from)];
    while (from.length < 4) from.push(f.pointer(f.plus(from.at(-1)!, p.fromStride)));
    f.set(to, p.to);
    f.set(x, int(0));
    f.for(x, p.length, 16, () => {
      const vectors = from.map((at) => f.local("v128", v.load(f.plus(at, x))));
      for (const column of transpose4(f, vectors)) {
        f.store(to, column);
        f.set(to, f.plus(to, p.toStride));
      }
    });
    f.set(p.from, f.plus(p.from, i32.shl(p.fromStride, int(2))));
    f.increase(p.to, 16);
  });
  return h;
}

/** Writes zeros over whole vectors. */
function clear(f: Func, from: Code, length: Code): void {
  const at = f.pointer(from), x = f.local("i32", int(0));
  f.for(x, length, 16, () => {
    f.store(at, f.float(0));
    f.increase(at, 16);
  });
}

function emitBackward(kernel: Kernel, text: Text): void {
  const { f, module } = kernel;
  const { headDim, causal, segments, bias, drop } = text;
  const micro = microKernels(module);
  const columns = packColumns(module), rowsToPanels = packRows(module);
  const statistics = rowStatistics(module, text), gradients = scoreGradients(module, text);
  const turn = transpose(module), store = storeRows(module, text);
  const window = bias || causal ? diagonals(module, text, true) : undefined;

  const padded = roundUp(headDim, PANEL);
  const places = layout({
    queryColumns: BACK_QUERIES * headDim,
    queryRows: BACK_QUERIES * padded,
    gOutColumns: BACK_QUERIES * headDim,
    gOutRows: BACK_QUERIES * padded,
    keyRows: BACK_KEYS * padded,
    weights: BACK_KEYS * BACK_QUERIES,
    gradients: BACK_KEYS * BACK_QUERIES,
    transposed: BACK_QUERIES * BACK_KEYS,
    negLse: BACK_QUERIES,
    negDelta: BACK_QUERIES,
    diagonal: BACK_QUERIES + BACK_KEYS,
    dq: BACK_QUERIES * padded,
    dk: BACK_KEYS * padded,
    dv: BACK_KEYS * padded,
  });
  const my = (name: keyof typeof places) => kernel.scratch(places[name]);
  const param = paramsIn(kernel);
  const [scale, keep, threshold] = vectorsIn(kernel);
  const [q, k, values, mask, out, lse, gOut, dq, dk, dv] = Array.from(
    { length: 10 },
    (_, i) => kernel.operand(i),
  );

  kernel.items((item) => {
    const b = f.local("i32", i32.divU(item, param.heads));
    const h = f.local("i32", i32.remU(item, param.heads));
    const width = f.local("i32", i32.mul(param.heads, int(headDim)));
    const stride = f.local("i32", bytes(width));
    const tileStride = f.local("i32", bytes(param.tileRows));
    const turnedStride = f.local("i32", bytes(param.tileKeys));
    const sumStride = f.local("i32", int(padded * 4));
    const column = f.local("i32", i32.mul(h, int(headDim)));
    const element = (row: Code) => i32.add(i32.mul(row, width), column);
    const firstRow = f.local("i32", i32.mul(b, param.queries));
    const firstKey = f.local("i32", i32.mul(b, param.keys));
    const headOf = (array: Local, row: Local) => f.pointer(f.at(array, element(row)));
    const [fromQ, fromOut, fromG, fromDq] = [q, out, gOut, dq].map((a) => headOf(a, firstRow));
    const [fromK, fromV, fromDk, fromDv] = [k, values, dk, dv].map((a) => headOf(a, firstKey));
    const fromMask = f.pointer(f.at(mask, firstKey));
    const fromLse = f.pointer(f.at(lse, i32.mul(item, param.queries)));
    const dropKey = drop ? dropKeyOf(kernel, param, b, h) : scale;
    const scaleInBits = f.local("v128", v.mul(scale, f.float(Math.LOG2E)));
    const parts = bias
      ? f.pointer(f.at(kernel.operand(11), i32.mul(item, param.partsWidth)))
      : undefined;
    if (parts) clear(f, parts, bytes(param.partsWidth));

    const end = visibleKeys(f, fromMask, param.keys);
    const key = f.local("i32", int(0));
    f.while(i32.ltU(key, end), () => {
      const count = f.local("i32", i32.minU(i32.sub(end, key), param.tileKeys));
      const offset = f.local("i32", i32.mul(key, stride));
      const atK = f.pointer(f.plus(fromK, offset)), atV = f.pointer(f.plus(fromV, offset));
      f.call(rowsToPanels, atK, stride, my("keyRows"), count, int(padded / PANEL));
      for (const name of ["dk", "dv"] as const) clear(f, my(name), i32.mul(count, sumStride));
      // With a causal mask, earlier queries do not see these keys.
      const query = f.local("i32", causal ? key : int(0));
      f.while(i32.ltU(query, param.queries), () => {
        const size = f.local("i32", i32.minU(i32.sub(param.queries, query), param.tileRows));
        const panels = f.local("i32", panelsOf(size));
        const queryOffset = f.local("i32", i32.mul(query, stride));
        const atQ = f.pointer(f.plus(fromQ, queryOffset));
        const atG = f.pointer(f.plus(fromG, queryOffset));
        f.call(columns, atQ, stride, my("queryColumns"), int(headDim), size);
        f.call(columns, atG, stride, my("gOutColumns"), int(headDim), size);
        f.call(rowsToPanels, atQ, stride, my("queryRows"), size, int(padded / PANEL));
        f.call(rowsToPanels, atG, stride, my("gOutRows"), size, int(padded / PANEL));
        call(f, statistics, {
          rows: size,
          out: f.plus(fromOut, queryOffset),
          gOut: atG,
          stride,
          lse: f.at(fromLse, query),
          negLse: my("negLse"),
          negDelta: my("negDelta"),
        });
        if (window) {
          const past = i32.sub(i32.add(key, count), int(1));
          const row = f.local(
            "i32",
            i32.sub(i32.add(past, i32.sub(param.queries, int(1))), query),
          );
          const limit = f.local("i32", i32.sub(past, query));
          f.set(limit, i32.select(i32.ltS(limit, int(0)), int(0), limit));
          call(f, window, {
            to: my("diagonal"),
            count: i32.sub(i32.add(count, i32.shl(panels, int(3))), int(1)),
            from: bias
              ? f.at(kernel.operand(10), i32.add(i32.mul(row, param.heads), h))
              : my("diagonal"),
            available: i32.add(row, int(1)),
            stride: bytes(param.heads),
            limit,
          });
        }
        const products = (a: Local, panel: Local, c: Local) =>
          multiplyBlock(f, micro, {
            rows: count,
            panels,
            steps: int(headDim),
            a,
            strideA: stride,
            b: panel,
            c,
            strideC: tileStride,
            add: int(0),
          });
        products(atK, my("queryColumns"), my("weights"));
        products(atV, my("gOutColumns"), my("gradients"));
        const lastRow = i32.sub(count, int(1));
        call(f, gradients, {
          weights: my("weights"),
          gradients: my("gradients"),
          stride: tileStride,
          rows: count,
          length: i32.shl(panels, int(5)),
          mask: f.at(fromMask, key),
          segments: segments ? f.at(fromMask, query) : fromMask,
          diagonal: f.at(my("diagonal"), lastRow),
          parts: parts
            ? f.at(parts, i32.sub(i32.add(query, i32.sub(param.keys, int(1))), key))
            : my("diagonal"),
          negLse: my("negLse"),
          negDelta: my("negDelta"),
          scale: scaleInBits,
          keep,
          dropKey,
          threshold,
          place: i32.add(i32.mul(query, param.keys), key),
          keys: param.keys,
        });
        const sumOverQueries = (a: Local, panel: Local, c: Local) =>
          multiplyBlock(f, micro, {
            rows: count,
            panels: int(padded / PANEL),
            steps: size,
            a,
            strideA: tileStride,
            b: panel,
            c,
            strideC: sumStride,
            add: int(1),
          });
        sumOverQueries(my("gradients"), my("queryRows"), my("dk"));
        sumOverQueries(my("weights"), my("gOutRows"), my("dv"));
        call(f, turn, {
          from: my("gradients"),
          fromStride: tileStride,
          to: my("transposed"),
          toStride: turnedStride,
          rows: count,
          length: i32.shl(panels, int(5)),
        });
        multiplyBlock(f, micro, {
          rows: size,
          panels: int(padded / PANEL),
          steps: count,
          a: my("transposed"),
          strideA: turnedStride,
          b: my("keyRows"),
          c: my("dq"),
          strideC: sumStride,
          add: int(0),
        });
        call(f, store, {
          rows: size,
          from: my("dq"),
          fromStride: sumStride,
          to: f.plus(fromDq, queryOffset),
          toStride: stride,
          factor: scale,
          add: key,
        });
        f.set(query, i32.add(query, size));
      });
      for (const [sums, to, factor] of [["dk", fromDk, scale], ["dv", fromDv, keep]] as const) {
        call(f, store, {
          rows: count,
          from: my(sums),
          fromStride: sumStride,
          to: f.plus(to, offset),
          toStride: stride,
          factor,
          add: int(0),
        });
      }
      f.set(key, i32.add(key, count));
    });
    // What nobody may attend to has no gradient.
    const zeros = f.local("i32");
    f.for(key, param.keys, 1, () => {
      f.set(zeros, i32.mul(key, stride));
      for (const to of [fromDk, fromDv]) clear(f, f.plus(to, zeros), int(headDim * 4));
    });
  });
}

/** Numbers of dbias in a piece of work. */
const SUM_PIECE = 64;

/** Adds up the contributions of all sequences to the gradient of the bias. */
function sumPartsLaunch(
  { batch, heads, queryLength, keyLength }: AttentionSpec,
  parts: Operand,
  dbias: Operand,
  width: number,
): CpuLaunch {
  const diagonals = queryLength + keyLength - 1;
  return {
    name: "attention dbias",
    operands: [parts, dbias],
    params: [batch, heads, diagonals, width],
    items: Math.ceil(diagonals / SUM_PIECE),
    source: {
      key: "attention dbias",
      operands: 2,
      emit(kernel) {
        const { f } = kernel;
        const [parts, dbias] = [kernel.operand(0), kernel.operand(1)];
        const [batch, heads, diagonals, width] = [0, 1, 2, 3].map((i) => kernel.param(i));
        const h = f.local("i32"), b = f.local("i32"), from = f.pointer();
        const sum = f.local("v128");
        kernel.items((item) => {
          kernel.range(item, int(SUM_PIECE), diagonals, (row) => {
            f.set(h, int(0));
            f.for(h, heads, 1, () => {
              // Contributions lie by query − key.
              const diagonal = i32.sub(i32.sub(diagonals, int(1)), row);
              f.set(from, f.at(parts, i32.add(i32.mul(h, width), diagonal)));
              f.set(sum, f.float(0));
              f.set(b, int(0));
              f.for(b, batch, 1, () => {
                f.set(sum, v.add(sum, v.loadZero(from)));
                f.set(from, f.at(from, i32.mul(heads, width)));
              });
              f.storeLane(f.at(dbias, i32.add(i32.mul(row, heads), h)), sum);
            });
          });
        });
      },
    },
  };
}

/** Emits {@link ATTENTION}. */
export function lowerAttention(node: Node<AttentionAttrs>, to: CpuLowering): void {
  const [q, k, v, mask, bias] = node.inputs.map((t) => to.at(t));
  const [out, lse] = node.outputs.map((t) => to.at(t));
  to.emit(attentionForward(attentionSpec(node), { q, k, v, mask, bias, out, lse }));
}

/** Emits {@link ATTENTION_GRAD}. */
export function lowerAttentionGrad(node: Node<AttentionAttrs>, to: CpuLowering): void {
  const [q, k, v, mask, out, lse, gOut, bias] = node.inputs.map((t) => to.at(t));
  const [dq, dk, dv, dbias] = node.outputs.map((t) => to.at(t));
  const operands = { q, k, v, mask, bias, out, lse, gOut, dq, dk, dv, dbias };
  const launches = attentionBackward(attentionSpec(node), operands, to.scratch);
  for (const launch of launches) to.emit(launch);
}
