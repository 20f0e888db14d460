/**
 * Training on the devices of this machine: on one, in this thread, or with a worker for each and another
 * start after a failure.
 *
 * @module
 */
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { checkpointFile } from "../checkpoint.ts";
import { exists } from "../run_folder.ts";
import { type Device, openDevice } from "../../ops/mod.ts";
import { prepareAdapters } from "./prepare_adapters.ts";
import type { AdapterChoice } from "./placement.ts";
import type { WorkerPlacement } from "./rank_device.ts";
import { runWorkers, type WorkersJob } from "./workers.ts";

/** What every rank is given; plain data. */
export interface TrainArgs<Job> {
  /** What the ranks do. */
  job: Job;
  /** Where they compute. */
  placement: WorkerPlacement;
}

/** What {@link train} needs. */
export interface TrainJob<Job>
  extends Pick<WorkersJob<unknown>, "module" | "timeout" | "retries" | "interrupted" | "output"> {
  /** What to do: plain data. */
  job: Job;
  /** Devices to do it on. */
  ranks: number | "all";
  /** Which adapters they are. */
  adapter: AdapterChoice;
  /** Folder of the run, and the job that goes on with it; asked for with several devices only. */
  again(): Promise<{ folder: string; resumed: Job }>;
}

/**
 * Trains on one device or on several.
 *
 * @param here does it in this thread, on one device
 * @returns what the job returned, on rank 0
 * @throws {UserError} there is no adapter, or too few; and what {@link trainByWorkers} throws
 */
export async function train<Job, Result>(
  { ranks, adapter, job, again, interrupted, ...options }: TrainJob<Job>,
  here: (
    job: Job & { openDevice(): Promise<Device> } & Pick<TrainJob<Job>, "interrupted" | "output">,
  ) => Promise<Result>,
): Promise<Result> {
  const prepare = () => prepareAdapters({ ranks, adapter });
  if (ranks === 1) {
    const openOne = async () => {
      await prepare();
      return await openDevice({ software: adapter === "software" });
    };
    return await here({ ...job, openDevice: openOne, interrupted, output: options.output });
  }
  const { folder, resumed } = await again();
  const placement = await prepare();
  return await trainByWorkers({ ...options, job, resumed, folder, placement, interrupted });
}

/** What {@link trainByWorkers} needs. */
export interface TrainWorkersJob<Job>
  extends
    TrainArgs<Job>,
    Pick<WorkersJob<unknown>, "module" | "timeout" | "retries" | "interrupted" | "output"> {
  /** Folder of the run. */
  folder: string;
  /** The job that goes on with the folder's run. */
  resumed: Job;
}

/**
 * Trains on several devices. After a failure that is nobody's mistake, all ranks start again, from the last
 * checkpoint or, if there is none yet, from the beginning.
 *
 * @returns what rank 0 returned
 * @throws {UserError} that a rank threw
 * @throws {Error} if a rank failed, ended or hung, and the retries are used up
 */
export async function trainByWorkers<Job, Result>(job: TrainWorkersJob<Job>): Promise<Result> {
  const { module, placement, folder, timeout, retries, interrupted, output } = job;
  return await runWorkers<TrainArgs<Job>, Result>({
    module,
    args: { job: job.job, placement },
    size: placement.environment.length,
    timeout,
    retries,
    retry: async (args) => {
      if (await hasCheckpoint(folder)) return { ...args, job: job.resumed };
      await forgetRun(folder);
      return args;
    },
    interrupted,
    output,
  });
}

/** Whether there is something to go on from. */
export async function hasCheckpoint(folder: string): Promise<boolean> {
  return await exists(await checkpointFile(folder, "training.json"));
}

/** Lets a folder whose run has begun but saved nothing be used by a new one. */
export async function forgetRun(folder: string): Promise<void> {
  await rm(join(folder, "config.json"), { force: true });
}
