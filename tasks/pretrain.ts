/**
 * Pretraining, top to bottom: text, tokenizer, packed blocks, model, updates, run folder.
 *
 * A run folder holds `config.json`, `tokenizer.json`, the packed `corpus/`, `model.safetensors` (names and
 * layout of the reference code), `optimizer.safetensors`, `training.json` (where the run is),
 * `metrics.jsonl` and `report.html`.
 *
 * @module
 */

import process from "node:process";
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { initialize, type ModelConfig, parameterCount } from "../models/mod.ts";
import { UserError } from "../ops/errors.ts";
import type { Device } from "../ops/mod.ts";
import {
  Batcher,
  type BatcherState,
  type BatchShapes,
  evaluationBatches,
  rowsOf,
} from "./batches.ts";
import { writeFile } from "./checkpoint.ts";
import { listCorpus, sampleLines } from "./corpus.ts";
import { type MetricRecord, readMetrics } from "./metrics.ts";
import {
  metroObjective,
  type PreparedBatch,
  type PretrainObjective,
  t5Objective,
} from "./objective.ts";
import { validate } from "./options.ts";
import { isFresh, packCorpus } from "./pack.ts";
import { openPacked, type PackedPart } from "./packed.ts";
import {
  type GivenPretrain,
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "./pretrain_options.ts";
import { exists, expectNoRun, expectSame, millions, readConfig } from "./run_folder.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";
import { trainTokenizer } from "./tokenizer/train.ts";
import { trainUnigram } from "./tokenizer/unigram_train.ts";
import { type BatchSource, trainLoop } from "./train_loop.ts";
import { Trainer } from "./trainer.ts";

/** UTF-16 units of text that a tokenizer is trained on at most. */
const TOKENIZER_SAMPLE = 1_000_000_000;
/** What `--tokenizer` can name besides a file. */
const TRAINERS = new Map([["bpe", trainTokenizer], ["unigram", trainUnigram]]);
/** Tokens that are counted to know their frequencies. */
const FREQUENCY_SAMPLE = 1_000_000;

/** What {@link pretrain} needs besides the config. */
export interface PretrainJob {
  /** Opens the device; called once the text has been read. */
  openDevice(): Promise<Device>;
  /** Folder of the run. */
  run: string;
  /** Go on from the folder's checkpoint. */
  resume: boolean;
  /** What the user set. */
  given: GivenPretrain;
  /** The corpus to read when none is given. */
  sampleCorpus: string;
  /** Folder of the packed corpus; inside the run folder if absent. */
  packed?: string;
  /** Threads that encode text. */
  workers: number;
  /** Aborted when the user wants the job to stop. */
  interrupted?: AbortSignal;
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; write(text: string): unknown };
}

/**
 * Pretrains a model.
 *
 * @returns the run folder's last metric records
 * @throws {UserError} for unusable text, settings, folder or device, and for a loss that is not finite
 */
export async function pretrain(job: PretrainJob): Promise<MetricRecord[]> {
  const output = job.output ?? process.stderr;
  const say = (text: string) => output.write(text + "\n");
  const config = await (job.resume ? savedConfig(job) : newConfig(job));
  const isNew = !job.resume;
  const undo = isNew && !await exists(job.run)
    ? () => rm(job.run, { recursive: true, force: true })
    : undefined;
  let trainer: Trainer | undefined, train: PackedPart | undefined, heldout: PackedPart | undefined;
  let device: Device | undefined;
  let training = false;
  try {
    const tokenizer = await prepareTokenizer(job, config, say);
    const corpus = await prepareCorpus(job, config, tokenizer, say);
    train = openPacked(corpus, "train");
    heldout = config.heldOut > 0 ? openPacked(corpus, "heldout") : undefined;

    device = await job.openDevice();
    const model = modelConfig(config, tokenizer.rows, tokenizer.sentinels);
    const objective = config.objective === "metro"
      ? metroObjective(model, objectiveConfig(config), config.seed)
      : t5Objective(model, config.seed, config.labelSmoothing);
    trainer = new Trainer(device, model, objective, config, config.seed);
    say(
      `${config.preset}: ${millions(parameterCount(model, objective.parts))} parameters ` +
        `(${millions(parameterCount(model, ["main"]))} in the main model) on ${device.adapterName}`,
    );
    const shapes = batchShapes(config, train);
    for (const length of shapes.lengths) {
      trainer.prepareShape({ rows: rowsOf(shapes, length), length });
    }

    if (isNew) {
      trainer.initialize(initialValues(model, config, train));
      await writeFile(join(job.run, "config.json"), JSON.stringify(config, null, 2) + "\n");
    }
    training = true;
    const kept = heldout;
    await trainLoop({
      run: job.run,
      resume: job.resume,
      config,
      trainer,
      objective,
      device,
      source: textSource(train, config, objective, shapes),
      heldout: kept && (() => heldoutBatches(kept, config, objective, shapes)),
      constants: kept && config.objective === "metro"
        ? { baselineAccuracy: mostFrequentShare(train, kept) }
        : {},
      interrupted: job.interrupted,
      output,
    });
  } catch (error) {
    if (!training) await undo?.();
    throw error;
  } finally {
    trainer?.destroy();
    device?.destroy();
    train?.close();
    heldout?.close();
  }
  return await readMetrics(join(job.run, "metrics.jsonl"));
}

// ---- Config and folder ----

async function newConfig({ given, sampleCorpus, run }: PretrainJob): Promise<PretrainConfig> {
  const config = resolvePretrain(given, [sampleCorpus]);
  await expectNoRun(run);
  // Looks at the text before anything is made.
  listCorpus([...config.text]);
  return config;
}

/** The config of the run folder, which flags may repeat but not change. */
async function savedConfig({ run, given }: PretrainJob): Promise<PretrainConfig> {
  const otherwise = "no run to resume (it has no config.json); leave out --resume";
  const contents = await readConfig(run, otherwise);
  const saved = validate(PRETRAIN_CONFIG, contents, join(run, "config.json"));
  expectSame(run, saved, given);
  return resolvePretrain(saved, saved.text ?? []);
}

// ---- Data ----

async function prepareTokenizer(
  job: PretrainJob,
  config: PretrainConfig,
  say: (text: string) => void,
): Promise<Tokenizer> {
  const path = join(job.run, "tokenizer.json");
  if (job.resume) return loadTokenizer(path);
  const { vocabSize, lowercase, sequenceLength: sentinels, text } = config;
  const train = TRAINERS.get(config.tokenizer);
  const tokenizer = loadTokenizer(
    train
      ? await train(sampleLines([...text], TOKENIZER_SAMPLE), { vocabSize, lowercase, sentinels })
      : config.tokenizer,
  );
  if (tokenizer.sentinels === 0) {
    throw new UserError(
      `${config.tokenizer}: expected a tokenizer with sentinels <sen000>, <sen001>, …; train one with ` +
        "this command and reuse its tokenizer.json",
    );
  }
  say(`tokenizer: ${tokenizer.vocabSize} pieces and ${tokenizer.sentinels} sentinels`);
  await mkdir(job.run, { recursive: true });
  await writeFile(path, JSON.stringify(tokenizer.json) + "\n");
  return tokenizer;
}

async function prepareCorpus(
  job: PretrainJob,
  config: PretrainConfig,
  tokenizer: Tokenizer,
  say: (text: string) => void,
): Promise<string> {
  const folder = job.packed ?? join(job.run, "corpus");
  const request = {
    paths: [...config.text],
    tokenizer,
    block: config.sequenceLength,
    rule: config.packing,
    longLines: config.longLines,
    heldOut: config.heldOut,
    seed: config.seed,
    workers: job.workers,
  };
  if (isFresh(folder, request)) return folder;
  if (job.resume) {
    throw new UserError(
      `${folder}: the packed corpus is missing or the text has changed since the run began; restore the ` +
        "text, or start another --run",
    );
  }
  const manifest = await packCorpus({ ...request, out: folder });
  const { train, heldout } = manifest;
  say(
    `corpus: ${millions(train.tokens)} tokens in ${train.blocks} blocks, ` +
      `${millions(heldout.tokens)} held out`,
  );
  return folder;
}

/** Packed text as the training loop wants it. */
function textSource(
  train: PackedPart,
  config: PretrainConfig,
  objective: PretrainObjective,
  shapes: BatchShapes,
): BatchSource {
  const batcher = new Batcher(train, { ...shapes, seed: config.seed });
  const microBatches = Math.max(1, Math.round(config.batchTokens / config.microBatch));
  return {
    get epoch() {
      return batcher.state().epoch;
    },
    next: () => Array.from({ length: microBatches }, () => objective.prepare(batcher.next())),
    state: () => batcher.state(),
    restore: (state) => batcher.restore(state as BatcherState),
  };
}

function* heldoutBatches(
  heldout: PackedPart,
  config: PretrainConfig,
  objective: PretrainObjective,
  shapes: BatchShapes,
): Generator<PreparedBatch> {
  let tokens = 0;
  for (const batch of evaluationBatches(heldout, shapes)) {
    if (tokens >= config.evaluateTokens) break;
    yield objective.prepare(batch);
    tokens += batch.realTokens;
  }
}

/** Shapes of micro-batches: equal steps up to the longest block. */
function batchShapes(config: PretrainConfig, part: PackedPart): BatchShapes {
  const { staticLengths, microBatch } = config;
  const longest = Math.max(8, Math.ceil(part.maxLength / 8) * 8);
  const lengths = new Set<number>();
  for (let i = 1; i <= staticLengths; i++) {
    lengths.add(Math.max(8, Math.ceil(longest * i / staticLengths / 8) * 8));
  }
  return { microBatchTokens: microBatch, lengths: [...lengths].sort((a, b) => a - b) };
}

/**
 * What training starts from. In a short run the heads' biases hold the tokens' frequencies and the share
 * of replacements. Otherwise its first updates teach them by pushing all features in one common direction.
 */
function initialValues(
  model: ModelConfig,
  config: PretrainConfig,
  train: PackedPart,
): (name: string) => Float32Array {
  const values = initialize(model, config.seed, config.start);
  if (config.start === "reference") return values;
  const counts = countTokens(train);
  const total = [...counts.values()].reduce((sum, n) => sum + n, 0) + UNSEEN * model.vocabSize;
  const share = (id: number) => ((counts.get(id) ?? 0) + UNSEEN) / total;
  // A replacement drawn from the frequencies equals the original once in so many times.
  const equal = [...counts.keys()].reduce((sum, id) => sum + share(id) ** 2, 0);
  const replaced = config.maskProbability * (1 - equal);
  return (name) => {
    if (name === "rtd.out.bias") return Float32Array.of(Math.log(replaced / (1 - replaced)));
    if (name !== "mlm.bias" && name !== "clm.bias") return values(name);
    return Float32Array.from({ length: model.vocabSize }, (_, id) => Math.log(share(id)));
  };
}

/** What a token that was not seen counts for. */
const UNSEEN = 0.1;

/** Share of the held-out tokens that are the most frequent token of the training part. */
function mostFrequentShare(train: PackedPart, heldout: PackedPart): number {
  const [[best]] = [...countTokens(train)].sort(([, a], [, b]) => b - a);
  const there = countTokens(heldout);
  return (there.get(best) ?? 0) / [...there.values()].reduce((sum, n) => sum + n, 0);
}

/** How often each token occurs, among {@link FREQUENCY_SAMPLE} tokens or a few more. */
function countTokens(part: PackedPart): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = 0, total = 0; i < part.count && total < FREQUENCY_SAMPLE; i++) {
    for (const token of part.read(i)) counts.set(token, (counts.get(token) ?? 0) + 1);
    total += part.length(i);
  }
  return counts;
}
