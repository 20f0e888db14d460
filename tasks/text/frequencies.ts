/**
 * How often tokens occur in packed text.
 *
 * @module
 */

import type { BlockSource } from "./packed.ts";

/** Tokens that are counted to know their frequencies. */
const FREQUENCY_SAMPLE = 1_000_000;

/** Share of the held-out tokens that are the most frequent token of the training part. */
export function mostFrequentShare(train: BlockSource, heldout: BlockSource): number {
  const [[best]] = [...countTokens(train)].sort(([, a], [, b]) => b - a);
  const there = countTokens(heldout);
  return (there.get(best) ?? 0) / [...there.values()].reduce((sum, n) => sum + n, 0);
}

/** How often each token occurs, among {@link FREQUENCY_SAMPLE} tokens or a few more. */
export function countTokens(part: BlockSource): Map<number, number> {
  const counts = new Map<number, number>();
  for (let i = 0, total = 0; i < part.count && total < FREQUENCY_SAMPLE; i++) {
    for (const token of part.read(i, 0)) counts.set(token, (counts.get(token) ?? 0) + 1);
    total += part.length(i, 0);
  }
  return counts;
}
