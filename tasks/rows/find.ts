/**
 * Finds datasets in a folder: `DIR/<dataset>[/<config>]/<split>.*`, in one file or in shards named
 * `<split>-00000-of-00004.*` as on the Hub.
 *
 * @module
 */
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { isFolder, namesIn } from "../files/read.ts";
import { nearest } from "../command/nearest.ts";

const SUPPORTED = ".jsonl, .json, .csv, each also .gz, and .parquet";
/** `train.jsonl`, `train-00000-of-00004.parquet`, and the Hub's old `train-0…-of-0…-<hash>.parquet`. */
const SPLIT_FILE =
  /^(?<split>.+?)(?:-(?<shard>\d+)-of-(?<of>\d+)(?:-[0-9a-f]+)?)?\.(?:(?:jsonl|json|csv)(?:\.gz)?|parquet)$/;
/** What the Hub's tools write beside the data. */
const NOT_DATA = /^(dataset_infos?|dataset_dict|state)\.json$/;
/** user/dataset/config/split is the deepest there is. */
const MAX_DEPTH = 4;

interface SplitFile {
  name: string;
  split: string;
  /** Undefined for a split in one file. */
  shard?: number;
  of?: number;
}

/**
 * The datasets in a folder, as relative names such as `super_glue/copa`, sorted.
 *
 * @throws {UserError} the folder does not exist
 *
 * @example
 * ```ts
 * import { datasetsIn, splitsOf } from "./find.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.mkdir(`${folder}/super_glue/copa`, { recursive: true });
 * await Deno.writeTextFile(`${folder}/super_glue/copa/train.jsonl`, '{"label":0}');
 * assert.deepEqual(datasetsIn(folder), ["super_glue/copa"]);
 * assert.deepEqual(splitsOf(folder, "super_glue/copa"), ["train"]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function datasetsIn(folder: string): string[] {
  if (!isFolder(folder)) throw new UserError(`${folder}: no such folder`);
  return walk(folder, "", 0);
}

function walk(folder: string, dataset: string, depth: number): string[] {
  const found = depth > 0 && splitFiles(folder, dataset).length > 0 ? [dataset] : [];
  if (depth === MAX_DEPTH) return found;
  for (const name of names(join(folder, dataset))) {
    if (name.startsWith(".") || !isFolder(join(folder, dataset, name))) continue;
    found.push(...walk(folder, dataset === "" ? name : `${dataset}/${name}`, depth + 1));
  }
  return found;
}

/**
 * The names of a dataset's splits, sorted.
 *
 * @throws {UserError} the dataset does not exist; the message names the nearest
 */
export function splitsOf(folder: string, dataset: string): string[] {
  const splits = new Set(splitFiles(folder, dataset).map(({ split }) => split));
  if (splits.size === 0) throw unknownDataset(folder, dataset);
  return [...splits];
}

/**
 * The files of a split, in order: one, or all the shards.
 *
 * @throws {UserError} the dataset or the split does not exist, is there twice, or lacks a shard
 */
export function filesOf(folder: string, dataset: string, split: string): string[] {
  const splits = splitsOf(folder, dataset);
  const place = join(folder, dataset);
  const files = splitFiles(folder, dataset).filter((file) => file.split === split);
  if (files.length === 0) {
    const near = nearest(split, splits);
    const hint = near ? `; did you mean ${near}?` : "";
    throw new UserError(`${place}: no split "${split}"; there are ${splits.join(", ")}${hint}`);
  }
  const of = files[0].of ?? 1;
  for (const [i, { name, ...file }] of files.entries()) {
    if ((file.of ?? 1) !== of || i >= of || (i > 0 && file.shard === files[i - 1].shard)) {
      const both = `${files[Math.max(i - 1, 0)].name} and ${name}`;
      throw new UserError(
        `${place}: split "${split}" is there twice, as ${both}; keep one of them`,
      );
    }
  }
  const missing = files.findIndex(({ shard = 0 }, i) => shard !== i);
  if (missing >= 0 || files.length < of) {
    const shard = missing >= 0 ? missing : files.length;
    throw new UserError(`${place}: split "${split}" lacks the shard numbered ${shard} of ${of}`);
  }
  return files.map(({ name }) => join(place, name));
}

/** Sorted by split, then by shard, then by name. */
function splitFiles(folder: string, dataset: string): SplitFile[] {
  const place = join(folder, dataset);
  const files = names(place).flatMap((name): SplitFile[] => {
    const parts = SPLIT_FILE.exec(name)?.groups;
    if (!parts || name.startsWith(".") || NOT_DATA.test(name)) return [];
    if (isFolder(join(place, name))) return [];
    const { split, shard, of } = parts;
    return [shard ? { name, split, shard: Number(shard), of: Number(of) } : { name, split }];
  });
  return files.sort((a, b) =>
    a.split === b.split ? (a.shard ?? 0) - (b.shard ?? 0) : a.split < b.split ? -1 : 1
  );
}

function unknownDataset(folder: string, dataset: string): UserError {
  const datasets = datasetsIn(folder);
  const message = `${folder}: no dataset "${dataset}"`;
  if (datasets.length === 0) {
    const example = join(folder, "super_glue/copa/train.jsonl");
    return new UserError(`${message}, nor any other; expected files such as ${example}`);
  }
  const configs = datasets.filter((name) => name.startsWith(`${dataset}/`));
  if (configs.length > 0) return new UserError(`${message}; there are ${some(configs)}`);
  const near = nearest(dataset, datasets);
  if (near) return new UserError(`${message}; did you mean ${near}?`);
  return new UserError(`${message}; there are ${some(datasets)} (files are ${SUPPORTED})`);
}

/** A message is one line: the first few names are enough. */
function some(names: readonly string[]): string {
  return names.slice(0, 8).join(", ") + (names.length > 8 ? ` and ${names.length - 8} more` : "");
}

/** The names in a folder; none where there is no folder. */
function names(folder: string): string[] {
  return isFolder(folder) ? namesIn(folder) : [];
}
