/**
 * What an evaluation leaves behind: `summary.csv`, `summary.md`, `results.html`, and lines to print.
 *
 * @module
 */

import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { exists, writeFile } from "../files/write.ts";
import { counted, percentText } from "../command/number_text.ts";
import {
  compareRuns,
  type Comparison,
  comparisonCells,
  comparisonLines,
  comparisonRemarks,
  type NamedResults,
} from "./compare.ts";
import { type Evaluation, readResults, type TemplateResult } from "./results.ts";
import {
  remarks,
  summarize,
  type Summary,
  summaryCells,
  summaryCsv,
  summaryLines,
} from "./summary.ts";
import { resultsPage } from "./plots.ts";

/** The files that {@link writeEvaluation} writes. */
export const SUMMARIES = ["summary.csv", "summary.md", "results.html"] as const;

/**
 * Writes tables and plots: `summary.csv`, `summary.md` and `results.html`.
 *
 * @param place the evaluated run, the folder of its results, and results of other runs to put beside it
 * @returns lines for the terminal
 * @throws {UserError} if nothing was evaluated, or two of the runs to compare are the same
 *
 * @example
 * ```ts
 * import { type TemplateResult, writeEvaluation } from "@metro/t0/tasks";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "test",
 *   column: "trec", task: "topic", examples: 2, correct: "10", skipped: {},
 * };
 * const none = { missing: [], programs: 0, paddingOverhead: 0, hostShare: 0, bad: [] };
 * const out = await mkdtemp(`${tmpdir()}/eval-`);
 * const lines = await writeEvaluation({ results: [result], ...none }, { run: "runs/a", out });
 * assert.match(lines.join("\n"), /trec +1 +50\.00/);
 * await rm(out, { recursive: true });
 * ```
 */
export async function writeEvaluation(
  { results, missing, programs, paddingOverhead, hostShare, bad }: Evaluation,
  { run, out, compare = [] }: {
    run: string;
    out: string;
    compare?: readonly { name: string; results: readonly TemplateResult[] }[];
  },
): Promise<string[]> {
  if (results.length === 0) throw new UserError("nothing was evaluated");
  const summary = summarize(results);
  // The others come first: the run is compared to them.
  const all = [...compare, { name: run, results }];
  const comparison = compare.length > 0 ? compareRuns(all) : undefined;
  const runs = all.map(({ name, results }) => ({ name, summary: summarize(results) })).reverse();
  const [csv, markdown, page] = SUMMARIES.map((name) => join(out, name));
  await writeFile(csv, summaryCsv(summary));
  await writeFile(markdown, summaryMarkdown(summary, comparison));
  await writeFile(page, await resultsPage({ name: run, runs, comparison }));
  const percent = (share: number) => percentText(share, 1, " %");
  return [
    ...summaryLines(summary),
    ...(comparison ? ["", ...comparisonLines(comparison)] : []),
    ...(missing.length > 0 ? [`left out: ${missing.join("; ")}`] : []),
    ...(bad.length > 0 ? ["unusable rows, the first of them:", ...bad] : []),
    ...(programs > 0
      ? [
        `${counted(programs, "program")}; padding ${
          percent(paddingOverhead)
        } over the real tokens; ` +
        `${percent(hostShare)} of the time spent on rendering, tokenising and batching`,
      ]
      : []),
  ];
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
 * The results of a run, of its finetuning run, or of a folder that holds nothing else.
 *
 * @throws {UserError} if there are none, or those of several finetuning runs
 */
export async function resultsOf(folder: string): Promise<NamedResults> {
  if (!await exists(folder)) throw new UserError(`${folder}: no such folder; expected a run`);
  const own = join(folder, "eval");
  if (await exists(own)) return { name: folder, results: await readResults(own) };
  const inside: string[] = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const run = join(folder, entry.name);
    if (entry.isDirectory() && await exists(join(run, "eval"))) inside.push(run);
  }
  if (inside.length > 1) {
    throw new UserError(
      `${folder}: holds ${inside.length} evaluated runs; choose one: ` +
        inside.toSorted().map((path) => `--compare ${path}`).join(", "),
    );
  }
  if (inside.length === 1) {
    return { name: folder, results: await readResults(join(inside[0], "eval")) };
  }
  if (await exists(join(folder, "config.json"))) {
    throw new UserError(`${folder}: was not evaluated yet; run eval_t0 on it first`);
  }
  return { name: folder, results: await readResults(folder) };
}
