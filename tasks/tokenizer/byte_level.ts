/**
 * The text side of byte-level BPE: normalisation, the split into words, and the alphabet in which
 * tokenizer.json writes bytes.
 *
 * @module
 */

import { lowerCased } from "./characters.ts";

/**
 * GPT-2's word pattern, the one that `ByteLevel` with `use_regex` stands for. Its matches cover any
 * text completely; a word keeps its one leading space.
 */
export const WORD: RegExp =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The printable character that stands for each of the 256 bytes in a tokenizer.json. */
export const BYTE_SYMBOLS: string[] = (() => {
  let extra = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    return String.fromCharCode(printable ? byte : extra++);
  });
})();

/** A `normalizer` section of a tokenizer.json; only the kinds that we run ourselves. */
export type NormalizerJson =
  | { type: "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" }
  | { type: "Replace"; pattern: { String: string }; content: string }
  | { type: "Sequence"; normalizers: NormalizerJson[] };

/**
 * The normaliser of our own tokenizers: NFKC, lower-cased if uncased.
 *
 * The replacements take away the only differences between JavaScript and Rust `tokenizers`: whether
 * U+FEFF and U+0085 are white space, and that only JavaScript lower-cases a final sigma to ς.
 */
export function normalizerJson(lowercase: boolean): NormalizerJson {
  const replace = (String: string, content: string): NormalizerJson => (
    { type: "Replace", pattern: { String }, content }
  );
  const normalizers: NormalizerJson[] = [
    { type: "NFKC" },
    replace("\ufeff", ""),
    replace("\u0085", " "),
  ];
  if (lowercase) normalizers.push(replace("\u03a3", "\u03c3"), { type: "Lowercase" });
  return { type: "Sequence", normalizers };
}

/**
 * Turns a `normalizer` section into a function.
 *
 * @returns undefined if it contains a kind that we do not run ourselves
 *
 * @example
 * ```ts
 * import { compileNormalizer, normalizerJson } from "./byte_level.ts";
 * import assert from "node:assert/strict";
 *
 * const normalize = compileNormalizer(normalizerJson(true))!;
 * assert.equal(normalize("ΛΟΓΟΣ ﬁne Ⅷ"), "λογοσ fine viii");
 * ```
 */
export function compileNormalizer(json: unknown): ((text: string) => string) | undefined {
  if (json === null || json === undefined) return (text) => text;
  const normalizer = json as NormalizerJson;
  switch (normalizer.type) {
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD": {
      const form = normalizer.type;
      return (text) => isAscii(text) ? text : text.normalize(form);
    }
    case "Lowercase":
      return lowerCased;
    case "Replace": {
      const { pattern, content } = normalizer;
      if (typeof pattern?.String !== "string" || typeof content !== "string") return undefined;
      if (pattern.String === "") return undefined;
      // "$" would be a replacement pattern in one implementation and a plain character in another.
      if (content.includes("$")) return undefined;
      return (text) => text.replaceAll(pattern.String, content);
    }
    case "Sequence": {
      if (!Array.isArray(normalizer.normalizers)) return undefined;
      const steps = normalizer.normalizers.map(compileNormalizer);
      if (steps.includes(undefined)) return undefined;
      return (text) => steps.reduce((result, step) => step!(result), text);
    }
    default:
      return undefined;
  }
}

function isAscii(text: string): boolean {
  return !/[\u0080-\uffff]/.test(text);
}

/**
 * A pattern that finds any of some literal strings, the longest first.
 *
 * @returns undefined if there are none
 */
export function literalPattern(literals: string[]): RegExp | undefined {
  if (literals.length === 0) return undefined;
  const escaped = [...literals]
    .sort((a, b) => b.length - a.length)
    .map((literal) => literal.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(escaped.join("|"), "g");
}
