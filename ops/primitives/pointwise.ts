/**
 * Elementwise operations with broadcasting. Each states its WGSL expression, its value in TypeScript and
 * its derivative on a few lines; the compiler fuses chains of them into one kernel or into a neighbour.
 *
 * @module
 */

import { mix32 } from "../random.ts";
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
} from "../tensor.ts";
import { broadcastIndex, broadcastShape } from "./broadcast.ts";
import { sumTo } from "./reduce.ts";

/** Where a fused kernel is, when it emits an expression. */
export interface PointwiseSite {
  /** Elements per value: 4 means `vec4f`/`vec4u`. */
  width: 1 | 4;
  /** WGSL `u32` expression: flat index of the (first) element in the output. */
  flat: string;
  /** Passes a number to the kernel; returns the WGSL `u32` expression that reads it. */
  param(value: number): string;
  /** Number of elements of the output. */
  size: number;
  /** Length of the output's first axis. */
  leading: number;
}

/** How a pointwise primitive looks in a kernel. */
export interface PointwiseRule<A> {
  /** WGSL expression of the result from those of the inputs (each of the site's width). */
  emit(args: string[], attrs: A, site: PointwiseSite): string;
  /** True if the expression reads the run block. */
  usesRun?: boolean;
}

/** Shape of a rule given by scalar functions. */
interface Definition<A> {
  name: string;
  inputs: number;
  /** Types of the inputs, and of the output; f32 unless said. */
  dtypes?: DType[];
  result?: DType;
  emit: PointwiseRule<A>["emit"];
  usesRun?: boolean;
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
    pointwise: { emit: d.emit, usesRun: d.usesRun },
  };
}

const F: DType = "f32", U: DType = "u32";
/** WGSL type of a value. */
export function wgslType(dtype: DType, width: 1 | 4): string {
  return width === 1 ? dtype : dtype === "f32" ? "vec4f" : "vec4u";
}
const f = (width: 1 | 4) => wgslType("f32", width);

const ADD = define<null>({
  name: "add",
  inputs: 2,
  dtypes: [F, F],
  emit: ([a, b]) => `(${a} + ${b})`,
  value: ([a, b]) => a + b,
  vjp: (g) => [g, g],
});
const SUB = define<null>({
  name: "sub",
  inputs: 2,
  dtypes: [F, F],
  emit: ([a, b]) => `(${a} - ${b})`,
  value: ([a, b]) => a - b,
  vjp: (g) => [g, neg(g)],
});
const MUL = define<null>({
  name: "mul",
  inputs: 2,
  dtypes: [F, F],
  emit: ([a, b]) => `(${a} * ${b})`,
  value: ([a, b]) => a * b,
  vjp: (g, [a, b]) => [mul(g, b), mul(g, a)],
});
const DIV = define<null>({
  name: "div",
  inputs: 2,
  dtypes: [F, F],
  emit: ([a, b]) => `(${a} / ${b})`,
  value: ([a, b]) => a / b,
  vjp: (g, [, b], y) => [div(g, b), neg(div(mul(g, y), b))],
});
const NEG = define<null>({
  name: "neg",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => `(-${x})`,
  value: ([x]) => -x,
  vjp: (g) => [neg(g)],
});
const EXP = define<null>({
  name: "exp",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => `exp(${x})`,
  value: ([x]) => Math.exp(x),
  vjp: (g, _x, y) => [mul(g, y)],
});
const LOG = define<null>({
  name: "log",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => `log(${x})`,
  value: ([x]) => Math.log(x),
  vjp: (g, [x]) => [div(g, x)],
});
const SQRT = define<null>({
  name: "sqrt",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => `sqrt(${x})`,
  value: ([x]) => Math.sqrt(x),
  vjp: (g, _x, y) => [div(scale(g, 0.5), y)],
});
const RELU = define<null>({
  name: "relu",
  inputs: 1,
  dtypes: [F],
  emit: ([x], _a, { width }) => `max(${x}, ${f(width)}(0.0))`,
  value: ([x]) => Math.max(x, 0),
  // The output is positive exactly where the input is, so only the output need be kept.
  vjp: (g, _x, y) => [mul(g, greater(y, scalar(0)))],
});
/** The logistic function at this multiple of x + 0.044715·x³ is GELU's share of x, by way of tanh. */
const GELU_RATE = 2 * Math.sqrt(2 / Math.PI), GELU_CUBE = 0.044715;
const geluShare = (x: number) => 1 / (1 + Math.exp(-GELU_RATE * (x + GELU_CUBE * x ** 3)));
const geluShareWgsl = (x: string) =>
  `(1.0 / (1.0 + exp(${-GELU_RATE} * (${x} + ${GELU_CUBE} * ${x} * ${x} * ${x}))))`;
const GELU = define<null>({
  name: "gelu",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => `(${x} * ${geluShareWgsl(x)})`,
  value: ([x]) => x * geluShare(x),
  vjp: (g, [x]) => [mul(g, one(GELU_SLOPE, [x], null))],
});
const GELU_SLOPE = define<null>({
  name: "geluSlope",
  inputs: 1,
  dtypes: [F],
  emit: ([x]) => {
    const share = geluShareWgsl(x);
    const rate = `(${GELU_RATE} + ${3 * GELU_RATE * GELU_CUBE} * ${x} * ${x})`;
    return `(${share} * (1.0 + ${x} * ${rate} * (1.0 - ${share})))`;
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
  emit: ([x]) => `(1.0 / (1.0 + exp(-${x})))`,
  value: ([x]) => 1 / (1 + Math.exp(-x)),
  vjp: (g, _x, y) => [mul(g, mul(y, sub(scalar(1), y)))],
});
/** −[y·log σ(z) + (1−y)·log(1−σ(z))], without overflow. */
const SIGMOID_CROSS_ENTROPY = define<null>({
  name: "sigmoidCrossEntropy",
  inputs: 2,
  dtypes: [F, F],
  emit: ([z, y], _a, { width }) =>
    `(max(${z}, ${f(width)}(0.0)) - ${z} * ${y} + log(1.0 + exp(-abs(${z}))))`,
  value: ([z, y]) => Math.max(z, 0) - z * y + Math.log1p(Math.exp(-Math.abs(z))),
  vjp: (g, [z, y]) => [mul(g, sub(sigmoid(z), y)), undefined],
});
const GREATER = define<null>({
  name: "greater",
  inputs: 2,
  dtypes: [F, F],
  emit: ([a, b], _a, { width }) => `select(${f(width)}(0.0), ${f(width)}(1.0), ${a} > ${b})`,
  value: ([a, b]) => a > b ? 1 : 0,
});
const EQUAL = define<null>({
  name: "equal",
  inputs: 2,
  dtypes: [U, U],
  result: F,
  emit: ([a, b], _a, { width }) => `select(${f(width)}(0.0), ${f(width)}(1.0), ${a} == ${b})`,
  value: ([a, b]) => a === b ? 1 : 0,
});
const WHERE = define<null>({
  name: "where",
  inputs: 3,
  emit: ([c, a, b], _a, { width }) => `select(${b}, ${a}, ${c} != ${f(width)}(0.0))`,
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
  emit: ([x], _a, { width }) => `${f(width)}(${x})`,
  value: ([x]) => x,
});
const STOP_GRADIENT = define<null>({
  name: "stopGradient",
  inputs: 1,
  emit: ([x]) => x,
  value: ([x]) => x,
});
const SCALAR: Primitive<{ value: number; dtype: DType }> = {
  name: "scalar",
  infer: (_inputs, { dtype }) => [{ shape: [], dtype }],
  reference: (_inputs, { attrs }) => [
    attrs.dtype === "f32" ? Float64Array.of(attrs.value) : Uint32Array.of(attrs.value),
  ],
  pointwise: {
    emit: (_args, { value, dtype }, { width }) =>
      `${wgslType(dtype, width)}(${literal(value, dtype)})`,
  },
};
const RUN_SCALAR: Primitive<{ name: string }> = {
  name: "runScalar",
  infer: () => [{ shape: [], dtype: "f32" }],
  reference: (_inputs, { attrs }, run) => {
    if (!(attrs.name in run.scalars)) throw new Error(`scalar input ${attrs.name} was not given`);
    return [Float64Array.of(run.scalars[attrs.name])];
  },
  // The compiler replaces it by the place of the scalar in the run block.
  pointwise: {
    emit: () => {
      throw new Error("runScalar is resolved by the compiler");
    },
    usesRun: true,
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
  usesRun: true,
  emit([x], { p, stream }, site) {
    // Elements are numbered through the whole global batch: a sequence's mask moves with it.
    const perSequence = site.param(site.size / site.leading);
    const mask = `dropoutMask${site.width}(R[0].y * ${perSequence} + ${site.flat}, ` +
      `${site.param(stream)}, ${site.param(dropThreshold(p))})`;
    return `(${x} * ${mask} * ${literal(1 / (1 - p), F)})`;
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

/** WGSL functions that {@link dropout} calls; they need `mix32` (see `HASH_WGSL`) and the run block. */
export const DROPOUT_WGSL = `fn mix32x4(x0: vec4u) -> vec4u {
  var x = x0;
  x = (x ^ (x >> vec4u(16u))) * 0x21f0aaadu;
  x = (x ^ (x >> vec4u(15u))) * 0xd35a2d97u;
  return x ^ (x >> vec4u(15u));
}
fn dropoutMask4(flat: u32, stream: u32, threshold: u32) -> vec4f {
  let key = mix32(R[0].x ^ stream);
  let bits = mix32x4(vec4u(key) ^ (vec4u(flat) + vec4u(0u, 1u, 2u, 3u)));
  return select(vec4f(0.0), vec4f(1.0), bits >= vec4u(threshold));
}
fn dropoutMask1(flat: u32, stream: u32, threshold: u32) -> f32 {
  return select(0.0, 1.0, mix32(mix32(R[0].x ^ stream) ^ flat) >= threshold);
}`;

/** Random bits below this number mean "dropped". */
export function dropThreshold(p: number): number {
  return Math.floor(p * 4294967296) >>> 0;
}

function literal(value: number, dtype: DType): string {
  if (dtype === "u32") return `${value >>> 0}u`;
  if (!Number.isFinite(value)) throw new Error(`scalar: ${value} has no WGSL literal`);
  const text = Math.fround(value).toString();
  return /[.e]/.test(text) ? text : text + ".0";
}

const one = <A>(p: Primitive<A>, inputs: Tensor[], attrs: A): Tensor => apply(p, inputs, attrs)[0];

/** A number known when the program is compiled; shape `[]`. */
export const scalar = (value: number, dtype: DType = "f32"): Tensor =>
  one(SCALAR, [], { value, dtype });
/** A number passed at every run; shape `[]`. */
export const runScalar = (name: string): Tensor => one(RUN_SCALAR, [], { name });
/** a + b, with broadcasting. */
export const add = (a: Tensor, b: Tensor): Tensor => one(ADD, [a, b], null);
/** a − b, with broadcasting. */
export const sub = (a: Tensor, b: Tensor): Tensor => one(SUB, [a, b], null);
/** a · b elementwise, with broadcasting. */
export const mul = (a: Tensor, b: Tensor): Tensor => one(MUL, [a, b], null);
/** a / b elementwise, with broadcasting. */
export const div = (a: Tensor, b: Tensor): Tensor => one(DIV, [a, b], null);
/** −x. */
export const neg = (x: Tensor): Tensor => one(NEG, [x], null);
/** x times a number. */
export const scale = (x: Tensor, factor: number): Tensor =>
  factor === 1 ? x : mul(x, scalar(factor));
/** e^x. */
export const exp = (x: Tensor): Tensor => one(EXP, [x], null);
/** Natural logarithm. */
export const log = (x: Tensor): Tensor => one(LOG, [x], null);
/** Square root. */
export const sqrt = (x: Tensor): Tensor => one(SQRT, [x], null);
/** max(x, 0). */
export const relu = (x: Tensor): Tensor => one(RELU, [x], null);
/** x·Φ(x) for the normal distribution Φ, by the usual formula with tanh. */
export const gelu = (x: Tensor): Tensor => one(GELU, [x], null);
/** 1 / (1 + e^−x). */
export const sigmoid = (x: Tensor): Tensor => one(SIGMOID, [x], null);
/** Binary cross entropy of logits z against labels y in {0, 1} (paper, equation 10); no gradient to y. */
export const sigmoidCrossEntropy = (z: Tensor, y: Tensor): Tensor =>
  one(SIGMOID_CROSS_ENTROPY, [z, y], null);
/** 1 where a > b, else 0; no gradient. */
export const greater = (a: Tensor, b: Tensor): Tensor => one(GREATER, [a, b], null);
/** 1 where two u32 tensors are equal, else 0. */
export const equal = (a: Tensor, b: Tensor): Tensor => one(EQUAL, [a, b], null);
/** 1 where two u32 tensors differ, else 0. */
export const notEqual = (a: Tensor, b: Tensor): Tensor => sub(scalar(1), equal(a, b));
/** a where the condition is not 0, else b. */
export const where = (condition: Tensor, a: Tensor, b: Tensor): Tensor =>
  one(WHERE, [condition, a, b], null);
/** A u32 tensor as f32. */
export const toFloat = (x: Tensor): Tensor => one(TO_FLOAT, [x], null);
/** x, through which no gradient flows. */
export const stopGradient = (x: Tensor): Tensor => one(STOP_GRADIENT, [x], null);

/**
 * Zeroes each element with probability `p` and scales the rest by 1/(1−p). The mask is a function of
 * the run's key, the stream and the element's place in the global batch (the first axis counts
 * sequences), so the backward pass recomputes it.
 *
 * @param x first axis = sequences
 * @param p probability in [0, 1); 0 returns x
 * @param stream identifies this use
 */
export function dropout(x: Tensor, p: number, stream: number): Tensor {
  if (p === 0) return x;
  if (!(p > 0 && p < 1)) throw new Error(`dropout: expected a probability in [0, 1), got ${p}`);
  return one(DROPOUT, [x], { p, stream: stream >>> 0 });
}

export { RUN_SCALAR };
