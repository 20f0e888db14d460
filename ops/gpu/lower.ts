/**
 * What the kernels of a step ask for: {@link Lowering} with operands by name, and the pointwise operations
 * around the anchor as text.
 *
 * @module
 */

import type { Tensor } from "../graph/tensor.ts";
import type { Step } from "../program/fuse.ts";
import type { Lowering, Operand } from "../program/lowering.ts";
import type { Dispatch, GpuLaunch } from "./kernel.ts";
import {
  type BoundEpilogue,
  type BoundPrologue,
  groupEpilogue,
  groupPrologue,
  pointwiseKernel,
} from "./pointwise.ts";

/** Services to a kernel family that lowers an anchor. */
export interface GpuLowering extends Pick<Lowering, "at" | "scratch" | "shares"> {
  /** Adds a kernel; operands are matched with its bindings by name. */
  emit(dispatch: Dispatch, operands: Record<string, Operand | undefined>): void;
  /** For primitives with `hasEpilogue`: stores output 0, with all that was fused to it. */
  epilogue(): BoundEpilogue;
  /** For primitives with `hasPrologue`: reads input 0, with all that was fused to it. */
  prologue(): BoundPrologue;
}

/** A dispatch with its operands, in the order of its bindings. */
export function launchOf(
  dispatch: Dispatch,
  operands: Record<string, Operand | undefined>,
): GpuLaunch {
  const { name, bindings } = dispatch.source;
  return {
    ...dispatch,
    name,
    operands: bindings.map((binding) => {
      const operand = operands[binding.name];
      if (!operand) throw new Error(`${name}: no operand for ${binding.name}`);
      return operand;
    }),
  };
}

/** The services for one step. */
export function gpuLowering(step: Step, to: Lowering): GpuLowering {
  const { anchor } = step;
  const { at, scratch, shares } = to;
  return {
    at,
    scratch,
    shares,
    emit: (dispatch, operands) => to.emit(launchOf(dispatch, operands)),
    epilogue: () =>
      groupEpilogue(step.epilogue, anchor!.outputs[0], step.result, epilogueOf(step, to)),
    prologue: () =>
      groupPrologue(step.prologue, anchor!.inputs[0], {
        scalarWord: to.scalarWord,
        prefix: "a",
        inPlace: () => false,
      }),
  };
}

/** Emits the kernel of a step without anchor. */
export function lowerPointwise(step: Step, to: Lowering): void {
  const { dispatch, operands } = pointwiseKernel(step.epilogue, step.result, epilogueOf(step, to));
  to.emit(launchOf(dispatch, operands));
}

function epilogueOf({ result }: Step, { scalarWord, shares }: Lowering) {
  return { scalarWord, prefix: "z", inPlace: (t: Tensor) => shares(t, result) };
}
