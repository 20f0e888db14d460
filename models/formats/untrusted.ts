/**
 * What every reader of other people's files needs: JSON that cannot lie or blow up, and error
 * messages that stay one line whatever the file says.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";

/**
 * Twenty times the longest header of a released model, and enough for 30,000 tensors. Parsed JSON can
 * take sixty times its size in memory.
 */
export const MAX_JSON_BYTES = 1 << 22;

/** Deeper values are nobody's weights, and recursive code would run out of stack on them. */
const MAX_DEPTH = 32;

/**
 * Something from a file, for an error message: on one line, without control characters, of at most
 * 80 characters.
 *
 * @param value a text, shown as it is, or any value that came out of {@link parseJsonObject}
 *
 * @example
 * ```ts
 * import { shown } from "./untrusted.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(shown("encoder.weight"), "encoder.weight");
 * assert.equal(shown("two\nlines"), "two\\u{a}lines");
 * assert.equal(shown([2, -1]), "[2,-1]");
 * ```
 */
export function shown(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value) ?? "nothing";
  const cut = text.length > 80 ? text.slice(0, 79) + "…" : text;
  return cut.replace(/[\p{C}\u2028\u2029]/gu, (c) => `\\u{${c.codePointAt(0)!.toString(16)}}`);
}

/**
 * Reads a JSON object strictly: UTF-8, no key twice in one object (`JSON.parse` would keep the last,
 * other readers the first), no deep nesting.
 *
 * @throws {UserError} it is none of that, or longer than {@link MAX_JSON_BYTES}
 *
 * @example
 * ```ts
 * import { parseJsonObject } from "./untrusted.ts";
 * import assert from "node:assert/strict";
 *
 * const bytes = (text: string) => new TextEncoder().encode(text);
 * assert.deepEqual(parseJsonObject(bytes(`{"a": [1]}`)), { a: [1] });
 * assert.throws(() => parseJsonObject(bytes(`{"a": 1, "a": 2}`)), /a is listed twice/);
 * ```
 */
export function parseJsonObject(bytes: Uint8Array): Record<string, unknown> {
  if (bytes.length > MAX_JSON_BYTES) {
    throw new UserError(`expected at most ${MAX_JSON_BYTES} bytes of JSON, got ${bytes.length}`);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    throw new UserError(`not JSON (${shown((error as Error).message)})`);
  }
  const value = parseJson(text);
  if (!isRecord(value)) throw new UserError("not a JSON object");
  return value;
}

/**
 * Reads JSON of any kind and length as strictly: no key twice in one object, no deep nesting.
 *
 * @throws {UserError} it is none of that
 *
 * @example
 * ```ts
 * import { parseJson } from "./untrusted.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(parseJson("[1]"), [1]);
 * assert.throws(() => parseJson("[".repeat(99) + "]".repeat(99)), /nested too deeply/);
 * ```
 */
export function parseJson(text: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`not JSON (${shown((error as Error).message)})`);
  }
  checkKeys(text);
  return value;
}

/** True for a JSON object. */
export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Walks over JSON that is known to be valid; refuses duplicate keys and deep nesting. */
function checkKeys(text: string): void {
  const open: (Set<string> | undefined)[] = []; // the keys of each object around, once it has one
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === "{" || c === "[") {
      if (open.push(undefined) > MAX_DEPTH) throw new UserError("its JSON is nested too deeply");
    } else if (c === "}" || c === "]") open.pop();
    else if (c === '"') {
      const begin = i++;
      while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
      if (!isKey(text, i + 1)) continue;
      const key: string = JSON.parse(text.slice(begin, i + 1));
      const keys = open[open.length - 1] ??= new Set();
      if (keys.has(key)) throw new UserError(`${shown(key)} is listed twice`);
      keys.add(key);
    }
  }
}

/** True if a colon follows, after white space. */
function isKey(text: string, at: number): boolean {
  while (" \t\r\n".includes(text[at])) at++;
  return text[at] === ":";
}
