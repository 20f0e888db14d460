/**
 * Python's `textwrap`, as the filter `wordwrap` uses it.
 *
 * @module
 */
import { spend } from "./limits.ts";
import { countPoints, slicePoints, strip } from "./text.ts";

const LETTER = "[\\p{L}\\p{Nl}\\p{No}_]";
const WORD = "[\\p{L}\\p{N}_]";
/** Before two hyphens and more stands a word or its punctuation. */
const BEFORE_DASH = `[\\p{L}\\p{N}_!"'&.,?]`;
/** Behind the hyphen of a compound, and around dashes between words. */
const BREAKS = new RegExp(
  [
    `(?<=${LETTER}{2}-|${LETTER}-${LETTER}-)(?=${LETTER}-?${LETTER})`,
    `(?<=${BEFORE_DASH})(?=-{2,}${WORD})`,
    `(?<=${BEFORE_DASH}-{2,})(?=${WORD})`,
  ].join("|"),
  "u",
);

/**
 * A line cut into lines of at most so many code points.
 *
 * @param options `breakLong`: cut words that are longer; `onHyphens`: compounds may be parted
 *
 * @example
 * ```ts
 * import { wrapped } from "./wrap.ts";
 * import assert from "node:assert/strict";
 *
 * const lines = wrapped("a well-known word", 8, { breakLong: true, onHyphens: true });
 * assert.deepEqual(lines, ["a well-", "known", "word"]);
 * ```
 */
export function wrapped(
  line: string,
  width: number,
  options: { breakLong: boolean; onHyphens: boolean },
): string[] {
  spend(line.length * 2);
  const chunks = chunksOf(line, options.onHyphens);
  const lines: string[] = [];
  for (let at = 0; at < chunks.length;) {
    let current = "";
    // White space goes at the beginning of all lines but the first.
    if (isBlank(chunks[at]) && lines.length > 0) at++;
    let length = 0;
    for (; at < chunks.length; at++) {
      const size = countPoints(chunks[at]);
      if (length + size > width) break;
      current += chunks[at];
      length += size;
    }
    if (at < chunks.length && countPoints(chunks[at]) > width) {
      const end = options.breakLong ? cutAt(chunks[at], width - length, options.onHyphens) : 0;
      if (end > 0) {
        current += slicePoints(chunks[at], 0, end);
        chunks[at] = slicePoints(chunks[at], end);
      } else if (current === "") current = chunks[at++];
    }
    const kept = trimmedEnd(current);
    if (kept !== "") lines.push(kept);
  }
  return lines;
}

function isBlank(chunk: string): boolean {
  return strip(chunk) === "";
}

/** The last chunk of a line goes if it is blank. */
function trimmedEnd(line: string): string {
  return line.replace(/[\t\n\v\f\r ]+$/, "");
}

/** White space and words in turn. */
function chunksOf(line: string, onHyphens: boolean): string[] {
  const chunks = line.split(/([\t\n\v\f\r ]+)/).filter((chunk) => chunk !== "");
  return onHyphens ? chunks.flatMap((chunk) => chunk.split(BREAKS)) : chunks;
}

/** Where a word is cut that no line holds. */
function cutAt(word: string, room: number, onHyphens: boolean): number {
  const start = slicePoints(word, 0, room);
  const hyphen = onHyphens ? start.lastIndexOf("-") : -1;
  if (hyphen > 0 && /[^-]/.test(start.slice(0, hyphen))) {
    return countPoints(start.slice(0, hyphen)) + 1;
  }
  return room;
}
