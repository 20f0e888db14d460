/**
 * Strip plots, as in Figures 1 and 8 of the METRO paper (a panel per task, a dot per template), and
 * the page that holds them beside the tables: `results.html`.
 *
 * @module
 */
import { from } from "arquero";
import type { TopLevelSpec } from "vega-lite";
import { CHART_CONFIG, picture } from "../reports/curves.ts";
import { cards, COLORS, escapeHtml, htmlPage } from "../reports/page.ts";
import { type ColumnSummary, percent, type Summary, summaryCells } from "./summary.ts";
import { type Comparison, comparisonCells } from "./compare.ts";
import { counted } from "../command/number_text.ts";

/** A run to draw: its results, summarized, under the name in the legend. */
export interface NamedSummary {
  /** The run's name. */
  name: string;
  /** What {@link summarize} made of its results. */
  summary: Summary;
}

/** What a page of results is made from. */
export interface Results {
  /** What was evaluated: the page's title. */
  name: string;
  /** The run that the page is about, then those to put beside it. */
  runs: readonly NamedSummary[];
  /** How the runs differ, if there are several. */
  comparison?: Comparison;
}

/** What one row of a panel shows: a run. */
interface Strip {
  /** The run's place among all runs; decides the color. */
  run: number;
  /** Accuracies, one per dot. */
  values: number[];
  mean: number;
  median: number;
}

/** Plots are drawn near the size that they are shown at, so that their words are legible. */
const WIDTH = 320, STRIP = 44, AXES = 52;
/** Of a dot, in pixels; dots nearer than twice this are moved apart. */
const RADIUS = 3.8;
/** The least that a panel's width stands for, in accuracy. */
const NEAREST = 0.06;

/**
 * Draws the average over tasks, and for every task a strip of dots per run: one dot per template.
 *
 * @param runs their places decide their colors
 * @returns a section of HTML
 *
 * @example
 * ```ts
 * import { summarize } from "./summary.ts";
 * import { type TemplateResult } from "./results.ts";
 * import { stripPlots } from "./plots.ts";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "test",
 *   column: "trec", task: "topic", examples: 2, correct: "10", skipped: {},
 * };
 * const html = await stripPlots([{ name: "runs/a", summary: summarize([result]) }]);
 * assert.match(html, /aria-label="trec: runs\/a, 1 template from 50\.00% to 50\.00%, median 50\.00%/);
 * ```
 */
export async function stripPlots(runs: readonly NamedSummary[]): Promise<string> {
  const columns = [...new Set(runs.flatMap(({ summary }) => summary.columns.map((c) => c.column)))];
  const panels = [await averagePanel(runs)];
  for (const column of columns) panels.push(await columnPanel(runs, column));
  const keys = runs.map(({ name }, run) =>
    `<span class="key"><i class="swatch s${colorOf(run) + 1}"></i>${escapeHtml(name)}</span>`
  );
  const order = runs.length > 1 ? ` Runs from top to bottom: ${keys.join("")}` : "";
  return `<section aria-labelledby="templates">
<h2 id="templates">Accuracy by template</h2>
<p class="legend">A dot is a template, the tall line the median over templates, the diamond below the
dots their mean; the dashed line is guessing, where it is not far off. Every task has its own scale.${order}</p>
<div class="charts">
${panels.join("\n")}
</div>
</section>`;
}

/**
 * Writes the page of an evaluation: figures, plots, tables, the accuracy of every template.
 *
 * @returns a whole HTML page that needs nothing else
 *
 * @example
 * ```ts
 * import { summarize } from "./summary.ts";
 * import { type TemplateResult } from "./results.ts";
 * import { resultsPage } from "./plots.ts";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "trec", dataset_config_name: null, template_name: "a",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "test",
 *   column: "trec", task: "topic", examples: 2, correct: "10", skipped: {},
 * };
 * const summary = summarize([result]);
 * const page = await resultsPage({ name: "runs/a", runs: [{ name: "runs/a", summary }] });
 * assert.match(page, /<dt>Average<\/dt><dd>50\.00%<\/dd>/);
 * ```
 */
export async function resultsPage({ name, runs, comparison }: Results): Promise<string> {
  const [{ summary }] = runs;
  return htmlPage({
    title: `Zero-shot evaluation of ${name}`,
    body: [
      figures(summary),
      sentence(`The average is the ${summary.average.label}.`),
      await stripPlots(runs),
      `<h2>${escapeHtml(runs.length > 1 ? `Summary of ${runs[0].name}` : "Summary")}</h2>`,
      htmlTable(summaryCells(summary), (row) => row === summary.columns.length),
      ...summary.notes.map(sentence),
      ...(comparison ? compared(comparison) : []),
      templateTables(runs),
    ].join("\n"),
  });
}

function figures({ average, columns, templates }: Summary): string {
  const examples = columns.reduce((sum, { examples }) => sum + examples, 0);
  return cards([
    ["Average", `${percent(average.mean)}%`],
    ["Average of medians", `${percent(average.median)}%`],
    ["Guessing", average.chance === undefined ? undefined : `${percent(average.chance)}%`],
    ["Templates", String(templates.length)],
    ["Examples", examples.toLocaleString("en-US")],
  ]);
}

/** The comparison as a table; differences whose interval leaves out 0 are set in bold. */
function compared(comparison: Comparison): string[] {
  const rows = [...comparison.columns, comparison.average];
  const isClear = (row: number, cell: number) => {
    const difference = rows[row].differences[Math.floor((cell - 3) / 3)];
    return cell >= 3 && cell % 3 === 1 && (difference.low > 0 || difference.high < 0);
  };
  return [
    "<h2>Comparison</h2>",
    htmlTable(comparisonCells(comparison), isClear),
    sentence(
      `The average is the ${comparison.label}. Differences are in percent points, to ` +
        `${comparison.runs[0]}; in bold where the interval leaves out 0.`,
    ),
    ...comparison.notes.map(sentence),
  ];
}

/** Every template's accuracy in every run, folded away. */
function templateTables(runs: readonly NamedSummary[]): string {
  const places = runs.map((_, run) => `run${run}`);
  const rows = from(
    runs.flatMap(({ summary }, run) =>
      summary.templates.map(({ column, template, accuracy }) => (
        { column, template, run: places[run], accuracy }
      ))
    ),
  ).groupby("column", "template").pivot("run", "accuracy").objects() as Record<string, unknown>[];
  const cells = rows.map((row) => [
    `${row.column}`,
    `${row.template}`,
    ...places.map((place) => percent(row[place] as number | undefined)),
  ]);
  const heading = ["column", "template", ...runs.map(({ name }) => name)];
  return `<details class="templates">
<summary>Accuracy of every template</summary>
${htmlTable([heading, ...cells], undefined, false)}
</details>`;
}

/** The first row is the heading; the last one is set apart if it is the average. */
function htmlTable(
  [heading, ...rows]: readonly (readonly string[])[],
  isStrong: (row: number, cell: number) => boolean = () => false,
  withAverage = true,
): string {
  const lines = rows.map((cells, row) => {
    const [first, ...others] = cells.map(escapeHtml);
    const tds = others.map((text, i) =>
      `<td>${isStrong(row, i + 1) ? `<strong>${text}</strong>` : text}</td>`
    );
    return `<tr><th scope="row">${first}</th>${tds.join("")}</tr>`;
  });
  const foot = withAverage ? `<tfoot>\n${lines.pop()}\n</tfoot>\n` : "";
  const heads = heading.map((name) => `<th scope="col">${escapeHtml(name)}</th>`);
  return `<div class="scroll"><table>
<thead><tr>${heads.join("")}</tr></thead>
<tbody>
${lines.join("\n")}
</tbody>
${foot}</table></div>`;
}

function sentence(text: string): string {
  return `<p class="legend">${escapeHtml(text)}</p>`;
}

// --- panels ---

async function averagePanel(runs: readonly NamedSummary[]): Promise<string> {
  const values = runs.map(({ summary }) => summary.average.mean);
  const chance = runs[0].summary.average.chance;
  const words = runs.map(({ name }, i) => `${name} ${percent(values[i])}%`);
  const tasks = new Set(runs.map(({ summary }) => summary.columns.length));
  return await figure(
    "Average",
    tasks.size === 1 ? `over ${counted([...tasks][0], "task")}` : "over different tasks",
    barSpec(values, chance),
    `Average over tasks: ${words.join("; ")}${guessing(chance)}.`,
  );
}

async function columnPanel(runs: readonly NamedSummary[], column: string): Promise<string> {
  const strips = runs.flatMap(({ summary }, run): Strip[] => {
    const found = summary.columns.find((c) => c.column === column);
    if (!found) return [];
    const values = summary.templates.filter((t) => t.column === column).map((t) => t.accuracy);
    return [{ run, values, mean: found.mean, median: found.median }];
  });
  const figuresOf = ({ summary }: NamedSummary): ColumnSummary | undefined =>
    summary.columns.find((c) => c.column === column);
  const all = runs.flatMap((run) => figuresOf(run) ?? []);
  const chance = all.find(({ chance }) => chance !== undefined)?.chance;
  const words = strips.map(({ run, values, mean, median }) =>
    `${runs[run].name}, ${counted(values.length, "template")} from ${
      percent(Math.min(...values))
    }% to ` +
    `${percent(Math.max(...values))}%, median ${percent(median)}%, mean ${percent(mean)}%`
  );
  return await figure(
    column + (all.some(({ trained }) => trained) ? "*" : ""),
    counted(Math.max(...strips.map(({ values }) => values.length)), "template"),
    stripSpec(strips, runs.length, chance),
    `${column}: ${words.join("; ")}${guessing(chance)}.`,
  );
}

function guessing(chance: number | undefined): string {
  return chance === undefined ? "" : `; guessing ${percent(chance)}%`;
}

async function figure(
  title: string,
  remark: string,
  spec: TopLevelSpec,
  label: string,
): Promise<string> {
  return `<figure>
<figcaption>${escapeHtml(title)}<span class="key">${escapeHtml(remark)}</span></figcaption>
${await picture(spec, label)}
</figure>`;
}

function colorOf(run: number): number {
  return run % COLORS.length;
}

/** Color by run, without a legend of its own. */
const COLOR = {
  field: "run",
  type: "nominal",
  legend: null,
  scale: { domain: COLORS.map((_, i) => i), range: [...COLORS] },
} as const;

/** Dots have a rim, so that those that touch stay apart. */
const DOT = {
  type: "point",
  filled: true,
  opacity: 1,
  stroke: "var(--card)",
  strokeWidth: 0.8,
} as const;

/** Rows from top to bottom, each one unit high; the first is at 0. */
function yScale(rows: number) {
  return { domain: [-0.5, rows - 0.5], reverse: true, nice: false, zero: false };
}

function frame(rows: number) {
  return {
    width: WIDTH,
    height: rows * STRIP + AXES,
    autosize: { type: "fit", contains: "padding" } as const,
    config: CHART_CONFIG,
  };
}

function xEncoding(domain: readonly [number, number]) {
  return {
    field: "x",
    type: "quantitative" as const,
    axis: { title: "accuracy", format: ".0%", tickCount: 5, tickMinStep: 0.01 },
    scale: { domain: [...domain], nice: false, zero: false },
  };
}

function chanceLayer(chance: number | undefined) {
  if (chance === undefined) return [];
  return [{
    data: { values: [{ x: chance }] },
    mark: { type: "rule" as const, strokeDash: [5, 4], color: "var(--muted)" },
    encoding: { x: { field: "x", type: "quantitative" } as const },
  }];
}

function barSpec(values: readonly number[], chance: number | undefined): TopLevelSpec {
  const top = Math.max(...values, chance ?? 0, 0.01);
  const bars = values.map((x, run) => ({
    ...{ x, run: colorOf(run), label: `${percent(x)}%`, zero: 0 },
    ...{ y: run, above: run - 0.3, below: run + 0.3 },
  }));
  const y = { type: "quantitative", axis: null, scale: yScale(values.length) } as const;
  const x = xEncoding([0, top * 1.25]); // room for the figure at the bar's end
  return {
    ...frame(values.length),
    layer: [
      {
        data: { values: bars },
        mark: { type: "rect" },
        encoding: {
          x,
          x2: { field: "zero" },
          y: { ...y, field: "above" },
          y2: { field: "below" },
          color: COLOR,
        },
      },
      ...chanceLayer(chance),
      {
        data: { values: bars },
        mark: { type: "text", align: "left", dx: 6, fontSize: 13, color: "var(--text)" },
        encoding: { x, y: { ...y, field: "y" }, text: { field: "label", type: "nominal" } },
      },
    ],
  };
}

function stripSpec(
  strips: readonly Strip[],
  rows: number,
  chance: number | undefined,
): TopLevelSpec {
  const { domain, withChance } = domainOf(strips.flatMap(({ values }) => values), chance);
  const dots = strips.flatMap(({ run, values }) =>
    spread(values, domain).map(({ x, shift }) => ({ x, y: run + shift, run: colorOf(run) }))
  );
  const marks = strips.map(({ run, mean, median }) => ({
    ...{ x: median, mean, run: colorOf(run) },
    ...{ above: run - 0.4, below: run + 0.32, foot: run + 0.38 },
  }));
  const x = xEncoding(domain);
  const y = { type: "quantitative", axis: null, scale: yScale(rows) } as const;
  return {
    ...frame(rows),
    layer: [
      ...chanceLayer(withChance ? chance : undefined),
      {
        data: { values: marks },
        mark: { type: "rule", strokeWidth: 2.5 },
        encoding: { x, y: { ...y, field: "above" }, y2: { field: "below" }, color: COLOR },
      },
      {
        data: { values: dots },
        mark: { ...DOT, size: Math.PI * RADIUS ** 2 },
        encoding: { x, y: { ...y, field: "y" }, fill: COLOR },
      },
      {
        data: { values: marks },
        mark: { ...DOT, shape: "diamond", size: 70 },
        encoding: { x: { ...x, field: "mean" }, y: { ...y, field: "foot" }, fill: COLOR },
      },
    ],
  };
}

/**
 * All values, with room at both ends, and not so near that 1 % looks like a gulf; and guessing, unless
 * it is so far off that the dots would be left with little of the width.
 */
function domainOf(
  values: readonly number[],
  chance: number | undefined,
): { domain: [number, number]; withChance: boolean } {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [from, to] = [Math.min(low, chance ?? low), Math.max(high, chance ?? high)];
  const withChance = chance !== undefined && to - from <= 3 * Math.max(high - low, NEAREST);
  const [start, end] = withChance ? [from, to] : [low, high];
  const room = Math.max(0.06 * (end - start), (NEAREST - (end - start)) / 2);
  return { domain: [Math.max(0, start - room), Math.min(1, end + room)], withChance };
}

/** Moves dots that would cover each other up and down, in parts of a row; the same for equal values. */
function spread(
  values: readonly number[],
  [low, high]: readonly [number, number],
): { x: number; shift: number }[] {
  const pixels = (WIDTH - 20) / (high - low), step = 2 * RADIUS;
  const placed: { x: number; shift: number }[] = [];
  for (const x of values.toSorted((a, b) => a - b)) {
    const near = placed.filter((dot) => (x - dot.x) * pixels < step);
    // 0, then one dot up, one down, two up, …: the first that is free.
    let place = 0;
    const shift = () => (place % 2 === 0 ? -1 : 1) * Math.ceil(place / 2) * step;
    const isFree = () =>
      near.every((dot) => Math.hypot((x - dot.x) * pixels, shift() - dot.shift) >= step - 1e-6);
    while (!isFree()) place++;
    placed.push({ x, shift: shift() });
  }
  // A pile higher than its row is pressed together.
  const highest = Math.max(...placed.map(({ shift }) => Math.abs(shift)));
  const scale = Math.min(1, 0.3 * STRIP / Math.max(highest, 1)) / STRIP;
  return placed.map(({ x, shift }) => ({ x, shift: shift * scale }));
}
