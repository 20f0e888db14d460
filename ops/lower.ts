/**
 * What a primitive may ask of the compiler when it emits its kernels.
 *
 * @module
 */

import type { DeviceClass, Epilogue, Launch } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";

/** A buffer argument of a kernel: a tensor or scratch memory, or a window of one. */
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

/** An epilogue with the buffers it binds. */
export interface BoundEpilogue {
  /** What to do with each value. */
  epilogue: Epilogue;
  /** Operands of `epilogue.bindings`, by name. */
  operands: Record<string, Operand>;
}

/** Fused pointwise operations that compute an operand element by element, with the buffers they bind. */
export interface BoundPrologue {
  /** Buffers, params, functions. Its `store` is not used. */
  parts: Omit<Epilogue, "store">;
  /** Operands of `parts.bindings`, by name. */
  operands: Record<string, Operand>;
  /**
   * Statements and expression of one value of the operand.
   *
   * @param row WGSL `u32` expression: flat row
   * @param col WGSL `u32` expression: first column, in elements
   */
  load(row: string, col: string, width: 1 | 4): { statements: string; value: string };
  /**
   * The same for the `index`-th group of {@link width} elements, counted through all rows. The statements
   * define `i`, so they need a block of their own.
   */
  loadLinear(index: string): { statements: string; value: string };
  /** 4 if rows can be read four columns at a time. */
  width: 1 | 4;
}

/** Services of the compiler to `Primitive.lower`. */
export interface Lowering {
  /** Family of tile shapes. */
  deviceClass: DeviceClass;
  /** Lanes of a subgroup if the device has subgroups of one fixed size, else 0. */
  subgroupSize: number;
  /** The memory of a tensor, or a window of it. */
  at(tensor: Tensor, offset?: number, bytes?: number): Operand;
  /** Memory that lives for this node only. */
  scratch(bytes: number, label: string): Operand;
  /** Adds a kernel; operands are matched with its bindings by name. */
  emit(launch: Launch, operands: Record<string, Operand | undefined>): void;
  /** For primitives with `hasEpilogue`: stores output 0, with all that was fused to it. */
  epilogue(): BoundEpilogue;
  /** For primitives with `hasPrologue`: reads input 0, with all that was fused to it. */
  prologue(): BoundPrologue;
  /** True if this output of the node shares memory with that input. */
  shares(output: Tensor, input: Tensor): boolean;
}
