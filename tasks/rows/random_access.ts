/**
 * Reads rows by number, through a few cached pages of their files.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { openRegularSync, readFully, regularFile } from "../files/read.ts";
import { withFields } from "./fields.ts";
import type { RowIndex, RowPart } from "./row_index.ts";
import { parseRow, type Row } from "./row.ts";
import { readRowText } from "./stored.ts";

/** Random access to the rows of a split; about a megabyte of them is in memory. */
export interface RowReader {
  /** How many rows there are. */
  readonly count: number;
  /**
   * Row `i`, counted from 0. Rows near one that was just read are cheap.
   *
   * @throws {RangeError} there is no such row
   * @throws {UserError} its file was changed since it was indexed
   */
  read(i: number): Row;
  /** Closes the files. */
  close(): void;
}

/**
 * Opens the rows of a split; close them when done.
 *
 * @param index from `indexRows`, perhaps posted to this worker
 * @throws {UserError} a file is gone, or was changed since it was indexed
 *
 * @example
 * ```ts
 * import { indexRows } from "./row_index.ts";
 * import { openRows } from "./random_access.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir(), cache = `${folder}/.cache`;
 * await Deno.mkdir(`${folder}/imdb`);
 * await Deno.writeTextFile(`${folder}/imdb/train.jsonl`, '{"text":"good"}\n{"text":"bad"}\n');
 * const rows = openRows(await indexRows({ folder, dataset: "imdb", split: "train", cache }));
 * assert.deepEqual([rows.read(1), rows.read(0)], [{ text: "bad" }, { text: "good" }]);
 * rows.close();
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function openRows(index: RowIndex): RowReader {
  const parts: OpenPart[] = [];
  const close = () => parts.forEach((part) => part.close());
  try {
    for (const part of index.parts) parts.push(openPart(part));
  } catch (error) {
    close();
    throw error;
  }
  const name = `${index.dataset} ${index.split}`;
  return {
    count: index.count,
    read(i) {
      if (!(Number.isInteger(i) && i >= 0 && i < index.count)) {
        throw new RangeError(`row ${i}: ${name} has ${index.count} rows`);
      }
      return withFields(parts[lastAt(index.parts, i)].read(i), index.fields);
    },
    close,
  };
}

/** The last part that begins at row `i` or before: parts before it may be empty. */
function lastAt(parts: readonly RowPart[], i: number): number {
  let low = 0;
  let high = parts.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (parts[middle].firstRow <= i) low = middle;
    else high = middle - 1;
  }
  return low;
}

interface OpenPart {
  /** The row with this number in the split. */
  read(i: number): Row;
  close(): void;
}

const NEWLINE = 10;
const decoder = new TextDecoder();

function openPart(part: RowPart): OpenPart {
  const { path, offsets, count, firstRow, size, modified, converted } = part;
  const rows = new PagedFile(path, 1 << 14, 64);
  let starts: PagedFile;
  try {
    if (rows.size !== size || rows.modified !== modified) throw changed(path);
    starts = new PagedFile(offsets, 1 << 12, 256);
  } catch (error) {
    rows.close();
    throw error;
  }
  if (starts.size !== (count + 1) * 8) {
    starts.close();
    rows.close();
    throw changed(offsets);
  }
  return {
    read(i) {
      const bounds = starts.read((i - firstRow) * 8, 16);
      const view = new DataView(bounds.buffer, bounds.byteOffset, 16);
      const start = view.getFloat64(0, true);
      // Up to the next row there may also be blank lines, and lines that were skipped.
      const bytes = rows.read(start, view.getFloat64(8, true) - start);
      const end = bytes.indexOf(NEWLINE);
      const text = decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
      try {
        return converted ? readRowText(text) : parseRow(text, path);
      } catch {
        throw changed(path);
      }
    },
    close() {
      starts.close();
      rows.close();
    },
  };
}

function changed(path: string): UserError {
  return new UserError(`${path}: was changed since it was indexed; start again to index it anew`);
}

/** A file that is read through a cache of pages; the least recently used page goes. */
class PagedFile {
  readonly size: number;
  readonly modified: number;
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #pageSize: number;
  readonly #limit: number;
  /** By number, the least recently used first; all are of full size, also the file's last. */
  readonly #pages = new Map<number, Uint8Array>();

  constructor(path: string, pageSize: number, limit: number) {
    this.#path = path;
    this.#pageSize = pageSize;
    this.#limit = limit;
    const { size, modified } = regularFile(path);
    this.#file = openRegularSync(path);
    this.size = size;
    this.modified = modified;
  }

  /** These bytes; they are valid until the next read. */
  read(start: number, length: number): Uint8Array {
    if (start + length > this.size) throw changed(this.#path);
    const first = Math.floor(start / this.#pageSize);
    const offset = start - first * this.#pageSize;
    if (offset + length <= this.#pageSize) {
      return this.#page(first).subarray(offset, offset + length);
    }
    const bytes = new Uint8Array(length);
    if (length > this.#pageSize * 4) { // so many pages would push all others out
      this.#fill(bytes, start);
      return bytes;
    }
    for (let done = 0, page = first; done < length; page++) {
      const from = page === first ? offset : 0;
      const part = this.#page(page).subarray(from, from + length - done);
      bytes.set(part, done);
      done += part.length;
    }
    return bytes;
  }

  close(): void {
    this.#file.close();
  }

  #page(number: number): Uint8Array {
    let page = this.#pages.get(number);
    if (page) this.#pages.delete(number);
    else {
      page = this.#pages.size < this.#limit ? new Uint8Array(this.#pageSize) : this.#oldest();
      const start = number * this.#pageSize;
      this.#fill(page.subarray(0, Math.min(this.#pageSize, this.size - start)), start);
    }
    this.#pages.set(number, page);
    return page;
  }

  /** Memory is used again: to clear as much for every page takes longer than to read it. */
  #oldest(): Uint8Array {
    const [number, page] = this.#pages.entries().next().value!;
    this.#pages.delete(number);
    return page;
  }

  #fill(bytes: Uint8Array, position: number): void {
    readFully(this.#file, bytes, position, this.#path);
  }
}
