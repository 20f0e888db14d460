// Every primitive in a few graphs: what targets compute is compared with the float64 reference, and
// derivatives with finite differences of it.

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
  grad,
  greater,
  input,
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
  state,
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
import { positionIds, scatterAddRows } from "../../ops/primitives/rows.ts";
import { type Graph, valuesFor } from "./run.ts";

/** A graph to be tested. */
export interface Case {
  /** What it computes. */
  outputs: Tensor[];
  /** Differentiated by these, through a random weighting of the first output. */
  wrt?: Tensor[];
  /** Integers are below this; 2 if absent. */
  ids?: number;
  /** Largest error, as a fraction of the largest number; 1e-5 if absent. */
  tolerance?: number;
}

const x = (name: string, ...shape: number[]) => state(name, shape);
const positive = (t: Tensor) => add(mul(t, t), scalar(0.5));

/** The cases by name. Built anew by each call. */
export const CASES: Record<string, () => Case> = {
  "pointwise arithmetic with every kind of broadcasting": () => {
    const a = x("a", 3, 5, 8), row = x("row", 8), column = x("column", 3, 5, 1);
    const outer = x("outer", 3, 1, 8), plane = x("plane", 5, 8), one = x("one", 1);
    const y = add(mul(a, row), sub(mul(column, outer), div(plane, positive(one))));
    return { outputs: [y, neg(a)], wrt: [a, row, column, plane, one] };
  },
  "broadcasting where rows are not a multiple of four": () => {
    const a = x("a", 3, 5, 7),
      row = x("row", 7),
      column = x("column", 3, 5, 1),
      half = x("half", 3, 1, 1);
    return { outputs: [add(mul(a, row), mul(column, half))], wrt: [a, row, column] };
  },
  "transcendental functions": () => {
    const a = x("a", 6, 4), p = positive(x("b", 6, 4));
    return {
      outputs: [add(exp(a), add(log(p), add(sqrt(p), sigmoid(a))))],
      wrt: [a, p.node.inputs[0].node.inputs[0]],
      tolerance: 2e-5,
    };
  },
  "relu, sigmoid cross entropy, comparison and choice": () => {
    const a = x("a", 4, 12), b = x("b", 4, 12), y = stopGradient(greater(b, scalar(0)));
    return {
      outputs: [where(greater(a, b), relu(a), sigmoidCrossEntropy(b, y))],
      wrt: [a, b],
      tolerance: 2e-5,
    };
  },
  "gelu, near and far from 0": () => {
    const a = x("a", 4, 12), far = scale(a, 60);
    return { outputs: [add(gelu(a), gelu(far)), gelu(x("odd", 7))], wrt: [a], tolerance: 2e-5 };
  },
  "matmul fused with gated GELU": () => {
    const a = x("a", 2, 16, 8), w = x("w", 8, 32), v = x("v", 8, 32);
    const h = mul(gelu(matmul(a, w)), matmul(a, v));
    return { outputs: [dropout(h, 0.25, 3)], wrt: [a, w, v] };
  },
  "integers: equality, choice, conversion": () => {
    const i = input("i", [5, 3], "u32"), j = input("j", [5, 3], "u32");
    return {
      outputs: [equal(i, j), where(notEqual(i, j), i, scalar(77, "u32")), toFloat(j)],
      ids: 3,
    };
  },
  "scalar inputs of a run": () => ({
    outputs: [mul(add(x("a", 9), runScalar("a")), runScalar("b"))],
    wrt: [],
  }),
  "sums over rows, columns and everything, with fused operands": () => {
    const a = x("a", 37, 12), b = x("b", 37, 12);
    const p = mul(a, b);
    return { outputs: [sumRows(p), sumColumns(mul(a, add(b, b))), sum(mul(p, p))], wrt: [a, b] };
  },
  "counts above thresholds": () => {
    const above = greater(x("a", 67, 1), constant(Float32Array.of(-1, -0.5, 0, 0.5), [4]));
    return { outputs: [sumRows(mul(above, x("b", 67, 1)))], wrt: [] };
  },
  "sums of long and odd shapes": () => {
    const a = x("a", 301, 7), long = x("long", 70_001), wide = x("wide", 100, 128);
    const half = x("half", 70, 64);
    return {
      outputs: [sumRows(a), sumColumns(a), sum(a), sumSquares(long), sumRows(wide), sumRows(half)],
      wrt: [a],
    };
  },
  "spread repeats a tensor": () => ({
    outputs: [mul(spread(x("a", 5, 1), [5, 8]), spread(x("b", 8), [5, 8]))],
    wrt: [],
  }),
  "dropout": () => {
    const a = x("a", 4, 6, 8);
    return { outputs: [dropout(a, 0.3, 5), dropout(x("odd", 2, 7), 0.5, 6)], wrt: [a] };
  },
  "matmul plain, with either operand transposed": () => {
    const a = x("a", 2, 9, 12), b = x("b", 12, 20), c = x("c", 16, 20), d = x("d", 18, 8);
    const y = matmul(matmul(a, b), c, { transB: true });
    return { outputs: [matmul(y, d, { transA: true })], wrt: [a, b, c, d] };
  },
  "matmul batched": () => {
    const a = x("a", 2, 3, 8, 12), b = x("b", 2, 3, 12, 4), c = x("c", 2, 3, 8, 20);
    const y = matmul(a, b, { batched: true });
    return { outputs: [matmul(y, c, { transA: true, batched: true })], wrt: [a, b, c] };
  },
  "matmul fused with bias, ReLU, dropout and residual": () => {
    const a = x("a", 2, 16, 8), w = x("w", 8, 32), bias = x("bias", 32), v = x("v", 32, 8);
    const h = relu(add(matmul(a, w), bias));
    return { outputs: [add(a, dropout(matmul(h, v), 0.25, 3))], wrt: [a, w, bias, v] };
  },
  "matmul of odd sizes": () => {
    const a = x("a", 5, 7), b = x("b", 7, 3);
    return { outputs: [add(matmul(a, b), x("c", 5, 3))], wrt: [a, b] };
  },
  "layer norm": () => {
    const a = x("a", 5, 3, 24), g = x("g", 24), b = x("b", 24);
    return { outputs: [layerNorm(a, g, b, 1e-5)], wrt: [a, g, b] };
  },
  "layer norm of odd width, residual around it": () => {
    const a = x("a", 9, 7), g = x("g", 7), b = x("b", 7);
    return { outputs: [add(layerNorm(a, g, b, 1e-5), a)], wrt: [a, g, b] };
  },
  "RMS norm": () => {
    const a = x("a", 5, 3, 24), g = x("g", 24);
    return { outputs: [rmsNorm(a, g, 1e-6)], wrt: [a, g] };
  },
  "RMS norm of odd width, residual around it": () => {
    const a = x("a", 9, 7), g = x("g", 7);
    return { outputs: [add(rmsNorm(a, g, 1e-6), a)], wrt: [a, g] };
  },
  "embedding of tokens and positions": () => {
    const table = x("table", 11, 8), place = x("place", 9, 8);
    const tokens = input("tokens", [3, 6], "u32");
    return {
      outputs: [add(gatherRows(table, tokens), gatherRows(place, positionIds(tokens, 1)))],
      wrt: [table, place],
      ids: 11,
    };
  },
  "rows out and back": () => {
    const a = x("a", 20, 12), at = input("at", [7], "u32"), values = x("values", 20);
    return {
      outputs: [
        scatterAddRows(gatherRows(a, at), at, 20, a),
        gatherRows(values, at),
        positionIds(input("t", [2, 9], "u32"), 1),
      ],
      ids: 20,
      wrt: [],
    };
  },
  "attention with relative bias, mask and dropout": () => {
    const q = x("q", 2, 9, 16), k = x("k", 2, 7, 16), v = x("v", 2, 7, 16), bias = x("bias", 15, 2);
    const mask = input("mask", [2, 7], "u32");
    return {
      outputs: [attention(q, k, v, mask, { heads: 2, bias, dropout: 0.2, stream: 9 })],
      wrt: [q, k, v, bias],
      ids: 3,
      tolerance: 3e-5,
    };
  },
  "attention with heads of three and of six columns": () => {
    const options = { causal: true, dropout: 0.2, stream: 4 };
    const of = (heads: number) => {
      const [q, k, v] = ["q", "k", "v"].map((name) => x(`${name}${heads}`, 2, 5, 12));
      return {
        y: attention(q, k, v, input("mask", [2, 5], "u32"), { ...options, heads }),
        q,
        k,
        v,
      };
    };
    const three = of(4), six = of(2);
    return {
      outputs: [add(three.y, six.y)],
      wrt: [three, six].flatMap(({ q, k, v }) => [q, k, v]),
      ids: 3,
      tolerance: 3e-5,
    };
  },
  "attention, causal": () => {
    const q = x("q", 2, 12, 8), k = x("k", 2, 12, 8), v = x("v", 2, 12, 8);
    const mask = constant(new Uint32Array(24).fill(1), [2, 12]);
    return {
      outputs: [attention(q, k, v, mask, { heads: 2, causal: true })],
      wrt: [q, k, v],
      tolerance: 3e-5,
    };
  },
  "attention not scaled, wider than its model, causal with bias and segments": () => {
    const h = x("h", 2, 12, 8), bias = x("bias", 23, 3);
    const [q, k, v] = ["q", "k", "v"].map((name) => x(name, 8, 24));
    const [qs, ks, vs] = [q, k, v].map((map) => matmul(h, map));
    const options = { heads: 3, causal: true, segments: true, bias, scale: 1 };
    return {
      outputs: [attention(qs, ks, vs, input("segments", [2, 12], "u32"), options)],
      wrt: [h, q, k, v, bias],
      ids: 3,
      tolerance: 3e-5,
    };
  },
  "attention with a bias for each sequence": () => {
    const q = x("q", 3, 1, 16), k = x("k", 3, 7, 16), v = x("v", 3, 7, 16);
    const mask = constant(new Uint32Array(21).fill(1), [3, 7]);
    return {
      outputs: [attention(q, k, v, mask, { heads: 2, bias: x("bias", 3, 7, 2), scale: 1 })],
      tolerance: 3e-5,
    };
  },
  "cross entropy with bias and sampling": () => {
    const h = x("h", 12, 8), table = x("table", 50, 8), bias = x("bias", 50);
    const targets = input("targets", [12], "u32");
    const { nll, best, sample } = crossEntropy(h, table, targets, {
      bias,
      sample: { stream: 4, rowsPerSequence: 6 },
    });
    return { outputs: [nll, best, sample!], wrt: [h, table, bias], ids: 50, tolerance: 3e-5 };
  },
  "cross entropy against a table of odd height": () => {
    const h = x("h", 2, 3, 12), table = x("table", 67, 12);
    const { nll, best } = crossEntropy(h, table, input("targets", [2, 3], "u32"));
    return { outputs: [nll, best], wrt: [h, table], ids: 67, tolerance: 3e-5 };
  },
  "a table used by everything": () => {
    const table = x("table", 24, 8), tokens = input("tokens", [2, 4], "u32");
    const h = relu(gatherRows(table, tokens));
    const { nll } = crossEntropy(h, table, tokens, {});
    return {
      outputs: [add(nll, reshape(sumColumns(matmul(h, table, { transB: true })), [2, 4]))],
      wrt: [table],
      ids: 24,
    };
  },
};

/** The weighted sum of a case's first output, which is what is differentiated. */
export function lossOf({ outputs: [y] }: Case): Tensor {
  return sum(mul(y, state("weights", y.shape)));
}

/** A case with its gradients, ready to run. */
export function graphOf(c: Case): Graph {
  const { outputs, wrt = [], ids = 2 } = c;
  const all = wrt.length > 0 ? [...outputs, ...grad(lossOf(c), wrt)] : outputs;
  return { outputs: all, values: valuesFor(all, ids) };
}
