import type { Node } from "../graph/tensor.ts";
import type { CpuLowering } from "./lower.ts";
export function lowerAttention(_n: Node, _t: CpuLowering): void { throw new Error("wip"); }
export function lowerAttentionGrad(_n: Node, _t: CpuLowering): void { throw new Error("wip"); }
