/**
 * `metrics.jsonl`: what a run measured, one JSON object per line, appended while it goes on.
 *
 * Two kinds of record: `train` (means since the record before) and `heldout` (the held-out part of
 * the text). {@link FIGURES} says how each number is called and written; progress, report and
 * tables all go by it.
 *
 * @module
 */
import { type FileHandle, open, readFile } from "node:fs/promises";
import { UserError } from "../../ops/graph/errors.ts";
import { writeFile } from "../files/write.ts";
import { fixedText, numberText, percentText } from "../command/number_text.ts";

/** One line of `metrics.jsonl`. */
export interface MetricRecord {
  /** `train` or `heldout`. */
  kind: "train" | "heldout";
  /** How many updates had been made. */
  update: number;
  /** The figures, by the keys of {@link FIGURES}; null, or NaN, for a share of nothing. */
  [figure: string]: number | string | null;
}

/** How a figure is called and written. */
export interface Figure {
  /** In a sentence or over a column: "MLM accuracy". */
  label: string;
  /** In the narrow progress line: "mlm acc". */
  short: string;
  /** How its values are written. */
  style: "loss" | "percent" | "area" | "rate" | "count" | "time" | "small";
}

/** Every figure that a run may record, by key. */
export const FIGURES = {
  loss: { label: "Loss", short: "loss", style: "loss" },
  mlmLoss: { label: "MLM loss", short: "mlm", style: "loss" },
  rtdLoss: { label: "RTD loss", short: "rtd", style: "loss" },
  clmLoss: { label: "CLM loss", short: "clm", style: "loss" },
  accuracy: { label: "Accuracy", short: "acc", style: "percent" },
  mlmAccuracy: { label: "MLM accuracy", short: "mlm acc", style: "percent" },
  rtdRecall: { label: "RTD recall", short: "rtd rec", style: "percent" },
  rtdPrecision: { label: "RTD precision", short: "prec", style: "percent" },
  rtdAuc: { label: "RTD area under the ROC curve", short: "auc", style: "area" },
  clmAccuracyReplaced: {
    label: "CLM accuracy on replaced positions",
    short: "clm acc repl",
    style: "percent",
  },
  clmAccuracyOther: {
    label: "CLM accuracy on other positions",
    short: "other",
    style: "percent",
  },
  baselineAccuracy: {
    label: "Accuracy of always guessing the most frequent token",
    short: "baseline acc",
    style: "percent",
  },
  learningRate: { label: "Learning rate", short: "lr", style: "small" },
  gradNorm: { label: "Gradient norm", short: "grad", style: "loss" },
  tokensPerSecond: { label: "Tokens per second", short: "tok/s", style: "rate" },
  tokens: { label: "Tokens", short: "tokens", style: "count" },
  epoch: { label: "Epoch", short: "epoch", style: "count" },
  seconds: { label: "Time", short: "time", style: "time" },
} as const satisfies Readonly<Record<string, Figure>>;

/** The key of a figure. */
export type FigureKey = keyof typeof FIGURES;

/**
 * A figure's value as text: losses with three decimals, shares in percent, counts with separators; a
 * dash for what is no number.
 *
 * @example
 * ```ts
 * import { formatFigure } from "./metrics.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(formatFigure("mlmLoss", 6.25), "6.250");
 * assert.equal(formatFigure("rtdRecall", 0.5), "50.0%");
 * assert.equal(formatFigure("rtdPrecision", 0 / 0), "–");
 * assert.equal(formatFigure("tokensPerSecond", 12345.6), "12,346");
 * assert.equal(formatFigure("learningRate", 2e-4), "2.00e-4");
 * assert.equal(formatFigure("seconds", 3725), "1:02:05");
 * ```
 */
export function formatFigure(figure: FigureKey, value: number | null): string {
  return numberText(value, WRITERS[FIGURES[figure].style]);
}

const WRITERS: Readonly<Record<Figure["style"], (value: number) => string>> = {
  loss: (value) => fixedText(value, 3),
  percent: (share) => percentText(share),
  area: (value) => fixedText(value, 3),
  rate: separated,
  count: separated,
  time: formatTime,
  small: (value) => value.toExponential(2),
};

function separated(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function formatTime(seconds: number): string {
  const whole = Math.round(seconds);
  const two = (n: number) => `${Math.floor(n) % 60}`.padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(whole / 60)}:${two(whole)}`;
}

/** A `metrics.jsonl` that is open for appending. */
export interface MetricsFile {
  /**
   * Adds a line. A number that is not finite (an accuracy of nothing: 0/0) becomes null, since JSON
   * cannot hold it. Throws a `UserError` when the disk is full.
   */
  append(record: MetricRecord): Promise<void>;
  /** Flushes to the disk, and closes. */
  close(): Promise<void>;
}

/**
 * Opens `metrics.jsonl` to go on after an update. Lines past that update, which the run will write
 * again, are dropped, and so is a last line that a kill has torn.
 *
 * @param path the file; made when absent
 * @param update the update of the checkpoint that the run goes on from; 0 for a new run
 * @throws {UserError} a line, other than the last, that is no record
 *
 * @example
 * ```ts
 * import { openMetrics, readMetrics } from "./metrics.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-"), path = `${run}/metrics.jsonl`;
 * const metrics = await openMetrics(path, 0);
 * await metrics.append({ kind: "train", update: 10, loss: 9.5 });
 * await metrics.close();
 * assert.deepEqual(await readMetrics(path), [{ kind: "train", update: 10, loss: 9.5 }]);
 * await rm(run, { recursive: true });
 * ```
 */
export async function openMetrics(path: string, update: number): Promise<MetricsFile> {
  const before = await textOf(path);
  const kept = parseLines(before, path).filter((record) => record.update <= update);
  const after = kept.map((record) => JSON.stringify(record) + "\n").join("");
  if (after !== before) await writeFile(path, after);

  const file = await open(path, "a");
  return {
    append: (record) => appendLine(file, path, record),
    async close() {
      await file.sync();
      await file.close();
    },
  };
}

/**
 * Reads `metrics.jsonl`. A last line that was torn off is passed over.
 *
 * @returns the records in the order of the file; none when there is no such file
 * @throws {UserError} a line, other than the last, that is no record
 *
 * @example
 * ```ts
 * import { readMetrics } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(await readMetrics("no-such-run/metrics.jsonl"), []);
 * ```
 */
export async function readMetrics(path: string): Promise<MetricRecord[]> {
  return parseLines(await textOf(path), path);
}

async function textOf(path: string): Promise<string> {
  return await readFile(path, "utf8").catch((error) => {
    if (error.code === "ENOENT") return "";
    throw error;
  });
}

function parseLines(text: string, path: string): MetricRecord[] {
  const lines = text.split("\n");
  return lines.flatMap((line, i) => {
    const record = parseRecord(line);
    if (record) return [record];
    // A kill tears the last line only; anything else has been done to the file by someone.
    if (i === lines.length - 1) return [];
    throw new UserError(
      `${path}: line ${i + 1}: expected a JSON object with kind and update, got ` +
        `'${line.length > 60 ? line.slice(0, 60) + "..." : line}'; mend or delete the line`,
    );
  });
}

function parseRecord(line: string): MetricRecord | undefined {
  try {
    const record = JSON.parse(line);
    const isRecord = ["train", "heldout"].includes(record?.kind) &&
      Number.isSafeInteger(record.update);
    return isRecord ? record : undefined;
  } catch {
    return undefined;
  }
}

async function appendLine(file: FileHandle, path: string, record: MetricRecord): Promise<void> {
  // NaN and infinities become null.
  const line = JSON.stringify(record) + "\n";
  try {
    await file.appendFile(line);
  } catch (error) {
    if ((error as { code?: string }).code !== "ENOSPC") throw error;
    throw new UserError(`writing ${path}: the disk is full; make room, then run with --resume`);
  }
}
