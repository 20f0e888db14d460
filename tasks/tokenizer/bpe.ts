/**
 * Byte-pair encoding of one word: repeatedly joins the adjacent pair with the lowest rank, the
 * leftmost first, until no pair is left that the vocabulary knows.
 *
 * @module
 */
import { Heap } from "./heap.ts";

/** Below this many bytes, looking at every pair again is faster than a heap. */
const SHORT = 64;
const NONE = 0x7fffffff;

/** The merges of a vocabulary, by the ids of the two pieces. */
export interface Merges {
  /** Rank of joining the pair (lower first), or a value ≥ 2³¹−1 if it is not joined. */
  rank(left: number, right: number): number;
  /** The id of the joined piece, by rank. */
  results: Uint32Array;
}

/**
 * A hash table from pairs of ids to ranks.
 *
 * @param pairs `[left, right, result]` ids in order of rank
 */
export function mergeTable(pairs: [number, number, number][]): Merges {
  const size = 1 << Math.max(4, Math.ceil(Math.log2(pairs.length * 2 + 1)));
  const keys = new Int32Array(size * 2).fill(-1);
  const ranks = new Int32Array(size).fill(NONE);
  const slot = (left: number, right: number): number => {
    let at = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 7 & (size - 1);
    while (keys[2 * at] >= 0 && (keys[2 * at] !== left || keys[2 * at + 1] !== right)) {
      at = (at + 1) & (size - 1);
    }
    return at;
  };
  pairs.forEach(([left, right], rank) => {
    const at = slot(left, right);
    keys[2 * at] = left;
    keys[2 * at + 1] = right;
    // A file may list a pair twice; the later rank counts, as in the reference.
    ranks[at] = rank;
  });
  return {
    rank: (left, right) => ranks[slot(left, right)],
    results: Uint32Array.from(pairs, ([, , result]) => result),
  };
}

/**
 * Joins the pieces of one word in place.
 *
 * @param pieces ids of the word's bytes; overwritten
 * @param count how many of `pieces` are in use
 * @returns how many pieces are left, at the front of `pieces`
 *
 * @example
 * ```ts
 * import { merge, mergeTable } from "./bpe.ts";
 * import assert from "node:assert/strict";
 *
 * const table = mergeTable([[1, 1, 2], [2, 1, 3]]); // aa, then aa+a
 * const word = Uint32Array.of(1, 1, 1, 1);
 * assert.deepEqual([...word.subarray(0, merge(word, 4, table))], [2, 2]);
 * ```
 */
export function merge(pieces: Uint32Array, count: number, merges: Merges): number {
  return count <= SHORT ? mergeShort(pieces, count, merges) : mergeLong(pieces, count, merges);
}

const shortRanks = new Int32Array(SHORT);

function mergeShort(pieces: Uint32Array, count: number, merges: Merges): number {
  const ranks = shortRanks;
  for (let i = 0; i + 1 < count; i++) ranks[i] = merges.rank(pieces[i], pieces[i + 1]);
  while (count > 1) {
    let best = 0;
    for (let i = 1; i + 1 < count; i++) if (ranks[i] < ranks[best]) best = i;
    if (ranks[best] === NONE) break;
    pieces[best] = merges.results[ranks[best]];
    count--;
    pieces.copyWithin(best + 1, best + 2, count + 1);
    ranks.copyWithin(best + 1, best + 2, count);
    if (best > 0) ranks[best - 1] = merges.rank(pieces[best - 1], pieces[best]);
    if (best + 1 < count) ranks[best] = merges.rank(pieces[best], pieces[best + 1]);
  }
  return count;
}

/** The same with a linked list and a heap: n log n, for words such as a megabyte of base64. */
function mergeLong(pieces: Uint32Array, count: number, merges: Merges): number {
  const next = Int32Array.from({ length: count }, (_, i) => i + 1);
  const previous = Int32Array.from({ length: count }, (_, i) => i - 1);
  const gone = new Uint8Array(count);
  const heap = new Heap<{ rank: number; at: number }>((a, b) =>
    a.rank < b.rank || (a.rank === b.rank && a.at < b.at)
  );
  const offer = (at: number): void => {
    if (at < 0 || next[at] >= count) return;
    const rank = merges.rank(pieces[at], pieces[next[at]]);
    if (rank !== NONE) heap.push({ rank, at });
  };
  for (let i = 0; i + 1 < count; i++) offer(i);
  for (let item = heap.pop(); item !== undefined; item = heap.pop()) {
    const { rank, at } = item;
    const right = next[at];
    // The neighbourhood may have changed since this was offered.
    if (gone[at] || right >= count || merges.rank(pieces[at], pieces[right]) !== rank) continue;
    pieces[at] = merges.results[rank];
    gone[right] = 1;
    next[at] = next[right];
    if (next[at] < count) previous[next[at]] = at;
    offer(previous[at]);
    offer(at);
  }
  let left = 0;
  for (let i = 0; i < count; i++) if (!gone[i]) pieces[left++] = pieces[i];
  return left;
}
