/**
 * The flags by which training on several devices is kept going.
 *
 * @module
 */

import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { describe } from "../command/options.ts";
import { newRunFolder, type Resume } from "../checkpoints/run_folder.ts";
import { DEVICE_OPTIONS, DEVICES } from "../config/device_flags.ts";

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

/** The environment variables that {@link resumeOf} and {@link unnamedRun} read. */
export const SLURM_VARIABLES = ["SLURM_JOB_ID", "SLURM_RESTART_COUNT"] as const;

/**
 * Whether to go on with a run, from flags and from what Slurm says: a requeued job goes on by itself.
 */
export function resumeOf({ resume, requeue }: { resume: boolean; requeue: boolean }): Resume {
  if (resume) return true;
  const restarts = Number(Deno.env.get("SLURM_RESTART_COUNT") ?? 0);
  return requeue || restarts > 0 ? "requeue" : false;
}

/**
 * The folder of a pretraining run that the user did not name: a new one, unless a run is to be found again.
 * Under Slurm it is called after the job, which keeps its number when it is requeued.
 *
 * @param name of the run
 * @throws {UserError} if nobody could know which folder to go on with
 */
export async function unnamedRun(name: string, resume: Resume): Promise<string> {
  const job = Deno.env.get("SLURM_JOB_ID");
  const named = job ? `${name}-job${job}` : name;
  if (resume !== "requeue") return await newRunFolder("runs", named);
  if (job) return join("runs", named);
  throw new UserError("--requeue: expected --run FOLDER too, so that the next start finds the run");
}
