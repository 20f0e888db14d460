/**
 * Methods of Python's strings.
 *
 * @module
 */
import { PyBytes } from "./bytes.ts";
import { formatText } from "./format.ts";
import { spend } from "./limits.ts";
import { plainText } from "./markup.ts";
import { type Method, method, optionalInteger } from "./method.ts";
import { iterate } from "./python.ts";
import {
  capitalize,
  CHARACTER_KINDS,
  countPoints,
  expandTabs,
  find,
  isInCase,
  isTitle,
  justify,
  partition,
  replace,
  slicePoints,
  split,
  splitFromEnd,
  splitLines,
  strip,
  stripEnd,
  stripStart,
  swapCase,
  titleWords,
  zeroFill,
} from "./text.ts";
import { JinjaError, Tuple, typeName } from "./values.ts";

type Args = readonly unknown[];

/** The methods by name. */
export const STRING_METHODS: ReadonlyMap<string, Method<string>> = new Map<
  string,
  Method<string>
>([
  ["capitalize", method([0, 0], capitalize)],
  ["casefold", method([0, 0], caseFold)],
  ["center", method([1, 2], (text, args) => justified(text, args, "center"))],
  ["count", method([1, 3], count)],
  ["encode", method([0, 2], encode, ["encoding", "errors"])],
  ["endswith", method([1, 3], (text, args) => hasAffix(text, args, "endsWith"))],
  [
    "expandtabs",
    method([0, 1], (text, [size]) => expandTabs(text, optionalInteger(size) ?? 8), ["tabsize"]),
  ],
  ["find", method([1, 3], (text, args) => findIn(text, args))],
  ["format", { run: (text, args, named = {}) => formatText(text, args, named) }],
  ["index", method([1, 3], (text, args) => found(findIn(text, args)))],
  ["islower", method([0, 0], (text) => isInCase(text, false))],
  ["istitle", method([0, 0], isTitle)],
  ["isupper", method([0, 0], (text) => isInCase(text, true))],
  ["join", method([1, 1], (text, [items]) => joinTexts(text, iterate(items)))],
  ["ljust", method([1, 2], (text, args) => justified(text, args, "left"))],
  ["lower", method([0, 0], (text) => text.toLowerCase())],
  ["lstrip", method([0, 1], (text, [characters]) => stripStart(text, optional(characters)))],
  ["partition", method([1, 1], (text, args) => Tuple.from(partitioned(text, args, false)))],
  ["removeprefix", method([1, 1], (text, [start]) => withoutAffix(text, start, true))],
  ["removesuffix", method([1, 1], (text, [end]) => withoutAffix(text, end, false))],
  [
    "replace",
    method(
      [2, 3],
      (text, [old, by, limit]) =>
        replace(text, textOf(old), textOf(by), optionalInteger(limit) ?? -1),
    ),
  ],
  ["rfind", method([1, 3], (text, args) => findIn(text, args, true))],
  ["rindex", method([1, 3], (text, args) => found(findIn(text, args, true)))],
  ["rjust", method([1, 2], (text, args) => justified(text, args, "right"))],
  ["rpartition", method([1, 1], (text, args) => Tuple.from(partitioned(text, args, true)))],
  [
    "rsplit",
    method([0, 2], (text, args) => splitText(text, args, splitFromEnd), ["sep", "maxsplit"]),
  ],
  ["rstrip", method([0, 1], (text, [characters]) => stripEnd(text, optional(characters)))],
  ["split", method([0, 2], (text, args) => splitText(text, args, split), ["sep", "maxsplit"])],
  [
    "splitlines",
    method([0, 1], (text, [keepEnds]) => splitLines(text, Boolean(keepEnds)), ["keepends"]),
  ],
  ["startswith", method([1, 3], (text, args) => hasAffix(text, args, "startsWith"))],
  ["strip", method([0, 1], (text, [characters]) => strip(text, optional(characters)))],
  ["swapcase", method([0, 0], swapCase)],
  ["title", method([0, 0], titleWords)],
  ["upper", method([0, 0], (text) => text.toUpperCase())],
  [
    "zfill",
    method([1, 1], (text, [width]) => zeroFill(text, optionalInteger(width) ?? 0)),
  ],
  ...Array.from(CHARACTER_KINDS, ([name, isOfKind]) =>
    [
      name,
      method([0, 0], (text: string) => isOfKind(checkedKind(name, text))),
    ] as const),
]);

/** Han characters can be numbers, which no regular expression knows. */
function checkedKind(name: string, text: string): string {
  if (name !== "isnumeric" || !/\p{Script=Han}/u.test(text)) return text;
  throw new JinjaError("TypeError", "str.isnumeric is not supported for Chinese characters");
}

// --- arguments ---

function textOf(value: unknown): string {
  const text = plainText(value);
  if (text !== undefined) return text;
  throw new JinjaError("TypeError", `argument must be str, not ${typeName(value)}`);
}

function optional(value: unknown): string | undefined {
  return value === undefined || value === null ? undefined : textOf(value);
}

/** The part of a text that `start` and `end` leave, with how many code points come before it. */
function within(text: string, start: unknown, end: unknown): [string, number] | undefined {
  if (start === undefined && end === undefined) return [text, 0];
  const length = countPoints(text);
  const place = (bound: number) => bound < 0 ? Math.max(0, bound + length) : bound;
  const first = place(optionalInteger(start) ?? 0);
  const last = Math.min(place(optionalInteger(end) ?? length), length);
  return first > last ? undefined : [slicePoints(text, first, last), first];
}

// --- what methods do ---

function caseFold(text: string): string {
  if (/^[\0-\x7f]*$/.test(text)) return text.toLowerCase();
  throw new JinjaError("TypeError", "str.casefold is not supported beyond ASCII: use lower");
}

function encode(text: string, [encoding = "utf-8"]: Args): PyBytes {
  if (!["utf-8", "utf8"].includes(String(encoding).toLowerCase().replace("_", "-"))) {
    throw new JinjaError("ValueError", `encode: only utf-8 is supported, not ${encoding}`);
  }
  spend(text.length);
  return new PyBytes(new TextEncoder().encode(text));
}

function count(text: string, [part, start, end]: Args): number {
  const wanted = textOf(part), place = within(text, start, end);
  if (!place) return 0;
  if (wanted === "") return countPoints(place[0]) + 1;
  spend(text.length >> 3);
  let count = 0;
  for (let at = place[0].indexOf(wanted); at >= 0; count++) {
    at = place[0].indexOf(wanted, at + wanted.length);
  }
  spend(count);
  return count;
}

function findIn(text: string, [part, start, end]: Args, last = false): number {
  const wanted = textOf(part), place = within(text, start, end);
  if (!place) return -1;
  const [inside, before] = place;
  const at = last ? lastIndex(inside, wanted) : find(inside, wanted);
  return at < 0 ? -1 : at + before;
}

function lastIndex(text: string, part: string): number {
  const at = text.lastIndexOf(part);
  return at <= 0 ? at : countPoints(text.slice(0, at));
}

function found(index: number): number {
  if (index < 0) throw new JinjaError("ValueError", "substring not found");
  return index;
}

function hasAffix(
  text: string,
  [affix, start, end]: Args,
  test: "startsWith" | "endsWith",
): boolean {
  const wanted = affix instanceof Tuple ? affix.map(textOf) : [textOf(affix)];
  const place = within(text, start, end);
  return place !== undefined && wanted.some((each) => place[0][test](each));
}

function withoutAffix(text: string, affix: unknown, atStart: boolean): string {
  const wanted = textOf(affix);
  if (wanted === "") return text;
  if (atStart) return text.startsWith(wanted) ? text.slice(wanted.length) : text;
  return text.endsWith(wanted) ? text.slice(0, -wanted.length) : text;
}

function justified(
  text: string,
  [width, fill]: Args,
  where: "left" | "right" | "center",
): string {
  const character = fill === undefined ? " " : textOf(fill);
  if (countPoints(character) !== 1) {
    throw new JinjaError("TypeError", "The fill character must be exactly one character long");
  }
  return justify(text, optionalInteger(width) ?? 0, character, where);
}

function joinTexts(separator: string, items: readonly unknown[]): string {
  const wrong = items.findIndex((item) => plainText(item) === undefined);
  if (wrong < 0) {
    const texts = items.map((item) => plainText(item)!);
    spend(texts.reduce((sum, text) => sum + text.length + separator.length, 0));
    return texts.join(separator);
  }
  const kind = typeName(items[wrong]);
  throw new JinjaError("TypeError", `sequence item ${wrong}: expected str instance, ${kind} found`);
}

function splitText(text: string, [separator, limit]: Args, cut: typeof split): string[] {
  const at = optional(separator);
  if (at === "") throw new JinjaError("ValueError", "empty separator");
  spend(2 * text.length);
  return cut(text, at, optionalInteger(limit));
}

function partitioned(text: string, [separator]: Args, fromEnd: boolean): string[] {
  const at = textOf(separator);
  if (at === "") throw new JinjaError("ValueError", "empty separator");
  return partition(text, at, fromEnd);
}
