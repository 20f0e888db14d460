/**
 * Files that are written whole or not at all, and what the file system may refuse.
 *
 * @module
 */

import { type FileHandle, open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";

/** Bytes that are read or written at a time. */
export const PIECE = 1 << 26;

/**
 * True if there is a file or folder of this name.
 *
 * @throws {Deno.errors.NotCapable} it may not be looked at
 */
export async function exists(path: string): Promise<boolean> {
  return await stat(path).then(() => true, (error) => {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return false;
  });
}

/**
 * Writes a small file whole or not at all.
 *
 * @throws {UserError} the disk is full or the folder cannot be written to; the old file is intact
 *
 * @example
 * ```ts
 * import { writeFile } from "./write.ts";
 * import { mkdtemp, readFile, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-");
 * await writeFile(`${run}/config.json`, "{}\n");
 * assert.equal(await readFile(`${run}/config.json`, "utf8"), "{}\n");
 * await rm(run, { recursive: true });
 * ```
 */
export async function writeFile(path: string, contents: string | Uint8Array): Promise<void> {
  const bytes = typeof contents === "string" ? new TextEncoder().encode(contents) : contents;
  await replaceFile(path, (file) => writeAll(file, bytes, 0));
}

/**
 * Writes a file under a temporary name, flushes it, and puts it into place.
 *
 * @throws {UserError} what the file system refuses; the old file is intact
 */
export async function replaceFile(
  path: string,
  write: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.tmp`;
  await onDisk(path, async () => {
    try {
      const file = await open(temporary, "w");
      try {
        await write(file);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await flushFolder(dirname(path));
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => {});
      throw error;
    }
  });
}

/**
 * Looks whether a file can be written by {@link writeFile}, before the work whose outcome it will hold.
 *
 * @throws {UserError} if it is no file, or its folder is not there or cannot be written to
 */
export async function expectWritable(path: string): Promise<void> {
  await expectFile(path);
  const temporary = `${path}.tmp`;
  await onDisk(path, async () => {
    await (await open(temporary, "w")).close();
    await rm(temporary);
  });
}

/**
 * Fails if something is where a file is to be written that is no file.
 *
 * @throws {UserError} naming it
 */
export async function expectFile(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found === undefined || found.isFile()) return;
  const got = found.isDirectory() ? "a folder" : "something else";
  throw new UserError(`writing ${path}: expected a file, got ${got}; move it away`);
}

/** Makes the renames in a folder outlast a power cut; Windows has no such call and needs none. */
export async function flushFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r").catch(() => undefined);
  await handle?.sync().catch(() => {});
  await handle?.close();
}

/** Writes all of some bytes at a position, a piece at a time. */
export async function writeAll(
  file: FileHandle,
  bytes: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const length = Math.min(PIECE, bytes.length - done);
    done += (await file.write(bytes, done, length, position + done)).bytesWritten;
  }
}

/**
 * Does something with a file.
 *
 * @throws {UserError} what the file system refuses
 */
export async function onDisk<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fileError(error, "writing", path);
  }
}

/** What the file system refuses is the user's to mend; anything else passes through. */
export function fileError(error: unknown, doing: string, path: string): unknown {
  const advice: Record<string, string> = {
    ENOSPC: "the disk is full; make room, then run again with --resume",
    EDQUOT: "your disk quota is used up; make room, then run again with --resume",
    EFBIG: "the file system takes no file this large; choose another folder",
    EACCES: "permission denied; choose another folder or change its permissions",
    EPERM: "permission denied; choose another folder or change its permissions",
    EROFS: "the file system is read-only; choose another folder",
    ENOTDIR: "part of the path is a file, not a folder; choose another folder",
    ENOENT: "no such file or folder; check the path",
    EISDIR: "expected a file, got a folder; check the path",
    EIO: "the disk reports an error; choose another disk",
    ELOOP: "its links lead in a circle; choose another path",
    ENAMETOOLONG: "the name is too long for the file system; choose another",
    EINVAL: "the file system knows no such name; choose another",
    ESTALE: "the folder is gone from the network drive; mount it again",
    EMFILE: "too many files are open; raise the limit (ulimit -n)",
  };
  if (error instanceof Error && error.name === "NotCapable") {
    return new UserError(`${doing} ${path}: no permission; add it to --allow-write`);
  }
  const code = (error as { code?: string }).code ?? "";
  return Object.hasOwn(advice, code) ? new UserError(`${doing} ${path}: ${advice[code]}`) : error;
}
