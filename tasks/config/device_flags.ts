/**
 * The flags by which a command says what it computes on, and on how many GPUs.
 *
 * @module
 */

import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { describe } from "../command/options.ts";
import { MOST_THREADS } from "../devices/choose.ts";

/** The heading of these flags in `--help`. */
export const DEVICES = "Devices";

/** Flags of every command that computes. */
export const ADAPTER_OPTIONS = describe({
  adapter: {
    type: "choice",
    choices: ["auto", "gpu", "cpu", "software"],
    default: "auto",
    group: DEVICES,
    help:
      "auto: a GPU if there is one, else the CPU. software: the kernels of GPUs on a driver that computes " +
      "on the CPU, for tests; deno task setup installs it.",
  },
  threads: {
    type: "integer",
    min: 1,
    max: MOST_THREADS,
    group: DEVICES,
    help: "Threads of the CPU, shared by all devices on it. Default: as many as it has cores.",
  },
});

/** Flags of every command that can run on several devices; {@link parseDevices} reads the first. */
export const DEVICE_OPTIONS = describe({
  devices: {
    type: "string",
    unit: "number or all",
    default: "1",
    group: DEVICES,
    help:
      "How many GPUs of this machine share the work, a worker for each; `all` for every GPU. With " +
      "--adapter cpu, workers that share the cores.",
  },
  ...ADAPTER_OPTIONS,
  timeout: {
    type: "number",
    above: 0,
    unit: "seconds",
    default: 300,
    group: DEVICES,
    help: "Of several devices, one that gives no sign of life for so long is taken for hung.",
  },
});

/**
 * Reads the value of `--devices`.
 *
 * @throws {UserError} for anything but a whole number of at least 1, or `all`
 *
 * @example
 * ```ts
 * import { parseDevices } from "./device_flags.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(parseDevices("all"), "all");
 * assert.equal(parseDevices("2"), 2);
 * assert.throws(() => parseDevices("0"), {
 *   message: "--devices: expected a number of at least 1, or all, got '0'",
 * });
 * ```
 */
export function parseDevices(text: string): number | "all" {
  if (text === "all") return text;
  if (/^[1-9]\d{0,5}$/.test(text)) return Number(text);
  throw new UserError(`--devices: expected a number of at least 1, or all, got '${shown(text)}'`);
}

/** Flags of training commands. */
export const TRAIN_DEVICE_OPTIONS = describe({
  ...DEVICE_OPTIONS,
  retries: {
    type: "integer",
    min: 0,
    default: 0,
    group: DEVICES,
    help:
      "Starts again from the last checkpoint after so many failures at most: a device that was lost, a " +
      "rank that hung.",
  },
  requeue: {
    type: "boolean",
    default: false,
    group: DEVICES,
    help:
      "Go on from the run's checkpoint if there is one, else start it: for schedulers that run the " +
      "same command again. Under Slurm a requeued job does so by itself.",
  },
});
