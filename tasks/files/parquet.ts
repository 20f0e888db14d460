/**
 * Reads Parquet files one row group at a time: snappy, gzip, zstd, brotli, lz4 or not compressed.
 *
 * @module
 */
import { parquetMetadataAsync, parquetRead, parquetSchema } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { openRegularSync, readFully } from "./read.ts";

/** A column, or a field inside one: the part of the library's schema that readers here ask for. */
export interface ParquetField {
  /** The fields inside it; none for a column of plain values. */
  readonly children: readonly ParquetField[];
  /** What the file says about it. */
  readonly element: {
    /** Its name. */
    readonly name: string;
    /** How a plain value is stored: `INT64`, `DOUBLE`, `BYTE_ARRAY` and so on. */
    readonly type?: string;
    /** What it means: `LIST`, `MAP`, `DECIMAL`, `UTF8` and so on. */
    readonly converted_type?: string;
    /** The same in newer files. */
    readonly logical_type?: { readonly type: string };
  };
}

/** How values are made from what is stored; what is left out is made as the library does it. */
export interface ParquetParsers {
  /** A text. */
  stringFromBytes?(bytes: Uint8Array | undefined): unknown;
  /** A value in a column of JSON. */
  jsonFromBytes?(bytes: Uint8Array | undefined): unknown;
  /** A date, from the days since 1970. */
  dateFromDays?(days: number): unknown;
  /** A time, from the milliseconds since 1970. */
  timestampFromMilliseconds?(value: bigint): unknown;
  /** A time, from the microseconds since 1970. */
  timestampFromMicroseconds?(value: bigint): unknown;
  /** A time, from the nanoseconds since 1970. */
  timestampFromNanoseconds?(value: bigint): unknown;
}

/** Consecutive rows that are stored, and read, together. */
export interface RowGroup {
  /** Number of the first row in the file, from 0. */
  first: number;
  /** How many rows there are. */
  count: number;
}

/** A Parquet file that is open for reading. */
export interface ParquetFile {
  /** The columns, in the order of the file, as trees of nested fields. */
  readonly columns: readonly ParquetField[];
  /** The row groups, in the order of the file. */
  readonly groups: readonly RowGroup[];
  /**
   * The rows of a group, each an array of the values of the named columns, in the order named.
   */
  read(
    group: RowGroup,
    columns: readonly string[],
    parsers: ParquetParsers,
  ): Promise<unknown[][]>;
  /** Closes the file; `using` does so too. */
  [Symbol.dispose](): void;
}

/**
 * Opens a Parquet file, for `using`. What the library throws on a damaged file is passed on:
 * only the caller knows how to name the place.
 *
 * @example
 * ```ts
 * import { openParquet } from "./parquet.ts";
 * import { parquetWriteBuffer } from "hyparquet-writer";
 * import assert from "node:assert/strict";
 *
 * const path = await Deno.makeTempFile({ suffix: ".parquet" });
 * const columnData = [{ name: "text", data: ["a", "b"] }];
 * await Deno.writeFile(path, new Uint8Array(parquetWriteBuffer({ columnData })));
 * using file = await openParquet(path);
 * assert.deepEqual(file.groups, [{ first: 0, count: 2 }]);
 * assert.deepEqual(await file.read(file.groups[0], ["text"], {}), [["a"], ["b"]]);
 * await Deno.remove(path);
 * ```
 */
export async function openParquet(path: string): Promise<ParquetFile> {
  const handle = openRegularSync(path);
  try {
    const file = { byteLength: handle.statSync().size, slice: slicer(handle, path) };
    const metadata = await parquetMetadataAsync(file);
    const groups: RowGroup[] = [];
    let first = 0;
    for (const { num_rows } of metadata.row_groups) {
      groups.push({ first, count: Number(num_rows) });
      first += Number(num_rows);
    }
    return {
      columns: parquetSchema(metadata).children,
      groups,
      async read({ first, count }, columns, parsers) {
        let rows: unknown[][] = [];
        await parquetRead({
          file,
          metadata,
          columns: [...columns],
          rowStart: first,
          rowEnd: first + count,
          compressors,
          parsers,
          onComplete: (complete) => rows = complete,
        });
        return rows;
      },
      [Symbol.dispose]: () => handle.close(),
    };
  } catch (error) {
    handle.close();
    throw error;
  }
}

function slicer(
  handle: Deno.FsFile,
  path: string,
): (start: number, end?: number) => ArrayBuffer {
  return (start, end = handle.statSync().size) => {
    const bytes = new Uint8Array(end - start);
    readFully(handle, bytes, start, path);
    return bytes.buffer;
  };
}
