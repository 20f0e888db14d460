/**
 * The kernels of WebGPU: which family computes which primitive.
 *
 * @module
 */

import { type Node, sizeOf, type Tensor } from "../graph/tensor.ts";
import { RUN_WORDS } from "../program/device.ts";
import type { Launch, Lowering, Target } from "../program/lowering.ts";
import { aligned } from "../program/memory.ts";
import { lowerAttention, lowerAttentionGrad } from "./attention.ts";
import { lowerCrossEntropy, lowerCrossEntropyGrad } from "./cross_entropy.ts";
import type { Dispatch, GpuLaunch } from "./kernel.ts";
import {
  lowerLayerNorm,
  lowerLayerNormGrad,
  lowerRmsNorm,
  lowerRmsNormGrad,
} from "./layer_norm.ts";
import { type GpuLowering, gpuLowering, launchOf, lowerPointwise } from "./lower.ts";
import { lowerMatmul } from "./matmul.ts";
import { lowerSum } from "./reduce.ts";
import { lowerPositionIds, lowerScatterAddRows } from "./rows.ts";

/** By the primitive's name: emits the kernels of an anchor. */
export const LOWERINGS: Record<string, (node: Node, to: GpuLowering) => void> = {
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

/** Steps as WGSL. */
export const gpuTarget: Target = {
  kind: "gpu",
  lower(step, to) {
    if (!step.anchor) return lowerPointwise(step, to);
    LOWERINGS[step.anchor.primitive.name](step.anchor, gpuLowering(step, to));
  },
  copy(from: Tensor, to: Tensor, lowering: Lowering) {
    const count = Math.ceil(sizeOf(from.shape) / 4);
    lowering.emit(launchOf(copyKernel(count), { a: lowering.at(from), c: lowering.at(to) }));
  },
  privateBytes(launches: readonly Launch[]) {
    const params = (launches as readonly GpuLaunch[]).map((l) => aligned(4 * l.params.length));
    return params.reduce((a, b) => a + b, 0) + aligned(RUN_WORDS * 4);
  },
};

/** Copies vectors of four words. */
function copyKernel(count: number): Dispatch {
  const threads = 64;
  return {
    source: {
      name: "copy",
      bindings: [
        { name: "a", type: "array<vec4u>", access: "read" },
        { name: "c", type: "array<vec4u>", access: "read_write" },
      ],
      params: ["count"],
      body:
        `@compute @workgroup_size(${threads}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) n: vec3u) {
  for (var i = id.x; i < P.count; i += n.x * ${threads}u) { c[i] = a[i]; }
}`,
    },
    params: [count],
    grid: [Math.min(4096, Math.ceil(count / threads)), 1, 1],
  };
}
