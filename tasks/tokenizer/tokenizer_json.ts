/**
 * The parts of a tokenizer.json that all tokenizers trained here share.
 *
 * @module
 */
import type { AddedToken, TokenizerJson } from "./tokenizer.ts";

/** The control tokens, by id, in the order that fairseq gives them. */
export const SPECIAL_TOKENS: readonly string[] = ["<s>", "<pad>", "</s>", "<unk>"];

/** What differs between the tokenizers. */
export interface TokenizerParts {
  /** How text is normalised. */
  normalizer: unknown;
  /** How spaces become part of the words, and become spaces again. */
  spaces: unknown;
  /** Pieces with merges or scores. */
  model: Record<string, unknown>;
  /** Special tokens and pieces together: the id of the first sentinel. */
  vocabSize: number;
  /** The sentinels. */
  sentinels: string[];
}

/** Puts together a standard tokenizer.json; `<s>` and `</s>` go around each text. */
export function tokenizerJson(
  { normalizer, spaces, model, vocabSize, sentinels }: TokenizerParts,
): TokenizerJson {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      ...SPECIAL_TOKENS.map(addedToken),
      ...sentinels.map((content, i) => addedToken(content, vocabSize + i)),
    ],
    normalizer,
    pre_tokenizer: spaces,
    post_processor: template({ "<s>": 0, "</s>": 2 }),
    decoder: spaces,
    model,
  };
}

/** A control token. */
export function addedToken(content: string, id: number): AddedToken {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return { id, content, ...plain, special: true };
}

/** The `post_processor` that puts `<s>` before a text and `</s>` behind each, as far as they have ids. */
export function template(ids: { readonly "<s>"?: number; readonly "</s>"?: number }): unknown {
  const special = (token: "<s>" | "</s>", type_id: number) =>
    ids[token] === undefined ? [] : [{ SpecialToken: { id: token, type_id } }];
  const text = (id: "A" | "B", type_id: number) => [
    { Sequence: { id, type_id } },
    ...special("</s>", type_id),
  ];
  const single = [...special("<s>", 0), ...text("A", 0)];
  return {
    type: "TemplateProcessing",
    single,
    pair: [...single, ...text("B", 1)],
    special_tokens: Object.fromEntries(
      Object.entries(ids).map(([id, number]) => [id, { id, ids: [number], tokens: [id] }]),
    ),
  };
}
