/**
 * A Unigram language model over words: every way of cutting a word into pieces, weighted by the
 * product of the pieces' probabilities (Kudo 2018, https://arxiv.org/abs/1804.10959, section 3).
 *
 * @module
 */

/** The symbol behind a word that a space follows. */
export const SPACE_FOLLOWS = 0;
/** The symbol behind a word that the end of its line follows, or a character without a symbol. */
export const OTHER_FOLLOWS = 1;
/** How many symbols end words; all others are characters. */
export const ENDS = 2;

/** The distinct words of a text; words that differ in what follows them are two. */
export interface Words {
  /** All words one after the other, as indices into `alphabet`; a symbol below ENDS ends each. */
  symbols: Int32Array;
  /** Where each word begins; one more entry than words, the last being the length of `symbols`. */
  starts: Int32Array;
  /** How often each word occurs. */
  counts: Float64Array;
  /** The characters, from index ENDS. */
  alphabet: string[];
}

/** A piece of a Unigram model. */
export interface Piece {
  /** Its characters, as in {@link Words}. */
  symbols: Int32Array;
  /** Its log probability. */
  score: number;
}

/** Pieces by their beginnings: which pieces start at a place of a word is one walk. */
class Trie {
  /** The piece that ends at each node, or -1. */
  readonly piece: Int32Array;
  /** A hash table of (parent, symbol, child, unused): a look-up touches one line of the cache. */
  readonly #slots: Int32Array;
  readonly #mask: number;
  #nodes = 1;

  constructor(pieces: readonly Piece[]) {
    // Beginnings are shared: in practice no more than half of the slots are used.
    const most = pieces.reduce((sum, { symbols }) => sum + symbols.length, 1);
    const size = 2 ** Math.ceil(Math.log2(most));
    this.#slots = new Int32Array(4 * size);
    this.#mask = size - 1;
    this.piece = new Int32Array(most).fill(-1);
    pieces.forEach(({ symbols }, id) => {
      let node = 0;
      for (const symbol of symbols) node = this.#childOrNew(node, symbol);
      this.piece[node] = id;
    });
  }

  /** The node after one more symbol, or 0. */
  child(node: number, symbol: number): number {
    return this.#slots[this.#slot(node, symbol) + 2];
  }

  #childOrNew(node: number, symbol: number): number {
    const at = this.#slot(node, symbol);
    if (this.#slots[at + 2] === 0) {
      this.#slots[at] = node;
      this.#slots[at + 1] = symbol;
      this.#slots[at + 2] = this.#nodes++;
    }
    return this.#slots[at + 2];
  }

  #slot(node: number, symbol: number): number {
    const slots = this.#slots;
    let slot = (Math.imul(node, 0x9e3779b1) ^ Math.imul(symbol, 0x85ebca6b)) >>> 7;
    for (;; slot++) {
      const at = 4 * (slot & this.#mask);
      if (slots[at + 2] === 0 || (slots[at] === node && slots[at + 1] === symbol)) return at;
    }
  }
}

/** The pieces that fit into one word, as edges between its places; reused from word to word. */
class Lattice {
  readonly #trie: Trie;
  readonly #scores: Float64Array;
  #length = 0;
  // Edges in order of `from`: the forward pass is one loop over them, the backward pass its reverse.
  #edges = 0;
  #from = new Int32Array(1024);
  #to = new Int32Array(1024);
  #piece = new Int32Array(1024);
  #forward = new Float64Array(128);
  #backward = new Float64Array(128);
  #via = new Int32Array(128);

  constructor(pieces: readonly Piece[]) {
    this.#trie = new Trie(pieces);
    this.#scores = Float64Array.from(pieces, ({ score }) => score);
  }

  /** Finds the pieces in `symbols[start … end)`. */
  read(symbols: Int32Array, start: number, end: number): void {
    this.#length = end - start;
    this.#edges = 0;
    if (this.#length >= this.#forward.length) this.#growPlaces();
    for (let from = start; from < end; from++) {
      for (let node = 0, to = from; to < end; to++) {
        node = this.#trie.child(node, symbols[to]);
        if (node === 0) break;
        const piece = this.#trie.piece[node];
        if (piece >= 0) this.#addEdge(from - start, to + 1 - start, piece);
      }
    }
  }

  #addEdge(from: number, to: number, piece: number): void {
    if (this.#edges === this.#from.length) {
      this.#from = doubled(this.#from);
      this.#to = doubled(this.#to);
      this.#piece = doubled(this.#piece);
    }
    this.#from[this.#edges] = from;
    this.#to[this.#edges] = to;
    this.#piece[this.#edges++] = piece;
  }

  #growPlaces(): void {
    this.#forward = new Float64Array(2 * this.#length);
    this.#backward = new Float64Array(2 * this.#length);
    this.#via = new Int32Array(2 * this.#length);
  }

  /** Adds `weight` × the expected number of each piece to `counts`; returns the word's log probability. */
  addExpected(weight: number, counts: Float64Array): number {
    const forward = this.#forward.fill(-Infinity, 0, this.#length + 1);
    const backward = this.#backward.fill(-Infinity, 0, this.#length + 1);
    forward[0] = backward[this.#length] = 0;
    for (let e = 0; e < this.#edges; e++) {
      const [from, to] = [this.#from[e], this.#to[e]];
      forward[to] = logAdd(forward[to], forward[from] + this.#score(e));
    }
    for (let e = this.#edges - 1; e >= 0; e--) {
      const [from, to] = [this.#from[e], this.#to[e]];
      backward[from] = logAdd(backward[from], backward[to] + this.#score(e));
    }
    const total = forward[this.#length];
    for (let e = 0; e < this.#edges; e++) {
      const through = forward[this.#from[e]] + this.#score(e) + backward[this.#to[e]];
      counts[this.#piece[e]] += weight * Math.exp(through - total);
    }
    return total;
  }

  /** The pieces of the most probable cut that does without one piece, last piece first. */
  best(without = -1): number[] {
    const forward = this.#forward.fill(-Infinity, 0, this.#length + 1);
    forward[0] = 0;
    for (let e = 0; e < this.#edges; e++) {
      const score = forward[this.#from[e]] + this.#score(e);
      if (score > forward[this.#to[e]] && this.#piece[e] !== without) {
        forward[this.#to[e]] = score;
        this.#via[this.#to[e]] = e;
      }
    }
    const pieces: number[] = [];
    if (forward[this.#length] === -Infinity) return pieces;
    for (let at = this.#length; at > 0; at = this.#from[this.#via[at]]) {
      pieces.push(this.#piece[this.#via[at]]);
    }
    return pieces;
  }

  #score(edge: number): number {
    return this.#scores[this.#piece[edge]];
  }
}

function doubled(array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  const larger = new Int32Array(2 * array.length);
  larger.set(array);
  return larger;
}

/** log(eᵃ + eᵇ). */
function logAdd(a: number, b: number): number {
  if (a < b) [a, b] = [b, a];
  return b === -Infinity ? a : a + Math.log1p(Math.exp(b - a));
}

/** What the E step finds out about a text. */
export interface Expectation {
  /** How often each piece is expected, over all cuts of all words. */
  counts: Float64Array;
  /** Log probability of the text. */
  logLikelihood: number;
}

/**
 * The E step: how often each piece is expected in a text, by the forward-backward algorithm over
 * each distinct word.
 *
 * @param pieces with every single character of the words among them
 *
 * @example
 * ```ts
 * import { expectedCounts } from "./lattice.ts";
 * import assert from "node:assert/strict";
 *
 * // "ab" three times, cut into a b with probability 1/4 or left whole with 1/4
 * const words = {
 *   symbols: Int32Array.of(2, 3, 0),
 *   starts: Int32Array.of(0, 3),
 *   counts: Float64Array.of(3),
 *   alphabet: ["", "", "a", "b"],
 * };
 * const piece = (symbols: number[], p: number) => (
 *   { symbols: Int32Array.from(symbols), score: Math.log(p) }
 * );
 * const { counts } = expectedCounts(words, [piece([2], 0.5), piece([3], 0.5), piece([2, 3], 0.25)]);
 * assert.deepEqual([...counts].map((count) => count.toFixed(6)), ["1.500000", "1.500000", "1.500000"]);
 * ```
 */
export function expectedCounts(words: Words, pieces: readonly Piece[]): Expectation {
  const lattice = new Lattice(pieces);
  const counts = new Float64Array(pieces.length);
  let logLikelihood = 0;
  for (let word = 0; word < words.counts.length; word++) {
    lattice.read(words.symbols, words.starts[word], words.starts[word + 1] - 1);
    logLikelihood += words.counts[word] * lattice.addExpected(words.counts[word], counts);
  }
  return { counts, logLikelihood };
}

/** Expected counts below this are as good as none. */
const LEAST_COUNT = 0.5;

/**
 * The M step: scores from expected counts, with the digamma function in place of the logarithm, a
 * prior that lets rare pieces wither (Liang & Klein 2007), and without the pieces that are hardly
 * expected at all. Single characters stay.
 */
export function maximise(pieces: readonly Piece[], counts: Float64Array): Piece[] {
  const kept: Piece[] = [];
  let total = 0;
  pieces.forEach(({ symbols }, id) => {
    if (counts[id] < LEAST_COUNT && symbols.length > 1) return;
    const count = Math.max(counts[id], LEAST_COUNT);
    total += count;
    kept.push({ symbols, score: digamma(count) });
  });
  const norm = digamma(total);
  for (const piece of kept) piece.score -= norm;
  return kept;
}

/**
 * The derivative of log Γ, for x > 0.
 *
 * @example
 * ```ts
 * import { digamma } from "./lattice.ts";
 * import assert from "node:assert/strict";
 *
 * const euler = 0.5772156649015329;
 * assert.ok(Math.abs(digamma(1) + euler) < 1e-12);
 * ```
 */
export function digamma(x: number): number {
  let shift = 0;
  // ψ(x) = ψ(x + 1) − 1/x brings x to where the asymptotic series is exact.
  for (; x < 12; x++) shift -= 1 / x;
  const y = 1 / (x * x);
  const series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))));
  return shift + Math.log(x) - 0.5 / x - series;
}

/**
 * Keeps the `size` most useful pieces: those whose loss would make the text least probable, if each
 * word were cut in its best way and the piece's occurrences by the piece's own second-best way. Single
 * characters stay.
 */
export function prune(words: Words, pieces: readonly Piece[], size: number): Piece[] {
  const lattice = new Lattice(pieces);
  const counts = new Float64Array(pieces.length);
  let total = 0;
  for (let word = 0; word < words.counts.length; word++) {
    lattice.read(words.symbols, words.starts[word], words.starts[word + 1] - 1);
    for (const piece of lattice.best()) {
      counts[piece] += words.counts[word];
      total += words.counts[word];
    }
  }
  const losses = pieces.map(({ symbols }, id) => {
    if (symbols.length === 1) return Infinity;
    if (counts[id] === 0) return 0;
    lattice.read(symbols, 0, symbols.length);
    const parts = lattice.best(id);
    const totalWithout = total + counts[id] * (parts.length - 1);
    const without = parts.reduce(
      (sum, part) => sum + Math.log((counts[part] + counts[id]) / totalWithout),
      0,
    );
    return counts[id] * (Math.log(counts[id] / total) - without);
  });
  return [...pieces.keys()]
    .sort((a, b) => order(losses[b], losses[a]) || pieces[b].score - pieces[a].score)
    .slice(0, size)
    .map((id) => pieces[id]);
}

/** A difference that is not a number between infinities. */
function order(a: number, b: number): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
