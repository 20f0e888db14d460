/**
 * What data parallelism costs on this machine: updates with and without the exchange of gradients and
 * weights, alternately, and the all-reduce by itself.
 *
 * @module
 */
import { type PresetName, PRESETS } from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { nearest } from "../command/nearest.ts";
import { fixedText } from "../command/number_text.ts";
import { trafficOf } from "../parallel/communicator.ts";
import type { WorkerPlacement } from "../devices/open.ts";
import { runWorkers } from "../parallel/workers.ts";
import type { ParallelArgs, ParallelTimes } from "./parallel_rank.ts";
import { align } from "../command/table.ts";
import { median } from "./timing.ts";

/** What {@link benchParallel} measures. */
export interface ParallelJob {
  /** Which model. */
  preset: PresetName;
  /** Tokens of a rank in an update. */
  tokens: number;
  /** Pairs of updates. */
  repeat: number;
  /** Where the ranks compute, and with it how many there are. */
  placement: WorkerPlacement;
  /** Where lines for the user go. */
  output: { write(text: string): unknown };
}

/** What {@link benchParallel} found. */
export interface ParallelReport extends ParallelTimes {
  /** Ranks. */
  ranks: number;
  /** Which model. */
  preset: PresetName;
  /** Tokens of a rank in an update. */
  tokens: number;
  /** Bytes of one rank's array per second of all-reduce: the median. */
  allReduceBytesPerSecond: number;
  /** Seconds of an exchanging update over those of the one before it, without: the median. */
  ratio: number;
  /** What a rank sends by the formula 2 × parameters × 4 × (N − 1) / N. */
  formulaBytes: number;
}

/** Bytes of the array that is all-reduced. */
const ALL_REDUCED = 64 << 20;
/** Seconds without a sign of life: an update of a large model on a CPU takes long. */
const PATIENCE = 3600;

/** Times updates of several ranks on this machine. */
export async function benchParallel(job: ParallelJob): Promise<ParallelReport> {
  const { preset, tokens, repeat, placement, output } = job;
  const size = placement.environment.length;
  const times = await runWorkers<ParallelArgs, ParallelTimes>({
    module: new URL("./parallel_rank.ts", import.meta.url),
    args: { preset, tokens, repeat, bytes: ALL_REDUCED, placement },
    size,
    timeout: PATIENCE,
    output,
  });
  return {
    ...times,
    ...{ ranks: size, preset, tokens },
    allReduceBytesPerSecond: ALL_REDUCED / median(times.allReduce),
    ratio: median(times.exchanging.map((seconds, i) => seconds / times.isolated[i])),
    formulaBytes: trafficOf(4 * times.parameters, size, 2),
  };
}

/**
 * The preset that `--preset` names, for a benchmark of one model.
 *
 * @throws {UserError} if it names none, or several
 */
export function onePreset(names: readonly string[] | undefined, otherwise: PresetName): PresetName {
  if (names === undefined) return otherwise;
  const [name] = names;
  const found = PRESETS.find((preset) => preset === name);
  if (found && names.length === 1) return found;
  const hint = names.length > 1 ? "" : `; did you mean ${nearest(name, PRESETS)}?`;
  throw new UserError(
    `--preset: expected one of ${PRESETS.join(", ")}, got ${names.join(" ")}${hint}`,
  );
}

/** The findings as a table for people. */
export function parallelTable(report: ParallelReport): string {
  const { ranks, preset, tokens, exchanging, isolated, ratio, bytesSent, formulaBytes } = report;
  const { momentBytes, parameters, allReduceBytesPerSecond, adapter } = report;
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  const range = (seconds: readonly number[]) =>
    `${median(seconds).toFixed(3)} s (${Math.min(...seconds).toFixed(3)}–${
      Math.max(...seconds).toFixed(3)
    })`;
  const share = 8 * parameters / ranks;
  const rows = [
    ["update without exchange", range(isolated), `median of ${isolated.length} (least–most)`],
    [
      "update with exchange",
      range(exchanging),
      `${fixedText(ratio, 3)} × without (median of pairs)`,
    ],
    [
      "bytes sent by a rank",
      mb(bytesSent),
      `${fixedText(bytesSent / formulaBytes, 4)} × 2·P·4·(N−1)/N`,
    ],
    ["AdamW's moments of a rank", mb(momentBytes), `${fixedText(momentBytes / share, 4)} × 8·P/N`],
    [
      "all-reduce of 64 MiB",
      `${(allReduceBytesPerSecond / 1e9).toFixed(2)} GB/s`,
      "of one rank's array",
    ],
  ];
  return `${ranks} ranks as workers, ${preset}, ${tokens} tokens each, ${adapter}\n` +
    align(rows, 1);
}
