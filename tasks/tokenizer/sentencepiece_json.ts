/**
 * SentencePiece's models as standard tokenizer.json: METRO's vocabularies with the whole way from text
 * to ids, and T5's.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { parseAt } from "../files/json.ts";
import { readWhole } from "../files/read.ts";
import { type AddedToken, sentinelName, type TokenizerJson } from "./tokenizer.ts";
import { METRO_RULES } from "./metro_text.ts";
import { type PieceType, readSentencePiece, type SentencePieceModel } from "./sentencepiece.ts";
import { addedToken, SPECIAL_TOKENS, template } from "./tokenizer_json.ts";
import { type ScoredPiece, SPACE_SYMBOL } from "./unigram.ts";
import { SINGLE_SPACES } from "./unigram_codec.ts";

/** How ids follow from a model's pieces, and what comes before and after them. */
export type SentencePieceLayout =
  | {
    /** METRO's: text is split from its punctuation, ids are a fairseq dictionary's. */
    kind: "metro";
    /** The pieces in the order of the dictionary: the first has id 4. */
    dictionary: readonly string[];
    /** Whether text is lower-cased. */
    lower: boolean;
    /** How many sentinels follow. */
    sentinels: number;
  }
  | {
    /** T5's: ids are the model's own. */
    kind: "t5";
    /** How many `<extra_id_N>` follow, the last number first. */
    extraIds: number;
  };

/** The sentinels of the released METRO models: one for each position. */
const METRO_SENTINELS = 512;
/** What T5 appends to its vocabulary. */
const T5_EXTRA_IDS = 100;
/** Many times what anybody appends. */
const MOST_EXTRA_IDS = 10_000;

/**
 * Writes a SentencePiece model as a tokenizer.json that `@huggingface/tokenizers` and Python
 * `tokenizers` load, too.
 *
 * They may break ties otherwise than SentencePiece, and the JavaScript one always normalises by NFKC,
 * whatever the model's rules are. {@link Tokenizer} gives SentencePiece's ids. METRO's control tokens
 * and sentinels are no added tokens: written out in a text they are text, as in METRO's own pipeline.
 *
 * @throws {UserError} if the dictionary and the pieces do not agree
 *
 * @example
 * ```ts
 * import { sentencePieceJson } from "./sentencepiece_json.ts";
 * import { Tokenizer } from "./tokenizer.ts";
 * import assert from "node:assert/strict";
 *
 * const piece = (piece: string, score: number) => ({ piece, score, type: "normal" as const });
 * const model = {
 *   pieces: [{ ...piece("[UNK]", 0), type: "unknown" as const }, piece("▁to", -1), piece("▁be", -2)],
 *   unk: 0,
 *   normalization: "identity",
 *   charsmap: new Uint8Array(),
 * };
 * const dictionary = ["▁be", "▁to"];
 * const layout = { kind: "metro", dictionary, lower: true, sentinels: 2 } as const;
 * const tokenizer = new Tokenizer(sentencePieceJson(model, layout));
 * assert.deepEqual([...tokenizer.encode("To be, to")], [5, 4, 3, 5]);
 * assert.deepEqual([tokenizer.vocabSize, tokenizer.sentinels], [6, 2]);
 * ```
 */
export function sentencePieceJson(
  model: SentencePieceModel,
  layout: SentencePieceLayout,
): TokenizerJson {
  return layout.kind === "metro" ? metroJson(model, layout) : t5Json(model, layout.extraIds);
}

/** A vocabulary whose entries keep the types of SentencePiece's pieces. */
interface Entry {
  piece: string;
  score: number;
  type: PieceType;
}

function metroJson(
  model: SentencePieceModel,
  { dictionary, lower, sentinels }: Extract<SentencePieceLayout, { kind: "metro" }>,
): TokenizerJson {
  const control = (piece: string): Entry => ({ piece, score: 0, type: "control" });
  const entries = [
    ...SPECIAL_TOKENS.map(control),
    ...dictionaryEntries(model, dictionary),
    ...Array.from({ length: sentinels }, (_, i) => control(sentinelName(i))),
  ];
  const unk = SPECIAL_TOKENS.indexOf("<unk>");
  // Where the rules fold case anyway, lower-casing helps readers that do not run them.
  const lowercase = lower || model.normalization.endsWith("_cf") ? [{ type: "Lowercase" }] : [];
  const ends = template({ "<s>": 0, "</s>": 2 });
  const json = assemble(model, entries, unk, [...METRO_RULES, ...lowercase], [], ends);
  // METRO's ids were made by the SentencePiece of its time.
  return { ...json, model: { ...json.model, lattice: true } };
}

/** The pieces of a dictionary with their scores; it must name each piece that can come out once. */
function dictionaryEntries(model: SentencePieceModel, dictionary: readonly string[]): Entry[] {
  const pieces = new Map(
    model.pieces.filter(({ type }) => type !== "control" && type !== "unknown")
      .map((piece) => [piece.piece, piece]),
  );
  const entries = dictionary.map((name, line) => {
    const piece = pieces.get(name);
    if (!piece) {
      throw new UserError(
        `line ${line + 1}: '${shown(name)}' is no piece of the model, or twice there`,
      );
    }
    pieces.delete(name);
    return piece;
  });
  const [missing] = pieces.keys();
  if (missing === undefined) return entries;
  throw new UserError(`expected all pieces of the model, got none for '${shown(missing)}'`);
}

function t5Json(model: SentencePieceModel, extraIds: number): TokenizerJson {
  const extra = Array.from({ length: extraIds }, (_, i) => `<extra_id_${extraIds - 1 - i}>`);
  const entries = [
    ...model.pieces,
    ...extra.map((piece): Entry => ({ piece, score: 0, type: "control" })),
  ];
  const added = entries.flatMap(({ piece, type }, id) => {
    return type === "control" || type === "unknown" ? [addedToken(piece, id)] : [];
  });
  const eos = added.find(({ content }) => content === "</s>");
  return assemble(model, entries, model.unk, [], added, template(eos ? { "</s>": eos.id } : {}));
}

function assemble(
  { charsmap }: SentencePieceModel,
  entries: readonly Entry[],
  unk: number,
  before: readonly unknown[],
  added_tokens: AddedToken[],
  post_processor: unknown,
): TokenizerJson {
  const idsOf = (...types: PieceType[]) =>
    entries.flatMap(({ type }, id) => types.includes(type) ? [id] : []);
  const inner = entries.some(({ piece, type }) => {
    return type !== "control" && piece.lastIndexOf(SPACE_SYMBOL) > 0;
  });
  const metaspace = { type: "Metaspace", replacement: SPACE_SYMBOL, prepend_scheme: "always" };
  const precompiled = charsmap.length === 0
    ? []
    : [{ type: "Precompiled", precompiled_charsmap: Buffer.from(charsmap).toString("base64") }];
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens,
    normalizer: {
      type: "Sequence",
      normalizers: [...before, ...precompiled, ...SINGLE_SPACES],
    },
    pre_tokenizer: { ...metaspace, split: !inner },
    post_processor,
    decoder: { ...metaspace, split: !inner },
    model: {
      type: "Unigram",
      unk_id: unk,
      vocab: entries.map(({ piece, score }): ScoredPiece => [piece, score]),
      byte_fallback: false,
      // What SentencePiece knows beyond scores; other readers pass over it.
      user_defined: idsOf("userDefined"),
      unmatched: idsOf("control", "unknown", "unused"),
    },
  };
}

// --- files ---

/**
 * Reads a model file as a tokenizer.json: METRO's if a dictionary `dict.txt` lies beside it, T5's
 * otherwise. A `tokenizer_config.json` beside it may say `lower` (METRO; true unless it is false) and
 * `extra_ids` (T5; 100).
 *
 * @param lower whether METRO's text is lower-cased, whatever `tokenizer_config.json` says
 * @throws {UserError} naming the file that is missing or broken
 */
export function readSentencePieceJson(file: string, lower?: boolean): TokenizerJson {
  const model = readSentencePiece(bytesOf(file), file);
  const configFile = join(dirname(file), "tokenizer_config.json"), config = readConfig(configFile);
  const dictionaryFile = join(dirname(file), "dict.txt");
  if (!existsSync(dictionaryFile)) {
    if (basename(file) === "sp.model") throw new UserError(`${dictionaryFile}: not found`);
    return sentencePieceJson(model, { kind: "t5", extraIds: extraIds(configFile, config) });
  }
  const dictionary = readDictionary(dictionaryFile);
  const layout = { kind: "metro", dictionary, sentinels: METRO_SENTINELS } as const;
  try {
    return sentencePieceJson(model, { ...layout, lower: lower ?? config.lower !== false });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(`${dictionaryFile}: ${error.message}`);
  }
}

function extraIds(file: string, { extra_ids }: Record<string, unknown>): number {
  const count = extra_ids ?? T5_EXTRA_IDS;
  const ok = Number.isSafeInteger(count) && count as number >= 0 &&
    count as number <= MOST_EXTRA_IDS;
  if (ok) return count as number;
  throw new UserError(
    `${file}: extra_ids: expected a count of at most ${MOST_EXTRA_IDS}, got ` +
      shown(count),
  );
}

/** The symbols of a fairseq dictionary, a line each: the symbol, a space, its count. */
function readDictionary(file: string): string[] {
  // As fairseq does, which drops all white space at the end of a line.
  const lines = new TextDecoder().decode(bytesOf(file)).split("\n").map((line) =>
    line.replace(/\p{White_Space}+$/u, "")
  );
  if (lines.at(-1) === "") lines.pop();
  return lines.map((line, i) => {
    const symbol = /^(.+) \d+$/.exec(line)?.[1];
    if (symbol !== undefined) return symbol;
    throw new UserError(`${file}:${i + 1}: expected a symbol and its count, got '${shown(line)}'`);
  });
}

function readConfig(file: string): Record<string, unknown> {
  if (!existsSync(file)) return {};
  const config = parseAt(file, new TextDecoder().decode(bytesOf(file)));
  if (isRecord(config)) return config;
  throw new UserError(`${file}: expected an object`);
}

function bytesOf(file: string): Uint8Array {
  return readWhole(file);
}
