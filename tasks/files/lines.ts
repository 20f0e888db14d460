/**
 * Reads text files as blocks of whole lines, strictly UTF-8, gunzipped where the name ends in `.gz`,
 * in memory that does not grow with the file.
 *
 * @module
 */
import { createReadStream } from "node:fs";
import { pipeline } from "node:stream";
import { createGunzip } from "node:zlib";
import { UserError } from "../../ops/graph/errors.ts";
import { joinArrays } from "./arrays.ts";
import { readError, regularFile } from "./read.ts";

/** A line longer than this is split by {@link readBlocks} where it may be. Bytes. */
const LONG_LINE = 1_000_000;
/** A record is parsed whole, so its size must have a limit. Bytes. */
export const MAX_RECORD: number = 1 << 24;
/** What text unpacks to at most, as a multiple of its size, once there is so much of it. */
const BOMB_RATIO = 200;
const BOMB_BYTES = 1 << 27;
const CHUNK = 1 << 18;
const NEWLINE = 10;

/** Decodes UTF-8 and throws where it is none; a byte order mark is a character like any other. */
export const strictUtf8: TextDecoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Consecutive whole lines of a file. */
export interface Block {
  /** The lines with the newlines between them; the one after the last line is left out. */
  bytes: Uint8Array;
  /** Number of the first line, from 1. */
  first: number;
  /** Where the bytes begin in the (unzipped) text. */
  start: number;
  /** Whether the last line goes on in the next block, after a carriage return or where it was cut. */
  isCut: boolean;
}

/**
 * Reads a file in blocks of whole lines: a newline byte is never part of another UTF-8 character, so
 * every block decodes on its own. A byte order mark at the beginning is left out.
 *
 * @param longLine what happens to a line beyond a megabyte: cut, at a space if there is one, or whole up to
 * 16 MB; but cut after a carriage return, which may be meant for its end
 * @throws {UserError} the file cannot be read, or a whole line is too long
 *
 * @example
 * ```ts
 * import { decodeLines, readBlocks } from "./lines.ts";
 * import assert from "node:assert/strict";
 *
 * const file = await Deno.makeTempFile({ suffix: ".txt" });
 * await Deno.writeTextFile(file, "one\ntwo\n");
 * const [block] = await Array.fromAsync(readBlocks(file, "whole"));
 * await Deno.remove(file);
 * assert.deepEqual(decodeLines(block, file), ["one", "two"]);
 * ```
 */
export async function* readBlocks(
  file: string,
  longLine: "split" | "whole",
): AsyncGenerator<Block> {
  let pending: Uint8Array[] = [];
  let size = 0;
  let first = 1;
  let start = 0;
  const block = (bytes: Uint8Array, isCut: boolean): Block => {
    const text = start === 0 ? withoutBom(bytes) : bytes;
    const made = { bytes: text, first, start: start + bytes.length - text.length, isCut };
    first += countNewlines(bytes);
    start += bytes.length;
    return made;
  };
  for await (const chunk of readBytes(file)) {
    const end = chunk.lastIndexOf(NEWLINE);
    pending.push(end < 0 ? chunk : chunk.subarray(0, end));
    size += chunk.length;
    if (end >= 0) {
      yield block(joinArrays(Uint8Array, pending), false);
      first++;
      start++;
      pending = [chunk.subarray(end + 1)];
      size = pending[0].length;
    } else if (size > LONG_LINE && (longLine === "split" || chunk.lastIndexOf(13, -2) >= 0)) {
      const bytes = joinArrays(Uint8Array, pending);
      const cut = longLine === "split" ? cutPoint(bytes) : bytes.lastIndexOf(13, -2) + 1;
      yield block(bytes.subarray(0, cut), true);
      pending = [bytes.subarray(cut)];
      size = bytes.length - cut;
    } else if (size > MAX_RECORD) {
      throw new UserError(`${file}:${first}: a record of more than ${MAX_RECORD >> 20} MB`);
    }
  }
  if (size > 0) yield block(joinArrays(Uint8Array, pending), false);
}

/** Whether there is nothing but white space in a block, of which a file may have gigabytes. */
export function isBlankBlock({ bytes }: Block): boolean {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== 32 && !(bytes[i] >= 9 && bytes[i] <= 13)) return false;
  }
  return true;
}

/**
 * The lines of a block as text; in place of a line that is not valid UTF-8 stands the error, which
 * names the file and the line.
 */
export function decodeLines({ bytes, first }: Block, file: string): (string | UserError)[] {
  try {
    return strictUtf8.decode(bytes).split("\n");
  } catch {
    const lines: (string | UserError)[] = [];
    for (let from = 0; from <= bytes.length;) {
      const newline = bytes.indexOf(NEWLINE, from);
      const to = newline < 0 ? bytes.length : newline;
      lines.push(decodeLine(bytes.subarray(from, to), `${file}:${first + lines.length}`));
      from = to + 1;
    }
    return lines;
  }
}

function decodeLine(bytes: Uint8Array, place: string): string | UserError {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    return new UserError(`${place}: not valid UTF-8; convert the file to UTF-8 first`);
  }
}

/**
 * The bytes of a file, unzipped if its name ends in `.gz`.
 *
 * @throws {UserError} the file is none, cannot be read, is damaged, or unpacks to a multiple of its size
 * that no text has
 */
export async function* readBytes(file: string): AsyncGenerator<Uint8Array> {
  const { size } = regularFile(file);
  const stream = createReadStream(file, { highWaterMark: CHUNK });
  const zipped = file.endsWith(".gz");
  // `pipeline` closes the file when the reader stops early. Errors surface in the iteration below.
  const source = zipped ? pipeline(stream, createGunzip(), () => {}) : stream;
  let unpacked = 0;
  try {
    for await (const chunk of source) {
      unpacked += (chunk as Uint8Array).length;
      if (zipped && unpacked > Math.max(BOMB_BYTES, size * BOMB_RATIO)) throw bomb(file);
      yield chunk as Uint8Array;
    }
  } catch (error) {
    throw unreadable(file, error);
  }
}

function bomb(file: string): UserError {
  return new UserError(
    `${file}: unpacks to more than ${BOMB_RATIO} times its size, as no text does; ` +
      "unpack it yourself if it is meant to",
  );
}

/** The error of a file that the system does not give, or that cannot be unpacked. */
function unreadable(file: string, error: unknown): unknown {
  const known = readError(file, error);
  const isZip = /^(Z_|ERR_)/.test(String((error as { code?: unknown }).code));
  if (known !== error || !isZip) return known;
  return new UserError(`${file}: cannot be read: ${(error as Error).message}`);
}

/** After the last space or lone carriage return, or else at the last character boundary. */
function cutPoint(bytes: Uint8Array): number {
  const space = Math.max(bytes.lastIndexOf(32), bytes.lastIndexOf(13, -2));
  if (space > bytes.length / 2) return space + 1;
  let cut = bytes.length - 1;
  while (cut > bytes.length - 4 && (bytes[cut] & 0xc0) === 0x80) cut--;
  return cut;
}

function countNewlines(bytes: Uint8Array): number {
  let count = 0;
  for (let i = 0; i < bytes.length; i++) if (bytes[i] === NEWLINE) count++;
  return count;
}

function withoutBom(bytes: Uint8Array): Uint8Array {
  const bom = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
  return bom ? bytes.subarray(3) : bytes;
}
