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
import { mkdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { foreignNames, initialize, parameterCount, transpose } from "../models/mod.ts";
import { UserError } from "../ops/errors.ts";
import type { Device } from "../ops/mod.ts";
import { Batcher, type BatcherState, evaluationBatches, rowsOf } from "./batches.ts";
import {
  checkpointFile,
  openCheckpoint,
  saveCheckpoint,
  writeFile,
  writeTensors,
} from "./checkpoint.ts";
import { listCorpus, sampleLines } from "./corpus.ts";
import { type MetricRecord, openMetrics, readMetrics } from "./metrics.ts";
import { addCounts, metroObjective, type Objective, t5Objective } from "./objective.ts";
import { flagName, validate } from "./options.ts";
import { isFresh, packCorpus } from "./pack.ts";
import { openPacked, type PackedPart } from "./packed.ts";
import {
  type GivenPretrain,
  learningRate,
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "./pretrain_options.ts";
import { startProgress } from "./progress.ts";
import { report } from "./report.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";
import { trainTokenizer } from "./tokenizer/train.ts";
import { Trainer } from "./trainer.ts";

/** UTF-16 units of text that a tokenizer is trained on at most. */
const TOKENIZER_SAMPLE = 1_000_000_000;
/** Tokens among which the most frequent one is looked for. */
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

/** Where a run is: `training.json`, saved with the weights. */
interface TrainingState {
  /** Updates made. */
  update: number;
  /** Position in the data. */
  batcher: BatcherState;
  /** Tokens seen, padding not counted. */
  tokens: number;
  /** Seconds spent training, over all resumptions. */
  seconds: number;
  /** Metric sums on the device since the last line of metrics. */
  sums: number[];
  /** Counts that belong to them. */
  counts: Record<string, number>;
  /** Tokens and seconds at the last line. */
  since: { tokens: number; seconds: number; update: number };
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
    for (const length of shapes.lengths) trainer.prepareShape(rowsOf(shapes, length), length);

    if (isNew) {
      trainer.initialize(initialize(model, config.seed));
      await writeFile(join(job.run, "config.json"), JSON.stringify(config, null, 2) + "\n");
    }
    training = true;
    await trainLoop({ job, config, trainer, objective, device, train, heldout, shapes, output });
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

/** What the training loop works with. */
interface Loop {
  job: PretrainJob;
  config: PretrainConfig;
  trainer: Trainer;
  objective: Objective;
  device: Device;
  train: PackedPart;
  heldout: PackedPart | undefined;
  shapes: ReturnType<typeof batchShapes>;
  output: NonNullable<PretrainJob["output"]>;
}

async function trainLoop(loop: Loop): Promise<void> {
  const { job, config, trainer, objective, device, train, heldout, shapes } = loop;
  const batcher = new Batcher(train, { ...shapes, seed: config.seed });
  let state: TrainingState = job.resume ? await restore(job.run, trainer, batcher) : {
    update: 0,
    batcher: batcher.state(),
    tokens: 0,
    seconds: 0,
    sums: [],
    counts: {},
    since: { tokens: 0, seconds: 0, update: 0 },
  };
  const baseline: Record<string, number> = {};
  if (heldout && config.objective === "metro") {
    baseline.baselineAccuracy = mostFrequentShare(train, heldout);
  }
  const microBatches = Math.max(1, Math.round(config.batchTokens / config.microBatch));
  const metrics = await openMetrics(join(job.run, "metrics.jsonl"), state.update);
  const progress = startProgress(config.updates, loop.output);
  if (job.resume) progress.note(`Resumed at update ${state.update} of ${config.updates}.`);
  const started = performance.now() / 1000 - state.seconds;
  let saved = state.update;

  const record = async (line: MetricRecord) => {
    await metrics.append(line);
    progress.show(line);
  };
  /** Metric sums and counts since the last line become a line. */
  const log = async () => {
    const sums = await trainer.takeSums("train");
    stopIfNotFinite(sums.badUpdate, saved, job.run);
    const { since } = state;
    state.seconds = performance.now() / 1000 - started;
    await record({
      kind: "train",
      update: state.update,
      epoch: state.batcher.epoch,
      tokens: state.tokens,
      seconds: state.seconds,
      tokensPerSecond: (state.tokens - since.tokens) / (state.seconds - since.seconds),
      learningRate: learningRate(config, state.update - 1),
      ...objective.figures(sums, state.counts),
      gradNorm: sums.gradNorm / (state.update - since.update),
    });
    const { tokens, seconds, update } = state;
    state = { ...state, counts: {}, since: { tokens, seconds, update } };
  };
  const evaluate = async () => {
    if (!heldout) return;
    const counts: Record<string, number>[] = [];
    let sequence = 0, tokens = 0;
    for (const batch of evaluationBatches(heldout, shapes)) {
      if (tokens >= config.evaluateTokens) break;
      const prepared = objective.prepare(batch);
      trainer.evaluate(prepared, sequence);
      counts.push(prepared.counts);
      sequence += batch.rows;
      tokens += batch.realTokens;
    }
    const figures = objective.figures(await trainer.takeSums("heldout"), addCounts(counts));
    await record({ kind: "heldout", update: state.update, ...figures, ...baseline });
  };
  const save = async () => {
    state = { ...state, seconds: performance.now() / 1000 - started, sums: await trainer.sums() };
    stopIfNotFinite(trainer.badUpdate(state.sums), saved, job.run);
    await saveRun(job.run, trainer, state);
    saved = state.update;
  };

  try {
    if (state.update === 0) await evaluate();
    while (state.update < config.updates && !job.interrupted?.aborted) {
      const batches = Array.from({ length: microBatches }, () => objective.prepare(batcher.next()));
      const counts = trainer.update(batches, {
        update: state.update,
        learningRate: learningRate(config, state.update),
      });
      state.update++;
      state.batcher = batcher.state();
      state.tokens += batches.reduce((sum, b) => sum + b.tokens, 0);
      state.counts = addCounts([state.counts, counts]);

      const done = state.update === config.updates;
      const due = (every: number) => done || (every > 0 && state.update % every === 0);
      if (due(config.logEvery)) await log();
      if (due(config.evaluateEvery)) await evaluate();
      if (due(config.saveEvery)) await save();
      // Lets signals in; the device has work queued meanwhile.
      await new Promise((resolve) => setTimeout(resolve));
    }
    await device.finish();
    if (job.interrupted?.aborted && saved < state.update) {
      await save();
      progress.note(`Saved update ${state.update} in ${job.run}; go on with --resume.`);
    }
  } finally {
    progress.stop();
    await metrics.close();
    await writeReport(job.run, config);
  }
}

function stopIfNotFinite(badUpdate: number, saved: number, run: string): void {
  if (badUpdate === 0) return;
  const kept = saved > 0
    ? `the checkpoint of update ${saved} in ${run} is good`
    : "nothing was saved";
  throw new UserError(
    `the loss of update ${badUpdate} is not a finite number; ${kept}. Lower --peak-learning-rate, ` +
      "lengthen --warmup-updates, or set --clip-norm",
  );
}

// ---- Config and folder ----

async function newConfig({ given, sampleCorpus, run }: PretrainJob): Promise<PretrainConfig> {
  const config = resolvePretrain(given, [sampleCorpus]);
  if (await exists(join(run, "config.json"))) {
    throw new UserError(`${run} already holds a run: give --resume to go on, or another --run`);
  }
  // Looks at the text before anything is made.
  listCorpus([...config.text]);
  return config;
}

/** The config of the run folder, which flags may repeat but not change. */
async function savedConfig({ run, given }: PretrainJob): Promise<PretrainConfig> {
  const path = join(run, "config.json");
  if (!await exists(path)) {
    throw new UserError(`${run}: no run to resume (it has no config.json); leave out --resume`);
  }
  const saved = validate(PRETRAIN_CONFIG, parseJson(await readFile(path, "utf8"), path), path);
  for (const [name, value] of Object.entries(given)) {
    const was = saved[name as keyof typeof saved];
    if (JSON.stringify(was) !== JSON.stringify(value)) {
      throw new UserError(
        `--${flagName(name)}: ${run} was started with ${JSON.stringify(was)}, got ` +
          `${JSON.stringify(value)}; leave the flag out, or start another --run`,
      );
    }
  }
  return resolvePretrain(saved, saved.text ?? []);
}

function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new UserError(`${path}: expected JSON, ${(error as Error).message}`);
  }
}

/**
 * A name for a new run that no folder has yet: `runs/tiny-metro`, `runs/tiny-metro-2`, …
 *
 * @param folder where runs are kept
 */
export async function newRunFolder(folder: string, given: GivenPretrain): Promise<string> {
  const name = join(folder, `${given.preset ?? "tiny"}-${given.objective ?? "metro"}`);
  if (!await exists(name)) return name;
  for (let n = 2;; n++) if (!await exists(`${name}-${n}`)) return `${name}-${n}`;
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false);
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
  const tokenizer = loadTokenizer(
    config.tokenizer ??
      await trainTokenizer(sampleLines([...text], TOKENIZER_SAMPLE), {
        vocabSize,
        lowercase,
        sentinels,
      }),
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

/** Shapes of micro-batches: equal steps up to the longest block. */
function batchShapes(config: PretrainConfig, part: PackedPart) {
  const { staticLengths, microBatch } = config;
  const longest = Math.max(8, Math.ceil(part.maxLength / 8) * 8);
  const lengths = new Set<number>();
  for (let i = 1; i <= staticLengths; i++) {
    lengths.add(Math.max(8, Math.ceil(longest * i / staticLengths / 8) * 8));
  }
  return { microBatchTokens: microBatch, lengths: [...lengths].sort((a, b) => a - b) };
}

/** Share of the held-out tokens that are the most frequent token of the training part. */
function mostFrequentShare(train: PackedPart, heldout: PackedPart): number {
  const counts = new Map<number, number>();
  const count = (part: PackedPart, into: Map<number, number>) => {
    let total = 0;
    for (let i = 0; i < part.count && total < FREQUENCY_SAMPLE; i++) {
      for (const token of part.read(i)) into.set(token, (into.get(token) ?? 0) + 1);
      total += part.length(i);
    }
    return total;
  };
  count(train, counts);
  let best = -1;
  for (const [token, n] of counts) if (best < 0 || n > counts.get(best)!) best = token;
  const there = new Map<number, number>();
  const total = count(heldout, there);
  return (there.get(best) ?? 0) / total;
}

// ---- Checkpoints ----

async function saveRun(run: string, trainer: Trainer, state: TrainingState): Promise<void> {
  const metadata = { update: String(state.update), format: "pt" };
  const names = [...trainer.shapes.keys()];
  const foreign = foreignNames(trainer.model, "reference", trainer.parts);
  const ours = new Map([...foreign].map(([name, { name: theirs }]) => [theirs, name]));
  const moments = names.flatMap((name) => [`mean.${name}`, `square.${name}`]);
  await saveCheckpoint(run, {
    "model.safetensors": (path) =>
      writeTensors(
        path,
        names.map((name) => ({ name: foreign.get(name)!.name, shape: foreign.get(name)!.shape })),
        async (theirs) => {
          const name = ours.get(theirs)!;
          const values = await trainer.parameters.read(name);
          const [rows, columns] = trainer.shapes.get(name)!;
          return foreign.get(name)!.transposed ? transpose(values, rows, columns) : values;
        },
        metadata,
      ),
    "optimizer.safetensors": (path) =>
      writeTensors(
        path,
        moments.map((m) => ({ name: m, shape: trainer.shapes.get(m.replace(/^\w+\./, ""))! })),
        (m) =>
          (m.startsWith("mean.") ? trainer.mean : trainer.square).read(m.replace(/^\w+\./, "")),
        metadata,
      ),
    "training.json": (path) => writeFile(path, JSON.stringify(state) + "\n"),
  });
}

async function restore(run: string, trainer: Trainer, batcher: Batcher): Promise<TrainingState> {
  const path = await checkpointFile(run, "training.json");
  if (!await exists(path)) {
    throw new UserError(
      `${run}: the run has no checkpoint yet; delete the folder and start it again`,
    );
  }
  const state = parseJson(await readFile(path, "utf8"), path) as TrainingState;
  const files = await openCheckpoint(run, ["model.safetensors", "optimizer.safetensors"]);
  try {
    const [weights, moments] = files;
    if (weights.metadata.update !== String(state.update)) {
      throw new UserError(`${path}: of update ${state.update}, but the weights are of another`);
    }
    for (const [name, theirs] of foreignNames(trainer.model, "reference", trainer.parts)) {
      const values = await weights.read(theirs.name);
      const [columns, rows] = theirs.shape;
      trainer.parameters.write(name, theirs.transposed ? transpose(values, columns, rows) : values);
      trainer.mean.write(name, await moments.read(`mean.${name}`));
      trainer.square.write(name, await moments.read(`square.${name}`));
    }
  } finally {
    for (const file of files) await file.close();
  }
  trainer.restoreSums(state.sums);
  batcher.restore(state.batcher);
  return state;
}

async function writeReport(run: string, config: PretrainConfig): Promise<void> {
  const metrics = await readMetrics(join(run, "metrics.jsonl"));
  const html = await report({ name: run.split(/[\\/]/).at(-1)!, config: { ...config }, metrics });
  await writeFile(join(run, "report.html"), html);
}

function millions(n: number): string {
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e3).toFixed(0)} k`;
}
