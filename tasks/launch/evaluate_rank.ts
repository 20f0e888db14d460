/**
 * A rank of an evaluation across devices, as a worker: opens its device, loads the model onto it, and
 * scores its share of the batches. Started by `evaluate_workers.ts`.
 *
 * @module
 */
import { evaluate, type EvaluateJob } from "../evaluate.ts";
import { loadModel, type ModelOptions } from "../checkpoints/model.ts";
import { openRankDevice, type WorkerPlacement } from "../devices/open.ts";
import { serveRank } from "../parallel/worker.ts";

/** What every rank is given. Plain data. */
export interface EvaluateArgs {
  /** The evaluation, without what each rank has of its own; `run` is where the model is read from. */
  job: Omit<EvaluateJob, "model" | "group" | "interrupted" | "output">;
  /** What the model is called in the results. */
  name: string;
  /** How to read the model. */
  options: Pick<ModelOptions, "relativeMaxDistance">;
  /** Where the ranks compute, and with it how many there are. */
  placement: WorkerPlacement;
}

serveRank<EvaluateArgs>(async (args, { group, interrupted, output }) => {
  const { job, name, options, placement } = args;
  const device = await openRankDevice(group, placement, output);
  const loaded = await group.patiently(
    "loading the model",
    () => loadModel(device, job.run, options),
  );
  try {
    return await evaluate({ ...job, model: { ...loaded, name }, group, interrupted, output });
  } finally {
    loaded.destroy();
    device.destroy();
  }
});
