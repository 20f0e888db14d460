/**
 * Streams the rows of a dataset, whatever files they are in.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { type ColumnTypes, csvFields, csvRows, narrowTypes } from "./csv.ts";
import { type Fields, FieldUnion, withFields } from "./fields.ts";
import { filesOf } from "./find.ts";
import { type FileRow, jsonFile, jsonLines, type OnBad, report } from "./json.ts";
import { parquetFields, parquetRows } from "./parquet.ts";
import type { Row } from "./row.ts";

/** A row and where it was found. */
export interface ReadRow {
  /** The row. */
  row: Row;
  /** Its number in the split, from 0, as for a `RowReader`; what is skipped does not count. */
  number: number;
  /** The file. */
  file: string;
}

/**
 * Streams the rows of a split in the order of its files, in memory that does not grow with them. All have
 * the same fields: one that a row lacks is null in it.
 *
 * Files are `folder/<dataset>[/<config>]/<split>.*`: JSON Lines (`.jsonl`), JSON (`.json`: an array,
 * or lines), CSV with a header (`.csv`), each also gzipped (`.gz`), Parquet (`.parquet`), or shards
 * of these named `<split>-00000-of-00004.*`.
 *
 * @param dataset its folder below `folder`, such as `"super_glue/copa"`
 * @param options `onBad` is told about each row (or row group, or rest of a file) that cannot be used, which is
 *   then skipped; without it the first such error is thrown. It may throw, to stop
 * @returns each row with its number in the split, from 0, what is skipped not counted, and its file
 * @throws {UserError} dataset or split do not exist; naming file and line or row: text that is not
 * UTF-8, broken JSON, a row that is not an object, a CSV row of another length than the header, a
 * damaged file; and when there are no rows at all. Lines are counted from 1, rows from 0.
 *
 * @example
 * ```ts
 * import { readRows } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.mkdir(`${folder}/imdb`);
 * await Deno.writeTextFile(`${folder}/imdb/train.csv`, "text,label\n\"good, really\",1\n");
 * const [{ row, number }] = await Array.fromAsync(readRows(folder, "imdb", "train"));
 * await Deno.remove(folder, { recursive: true });
 * assert.deepEqual(row, { text: "good, really", label: 1 });
 * assert.equal(number, 0);
 * ```
 */
export async function* readRows(
  folder: string,
  dataset: string,
  split: string,
  { onBad }: { onBad?: (error: UserError) => void } = {},
): AsyncGenerator<{ row: Row; number: number; file: string }> {
  let number = 0;
  const files = filesOf(folder, dataset, split);
  const fields = await fieldsOf(files);
  for await (const { rows, file } of readBatches(files, onBad)) {
    for (const { row } of rows) yield { row: withFields(row, fields), number: number++, file };
  }
}

/** What the rows of a split have together; what is bad is told when the rows are read. */
async function fieldsOf(files: readonly string[]): Promise<Fields> {
  const union = new FieldUnion();
  const ignore = () => {};
  for (const file of files) {
    try {
      // All rows of a table have the same.
      if (file.endsWith(".parquet")) union.addNames(await parquetFields(file));
      else if (!isCsv(file)) {
        for await (const rows of batchesOf(file, new Map(), ignore)) {
          for (const { row } of rows) union.add(row);
        }
      } else if (files.length > 1) union.addNames(await csvFields(file));
    } catch (error) {
      report(error, ignore);
    }
  }
  return union.fields;
}

/** Consecutive rows of one file: yielding rows one by one through every layer would cost more. */
export interface Batch {
  /** The rows, none or more. */
  rows: FileRow[];
  /** Their file. */
  file: string;
}

/** The rows of some files; `onBad` as in {@link ReadRowsOptions}. */
export async function* readBatches(
  files: readonly string[],
  onBad: OnBad | undefined,
): AsyncGenerator<Batch> {
  let empty = true;
  let stopped: unknown; // `onBad` may throw to say that this is enough
  const bad: OnBad = (error) => {
    empty = false;
    try {
      if (onBad === undefined) throw error;
      onBad(error);
    } catch (thrown) {
      throw stopped = thrown;
    }
  };
  const types = await columnTypes(files);
  for (const file of files) {
    try {
      for await (const rows of batchesOf(file, types, bad)) {
        if (rows.length > 0) empty = false;
        yield { rows, file };
      }
    } catch (error) {
      if (error === stopped) throw error;
      report(error, bad);
    }
  }
  if (empty) bad(new UserError(`${files.join(", ")}: holds no rows`));
}

function batchesOf(file: string, types: ColumnTypes, bad: OnBad): AsyncGenerator<FileRow[]> {
  if (file.endsWith(".parquet")) return parquetRows(file, bad);
  if (isCsv(file)) return csvRows(file, types, bad);
  return /\.jsonl(\.gz)?$/.test(file) ? jsonLines(file, bad) : jsonFile(file, bad);
}

function isCsv(file: string): boolean {
  return /\.csv(\.gz)?$/.test(file);
}

/** A column has one type in all the files of a split. */
async function columnTypes(files: readonly string[]): Promise<ColumnTypes> {
  const types: ColumnTypes = new Map();
  for (const file of files.filter(isCsv)) {
    try {
      await narrowTypes(file, types);
    } catch (error) {
      report(error, () => {}); // told when the rows are read
    }
  }
  return types;
}
