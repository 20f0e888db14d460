/**
 * Checks this renderer against what promptsource rendered: every part and every answer choice, byte
 * for byte.
 *
 * A folder has two files. `examples.json` maps datasets to rows by their number. `renders.jsonl` has
 * an object per template and row:
 *
 * - `ds`, `name`, `i`: the dataset (`super_glue/copa`, `anli/None`), the template and the row;
 * - `plain`, `trunc`: the parts without and with truncation, or `{"error": …}` where promptsource
 *   raises;
 * - `ac`: the answer choices, or null, or an error.
 *
 * The filter `choice` takes item `i` modulo the length.
 *
 * @module
 */
import { join } from "node:path";
import { isRecord } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { readJson, readJsonLines } from "../files/json.ts";
import { RenderError, type Row, type Template } from "../prompts/template.ts";
import type { Templates } from "../prompts/templates.ts";

const EXAMPLES = "examples.json";
const RENDERS = "renders.jsonl";
/** As many differences as a report keeps. */
const KEPT = 20;

/** What is compared: the rendered parts in both modes, and the answer choices. */
export const PROMPT_OUTPUTS = ["plain", "truncated", "choices"] as const;

/** What is compared. */
export type PromptOutput = typeof PROMPT_OUTPUTS[number];

/** Texts, none, or the message of an error. */
export type PromptTexts = readonly string[] | null | { error: string };

/** One thing that came out otherwise. */
export interface PromptDifference {
  /** The dataset. */
  dataset: string;
  /** The template's name. */
  template: string;
  /** The row's number. */
  row: number;
  /** What differs. */
  output: PromptOutput;
  /** What promptsource made. */
  expected: PromptTexts;
  /** What came out here. */
  got: PromptTexts;
}

/** A folder, compared. */
export interface PromptReport {
  /** The folder. */
  folder: string;
  /** Templates and rows that were rendered, in each mode. */
  compared: number;
  /** How many of them are equal, by what was compared. */
  equal: Readonly<Record<PromptOutput, number>>;
  /** How many of them raise, as they did in promptsource. */
  errors: number;
  /** How many templates were used. */
  templatesUsed: number;
  /** The first differences. */
  differences: readonly PromptDifference[];
}

/** A line of `renders.jsonl`. */
interface Render {
  ds: string;
  name: string;
  i: number;
  plain: PromptTexts;
  trunc: PromptTexts;
  ac: PromptTexts;
}

/**
 * Renders everything that a folder states, and compares.
 *
 * @throws {UserError} a file that is missing or broken, a template that there is not
 *
 * @example
 * ```ts ignore
 * import { openTemplates } from "../prompts/templates.ts";
 * import { promptReportLines, verifyPrompts } from "./prompts.ts";
 *
 * const report = await verifyPrompts("golden/prompts", openTemplates("templates"));
 * console.log(promptReportLines(report).join("\n"));
 * ```
 */
export async function verifyPrompts(folder: string, templates: Templates): Promise<PromptReport> {
  const examples = await readExamples(folder);
  const equal = { plain: 0, truncated: 0, choices: 0 };
  const differences: PromptDifference[] = [];
  const used = new Set<Template>();
  let compared = 0, errors = 0;
  for (const [line, render] of await readRenders(folder)) {
    const { ds, name, i } = render;
    const dataset = ds.replace(/\/None$/, "");
    const row = examples.get(`${ds}\n${i}`);
    if (!row) {
      throw new UserError(`${join(folder, RENDERS)}:${line}: no row ${i} of ${ds} in ${EXAMPLES}`);
    }
    const template = templates.find(dataset, name);
    used.add(template);
    compared++;
    const choose = (n: number) => i % n;
    const apply = (truncate: boolean) => template.apply(row, { truncate, choose }).parts;
    const pairs: Record<PromptOutput, [PromptTexts, PromptTexts]> = {
      plain: [render.plain, textsOr(() => apply(false))],
      truncated: [render.trunc, textsOr(() => apply(true))],
      choices: [render.ac, textsOr(() => template.answerChoicesList(row, choose))],
    };
    if (isError(pairs.plain[0]) && isError(pairs.plain[1])) errors++;
    for (const output of PROMPT_OUTPUTS) {
      const [expected, got] = pairs[output];
      if (isSame(expected, got)) equal[output]++;
      else if (differences.length < KEPT) {
        differences.push({ dataset, template: name, row: i, output, expected, got });
      }
    }
  }
  return { folder, compared, equal, errors, templatesUsed: used.size, differences };
}

/**
 * How many comparisons failed.
 *
 * @example
 * ```ts
 * import { promptFailures } from "./prompts.ts";
 * import assert from "node:assert/strict";
 *
 * const equal = { plain: 5, truncated: 4, choices: 5 };
 * const report = { folder: "a", compared: 5, equal, errors: 0, templatesUsed: 1, differences: [] };
 * assert.equal(promptFailures(report), 1);
 * ```
 */
export function promptFailures({ compared, equal }: PromptReport): number {
  return PROMPT_OUTPUTS.reduce((sum, output) => sum + compared - equal[output], 0);
}

/** The report as a table, the first differences, and a verdict. */
export function promptReportLines(report: PromptReport): string[] {
  const { folder, compared, equal, errors, templatesUsed, differences } = report;
  const failures = promptFailures(report);
  const rows = PROMPT_OUTPUTS.map((output) => {
    const figures = [equal[output], compared].map((figure) => String(figure).padStart(8));
    return `  ${output.padEnd(10)}${figures.join("  ")}`;
  });
  const what = `${compared} renders of ${templatesUsed} templates, ${errors} of them errors`;
  return [
    `  ${"output".padEnd(10)}${"equal".padStart(8)}  ${"of".padStart(8)}`,
    ...rows,
    ...differences.flatMap(differenceLines),
    failures === 0
      ? `ok   ${folder}: ${what}`
      : `FAIL ${folder}: ${failures} differences in ${what}`,
  ];
}

function differenceLines({ dataset, template, row, output, expected, got }: PromptDifference) {
  const [a, b] = [expected, got].map((texts) => JSON.stringify(texts));
  let same = 0;
  while (same < a.length && a[same] === b[same]) same++;
  const around = (text: string) => {
    const from = Math.max(0, same - 30);
    return (from > 0 ? "…" : "") + text.slice(from, same + 50) +
      (text.length > same + 50 ? "…" : "");
  };
  return [
    `  ${dataset}, '${template}', row ${row}, ${output}:`,
    `    expected ${around(a)}`,
    `    got      ${around(b)}`,
  ];
}

function textsOr(render: () => string[] | null): PromptTexts {
  try {
    return render();
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    return { error: `${error.kind}: ${error.message}` };
  }
}

function isError(texts: PromptTexts): texts is { error: string } {
  return texts !== null && "error" in texts;
}

/** Errors are equal if both are errors: their messages are each implementation's own. */
function isSame(a: PromptTexts, b: PromptTexts): boolean {
  if (a === null || b === null) return a === b;
  if (isError(a) || isError(b)) return isError(a) && isError(b);
  return a.length === b.length && a.every((text, i) => text === b[i]);
}

// --- files ---

/** Rows by `dataset\nnumber`. */
async function readExamples(folder: string): Promise<Map<string, Row>> {
  const file = join(folder, EXAMPLES);
  const datasets = await readJson(file);
  if (!isRecord(datasets)) throw new UserError(`${file}: expected an object of datasets`);
  const rows = new Map<string, Row>();
  for (const [dataset, examples] of Object.entries(datasets)) {
    if (!isRecord(examples)) throw new UserError(`${file}: ${dataset}: expected rows by number`);
    for (const [number, row] of Object.entries(examples)) {
      if (!isRecord(row)) {
        throw new UserError(`${file}: ${dataset}, row ${number}: expected an object`);
      }
      rows.set(`${dataset}\n${number}`, row);
    }
  }
  return rows;
}

/** What is to be rendered, by line. */
async function readRenders(folder: string): Promise<[line: number, render: Render][]> {
  const file = join(folder, RENDERS);
  const renders = (await readJsonLines(file)).map(([number, render]) => {
    if (isRender(render)) return [number, render] as [number, Render];
    throw new UserError(`${file}:${number}: expected ds, name, i, plain, trunc and ac`);
  });
  if (renders.length === 0) throw new UserError(`${file}: holds no renders`);
  return renders;
}

function isRender(value: unknown): value is Render {
  return isRecord(value) && typeof value.ds === "string" && typeof value.name === "string" &&
    Number.isSafeInteger(value.i) && isTexts(value.plain) && isTexts(value.trunc) &&
    isTexts(value.ac);
}

function isTexts(value: unknown): value is PromptTexts {
  if (value === null) return true;
  if (Array.isArray(value)) return value.every((text) => typeof text === "string");
  return isRecord(value) && typeof value.error === "string";
}
