/**
 * How far apart runs are: what all of them were judged on, and intervals by the bootstrap.
 *
 * @module
 */
import { from, op } from "arquero";
import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { aligned } from "../command/table.ts";
import type { TemplateResult } from "./results.ts";
import {
  AVERAGE,
  averageLabel,
  columnsOf,
  count,
  list,
  mean,
  percent,
  refuseTwins,
  signed,
  sum,
} from "./summary.ts";

/** Results under the name that they go by in a comparison. */
export interface NamedResults {
  /** The run's name. */
  name: string;
  /** Its results. */
  results: readonly TemplateResult[];
}

/** Runs side by side. */
export interface Comparison {
  /** The runs' names; the first is what the others are compared to. */
  runs: string[];
  /** Columns that all runs share, in order. */
  columns: {
    /** The column; `average` for the average. */
    column: string;
    /** Templates that all runs share. */
    templates: number;
    /** Examples that all runs share. */
    examples: number;
    /** Mean accuracy over templates, by run. */
    means: number[];
    /**
     * What every run but the first differs by from the first, with the interval that holds it in 95 of 100 such
     * samples.
     */
    differences: {
      /** The difference as it was measured. */
      value: number;
      /** Lower end of the interval. */
      low: number;
      /** Upper end of the interval. */
      high: number;
    }[];
  }[];
  /** Their average. */
  average: Comparison["columns"][number];
  /** What the average is an average of, in words. */
  label: string;
  /** How the intervals were made, and what was left out, a sentence each. */
  notes: string[];
}

type ComparedColumn = Comparison["columns"][number];
type Difference = ComparedColumn["differences"][number];

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
 * import { compareRuns, type TemplateResult } from "@metro/t0/tasks";
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
  runs: readonly { name: string; results: readonly TemplateResult[] }[],
  { columns: wanted, resamples = 2000, seed = 1 }: {
    columns?: readonly string[];
    resamples?: number;
    seed?: number;
  } = {},
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
      ...inputNotes(runs),
      ...notes,
    ],
  };
}

/** Says it where runs were asked in different ways: inputs with an end token, and inputs without. */
function inputNotes(runs: readonly NamedResults[]): string[] {
  const names = (ended: boolean) =>
    runs.filter(({ results }) => {
      return results.some(({ input_end_token = true }) => input_end_token === ended);
    }).map(({ name }) => name);
  const ended = names(true), open = names(false);
  if (ended.length === 0 || open.length === 0) return [];
  return [
    `Inputs ended with </s> in ${list(ended)}, and did not in ${
      list(open)
    }: part of the difference ` +
    "may come from that (--input-end-token).",
  ];
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
 * import { comparisonLines } from "./compare.ts";
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

export function comparisonRemarks({ label, notes }: Comparison): string[] {
  return [`${AVERAGE}: ${label}.`, ...notes];
}
