// What random graphs are made of: a few primitives each, in every combination of sizes and options.

import { broadcastShape } from "../../ops/graph/broadcast.ts";
import {
  add,
  attention,
  constant,
  crossEntropy,
  div,
  dropout,
  equal,
  exp,
  gatherRows,
  gelu,
  greater,
  layerNorm,
  log,
  matmul,
  mul,
  neg,
  notEqual,
  relu,
  reshape,
  rmsNorm,
  runScalar,
  scalar,
  scale,
  sigmoid,
  sigmoidCrossEntropy,
  spread,
  sqrt,
  stopGradient,
  sub,
  sum,
  sumColumns,
  sumRows,
  sumSquares,
  type Tensor,
  toFloat,
  where,
} from "../../ops/mod.ts";
import { mix32, type Random } from "../../ops/graph/random.ts";
import { positionIds, scatterAddRows } from "../../ops/primitives/rows.ts";
import { sizeOf, type Values } from "../../ops/graph/tensor.ts";
import { RUN } from "./run.ts";

/** Elements of a tensor at most. */
export const LARGEST = 600;
/** How far the sides of a comparison must be apart. */
const MARGIN = 1e-3;

/** What the parts of a graph are made with. */
export interface Workshop {
  random: Random;
  /** An integer in [from, to]. */
  between(from: number, to: number): number;
  pick<T>(from: readonly T[]): T;
  chance(p: number): boolean;
  /** A tensor made so far. */
  any(test?: (t: Tensor) => boolean): Tensor | undefined;
  /** A new source of floats in [−1, 1]; a state if it may be differentiated by. */
  fresh(shape: readonly number[], state?: boolean): Tensor;
  /** A new input of integers. */
  ids(shape: readonly number[], below: number): Tensor;
  /** The reference's value. */
  valueOf(t: Tensor): Values;
  /** A number for a use of randomness. */
  stream(): number;
  /** Whether everything made must have a derivative. */
  differentiable: boolean;
}

const SIZES = [1, 2, 3, 4, 5, 7, 8, 12, 16];

/** A random shape. */
export function shapeOf({ between, pick }: Workshop, least = 1): number[] {
  for (;;) {
    const shape = Array.from({ length: between(least, 4) }, () => pick(SIZES));
    if (sizeOf(shape) <= LARGEST) return shape;
  }
}

/** A shape that broadcasts to another: the same, one, trailing or leading axes, or some in the middle. */
function narrowed({ between, pick, chance }: Workshop, shape: readonly number[]): number[] {
  const cut = between(0, shape.length);
  return pick([
    [...shape],
    [],
    [1],
    shape.slice(cut),
    shape.map((n, i) => i < cut ? n : 1),
    shape.map((n) => chance(0.5) ? n : 1),
    shape.map((n, i) => i === 1 ? 1 : n), // [B, 1, d]
  ]);
}

/** Something that can be computed with `a` element by element. */
function companion(w: Workshop, a: Tensor): Tensor {
  if (w.chance(0.3)) {
    return w.any((t) => {
      try {
        return sizeOf(broadcastShape("", [a, t])) <= LARGEST;
      } catch {
        return false;
      }
    })!;
  }
  if (w.chance(0.15)) return w.pick([scalar(0.75), scalar(-1.5), runScalar("a"), runScalar("b")]);
  return w.fresh(narrowed(w, a.shape));
}

const positive = (t: Tensor) => add(mul(t, t), scalar(0.5));

/** True if a comparison of two tensors comes out the same after a little rounding. */
function isClear(w: Workshop, a: Tensor, b: Tensor): boolean {
  return w.valueOf(sub(a, b)).every((x) => x === 0 || Math.abs(x) > MARGIN);
}

/** [rows, columns] of all elements of a tensor, columns a multiple of `of`. */
function asRows(t: Tensor, of = 1): Tensor | undefined {
  const cols = t.shape.at(-1) ?? 1;
  return cols % of === 0 ? reshape(t, [sizeOf(t.shape) / cols, cols]) : undefined;
}

/** Makes something of what there is; nothing if it cannot. */
type Part = (w: Workshop) => Tensor | readonly Tensor[] | undefined;

/** Ways to go on with a graph. */
export const PARTS: Record<string, Part> = {
  unary(w) {
    const a = w.any()!;
    const ops = [neg, exp, sigmoid, gelu, stopGradient, (t: Tensor) => scale(t, 1.75)];
    return w.pick(ops)(a);
  },
  ofPositive: (w) => w.pick([log, sqrt])(positive(w.any()!)),
  relu(w) {
    const a = w.any()!;
    return isClear(w, a, scalar(0)) ? relu(a) : undefined;
  },
  binary(w) {
    const a = w.any()!, b = companion(w, a);
    const op = w.pick([add, sub, mul, (x: Tensor, y: Tensor) => div(x, positive(y))]);
    return w.chance(0.5) ? op(a, b) : op(b, a);
  },
  chain(w) {
    let t = w.any()!;
    for (let i = w.between(2, 6); i > 0; i--) {
      t = w.pick([mul, add, sub])(t, companion(w, t));
      if (sizeOf(t.shape) > LARGEST) return undefined;
      t = w.pick([sigmoid, gelu, neg])(t);
    }
    return t;
  },
  comparison(w) {
    const a = w.any()!, b = companion(w, a);
    if (!isClear(w, a, b)) return undefined;
    const c = greater(a, b);
    return w.pick([c, where(c, a, b), sigmoidCrossEntropy(sub(a, b), stopGradient(c))]);
  },
  integers(w) {
    const shape = shapeOf(w), i = w.ids(shape, 3), j = w.ids(narrowed(w, shape), 3);
    const chosen = where(w.pick([equal, notEqual])(i, j), i, scalar(7, "u32"));
    return w.pick([equal(i, j), toFloat(chosen)]);
  },
  dropout(w) {
    const a = w.any((t) => t.shape.length > 0)!;
    return dropout(a, w.pick([0.1, 0.5, 0.9]), w.stream());
  },
  sums(w) {
    const a = w.any((t) => t.shape.length > 0)!;
    return w.pick([sumRows, sumColumns, sum, sumSquares])(a);
  },
  spread(w) {
    const shape = shapeOf(w);
    return spread(w.fresh(narrowed(w, shape)), shape);
  },
  reshape(w) {
    const a = w.any()!, size = sizeOf(a.shape);
    const first = w.pick(SIZES.filter((n) => size % n === 0));
    return reshape(a, w.pick([[first, size / first], [size / first, 1, first], [size]]));
  },
  constant(w) {
    const shape = shapeOf(w);
    const data = Float32Array.from({ length: sizeOf(shape) }, () => w.random.uniform());
    return mul(constant(data, shape), w.fresh(narrowed(w, shape)));
  },
  product(w) {
    const a = w.any((t) => t.shape.length >= 2)!;
    const rows = sizeOf(a.shape.slice(0, -1)), cols = a.shape.at(-1)!;
    const n = w.pick([...SIZES, 20, 33, 68]);
    const y = w.pick([
      () => matmul(a, w.fresh([cols, n])),
      () => matmul(a, w.fresh([n, cols]), { transB: true }),
      () => matmul(a, w.fresh([rows, n]), { transA: true }),
    ])();
    if (w.chance(0.5)) return y;
    const biased = add(y, w.fresh([n]));
    const active = w.pick([gelu, sigmoid])(biased);
    return w.chance(0.5) ? dropout(active, 0.25, w.stream()) : active;
  },
  batched(w) {
    const a = w.any((t) => t.shape.length >= 3)!;
    if (!a) return undefined;
    const leading = a.shape.slice(0, -2), [m, k] = a.shape.slice(-2);
    const n = w.pick(SIZES);
    return w.pick([
      () => matmul(a, w.fresh([...leading, k, n]), { batched: true }),
      () => matmul(a, w.fresh([...leading, n, k]), { batched: true, transB: true }),
      () => matmul(a, w.fresh([...leading, m, n]), { batched: true, transA: true }),
    ])();
  },
  norm(w) {
    const a = w.any((t) => t.shape.length > 0 && t.shape.at(-1)! > 1)!;
    if (!a) return undefined;
    const n = a.shape.at(-1)!, gain = w.fresh([n]);
    const y = w.chance(0.5) ? layerNorm(a, gain, w.fresh([n]), 0.01) : rmsNorm(a, gain, 0.01);
    return w.chance(0.3) ? add(y, a) : y;
  },
  gather(w) {
    const rows = w.pick(SIZES), ids = w.ids(shapeOf(w).slice(0, 2), rows);
    const width = w.pick(SIZES);
    if (w.chance(0.2)) return gatherRows(w.fresh([rows], false), ids);
    return gatherRows(w.fresh([rows, width]), ids);
  },
  positions(w) {
    const tokens = w.ids([w.pick(SIZES), w.pick(SIZES)], 4);
    return gatherRows(w.fresh([18, w.pick(SIZES)]), positionIds(tokens, 1));
  },
  scatter(w) {
    const g = asRows(w.any()!)!, [count, n] = g.shape, rows = w.pick(SIZES);
    const ids = w.ids([count], rows + 1); // one past the end is dropped
    const base = w.chance(0.5) ? w.fresh([rows, n]) : undefined;
    // It has no derivative of its own: it is one.
    return w.differentiable ? undefined : scatterAddRows(g, ids, rows, base);
  },
  attention(w) {
    const heads = w.pick([1, 2, 3]), width = heads * w.pick([4, 8, 12, 20, 36]);
    const batch = w.pick([1, 2, 3]), queries = w.pick([1, 2, 5, 7, 12]);
    const causal = w.chance(0.4), segments = w.chance(0.3);
    const keys = segments || causal ? queries : w.pick([1, 3, 4, 9]);
    const h = w.fresh([batch, queries, 4]);
    const q = matmul(h, w.fresh([4, width])), k = w.fresh([batch, keys, width]);
    const ownBias = !w.differentiable && w.chance(0.3);
    const table = [queries + keys - 1, heads];
    const bias = w.chance(0.5) ? w.fresh(ownBias ? [batch, ...table] : table) : undefined;
    return attention(q, k, w.fresh([batch, keys, width]), w.ids([batch, keys], 3), {
      ...{ heads, causal, segments, bias, stream: w.stream() },
      scale: w.chance(0.3) ? 0.5 : undefined,
      dropout: w.chance(0.4) ? 0.3 : 0,
    });
  },
  crossEntropy(w) {
    const h = asRows(w.any((t) => (t.shape.at(-1) ?? 1) % 4 === 0) ?? w.fresh([5, 8]), 4)!;
    const [rows, width] = h.shape, vocab = w.pick([3, 20, 67, 130]);
    const table = w.fresh([vocab, width]), bias = w.chance(0.5) ? w.fresh([vocab]) : undefined;
    const targets = w.ids([rows], vocab);
    const sample = w.chance(0.5)
      ? { stream: w.stream(), rowsPerSequence: w.pick([1, 2, rows]) }
      : undefined;
    const logits = matmul(h, table, { transB: true });
    const values = w.valueOf(bias ? add(logits, bias) : logits);
    for (let r = 0; r < rows; r++) {
      const row = values.subarray(r * vocab, (r + 1) * vocab);
      if (!hasClearMaximum(row)) return undefined;
      if (sample && !hasClearMaximum(row.map((x, v) => x + noiseAt(sample, r, v)))) {
        return undefined;
      }
    }
    const { nll, best, sample: drawn } = crossEntropy(h, table, targets, { bias, sample });
    const chosen = drawn ?? best;
    return w.chance(0.5) ? [nll, toFloat(chosen)] : [nll, gatherRows(w.fresh([vocab, 3]), chosen)];
  },
};

function hasClearMaximum(values: Values): boolean {
  const [first, second] = [...values].sort((a, b) => b - a);
  return first - second > 0.02;
}

/** The noise by which a token is drawn. */
function noiseAt(
  { stream, rowsPerSequence }: { stream: number; rowsPerSequence: number },
  row: number,
  v: number,
): number {
  const global = (Math.imul(RUN.sequence, rowsPerSequence) + row) >>> 0;
  const bits = mix32(mix32(mix32(RUN.key ^ stream) ^ global) ^ v);
  return -Math.log(-Math.log(((bits >>> 8) + 0.5) / 16777216));
}
