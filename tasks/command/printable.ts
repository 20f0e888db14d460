/**
 * What comes from files, rows and models, as a terminal may be given it: no escape sequence, nothing that
 * moves the cursor, nothing that turns the order of what follows.
 *
 * @module
 */

/**
 * Characters that a terminal acts on instead of showing them: controls (ESC and the one-byte CSI among
 * them), what turns the direction of writing, line and paragraph separators, and halves of surrogate pairs.
 */
const ACTS = "\\p{Cc}\\p{Cs}\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069";
const IN_NAMES = new RegExp(`[${ACTS}]`, "gu");
const IN_TEXTS = new RegExp(`(?![\\n\\t])[${ACTS}]`, "gu");

/**
 * A name, on one line: characters that a terminal would act on are written out as `\u{…}`. Everything else
 * stays as it is, whatever script it is in.
 *
 * @example
 * ```ts
 * import { printable } from "./printable.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(printable("naïve 漢字 👩‍👧"), "naïve 漢字 👩‍👧");
 * assert.equal(printable("red\x1b[31m\n"), "red\\u{1b}[31m\\u{a}");
 * ```
 */
export function printable(name: string): string {
  return name.replace(IN_NAMES, written);
}

/**
 * A text of several lines: like {@link printable}, but line ends and tabs stay.
 *
 * @example
 * ```ts
 * import { printableText } from "./printable.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(printableText("one\n\ttwo\r\x9bm"), "one\n\ttwo\\u{d}\\u{9b}m");
 * ```
 */
export function printableText(text: string): string {
  return text.replace(IN_TEXTS, written);
}

function written(character: string): string {
  return `\\u{${character.codePointAt(0)!.toString(16)}}`;
}
