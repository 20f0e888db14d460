/**
 * Python's `str`, on JavaScript strings: counted in code points, with Python's idea of white space
 * and of upper and lower case. Most text needs no conversion for it: an index or slice walks from the
 * nearer end of the string, and only over what it skips.
 *
 * @module
 */

import { spend } from "./limits.ts";

/** Character class of what Python's `str.isspace` accepts; it differs from JavaScript's `\s`. */
export const SPACE =
  "\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${SPACE}]+`);
const WORD_STARTS = new RegExp(`([-${SPACE}({\\[<]+)`, "u");

function isSpace(code: number): boolean {
  if (code < 0x80) return code === 32 || (code >= 9 && code <= 13) || (code >= 28 && code < 32);
  return code === 0x85 || code === 0xa0 ||
    (code >= 0x1680 && SPACES.test(String.fromCharCode(code)));
}

/**
 * `str.strip`, by default of what Python holds for white space: U+0085 and U+001C to U+001F are, and
 * U+FEFF is not.
 *
 * @param characters strip these instead
 *
 * @example
 * ```ts
 * import { strip } from "./text.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(strip("\x85 a \ufeff\n"), "a \ufeff");
 * assert.equal(strip("...a.", "."), "a");
 * ```
 */
export function strip(text: string, characters?: string): string {
  return stripEnd(stripStart(text, characters), characters);
}

/** `str.lstrip`. */
export function stripStart(text: string, characters?: string): string {
  let start = 0;
  if (characters === undefined) {
    while (start < text.length && isSpace(text.charCodeAt(start))) start++;
    spend(start >> 1);
    return text.slice(start);
  }
  const set = new Set(characters);
  while (start < text.length && set.has(pointAt(text, start))) start += pointAt(text, start).length;
  return text.slice(start);
}

/** `str.rstrip`. */
export function stripEnd(text: string, characters?: string): string {
  let end = text.length;
  if (characters === undefined) {
    while (end > 0 && isSpace(text.charCodeAt(end - 1))) end--;
    spend((text.length - end) >> 1);
    return text.slice(0, end);
  }
  const set = new Set(characters);
  while (end > 0) {
    const last = text.slice(before(text, end), end);
    if (!set.has(last)) break;
    end -= last.length;
  }
  return text.slice(0, end);
}

/** `str.split`: at white space if there is no separator. A negative `limit` is none. */
export function split(text: string, separator?: string, limit = -1): string[] {
  if (separator === undefined) return splitAtSpace(text, limit);
  const parts = text.split(separator);
  if (limit < 0 || parts.length <= limit + 1) return parts;
  return [...parts.slice(0, limit), parts.slice(limit).join(separator)];
}

function splitAtSpace(text: string, limit: number): string[] {
  let rest = stripStart(text);
  if (limit < 0) return rest === "" ? [] : stripEnd(rest).split(SPACES);
  const parts: string[] = [];
  for (; rest !== "" && parts.length < limit; rest = stripStart(rest)) {
    const end = rest.search(SPACES);
    parts.push(end < 0 ? rest : rest.slice(0, end));
    rest = end < 0 ? "" : rest.slice(end);
  }
  return rest === "" ? parts : [...parts, rest];
}

/** `str.replace`: nothing in either text is special. A negative `limit` is none. */
export function replace(text: string, old: string, by: string, limit = -1): string {
  if (limit < 0 && old !== "") {
    if (by.length > old.length) {
      spend(text.length + (text.split(old).length - 1) * (by.length - old.length));
    }
    return text.replaceAll(old, () => by);
  }
  spend(text.length * (4 + (old === "" ? by.length : 0)));
  const parts = old === "" ? ["", ...text, ""] : text.split(old);
  const cuts = limit < 0 ? parts.length - 1 : Math.min(limit, parts.length - 1);
  return parts.slice(0, cuts + 1).join(by) +
    parts.slice(cuts + 1).map((part) => old + part).join("");
}

/** `len`: how many code points. */
export function countPoints(text: string): number {
  if (isPlain(text)) return text.length;
  let count = text.length;
  for (let i = 0; i < text.length; i++) {
    if (isPair(text, i)) i++, count--;
  }
  return count;
}

let lastText = "", lastIsPlain = true;

/** Whether code points are units: loops ask it of the same text again and again. */
export function isPlain(text: string): boolean {
  if (text === lastText) return lastIsPlain;
  const isPlain = !/[\ud800-\udbff][\udc00-\udfff]/.test(text);
  if (text.length > 64) {
    lastText = text;
    lastIsPlain = isPlain;
  }
  return isPlain;
}

/** The code point at an index, which may be negative; `undefined` beyond the ends. */
export function characterAt(text: string, index: number): string | undefined {
  if (isPlain(text)) return text[index < 0 ? index + text.length : index];
  const at = index < 0 ? fromEnd(text, -index) : fromStart(text, index);
  return at < 0 || at >= text.length ? undefined : pointAt(text, at);
}

/** `text[start:stop]`, as Python counts and clips. */
export function slicePoints(text: string, start?: number, stop?: number): string {
  if (isPlain(text)) return text.slice(start, stop);
  const unit = (index: number) =>
    index < 0 ? Math.max(0, fromEnd(text, -index)) : fromStart(text, index);
  return text.slice(
    start === undefined ? 0 : unit(start),
    stop === undefined ? undefined : unit(stop),
  );
}

/** `str.find`: the index in code points, or -1. */
export function find(text: string, part: string): number {
  const at = text.indexOf(part);
  return at <= 0 ? at : countPoints(text.slice(0, at));
}

/** Jinja's `truncate`: cuts at a word, unless the text is longer by no more than the leeway. */
export function truncate(
  text: string,
  length: number,
  { killWords = false, end = "...", leeway = 5 }: {
    killWords?: boolean;
    end?: string;
    leeway?: number;
  } = {},
): string {
  // There are never more code points than units, so most texts need no counting.
  if (text.length <= length + leeway) return text;
  const cut = fromStart(text, length - countPoints(end));
  if (fromStart(text, leeway + countPoints(end), cut) === text.length) return text;
  const kept = text.slice(0, cut);
  const space = killWords ? -1 : kept.lastIndexOf(" ");
  return (space < 0 ? kept : kept.slice(0, space)) + end;
}

/** `str.capitalize`. */
export function capitalize(text: string): string {
  if (text === "") return text;
  const first = pointAt(text, 0);
  // Lowered as a whole: what a final sigma becomes depends on what stands before it.
  return titleCase(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

/** `str.title`: a new word begins after everything that has no case, so `it's` becomes `It'S`. */
export function titleWords(text: string): string {
  spend(2 * text.length);
  // This letter alone changes its length, so that the places below would not agree.
  if (text.includes("İ")) return text.replace(/\p{Cased}+/gu, capitalize);
  return text.toLowerCase().replace(/\p{Cased}+/gu, (word, at: number) => {
    const first = pointAt(text, at);
    return titleCase(first) + word.slice(first.length);
  });
}

/** Jinja's filter `title`: words begin after spaces, hyphens and opening brackets. */
export function titleAtSpaces(text: string): string {
  return text.split(WORD_STARTS).filter((part) => part !== "").map((part) => {
    const first = pointAt(part, 0);
    return first.toUpperCase() + part.slice(first.length).toLowerCase();
  }).join("");
}

/** A letter as it begins a word, which for a few is not its upper case. */
function titleCase(letter: string): string {
  const code = letter.codePointAt(0)!;
  if (code < 0x80) return letter.toUpperCase();
  if (code >= 0x10d0 && code <= 0x10ff) return letter; // Georgian has capitals, but not for this.
  if (code >= 0x1c4 && code <= 0x1cc) return String.fromCodePoint(code - (code - 0x1c4) % 3 + 1);
  if (code >= 0x1f1 && code <= 0x1f3) return "\u01f2";
  if (code >= 0x1f80 && code <= 0x1ffc) return greekTitle(letter, code);
  const upper = letter.toUpperCase();
  const first = pointAt(upper, 0);
  return /^\p{Lu}/u.test(upper) ? first + upper.slice(first.length).toLowerCase() : upper;
}

/** Greek letters with an iota beneath: beside a capital it becomes a mark, not a letter. */
function greekTitle(letter: string, code: number): string {
  const upper = letter.toUpperCase();
  if (upper.length === 1 || !upper.endsWith("\u0399")) return upper;
  if (code <= 0x1faf) return String.fromCodePoint(code | 8);
  if ([0x1fb3, 0x1fc3, 0x1ff3].includes(code)) return String.fromCodePoint(code + 9);
  if (upper.length === 2 && [0x1fbc, 0x1fcc, 0x1ffc].includes(code)) return letter;
  return upper.slice(0, -1) + "\u0345";
}

// --- places in a string, in UTF-16 units ---

function isPair(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xd800 && at + 1 < text.length &&
    (text.charCodeAt(at + 1) & 0xfc00) === 0xdc00;
}

/** The code point at a place; half a pair is one, as in Python. */
function pointAt(text: string, at: number): string {
  return isPair(text, at) ? text.slice(at, at + 2) : text[at];
}

function before(text: string, end: number): number {
  return end > 1 && isPair(text, end - 2) ? end - 2 : end - 1;
}

/** Where the code point begins that is `index` behind a place; the length if there is none. */
function fromStart(text: string, index: number, place = 0): number {
  const { length } = text;
  let at = place;
  for (; index > 0 && at < length; index--) {
    const isHigh = (text.charCodeAt(at) & 0xfc00) === 0xd800;
    at++;
    if (isHigh && at < length && (text.charCodeAt(at) & 0xfc00) === 0xdc00) at++;
  }
  return at;
}

/** The same, counted from the end; -1 if there is none. */
function fromEnd(text: string, count: number): number {
  let at = text.length;
  for (; count > 0 && at > 0; count--) at = before(text, at);
  return count > 0 ? -1 : at;
}

// --- more of Python's methods ---

const LINE_END = "\\n-\\r\\x1c-\\x1e\\x85\\u2028\\u2029";
const LINE_ENDS = new RegExp(`\\r\\n|[${LINE_END}]`, "g");

/** `str.splitlines`. */
export function splitLines(text: string, keepEnds = false): string[] {
  spend(2 * text.length);
  const lines: string[] = [];
  let start = 0;
  for (const { 0: end, index } of text.matchAll(LINE_ENDS)) {
    lines.push(text.slice(start, keepEnds ? index + end.length : index));
    start = index + end.length;
  }
  return start < text.length ? [...lines, text.slice(start)] : lines;
}

/** `str.rsplit`: a limited number of cuts is made from the end. */
export function splitFromEnd(text: string, separator?: string, limit = -1): string[] {
  if (limit < 0) return split(text, separator);
  if (separator !== undefined) {
    const parts = text.split(separator);
    const cut = Math.max(0, parts.length - limit);
    return cut === 0 ? parts : [parts.slice(0, cut).join(separator), ...parts.slice(cut)];
  }
  const parts: string[] = [];
  let rest = stripEnd(text);
  for (; rest !== "" && parts.length < limit; rest = stripEnd(rest)) {
    let start = rest.length;
    while (start > 0 && !isSpace(rest.charCodeAt(start - 1))) start--;
    parts.push(rest.slice(start));
    rest = rest.slice(0, start);
  }
  return (rest === "" ? parts : [...parts, rest]).reverse();
}

/** `str.partition`, or from the end `str.rpartition`. */
export function partition(text: string, separator: string, fromEnd = false): string[] {
  const at = fromEnd ? text.lastIndexOf(separator) : text.indexOf(separator);
  if (at < 0) return fromEnd ? ["", "", text] : [text, "", ""];
  return [text.slice(0, at), separator, text.slice(at + separator.length)];
}

/** `str.center`, `str.ljust` and `str.rjust`. */
export function justify(
  text: string,
  width: number,
  fill: string,
  where: "left" | "right" | "center",
): string {
  const missing = width - countPoints(text);
  if (missing <= 0) return text;
  spend(missing * fill.length + text.length);
  if (where === "left") return text + fill.repeat(missing);
  if (where === "right") return fill.repeat(missing) + text;
  // What is odd goes to the left only where the width is odd, too.
  const before = Math.floor(missing / 2) + (missing & width & 1);
  return fill.repeat(before) + text + fill.repeat(missing - before);
}

/** `str.zfill`: zeros between the sign and the rest. */
export function zeroFill(text: string, width: number): string {
  const missing = width - countPoints(text);
  if (missing <= 0) return text;
  spend(width + text.length);
  const sign = /^[-+]?/.exec(text)![0];
  return sign + "0".repeat(missing) + text.slice(sign.length);
}

/** `str.expandtabs`. */
export function expandTabs(text: string, size: number): string {
  let column = 0, out = "";
  for (const character of text) {
    if (character === "\t") {
      const count = size > 0 ? size - column % size : 0;
      spend(count);
      out += " ".repeat(count);
      column += count;
    } else {
      out += character;
      column = character === "\n" || character === "\r" ? 0 : column + 1;
    }
  }
  return out;
}

/** `str.swapcase`. */
export function swapCase(text: string): string {
  spend(4 * text.length);
  return text.replace(/\p{Cased}+/gu, (run, at: number) => {
    return [...run].map((letter, i) => {
      if (!/\p{Lu}/u.test(letter)) return letter.toUpperCase();
      // A sigma at the end of a word is another letter, which only its surroundings tell.
      return letter === "Σ" ? lowerSigma(text, at, run, i) : letter.toLowerCase();
    }).join("");
  });
}

function lowerSigma(text: string, at: number, run: string, i: number): string {
  const place = at + [...run].slice(0, i).join("").length;
  return text.toLowerCase().length === text.length ? text.toLowerCase()[place] : "σ";
}

const KINDS: Readonly<Record<string, RegExp>> = {
  isalpha: /^\p{L}+$/u,
  isalnum: /^[\p{L}\p{N}]+$/u,
  isascii: /^[\0-\x7f]*$/,
  isdecimal: /^\p{Nd}+$/u,
  // What Unicode calls digits beyond decimals: superscripts, circled and dotted ones.
  isdigit:
    /^[\p{Nd}\u00b2\u00b3\u00b9\u1369-\u1371\u19da\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea\u24f5-\u24fd\u24ff\u2776-\u277e\u2780-\u2788\u278a-\u2792\u{10a40}-\u{10a43}\u{10e60}-\u{10e68}\u{11052}-\u{1105a}\u{1f100}-\u{1f10a}]+$/u,
  isidentifier: /^[\p{ID_Start}_][\p{ID_Continue}]*$/u,
  isnumeric: /^\p{N}+$/u,
  isprintable: /^(?: |[^\p{C}\p{Z}])*$/u,
  isspace: new RegExp(`^[${SPACE}]+$`),
};

/** Python's questions about all characters of a text, by the names of their methods. */
export const CHARACTER_KINDS: ReadonlyMap<string, (text: string) => boolean> = new Map(
  Object.entries(KINDS).map(([name, pattern]) => [name, (text: string) => {
    spend(text.length >> 3);
    return pattern.test(text);
  }]),
);

/** `str.islower` or `str.isupper`: some letter has that case, and none another. */
export function isInCase(text: string, upper: boolean): boolean {
  spend(text.length >> 3);
  const other = upper ? /[\p{Ll}\p{Lt}]/u : /[\p{Lu}\p{Lt}]/u;
  const own = upper ? /\p{Uppercase}/u : /\p{Lowercase}/u;
  return own.test(text) && !other.test(text);
}

/** `str.istitle`: capitals follow what has no case, small letters follow letters. */
export function isTitle(text: string): boolean {
  spend(text.length);
  let afterLetter = false, found = false;
  for (const character of text) {
    const isCapital = /[\p{Lu}\p{Lt}]/u.test(character);
    const isSmall = !isCapital && /\p{Lowercase}/u.test(character);
    if (isCapital && afterLetter || isSmall && !afterLetter) return false;
    afterLetter = isCapital || isSmall;
    found ||= afterLetter;
  }
  return found;
}

/** `ascii(value)` of what `repr` gave. */
export function asciiRepr(text: string): string {
  return text.replace(/[^\0-\x7f]/gu, (character) => {
    const code = character.codePointAt(0)!, hex = code.toString(16);
    if (code < 0x100) return "\\x" + hex;
    return code < 0x10000 ? "\\u" + hex.padStart(4, "0") : "\\U" + hex.padStart(8, "0");
  });
}
