/**
 * A rank of the benchmark of data parallelism, as a worker. Started by `parallel.ts`.
 *
 * @module
 */
import type { PresetName } from "../../models/mod.ts";
import type { Device } from "../../ops/mod.ts";
import type { Communicator } from "../parallel/communicator.ts";
import { openRankDevice, type WorkerPlacement } from "../devices/open.ts";
import { serveRank } from "../parallel/worker.ts";
import { Trainer } from "../train/trainer.ts";
import { noiseOf } from "./random_model.ts";
import { pretraining } from "./updates.ts";

/** What is measured; plain data. */
export interface ParallelArgs {
  /** Which model. */
  preset: PresetName;
  /** Tokens of a rank in an update. */
  tokens: number;
  /** Pairs of updates: with and without the exchange. */
  repeat: number;
  /** Bytes of the array that is all-reduced. */
  bytes: number;
  /** Where the ranks compute. */
  placement: WorkerPlacement;
}

/** What rank 0 found. */
export interface ParallelTimes {
  /** The adapter. */
  adapter: string;
  /** Seconds of all-reduces. */
  allReduce: number[];
  /** Seconds of updates in which the ranks exchange gradients and weights. */
  exchanging: number[];
  /** Seconds of the updates between those, without. */
  isolated: number[];
  /** Bytes that a rank sent in an update. */
  bytesSent: number;
  /** Bytes of AdamW's moments on a rank. */
  momentBytes: number;
  /** Numbers in the model. */
  parameters: number;
}

serveRank<ParallelArgs>(async ({ preset, tokens, repeat, bytes, placement }, context) => {
  const { group, output } = context;
  const allReduce = await timeAllReduce(group, bytes, repeat);
  const device = await openRankDevice(group, placement, output);
  const { model, objective, parameters, shape, batch: made } = pretraining(preset, tokens);
  const adamw = { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weightDecay: 0.01, clipNorm: 0 };
  const trainer = new Trainer(device, model, objective, adamw, 1, group);
  await group.patiently("compiling", async () => {
    trainer.compileShape(shape, "train");
    trainer.initialize(noiseOf(trainer.shapes));
    await device.finish();
  });
  const batch = made(), sequence = group.rank * shape.rows;
  const counts = [Object.fromEntries(
    Object.entries(batch.counts).map(([name, count]) => [name, count * group.size]),
  )];
  let update = 0;
  const time = async (exchange: boolean) =>
    await together(group, device, async () => {
      const batches = { batches: [{ batch, micro: 0, sequence }], counts };
      await trainer.update(batches, { update: update++, learningRate: 1e-4, exchange });
    });
  // The first ones compile what the driver compiles late.
  await group.patiently("warming up", async () => {
    await time(false);
    await time(true);
  });
  const exchanging: number[] = [], isolated: number[] = [];
  let bytesSent = 0;
  for (let i = 0; i < repeat; i++) {
    // Alternately, so that whatever else the machine does meets both.
    isolated.push(await time(false));
    const before = group.bytesSent;
    exchanging.push(await time(true));
    bytesSent = group.bytesSent - before;
  }
  const { momentBytes } = trainer;
  trainer.destroy();
  device.destroy();
  const times: ParallelTimes = {
    ...{ adapter: device.adapterName, allReduce, exchanging, isolated },
    ...{ bytesSent, momentBytes, parameters },
  };
  return times;
});

async function timeAllReduce(
  group: Communicator,
  bytes: number,
  repeat: number,
): Promise<number[]> {
  const values = new Float32Array(bytes / 4).fill(1e-30);
  const seconds: number[] = [];
  for (let i = 0; i < 2 * repeat + 2; i++) {
    await group.barrier();
    const started = performance.now();
    await group.allReduce(values);
    seconds.push((performance.now() - started) / 1000);
  }
  return seconds.slice(2);
}

/** Seconds until all ranks have done some work. */
async function together(
  group: Communicator,
  device: Device,
  work: () => Promise<void>,
): Promise<number> {
  await group.barrier();
  const started = performance.now();
  await work();
  await device.finish();
  await group.barrier();
  return (performance.now() - started) / 1000;
}
