/**
 * `report.html`: what a run was and how it went, on one page that needs nothing else. No script, no
 * network; curves as inline SVG; light and dark; readable on a phone and by a screen reader.
 *
 * @module
 */
import { curves } from "./curves.ts";
import { type FigureKey, FIGURES, formatFigure, type MetricRecord } from "./metrics.ts";

/** What a report is made from: the contents of a run folder. */
export interface Run {
  /** The run's name, usually that of its folder. */
  name: string;
  /** What `config.json` holds. */
  config: Readonly<Record<string, unknown>>;
  /** What `metrics.jsonl` holds. */
  metrics: readonly MetricRecord[];
}

/**
 * Writes the report of a run.
 *
 * @returns a whole HTML page
 *
 * @example
 * ```ts
 * import { report } from "./report.ts";
 * import assert from "node:assert/strict";
 *
 * const metrics = [1, 2, 3].map((update) => ({ kind: "train" as const, update, loss: 9 / update }));
 * const page = await report({ name: "first", config: { preset: "tiny" }, metrics });
 * assert.match(page, /<svg role="img" aria-label="Loss over updates 1 to 3: train from 9.000 to/);
 * ```
 */
export async function report(run: Run): Promise<string> {
  const title = `METRO-T0 run ${run.name}`;
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${escape(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<main>
<h1>${escape(title)}</h1>
${summary(run)}
${await curves(run.metrics) || "<p>No figures yet.</p>"}
<h2>Final figures</h2>
${finalTable(run.metrics)}
<h2>Configuration</h2>
${configTable(run.config)}
</main>
</body>
</html>
`;
}

function summary({ config, metrics }: Run): string {
  const train = metrics.findLast(({ kind }) => kind === "train");
  const heldout = metrics.findLast(({ kind }) => kind === "heldout");
  const cards: [string, string | undefined][] = [
    ["Preset", textOf(config.preset)],
    ["Objective", textOf(config.objective)],
    ["Updates", train && count(train.update)],
    ["Tokens", figureOf(train, "tokens")],
    ["Time", figureOf(train, "seconds")],
    ["Held-out loss", figureOf(heldout, "loss")],
    ["Train loss", figureOf(train, "loss")],
  ];
  const shown = cards.filter((card): card is [string, string] => card[1] !== undefined);
  const items = shown.map(([name, value]) =>
    `<div><dt>${escape(name)}</dt><dd>${escape(value)}</dd></div>`
  );
  return `<dl class="cards">\n${items.join("\n")}\n</dl>`;
}

function finalTable(metrics: readonly MetricRecord[]): string {
  const last = (kind: MetricRecord["kind"]) => metrics.findLast((record) => record.kind === kind);
  const [train, heldout] = [last("train"), last("heldout")];
  const rows = (Object.keys(FIGURES) as FigureKey[])
    .filter((key) => figureOf(train, key) ?? figureOf(heldout, key))
    .map((key) => {
      const cells = [train, heldout].map((record) => `<td>${figureOf(record, key) ?? "–"}</td>`);
      return `<tr><th scope="row">${FIGURES[key].label}</th>${cells.join("")}</tr>`;
    });
  if (rows.length === 0) return "<p>None yet.</p>";
  const head = (name: string, record?: MetricRecord) =>
    `<th scope="col">${name}${
      record ? `<br><small>update ${count(record.update)}</small>` : ""
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
    `<div><dt>${escape(key)}</dt><dd>${escape(textOf(value) ?? "–")}</dd></div>`
  );
  return `<dl class="config">\n${rows.join("\n")}\n</dl>`;
}

function figureOf(record: MetricRecord | undefined, key: FigureKey): string | undefined {
  const value = record?.[key];
  return typeof value === "number" ? formatFigure(key, value) : undefined;
}

function count(n: number): string {
  return n.toLocaleString("en-US");
}

function textOf(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(textOf).join(", ");
  return JSON.stringify(value);
}

function escape(text: string): string {
  const entities: Record<string, string> = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
  };
  return text.replace(/[&<>"]/g, (sign) => entities[sign]);
}

const STYLE = `
:root {
  --text: #1c2430; --muted: #5b6675; --line: #dfe4ea; --page: #f6f7f9; --card: #ffffff;
  --first: #1f6fb5; --second: #c2510c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e6eaf0; --muted: #a3aebd; --line: #323b47; --page: #12161c; --card: #1b2129;
    --first: #6fb6ff; --second: #ff9d5c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 0.75rem; }
dl, dd { margin: 0; }
dt, small, .legend { color: var(--muted); }
.cards { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.cards > div, figure, table, .config {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.cards > div { flex: 1 1 7.5rem; padding: 0.6rem 0.9rem; }
.cards dt { font-size: 0.85rem; }
.cards dd { font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.legend { margin: 1rem 0 0; font-size: 0.9rem; }
.charts { --narrowest: 300px; display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--narrowest)), 1fr)); gap: 0.75rem; }
.losses { --narrowest: 400px; }
figure { margin: 0; padding: 0.75rem 0.9rem 0.5rem; display: flex; flex-direction: column; }
figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; column-gap: 1rem; font-weight: 600; margin-bottom: 0.4rem; }
figure svg { display: block; width: 100%; height: auto; margin-top: auto; }
.key { font-weight: 400; font-size: 0.85rem; color: var(--muted); margin-left: 0.8rem; white-space: nowrap; }
.key:first-child { margin-left: 0; }
.swatch { display: inline-block; width: 0.9rem; height: 0.25rem; border-radius: 2px; margin-right: 0.35rem; vertical-align: middle; }
.s1 { background: var(--first); }
.s2 { background: var(--second); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; overflow: hidden; }
th, td { padding: 0.4rem 0.9rem; text-align: right; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
th:first-child { text-align: left; }
tbody th { font-weight: 400; }
.config { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); column-gap: 2rem; padding: 0.6rem 0.9rem; }
.config > div { display: flex; justify-content: space-between; gap: 1rem; padding: 0.15rem 0; }
.config dd { text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
`;
