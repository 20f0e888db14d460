/**
 * The training loop, the same for pretraining and finetuning, and the learning rate. What differs between
 * the two is where batches come from.
 *
 * @module
 */

import type { Communicator } from "../parallel/communicator.ts";
import type { Share } from "../parallel/share.ts";
import { addCounts, type PreparedBatch } from "./objective.ts";
import { Session, type SessionPlace, shareCounts, type TrainingData } from "./session.ts";
import type { Interruption } from "./setting.ts";
import type { Trainer } from "./trainer.ts";

/** How fast to learn, and how often to stop and look. */
export interface LoopConfig {
  /** Updates to make. */
  updates: number;
  /** Highest learning rate. */
  peakLearningRate: number;
  /** Updates of linear warm-up from 0. */
  warmupUpdates: number;
  /** Update at which the linear decay reaches 0. */
  scheduleUpdates: number;
  /** Updates between lines of metrics. */
  logEvery: number;
  /** Updates between evaluations; 0 for the end only. */
  evaluateEvery: number;
  /** Updates between checkpoints; 0 for the end only. */
  saveEvery: number;
}

/**
 * Trains to the last update or until interrupted. Writes metrics, checkpoints and the report.
 *
 * @param trainer the model, its objective, its device and its group
 * @param config the run's settings; the report shows all of them
 * @param data training and held-out batches
 * @param place the run's folder, and who watches
 * @throws {UserError} for a loss that is not finite, or a checkpoint that cannot be resumed
 */
export async function trainLoop(
  trainer: Trainer,
  config: LoopConfig,
  data: TrainingData,
  { interrupted, ...place }: SessionPlace & { interrupted?: Interruption },
): Promise<void> {
  const { device, group } = trainer;
  const session = await Session.open(trainer, config, data, place);
  // A group agrees on where to stop; alone, a rank stops wherever it is.
  const unwanted = group.size === 1 ? () => interrupted?.aborted ?? false : undefined;
  let stopped = false;
  try {
    await session.evaluateIfDue();
    // Till now there was nothing to lose.
    await interrupted?.listen?.();
    while (!stopped && session.update < config.updates) {
      const share = await data.batches.next();
      stopped = await anyOf(group, interrupted?.aborted);
      const counts = await shareCounts(trainer, countsOf(share));
      if (stopped) break;
      const { update } = session;
      const rate = learningRate(config, update);
      const options = { update, learningRate: rate, unwanted };
      const total = await trainer.update({ batches: share.batches, counts }, options);
      stopped = total === undefined;
      if (total === undefined) break;
      session.advance(share.tokens, total, rate);

      const done = session.update === config.updates;
      const due = (every: number) => done || (every > 0 && session.update % every === 0);
      if (due(config.logEvery)) await session.log();
      if (due(config.evaluateEvery)) stopped = !await session.evaluate(unwanted);
      if (due(config.saveEvery) && !stopped) await session.save();
      // Lets other work in; the device has work queued meanwhile.
      await new Promise((resolve) => setTimeout(resolve));
    }
    await device.finish();
    if (stopped) await session.stop();
  } catch (error) {
    await session.close(error);
    throw await device.reason(error);
  }
  await session.close();
}

/**
 * The learning rate of an update: linear from 0 over the warm-up, then linear to 0 at the schedule's end
 * (spec of the paper's Table 5; the first update has rate 0, as in the code).
 *
 * @param update updates made before this one
 *
 * @example
 * ```ts
 * import { learningRate } from "./loop.ts";
 * import assert from "node:assert/strict";
 *
 * const schedule = { peakLearningRate: 1, warmupUpdates: 10, scheduleUpdates: 110 };
 * assert.deepEqual([0, 5, 10, 60, 110].map((u) => learningRate(schedule, u)), [0, 0.5, 1, 0.5, 0]);
 * ```
 */
export function learningRate(
  schedule: Pick<LoopConfig, "peakLearningRate" | "warmupUpdates" | "scheduleUpdates">,
  update: number,
): number {
  const { peakLearningRate, warmupUpdates, scheduleUpdates } = schedule;
  if (update < warmupUpdates) return peakLearningRate * update / warmupUpdates;
  const left = (scheduleUpdates - update) / (scheduleUpdates - warmupUpdates);
  return peakLearningRate * Math.max(0, left);
}

/** Whether one of the ranks was told to stop, so that all do. */
async function anyOf(group: Communicator, told = false): Promise<boolean> {
  const stops = Float64Array.of(told ? 1 : 0);
  await group.allReduce(stops);
  return stops[0] > 0;
}

/** What this rank counts in each micro-batch of an update. */
function countsOf({ batches, micros }: Share<PreparedBatch>): Record<string, number>[] {
  return Array.from(
    { length: micros },
    (_, m) =>
      addCounts(batches.filter(({ micro }) => micro === m).map(({ batch }) => batch.counts)),
  );
}
