/**
 * Pretraining, top to bottom: text, tokenizer, packed blocks, model, updates, run folder.
 *
 * A run folder holds `config.json`, `tokenizer.json`, the packed `corpus/`, `model.safetensors` (names and
 * layout of the reference code), `optimizer.safetensors`, `training.json` (where the run is),
 * `metrics.jsonl` and `report.html`.
 *
 * @module
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { initialize, type ModelConfig, parameterCount } from "../models/mod.ts";
import { sentinelsNeeded } from "../models/spans.ts";
import { UserError } from "../ops/graph/errors.ts";
import type { Device } from "../ops/mod.ts";
import { Batcher, type BatchShapes, evaluationShare, rowsOf } from "./text/batches.ts";
import { writeJson } from "./files/json.ts";
import { fields, list, text as textField } from "./files/fields.ts";
import { exists, writeFile } from "./files/write.ts";
import { listCorpus, sampleLines } from "./text/corpus.ts";
import { type MetricRecord, readMetrics } from "./reports/metrics.ts";
import {
  type BatchSource,
  metroObjective,
  type PreparedBatch,
  type PretrainObjective,
  t5Objective,
} from "./train/objective.ts";
import { validate } from "./command/options.ts";
import { countTokens, mostFrequentShare } from "./text/frequencies.ts";
import { expectPackable, isFresh, isPackedBy, packCorpus } from "./text/pack.ts";
import { corpusIdentity, expectNoOtherText } from "./text/same_text.ts";
import { describeMix, mixCorpora, mixedHeldout } from "./text/mix.ts";
import { type BlockSource, openPacked, type PartName, readManifest } from "./text/packed.ts";
import { type Communicator, first, fromFirst } from "./parallel/communicator.ts";
import { type Numbered, partsOf, rowsOfSlice } from "./parallel/share.ts";
import {
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "./config/pretrain.ts";
import { expectAllRead } from "./config/unread.ts";
import {
  expectCheckpoint,
  expectSame,
  hasCheckpoint,
  millions,
  readBegunWith,
  readOwnConfig,
  remover,
  startAfresh,
  takeRun,
  writeBegunWith,
} from "./checkpoints/run_folder.ts";
import { loadTokenizer } from "./tokenizer/load.ts";
import type { Tokenizer } from "./tokenizer/tokenizer.ts";
import { trainTokenizer } from "./tokenizer/train_bpe.ts";
import { trainUnigram } from "./tokenizer/train_unigram.ts";
import { trainLoop } from "./train/loop.ts";
import { type CpuRoom, expectRoom } from "./train/room.ts";
import { Opened, rankOf } from "./train/setting.ts";
import { Trainer } from "./train/trainer.ts";
import { batchShapes, microBatches } from "./train/static_shapes.ts";
import { subjectOf, workOf } from "./train/work.ts";

/** UTF-16 units of text that a tokenizer is trained on at most. */
const TOKENIZER_SAMPLE = 1_000_000_000;
/** What `--tokenizer` can name besides a file. */
const TRAINERS = new Map([["bpe", trainTokenizer], ["unigram", trainUnigram]]);

/** What {@link pretrain} needs besides the config. */
export interface PretrainJob {
  /** Opens the device, once the text has been read; what there is, a GPU rather than the CPU, if absent. */
  openDevice?(): Promise<Device>;
  /**
   * What the device will be, if it is the processor: a model that does not fit is refused at once.
   *
   * @ignore
   */
  cpu?: CpuRoom;
  /** Folder of the run. */
  run: string;
  /** Go on from the folder's checkpoint; with `requeue`, if there is one. */
  resume?: boolean | "requeue";
  /** What to set; the preset, `tiny` if that is not given either, has the rest. */
  given: Partial<PretrainConfig>;
  /** The corpus to read when none is given. */
  sampleCorpus?: string;
  /** Folder of the packed corpus; inside the run folder if absent. */
  packed?: string;
  /** Threads that encode text; one if absent. */
  workers?: number;
  /**
   * The ranks that train together, each with its own device; this one alone if absent.
   *
   * @ignore
   */
  group?: Communicator;
  /**
   * Names a job that may start again in this process: it keeps the run's folder.
   *
   * @ignore
   */
  job?: string;
  /** Aborted when the user wants the job to stop. */
  interrupted?: { readonly aborted: boolean; listen?(): unknown };
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; write(text: string): unknown };
}

/**
 * Pretrains a model.
 *
 * @returns the run folder's last metric records
 * @throws {UserError} for unusable text, settings, folder or device, and for a loss that is not finite
 *
 * @example
 * ```ts
 * import { pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * const [record] = await pretrain({
 *   run,
 *   given: {
 *     text: ["data/corpus/answers_1.txt"],
 *     ...{ vocabSize: 300, heldOut: 0, updates: 1, batchTokens: 512 }, // the preset says the rest
 *   },
 * });
 * assert.equal(record.update, 1);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function pretrain(job: PretrainJob): Promise<MetricRecord[]> {
  const { run } = job, { group, output, interrupted, leads, say, openDevice } = rankOf(job);

  // Settings: those of the checkpoint, or the preset's with the user's.
  // A mistake in them needs no folder.
  if (!job.resume) partsPerMicroBatch(newConfig(job), group.size);
  if (job.resume === true && leads) await savedConfig(job);
  using _held = await first(group, "taking the run's folder", () => takeRun(run, "pretrain", job));
  const resume = job.resume === "requeue"
    ? await fromFirst(group, "looking for a checkpoint", () => hasCheckpoint(run))
    : job.resume ?? false;
  const config = resume ? await savedConfig(job) : newConfig(job);
  const parts = partsPerMicroBatch(config, group.size);
  if (job.cpu) expectFit(config, group.size, job.cpu);
  await using opened = new Opened(leads && !resume ? await remover(run) : undefined);

  // Data: a tokenizer, and text as blocks of its ids, written once for all ranks.
  await first(group, "preparing the text", () => writeData(job, config, resume, say));
  const tokenizer = loadTokenizer(tokenizerFile(job));
  const train = opened.add(openCorpora(job, config, "train"));
  const heldout = openHeldout(job, config, opened, say);

  // Model: the objective, weights and moments on the device, a program per static length.
  const device = opened.add(await openDevice());
  const model = modelConfig(config, tokenizer.rows, tokenizer.sentinels);
  const isMetro = config.objective === "metro";
  const objective = isMetro
    ? metroObjective(model, objectiveConfig(config), config.seed)
    : t5Objective(model, config.seed, config.labelSmoothing);
  const trainer = opened.add(new Trainer(device, model, objective, config, config.seed, group));
  say(
    `${config.preset}: ${millions(parameterCount(model, objective.parts))} parameters ` +
      `(${millions(parameterCount(model, ["main"]))} in the main model) on ${device.adapterName}`,
  );
  const shapes = batchShapes(config, train);
  compilePrograms(trainer, shapes, parts);
  if (!resume) {
    trainer.initialize(initialValues(model, config, train));
    if (leads) await writeJson(join(run, "config.json"), config);
  }

  // Updates, with evaluations and checkpoints between them.
  opened.keep();
  await trainLoop(trainer, config, {
    batches: textSource(train, config, objective, shapes, group),
    heldout: heldout && (() => heldoutBatches(heldout, config, objective, shapes, group)),
    constants: heldout && isMetro ? { baselineAccuracy: mostFrequentShare(train, heldout) } : {},
  }, { run, resume, interrupted, output });
  return leads ? await readMetrics(join(run, "metrics.jsonl")) : [];
}

// ---- Config and folder ----

/** What to read when no text is given. */
function corpusOf({ given, sampleCorpus }: PretrainJob): readonly string[] {
  if (sampleCorpus !== undefined) return [sampleCorpus];
  if (given.text) return given.text;
  throw new UserError("--text: expected files, folders or globs of text, got none");
}

const NO_RUN = "no run to resume (it has no config.json); leave out --resume";

/** What the user wants, completed; nothing of it in vain. */
function newConfig(job: PretrainJob): PretrainConfig {
  const config = resolvePretrain(job.given, corpusOf(job));
  expectAllRead(job.given, config);
  return config;
}

/** The config of the run folder, which flags may repeat but not change. */
async function savedConfig({ run, given }: PretrainJob): Promise<PretrainConfig> {
  const contents = await readOwnConfig(run, NO_RUN);
  const saved = validate(PRETRAIN_CONFIG, contents, join(run, "config.json"));
  // What is read is compared by its contents: it may lie elsewhere now, or be called otherwise.
  const { text, tokenizer, ...settings } = given;
  expectSame(run, saved, settings);
  if (text && saved.textWeights) {
    expectSame(run, { text: saved.text?.length }, { text: text.length });
  }
  if (tokenizer !== undefined && tokenizer !== saved.tokenizer) {
    const isOwn = !TRAINERS.has(tokenizer) &&
      loadTokenizer(tokenizer).hash === loadTokenizer(tokenizerFile({ run })).hash;
    if (!isOwn) expectSame(run, saved, { tokenizer });
  }
  await expectCheckpoint(run);
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

/**
 * Looks whether the model fits, where its size is known before there is a tokenizer.
 *
 * @throws {UserError} if it does not
 */
function expectFit(config: PretrainConfig, devices: number, cpu: CpuRoom): void {
  if (!TRAINERS.has(config.tokenizer)) return;
  const { shapes, heldout } = workOf(config, devices);
  expectRoom({ ...subjectOf(config), optimizer: config, shapes, heldout }, devices, cpu);
}

/** Compiles the programs of all static lengths: no update has to wait for one. */
function compilePrograms(
  trainer: Trainer,
  shapes: BatchShapes,
  parts: number,
): void {
  for (const length of shapes.lengths) {
    trainer.group.alive("compiling");
    const rows = rowsOf(shapes, length);
    const { count } = rowsOfSlice(rows, { part: 0, parts });
    trainer.compileShape({ rows: count, length }, "train");
    // Held-out batches are not cut.
    trainer.compileShape({ rows, length }, "heldout");
  }
}

// ---- Data ----

/** What is done once for all ranks: the tokenizer and the packed corpus, in files. */
async function writeData(
  job: PretrainJob,
  config: PretrainConfig,
  resume: boolean,
  say: (text: string) => void,
): Promise<void> {
  if (resume) return await expectSameData(job, config, say);
  await startAfresh(job.run, "pretrain");
  // Looks at the text, and at where it is packed, before anything is made.
  listCorpus([...config.text]);
  for (const { folder } of corporaOf(job, config)) await expectPackable(folder);
  await writeTokenizer(job, config, say);
  await writeCorpora(job, config, say);
}

function tokenizerFile({ run }: Pick<PretrainJob, "run">): string {
  return join(run, "tokenizer.json");
}

async function writeTokenizer(
  job: PretrainJob,
  config: PretrainConfig,
  say: (text: string) => void,
): Promise<void> {
  const { tokenizer: name, vocabSize, lowercase, sequenceLength: sentinels, text } = config;
  const train = TRAINERS.get(name);
  const tokenizer = loadTokenizer(
    train
      ? await train(sampleLines([...text], TOKENIZER_SAMPLE), { vocabSize, lowercase, sentinels })
      : name,
  );
  if (!train) expectFitting(tokenizer, job, config);
  say(`tokenizer: ${tokenizer.vocabSize} pieces and ${tokenizer.sentinels} sentinels`);
  await mkdir(job.run, { recursive: true });
  await writeFile(tokenizerFile(job), JSON.stringify(tokenizer.json) + "\n");
}

/** Whether a tokenizer that was not trained for this run is what the flags and the objective want. */
function expectFitting(
  { vocabSize, sentinels }: Tokenizer,
  { given }: PretrainJob,
  { tokenizer: name, objective, sequenceLength }: PretrainConfig,
): void {
  if (sentinels === 0) {
    throw new UserError(
      `${name}: expected a tokenizer with sentinels <sen000>, <sen001>, …; train one with this command ` +
        "and reuse its tokenizer.json",
    );
  }
  const told = given.vocabSize ?? vocabSize;
  if (told !== vocabSize) {
    throw new UserError(
      `--vocab-size: ${name} has ${vocabSize} pieces, got ${told}; leave the flag out`,
    );
  }
  const needed = objective === "t5" ? sentinelsNeeded(sequenceLength) : 1;
  if (sentinels >= needed) return;
  throw new UserError(
    `${name}: expected at least ${needed} sentinels, as --objective t5 needs for --sequence-length ` +
      `${sequenceLength}, got ${sentinels}; choose shorter sequences, or train a tokenizer`,
  );
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

/** How each of a run's corpora is packed. */
function requestsOf(job: PretrainJob, config: PretrainConfig, tokenizer: Tokenizer) {
  return corporaOf(job, config).map(({ folder, text }) => ({
    out: folder,
    paths: text,
    tokenizer,
    block: config.sequenceLength,
    rule: config.packing,
    longLines: config.longLines,
    heldOut: config.heldOut,
    seed: config.seed,
    workers: job.workers ?? 1,
    // Another run may need what it has packed there.
    keep: job.packed !== undefined,
  }));
}

async function writeCorpora(
  job: PretrainJob,
  config: PretrainConfig,
  say: (text: string) => void,
): Promise<void> {
  const requests = requestsOf(job, config, loadTokenizer(tokenizerFile(job)));
  for (const request of requests) {
    if (await isFresh(request.out, request)) continue;
    const { train, heldout } = await packCorpus(request);
    const name = config.textWeights === undefined ? "" : ` ${request.paths}`;
    say(
      `corpus${name}: ${millions(train.tokens)} tokens in ${train.blocks} blocks, ` +
        `${millions(heldout.tokens)} held out`,
    );
  }
  const manifests = requests.map(({ out }) => readManifest(out));
  await writeBegunWith(job.run, { corpora: manifests.map(corpusIdentity) });
  if (config.textWeights === undefined) return;
  const trains = manifests.map(({ train: { blocks, tokens } }) => ({ count: blocks, tokens }));
  for (const line of describeMix(trains, config.textWeights, config.text)) say(line);
}

/**
 * Makes sure that a run goes on with the text that it was begun with, wherever that is now. Where the packed
 * corpus is whole, the text itself need not be there any more.
 *
 * @throws {UserError} if it is another text, another tokenizer, or not packed as the run wants it
 */
async function expectSameData(
  job: PretrainJob,
  config: PretrainConfig,
  say: (text: string) => void,
): Promise<void> {
  const text = job.given.text ?? config.text;
  const requests = requestsOf(job, { ...config, text }, loadTokenizer(tokenizerFile(job)));
  const begunWith = await readBegunWith<{ corpora: string[] }>(
    job.run,
    fields({ corpora: list(textField) }),
  );
  for (const [i, request] of requests.entries()) {
    const { out } = request;
    const elsewhere = job.packed === undefined ? "; if it lies elsewhere, give --packed" : "";
    if (!await exists(join(out, "corpus.json"))) {
      throw new UserError(
        `${out}: the packed corpus is missing, without which the run cannot go on${elsewhere}`,
      );
    }
    const manifest = readManifest(out);
    const isOther = (begunWith && begunWith.corpora[i] !== corpusIdentity(manifest)) ||
      !isPackedBy(out, request);
    if (isOther) {
      throw new UserError(
        `${out}: is not the packed corpus that the run was begun with (other text, tokenizer or ` +
          `settings); put back the files of the run${elsewhere || ", or give its own --packed"}`,
      );
    }
    for (const path of await expectNoOtherText(manifest.files, request.paths)) {
      say(`${path}: not there any more; the packed corpus ${out} has it`);
    }
  }
}

/** One part of the run's corpora; close it. */
function openCorpora(job: PretrainJob, config: PretrainConfig, part: PartName): BlockSource {
  const parts = corporaOf(job, config).map(({ folder }) => openPacked(folder, part));
  if (config.textWeights === undefined) return parts[0];
  return part === "train"
    ? mixCorpora(parts, config.textWeights, config.seed)
    : mixedHeldout(parts);
}

/** The held-out part, if there is one: a text of one document gives none. */
function openHeldout(
  job: PretrainJob,
  config: PretrainConfig,
  opened: Opened,
  say: (text: string) => void,
): BlockSource | undefined {
  if (config.heldOut === 0) return undefined;
  const heldout = opened.add(openCorpora(job, config, "heldout"));
  if (heldout.count > 0) return heldout;
  say(
    `nothing is held out: the text is one document, or too short (a blank line ends a document; ` +
      `--held-out 0 asks for none)`,
  );
  return undefined;
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
    restore: (state) => batcher.restore(state),
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
