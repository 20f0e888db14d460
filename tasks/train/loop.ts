/**
 * The training loop, the same for every job: updates, lines of metrics, evaluations, checkpoints,
 * interruption. What differs between jobs is where batches come from.
 *
 * @module
 */

import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import type { Device } from "../../ops/mod.ts";
import { type MetricRecord, openMetrics, readMetrics } from "../reports/metrics.ts";
import { addCounts, type Objective, type PreparedBatch, scalarsOf } from "./objective.ts";
import { writeFile } from "../files/write.ts";
import { alone, type Communicator, GroupEnded } from "../parallel/communicator.ts";
import type { Numbered, Share } from "../parallel/share.ts";
import { startProgress } from "../reports/progress.ts";
import { report } from "../reports/training.ts";
import { restoreRun, saveRun } from "../checkpoints/run_folder.ts";
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

/** An endless sequence of updates' micro-batches, with a position that can be saved. */
export interface BatchSource {
  /** Epoch of the next batch, from 0. */
  readonly epoch: number;
  /** This rank's share of the micro-batches of the next update. */
  next(): Share<PreparedBatch> | Promise<Share<PreparedBatch>>;
  /** The position of the next update; plain data for JSON. */
  state(): unknown;
  /** Continues from a position that {@link BatchSource.state} gave. */
  restore(state: unknown): void | Promise<void>;
}

/** What {@link trainLoop} works with. */
export interface TrainingRun {
  /** Folder of the run; `config.json` is there already. */
  run: string;
  /** Go on from the folder's checkpoint. */
  resume: boolean;
  /** The run's settings; the report shows all of them. */
  config: LoopConfig & object;
  /** The model in training. */
  trainer: Trainer;
  /** What it learns. */
  objective: Objective;
  /** Where it is. */
  device: Device;
  /** Training data. */
  source: BatchSource;
  /** This rank's share of the held-out data, the same at every evaluation; none if absent. */
  heldout?: () => Iterable<Pick<Numbered<PreparedBatch>, "batch" | "sequence">>;
  /** Figures that every evaluation repeats, such as a baseline's accuracy. */
  constants?: Readonly<Record<string, number>>;
  /** The ranks that train together; this one alone if absent. */
  group?: Communicator;
  /** Aborted when the user wants the job to stop. */
  interrupted?: Interruption;
  /** Where lines for the user go. */
  output: { isTTY?: boolean; write(text: string): unknown };
}

/** Whether the user wants the job to stop: an `AbortSignal`, or a stand-in for it. */
export interface Interruption {
  /** True from then on. */
  readonly aborted: boolean;
}

/** Where a run is: `training.json`, saved with the weights. */
interface TrainingState {
  /** Updates made. */
  update: number;
  /** Position in the data. */
  data: unknown;
  /** Tokens seen, padding not counted. */
  tokens: number;
  /** Seconds spent training, over all resumptions. */
  seconds: number;
  /** Metric sums on the devices since the last line of metrics, per rank. */
  sums: number[][];
  /** Counts that belong to them. */
  counts: Record<string, number>;
  /** What it was saved on; older versions did not say. */
  device?: Pick<Device, "kind" | "adapterName">;
  /** Tokens and seconds at the last line. */
  since: { tokens: number; seconds: number; update: number };
}

/**
 * Trains to the last update or until interrupted. Writes metrics, checkpoints and the report.
 *
 * @throws {UserError} for a loss that is not finite, or a checkpoint that cannot be resumed
 */
export async function trainLoop(job: TrainingRun): Promise<void> {
  const { run, config, trainer, objective, device, source, group = alone() } = job;
  let state: TrainingState = {
    update: 0,
    data: source.state(),
    tokens: 0,
    seconds: 0,
    sums: [],
    counts: {},
    since: { tokens: 0, seconds: 0, update: 0 },
  };
  if (job.resume) {
    state = await restoreRun<TrainingState>(run, trainer, group);
    // As it was written before there were ranks.
    if (typeof state.sums[0] === "number") state.sums = [state.sums as unknown as number[]];
    trainer.restoreSums(state.sums);
    await source.restore(state.data);
  }
  // A run that starts anew keeps no line of one that ended before its first checkpoint.
  const kept = job.resume ? state.update : -1;
  const show = group.rank === 0 ? await openRecords(job, kept) : undefined;
  if (job.resume) {
    show?.note(`Resumed at update ${state.update} of ${config.updates}.`);
    const elsewhere = otherDevice(state.device, device);
    if (elsewhere) show?.note(elsewhere);
  }
  const { kind, adapterName } = device;
  const started = performance.now() / 1000 - state.seconds;
  let saved = state.update;

  /** Metric sums and counts since the last line become a line. */
  const log = async () => {
    const sums = await trainer.takeSums("train");
    const { gradNorm, badUpdate } = scalarsOf(sums);
    stopIfNotFinite(badUpdate, saved, run, group);
    const { since } = state;
    state.seconds = performance.now() / 1000 - started;
    await show?.record({
      kind: "train",
      update: state.update,
      epoch: source.epoch,
      tokens: state.tokens,
      seconds: state.seconds,
      tokensPerSecond: (state.tokens - since.tokens) / (state.seconds - since.seconds),
      learningRate: learningRate(config, state.update - 1),
      ...objective.figures(sums, state.counts),
      gradNorm: gradNorm / (state.update - since.update),
    });
    const { tokens, seconds, update } = state;
    state = { ...state, counts: {}, since: { tokens, seconds, update } };
  };
  const evaluate = async () => {
    if (!job.heldout) return;
    const counts: Record<string, number>[] = [];
    for (const { batch, sequence } of job.heldout()) {
      group.alive(`evaluating after update ${state.update}`);
      trainer.evaluate(batch, sequence);
      counts.push(batch.counts);
    }
    const [total] = await shareCounts(group, objective, [addCounts(counts)]);
    const figures = objective.figures(await trainer.takeSums("heldout"), total);
    await show?.record({ kind: "heldout", update: state.update, ...figures, ...job.constants });
  };
  const save = async () => {
    state = {
      ...state,
      seconds: performance.now() / 1000 - started,
      sums: await trainer.sums(),
      device: { kind, adapterName },
    };
    stopIfNotFinite(trainer.badUpdate(state.sums), saved, run, group);
    await saveRun(run, trainer, state, group);
    saved = state.update;
  };

  try {
    if (state.update === 0) await evaluate();
    let stopped = false;
    while (state.update < config.updates) {
      const share = await source.next();
      const { counts, stop } = await agree(group, objective, share, job.interrupted);
      stopped = stop;
      if (stopped) break;
      const total = await trainer.update({ batches: share.batches, counts }, {
        update: state.update,
        learningRate: learningRate(config, state.update),
      });
      state.update++;
      state.data = source.state();
      state.tokens += share.tokens;
      state.counts = addCounts([state.counts, total]);

      const done = state.update === config.updates;
      const due = (every: number) => done || (every > 0 && state.update % every === 0);
      if (due(config.logEvery)) await log();
      if (due(config.evaluateEvery)) await evaluate();
      if (due(config.saveEvery)) await save();
      // Lets signals in; the device has work queued meanwhile.
      await new Promise((resolve) => setTimeout(resolve));
    }
    await device.finish();
    if (stopped) {
      if (saved < state.update) await save();
      show?.note(
        state.update > 0
          ? `Saved update ${state.update} in ${run}; go on with --resume.`
          : "Stopped before the first update: there is nothing to save.",
      );
    }
  } catch (error) {
    throw await device.reason(error);
  } finally {
    await show?.close();
  }
}

/** What to tell of a run that goes on elsewhere than where it was saved; the number of threads changes nothing. */
function otherDevice(
  saved: TrainingState["device"],
  { kind, adapterName }: Device,
): string | undefined {
  const isSame = saved?.kind === kind && (kind === "cpu" || saved.adapterName === adapterName);
  if (!saved || isSame) return undefined;
  return `It was saved on ${saved.adapterName}; on ${adapterName} numbers differ in their last digits.`;
}

/** Where the records of a run go: its `metrics.jsonl`, the user's screen, and at the end the report. */
async function openRecords({ run, config, output }: TrainingRun, kept: number) {
  const metrics = await openMetrics(join(run, "metrics.jsonl"), kept);
  const progress = startProgress(config.updates, output);
  return {
    note: (text: string) => progress.note(text),
    async record(line: MetricRecord) {
      await metrics.append(line);
      progress.show(line);
    },
    async close() {
      progress.stop();
      await metrics.close();
      await writeReport(run, config);
    },
  };
}

/**
 * What all ranks must know before an update: the counts of all its micro-batches, by which losses are
 * averaged, and whether one of them was told to stop, so that all do.
 */
async function agree(
  group: Communicator,
  objective: Objective,
  { batches, micros }: Share<PreparedBatch>,
  interrupted: Interruption | undefined,
): Promise<{ counts: Record<string, number>[]; stop: boolean }> {
  const own = Array.from(
    { length: micros },
    (_, m) =>
      addCounts(batches.filter(({ micro }) => micro === m).map(({ batch }) => batch.counts)),
  );
  const stops = Float64Array.of(interrupted?.aborted ? 1 : 0);
  await group.allReduce(stops);
  return { counts: await shareCounts(group, objective, own), stop: stops[0] > 0 };
}

/** Adds counts up over all ranks, item by item. */
async function shareCounts(
  group: Communicator,
  { counts: names }: Objective,
  own: readonly Record<string, number>[],
): Promise<Record<string, number>[]> {
  const all = Float64Array.from(own.flatMap((counts) => names.map((name) => counts[name] ?? 0)));
  await group.allReduce(all);
  return own.map((_, i) =>
    Object.fromEntries(names.map((name, j) => [name, all[i * names.length + j]]))
  );
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

function stopIfNotFinite(badUpdate: number, saved: number, run: string, group: Communicator): void {
  if (badUpdate === 0) return;
  // All ranks find the same; one tells.
  if (group.rank > 0) throw new GroupEnded("the loss is not finite");
  const kept = saved > 0
    ? `the checkpoint of update ${saved} in ${run} is good`
    : "nothing was saved";
  throw new UserError(
    `the loss of update ${badUpdate} is not a finite number; ${kept}. Lower --peak-learning-rate, ` +
      "lengthen --warmup-updates, or set --clip-norm",
  );
}

async function writeReport(run: string, config: object): Promise<void> {
  const metrics = await readMetrics(join(run, "metrics.jsonl"));
  const html = await report({ name: run.split(/[\\/]/).at(-1)!, config: { ...config }, metrics });
  await writeFile(join(run, "report.html"), html);
}
