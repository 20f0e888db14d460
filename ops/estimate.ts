/**
 * What a program will need, without a device: the same steps, memory plan and kernels that
 * {@link compile} makes, and their sizes.
 *
 * @module
 */

import { type KernelTarget, lowerProgram, placeIntermediate, type ProgramSpec } from "./compile.ts";
import { RUN_BYTES } from "./device.ts";
import type { Operand } from "./lower.ts";
import { aligned, bytesOf, chooseBuffers } from "./memory.ts";
import { isSource, STATE, storageOf } from "./tensor.ts";

export type { KernelTarget };

/** What {@link estimateProgram} foresees. */
export interface ProgramEstimate {
  /** Sizes in bytes of the buffers for intermediate values; programs can share them. */
  workspace: number[];
  /** Their sum. */
  workspaceBytes: number;
  /** Bytes of the buffers that are the program's own: inputs, constants, uniform blocks. */
  ownBytes: number;
  /** The largest window that a kernel binds. */
  largest: {
    /** The state or input, or the kernel and its variable. */
    what: string;
    /** Bytes. */
    bytes: number;
  };
  /** Dispatches of a run. */
  dispatches: number;
}

/**
 * What compiling a program would allocate, and how it would run.
 *
 * @param target family of kernels and lanes of a subgroup (0 if they are not of one fixed size)
 * @throws {Error} if a kernel cannot be generated
 *
 * @example
 * ```ts
 * import { estimateProgram } from "./estimate.ts";
 * import { matmul, relu, state, sum } from "./mod.ts";
 * import assert from "node:assert/strict";
 *
 * const x = state("x", [64, 32]), w = state("w", [32, 128]);
 * const loss = sum(relu(matmul(x, w)));
 * const target = { deviceClass: "gpu", subgroupSize: 32 } as const;
 * const { largest, workspaceBytes } = estimateProgram({ name: "loss", outputs: { loss } }, target);
 * assert.equal(largest.bytes, 64 * 128 * 4);
 * assert.ok(workspaceBytes >= largest.bytes);
 * ```
 */
export function estimateProgram(spec: ProgramSpec, target: KernelTarget): ProgramEstimate {
  const { steps, storage, lowered, scratch } = lowerProgram(target, spec);
  const { sizes } = placeIntermediate(storage, scratch, steps.length);
  const sources = [...new Set(storage.values())].flatMap(({ source }) => source ?? []);
  const own = sources.filter(({ node }) => node.primitive !== STATE).map((t) =>
    aligned(bytesOf(t))
  );
  const params = lowered.map(({ launch }) => aligned(4 * launch.params.length));

  const bytesOfOperand = ({ tensor, scratch: number, offset = 0, bytes }: Operand): number => {
    if (bytes !== undefined) return bytes;
    if (!tensor) return scratch[number!].bytes - offset;
    const { bytes: whole, source } = storage.get(storageOf(tensor))!;
    // Inputs and constants are bound as whole buffers.
    return (source && source.node.primitive !== STATE ? aligned(whole) : whole) - offset;
  };
  const bindings = lowered.flatMap(({ launch: { source }, operands }) =>
    source.bindings.map(({ name }) => {
      const { tensor } = operands[name]!;
      const owner = tensor && storageOf(tensor);
      const what = owner && isSource(owner.node)
        ? owner.node.attrs.name
        : `${source.name}: ${name}`;
      return { what, bytes: Math.ceil(bytesOfOperand(operands[name]!) / 16) * 16 };
    })
  );
  return {
    workspace: sizes,
    workspaceBytes: total(sizes),
    ownBytes: total(own) + total(params) + RUN_BYTES,
    largest: bindings.reduce((a, b) => b.bytes > a.bytes ? b : a, { what: "nothing", bytes: 0 }),
    dispatches: lowered.length,
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
