/**
 * A rank of an evaluation across devices, as a worker: opens its device, loads the model onto it, and
 * scores its share of the batches. Started by `launch/evaluate.ts`.
 *
 * @module
 */
import { evaluate } from "../evaluate.ts";
import { loadModel } from "../checkpoints/model.ts";
import { openRankDevice } from "../devices/open.ts";
import type { EvaluateArgs } from "./evaluate.ts";
import { serveRank } from "../parallel/worker.ts";

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
