/**
 * The engine: symbolic tensors, automatic differentiation, and programs for WebGPU and for the processor.
 *
 * Write a step once as a pure function of tensors; {@link grad} differentiates it, {@link compile} fuses
 * it, plans its memory and has the device's target generate kernels, and {@link Program.run} replays it.
 * Nothing is computed before that. This fits a network of two layers:
 *
 * ```ts
 * import { compile, grad, input, matmul, openDevice } from "@metro/t0/ops";
 * import { relu, scale, state, sub, sumSquares } from "@metro/t0/ops";
 *
 * const x = input("x", [64, 8]), y = input("y", [64, 1]);
 * const w1 = state("w1", [8, 32]), w2 = state("w2", [32, 1]);
 * const loss = sumSquares(sub(matmul(relu(matmul(x, w1)), w2), y));
 * const weights = [w1, w2], gradients = grad(loss, weights);
 * const step = compile(await openDevice(), {
 *   name: "step",
 *   outputs: { loss },
 *   updates: weights.map((w, i) => [w, sub(w, scale(gradients[i], 1e-3))]),
 * });
 * const random = (length: number) => Float32Array.from({ length }, () => Math.random() - 0.5);
 * step.write("w1", random(8 * 32));
 * step.write("w2", random(32));
 * const inputs = { x: random(64 * 8), y: new Float32Array(64).fill(1) };
 * for (let i = 0; i < 100; i++) step.run({ inputs });
 * console.log(await step.read("loss"));
 * ```
 *
 * A {@link state} lives across runs, and `updates` give it new values; an {@link input} is written by each run.
 * What else there is: elementwise operations with broadcasting, sums, {@link matmul}, {@link layerNorm},
 * {@link attention}, {@link crossEntropy}, {@link gatherRows}. {@link interpret} evaluates a graph slowly in
 * float64, without a device. Programs that share weights are given one {@link StateMemory}.
 *
 * @module
 */

export { UserError } from "./graph/errors.ts";
export { constant, type DType, input, reshape, state, type Tensor } from "./graph/tensor.ts";
export {
  add,
  div,
  dropout,
  equal,
  exp,
  gelu,
  greater,
  log,
  mul,
  neg,
  notEqual,
  relu,
  runScalar,
  scalar,
  scale,
  sigmoid,
  sigmoidCrossEntropy,
  sqrt,
  stopGradient,
  sub,
  toFloat,
  where,
} from "./primitives/pointwise.ts";
export { spread, sum, sumColumns, sumRows, sumSquares } from "./primitives/reduce.ts";
export { matmul, type MatmulOptions } from "./primitives/matmul.ts";
export { layerNorm, rmsNorm } from "./primitives/layer_norm.ts";
export { gatherRows } from "./primitives/rows.ts";
export { attention, type AttentionOptions } from "./primitives/attention.ts";
export {
  type CrossEntropy,
  crossEntropy,
  type CrossEntropyOptions,
} from "./primitives/cross_entropy.ts";
export { grad } from "./grad.ts";
export { interpret } from "./reference.ts";
export { type Device } from "./program/device.ts";
export { StateMemory, Workspace } from "./program/memory.ts";
export {
  compile,
  Program,
  type ProgramMemory,
  type ProgramSpec,
  type RunOptions,
} from "./program/compile.ts";
export { openDevice, type OpenOptions } from "./open_device.ts";
