/**
 * METRO: pretrain METRO-T5, finetune it on prompts and evaluate it zero-shot, on WebGPU or the processor.
 *
 * @module
 */

export {
  compile,
  type Device,
  grad,
  openDevice,
  type OpenOptions,
  Program,
  UserError,
} from "./ops/mod.ts";
export { type ModelConfig, preset, type PresetName } from "./models/mod.ts";
export {
  evaluate,
  type EvaluateJob,
  finetune,
  type FinetuneJob,
  generate,
  type GenerateOptions,
  Generator,
  type LoadedModel,
  loadModel,
  loadTokenizer,
  pretrain,
  type PretrainJob,
  rank,
  Ranker,
  Tokenizer,
  trainTokenizer,
} from "./tasks/mod.ts";
