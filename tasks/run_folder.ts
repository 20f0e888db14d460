/**
 * The run folder as files: names, config, weights and moments. Pretraining and finetuning write the same
 * kind of folder, and everything that takes a `--run` reads it.
 *
 * @module
 */

import { stat } from "node:fs/promises";
import { join } from "node:path";
import { foreignNames, transpose } from "../models/mod.ts";
import { UserError } from "../ops/errors.ts";
import {
  checkpointFile,
  openCheckpoint,
  saveCheckpoint,
  writeFile,
  writeTensors,
} from "./checkpoint.ts";
import { readJson } from "./json.ts";
import { checkpointWeights, findParameters } from "./model_weights.ts";
import { flagName } from "./options.ts";
import type { Trainer } from "./trainer.ts";

/** True if there is a file or folder of this name. */
export async function exists(path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false);
}

/**
 * A name for a new run that no folder has yet: `runs/tiny-metro`, `runs/tiny-metro-2`, …
 *
 * @param folder where runs are kept
 */
export async function newRunFolder(folder: string, name: string): Promise<string> {
  const path = join(folder, name);
  if (!await exists(path)) return path;
  for (let n = 2;; n++) if (!await exists(`${path}-${n}`)) return `${path}-${n}`;
}

/**
 * Refuses to start a run where there is one.
 *
 * @throws {UserError} if the folder holds a run
 */
export async function expectNoRun(run: string): Promise<void> {
  if (await exists(join(run, "config.json"))) {
    throw new UserError(`${run} already holds a run: give --resume to go on, or another --run`);
  }
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
 * Flags may repeat a resumed run's settings but not change them.
 *
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

/**
 * Writes weights, moments and `training.json` as one checkpoint: all of it or nothing.
 *
 * @param state where the run is; must hold `update`
 */
export async function saveRun(
  run: string,
  trainer: Trainer,
  state: { update: number },
): Promise<void> {
  const metadata = { update: String(state.update), format: "pt" };
  const names = [...trainer.shapes.keys()];
  const foreign = foreignNames(trainer.model, "reference", trainer.parts);
  const ours = new Map([...foreign].map(([name, { name: theirs }]) => [theirs, name]));
  const moments = names.flatMap((name) => [`mean.${name}`, `square.${name}`]);
  const parameter = trainer.parameters.reader();
  const mean = trainer.mean.reader(), square = trainer.square.reader();
  await saveCheckpoint(run, {
    "model.safetensors": (path) =>
      writeTensors(
        path,
        names.map((name) => ({ name: foreign.get(name)!.name, shape: foreign.get(name)!.shape })),
        async (theirs) => {
          const name = ours.get(theirs)!;
          const values = await parameter(name);
          const [rows, columns] = trainer.shapes.get(name)!;
          return foreign.get(name)!.transposed ? transpose(values, rows, columns) : values;
        },
        metadata,
      ),
    "optimizer.safetensors": (path) =>
      writeTensors(
        path,
        moments.map((m) => ({ name: m, shape: trainer.shapes.get(m.replace(/^\w+\./, ""))! })),
        (m) => (m.startsWith("mean.") ? mean : square)(m.replace(/^\w+\./, "")),
        metadata,
      ),
    "training.json": (path) => writeFile(path, JSON.stringify(state) + "\n"),
  });
}

/**
 * Reads what {@link saveRun} wrote: weights and moments go to the device, the state is returned.
 *
 * @throws {UserError} if there is no checkpoint, or its files do not belong together
 */
export async function restoreRun<State extends { update: number }>(
  run: string,
  trainer: Trainer,
): Promise<State> {
  const path = await checkpointFile(run, "training.json");
  if (!await exists(path)) {
    throw new UserError(
      `${run}: the run has no checkpoint yet; delete the folder and start it again`,
    );
  }
  const state = await readJson(path) as State;
  const files = await openCheckpoint(run, ["model.safetensors", "optimizer.safetensors"]);
  try {
    const [weights, moments] = files;
    if (weights.metadata.update !== String(state.update)) {
      throw new UserError(`${path}: of update ${state.update}, but the weights are of another`);
    }
    const file = checkpointWeights(await checkpointFile(run, "model.safetensors"), weights);
    const found = await findParameters(file, trainer.model, trainer.parts, ["reference"]);
    for (const [parameter, { name, transposed }] of found) {
      // A checkpoint's tensors come whole.
      const write = (values: Float32Array) => trainer.parameters.write(parameter, values);
      await file.readInto(name, write, { transposed });
    }
    for (const name of trainer.shapes.keys()) {
      trainer.mean.write(name, await moments.read(`mean.${name}`));
      trainer.square.write(name, await moments.read(`square.${name}`));
    }
  } finally {
    for (const file of files) await file.close();
  }
  return state;
}

/** `1.4 M`, `68 k`. */
export function millions(n: number): string {
  return n >= 1e6 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e3).toFixed(0)} k`;
}
