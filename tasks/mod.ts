/**
 * The jobs as functions: corpus, tokenizer, packing, batches, training, checkpoints, metrics, reports.
 *
 * @module
 */

export * from "./text/batches.ts";
export * from "./checkpoints/save.ts";
export { openTensors, type Tensors, writeTensors } from "./checkpoints/tensors.ts";
export * from "./checkpoints/convert.ts";
export * from "./text/corpus.ts";
export * from "./evaluate.ts";
export { type EvaluationTask, type TaskRequest } from "./evaluate/tasks.ts";
export * from "./evaluate/report.ts";
export * from "./prompts/windows.ts";
export * from "./prompts/examples.ts";
export * from "./finetune.ts";
export {
  type FinetuneBase,
  type FinetuneConfig,
  type FinetuneSettings,
  type GivenFinetune,
  resolveFinetune,
} from "./config/finetune.ts";
export * from "./generate/generate.ts";
export * from "./checkpoints/hub.ts";
export { type ErrorKind, PyFloat, PyObject } from "./jinja/values.ts";
export { chooseLengths, fittingLength } from "./train/static_shapes.ts";
export * from "./reports/metrics.ts";
export * from "./text/mix.ts";
export * from "./prompts/mixture.ts";
export * from "./checkpoints/model.ts";
export * from "./checkpoints/parameters.ts";
export * from "./train/objective.ts";
export * from "./checkpoints/optimizer.ts";
export * from "./text/pack.ts";
export * from "./text/packed.ts";
export * from "./train/pair_batches.ts";
export { type TensorSlice } from "./parallel/buckets.ts";
export * from "./parallel/communicator.ts";
export * from "./parallel/share.ts";
export * from "./pretrain.ts";
export { type GivenPretrain, type PretrainConfig, resolvePretrain } from "./config/pretrain.ts";
export * from "./reports/progress.ts";
export * from "./prompts/ids.ts";
export * from "./prompts/lint.ts";
export * from "./prompts/t0.ts";
export * from "./prompts/template.ts";
export * from "./prompts/templates.ts";
export * from "./evaluate/rank.ts";
export {
  planRanking,
  type RankBatch,
  type RankLimits,
  type RankRequest,
} from "./evaluate/rank_batches.ts";
export * from "./reports/training.ts";
export * from "./evaluate/results.ts";
export {
  type AverageSummary,
  type ColumnSummary,
  percent,
  summarize,
  type Summary,
  summaryCells,
  summaryCsv,
  summaryLines,
  type TemplateSummary,
} from "./evaluate/summary.ts";
export {
  type ComparedColumn,
  type CompareOptions,
  compareRuns,
  type Comparison,
  comparisonCells,
  comparisonLines,
  type Difference,
  type NamedResults,
} from "./evaluate/compare.ts";
export * from "./rows/mod.ts";
export * from "./checkpoints/run_folder.ts";
export { permute } from "../ops/graph/random.ts";
export * from "./verify/step_folder.ts";
export * from "./evaluate/plots.ts";
export * from "./tokenizer/tokenizer.ts";
export { loadTokenizer } from "./tokenizer/load.ts";
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
export * from "./tokenizer/train_bpe.ts";
export { trainUnigram, type UnigramOptions } from "./tokenizer/train_unigram.ts";
export * from "./train/loop.ts";
export { type SessionPlace, type TrainingData } from "./train/session.ts";
export { type Interruption, type RankSetting } from "./train/setting.ts";
export * from "./train/trainer.ts";
export * from "./train/programs.ts";
export * from "./verify/model.ts";
export * from "./verify/prompts.ts";
export * from "./verify/step.ts";
export * from "./verify/tokenizer.ts";
export * from "./files/weights.ts";
