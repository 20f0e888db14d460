/**
 * Zero-shot evaluation by rank classification: every template of every task gives an accuracy (paper,
 * section 5.1; T0 Eval).
 *
 * @module
 */

import type { Evaluation } from "./evaluate/results.ts";
import { createHash } from "node:crypto";
import { mkdir, open, stat } from "node:fs/promises";
import { basename } from "node:path";
import process from "node:process";
import { headerSize, type ModelConfig, parseHeader } from "../models/mod.ts";
import { checkpointFile } from "./checkpoints/save.ts";
import { UserError } from "../ops/graph/errors.ts";
import { key, Random } from "../ops/graph/random.ts";
import { describePlace, expectFields, hash, type Place } from "./prompts/examples.ts";
import { type LoadedModel } from "./checkpoints/model.ts";
import { isPrerendered, PRERENDERED } from "./prompts/mixture.ts";
import { nearest } from "./command/nearest.ts";
import { percentText } from "./command/number_text.ts";
import { alone, type Communicator } from "./parallel/communicator.ts";
import { evalTemplates, T0_EVAL } from "./prompts/t0.ts";
import { RenderError, Template } from "./prompts/template.ts";
import { openTemplates, taskName } from "./prompts/templates.ts";
import { bestOf, Ranker, type RankerOptions, type RankRequest } from "./evaluate/rank.ts";
import { finished, type TemplateResult, writeResult } from "./evaluate/results.ts";
import {
  adaptRow,
  datasetsIn,
  groupScoreEval,
  isP3,
  isScoreEval,
  p3Example,
  readRows,
  type Row,
  splitsOf,
} from "./rows/mod.ts";
import { exists } from "./files/write.ts";
import { openWeights } from "./files/weights.ts";

/** What {@link evaluateModel} needs. */
export interface EvaluateJob {
  /** The model. */
  model: LoadedModel;
  /** Folder of the run or of the model as those on the Hub are; its weights identify the results. */
  run: string;
  /** `T0-Eval`; `DATASET` or `DATASET:SPLIT`; `all` datasets that have held-out rows and choices. */
  tasks: readonly string[];
  /** Folder of the rows. */
  data: string;
  /** Folder of the templates. */
  templates: string;
  /** Leave tasks out whose rows or templates are not there. */
  allowMissing: boolean;
  /** Count unusable rows instead of stopping at the first. */
  skipBad: boolean;
  /** Folder of the results. */
  out: string;
  /** Seed of the templates' random choices. */
  seed: number;
  /** Examples of each task at most, from the first on; all if absent. */
  limit?: number;
  /** How batches are made. */
  batches?: Omit<RankerOptions, "group">;
  /**
   * Ranks that share the batches, each with the model on a device of its own; this one alone if absent. All
   * of them get the same job and see the same files; rank 0 writes.
   */
  group?: Communicator;
  /** Aborted when the user wants the job to stop; what is finished stays. One rank's word is enough. */
  interrupted?: { readonly aborted: boolean };
  /** Where rank 0's lines for the user go; standard error if absent. */
  output?: { write(text: string): unknown };
}

/** A task to evaluate: a column of the table. */
export interface EvaluationTask {
  /** Its name in the table: `RTE`, or the dataset. */
  column: string;
  /** Where its rows are. */
  dataset: string;
  /** Which split. */
  split: string;
  /** Kind of task. */
  task: string;
  /** The templates that count; for rows of P3, a stand-in. */
  templates: readonly Template[];
  /** Rows are examples already, as in P3. */
  prerendered?: boolean;
}

const LISTED = 20;
const RANDOM_CHOICE = 0x6576616c;

/**
 * Finds the tasks that names stand for.
 *
 * @throws {UserError} naming what is missing, unless it is allowed to be
 */
async function resolveTasks(
  { tasks: names, data, templates: folder, allowMissing, skipBad }: Pick<
    EvaluateJob,
    "tasks" | "data" | "templates" | "allowMissing" | "skipBad"
  >,
): Promise<{ tasks: EvaluationTask[]; missing: string[] }> {
  const onBad = skipBad ? () => {} : undefined;
  const templates = openTemplates(folder);
  const there = datasetsIn(data);
  const wanted = names.flatMap((name) => {
    if (name === "T0-Eval") return T0_EVAL.map((t) => ({ ...t }));
    if (name === "all") return there.flatMap((dataset) => heldout(dataset));
    const [dataset, split] = name.split(":");
    if (split !== undefined) return [{ column: name, dataset, split, task: dataset }];
    const columns = T0_EVAL.filter((t) => t.dataset === dataset);
    return columns.length > 0 ? columns.map((t) => ({ ...t })) : heldout(dataset, true);
  });
  function heldout(dataset: string, must = false) {
    const splits = there.includes(dataset) ? splitsOf(data, dataset) : [];
    const split = ["validation", "test", "dev"].find((s) => splits.includes(s));
    if (split === undefined && !must) return [];
    return [{ column: dataset, dataset, split: split ?? "validation", task: dataset }];
  }
  const tasks: EvaluationTask[] = [], missing: string[] = [];
  for (const { column, dataset, split, task } of wanted) {
    const chosen = templates.datasets.includes(dataset)
      ? evalTemplates(dataset, templates.of(dataset))
      : [];
    const rows = there.includes(dataset) && splitsOf(data, dataset).includes(split);
    if (rows && chosen.length > 0) {
      // A template that does not compile is no matter of rows.
      for (const template of chosen) template.compile();
      tasks.push({ column, dataset, split, task, templates: chosen });
    } else if (rows && await isPrerendered(data, dataset, split, onBad)) {
      tasks.push({ column, dataset, split, task, templates: [STAND_IN], prerendered: true });
    } else if (!(names.includes("all") && rows)) {
      const why = rows ? "no templates with answer choices" : `no rows of ${split}`;
      const near = there.includes(dataset) ? undefined : nearest(dataset, there);
      missing.push(`${dataset} (${why}${near ? `; did you mean ${near}?` : ""})`);
    }
  }
  if (missing.length > 0 && !allowMissing) {
    throw new UserError(
      `${missing.length} of ${wanted.length} tasks cannot be evaluated: ${
        missing.join("; ")
      }. Add ` +
        "them, name others with --tasks, or give --allow-missing",
    );
  }
  if (tasks.length === 0) throw new UserError(`${data}: holds no task to evaluate`);
  return { tasks, missing };
}

/**
 * Evaluates a model. Each (task, template) is written as soon as it is done, and is not run again by a
 * later call with the same weights, rows and settings. What is written does not depend on the number of
 * ranks, where all have the same kind of device.
 *
 * @throws {UserError} for missing tasks, and for unusable rows unless they are skipped
 */
export async function evaluateModel(job: EvaluateJob): Promise<Evaluation> {
  const { model, out, output = process.stderr, group = alone() } = job;
  const leads = group.rank === 0;
  const { tasks, missing } = await resolveTasks(job);
  const weights = await weightsOf(job.run, model.config);
  const ranker = new Ranker(model, { ...job.batches, group });
  const results: TemplateResult[] = [], bad: string[] = [];
  let host = 0, total = 0;
  try {
    for (const task of tasks) {
      const { rows, unreadable } = await group.patiently(
        `reading ${task.column}`,
        () => rowsOf(job, task, bad),
      );
      for (const template of task.templates) {
        group.alive(`${task.column}, template '${template.name}'`);
        const name = taskName(nameOf(task), template.name);
        const settings = settingsOf(job, task, template, rows, weights);
        const earlier = leads ? await finished(out, name, { settings }) : undefined;
        const stop = job.interrupted?.aborted ?? false;
        const [stopped, done] = await sums(group, [Number(stop), earlier ? 1 : 0]);
        if (stopped > 0) return await finish();
        if (done > 0) {
          if (earlier) keep(earlier, task, "  (done before)");
          continue;
        }
        const begun = performance.now();
        const prepared = prepare(job, ranker, task, template, rows, bad);
        if (unreadable > 0) prepared.skipped["unreadable"] = unreadable;
        host += performance.now() - begun;
        const busy = ranker.statistics.hostMilliseconds;
        const scores = await ranker.scores(prepared.requests);
        host += ranker.statistics.hostMilliseconds - busy;
        total += performance.now() - begun;
        if (!leads) continue;
        const result = resultOf(job, task, template, prepared, scores, settings);
        await mkdir(out, { recursive: true });
        await writeResult(out, name, result);
        keep(result, task);
      }
    }
    return await finish();
  } finally {
    ranker.destroy();
  }

  function keep(result: TemplateResult, task: EvaluationTask, note = ""): void {
    results.push(result);
    output.write(`${task.column}  ${percent(result)}  ${result.template_name}${note}\n`);
  }

  async function finish(): Promise<Evaluation> {
    const { statistics } = ranker;
    const own = [statistics.programs, statistics.tokens, statistics.paddedTokens, host, total];
    const [programs, tokens, paddedTokens, busy, all] = await sums(group, own);
    const paddingOverhead = paddedTokens / tokens - 1, hostShare = busy / all;
    return { results, missing, programs, paddingOverhead, hostShare, bad };
  }
}

/** Sums over the ranks. */
async function sums(group: Communicator, own: readonly number[]): Promise<Float64Array> {
  const values = Float64Array.from(own);
  await group.allReduce(values);
  return values;
}

/** The t-zero way to name a task: ANLI's rounds are splits, but count as configs; so do splits by name. */
function nameOf({ column, dataset, split }: EvaluationTask): string {
  return column.includes(":") || dataset === "anli" ? `${dataset}/${split}` : dataset;
}

/** A row of a task, with its number in the split. */
interface NumberedRow {
  row: Row;
  number: number;
}

async function rowsOf(
  job: EvaluateJob,
  task: EvaluationTask,
  bad: string[],
): Promise<{ rows: NumberedRow[]; unreadable: number }> {
  let unreadable = 0;
  const onBad = job.skipBad
    ? (error: UserError) => {
      unreadable++;
      if (bad.length < LISTED) bad.push(error.message);
    }
    : undefined;
  const rows: NumberedRow[] = [];
  if (task.prerendered && await isOneRowPerAnswer(job, task)) {
    const answers = readRows(job.data, task.dataset, task.split, { onBad });
    for await (const { input, choices, gold } of groupScoreEval(answers)) {
      const row = { inputs_pretokenized: input, targets_pretokenized: choices[gold] ?? "" };
      rows.push({ row: { ...row, answer_choices: choices }, number: rows.length });
      if (rows.length === job.limit) break;
    }
    return { rows, unreadable };
  }
  for await (const { row, number } of readRows(job.data, task.dataset, task.split, { onBad })) {
    rows.push({ row, number });
    if (rows.length === job.limit) break;
  }
  if (rows.length === 0) throw new UserError(`${task.dataset} ${task.split}: holds no rows`);
  return { rows, unreadable };
}

async function isOneRowPerAnswer(
  { data, skipBad }: EvaluateJob,
  { dataset, split }: EvaluationTask,
): Promise<boolean> {
  const options = { onBad: skipBad ? () => {} : undefined };
  for await (const { row } of readRows(data, dataset, split, options)) return isScoreEval(row);
  return false;
}

/** Examples of one template, ready to score. */
interface Prepared {
  requests: RankRequest[];
  /** For each row, the place of its request; −1 for a skipped one. */
  places: number[];
  /** Place of the right choice, per request. */
  gold: number[];
  skipped: Record<string, number>;
}

function prepare(
  job: EvaluateJob,
  ranker: Ranker,
  task: EvaluationTask,
  template: Template,
  rows: readonly NumberedRow[],
  bad: string[],
): Prepared {
  const prepared: Prepared = { requests: [], places: [], gold: [], skipped: {} };
  for (const { row, number } of rows) {
    const place = { dataset: task.dataset, split: task.split, row: number };
    try {
      const { prompt, choices, gold } = questionOf(template, row, place, job.seed);
      prepared.requests.push(ranker.request(prompt, choices));
      prepared.gold.push(gold);
      prepared.places.push(prepared.requests.length - 1);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      const reason = error instanceof Unusable ? error.reason : "unusable row";
      const message = error instanceof Unusable
        ? error.message
        : `${describePlace(place)}, template '${template.name}': ${error.message}`;
      if (!job.skipBad) {
        throw new UserError(`${message}. With --skip-bad such rows are counted and left out`);
      }
      if (bad.length < LISTED) bad.push(message);
      prepared.skipped[reason] = (prepared.skipped[reason] ?? 0) + 1;
      prepared.places.push(-1);
    }
  }
  return prepared;
}

/** A row that a template cannot ask about; `reason` is what such rows are counted under. */
class Unusable extends UserError {
  constructor(readonly reason: string, message: string) {
    super(message);
  }
}

/** Where rows are examples already, there is nothing to render. */
const STAND_IN = new Template({
  name: PRERENDERED,
  id: PRERENDERED,
  dataset: "",
  file: "",
  originalTask: true,
  choicesInPrompt: null,
  metrics: ["Accuracy"],
  reference: "",
  jinja: "{{ inputs_pretokenized }} ||| {{ targets_pretokenized }}",
  answerChoices: "{{ answer_choices | join('|||') }}",
});

/** The prompt of a row, its choices, and which of them is right: the first that equals the target. */
function questionOf(
  template: Template,
  row: Row,
  place: Place,
  seed: number,
): { prompt: string; choices: readonly string[]; gold: number } {
  const where = `${describePlace(place)}, template '${template.name}'`;
  const { parts, choices } = renderQuestion(template, row, place, seed, where);
  if (parts.length !== 2) {
    const count = parts.length === 1 ? "1 part" : `${parts.length} parts`;
    throw new Unusable(
      "not a prompt and a target",
      `${where}: expected a prompt and a target, got ${count}`,
    );
  }
  const [prompt, target] = parts;
  if (prompt === "") throw new Unusable("empty prompt", `${where}: the prompt is empty`);
  if (!choices || choices.length === 0) {
    throw new Unusable("no choices", `${where}: there are no answer choices`);
  }
  const gold = choices.indexOf(target);
  if (gold < 0) {
    throw new Unusable(
      "target not among the choices",
      `${where}: the target '${target}' is not among the choices ${choices.join(" | ")}`,
    );
  }
  return { prompt, choices, gold };
}

function renderQuestion(template: Template, row: Row, place: Place, seed: number, where: string) {
  if (template === STAND_IN) {
    if (!isP3(row)) throw new Unusable("not a row of P3", `${where}: is not a row of P3`);
    const { input, target, choices } = p3Example(row);
    return { parts: [input, target], choices };
  }
  const adapted = adaptRow(place.dataset, row, template.fields);
  try {
    expectFields(template, adapted, place);
  } catch (error) {
    throw new Unusable("missing field", (error as Error).message);
  }
  let draws = 0;
  const choose = (n: number) =>
    new Random(key(seed, RANDOM_CHOICE, hash(template.name), place.row, draws++)).below(n);
  try {
    return template.apply(adapted, { choose });
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    throw new Unusable("rendering failed", `${where}: ${error.message}`);
  }
}

/** What a result depends on, as one short text. */
function settingsOf(
  job: EvaluateJob,
  task: EvaluationTask,
  { jinja, answerChoices }: Template,
  rows: readonly NumberedRow[],
  weights: string,
): string {
  const { maxSource, maxTarget } = job.model;
  const parts = [
    weights,
    maxSource,
    maxTarget,
    job.seed,
    job.skipBad,
    task.split,
    jinja,
    answerChoices,
  ];
  const digest = createHash("sha256").update(JSON.stringify(parts));
  for (const { row } of rows) digest.update(JSON.stringify(row));
  return digest.digest("hex").slice(0, 16);
}

/**
 * Identifies weights, and the config that says what they mean. A run's file begins with the checksums of
 * all tensors; files of others are told apart by size and time.
 */
async function weightsOf(run: string, config: ModelConfig): Promise<string> {
  const digest = createHash("sha256").update(JSON.stringify(config));
  const own = await checkpointFile(run, "model.safetensors");
  const checksums = await exists(own) ? await checksumsOf(own) : undefined;
  if (checksums) return digest.update(checksums).digest("hex");
  const weights = await openWeights(run);
  await weights.close();
  for (const path of weights.files) {
    const { size, mtimeMs } = await stat(path);
    digest.update(JSON.stringify([basename(path), size, mtimeMs]));
  }
  return digest.digest("hex");
}

async function checksumsOf(path: string): Promise<string | undefined> {
  const file = await open(path, "r");
  try {
    const { size } = await file.stat();
    const start = await file.read(new Uint8Array(8), 0, 8, 0);
    const length = headerSize(start.buffer, size);
    const { buffer } = await file.read(new Uint8Array(length), 0, length, 0);
    return parseHeader(buffer, size).metadata.crc32;
  } finally {
    await file.close();
  }
}

function resultOf(
  { model }: EvaluateJob,
  task: EvaluationTask,
  template: Template,
  { places, gold, skipped }: Prepared,
  scores: readonly Float64Array[],
  settings: string,
): TemplateResult {
  const correct = places
    .map((i) => i < 0 ? "-" : bestOf(scores[i]) === gold[i] ? "1" : "0").join("");
  const examples = gold.length, right = correct.split("1").length - 1;
  const [dataset_name, config] = splitName(nameOf(task));
  return {
    dataset_name,
    dataset_config_name: config,
    template_name: template.name,
    evaluation: { accuracy: examples === 0 ? 0 : right / examples },
    model_name_or_path: model.name,
    split: task.split,
    column: task.column,
    task: task.task,
    examples,
    correct,
    skipped,
    choices: scores.reduce((sum, s) => sum + s.length, 0) / Math.max(1, scores.length),
    trained: model.trainedOn.includes(task.dataset),
    settings,
  };
}

function splitName(dataset: string): [string, string | null] {
  const at = dataset.indexOf("/");
  return at < 0 ? [dataset, null] : [dataset.slice(0, at), dataset.slice(at + 1)];
}

function percent({ evaluation: { accuracy }, examples }: TemplateResult): string {
  return percentText(examples === 0 ? NaN : accuracy, 2).padStart(7);
}
