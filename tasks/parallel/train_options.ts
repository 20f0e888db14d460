/**
 * The flags by which training on several devices is kept going.
 *
 * @module
 */

import { UserError } from "../../ops/errors.ts";
import { describe } from "../options.ts";
import { DEVICE_OPTIONS, DEVICES } from "./device_options.ts";
import { forgetRun, hasCheckpoint } from "./train_workers.ts";

/** Flags of training commands. */
export const TRAIN_DEVICE_OPTIONS = describe({
  ...DEVICE_OPTIONS,
  retries: {
    type: "integer",
    min: 0,
    default: 0,
    group: DEVICES,
    help:
      "Starts again from the last checkpoint, with several devices, after so many failures at most: " +
      "a device that was lost, a rank that hung.",
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

/** The environment variables that {@link jobName} and {@link resumes} read. */
export const SLURM_VARIABLES = ["SLURM_JOB_ID", "SLURM_RESTART_COUNT"] as const;

/** What a new run is called: under Slurm after its job, which keeps its number when it is requeued. */
export function jobName(name: string): { name: string; isJob: boolean } {
  const job = Deno.env.get("SLURM_JOB_ID");
  return job ? { name: `${name}-job${job}`, isJob: true } : { name, isJob: false };
}

/**
 * Whether to go on from a folder's checkpoint. Of a run that is to be started again, what was left before
 * the first checkpoint is no hindrance.
 *
 * @param flags what the user gave
 * @param folder of the run, if it can be known
 * @throws {UserError} for `--requeue` without a folder that the next start would find
 */
export async function resumes(
  { resume, requeue }: { resume: boolean; requeue: boolean },
  folder: string | undefined,
): Promise<boolean> {
  if (resume) return true;
  if (!requeue && !(Number(Deno.env.get("SLURM_RESTART_COUNT") ?? 0) > 0)) return false;
  if (folder === undefined) {
    throw new UserError(
      "--requeue: expected --run FOLDER too, so that the next start finds the run",
    );
  }
  if (await hasCheckpoint(folder)) return true;
  await forgetRun(folder);
  return false;
}
