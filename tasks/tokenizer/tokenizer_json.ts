/**
 * The parts of a tokenizer.json that all tokenizers trained here share.
 *
 * @module
 */
import type { TokenizerJson } from "../tokenizer.ts";

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
  const token = (content: string, id: number) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  const special = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
  const sequence = (id: string, type_id: number) => ({ Sequence: { id, type_id } });
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [
      ...SPECIAL_TOKENS.map(token),
      ...sentinels.map((content, i) => token(content, vocabSize + i)),
    ],
    normalizer,
    pre_tokenizer: spaces,
    post_processor: {
      type: "TemplateProcessing",
      single: [special("<s>", 0), sequence("A", 0), special("</s>", 0)],
      pair: [
        special("<s>", 0),
        sequence("A", 0),
        special("</s>", 0),
        sequence("B", 1),
        special("</s>", 1),
      ],
      special_tokens: {
        "<s>": { id: "<s>", ids: [0], tokens: ["<s>"] },
        "</s>": { id: "</s>", ids: [2], tokens: ["</s>"] },
      },
    },
    decoder: spaces,
    model,
  };
}
