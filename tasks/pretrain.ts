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
import { UserError } from "../ops/graph/errors.ts";
import type { Device } from "../ops/mod.ts";
import {
  Batcher,
  type BatcherState,
  type BatchShapes,
  evaluationShare,
  rowsOf,
} from "./text/batches.ts";
import { writeFile } from "./files/write.ts";
import { listCorpus, sampleLines } from "./text/corpus.ts";
import { type MetricRecord, readMetrics } from "./reports/metrics.ts";
import {
  metroObjective,
  type PreparedBatch,
  type PretrainObjective,
  t5Objective,
} from "./train/objective.ts";
import { validate } from "./command/options.ts";
import { isFresh, packCorpus } from "./text/pack.ts";
import { describeMix, mixCorpora, mixedHeldout } from "./text/mix.ts";
import { type BlockSource, openPacked, type PartName, readManifest } from "./text/packed.ts";
import { alone, type Communicator, first, fromFirst } from "./parallel/communicator.ts";
import { type Numbered, partsOf, rowsOfSlice } from "./parallel/share.ts";
import {
  type GivenPretrain,
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "./config/pretrain.ts";
import {
  expectNoRun,
  expectSame,
  forgetUnsaved,
  hasCheckpoint,
  millions,
  readConfig,
  type Resume,
} from "./checkpoints/run_folder.ts";
import { exists } from "./files/write.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer/tokenizer.ts";
import { trainTokenizer } from "./tokenizer/train_bpe.ts";
import { trainUnigram } from "./tokenizer/train_unigram.ts";
import { type BatchSource, type Interruption, trainLoop } from "./train/loop.ts";
import { Trainer } from "./train/trainer.ts";
import { batchShapes, microBatches } from "./train/static_shapes.ts";

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
  resume: Resume;
  /** What the user set. */
  given: GivenPretrain;
  /** The corpus to read when none is given. */
  sampleCorpus: string;
  /** Folder of the packed corpus; inside the run folder if absent. */
  packed?: string;
  /** Threads that encode text. */
  workers: number;
  /** The ranks that train together, each with its own device; this one alone if absent. */
  group?: Communicator;
  /** Aborted when the user wants the job to stop. */
  interrupted?: Interruption;
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
  const { group = alone() } = job;
  const resume = job.resume === "requeue"
    ? await fromFirst(group, "looking for a checkpoint", () => hasCheckpoint(job.run))
    : job.resume;
  const leads = group.rank === 0;
  const say = (text: string) => void (leads && output.write(text + "\n"));
  const config = resume ? await savedConfig(job) : resolvePretrain(job.given, [job.sampleCorpus]);
  const parts = partsPerMicroBatch(config, group.size);
  const undo = leads && !resume && !await exists(job.run)
    ? () => rm(job.run, { recursive: true, force: true })
    : undefined;
  let trainer: Trainer | undefined, train: BlockSource | undefined;
  let heldout: BlockSource | undefined;
  let device: Device | undefined;
  let training = false;
  try {
    const settled = { ...job, config, resume, requeued: job.resume === "requeue", say };
    await first(group, "preparing the text", () => prepare(settled));
    const tokenizer = loadTokenizer(tokenizerFile(job));
    train = openCorpora(job, config, "train");
    heldout = config.heldOut > 0 ? openCorpora(job, config, "heldout") : undefined;

    device = await job.openDevice();
    const model = modelConfig(config, tokenizer.rows, tokenizer.sentinels);
    const objective = config.objective === "metro"
      ? metroObjective(model, objectiveConfig(config), config.seed)
      : t5Objective(model, config.seed, config.labelSmoothing);
    trainer = new Trainer(device, model, objective, config, config.seed, group);
    say(
      `${config.preset}: ${millions(parameterCount(model, objective.parts))} parameters ` +
        `(${millions(parameterCount(model, ["main"]))} in the main model) on ${device.adapterName}`,
    );
    const shapes = batchShapes(config, train);
    compilePrograms(trainer, shapes, parts, group);

    if (!resume) {
      trainer.initialize(initialValues(model, config, train));
      if (leads) {
        await writeFile(join(job.run, "config.json"), JSON.stringify(config, null, 2) + "\n");
      }
    }
    training = true;
    const kept = heldout;
    await trainLoop({
      run: job.run,
      resume,
      config,
      trainer,
      objective,
      device,
      source: textSource(train, config, objective, shapes, group),
      heldout: kept && (() => heldoutBatches(kept, config, objective, shapes, group)),
      constants: kept && config.objective === "metro"
        ? { baselineAccuracy: mostFrequentShare(train, kept) }
        : {},
      group,
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
  return leads ? await readMetrics(join(job.run, "metrics.jsonl")) : [];
}

// ---- Config and folder ----

/** The config of the run folder, which flags may repeat but not change. */
async function savedConfig({ run, given }: PretrainJob): Promise<PretrainConfig> {
  const otherwise = "no run to resume (it has no config.json); leave out --resume";
  const contents = await readConfig(run, otherwise);
  const saved = validate(PRETRAIN_CONFIG, contents, join(run, "config.json"));
  expectSame(run, saved, given);
  return resolvePretrain(saved, saved.text ?? []);
}

/**
 * Into how many slices of rows each micro-batch is cut.
 *
 * @throws {UserError} if a slice cannot be computed by itself
 */
function partsPerMicroBatch(config: PretrainConfig, size: number): number {
  const micros = microBatches(config), parts = partsOf(micros, size);
  if (parts > 1 && config.divideByMeanWeight) {
    throw new UserError(
      `--divide-by-mean-weight: the mean is that of a micro-batch, of which ${size} devices would have ` +
        `to cut each of ${micros}; choose --batch-tokens and --micro-batch so that their number is a ` +
        `multiple of ${size}`,
    );
  }
  return parts;
}

/** Compiles the programs of all static lengths: no update has to wait for one. */
function compilePrograms(
  trainer: Trainer,
  shapes: BatchShapes,
  parts: number,
  group: Communicator,
): void {
  for (const length of shapes.lengths) {
    group.alive("compiling");
    const rows = rowsOf(shapes, length);
    const { count } = rowsOfSlice(rows, { part: 0, parts });
    trainer.prepareShape({ rows: count, length }, "train");
    // Held-out batches are not cut.
    trainer.prepareShape({ rows, length }, "heldout");
  }
}

// ---- Data ----

/** A job whose settings are known. */
interface Settled extends Pick<PretrainJob, "run" | "packed" | "workers"> {
  config: PretrainConfig;
  /** Whether the run goes on. */
  resume: boolean;
  /** Whether the run was to start again, if it does not go on. */
  requeued: boolean;
  say(text: string): void;
}

/** What is done once for all ranks: the tokenizer and the packed corpus, in files. */
async function prepare(job: Settled): Promise<void> {
  if (!job.resume) {
    if (job.requeued) await forgetUnsaved(job.run);
    await expectNoRun(job.run);
    // Looks at the text before anything is made.
    listCorpus([...job.config.text]);
  }
  const tokenizer = await prepareTokenizer(job);
  await prepareCorpora(job, tokenizer);
}

function tokenizerFile({ run }: Pick<PretrainJob, "run">): string {
  return join(run, "tokenizer.json");
}

async function prepareTokenizer(job: Settled): Promise<Tokenizer> {
  const path = tokenizerFile(job);
  if (job.resume) return loadTokenizer(path);
  const { tokenizer: name, vocabSize, lowercase, sequenceLength: sentinels, text } = job.config;
  const train = TRAINERS.get(name);
  const tokenizer = loadTokenizer(
    train
      ? await train(sampleLines([...text], TOKENIZER_SAMPLE), { vocabSize, lowercase, sentinels })
      : name,
  );
  if (tokenizer.sentinels === 0) {
    throw new UserError(
      `${name}: expected a tokenizer with sentinels <sen000>, <sen001>, …; train one with this command ` +
        "and reuse its tokenizer.json",
    );
  }
  job.say(`tokenizer: ${tokenizer.vocabSize} pieces and ${tokenizer.sentinels} sentinels`);
  await mkdir(job.run, { recursive: true });
  await writeFile(path, JSON.stringify(tokenizer.json) + "\n");
  return tokenizer;
}

/** The corpora of a run: all texts together, or each by itself where they have weights. */
function corporaOf(
  job: Pick<PretrainJob, "run" | "packed">,
  config: PretrainConfig,
): { folder: string; text: string[] }[] {
  const folder = job.packed ?? join(job.run, "corpus");
  if (config.textWeights === undefined) return [{ folder, text: [...config.text] }];
  return config.text.map((text, i) => ({ folder: join(folder, String(i + 1)), text: [text] }));
}

async function prepareCorpora(job: Settled, tokenizer: Tokenizer): Promise<void> {
  const { config, say } = job;
  for (const { folder, text } of corporaOf(job, config)) {
    const request = {
      paths: text,
      tokenizer,
      block: config.sequenceLength,
      rule: config.packing,
      longLines: config.longLines,
      heldOut: config.heldOut,
      seed: config.seed,
      workers: job.workers,
    };
    if (isFresh(folder, request)) continue;
    if (job.resume) {
      throw new UserError(
        `${folder}: the packed corpus is missing or the text has changed since the run began; restore ` +
          "the text, or start another --run",
      );
    }
    const { train, heldout } = await packCorpus({ ...request, out: folder });
    const name = config.textWeights === undefined ? "" : ` ${text}`;
    say(
      `corpus${name}: ${millions(train.tokens)} tokens in ${train.blocks} blocks, ` +
        `${millions(heldout.tokens)} held out`,
    );
  }
  if (config.textWeights === undefined) return;
  const trains = corporaOf(job, config).map(({ folder }) => readManifest(folder).train)
    .map(({ blocks, tokens }) => ({ count: blocks, tokens }));
  for (const line of describeMix(trains, config.textWeights, config.text)) say(line);
}

/** One part of the run's corpora; close it. */
function openCorpora(job: PretrainJob, config: PretrainConfig, part: PartName): BlockSource {
  const parts = corporaOf(job, config).map(({ folder }) => openPacked(folder, part));
  if (config.textWeights === undefined) return parts[0];
  return part === "train"
    ? mixCorpora(parts, config.textWeights, config.seed)
    : mixedHeldout(parts);
}

/** A rank's share of packed text, as the training loop wants it. */
function textSource(
  train: BlockSource,
  config: PretrainConfig,
  objective: PretrainObjective,
  shapes: BatchShapes,
  group: Communicator,
): BatchSource {
  const batcher = new Batcher(train, { ...shapes, seed: config.seed });
  return {
    get epoch() {
      return batcher.state().epoch;
    },
    next() {
      const share = batcher.share(microBatches(config), group);
      const prepared = share.batches.map((item) => ({
        ...item,
        batch: objective.prepare(item.batch),
      }));
      return { ...share, batches: prepared };
    },
    state: () => batcher.state(),
    restore: (state) => batcher.restore(state as BatcherState),
  };
}

function* heldoutBatches(
  heldout: BlockSource,
  config: PretrainConfig,
  objective: PretrainObjective,
  shapes: BatchShapes,
  group: Communicator,
): Generator<Numbered<PreparedBatch>> {
  for (const item of evaluationShare(heldout, shapes, group, config.evaluateTokens)) {
    yield { ...item, batch: objective.prepare(item.batch) };
  }
}

/**
 * What training starts from. In a short run the heads' biases hold the tokens' frequencies and the share
 * of replacements. Otherwise its first updates teach them by pushing all features in one common direction.
 */
function initialValues(
  model: ModelConfig,
  config: PretrainConfig,
  train: BlockSource,
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
function mostFrequentShare(train: BlockSource, heldout: BlockSource): number {
  const [[best]] = [...countTokens(train)].sort(([, a], [, b]) => b - a);
  const there = countTokens(heldout);
  return (there.get(best) ?? 0) / [...there.values()].reduce((sum, n) => sum + n, 0);
}

/** How often each token occurs, among {@link FREQUENCY_SAMPLE} tokens or a few more. */
function countTokens(part: BlockSource): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = 0, total = 0; i < part.count && total < FREQUENCY_SAMPLE; i++) {
    for (const token of part.read(i, 0)) counts.set(token, (counts.get(token) ?? 0) + 1);
    total += part.length(i, 0);
  }
  return counts;
}
