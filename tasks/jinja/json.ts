/**
 * Python's `json.dumps`, with sorted keys and in ASCII, as the filter `tojson` has it.
 *
 * @module
 */
import { spend } from "./limits.ts";
import { plainText } from "./markup.ts";
import { floatText, integerText } from "./numbers.ts";
import { compare } from "./python.ts";
import { entriesOf, isDict, isFloat, JinjaError, numeric, typeName } from "./values.ts";

/**
 * A value as JSON.
 *
 * @param indent spaces for each level; everything in one line if there are none
 *
 * @example
 * ```ts
 * import { jsonText } from "./json.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(jsonText({ b: [1, null], a: "é" }), '{"a": "\\u00e9", "b": [1, null]}');
 * ```
 */
export function jsonText(value: unknown, indent?: number): string {
  return write(value, indent, "\n");
}

function write(value: unknown, indent: number | undefined, newline: string): string {
  if (value === null) return "null";
  if (typeof value === "boolean") return String(value);
  const text = plainText(value);
  if (text !== undefined) return quoted(text);
  const number = numeric(value);
  if (number !== undefined) return isFloat(value) ? floatJson(Number(number)) : integerText(number);
  const isList = Array.isArray(value);
  if (!isList && !isDict(value)) {
    const kind = typeName(value);
    throw new JinjaError("TypeError", `Object of type ${kind} is not JSON serializable`);
  }
  const [begin, end] = isList ? "[]" : "{}";
  const deeper = newline + " ".repeat(Math.max(0, indent ?? 0));
  const parts = isList
    ? value.map((item) => write(item, indent, deeper))
    : entriesOf(value).sort(([a], [b]) => compare(a, b))
      .map(([key, item]) => `${quoted(keyText(key))}: ${write(item, indent, deeper)}`);
  if (parts.length === 0) return begin + end;
  const body = indent === undefined
    ? parts.join(", ")
    : `${deeper}${parts.join("," + deeper)}${newline}`;
  spend(body.length + 8);
  return begin + body + end;
}

function keyText(key: unknown): string {
  const text = plainText(key);
  if (text !== undefined) return text;
  if (key === null || typeof key === "boolean") return String(key);
  const number = numeric(key);
  if (number !== undefined) return isFloat(key) ? floatJson(Number(number)) : integerText(number);
  throw new JinjaError(
    "TypeError",
    `keys must be str, int, float, bool or None, not ${typeName(key)}`,
  );
}

function floatJson(value: number): string {
  if (Number.isNaN(value)) return "NaN";
  return Number.isFinite(value) ? floatText(value) : value > 0 ? "Infinity" : "-Infinity";
}

function quoted(text: string): string {
  spend(text.length);
  return JSON.stringify(text.toWellFormed() === text ? text : text)
    .replace(/[\x7f-\uffff]/g, (unit) => "\\u" + unit.charCodeAt(0).toString(16).padStart(4, "0"))
    .replaceAll("\\u007f", "\x7f");
}
