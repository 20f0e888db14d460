/**
 * Tensors in files, and checkpoints that survive being killed.
 *
 * A single file (`writeFile`, `writeTensors`) is written to `NAME.tmp` beside it, flushed to the
 * disk, and renamed: under its own name it is always either the old one or the new one, whole.
 *
 * A checkpoint is several files that belong together, and two renames are not atomic. So
 * `saveCheckpoint` keeps a redo log of one folder:
 *
 * 1. write and flush every file into `checkpoint.tmp/`;
 * 2. rename `checkpoint.tmp/` to `checkpoint.next/`: **this one rename commits**;
 * 3. move the files out of `checkpoint.next/` into the run folder, over the old ones; remove it.
 *
 * Killed in 1, the run folder still holds the previous checkpoint, and `checkpoint.tmp/` is rubbish
 * that the next save removes. Killed in 3, each file of the new checkpoint is in exactly one place:
 * those not yet moved in `checkpoint.next/`, the others in the run folder. Readers therefore look in
 * `checkpoint.next/` first (and need no permission to write); the next save finishes the moving.
 *
 * With several ranks, every rank writes its own files in step 1, and rank 0 does the rest, between
 * barriers: it renames when all have written and flushed, and all go on when the files are in place.
 *
 * Each tensor's CRC-32 stands in the file's metadata and is checked when the tensor is read.
 *
 * @module
 */
import { mkdir, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { exists, fileError, flushFolder, onDisk } from "../files/write.ts";
import { alone, type Communicator } from "../parallel/communicator.ts";
import { openTensors, type Tensors } from "./tensors.ts";

const STAGED = "checkpoint.tmp";
const COMMITTED = "checkpoint.next";

/** Ranks write for different lengths of time, and a disk may be slow. */
const PATIENT = { patient: true };

/** Settings of {@link saveCheckpoint}. */
export interface SaveOptions {
  /** The ranks that save together; by default this one alone. */
  group?: Communicator;
  /**
   * Names of files that belonged to earlier checkpoints: those in the folder that are not among the files
   * of this one are removed after its commit.
   */
  stale?(name: string): boolean;
}

/**
 * Saves files that belong together, all or none: see the protocol at the top of this file.
 *
 * @param folder the run folder; made when absent
 * @param files for each file name, what writes it to the path that it is given; undefined where another
 * rank does
 * @throws {UserError} the disk is full or the folder cannot be written to; the previous checkpoint
 * is intact
 *
 * @example
 * ```ts
 * import { openCheckpoint, saveCheckpoint } from "./save.ts";
 * import { writeTensors } from "./tensors.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-");
 * const save = (path: string) =>
 *   writeTensors(path, [{ name: "w", shape: [1] }], () => new Float32Array(1), { update: "7" });
 * await saveCheckpoint(run, { "model.safetensors": save, "optimizer.safetensors": save });
 *
 * const [model, optimizer] = await openCheckpoint(run, ["model.safetensors", "optimizer.safetensors"]);
 * assert.equal(model.metadata.update, optimizer.metadata.update);
 * await Promise.all([model.close(), optimizer.close()]);
 * await rm(run, { recursive: true });
 * ```
 */
export async function saveCheckpoint(
  folder: string,
  files: Readonly<Record<string, ((path: string) => Promise<void>) | undefined>>,
  { group = alone(), stale = () => false }: SaveOptions = {},
): Promise<void> {
  const first = group.rank === 0;
  if (first) await onDisk(folder, () => makeStaged(folder));
  await group.barrier(PATIENT);
  await writeStaged(folder, files, group);
  if (first) {
    await commit(folder, Object.keys(files), group);
    await onDisk(folder, async () => {
      await finishCommit(folder);
      await removeStale(folder, (name) => stale(name) && !Object.hasOwn(files, name));
    });
  } else {
    await group.barrier(PATIENT); // all have written
  }
  await group.barrier(PATIENT);
}

async function makeStaged(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await finishCommit(folder);
  await rm(join(folder, STAGED), { recursive: true, force: true });
  await mkdir(join(folder, STAGED));
}

/** Step 1 of the protocol, a rank's share. */
async function writeStaged(
  folder: string,
  files: Readonly<Record<string, ((path: string) => Promise<void>) | undefined>>,
  group: Communicator,
): Promise<void> {
  const staged = join(folder, STAGED);
  try {
    if (group.rank > 0) await expectShared(staged, "the folder that rank 0 has just made");
    for (const [name, write] of Object.entries(files)) await write?.(join(staged, name));
  } catch (error) {
    // What cannot be removed is removed by the next save; the first error matters. Other ranks may still be
    // writing: their files stay, or they would fail too.
    const own = Object.keys(files).filter((name) => files[name]);
    for (const name of own) await rm(join(staged, name), { force: true }).catch(() => {});
    if (group.size === 1) await rmdir(staged).catch(() => {});
    throw error;
  }
}

/** Step 2 of the protocol, when all ranks have done step 1. */
async function commit(folder: string, names: readonly string[], group: Communicator) {
  const staged = join(folder, STAGED);
  try {
    await group.barrier(PATIENT);
    for (const name of names) {
      await expectShared(join(staged, name), "what a rank has just written");
    }
    await onDisk(folder, async () => {
      await flushFolder(staged);
      await rename(staged, join(folder, COMMITTED));
      await flushFolder(folder);
    });
  } catch (error) {
    // All wait for this commit, or the job ends: nobody's writing is disturbed.
    await rm(staged, { recursive: true, force: true }).catch(() => {}); // the first error matters
    throw error;
  }
}

/** Looked up by name: a listing of a folder on a network may be older than what others wrote there. */
async function expectShared(path: string, what: string): Promise<void> {
  await stat(path).catch((error) => {
    if (error.code !== "ENOENT") throw fileError(error, "reading", path);
    throw new UserError(
      `${path}: expected ${what}, found nothing; put the run on a file system that all machines share`,
    );
  });
}

async function removeStale(folder: string, stale: (name: string) => boolean): Promise<void> {
  const names = (await readdir(folder)).filter(stale);
  for (const name of names) await rm(join(folder, name), { force: true });
}

/**
 * Where the newest version of a checkpoint's file is; nothing is moved. A file that does not exist
 * gets the path where it would be.
 */
async function checkpointFile(folder: string, name: string): Promise<string> {
  const committed = join(folder, COMMITTED, name);
  // Not access(), for which Deno wants to know the user's number.
  return await stat(committed).then(() => committed, () => join(folder, name));
}

/**
 * Reads the newest version of a checkpoint's file while a run goes on, which may move it into place, or write
 * the next one, between looking for it and opening it.
 *
 * @param read opens the file; called again if it has been moved away
 *
 * @example
 * ```ts
 * import { readNewest } from "./save.ts";
 * import assert from "node:assert/strict";
 *
 * const read = (path: string) => Deno.readTextFile(path);
 * await assert.rejects(readNewest("no-such-run", "training.json", read), Deno.errors.NotFound);
 * ```
 */
export async function readNewest<T>(
  folder: string,
  name: string,
  read: (path: string) => Promise<T>,
): Promise<T> {
  for (let moves = 0;; moves++) {
    const path = await checkpointFile(folder, name);
    try {
      return await read(path);
    } catch (error) {
      const wasMoved = path !== join(folder, name) && !await exists(path);
      if (!wasMoved || moves === MOST_MOVES) throw error;
    }
  }
}

/** A run that saves so often while one file is opened is none. */
const MOST_MOVES = 100;

/**
 * Opens tensor files of one checkpoint, and makes sure that they are of the same update (the
 * `update` in their metadata).
 *
 * @returns the files in the order of `names`; close each
 * @throws {UserError} one is missing or damaged, or they are of different updates
 *
 * @example
 * ```ts
 * import { openCheckpoint } from "./save.ts";
 * import assert from "node:assert/strict";
 *
 * await assert.rejects(openCheckpoint("no-such-run", ["model.safetensors"]), /no such file/);
 * ```
 */
export async function openCheckpoint(folder: string, names: readonly string[]): Promise<Tensors[]> {
  const opened: Tensors[] = [];
  try {
    for (const name of names) opened.push(await openTensors(await checkpointFile(folder, name)));
    const updates = new Set(opened.map(({ metadata }) => metadata.update));
    if (updates.size > 1) {
      const each = names.map((name, i) => `${name} of update ${opened[i].metadata.update}`);
      throw new UserError(
        `${folder}: files of different checkpoints (${each.join(", ")}); ` +
          `put back files that were saved together`,
      );
    }
    return opened;
  } catch (error) {
    for (const tensors of opened) await tensors.close();
    throw error;
  }
}

/** Step 3 of the protocol, for one who may write; does nothing when there is nothing to finish. */
export async function finishCommit(folder: string): Promise<void> {
  const committed = join(folder, COMMITTED);
  const names = await readdir(committed).catch((error) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (!names) return;
  for (const name of names) await rename(join(committed, name), join(folder, name));
  await flushFolder(folder);
  await rmdir(committed); // and nothing with it, should the listing have been incomplete
}
