/**
 * The kernels of the CPU: which family computes which primitive.
 *
 * @module
 */

import { type Node, sizeOf } from "../graph/tensor.ts";
import { RUN_WORDS } from "../program/device.ts";
import type { Launch, Target } from "../program/lowering.ts";
import { lowerAttention, lowerAttentionGrad } from "./attention.ts";
import { lowerCrossEntropy, lowerCrossEntropyGrad } from "./cross_entropy.ts";
import { argumentBytes, type CpuLaunch } from "./kernel.ts";
import {
  lowerLayerNorm,
  lowerLayerNormGrad,
  lowerRmsNorm,
  lowerRmsNormGrad,
} from "./layer_norm.ts";
import { type CpuLowering, cpuLowering, lowerPointwise } from "./lower.ts";
import { lowerMatmul } from "./matmul.ts";
import { lowerSum } from "./reduce.ts";
import { copyNumbers, lowerPositionIds, lowerScatterAddRows } from "./rows.ts";

/** By the primitive's name: emits the kernels of an anchor. */
export const LOWERINGS: Record<string, (node: Node, to: CpuLowering) => void> = {
  sum: lowerSum,
  matmul: lowerMatmul,
  layerNorm: lowerLayerNorm,
  layerNormGrad: lowerLayerNormGrad,
  rmsNorm: lowerRmsNorm,
  rmsNormGrad: lowerRmsNormGrad,
  attention: lowerAttention,
  attentionGrad: lowerAttentionGrad,
  scatterAddRows: lowerScatterAddRows,
  positionIds: lowerPositionIds,
  crossEntropy: lowerCrossEntropy,
  crossEntropyGrad: lowerCrossEntropyGrad,
};

/** Steps as WebAssembly, for so many threads. */
export function cpuTarget(threads: number): Target {
  return {
    kind: "cpu",
    lower(step, to) {
      if (!step.anchor) return lowerPointwise(step, to);
      LOWERINGS[step.anchor.primitive.name](step.anchor, cpuLowering(step, to, threads));
    },
    copy(from, to, lowering) {
      lowering.emit(copyNumbers(lowering.at(from), lowering.at(to), sizeOf(from.shape)));
    },
    privateBytes: (launches) => {
      const { bytes } = layOutList(launches as readonly CpuLaunch[]);
      return Math.ceil(bytes / 16) * 16; // as buffers are
    },
  };
}

/** Where the parts of a prepared list lie: the run block first, then the table, then the arguments. */
export function layOutList(launches: readonly (Launch & Pick<CpuLaunch, "params">)[]): {
  /** First byte of the table: for each launch the number of its kernel and the address of its arguments. */
  table: number;
  /** First byte of each launch's arguments. */
  args: number[];
  /** All of it. */
  bytes: number;
} {
  const table = RUN_WORDS * 4;
  let bytes = table + 16 * launches.length;
  const args = launches.map((launch) => {
    const at = bytes;
    bytes += argumentBytes(launch);
    return at;
  });
  return { table, args, bytes };
}
