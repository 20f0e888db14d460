/**
 * Several corpora as one: an epoch draws from each in proportion to its weight. Which block stands at a
 * place is computed, so that nothing in memory grows with the corpora.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { key, permute } from "../../ops/graph/random.ts";
import { numberText, percentText } from "../command/number_text.ts";
import { checkTextWeights } from "../config/pretrain.ts";
import type { BlockSource, PackedPart } from "./packed.ts";

/** Streams of randomness, so that the uses of one seed are independent. */
const PLACES = 0x706c6163;
const BLOCKS = 0x626c6f63;
const HELDOUT = 0x68656c64;

/**
 * How many blocks of each corpus an epoch uses. An epoch has about as many tokens as all corpora together,
 * shared out by weight.
 *
 * @param parts their training parts
 * @param weights above 0, of any sum
 * @returns at least 1 each
 * @throws {UserError} unusable weights, or a corpus without a block
 *
 * @example
 * ```ts
 * import { blocksPerEpoch } from "./mix.ts";
 * import assert from "node:assert/strict";
 *
 * const long = { count: 10, tokens: 1000 }, short = { count: 100, tokens: 1000 };
 * assert.deepEqual(blocksPerEpoch([long, short], [3, 1]), [15, 50]);
 * ```
 */
export function blocksPerEpoch(
  parts: readonly Pick<PackedPart, "count" | "tokens">[],
  weights: readonly number[],
): number[] {
  checkTextWeights(weights, parts.length);
  const empty = parts.findIndex(({ count }) => count === 0);
  if (empty >= 0) {
    throw new UserError(`--text: corpus ${empty + 1} has no block to train on; leave it out`);
  }
  const largest = Math.max(...weights); // weights whose sum overflows are weights, too
  const sum = weights.reduce((sum, weight) => sum + weight / largest, 0);
  const tokens = parts.reduce((sum, part) => sum + part.tokens, 0);
  return parts.map((part, c) => {
    const share = weights[c] / largest / sum;
    return Math.max(1, Math.round(share * tokens * part.count / part.tokens));
  });
}

/**
 * A mix of corpora to train on. Place `j` of the `k` places that a corpus of `n` blocks has in epoch `e`
 * is number `e·k + j` of an endless series of shuffled passes over the corpus: all its blocks are used
 * equally often before any is repeated. Places of all corpora are mixed, so that the first blocks of an
 * epoch are a fair sample of all of it.
 *
 * @param parts the corpora's training parts; closed with the mix
 * @param weights shares of an epoch's tokens: above 0, of any sum
 * @param seed of the order
 * @throws {UserError} unusable weights, or a corpus without a block
 *
 * @example
 * ```ts
 * import { mixCorpora } from "./mix.ts";
 * import assert from "node:assert/strict";
 *
 * const corpus = (id: number) => ({
 *   count: 4,
 *   tokens: 8,
 *   maxLength: 2,
 *   length: () => 2,
 *   read: () => Uint32Array.of(0, id),
 *   close: () => {},
 * });
 * const mix = mixCorpora([corpus(7), corpus(9)], [3, 1], 1);
 * const ids = Array.from({ length: mix.count }, (_, i) => mix.read(i, 0)[1]);
 * assert.deepEqual(ids.toSorted(), [7, 7, 7, 7, 7, 7, 9, 9]);
 * ```
 */
export function mixCorpora(
  parts: readonly PackedPart[],
  weights: readonly number[],
  seed: number,
): BlockSource {
  const places = blocksPerEpoch(parts, weights);
  return joined(parts, places, key(seed, PLACES), (c, place, epoch) => {
    const { count } = parts[c];
    const number = epoch * places[c] + place;
    return permute(number % count, count, key(seed, BLOCKS, c, Math.floor(number / count)));
  });
}

/**
 * The held-out parts of several corpora as one: every block once, in one order of all. The first blocks
 * are a fair sample of all parts, for evaluations that stop early.
 *
 * @param parts closed with the whole; one alone stays as it is
 *
 * @example
 * ```ts
 * import { mixedHeldout } from "./mix.ts";
 * import assert from "node:assert/strict";
 *
 * const corpus = (count: number) => ({
 *   count,
 *   tokens: 3 * count,
 *   maxLength: 3,
 *   length: () => 3,
 *   read: (i: number) => Uint32Array.of(0, i, 2),
 *   close: () => {},
 * });
 * assert.equal(mixedHeldout([corpus(5), corpus(2)]).count, 7);
 * ```
 */
export function mixedHeldout(parts: readonly PackedPart[]): BlockSource {
  if (parts.length === 1) return parts[0];
  return joined(parts, parts.map(({ count }) => count), key(HELDOUT), (_, place) => place);
}

/**
 * A mix in words, a line for each corpus.
 *
 * @param names of the corpora
 * @throws {UserError} unusable weights, or a corpus without a block
 *
 * @example
 * ```ts
 * import { describeMix } from "./mix.ts";
 * import assert from "node:assert/strict";
 *
 * const wiki = { count: 10, tokens: 1000 }, books = { count: 100, tokens: 1000 };
 * assert.deepEqual(describeMix([wiki, books], [3, 1], ["wiki", "books"]), [
 *   "wiki: 75.0 % of the tokens, 1.5 passes per epoch",
 *   "books: 25.0 % of the tokens, 0.50 passes per epoch",
 * ]);
 * ```
 */
export function describeMix(
  parts: readonly Pick<PackedPart, "count" | "tokens">[],
  weights: readonly number[],
  names: readonly string[],
): string[] {
  const places = blocksPerEpoch(parts, weights);
  const passes = places.map((k, c) => k / parts[c].count);
  const tokens = parts.map((part, c) => part.tokens * passes[c]);
  const total = tokens.reduce((a, b) => a + b);
  return names.map((name, c) => {
    const share = `${percentText(tokens[c] / total, 1, " %")} of the tokens`;
    return `${name}: ${share}, ${rounded(passes[c])} passes per epoch`;
  });
}

/** Parts behind one numbering: `places` of each in an epoch, all mixed; `blockAt` says what stands there. */
function joined(
  parts: readonly PackedPart[],
  places: readonly number[],
  order: number,
  blockAt: (part: number, place: number, epoch: number) => number,
): BlockSource {
  const count = places.reduce((a, b) => a + b, 0);
  const find = (i: number, epoch: number): [PackedPart, number] => {
    if (!(i >= 0 && i < count)) throw new RangeError(`block ${i}: there are ${count} blocks`);
    let place = permute(i, count, order), part = 0;
    while (place >= places[part]) place -= places[part++];
    return [parts[part], blockAt(part, place, epoch)];
  };
  return {
    count,
    maxLength: Math.max(...parts.map(({ maxLength }) => maxLength)),
    length(i, epoch) {
      const [part, block] = find(i, epoch);
      return part.length(block);
    },
    read(i, epoch) {
      const [part, block] = find(i, epoch);
      return part.read(block);
    },
    close() {
      for (const part of parts) part.close();
    },
  };
}

/** Two digits that matter, or all before the point: 2.3, 0.012, 140. */
function rounded(value: number): string {
  return numberText(value, (x) => x >= 10 ? x.toFixed(0) : x.toPrecision(2));
}
