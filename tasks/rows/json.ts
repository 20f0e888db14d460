/**
 * Rows from JSON: an object a line, or one array of objects.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { joinArrays } from "../files/arrays.ts";
import {
  type Block,
  decodeLines,
  isBlankBlock,
  MAX_RECORD,
  readBlocks,
  readBytes,
  strictUtf8,
} from "../files/lines.ts";
import { parseRow, type Row } from "./row.ts";

/** A row as its file gives it. */
export interface FileRow {
  /** The row. */
  row: Row;
  /** In JSON Lines, where the line begins in the (unzipped) text, and where it ends. */
  span?: { start: number; end: number };
}

/** Told about a row, a row group or a file that cannot be used; without it, the error is thrown. */
export type OnBad = (error: UserError) => void;

/**
 * The rows of a JSON Lines file, block by block; blank lines are skipped. Within JSON, a carriage return is white
 * space: what it ends is a line only where the whole is no row.
 */
export async function* jsonLines(file: string, bad: OnBad): AsyncGenerator<FileRow[]> {
  for await (const block of readBlocks(file, "whole")) {
    if (isBlankBlock(block)) continue;
    const rows: FileRow[] = [];
    let at = 0;
    for (const [i, line] of decodeLines(block, file).entries()) {
      const number = block.first + i;
      const newline = block.bytes.indexOf(NEWLINE, at);
      const end = newline < 0 ? block.bytes.length : newline;
      const span = { start: block.start + at, end: block.start + end };
      at = end + 1;
      if (typeof line !== "string") bad(line);
      else if (!/^\s*$/.test(line)) {
        try {
          rows.push({ row: parseRow(line, `${file}:${number}`), span });
        } catch (error) {
          const parts = rowsBetweenReturns(block, span);
          if (!parts) report(error, bad);
          else for (const part of parts) rows.push(part);
        }
      }
    }
    yield rows;
  }
}

/** The rows of a line that carriage returns divide; undefined if it is not that. */
function rowsBetweenReturns(
  { bytes, start }: Block,
  line: { start: number; end: number },
): FileRow[] | undefined {
  const rows: FileRow[] = [];
  for (let from = line.start; from < line.end;) {
    const found = bytes.indexOf(RETURN, from - start) + start;
    const end = found < start || found > line.end ? line.end : found;
    if (rows.length === 0 && end >= line.end - 1) return undefined;
    const text = strictUtf8.decode(bytes.subarray(from - start, end - start));
    try {
      if (!/^\s*$/.test(text)) rows.push({ row: parseRow(text, ""), span: { start: from, end } });
    } catch (error) {
      if (error instanceof UserError) return undefined;
      throw error;
    }
    from = end + 1;
  }
  return rows;
}

/** The rows of a `.json` file, which is an array if it begins with a bracket, otherwise lines. */
export async function* jsonFile(file: string, bad: OnBad): AsyncGenerator<FileRow[]> {
  yield* (await isArray(file) ? jsonArray : jsonLines)(file, bad);
}

async function isArray(file: string): Promise<boolean> {
  for await (const chunk of readBytes(file)) {
    let at = hasBom(chunk) ? 3 : 0;
    while (at < chunk.length && isBlank(chunk[at])) at++;
    if (at < chunk.length) return chunk[at] === OPEN_BRACKET;
  }
  return false;
}

async function* jsonArray(file: string, bad: OnBad): AsyncGenerator<FileRow[]> {
  let number = 0;
  for await (const elements of arrayElements(file)) {
    const rows: FileRow[] = [];
    for (const bytes of elements) {
      const place = `${file}, row ${number++}`;
      try {
        rows.push({ row: parseRow(decode(bytes, place), place) });
      } catch (error) {
        report(error, bad);
      }
    }
    yield rows;
  }
}

function decode(bytes: Uint8Array, place: string): string {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw new UserError(`${place}: not valid UTF-8; convert the file to UTF-8 first`);
  }
}

/** Passes a mistake in the data on to `bad`; errors of ours stay errors. */
export function report(error: unknown, bad: OnBad): void {
  if (!(error instanceof UserError)) throw error;
  bad(error);
}

// Bytes that give JSON its structure; none of them is part of another UTF-8 character.
const NEWLINE = 10;
const RETURN = 13;
const QUOTE = 34;
const COMMA = 44;
const OPEN_BRACKET = 91;
const BACKSLASH = 92;
const CLOSE_BRACKET = 93;
const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;

/**
 * Cuts the array of a file into its elements, so that one element at a time is parsed: a whole file
 * may not fit into memory.
 */
async function* arrayElements(file: string): AsyncGenerator<Uint8Array[]> {
  let pending: Uint8Array[] = []; // the element's bytes in earlier chunks
  let size = 0;
  let depth = 0;
  let ended = false;
  let more = false; // after the end
  let inString = false;
  let escaped = false;
  let empty = true; // whether the array, so far, is `[]`
  for await (const chunk of readBytes(file)) {
    const elements: Uint8Array[] = [];
    let from = 0; // where the element's bytes begin in this chunk
    const finish = (to: number): void => {
      elements.push(joinArrays(Uint8Array, [...pending, chunk.subarray(from, to)]));
      pending = [];
      size = 0;
    };
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i];
      if (inString) {
        if (escaped) escaped = false;
        else if (byte === BACKSLASH) escaped = true;
        else if (byte === QUOTE) inString = false;
      } else if (isBlank(byte)) continue;
      else if (ended) more = true;
      else if (depth === 0) {
        if (byte !== OPEN_BRACKET) continue; // the byte order mark
        depth = 1;
        from = i + 1;
      } else if (byte === CLOSE_BRACKET || byte === CLOSE_BRACE) {
        if (--depth > 0) continue;
        if (!empty) finish(i);
        ended = true;
      } else if (byte === COMMA && depth === 1) {
        finish(i);
        from = i + 1;
      } else {
        empty = false;
        if (byte === QUOTE) inString = true;
        else if (byte === OPEN_BRACKET || byte === OPEN_BRACE) depth++;
      }
    }
    if (!ended && depth > 0) {
      pending.push(chunk.subarray(from));
      size += chunk.length - from;
      if (size > MAX_RECORD) {
        throw new UserError(`${file}: a row of more than ${MAX_RECORD >> 20} MB`);
      }
    }
    yield elements;
    if (more) throw new UserError(`${file}: there is more text after the array of rows`);
  }
  if (!ended) throw new UserError(`${file}: the array of rows never ends; the file is cut off`);
}

function isBlank(byte: number): boolean {
  return byte === 32 || (byte >= 9 && byte <= 13);
}

function hasBom(bytes: Uint8Array): boolean {
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;
}
