/**
 * Reads Parquet files one row group at a time: snappy, gzip, zstd, brotli, lz4 or not compressed.
 *
 * The library reads headers and plain values. Levels, dictionaries and nesting are read here, so that every
 * count in a file is checked before memory is taken for it, and every shape of nesting comes out alike.
 *
 * @module
 */
import { type FileMetaData, parquetMetadataAsync, parquetSchema } from "hyparquet";
import { UserError } from "../../ops/graph/errors.ts";
import { type ArrowTime, arrowTimes } from "./parquet_arrow.ts";
import { assemble, type Level, type LevelNode, levelsOf, type Shape } from "./parquet_nesting.ts";
import { readChunk, UnsupportedColumn } from "./parquet_pages.ts";
import { openRegularSync, readFully } from "./read.ts";

/** A column, or a field inside one: the part of the library's schema that readers here ask for. */
export interface ParquetField {
  /** The fields inside it; none for a column of plain values. */
  readonly children: readonly ParquetField[];
  /** What the file says about it. */
  readonly element: {
    /** Its name. */
    readonly name: string;
    /** Whether it may be null (`OPTIONAL`) or is there any number of times (`REPEATED`). */
    readonly repetition_type?: string;
    /** How a plain value is stored: `INT64`, `DOUBLE`, `BYTE_ARRAY` and so on. */
    readonly type?: string;
    /** How many bytes of a `FIXED_LEN_BYTE_ARRAY`. */
    readonly type_length?: number;
    /** What it means: `LIST`, `MAP`, `DECIMAL`, `UTF8` and so on. */
    readonly converted_type?: string;
    /** Digits of a decimal that stand behind its point. */
    readonly scale?: number;
    /** The same in newer files, with more kinds. */
    readonly logical_type?: {
      /** Its name. */
      readonly type: string;
      /** Of times: `MILLIS`, `MICROS` or `NANOS`. */
      readonly unit?: string;
      /** Of times: whether they are in UTC. */
      readonly isAdjustedToUTC?: boolean;
      /** Of integers. */
      readonly bitWidth?: number;
      /** Of integers. */
      readonly isSigned?: boolean;
      /** Of decimals. */
      readonly scale?: number;
    };
  };
}

/** A plain value as it is stored: integers of 64 bits as `bigint`, and so the nanoseconds of an `INT96`. */
export type Stored = number | bigint | boolean | Uint8Array;

/** What becomes of the values of a file; a missing one is null. */
export interface ParquetValues extends Shape {
  /** What makes values of a column of plain values, asked for once each time that it is read. */
  leaf(
    field: ParquetField,
    path: readonly string[],
    time: ArrowTime,
  ): (value: Stored) => unknown;
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
   * The values of a column in a group of rows, one for each row.
   *
   * @throws {UnsupportedColumn} it is stored in a way that cannot be read here
   * @throws {Error} the file is damaged
   */
  read(group: RowGroup, column: number, values: ParquetValues): unknown[];
  /** Closes the file; `using` does so too. */
  [Symbol.dispose](): void;
}

/** More rows than this in one group would not fit into memory, whatever they hold. */
const MAX_GROUP = 1 << 22;
const MAX_DEPTH = 100;

/**
 * Opens a Parquet file, for `using`. What is thrown on a damaged file is passed on: only the caller knows
 * how to name the place.
 *
 * @example
 * ```ts
 * import { openParquet } from "./parquet.ts";
 * import { parquetWriteBuffer } from "hyparquet-writer";
 * import assert from "node:assert/strict";
 *
 * const path = await Deno.makeTempFile({ suffix: ".parquet" });
 * const columnData = [{ name: "n", data: [3, 4], type: "INT32" as const }];
 * await Deno.writeFile(path, new Uint8Array(parquetWriteBuffer({ columnData })));
 * using file = await openParquet(path);
 * assert.deepEqual(file.groups, [{ first: 0, count: 2 }]);
 * const values = { leaf: () => Number, list: Array.from, map: Array.from, struct: Array.from };
 * assert.deepEqual(file.read(file.groups[0], 0, values), [3, 4]);
 * await Deno.remove(path);
 * ```
 */
export async function openParquet(path: string): Promise<ParquetFile> {
  const handle = openRegularSync(path);
  try {
    const byteLength = handle.statSync().size;
    const slice = (start: number, end: number = byteLength) => {
      if (!(start >= 0 && end >= start && end <= byteLength)) throw new Error("it is cut off");
      const bytes = new Uint8Array(end - start);
      readFully(handle, bytes, start, path);
      return bytes;
    };
    const file = { byteLength, slice: (from: number, to?: number) => slice(from, to).buffer };
    const metadata = await parquetMetadataAsync(file, { geoparquet: false });
    return opened(metadata, slice, byteLength, () => handle.close());
  } catch (error) {
    handle.close();
    throw error;
  }
}

function opened(
  metadata: FileMetaData,
  slice: (start: number, end: number) => Uint8Array<ArrayBuffer>,
  byteLength: number,
  close: () => void,
): ParquetFile {
  const columns: readonly ParquetField[] = parquetSchema(metadata).children;
  const nodes = levelsOf(columns, MAX_DEPTH);
  const leaves = nodes.flatMap((node) => node.leaves);
  const groups = groupsOf(metadata, leaves);
  const notes = metadata.key_value_metadata?.map(({ key, value }) => [key, value ?? ""] as const);
  const times = arrowTimes(new Map(notes), leaves.length);
  return {
    columns,
    groups,
    read(group, column, values) {
      const chunks = metadata.row_groups[groups.indexOf(group)].columns;
      const streams = nodes[column].leaves.map((leaf) => {
        const chunk = chunks[leaf.number];
        if (!chunk.meta_data || chunk.crypto_metadata) throw new UnsupportedColumn("encrypted");
        if (chunk.file_path) throw new UnsupportedColumn(`kept in another file`);
        const convert = values.leaf(leaf.field, leaf.path, times[leaf.number] ?? {});
        return readChunk(leaf, chunk.meta_data, group.count, slice, byteLength, convert);
      });
      return assemble(nodes[column], streams, group.count, values);
    },
    [Symbol.dispose]: close,
  };
}

/** The row groups, each of which must have all columns, in the order of the schema. */
function groupsOf(metadata: FileMetaData, leaves: readonly Level[]): RowGroup[] {
  const groups: RowGroup[] = [];
  let first = 0;
  for (const { num_rows, columns } of metadata.row_groups) {
    const count = Number(num_rows);
    if (!(count >= 0)) throw new Error(`a row group of ${num_rows} rows`);
    if (count > MAX_GROUP) {
      throw new UserError(
        `a row group of ${num_rows} rows, and at most ${MAX_GROUP} are read at a time; ` +
          "write the file with smaller row groups",
      );
    }
    const same = columns.length === leaves.length && leaves.every(({ path }, i) => {
      const stored = columns[i].meta_data?.path_in_schema;
      return stored === undefined || path.join("\0") === stored.join("\0");
    });
    if (!same) throw new Error("its row groups have other columns than its schema");
    groups.push({ first, count });
    first += count;
  }
  return groups;
}

export type { LevelNode };
