/**
 * Prompt-finetuning, top to bottom: pretrained model, mixture, batches, updates, run folder (paper, section
 * 4.3 and Table 6).
 *
 * The auxiliary model and the RTD head are dropped; METRO's decoder starts from `</s>`; the loss is the mean
 * cross entropy over all target tokens of an update. The run folder is like that of pretraining, with
 * `mixture.json` instead of a corpus.
 *
 * @module
 */

import { mkdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { parameterCount, specialIds } from "../models/mod.ts";
import { UserError } from "../ops/graph/errors.ts";
import type { Device } from "../ops/mod.ts";
import { badLines, describeMixture, mixtureLines, mixtureRecord } from "./prompts/mixture_table.ts";
import { type ExampleWindow, WindowAhead, WindowMaker, windowSource } from "./prompts/windows.ts";
import {
  FINETUNE_CONFIG,
  type FinetuneConfig,
  type FinetuneSettings,
  resolveFinetune,
} from "./config/finetune.ts";
import { expectFields, fields, text } from "./files/fields.ts";
import { readJson, writeJson } from "./files/json.ts";
import { expectSeal, sealed } from "./files/seal.ts";
import { type MetricRecord, readMetrics } from "./reports/metrics.ts";
import { type Mixture, MixtureOrder, resolveMixture } from "./prompts/mixture.ts";
import { CONTENT, contentOf, expectSameContent } from "./prompts/mixture_content.ts";
import {
  type ModelOptions,
  readModel,
  readModelWeights,
  readRunModel,
  type RunModel,
  shortName,
} from "./checkpoints/model.ts";
import { counted, percentText } from "./command/number_text.ts";
import { seq2seqObjective } from "./train/objective.ts";
import { validate } from "./command/options.ts";
import { type Communicator, firstThenAll } from "./parallel/communicator.ts";
import {
  choosePairShapes,
  layOutWindow,
  PairBatcher,
  type PairShapes,
} from "./train/pair_batches.ts";
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
import { writeFile } from "./files/write.ts";
import { trainLoop } from "./train/loop.ts";
import { type CpuRoom, expectRoom } from "./train/room.ts";
import { Opened, rankOf } from "./train/setting.ts";
import { Trainer } from "./train/trainer.ts";
import type { TokenizerJson } from "./tokenizer/tokenizer.ts";

/** What {@link finetune} needs besides the config. */
export interface FinetuneJob {
  /** Opens the device, once the mixture is known; what there is, a GPU rather than the CPU, if absent. */
  openDevice?(): Promise<Device>;
  /**
   * What the device will be, if it is the processor: a model that does not fit is refused at once.
   *
   * @ignore
   */
  cpu?: CpuRoom;
  /** Folder of the pretrained run; with `resume`, of the finetuning run. Or `model` instead. */
  run?: string;
  /** A model that is no run: its folder, or its name on the Hugging Face Hub. */
  model?: string;
  /** How to read it. */
  modelOptions?: ModelOptions;
  /** Folder of the finetuning run; inside the pretrained run, or in `runs/`, if absent. */
  out?: string;
  /** Go on from the finetuning run's checkpoint. */
  resume?: boolean | "requeue";
  /** What to set; the preset of the model's size has the rest. */
  given: Partial<FinetuneSettings>;
  /** Rows and templates to use when none are given. */
  sample?: { data: string; templates: string };
  /** Threads that render and tokenise; one if absent. */
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
 * Finetunes a pretrained model on a mixture of prompted tasks.
 *
 * @returns the finetuning run's folder and its metric records
 * @throws {UserError} for unusable rows, templates, settings, folder or device, and for a loss that is not
 * finite
 *
 * @example
 * ```ts
 * import { finetune, pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const finetuned = await finetune({
 *   run,
 *   given: {
 *     ...{ data: "data/tasks", templates: "data/templates", mixture: ["film_notes"] },
 *     ...{ updates: 1, batchSize: 4, window: 16, evaluateExamples: 0 },
 *   },
 * });
 * assert.equal(finetuned.run, `${run}/film_notes`);
 * assert.equal(finetuned.metrics[0].update, 1);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function finetune(
  job: FinetuneJob,
): Promise<{ run: string; metrics: MetricRecord[] }> {
  const { group, output, interrupted, leads, say, openDevice } = rankOf(job);

  // Settings: those of the checkpoint, or the preset's with the user's.
  using held = new DisposableStack();
  const open = () => openRun(job, leads ? held : undefined);
  const { run, config, model, resume } = await firstThenAll(group, "reading the model", open);
  if (job.cpu) expectFit(config, group.size, job.cpu);
  const tokenizer = model.tokenizer.json;
  await using opened = new Opened(resume || !leads ? undefined : await remover(run));

  // Data: rows through templates, made into ids ahead of the device.
  const { mixture, bad } = await openMixture(config, run, group);
  const look = () => Promise.resolve(describeMixture(config, mixture, tokenizer));
  const table = resume || !leads ? [] : await group.patiently("looking at the mixture", look);
  if (!resume) say(mixtureLines(mixture, table).join("\n"));
  const source = windowSource(config, mixture, tokenizer, config.window);
  const windows = opened.add(new WindowAhead(source, job.workers ?? 1));
  const begun = await group.patiently("rendering prompts", () => windows.get(0, 0));
  const shapes = shapesFor(begun, config);
  const read = () => readHeldout(config, mixture, run, tokenizer);
  const heldoutRows = await firstThenAll(group, "reading the held-out rows", read);
  const content = contentsOf(model, mixture, heldoutRows?.mixture);
  if (resume && leads) await expectSameData(run, content);

  // Model: the pretrained one without its auxiliary model and RTD head.
  const device = opened.add(await openDevice());
  const objective = seq2seqObjective(config.model, config.labelSmoothing);
  const trainer = opened.add(
    new Trainer(device, config.model, objective, config, config.seed, group),
  );
  say(
    `${config.from}: ${millions(parameterCount(config.model, objective.parts))} parameters on ` +
      `${device.adapterName}; prompts padded to ${shapes.sources.join(", ")} tokens, targets to ` +
      `${shapes.targets.join(", ")}`,
  );
  if (!resume) {
    const { parts, parameters } = trainer;
    const read = () => readModelWeights(device, model, parts, parameters);
    await group.patiently("reading the model's weights", read);
    if (leads) await beginRun(run, config, model, { ...mixtureRecord(mixture), table }, content);
  }

  // Updates, with evaluations and checkpoints between them.
  opened.keep();
  const batches = pairBatches(windows, shapes, config, mixture, group);
  const heldout = heldoutRows &&
    layOutWindow(heldoutRows.window, shapes, specialIds(config.model), group);
  const data = { batches, heldout: heldout && (() => heldout) };
  await trainLoop(trainer, config, data, { run, resume, interrupted, output });

  const met = mixture.datasets.map(({ dataset }, i) => ({ dataset, ...batches.countsOf(i) }));
  if (leads) await recordMet(run, met);
  const padding = percentText(batches.paddingOverhead - 1, 1, " %");
  say(`${counted(trainer.programCount, "program")}; padding ${padding} over the real tokens`);
  for (const line of badLines(mixture, met, [...bad, ...batches.bad])) say(line);
  return { run, metrics: leads ? await readMetrics(join(run, "metrics.jsonl")) : [] };
}

/**
 * Looks whether the model fits, with micro-batches of the longest examples.
 *
 * @throws {UserError} if it does not
 */
function expectFit(config: FinetuneConfig, devices: number, cpu: CpuRoom): void {
  const { model, labelSmoothing, microBatch, sourceLength, targetLength } = config;
  const rows = Math.max(1, Math.floor(microBatch / Math.max(sourceLength, targetLength) / devices));
  const shapes = [{ rows, length: sourceLength, target: targetLength }];
  const objective = seq2seqObjective(model, labelSmoothing);
  expectRoom({ model, objective, optimizer: config, shapes, heldout: [] }, devices, cpu);
}

// ---- Config and folder ----

/** A run as it begins or goes on. */
interface Begun {
  /** Whether the run goes on. */
  resume: boolean;
  run: string;
  config: FinetuneConfig;
  model: RunModel;
}

/** Takes a run's folder for this job. */
type Take = (run: string) => Promise<void>;

/** The run to begin or to go on with; its folder is held by rank 0, which has something to hold it with. */
async function openRun(job: FinetuneJob, held: DisposableStack | undefined): Promise<Begun> {
  const take = async (run: string) => {
    if (held) held.use(await takeRun(run, "finetune", job));
  };
  return await (job.resume === true ? savedRun(job, take) : newRun(job, take));
}

async function newRun(job: FinetuneJob, take: Take): Promise<Begun> {
  const { given, sample = { data: "", templates: "" } } = job;
  const from = fromOf(job);
  if (!job.sample && given.data === undefined && given.templates === undefined) {
    throw new UserError(
      "--data and --templates: expected folders of rows and of templates, got none",
    );
  }
  const { allowNonfinite } = job.modelOptions ?? {};
  const model = job.run === undefined
    ? await readModel(from, job.modelOptions)
    : { ...await readRunModel(job.run), allowNonfinite };
  const base = { from, model, sampleData: sample.data, sampleTemplates: sample.templates };
  const config = resolveFinetune(given, base);
  const name = nameOf(config);
  const run = job.out ??
    (model.released ? join("runs", `${shortName(from)}-${name}`) : join(from, name));
  await take(run);
  if (job.resume === "requeue" && await hasCheckpoint(run)) {
    return await savedRun(
      { ...job, run, model: undefined, out: undefined },
      () => Promise.resolve(),
    );
  }
  await startAfresh(run, "finetune");
  return { run, config, model, resume: false };
}

function fromOf({ run, model }: Pick<FinetuneJob, "run" | "model">): string {
  const from = run ?? model;
  if (from === undefined) throw new UserError("expected a run or a model to start from, got none");
  return from;
}

/** A folder name for a mixture: `T0`, `all`, `rotten_tomatoes+trec`. */
function nameOf({ mixture }: FinetuneConfig): string {
  const names = mixture.map((name) => basename(name, ".txt"));
  return names.length > 3 ? `${names.length}-datasets` : names.join("+");
}

/** The config of the run folder, which flags may repeat but not change. */
async function savedRun(job: FinetuneJob, take: Take): Promise<Begun> {
  if (job.model !== undefined) {
    throw new UserError(
      "--resume: goes on with a finetuning run: give it as --run, without --model",
    );
  }
  const run = job.out ?? fromOf(job), { given } = job;
  const otherwise = "no run to resume (it has no config.json); leave out --resume";
  const contents = await readOwnConfig(run, otherwise) as unknown as FinetuneConfig;
  if (contents.kind !== "finetune") {
    throw new UserError(
      `${run}: is a pretraining run; to resume a finetuning run, name its folder`,
    );
  }
  const { kind, from, preset, source, model: _, datasets, ...settings } = contents;
  const saved = validate(FINETUNE_CONFIG, settings, join(run, "config.json"));
  // Rows and templates are compared by their contents: they may lie elsewhere now.
  const { data = saved.data, templates = saved.templates, inputEndToken, ...others } = given;
  const mixture = given.mixture?.map(fileOrName);
  expectSame(run, { ...saved, mixture: saved.mixture?.map(fileOrName) }, {
    ...others,
    ...(mixture && { mixture }),
    ...(inputEndToken !== undefined && inputEndToken !== "auto" && { inputEndToken }),
  });
  await take(run);
  await expectCheckpoint(run);
  const model = await readRunModel(run);
  const places = { data, templates, mixture: given.mixture ?? saved.mixture };
  const rest = { kind, from, preset, source, model: model.config, datasets, ...places };
  return { run, config: { ...saved, ...rest } as FinetuneConfig, model, resume: true };
}

/** A name of a mixture's list; of a file of names, its whole path, however it was spelled. */
function fileOrName(name: string): string {
  return name.endsWith(".txt") ? resolve(name) : name;
}

/** Writes what a run folder has before its first checkpoint; the config last, which makes it a run. */
async function beginRun(
  run: string,
  config: FinetuneConfig,
  { tokenizer }: RunModel,
  mixture: object,
  content: object,
): Promise<void> {
  await mkdir(run, { recursive: true });
  await writeFile(join(run, "tokenizer.json"), JSON.stringify(tokenizer.json) + "\n");
  await writeJson(join(run, "mixture.json"), sealed(mixture));
  await writeBegunWith(run, content);
  await writeJson(join(run, "config.json"), config);
}

/** What a run learns from and is looked at with, by contents. */
function contentsOf({ tokenizer }: RunModel, training: Mixture, heldout: Mixture | undefined) {
  return {
    tokenizer: tokenizer.hash,
    train: contentOf(training),
    heldout: heldout ? contentOf(heldout) : [],
  };
}

/**
 * Makes sure that a run goes on with the rows and templates that it was begun with. Runs of older versions
 * do not say what these were.
 *
 * @throws {UserError} naming what has changed
 */
async function expectSameData(run: string, now: ReturnType<typeof contentsOf>): Promise<void> {
  const check = fields({ tokenizer: text, train: CONTENT, heldout: CONTENT });
  const then = await readBegunWith<typeof now>(run, check);
  if (!then) return;
  expectSameContent(then.train, now.train);
  expectSameContent(then.heldout, now.heldout);
  if (then.tokenizer === now.tokenizer) return;
  throw new UserError(`${join(run, "tokenizer.json")}: changed since the run began; put it back`);
}

/** Adds to `mixture.json` what training met of each dataset. */
async function recordMet(run: string, used: readonly object[]): Promise<void> {
  const { sha256: _, ...mixture } = await readMixture(run);
  await writeJson(join(run, "mixture.json"), sealed({ ...mixture, used }));
}

/**
 * What `mixture.json` holds.
 *
 * @throws {UserError} if it is not as it was written
 */
async function readMixture(run: string): Promise<Record<string, unknown>> {
  const path = join(run, "mixture.json"), advice = "put back a copy of the file";
  const mixture = await readJson(path);
  expectFields(mixture, fields({}), path, advice);
  expectSeal(mixture as object, path, advice);
  return mixture as Record<string, unknown>;
}

// ---- Data ----

function requestOf(config: FinetuneConfig, run: string) {
  const { mixture, mixing, data, templates, allowMissing } = config;
  return {
    names: mixture,
    data: data!,
    templates: templates!,
    rule: mixing,
    allowMissing,
    cache: join(run, "rows"),
  };
}

function onBad({ skipBad }: FinetuneConfig, listed: string[]) {
  return skipBad ? (error: Error) => void listed.push(error.message) : undefined;
}

/** Finds the mixture's rows and templates; the config takes down its datasets, and what they are made of. */
async function openMixture(
  config: FinetuneConfig,
  run: string,
  group: Communicator,
): Promise<{ mixture: Mixture; bad: readonly string[] }> {
  const bad: string[] = [];
  const request = { ...requestOf(config, run), onBad: onBad(config, bad) };
  const mixture = await firstThenAll(group, "reading the rows", () => resolveMixture(request));
  const names = mixture.datasets.flatMap(({ dataset, of = dataset }) => [of, dataset]);
  config.datasets = [...new Set(names)];
  return { mixture, bad };
}

/** Shapes for examples like those of the first window. */
function shapesFor(begun: ExampleWindow, config: FinetuneConfig): PairShapes {
  if (begun.sourceLengths.length > 0) return choosePairShapes(begun, config);
  throw new UserError("no row of the mixture gives an example; see the table for the reasons");
}

function pairBatches(
  windows: WindowAhead,
  shapes: PairShapes,
  { batchSize, seed, model }: FinetuneConfig,
  { datasets }: Mixture,
  place: Communicator,
): PairBatcher {
  const special = specialIds(model);
  return new PairBatcher(windows, shapes, {
    ...{ batchSize, seed, datasets: datasets.length, special, place },
  });
}

/**
 * Examples for the curve of the held-out loss: other splits than the training ones, templates of the
 * original tasks; undefined where there are none.
 */
async function readHeldout(
  config: FinetuneConfig,
  training: Mixture,
  run: string,
  tokenizer: TokenizerJson,
): Promise<{ mixture: Mixture; window: ExampleWindow } | undefined> {
  if (config.evaluateExamples === 0) return undefined;
  const request = {
    ...requestOf(config, run),
    names: training.datasets.map(({ dataset, of }) => of ?? dataset),
    allowMissing: true,
    part: "heldout",
    originalOnly: true,
    onBad: onBad(config, []),
  } as const;
  let mixture: Mixture;
  try {
    mixture = await resolveMixture(request);
  } catch (error) {
    if (error instanceof UserError && /holds no dataset/.test(error.message)) return undefined;
    throw error;
  }
  const size = Math.min(config.evaluateExamples, new MixtureOrder(mixture, config.seed).size);
  const maker = new WindowMaker(windowSource(config, mixture, tokenizer, size));
  const window = maker.make(0, 0);
  maker.close();
  return window.sourceLengths.length > 0 ? { mixture, window } : undefined;
}
