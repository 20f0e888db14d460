/**
 * One row of a dataset as plain data, whatever file it came from: what a template sees.
 *
 * @module
 */
import { parsePythonJson } from "../files/json.ts";
import { PyFloat } from "../jinja/values.ts";
import { UserError } from "../../ops/graph/errors.ts";

/**
 * One row in the Hub's field names. Values are strings, numbers, booleans, null, {@link Float},
 * arrays, and objects of these; an integer beyond ±(2⁵³ − 1) is a `bigint`. From Parquet also dates, times,
 * decimals, bytes and maps. Never `undefined`.
 */
export type Row = Readonly<Record<string, unknown>>;

/**
 * A whole number that the data holds as a float, such as `1.0`: Python prints and compares it by its
 * type, which a JavaScript number does not keep. Floats that are not whole are plain numbers.
 *
 * @example
 * ```ts
 * import { Float } from "./row.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(Number(new Float(2)), 2);
 * assert.equal(JSON.stringify({ score: new Float(2) }), '{"score":2.0}');
 * ```
 */
export class Float extends PyFloat {
  /** The number, for arithmetic and comparisons. */
  override valueOf(): number {
    return this.value;
  }

  /** What `JSON.stringify` writes: `1.0`, so that it is a float again when it is read. */
  toJSON(): unknown {
    const digits = Object.is(this.value, -0) ? "-0" : String(this.value);
    return rawJson(/e/.test(digits) ? digits : `${digits}.0`);
  }
}

/** A float of a column or file: {@link Float} if it is whole. */
export function float(value: number): number | Float {
  return Number.isInteger(value) ? new Float(value) : value;
}

/** An integer of any size: a number where that is exact. */
export function integer(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** A number as its text. In the language, but not yet in TypeScript's library. */
export const rawJson = (JSON as unknown as { rawJSON(text: string): unknown }).rawJSON;
/**
 * A number that `JSON.parse` alone would change: a float that is whole (`1.0`, `1e3`), or 16 digits
 * and more. That the same can stand inside a string costs time, not truth.
 */
const SPECIAL = /[:\[,]\s*-?(?:\d+(?:\.0+|(?:\.\d+)?[eE][-+]?\d+)|\d{16,})\s*[,\]}]/;

/**
 * Parses JSON as Python does: floats stay floats and long integers keep their digits, see {@link Row}.
 *
 * @throws {SyntaxError} not JSON
 *
 * @example
 * ```ts
 * import { Float, parseJson } from "./row.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(parseJson("[1, 1.0, 0.5]"), [1, new Float(1), 0.5]);
 * ```
 */
export function parseJson(text: string): unknown {
  return parsePythonJson(text, SPECIAL.test(text) ? numberOf : undefined);
}

/** A number as Python's `json` reads it. */
export function numberOf(source: string): unknown {
  if (/[.eE]/.test(source)) return float(Number(source));
  const value = Number(source);
  return Number.isSafeInteger(value) ? value : BigInt(source);
}

/** Of a row; more are nobody's, and take long. */
const MAX_FIELDS = 20_000;

/**
 * Parses the JSON of one row and gives its fields the Hub's names.
 *
 * @param place file and line, for the message
 * @throws {UserError} not JSON, or not an object
 */
export function parseRow(text: string, place: string): Row {
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    throw new UserError(oneLine(`${place}: not JSON: ${(error as Error).message}`));
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const { length } = Object.keys(value);
    if (length <= MAX_FIELDS) return withHubNames(value as Row);
    throw new UserError(`${place}: expected at most ${MAX_FIELDS} fields, got ${length}`);
  }
  const kind = value === null ? "null" : Array.isArray(value) ? "an array" : `a ${typeof value}`;
  throw new UserError(`${place}: expected a row as an object {"field": value}, got ${kind}`);
}

/** Messages of the JSON parser quote the text, line ends included. */
export function oneLine(message: string): string {
  return message.replace(/\s+/g, " ");
}

/** The names in the StoryCloze CSV files, and those that its dataset on the Hub has. */
const STORY_CLOZE: ReadonlyMap<string, string> = new Map([
  ["InputStoryid", "story_id"],
  ["InputSentence1", "input_sentence_1"],
  ["InputSentence2", "input_sentence_2"],
  ["InputSentence3", "input_sentence_3"],
  ["InputSentence4", "input_sentence_4"],
  ["RandomFifthSentenceQuiz1", "sentence_quiz1"],
  ["RandomFifthSentenceQuiz2", "sentence_quiz2"],
  ["AnswerRightEnding", "answer_right_ending"],
]);

/**
 * The name under which templates know a field: the Hub's for StoryCloze, and `_` for every `-`, which
 * no template can write.
 *
 * @example
 * ```ts
 * import { hubName } from "./row.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(hubName("label-coarse"), "label_coarse");
 * assert.equal(hubName("InputStoryid"), "story_id");
 * ```
 */
export function hubName(field: string): string {
  return STORY_CLOZE.get(field) ?? field.replaceAll("-", "_");
}

function withHubNames(row: Row): Row {
  for (const field in row) {
    if (!field.includes("-") && !STORY_CLOZE.has(field)) continue;
    return Object.fromEntries(Object.entries(row).map(([name, value]) => [hubName(name), value]));
  }
  return row;
}
