/**
 * The files that `torch.save` writes: a zip archive, not compressed, with a pickle of the state dict
 * (`NAME/data.pkl`) and one entry per storage (`NAME/data/KEY`). Tensors that are tied share one.
 *
 * The archive is distrusted like the pickle: sizes come from the central directory alone, every entry
 * must lie between its neighbours, and no name is ever used as a path.
 *
 * Format: PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.5.3.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { MAX_PICKLE_BYTES, type PickledTensor, unpickleStateDict } from "./pickle.ts";
import { DTYPE_BYTES, tensorBytes } from "./safetensors.ts";
import {
  type ByteSource,
  elementCount,
  rowMajorStrides,
  type SealedBytes,
  type StoredTensor,
} from "./stored.ts";
import { shown } from "./untrusted.ts";

/** An entry of the archive. */
interface Entry {
  /** Where its local header begins. */
  header: number;
  /** Size of its bytes. */
  size: number;
  /** Its bytes end here or earlier: the next header, or the directory. */
  limit: number;
  /** Checksum of its bytes; 0 if the archive has none. */
  crc32: number;
}

/** The central directory, and where it is. */
interface Directory {
  entries: number;
  offset: number;
  size: number;
}

const LOCAL_HEADER = 0x04034b50;
const DIRECTORY_HEADER = 0x02014b50;
const END = 0x06054b50;
const END_64 = 0x06064b50;
const END_64_LOCATOR = 0x07064b50;

/** Bytes of each, without what varies. */
const LOCAL_SIZE = 30, DIRECTORY_SIZE = 46, END_SIZE = 22, END_64_SIZE = 56, LOCATOR_SIZE = 20;

/** Enough for 50,000 storages; the archive's own bound is far beyond memory. */
const MAX_DIRECTORY_BYTES = 1 << 22;

/**
 * Finds the tensors of a file that `torch.save` wrote. Only the directory and the pickle are read.
 *
 * @returns the tensors by name, in the order of the state dict; tied ones lie at the same place
 * @throws {UserError} it is no such file, or anything in it is malformed, compressed, overlapping or
 * not of a state dict
 *
 * @example
 * ```ts
 * import { readTorchZip } from "./torch_zip.ts";
 * import assert from "node:assert/strict";
 *
 * const bytes = new TextEncoder().encode("PK, but no archive at all");
 * const source = {
 *   size: bytes.length,
 *   read: (offset: number, length: number) => Promise.resolve(bytes.slice(offset, offset + length)),
 * };
 * await assert.rejects(readTorchZip(source), /not a PyTorch file/);
 * ```
 */
export async function readTorchZip(source: ByteSource): Promise<Map<string, StoredTensor>> {
  const entries = await readEntries(source);
  const root = rootOf(entries);
  const read = async (name: string, most: number) => {
    const entry = entries.get(name)!;
    if (entry.size > most) throw tooLarge(name, entry.size, most);
    return await source.read(await dataOffset(source, name, entry), entry.size);
  };
  if (entries.has(`${root}/byteorder`)) {
    const order = new TextDecoder().decode(await read(`${root}/byteorder`, 16));
    if (order !== "little") {
      throw new UserError(`expected a little-endian file, got ${shown(order)}; save it again`);
    }
  }

  const pickleName = `${root}/data.pkl`, pickleEntry = entries.get(pickleName)!;
  const state = unpickleStateDict(await read(pickleName, MAX_PICKLE_BYTES));
  const pickle = sealOf(pickleEntry, await dataOffset(source, pickleName, pickleEntry));
  const tensors = new Map<string, StoredTensor>();
  const offsets = new Map<string, number>();
  for (const [name, tensor] of state) {
    const { key } = tensor.storage, entryName = `${root}/data/${key}`;
    const entry = entries.get(entryName);
    if (!entry) throw new UserError(`tensor ${shown(name)}: there is no storage ${shown(key)}`);
    if (!offsets.has(key)) offsets.set(key, await dataOffset(source, entryName, entry));
    const offset = offsets.get(key)!, view = checkedView(name, tensor, entry.size, offset);
    tensors.set(name, { ...view, sealed: [...pickle, ...sealOf(entry, offset)] });
  }
  return tensors;
}

/** An entry's bytes with their checksum, if the archive has one. */
function sealOf({ size, crc32 }: Entry, offset: number): SealedBytes[] {
  return crc32 === 0 ? [] : [{ offset, bytes: size, crc32 }];
}

/** The view that a pickle describes, if it lies within its storage and no element comes twice. */
function checkedView(
  name: string,
  { storage, offset, shape, strides }: PickledTensor,
  storageBytes: number,
  dataOffset: number,
): StoredTensor {
  const fail = (what: string) => new UserError(`tensor ${shown(name)}: ${what}`);
  const bytes = DTYPE_BYTES[storage.dtype];
  if (storage.elements * bytes !== storageBytes) {
    const expected = `${storage.elements} elements of ${storage.dtype}`;
    throw fail(`its storage has ${storageBytes} bytes, expected ${expected}`);
  }
  if (tensorBytes(shape, storage.dtype) === undefined) throw fail(`impossible shape [${shape}]`);
  const count = elementCount(shape);
  const dims = shape.map((size, d) => ({ size, stride: strides[d] })).filter((d) => d.size > 1);
  let span = 1; // elements from the first to the last one
  for (const { size, stride } of dims.sort((a, b) => a.stride - b.stride)) {
    if (stride < span && count > 0) throw fail(`shape [${shape}] overlaps itself by [${strides}]`);
    span += (size - 1) * stride;
  }
  if (offset + (count && span) > storage.elements) {
    throw fail(
      `shape [${shape}] by [${strides}] from ${offset} leaves its storage of ${storage.elements}`,
    );
  }
  return {
    dtype: storage.dtype,
    shape,
    strides: count > 0 ? strides : rowMajorStrides(shape),
    offset: dataOffset + offset * bytes,
  };
}

/** The folder in the archive that holds everything. */
function rootOf(entries: ReadonlyMap<string, Entry>): string {
  const pickles = [...entries.keys()].filter((name) => /^[^/]+\/data\.pkl$/.test(name));
  if (pickles.length === 1) return pickles[0].slice(0, -"/data.pkl".length);
  throw new UserError(
    `not a PyTorch file: expected one data.pkl in the archive, got ${pickles.length}`,
  );
}

async function readEntries(source: ByteSource): Promise<Map<string, Entry>> {
  await expectArchive(source);
  const directory = await readEnd(source);
  const { offset, size } = directory;
  if (size > MAX_DIRECTORY_BYTES) throw tooLarge("directory", size, MAX_DIRECTORY_BYTES);
  const entries = parseDirectory(await source.read(offset, size), directory);
  const ordered = [...entries].sort(([, a], [, b]) => a.header - b.header);
  for (const [i, [name, entry]] of ordered.entries()) {
    entry.limit = ordered[i + 1]?.[1].header ?? offset;
    if (entry.header + LOCAL_SIZE + entry.size > entry.limit) {
      throw new UserError(`entry ${shown(name)} overlaps what follows it in the archive`);
    }
  }
  return entries;
}

async function expectArchive(source: ByteSource): Promise<void> {
  const start = await source.read(0, Math.min(16, source.size));
  const begins = (...bytes: number[]) => bytes.every((byte, i) => start[i] === byte);
  if (begins(0x50, 0x4b, 0x03, 0x04)) return;
  // A pickle of the magic number 0x1950a86a20f9469cfc6c, which is ten bytes long.
  if (begins(0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9)) {
    throw new UserError(
      "the format of PyTorch before 1.6 is not read; load the file with PyTorch and save it again",
    );
  }
  throw new UserError("not a PyTorch file: expected a zip archive");
}

/** Finds the directory by the record at the very end, or by its 64-bit form before that. */
async function readEnd(source: ByteSource): Promise<Directory> {
  const { size } = source;
  const tail = await source.read(...lastBytes(size, LOCATOR_SIZE + END_SIZE + 0xffff));
  const view = viewOf(tail), tailOffset = size - tail.length;
  let at = tail.length - END_SIZE;
  // The record ends with a comment of stated length, which must reach to the end of the file.
  const isEnd = () =>
    view.getUint32(at, true) === END &&
    at + END_SIZE + view.getUint16(at + 20, true) === tail.length;
  while (at >= 0 && !isEnd()) at--;
  if (at < 0) throw new UserError("cut short: the archive has no end record");

  let end = tailOffset + at;
  let directory: Directory = {
    entries: view.getUint16(at + 10, true),
    size: view.getUint32(at + 12, true),
    offset: view.getUint32(at + 16, true),
  };
  const locator = at - LOCATOR_SIZE;
  if (locator >= 0 && view.getUint32(locator, true) === END_64_LOCATOR) {
    end = uint64(view, locator + 8);
    directory = await readEnd64(source, end, tailOffset + locator);
  }
  if (directory.offset + directory.size > end) {
    throw new UserError("the archive's directory does not lie before its end record");
  }
  return directory;
}

async function readEnd64(source: ByteSource, offset: number, limit: number): Promise<Directory> {
  const fail = () => new UserError("the archive's 64-bit end record is not where it should be");
  if (offset + END_64_SIZE > limit) throw fail();
  const view = viewOf(await source.read(offset, END_64_SIZE));
  if (view.getUint32(0, true) !== END_64) throw fail();
  return { entries: uint64(view, 32), size: uint64(view, 40), offset: uint64(view, 48) };
}

/** Entries by name; their limits are not known yet. */
function parseDirectory(
  bytes: Uint8Array<ArrayBuffer>,
  { entries: count, offset }: Directory,
): Map<string, Entry> {
  const entries = new Map<string, Entry>();
  const view = viewOf(bytes);
  let at = 0;
  while (at < bytes.length) {
    const rest = bytes.length - at;
    const next = rest < DIRECTORY_SIZE ? Infinity : at + DIRECTORY_SIZE +
      [28, 30, 32].reduce((sum, field) => sum + view.getUint16(at + field, true), 0);
    if (next > bytes.length || view.getUint32(at, true) !== DIRECTORY_HEADER) {
      throw new UserError(`the archive's directory is malformed at entry ${entries.size}`);
    }
    const { name, ...entry } = parseEntry(bytes.subarray(at, next));
    if (entries.has(name)) throw new UserError(`the archive has two entries ${shown(name)}`);
    entries.set(name, { ...entry, limit: offset }); // until their order is known
    at = next;
  }
  if (entries.size !== count) {
    throw new UserError(`the archive's directory has ${entries.size} entries, expected ${count}`);
  }
  return entries;
}

function parseEntry(
  bytes: Uint8Array<ArrayBuffer>,
): Omit<Entry, "limit"> & { name: string } {
  const view = viewOf(bytes);
  const nameEnd = DIRECTORY_SIZE + view.getUint16(28, true);
  const name = entryName(bytes.subarray(DIRECTORY_SIZE, nameEnd));
  const fail = (what: string) => new UserError(`entry ${shown(name)}: ${what}`);
  const flags = view.getUint16(8, true), method = view.getUint16(10, true);
  if (flags & 1) throw fail("encrypted entries are not read");
  if (method !== 0) {
    throw fail(`compressed by method ${method}; only what torch.save stores is read`);
  }
  const extra = bytes.subarray(nameEnd, nameEnd + view.getUint16(30, true));
  const wide = wideNumbers(extra);
  const number = (field: number) => {
    const short = view.getUint32(field, true);
    if (short !== 0xffffffff) return short;
    const long = wide.shift(); // in the order of the fields, those only that do not fit
    if (long === undefined) throw fail("a 64-bit size is missing");
    return long;
  };
  const size = number(24), stored = number(20), header = number(42);
  if (size !== stored) throw fail(`${stored} bytes stored for ${size}`);
  return { name, header, size, crc32: view.getUint32(16, true) };
}

/** The numbers of the extra field 1, which a 64-bit archive has. */
function wideNumbers(extra: Uint8Array<ArrayBuffer>): number[] {
  const view = viewOf(extra);
  for (let at = 0; at + 4 <= extra.length;) {
    const length = view.getUint16(at + 2, true), end = at + 4 + length;
    if (view.getUint16(at, true) === 1 && end <= extra.length) {
      return Array.from({ length: length >> 3 }, (_, i) => uint64(view, at + 4 + 8 * i));
    }
    at = end;
  }
  return [];
}

/** A name that stays inside a folder, should anybody ever unpack the file. */
function entryName(bytes: Uint8Array): string {
  let name: string;
  try {
    name = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new UserError("the archive has an entry whose name is not UTF-8");
  }
  const climbs = name.split("/").some((part) => part === "" || part === "." || part === "..");
  if (climbs || /[\\\0]|^[A-Za-z]:/.test(name)) {
    throw new UserError(`refused: the archive has an entry ${shown(name)}, which is no plain path`);
  }
  return name;
}

/** Where an entry's bytes begin: after its local header, which must be the same entry's. */
async function dataOffset(source: ByteSource, name: string, entry: Entry): Promise<number> {
  const view = viewOf(await source.read(entry.header, LOCAL_SIZE));
  const fail = (what: string) => new UserError(`entry ${shown(name)}: ${what}`);
  const nameLength = view.getUint16(26, true);
  const offset = entry.header + LOCAL_SIZE + nameLength + view.getUint16(28, true);
  if (view.getUint32(0, true) !== LOCAL_HEADER || view.getUint16(8, true) !== 0) {
    throw fail("its own header disagrees with the directory");
  }
  if (offset + entry.size > entry.limit) throw fail("overlaps what follows it in the archive");
  const ownName = await source.read(entry.header + LOCAL_SIZE, nameLength);
  if (entryName(ownName) !== name) throw fail("its own header has another name");
  return offset;
}

/** Offset and length of the end of a file. */
function lastBytes(size: number, most: number): [number, number] {
  const length = Math.min(size, most);
  return [size - length, length];
}

function viewOf(bytes: Uint8Array<ArrayBuffer>): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Past 2^53 it is inexact, which is far outside any file and refused as such. */
function uint64(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

function tooLarge(what: string, size: number, most: number): UserError {
  return new UserError(`${shown(what)}: expected at most ${most} bytes, got ${size}`);
}
