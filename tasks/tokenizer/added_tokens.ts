/**
 * The added tokens of a tokenizer.json: found in a text before anything else is done to it, or in what the
 * normalizer made of it.
 *
 * @module
 */
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { literalPattern } from "./byte_level.ts";
import type { AddedToken } from "./tokenizer.ts";
import { isSpace, WORD_CHARACTERS } from "./characters.ts";
import type { Normalize } from "./normalizers.ts";

/** A stretch of a text: an added token, or text around them. */
export type Section = { id: number } | { text: string; start: number };

/** Tokens that are looked for in one form of a text. */
class TokenSet {
  readonly #pattern: RegExp | undefined;
  readonly #tokens: Map<string, AddedToken>;

  constructor(tokens: Map<string, AddedToken>) {
    this.#tokens = tokens;
    this.#pattern = literalPattern([...tokens.keys()]);
  }

  /** A text as tokens and what lies between them. */
  split(text: string): Section[] {
    const sections: Section[] = [];
    let from = 0;
    for (const { 0: found, index } of this.#pattern ? text.matchAll(this.#pattern) : []) {
      const token = this.#tokens.get(found)!;
      let start = index, end = index + found.length;
      if (token.single_word && (isWordBefore(text, start) || isWordAt(text, end))) continue;
      if (token.lstrip) {
        while (start > 0 && isSpace(text[start - 1])) start--;
        // What a token before it has swallowed is not its own.
        start = Math.max(start, from);
      }
      if (token.rstrip) { while (end < text.length && isSpace(text[end])) end++; }
      if (from < start) sections.push({ text: text.slice(from, start), start: from });
      // One that the token before it has swallowed whole counts where it swallows nothing itself.
      if (start < end) sections.push({ id: token.id });
      from = end;
    }
    if (from < text.length) sections.push({ text: text.slice(from), start: from });
    return sections;
  }
}

const WORD = new RegExp(`[${WORD_CHARACTERS}]`, "u");

function isWordAt(text: string, at: number): boolean {
  return at < text.length && WORD.test(String.fromCodePoint(text.codePointAt(at)!));
}

function isWordBefore(text: string, at: number): boolean {
  if (at === 0) return false;
  const low = (text.charCodeAt(at - 1) & 0xfc00) === 0xdc00;
  return isWordAt(text, at - (low ? 2 : 1));
}

/** The added tokens of a vocabulary. */
export class AddedTokens {
  readonly #raw: TokenSet;
  readonly #normalized: TokenSet;

  /**
   * Sorts the tokens by where they are looked for.
   *
   * @throws {UserError} for a token that the normalizer makes nothing of, or the same as another
   */
  constructor(tokens: readonly AddedToken[], normalize: Normalize) {
    const raw = new Map<string, AddedToken>(), normalized = new Map<string, AddedToken>();
    for (const token of tokens) {
      const form = isNormalized(token) ? normalize(token.content) : token.content;
      const set = isNormalized(token) ? normalized : raw, other = set.get(form)?.content;
      if (form === "" || other !== undefined) {
        const problem = form === ""
          ? "the normalizer leaves nothing of it"
          : `once normalized it is ${shown(other)}`;
        throw new UserError(`tokenizer: added_tokens: ${shown(token.content)}: ${problem}`);
      }
      set.set(form, token);
    }
    this.#raw = new TokenSet(raw);
    this.#normalized = new TokenSet(normalized);
  }

  /** A text as added tokens, and normalised text between them. */
  split(text: string, normalize: Normalize): Section[] {
    return this.#raw.split(text).flatMap((section): Section[] => {
      if ("id" in section) return [section];
      const { start } = section;
      return this.#normalized.split(normalize(section.text)).map((inner) => {
        return "id" in inner ? inner : { text: inner.text, start: start + inner.start };
      });
    });
  }
}

/** Whether a token is looked for in normalised text: unless it is special or says otherwise. */
export function isNormalized({ normalized, special }: AddedToken): boolean {
  return normalized ?? !special;
}
