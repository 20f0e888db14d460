/**
 * Between a program and a target: a target turns each fused step into launches, and asks for memory and
 * places on the way.
 *
 * @module
 */

import type { Tensor } from "../graph/tensor.ts";
import type { Step } from "./fuse.ts";

/** Memory that a kernel is given: a tensor or scratch memory, or a window of one. */
export interface Operand {
  /** The tensor, or undefined for scratch. */
  tensor?: Tensor;
  /** Number of the scratch allocation, if it is one. */
  scratch?: number;
  /** First byte of the window; a multiple of 256. */
  offset?: number;
  /** Bytes of the window; the rest of the memory if absent. */
  bytes?: number;
}

/** A kernel with its arguments, before its operands have memory. */
export interface Launch {
  /** Short name, shown in errors and in profiles. */
  readonly name: string;
  /** Memory that it is given, in the order in which the kernel expects it. */
  readonly operands: readonly Operand[];
}

/** Services of the compiler to a target that lowers one step. */
export interface Lowering {
  /** The memory of a tensor, or a window of it. */
  at(tensor: Tensor, offset?: number, bytes?: number): Operand;
  /** Memory that lives for this step only. */
  scratch(bytes: number, label: string): Operand;
  /** Adds a launch. */
  emit(launch: Launch): void;
  /** True if two tensors share memory. */
  shares(a: Tensor, b: Tensor): boolean;
  /** Word of the run block that holds a scalar input. */
  scalarWord(name: string): number;
}

/** How steps become kernels on one kind of device. No device is needed to lower a program. */
export interface Target {
  /** The kind of its devices. */
  readonly kind: "gpu" | "cpu";
  /**
   * Emits the launches of a step.
   *
   * @throws {Error} if a kernel cannot be generated
   */
  lower(step: Step, to: Lowering): void;
  /** Emits a copy of a whole tensor. */
  copy(from: Tensor, to: Tensor, lowering: Lowering): void;
  /** Bytes that a device needs for itself to prepare these launches, the run block included. */
  privateBytes(launches: readonly Launch[]): number;
}
