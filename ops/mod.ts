/**
 * The engine: symbolic tensors, automatic differentiation, and programs for WebGPU and for the processor.
 *
 * Write a step once as a pure function of tensors; {@link grad} differentiates it, {@link compile} fuses
 * it, plans its memory and has the device's target generate kernels, and {@link Program.run} replays it.
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
