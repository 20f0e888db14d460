/**
 * Progress of a long job: three live lines under a bar on a terminal, plain lines elsewhere (a log
 * file, CI). It shows the records of `metrics.jsonl` and measures nothing itself.
 *
 * @module
 */
import cliProgress from "cli-progress";
import process from "node:process";
import { type FigureKey, FIGURES, formatFigure, type MetricRecord } from "./metrics.ts";

/** Away from a terminal, at most one line in this many seconds of the run. */
const SECONDS_PER_LINE = 5;

/** Which figures stand in which line under the bar, in order. */
const ROWS: readonly (readonly FigureKey[])[] = [
  ["loss", "mlmLoss", "rtdLoss", "clmLoss", "learningRate", "tokensPerSecond"],
  [
    "accuracy",
    "mlmAccuracy",
    "rtdRecall",
    "rtdPrecision",
    "rtdAuc",
    "clmAccuracyReplaced",
    "clmAccuracyOther",
    "targetAmbiguity",
  ],
];

/** The plain line has the same figures; the long-lasting ones come last. */
const LINE: readonly FigureKey[] = [
  ...ROWS[0].slice(0, 4),
  ...ROWS[1],
  "learningRate",
  "tokensPerSecond",
];

/** Columns that a value takes, so that lines stand under one another. */
const WIDTHS = { loss: 6, percent: 6, area: 5, rate: 6, small: 7, count: 6, time: 7 } as const;

/** The library writes notes over the bars without erasing these first. */
const ERASE_REST_OF_LINE = "\x1b[K";

/** Where progress is written to: `process.stderr`, or a stand-in for it. */
export interface Output {
  /** Whether it is a terminal, on which lines can be written over. */
  isTTY?: boolean;
  /** Writes text. */
  write(text: string): unknown;
}

/** A running display of progress. */
export interface Progress {
  /** Shows a record that has been made. Held-out records stay on the screen. */
  show(record: MetricRecord): void;
  /** Writes a sentence that stays on the screen: "Saved update 500." */
  note(text: string): void;
  /** Ends the display; call it also when the job fails, to give the terminal back. */
  stop(): void;
}

/**
 * Starts to show progress.
 *
 * @param total how many updates the job will have made at its end
 * @param output standard error, so that standard output stays free for results
 *
 * @example
 * ```ts
 * import { startProgress } from "./progress.ts";
 * import assert from "node:assert/strict";
 *
 * let log = "";
 * const progress = startProgress(100, { write: (text) => log += text });
 * progress.show({ kind: "train", update: 5, seconds: 1, loss: 9.5 });
 * progress.stop();
 * assert.equal(log, "  5/100  loss  9.500\n");
 * ```
 */
export function startProgress(total: number, output: Output = process.stderr): Progress {
  return output.isTTY ? liveProgress(total, output) : plainProgress(total, output);
}

/**
 * A record as one line: update, held-out or not, then every figure that the record has, with a dash
 * for one that is no number.
 *
 * @param total how many updates there will be, for the width of the first column
 *
 * @example
 * ```ts
 * import { progressLine } from "./progress.ts";
 * import assert from "node:assert/strict";
 *
 * const record = { kind: "train", update: 5, loss: 9.5, learningRate: 1e-4 } as const;
 * assert.equal(progressLine(record, 100), "  5/100  loss  9.500  lr 1.00e-4");
 * ```
 */
export function progressLine(record: MetricRecord, total: number): string {
  const count = `${record.update}`.padStart(`${total}`.length) + `/${total}`;
  const kind = record.kind === "heldout" ? ["held-out"] : [];
  return [count, ...kind, ...figuresOf(record, LINE)].join("  ");
}

function figuresOf(record: MetricRecord, keys: readonly FigureKey[]): string[] {
  return keys.flatMap((key) => {
    const value = record[key];
    if (value === undefined || typeof value === "string") return [];
    const { short, style } = FIGURES[key];
    const text = formatFigure(key, value).padStart(WIDTHS[style]);
    return [style === "rate" ? `${text} ${short}` : `${short} ${text}`];
  });
}

function plainProgress(total: number, output: Output): Progress {
  let nextLine = -Infinity;
  let waiting: MetricRecord | undefined;
  const print = (record: MetricRecord) => output.write(progressLine(record, total) + "\n");
  return {
    show(record) {
      const seconds = Number(record.seconds ?? 0);
      if (record.kind === "train" && seconds < nextLine) {
        waiting = record;
        return;
      }
      waiting = undefined;
      if (record.kind === "train") nextLine = seconds + SECONDS_PER_LINE;
      print(record);
    },
    note: (text) => void output.write(text + "\n"),
    stop() {
      if (waiting) print(waiting);
      waiting = undefined;
    },
  };
}

function liveProgress(total: number, output: Output): Progress {
  const bars = new cliProgress.MultiBar({
    stream: output,
    format: "{bar} {value}/{total}  {remaining}",
    barCompleteChar: "█",
    barIncompleteChar: "░",
    barsize: 32,
    hideCursor: true,
    clearOnComplete: false,
    fps: 4,
    forceRedraw: true, // a note moves the bars down by a line, also those whose text is the same
    gracefulExit: false, // the job handles Ctrl-C itself: it saves a checkpoint first
  });
  const bar = bars.create(total, 0, { remaining: "" });
  const rows = ROWS.map(() => bars.create(1, 0, { text: "" }, { format: "{text}" }));
  const note = (text: string) => bars.log(`${text}${ERASE_REST_OF_LINE}\n`);
  let first: MetricRecord | undefined;
  return {
    show(record) {
      if (record.kind === "heldout") {
        note(progressLine(record, total));
        return;
      }
      first ??= record;
      bar.update(record.update, { remaining: remaining(first, record, total) });
      rows.forEach((row, i) => row.update(0, { text: figuresOf(record, ROWS[i]).join("  ") }));
    },
    note,
    stop: () => bars.stop(),
  };
}

/** The time left at the pace since the first record, which a resumed run counts from. */
function remaining(first: MetricRecord, last: MetricRecord, total: number): string {
  const updates = last.update - first.update;
  if (updates <= 0) return "";
  const pace = (Number(last.seconds) - Number(first.seconds)) / updates;
  return Number.isFinite(pace)
    ? `${formatFigure("seconds", pace * (total - last.update))} left`
    : "";
}
