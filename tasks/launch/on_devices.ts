/**
 * The jobs on several devices of this machine, a worker for each, with one call: what is learned and found is
 * the same for any number of them.
 *
 * @module
 */
import process from "node:process";
import type { OpenOptions } from "../../ops/mod.ts";
import { resolveModel } from "../checkpoints/hub.ts";
import { loadModel } from "../checkpoints/model.ts";
import { openFirst, prepareAdapters } from "../devices/prepare.ts";
import { evaluate, type EvaluateJob } from "../evaluate.ts";
import type { Evaluation } from "../evaluate/results.ts";
import { finetune, type FinetuneJob } from "../finetune.ts";
import { pretrain, type PretrainJob } from "../pretrain.ts";
import type { MetricRecord } from "../reports/metrics.ts";
import { evaluateByWorkers } from "./evaluate.ts";
import { train } from "./train.ts";

/** What to compute on. */
export interface DevicesOptions {
  /** How many devices of this machine share the work; one if absent. */
  devices?: number | "all";
  /** Their kind; `auto` if absent. */
  adapter?: OpenOptions["adapter"];
  /** Threads of the CPU, for all devices together; as many as it has if absent. */
  threads?: number;
  /** A device that gives no sign of life for so many seconds is taken for hung; 300 if absent. */
  timeout?: number;
  /** Training starts again from the last checkpoint after so many failures at most; 0 if absent. */
  retries?: number;
  /** Aborted when the user wants the job to stop. */
  interrupted?: AbortSignal;
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; columns?: number; write(text: string): unknown };
}

function completed({ devices = 1, timeout = 300, output, ...rest }: DevicesOptions) {
  return { ...rest, ranks: devices, timeout, output: output ?? process.stderr };
}

/**
 * Pretrains a model on one device or on several.
 *
 * @param job what {@link pretrain} takes, as plain data
 * @returns the run folder's last metric records
 * @throws {UserError} as {@link pretrain}, and if there are too few devices, or one fails or hangs
 *
 * @example
 * ```ts ignore
 * import { pretrainOnDevices } from "@metro/t0/tasks";
 *
 * await pretrainOnDevices(
 *   { run: "runs/base", given: { preset: "base", text: ["my/texts"] } },
 *   { devices: "all", retries: 3 },
 * );
 * ```
 */
export async function pretrainOnDevices(
  job: Omit<PretrainJob, "openDevice" | "group" | "interrupted" | "output">,
  options: DevicesOptions = {},
): Promise<MetricRecord[]> {
  const module = new URL("./pretrain_rank.ts", import.meta.url);
  return await train({ ...completed(options), job, module }, pretrain);
}

/**
 * Finetunes a model on one device or on several.
 *
 * @param job what {@link finetune} takes, as plain data
 * @returns the finetuning run's folder and its metric records
 * @throws {UserError} as {@link finetune}, and if there are too few devices, or one fails or hangs
 *
 * @example
 * ```ts ignore
 * import { finetuneOnDevices } from "@metro/t0/tasks";
 *
 * const { run } = await finetuneOnDevices({
 *   run: "runs/base",
 *   given: { mixture: ["T0"], data: "rows", templates: "promptsource/templates" },
 * }, { devices: 4 });
 * console.log(run);
 * ```
 */
export async function finetuneOnDevices(
  job: Omit<FinetuneJob, "openDevice" | "group" | "interrupted" | "output">,
  options: DevicesOptions = {},
): Promise<{ run: string; metrics: MetricRecord[] }> {
  const module = new URL("./finetune_rank.ts", import.meta.url);
  return await train({ ...completed(options), job, module }, finetune);
}

/**
 * Evaluates a model on one device or on several. What is written is the same to the byte.
 *
 * @param job what {@link evaluate} takes, as plain data; `run` can be a name on the Hub as well
 * @throws {UserError} as {@link evaluate}, and if there is no such model, there are too few devices, or one
 *   fails or hangs; what is finished by then is kept
 *
 * @example
 * ```ts ignore
 * import { evaluateOnDevices, writeEvaluation } from "@metro/t0/tasks";
 *
 * const run = "gonglinyuan/metro_t0_base", out = "runs/metro_t0_base/eval";
 * const job = { run, out, tasks: ["T0-Eval"], data: "rows", templates: "promptsource/templates" };
 * const evaluation = await evaluateOnDevices(job, { devices: "all" });
 * for (const line of await writeEvaluation(evaluation, { run, out })) console.log(line);
 * ```
 */
export async function evaluateOnDevices(
  { relativeMaxDistance, ...job }:
    & Omit<EvaluateJob, "model" | "group" | "interrupted" | "output">
    & {
      /** See `ModelOptions`. */
      relativeMaxDistance?: number;
    },
  options: DevicesOptions = {},
): Promise<Evaluation> {
  const { ranks, adapter, threads, timeout, interrupted, output } = completed(options);
  // Too few devices are better known before a model is downloaded.
  const placement = await prepareAdapters({ ranks, adapter, threads });
  const run = await resolveModel(job.run), name = job.run, reading = { relativeMaxDistance };
  const size = placement.environment.length;
  if (size > 1) {
    output.write(`${name} on ${size} devices\n`);
    const where = { placement, timeout, interrupted, output };
    return await evaluateByWorkers({ job: { ...job, run }, name, options: reading, ...where });
  }
  const device = await openFirst(placement);
  try {
    const loaded = await loadModel(device, run, reading);
    output.write(`${name} on ${device.adapterName}\n`);
    try {
      return await evaluate({ ...job, run, model: { ...loaded, name }, interrupted, output });
    } finally {
      loaded.destroy();
    }
  } finally {
    device.destroy();
  }
}
