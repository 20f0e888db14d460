/**
 * The normalizers of a tokenizer.json: from a text to a text.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { UserError } from "../../ops/graph/errors.ts";
import { BYTE_SYMBOLS } from "./byte_level.ts";
import { Charsmap } from "./charsmap.ts";
import { isSpace, lowerCased, trimmed } from "./characters.ts";
import { matcher } from "./patterns.ts";
import type { Steps } from "./regex.ts";
import {
  fault,
  flag,
  type Section,
  sectionOf,
  sections,
  text as textOf,
  unread,
} from "./section.ts";

/** What a normalizer does to a text. */
export type Normalize = (text: string) => string;

/** A text may become so many times longer, and so many characters more. */
const LONGER = { times: 20, more: 1 << 16 };

/**
 * Compiles the section `normalizer`.
 *
 * @param value the section; null for none
 * @param steps what its regular expressions may take
 * @throws {UserError} naming what is wrong, or not read here
 *
 * @example
 * ```ts
 * import { compileNormalizers } from "./normalizers.ts";
 * import assert from "node:assert/strict";
 *
 * const strip = { type: "Strip", strip_left: true, strip_right: false };
 * const section = { type: "Sequence", normalizers: [strip, { type: "Lowercase" }] };
 * assert.equal(compileNormalizers(section, { left: 1000 })(" ΟΔΟΣ "), "οδοσ ");
 * ```
 */
export function compileNormalizers(value: unknown, steps: Steps): Normalize {
  if (value === null) return (text) => text;
  const run = compile(sectionOf("normalizer", value), steps);
  return (text) => run(text, LONGER.times * text.length + LONGER.more);
}

/** The same with the most characters that may come out. */
type Step = (text: string, most: number) => string;

function compile(section: Section, steps: Steps): Step {
  if (section.type === "Sequence") {
    const inner = sections(section, "normalizers")
      .map((step) => compile(sectionOf("normalizer", step), steps));
    return (text, most) => inner.reduce((result, step) => step(result, most), text);
  }
  const kind = Object.hasOwn(KINDS, section.type) ? KINDS[section.type] : undefined;
  if (!kind) throw unread("normalizer", section.type);
  const step = kind(section, steps);
  return (text, most) => {
    const result = step(text, most);
    if (result.length > most) throw tooLong(section, most);
    return result;
  };
}

function tooLong({ where }: Section, most: number): UserError {
  const length = (most - LONGER.more) / LONGER.times;
  return new UserError(
    `tokenizer: ${where}: makes more than ${most} characters of a text of ${length}`,
  );
}

const KINDS: Readonly<Record<string, (section: Section, steps: Steps) => Step>> = {
  NFC: () => (text) => text.normalize("NFC"),
  NFD: () => (text) => text.normalize("NFD"),
  NFKC: () => (text) => text.normalize("NFKC"),
  NFKD: () => (text) => text.normalize("NFKD"),
  Lowercase: () => lowerCased,
  StripAccents: () => (text) => text.replace(/\p{M}/gu, ""),
  Nmt: () => nmt,
  ByteLevel: () => bytesWritten,
  BertNormalizer: bert,
  Precompiled: precompiled,
  Replace: replace,
  Prepend(section) {
    const prefix = textOf(section, "prepend");
    if (prefix === "") throw fault(`${section.where}: prepend`, "some text", prefix);
    return (text) => text === "" ? "" : prefix + text;
  },
  Strip(section) {
    const left = flag(section, "strip_left"), right = flag(section, "strip_right");
    return (text) => trimmed(text, left, right);
  },
};

const utf8 = new TextEncoder();

/** A text's bytes, each as the character that byte-level vocabularies write for it. */
export function bytesWritten(text: string): string {
  let written = "";
  for (const byte of utf8.encode(text)) written += BYTE_SYMBOLS[byte];
  return written;
}

/** What Google's machine translation does not read, and what it reads as spaces. */
function nmt(text: string): string {
  return text
    // deno-lint-ignore no-control-regex
    .replace(/[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]/g, "")
    .replace(/[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/g, " ");
}

/** Blocks of Chinese characters, as BERT's code lists them. */
const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/gu;

function bert(section: Section): Step {
  const clean = flag(section, "clean_text"), chinese = flag(section, "handle_chinese_chars");
  const lower = flag(section, "lowercase");
  const strip = section.fields.strip_accents === null
    ? lower
    : flag(section, "strip_accents", lower);
  return (text) => {
    if (clean) text = cleaned(text);
    if (chinese) text = text.replace(CHINESE, " $& ");
    if (strip) text = text.normalize("NFD").replace(/\p{Mn}/gu, "");
    return lower ? lowerCased(text) : text;
  };
}

function cleaned(text: string): string {
  let result = "";
  for (const c of text) {
    if (c === "\0" || c === "\ufffd") continue;
    if (c === "\t" || c === "\n" || c === "\r") result += " ";
    else if (/[\p{Cc}\p{Cf}\p{Co}]/u.test(c)) continue;
    else result += isSpace(c) ? " " : c;
  }
  return result;
}

function precompiled(section: Section): Step {
  const base64 = section.fields.precompiled_charsmap;
  if (typeof base64 !== "string" || !/^[A-Za-z0-9+/]*={0,2}$/.test(base64)) {
    throw fault(`${section.where}: precompiled_charsmap`, "base64", base64);
  }
  const charsmap = new Charsmap(Buffer.from(base64, "base64"));
  return (text) => charsmap.applyByGrapheme(text);
}

function replace(section: Section, steps: Steps): Step {
  const matches = matcher(section, steps), content = textOf(section, "content");
  return (text, most) => {
    let result = "", start = 0;
    for (const [from, to] of matches(text)) {
      result += text.slice(start, from) + content;
      start = to;
      if (result.length > most) throw tooLong(section, most);
    }
    return result + text.slice(start);
  };
}
