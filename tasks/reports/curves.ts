/**
 * The curves of a report: what to draw, the drawings as inline SVG, and the same in words.
 *
 * They are drawn by Vega-Lite, which is loaded when there is something to draw and not before. Its
 * colors are CSS variables, so that the page decides what they are (`--first`, `--second`, … for the
 * curves, `--line` for the grid, `--muted` for words).
 *
 * @module
 */
import type { TopLevelSpec } from "vega-lite";
import { type FigureKey, FIGURES, formatFigure, type MetricRecord } from "./metrics.ts";
import { COLORS, escapeHtml } from "./page.ts";

/** More points than this on a curve are averaged in groups: the page stays small. */
const MAX_POINTS = 240;

/** How large a chart is drawn, near the size it is shown at so that its words are legible. */
interface Size {
  width: number;
  height: number;
}

/** A chart: its title, and its figures with their names in the legend. */
interface Chart {
  title: string;
  figures: Partial<Record<FigureKey, string>>;
}

/** The charts by section, in order; those whose figures a run does not have are left out. */
const SECTIONS: readonly { title: string; size: Size; charts: readonly Chart[] }[] = [
  {
    title: "Losses",
    size: { width: 480, height: 260 },
    charts: [
      { title: "Loss", figures: { loss: "loss" } },
      { title: "MLM loss", figures: { mlmLoss: "loss" } },
      { title: "RTD loss", figures: { rtdLoss: "loss" } },
      { title: "CLM loss", figures: { clmLoss: "loss" } },
    ],
  },
  {
    title: "Accuracies",
    size: { width: 320, height: 220 },
    charts: [
      { title: "Accuracy", figures: { accuracy: "accuracy" } },
      { title: "MLM accuracy", figures: { mlmAccuracy: "accuracy" } },
      { title: "RTD", figures: { rtdRecall: "recall", rtdPrecision: "precision", rtdAuc: "AUC" } },
      {
        title: "CLM accuracy",
        figures: { clmAccuracyReplaced: "replaced positions", clmAccuracyOther: "other positions" },
      },
    ],
  },
  {
    title: "Training",
    size: { width: 320, height: 200 },
    charts: [
      { title: "Learning rate", figures: { learningRate: "rate" } },
      { title: "Gradient norm", figures: { gradNorm: "norm" } },
      { title: "Tokens per second", figures: { tokensPerSecond: "tokens per second" } },
    ],
  },
];

/** Charts in which guessing the most frequent token is a floor worth seeing. */
const WITH_BASELINE: readonly FigureKey[] = ["accuracy", "mlmAccuracy", "clmAccuracyOther"];

const AXIS_FORMATS = {
  loss: "~r",
  percent: ".0%",
  area: ".2f",
  small: "~e",
  rate: "~s",
  count: "~s",
  time: "~s",
} as const;

/** What all our charts look like. */
export const CHART_CONFIG: NonNullable<TopLevelSpec["config"]> = {
  aria: false, // the whole picture has one label; its strokes need none
  background: "none",
  font: "system-ui, sans-serif",
  view: { stroke: null },
  axis: {
    domainColor: "var(--line)",
    gridColor: "var(--line)",
    tickColor: "var(--line)",
    labelColor: "var(--muted)",
    titleColor: "var(--muted)",
    titleFontWeight: "normal",
    labelFontSize: 12,
    titleFontSize: 12,
  },
};

const LEGEND = `<p class="legend">Thin lines are training, lines with dots the held-out text;
a dashed line is the accuracy of always guessing the most frequent token.</p>
`;

/** The figures of a chart, with their names in its legend. */
type Names = [FigureKey, string][];

/** One value on a curve. */
interface Point {
  update: number;
  value: number;
  figure: FigureKey;
}

/**
 * Draws every chart that a run has figures for.
 *
 * @returns sections of HTML; empty when there is nothing to draw
 *
 * @example
 * ```ts
 * import { curves } from "./curves.ts";
 * import assert from "node:assert/strict";
 *
 * assert.match(await curves([{ kind: "train", update: 1, loss: 9 }]), /<figure>/);
 * assert.equal(await curves([]), "");
 * ```
 */
export async function curves(metrics: readonly MetricRecord[]): Promise<string> {
  const sections: string[] = [];
  for (const { title, size, charts } of SECTIONS) {
    const drawn: string[] = [];
    for (const { title, figures } of charts) {
      const present = Object.entries(figures).filter(([figure]) =>
        metrics.some((record) => Number.isFinite(record[figure]))
      ) as Names;
      if (present.length > 0) drawn.push(await chart(title, size, present, metrics));
    }
    if (drawn.length === 0) continue;
    const id = title.toLowerCase();
    sections.push(
      `<section aria-labelledby="${id}">\n<h2 id="${id}">${title}</h2>\n` +
        `<div class="charts ${id}">\n${drawn.join("\n")}\n</div>\n</section>`,
    );
  }
  return sections.length ? LEGEND + sections.join("\n") : "";
}

async function chart(
  title: string,
  size: Size,
  names: Names,
  metrics: readonly MetricRecord[],
): Promise<string> {
  const figures = names.map(([figure]) => figure);
  const curves = (kind: MetricRecord["kind"]) =>
    figures.map((figure) => points(metrics, kind, figure));
  const [train, heldout] = [curves("train"), curves("heldout")];
  const baseline = figures.some((figure) => WITH_BASELINE.includes(figure))
    ? metrics.findLast(({ baselineAccuracy }) => Number.isFinite(baselineAccuracy))
      ?.baselineAccuracy
    : undefined;

  const spec = curveSpec(
    size,
    figures,
    train.flatMap(thin),
    heldout.flatMap(thin),
    baseline as number | undefined,
  );
  const label = describeCurves(title, names, train.flat(), heldout.flat());
  const keys = names.map(([, name], i) =>
    `<span class="key"><i class="swatch s${i + 1}"></i>${name}</span>`
  );
  return `<figure>
<figcaption>${title}${names.length > 1 ? `<span>${keys.join("")}</span>` : ""}</figcaption>
${await picture(spec, label)}
</figure>`;
}

function points(
  metrics: readonly MetricRecord[],
  kind: MetricRecord["kind"],
  figure: FigureKey,
): Point[] {
  return metrics.flatMap((record) => {
    const value = record[figure];
    const here = record.kind === kind && typeof value === "number" && Number.isFinite(value);
    return here ? [{ update: record.update, value, figure }] : [];
  });
}

/** Means over groups of neighbours; the last point stays, so that curves end where the run does. */
function thin(curve: readonly Point[]): Point[] {
  const size = Math.ceil(curve.length / MAX_POINTS);
  if (size <= 1) return [...curve];
  const groups = Map.groupBy(curve, (_, i) => Math.floor(i / size));
  return [...groups.values()].map((group) => ({
    ...group[group.length - 1],
    value: group.reduce((sum, { value }) => sum + value, 0) / group.length,
  }));
}

/** The curves in words: where each begins and ends. */
function describeCurves(
  title: string,
  names: Names,
  train: readonly Point[],
  heldout: readonly Point[],
): string {
  const all = [...train, ...heldout].map(({ update }) => update);
  const parts = names.flatMap(([key, name]) =>
    ([["train", train], ["held-out", heldout]] as const).flatMap(([kind, curve]) => {
      const values = curve.filter(({ figure }) => figure === key).map(({ value }) => value);
      if (values.length === 0) return [];
      const [first, last] = [values[0], values[values.length - 1]];
      const whose = names.length > 1 ? `${name}, ${kind}` : kind;
      return [`${whose} from ${formatFigure(key, first)} to ${formatFigure(key, last)}`];
    })
  );
  const span = `updates ${Math.min(...all)} to ${Math.max(...all)}`;
  return `${title} over ${span}: ${parts.join("; ")}.`;
}

function curveSpec(
  size: Size,
  figures: readonly FigureKey[],
  train: readonly Point[],
  heldout: readonly Point[],
  baseline: number | undefined,
): TopLevelSpec {
  const { style } = FIGURES[figures[0]];
  const encoding = {
    x: {
      field: "update",
      type: "quantitative",
      axis: { title: "update", format: ",d", tickCount: 4 },
      scale: { nice: false, zero: false },
    },
    y: {
      field: "value",
      type: "quantitative",
      axis: { title: null, format: AXIS_FORMATS[style], tickCount: 5 },
      scale: { zero: style !== "loss", nice: true },
    },
    color: {
      field: "figure",
      type: "nominal",
      legend: null,
      scale: { domain: [...figures], range: [...COLORS] },
    },
  } as const;
  const dots = { filled: true, size: 28, opacity: 1 } as const;
  const withHeldout = heldout.length > 0;
  return {
    ...size,
    autosize: { type: "fit", contains: "padding" }, // one size for all: the charts stand in line
    layer: [
      {
        data: { values: [...train] },
        mark: { type: "line", strokeWidth: 1.5, opacity: withHeldout ? 0.55 : 1 },
        encoding,
      },
      {
        data: { values: [...heldout] },
        mark: { type: "line", strokeWidth: 2, point: dots },
        encoding,
      },
      ...(baseline === undefined ? [] : [{
        data: { values: [{ value: baseline }] },
        mark: { type: "rule" as const, strokeDash: [5, 4], color: "var(--muted)" },
        encoding: { y: { field: "value", type: "quantitative" } as const },
      }]),
    ],
    config: CHART_CONFIG,
  };
}

/**
 * Draws a chart as inline SVG, as wide as the page lets it be.
 *
 * @param label the chart in words, as plain text, for those who do not see it
 *
 * @example
 * ```ts
 * import { CHART_CONFIG, picture } from "./curves.ts";
 * import assert from "node:assert/strict";
 *
 * const data = { values: [{ x: 1 }, { x: 2 }] };
 * const encoding = { x: { field: "x", type: "quantitative" } } as const;
 * const svg = await picture({ data, mark: "point", encoding, config: CHART_CONFIG }, "Two points.");
 * assert.match(svg, /^<svg role="img" aria-label="Two points\." viewBox=/);
 * ```
 */
export async function picture(spec: TopLevelSpec, label: string): Promise<string> {
  const [vega, vegaLite] = await Promise.all([import("vega"), import("vega-lite")]);
  const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), { renderer: "none" });
  const svg = await view.toSVG();
  view.finalize();
  return svg.replace(
    /<svg [^>]*?(viewBox="[^"]*")>/,
    (_, viewBox) => `<svg role="img" aria-label="${escapeHtml(label)}" ${viewBox}>`,
  );
}
