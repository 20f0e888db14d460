/**
 * The distinct words of a corpus of any size, counted in bounded memory, and laid out for a Unigram
 * model to learn from.
 *
 * @module
 */
import { compileNormalizer, literalPattern, normalizerJson } from "./byte_level.ts";
import { OTHER_FOLLOWS, SPACE_FOLLOWS, type Words } from "./lattice.ts";

/** Stands behind the last word of a line where that matters: no space follows that word. */
export const LINE_END = "\n";
/** Beyond this many distinct words the rare ones are dropped: a bound on memory. */
const MAX_WORDS = 2_000_000;
/** Longer words, UTF-16 units, are data rather than language (links, base64): not learned from. */
export const MAX_WORD = 100;

/**
 * Splits a line into words as encoding does: special tokens stand apart, then text is normalised.
 *
 * @param lowercase whether text is lower-cased
 * @param reserved the special tokens
 * @param words the words of a normalised text that is not empty
 *
 * @example
 * ```ts
 * import { lineSplitter } from "./words.ts";
 * import assert from "node:assert/strict";
 *
 * const split = lineSplitter(true, ["</s>"], (text) => text.split("-"));
 * assert.deepEqual(split("Well-Known</s>ﬁsh"), ["well", "known", "fish"]);
 * ```
 */
export function lineSplitter(
  lowercase: boolean,
  reserved: string[],
  words: (text: string) => string[],
): (line: string) => string[] {
  const normalize = compileNormalizer(normalizerJson(lowercase))!;
  const special = literalPattern(reserved)!;
  return (line) =>
    line.split(special).map(normalize).flatMap((text) => text === "" ? [] : words(text));
}

/**
 * Counts words, in the order in which they are first met.
 *
 * @param lines the text
 * @param split the words of one line
 * @param sample how much of `lines` is read, in UTF-16 units
 *
 * @example
 * ```ts
 * import { countWords } from "./words.ts";
 * import assert from "node:assert/strict";
 *
 * const counts = await countWords(["a b", "b"], (line) => line.split(" "), 1000);
 * assert.deepEqual([...counts], [["a", 1], ["b", 2]]);
 * ```
 */
export async function countWords(
  lines: AsyncIterable<string> | Iterable<string>,
  split: (line: string) => Iterable<string>,
  sample: number,
): Promise<Map<string, number>> {
  const counts = new Map<string, number>();
  let read = 0;
  for await (const line of lines) {
    for (const word of split(line)) {
      const count = counts.get(word);
      if (count !== undefined) counts.set(word, count + 1);
      else if (word.length <= MAX_WORD) counts.set(copy(word), 1);
    }
    if (counts.size > MAX_WORDS) dropRare(counts, MAX_WORDS / 2);
    if ((read += line.length) >= sample) break;
  }
  return counts;
}

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A match is a view that would keep its whole line alive. */
function copy(word: string): string {
  return fromUtf8.decode(utf8.encode(word));
}

function dropRare(counts: Map<string, number>, keep: number): void {
  for (let rare = 1; counts.size > keep; rare++) {
    for (const [word, count] of counts) if (count <= rare) counts.delete(word);
  }
}

/**
 * Words as runs of symbols. A character that is too rare to be covered cuts a word in two.
 *
 * @param wordCounts the words with their counts; {@link LINE_END} may stand behind a word
 * @param coverage share of all characters that get a symbol, the most frequent first
 *
 * @example
 * ```ts
 * import { layOut } from "./words.ts";
 * import assert from "node:assert/strict";
 *
 * const { symbols, counts, alphabet } = layOut(new Map([["ba", 9], ["aqb\n", 1]]), 0.9);
 * assert.deepEqual(alphabet, ["", "", "a", "b"]);
 * assert.deepEqual([...symbols], [3, 2, 0, 2, 1, 3, 1]);
 * assert.deepEqual([...counts], [9, 1, 1]);
 * ```
 */
export function layOut(wordCounts: Map<string, number>, coverage: number): Words {
  const alphabet = ["", "", ...coveredCharacters(wordCounts, coverage)];
  const symbolOf = new Map(alphabet.map((character, symbol) => [character, symbol]));
  const symbols: number[] = [];
  const starts = [0];
  const counts: number[] = [];
  for (const [word, count] of wordCounts) {
    const endWord = (end: number) => {
      if (symbols.length === starts[starts.length - 1]) return;
      symbols.push(end);
      starts.push(symbols.length);
      counts.push(count);
    };
    for (const character of word) {
      const symbol = symbolOf.get(character);
      if (symbol !== undefined) symbols.push(symbol);
      else endWord(OTHER_FOLLOWS);
    }
    endWord(SPACE_FOLLOWS);
  }
  return {
    symbols: Int32Array.from(symbols),
    starts: Int32Array.from(starts),
    counts: Float64Array.from(counts),
    alphabet,
  };
}

/** The most frequent characters, until they make up the share; in a fixed order. */
function coveredCharacters(wordCounts: Map<string, number>, coverage: number): string[] {
  const counts = new Map<string, number>();
  let total = 0;
  for (const [word, count] of wordCounts) {
    for (const character of word) {
      if (character === LINE_END) continue;
      counts.set(character, (counts.get(character) ?? 0) + count);
      total += count;
    }
  }
  const byCount = [...counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1));
  let covered = 0;
  const kept = byCount.filter(([, count]) => {
    if (covered >= coverage * total) return false;
    covered += count;
    return true;
  });
  return kept.map(([character]) => character).sort();
}
