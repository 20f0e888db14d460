/**
 * Trains a Unigram tokenizer (Kudo 2018, https://arxiv.org/abs/1804.10959) as SentencePiece does:
 * starts with far too many pieces, all frequent substrings of the text's words; fits their
 * probabilities by expectation maximisation; drops the least useful ones; and so on until as many
 * are left as were asked for.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { sentinelName, type TokenizerJson } from "./tokenizer.ts";
import { normalizerJson } from "./byte_level.ts";
import { ENDS, expectedCounts, maximise, type Piece, prune, type Words } from "./lattice.ts";
import { seedPieces } from "./seed_pieces.ts";
import { SPECIAL_TOKENS, tokenizerJson } from "./tokenizer_json.ts";
import type { TokenizerOptions } from "./train_bpe.ts";
import { SPACE_SYMBOL } from "./unigram.ts";
import { countWords, layOut, LINE_END, lineSplitter } from "./words.ts";

const SAMPLE = 1_000_000_000;
const COVERAGE = 0.9995;
// SentencePiece's settings.
const SHRINKING_FACTOR = 0.75;
const STEPS_PER_ROUND = 2;
/** Pruning by usefulness stops here, in multiples of the wanted size; the last cut is by score. */
const SLACK = 1.1;

/**
 * Trains a Unigram tokenizer and returns it as a standard tokenizer.json, which
 * `@huggingface/tokenizers` and Python `tokenizers` load.
 *
 * Ids: the four {@link SPECIAL_TOKENS}, the pieces from the most probable on, the sentinels. The
 * result depends on the lines only. Memory grows with the distinct words, not with the text.
 *
 * @param options `characterCoverage`: share of the text's characters that get a piece, the most frequent first
 *   (default 0.9995); the rest is `<unk>`. 1 covers them all
 * @throws {UserError} if the vocabulary is smaller than the characters need, or larger than the text
 * supports (then it says how large it can be)
 *
 * @example
 * ```ts
 * import { Tokenizer, trainUnigram } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const lines = ["low lower lowest", "new newer newest"];
 * const json = await trainUnigram(lines, { vocabSize: 16, lowercase: true, sentinels: 8 });
 * const tokenizer = new Tokenizer(json);
 * assert.equal(tokenizer.decode(tokenizer.encode("Newest  low")), "newest low");
 * assert.equal(tokenizer.rows, 16 + 8);
 * ```
 */
export async function trainUnigram(
  lines: AsyncIterable<string> | Iterable<string>,
  {
    vocabSize,
    lowercase,
    sentinels,
    sample = SAMPLE,
    characterCoverage = COVERAGE,
  }: TokenizerOptions & { characterCoverage?: number },
): Promise<TokenizerJson> {
  const added = Array.from({ length: sentinels }, (_, i) => sentinelName(i));
  const split = lineSplitter(lowercase, [...SPECIAL_TOKENS, ...added], spacedWords);
  const words = layOut(await countWords(lines, split, sample), characterCoverage);
  const special = SPECIAL_TOKENS.length;
  const characters = words.alphabet.length - ENDS;
  if (!Number.isInteger(vocabSize) || vocabSize < special + characters) {
    const need = `at least ${special + characters} (${special} special tokens and ` +
      `${characters} characters of the text)`;
    throw new UserError(`vocabulary size: expected a whole number, ${need}, got ${vocabSize}`);
  }
  const pieces = learnPieces(words, vocabSize - special);
  if (special + pieces.length < vocabSize) {
    const supported = `this text supports at most ${special + pieces.length}`;
    throw new UserError(
      `vocabulary size ${vocabSize}: ${supported}; choose a smaller size or more text`,
    );
  }
  return unigramJson(pieces.map((piece) => [textOf(piece, words), piece.score]), added, lowercase);
}

// ---- Words ----

/** NFKC, lower-cased if asked, single spaces between words and none at the ends. */
function unigramNormalizer(lowercase: boolean) {
  const characters = normalizerJson(lowercase);
  return {
    type: "Sequence",
    normalizers: [
      ...(characters.type === "Sequence" ? characters.normalizers : [characters]),
      { type: "Replace", pattern: { Regex: "\\s+" }, content: " " },
      { type: "Strip", strip_left: true, strip_right: true },
    ],
  };
}

/** The words of a text, each with the space symbol before it, as encoding splits them. */
function spacedWords(text: string): string[] {
  const words = text.replace(/\s+/g, " ").trim();
  if (words === "") return [];
  return (SPACE_SYMBOL + words.replaceAll(" ", SPACE_SYMBOL) + LINE_END).match(
    /\u2581[^\u2581]*/g,
  )!;
}

// ---- Pieces ----

/** The best pieces by falling score: `size` of them, or fewer if the text has no more. */
function learnPieces(words: Words, size: number): Piece[] {
  let pieces = seedPieces(words);
  for (;;) {
    for (let step = 0; step < STEPS_PER_ROUND; step++) {
      pieces = maximise(pieces, expectedCounts(words, pieces).counts);
    }
    if (pieces.length <= SLACK * size) break;
    const fewer = Math.floor(Math.max(SLACK * size, SHRINKING_FACTOR * pieces.length));
    pieces = prune(words, pieces, fewer);
  }
  const isCharacter = ({ symbols }: Piece) => Number(symbols.length === 1);
  return pieces
    .sort((a, b) => isCharacter(b) - isCharacter(a) || b.score - a.score)
    .slice(0, size)
    .sort((a, b) => b.score - a.score);
}

// ---- tokenizer.json ----

function textOf({ symbols }: Piece, { alphabet }: Words): string {
  return Array.from(symbols, (symbol) => alphabet[symbol]).join("");
}

function unigramJson(
  pieces: [string, number][],
  sentinels: string[],
  lowercase: boolean,
): TokenizerJson {
  const vocab = [...SPECIAL_TOKENS.map((token): [string, number] => [token, 0]), ...pieces];
  return tokenizerJson({
    normalizer: unigramNormalizer(lowercase),
    spaces: { type: "Metaspace", replacement: SPACE_SYMBOL, prepend_scheme: "always", split: true },
    model: {
      type: "Unigram",
      unk_id: SPECIAL_TOKENS.indexOf("<unk>"),
      vocab,
      byte_fallback: false,
    },
    vocabSize: vocab.length,
    sentinels,
  });
}
