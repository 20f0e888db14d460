/**
 * METRO: pretrain METRO-T5, finetune it on prompts and evaluate it zero-shot, on WebGPU or the processor.
 *
 * Here is what most users need. All of it, and more, is in `@metro/t0/ops` (tensors, differentiation,
 * programs), `@metro/t0/models` (the models and objectives of the paper) and `@metro/t0/tasks` (the jobs).
 *
 * ```ts ignore
 * import { generate, loadModel, rank } from "@metro/t0";
 *
 * const model = await loadModel("runs/tiny-metro/all"); // or a name on the Hugging Face Hub
 * const { best, scores } = await rank(model, "The soup was cold. Good or bad?", ["good", "bad"]);
 * console.log(best, scores, await generate(model, "Is rain wet? Yes or no?"));
 * ```
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
  encodePrompt,
  evaluate,
  type EvaluateJob,
  finetune,
  type FinetuneJob,
  generate,
  type GenerateOptions,
  Generator,
  listCorpus,
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
