/**
 * "Did you mean ...?": the nearest of the words that would have been right.
 *
 * @module
 */

/**
 * The word that was probably meant, or nothing when none is near: at most a third of the letters
 * (and two at least) mistyped, or a beginning of exactly one word.
 *
 * @example
 * ```ts
 * import { nearest } from "./nearest.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(nearest("upadtes", ["updates", "seed"]), "updates");
 * assert.equal(nearest("zebra", ["updates", "seed"]), undefined);
 * ```
 */
export function nearest(word: string, words: readonly string[]): string | undefined {
  const near = words
    .map((candidate) => ({ candidate, distance: editDistance(plain(word), plain(candidate)) }))
    .sort((a, b) => a.distance - b.distance)[0];
  if (near && near.distance <= Math.max(2, Math.floor(word.length / 3))) {
    // A short word is near everything: half of its letters must be right.
    if (near.distance * 2 <= word.length) return near.candidate;
  }
  const longer = words.filter((candidate) => plain(candidate).startsWith(plain(word)));
  return word.length > 1 && longer.length === 1 ? longer[0] : undefined;
}

/** Case and hyphens do not count as mistakes. */
function plain(word: string): string {
  return word.toLowerCase().replaceAll("-", "");
}

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`. */
function editDistance(a: string, b: string): number {
  const d = Array.from({ length: a.length + 1 }, (_, i) => [i, ...Array(b.length).fill(0)]);
  for (let j = 0; j <= b.length; j++) d[0][j] = j;
  for (let i = 1; i <= a.length; i++) {
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      d[i][j] = Math.min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) d[i][j] = Math.min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.length][b.length];
}
