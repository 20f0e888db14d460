/**
 * The engine: symbolic tensors, automatic differentiation, and programs for WebGPU.
 *
 * Write a step once as a pure function of tensors; {@link grad} differentiates it, {@link compile} fuses
 * it, plans its memory and generates WGSL, and `Program.run` replays it.
 *
 * @module
 */

export * from "./errors.ts";
export { key, mix32, Random } from "./random.ts";
export {
  constant,
  type DType,
  input,
  type Node,
  type Primitive,
  reshape,
  type RunContext,
  sizeOf,
  state,
  type Tensor,
  type TensorType,
  type Values,
} from "./tensor.ts";
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
export {
  addAll,
  spread,
  sum,
  sumColumns,
  sumRows,
  sumSquares,
  zeros,
} from "./primitives/reduce.ts";
export { matmul, type MatmulOptions } from "./primitives/matmul.ts";
export { layerNorm, rmsNorm } from "./primitives/layer_norm.ts";
export { gatherRows, positionIds, scatterAddRows } from "./primitives/rows.ts";
export { attention, type AttentionOptions } from "./primitives/attention.ts";
export {
  type CrossEntropy,
  crossEntropy,
  type CrossEntropyOptions,
  type SampleOptions,
} from "./primitives/cross_entropy.ts";
export { grad } from "./grad.ts";
export { evaluate, type EvaluateOptions } from "./reference.ts";
export {
  type Binding,
  type DeviceClass,
  type Epilogue,
  type KernelSource,
  type Launch,
} from "./kernel.ts";
export { type BoundEpilogue, type BoundPrologue, type Lowering, type Operand } from "./lower.ts";
export { type PointwiseRule, type PointwiseSite } from "./primitives/pointwise.ts";
export { type Step } from "./fuse.ts";
export {
  type BufferView,
  Device,
  type DeviceOptions,
  openDevice,
  type PreparedDispatch,
} from "./device.ts";
export { StateMemory, Workspace } from "./memory.ts";
export {
  compile,
  Program,
  type ProgramMemory,
  type ProgramSpec,
  type RunOptions,
} from "./compile.ts";
export {
  estimateProgram,
  type KernelTarget,
  type ProgramEstimate,
  sharedWorkspace,
} from "./estimate.ts";
