/**
 * Elementwise operations with broadcasting. Each states its expression for kernels, its value in TypeScript
 * and its derivative on a few lines; the compiler fuses chains of them into one kernel or into a neighbour.
 *
 * @module
 */

import { broadcastIndex, broadcastShape } from "../graph/broadcast.ts";
import { type Expression, mixed, type PointwiseRule, x } from "../graph/expression.ts";
import { mix32 } from "../graph/random.ts";
import {
  apply,
  type DType,
  expectShape,
  type Node,
  type Primitive,
  type RunContext,
  sizeOf,
  type Tensor,
  type TensorType,
  type Values,
} from "../graph/tensor.ts";
import { sumTo } from "./reduce.ts";

/** Shape of a rule given by scalar functions. */
interface Definition<A> {
  name: string;
  inputs: number;
  /** Types of the inputs, and of the output; f32 unless said. */
  dtypes?: DType[];
  result?: DType;
  express: PointwiseRule<A>["express"];
  value(args: number[], attrs: A, index: number, node: Node<A>, run: RunContext): number;
  /** Gradients at the output's shape; broadcasting is undone by the caller. */
  vjp?(g: Tensor, inputs: readonly Tensor[], output: Tensor, attrs: A): (Tensor | undefined)[];
}

function define<A>(d: Definition<A>): Primitive<A> {
  return {
    name: d.name,
    infer(inputs) {
      const ok = inputs.length === d.inputs &&
        (!d.dtypes || inputs.every((x, i) => x.dtype === d.dtypes![i]));
      expectShape(ok, d.name, d.dtypes?.join(", ") ?? `${d.inputs} inputs`, inputs);
      return [{ shape: broadcastShape(d.name, inputs), dtype: d.result ?? inputs[0].dtype }];
    },
    reference(values, node, run) {
      const [out] = node.outputs;
      const n = sizeOf(out.shape);
      const result: Values = out.dtype === "f32" ? new Float64Array(n) : new Uint32Array(n);
      const at = node.inputs.map((x) => broadcastIndex(x.shape, out.shape));
      const args = new Array<number>(values.length);
      for (let i = 0; i < n; i++) {
        for (let k = 0; k < values.length; k++) args[k] = values[k][at[k](i)];
        result[i] = d.value(args, node.attrs, i, node, run);
      }
      return [result];
    },
    vjp: d.vjp && ((node, [g]) => {
      if (!g) return [];
      const grads = d.vjp!(g, node.inputs, node.outputs[0], node.attrs);
      return grads.map((gi, i) => gi && sumTo(gi, node.inputs[i].shape));
    }),
    pointwise: { express: d.express },
  };
}

const F: DType = "f32", U: DType = "u32";
/** 1 where a condition holds, else 0. */
const indicator = (c: Expression) => x.select(c, x.literal(1), x.literal(0));

const ADD = define<null>({
  name: "add",
  inputs: 2,
  dtypes: [F, F],
  express: ([a, b]) => x.add(a, b),
  value: ([a, b]) => a + b,
  vjp: (g) => [g, g],
});
const SUB = define<null>({
  name: "sub",
  inputs: 2,
  dtypes: [F, F],
  express: ([a, b]) => x.sub(a, b),
  value: ([a, b]) => a - b,
  vjp: (g) => [g, neg(g)],
});
const MUL = define<null>({
  name: "mul",
  inputs: 2,
  dtypes: [F, F],
  express: ([a, b]) => x.mul(a, b),
  value: ([a, b]) => a * b,
  vjp: (g, [a, b]) => [mul(g, b), mul(g, a)],
});
const DIV = define<null>({
  name: "div",
  inputs: 2,
  dtypes: [F, F],
  express: ([a, b]) => x.div(a, b),
  value: ([a, b]) => a / b,
  vjp: (g, [, b], y) => [div(g, b), neg(div(mul(g, y), b))],
});
const NEG = define<null>({
  name: "neg",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.neg(a),
  value: ([x]) => -x,
  vjp: (g) => [neg(g)],
});
const EXP = define<null>({
  name: "exp",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.exp(a),
  value: ([x]) => Math.exp(x),
  vjp: (g, _x, y) => [mul(g, y)],
});
const LOG = define<null>({
  name: "log",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.log(a),
  value: ([x]) => Math.log(x),
  vjp: (g, [x]) => [div(g, x)],
});
const SQRT = define<null>({
  name: "sqrt",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.sqrt(a),
  value: ([x]) => Math.sqrt(x),
  vjp: (g, _x, y) => [div(scale(g, 0.5), y)],
});
const RELU = define<null>({
  name: "relu",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.max(a, x.literal(0)),
  value: ([x]) => Math.max(x, 0),
  // The output is positive exactly where the input is, so only the output need be kept.
  vjp: (g, _x, y) => [mul(g, greater(y, scalar(0)))],
});
/** 1 / (1 + e^z). */
const logistic = (z: Expression) => x.div(x.literal(1), x.add(x.literal(1), x.exp(z)));
/** The logistic function at this multiple of x + 0.044715·x³ is GELU's share of x, by way of tanh. */
const GELU_RATE = 2 * Math.sqrt(2 / Math.PI), GELU_CUBE = 0.044715;
const geluShare = (x: number) => 1 / (1 + Math.exp(-GELU_RATE * (x + GELU_CUBE * x ** 3)));
const geluShareOf = (a: Expression) => {
  const cube = x.mul(x.mul(x.mul(x.literal(GELU_CUBE), a), a), a);
  return logistic(x.mul(x.literal(-GELU_RATE), x.add(a, cube)));
};
const GELU = define<null>({
  name: "gelu",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => x.mul(a, geluShareOf(a)),
  value: ([x]) => x * geluShare(x),
  vjp: (g, [x]) => [mul(g, one(GELU_SLOPE, [x], null))],
});
const GELU_SLOPE = define<null>({
  name: "geluSlope",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => {
    const share = geluShareOf(a), square = x.literal(3 * GELU_RATE * GELU_CUBE);
    const rate = x.add(x.literal(GELU_RATE), x.mul(x.mul(square, a), a));
    const slope = x.mul(x.mul(a, rate), x.sub(x.literal(1), share));
    return x.mul(share, x.add(x.literal(1), slope));
  },
  value: ([x]) => {
    const share = geluShare(x), rate = GELU_RATE * (1 + 3 * GELU_CUBE * x * x);
    return share * (1 + x * rate * (1 - share));
  },
});
const SIGMOID = define<null>({
  name: "sigmoid",
  inputs: 1,
  dtypes: [F],
  express: ([a]) => logistic(x.neg(a)),
  value: ([x]) => 1 / (1 + Math.exp(-x)),
  vjp: (g, _x, y) => [mul(g, mul(y, sub(scalar(1), y)))],
});
/** −[y·log σ(z) + (1−y)·log(1−σ(z))], without overflow. */
const SIGMOID_CROSS_ENTROPY = define<null>({
  name: "sigmoidCrossEntropy",
  inputs: 2,
  dtypes: [F, F],
  express([z, y]) {
    const linear = x.sub(x.max(z, x.literal(0)), x.mul(z, y));
    return x.add(linear, x.log(x.add(x.literal(1), x.exp(x.neg(x.abs(z))))));
  },
  value: ([z, y]) => Math.max(z, 0) - z * y + Math.log1p(Math.exp(-Math.abs(z))),
  vjp: (g, [z, y]) => [mul(g, sub(sigmoid(z), y)), undefined],
});
const GREATER = define<null>({
  name: "greater",
  inputs: 2,
  dtypes: [F, F],
  express: ([a, b]) => indicator(x.greater(a, b)),
  value: ([a, b]) => a > b ? 1 : 0,
});
const EQUAL = define<null>({
  name: "equal",
  inputs: 2,
  dtypes: [U, U],
  result: F,
  express: ([a, b]) => indicator(x.equal(a, b)),
  value: ([a, b]) => a === b ? 1 : 0,
});
const WHERE = define<null>({
  name: "where",
  inputs: 3,
  express: ([c, a, b]) => x.select(x.equal(c, x.literal(0)), b, a),
  value: ([c, a, b]) => c !== 0 ? a : b,
  vjp: (g, [c]) => [undefined, where(c, g, scalar(0)), where(c, scalar(0), g)],
});
WHERE.infer = (inputs: readonly TensorType[]) => {
  const [c, a, b] = inputs;
  expectShape(
    c.dtype === F && a.dtype === b.dtype,
    "where",
    "f32 condition and equal types",
    inputs,
  );
  return [{ shape: broadcastShape("where", inputs), dtype: a.dtype }];
};
const TO_FLOAT = define<null>({
  name: "toFloat",
  inputs: 1,
  dtypes: [U],
  result: F,
  express: ([a]) => x.float(a),
  value: ([x]) => x,
});
const STOP_GRADIENT = define<null>({
  name: "stopGradient",
  inputs: 1,
  express: ([a]) => a,
  value: ([x]) => x,
});
const SCALAR: Primitive<{ value: number; dtype: DType }> = {
  name: "scalar",
  infer: (_inputs, { dtype }) => [{ shape: [], dtype }],
  reference: (_inputs, { attrs }) => [
    attrs.dtype === "f32" ? Float64Array.of(attrs.value) : Uint32Array.of(attrs.value),
  ],
  pointwise: { express: (_args, { value, dtype }) => x.literal(value, dtype) },
};
const RUN_SCALAR: Primitive<{ name: string }> = {
  name: "runScalar",
  infer: () => [{ shape: [], dtype: "f32" }],
  reference: (_inputs, { attrs }, run) => {
    if (!(attrs.name in run.scalars)) throw new Error(`scalar input ${attrs.name} was not given`);
    return [Float64Array.of(run.scalars[attrs.name])];
  },
  // Targets replace it by its word of the run block.
  pointwise: {
    express() {
      throw new Error("runScalar: it is a word of the run block, not an expression");
    },
  },
};

/** Attributes of dropout: the probability, and a number that identifies this use of it. */
interface DropoutAttrs {
  p: number;
  stream: number;
}
const DROPOUT: Primitive<DropoutAttrs> = define<DropoutAttrs>({
  name: "dropout",
  inputs: 1,
  dtypes: [F],
  express([a], { p, stream }, { size, leading }) {
    // Elements are numbered through the whole global batch: a sequence's mask moves with it.
    const flat = x.add(x.mul(x.firstSequence, x.parameter(size / leading)), x.place);
    const bits = mixed(x.xor(mixed(x.xor(x.runKey, x.parameter(stream))), flat));
    const kept = x.select(x.atLeast(bits, x.parameter(dropThreshold(p))), a, x.literal(0));
    return x.mul(kept, x.literal(1 / (1 - p)));
  },
  value([x], { p, stream }, index, node, run) {
    const [out] = node.outputs;
    const perSequence = sizeOf(out.shape) / out.shape[0];
    const flat = (Math.imul(run.sequence, perSequence) + index) >>> 0;
    const bits = mix32(mix32(run.key ^ stream) ^ flat);
    return bits >= dropThreshold(p) ? x / (1 - p) : 0;
  },
  // The same mask: it is a function of stream and position alone.
  vjp: (g, _x, _y, attrs) => [apply(DROPOUT, [g], attrs)[0]],
});

/** Random bits below this number mean "dropped". */
function dropThreshold(p: number): number {
  return Math.floor(p * 4294967296) >>> 0;
}

const one = <A>(p: Primitive<A>, inputs: Tensor[], attrs: A): Tensor => apply(p, inputs, attrs)[0];

/**
 * A number known when the program is compiled; shape `[]`.
 *
 * @example
 * ```ts
 * import { interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([scalar(3)])[0][0], 3);
 * ```
 */
export function scalar(value: number, dtype: DType = "f32"): Tensor {
  return one(SCALAR, [], { value, dtype });
}

/**
 * A number passed at every run; shape `[]`.
 *
 * @example
 * ```ts
 * import { interpret, runScalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([runScalar("rate")], { run: { scalars: { rate: 0.5 } } })[0][0], 0.5);
 * ```
 */
export function runScalar(name: string): Tensor {
  return one(RUN_SCALAR, [], { name });
}

/**
 * a + b, with broadcasting.
 *
 * @example
 * ```ts
 * import { add, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([add(scalar(2), scalar(3))])[0][0], 5);
 * ```
 */
export function add(a: Tensor, b: Tensor): Tensor {
  return one(ADD, [a, b], null);
}

/**
 * a − b, with broadcasting.
 *
 * @example
 * ```ts
 * import { interpret, scalar, sub } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([sub(scalar(2), scalar(3))])[0][0], -1);
 * ```
 */
export function sub(a: Tensor, b: Tensor): Tensor {
  return one(SUB, [a, b], null);
}

/**
 * a · b elementwise, with broadcasting.
 *
 * @example
 * ```ts
 * import { interpret, mul, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([mul(scalar(2), scalar(3))])[0][0], 6);
 * ```
 */
export function mul(a: Tensor, b: Tensor): Tensor {
  return one(MUL, [a, b], null);
}

/**
 * a / b elementwise, with broadcasting.
 *
 * @example
 * ```ts
 * import { div, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([div(scalar(3), scalar(2))])[0][0], 1.5);
 * ```
 */
export function div(a: Tensor, b: Tensor): Tensor {
  return one(DIV, [a, b], null);
}

/**
 * −x.
 *
 * @example
 * ```ts
 * import { interpret, neg, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([neg(scalar(2))])[0][0], -2);
 * ```
 */
export function neg(x: Tensor): Tensor {
  return one(NEG, [x], null);
}

/**
 * x times a number.
 *
 * @example
 * ```ts
 * import { interpret, scalar, scale } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([scale(scalar(2), 3)])[0][0], 6);
 * ```
 */
export function scale(x: Tensor, factor: number): Tensor {
  return factor === 1 ? x : mul(x, scalar(factor));
}

/**
 * e^x.
 *
 * @example
 * ```ts
 * import { exp, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([exp(scalar(1))])[0][0], Math.E);
 * ```
 */
export function exp(x: Tensor): Tensor {
  return one(EXP, [x], null);
}

/**
 * Natural logarithm.
 *
 * @example
 * ```ts
 * import { interpret, log, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([log(scalar(8))])[0][0], Math.log(8));
 * ```
 */
export function log(x: Tensor): Tensor {
  return one(LOG, [x], null);
}

/**
 * Square root.
 *
 * @example
 * ```ts
 * import { interpret, scalar, sqrt } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([sqrt(scalar(9))])[0][0], 3);
 * ```
 */
export function sqrt(x: Tensor): Tensor {
  return one(SQRT, [x], null);
}

/**
 * max(x, 0).
 *
 * @example
 * ```ts
 * import { interpret, relu, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([relu(scalar(-2))])[0][0], 0);
 * ```
 */
export function relu(x: Tensor): Tensor {
  return one(RELU, [x], null);
}

/**
 * x·Φ(x) for the normal distribution Φ, by the usual formula with tanh.
 *
 * @example
 * ```ts
 * import { gelu, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([gelu(scalar(0))])[0][0], 0);
 * ```
 */
export function gelu(x: Tensor): Tensor {
  return one(GELU, [x], null);
}

/**
 * 1 / (1 + e^−x).
 *
 * @example
 * ```ts
 * import { interpret, scalar, sigmoid } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([sigmoid(scalar(0))])[0][0], 0.5);
 * ```
 */
export function sigmoid(x: Tensor): Tensor {
  return one(SIGMOID, [x], null);
}

/**
 * Binary cross entropy of logits z against labels y in {0, 1} (paper, equation 11); no gradient to y.
 *
 * @example
 * ```ts
 * import { interpret, scalar, sigmoidCrossEntropy } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([sigmoidCrossEntropy(scalar(0), scalar(1))])[0][0], Math.log(2));
 * ```
 */
export function sigmoidCrossEntropy(z: Tensor, y: Tensor): Tensor {
  return one(SIGMOID_CROSS_ENTROPY, [z, y], null);
}

/**
 * 1 where a > b, else 0; no gradient.
 *
 * @example
 * ```ts
 * import { greater, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([greater(scalar(2), scalar(1))])[0][0], 1);
 * ```
 */
export function greater(a: Tensor, b: Tensor): Tensor {
  return one(GREATER, [a, b], null);
}

/**
 * 1 where two u32 tensors are equal, else 0.
 *
 * @example
 * ```ts
 * import { equal, interpret, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([equal(scalar(7, "u32"), scalar(7, "u32"))])[0][0], 1);
 * ```
 */
export function equal(a: Tensor, b: Tensor): Tensor {
  return one(EQUAL, [a, b], null);
}

/**
 * 1 where two u32 tensors differ, else 0.
 *
 * @example
 * ```ts
 * import { interpret, notEqual, scalar } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([notEqual(scalar(7, "u32"), scalar(7, "u32"))])[0][0], 0);
 * ```
 */
export function notEqual(a: Tensor, b: Tensor): Tensor {
  return sub(scalar(1), equal(a, b));
}

/**
 * a where the condition is not 0, else b.
 *
 * @example
 * ```ts
 * import { interpret, scalar, where } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([where(scalar(1), scalar(2), scalar(3))])[0][0], 2);
 * ```
 */
export function where(condition: Tensor, a: Tensor, b: Tensor): Tensor {
  return one(WHERE, [condition, a, b], null);
}

/**
 * A u32 tensor as f32.
 *
 * @example
 * ```ts
 * import { scalar, toFloat } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(toFloat(scalar(7, "u32")).dtype, "f32");
 * ```
 */
export function toFloat(x: Tensor): Tensor {
  return one(TO_FLOAT, [x], null);
}

/**
 * x, through which no gradient flows.
 *
 * @example
 * ```ts
 * import { interpret, scalar, stopGradient } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.equal(interpret([stopGradient(scalar(2))])[0][0], 2);
 * ```
 */
export function stopGradient(x: Tensor): Tensor {
  return one(STOP_GRADIENT, [x], null);
}

/**
 * Zeroes each element with probability `p` and scales the rest by 1/(1−p). The mask is a function of
 * the run's key, the stream and the element's place in the global batch (the first axis counts
 * sequences), so the backward pass recomputes it.
 *
 * @param x first axis = sequences
 * @param p probability in [0, 1); 0 returns x
 * @param stream identifies this use
 *
 * @example
 * ```ts
 * import { dropout, interpret, scalar, spread } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const [values] = interpret([dropout(spread(scalar(1), [100]), 0.5, 0)], { run: { key: 7 } });
 * assert.ok(values.every((value) => value === 0 || value === 2));
 * ```
 */
export function dropout(x: Tensor, p: number, stream: number): Tensor {
  if (p === 0) return x;
  if (!(p > 0 && p < 1)) throw new Error(`dropout: expected a probability in [0, 1), got ${p}`);
  return one(DROPOUT, [x], { p, stream: stream >>> 0 });
}

export { RUN_SCALAR };

/** All primitives of this file. */
export const POINTWISE: readonly Primitive[] = [
  ADD,
  SUB,
  MUL,
  DIV,
  NEG,
  EXP,
  LOG,
  SQRT,
  RELU,
  GELU,
  GELU_SLOPE,
  SIGMOID,
  SIGMOID_CROSS_ENTROPY,
  GREATER,
  EQUAL,
  WHERE,
  TO_FLOAT,
  STOP_GRADIENT,
  SCALAR,
  RUN_SCALAR,
  DROPOUT,
];
