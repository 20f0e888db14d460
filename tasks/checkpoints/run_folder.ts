/**
 * The run folder as files: names, config, weights and moments. Pretraining and finetuning write the same
 * kind of folder, and everything that takes a `--run` reads it.
 *
 * @module
 */

import { open, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { foreignNames, type ModelConfig, type Part } from "../../models/mod.ts";
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { transpose } from "../../models/names.ts";
import { UserError } from "../../ops/graph/errors.ts";
import type { StateMemory } from "../../ops/mod.ts";
import { finishCommit, openCheckpoint, readNewest, saveCheckpoint } from "./save.ts";
import { writeTensors } from "./tensors.ts";
import { exists, expectFile, onDisk, writeFile } from "../files/write.ts";
import { anything, type Check, expectFields, fields, whole } from "../files/fields.ts";
import { readJson, writeJson } from "../files/json.ts";
import { expectSeal, sealed } from "../files/seal.ts";
import { type Lock, lock, type LockOptions } from "../files/lock.ts";
import { expectSettings } from "./own_files.ts";
import { checkpointWeights, findParameters, soundWeights } from "./parameters.ts";
import {
  isOptimizerFile,
  type Moments,
  optimizerFiles,
  readMoments,
  writeMoments,
} from "./optimizer.ts";
import { flagName } from "../command/options.ts";
import { alone, type Communicator, fromFirst } from "../parallel/communicator.ts";

/**
 * A name for a new run that no folder has yet: `runs/tiny-metro`, `runs/tiny-metro-2`, …
 *
 * @param folder where runs are kept
 */
async function newRunFolder(folder: string, name: string): Promise<string> {
  const path = join(folder, name);
  if (!await exists(path)) return path;
  for (let n = 2;; n++) if (!await exists(`${path}-${n}`)) return `${path}-${n}`;
}

/** Whether to go on with a run: yes, no, or (`"requeue"`) if its folder holds a checkpoint. */
export type Resume = boolean | "requeue";

/** Whether a run's folder holds something to go on from. */
export async function hasCheckpoint(run: string): Promise<boolean> {
  return await readNewest(run, "training.json", stat).then(() => true, () => false);
}

/** Whether a folder holds a run that something can be done with: to go on with it, or to read its weights. */
async function hasRun(run: string): Promise<boolean> {
  return await hasCheckpoint(run) || await exists(join(run, "model.safetensors"));
}

/**
 * Refuses to start a run where there is one. A run that ended before its first checkpoint is none: there is
 * nothing to go on from, and the same command begins it again.
 *
 * @param kind of the run to start
 * @throws {UserError} if the folder holds a run, or the beginning of one of another kind
 */
export async function expectNoRun(run: string, kind: RunKind): Promise<void> {
  const path = join(run, "config.json");
  if (await hasRun(run)) {
    throw new UserError(`${run} already holds a run: give --resume to go on, or another --run`);
  }
  if (!await exists(path)) return;
  const config = await readJson(path).catch(() => undefined);
  const isBegun = isRecord(config) && typeof config.updates === "number" &&
    (config.kind === "finetune" ? "finetune" : "pretrain") === kind;
  if (isBegun) return;
  throw new UserError(
    `${run}: holds a config.json that is not of a ${kind} run; give another folder, or move it away`,
  );
}

/**
 * Begins a run in its folder, where {@link expectNoRun} has nothing against it: what one that ended before
 * its first checkpoint said of itself is forgotten.
 *
 * @throws {UserError} as {@link expectNoRun}
 */
export async function startAfresh(run: string, kind: RunKind): Promise<void> {
  await expectNoRun(run, kind);
  const path = join(run, "config.json");
  await onDisk(path, () => rm(path, { force: true }));
}

/** What a run does. */
export type RunKind = "pretrain" | "finetune";

/** Files and folders of a run that are written while it goes on. */
const RUN_FILES = [
  ...["config.json", "tokenizer.json", "data.json", "mixture.json", "training.json"],
  ...["model.safetensors", "metrics.jsonl", "report.html"],
];
const RUN_FOLDERS = ["corpus", "rows", "checkpoint.tmp", "checkpoint.next"];

/**
 * Makes a run's folder if need be, takes it for this process alone, and looks whether everything can be
 * written there, before any work is done.
 *
 * @throws {UserError} if another process has it, or it cannot be written to
 */
export async function takeRun(
  run: string,
  kind: RunKind,
  { job, say }: Pick<LockOptions, "job" | "say">,
): Promise<Lock> {
  const held = await lock(join(run, "run.lock"), {
    what: run,
    doing: kind,
    otherwise: "wait until it has ended, or give another folder",
    job,
    say,
  });
  try {
    for (const name of RUN_FILES) await expectFile(join(run, name));
    for (const name of RUN_FOLDERS) await expectFolder(join(run, name));
    // What one that was killed has committed, and not yet moved into place.
    await onDisk(run, () => finishCommit(run));
    // All but the metrics are replaced, not added to.
    const metrics = join(run, "metrics.jsonl");
    if (await exists(metrics)) {
      await onDisk(metrics, async () => await (await open(metrics, "a")).close());
    }
  } catch (error) {
    held[Symbol.dispose]();
    throw error;
  }
  return held;
}

async function expectFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined || found.isDirectory()) return;
  throw new UserError(`writing ${path}: expected a folder, got a file; move it away`);
}

/** What a run is begun with, by contents; the data may lie outside its folder. */
const BEGUN_WITH = "data.json";

/** Takes down what a run is begun with, by contents, for {@link readBegunWith}. */
export async function writeBegunWith(run: string, contents: object): Promise<void> {
  await writeJson(join(run, BEGUN_WITH), sealed(contents));
}

/**
 * What a run was begun with; undefined if its version did not say.
 *
 * @param check what it must be
 * @throws {UserError} if it is not that, or not as it was written
 */
export async function readBegunWith<T extends object>(
  run: string,
  check: Check,
): Promise<T | undefined> {
  const path = join(run, BEGUN_WITH), advice = "put back a copy of the file";
  if (!await exists(path)) return undefined;
  const contents = await readJson(path) as T;
  expectFields(contents, check, path, advice);
  expectSeal(contents, path, advice);
  return contents;
}

/** Puts a folder back to what it is now, if it is there at all. */
export async function remover(folder: string): Promise<() => Promise<void>> {
  if (!await exists(folder)) return () => rm(folder, { recursive: true, force: true });
  const before = await readdir(folder);
  return async () => {
    for (const name of await readdir(folder)) {
      if (!before.includes(name)) await rm(join(folder, name), { recursive: true });
    }
  };
}

/**
 * The contents of `config.json`.
 *
 * @throws {UserError} if the folder holds no run
 */
export async function readConfig(run: string, otherwise: string): Promise<unknown> {
  const path = join(run, "config.json");
  if (!await exists(path)) throw new UserError(`${run}: ${otherwise}`);
  return await readJson(path);
}

/**
 * The contents of `config.json` of a run that goes on: those that its checkpoint was saved with.
 *
 * @throws {UserError} if the folder holds no run, or settings have been changed since
 */
export async function readOwnConfig(
  run: string,
  otherwise: string,
): Promise<Record<string, unknown>> {
  const contents = await readConfig(run, otherwise), path = join(run, "config.json");
  expectFields(contents, fields({}), path, COPY);
  const saved = await savedConfig(run);
  if (saved) expectSettings(path, contents as Record<string, unknown>, saved);
  return contents as Record<string, unknown>;
}

/** The settings as `training.json` has them, if there is one; older ones have not. */
export async function savedConfig(run: string): Promise<Record<string, unknown> | undefined> {
  return await hasCheckpoint(run) ? (await readState(run)).config : undefined;
}

/**
 * Flags may repeat a resumed run's settings but not change them.
 *
 * @param given without the paths of data, which may lie elsewhere now: those are compared by contents
 * @throws {UserError} naming the flag that differs
 */
export function expectSame(
  run: string,
  saved: Readonly<Record<string, unknown>>,
  given: Readonly<Record<string, unknown>>,
): void {
  for (const [name, value] of Object.entries(given)) {
    if (JSON.stringify(saved[name]) === JSON.stringify(value)) continue;
    throw new UserError(
      `--${flagName(name)}: ${run} was started with ${JSON.stringify(saved[name])}, got ` +
        `${JSON.stringify(value)}; leave the flag out, or start another --run`,
    );
  }
}

/** What of a trainer is saved. */
export interface Trained extends Moments {
  /** The model. */
  readonly model: ModelConfig;
  /** Parts of it that are trained. */
  readonly parts: readonly Part[];
  /** The weights, whole on every rank. */
  readonly parameters: Pick<StateMemory, "names" | "reader" | "write">;
}

/**
 * Writes weights, moments and `training.json` as one checkpoint: all of it or nothing.
 *
 * All ranks of a group call it. Each writes the moments that it keeps; rank 0 also writes the weights and
 * the state, and takes longer for it.
 *
 * @param state where the run is; must hold `update`. Rank 0's is written
 * @param marks what the weights say of the files that belong to them: see `own_files.ts`
 * @throws {UserError} the disk is full or the folder cannot be written to; the previous checkpoint is intact
 */
export async function saveRun(
  run: string,
  trainer: Trained,
  state: { update: number },
  group: Communicator = alone(),
  marks: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { rank, size } = group;
  const alive = () => group.alive(`saving update ${state.update}`);
  const metadata = { update: String(state.update), format: "pt" };
  const optimizer = optimizerFiles(size);
  const training = JSON.stringify(sealed({ ...state, optimizer })) + "\n";
  const by = (writer: number, write: (path: string) => Promise<void>) =>
    writer === rank ? write : undefined;
  await saveCheckpoint(run, {
    "model.safetensors": by(
      0,
      (path) => writeWeights(path, trainer, { ...metadata, ...marks }, alive),
    ),
    ...Object.fromEntries(optimizer.map((name, writer) => {
      return [name, by(writer, (path) => writeMoments(path, trainer, metadata, alive))];
    })),
    "training.json": by(0, (path) => writeFile(path, training)),
  }, { group, stale: isOptimizerFile });
}

/** The weights under the reference code's names. */
async function writeWeights(
  path: string,
  { model, parts, shapes, parameters }: Trained,
  metadata: Readonly<Record<string, string>>,
  alive: () => void,
): Promise<void> {
  const foreign = foreignNames(model, "reference", parts);
  const ours = new Map(Array.from(foreign, ([name, { name: theirs }]) => [theirs, name]));
  const read = parameters.reader();
  // In the order of memory, which is the fastest.
  await writeTensors(path, parameters.names.map((name) => foreign.get(name)!), async (theirs) => {
    alive();
    const name = ours.get(theirs)!;
    const values = await read(name);
    const [rows, columns] = shapes.get(name)!;
    return foreign.get(name)!.transposed ? transpose(values, rows, columns) : values;
  }, metadata);
}

/**
 * Reads what {@link saveRun} wrote: weights and moments go to the device, the state is returned.
 *
 * All ranks of a group call it; the checkpoint may have been written by another number of ranks.
 *
 * @returns the state that rank 0 finds, on every rank
 * @throws {UserError} if there is no checkpoint, or its files are damaged or do not belong together
 */
export async function restoreRun<State extends { update: number }>(
  run: string,
  trainer: Trained,
  group: Communicator = alone(),
): Promise<State> {
  const saved = await fromFirst(group, "reading the checkpoint", () => readState(run));
  const { optimizer = optimizerFiles(1), sha256: seal, ...state } = saved;
  const alive = () => group.alive(`restoring update ${state.update}`);
  const files = await openCheckpoint(run, ["model.safetensors", ...optimizer]);
  try {
    const [weights, ...moments] = files;
    if (weights.metadata.update !== String(state.update)) {
      throw new UserError(
        `${run}: training.json is of update ${state.update}, but the weights are of another; put back ` +
          "files that were saved together",
      );
    }
    // Weights that know of their config are of a version that seals its state.
    if (weights.metadata.config !== undefined && seal === undefined) {
      throw new UserError(`${join(run, "training.json")}: has no sha256 any more; ${COPY}`);
    }
    const file = soundWeights(checkpointWeights(weights.path, weights), COPY);
    const found = await findParameters(file, trainer.model, trainer.parts, ["reference"]);
    for (const [parameter, { name, transposed }] of found) {
      alive();
      // A checkpoint's tensors come whole.
      const write = (values: Float32Array) => trainer.parameters.write(parameter, values);
      await file.readInto(name, write, { transposed });
    }
    await readMoments(moments, trainer, alive);
  } finally {
    for (const file of files) await file.close();
  }
  await group.barrier({ patient: true }); // nobody moves files that others still have to open
  return state as unknown as State;
}

/** `training.json`. */
interface SavedState {
  update: number;
  /** The optimizer files that belong to it; older versions had one, and did not say so. */
  optimizer?: readonly string[];
  /** The settings; older versions did not have them. */
  config?: Record<string, unknown>;
  /** Of the rest; older versions had none. */
  sha256?: string;
}

/** What to do about a file of a run that is not as it was written. */
const COPY = "put back a copy of the file, or start a new run";

const STATE = fields({ update: whole() }, { config: fields({}), optimizer: anything });

/**
 * Refuses to go on where there is nothing to go on from.
 *
 * @throws {UserError} if the run has no checkpoint
 */
export async function expectCheckpoint(run: string): Promise<void> {
  if (await hasCheckpoint(run)) return;
  throw new UserError(
    await hasRun(run)
      ? `${run}: the run has weights, but no training.json to go on from; put back a copy of the file`
      : `${run}: the run has no checkpoint yet; start it again by the same command without --resume`,
  );
}

async function readState(run: string): Promise<SavedState> {
  await expectCheckpoint(run);
  const [path, state] = await readNewest(run, "training.json", async (path) => {
    return [path, await readJson(path) as SavedState] as const;
  });
  expectFields(state, STATE, path, COPY);
  expectSeal(state, path, COPY);
  const { optimizer } = state;
  const isList = optimizer === undefined || Array.isArray(optimizer) && optimizer.length > 0 &&
      optimizer.every((name) => typeof name === "string" && isOptimizerFile(name));
  if (isList) return state;
  throw new UserError(
    `${path}: optimizer: expected a list of names such as optimizer.safetensors, got ` +
      `${shown(optimizer)}; ${COPY}`,
  );
}

/** `1.4 M`, `68 k`. */
export function millions(n: number): string {
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e3).toFixed(0)} k`;
}

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
