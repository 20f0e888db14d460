/**
 * Reads a text corpus as a stream of documents, whatever its size: plain text in the fairseq
 * convention, JSON Lines and Parquet, one file, folders of them, or globs.
 *
 * Text is strict UTF-8. Lines are trimmed and empty ones dropped; what is too long to be one document
 * is split at a line end (or, within one endless line, at a space), so memory stays flat.
 *
 * @module
 */
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { filesBelow, filesMatching, isPattern, isThere, realPath } from "../files/find.ts";
import { parsePythonJson } from "../files/json.ts";
import { decodeLines, isBlankBlock, readBlocks, strictUtf8 } from "../files/lines.ts";
import { openParquet, type ParquetValues } from "../files/parquet.ts";
import { isFolder, regularFile } from "../files/read.ts";

/** What is never mixed with its neighbours in one training sequence. */
export interface Document {
  /** Trimmed, not empty. One line is one item: it gets its own `</s>`. */
  lines: string[];
  /** The file it came from. */
  source: string;
}

/** How {@link readDocuments} cuts what it reads. */
export interface ReadOptions {
  /** Longest document, in UTF-16 units (default 1,000,000). Longer ones are split at a line end. */
  maxDocument?: number;
  /** Stop reading each file after about this much text, in UTF-16 units (default: never). */
  perFile?: number;
}

/** One file of a corpus, as {@link listCorpus} found it. */
export type CorpusFile = ReturnType<typeof listCorpus>[number];

const SUPPORTED = [".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet"];
const MAX_DOCUMENT = 1_000_000;

/**
 * Finds the files that the paths of a corpus stand for: sorted within each path, each file once, whatever
 * links and spellings lead to it. In folders and globs, files of other kinds are skipped.
 *
 * @param paths files, folders (searched to the bottom) or globs with `*`, `**`, `?`, `{a,b}`, `[ab]`
 * @returns of each its path, relative if the request was, and what tells that it has been touched: bytes, last
 *   modification, and last change of contents, name or rights, in milliseconds since 1970
 * @throws {UserError} if a path is missing, matches nothing, or names a file of an unknown kind
 *
 * @example
 * ```ts
 * import { listCorpus } from "@metro/t0";
 * import assert from "node:assert/strict";
 *
 * const files = listCorpus(["data/corpus/*.txt", "data/corpus/answers_1.txt"]);
 * assert.equal(files.filter(({ path }) => path === "data/corpus/answers_1.txt").length, 1);
 * ```
 */
export function listCorpus(
  paths: string[],
): { path: string; size: number; modified: number; changed: number }[] {
  if (paths.length === 0) throw new UserError("no corpus given: name at least one file or folder");
  const files = new Map<string, CorpusFile>();
  for (const path of paths) {
    for (const file of filesOf(path)) {
      const stats = regularFile(file);
      const real = realPath(file);
      if (!files.has(real)) files.set(real, { path: file, ...stats });
    }
  }
  return [...files.values()];
}

function filesOf(path: string): string[] {
  const isGlob = !isThere(path) && isPattern(path);
  if (!isGlob && !isFolder(path)) {
    regularFile(path);
    if (isSupported(path)) return [path];
    throw new UserError(`${path}: unknown kind of file; supported are ${SUPPORTED.join(", ")}`);
  }
  const files = (isGlob ? filesMatching(path) : filesBelow(path)).filter(isSupported);
  if (files.length === 0) {
    const where = isGlob ? "matches" : "holds";
    throw new UserError(`${path}: ${where} no corpus files (${SUPPORTED.join(", ")})`);
  }
  return files;
}

function isSupported(path: string): boolean {
  return SUPPORTED.some((extension) => path.endsWith(extension));
}

/**
 * Streams the documents of a corpus in a fixed order.
 *
 * - `.txt`, `.txt.gz`: a blank line ends a document, every other line is one item. Lines end as Python's
 *   do: with a newline, a carriage return, or both.
 * - `.jsonl`, `.jsonl.gz`: each record's `text` is a document, its line ends separate the items; null is
 *   none.
 * - `.parquet`: the same for the column `text`, one row group in memory at a time.
 *
 * @param paths as for {@link listCorpus}
 * @throws {UserError} naming file and line (or row) for invalid UTF-8, broken JSON, a missing `text`,
 * a broken file, and when the whole corpus holds no text
 *
 * @example
 * ```ts
 * import { readDocuments } from "./corpus.ts";
 * import assert from "node:assert/strict";
 *
 * const file = await Deno.makeTempFile({ suffix: ".txt" });
 * await Deno.writeTextFile(file, "one line\nanother\n\nnext document\n");
 * const documents = await Array.fromAsync(readDocuments([file]));
 * await Deno.remove(file);
 * assert.deepEqual(documents.map((d) => d.lines), [["one line", "another"], ["next document"]]);
 * ```
 */
export async function* readDocuments(
  paths: string[],
  { maxDocument = MAX_DOCUMENT, perFile = Infinity }: ReadOptions = {},
): AsyncGenerator<Document> {
  let empty = true;
  for (const { path } of listCorpus(paths)) {
    let characters = 0;
    for await (const lines of documentsOf(path, maxDocument)) {
      empty = false;
      yield { lines, source: path };
      for (const line of lines) characters += line.length;
      if (characters >= perFile) break;
    }
  }
  if (empty) throw new UserError(`no text in ${paths.join(", ")}: every line is blank`);
}

/**
 * Lines for training a tokenizer: about `characters` UTF-16 units in all, an equal share from the
 * beginning of every file, so that no part of a large corpus is left out.
 *
 * @throws {UserError} as {@link readDocuments}
 */
export async function* sampleLines(paths: string[], characters: number): AsyncGenerator<string> {
  const perFile = Math.ceil(characters / listCorpus(paths).length);
  for await (const { lines } of readDocuments(paths, { perFile })) yield* lines;
}

function documentsOf(file: string, maxDocument: number): AsyncGenerator<string[]> {
  if (file.endsWith(".parquet")) return parquetDocuments(file, maxDocument);
  if (/\.jsonl(\.gz)?$/.test(file)) return jsonDocuments(file, maxDocument);
  return textDocuments(file, maxDocument);
}

/** A document being filled. */
interface Growing {
  lines: string[];
  length: number;
}

/** Adds a line, and hands out the document before it where the line would make it too long. */
function* add(document: Growing, line: string, maxDocument: number): Generator<string[]> {
  for (const part of splitLine(line.trim(), maxDocument)) {
    if (document.length + part.length > maxDocument) yield* finish(document);
    document.lines.push(part);
    document.length += part.length + 1;
  }
}

function* finish(document: Growing): Generator<string[]> {
  if (document.lines.length > 0) yield document.lines;
  document.lines = [];
  document.length = 0;
}

async function* textDocuments(file: string, maxDocument: number): AsyncGenerator<string[]> {
  const document: Growing = { lines: [], length: 0 };
  for await (const { lines, isBlank } of readLines(file, "split")) {
    if (isBlank) {
      yield* finish(document);
      continue;
    }
    for (const line of lines.flatMap(splitReturns)) {
      if (line.trim() === "") yield* finish(document);
      else yield* add(document, line, maxDocument);
    }
  }
  yield* finish(document);
}

/** The parts of a line that lone carriage returns end; the last one may be half of its own line end. */
function splitReturns(line: string): string[] {
  return line.replace(/\r$/, "").split("\r");
}

/** The documents of one record: usually one, more if the text is very long. */
function* splitText(text: string, maxDocument: number): Generator<string[]> {
  const document: Growing = { lines: [], length: 0 };
  for (const line of text.split(/\r\n?|\n/)) yield* add(document, line, maxDocument);
  yield* finish(document);
}

async function* jsonDocuments(file: string, maxDocument: number): AsyncGenerator<string[]> {
  for await (const { lines, first } of readLines(file, "whole")) {
    for (const [i, line] of lines.entries()) {
      if (line.trim() === "") continue;
      yield* splitText(parseRecord(line, `${file}:${first + i}`), maxDocument);
    }
  }
}

function parseRecord(line: string, place: string): string {
  let record: unknown;
  try {
    record = parsePythonJson(line);
  } catch (error) {
    throw new UserError(`${place}: not JSON: ${shown((error as Error).message)}`);
  }
  const text = isRecord(record) ? record.text : undefined;
  if (typeof text === "string") return text;
  if (text === null) return "";
  throw new UserError(`${place}: expected a record with a string field "text"`);
}

/** A text, or undefined for what is none. */
const TEXTS: ParquetValues = {
  leaf: ({ element }) => (value) => {
    if (element.type !== "BYTE_ARRAY" || !(value instanceof Uint8Array)) return undefined;
    try {
      return strictUtf8.decode(value);
    } catch {
      return undefined;
    }
  },
  list: () => undefined,
  map: () => undefined,
  struct: () => undefined,
};

async function* parquetDocuments(path: string, maxDocument: number): AsyncGenerator<string[]> {
  try {
    using file = await openParquet(path);
    const columns = file.columns.map(({ element }) => element.name);
    const column = columns.indexOf("text");
    if (column < 0) {
      throw new UserError(`${path}: no column "text"; its columns are ${columns.join(", ")}`);
    }
    for (const group of file.groups) {
      for (const [i, text] of file.read(group, column, TEXTS).entries()) {
        if (text === null) continue;
        if (typeof text === "string") yield* splitText(text, maxDocument);
        else {
          const place = `${path}, row ${group.first + i}`;
          throw new UserError(`${place}: column "text" is not a string in UTF-8`);
        }
      }
    }
  } catch (error) {
    if (error instanceof UserError && error.message.startsWith(path)) throw error;
    throw new UserError(`${path}: not readable as Parquet: ${shown((error as Error).message)}`);
  }
}

/** Cuts an over-long line at the last space before the limit, or at a character if it has none. */
function splitLine(line: string, max: number): string[] {
  const parts: string[] = [];
  while (line.length > max) {
    const space = line.lastIndexOf(" ", max);
    let cut = space > 0 ? space : max;
    // A surrogate pair is one character.
    if (space <= 0 && /[\ud800-\udbff]/.test(line[cut - 1]) && cut > 1) cut--;
    parts.push(line.slice(0, cut));
    line = line.slice(cut).trimStart();
  }
  return line === "" ? parts : [...parts, line];
}

/** Consecutive lines; `first` is the number of the first one, from 1. */
interface Lines {
  lines: string[];
  first: number;
  /** Whether there was nothing but white space, and the lines were left out. */
  isBlank: boolean;
}

/** The lines of a file; the first one that is not UTF-8 is an error. */
async function* readLines(file: string, longLine: "split" | "whole"): AsyncGenerator<Lines> {
  for await (const block of readBlocks(file, longLine)) {
    if (isBlankBlock(block)) {
      yield { lines: [], first: block.first, isBlank: true };
      continue;
    }
    const lines = decodeLines(block, file);
    const broken = lines.find((line) => typeof line !== "string");
    if (broken) throw broken;
    yield { lines: lines as string[], first: block.first, isBlank: false };
  }
}
