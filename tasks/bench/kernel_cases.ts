/**
 * The kernels that are timed, as data: what to compute at which shapes, and how much work that is.
 *
 * @module
 */

import type { ModelConfig } from "../../models/mod.ts";
import {
  add,
  attention,
  crossEntropy,
  dropout,
  gatherRows,
  grad,
  layerNorm,
  matmul,
  mul,
  sum,
  sumRows,
  type Tensor,
} from "../../ops/mod.ts";
import { scatterAddRows } from "../../ops/primitives/rows.ts";

/** Makes a case's operands. */
export interface Sources {
  /** Random numbers. */
  floats(name: string, shape: readonly number[]): Tensor;
  /** Random whole numbers below a bound. */
  ids(name: string, shape: readonly number[], below: number): Tensor;
}

/** A graph to time. */
export interface Graph {
  /** Tensors to compute. */
  outputs?: Record<string, Tensor>;
  /** States to update in place. */
  updates?: [Tensor, Tensor][];
  /**
   * Set for a backward pass: what the forward pass computes. Its kernels, and the one that makes its
   * gradient, are not timed.
   */
  forward?: Record<string, Tensor>;
}

/** One row of the table. */
export interface KernelCase {
  /** Kind of kernel. */
  family: string;
  /** Preset, or `cube`. */
  of: string;
  /** The shape in words. */
  shape: string;
  /** Floating-point operations, if they are what costs time. */
  flops?: number;
  /** Bytes of operands and results, each once, if they are what costs time. */
  bytes?: number;
  /** Builds the graph. */
  build(sources: Sources): Graph;
}

const LAYOUTS = {
  NN: { transA: false, transB: false },
  NT: { transA: false, transB: true },
  TN: { transA: true, transB: false },
} as const;
type Layout = keyof typeof LAYOUTS;

/** C[m, n] = A·B with inner size k. */
export function matmulCase(
  of: string,
  layout: Layout,
  [m, n, k]: readonly [number, number, number],
): KernelCase {
  const { transA, transB } = LAYOUTS[layout];
  return {
    family: `matmul ${layout}`,
    of,
    shape: `${m} × ${n} × ${k}`,
    flops: 2 * m * n * k,
    build({ floats }) {
      const a = floats("a", transA ? [k, m] : [m, k]);
      const b = floats("b", transB ? [n, k] : [k, n]);
      return { outputs: { c: matmul(a, b, { transA, transB }) } };
    },
  };
}

/** The three layouts of a cube. */
export function cubeCases(size: number): KernelCase[] {
  return (Object.keys(LAYOUTS) as Layout[]).map((layout) =>
    matmulCase("cube", layout, [size, size, size])
  );
}

/** The kernels of a preset's layers. */
export function layerCases(
  of: string,
  model: ModelConfig,
  batch: { rows: number; length: number; selected: number },
): KernelCase[] {
  return [
    ...matmulCases(of, model, batch.rows * batch.length),
    ...attentionCases(of, model, batch),
    ...crossEntropyCases(of, model, batch.selected),
    ...streamingCases(of, model, batch),
  ];
}

function matmulCases(
  of: string,
  { dModel: d, dFf: f }: ModelConfig,
  tokens: number,
): KernelCase[] {
  // Forward x·W, gradient of x, gradient of W; of projections, and of both feed-forward maps.
  const shapes: [Layout, [number, number, number]][] = [
    ["NN", [tokens, d, d]],
    ["NN", [tokens, f, d]],
    ["NN", [tokens, d, f]],
    ["NT", [tokens, d, d]],
    ["NT", [tokens, d, f]],
    ["NT", [tokens, f, d]],
    ["TN", [d, d, tokens]],
    ["TN", [d, f, tokens]],
    ["TN", [f, d, tokens]],
  ];
  return shapes.map(([layout, shape]) => matmulCase(of, layout, shape));
}

function attentionCases(
  of: string,
  { dModel: d, heads, dropout: p }: ModelConfig,
  { rows, length }: { rows: number; length: number },
): KernelCase[] {
  const square = rows * length * length * d;
  const graph = ({ floats, ids }: Sources, causal: boolean) => {
    const shape = [rows, length, d];
    const [q, k, v] = ["q", "k", "v"].map((name) => floats(name, shape));
    // Hardly ever 0: no key is masked.
    const mask = ids("mask", [rows, length], 1 << 20);
    const bias = causal ? undefined : floats("bias", [2 * length - 1, heads]);
    const y = attention(q, k, v, mask, { heads, causal, bias, dropout: p, stream: 1 });
    return { y, wrt: bias ? [q, k, v, bias] : [q, k, v] };
  };
  return [false, true].flatMap((causal): KernelCase[] => {
    const kind = causal ? "causal" : "relative";
    const shape = `${rows} × ${length} × ${d}, ${heads} heads, ${kind}`;
    return [
      {
        family: "attention",
        of,
        shape,
        flops: 4 * square,
        build: (sources) => ({ outputs: { y: graph(sources, causal).y } }),
      },
      {
        family: "attention backward",
        of,
        shape,
        flops: 10 * square,
        build(sources) {
          const { y, wrt } = graph(sources, causal);
          return backward(y, sources.floats("g", y.shape), wrt);
        },
      },
    ];
  });
}

function crossEntropyCases(
  of: string,
  { dModel: d, vocabSize }: ModelConfig,
  rows: number,
): KernelCase[] {
  const shape = `${rows} × ${vocabSize} × ${d}`;
  const product = 2 * rows * vocabSize * d;
  const graph = ({ floats, ids }: Sources) => {
    const h = floats("h", [rows, d]), table = floats("table", [vocabSize, d]);
    return { h, table, nll: crossEntropy(h, table, ids("targets", [rows], vocabSize)).nll };
  };
  return [
    {
      family: "cross entropy",
      of,
      shape,
      flops: product,
      build: (sources) => ({ outputs: { nll: graph(sources).nll } }),
    },
    {
      family: "cross entropy backward",
      of,
      shape,
      flops: 3 * product,
      build(sources) {
        const { h, table, nll } = graph(sources);
        const total = sources.floats("grad table", table.shape);
        const loss = sum(mul(nll, sources.floats("g", nll.shape)));
        const [dh, dTable] = grad(loss, [h, table], [undefined, total]);
        return { forward: { nll }, outputs: { nll, dh }, updates: [[total, dTable]] };
      },
    },
  ];
}

/** Operations that move data rather than compute. */
function streamingCases(
  of: string,
  { dModel: d, dFf: f, vocabSize, dropout: p, layerNormEps }: ModelConfig,
  { rows, length }: { rows: number; length: number },
): KernelCase[] {
  const tokens = rows * length;
  const hidden = 4 * tokens * d;
  const norm = ({ floats }: Sources) => {
    const x = floats("x", [tokens, d]), gain = floats("gain", [d]), bias = floats("bias", [d]);
    return { y: layerNorm(x, gain, bias, layerNormEps), wrt: [x, gain, bias] };
  };
  const cases: Omit<KernelCase, "of">[] = [
    {
      family: "layer norm",
      shape: `${tokens} × ${d}`,
      bytes: 2 * hidden,
      build: (sources) => ({ outputs: { y: norm(sources).y } }),
    },
    {
      family: "layer norm backward",
      shape: `${tokens} × ${d}`,
      bytes: 3 * hidden,
      build(sources) {
        const { y, wrt } = norm(sources);
        return backward(y, sources.floats("g", y.shape), wrt);
      },
    },
    {
      family: "embedding",
      shape: `${tokens} of ${vocabSize} × ${d}`,
      bytes: 2 * hidden,
      build: ({ floats, ids }) => ({
        outputs: {
          y: gatherRows(
            floats("table", [vocabSize, d]),
            ids("ids", [tokens], vocabSize),
          ),
        },
      }),
    },
    {
      family: "embedding backward",
      shape: `${tokens} of ${vocabSize} × ${d}`,
      bytes: 3 * hidden,
      build({ floats, ids }) {
        const total = floats("total", [vocabSize, d]);
        const at = ids("ids", [tokens], vocabSize), g = floats("g", [tokens, d]);
        return { updates: [[total, scatterAddRows(g, at, vocabSize, total)]] };
      },
    },
    {
      family: "dropout + residual",
      shape: `${tokens} × ${d}`,
      bytes: 3 * hidden,
      build({ floats }) {
        const x = floats("x", [tokens, d]);
        return { outputs: { y: add(x, dropout(floats("y", [tokens, d]), p, 1)) } };
      },
    },
    {
      family: "column sums",
      shape: `${tokens} × ${f}`,
      bytes: 4 * tokens * f,
      build: ({ floats }) => ({ outputs: { y: sumRows(floats("x", [tokens, f])) } }),
    },
  ];
  return cases.map((kernel) => ({ of, ...kernel }));
}

function backward(y: Tensor, g: Tensor, wrt: readonly Tensor[]): Graph {
  const gradients = grad(sum(mul(y, g)), wrt).map((d, i): [string, Tensor] => [`d${i}`, d]);
  return { forward: { y }, outputs: { y, ...Object.fromEntries(gradients) } };
}
