/**
 * Tables of an evaluation: mean and median over templates, and the average over columns.
 *
 * A column of the papers' tables is the plain mean over a dataset's templates, and the last figure the
 * plain mean over columns, in which ANLI's three rounds count as three (t-zero's `run_all_multi.py`; it
 * reproduces Table 2 of the METRO paper). The papers' figures show the median over templates, so both
 * are here.
 *
 * @module
 */
import { type ColumnTable, from, not, op, table } from "arquero";
import { UserError } from "../../ops/graph/errors.ts";
import { counted, percentText, wholeText } from "../command/number_text.ts";
import { aligned } from "../command/table.ts";
import { T0_EVAL } from "../prompts/t0.ts";
import type { TemplateResult } from "./results.ts";

/** All that {@link summarize} makes of the results of a run. */
export interface Summary {
  /** The columns, in order. */
  columns: {
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
  }[];
  /** Their templates, in the same order. */
  templates: {
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
  }[];
  /** The columns' average. */
  average: {
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
  };
  /** What a reader must know beside the figures, a sentence each. */
  notes: string[];
}

/** A column in figures. */
export type ColumnSummary = Summary["columns"][number];
type AverageSummary = Summary["average"];
type TemplateSummary = Summary["templates"][number];

const T0_COLUMNS: readonly string[] = T0_EVAL.map(({ column }) => column);
export const AVERAGE = "average";
const CSV_FIELDS = [
  ...["column", "task", "templates", "mean", "median", "min", "max", "chance"],
  ...["examples", "skipped", "trained"],
];

/**
 * Means and medians over templates by column, and their averages over columns.
 *
 * @param columns the columns that the average should be of, in order. If not given: the eleven of T0
 * Eval if all results are among them; else all that there are, those of T0 Eval first
 * @throws {UserError} there is nothing to summarize, or a template has two results
 *
 * @example
 * ```ts
 * import { summarize, type TemplateResult } from "@metro/t0/tasks";
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
export function columnsOf(results: readonly TemplateResult[]): string[] {
  const there = [...new Set(results.map(({ column }) => column))];
  const others = there.filter((column) => !T0_COLUMNS.includes(column));
  if (others.length === 0) return [...T0_COLUMNS];
  return [...T0_COLUMNS.filter((column) => there.includes(column)), ...others];
}

export function averageLabel(present: readonly string[], missing: readonly string[]): string {
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
export function refuseTwins(results: readonly TemplateResult[]): void {
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
 * import { summarize, summaryCsv } from "./summary.ts";
 * import { type TemplateResult } from "./results.ts";
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
 * The summary as lines for the terminal, in percent.
 *
 * @example
 * ```ts
 * import { summarize, summaryLines } from "./summary.ts";
 * import { type TemplateResult } from "./results.ts";
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

export function remarks({ average, notes }: Summary): string[] {
  return [`${AVERAGE}: ${average.label}; below median, the average of the medians.`, ...notes];
}

/**
 * An accuracy in percent, with the papers' two decimals; empty if there is none, a dash if it is one of
 * nothing.
 *
 * @example
 * ```ts
 * import { percent } from "./summary.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(percent(0.698), "69.80");
 * ```
 */
export function percent(share: number | undefined): string {
  return share === undefined ? "" : percentText(share, 2, "");
}

export function signed(share: number): string {
  const text = percent(share);
  return Number(text) === 0 ? "0.00" : share > 0 ? `+${text}` : text;
}

export function count(n: number | undefined): string {
  return n === undefined ? "" : wholeText(n);
}

/** Names in a note; of many the first few. */
export function list(names: readonly string[], most = 5): string {
  const more = names.length > most ? ` and ${names.length - most} more` : "";
  return names.slice(0, most).map((name) => `'${name}'`).join(", ") + more;
}

export function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

export function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}
