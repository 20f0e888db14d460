/**
 * Models from the Hugging Face Hub: a name in, a folder out. The cache is shared with Python's
 * `huggingface_hub`, so that what either has downloaded the other finds.
 *
 * @module
 */

import { stat } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import { UserError } from "../../ops/graph/errors.ts";
import {
  cachedCommit,
  cachedModels,
  linkBlob,
  type ModelCache,
  modelCache,
  saveCommit,
  snapshotFiles,
} from "./hub/cache.ts";
import {
  commitOf,
  filesOf,
  PATIENCE,
  type Patience,
  type RemoteFile,
  type Source,
  TransientError,
} from "./hub/client.ts";
import { download } from "./hub/download.ts";
import { checkSizes, missingPart, modelFiles, shardsOf } from "./hub/files.ts";
import { nearFolder, parseHubModel } from "./hub/name.ts";
import { startDownload } from "./hub/progress.ts";
import { readSettings } from "./hub/settings.ts";
import type { Output } from "../reports/progress.ts";
import { exists } from "../files/write.ts";

export type { Patience } from "./hub/client.ts";
export { HUB_VARIABLES } from "./hub/settings.ts";

/**
 * What `--allow-net` must name: the Hub, and the hosts that it sends downloads on to. With
 * `HF_ENDPOINT`, that host as well.
 */
export const HUB_HOSTS = ["huggingface.co", "*.huggingface.co", "*.hf.co"] as const;

/** What to do while a model is downloaded. */
export interface HubOptions {
  /** Where progress is shown; standard error unless given. */
  output?: Output;
  /** How long a connection is trusted and tried again; some seconds unless given. */
  patience?: Patience;
}

/**
 * The folder of a model: the given one, or, for a name on the Hugging Face Hub, the snapshot in the
 * cache, after downloading what it lacks: config, tokenizer and one copy of the weights.
 *
 * A model that the cache has whole is returned without a request, even if its branch has moved on
 * since; to fetch another state, name it (`owner/name@COMMIT`) or delete the model's folder.
 * `HF_HUB_CACHE`, `HF_HOME`, `HF_HUB_OFFLINE`, `HF_TOKEN` and `HF_ENDPOINT` mean what they mean to
 * Python.
 *
 * A folder takes `--allow-read` alone. A name also takes `--allow-env` for {@link HUB_VARIABLES} and
 * `--allow-sys=homedir`; a download, `--allow-write` (links need it without a list of paths) and
 * `--allow-net` for {@link HUB_HOSTS}.
 *
 * @param model a folder, or `owner/name`, `owner/name@revision`, or an old bare name (`t5-small`)
 * @throws {UserError} if there is no such folder or model, access to it is refused, the network or
 * the disk fails, a checksum is wrong, or `HF_HUB_OFFLINE` is set and the cache lacks a file
 *
 * @example
 * ```ts
 * import { resolveModel } from "./hub.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(tmpdir() + "/run-");
 * assert.equal(await resolveModel(folder), folder);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function resolveModel(model: string, options: HubOptions = {}): Promise<string> {
  const found = await stat(model).catch(() => undefined);
  if (found?.isDirectory()) return model;
  if (found) throw new UserError(`${model}: expected the folder of a model, got a file`);
  const named = parseHubModel(model);
  if (!named) {
    throw new UserError(
      `${model}: no such folder; expected one, or the name of a model on the Hugging Face Hub ` +
        `(owner/name)${await nearFolder(model)}`,
    );
  }
  const source = { ...await readSettings(), ...named, patience: options.patience ?? PATIENCE };
  const paths = modelCache(source.cache, source.name);
  const { snapshot, missing } = await lookUp(paths, source.revision);
  if (snapshot && !missing) return snapshot;
  if (source.offline) {
    const lacks = missing ? `lacks its ${missing}` : "does not have it";
    throw new UserError(
      `${model}: HF_HUB_OFFLINE is set, and the cache ${lacks}; unset it, or use what there is in ` +
        `${await contentsOf(source.cache)}${await nearFolder(model)}`,
    );
  }
  try {
    return await downloadModel(source, paths, options.output ?? process.stderr);
  } catch (error) {
    throw await explained(error, source);
  }
}

/** What the cache has of a model, and what of it is missing. */
async function lookUp(
  paths: ModelCache,
  revision: string,
): Promise<{ snapshot?: string; missing?: string }> {
  const commit = await cachedCommit(paths, revision);
  if (!commit) return {};
  const snapshot = paths.snapshot(commit);
  const names = await snapshotFiles(snapshot);
  if (names.size === 0) return {};
  const missing = missingPart(names);
  if (missing) return { snapshot, missing };
  // An index whose parts are not all there yet is no error: they can be fetched.
  return await shardsOf(snapshot, names).then(
    () => ({ snapshot }),
    () => ({ snapshot, missing: "weights (all parts that the index names)" }),
  );
}

async function downloadModel(source: Source, paths: ModelCache, output: Output): Promise<string> {
  const commit = await commitOf(source);
  const remote = await filesOf(source, commit);
  const names = new Set(remote.keys());
  const missing = missingPart(names);
  if (missing) {
    throw new UserError(
      `${source.name}: cannot be used: the repository has no ${missing}; choose another model`,
    );
  }
  const snapshot = paths.snapshot(commit);
  const progress = startDownload(source.name, output);
  const fetchAll = async (wanted: readonly string[]) => {
    const files = await notYetIn(snapshot, wanted.map((name) => remote.get(name)!));
    checkSizes(source.name, files);
    progress.plan(files);
    for (const file of files) {
      const [blob, lock] = [paths.blob(file.etag), paths.lock(file.etag)];
      await download({ source, commit, file, blob, lock }, progress);
      await linkBlob(blob, join(snapshot, file.name));
    }
  };
  try {
    await fetchAll(modelFiles(names));
    await fetchAll(await shardsOf(snapshot, names));
  } finally {
    progress.stop();
  }
  await saveCommit(paths, source.revision, commit);
  return snapshot;
}

async function notYetIn(folder: string, files: readonly RemoteFile[]): Promise<RemoteFile[]> {
  const there = await Promise.all(files.map(({ name }) => exists(join(folder, name))));
  return files.filter((_, i) => !there[i]);
}

/** What the user can mend becomes one line; anything else passes through. */
async function explained(error: unknown, { name, cache }: Source): Promise<unknown> {
  if (error instanceof TransientError) {
    return new UserError(
      `${name}: ${error.message}; check the network and run again (what has come is kept), or set ` +
        `HF_HUB_OFFLINE=1 and use what there is in ${await contentsOf(cache)}` +
        await nearFolder(name),
    );
  }
  const advice: Record<string, string> = {
    ENOSPC: "the disk is full; make room and run again (what has come is kept)",
    EDQUOT: "your disk quota is used up; make room and run again (what has come is kept)",
    EACCES: "permission denied; set HF_HUB_CACHE to a folder of yours",
    EROFS: "the file system is read-only; set HF_HUB_CACHE to another folder",
  };
  const code = (error as { code?: string }).code ?? "";
  if (!Object.hasOwn(advice, code)) return error;
  return new UserError(`${name}: writing to the cache ${cache}: ${advice[code]}`);
}

/** The cache and its models, for the end of a sentence. */
async function contentsOf(cache: string): Promise<string> {
  const models = await cachedModels(cache);
  const shown = models.slice(0, 5).join(", ");
  const more = models.length > 5 ? ` and ${models.length - 5} more` : "";
  return `the cache ${cache} (${shown ? shown + more : "no models"})`;
}
