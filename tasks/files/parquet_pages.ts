/**
 * The pages of a Parquet column: unpacked, their levels and dictionaries decoded, every count checked
 * against what there is.
 *
 * @module
 */
import type { ColumnMetaData, PageHeader } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { parquetHeader } from "hyparquet/src/column.js";
import { deltaBinaryUnpack } from "hyparquet/src/delta.js";
import { byteStreamSplit } from "hyparquet/src/encoding.js";
import { readPlain } from "hyparquet/src/plain.js";
import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { joinArrays } from "./arrays.ts";
import type { Stored } from "./parquet.ts";
import type { Level, LevelStream } from "./parquet_nesting.ts";

/** A column that is sound, as far as one can tell, but stored in a way that cannot be read here. */
export class UnsupportedColumn extends Error {}

/** A page is unpacked whole, and so are the values of a column in a row group. Bytes. */
const MAX_PAGE = 1 << 28;
const MAX_CHUNK = 2 ** 30;
/** Values of a column in a row group; lists have more than one in a row. */
const MAX_VALUES = 1 << 26;
/** What old writers leave out of a chunk's size. */
const SLACK = 100;

/**
 * Reads the part of a column that lies in a row group.
 *
 * @param convert makes a value of what is stored
 * @throws {UnsupportedColumn} an encoding or a compression that is not known here
 * @throws {Error} the file is damaged
 */
export function readChunk(
  leaf: Level,
  meta: ColumnMetaData,
  rows: number,
  slice: (start: number, end: number) => Uint8Array<ArrayBuffer>,
  byteLength: number,
  convert: (value: Stored) => unknown,
): LevelStream {
  const wanted = Number(meta.num_values);
  if (!(wanted >= 0 && wanted <= MAX_VALUES) || (leaf.maxRepetition === 0 && wanted !== rows)) {
    throw new Error(`${meta.num_values} values in ${rows} rows`);
  }
  const dictionaryAt = Number(meta.dictionary_page_offset ?? 0);
  const dataAt = Number(meta.data_page_offset);
  const start = dictionaryAt > 0 ? Math.min(dictionaryAt, dataAt) : dataAt;
  const end = Math.min(start + Number(meta.total_compressed_size) + SLACK, byteLength);
  const bytes = wanted === 0 ? new Uint8Array(0) : slice(start, end);
  const reader = { view: new DataView(bytes.buffer), offset: 0 };
  const parts: LevelStream[] = [];
  let dictionary: unknown[] | undefined;
  for (let count = 0, unpacked = 0; count < wanted;) {
    const header = parquetHeader(reader);
    const size = header.compressed_page_size;
    if (!(size >= 0 && reader.offset + size <= bytes.length)) throw new Error("a page is cut off");
    const page = bytes.subarray(reader.offset, reader.offset + size);
    reader.offset += size;
    if ((unpacked += header.uncompressed_page_size) > MAX_CHUNK) {
      throw new Error(`a column of more than ${MAX_CHUNK} bytes in a row group`);
    }
    const data = { leaf, meta, page, header, convert, dictionary };
    if (header.type === "DICTIONARY_PAGE") dictionary = dictionaryOf(data);
    else if (header.type === "DATA_PAGE" || header.type === "DATA_PAGE_V2") {
      const room = wanted - count;
      const part = header.type === "DATA_PAGE"
        ? firstVersion(data, room)
        : secondVersion(data, room);
      count += (part.definitions ?? part.repetitions ?? part.values).length;
      parts.push(part);
    } else if (header.type !== "INDEX_PAGE") throw new Error("a page of an unknown kind");
  }
  return joined(parts, leaf);
}

function joined(parts: readonly LevelStream[], leaf: Level): LevelStream {
  const levels = (kind: "definitions" | "repetitions") =>
    joinArrays(Uint8Array, parts.map((part) => part[kind]!));
  return {
    ...leaf.maxDefinition > 0 && { definitions: levels("definitions") },
    ...leaf.maxRepetition > 0 && { repetitions: levels("repetitions") },
    values: parts.length === 1
      ? parts[0].values
      : parts.flatMap((part) => part.values as unknown[]),
  };
}

interface Page {
  leaf: Level;
  meta: ColumnMetaData;
  page: Uint8Array;
  header: PageHeader;
  convert: (value: Stored) => unknown;
  dictionary?: unknown[];
}

function dictionaryOf({ leaf, meta, page, header, convert }: Page): unknown[] {
  const bytes = unpack(page, header.uncompressed_page_size, meta.codec);
  const count = header.dictionary_page_header?.num_values ?? -1;
  return decode("PLAIN", bytes, checked(count, bytes.length * 8), leaf, convert);
}

function firstVersion(data: Page, room: number): LevelStream {
  const { leaf, meta, page, header } = data;
  const { num_values, encoding } = header.data_page_header!;
  const count = checked(num_values, room);
  const bytes = unpack(page, header.uncompressed_page_size, meta.codec);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const levels = (max: number) => {
    if (max === 0) return undefined;
    const length = view.getUint32(at, true);
    if (length > bytes.length - at - 4) throw new Error("levels are cut off");
    const values = levelsIn(bytes.subarray(at + 4, at + 4 + length), max, count);
    at += 4 + length;
    return values;
  };
  const repetitions = levels(leaf.maxRepetition);
  const definitions = levels(leaf.maxDefinition);
  const there = definitions ? countOf(definitions, leaf.maxDefinition) : count;
  return { repetitions, definitions, values: valuesIn(data, bytes.subarray(at), encoding, there) };
}

/** Levels are not compressed, and a page without values may have nothing that could be. */
function secondVersion(data: Page, room: number): LevelStream {
  const { leaf, meta, page, header } = data;
  const version = header.data_page_header_v2!;
  const count = checked(version.num_values, room);
  const [first, second] = [
    checked(version.repetition_levels_byte_length, page.length),
    checked(version.definition_levels_byte_length, page.length),
  ];
  const repetitions = leaf.maxRepetition > 0
    ? levelsIn(page.subarray(0, first), leaf.maxRepetition, count)
    : undefined;
  const definitions = leaf.maxDefinition > 0
    ? levelsIn(page.subarray(first, first + second), leaf.maxDefinition, count)
    : undefined;
  const there = definitions ? countOf(definitions, leaf.maxDefinition) : count;
  const rest = page.subarray(first + second);
  const bytes = version.is_compressed === false
    ? rest
    : unpack(rest, header.uncompressed_page_size - first - second, meta.codec);
  return { repetitions, definitions, values: valuesIn(data, bytes, version.encoding, there) };
}

function valuesIn(
  { leaf, convert, dictionary }: Page,
  bytes: Uint8Array,
  encoding: string | undefined,
  count: number,
): unknown[] {
  if (count === 0) return [];
  if (encoding !== "PLAIN_DICTIONARY" && encoding !== "RLE_DICTIONARY") {
    return decode(encoding, bytes, count, leaf, convert);
  }
  if (!dictionary) throw new Error("a dictionary is missing");
  const width = bytes[0];
  if (!(width <= 32)) throw new Error("a dictionary with wild indices");
  const values = new Array<unknown>(count);
  runs(bytes.subarray(1), width, count, (i, index) => {
    if (!(index < dictionary.length)) throw new Error("an index beyond the dictionary");
    values[i] = dictionary[index];
  });
  return values;
}

/** Plain values in any encoding but by dictionary. */
function decode(
  encoding: string | undefined,
  bytes: Uint8Array,
  count: number,
  { field }: Level,
  convert: (value: Stored) => unknown,
): unknown[] {
  const { type, type_length } = field.element;
  if (count === 0) return [];
  if (encoding === "RLE" && type === "BOOLEAN") {
    const values = new Array<unknown>(count);
    runs(bytes.subarray(4), 1, count, (i, value) => values[i] = convert(value === 1));
    return values;
  }
  const stored = rawValues(encoding, bytes, count, type, type_length);
  if (stored.length !== count) throw new Error("fewer values than announced");
  return Array.from(stored as ArrayLike<Stored>, type === "INT96" ? fromInt96(convert) : convert);
}

type Kind = Parameters<typeof readPlain>[1];

function rawValues(
  encoding: string | undefined,
  bytes: Uint8Array,
  count: number,
  type: string | undefined,
  length: number | undefined,
): ArrayLike<unknown> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reader = { view, offset: 0 };
  const kind = type as Kind;
  switch (encoding) {
    case "PLAIN": {
      checked(count * leastBits(type, length), bytes.length * 8);
      const values = readPlain(reader, kind, count, length);
      checked(reader.offset, bytes.length);
      return values;
    }
    case "BYTE_STREAM_SPLIT":
      checked(count * leastBits(type, length), bytes.length * 8);
      return byteStreamSplit(reader, count, kind, length);
    case "DELTA_BINARY_PACKED": {
      const values = type === "INT32" ? new Int32Array(count) : new BigInt64Array(count);
      deltaBinaryUnpack(reader, count, values);
      return values;
    }
    case "DELTA_LENGTH_BYTE_ARRAY":
      return suffixes(reader, lengthsIn(reader, count));
    case "DELTA_BYTE_ARRAY": {
      const shared = lengthsIn(reader, count);
      return withPrefixes(shared, suffixes(reader, lengthsIn(reader, count)));
    }
  }
  throw new UnsupportedColumn(`the encoding ${encoding ?? "of an unknown number"}`);
}

/** What a value takes at least. */
function leastBits(type: string | undefined, length = 0): number {
  if (type === "BOOLEAN") return 1;
  if (type === "INT64" || type === "DOUBLE") return 64;
  if (type === "INT96") return 96;
  return type === "FIXED_LEN_BYTE_ARRAY" ? 8 * Math.max(1, length) : 32;
}

type Reader = Parameters<typeof readPlain>[0];

function lengthsIn(reader: Reader, count: number): Int32Array {
  const lengths = new Int32Array(count);
  deltaBinaryUnpack(reader, count, lengths);
  return lengths;
}

function suffixes({ view, ...reader }: Reader, lengths: Int32Array): Uint8Array[] {
  let at = reader.offset;
  return Array.from(lengths, (length) => {
    checked(length, view.byteLength - at);
    at += length;
    return new Uint8Array(view.buffer, view.byteOffset + at - length, length);
  });
}

/** Each value begins with so much of the one before it. */
function withPrefixes(shared: Int32Array, rest: readonly Uint8Array[]): Uint8Array[] {
  let last: Uint8Array = new Uint8Array(0);
  let size = 0;
  return rest.map((suffix, i) => {
    const prefix = last.subarray(0, checked(shared[i], last.length));
    if ((size += prefix.length + suffix.length) > MAX_PAGE) {
      throw new Error(`a page of more than ${MAX_PAGE} bytes`);
    }
    return last = joinArrays(Uint8Array, [prefix, suffix]);
  });
}

/** Nanoseconds since 1970, of a day (Julian) and the nanoseconds in it. */
function fromInt96(convert: (value: Stored) => unknown): (value: Stored) => unknown {
  return (value) => {
    const days = ((value as bigint) >> 64n) - 2_440_588n;
    return convert(days * 86_400_000_000_000n + ((value as bigint) & 0xffff_ffff_ffff_ffffn));
  };
}

function levelsIn(bytes: Uint8Array, max: number, count: number): Uint8Array {
  const levels = new Uint8Array(count);
  runs(bytes, 32 - Math.clz32(max), count, (i, level) => {
    if (level > max) throw new Error("a level beyond the schema");
    levels[i] = level;
  });
  return levels;
}

/** Numbers of so many bits: runs of one, or packed in eights. */
function runs(
  bytes: Uint8Array,
  width: number,
  count: number,
  put: (i: number, value: number) => void,
): void {
  const byteWidth = Math.ceil(width / 8);
  let at = 0;
  for (let done = 0; done < count;) {
    let header = 0;
    for (let shift = 0;; shift += 7) {
      if (at >= bytes.length || shift > 28) throw new Error("runs are cut off");
      header += (bytes[at] & 0x7f) * 2 ** shift;
      if (bytes[at++] < 0x80) break;
    }
    const length = Math.floor(header / 2);
    if (header % 2 === 0) {
      if (at + byteWidth > bytes.length) throw new Error("runs are cut off");
      let value = 0;
      for (let i = 0; i < byteWidth; i++) value += bytes[at + i] * 2 ** (8 * i);
      at += byteWidth;
      for (const end = Math.min(count, done + length); done < end; done++) put(done, value);
      continue;
    }
    // The last one may lack the bytes of numbers that are not there.
    const end = Math.min(count, done + length * 8);
    if (at + Math.ceil((end - done) * width / 8) > bytes.length) {
      throw new Error("runs are cut off");
    }
    for (let bit = at * 8; done < end; done++, bit += width) put(done, bitsAt(bytes, bit, width));
    at += length * width;
  }
}

function bitsAt(bytes: Uint8Array, bit: number, width: number): number {
  let value = 0;
  for (let got = 0; got < width;) {
    const offset = (bit + got) % 8, take = Math.min(8 - offset, width - got);
    value += (bytes[(bit + got - offset) / 8] >> offset & ((1 << take) - 1)) * 2 ** got;
    got += take;
  }
  return value;
}

function countOf(levels: Uint8Array, level: number): number {
  let count = 0;
  for (const each of levels) if (each === level) count++;
  return count;
}

function unpack(bytes: Uint8Array, size: number, codec: string): Uint8Array {
  if (checked(size, MAX_PAGE) === 0) return new Uint8Array(0);
  const unpacked = unpacker(codec, size)(bytes);
  if (unpacked.length !== size) throw new Error(`a page of ${unpacked.length} bytes, not ${size}`);
  return unpacked;
}

function unpacker(codec: string, size: number): (bytes: Uint8Array) => Uint8Array {
  const options = { maxOutputLength: size };
  switch (codec) {
    case "UNCOMPRESSED":
      return (bytes) => bytes;
    case "GZIP":
      return (bytes) => gunzipSync(bytes, options);
    case "BROTLI":
      return (bytes) => brotliDecompressSync(bytes, options);
    case "ZSTD":
      return (bytes) => zstdDecompressSync(bytes, options);
  }
  const known = compressors[codec as keyof typeof compressors];
  if (!known) throw new UnsupportedColumn(`the compression ${codec}`);
  return (bytes) => known(bytes, size);
}

/** A count from a file, which must lie between 0 and what there can be. */
function checked(count: number, most: number): number {
  if (Number.isInteger(count) && count >= 0 && count <= most) return count;
  throw new Error(`a count of ${count} where at most ${most} is possible`);
}
