/**
 * What the kernels of a step ask for: {@link Lowering}, and the pointwise operations around the anchor.
 *
 * @module
 */

import type { Step } from "../program/fuse.ts";
import type { Lowering } from "../program/lowering.ts";
import type { CpuLaunch } from "./kernel.ts";
import { type Finish, finishOf, Group, pointwiseLaunch } from "./pointwise.ts";

/** Services to a kernel family that lowers an anchor. */
export interface CpuLowering extends Pick<Lowering, "at" | "scratch" | "shares"> {
  /** Threads that will share the work. */
  readonly threads: number;
  /** Adds a launch. */
  emit(launch: CpuLaunch): void;
  /** For primitives with `hasEpilogue`: stores output 0, with all that was fused to it. */
  finish(): Finish;
  /** For primitives with `hasPrologue`: reads input 0, with all that was fused to it. */
  prologue(keepRows: boolean): Group;
}

/** The services for one step. */
export function cpuLowering(step: Step, to: Lowering, threads: number): CpuLowering {
  const { at, scratch, shares } = to;
  const { anchor, prologue, epilogue, result } = step;
  return {
    threads,
    at,
    scratch,
    shares,
    emit: (launch) => to.emit(launch),
    finish: () => finishOf(epilogue, anchor!.outputs[0], result, to),
    prologue: (keepRows) => new Group(prologue, anchor!.inputs[0], to, { keepRows }),
  };
}

/** Emits the kernel of a step without anchor. */
export function lowerPointwise({ epilogue, result }: Step, to: Lowering): void {
  to.emit(pointwiseLaunch(epilogue, result, to));
}
