/**
 * `report.html`: what a run was and how it went, on one page that needs nothing else. No script, no
 * network; curves as inline SVG; light and dark; readable on a phone and by a screen reader.
 *
 * @module
 */
import { curves } from "./curves.ts";
import { type FigureKey, FIGURES, formatFigure, type MetricRecord } from "./metrics.ts";
import { NO_NUMBER, wholeText } from "../command/number_text.ts";
import { cards, escapeHtml, htmlPage } from "./page.ts";

/** What a report is made from: the contents of a run folder. */
export interface Run {
  /** The run's name, usually that of its folder. */
  name: string;
  /** What `config.json` holds. */
  config: Readonly<Record<string, unknown>>;
  /** What `metrics.jsonl` holds. */
  metrics: readonly MetricRecord[];
  /** Updates whose figures are gone, with the file that they stood in. */
  lost?: number;
}

/**
 * Writes the report of a run.
 *
 * @returns a whole HTML page
 *
 * @example
 * ```ts
 * import { trainingReport } from "./training.ts";
 * import assert from "node:assert/strict";
 *
 * const metrics = [1, 2, 3].map((update) => ({ kind: "train" as const, update, loss: 9 / update }));
 * const page = await trainingReport({ name: "first", config: { preset: "tiny" }, metrics });
 * assert.match(page, /<svg role="img" aria-label="Loss over updates 1 to 3: train from 9.000 to/);
 * ```
 */
export async function trainingReport(run: Run): Promise<string> {
  const title = `METRO-T0 run ${run.name}`;
  const body = `${summary(run)}${hole(run)}
${await curves(run.metrics) || "<p>No figures yet.</p>"}
<h2>Final figures</h2>
${finalTable(run.metrics)}
<h2>Configuration</h2>
${configTable(run.config)}`;
  return htmlPage({ title, body });
}

function summary({ config, metrics }: Run): string {
  const train = metrics.findLast(({ kind }) => kind === "train");
  const heldout = metrics.findLast(({ kind }) => kind === "heldout");
  return cards([
    ["Preset", textOf(config.preset)],
    ["Objective", textOf(config.objective)],
    ["Updates", train && wholeText(train.update)],
    ["Tokens", figureOf(train, "tokens")],
    ["Time", figureOf(train, "seconds")],
    ["Held-out loss", figureOf(heldout, "loss")],
    ["Train loss", figureOf(train, "loss")],
  ]);
}

/** Curves that begin late must not look whole. */
function hole({ lost }: Run): string {
  if (lost === undefined) return "";
  return `\n<p>The figures up to update ${
    wholeText(lost)
  } are lost: metrics.jsonl was not there when the ` +
    "run was resumed.</p>";
}

function finalTable(metrics: readonly MetricRecord[]): string {
  const last = (kind: MetricRecord["kind"]) => metrics.findLast((record) => record.kind === kind);
  const [train, heldout] = [last("train"), last("heldout")];
  const rows = (Object.keys(FIGURES) as FigureKey[])
    .filter((key) => figureOf(train, key) ?? figureOf(heldout, key))
    .map((key) => {
      const cells = [train, heldout].map((record) =>
        `<td>${figureOf(record, key) ?? NO_NUMBER}</td>`
      );
      return `<tr><th scope="row">${FIGURES[key].label}</th>${cells.join("")}</tr>`;
    });
  if (rows.length === 0) return "<p>None yet.</p>";
  const head = (name: string, record?: MetricRecord) =>
    `<th scope="col">${name}${
      record ? `<br><small>update ${wholeText(record.update)}</small>` : ""
    }</th>`;
  return `<table>
<thead><tr><th scope="col">Figure</th>${head("Train", train)}${
    head("Held-out", heldout)
  }</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table>`;
}

function configTable(config: Readonly<Record<string, unknown>>): string {
  const rows = Object.entries(config).map(([key, value]) =>
    `<div><dt>${escapeHtml(key)}</dt><dd>${escapeHtml(textOf(value) ?? NO_NUMBER)}</dd></div>`
  );
  return `<dl class="config">\n${rows.join("\n")}\n</dl>`;
}

function figureOf(record: MetricRecord | undefined, key: FigureKey): string | undefined {
  const value = record?.[key];
  return value === undefined || typeof value === "string" ? undefined : formatFigure(key, value);
}

function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  return JSON.stringify(value);
}
