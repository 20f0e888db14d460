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
import { type FileHandle, mkdir, open, readdir, rename, rm, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import {
  decodeFloats,
  encodeHeader,
  type Header,
  headerSize,
  parseHeader,
} from "../../models/formats/safetensors.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { fileError, flushFolder, onDisk, PIECE, replaceFile, writeAll } from "../files/write.ts";
import { alone, type Communicator } from "../parallel/communicator.ts";

const STAGED = "checkpoint.tmp";
const COMMITTED = "checkpoint.next";

/** Bytes that may wait for the disk, or the flush at the end would take long without a sign of life. */
const UNFLUSHED = 1 << 30;

/** Ranks write for different lengths of time, and a disk may be slow. */
const PATIENT = { patient: true };

/** A tensor file that is open for reading. */
export interface Tensors {
  /** Where it is, for messages. */
  readonly path: string;
  /** The tensors' names, in the order of the file: the fastest order to read them in. */
  readonly names: readonly string[];
  /** Free text by key, as it was given to {@link writeTensors}. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The dimensions of a tensor. Throws a `UserError` when the file has none of this name. */
  shape(name: string): readonly number[];
  /** The values of a tensor; F16 and BF16 are widened. Throws a `UserError` on damage. */
  read(name: string): Promise<Float32Array>;
  /** Closes the file. */
  close(): Promise<void>;
}

/**
 * Writes a safetensors file of 32-bit floats, one tensor after the other, so that only one of them
 * need be in memory. Whole or not at all, like {@link writeFile}.
 *
 * @param specs names and shapes, in any order; the file's order does not depend on it
 * @param produce the values of a tensor; called once for each, in the order of `specs`
 * @param metadata free text by key ("crc32" is taken)
 * @throws {UserError} the disk is full or the folder cannot be written to; the old file is intact
 * @throws {Error} `produce` gave a wrong number of values
 *
 * @example
 * ```ts
 * import { openTensors, writeTensors } from "@metro/t0/tasks";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-"), path = `${run}/model.safetensors`;
 * await writeTensors(path, [{ name: "bias", shape: [2] }], () => new Float32Array([1, 2]), {});
 * const tensors = await openTensors(path);
 * assert.deepEqual([...await tensors.read("bias")], [1, 2]);
 * await tensors.close();
 * await rm(run, { recursive: true });
 * ```
 */
export async function writeTensors(
  path: string,
  specs: readonly { name: string; shape: readonly number[] }[],
  produce: (name: string) => Promise<Float32Array> | Float32Array,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  // The sums are known last but stand first: the header is written again, at the same length.
  const headerWith = (sums: readonly string[]) =>
    encodeHeader(specs, { ...metadata, crc32: sums.join(" ") });
  const { bytes, tensors } = headerWith(specs.map(() => "00000000"));

  await replaceFile(path, async (file) => {
    await writeAll(file, bytes, 0);
    const sums = new Map<string, string>();
    let unflushed = 0;
    for (const { name } of specs) {
      const entry = tensors.get(name)!;
      const { buffer, byteOffset, byteLength } = await produce(name);
      if (byteLength !== entry.bytes) {
        const got = `${byteLength / 4} values for shape [${entry.shape}]`;
        throw new Error(`writing tensor ${name}: got ${got}`);
      }
      const values = new Uint8Array(buffer, byteOffset, byteLength);
      sums.set(name, crc32(values).toString(16).padStart(8, "0"));
      await writeAll(file, values, entry.offset);
      unflushed += byteLength;
      if (unflushed < UNFLUSHED) continue;
      await file.datasync();
      unflushed = 0;
    }
    await writeAll(
      file,
      headerWith(Array.from(tensors.keys(), (name) => sums.get(name)!)).bytes,
      0,
    );
  });
}

/**
 * Opens a safetensors file, and checks its header against its size.
 *
 * @throws {UserError} it is missing, cut short, or no safetensors file
 *
 * @example
 * ```ts
 * import { openTensors } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * await assert.rejects(openTensors("no-such-run/model.safetensors"), /no such file/);
 * ```
 */
export async function openTensors(path: string): Promise<Tensors> {
  const file = await open(path, "r").catch((error) => {
    throw fileError(error, "reading", path);
  });
  try {
    const { size } = await file.stat();
    const start = await readPiece(file, 0, Math.min(8, size));
    const header = parseHeader(await readPiece(file, 0, headerSize(start, size)), size);
    return tensorsOf(path, file, header);
  } catch (error) {
    await file.close();
    throw error instanceof UserError
      ? damaged(path, error.message)
      : fileError(error, "reading", path);
  }
}

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
 * import { openCheckpoint, saveCheckpoint, writeTensors } from "./save.ts";
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
 *
 * @example
 * ```ts
 * import { checkpointFile } from "./save.ts";
 * import assert from "node:assert/strict";
 *
 * assert.match(await checkpointFile("run", "model.safetensors"), /^run.model\.safetensors$/);
 * ```
 */
export async function checkpointFile(folder: string, name: string): Promise<string> {
  const committed = join(folder, COMMITTED, name);
  // Not access(), for which Deno wants to know the user's number.
  return await stat(committed).then(() => committed, () => join(folder, name));
}

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

/** Step 3 of the protocol; does nothing when there is nothing to finish. */
async function finishCommit(folder: string): Promise<void> {
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

async function readPiece(
  file: FileHandle,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(
      bytes,
      done,
      Math.min(PIECE, length - done),
      position + done,
    );
    if (bytesRead === 0) throw new UserError("cut short while it was being read");
    done += bytesRead;
  }
  return bytes;
}

function tensorsOf(path: string, file: FileHandle, { tensors, metadata: all }: Header): Tensors {
  const names = [...tensors.keys()];
  const { crc32: sumList, ...metadata } = all;
  const sums = sumList?.split(" ");
  const entryOf = (name: string) => {
    const entry = tensors.get(name);
    if (!entry) throw new UserError(`${path}: has no tensor ${name}; is it from another model?`);
    return entry;
  };
  return {
    path,
    names,
    metadata,
    shape: (name) => entryOf(name).shape,
    async read(name) {
      const { dtype, offset, bytes: length } = entryOf(name);
      try {
        const bytes = await readPiece(file, offset, length);
        if (sums && crc32(bytes) !== parseInt(sums[names.indexOf(name)], 16)) {
          throw new UserError(`the bytes of tensor ${name} have changed since they were written`);
        }
        return decodeFloats(dtype, bytes);
      } catch (error) {
        throw error instanceof UserError ? damaged(path, error.message) : error;
      }
    },
    close: () => file.close(),
  };
}

function damaged(path: string, what: string): UserError {
  return new UserError(
    `${path}: cannot be used: ${what}; put back a copy of the file, or start a new run`,
  );
}
