/**
 * Zero-shot evaluation by rank classification: every template of every task gives an accuracy (paper,
 * section 5.1; T0 Eval).
 *
 * @module
 */

import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import process from "node:process";
import { UserError } from "../ops/graph/errors.ts";
import { describePlace } from "./prompts/examples.ts";
import { type LoadedModel } from "./checkpoints/model.ts";
import { percentText } from "./command/number_text.ts";
import { printable } from "./command/printable.ts";
import { alone, type Communicator, fromFirst } from "./parallel/communicator.ts";
import { Template } from "./prompts/template.ts";
import { rowText } from "./rows/mod.ts";
import { bestOf, Ranker, type RankerOptions } from "./evaluate/rank.ts";
import { type RankRequest } from "./evaluate/rank_batches.ts";
import {
  type Evaluation,
  finished,
  resultNames,
  type TemplateResult,
  writeResult,
} from "./evaluate/results.ts";
import {
  type EvaluationTask,
  LISTED,
  nameOf,
  type NumberedRow,
  questionOf,
  resolveTasks,
  rowsOf,
  SEED,
  Unusable,
} from "./evaluate/tasks.ts";

/** What {@link evaluate} needs. */
export interface EvaluateJob {
  /** The model. */
  model: LoadedModel;
  /** Folder of the run or of the model as those on the Hub are, for messages. */
  run: string;
  /** `T0-Eval`; `DATASET` or `DATASET:SPLIT`; `all` datasets that have held-out rows and choices. */
  tasks: readonly string[];
  /** Folder of the rows. */
  data: string;
  /** Folder of the templates. */
  templates: string;
  /** Leave tasks out whose rows or templates are not there. */
  allowMissing?: boolean;
  /** Count unusable rows instead of stopping at the first. */
  skipBad?: boolean;
  /** Folder of the results. */
  out: string;
  /** Seed of the templates' random choices; 1 if absent. */
  seed?: number;
  /** Examples of each task at most, from the first on; all if absent. */
  limit?: number;
  /** How batches are made. */
  batches?: Omit<RankerOptions, "group">;
  /**
   * Ranks that share the batches, each with the model on a device of its own; this one alone if absent. All
   * of them get the same job and see the same files; rank 0 writes.
   *
   * @ignore
   */
  group?: Communicator;
  /** Aborted when the user wants the job to stop; what is finished stays. One rank's word is enough. */
  interrupted?: { readonly aborted: boolean; listen?(): unknown };
  /** Where rank 0's lines for the user go; standard error if absent. */
  output?: { write(text: string): unknown };
}

/**
 * Evaluates a model. Each (task, template) is written as soon as it is done, and is not run again by a
 * later call with the same weights, rows and settings. What is written does not depend on the number of
 * ranks, where all have the same kind of device.
 *
 * @throws {UserError} for missing tasks, and for unusable rows unless they are skipped
 *
 * @example
 * ```ts
 * import { evaluate, loadModel, pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const model = await loadModel(run);
 * const { results } = await evaluate({
 *   ...{ model, run, out: `${run}/eval`, limit: 2 },
 *   ...{ tasks: ["film_notes"], data: "data/tasks", templates: "data/templates" },
 * });
 * model.destroy();
 * assert.equal(results[0].column, "film_notes");
 * assert.equal(results[0].examples, 2);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function evaluate(job: EvaluateJob): Promise<Evaluation> {
  const { model, out, output = process.stderr, group = alone() } = job;
  const leads = group.rank === 0;
  const { tasks, missing } = await resolveTasks(job);
  const identity = await identityOf(job, group);
  const ranker = new Ranker(model, { ...job.batches, group });
  const results: TemplateResult[] = [], bad: string[] = [];
  const names = leads ? await namesOf(out, tasks) : [];
  let host = 0, total = 0, number = 0;
  try {
    for (const task of tasks) {
      const { rows, unreadable } = await group.patiently(
        `reading ${task.column}`,
        () => rowsOf(job, task, bad),
      );
      for (const template of task.templates) {
        group.alive(`${task.column}, template '${template.name}'`);
        const name = names[number++], settings = settingsOf(job, task, template, rows, identity);
        const earlier = leads ? await finished(out, name, { settings }) : undefined;
        const stop = job.interrupted?.aborted ?? false;
        const [stopped, done] = await sums(group, [Number(stop), earlier ? 1 : 0]);
        if (stopped > 0) return await finish();
        if (done > 0) {
          if (earlier) keep(earlier, task, "  (done before)");
          continue;
        }
        const begun = performance.now();
        const questions = askAll(job, ranker, task, template, rows, bad);
        if (unreadable > 0) questions.skipped["unreadable"] = unreadable;
        host += performance.now() - begun;
        const busy = ranker.statistics.hostMilliseconds;
        const scores = await ranker.scores(questions.requests);
        host += ranker.statistics.hostMilliseconds - busy;
        total += performance.now() - begun;
        if (!leads) continue;
        const result = resultOf(job, task, template, questions, scores, settings);
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
    const [column, template] = [task.column, result.template_name].map(printable);
    output.write(`${column}  ${percent(result)}  ${template}${note}\n`);
  }

  async function finish(): Promise<Evaluation> {
    const { statistics } = ranker;
    const own = [statistics.programs, statistics.tokens, statistics.paddedTokens, host, total];
    const [programs, tokens, paddedTokens, busy, all] = await sums(group, own);
    const paddingOverhead = paddedTokens / tokens - 1, hostShare = busy / all;
    return { results, missing, programs, paddingOverhead, hostShare, bad };
  }
}

/** The names of result files, template by template. */
function namesOf(out: string, tasks: readonly EvaluationTask[]): Promise<string[]> {
  return resultNames(
    out,
    tasks.flatMap((task) =>
      task.templates.map(({ name }) => ({ dataset: nameOf(task), template: name }))
    ),
  );
}

/** Sums over the ranks. */
async function sums(group: Communicator, own: readonly number[]): Promise<Float64Array> {
  const values = Float64Array.from(own);
  await group.allReduce(values);
  return values;
}

/** Examples of one template, ready to score. */
interface Questions {
  requests: RankRequest[];
  /** For each row, the place of its request; −1 for a skipped one. */
  places: number[];
  /** Place of the right choice, per request. */
  gold: number[];
  skipped: Record<string, number>;
}

/** What a template asks of all rows of a task. */
function askAll(
  job: EvaluateJob,
  ranker: Ranker,
  task: EvaluationTask,
  template: Template,
  rows: readonly NumberedRow[],
  bad: string[],
): Questions {
  const questions: Questions = { requests: [], places: [], gold: [], skipped: {} };
  for (const { row, number } of rows) {
    const place = { dataset: task.dataset, split: task.split, row: number };
    try {
      const { prompt, choices, gold } = questionOf(template, row, place, job.seed ?? SEED);
      questions.requests.push(ranker.request(prompt, choices));
      questions.gold.push(gold);
      questions.places.push(questions.requests.length - 1);
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
      questions.skipped[reason] = (questions.skipped[reason] ?? 0) + 1;
      questions.places.push(-1);
    }
  }
  return questions;
}

/** What a result depends on, as one short text. */
function settingsOf(
  job: EvaluateJob,
  task: EvaluationTask,
  { jinja, answerChoices }: Template,
  rows: readonly NumberedRow[],
  model: string,
): string {
  const { maxSource, maxTarget, inputs } = job.model;
  const parts = [
    model,
    maxSource,
    maxTarget,
    job.seed ?? SEED,
    job.skipBad ?? false,
    task.split,
    jinja,
    answerChoices,
    ...(inputs && !(inputs.endToken && inputs.singleSpaces) ? [inputs] : []),
  ];
  const digest = createHash("sha256").update(JSON.stringify(parts));
  for (const { row } of rows) digest.update(rowText(row));
  return digest.digest("hex").slice(0, 16);
}

/**
 * Identifies a model by the very numbers that it computes with, its config and its tokenizer: wherever its
 * files lie, and whatever has been saved there since.
 *
 * @throws {UserError} if ranks have read different weights
 */
async function identityOf({ model, run }: EvaluateJob, group: Communicator): Promise<string> {
  const { config, tokenizer, parameters } = model;
  const digest = createHash("sha256").update(JSON.stringify([config, tokenizer.hash]));
  const read = parameters.reader();
  for (const name of parameters.names) {
    group.alive("looking at the weights");
    const values = await read(name);
    digest.update(name).update(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }
  const own = digest.digest("hex");
  const first = await fromFirst(group, "comparing the weights", () => Promise.resolve(own));
  const [others] = await sums(group, [own === first ? 0 : 1]);
  if (others === 0) return own;
  throw new UserError(`${run}: was saved anew while ranks read it; evaluate it again`);
}

function resultOf(
  { model }: EvaluateJob,
  task: EvaluationTask,
  template: Template,
  { places, gold, skipped }: Questions,
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
    input_end_token: model.inputs?.endToken ?? true,
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
