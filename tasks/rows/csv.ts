/**
 * Rows from CSV as RFC 4180 writes it: a header, cells with commas, quotes and line ends in quotes. A record
 * ends with a newline, a carriage return, or both, as for Python's `csv`; in quotes they are text.
 *
 * Columns get the types that the Hub's loader gives them: all integers, all numbers, all booleans, or
 * text. An empty cell is null. Two things are kinder than that loader: an integer column with empty
 * cells stays one, and words such as `NA` or `None` are text.
 *
 * @module
 */
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { decodeLines, isBlankBlock, MAX_RECORD, readBlocks } from "../files/lines.ts";
import type { FileRow, OnBad } from "./json.ts";
import { float, hubName, integer } from "./row.ts";

/** What all cells of a column are, by column; the types of a split are those of all its files. */
export type ColumnTypes = Map<string, Set<ColumnType>>;

/** A type that every cell so far can have; `text` is the rest. */
export type ColumnType = "integer" | "number" | "boolean";

const PATTERNS: { readonly [T in ColumnType]: RegExp } = {
  integer: /^\s*[-+]?\d+\s*$/,
  number: /^\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*$/,
  boolean: /^(?:true|false|True|False|TRUE|FALSE)$/,
};
const TYPES = Object.keys(PATTERNS) as ColumnType[];

interface CsvRecord {
  cells: string[];
  /** The line on which it begins, from 1. */
  number: number;
}

/** Reads a file once to learn its columns' types, and narrows `types` by them. */
export async function narrowTypes(file: string, types: ColumnTypes): Promise<void> {
  const ignore = () => {}; // told when the rows are read
  for await (const { fields, records } of tables(file, ignore)) {
    const columns = fields.map((field) => {
      if (!types.has(field)) types.set(field, new Set(TYPES));
      return types.get(field)!;
    });
    for (const { cells } of records) {
      for (const [i, possible] of columns.entries()) {
        if (cells[i] === "") continue;
        for (const type of possible) if (!PATTERNS[type].test(cells[i])) possible.delete(type);
      }
    }
  }
}

/** The names of a file's columns; none if it is empty. */
export async function csvFields(file: string): Promise<string[]> {
  for await (const { fields } of tables(file, () => {})) return fields.map(hubName);
  return [];
}

/** The rows of a file, block by block; `types` are those of all the files of the split. */
export async function* csvRows(
  file: string,
  types: ColumnTypes,
  bad: OnBad,
): AsyncGenerator<FileRow[]> {
  for await (const { fields, records } of tables(file, bad)) {
    const columns = fields.map((field) => ({
      name: hubName(field),
      valueOf: converter(types.get(field) ?? new Set()),
    }));
    yield records.map(({ cells }) => ({
      row: Object.fromEntries(
        columns.map(({ name, valueOf }, i) => [name, cells[i] === "" ? null : valueOf(cells[i])]),
      ),
    }));
  }
}

function converter(possible: ReadonlySet<ColumnType>): (cell: string) => unknown {
  if (possible.size === TYPES.length) return (cell) => cell; // no cell was ever filled
  if (possible.has("integer")) return (cell) => integer(BigInt(cell.trim().replace(/^\+/, "")));
  if (possible.has("number")) return (cell) => float(Number(cell));
  if (possible.has("boolean")) return (cell) => cell.toLowerCase() === "true";
  return (cell) => cell;
}

/** The records of a file under its header, without those that have another number of cells. */
async function* tables(
  file: string,
  bad: OnBad,
): AsyncGenerator<{ fields: string[]; records: CsvRecord[] }> {
  let fields: string[] | undefined;
  for await (const block of csvRecords(file, bad)) {
    const rows = fields ? block : block.slice(1);
    fields ??= block.length > 0 ? header(block[0], file) : undefined;
    if (!fields) continue;
    const expected = fields.length;
    const records = rows.filter(({ cells, number }) => {
      if (cells.length === expected) return true;
      const found = `${cells.length} cells where the header has ${expected}`;
      bad(new UserError(`${file}:${number}: ${found}`));
      return false;
    });
    yield { fields, records };
  }
}

function header({ cells }: CsvRecord, file: string): string[] {
  const fields = cells.map((cell, i) => cell || `Unnamed: ${i}`); // the Hub's name for a lone index
  const seen = new Set<string>();
  const twice = fields.find((field) => seen.size === seen.add(field).size);
  if (twice === undefined) return fields;
  throw new UserError(`${file}: the header names column "${shown(twice)}" twice`);
}

/** A record that may go on in the next line. */
interface Open extends CsvRecord {
  /** File and line, for messages. */
  place: string;
  /** The last cell, which has not ended. */
  cell: string;
  quoted: boolean;
  /** Whether any cell was: a record of one empty cell in quotes is none of white space. */
  wasQuoted?: boolean;
  size: number;
  /** What is wrong with one of its lines. */
  error?: UserError;
}

function opened(file: string, number: number): Open {
  return { cells: [], number, place: `${file}:${number}`, cell: "", quoted: false, size: 0 };
}

/** A line takes as much time and memory as so many characters. */
const LINE_COST = 16;

const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** Records of the file, block by block; blank lines between them are skipped. */
async function* csvRecords(file: string, bad: OnBad): AsyncGenerator<CsvRecord[]> {
  let open: Open | undefined;
  let isHeader = true;
  let isCut = false; // whether the first line of a block goes on from the last one
  for await (const block of readBlocks(file, "whole")) {
    if (!open && isBlankBlock(block)) continue;
    const records: CsvRecord[] = [];
    const lines = decodeLines(block, file);
    // The quotes in a line that is not UTF-8 count, or the records after it would be lost, too.
    const texts = lines.every((line) => typeof line === "string")
      ? lines
      : lenient.decode(block.bytes).split("\n");
    for (const [i, line] of lines.entries()) {
      const text = texts[i];
      if (open && !(i === 0 && isCut)) {
        open.cell += "\n";
        open.size += LINE_COST;
      }
      for (let at = 0; at < text.length || (open && at === 0);) {
        if (!open) {
          const rest = at === 0 ? text : text.slice(at);
          if (typeof line === "string" && /^\s*$/.test(rest)) break;
          open = opened(file, block.first + i);
        }
        if (typeof line !== "string") open.error ??= line;
        const end = addLine(open, text, at);
        open.size += end - at;
        at = end;
        if (open.size > MAX_RECORD) throw endless(open, file);
        if (open.quoted) break;
        if (open.error && isHeader) throw open.error; // no other record takes its place
        if (open.error) bad(open.error);
        else if (open.cells.length > 1 || open.cells[0].trim() !== "" || open.wasQuoted) {
          records.push({ cells: open.cells, number: open.number });
          isHeader = false;
        }
        open = undefined;
      }
    }
    isCut = block.isCut;
    yield records;
  }
  if (open) bad(endless(open, file));
}

function endless({ number }: Open, file: string): UserError {
  return new UserError(`${file}:${number}: a quote that opens in this row is never closed`);
}

/**
 * Adds a line to a record, from a place on; afterwards `quoted` says whether the record goes on in the next
 * line.
 *
 * @returns where the record ends, and the next one begins: after a lone carriage return, or after the line
 */
function addLine(record: Open, line: string, from: number): number {
  let at = from;
  let fresh = !record.quoted; // at the beginning of a cell, the only place where a quote opens
  let end = -1; // the first end of a record from here on, if it is not quoted
  while (true) {
    if (fresh && line[at] === '"') {
      record.quoted = true;
      record.wasQuoted = true;
      at++;
    }
    if (record.quoted) {
      const quote = line.indexOf('"', at);
      record.cell += line.slice(at, quote < 0 ? line.length : quote);
      if (quote < 0) return line.length;
      const doubled = line[quote + 1] === '"';
      if (doubled) record.cell += '"';
      else record.quoted = false;
      at = quote + (doubled ? 2 : 1);
      fresh = false;
      continue;
    }
    if (end < at) end = endFrom(line, at);
    const comma = line.indexOf(",", at);
    if (comma < 0 || comma > end) {
      addCell(record, record.cell + line.slice(at, end));
      record.cell = "";
      return Math.min(end + 1, line.length);
    }
    addCell(record, record.cell + line.slice(at, comma));
    record.cell = "";
    at = comma + 1;
    fresh = true;
  }
}

/** No table has so many columns; what is beyond is not kept. */
const MAX_CELLS = 20_000;

function addCell(record: Open, cell: string): void {
  if (record.cells.length < MAX_CELLS) record.cells.push(cell);
  else record.error ??= new UserError(`${record.place}: a row of more than ${MAX_CELLS} cells`);
}

/** The next carriage return, or the end of the line. */
function endFrom(line: string, at: number): number {
  const end = line.indexOf("\r", at);
  return end < 0 ? line.length : end;
}
