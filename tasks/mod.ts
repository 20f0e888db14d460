/**
 * The jobs as functions: corpus, tokenizer, packing, batches, training, checkpoints, metrics, reports.
 *
 * @module
 */

export * from "./batches.ts";
export * from "./checkpoint.ts";
export * from "./convert.ts";
export * from "./corpus.ts";
export * from "./evaluate.ts";
export * from "./evaluation_report.ts";
export * from "./example_windows.ts";
export * from "./examples.ts";
export * from "./finetune.ts";
export {
  type FinetuneBase,
  type FinetuneConfig,
  type FinetuneSettings,
  type GivenFinetune,
  resolveFinetune,
} from "./finetune_options.ts";
export * from "./generate.ts";
export * from "./hub.ts";
export { type ErrorKind, PyFloat, PyObject } from "./jinja/values.ts";
export * from "./lengths.ts";
export * from "./metrics.ts";
export * from "./mixed_corpus.ts";
export * from "./mixture.ts";
export * from "./model.ts";
export * from "./model_weights.ts";
export * from "./objective.ts";
export * from "./optimizer_files.ts";
export * from "./pack.ts";
export * from "./packed.ts";
export * from "./pair_batches.ts";
export { type TensorSlice } from "./parallel/buckets.ts";
export * from "./parallel/communicator.ts";
export * from "./parallel/share.ts";
export * from "./pretrain.ts";
export { type GivenPretrain, type PretrainConfig, resolvePretrain } from "./pretrain_options.ts";
export * from "./progress.ts";
export * from "./prompt_ids.ts";
export * from "./prompts/lint.ts";
export * from "./prompts/t0.ts";
export * from "./prompts/template.ts";
export * from "./prompts/templates.ts";
export * from "./rank.ts";
export * from "./report.ts";
export * from "./results.ts";
export * from "./rows/mod.ts";
export * from "./run_folder.ts";
export * from "./shuffle.ts";
export * from "./step_folder.ts";
export * from "./strip_plot.ts";
export * from "./tokenizer.ts";
export { metroText } from "./tokenizer/metro_text.ts";
export {
  type Piece,
  type PieceType,
  readSentencePiece,
  type SentencePieceModel,
} from "./tokenizer/sentencepiece.ts";
export {
  readSentencePieceJson,
  sentencePieceJson,
  type SentencePieceLayout,
} from "./tokenizer/sentencepiece_json.ts";
export * from "./tokenizer/train.ts";
export { trainUnigram, type UnigramOptions } from "./tokenizer/unigram_train.ts";
export * from "./train_loop.ts";
export * from "./trainer.ts";
export * from "./training_programs.ts";
export * from "./verify_model.ts";
export * from "./verify_prompts.ts";
export * from "./verify_step.ts";
export * from "./verify_tokenizer.ts";
export * from "./weights.ts";
