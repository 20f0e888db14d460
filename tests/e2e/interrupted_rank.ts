/** A rank of an evaluation that one rank alone is told to stop: what `evaluate_test.ts` runs in workers. */

import { evaluate, type EvaluateJob } from "../../tasks/evaluate.ts";
import { loadModel } from "../../tasks/checkpoints/model.ts";
import { openRankDevice, type WorkerPlacement } from "../../tasks/devices/open.ts";
import { serveRank } from "../../tasks/parallel/worker.ts";

/** What every rank is given. */
export interface InterruptedArgs {
  /** The evaluation. */
  job: Omit<EvaluateJob, "model">;
  /** Where the ranks compute. */
  placement: WorkerPlacement;
  /** Which rank hears of it. */
  told: number;
  /** How many templates that rank looks at before. */
  after: number;
}

serveRank<InterruptedArgs>(async ({ job, placement, told, after }, { group, output }) => {
  const device = await openRankDevice(group, placement, output);
  const model = await loadModel(device, job.run);
  let looks = 0;
  const interrupted = {
    get aborted() {
      return group.rank === told && looks++ >= after;
    },
  };
  return await evaluate({ ...job, model, group, interrupted, output });
});
