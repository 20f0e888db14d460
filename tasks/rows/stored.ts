/**
 * Rows as lines of text, with the values that JSON has no words for: dates and times, decimals, bytes, numbers
 * that are not finite, dicts with keys that are not texts.
 *
 * Such a value is an object with the one key `$`: `{"$":["decimal","110",2]}`. An object of the data that has
 * this key alone is written as `{"$":["dict",{…}]}`.
 *
 * @module
 */
import { parsePythonJson } from "../files/json.ts";
import { PyBytes } from "../jinja/bytes.ts";
import { PyDecimal } from "../jinja/decimal.ts";
import { PyDate, PyDateTime, PyDuration, PyTime } from "../jinja/moments.ts";
import { PyObject } from "../jinja/values.ts";
import { Float, numberOf, rawJson, type Row } from "./row.ts";
import { Unusable } from "./unusable.ts";

/** What a value is made from: its kind, and arguments that JSON can hold. */
type Recipe = readonly [kind: string, ...args: unknown[]];

/** By kind, what makes a value; the values do not tell what they were made from. */
const KINDS: Readonly<Record<string, (...args: never[]) => unknown>> = {
  float: (text: string) => Number(text),
  date: (days: number) => new PyDate(days),
  time: (microseconds: number) => new PyTime(microseconds),
  moment: (microseconds: string, zone: string | null, nanosecond: number) =>
    new PyDateTime(BigInt(microseconds), { zone: zone ?? undefined, nanosecond }),
  duration: (microseconds: string) => new PyDuration(BigInt(microseconds)),
  decimal: (digits: string, scale: number) => new PyDecimal(BigInt(digits), scale),
  bytes: (base64: string) => new PyBytes(Uint8Array.fromBase64(base64)),
  unusable: (reason: string) => new Unusable(reason),
  map: (entries: [unknown, unknown][]) =>
    new Map(entries.map(([key, value]) => [decoded(key), decoded(value)])),
  dict: (inside: Record<string, unknown>) => decodedFields(inside),
};

const recipes = new WeakMap<object, Recipe>();

/**
 * Makes a value that {@link rowText} can write.
 *
 * @example
 * ```ts
 * import { made } from "./stored.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(String((made("decimal", "110", 2) as { text(): string }).text()), "1.10");
 * ```
 */
export function made(kind: keyof typeof KINDS, ...args: unknown[]): unknown {
  const value = KINDS[kind](...args as never[]);
  if (value instanceof PyObject) recipes.set(value, [kind, ...args]);
  return value;
}

/**
 * A row as one line of JSON, the same text for the same values.
 *
 * @example
 * ```ts
 * import { readRowText, rowText } from "./stored.ts";
 * import assert from "node:assert/strict";
 *
 * const row = { id: 1, score: NaN };
 * assert.equal(rowText(row), '{"id":1,"score":{"$":["float","NaN"]}}');
 * assert.deepEqual(readRowText(rowText(row)), row);
 * ```
 */
export function rowText(row: Row): string {
  return JSON.stringify(encodedFields(row));
}

/**
 * The row that {@link rowText} has written.
 *
 * @throws {SyntaxError} it is none
 */
export function readRowText(text: string): Row {
  const value = parsePythonJson(text, numberOf) as Row;
  return text.includes('{"$":[') ? decodedFields(value) : value;
}

function encoded(value: unknown): unknown {
  if (typeof value === "number") {
    return Number.isFinite(value) ? value : { $: ["float", String(value)] };
  }
  if (typeof value === "bigint") return rawJson(String(value));
  if (typeof value !== "object" || value === null || value instanceof Float) return value;
  if (Array.isArray(value)) return value.map(encoded);
  const recipe = recipes.get(value);
  if (recipe) return { $: recipe };
  if (value instanceof Map) {
    return { $: ["map", Array.from(value, ([key, item]) => [encoded(key), encoded(item)])] };
  }
  const fields = encodedFields(value as Row);
  return isMarked(value as Row) ? { $: ["dict", fields] } : fields;
}

function encodedFields(row: Row): Row {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, encoded(value)]));
}

function isMarked(value: Row): boolean {
  const [first, ...others] = Object.keys(value);
  return first === "$" && others.length === 0;
}

function decoded(value: unknown): unknown {
  if (typeof value !== "object" || value === null || value instanceof Float) return value;
  if (Array.isArray(value)) return value.map(decoded);
  if (!isMarked(value as Row)) return decodedFields(value as Row);
  const [kind, ...args] = (value as { $: Recipe }).$;
  return made(kind, ...args);
}

function decodedFields(row: Row): Row {
  return Object.fromEntries(Object.entries(row).map(([name, value]) => [name, decoded(value)]));
}
