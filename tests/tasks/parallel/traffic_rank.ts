// A rank that trains for some updates, and tells how many bytes each rank sent in the last of them.

import { openTestDevice } from "../../device.ts";
import { initialize, preset } from "../../../models/mod.ts";
import { metroObjective } from "../../../tasks/train/objective.ts";
import { serveRank } from "../../../tasks/parallel/worker.ts";
import { Trainer } from "../../../tasks/train/trainer.ts";

/** What to do. */
export interface TrafficArgs {
  updates: number;
}

const ROWS = 2, LENGTH = 16;

serveRank<TrafficArgs>(async ({ updates }, { group }) => {
  const { model, objective: config, optimisation } = preset("tiny");
  const objective = metroObjective(model, config, 1);
  const device = await openTestDevice();
  const trainer = new Trainer(device, model, objective, optimisation, 1, group);
  trainer.initialize(initialize(model, 1));
  const sequences = Array.from({ length: ROWS }, (_, i): [number, number] => [group.rank, i]);
  const batch = objective.prepare({
    epoch: 0,
    length: LENGTH,
    rows: ROWS,
    blocks: sequences.map(([, block]) => block),
    tokens: new Uint32Array(ROWS * LENGTH).fill(9),
    lengths: new Uint32Array(ROWS).fill(LENGTH),
    realTokens: ROWS * LENGTH,
    sequences,
  });
  let before = 0;
  for (let update = 0; update < updates; update++) {
    before = group.bytesSent;
    const batches = [{ batch, micro: 0, sequence: group.rank * ROWS }];
    await trainer.update({ batches, counts: [batch.counts] }, { update, learningRate: 1e-3 });
  }
  const sent = new Float64Array(group.size);
  sent[group.rank] = group.bytesSent - before;
  await group.allReduce(sent);
  trainer.destroy();
  device.destroy();
  return [...sent];
});
