/**
 * A training run between two updates: where it is, what it logs, how it is evaluated and saved.
 *
 * @module
 */

import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import type { Device } from "../../ops/mod.ts";
import { restoreRun, saveRun } from "../checkpoints/run_folder.ts";
import { writeFile } from "../files/write.ts";
import { type Communicator, GroupEnded } from "../parallel/communicator.ts";
import type { Numbered } from "../parallel/share.ts";
import { type MetricRecord, openMetrics, readMetrics } from "../reports/metrics.ts";
import { type Output, startProgress } from "../reports/progress.ts";
import { report } from "../reports/training.ts";
import { addCounts, type BatchSource, type PreparedBatch, scalarsOf } from "./objective.ts";
import type { Trainer } from "./trainer.ts";

/** What a model learns from, and what it is looked at with. */
export interface TrainingData {
  /** This rank's share of the training data. */
  batches: BatchSource;
  /** This rank's share of the held-out data, the same at every evaluation; none if absent. */
  heldout?: () => Iterable<Pick<Numbered<PreparedBatch>, "batch" | "sequence">>;
  /** Figures that every evaluation repeats, such as a baseline's accuracy. */
  constants?: Readonly<Record<string, number>>;
}

/** Where a run is kept, and who is told of it. */
export interface SessionPlace {
  /** Folder of the run; `config.json` is there already. */
  run: string;
  /** Go on from the folder's checkpoint. */
  resume: boolean;
  /** Where lines for the user go. */
  output: Output;
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

type Records = Awaited<ReturnType<typeof openRecords>>;

/** A run as it is trained, from its beginning or from its checkpoint. */
export class Session {
  readonly #trainer: Trainer;
  readonly #data: TrainingData;
  readonly #run: string;
  readonly #records?: Records;
  /** When training would have begun, had it never stopped. */
  readonly #started: number;
  #state: TrainingState;
  /** Updates in the last checkpoint. */
  #saved: number;
  /** Learning rate of the last update. */
  #rate = 0;

  private constructor(
    trainer: Trainer,
    data: TrainingData,
    run: string,
    state: TrainingState,
    records: Records | undefined,
  ) {
    this.#trainer = trainer;
    this.#data = data;
    this.#run = run;
    this.#state = state;
    this.#records = records;
    this.#saved = state.update;
    this.#started = performance.now() / 1000 - state.seconds;
  }

  /**
   * Begins a run, or puts everything back as its checkpoint says.
   *
   * @throws {UserError} for a checkpoint that cannot be resumed
   */
  static async open(
    trainer: Trainer,
    config: { updates: number },
    data: TrainingData,
    place: SessionPlace,
  ): Promise<Session> {
    const { run, resume } = place, { group } = trainer;
    const since = { tokens: 0, seconds: 0, update: 0 };
    let state: TrainingState = {
      ...{ update: 0, data: data.batches.state(), tokens: 0, seconds: 0, sums: [], counts: {} },
      since,
    };
    if (resume) {
      state = await restoreRun<TrainingState>(run, trainer, group);
      // As it was written before there were ranks.
      if (typeof state.sums[0] === "number") state.sums = [state.sums as unknown as number[]];
      trainer.restoreSums(state.sums);
      await data.batches.restore(state.data);
    }
    // A run that starts anew keeps no line of one that ended before its first checkpoint.
    const kept = resume ? state.update : -1;
    const records = group.rank === 0 ? await openRecords(place, config, kept) : undefined;
    if (resume) {
      records?.note(`Resumed at update ${state.update} of ${config.updates}.`);
      const elsewhere = otherDevice(state.device, trainer.device);
      if (elsewhere) records?.note(elsewhere);
    }
    return new Session(trainer, data, run, state, records);
  }

  /** Updates made. */
  get update(): number {
    return this.#state.update;
  }

  /** One more update has been made. */
  advance(tokens: number, counts: Record<string, number>, learningRate: number): void {
    const state = this.#state;
    state.update++;
    state.data = this.#data.batches.state();
    state.tokens += tokens;
    state.counts = addCounts([state.counts, counts]);
    this.#rate = learningRate;
  }

  /** Metric sums and counts since the last line become a line. */
  async log(): Promise<void> {
    const state = this.#state, { since } = state;
    const sums = await this.#trainer.takeSums("train");
    const { gradNorm, badUpdate } = scalarsOf(sums);
    this.#stopIfNotFinite(badUpdate);
    state.seconds = this.#seconds();
    const { update, tokens, seconds } = state;
    await this.#records?.record({
      kind: "train",
      update,
      epoch: this.#data.batches.epoch,
      tokens,
      seconds,
      tokensPerSecond: (tokens - since.tokens) / (seconds - since.seconds),
      learningRate: this.#rate,
      ...this.#trainer.objective.figures(sums, state.counts),
      gradNorm: gradNorm / (update - since.update),
    });
    this.#state = { ...state, counts: {}, since: { tokens, seconds, update } };
  }

  /** The held-out data's figures become a line. */
  async evaluate(): Promise<void> {
    const { heldout, constants } = this.#data, trainer = this.#trainer, { update } = this.#state;
    if (!heldout) return;
    const counts: Record<string, number>[] = [];
    for (const { batch, sequence } of heldout()) {
      trainer.group.alive(`evaluating after update ${update}`);
      trainer.evaluate(batch, sequence);
      counts.push(batch.counts);
    }
    const [total] = await shareCounts(trainer, [addCounts(counts)]);
    const figures = trainer.objective.figures(await trainer.takeSums("heldout"), total);
    await this.#records?.record({ kind: "heldout", update, ...figures, ...constants });
  }

  /** Writes a checkpoint. */
  async save(): Promise<void> {
    const trainer = this.#trainer, { kind, adapterName } = trainer.device;
    const sums = await trainer.sums();
    this.#stopIfNotFinite(trainer.badUpdate(sums));
    const device = { kind, adapterName };
    this.#state = { ...this.#state, seconds: this.#seconds(), sums, device };
    await saveRun(this.#run, trainer, this.#state, trainer.group);
    this.#saved = this.#state.update;
  }

  /** What was not saved is, before an early end. */
  async stop(): Promise<void> {
    const { update } = this.#state;
    if (this.#saved < update) await this.save();
    this.#records?.note(
      update > 0
        ? `Saved update ${update} in ${this.#run}; go on with --resume.`
        : "Stopped before the first update: there is nothing to save.",
    );
  }

  /** Writes the report. */
  async close(): Promise<void> {
    await this.#records?.close();
  }

  #seconds(): number {
    return performance.now() / 1000 - this.#started;
  }

  #stopIfNotFinite(badUpdate: number): void {
    if (badUpdate === 0) return;
    // All ranks find the same; one tells.
    if (this.#trainer.group.rank > 0) throw new GroupEnded("the loss is not finite");
    const kept = this.#saved > 0
      ? `the checkpoint of update ${this.#saved} in ${this.#run} is good`
      : "nothing was saved";
    throw new UserError(
      `the loss of update ${badUpdate} is not a finite number; ${kept}. Lower --peak-learning-rate, ` +
        "lengthen --warmup-updates, or set --clip-norm",
    );
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
async function openRecords(
  { run, output }: SessionPlace,
  config: { updates: number },
  kept: number,
) {
  const path = join(run, "metrics.jsonl");
  const metrics = await openMetrics(path, kept);
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
      const name = run.split(/[\\/]/).at(-1)!;
      const html = await report({ name, config: { ...config }, metrics: await readMetrics(path) });
      await writeFile(join(run, "report.html"), html);
    },
  };
}

/** Adds counts up over all ranks, item by item: losses are averaged by those of the whole update. */
export async function shareCounts(
  { group, objective: { counts: names } }: { group: Communicator; objective: Trainer["objective"] },
  own: readonly Record<string, number>[],
): Promise<Record<string, number>[]> {
  const all = Float64Array.from(own.flatMap((counts) => names.map((name) => counts[name] ?? 0)));
  await group.allReduce(all);
  return own.map((_, i) =>
    Object.fromEntries(names.map((name, j) => [name, all[i * names.length + j]]))
  );
}
