/**
 * The table of a mixture: what it holds, and what is dropped and cut of it.
 *
 * @module
 */

import { counted, NO_NUMBER, percentText } from "../command/number_text.ts";
import { aligned } from "../command/table.ts";
import type { FinetuneConfig } from "../config/finetune.ts";
import type { TokenizerJson } from "../tokenizer/tokenizer.ts";
import { DROPS } from "./examples.ts";
import { type Mixture, MixtureOrder } from "./mixture.ts";
import { COUNTS, WindowMaker, windowSource } from "./windows.ts";

/** Examples per (dataset, template) that are looked at, if there are more. */
const LOOKED_AT = 100;

/** A line of the mixture's table. */
export interface MixtureRow {
  dataset: string;
  templates: number;
  rows: number;
  cap: number;
  /** Share of an epoch, before drops. */
  share: number;
  /** Examples that were looked at, and what became of them, by {@link COUNTS}. */
  counts: Record<typeof COUNTS[number], number>;
}

/** Looks at some examples of every template: what is dropped, what is cut. */
export function describeMixture(
  config: FinetuneConfig,
  mixture: Mixture,
  tokenizer: TokenizerJson,
): MixtureRow[] {
  const epoch = new MixtureOrder(mixture, config.seed).size;
  return mixture.datasets.map((dataset) => {
    const { rows, templates, cap } = dataset;
    const capped = { ...dataset, cap: Math.min(LOOKED_AT, rows) };
    const size = templates.length * capped.cap;
    const source = windowSource(config, { ...mixture, datasets: [capped] }, tokenizer, size);
    // What is skipped is listed when training meets it; here it is only counted.
    const maker = new WindowMaker(source);
    const { counts } = maker.make(0, 0);
    maker.close();
    return {
      dataset: dataset.dataset,
      templates: templates.length,
      rows,
      cap,
      share: templates.length * Math.min(rows, cap) / epoch,
      counts: Object.fromEntries(
        COUNTS.map((name, i) => [name, counts[i]]),
      ) as MixtureRow["counts"],
    };
  });
}

/** What `mixture.json` says of a mixture before training. */
export function mixtureRecord({ name, rule, templates, missing, datasets }: Mixture) {
  const splits = datasets.map(({ dataset, splits, rows, templates, cap }) => ({
    dataset,
    splits: splits.map(({ split }) => split),
    rows,
    skipped: splits.reduce((sum, { skipped }) => sum + skipped, 0),
    templates,
    cap,
  }));
  return { name, rule, templates, missing, datasets: splits };
}

/** The table as text. */
export function mixtureLines(mixture: Mixture, table: readonly MixtureRow[]): string[] {
  const drops = Object.keys(DROPS) as (keyof typeof DROPS)[];
  const percent = (n: number, of: number) => percentText(n / of, 1, " %");
  const cells = table.map(({ dataset, templates, rows, cap, share, counts }) => {
    const dropped = drops.reduce((sum, d) => sum + counts[d], 0);
    return [
      dataset,
      String(templates),
      String(rows),
      cap >= rows ? NO_NUMBER : String(cap),
      percent(share, 1),
      percent(dropped, counts.seen),
      percent(counts.sourceCut, counts.seen),
      percent(counts.targetCut, counts.seen),
    ];
  });
  const total = table.reduce((sum, t) => sum + t.templates * Math.min(t.rows, t.cap), 0);
  const header = ["dataset", "templates", "rows", "cap", "share", "dropped", "cut", "target cut"];
  const met = drops.filter((d) => table.some(({ counts }) => counts[d] > 0));
  return [
    `mixture ${mixture.name} (${mixture.rule} rule): ${counted(table.length, "dataset")}, ` +
    `${
      counted(table.reduce((sum, t) => sum + t.templates, 0), "template")
    }, ${total} examples per epoch`,
    ...aligned([header, ...cells], 1),
    ...met.map((d) =>
      `dropped for ${DROPS[d]}: ` +
      table.filter(({ counts }) => counts[d] > 0)
        .map(({ dataset, counts }) => `${dataset} ${counts[d]} of ${counts.seen}`).join(", ")
    ),
    ...(mixture.missing.length > 0 ? [`left out, not there: ${mixture.missing.join(", ")}`] : []),
    `dropped and cut: shares among the first ${LOOKED_AT} rows of each template at most`,
  ];
}

/** What was skipped, as text; `met` is what training met of each dataset. */
export function badLines(
  mixture: Mixture,
  met: readonly { bad: number }[],
  messages: readonly string[],
): string[] {
  if (messages.length === 0) return [];
  const rows = mixtureRecord(mixture).datasets.reduce((sum, { skipped }) => sum + skipped, 0);
  const examples = met.reduce((sum, { bad }) => sum + bad, 0);
  return [
    `skipped: rows that cannot be read: ${rows}, unusable examples: ${examples}; the first of them:`,
    ...messages.slice(0, 10),
  ];
}
