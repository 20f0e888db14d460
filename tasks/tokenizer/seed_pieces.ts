/**
 * The pieces that training a Unigram model starts from.
 *
 * @module
 */
import { ENDS, type Piece, type Words } from "./lattice.ts";
import { repeats } from "./suffix_array.ts";
import { SPACE_SYMBOL } from "./unigram.ts";

// SentencePiece's settings; a piece's length in characters.
const MAX_PIECE = 16;
const MAX_SEEDS = 1_000_000;

/**
 * Every character, and the substrings of words with the largest frequency × length, scored by it.
 *
 * A substring has to go on in two ways, as in SentencePiece: a word that a space always follows is
 * none, but one that also ends a line is.
 *
 * A piece keeps to one script, as in SentencePiece: no letter stands beside punctuation, a digit or a
 * letter of another script.
 */
export function seedPieces(words: Words): Piece[] {
  const weights = new Float64Array(words.symbols.length);
  words.counts.forEach((count, word) => {
    weights.fill(count, words.starts[word], words.starts[word + 1]);
  });
  const single = new Float64Array(words.alphabet.length);
  words.symbols.forEach((symbol, i) => single[symbol] += weights[i]);
  const characters = words.alphabet.slice(ENDS).map((_, i) => (
    { symbols: Int32Array.of(i + ENDS), score: single[i + ENDS] }
  ));
  const scripts = words.alphabet.map(scriptOf);
  const substrings: Piece[] = [];
  for (const { start, length, count } of repeats(words.symbols, weights, MAX_PIECE)) {
    const symbols = words.symbols.subarray(start, start + length);
    if (length > 1 && isOneScript(symbols, scripts)) {
      substrings.push({ symbols, score: count * length });
    }
  }
  substrings.sort((a, b) => b.score - a.score);
  const seeds = [...characters, ...substrings.slice(0, MAX_SEEDS)];
  const total = seeds.reduce((sum, { score }) => sum + score, 0);
  for (const seed of seeds) seed.score = Math.log(seed.score / total);
  return seeds;
}

/** The space symbol may begin a piece of any script. */
const ANY_SCRIPT = -2;
const SCRIPTS = [
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\u30fc]/u,
  ...["Common", "Inherited", "Latin", "Greek", "Cyrillic", "Armenian", "Hebrew", "Arabic"],
  ...["Devanagari", "Bengali", "Tamil", "Telugu", "Thai", "Georgian", "Hangul", "Ethiopic"],
].map((script) => script instanceof RegExp ? script : new RegExp(`\\p{Script=${script}}`, "u"));

/** A number for the script of a character; punctuation and digits are one, rare scripts another. */
function scriptOf(character: string): number {
  return character === SPACE_SYMBOL
    ? ANY_SCRIPT
    : SCRIPTS.findIndex((script) => script.test(character));
}

function isOneScript(symbols: Int32Array, scripts: number[]): boolean {
  const script = scripts[symbols[symbols.length - 1]];
  return symbols.every((symbol) => scripts[symbol] === script || scripts[symbol] === ANY_SCRIPT);
}
