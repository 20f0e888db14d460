/**
 * Checks METRO's tokenizers against ids of the reference: every line's pre-tokenised text and ids.
 *
 * A file has a JSON object per line: `text`, and any of `pretokenized`, `pretokenized_lower` (the words
 * that go into SentencePiece), `ids_32k_lower`, `ids_64k`, `ids_64k_lower` (what comes out of it).
 *
 * @module
 */
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { readJsonLines } from "../files/json.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { metroText } from "../tokenizer/metro_text.ts";
import { readSentencePieceJson } from "../tokenizer/sentencepiece_json.ts";
import type { ScoredPiece } from "../tokenizer/unigram.ts";

/** What is compared, by name in the file. */
export const TOKENIZER_COLUMNS = [
  "pretokenized",
  "pretokenized_lower",
  "ids_32k_lower",
  "ids_64k",
  "ids_64k_lower",
] as const;

/** What is compared. */
export type TokenizerColumn = typeof TOKENIZER_COLUMNS[number];

/** A line that came out otherwise, and is no tie. */
export interface TokenizerDifference {
  /** The line's number in the file, from 1. */
  line: number;
  /** What differs. */
  column: TokenizerColumn;
  /** What the file says. */
  expected: string;
  /** What came out here. */
  got: string;
}

/** How the lines of a column came out. */
export interface TokenizerCounts {
  /** Lines that have the column. */
  compared: number;
  /** Lines that are equal. */
  equal: number;
  /** Lines whose ids differ, but spell the same pieces of text with the same log-probability. */
  ties: number;
}

/** A file, compared. */
export interface TokenizerReport {
  /** The file. */
  file: string;
  /** The counts, by column. */
  columns: Readonly<Record<TokenizerColumn, TokenizerCounts>>;
  /** The first differences. */
  differences: readonly TokenizerDifference[];
}

/** As many differences as a report keeps. */
const KEPT = 20;
/** Half the distance of 1 to the next float32. */
const ROUNDING = 2 ** -24;

type Line = { text: string } & { [column in TokenizerColumn]?: string | number[] };

/**
 * Tokenises every line of a file and compares.
 *
 * @param vocabDir folder with `vocab_32k` and `vocab_64k`, each with `sp.model` and `dict.txt`; only
 * those that the file has ids of need to be there
 * @throws {UserError} a file that is missing or broken
 *
 * @example
 * ```ts ignore
 * import { tokenizerReportLines, verifyTokenizer } from "./tokenizer.ts";
 *
 * const report = await verifyTokenizer("golden/tokenizer/metro.jsonl", "metro_vocab");
 * console.log(tokenizerReportLines(report).join("\n"));
 * ```
 */
export async function verifyTokenizer(file: string, vocabDir: string): Promise<TokenizerReport> {
  const lines = await readLines(file);
  const columns = {} as Record<TokenizerColumn, TokenizerCounts>;
  const differences: TokenizerDifference[] = [];
  for (const column of TOKENIZER_COLUMNS) {
    const counts = columns[column] = { compared: 0, equal: 0, ties: 0 };
    const given = lines.filter(([, line]) => line[column] !== undefined);
    if (given.length === 0) continue;
    const compare = comparison(column, vocabDir);
    for (const [number, line] of given) {
      counts.compared++;
      const { verdict, got } = compare(line.text, line[column]!);
      if (verdict === "equal") counts.equal++;
      else if (verdict === "tie") counts.ties++;
      else if (differences.length < KEPT) {
        differences.push({ line: number, column, expected: String(line[column]), got });
      }
    }
  }
  return { file, columns, differences };
}

/**
 * How many lines are wrong, over all columns.
 *
 * @example
 * ```ts
 * import { TOKENIZER_COLUMNS, tokenizerFailures, type TokenizerReport } from "./tokenizer.ts";
 * import assert from "node:assert/strict";
 *
 * const counts = { compared: 5, equal: 3, ties: 1 };
 * const columns = Object.fromEntries(TOKENIZER_COLUMNS.map((column) => [column, counts]));
 * const report = { file: "a", columns, differences: [] } as unknown as TokenizerReport;
 * assert.equal(tokenizerFailures(report), 5);
 * ```
 */
export function tokenizerFailures({ columns }: TokenizerReport): number {
  return Object.values(columns).reduce((sum, counts) => sum + wrong(counts), 0);
}

/** The report as a table, the first differences, and a verdict. */
export function tokenizerReportLines(report: TokenizerReport): string[] {
  const { file, columns, differences } = report;
  const failures = tokenizerFailures(report);
  const row = (name: string, cells: unknown[]) =>
    `  ${name.padEnd(20)}${cells.map((cell) => String(cell).padStart(8)).join("  ")}`;
  const given = TOKENIZER_COLUMNS.filter((column) => columns[column].compared > 0);
  const rows = given.map((column) => {
    const { compared, equal, ties } = columns[column];
    return row(column, [compared, equal, ties, wrong(columns[column])]);
  });
  return [
    row("column", ["lines", "equal", "ties", "wrong"]),
    ...rows,
    ...differences.flatMap(differenceLines),
    failures === 0 ? `ok   ${file}` : `FAIL ${file}: ${failures} wrong`,
  ];
}

function wrong({ compared, equal, ties }: TokenizerCounts): number {
  return compared - equal - ties;
}

function differenceLines({ line, column, expected, got }: TokenizerDifference): string[] {
  let same = 0;
  while (same < expected.length && expected[same] === got[same]) same++;
  const from = Math.max(0, same - 30);
  const around = (text: string) => (from > 0 ? "…" : "") + text.slice(from, same + 50);
  return [
    `  line ${line}, ${column}:`,
    `    expected ${JSON.stringify(around(expected))}`,
    `    got      ${JSON.stringify(around(got))}`,
  ];
}

type Compare = (text: string, expected: string | number[]) => {
  verdict: "equal" | "tie" | "wrong";
  got: string;
};

/** What a column's name says: which vocabulary, and whether text is lower-cased. */
function comparison(column: TokenizerColumn, vocabDir: string): Compare {
  const lower = column.endsWith("_lower");
  if (column.startsWith("pretokenized")) {
    return (text, expected) => {
      const got = metroText(text, lower);
      return { verdict: got === expected ? "equal" : "wrong", got };
    };
  }
  const file = join(vocabDir, `vocab_${column.split("_")[1]}`, "sp.model");
  const tokenizer = new Tokenizer(readSentencePieceJson(file, lower));
  return (text, expected) => {
    const ids = [...tokenizer.encode(text)], got = String(ids);
    if (got === String(expected)) return { verdict: "equal", got };
    return { verdict: isTie(tokenizer, ids, expected as number[]) ? "tie" : "wrong", got };
  };
}

/**
 * Whether two segmentations spell one text with one log-probability, but for what adding its scores
 * in float32 may round. Unknown pieces prove nothing: their text is not known.
 */
function isTie({ json, unk }: Tokenizer, a: readonly number[], b: readonly number[]): boolean {
  const vocab = json.model.vocab as ScoredPiece[];
  if ([...a, ...b].some((id) => id === unk || !vocab[id])) return false;
  const spell = (ids: readonly number[]) => ids.map((id) => vocab[id][0]).join("");
  const score = (ids: readonly number[]) => ids.reduce((sum, id) => sum + vocab[id][1], 0);
  const tolerance = (a.length + b.length) * ROUNDING * Math.abs(score(a));
  return spell(a) === spell(b) && Math.abs(score(a) - score(b)) <= tolerance;
}

// --- files ---

async function readLines(file: string): Promise<[number: number, line: Line][]> {
  const parsed = (await readJsonLines(file)).map(([number, line]) => {
    if (isLine(line)) return [number, line] as [number, Line];
    throw new UserError(`${file}:${number}: expected text, and texts or ids to compare with`);
  });
  if (parsed.length === 0) throw new UserError(`${file}: holds no lines`);
  return parsed;
}

function isLine(value: unknown): value is Line {
  if (typeof value !== "object" || value === null) return false;
  const line = value as Record<string, unknown>;
  const given = TOKENIZER_COLUMNS.filter((column) => line[column] !== undefined);
  return typeof line.text === "string" && given.length > 0 && given.every((column) => {
    const expected = line[column];
    if (column.startsWith("pretokenized")) return typeof expected === "string";
    return Array.isArray(expected) && expected.every(Number.isSafeInteger);
  });
}
