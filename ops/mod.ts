/**
 * The engine: symbolic tensors, automatic differentiation, and programs for WebGPU and for the processor.
 *
 * Write a step once as a pure function of tensors; {@link grad} differentiates it, {@link compile} fuses
 * it, plans its memory and has the device's target generate kernels, and `Program.run` replays it.
 *
 * @module
 */

export * from "./graph/errors.ts";
export { key, mix32, Random } from "./graph/random.ts";
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
} from "./graph/tensor.ts";
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
export { PRIMITIVES } from "./primitives/list.ts";
export {
  type Expression,
  type ExpressionOp,
  type ExpressionType,
  type PointwiseRule,
  type PointwiseSite,
} from "./graph/expression.ts";
export { type Step } from "./program/fuse.ts";
export { type Launch, type Lowering, type Operand, type Target } from "./program/lowering.ts";
export {
  type BoundLaunch,
  type BufferView,
  type Device,
  type DeviceBuffer,
  type DeviceLimits,
  type PreparedList,
  type Readback,
  type Stopwatch,
  type Submission,
} from "./program/device.ts";
export { StateMemory, Workspace } from "./program/memory.ts";
export {
  compile,
  Program,
  type ProgramMemory,
  type ProgramSpec,
  type RunOptions,
} from "./program/compile.ts";
export { estimateProgram, type ProgramEstimate, sharedWorkspace } from "./program/estimate.ts";
export { gpuTarget } from "./gpu/target.ts";
export { type AdapterChoice, openDevice, type OpenOptions } from "./open_device.ts";
