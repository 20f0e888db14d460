/**
 * Makes the rows of a split accessible by number: a file of JSON lines, and a file of where each line
 * begins. Plain JSON Lines files are used where they lie; everything else is converted once.
 *
 * ```text
 * CACHE/<dataset>/<split>.index.json          what it was made from, and the index itself
 * CACHE/<dataset>/<split>.jsonl               the rows, unless the source is JSON Lines
 * CACHE/<dataset>/<split>-<part>.offsets.bin  where each row begins: count + 1 numbers, f64
 * CACHE/<dataset>/<split>.bad.txt             what was skipped: a message a line
 * ```
 *
 * The files are written under other names and then renamed, `index.json` last.
 *
 * @module
 */
import { join, resolve } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { digestFile } from "../files/digest.ts";
import { decodeLines, readBlocks } from "../files/lines.ts";
import { type FileStamp, keptStamp, readText, regularFile } from "../files/read.ts";
import { sha256 } from "../files/seal.ts";
import { type Fields, FieldUnion } from "./fields.ts";
import { filesOf } from "./find.ts";
import type { OnBad } from "./json.ts";
import { rowText } from "./stored.ts";
import { readBatches } from "./stream.ts";
import { isFull, TemporaryFile } from "./temporary_file.ts";

/** Version of the cache; another one is rebuilt. */
const FORMAT = 3;

/** What {@link indexRows} makes accessible. */
export interface IndexRequest {
  /** The folder that holds the datasets. */
  folder: string;
  /** The dataset's folder below it, such as `"super_glue/copa"`. */
  dataset: string;
  /** The split, such as `"train"`. */
  split: string;
  /** A folder for what is made; it may serve all datasets, and any number of runs. */
  cache: string;
  /**
   * Told about each row (or row group, or rest of a file) that cannot be used, which is then skipped;
   * without it the first such error is thrown. A cache tells the same again when it is reused.
   */
  onBad?: OnBad;
}

/** One file of rows. */
export interface RowPart {
  /** A JSON Lines file. */
  path: string;
  /** Where its rows begin, and where the last one ends: count + 1 numbers, f64 little-endian. */
  offsets: string;
  /** How many rows it holds. */
  count: number;
  /** The number, in the split, of its first row. */
  firstRow: number;
  /** Size of the JSON Lines file when it was indexed. Bytes. */
  size: number;
  /** When it was last modified before that, milliseconds since 1970. */
  modified: number;
  /** Whether it lies in the cache, written from files of other kinds. */
  converted: boolean;
  /** When contents, name or rights were last changed before that, likewise. */
  changed: number;
}

/** The rows of a split by number; plain data, which can be posted to a worker. */
export interface RowIndex {
  /** The dataset's name. */
  dataset: string;
  /** The split's name. */
  split: string;
  /** How many rows there are. */
  count: number;
  /** How many errors were told to `onBad`. */
  skipped: number;
  /** The files, in the order of their rows. */
  parts: readonly RowPart[];
  /** The fields that all rows have together: one that a row lacks is null in it. */
  fields: Fields;
  /** SHA-256 of the contents of the source files, one after the other, wherever they lie. */
  digest: string;
}

/** Where a file is, and what tells that it has changed. */
type Stamp = FileStamp & Pick<RowPart, "path">;

interface Manifest {
  format: number;
  sources: Stamp[];
  /** The files of offsets, which nobody else is to touch. */
  offsets: Stamp[];
  index: RowIndex;
  /** Digest of all of the above. */
  sum: string;
}

/**
 * Makes the rows of a split accessible by number, for {@link openRows}. Every row is checked now, so
 * that none fails in the middle of a training. What is made is kept in `cache` and used again until
 * one of the source files changes its size or time.
 *
 * @throws {UserError} as {@link readRows}; and when the cache cannot be written
 *
 * @example
 * ```ts
 * import { indexRows } from "./row_index.ts";
 * import { openRows } from "./random_access.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir(), cache = `${folder}/.cache`;
 * await Deno.mkdir(`${folder}/imdb`);
 * await Deno.writeTextFile(`${folder}/imdb/train.csv`, "text,label\ngood,1\nbad,0\n");
 * const rows = openRows(await indexRows({ folder, dataset: "imdb", split: "train", cache }));
 * assert.equal(rows.count, 2);
 * assert.deepEqual(rows.read(1), { text: "bad", label: 0 });
 * rows.close();
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function indexRows(request: IndexRequest): Promise<RowIndex> {
  const { folder, dataset, split, cache, onBad } = request;
  if (resolve(cache) === resolve(folder)) {
    throw new UserError(`${cache}: holds the datasets; choose another folder for the cache`);
  }
  const sources = filesOf(folder, dataset, split).map((path) => stamp(resolve(path)));
  const names = new CacheNames(join(resolve(cache), dataset), split);
  const kept = readManifest(names.manifest);
  if (kept && await isFresh(kept, sources, names)) {
    if (kept.index.skipped > 0) await tellAgain(names.bad, onBad);
    return kept.index;
  }
  try {
    return await build(request, sources, names);
  } catch (error) {
    if (error instanceof UserError || !(error instanceof Error && "code" in error)) throw error;
    const advice = isFull(error) ? "; free some space or choose another disk" : "";
    throw new UserError(`${cache}: cannot be written: ${error.message}${advice}`);
  }
}

/** The names of a split's files in the cache. */
class CacheNames {
  readonly manifest: string;
  readonly rows: string;
  readonly bad: string;
  readonly #stem: string;

  constructor(readonly folder: string, split: string) {
    this.#stem = join(folder, split);
    this.manifest = `${this.#stem}.index.json`;
    this.rows = `${this.#stem}.jsonl`;
    this.bad = `${this.#stem}.bad.txt`;
  }

  offsets(part: number): string {
    return `${this.#stem}-${String(part).padStart(5, "0")}.offsets.bin`;
  }
}

function readManifest(path: string): Manifest | undefined {
  try {
    const manifest: Manifest = JSON.parse(readText(path));
    return manifest.sum === sumOf(manifest) ? manifest : undefined;
  } catch {
    return undefined; // there is none, or it is half a file: the cache is made again
  }
}

function sumOf({ sum: _, ...rest }: Partial<Manifest>): string {
  return sha256(JSON.stringify(rest));
}

async function isFresh(
  manifest: Manifest,
  sources: readonly Stamp[],
  names: CacheNames,
): Promise<boolean> {
  if (manifest.format !== FORMAT) return false;
  const { index } = manifest;
  if (!sameFiles(manifest.sources, sources)) {
    // All but what a kept stamp does not tell.
    const known = sources.map((source, i) => {
      return manifest.sources[i]?.changed === 0 ? { ...source, changed: 0 } : source;
    });
    if (!sameFiles(manifest.sources, known) || await digestOf(sources) !== index.digest) {
      return false;
    }
  }
  try {
    if (index.skipped > 0) Deno.statSync(names.bad);
    return index.parts.every((part, i) =>
      part.offsets === names.offsets(i) && sameFiles([part], [stamp(part.path)]) &&
      sameFiles([manifest.offsets[i]], [stamp(part.offsets)])
    );
  } catch {
    return false;
  }
}

function sameFiles(a: readonly Stamp[], b: readonly Stamp[]): boolean {
  const same = (a: Stamp, b: Stamp) =>
    a.path === b.path && a.size === b.size && a.modified === b.modified && a.changed === b.changed;
  return a.length === b.length && a.every((file, i) => same(file, b[i]));
}

function stamp(path: string): Stamp {
  return { path, ...regularFile(path) };
}

async function tellAgain(path: string, onBad: OnBad | undefined): Promise<void> {
  for await (const block of readBlocks(path, "whole")) {
    for (const message of decodeLines(block, path)) {
      const error = new UserError(String(message));
      if (onBad === undefined) throw error;
      onBad(error);
    }
  }
}

async function build(
  { dataset, split, onBad }: IndexRequest,
  sources: Stamp[],
  names: CacheNames,
): Promise<RowIndex> {
  Deno.mkdirSync(names.folder, { recursive: true });
  using bad = new TemporaryFile(names.bad);
  let skipped = 0;
  const collect: OnBad = (error) => {
    if (onBad === undefined) throw error;
    onBad(error);
    bad.writeText(`${error.message}\n`);
    skipped++;
  };

  const paths = sources.map(({ path }) => path);
  const inPlace = paths.every((path) => path.endsWith(".jsonl"));
  const union = new FieldUnion();
  const parts = inPlace
    ? await indexInPlace(sources, names, collect, union)
    : [await convert(paths, names, collect, union)];
  if (skipped > 0) bad.commit();
  const count = parts.reduce((sum, part) => sum + part.count, 0);
  const index: RowIndex = {
    dataset,
    split,
    count,
    skipped,
    parts,
    fields: union.fields,
    digest: await digestOf(sources),
  };

  using manifest = new TemporaryFile(names.manifest);
  const offsets = parts.map((part) => stamp(part.offsets));
  const all = { format: FORMAT, sources: sources.map(keptStamp), offsets, index };
  manifest.writeText(JSON.stringify({ ...all, sum: sumOf(all) } satisfies Manifest));
  manifest.commit();
  return index;
}

/** What is in the files, which must still be as they were before they were read. */
async function digestOf(sources: readonly Stamp[]): Promise<string> {
  const digests: string[] = [];
  for (const { path } of sources) digests.push(await digestFile(path));
  if (!sameFiles(sources, sources.map(({ path }) => stamp(path)))) {
    throw new UserError(`${sources[0].path}: has changed while it was read; start again`);
  }
  return sha256(digests.join("\n"));
}

/** Notes where the rows of JSON Lines files begin. */
async function indexInPlace(
  sources: readonly Stamp[],
  names: CacheNames,
  bad: OnBad,
  union: FieldUnion,
): Promise<RowPart[]> {
  const parts: RowPart[] = [];
  let firstRow = 0;
  // An empty shard among others is no mistake, so the files are read as one.
  const batches = readBatches(sources.map(({ path }) => path), bad);
  try {
    let batch = await batches.next();
    for (const [i, source] of sources.entries()) {
      const offsets = names.offsets(i);
      using file = new TemporaryFile(offsets);
      let count = 0;
      let end = 0;
      for (; !batch.done && batch.value.file === source.path; batch = await batches.next()) {
        for (const { row, span } of batch.value.rows) {
          union.add(row);
          file.writeNumber(span!.start);
          end = span!.end;
        }
        count += batch.value.rows.length;
      }
      file.writeNumber(end);
      file.commit();
      parts.push({ ...source, offsets, count, firstRow, converted: false });
      firstRow += count;
    }
  } finally {
    await batches.return(undefined); // closes the file that is being read
  }
  return parts;
}

/** Writes the rows of any files as JSON lines. */
async function convert(
  paths: readonly string[],
  names: CacheNames,
  bad: OnBad,
  union: FieldUnion,
): Promise<RowPart> {
  using rows = new TemporaryFile(names.rows);
  using offsets = new TemporaryFile(names.offsets(0));
  let count = 0;
  for await (const batch of readBatches(paths, bad)) {
    for (const { row } of batch.rows) {
      union.add(row);
      offsets.writeNumber(rows.size);
      rows.writeText(`${rowText(row)}\n`);
    }
    count += batch.rows.length;
  }
  offsets.writeNumber(rows.size);
  rows.commit();
  offsets.commit();
  const part = { offsets: names.offsets(0), count, firstRow: 0, converted: true };
  return { ...stamp(names.rows), ...part };
}
