/**
 * What a program will need, without a device: the same steps, memory plan and kernels that
 * {@link compile} makes, and their sizes.
 *
 * @module
 */

import { isSource, STATE, storageOf } from "../graph/tensor.ts";
import { lowerProgram, placeIntermediate, type ProgramSpec } from "./compile.ts";
import type { Operand, Target } from "./lowering.ts";
import { aligned, bytesOf, chooseBuffers } from "./memory.ts";

/** What {@link estimateProgram} foresees. */
export interface ProgramEstimate {
  /** Sizes in bytes of the buffers for intermediate values; programs can share them. */
  workspace: number[];
  /** Their sum. */
  workspaceBytes: number;
  /** Bytes that are the program's own: inputs, constants, and what the device keeps to run it. */
  ownBytes: number;
  /** The largest window that a kernel is given. */
  largest: {
    /** The state or input, or the kernel. */
    what: string;
    /** Bytes. */
    bytes: number;
  };
  /** Launches of a run. */
  launches: number;
}

/**
 * What compiling a program would allocate, and how it would run.
 *
 * @param target the kind of device
 * @throws {Error} if a kernel cannot be generated
 *
 * @example
 * ```ts
 * import { matmul, relu, state, sum } from "../mod.ts";
 * import { gpuTarget } from "../gpu/target.ts";
 * import assert from "node:assert/strict";
 *
 * const x = state("x", [64, 32]), w = state("w", [32, 128]);
 * const loss = sum(relu(matmul(x, w)));
 * const spec = { name: "loss", outputs: { loss } };
 * const { largest, workspaceBytes } = estimateProgram(spec, gpuTarget);
 * assert.equal(largest.bytes, 64 * 128 * 4);
 * assert.ok(workspaceBytes >= largest.bytes);
 * ```
 */
export function estimateProgram(spec: ProgramSpec, target: Target): ProgramEstimate {
  const { steps, storage, lowered, scratch } = lowerProgram(target, spec);
  const { sizes } = placeIntermediate(storage, scratch, steps.length);
  const sources = [...new Set(storage.values())].flatMap(({ source }) => source ?? []);
  const own = sources.filter(({ node }) => node.primitive !== STATE).map((t) =>
    aligned(bytesOf(t))
  );

  const bytesOfOperand = ({ tensor, scratch: number, offset = 0, bytes }: Operand): number => {
    if (bytes !== undefined) return bytes;
    if (!tensor) return scratch[number!].bytes - offset;
    const { bytes: whole, source } = storage.get(storageOf(tensor))!;
    // Inputs and constants are given as whole buffers.
    return (source && source.node.primitive !== STATE ? aligned(whole) : whole) - offset;
  };
  const windows = lowered.flatMap(({ launch: { name, operands } }) =>
    operands.map((operand) => {
      const owner = operand.tensor && storageOf(operand.tensor);
      const what = owner && isSource(owner.node) ? owner.node.attrs.name : `an operand of ${name}`;
      return { what, bytes: Math.ceil(bytesOfOperand(operand) / 16) * 16 };
    })
  );
  return {
    workspace: sizes,
    workspaceBytes: total(sizes),
    ownBytes: total(own) + target.privateBytes(lowered.map(({ launch }) => launch)),
    largest: windows.reduce((a, b) => b.bytes > a.bytes ? b : a, { what: "nothing", bytes: 0 }),
    launches: lowered.length,
  };
}

/**
 * The buffers of a workspace that several programs share, in the order in which they are compiled.
 *
 * @returns sizes in bytes
 *
 * @example
 * ```ts
 * import { sharedWorkspace } from "./estimate.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(sharedWorkspace([{ workspace: [256, 512] }, { workspace: [768] }]), [512, 256, 768]);
 * ```
 */
export function sharedWorkspace(programs: readonly Pick<ProgramEstimate, "workspace">[]): number[] {
  const have: number[] = [];
  for (const { workspace } of programs) have.push(...chooseBuffers(have, workspace).missing);
  return have;
}

function total(sizes: readonly number[]): number {
  return sizes.reduce((a, b) => a + b, 0);
}
