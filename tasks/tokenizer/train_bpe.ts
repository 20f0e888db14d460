/**
 * Trains a byte-level BPE tokenizer: counts the words of a corpus, then repeatedly makes the most
 * frequent adjacent pair of pieces a new piece.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { sentinelName, type TokenizerJson } from "./tokenizer.ts";
import { BYTE_SYMBOLS, normalizerJson, WORD } from "./byte_level.ts";
import { Heap } from "./heap.ts";
import { SPECIAL_TOKENS, tokenizerJson } from "./tokenizer_json.ts";
import { countWords, lineSplitter, MAX_WORD } from "./words.ts";

export { SPECIAL_TOKENS };

/** What {@link trainTokenizer} makes. */
export interface TokenizerOptions {
  /** Special tokens and pieces together, without the sentinels; at least 260. */
  vocabSize: number;
  /** Whether text is lower-cased: "uncased". */
  lowercase: boolean;
  /** How many sentinels `<sen000>` … follow the vocabulary: the block length. */
  sentinels: number;
  /** How much of `lines` is used, in UTF-16 units (default 1,000,000,000). */
  sample?: number;
}

const SAMPLE = 1_000_000_000;
/** A pair seen once would make a piece that is never used again. */
const MIN_COUNT = 2;

/**
 * Trains a tokenizer and returns it as a standard tokenizer.json, which `@huggingface/tokenizers` and
 * Python `tokenizers` load with the same ids.
 *
 * Ids: the four {@link SPECIAL_TOKENS}, the 256 bytes, the learned pieces in order of their making,
 * the sentinels. The result depends on the lines only; ties go to the pair with the lower ids.
 *
 * @throws {UserError} if the vocabulary is smaller than the bytes need, or larger than the text
 * supports (then it says how large it can be)
 *
 * @example
 * ```ts
 * import { Tokenizer, trainTokenizer } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const lines = ["low lower lowest", "new newer newest"];
 * const json = await trainTokenizer(lines, { vocabSize: 264, lowercase: true, sentinels: 0 });
 * assert.ok(new Tokenizer(json).encode("Lowest").length < 6);
 * ```
 */
export async function trainTokenizer(
  lines: AsyncIterable<string> | Iterable<string>,
  { vocabSize, lowercase, sentinels, sample = SAMPLE }: TokenizerOptions,
): Promise<TokenizerJson> {
  const smallest = SPECIAL_TOKENS.length + BYTE_SYMBOLS.length;
  if (!Number.isInteger(vocabSize) || vocabSize < smallest) {
    const need = `at least ${smallest} (4 special tokens and 256 bytes)`;
    throw new UserError(`vocabulary size: expected a whole number, ${need}, got ${vocabSize}`);
  }
  const added = Array.from({ length: sentinels }, (_, i) => sentinelName(i));
  const reserved = [...SPECIAL_TOKENS, ...added];
  const counts = await countWords(lines, lineSplitter(lowercase, reserved, byteLevelWords), sample);
  const alphabet = [...BYTE_SYMBOLS].sort((a, b) => a < b ? -1 : 1);
  const pieces = [...SPECIAL_TOKENS, ...alphabet];
  const merges = learnMerges(counts, pieces, vocabSize, new Set(reserved));
  if (pieces.length < vocabSize) {
    const supported = `this text supports at most ${pieces.length} (every pair seen twice is used)`;
    throw new UserError(
      `vocabulary size ${vocabSize}: ${supported}; choose a smaller size or more text`,
    );
  }
  return bpeJson(pieces, merges, added, lowercase);
}

function bpeJson(
  pieces: string[],
  merges: string[],
  sentinels: string[],
  lowercase: boolean,
): TokenizerJson {
  return tokenizerJson({
    normalizer: normalizerJson(lowercase),
    // A leading space makes a line's first word the same piece as elsewhere, as in SentencePiece.
    spaces: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: "<unk>",
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(pieces.map((piece, id) => [piece, id])),
      merges,
    },
    vocabSize: pieces.length,
    sentinels,
  });
}

/** The words of a text, split exactly as encoding splits them. */
function byteLevelWords(text: string): string[] {
  return (text.startsWith(" ") ? text : " " + text).match(WORD)!;
}

/** Pairs of ids as one number, ordered as the pairs are. */
const PAIR = 2 ** 21;

/** All distinct words as runs of piece ids in one array; merging shortens a run in place. */
interface Words {
  ids: Int32Array;
  starts: Int32Array;
  lengths: Int32Array;
  counts: Float64Array;
}

/** How often each pair occurs, and in which words it may: a word stays listed when it loses it. */
interface Pairs {
  counts: Map<number, number>;
  words: Map<number, number[]>;
}

/** Appends pieces to `pieces` until there are `size` or no pair is frequent; returns the merges. */
function learnMerges(
  wordCounts: Map<string, number>,
  pieces: string[],
  size: number,
  reserved: Set<string>,
): string[] {
  const words = layOut(wordCounts, pieces);
  wordCounts.clear();
  const pairs = countPairs(words);
  const queue = new Heap<{ pair: number; count: number }>((a, b) =>
    a.count > b.count || (a.count === b.count && a.pair < b.pair)
  );
  for (const [pair, count] of pairs.counts) queue.push({ pair, count });
  const merges: string[] = [];
  while (pieces.length < size) {
    const top = queue.pop();
    if (top === undefined) break;
    const count = pairs.counts.get(top.pair) ?? 0;
    if (count < MIN_COUNT) continue;
    if (count < top.count) {
      queue.push({ pair: top.pair, count });
      continue;
    }
    const [left, right] = [Math.floor(top.pair / PAIR), top.pair % PAIR];
    const piece = pieces[left] + pieces[right];
    // In a vocabulary two entries with one text would be one.
    if (reserved.has(piece)) continue;
    const grown = replacePair(words, pairs, left, right, pieces.length);
    pieces.push(piece);
    merges.push(`${pieces[left]} ${pieces[right]}`);
    for (const pair of grown) queue.push({ pair, count: pairs.counts.get(pair) ?? 0 });
  }
  return merges;
}

function layOut(wordCounts: Map<string, number>, pieces: string[]): Words {
  const idOf = new Map(pieces.map((piece, id) => [piece, id]));
  const byteIds = BYTE_SYMBOLS.map((symbol) => idOf.get(symbol)!);
  let total = 0;
  for (const word of wordCounts.keys()) total += 3 * word.length;
  const words: Words = {
    ids: new Int32Array(total),
    starts: new Int32Array(wordCounts.size),
    lengths: new Int32Array(wordCounts.size),
    counts: new Float64Array(wordCounts.size),
  };
  const utf8 = new TextEncoder();
  const bytes = new Uint8Array(3 * MAX_WORD);
  let word = 0;
  let at = 0;
  for (const [text, count] of wordCounts) {
    const { written } = utf8.encodeInto(text, bytes);
    words.starts[word] = at;
    words.lengths[word] = written;
    words.counts[word++] = count;
    for (let i = 0; i < written; i++) words.ids[at++] = byteIds[bytes[i]];
  }
  return words;
}

function countPairs(words: Words): Pairs {
  const pairs: Pairs = { counts: new Map(), words: new Map() };
  for (let word = 0; word < words.counts.length; word++) {
    const start = words.starts[word];
    for (let i = start; i + 1 < start + words.lengths[word]; i++) {
      addPair(pairs, words.ids[i] * PAIR + words.ids[i + 1], word, words.counts[word]);
    }
  }
  return pairs;
}

function addPair({ counts, words }: Pairs, pair: number, word: number, count: number): void {
  counts.set(pair, (counts.get(pair) ?? 0) + count);
  const list = words.get(pair);
  if (list === undefined) words.set(pair, [word]);
  else if (list[list.length - 1] !== word) list.push(word);
}

/** Joins `left right` to `joined` in every word; returns the pairs that became more frequent. */
function replacePair(
  words: Words,
  pairs: Pairs,
  left: number,
  right: number,
  joined: number,
): Set<number> {
  const grown = new Set<number>();
  const { ids, starts, lengths, counts } = words;
  const listed = pairs.words.get(left * PAIR + right) ?? [];
  pairs.words.delete(left * PAIR + right);
  for (const word of listed) {
    const start = starts[word];
    const end = start + lengths[word];
    const count = counts[word];
    const lose = (pair: number): void => {
      const rest = pairs.counts.get(pair)! - count;
      if (rest > 0) pairs.counts.set(pair, rest);
      else pairs.counts.delete(pair) && pairs.words.delete(pair);
    };
    const gain = (pair: number): void => {
      addPair(pairs, pair, word, count);
      grown.add(pair);
    };
    let to = start;
    for (let from = start; from < end; from++, to++) {
      if (ids[from] !== left || from + 1 === end || ids[from + 1] !== right) {
        ids[to] = ids[from];
        continue;
      }
      if (to > start) {
        lose(ids[to - 1] * PAIR + left);
        gain(ids[to - 1] * PAIR + joined);
      }
      if (from + 2 < end) {
        lose(right * PAIR + ids[from + 2]);
        gain(joined * PAIR + ids[from + 2]);
      }
      ids[to] = joined;
      from++;
    }
    lengths[word] = to - start;
  }
  pairs.counts.delete(left * PAIR + right);
  return grown;
}
