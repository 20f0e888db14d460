/**
 * Filters of texts.
 *
 * @module
 */
import { PyBytes } from "./bytes.ts";
import { type Filter, filter } from "./filter.ts";
import { jsonText } from "./json.ts";
import { spend, spendSteps } from "./limits.ts";
import { escaped, Markup, plainText } from "./markup.ts";
import { optionalInteger } from "./method.ts";
import { printf } from "./printf.ts";
import { compare, iterate, lengthOf, repr, str, truthy } from "./python.ts";
import {
  capitalize,
  countPoints,
  justify,
  replace,
  SPACE,
  split,
  splitLines,
  strip,
  titleAtSpaces,
  truncate,
} from "./text.ts";
import { PyDict } from "./dict.ts";
import { entriesOf, isDict, JinjaError, type Named, numeric, Tuple, typeName } from "./values.ts";
import { wrapped } from "./wrap.ts";

type Args = readonly unknown[];

/** The filters by name. */
export const TEXT_FILTERS: readonly (readonly [string, Filter])[] = [
  ["capitalize", soft([], capitalize)],
  ["center", soft(["width"], (text, [width = 80]) => centered(text, width))],
  ["e", filter([], escape)],
  ["escape", filter([], escape)],
  ["forceescape", filter([], (value) => new Markup(escaped(str(value))))],
  ["format", { run: (value, args, _, named) => format(value, args, named) }],
  ["indent", marked(["width", "first", "blank"], indent)],
  ["lower", soft([], (text) => text.toLowerCase())],
  ["pprint", filter([], prettyRepr)],
  ["replace", filter(["old", "new", "count"], replaceAll, 2)],
  ["safe", filter([], (value) => value instanceof Markup ? value : new Markup(str(value)))],
  ["string", filter([], (value) => value instanceof Markup ? value : str(value))],
  ["striptags", filter([], (value) => withoutTags(str(value)))],
  ["title", filter([], (value) => titleAtSpaces(str(value)))],
  ["tojson", filter(["indent"], toJson)],
  ["trim", soft(["chars"], (text, [chars]) => strip(text, optionalText(chars)))],
  ["truncate", filter(["length", "killwords", "end", "leeway"], truncated)],
  ["upper", soft([], (text) => text.toUpperCase())],
  ["urlencode", filter([], urlEncode)],
  ["wordcount", filter([], (value) => wordCount(str(value)))],
  ["wordwrap", filter(["width", "break_long_words", "wrapstring", "break_on_hyphens"], wordWrap)],
  ["xmlattr", filter(["autospace"], xmlAttributes)],
];

/** A filter that leaves text that is marked safe marked. */
function soft(parameters: readonly string[], run: (text: string, args: Args) => string): Filter {
  return marked(parameters, (value, args) => run(str(value), args));
}

function marked(
  parameters: readonly string[],
  run: (value: unknown, args: Args) => string,
): Filter {
  return filter(parameters, (value, args) => {
    const text = run(value, args);
    return value instanceof Markup ? new Markup(text) : text;
  });
}

function wordCount(text: string): number {
  spend(text.length);
  let count = 0;
  for (const _ of text.matchAll(/[\p{L}\p{N}_]+/gu)) count++;
  return count;
}

function escape(value: unknown): Markup {
  return value instanceof Markup ? value : new Markup(escaped(str(value)));
}

function centered(text: string, width: unknown): string {
  return justify(text, optionalInteger(width) ?? 0, " ", "center");
}

function format(value: unknown, args: Args, named: Named): string {
  const byName = Object.entries(named);
  if (args.length > 0 && byName.length > 0) {
    throw new JinjaError(
      "FilterArgumentError",
      "can't handle positional and keyword arguments at the same time",
    );
  }
  if (value instanceof Markup) {
    throw new JinjaError("TypeError", "format of a text that is marked safe is not supported");
  }
  return printf(str(value), byName.length > 0 ? PyDict.of(byName) : Tuple.from(args));
}

/** These two know no other values. */
function onlyText(name: string, value: unknown): string {
  const text = plainText(value);
  if (text !== undefined) return text;
  const kind = value === undefined ? "UndefinedError" : "TypeError";
  throw new JinjaError(kind, `${name}: expected a text, got ${typeName(value)}`);
}

function indent(value: unknown, [width = 4, first, blank]: Args): string {
  const text = onlyText("indent", value);
  const before = plainText(width) ?? " ".repeat(spaces(width));
  const lines = splitLines(text + "\n");
  spend(lines.length * before.length + text.length);
  const [start, ...rest] = lines.map((line, i) =>
    i > 0 && (line !== "" || truthy(blank)) ? before + line : line
  );
  return (truthy(first) ? before : "") + [start, ...rest].join("\n");
}

function spaces(width: unknown): number {
  const count = Math.max(0, optionalInteger(width) ?? 0);
  spend(count);
  return count;
}

function replaceAll(value: unknown, [old, by, count]: Args): string {
  return replace(str(value), str(old), str(by), optionalInteger(count) ?? -1);
}

function truncated(
  value: unknown,
  [length = 255, killWords, end = "...", leeway = 5]: Args,
): unknown {
  const most = numeric(length), slack = leeway === null ? 5 : numeric(leeway);
  if (most === undefined || slack === undefined) {
    throw new JinjaError("TypeError", "truncate: expected numbers as length and leeway");
  }
  if (most < str(end).length) throw new JinjaError("AssertionError", "expected a longer length");
  if (slack < 0) throw new JinjaError("AssertionError", "expected a leeway of 0 or more");
  const options = { killWords: truthy(killWords), end: str(end), leeway: Number(slack) };
  if (typeof value === "string") return truncate(value, Number(most), options);
  if (value instanceof Markup) {
    if (countPoints(value.value) <= Number(most) + options.leeway) return value;
    throw new JinjaError("TypeError", "truncate of a text that is marked safe is not supported");
  }
  if (lengthOf(value) <= Number(most) + Number(slack)) return value;
  throw new JinjaError("TypeError", `truncate: expected a text, got ${typeName(value)}`);
}

function optionalText(value: unknown): string | undefined {
  const text = plainText(value);
  if (text !== undefined) return text;
  if (value === undefined || value === null) return undefined;
  throw new JinjaError("TypeError", `strip arg must be None or str, not ${typeName(value)}`);
}

function toJson(value: unknown, [indent]: Args): Markup {
  const text = jsonText(value, indent === null ? undefined : optionalInteger(indent));
  return new Markup(text.replace(/[<>&']/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`));
}

// --- pprint ---

const WIDTH = 80;

/** `pprint.pformat` of what fits one line. */
function prettyRepr(value: unknown): string {
  const text = repr(withSortedKeys(value));
  const isLong = text.length > WIDTH && countPoints(text) > WIDTH;
  if (!isLong || !(plainText(value) !== undefined || Array.isArray(value) || isDict(value))) {
    return text;
  }
  throw new JinjaError("TypeError", `pprint is only supported for up to ${WIDTH} characters`);
}

function withSortedKeys(value: unknown): unknown {
  spendSteps(4);
  if (value instanceof Tuple || Array.isArray(value)) return value.map(withSortedKeys);
  if (!isDict(value)) return value;
  const entries = entriesOf(value).sort(([a], [b]) => compare(a, b));
  return PyDict.of(entries.map(([key, item]) => [key, withSortedKeys(item)]));
}

// --- HTML and addresses ---

const ENTITIES: Readonly<Record<string, string>> = {
  ...{ amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0" },
};

/** Takes out comments and tags, and reads entities. */
function withoutTags(text: string): string {
  const bare = without(without(text, "<!--", "-->"), "<", ">");
  const words = split(bare).join(" ");
  return words.replace(/&(?:#(\d+|x[\da-f]+)|(\w+));?/gi, (entity, code, name) => {
    if (code !== undefined) return character(Number(/^x/i.test(code) ? "0" + code : code));
    if (Object.hasOwn(ENTITIES, name) && entity.endsWith(";")) return ENTITIES[name];
    throw new JinjaError("TypeError", `striptags: the entity ${entity} is not supported`);
  });
}

function character(code: number): string {
  const isPlain = code >= 32 && code < 127 || code >= 0xa0 && code < 0xd800;
  if (isPlain || code === 9 || code === 10) return String.fromCodePoint(code);
  throw new JinjaError("TypeError", `striptags: the entity &#${code}; is not supported`);
}

/** A text without what lies between two marks; what is never closed stays. */
function without(text: string, begin: string, end: string): string {
  const kept: string[] = [];
  let at = 0;
  for (;;) {
    const start = text.indexOf(begin, at);
    const stop = start < 0 ? -1 : text.indexOf(end, start);
    if (stop < 0) return kept.join("") + text.slice(at);
    kept.push(text.slice(at, start));
    at = stop + end.length;
  }
}

function urlEncode(value: unknown): string {
  if (plainText(value) !== undefined || value instanceof PyBytes) return quoted(value);
  const isList = Array.isArray(value) || isDict(value) || typeName(value) === "generator" ||
    value === undefined || /^(dict_|zip)/.test(typeName(value));
  if (!isList) return quoted(value);
  const pairs = isDict(value) ? entriesOf(value) : iterate(value).map((pair) => iterate(pair));
  return pairs.map((pair) => {
    if (pair.length !== 2) {
      throw new JinjaError("ValueError", "urlencode: expected pairs of a name and a value");
    }
    return pair.map((part) => quoted(part, "").replaceAll("%20", "+")).join("=");
  }).join("&");
}

function quoted(value: unknown, safe = "/"): string {
  const bytes = value instanceof PyBytes
    ? value.value
    : new TextEncoder().encode(str(value).toWellFormed() === str(value) ? str(value) : wrong());
  spend(bytes.length * 3);
  let text = "";
  for (const byte of bytes) {
    const letter = String.fromCharCode(byte);
    text += byte < 128 && (/[\w.~-]/.test(letter) || safe.includes(letter))
      ? letter
      : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  return text;
}

function wrong(): never {
  throw new JinjaError("ValueError", "half a surrogate pair has no bytes");
}

const NOT_A_NAME = new RegExp(`[${SPACE}/>=]`);

function xmlAttributes(value: unknown, [autospace = true]: Args): string {
  if (!isDict(value)) {
    throw new JinjaError("TypeError", `xmlattr: expected a dict, got ${typeName(value)}`);
  }
  const parts = entriesOf(value).filter(([, item]) => item !== null && item !== undefined)
    .map(([key, item]) => {
      const name = str(key);
      if (NOT_A_NAME.test(name)) {
        throw new JinjaError("ValueError", `Invalid character in attribute name: ${repr(name)}`);
      }
      return `${escape(key).value}="${escape(item).value}"`;
    });
  spend(parts.reduce((sum, part) => sum + part.length + 1, 0));
  return (truthy(autospace) && parts.length > 0 ? " " : "") + parts.join(" ");
}

// --- lines ---

function wordWrap(
  value: unknown,
  [width = 79, breakLong = true, between, onHyphens = true]: Args,
): string {
  const newline = between === undefined || between === null ? "\n" : str(between);
  const size = numeric(width);
  if (size === undefined) throw new JinjaError("TypeError", "wordwrap: expected a number as width");
  if (size <= 0) throw new JinjaError("ValueError", `invalid width ${size} (must be > 0)`);
  const options = { breakLong: truthy(breakLong), onHyphens: truthy(onHyphens) };
  const lines = splitLines(onlyText("wordwrap", value)).map((line) =>
    wrapped(line, Number(size), options)
  );
  spend(lines.reduce((sum, parts) => sum + parts.length * newline.length, 0));
  return lines.map((parts) => parts.join(newline)).join(newline);
}
