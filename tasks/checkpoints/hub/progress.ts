/**
 * Progress of a download: one bar on a terminal, a line per file elsewhere.
 *
 * @module
 */

import cliProgress from "cli-progress";
import type { Output } from "../../reports/progress.ts";

/** A running display of a download. */
export interface DownloadProgress {
  /** Announces files that will be downloaded. */
  plan(files: readonly { size: number }[]): void;
  /** Goes on to the next file. */
  begin(file: { name: string; size: number }): void;
  /** So many bytes of the file are already there; they do not count for the rate. */
  seek(bytes: number): void;
  /** So many more bytes have come. */
  advance(bytes: number): void;
  /** Ends the display. */
  stop(): void;
}

/**
 * Starts to show a download; nothing is written before a file is begun.
 *
 * @param model what is downloaded
 * @param output standard error, or a stand-in for it
 *
 * @example
 * ```ts
 * import { startDownload } from "./progress.ts";
 * import assert from "node:assert/strict";
 *
 * let log = "";
 * const progress = startDownload("google/t5", { write: (text) => log += text });
 * const file = { name: "config.json", size: 1200 };
 * progress.plan([file]);
 * progress.begin(file);
 * progress.advance(1200);
 * progress.stop();
 * assert.equal(log, "google/t5: downloading config.json, 1.20 kB\n");
 * ```
 */
export function startDownload(model: string, output: Output): DownloadProgress {
  return output.isTTY ? liveDownload(model, output) : plainDownload(model, output);
}

function plainDownload(model: string, output: Output): DownloadProgress {
  return {
    plan() {},
    begin({ name, size }) {
      output.write(`${model}: downloading ${name}, ${formatBytes(size)}\n`);
    },
    seek() {},
    advance() {},
    stop() {},
  };
}

function liveDownload(model: string, output: Output): DownloadProgress {
  const bar = new cliProgress.SingleBar({
    stream: output,
    format: `{bar} {done} of {all}  {rate}  ${model}: {name}`,
    barCompleteChar: "█",
    barIncompleteChar: "░",
    barsize: 32,
    fps: 4,
    gracefulExit: false, // it would send itself a signal, which takes a permission
  });
  let [total, before, position, came, started] = [0, 0, 0, 0, 0];
  let current: { name: string; size: number } | undefined;
  const texts = () => ({
    done: formatBytes(before + position),
    all: formatBytes(total),
    rate: `${formatBytes(came / Math.max(0.001, (performance.now() - started) / 1000))}/s`,
    name: current?.name,
  });
  const show = () => bar.update(before + position, texts());
  return {
    plan(files) {
      total += files.reduce((sum, { size }) => sum + size, 0);
      if (current) bar.setTotal(total);
    },
    begin(file) {
      const isFirst = !current;
      before += current?.size ?? 0;
      [current, position] = [file, 0];
      if (!isFirst) return show();
      started = performance.now();
      bar.start(total, 0, texts());
    },
    seek(bytes) {
      position = bytes;
      show();
    },
    advance(bytes) {
      position += bytes;
      came += bytes;
      show();
    },
    stop() {
      if (current) bar.stop();
    },
  };
}

/**
 * Bytes for people, in powers of 1000 as the Hub's pages show them.
 *
 * @example
 * ```ts
 * import { formatBytes } from "./progress.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(formatBytes(903_456_789), "903 MB");
 * assert.equal(formatBytes(12), "12 B");
 * ```
 */
export function formatBytes(bytes: number): string {
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  if (power === 0) return `${Math.round(bytes)} B`;
  return `${(bytes / 1000 ** power).toPrecision(3)} ${" kMGT"[power]}B`;
}
