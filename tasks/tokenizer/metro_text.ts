/**
 * METRO's split of text into words and punctuation, before SentencePiece: what the reference code
 * calls its "guoke" tokenizer.
 *
 * The rules are replacements, one after another, written so that JavaScript and the regular
 * expressions of Rust `tokenizers` (Oniguruma) both run them: they are also the first normalizers of
 * the tokenizer.json of a METRO vocabulary.
 *
 * @module
 */

/** A `Replace` normalizer of a tokenizer.json. */
export interface ReplaceJson {
  /** Always `Replace`. */
  type: "Replace";
  /** What is replaced: a literal or a regular expression. */
  pattern: { String: string } | { Regex: string };
  /** The replacement, taken literally. */
  content: string;
}

/** What Python's `str.split` takes for white space. */
const SPACE = "\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000";
/** ASCII that is neither letter nor digit, and Unicode's punctuation; members of a class. */
const PUNCTUATION = "!-/:-@\\[-`{-~\\p{P}";
/** A character of a word: neither punctuation nor the space between words. */
const LETTER = `[^ ${PUNCTUATION}]`;

function literal(String: string, content: string): ReplaceJson {
  return { type: "Replace", pattern: { String }, content };
}

function regex(Regex: string, content: string): ReplaceJson {
  return { type: "Replace", pattern: { Regex }, content };
}

/** The rules, in order. Case is not theirs: a `Lowercase` follows where text is lower-cased. */
export const METRO_RULES: readonly ReplaceJson[] = [
  literal("``", '"'),
  literal("''", '"'),
  regex("[‘’´]", "'"),
  regex("[“”]", '"'),
  regex("[—–]", "-"),
  regex(`[${SPACE}]+`, " "),
  regex("^ | $", ""),
  // A word's leading run of punctuation becomes a word of its own, then its trailing run.
  regex(`(?=${LETTER})(?<=(?:^| )[${PUNCTUATION}]+)`, " "),
  regex(`(?<=${LETTER})(?=[${PUNCTUATION}]+(?: |$))`, " "),
  // English clitics that this took apart: "' s" to "'s".
  regex("(?<=') (?=(?:[smdtSMDT]|ll|LL|re|RE|ve|VE)(?: |$))", ""),
];

const steps = METRO_RULES.map(({ pattern, content }) => {
  const from = "String" in pattern ? pattern.String : new RegExp(pattern.Regex, "gu");
  return (text: string) => text.replaceAll(from, content);
});

/**
 * Words and punctuation with single spaces between them.
 *
 * @param lower whether the result is lower-cased: all released METRO models read lower case
 *
 * @example
 * ```ts
 * import { metroText } from "./metro_text.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(metroText("He said, ``Don't!''", true), `he said , " don't !"`);
 * ```
 */
export function metroText(text: string, lower: boolean): string {
  const words = steps.reduce((words, step) => step(words), text);
  return lower ? words.toLowerCase() : words;
}
