/**
 * Kinds of characters, as Rust's `char`, its `regex` and Oniguruma have them.
 *
 * @module
 */

/** What Rust's `\w` matches, to be put into the brackets of an expression. */
export const WORD_CHARACTERS = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";

const SPACE = /\p{White_Space}/u;
/** ASCII that is neither letter, digit, space nor control, and Unicode's punctuation. */
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/u;
const NUMERIC = /\p{N}/u;

/** Whether a character is white space. */
export function isSpace(character: string): boolean {
  return SPACE.test(character);
}

/** Whether a character is punctuation, or an ASCII symbol. */
export function isPunctuation(character: string): boolean {
  return PUNCTUATION.test(character);
}

/** Whether a character is a digit or another number. */
export function isNumeric(character: string): boolean {
  return NUMERIC.test(character);
}

/** A text without white space at its beginning or its end. */
export function trimmed(text: string, left: boolean, right: boolean): string {
  let start = 0, end = text.length;
  while (left && start < end && isSpace(text[start])) start++;
  while (right && end > start && isSpace(text[end - 1])) end--;
  return text.slice(start, end);
}

/** Lower case, each character by itself: Σ is σ at the end of a word, too. */
export function lowerCased(text: string): string {
  return text.replaceAll("\u03a3", "\u03c3").toLowerCase();
}
