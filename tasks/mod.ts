/**
 * The jobs: pretrain a model, finetune it on prompts, evaluate it, ask it; and what they are made of.
 *
 * - {@link pretrain}, {@link finetune} and {@link evaluate} run on one device,
 *   {@link pretrainOnDevices}, {@link finetuneOnDevices} and {@link evaluateOnDevices} on all that a machine
 *   has. Their `given` are the flags of the commands.
 * - {@link loadModel} reads a run, a folder, or a model of the Hugging Face Hub, for {@link generate},
 *   {@link rank}, and, with many prompts, {@link Generator} and {@link Ranker}.
 * - {@link openTensors} looks into a run's weights, {@link convertModel} writes them as others read them.
 * - {@link trainTokenizer} and {@link trainUnigram} make vocabularies, {@link loadTokenizer} reads them.
 * - {@link mixtureDatasets} and {@link T0_EVAL} are what T0 learns from and is judged by;
 *   {@link openTemplates} and {@link readRows} read prompts and rows.
 * - {@link readResults}, {@link summarize}, {@link compareRuns} and {@link writeEvaluation} make tables of
 *   results, {@link readMetrics} reads what a run measured.
 *
 * ```ts ignore
 * import { finetune, generate, loadModel, pretrain } from "@metro/t0";
 *
 * await pretrain({ run: "runs/mine", given: { preset: "small", text: ["my/texts"] } });
 * const { run } = await finetune({
 *   run: "runs/mine",
 *   given: { mixture: ["all"], data: "my/rows", templates: "my/templates" },
 * });
 * console.log(await generate(await loadModel(run), "Is rain wet? Yes or no?"));
 * ```
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
export { openTensors, type Tensors, writeTensors } from "./checkpoints/tensors.ts";
export { convertModel, convertTokenizer } from "./checkpoints/convert.ts";
export { generate, type Generated, type GenerateOptions, Generator } from "./generate/generate.ts";
export { rank, Ranker, type RankerOptions } from "./evaluate/rank.ts";
export { type RankRequest } from "./evaluate/rank_batches.ts";
export { loadTokenizer } from "./tokenizer/load.ts";
export { Tokenizer, type TokenizerJson } from "./tokenizer/tokenizer.ts";
export { type TokenizerOptions, trainTokenizer } from "./tokenizer/train_bpe.ts";
export { trainUnigram } from "./tokenizer/train_unigram.ts";
export { encodePrompt } from "./prompts/ids.ts";
export { mixtureDatasets, T0_EVAL, type TrainDataset } from "./prompts/t0.ts";
export { Template, type TemplateSource } from "./prompts/template.ts";
export { openTemplates, type Templates } from "./prompts/templates.ts";
export { listCorpus } from "./text/corpus.ts";
export { type Row } from "./rows/row.ts";
export { readRows } from "./rows/stream.ts";
export { type Evaluation, readResults, type TemplateResult } from "./evaluate/results.ts";
export { summarize, type Summary } from "./evaluate/summary.ts";
export { compareRuns, type Comparison } from "./evaluate/compare.ts";
export { writeEvaluation } from "./evaluate/report.ts";
export { type MetricRecord, readMetrics } from "./reports/metrics.ts";
