/**
 * A training run between two updates: where it is, what it logs, how it is evaluated and saved.
 *
 * @module
 */

import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import type { Device } from "../../ops/mod.ts";
import { restoreRun, saveRun } from "../checkpoints/run_folder.ts";
import { marksOf } from "../checkpoints/own_files.ts";
import {
  either,
  expectFields,
  fields,
  finite,
  list,
  named,
  nothing,
  text,
  truth,
  whole,
} from "../files/fields.ts";
import { readJson } from "../files/json.ts";
import { exists, writeFile } from "../files/write.ts";
import { type Communicator, GroupEnded } from "../parallel/communicator.ts";
import type { Numbered } from "../parallel/share.ts";
import {
  type MetricRecord,
  type MetricsMark,
  openMetrics,
  readMetrics,
} from "../reports/metrics.ts";
import { type Output, startProgress } from "../reports/progress.ts";
import { trainingReport } from "../reports/training.ts";
import { addCounts, type BatchSource, type PreparedBatch, scalarsOf } from "./objective.ts";
import { loadTokenizer } from "../tokenizer/load.ts";
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
  /** What `metrics.jsonl` held, where rank 0 has one; older versions did not say. */
  metrics?: MetricsMark;
  /** The settings; older versions did not have them. */
  config?: object;
  /** Whether an evaluation is to be made before the next update: it was begun, and not ended. */
  isDue?: boolean;
  /** Updates whose figures are gone: `metrics.jsonl` was not there when the run went on. */
  lost?: number;
  /** Tokens and seconds at the last line. */
  since: { tokens: number; seconds: number; update: number };
}

/** A sum, of which JSON cannot hold NaN and infinities. */
const SUM = either(finite(), nothing);

/** What `training.json` must hold. */
const STATE = fields({
  update: whole(),
  data: fields({}),
  tokens: whole(),
  seconds: finite(0),
  // As it was written before there were ranks: numbers.
  sums: either(list(list(SUM), 1), list(SUM, 1)),
  counts: named(finite()),
  since: fields({ tokens: whole(), seconds: finite(0), update: whole() }),
}, {
  device: fields({ kind: text, adapterName: text }),
  metrics: fields({ bytes: whole(), sha256: text }),
  config: fields({}),
  isDue: truth,
  lost: whole(),
});

type Records = Awaited<ReturnType<typeof openRecords>>;

/** A run as it is trained, from its beginning or from its checkpoint. */
export class Session {
  readonly #trainer: Trainer;
  readonly #data: TrainingData;
  readonly #run: string;
  readonly #records?: Records;
  /** What the weights say of the files that belong to them. */
  readonly #marks: Readonly<Record<string, string>>;
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
    marks: Readonly<Record<string, string>>,
  ) {
    this.#trainer = trainer;
    this.#data = data;
    this.#run = run;
    this.#state = state;
    this.#records = records;
    this.#marks = marks;
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
      ...{ since, isDue: true },
    };
    if (resume) {
      state = await restoreRun<TrainingState>(run, trainer, group);
      expectFields(state, STATE, join(run, "training.json"), "put back a copy of the file");
      state.sums = ranksOf(state.sums);
      trainer.restoreSums(state.sums);
      await data.batches.restore(state.data);
    }
    // A run that starts anew keeps no line of one that ended before its first checkpoint.
    const from = resume ? state.metrics ?? state.update : -1;
    const records = group.rank === 0 ? await openRecords(place, config, from, state) : undefined;
    if (resume) {
      records?.note(`Resumed at update ${state.update} of ${config.updates}.`);
      for (const note of changesOf(state, trainer.device, config)) records?.note(note);
    }
    const own = await ownFiles(run);
    const now = { ...state, config: own?.config };
    return new Session(trainer, data, run, now, records, own?.marks ?? {});
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
    await this.#expectFolder();
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

  /** Makes the evaluation that a run begins with, or that was not ended when it was stopped. */
  async evaluateIfDue(): Promise<void> {
    if (!this.#state.isDue) return;
    await this.evaluate();
    if (this.update > 0) await this.save();
  }

  /**
   * The held-out data's figures become a line.
   *
   * @param unwanted looked at between two batches
   * @returns false if it was given up; then it is made when the run goes on
   */
  async evaluate(unwanted: () => boolean = () => false): Promise<boolean> {
    const { heldout, constants } = this.#data, trainer = this.#trainer, { update } = this.#state;
    this.#state.isDue = heldout !== undefined;
    if (!heldout) return true;
    const counts: Record<string, number>[] = [];
    for (const { batch, sequence } of heldout()) {
      trainer.group.alive(`evaluating after update ${update}`);
      trainer.evaluate(batch, sequence);
      counts.push(batch.counts);
      await trainer.device.pace();
      if (!unwanted()) continue;
      await trainer.takeSums("heldout"); // and clears them
      return false;
    }
    const [total] = await shareCounts(trainer, [addCounts(counts)]);
    const figures = trainer.objective.figures(await trainer.takeSums("heldout"), total);
    await this.#expectFolder();
    await this.#records?.record({ kind: "heldout", update, ...figures, ...constants });
    this.#state.isDue = false;
    return true;
  }

  /** Writes a checkpoint. */
  async save(): Promise<void> {
    const trainer = this.#trainer, { kind, adapterName } = trainer.device;
    const sums = await trainer.sums();
    this.#stopIfNotFinite(trainer.badUpdate(sums));
    await this.#expectFolder();
    const device = { kind, adapterName }, metrics = await this.#records?.mark();
    this.#state = { ...this.#state, seconds: this.#seconds(), sums, device, metrics };
    await saveRun(this.#run, trainer, this.#state, trainer.group, this.#marks);
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

  /** Writes the report, as far as that is possible: what ended the run matters more. */
  async close(error?: unknown): Promise<void> {
    const closed = this.#records?.close();
    await (error === undefined ? closed : closed?.catch(() => {}));
  }

  /** A folder that is gone must not come again with weights alone in it. */
  async #expectFolder(): Promise<void> {
    if (this.#trainer.group.rank > 0 || await exists(this.#run)) return;
    const { update } = this.#state, saved = this.#saved;
    throw new UserError(
      `${this.#run}: is not there any more: it was moved or deleted; update ${update} cannot be ` +
        (saved > 0 ? `saved, and what is left of ${saved} is where it was moved to` : "saved"),
    );
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

/** Sums by rank, as they were before JSON. */
function ranksOf(sums: TrainingState["sums"] | readonly number[]): number[][] {
  const ranks = Array.isArray(sums[0]) ? sums as number[][] : [sums as number[]];
  return ranks.map((values) => values.map((sum) => sum ?? NaN));
}

/** What to tell of a run that goes on otherwise than it was saved. */
function changesOf(
  { update, config, device }: TrainingState,
  here: Device,
  { updates }: { updates: number },
): string[] {
  const notes: string[] = [];
  const saved = (config as { updates?: unknown } | undefined)?.updates ?? updates;
  if (saved !== updates) {
    notes.push(
      `config.json says ${updates} updates; it was ${saved} when update ${update} was saved.`,
    );
  }
  // The number of threads changes nothing.
  const isSame = device?.kind === here.kind &&
    (here.kind === "cpu" || device.adapterName === here.adapterName);
  if (device && !isSame) {
    notes.push(
      `It was saved on ${device.adapterName}; on ${here.adapterName} numbers differ in their last digits.`,
    );
  }
  return notes;
}

/** What `config.json` and `tokenizer.json` of a run are, to be saved with its weights. */
async function ownFiles(run: string) {
  const config = join(run, "config.json"), tokenizer = join(run, "tokenizer.json");
  if (!await exists(config) || !await exists(tokenizer)) return undefined;
  const contents = await readJson(config) as object;
  return { config: contents, marks: marksOf(contents, loadTokenizer(tokenizer).hash) };
}

/** Where the records of a run go: its `metrics.jsonl`, the user's screen, and at the end the report. */
async function openRecords(
  { run, output }: SessionPlace,
  config: { updates: number },
  from: number | MetricsMark,
  state: Pick<TrainingState, "update" | "lost">,
) {
  const path = join(run, "metrics.jsonl");
  const metrics = await openMetrics(path, from);
  if (metrics.isLost) state.lost = state.update;
  const progress = startProgress(config.updates, output);
  if (metrics.isLost) {
    progress.note(`${path} was not there: the figures up to update ${state.update} are lost.`);
  }
  return {
    note: (text: string) => progress.note(text),
    mark: () => metrics.mark(),
    async record(line: MetricRecord) {
      await metrics.append(line);
      progress.show(line);
    },
    async close() {
      progress.stop();
      await metrics.close();
      const name = run.split(/[\\/]/).at(-1)!, { lost } = state;
      const records = await readMetrics(path);
      const html = await trainingReport({ name, config: { ...config }, metrics: records, lost });
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
