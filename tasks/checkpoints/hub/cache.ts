/**
 * The cache on the disk, in the layout of Python's `huggingface_hub`:
 *
 * ```text
 * models--OWNER--NAME/
 *   blobs/ETAG                 the bytes of a file
 *   refs/REVISION              the commit that a branch or tag stood at
 *   snapshots/COMMIT/NAME      a link to a blob
 * .locks/models--OWNER--NAME/ETAG.lock
 * ```
 *
 * @module
 */

import { getRepoFolderName } from "@huggingface/hub";
import { link, mkdir, readdir, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { readText } from "../../files/read.ts";
import { exists } from "../../files/write.ts";

const COMMIT = /^[0-9a-f]{40}$/;

/** Where the parts of a model are in a cache. */
export interface ModelCache {
  /** Path of a blob. */
  blob(etag: string): string;
  /** Path of a blob's lock. */
  lock(etag: string): string;
  /** Folder of the files of a commit. */
  snapshot(commit: string): string;
  /** Path of the file that says which commit a revision is. */
  ref(revision: string): string;
}

/** The part of a cache that belongs to a model. */
export function modelCache(cache: string, name: string): ModelCache {
  const folder = getRepoFolderName({ type: "model", name });
  return {
    blob: (etag) => join(cache, folder, "blobs", etag),
    lock: (etag) => join(cache, ".locks", folder, `${etag}.lock`),
    snapshot: (commit) => join(cache, folder, "snapshots", commit),
    ref: (revision) => join(cache, folder, "refs", revision),
  };
}

/** The commit that a revision was when it was last asked for; nothing if it never was. */
export async function cachedCommit(
  paths: ModelCache,
  revision: string,
): Promise<string | undefined> {
  if (COMMIT.test(revision)) return revision;
  const ref = paths.ref(revision);
  const commit = await exists(ref) ? readText(ref).trim() : "";
  return COMMIT.test(commit) ? commit : undefined;
}

/** Writes down which commit a revision is. */
export async function saveCommit(
  paths: ModelCache,
  revision: string,
  commit: string,
): Promise<void> {
  if (revision === commit) return;
  await mkdir(dirname(paths.ref(revision)), { recursive: true });
  await writeFile(paths.ref(revision), commit);
}

/** The names in a snapshot, without links that lead nowhere. */
export async function snapshotFiles(folder: string): Promise<Set<string>> {
  const names = await readdir(folder).catch(() => []);
  const there = await Promise.all(names.map((name) => exists(join(folder, name))));
  return new Set(names.filter((_, i) => there[i]));
}

/** Makes a blob visible under its file's name. */
export async function linkBlob(blob: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  try {
    await symlink(relative(dirname(path), blob), path, "file");
  } catch (error) {
    // Another program was faster, or only the blob was lost: this link is the one that is wanted.
    if ((error as { code?: string }).code === "EEXIST") return;
    // Windows lets only some users make symbolic links, but everyone hard ones.
    await link(blob, path);
  }
}

/** The models of a cache, by name. */
export async function cachedModels(cache: string): Promise<string[]> {
  const prefix = "models--";
  const folders = await readdir(cache).catch(() => []);
  return folders.filter((folder) => folder.startsWith(prefix))
    .map((folder) => folder.slice(prefix.length).replace("--", "/"))
    .toSorted();
}
