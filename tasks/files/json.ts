/**
 * JSON from files, as strict as all that reads other people's files: what is wrong with it is the user's
 * to mend, and says where.
 *
 * @module
 */

import { parseJson } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { readText } from "./read.ts";
import { writeFile } from "./write.ts";

/**
 * Reads a JSON file.
 *
 * @throws {UserError} if it cannot be read, or is not JSON
 */
// deno-lint-ignore require-await -- what is wrong is a rejection
export async function readJson(path: string): Promise<unknown> {
  return parseAt(path, readText(path));
}

/**
 * Reads a file with JSON on each line; lines without anything are passed over.
 *
 * @returns the values with the numbers of their lines
 * @throws {UserError} if it cannot be read, or a line is not JSON
 */
// deno-lint-ignore require-await -- as above
export async function readJsonLines(path: string): Promise<[line: number, value: unknown][]> {
  return readText(path).split("\n").flatMap((text, i): [number, unknown][] => {
    return text.trim() === "" ? [] : [[i + 1, parseAt(`${path}:${i + 1}`, text)]];
  });
}

/**
 * Writes a JSON file, for people to read.
 *
 * @throws {UserError} what the file system refuses
 */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, JSON.stringify(value, null, 2) + "\n");
}

/** Deeper values are nobody's data, and Python reads no deeper ones either. */
const MAX_DEPTH = 900;

/**
 * Parses JSON as Python's `json` does: `NaN`, `Infinity` and `-Infinity` are numbers, of two fields with
 * one name the last counts.
 *
 * @param numberOf makes a number of its text; `Number` unless given
 * @throws {SyntaxError} not JSON, or nested too deeply
 *
 * @example
 * ```ts
 * import { parsePythonJson } from "./json.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(parsePythonJson('{"a": NaN, "b": "NaN", "c": [-Infinity]}'), {
 *   a: NaN,
 *   b: "NaN",
 *   c: [-Infinity],
 * });
 * ```
 */
export function parsePythonJson(text: string, numberOf?: (source: string) => unknown): unknown {
  if (isDeep(text)) throw new SyntaxError(`nested in more than ${MAX_DEPTH} brackets`);
  try {
    return numberOf ? parseNumbers(text, numberOf) : JSON.parse(text);
  } catch (error) {
    const { marked, meaning } = markConstants(text);
    if (marked === text) throw error;
    return parseNumbers(
      marked,
      (source) => meaning.has(source) ? meaning.get(source) : (numberOf ?? Number)(source),
    );
  }
}

// In the language, but not yet in TypeScript's library.
const parseWithSource = JSON.parse as (
  text: string,
  reviver: (key: string, value: unknown, context: { source?: string }) => unknown,
) => unknown;

function parseNumbers(text: string, numberOf: (source: string) => unknown): unknown {
  return parseWithSource(
    text,
    (_, value, { source }) =>
      typeof value === "number" && source !== undefined ? numberOf(source) : value,
  );
}

/** Numbers that the text does not hold, in place of the constants that JSON has no words for. */
function markConstants(text: string): { marked: string; meaning: Map<string, number> } {
  let digits = "0";
  while (text.includes(`.${digits}e`)) digits += "0";
  const marks = new Map([
    ["NaN", `0.${digits}e0`],
    ["Infinity", `1.${digits}e0`],
    ["-Infinity", `-1.${digits}e0`],
  ]);
  const token = /"[^"\\]*(?:\\.[^"\\]*)*"|-?\b(?:NaN|Infinity)\b/gs;
  return {
    marked: text.replace(token, (found) => marks.get(found) ?? found),
    meaning: new Map(Array.from(marks, ([name, mark]) => [mark, Number(name)])),
  };
}

/** Few texts have so many brackets that the depth needs to be counted. */
function isDeep(text: string): boolean {
  return (has(text, "]") + has(text, "}")) > MAX_DEPTH && depthOf(text) > MAX_DEPTH;
}

/** How often a text has a character, counted up to the limit. */
function has(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0 && count <= MAX_DEPTH; count++) {
    at = text.indexOf(character, at + 1);
  }
  return count;
}

function depthOf(text: string): number {
  let depth = 0;
  let deepest = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "[" || c === "{") deepest = Math.max(deepest, ++depth);
    else if (c === "]" || c === "}") depth--;
    else if (c === '"') {
      for (i++; i < text.length && text[i] !== '"'; i++) if (text[i] === "\\") i++;
    }
  }
  return deepest;
}

/** `where` is a file, or a line of one. */
export function parseAt(where: string, text: string): unknown {
  try {
    return parseJson(text);
  } catch (error) {
    throw error instanceof UserError ? new UserError(`${where}: ${error.message}`) : error;
  }
}
