/**
 * Repeated substrings of a text, by sorting its suffixes.
 *
 * @module
 */
import { ENDS } from "./lattice.ts";

/**
 * The positions of a text in the order of the suffixes that begin there; suffixes that agree in
 * their first `depth` symbols stay in the order of the text.
 *
 * Sorts by prefix doubling: an order by h symbols gives the order by 2h symbols in linear time.
 *
 * @param symbols the text, as numbers ≥ 0, no larger than its length or a small alphabet
 * @param depth how many symbols of each suffix count; a suffix that ends sooner comes first
 *
 * @example
 * ```ts
 * import { suffixArray } from "./suffix_array.ts";
 * import assert from "node:assert/strict";
 *
 * const banana = Int32Array.from("banana", (letter) => letter.charCodeAt(0) - 96);
 * assert.deepEqual([...suffixArray(banana)], [5, 3, 1, 0, 4, 2]);
 * ```
 */
export function suffixArray(symbols: Int32Array, depth: number = symbols.length): Int32Array {
  const n = symbols.length;
  // Suffixes with one rank agree in their first `sorted` symbols.
  let rank = symbols.slice();
  let nextRank = new Int32Array(n);
  const bySecondHalf = new Int32Array(n).map((_, i) => i);
  const order = new Int32Array(n);
  let ranks = symbols.reduce((most, symbol) => Math.max(most, symbol), 0) + 1;
  let isSorted = n <= 1;
  sortByRank(bySecondHalf, rank, ranks, order);
  for (let sorted = 1; sorted < depth && !isSorted; sorted *= 2) {
    const step = Math.min(sorted, depth - sorted);
    let to = 0;
    for (let i = Math.max(0, n - step); i < n; i++) bySecondHalf[to++] = i;
    for (let i = 0; i < n; i++) if (order[i] >= step) bySecondHalf[to++] = order[i] - step;
    sortByRank(bySecondHalf, rank, ranks, order);
    const half = (i: number): number => i + step < n ? rank[i + step] : -1;
    ranks = 0;
    for (let i = 0; i < n; i++) {
      const [a, b] = [order[Math.max(0, i - 1)], order[i]];
      if (rank[a] !== rank[b] || half(a) !== half(b)) ranks++;
      nextRank[b] = ranks;
    }
    isSorted = ++ranks === n;
    [rank, nextRank] = [nextRank, rank];
  }
  return order;
}

/** A stable counting sort of positions by their ranks, which are below `ranks`. */
function sortByRank(from: Int32Array, rank: Int32Array, ranks: number, to: Int32Array): void {
  const starts = new Int32Array(ranks + 1);
  for (let i = 0; i < rank.length; i++) starts[rank[i] + 1]++;
  for (let r = 0; r < ranks; r++) starts[r + 1] += starts[r];
  for (let i = 0; i < from.length; i++) to[starts[rank[from[i]]]++] = from[i];
}

/** A substring, and how often it occurs in all. */
export interface Repeat {
  /** Where one occurrence begins. */
  start: number;
  /** Its length in symbols. */
  length: number;
  /** Sum of the weights of the positions where it begins. */
  count: number;
}

/**
 * The substrings of words that two or more different symbols follow, ends of words among them: the
 * inner nodes of the suffix tree. Any other repeated substring begins a longer one that occurs as
 * often.
 *
 * @param symbols words, each followed by a symbol below {@link ENDS}
 * @param weights what each position counts for: how often its word occurs
 * @param maxLength how many symbols a substring may have
 *
 * @example
 * ```ts
 * import { repeats } from "./suffix_array.ts";
 * import assert from "node:assert/strict";
 *
 * // "abc" once and "abd" twice; "d" always ends its word
 * const words = Int32Array.of(2, 3, 4, 0, 2, 3, 5, 0);
 * const weights = Float64Array.of(1, 1, 1, 1, 2, 2, 2, 2);
 * const found = [...repeats(words, weights, 16)].map(({ start, length, count }) => (
 *   `${words.subarray(start, start + length).join(" ")}: ${count}`
 * ));
 * assert.deepEqual(found, ["2 3: 3", "3: 3"]);
 * ```
 */
export function* repeats(
  symbols: Int32Array,
  weights: Float64Array,
  maxLength: number,
): Generator<Repeat> {
  // One symbol more tells what follows the longest.
  const order = suffixArray(symbols, maxLength + 1);
  // Open substrings, each a beginning of the next; a count grows until the substring is closed.
  const open: { length: number; count: number }[] = [{ length: 0, count: 0 }];
  for (let i = 0; i < order.length; i++) {
    const start = order[i];
    const shared = i + 1 < order.length
      ? commonPrefix(symbols, start, order[i + 1], maxLength + 1)
      : 0;
    let count = weights[start];
    while (open[open.length - 1].length > shared) {
      const { length, count: others } = open.pop()!;
      count += others;
      if (length <= maxLength && symbols[start + length - 1] >= ENDS) {
        yield { start, length, count };
      }
    }
    const last = open[open.length - 1];
    if (last.length < shared) open.push({ length: shared, count });
    else last.count += count;
  }
}

/** How many symbols two suffixes share, the end of a word being the last. */
function commonPrefix(symbols: Int32Array, a: number, b: number, most: number): number {
  let length = 0;
  while (length < most && symbols[a + length] === symbols[b + length]) {
    if (symbols[a + length++] < ENDS) break;
  }
  return length;
}
