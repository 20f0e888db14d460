/**
 * The Unigram kinds of tokenizer.json that run on our own code: SentencePiece models as the standard
 * converters write them, METRO's, and those that the toolkit trains.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import type { AddedToken, TokenizerJson } from "./tokenizer.ts";
import { compileNormalizer, literalPattern } from "./byte_level.ts";
import { Charsmap } from "./charsmap.ts";
import { trimmed } from "./characters.ts";
import { METRO_RULES, type ReplaceJson } from "./metro_text.ts";
import { type ScoredPiece, SPACE_SYMBOL, Unigram } from "./unigram.ts";
import { joinArrays } from "../files/arrays.ts";

type Section = Record<string, unknown>;
type Normalize = (text: string) => string;

/** Runs of spaces to one, none at the ends: `remove_extra_whitespaces` of SentencePiece. */
export const SINGLE_SPACES: readonly ReplaceJson[] = [
  { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
  { type: "Replace", pattern: { Regex: "^ | $" }, content: "" },
];

/** METRO's regular expressions, which JavaScript and Rust `tokenizers` read alike where they stand. */
const METRO_REGEXES = new Set(
  [...METRO_RULES, ...SINGLE_SPACES].flatMap(({ pattern }) => {
    return "Regex" in pattern ? [pattern.Regex] : [];
  }),
);

/** Encodes and decodes with a Unigram model. */
export class UnigramCodec {
  #normalize: Normalize;
  #unigram: Unigram;
  #added: RegExp | undefined;
  #addedIds: Map<string, number>;
  #contents: string[];
  /** Whether a ▁ in front of the text gets another, and one at its end is dropped. */
  #literal: boolean;

  /** Returns undefined for a tokenizer with anything that this class does not do exactly. */
  static create(json: TokenizerJson): UnigramCodec | undefined {
    const { model, added_tokens } = json;
    const plain = model.type === "Unigram" && !model.byte_fallback && Array.isArray(model.vocab) &&
      Number.isInteger(model.unk_id) && metaspace(json.decoder) && added_tokens.every(isPlain);
    const spaces = metaspace(json.pre_tokenizer);
    if (!plain || !spaces) return undefined;
    const ours = isSentencePiece(model);
    const literals = ids(model.user_defined).map((id) => (model.vocab as ScoredPiece[])[id][0]);
    const normalize = ours
      ? compile(json.normalizer, literalPattern(literals))
      : compileOther(json.normalizer);
    return normalize && new UnigramCodec(json, normalize, spaces.split !== false);
  }

  private constructor(
    { model, added_tokens }: TokenizerJson,
    normalize: Normalize,
    split: boolean,
  ) {
    const pieces = model.vocab as ScoredPiece[];
    this.#normalize = normalize;
    this.#literal = isSentencePiece(model);
    this.#unigram = new Unigram({
      pieces,
      unk: model.unk_id as number,
      unmatched: [...ids(model.unmatched), ...added_tokens.map(({ id }) => id)],
      userDefined: ids(model.user_defined),
      split,
      lattice: model.lattice === true,
      double: !this.#literal,
    });
    this.#addedIds = new Map(added_tokens.map(({ content, id }) => [content, id]));
    this.#added = literalPattern([...this.#addedIds.keys()]);
    this.#contents = pieces.map(([piece]) => piece);
    for (const { content, id } of added_tokens) this.#contents[id] = content;
  }

  /** The ids of a text; added tokens in it are found first. */
  encode(text: string): Uint32Array {
    text = text.toWellFormed();
    const parts: Uint32Array[] = [];
    let start = 0;
    for (const found of this.#added ? text.matchAll(this.#added) : []) {
      parts.push(this.#section(text.slice(start, found.index)));
      parts.push(Uint32Array.of(this.#addedIds.get(found[0])!));
      start = found.index + found[0].length;
    }
    const last = this.#section(text.slice(start));
    return parts.length === 0 ? last : joinArrays(Uint32Array, [...parts, last]);
  }

  /** Encodes what is between two added tokens. */
  #section(text: string): Uint32Array {
    const words = this.#normalize(text).replaceAll(" ", SPACE_SYMBOL);
    if (words === "") return new Uint32Array();
    // Only a ▁ that the text itself spells can be first or last here in a model of SentencePiece's.
    if (this.#literal) return this.#unigram.encode((SPACE_SYMBOL + words).replace(/▁+$/, ""));
    return this.#unigram.encode(words.startsWith(SPACE_SYMBOL) ? words : SPACE_SYMBOL + words);
  }

  /** The text of ids: each ▁ is a space, and the space in front of the text is dropped. */
  decode(ids: ArrayLike<number>): string {
    let text = "";
    for (let i = 0; i < ids.length; i++) text += this.#contents[ids[i]] ?? "";
    text = text.replaceAll(SPACE_SYMBOL, " ");
    return text.startsWith(" ") ? text.slice(1) : text;
  }
}

/** Tokens that the reference finds by their exact text, wherever they stand. */
export function isPlain({ single_word, lstrip, rstrip, normalized, special }: AddedToken): boolean {
  return !single_word && !lstrip && !rstrip && !(normalized ?? !special);
}

/** A list of ids in the model's section, where other readers of the file ignore it. */
function ids(list: unknown): number[] {
  return Array.isArray(list) ? list : [];
}

/** Returns undefined if white space is not written in SentencePiece's way. */
function metaspace(section: unknown): Section | undefined {
  const { type, replacement, prepend_scheme, add_prefix_space } = (section ?? {}) as Section;
  const prefix = prepend_scheme ? prepend_scheme === "always" : add_prefix_space !== false;
  return type === "Metaspace" && replacement === SPACE_SYMBOL && prefix
    ? section as Section
    : undefined;
}

/** Whether a model's section says what SentencePiece knows of its pieces: whose ids are wanted then. */
function isSentencePiece(model: Section): boolean {
  return Array.isArray(model.user_defined);
}

/**
 * Turns the `normalizer` section of a vocabulary that is not from SentencePiece's files into a function.
 *
 * @returns undefined if it contains a kind that we do not run ourselves
 */
function compileOther(section: unknown): Normalize | undefined {
  const normalizer = (section ?? {}) as Section, { pattern } = normalizer;
  if (normalizer.type === "Sequence" && Array.isArray(normalizer.normalizers)) {
    const steps = normalizer.normalizers.map(compileOther);
    if (steps.includes(undefined)) return undefined;
    return (text) => steps.reduce((result, step) => step!(result), text);
  }
  if (normalizer.type === "Strip") {
    const { strip_left, strip_right } = normalizer;
    return (text) => trimmed(text, strip_left === true, strip_right === true);
  }
  const spaces = normalizer.type === "Replace" && (pattern as Section)?.Regex === "\\s+";
  if (!spaces || typeof normalizer.content !== "string") return compileNormalizer(section);
  const content = normalizer.content;
  return (text) => text.replace(/\p{White_Space}+/gu, () => content);
}

/**
 * Turns the `normalizer` section of a vocabulary from SentencePiece's files into a function.
 *
 * @param untouched what the rules of a charsmap leave as it is: user-defined pieces
 * @returns undefined if it contains a kind that we do not run ourselves
 */
function compile(section: unknown, untouched: RegExp | undefined): Normalize | undefined {
  const normalizer = (section ?? {}) as Section;
  switch (normalizer.type) {
    case "Sequence": {
      if (!Array.isArray(normalizer.normalizers)) return undefined;
      const steps = normalizer.normalizers.map((step) => compile(step, untouched));
      if (steps.includes(undefined)) return undefined;
      return (text) => steps.reduce((result, step) => step!(result), text);
    }
    case "Precompiled":
      return precompiled(normalizer.precompiled_charsmap, untouched);
    case "Lowercase":
      // As METRO's Python does it: a final sigma is one.
      return (text) => text.toLowerCase();
    case "Replace": {
      const { pattern, content = "" } = normalizer as { pattern?: Section; content?: unknown };
      if (!METRO_REGEXES.has(pattern?.Regex as string)) return compileNormalizer(section);
      if (typeof content !== "string") return undefined;
      const regex = new RegExp(pattern!.Regex as string, "gu");
      return (text) => text.replace(regex, () => content);
    }
    default:
      return compileNormalizer(section);
  }
}

function precompiled(base64: unknown, untouched: RegExp | undefined): Normalize | undefined {
  if (typeof base64 !== "string") return undefined;
  const charsmap = new Charsmap(Buffer.from(base64, "base64"));
  if (!untouched) return (text) => charsmap.apply(text);
  return (text) => {
    let result = "", start = 0;
    for (const { 0: literal, index } of text.matchAll(untouched)) {
      result += charsmap.apply(text.slice(start, index)) + literal;
      start = index + literal.length;
    }
    return result + charsmap.apply(text.slice(start));
  };
}
