/**
 * Unigram segmentation: the most probable split of a text into pieces, exactly as SentencePiece finds
 * it, rounding and ties included.
 *
 * @module
 */

/** A piece and its log-probability. */
export type ScoredPiece = readonly [piece: string, score: number];

/** What a {@link Unigram} is made of. */
export interface UnigramSpec {
  /** All pieces, by id; a space is ▁. */
  pieces: readonly ScoredPiece[];
  /** The id that stands for what no piece covers. */
  unk: number;
  /** Ids that never match: control tokens, unused pieces. */
  unmatched?: Iterable<number>;
  /** Ids of pieces that are taken whole wherever they stand. */
  userDefined?: Iterable<number>;
  /** Whether every ▁ starts a word, even where a piece has one inside. */
  split?: boolean;
  /**
   * Whether a path's score is rounded to float32 before it is compared, not only when it is kept.
   * SentencePiece's search over a lattice rounds first, its later search without one does not: this
   * decides ties.
   */
  lattice?: boolean;
  /**
   * Whether scores are added in double precision, each word by itself, as Rust `tokenizers` does; what is
   * given beside `pieces`, `unk` and `split` means nothing then.
   */
  double?: boolean;
}

/** How a space is written. */
export const SPACE_SYMBOL = "▁";

/** How much less probable the unknown piece is than the least probable piece. */
const UNKNOWN_PENALTY = 10;
/** FLT_MIN: SentencePiece's greatest score is never below it, so a user-defined piece costs 0.1. */
const SMALLEST_FLOAT = 2 ** -126;
const USER_DEFINED_COST = 0.1;
/** Distinct words kept with their ids; the cache starts afresh when it is full. */
const CACHED_WORDS = 1 << 18;
/** Longer words are rarely seen twice. UTF-16 units. */
const CACHED_LENGTH = 64;
const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** A segmented word. */
interface Word {
  ids: Uint32Array;
  /** The sum of its pieces' scores. */
  score: number;
  /**
   * SentencePiece adds up a text's scores in float32, so a close decision can depend on how much
   * came before. Up to this magnitude of the sum so far it cannot, and the word is segmented so.
   */
  limit: number;
}

/**
 * A vocabulary of scored pieces.
 *
 * @example
 * ```ts
 * import { Unigram } from "./unigram.ts";
 * import assert from "node:assert/strict";
 *
 * const pieces = [["<unk>", 0], ["▁", -3], ["▁a", -2], ["ab", -1], ["b", -3]] as const;
 * const unigram = new Unigram({ pieces, unk: 0, unmatched: [0] });
 * assert.deepEqual([...unigram.encode("▁ab▁a")], [1, 3, 2]);
 * ```
 */
export class Unigram {
  #trie: Trie;
  #scores: Float64Array;
  /** The largest magnitude of a score. */
  #largest: number;
  #unk: number;
  /** Stands for what no piece covers: the unknown piece itself may be spelled out. */
  #uncovered: number;
  #cut: boolean;
  #single: boolean;
  #double: boolean;
  #words = new Map<string, Word>();
  /** By end of a piece: the best score up to there, its lead, and that best path's last piece. */
  #best: Float32Array | Float64Array;
  #lead = new Float32Array(64);
  #start = new Int32Array(64);
  #id = new Int32Array(64);
  #out = new Uint32Array(1024);
  #length = 0;

  /** Builds the trie of pieces. */
  constructor(spec: UnigramSpec) {
    const { pieces, unk, unmatched = [], userDefined = [] } = spec;
    const { split = false, lattice = false, double = false } = spec;
    const never = new Set(double ? [] : [unk, ...unmatched]), whole = new Set(userDefined);
    const rounded = double ? (score: number) => score : Math.fround;
    const normal = pieces.filter((_, id) => !never.has(id) && !whole.has(id));
    let least = Infinity, greatest = SMALLEST_FLOAT;
    for (const [, score] of normal) {
      least = Math.min(least, rounded(score));
      greatest = Math.max(greatest, rounded(score));
    }
    const scores = pieces.map(([piece, score], id) => {
      if (!whole.has(id)) return rounded(score);
      return Math.fround(utf8.encode(piece).length * greatest) - USER_DEFINED_COST;
    });
    this.#scores = Float64Array.from([...scores, rounded(least - UNKNOWN_PENALTY)]);
    this.#largest = this.#scores.reduce((largest, score) => Math.max(largest, Math.abs(score)), 0);
    this.#unk = unk;
    this.#uncovered = pieces.length;
    this.#single = lattice;
    this.#double = double;
    this.#best = double ? new Float64Array(64) : new Float32Array(64);
    this.#trie = new Trie(pieces.flatMap(([piece], id) => never.has(id) ? [] : [[piece, id]]));
    this.#cut = split || !double && pieces.every(([piece], id) => {
          return never.has(id) || piece.lastIndexOf(SPACE_SYMBOL) <= 0;
        });
  }

  /** The ids of a normalised text, whose spaces are ▁; unknown characters in a row are one id. */
  encode(text: string): Uint32Array {
    this.#length = 0;
    let sum = 0; // Near enough for the limits.
    let exact = 0, counted = 0; // As SentencePiece adds it, over the first `counted` ids.
    for (let from = 0; from < text.length;) {
      const next = this.#cut ? text.indexOf(SPACE_SYMBOL, from + 1) : -1;
      const to = next < 0 ? text.length : next;
      const word = text.slice(from, to);
      let found = this.#words.get(word) ?? this.#segmentAnew(word);
      if (Math.abs(sum) > found.limit) {
        for (; counted < this.#length; counted++) {
          exact = Math.fround(exact + this.#scores[this.#out[counted]]);
        }
        found = this.#segment(word, exact);
      }
      this.#push(found.ids);
      sum += found.score;
      from = to;
    }
    return this.#double
      ? this.#out.slice(0, this.#length)
      : this.#out.slice(0, this.#merged(this.#out, this.#length));
  }

  #segmentAnew(word: string): Word {
    const segmented = this.#segment(word, 0);
    if (word.length > CACHED_LENGTH) return segmented;
    if (this.#words.size >= CACHED_WORDS) this.#words.clear();
    // A slice would keep its whole text alive; decoding makes a copy.
    this.#words.set(fromUtf8.decode(utf8.encode(word)), segmented);
    return segmented;
  }

  /** Viterbi from left to right; `before` is the score of what precedes. */
  #segment(word: string, before: number): Word {
    const size = word.length;
    if (size >= this.#best.length) this.#growScratch(size);
    this.#start.fill(-1, 0, size + 1);
    this.#best[0] = before;
    for (let at = 0; at < size;) {
      const character = word.codePointAt(at)! > 0xffff ? 2 : 1;
      let single = false;
      for (let node = 0, end = at; end < size;) {
        node = this.#trie.child(node, word.charCodeAt(end++));
        if (node < 0) break;
        const id = this.#trie.ids[node];
        if (id < 0) continue;
        this.#offer(at, end, id);
        if (end === at + character) single = true;
      }
      if (!single) this.#offer(at, at + character, this.#uncovered);
      at += character;
    }
    return this.#trace(size);
  }

  /** A path that ends in piece `id`, from `start` to `end`: kept if better than those before it. */
  #offer(start: number, end: number, id: number): void {
    const sum = this.#best[start] + this.#scores[id];
    const score = this.#single ? Math.fround(sum) : sum;
    const lead = this.#start[end] < 0 ? Infinity : score - this.#best[end];
    if (lead > 0) {
      this.#best[end] = score;
      this.#start[end] = start;
      this.#id[end] = id;
      this.#lead[end] = lead;
    } else this.#lead[end] = Math.min(this.#lead[end], -lead);
  }

  #trace(size: number): Word {
    const ids: number[] = [];
    let score = 0, lead = Infinity;
    for (let end = size; end > 0; end = this.#start[end]) {
      ids.push(this.#id[end]);
      score += this.#scores[this.#id[end]];
      lead = Math.min(lead, this.#lead[end]);
    }
    // Each of at most size + 1 additions rounds sums of at most `limit` plus the word's own: a lead
    // of more than all the roundings on both sides stands.
    const own = size * this.#largest;
    const limit = lead === Infinity || this.#double ? Infinity : lead * 2 ** 22 / (size + 1) - own;
    const found = Uint32Array.from(ids.reverse());
    if (!this.#double) return { ids: found, score, limit };
    return { ids: found.slice(0, this.#merged(found, found.length)), score, limit };
  }

  /** Makes unknown ids in a row one, in place; returns how many ids are left. */
  #merged(ids: Uint32Array, count: number): number {
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const id = ids[i] === this.#uncovered ? this.#unk : ids[i];
      if (id !== this.#unk || kept === 0 || ids[kept - 1] !== id) ids[kept++] = id;
    }
    return kept;
  }

  #push(ids: Uint32Array): void {
    if (this.#length + ids.length > this.#out.length) {
      const larger = new Uint32Array((this.#length + ids.length) * 2);
      larger.set(this.#out);
      this.#out = larger;
    }
    for (let i = 0; i < ids.length; i++) this.#out[this.#length++] = ids[i];
  }

  #growScratch(size: number): void {
    this.#best = this.#double ? new Float64Array(2 * size) : new Float32Array(2 * size);
    this.#lead = new Float32Array(2 * size);
    this.#start = new Int32Array(2 * size);
    this.#id = new Int32Array(2 * size);
  }
}

/** Pieces by their UTF-16 units; the children of a node lie side by side, in order. Node 0 is the root. */
export class Trie {
  /** The piece that ends in each node, or -1. */
  readonly ids: Int32Array;
  #units: Uint16Array;
  /** Where each node's children start; they end where the next node's start. */
  #children: Int32Array;

  constructor(pieces: [piece: string, id: number][]) {
    const sorted = [...pieces].sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0);
    const ids = [-1], units = [0], children: number[] = [];
    // Each node, in order of length, is a run of the sorted pieces with one beginning.
    const runs: [from: number, to: number, length: number][] = [[0, sorted.length, 0]];
    for (let node = 0; node < runs.length; node++) {
      let [from, to, length] = runs[node];
      children.push(runs.length);
      while (from < to && sorted[from][0].length === length) ids[node] = sorted[from++][1];
      while (from < to) {
        const unit = sorted[from][0].charCodeAt(length);
        let end = from + 1;
        while (end < to && sorted[end][0].charCodeAt(length) === unit) end++;
        runs.push([from, end, length + 1]);
        units.push(unit);
        ids.push(-1);
        from = end;
      }
    }
    this.ids = Int32Array.from(ids);
    this.#units = Uint16Array.from(units);
    this.#children = Int32Array.from([...children, runs.length]);
  }

  /** The child of a node that a unit leads to, or -1. */
  child(node: number, unit: number): number {
    let low = this.#children[node], high = this.#children[node + 1];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#units[middle] < unit) low = middle + 1;
      else high = middle;
    }
    return low < this.#children[node + 1] && this.#units[low] === unit ? low : -1;
  }
}
