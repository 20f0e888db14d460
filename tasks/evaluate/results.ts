/**
 * What an evaluation finds: a JSON file per (dataset, template), tables of them, and how far apart two
 * runs are.
 *
 * A column of the papers' tables is the plain mean over a dataset's templates, and the last figure the
 * plain mean over columns, in which ANLI's three rounds count as three (t-zero's `run_all_multi.py`; it
 * reproduces Table 2 of the METRO paper). The papers' figures show the median over templates, so both
 * are here.
 *
 * @module
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { type ColumnTable, from, not, op, table } from "arquero";
import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { writeFile } from "../files/write.ts";
import { counted, percentText, wholeText } from "../command/number_text.ts";
import { aligned } from "../command/table.ts";
import { T0_EVAL } from "../prompts/t0.ts";

/** What an evaluation did. */
export interface Evaluation {
  /** Results of all tasks that were asked for, finished earlier or now; on rank 0 only. */
  results: TemplateResult[];
  /** Tasks that were left out. */
  missing: string[];
  /** Programs compiled, by all ranks together. */
  programs: number;
  /** Padded over real tokens, minus 1; NaN if nothing was run. */
  paddingOverhead: number;
  /** Share of the time that threads were busy while it could have been the devices'; NaN likewise. */
  hostShare: number;
  /** The first few unusable rows, in words. */
  bad: string[];
}

/** The result of one template on one dataset: a file. */
export interface TemplateResult {
  /** The dataset, as the Hub calls it. */
  dataset_name: string;
  /** Its config; null if it has none. */
  dataset_config_name: string | null;
  /** The template, as promptsource calls it. */
  template_name: string;
  /** What was found. */
  evaluation: {
    /** Share of the examples that were answered rightly. */
    accuracy: number;
  };
  /** The model. */
  model_name_or_path: string;
  /** The split that was judged. */
  split: string;
  /** The column of the table that it belongs to. */
  column: string;
  /** The family of tasks. */
  task: string;
  /** How many examples were judged. */
  examples: number;
  /** A sign per row, in order: `1` right, `0` wrong, `-` skipped. */
  correct: string;
  /** How many rows were skipped, by reason. */
  skipped: Record<string, number>;
  /** Which templates these are. */
  templates_version?: string;
  /** Answers to choose from, on average: guessing is right once in so many times. */
  choices?: number;
  /** Whether the model has learned from this dataset, so that this is not zero-shot. */
  trained?: boolean;
  /** What the result depends on, as one short text; with another one it must be run again. */
  settings?: string;
}

/** A table's column in figures: shares, not percent. */
export interface ColumnSummary {
  /** Its name. */
  column: string;
  /** The family of tasks. */
  task: string;
  /** How many templates. */
  templates: number;
  /** Mean accuracy over templates. */
  mean: number;
  /** Median accuracy over templates. */
  median: number;
  /** The worst template's accuracy. */
  min: number;
  /** The best template's accuracy. */
  max: number;
  /** What guessing gives, if the number of choices is known. */
  chance?: number;
  /** Examples that were judged, by the template that skipped fewest. */
  examples: number;
  /** Pairs of row and template that were skipped. */
  skipped: number;
  /** Whether the model has learned from this dataset. */
  trained: boolean;
}

/** The average over columns. */
export interface AverageSummary {
  /** What it is an average of, in words. */
  label: string;
  /** Plain mean of the columns' means: the papers' AVG. */
  mean: number;
  /** Plain mean of the columns' medians. */
  median: number;
  /** What guessing gives, if it is known of every column. */
  chance?: number;
  /** Columns that should be in it, but have no results. */
  missing: string[];
}

/** All that {@link summarize} makes of the results of a run. */
export interface Summary {
  /** The columns, in order. */
  columns: ColumnSummary[];
  /** Their templates, in the same order. */
  templates: TemplateSummary[];
  /** The columns' average. */
  average: AverageSummary;
  /** What a reader must know beside the figures, a sentence each. */
  notes: string[];
}

/** One template's part in a {@link Summary}. */
export interface TemplateSummary {
  /** The column that it belongs to. */
  column: string;
  /** The family of tasks. */
  task: string;
  /** Its name. */
  template: string;
  /** Its accuracy, as a share. */
  accuracy: number;
  /** How many examples were judged. */
  examples: number;
  /** How many rows were skipped. */
  skipped: number;
  /** What guessing gives, if the number of choices is known. */
  chance?: number;
  /** Whether the model has learned from this dataset. */
  trained: boolean;
}

/** Results under the name that they go by in a comparison. */
export interface NamedResults {
  /** The run's name. */
  name: string;
  /** Its results. */
  results: readonly TemplateResult[];
}

/** How runs are compared. */
export interface CompareOptions {
  /** Names of the columns, in order; see {@link summarize}. */
  columns?: readonly string[];
  /** How many times the examples are drawn anew; 2,000 if not given. */
  resamples?: number;
  /** Of the drawing; 1 if not given. */
  seed?: number;
}

/** A difference to the first run, with the interval that holds it in 95 of 100 such samples. */
export interface Difference {
  /** The difference as it was measured. */
  value: number;
  /** Lower end of the interval. */
  low: number;
  /** Upper end of the interval. */
  high: number;
}

/** Runs side by side in one column, or in the average over columns. */
export interface ComparedColumn {
  /** The column; `average` for the average. */
  column: string;
  /** Templates that all runs share. */
  templates: number;
  /** Examples that all runs share. */
  examples: number;
  /** Mean accuracy over templates, by run. */
  means: number[];
  /** What every run but the first differs by from the first. */
  differences: Difference[];
}

/** Runs side by side. */
export interface Comparison {
  /** The runs' names; the first is what the others are compared to. */
  runs: string[];
  /** Columns that all runs share, in order. */
  columns: ComparedColumn[];
  /** Their average. */
  average: ComparedColumn;
  /** What the average is an average of, in words. */
  label: string;
  /** How the intervals were made, and what was left out, a sentence each. */
  notes: string[];
}

const T0_COLUMNS: readonly string[] = T0_EVAL.map(({ column }) => column);
const AVERAGE = "average";
const CSV_FIELDS = [
  ...["column", "task", "templates", "mean", "median", "min", "max", "chance"],
  ...["examples", "skipped", "trained"],
];

// --- files ---

/**
 * Writes a result as `FOLDER/TASK.json`, whole or not at all.
 *
 * @param folder an existing folder
 * @param taskName names the dataset and the template: the file's name without `.json`
 * @throws {UserError} the disk is full or the folder cannot be written to
 *
 * @example
 * ```ts
 * import { finished, readResults, type TemplateResult, writeResult } from "./results.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "super_glue", dataset_config_name: "copa", template_name: "exercise",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "validation",
 *   column: "COPA", task: "QA_multiple_choice", examples: 2, correct: "10", skipped: {},
 * };
 * const folder = await mkdtemp(tmpdir() + "/eval-");
 * await writeResult(folder, "super_glue_copa_exercise", result);
 * assert.deepEqual(await readResults(folder), [result]);
 * const same = { split: "validation", examples: 2 };
 * assert.deepEqual(await finished(folder, "super_glue_copa_exercise", same), result);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function writeResult(
  folder: string,
  taskName: string,
  result: TemplateResult,
): Promise<void> {
  await writeFile(fileOf(folder, taskName), JSON.stringify(result, null, 4) + "\n");
}

/**
 * Reads the result of one task.
 *
 * @returns undefined if there is none
 * @throws {UserError} the file is no result
 */
export async function readResult(
  folder: string,
  taskName: string,
): Promise<TemplateResult | undefined> {
  const path = fileOf(folder, taskName);
  const text = await readFile(path, "utf8").catch((error) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  return text === undefined ? undefined : parseResult(text, path);
}

/**
 * The result of a task, if it has been run already as it would be now.
 *
 * @param identity the fields that must be equal, such as `settings`, or `split` and `examples`
 * @returns undefined if it is to be run
 * @throws {UserError} the file is no result
 */
export async function finished(
  folder: string,
  taskName: string,
  identity: Partial<TemplateResult>,
): Promise<TemplateResult | undefined> {
  const result = await readResult(folder, taskName);
  const text = (fields: Partial<TemplateResult> | undefined, name: string) =>
    JSON.stringify(fields?.[name as keyof TemplateResult]);
  const same = Object.keys(identity).every((name) => text(result, name) === text(identity, name));
  return same ? result : undefined;
}

/**
 * Reads all results of a folder: its `.json` files, in the order of their names.
 *
 * @throws {UserError} there is no such folder, it holds none, or one of them is no result
 *
 * @example
 * ```ts
 * import { readResults } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * await assert.rejects(readResults("no-such-folder"), /no-such-folder: no such folder/);
 * ```
 */
export async function readResults(folder: string): Promise<TemplateResult[]> {
  const names = await readdir(folder).catch((error) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    throw new UserError(`${folder}: no such folder; expected one with results of an evaluation`);
  });
  const paths = names.filter((name) => name.endsWith(".json")).sort().map((n) => join(folder, n));
  if (paths.length === 0) throw new UserError(`${folder}: holds no results (*.json)`);
  const results: TemplateResult[] = [];
  for (const path of paths) results.push(parseResult(await readFile(path, "utf8"), path));
  return results;
}

function fileOf(folder: string, taskName: string): string {
  return join(folder, `${taskName}.json`);
}

const isText = (value: unknown) => typeof value === "string";
const isCount = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0;
const isObject = (value: unknown) => typeof value === "object" && value !== null;

/** What must be in a file: how each key is called in a message, and whether its value fits. */
const EXPECTED: Readonly<Record<string, [what: string, fits: (value: unknown) => boolean]>> = {
  dataset_name: ["a text", isText],
  dataset_config_name: ["a text or null", (value) => value === null || isText(value)],
  template_name: ["a text", isText],
  evaluation: ["an accuracy from 0 to 1", (value) => {
    const accuracy = (value as TemplateResult["evaluation"] | null)?.accuracy;
    return typeof accuracy === "number" && accuracy >= 0 && accuracy <= 1;
  }],
  model_name_or_path: ["a text", isText],
  split: ["a text", isText],
  column: ["a text", isText],
  task: ["a text", isText],
  examples: ["a count", isCount],
  correct: ["signs 0, 1 and -", (value) => isText(value) && /^[01-]*$/.test(String(value))],
  skipped: ["counts by reason", (value) => isObject(value) && Object.values(value!).every(isCount)],
};

function parseResult(text: string, path: string): TemplateResult {
  const advice = "it is no result of an evaluation, or damaged; delete it, and run again";
  let result: TemplateResult;
  try {
    result = JSON.parse(text);
  } catch {
    throw new UserError(`${path}: expected JSON, got '${text.slice(0, 60)}': ${advice}`);
  }
  for (const [name, [what, fits]] of Object.entries(EXPECTED)) {
    const value: unknown = result?.[name as keyof TemplateResult];
    if (fits(value)) continue;
    const got = value === undefined ? "nothing" : JSON.stringify(value).slice(0, 60);
    throw new UserError(`${path}: ${name}: expected ${what}, got ${got}: ${advice}`);
  }
  const judged = result.correct.replaceAll("-", "").length;
  if (judged !== result.examples) {
    throw new UserError(
      `${path}: examples: expected ${judged}, the signs 0 and 1 in correct, got ` +
        `${result.examples}: ${advice}`,
    );
  }
  return result;
}

// --- summary ---

/**
 * Means and medians over templates by column, and their averages over columns.
 *
 * @param columns the columns that the average should be of, in order. If not given: the eleven of T0
 * Eval if all results are among them; else all that there are, those of T0 Eval first
 * @throws {UserError} there is nothing to summarize, or a template has two results
 *
 * @example
 * ```ts
 * import { summarize, type TemplateResult } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const result = (template_name: string, correct: string, accuracy: number): TemplateResult => ({
 *   dataset_name: "trec", dataset_config_name: null, template_name, evaluation: { accuracy },
 *   model_name_or_path: "runs/a", split: "test", column: "trec", task: "topic",
 *   examples: 4, correct, skipped: {},
 * });
 * const { columns, average } = summarize([
 *   result("a", "1000", 0.25), result("b", "1100", 0.5), result("c", "1111", 1),
 * ]);
 * assert.equal(columns[0].median, 0.5);
 * assert.equal(average.mean, 1.75 / 3);
 * assert.equal(average.label, "average of 1 column");
 * ```
 */
export function summarize(
  results: readonly TemplateResult[],
  columns: readonly string[] = columnsOf(results),
): Summary {
  if (results.length === 0) throw new UserError("there are no results to summarize");
  refuseTwins(results);
  const judged = results.filter(({ examples }) => examples > 0);
  if (judged.length === 0) throw new UserError("no result has an example that could be judged");
  const templates = from(judged.map((result) => ({
    column: result.column,
    task: result.task,
    template: result.template_name,
    accuracy: result.evaluation.accuracy,
    examples: result.examples,
    skipped: sum(Object.values(result.skipped)),
    chance: result.choices ? 1 / result.choices : undefined,
    trained: result.trained === true,
  })));
  const wanted = [...new Set(columns)];
  const order = table({ column: wanted, place: wanted.map((_, place) => place) });
  const figures = templates.groupby("column").rollup({
    task: op.any("task"),
    templates: op.count(),
    mean: op.mean("accuracy"),
    median: op.median("accuracy"),
    min: op.min("accuracy"),
    max: op.max("accuracy"),
    chance: op.mean("chance"),
    examples: op.max("examples"),
    skipped: op.sum("skipped"),
    trained: op.max("trained"),
  });
  const inOrder = (rows: ColumnTable) =>
    order.join(rows, "column").orderby("place").select(not("place")).objects();
  const summaries = inOrder(figures) as ColumnSummary[];
  if (summaries.length === 0) {
    const there = [...new Set(judged.map(({ column }) => column))];
    throw new UserError(`expected results of ${columns.join(", ")}, got ${there.join(", ")}`);
  }
  const missing = order.antijoin(figures, "column").array("column") as string[];
  const chances = summaries.map(({ chance }) => chance ?? NaN);
  return {
    columns: summaries,
    templates: inOrder(templates) as TemplateSummary[],
    average: {
      label: averageLabel(summaries.map(({ column }) => column), missing),
      mean: mean(summaries.map(({ mean }) => mean)),
      median: mean(summaries.map(({ median }) => median)),
      ...(chances.some(isNaN) ? {} : { chance: mean(chances) }),
      missing,
    },
    notes: notesOf(results, wanted),
  };
}

/** What a table holds: T0's columns in the papers' order, then others as they come. */
function columnsOf(results: readonly TemplateResult[]): string[] {
  const there = [...new Set(results.map(({ column }) => column))];
  const others = there.filter((column) => !T0_COLUMNS.includes(column));
  if (others.length === 0) return [...T0_COLUMNS];
  return [...T0_COLUMNS.filter((column) => there.includes(column)), ...others];
}

function averageLabel(present: readonly string[], missing: readonly string[]): string {
  const total = present.length + missing.length;
  if (missing.length > 0) {
    return `average of ${present.length} of ${total} columns (missing: ${missing.join(", ")})`;
  }
  if (present.join() === T0_COLUMNS.join()) {
    return `${total}-column average (ANLI three times)`;
  }
  return `average of ${counted(total, "column")}`;
}

/** Two results of one template would count twice, and there is no telling which is meant. */
function refuseTwins(results: readonly TemplateResult[]): void {
  const seen = new Set<string>();
  for (const { column, template_name } of results) {
    const name = JSON.stringify([column, template_name]);
    if (seen.has(name)) {
      throw new UserError(
        `${column}, template '${template_name}': there are two results; ` +
          `keep those of different splits or versions in folders of their own`,
      );
    }
    seen.add(name);
  }
}

function notesOf(results: readonly TemplateResult[], columns: readonly string[]): string[] {
  const members = columns.map((name) => results.filter(({ column }) => column === name));
  const trained = columns.filter((_, i) => members[i].some(({ trained }) => trained));
  const notes = members.flatMap((results, i) => notesOfColumn(columns[i], results));
  if (trained.length === 0) return notes;
  return [`* The model has learned from ${trained.join(", ")}: not zero-shot.`, ...notes];
}

function notesOfColumn(column: string, results: readonly TemplateResult[]): string[] {
  const [judged, empty] = [true, false].map((wanted) =>
    results.filter(({ examples }) => examples > 0 === wanted)
  );
  const reasons = new Map<string, number>();
  for (const [reason, n] of judged.flatMap(({ skipped }) => Object.entries(skipped))) {
    if (n > 0) reasons.set(reason, (reasons.get(reason) ?? 0) + n);
  }
  const notes: string[] = [];
  if (reasons.size > 0) {
    const each = [...reasons].map(([reason, n]) => `${n} ${reason}`).join(", ");
    const pairs = sum(judged.map(({ correct }) => correct.length));
    notes.push(
      `${column}: ${sum([...reasons.values()])} of ${count(pairs)} pairs of row and template ` +
        `skipped (${each}).`,
    );
  }
  if (empty.length > 0) {
    const names = list(empty.map(({ template_name }) => template_name));
    notes.push(`${column}: not counted, all rows skipped: ${names}.`);
  }
  return notes;
}

/**
 * The summary as CSV: a line per column, then the average. Accuracies are shares, in full.
 *
 * @example
 * ```ts
 * import { summarize, summaryCsv, type TemplateResult } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "test",
 *   column: "trec", task: "topic", examples: 2, correct: "10", skipped: {}, choices: 6,
 * };
 * assert.match(summaryCsv(summarize([result])), /^trec,topic,1,0.5,0.5,0.5,0.5,0.1666/m);
 * ```
 */
export function summaryCsv({ columns, average }: Summary): string {
  const { mean, median, chance } = average;
  const last = { column: AVERAGE, task: average.label, mean, median, chance, ...totals(columns) };
  return from([...columns, last]).toCSV({ columns: CSV_FIELDS });
}

/**
 * The summary as a table in Markdown, in percent, with a comparison below it if there is one.
 */
export function summaryMarkdown(summary: Summary, comparison?: Comparison): string {
  const parts = [markdown(summaryCells(summary)), ...remarks(summary).map(safe)];
  if (comparison) {
    parts.push(markdown(comparisonCells(comparison)), ...comparisonRemarks(comparison).map(safe));
  }
  return parts.join("\n\n") + "\n";
}

/**
 * The summary as lines for the terminal, in percent.
 *
 * @example
 * ```ts
 * import { summarize, summaryLines, type TemplateResult } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "test",
 *   column: "trec", task: "topic", examples: 2, correct: "10", skipped: {},
 * };
 * assert.match(summaryLines(summarize([result]))[1], /^trec +1 +50\.00 +50\.00/);
 * ```
 */
export function summaryLines(summary: Summary): string[] {
  return [...aligned(summaryCells(summary), 1), ...remarks(summary)];
}

/**
 * A table's cells as they are printed, in percent: the heading, a row per column, the average. Columns
 * that say nothing (no skips, chance unknown) are left out.
 */
export function summaryCells({ columns, average }: Summary): string[][] {
  const total = totals(columns);
  const chance = columns.some(({ chance }) => chance !== undefined);
  const skipped = total.skipped > 0;
  const row = (name: string, figures: Partial<ColumnSummary>) => [
    name,
    count(figures.templates),
    percent(figures.mean),
    percent(figures.median),
    percent(figures.min),
    percent(figures.max),
    ...(chance ? [percent(figures.chance)] : []),
    count(figures.examples),
    ...(skipped ? [count(figures.skipped)] : []),
  ];
  return [
    [
      ...["column", "templates", "mean", "median", "min", "max"],
      ...(chance ? ["chance"] : []),
      "examples",
      ...(skipped ? ["skipped"] : []),
    ],
    ...columns.map((figures) => row(figures.column + (figures.trained ? "*" : ""), figures)),
    row(AVERAGE, { ...total, ...average } as Partial<ColumnSummary>),
  ];
}

function totals(columns: readonly ColumnSummary[]) {
  return {
    templates: sum(columns.map(({ templates }) => templates)),
    examples: sum(columns.map(({ examples }) => examples)),
    skipped: sum(columns.map(({ skipped }) => skipped)),
  };
}

function remarks({ average, notes }: Summary): string[] {
  return [`${AVERAGE}: ${average.label}; below median, the average of the medians.`, ...notes];
}

// --- comparison ---

/**
 * Puts runs side by side, and says how sure their differences are: a paired bootstrap over examples.
 *
 * The difference in a column is the mean over templates of the difference in accuracy. Each resample
 * draws as many of the column's examples, with replacement, the same for all templates and runs; the
 * average's draws within each column. Templates are not drawn: the intervals say how the figure would
 * vary with other examples, under these prompts. What not all runs have is left out, and noted.
 *
 * @param runs two or more; the first is what the others are compared to
 * @throws {UserError} fewer than two runs, two of one name, or nothing that all of them share
 *
 * @example
 * ```ts
 * import { compareRuns, type TemplateResult } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const run = (name: string, correct: string) => {
 *   const accuracy = correct.split("1").length / 4 - 1 / 4;
 *   const result: TemplateResult = {
 *     dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *     evaluation: { accuracy }, model_name_or_path: name, split: "test",
 *     column: "trec", task: "topic", examples: 4, correct, skipped: {},
 *   };
 *   return { name, results: [result] };
 * };
 * const { columns } = compareRuns([run("runs/a", "0101"), run("runs/b", "1101")]);
 * const { value, low, high } = columns[0].differences[0];
 * assert.equal(value, 0.25);
 * assert.ok(low <= 0.25 && 0.25 <= high);
 * ```
 */
export function compareRuns(
  runs: readonly NamedResults[],
  { columns: wanted, resamples = 2000, seed = 1 }: CompareOptions = {},
): Comparison {
  const names = runs.map(({ name }) => name);
  if (runs.length < 2) throw new UserError("expected two or more runs to compare");
  if (new Set(names).size < names.length) {
    throw new UserError(`runs to compare: expected different names, got ${names.join(", ")}`);
  }
  for (const { results } of runs) refuseTwins(results);
  const order = wanted ?? columnsOf(runs.flatMap(({ results }) => results));
  const { paired, notes } = pair(runs, order);
  const samples = order.flatMap((column) => {
    const members = paired.get(column);
    return members ? [sampleOf(column, members)] : [];
  });
  if (samples.length === 0) {
    throw new UserError(
      `${names.join(", ")}: no template was evaluated on the same rows in all of them`,
    );
  }
  const averages = runs.slice(1).map(() => new Float64Array(resamples));
  const compared = samples.map((sample) => {
    const drawn = bootstrap(sample, resamples, seed);
    drawn.forEach((values, k) => {
      for (let r = 0; r < resamples; r++) averages[k][r] += values[r] / samples.length;
    });
    const { column, templates, examples, means } = sample;
    return { column, templates, examples, means, differences: differences(means, drawn) };
  });
  const means = runs.map((_, run) => mean(compared.map(({ means }) => means[run])));
  const shared = compared.map(({ column }) => column);
  return {
    runs: names,
    columns: compared,
    average: {
      column: AVERAGE,
      templates: sum(compared.map(({ templates }) => templates)),
      examples: sum(compared.map(({ examples }) => examples)),
      means,
      differences: differences(means, averages),
    },
    label: averageLabel(shared, order.filter((column) => !shared.includes(column))),
    notes: [
      `95% intervals: paired bootstrap over examples, ${count(resamples)} resamples, seed ${seed}.`,
      ...notes,
    ],
  };
}

/** One template's signs, by run. */
interface Pairing {
  template: string;
  correct: readonly string[];
}

/** A row of the table of what all runs have. */
interface Shared {
  column: string;
  template: string;
  runs: number;
  kinds: number;
  correct: string[];
}

/** The templates that all runs have of the same rows, by column, and what is left out. */
function pair(
  runs: readonly NamedResults[],
  columns: readonly string[],
): { paired: Map<string, Pairing[]>; notes: string[] } {
  const rows = runs.flatMap(({ results }) =>
    results.map(({ column, template_name, split, correct }) => ({
      column,
      template: template_name,
      rows: `${split} ${correct.length}`,
      correct,
    }))
  );
  const asked = rows.filter(({ column }) => columns.includes(column));
  if (asked.length === 0) throw new UserError("there are no results to compare");
  const shared = from(asked).groupby("column", "template").rollup({
    runs: op.count(),
    kinds: op.distinct("rows"),
    correct: op.array_agg("correct"), // in the order of the runs
  }).objects() as Shared[];

  const paired = new Map<string, Pairing[]>(), notes: string[] = [];
  for (const [column, members] of Map.groupBy(shared, ({ column }) => column)) {
    const groups = Map.groupBy(members, (member) => verdict(member, members, runs.length));
    const kept = groups.get("shared");
    if (kept) paired.set(column, kept);
    groups.delete("shared");
    for (const [why, left] of groups) {
      const which = kept ? list(left.map(({ template }) => template)) : "all templates";
      notes.push(`${column}: left out, ${why}: ${which}.`);
    }
  }
  return { paired, notes };
}

/** Whether a template can be compared: `shared`, or why not. */
function verdict(
  { runs, kinds, correct }: Shared,
  members: readonly Shared[],
  wanted: number,
): string {
  if (runs < wanted) return "not in all runs";
  if (kinds > 1) return "other rows in other runs";
  // A column's examples are drawn together, so its templates must have been asked about the same.
  const rows = Math.max(
    ...members.filter((m) => m.runs === wanted && m.kinds === 1)
      .map((m) => m.correct[0].length),
  );
  if (correct[0].length < rows) return "fewer rows than other templates";
  const some = (i: number) => correct.every((signs) => signs[i] !== "-");
  return Array.from(correct[0], (_, i) => i).some(some)
    ? "shared"
    : "no example that all runs judged";
}

/** Templates that were judged on the same examples, summed. */
interface Group {
  /** How many templates. */
  templates: number;
  /** 1 for each example that all runs judged. */
  judged: Uint8Array;
  /** For each run but the first, by example: in how many more templates it is right. */
  gains: Int32Array[];
}

/** All that the bootstrap needs of a column. */
interface Sample {
  column: string;
  templates: number;
  examples: number;
  means: number[];
  groups: Group[];
}

function sampleOf(column: string, members: readonly Pairing[]): Sample {
  const rows = members[0].correct[0].length, runs = members[0].correct.length;
  const masks = members.map(({ correct }) =>
    Array.from(
      { length: rows },
      (_, i) => correct.some((signs) => signs[i] === "-") ? "-" : "1",
    ).join("")
  );
  // Only examples that count somewhere are drawn: every resample then has a value.
  const drawn = Array.from({ length: rows }, (_, i) => i)
    .filter((i) => masks.some((mask) => mask[i] === "1"));
  const groups = [...Map.groupBy(members.keys(), (t) => masks[t])].map(([mask, places]) => ({
    templates: places.length,
    judged: Uint8Array.from(drawn, (i) => mask[i] === "1" ? 1 : 0),
    gains: Array.from(
      { length: runs - 1 },
      (_, k) =>
        Int32Array.from(drawn, (i) =>
          mask[i] === "-" ? 0 : sum(places.map((t) => {
            const { correct } = members[t];
            return Number(correct[k + 1][i]) - Number(correct[0][i]);
          }))),
    ),
  }));
  const means = Array.from({ length: runs }, (_, run) =>
    mean(members.map(({ correct }, t) => {
      const signs = Array.from(correct[run]).filter((_, i) => masks[t][i] === "1");
      return mean(signs.map(Number));
    })));
  return { column, templates: members.length, examples: drawn.length, means, groups };
}

/** The difference of every run but the first, in every resample. */
function bootstrap(
  { column, examples, groups }: Sample,
  resamples: number,
  seed: number,
): Float64Array[] {
  // A stream by name: a column's interval does not depend on what other columns there are.
  const random = new Random(key(seed, ...Array.from(column, (sign) => sign.codePointAt(0)!)));
  const picks = new Int32Array(examples);
  const values = groups[0].gains.map(() => new Float64Array(resamples));
  for (let r = 0; r < resamples; r++) {
    for (let i = 0; i < examples; i++) picks[i] = random.below(examples);
    let templates = 0;
    for (const group of groups) {
      const judged = sumAt(group.judged, picks);
      if (judged === 0) continue; // these templates have no value in this resample
      templates += group.templates;
      for (let k = 0; k < values.length; k++) values[k][r] += sumAt(group.gains[k], picks) / judged;
    }
    for (const each of values) each[r] /= templates;
  }
  return values;
}

function sumAt(values: Uint8Array | Int32Array, picks: Int32Array): number {
  let total = 0;
  for (let i = 0; i < picks.length; i++) total += values[picks[i]];
  return total;
}

function differences(means: readonly number[], drawn: readonly Float64Array[]): Difference[] {
  return drawn.map((values, k) => {
    const sorted = values.toSorted();
    return {
      value: means[k + 1] - means[0],
      low: quantile(sorted, 0.025),
      high: quantile(sorted, 0.975),
    };
  });
}

function quantile(sorted: Float64Array, share: number): number {
  const at = share * (sorted.length - 1), below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

/**
 * A comparison as lines for the terminal, in percent points.
 *
 * @example
 * ```ts
 * import { comparisonLines } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const differences = [{ value: 0.021, low: -0.004, high: 0.046 }];
 * const average = { column: "average", templates: 1, examples: 9, means: [0.5, 0.521], differences };
 * const lines = comparisonLines({
 *   runs: ["a", "b"], columns: [], average, label: "average of 1 column", notes: [],
 * });
 * assert.match(lines[1], /50\.00 +52\.10 +\+2\.10 +\[-0\.40, \+4\.60\]/);
 * ```
 */
export function comparisonLines(comparison: Comparison): string[] {
  return [...aligned(comparisonCells(comparison), 1), ...comparisonRemarks(comparison)];
}

/**
 * A comparison's cells as they are printed, in percent: the heading, a row per column, the average.
 */
export function comparisonCells({ runs, columns, average }: Comparison): string[][] {
  return [
    [
      ...["column", "templates", runs[0]],
      ...runs.slice(1).flatMap((run) => [run, "difference", "95% interval"]),
    ],
    ...[...columns, average].map(({ column, templates, means, differences }) => [
      column,
      count(templates),
      percent(means[0]),
      ...differences.flatMap(({ value, low, high }, k) => [
        percent(means[k + 1]),
        signed(value),
        `[${signed(low)}, ${signed(high)}]`,
      ]),
    ]),
  ];
}

function comparisonRemarks({ label, notes }: Comparison): string[] {
  return [`${AVERAGE}: ${label}.`, ...notes];
}

// --- text ---

function markdown([heading, ...rows]: readonly string[][]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  const body = rows.map((row) => row.map(safe));
  const last = body.pop()!;
  return [
    line(heading.map(safe)),
    line(heading.map((_, i) => i === 0 ? ":--" : "--:")),
    ...body.map(line),
    line([`**${last[0]}**`, ...last.slice(1)]),
  ].join("\n");
}

/** Text that Markdown leaves as it is. */
function safe(text: string): string {
  return text.replace(/[|*_<]/g, "\\$&");
}

/**
 * An accuracy in percent, with the papers' two decimals; empty if there is none, a dash if it is one of
 * nothing.
 *
 * @example
 * ```ts
 * import { percent } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(percent(0.698), "69.80");
 * ```
 */
export function percent(share: number | undefined): string {
  return share === undefined ? "" : percentText(share, 2, "");
}

function signed(share: number): string {
  const text = percent(share);
  return Number(text) === 0 ? "0.00" : share > 0 ? `+${text}` : text;
}

function count(n: number | undefined): string {
  return n === undefined ? "" : wholeText(n);
}

/** Names in a note; of many the first few. */
function list(names: readonly string[], most = 5): string {
  const more = names.length > most ? ` and ${names.length - most} more` : "";
  return names.slice(0, most).map((name) => `'${name}'`).join(", ") + more;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}
