/**
 * The jobs: pretrain a model, finetune it on prompts, evaluate it, ask it; and what they are made of.
 *
 * @module
 */

export { type PretrainConfig } from "./config/pretrain.ts";
export { pretrain, type PretrainJob } from "./pretrain.ts";
export { type FinetuneSettings } from "./config/finetune.ts";
export { finetune, type FinetuneJob } from "./finetune.ts";
export { evaluate, type EvaluateJob } from "./evaluate.ts";
export { type DevicesOptions } from "./launch/options.ts";
export { pretrainOnDevices } from "./launch/pretrain.ts";
export { finetuneOnDevices } from "./launch/finetune.ts";
export { evaluateOnDevices } from "./launch/evaluate.ts";
export { type LoadedModel, loadModel, type ModelOptions } from "./checkpoints/model.ts";
export { convertModel, convertTokenizer } from "./checkpoints/convert.ts";
export { generate, type Generated, type GenerateOptions, Generator } from "./generate/generate.ts";
export { rank, Ranker, type RankerOptions, type RankRequest } from "./evaluate/rank.ts";
export { loadTokenizer, Tokenizer, type TokenizerJson } from "./tokenizer/tokenizer.ts";
export { type TokenizerOptions, trainTokenizer } from "./tokenizer/train_bpe.ts";
export { trainUnigram } from "./tokenizer/train_unigram.ts";
export { mixtureDatasets, T0_EVAL, type TrainDataset } from "./prompts/t0.ts";
export { type Rendered, Template, type TemplateSource } from "./prompts/template.ts";
export { openTemplates, type Templates } from "./prompts/templates.ts";
export { type Row } from "./rows/row.ts";
export { readRows } from "./rows/stream.ts";
export {
  compareRuns,
  type Comparison,
  type Evaluation,
  readResults,
  summarize,
  type Summary,
  type TemplateResult,
} from "./evaluate/results.ts";
export { writeEvaluation } from "./evaluate/report.ts";
export { type MetricRecord, readMetrics } from "./reports/metrics.ts";
