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

import process from "node:process";
import { mkdir, readdir, rm } from "node:fs/promises";
import { basename, join } from "node:path";
import { parameterCount, specialIds } from "../models/mod.ts";
import { UserError } from "../ops/graph/errors.ts";
import type { Device } from "../ops/mod.ts";
import { writeFile } from "./files/write.ts";
import { COUNTS, type ExampleWindow, WindowAhead, WindowMaker } from "./prompts/windows.ts";
import { DROPS } from "./prompts/examples.ts";
import {
  FINETUNE_CONFIG,
  type FinetuneConfig,
  type GivenFinetune,
  resolveFinetune,
} from "./config/finetune.ts";
import { readJson, writeJson } from "./files/json.ts";
import { type MetricRecord, readMetrics } from "./reports/metrics.ts";
import { type Mixture, MixtureOrder, resolveMixture } from "./prompts/mixture.ts";
import {
  type ModelOptions,
  readModel,
  readModelWeights,
  readRunModel,
  type RunModel,
  shortName,
} from "./checkpoints/model.ts";
import { NO_NUMBER, percentText } from "./command/number_text.ts";
import { seq2seqObjective } from "./train/objective.ts";
import { validate } from "./command/options.ts";
import { alone, type Communicator, firstThenAll } from "./parallel/communicator.ts";
import { choosePairShapes, layOutWindow, PairBatcher } from "./train/pair_batches.ts";
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
import { type Interruption, trainLoop } from "./train/loop.ts";
import { Trainer } from "./train/trainer.ts";
import { aligned } from "./command/table.ts";

/** What {@link finetune} needs besides the config. */
export interface FinetuneJob {
  /** Opens the device; called once the mixture has been resolved. */
  openDevice(): Promise<Device>;
  /** Folder of the pretrained run; with `resume`, of the finetuning run. Or `model` instead. */
  run?: string;
  /** A model that is no run: its folder, or its name on the Hugging Face Hub. */
  model?: string;
  /** How to read it. */
  modelOptions?: ModelOptions;
  /** Folder of the finetuning run; inside the pretrained run, or in `runs/`, if absent. */
  out?: string;
  /** Go on from the finetuning run's checkpoint. */
  resume: Resume;
  /** What the user set. */
  given: GivenFinetune;
  /** Rows and templates to use when none are given. */
  sample: { data: string; templates: string };
  /** Threads that render and tokenise. */
  workers: number;
  /** The ranks that train together, each with its own device; this one alone if absent. */
  group?: Communicator;
  /** Aborted when the user wants the job to stop. */
  interrupted?: Interruption;
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; write(text: string): unknown };
}

/** Examples per (dataset, template) that are looked at for the mixture's table, if there are more. */
const LOOKED_AT = 100;

/**
 * Finetunes a pretrained model on a mixture of prompted tasks.
 *
 * @returns the finetuning run's folder and its metric records
 * @throws {UserError} for unusable rows, templates, settings, folder or device, and for a loss that is not
 * finite
 */
export async function finetune(
  job: FinetuneJob,
): Promise<{ run: string; metrics: MetricRecord[] }> {
  const output = job.output ?? process.stderr;
  const { group = alone() } = job;
  const leads = group.rank === 0;
  const say = (text: string) => leads && output.write(text + "\n");
  const open = () => job.resume === true ? savedRun(job) : newRun(job);
  const { run, config, model, resume } = await firstThenAll(group, "reading the model", open);
  const undo = resume || !leads ? undefined : await remover(run);
  let windows: WindowAhead | undefined, trainer: Trainer | undefined, device: Device | undefined;
  let training = false;
  try {
    const bad: string[] = [];
    const resolve = () =>
      resolveMixture({
        ...requestOf(config, run),
        onBad: config.skipBad ? (error) => bad.push(error.message) : undefined,
      });
    const mixture = await firstThenAll(group, "reading the rows", resolve);
    config.datasets = [
      ...new Set(mixture.datasets.flatMap(({ dataset, of = dataset }) => [of, dataset])),
    ];
    const record = join(run, "mixture.json");
    const table = resume || !leads
      ? []
      : await group.patiently("looking at the mixture", () =>
        Promise.resolve(describeMixture(config, mixture, model)));
    if (!resume) say(mixtureLines(mixture, table).join("\n"));

    const source = windowSource(config, mixture, model, config.window);
    windows = new WindowAhead(source, job.workers);
    const ahead = windows;
    const begun = await group.patiently("rendering prompts", () => ahead.get(0, 0));
    if (begun.sourceLengths.length === 0) {
      throw new UserError("no row of the mixture gives an example; see the table for the reasons");
    }
    const shapes = choosePairShapes(begun, config);
    const heldout = await firstThenAll(
      group,
      "reading the held-out rows",
      () => heldoutWindow(config, mixture, run, model),
    );

    device = await job.openDevice();
    const objective = seq2seqObjective(config.model, config.labelSmoothing);
    trainer = new Trainer(device, config.model, objective, config, config.seed, group);
    say(
      `${config.from}: ${millions(parameterCount(config.model, objective.parts))} parameters on ` +
        `${device.adapterName}; prompts padded to ${
          shapes.sources.join(", ")
        } tokens, targets to ` +
        `${shapes.targets.join(", ")}`,
    );
    if (!resume) {
      const { parts, parameters } = trainer, opened = device;
      const read = () => readModelWeights(opened, model, parts, parameters);
      await group.patiently("reading the model's weights", read);
      if (leads) await beginRun(run, config, model, { ...mixtureRecord(mixture), table });
    }
    training = true;
    const special = specialIds(config.model);
    const batcher = new PairBatcher(windows, shapes, {
      batchSize: config.batchSize,
      seed: config.seed,
      datasets: mixture.datasets.length,
      special,
      place: group,
    });
    const evaluation = heldout && layOutWindow(heldout, shapes, special, group);
    await trainLoop({
      run,
      resume,
      config,
      trainer,
      objective,
      device,
      source: batcher,
      heldout: evaluation ? () => evaluation : undefined,
      group,
      interrupted: job.interrupted,
      output,
    });
    const used = usedTable(mixture, batcher);
    if (leads) await writeJson(record, { ...await readJson(record) as object, used });
    say(
      `${trainer.programCount} programs; padding ` +
        `${percentText(batcher.paddingOverhead - 1, 1, " %")} over the real tokens`,
    );
    for (const line of badLines(mixture, batcher, [...bad, ...batcher.bad])) say(line);
  } catch (error) {
    if (!training) await undo?.().catch(() => {}); // the first error matters
    throw error;
  } finally {
    windows?.close();
    trainer?.destroy();
    device?.destroy();
  }
  return { run, metrics: leads ? await readMetrics(join(run, "metrics.jsonl")) : [] };
}

// ---- Config and folder ----

interface Prepared {
  /** Whether the run goes on. */
  resume: boolean;
  run: string;
  config: FinetuneConfig;
  model: RunModel;
}

async function newRun(job: FinetuneJob): Promise<Prepared> {
  const { given, sample } = job;
  const from = fromOf(job);
  const model =
    await (job.run === undefined ? readModel(from, job.modelOptions) : readRunModel(job.run));
  const base = { from, model, sampleData: sample.data, sampleTemplates: sample.templates };
  const config = resolveFinetune(given, base);
  const name = nameOf(config);
  const run = job.out ??
    (model.released ? join("runs", `${shortName(from)}-${name}`) : join(from, name));
  if (job.resume === "requeue") {
    if (await hasCheckpoint(run)) {
      return await savedRun({ ...job, run, model: undefined, out: undefined });
    }
    await forgetUnsaved(run);
  }
  await expectNoRun(run);
  return { run, config, model, resume: false };
}

function fromOf({ run, model }: Pick<FinetuneJob, "run" | "model">): string {
  const from = run ?? model;
  if (from === undefined) throw new UserError("expected a run or a model to start from, got none");
  return from;
}

/** Puts a folder back to what it is now, if it is there at all. */
async function remover(folder: string): Promise<() => Promise<void>> {
  if (!await exists(folder)) return () => rm(folder, { recursive: true, force: true });
  const before = await readdir(folder);
  return async () => {
    for (const name of await readdir(folder)) {
      if (!before.includes(name)) await rm(join(folder, name), { recursive: true });
    }
  };
}

/** A folder name for a mixture: `T0`, `all`, `rotten_tomatoes+trec`. */
function nameOf({ mixture }: FinetuneConfig): string {
  const names = mixture.map((name) => basename(name, ".txt"));
  return names.length > 3 ? `${names.length}-datasets` : names.join("+");
}

/** The config of the run folder, which flags may repeat but not change. */
async function savedRun(job: FinetuneJob): Promise<Prepared> {
  if (job.model !== undefined) {
    throw new UserError(
      "--resume: goes on with a finetuning run: give it as --run, without --model",
    );
  }
  const run = job.out ?? fromOf(job), { given } = job;
  const otherwise = "no run to resume (it has no config.json); leave out --resume";
  const contents = await readConfig(run, otherwise) as FinetuneConfig;
  if (contents.kind !== "finetune") {
    throw new UserError(
      `${run}: is a pretraining run; to resume a finetuning run, name its folder`,
    );
  }
  const { kind, from, preset, source, model, datasets, ...settings } = contents;
  const saved = validate(FINETUNE_CONFIG, settings, join(run, "config.json"));
  expectSame(run, saved, given);
  const config = { ...saved, kind, from, preset, source, model, datasets } as FinetuneConfig;
  if (!await hasCheckpoint(run)) {
    throw new UserError(
      `${run}: the run has no checkpoint yet; delete the folder and start it again`,
    );
  }
  return { run, config, model: await readRunModel(run), resume: true };
}

/** Writes what a run folder has before its first checkpoint; the config last, which makes it a run. */
async function beginRun(
  run: string,
  config: FinetuneConfig,
  { tokenizer }: RunModel,
  mixture: object,
): Promise<void> {
  await mkdir(run, { recursive: true });
  await writeFile(join(run, "tokenizer.json"), JSON.stringify(tokenizer.json) + "\n");
  await writeJson(join(run, "mixture.json"), mixture);
  await writeJson(join(run, "config.json"), config);
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

function windowSource(config: FinetuneConfig, mixture: Mixture, model: RunModel, size: number) {
  const { seed, sourceLength, targetLength, skipBad } = config;
  const tokenizer = model.tokenizer.json;
  return { mixture, seed, size, tokenizer, sourceLength, targetLength, skipBad };
}

/**
 * Examples for the curve of the held-out loss: other splits than the training ones, templates of the
 * original tasks; undefined where there are none.
 */
async function heldoutWindow(
  config: FinetuneConfig,
  training: Mixture,
  run: string,
  model: RunModel,
): Promise<ExampleWindow | undefined> {
  if (config.evaluateExamples === 0) return undefined;
  const request = {
    ...requestOf(config, run),
    names: training.datasets.map(({ dataset, of }) => of ?? dataset),
    allowMissing: true,
    part: "heldout",
    originalOnly: true,
    onBad: config.skipBad ? () => {} : undefined,
  } as const;
  let mixture: Mixture;
  try {
    mixture = await resolveMixture(request);
  } catch (error) {
    if (error instanceof UserError && /holds no dataset/.test(error.message)) return undefined;
    throw error;
  }
  const size = Math.min(config.evaluateExamples, new MixtureOrder(mixture, config.seed).size);
  const maker = new WindowMaker(windowSource(config, mixture, model, size));
  const window = maker.make(0, 0);
  maker.close();
  return window.sourceLengths.length > 0 ? window : undefined;
}

// ---- The mixture's table ----

/** A line of the mixture's table. */
interface MixtureRow {
  dataset: string;
  templates: number;
  rows: number;
  cap: number;
  /** Share of an epoch, before drops. */
  share: number;
  /** Examples that were looked at, and what became of them, by {@link COUNTS}. */
  counts: Record<typeof COUNTS[number], number>;
}

/** Looks at some examples of every template: what is dropped, what is cut. */
function describeMixture(config: FinetuneConfig, mixture: Mixture, model: RunModel): MixtureRow[] {
  const epoch = new MixtureOrder(mixture, config.seed).size;
  return mixture.datasets.map((dataset) => {
    const { rows, templates, cap } = dataset;
    const capped = { ...dataset, cap: Math.min(LOOKED_AT, rows) };
    const size = templates.length * capped.cap;
    const source = windowSource(config, { ...mixture, datasets: [capped] }, model, size);
    // What is skipped is listed when training meets it; here it is only counted.
    const maker = new WindowMaker(source);
    const { counts } = maker.make(0, 0);
    maker.close();
    return {
      dataset: dataset.dataset,
      templates: templates.length,
      rows,
      cap,
      share: templates.length * Math.min(rows, cap) / epoch,
      counts: Object.fromEntries(
        COUNTS.map((name, i) => [name, counts[i]]),
      ) as MixtureRow["counts"],
    };
  });
}

/** What training met, per dataset. */
function usedTable(mixture: Mixture, batcher: PairBatcher) {
  return mixture.datasets.map(({ dataset }, i) => ({ dataset, ...batcher.countsOf(i) }));
}

function mixtureRecord({ name, rule, templates, missing, datasets }: Mixture) {
  const splits = datasets.map(({ dataset, splits, rows, templates, cap }) => ({
    dataset,
    splits: splits.map(({ split }) => split),
    rows,
    skipped: splits.reduce((sum, { skipped }) => sum + skipped, 0),
    templates,
    cap,
  }));
  return { name, rule, templates, missing, datasets: splits };
}

function mixtureLines(mixture: Mixture, table: readonly MixtureRow[]): string[] {
  const drops = Object.keys(DROPS) as (keyof typeof DROPS)[];
  const percent = (n: number, of: number) => percentText(n / of, 1, " %");
  const cells = table.map(({ dataset, templates, rows, cap, share, counts }) => {
    const dropped = drops.reduce((sum, d) => sum + counts[d], 0);
    return [
      dataset,
      String(templates),
      String(rows),
      cap >= rows ? NO_NUMBER : String(cap),
      percent(share, 1),
      percent(dropped, counts.seen),
      percent(counts.sourceCut, counts.seen),
      percent(counts.targetCut, counts.seen),
    ];
  });
  const total = table.reduce((sum, t) => sum + t.templates * Math.min(t.rows, t.cap), 0);
  const header = ["dataset", "templates", "rows", "cap", "share", "dropped", "cut", "target cut"];
  const met = drops.filter((d) => table.some(({ counts }) => counts[d] > 0));
  return [
    `mixture ${mixture.name} (${mixture.rule} rule): ${table.length} datasets, ` +
    `${table.reduce((sum, t) => sum + t.templates, 0)} templates, ${total} examples per epoch`,
    ...aligned([header, ...cells], 1),
    ...met.map((d) =>
      `dropped for ${DROPS[d]}: ` +
      table.filter(({ counts }) => counts[d] > 0)
        .map(({ dataset, counts }) => `${dataset} ${counts[d]} of ${counts.seen}`).join(", ")
    ),
    ...(mixture.missing.length > 0 ? [`left out, not there: ${mixture.missing.join(", ")}`] : []),
    `dropped and cut: shares among the first ${LOOKED_AT} rows of each template at most`,
  ];
}

function badLines(
  mixture: Mixture,
  batcher: PairBatcher,
  messages: readonly string[],
): string[] {
  if (messages.length === 0) return [];
  const rows = mixtureRecord(mixture).datasets.reduce((sum, { skipped }) => sum + skipped, 0);
  const examples = mixture.datasets.reduce((sum, _, i) => sum + batcher.countsOf(i).bad, 0);
  return [
    `skipped: rows that cannot be read: ${rows}, unusable examples: ${examples}; the first of them:`,
    ...messages.slice(0, 10),
  ];
}
