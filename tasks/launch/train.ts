/**
 * Training on the devices of this machine: on one, in this thread, or with a worker for each and another
 * start after a failure.
 *
 * @module
 */
import type { Device } from "../../ops/mod.ts";
import type { Resume } from "../checkpoints/run_folder.ts";
import { type CpuRoom, cpuRoom } from "../plan/room.ts";
import type { DeviceFlags } from "../devices/choose.ts";
import { openFirst, prepareAdapters } from "../devices/prepare.ts";
import type { WorkerPlacement } from "../devices/open.ts";
import { runWorkers, type WorkersJob } from "../parallel/workers.ts";

/** A job that can be started again. */
export interface Resumable {
  /** Whether it goes on from the run's checkpoint. */
  resume?: Resume;
}

/** What every rank is given; plain data. */
export interface TrainArgs<Job> {
  /** What the ranks do. */
  job: Job;
  /** Where they compute. */
  placement: WorkerPlacement;
}

/** Where a job of one device computes. */
export interface RankPlace {
  /** Opens the device. */
  openDevice(): Promise<Device>;
  /** What it will be, if it is the processor. */
  cpu?: CpuRoom;
}

/** What {@link train} needs. */
export interface TrainJob<Job extends Resumable>
  extends
    DeviceFlags,
    Pick<WorkersJob<unknown>, "module" | "timeout" | "retries" | "interrupted" | "output"> {
  /** What to do: plain data. */
  job: Job;
  /** Devices to do it on. */
  ranks: number | "all";
}

/**
 * Trains on one device or on several.
 *
 * @param here does it in this thread, on one device
 * @returns what the job returned, on rank 0
 * @throws {UserError} there is no adapter, or too few; and what {@link trainByWorkers} throws
 */
export async function train<Job extends Resumable, Result>(
  { ranks, adapter, threads, job, interrupted, ...options }: TrainJob<Job>,
  here: (
    job: Job & RankPlace & Pick<TrainJob<Job>, "interrupted" | "output">,
  ) => Promise<Result>,
): Promise<Result> {
  const placement = await prepareAdapters({ ranks, adapter, threads });
  // Only another thread can be started again.
  if (ranks === 1 && !options.retries) {
    const place = { openDevice: () => openFirst(placement), cpu: cpuRoom(placement) };
    return await here({ ...job, ...place, interrupted, output: options.output });
  }
  return await trainByWorkers({ ...options, job, placement, interrupted });
}

/** What {@link trainByWorkers} needs. */
export interface TrainWorkersJob<Job>
  extends
    TrainArgs<Job>,
    Pick<WorkersJob<unknown>, "module" | "timeout" | "retries" | "interrupted" | "output"> {}

/**
 * Trains on several devices. After a failure that is nobody's mistake, all ranks start again, from the last
 * checkpoint or, if there is none yet, from the beginning.
 *
 * @returns what rank 0 returned
 * @throws {UserError} that a rank threw
 * @throws {Error} if a rank failed, ended or hung, and the retries are used up
 */
export async function trainByWorkers<Job extends Resumable, Result>(
  job: TrainWorkersJob<Job>,
): Promise<Result> {
  const { module, placement, timeout, retries, interrupted, output } = job;
  return await runWorkers<TrainArgs<Job>, Result>({
    module,
    args: { job: job.job, placement },
    size: placement.environment.length,
    timeout,
    retries,
    retry: (args) => ({ ...args, job: { ...args.job, resume: "requeue" } }),
    interrupted,
    output,
  });
}
