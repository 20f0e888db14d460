/**
 * Evaluation on the devices of this machine: on one, in this thread, or with a worker for each, which share
 * the batches.
 *
 * @module
 */
import { join } from "node:path";
import { resolveModel } from "../checkpoints/hub.ts";
import { loadModel, type ModelOptions } from "../checkpoints/model.ts";
import { openFirst, prepareAdapters, type WorkerPlacement } from "../devices/open.ts";
import { SUMMARIES } from "../evaluate/report.ts";
import { lock } from "../files/lock.ts";
import { expectFile } from "../files/write.ts";
import { evaluate, type EvaluateJob } from "../evaluate.ts";
import type { Evaluation } from "../evaluate/results.ts";
import { completed, type DevicesOptions } from "./options.ts";
import { runWorkers, type WorkersJob } from "../parallel/workers.ts";

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
  { inputEndToken, relativeMaxDistance, allowNonfinite, ...job }:
    & Omit<EvaluateJob, "model" | "group" | "interrupted" | "output">
    & {
      /** See `ModelOptions`. */
      relativeMaxDistance?: number;
      /** See `ModelOptions`. */
      inputEndToken?: ModelOptions["inputEndToken"];
      /** See `ModelOptions`. */
      allowNonfinite?: boolean;
    },
  options: DevicesOptions = {},
): Promise<Evaluation> {
  const { ranks, adapter, threads, timeout, interrupted, output } = completed(options);
  using _held = await lock(join(job.out, "eval.lock"), {
    what: job.out,
    doing: "evaluation",
    otherwise: "wait until it has ended, or give another --out",
    say: (text) => void output.write(`${text}\n`),
  });
  for (const name of SUMMARIES) await expectFile(join(job.out, name));
  // Too few devices are better known before a model is downloaded.
  const placement = await prepareAdapters({ ranks, adapter, threads });
  const run = await resolveModel(job.run),
    name = job.run,
    reading = { inputEndToken, relativeMaxDistance, allowNonfinite };
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

/** What every rank is given. Plain data. */
export interface EvaluateArgs {
  /** The evaluation, without what each rank has of its own; `run` is where the model is read from. */
  job: Omit<EvaluateJob, "model" | "group" | "interrupted" | "output">;
  /** What the model is called in the results. */
  name: string;
  /** How to read the model. */
  options: Pick<ModelOptions, "inputEndToken" | "relativeMaxDistance" | "allowNonfinite">;
  /** Where the ranks compute, and with it how many there are. */
  placement: WorkerPlacement;
}

/** What {@link evaluateByWorkers} needs. */
export interface EvaluateWorkersJob
  extends EvaluateArgs, Pick<WorkersJob<EvaluateArgs>, "timeout" | "interrupted" | "output"> {}

/**
 * Evaluates a model on several devices. What is written is the same to the byte as on one of them.
 *
 * @throws {UserError} as `evaluate`, and if a device cannot be opened, fails or hangs; what is
 * finished by then is kept
 */
export function evaluateByWorkers(
  { timeout, interrupted, output, ...args }: EvaluateWorkersJob,
): Promise<Evaluation> {
  return runWorkers<EvaluateArgs, Evaluation>({
    module: new URL("./evaluate_rank.ts", import.meta.url),
    args,
    size: args.placement.environment.length,
    timeout,
    interrupted,
    output,
  });
}
