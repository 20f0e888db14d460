/**
 * Rows from Parquet, one row group in memory at a time, with the values that Python's `pyarrow` gives.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { parsePythonJson } from "../files/json.ts";
import { MAX_RECORD, strictUtf8 } from "../files/lines.ts";
import {
  openParquet,
  type ParquetField,
  type ParquetFile,
  type ParquetValues,
  type RowGroup,
  type Stored,
} from "../files/parquet.ts";
import type { ArrowTime } from "../files/parquet_arrow.ts";
import { UnsupportedColumn } from "../files/parquet_pages.ts";
import type { FileRow, OnBad } from "./json.ts";
import { float, hubName, integer, numberOf, oneLine } from "./row.ts";
import { made } from "./stored.ts";

/** A row group with more values than this is not even read. */
const MAX_CELLS = 1 << 25;

/** The rows of a Parquet file, one batch for each row group. */
export async function* parquetRows(path: string, bad: OnBad): AsyncGenerator<FileRow[]> {
  using file = await open(path);
  const names = file.columns.map(({ element }) => hubName(element.name));
  for (const [i, group] of file.groups.entries()) {
    if (group.count * names.length > MAX_CELLS) {
      throw new UserError(
        `${path}: a row group of ${group.count} rows and ${names.length} columns, which is too much ` +
          "for memory; write the file with smaller row groups",
      );
    }
    let columns: unknown[][];
    try {
      columns = names.map((_, column) => valuesOf(file, group, column));
    } catch (error) {
      const place = `${path}, row group ${i} (rows ${group.first} to ${
        group.first + group.count - 1
      })`;
      bad(new UserError(oneLine(`${place}: damaged: ${(error as Error).message}`)));
      continue;
    }
    yield Array.from({ length: group.count }, (_, row) => ({
      row: Object.fromEntries(names.map((name, column) => [name, columns[column][row]])),
    }));
  }
}

/** The names of a file's columns; none if it cannot be read. */
export async function parquetFields(path: string): Promise<string[]> {
  using file = await open(path);
  return file.columns.map(({ element }) => hubName(element.name));
}

async function open(path: string): Promise<ParquetFile> {
  try {
    return await openParquet(path);
  } catch (error) {
    if (error instanceof UserError && error.message.startsWith(path)) throw error;
    throw new UserError(oneLine(`${path}: not readable as Parquet: ${(error as Error).message}`));
  }
}

/** A column that cannot be read here costs nobody anything who does not ask for it. */
function valuesOf(file: ParquetFile, group: RowGroup, column: number): unknown[] {
  try {
    return file.read(group, column, VALUES);
  } catch (error) {
    if (!(error instanceof UnsupportedColumn)) throw error;
    const { name } = file.columns[column].element;
    const unusable = made("unusable", `column "${name}" has ${error.message}`);
    return Array.from({ length: group.count }, () => unusable);
  }
}

const VALUES: ParquetValues = {
  leaf: (field, path, time) => converter(field, path.join("."), time),
  list: (items) => items,
  map: mapOf,
  struct: (values, { children }) =>
    Object.fromEntries(children.map(({ element }, i) => [element.name, values[i]])),
};

/** An object, unless that would lose a key, its type or its place. */
function mapOf(entries: [unknown, unknown][]): unknown {
  const isPlain = entries.every(([key]) => typeof key === "string" && !/^\d/.test(key));
  return isPlain ? Object.fromEntries(entries) : new Map(entries);
}

type Converter = (value: Stored) => unknown;

/** What a value means: by its logical type, or by the older converted type that says the same. */
function converter({ element }: ParquetField, path: string, time: ArrowTime): Converter {
  const { type, converted_type: converted, logical_type: logical } = element;
  const kind = logical?.type ?? KINDS[converted ?? ""] ?? converted;
  switch (kind) {
    case "DATE":
      return (value) => made("date", Number(value));
    case "TIME":
      return timeConverter(logical?.unit ?? converted);
    case "TIMESTAMP":
      return momentConverter(
        logical?.unit ?? converted,
        logical?.isAdjustedToUTC ? time.zone ?? "UTC" : null,
      );
    case "DECIMAL":
      return decimalConverter(logical?.scale ?? element.scale ?? 0);
    case "FLOAT16":
      return (value) => float(float16(value as Uint8Array));
    case "STRING":
      return (value) => text(value as Uint8Array, path);
    case "JSON":
      return (value) => json(value as Uint8Array, path);
    case "UUID":
      return (value) => uuid(value as Uint8Array);
  }
  if (type === "INT96") return momentConverter("NANOS", null);
  if (type === "FLOAT" || type === "DOUBLE") return (value) => float(value as number);
  if (type === "BOOLEAN") return (value) => value;
  if (time.duration && type === "INT64") return durationConverter(time.duration);
  if (type === "INT32" || type === "INT64") return integerConverter(element);
  return (value) => made("bytes", (value as Uint8Array).toBase64());
}

const KINDS: Readonly<Record<string, string>> = {
  UTF8: "STRING",
  TIME_MILLIS: "TIME",
  TIME_MICROS: "TIME",
  TIMESTAMP_MILLIS: "TIMESTAMP",
  TIMESTAMP_MICROS: "TIMESTAMP",
};

/** How many nanoseconds a unit has. */
function nanosecondsIn(unit: string | undefined): bigint {
  return unit?.endsWith("MILLIS") ? 1_000_000n : unit?.endsWith("MICROS") ? 1_000n : 1n;
}

function timeConverter(unit: string | undefined): Converter {
  const factor = nanosecondsIn(unit);
  return (value) => {
    const microseconds = Number(BigInt(value as number | bigint) * factor / 1000n);
    const isTime = microseconds >= 0 && microseconds < 86_400_000_000;
    return isTime ? made("time", microseconds) : made("unusable", "a time beyond the day");
  };
}

function momentConverter(unit: string | undefined, zone: string | null): Converter {
  const factor = nanosecondsIn(unit);
  return (value) => {
    const nanoseconds = BigInt(value as number | bigint) * factor;
    const rest = ((nanoseconds % 1000n) + 1000n) % 1000n;
    try {
      return made("moment", String((nanoseconds - rest) / 1000n), zone, Number(rest));
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      return made("unusable", `the zone "${zone}", which is not known here`);
    }
  };
}

function durationConverter(factor: bigint): Converter {
  return (value) => made("duration", String((value as bigint) * factor / 1000n));
}

function decimalConverter(scale: number): Converter {
  return (value) => {
    const digits = value instanceof Uint8Array ? signed(value) : BigInt(value as number | bigint);
    return made("decimal", String(digits), scale);
  };
}

/** A whole number of any length, highest byte first. */
function signed(bytes: Uint8Array): bigint {
  if (bytes.length === 0) return 0n;
  return BigInt.asIntN(8 * bytes.length, BigInt(`0x${bytes.toHex()}`));
}

function float16(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset, 2).getFloat16(0, true);
}

/** Narrow and unsigned integers are stored in wider, signed ones. */
function integerConverter(
  { converted_type, logical_type, type }: ParquetField["element"],
): Converter {
  const [, unsigned, bits] = /^(U?)INT_(\d+)$/.exec(converted_type ?? "") ?? [];
  const width = logical_type?.bitWidth ?? Number(bits ?? (type === "INT32" ? 32 : 64));
  const isSigned = logical_type?.isSigned ?? unsigned !== "U";
  const cut = isSigned ? BigInt.asIntN : BigInt.asUintN;
  if (width === 32 && isSigned && type === "INT32") return (value) => value;
  return (value) => integer(cut(width, BigInt(value as number | bigint)));
}

function text(bytes: Uint8Array, path: string): unknown {
  if (bytes.length > MAX_RECORD) {
    return made("unusable", `a text in column "${path}" of more than ${MAX_RECORD >> 20} MB`);
  }
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return made("unusable", `a text in column "${path}" that is not valid UTF-8`);
  }
}

/** What is no JSON after all is the text that it is. */
function json(bytes: Uint8Array, path: string): unknown {
  const value = text(bytes, path);
  if (typeof value !== "string") return value;
  try {
    return parsePythonJson(value, numberOf);
  } catch {
    return value;
  }
}

function uuid(bytes: Uint8Array): string {
  const hex = bytes.toHex();
  return [8, 12, 16, 20, 32].map((end, i, ends) => hex.slice(ends[i - 1] ?? 0, end)).join("-");
}
