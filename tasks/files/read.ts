/**
 * Opens files that people name, for reading: the one place that does. Only regular files are opened, since
 * a pipe or a device may never answer or never end, and what the system refuses becomes one line.
 *
 * @module
 */

import { closeSync, openSync, readdirSync, readSync, type Stats, statSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { UserError } from "../../ops/graph/errors.ts";

/** A file that is read whole is at most so long, unless the caller says otherwise. Bytes. */
export const MAX_WHOLE_FILE: number = 1 << 28;

const REFUSALS: Readonly<Record<string, string>> = {
  ENOENT: "no such file or folder; check the path",
  ENOTDIR: "part of the path is a file, not a folder; check the path",
  EISDIR: "expected a file, got a folder; check the path",
  EACCES: "permission denied; change its permissions",
  EPERM: "permission denied; change its permissions",
  ELOOP: "its links lead in a circle; mend or remove them",
  ENAMETOOLONG: "the name is too long for the file system; check the path",
  EINVAL: "the file system knows no such name; check the path",
  EIO: "the disk reports an error; try another copy",
  ESTALE: "it is gone from the network drive; mount it again",
  EMFILE: "too many files are open; raise the limit (ulimit -n)",
  ENFILE: "too many files are open on this machine; close some",
};

/**
 * What an error in reading a file is to the user: one line for what the system refuses. Errors of ours
 * pass through.
 *
 * @param path the file or folder, for the message
 *
 * @example
 * ```ts
 * import { readError } from "./read.ts";
 * import assert from "node:assert/strict";
 *
 * const refused = Object.assign(new Error("open"), { code: "ENOENT" });
 * assert.match(String(readError("a.txt", refused)), /a\.txt: cannot be read: no such file/);
 * const ours = new TypeError("a mistake");
 * assert.equal(readError("a.txt", ours), ours);
 * ```
 */
export function readError(path: string, error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof UserError) return error;
  if (error.name === "NotCapable") {
    return new UserError(`${path}: cannot be read: no permission; add it to --allow-read`);
  }
  const { code, message } = error as Error & { code?: unknown };
  if (
    code === "ERR_INVALID_ARG_VALUE" || (error instanceof TypeError && /nul byte/.test(message))
  ) {
    return new UserError(`${path}: cannot be read: no file has such a name; check the path`);
  }
  if (typeof code !== "string" || !/^E[A-Z0-9]+$/.test(code)) return error;
  const reason = Object.hasOwn(REFUSALS, code) ? REFUSALS[code] : `the system says ${code}`;
  return new UserError(`${shortened(path)}: cannot be read: ${reason}`);
}

/** Of a name that is too long for the system, a message shows both ends. */
function shortened(path: string): string {
  return path.length <= 300 ? path : `${path.slice(0, 140)}…${path.slice(-140)}`;
}

/** What tells that a file has been touched, without reading it. */
export interface FileStamp {
  /** Bytes. */
  size: number;
  /** Last modification, milliseconds since 1970. */
  modified: number;
  /** Last change of contents, name or rights, which no program can set. */
  changed: number;
}

/**
 * Asserts that a path leads to a regular file, and tells its size and age.
 *
 * @throws {UserError} there is none, or it is a folder, a pipe, a socket or a device
 */
export function regularFile(path: string): FileStamp {
  const stats = reading(path, () => statSync(path));
  if (!stats.isFile()) {
    const advice = stats.isDirectory()
      ? "check the path"
      : "only files are read; save what it gives to a file first";
    const got = `expected a file, got ${kindOf(stats)}`;
    throw new UserError(`${path}: cannot be read: ${got}; ${advice}`);
  }
  const { size, mtimeMs, ctimeMs } = stats;
  return { size, modified: Math.floor(mtimeMs), changed: Math.floor(ctimeMs) };
}

/** Clocks of file systems tick slowly: two changes of a file within so many milliseconds may look like one. */
const TICK = 2000;

/**
 * A stamp to be kept, by which a later look tells whether the file has been touched. One of a file that has
 * only just changed tells nothing, since it may change again within the same tick: it has `changed` 0, which
 * no file has.
 */
export function keptStamp<T extends FileStamp>(stamp: T): T {
  return Date.now() - stamp.changed > TICK ? stamp : { ...stamp, changed: 0 };
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return "a folder";
  if (stats.isFIFO()) return "a pipe";
  if (stats.isSocket()) return "a socket";
  return "a device";
}

/**
 * Opens a regular file, to read parts of it; close it when done.
 *
 * @throws {UserError} there is none, or it cannot be opened
 */
export async function openRegular(path: string): Promise<FileHandle> {
  regularFile(path);
  return await open(path, "r").catch((error) => {
    throw readError(path, error);
  });
}

/** The same as a number that `node:fs` reads from. */
export function openRegularNumber(path: string): number {
  regularFile(path);
  return reading(path, () => openSync(path, "r"));
}

/** The same for synchronous reads; see {@link readFully}. */
export function openRegularSync(path: string): Deno.FsFile {
  regularFile(path);
  return reading(path, () => Deno.openSync(path));
}

/**
 * Fills `bytes` from a position of an open file.
 *
 * @param path the file, for the message
 * @throws {UserError} the file ends before, or cannot be read
 */
export function readFully(
  file: Deno.FsFile,
  bytes: Uint8Array,
  position: number,
  path: string,
): void {
  reading(path, () => {
    file.seekSync(position, Deno.SeekMode.Start);
    for (let done = 0; done < bytes.length;) {
      const read = file.readSync(bytes.subarray(done));
      if (read === null) throw new UserError(`${path}: cut short while it was being read`);
      done += read;
    }
  });
}

/**
 * The bytes of a regular file.
 *
 * @param limit most bytes that it may have; {@link MAX_WHOLE_FILE} unless given
 * @throws {UserError} there is none, it is longer, or it cannot be read
 *
 * @example
 * ```ts
 * import { readWhole } from "./read.ts";
 * import assert from "node:assert/strict";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "abc");
 * assert.deepEqual(readWhole(path), Uint8Array.of(97, 98, 99));
 * assert.throws(() => readWhole(path, 2), /expected at most 2 bytes/);
 * await Deno.remove(path);
 * ```
 */
export function readWhole(path: string, limit: number = MAX_WHOLE_FILE): Uint8Array<ArrayBuffer> {
  const { size } = regularFile(path);
  if (size > limit) {
    throw new UserError(
      `${path}: expected at most ${limit} bytes, got ${size}; is it the right file?`,
    );
  }
  return reading(path, () => {
    const file = openSync(path, "r");
    try {
      const bytes = new Uint8Array(size);
      let done = 0;
      while (done < size) {
        const read = readSync(file, bytes, done, size - done, null);
        if (read === 0) break;
        done += read;
      }
      return bytes.subarray(0, done);
    } finally {
      closeSync(file);
    }
  });
}

/**
 * The text of a regular file, which is UTF-8; a byte order mark at its beginning is left out.
 *
 * @param limit as for {@link readWhole}
 * @throws {UserError} as {@link readWhole}, and if it is not UTF-8
 *
 * @example
 * ```ts
 * import { readText } from "./read.ts";
 * import assert from "node:assert/strict";
 *
 * const path = await Deno.makeTempFile();
 * await Deno.writeTextFile(path, "\ufeffabc");
 * assert.equal(readText(path), "abc");
 * await Deno.remove(path);
 * ```
 */
export function readText(path: string, limit?: number): string {
  const bytes = readWhole(path, limit);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new UserError(`${path}: not valid UTF-8; convert the file to UTF-8 first`);
  }
}

/**
 * The names in a folder, in the order of their code units: the same on every machine.
 *
 * @throws {UserError} there is no such folder, or it cannot be read
 *
 * @example
 * ```ts
 * import { namesIn } from "./read.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * for (const name of ["b", "a"]) await Deno.writeTextFile(`${folder}/${name}`, "");
 * assert.deepEqual(namesIn(folder), ["a", "b"]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function namesIn(folder: string): string[] {
  return reading(folder, () => readdirSync(folder).sort((a, b) => a < b ? -1 : 1));
}

/** True if a path leads to a folder; false also where nobody can tell, such as a link to nothing. */
export function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory();
  } catch {
    return false;
  }
}

/** Does something with a file or folder; what the system refuses becomes one line. */
function reading<T>(path: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw readError(path, error);
  }
}
