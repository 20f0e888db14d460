/**
 * Rows from Parquet, one row group in memory at a time.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { strictUtf8 } from "../files/lines.ts";
import {
  openParquet,
  type ParquetField,
  type ParquetFile,
  type ParquetParsers,
} from "../files/parquet.ts";
import { type FileRow, type OnBad, report } from "./json.ts";
import { float, hubName, integer, oneLine, parseJson, type Row } from "./row.ts";

/** Stands for a text that is not UTF-8, so that its row alone is lost and not the row group. */
const NOT_UTF8 = Symbol("not UTF-8");

/** Dates and times as Python's `str` writes them. */
const PARSERS: ParquetParsers = {
  stringFromBytes: (bytes) => bytes && (decode(bytes) ?? NOT_UTF8),
  jsonFromBytes: (bytes) => bytes && parseJson(strictUtf8.decode(bytes)),
  dateFromDays: (days) => new Date(days * 86_400_000).toISOString().slice(0, 10),
  timestampFromMilliseconds: (value) => timestamp(value * 1000n),
  timestampFromMicroseconds: timestamp,
  timestampFromNanoseconds: (value) => timestamp(value / 1000n),
};

function decode(bytes: Uint8Array): string | undefined {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return undefined;
  }
}

function timestamp(microseconds: bigint): string {
  const fraction = ((microseconds % 1_000_000n) + 1_000_000n) % 1_000_000n;
  const seconds = Number((microseconds - fraction) / 1_000_000n);
  const text = new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
  return fraction === 0n ? text : `${text}.${String(fraction).padStart(6, "0")}`;
}

/** The rows of a Parquet file, one batch for each row group. */
export async function* parquetRows(path: string, bad: OnBad): AsyncGenerator<FileRow[]> {
  using file = await open(path);
  const columns = file.columns.map((tree) => ({
    key: tree.element.name,
    name: hubName(tree.element.name),
    valueOf: converter(tree),
  }));
  const keys = columns.map(({ key }) => key);
  for (const [i, group] of file.groups.entries()) {
    let values: unknown[][];
    try {
      values = await file.read(group, keys, PARSERS);
    } catch (error) {
      const rows = `rows ${group.first} to ${group.first + group.count - 1}`;
      const place = `${path}, row group ${i} (${rows})`;
      bad(new UserError(oneLine(`${place}: damaged: ${(error as Error).message}`)));
      continue;
    }
    yield values.flatMap((cells, j): FileRow[] => {
      try {
        const fields = columns.map(({ name, valueOf }, c) => [name, valueOf(cells[c])] as const);
        return [{ row: Object.fromEntries(fields) }];
      } catch (error) {
        const place = `${path}, row ${group.first + j}`;
        report(error instanceof BadValue ? error.at(place) : error, bad);
        return [];
      }
    });
  }
}

async function open(path: string): Promise<ParquetFile> {
  try {
    return await openParquet(path);
  } catch (error) {
    throw new UserError(oneLine(`${path}: not readable as Parquet: ${(error as Error).message}`));
  }
}

class BadValue extends Error {
  at(place: string): UserError {
    return new UserError(`${place}: ${this.message}`);
  }
}

type Converter = (value: unknown) => unknown;

/**
 * From what the library gives for a column to plain data. It follows the column's schema, since only
 * that tells a whole float from an integer, and which fields of a struct are missing.
 */
function converter({ children, element }: ParquetField): Converter {
  if (children.length === 0) {
    const floats = ["FLOAT", "DOUBLE"].includes(element.type ?? "") ||
      element.logical_type?.type === "FLOAT16" || element.converted_type === "DECIMAL";
    return everyItem(floats ? (value) => float(value as number) : plainValue);
  }
  // The library takes an old way of writing lists of structs, without a level between, for structs.
  if (element.converted_type === "LIST" && children[0].children.length <= 1) {
    return everyItem(converter(children[0].children[0] ?? children[0]));
  }
  if (element.converted_type === "MAP") {
    const value = converter(children[0].children[1]);
    return everyItem((map) => mapValues(map as Row, value));
  }
  const fields = children.map((child) => [child.element.name, converter(child)] as const);
  return everyItem((struct) =>
    Object.fromEntries(fields.map(([name, valueOf]) => [name, valueOf((struct as Row)[name])]))
  );
}

/** Lists are arrays whatever their schema; a null inside a nested column comes as undefined. */
function everyItem(convert: Converter): Converter {
  const every: Converter = (value) => {
    if (value === null || value === undefined) return null;
    return Array.isArray(value) ? value.map(every) : convert(value);
  };
  return every;
}

function mapValues(map: Row, convert: Converter): Row {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [key, convert(value)]));
}

function plainValue(value: unknown): unknown {
  if (typeof value === "bigint") return integer(value);
  if (value === NOT_UTF8) throw new BadValue("a text that is not valid UTF-8");
  if (!(value instanceof Uint8Array)) return value;
  const text = decode(value);
  if (text === undefined) throw new BadValue("bytes that are not text");
  return text;
}
