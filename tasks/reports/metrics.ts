/**
 * `metrics.jsonl`: what a run measured, one JSON object per line, appended while it goes on.
 *
 * Two kinds of record: `train` (means since the record before) and `heldout` (the held-out part of
 * the text). {@link FIGURES} says how each number is called and written; progress, report and
 * tables all go by it.
 *
 * @module
 */
import { type FileHandle, open } from "node:fs/promises";
import { createHash, type Hash } from "node:crypto";
import { UserError } from "../../ops/graph/errors.ts";
import { readText } from "../files/read.ts";
import { exists, fileError, writeFile } from "../files/write.ts";
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
  targetAmbiguity: {
    label: "Target tokens that the source shows as they are",
    short: "ambiguous",
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

/** How far `metrics.jsonl` belongs to a checkpoint, and what it holds up to there. */
export interface MetricsMark {
  /** Bytes from the beginning. */
  bytes: number;
  /** SHA-256 of them. */
  sha256: string;
}

/** A `metrics.jsonl` that is open for appending. */
export interface MetricsFile {
  /** Whether lines that belong to the checkpoint are gone, with the file. */
  readonly isLost: boolean;
  /**
   * Adds a line. A number that is not finite (an accuracy of nothing: 0/0) becomes null, since JSON
   * cannot hold it. Throws a `UserError` when the disk is full, or the file is not there any more.
   */
  append(record: MetricRecord): Promise<void>;
  /** Flushes to the disk; says what there is, for {@link openMetrics}. */
  mark(): Promise<MetricsMark>;
  /** Flushes to the disk, and closes. */
  close(): Promise<void>;
}

/**
 * Opens `metrics.jsonl` to go on from a checkpoint. Lines after it, which the run will write again, are
 * dropped, and so is a last line that a kill has torn.
 *
 * @param path the file; made when absent
 * @param from what {@link MetricsFile.mark} said when the checkpoint was saved; or, of a checkpoint that
 * does not know, its update: below 0 for a new run
 * @throws {UserError} a line, other than the last, that is no record; or lines of the checkpoint that are not
 * as they were
 *
 * @example
 * ```ts
 * import { openMetrics, readMetrics } from "./metrics.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-"), path = `${run}/metrics.jsonl`;
 * const metrics = await openMetrics(path, -1);
 * await metrics.append({ kind: "train", update: 10, loss: 9.5 });
 * const mark = await metrics.mark();
 * await metrics.append({ kind: "train", update: 20, loss: 9 });
 * await metrics.close();
 * await (await openMetrics(path, mark)).close();
 * assert.deepEqual(await readMetrics(path), [{ kind: "train", update: 10, loss: 9.5 }]);
 * await rm(run, { recursive: true });
 * ```
 */
export async function openMetrics(
  path: string,
  from: number | MetricsMark,
): Promise<MetricsFile> {
  const isLost = typeof from !== "number" && from.bytes > 0 && !await exists(path);
  const before = await textOf(path);
  const after = isLost
    ? ""
    : typeof from === "number"
    ? linesUpTo(before, path, from)
    : markedPart(before, path, from);
  if (after !== before) await writeFile(path, after);

  const digest = createHash("sha256").update(after);
  let bytes = new TextEncoder().encode(after).length;
  const file = await open(path, "a").catch((error) => {
    throw fileError(error, "writing", path);
  });
  return {
    isLost,
    append: async (record) => void (bytes += await appendLine(file, path, record, digest)),
    async mark() {
      await file.sync();
      return { bytes, sha256: digest.copy().digest("hex") };
    },
    async close() {
      await file.sync();
      await file.close();
    },
  };
}

function linesUpTo(text: string, path: string, update: number): string {
  const kept = parseLines(text, path).filter((record) => record.update <= update);
  return kept.map((record) => JSON.stringify(record) + "\n").join("");
}

/** The lines that belong to a checkpoint; a report with a hole, or with figures of somebody's, is none. */
function markedPart(text: string, path: string, { bytes, sha256 }: MetricsMark): string {
  const all = new TextEncoder().encode(text), marked = all.subarray(0, bytes);
  if (createHash("sha256").update(marked).digest("hex") === sha256) {
    return new TextDecoder().decode(marked);
  }
  throw new UserError(
    `${path}: ` +
      (all.length < bytes
        ? `expected at least the ${bytes} bytes of the checkpoint, got ${all.length}`
        : "was changed since the checkpoint was saved") +
      "; put back a copy of the file, or delete it to go on without the figures so far",
  );
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

/** Of weeks of training; longer texts fit no string. Bytes. */
const MAX_METRICS = 1 << 29;

async function textOf(path: string): Promise<string> {
  return await exists(path) ? readText(path, MAX_METRICS) : "";
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

/** @returns bytes written */
async function appendLine(
  file: FileHandle,
  path: string,
  record: MetricRecord,
  digest: Hash,
): Promise<number> {
  // Bytes that nobody can read any more are not worth writing.
  if (!await exists(path)) {
    throw new UserError(`${path}: is not there any more: its folder was moved or deleted`);
  }
  // NaN and infinities become null.
  const line = new TextEncoder().encode(JSON.stringify(record) + "\n");
  try {
    await file.appendFile(line);
  } catch (error) {
    throw fileError(error, "writing", path);
  }
  digest.update(line);
  return line.length;
}
