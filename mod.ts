/**
 * METRO: pretrain, and soon prompt-finetune and evaluate, METRO-T0 on WebGPU, in TypeScript.
 *
 * The same things are exported by layer from `@metro/t0/ops` (tensors, differentiation, programs),
 * `@metro/t0/models` (the models and objectives of the paper) and `@metro/t0/tasks` (the jobs).
 *
 * @module
 */

export * from "./ops/mod.ts";
export * from "./models/mod.ts";
export * from "./tasks/mod.ts";
