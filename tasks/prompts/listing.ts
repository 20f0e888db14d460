/**
 * What `scripts/prompts.ts` prints.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { adaptRow, datasetsIn, readRows, type Row, rowText, splitsOf } from "../rows/mod.ts";
import { LINT_KINDS, lintTemplates } from "./lint.ts";
import { cap, evalTemplates, mixtureDatasets, type MixtureName, MIXTURES, T0_EVAL } from "./t0.ts";
import { type Rendered, RenderError, type Template } from "./template.ts";
import { openTemplates, type Templates } from "./templates.ts";
import { counted } from "../command/number_text.ts";
import { aligned } from "../command/table.ts";

/** Where templates and rows are. */
export interface PromptPlaces {
  /** Folder of the templates. */
  templates: string;
  /** Folder of the rows, if there is one. */
  data?: string;
}

/** The datasets that were named, or all that have templates. */
function chosen(templates: Templates, datasets: readonly string[]): readonly string[] {
  // Asking for a dataset's templates complains about an unknown name.
  for (const dataset of datasets) templates.of(dataset);
  return datasets.length > 0 ? datasets : templates.datasets;
}

/** `list`: a line per template. */
export function listLines(
  { templates: folder, datasets }: PromptPlaces & { datasets: readonly string[] },
): string[] {
  const templates = openTemplates(folder);
  const rows = chosen(templates, datasets).flatMap((dataset) =>
    templates.of(dataset).map((t) => [
      dataset,
      t.name.trim(),
      t.originalTask ? "original task" : "",
      t.answerChoices?.trim() ?? "",
    ])
  );
  return aligned(rows, 4);
}

/** `show`: a dataset's templates, and what they make of one row; `failures` counts those that fail. */
export async function showLines(
  { templates: folder, data, dataset, template, split, row: number }: PromptPlaces & {
    dataset: string;
    template?: string;
    split?: string;
    row: number;
  },
): Promise<{ lines: string[]; failures: number }> {
  const templates = openTemplates(folder);
  const shown = template === undefined
    ? templates.of(dataset)
    : [templates.find(dataset, template)];
  const [row] = await someRows({ data, dataset, split, skip: number, count: 1 });
  if (data !== undefined && row === undefined && datasetsIn(data).includes(dataset)) {
    throw new UserError(`${dataset}: there is no row ${number}`);
  }
  const lines = row === undefined ? [] : [`row ${number}: ${rowText(row)}`, ""];
  let failures = 0;
  const described = shown.flatMap((t, i) => {
    const { lines, fails } = describeTemplate(t, row);
    if (fails) failures++;
    return [...(i > 0 ? [""] : []), ...lines];
  });
  return { lines: [...lines, ...described], failures };
}

function describeTemplate(
  template: Template,
  row: Row | undefined,
): { lines: string[]; fails?: boolean } {
  const { name, originalTask, metrics, fields, jinja, answerChoices } = template;
  const about = [originalTask ? "original task" : "another task", ...metrics].join(", ");
  const lines = [
    `${name} (${about}; reads ${fields.join(", ") || "no field"})`,
    ...indented("template", jinja),
    ...(answerChoices === null ? [] : indented("choices", answerChoices)),
  ];
  if (row === undefined) return { lines };
  const random = new Random(key(1));
  let rendered: Rendered;
  try {
    rendered = template.apply(adaptRow(template.dataset, row, fields), {
      choose: (n) => random.below(n),
    });
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    const why = indented("fails", `${error.kind}: ${error.message}`);
    return { lines: [...lines, ...why], fails: true };
  }
  const { parts, choices } = rendered;
  const names = parts.length === 2 ? ["prompt", "target"] : parts.map((_, i) => `part ${i + 1}`);
  return {
    lines: [
      ...lines,
      ...parts.flatMap((part, i) => indented(names[i], part)),
      ...(choices ? indented("ranked", choices.join(" | ")) : []),
    ],
  };
}

function indented(label: string, text: string): string[] {
  return text.split("\n").map((line, i) => `  ${(i === 0 ? label : "").padEnd(8)}  ${line}`);
}

/** `lint`: a line per finding; `errors` counts those that make rows unusable. */
export async function lintLines(
  { templates: folder, data, datasets, split, rows: count }: PromptPlaces & {
    datasets: readonly string[];
    split?: string;
    rows: number;
  },
): Promise<{ lines: string[]; errors: number }> {
  const templates = openTemplates(folder);
  const lines: string[] = [];
  let errors = 0, looked = 0, withRows = 0;
  for (const dataset of chosen(templates, datasets)) {
    const all = templates.of(dataset);
    const read = await someRows({ data, dataset, split, skip: 0, count });
    const rows = read.map((row) => adaptRow(dataset, row));
    looked += all.length;
    withRows += rows.length > 0 ? all.length : 0;
    const random = new Random(key(1));
    for (const finding of lintTemplates(all, rows, { choose: (n) => random.below(n) })) {
      const { template, kind, count, of, example } = finding;
      // A template that says nothing for some rows is meant so; the rows are left out.
      if (kind !== "nothing rendered") errors++;
      const share = of > 1 ? ` in ${count} of ${of} rows` : "";
      lines.push(`${dataset}, '${template}': ${LINT_KINDS[kind]}${share}: ${example}`);
    }
  }
  const tried = withRows === looked ? "" : `, ${withRows} of them on rows`;
  lines.push(
    `${looked} templates looked at${tried}; ${lines.length} findings, ${errors} of them errors`,
  );
  return { lines, errors };
}

async function someRows(
  { data, dataset, split, skip, count }: {
    data?: string;
    dataset: string;
    split?: string;
    skip: number;
    count: number;
  },
): Promise<Row[]> {
  if (data === undefined || !datasetsIn(data).includes(dataset)) return [];
  const from = split ?? splitsOf(data, dataset)[0];
  const rows: Row[] = [];
  for await (const { row, number } of readRows(data, dataset, from)) {
    if (number >= skip) rows.push(row);
    if (rows.length === count) break;
  }
  return rows;
}

/** `counts`: what a folder of templates gives for training and evaluation. */
export function countLines(folder: string): string[] {
  const templates = openTemplates(folder);
  const there = new Set(templates.datasets);
  const count = (dataset: string) => there.has(dataset) ? templates.of(dataset).length : 0;
  const total = [...there].reduce((sum, dataset) => sum + count(dataset), 0);
  const lines = [`${counted(total, "template")} of ${counted(there.size, "dataset")}`];
  for (const name of Object.keys(MIXTURES) as MixtureName[]) {
    const datasets = mixtureDatasets(name);
    const found = datasets.filter(({ dataset }) => there.has(dataset));
    const sum = found.reduce((n, { dataset }) => n + count(dataset), 0);
    const examples = (rule: "metro" | "tzero") =>
      found.reduce(
        (n, { dataset, trainSize }) => n + count(dataset) * cap(rule, trainSize, count(dataset)),
        0,
      );
    const millions = (n: number) => `${(n / 1e6).toFixed(2)} M`;
    lines.push(
      `${name}: ${found.length} of ${datasets.length} datasets, ${sum} templates, at most ` +
        `${millions(examples("metro"))} examples per epoch (metro rule), weights of ` +
        `${millions(examples("tzero"))} (tzero rule)`,
    );
  }
  const pairs = T0_EVAL.map(({ column, dataset }) => ({
    column,
    count: there.has(dataset) ? evalTemplates(dataset, templates.of(dataset)).length : 0,
  }));
  const sum = pairs.reduce((n, { count }) => n + count, 0);
  lines.push(
    `T0 Eval: ${sum} pairs of column and template (` +
      pairs.map(({ column, count }) => `${column} ${count}`).join(", ") + ")",
  );
  lines.push(
    "The METRO-T0 paper prints 39, 49 and 55 datasets; the lists of its code have 38, 48 and 54, with " +
      "the same templates.",
  );
  return lines;
}
