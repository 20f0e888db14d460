/**
 * One file into the cache: in pieces that survive a broken connection, checked, and only then under
 * its name.
 *
 * The bytes go to `blobs/ETAG.incomplete`, from wherever an earlier attempt has stopped; the lock of
 * that blob is Python's, so that two programs never write at once.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { exists } from "../../files/write.ts";
import { type RemoteFile, request, type Source, TransientError, withRetries } from "./client.ts";
import type { DownloadProgress } from "./progress.ts";

/** A file, where it comes from and where it goes. */
export interface Download {
  /** The model that it is of. */
  readonly source: Source;
  /** Commit that it is taken from. */
  readonly commit: string;
  /** What is downloaded. */
  readonly file: RemoteFile;
  /** Path of its blob. */
  readonly blob: string;
  /** Path of the blob's lock. */
  readonly lock: string;
}

/**
 * Downloads a file, or waits for the program that is doing so.
 *
 * @throws {UserError} if the Hub refuses, or the bytes are not those that it has announced
 * @throws {TransientError} if the connection breaks again and again
 */
export async function download(job: Download, progress: DownloadProgress): Promise<void> {
  const { file, blob, source } = job;
  progress.begin(file);
  await mkdir(dirname(blob), { recursive: true });
  await mkdir(dirname(job.lock), { recursive: true });
  await withLock(job.lock, async () => {
    if (await exists(blob)) return;
    const incomplete = `${blob}.incomplete`;
    const handle = await open(incomplete, "a");
    try {
      if ((await handle.stat()).size > file.size) await handle.truncate(0);
      while ((await handle.stat()).size < file.size) {
        await withRetries(source.patience, () => fetchRest(job, handle, progress));
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    await check(file, incomplete, source.name);
    await rename(incomplete, blob);
  });
  progress.seek(file.size);
}

/**
 * Appends what is missing, until the end or until the connection breaks. That is a failure only if the
 * file is no longer than before: whoever gains bytes each time need not fear to run out of attempts.
 */
async function fetchRest(
  { source, commit, file }: Download,
  handle: FileHandle,
  progress: DownloadProgress,
): Promise<void> {
  const watch = watchdog(source.patience.silence);
  try {
    const before = (await handle.stat()).size;
    const response = await request(
      source,
      `${source.endpoint}/${source.name}/resolve/${commit}/${file.name}`,
      {
        headers: before > 0 ? { range: `bytes=${before}-` } : {},
        signal: watch.signal,
        file: file.name,
      },
    );
    let size = response.status === 206 ? before : 0;
    if (size < before) await handle.truncate(size);
    progress.seek(size);
    for await (const piece of piecesOf(response)) {
      watch.alive();
      await writeAll(handle, piece);
      size += piece.length;
      progress.advance(piece.length);
      if (size > file.size) break; // the checksum will say so
    }
    if (size <= before) throw new TransientError(`the transfer of ${file.name} broke off`);
  } finally {
    watch.stop();
  }
}

/** The bytes of an answer; a connection that breaks just ends them. */
async function* piecesOf(response: Response): AsyncGenerator<Uint8Array> {
  if (!response.body) return;
  const reader = response.body.getReader();
  const read = () => reader.read().catch(() => ({ value: undefined }));
  for (let piece = await read(); piece.value; piece = await read()) yield piece.value;
}

/** Aborts when nobody says for so long that things go on; stopping it closes the connection. */
function watchdog(
  milliseconds: number,
): { signal: AbortSignal; alive(): void; stop(): void } {
  const controller = new AbortController();
  const start = () => setTimeout(() => controller.abort(), milliseconds);
  let timer = start();
  return {
    signal: controller.signal,
    alive() {
      clearTimeout(timer);
      timer = start();
    },
    stop() {
      clearTimeout(timer);
      controller.abort();
    },
  };
}

async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await handle.write(bytes, done, bytes.length - done)).bytesWritten;
  }
}

/** Throws away a file whose bytes are not those that its name promises. */
async function check({ name, size, etag }: RemoteFile, path: string, model: string): Promise<void> {
  // Git hashes a small file with its size before it; a large one's name is its plain SHA-256.
  const hash = etag.length === 64
    ? createHash("sha256")
    : createHash("sha1").update(`blob ${size}\0`);
  for await (const piece of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(piece);
  const found = hash.digest("hex");
  if (found === etag) return;
  await rm(path);
  throw new UserError(
    `${model}: ${name} arrived damaged (checksum ${found}, expected ${etag}); ` +
      `the file was deleted; run again`,
  );
}

async function withLock(path: string, work: () => Promise<void>): Promise<void> {
  const file = await Deno.open(path, { create: true, write: true });
  try {
    // Some network drives know no locks; there, the checksum finds what two writers have mixed up.
    await file.lock(true).catch(() => {});
    await work();
  } finally {
    file.close();
  }
}
