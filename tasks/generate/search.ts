/**
 * The host's side of generation: which token comes next, given logits.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import type { Random } from "../../ops/graph/random.ts";
import type { Decoder, GreedyDecoder } from "./decoder.ts";

/** Tokens made for one prompt. */
export interface GeneratedIds {
  /** The tokens, the end token included if it came. */
  ids: number[];
  /** Sum of their log-probabilities. */
  score: number;
}

/** What every search is given. */
export interface SearchLimits {
  /** The token that ends a text. */
  end: number;
  /** The token that is never chosen: padding; −1 if any may be. */
  pad: number;
  /** Most tokens. */
  maxTokens: number;
  /** Whether log-probabilities need not be finite numbers. */
  allowNonfinite?: boolean;
}

/** The search for one prompt's tokens, in one or more rows of a decoder. */
export interface Search {
  /** True if nothing more is to be found. */
  readonly done: boolean;
  /** The token to be appended to each row, after {@link advance}. */
  readonly tokens: readonly number[];
  /** The row that each row goes on from, after {@link advance}. */
  readonly parents: readonly number[];
  /** Reads what comes after each row: logits, [rows, vocabulary]. */
  advance(logits: Float32Array): void;
  /** The best that was found. */
  result(): GeneratedIds;
}

/**
 * Runs searches side by side until all are done.
 *
 * @param source the prompts, u32 [prompts, source]; there may be more than searches
 * @param start the token that every text starts from
 */
export async function runSearches(
  decoder: Decoder,
  source: Uint32Array,
  searches: readonly Search[],
  start: number,
): Promise<GeneratedIds[]> {
  const { prompts, beams } = decoder.shape;
  const tokens = new Uint32Array(prompts * beams).fill(start);
  const parents = Uint32Array.from(tokens.keys(), (row) => row % beams);
  decoder.begin(source);
  while (!searches.every(({ done }) => done)) {
    const logits = await decoder.step(tokens, parents);
    const size = logits.length / prompts;
    for (const [i, search] of searches.entries()) {
      if (search.done) continue;
      search.advance(logits.subarray(i * size, (i + 1) * size));
      tokens.set(search.tokens, i * beams);
      parents.set(search.parents, i * beams);
    }
  }
  return searches.map((search) => search.result());
}

/** Chosen tokens are asked for about as often as this, in milliseconds. */
const PACE = 50;
/** Most steps at a time: what comes after the end of a text is made for nothing. */
const MOST_AHEAD = 16;

/**
 * The same for chains that take the most probable token: the device goes ahead and is seldom asked, as
 * often as a reader would notice.
 *
 * @param maxTokens most tokens of any chain
 */
export async function runGreedy(
  decoder: GreedyDecoder,
  source: Uint32Array,
  chains: readonly Chain[],
  start: number,
  maxTokens: number,
): Promise<GeneratedIds[]> {
  const { slots } = decoder.shape;
  decoder.begin(source);
  let made = 0, count = 1;
  while (!chains.every(({ done }) => done)) {
    const began = performance.now();
    const from = made;
    made = Math.min(from + count, maxTokens);
    const { ids, logProbs } = await decoder.ahead(start, made - from);
    for (const [row, chain] of chains.entries()) {
      for (let slot = from; slot < made && !chain.done; slot++) {
        chain.push(ids[row * slots + slot], logProbs[row * slots + slot]);
      }
    }
    const elapsed = performance.now() - began;
    if (elapsed < PACE / 2) count = Math.min(2 * count, MOST_AHEAD);
    else if (elapsed > 2 * PACE) count = Math.ceil(count / 2);
  }
  return chains.map((chain) => chain.result());
}

/** Takes one token after the other: the most probable, or a draw. */
export class Chain implements Search {
  /** Row 0 goes on from itself. */
  readonly parents: readonly number[] = [0];
  readonly #limits: SearchLimits;
  readonly #choose: (logits: Float32Array) => number;
  readonly #onIds?: (ids: readonly number[]) => void;
  readonly #ids: number[] = [];
  #score = 0;

  /**
   * Starts with an empty text.
   *
   * @param choose the token, from the logits of all
   * @param onIds called with all tokens so far whenever one has been added
   */
  constructor(
    limits: SearchLimits,
    choose: (logits: Float32Array) => number,
    onIds?: (ids: readonly number[]) => void,
  ) {
    this.#limits = limits;
    this.#choose = choose;
    this.#onIds = onIds;
  }

  get done(): boolean {
    const { end, maxTokens } = this.#limits;
    return this.#ids.length === maxTokens || this.#ids.at(-1) === end;
  }

  get tokens(): readonly number[] {
    return this.#ids.slice(-1);
  }

  advance(logits: Float32Array): void {
    const id = this.#choose(logits);
    this.push(id, logits[id] - logSumExp(logits));
  }

  /** Appends a token that was chosen elsewhere. */
  push(id: number, logProb: number): void {
    expectFinite(logProb, this.#limits);
    this.#ids.push(id);
    this.#score += logProb;
    this.#onIds?.(this.#ids);
  }

  result(): GeneratedIds {
    return { ids: this.#ids, score: this.#score };
  }
}

/** A beginning or a whole text that beam search has found. */
interface Hypothesis extends GeneratedIds {
  /** What texts are compared by. */
  rank: number;
}

/** A beginning, by one more token. */
interface Candidate {
  row: number;
  id: number;
  score: number;
}

/**
 * Beam search as in Hugging Face's transformers: of the 2·beams best continuations, those that end go to
 * a pool of at most `beams` whole texts, if they are among the first `beams`, and the first `beams`
 * others go on. It ends when the pool is full and the best beginning, ranked at its present length, is
 * no better than the worst text of the pool. Texts are ranked by score / length ^ penalty.
 */
export class Beams implements Search {
  readonly #limits: SearchLimits;
  readonly #beams: number;
  readonly #penalty: number;
  readonly #pool: Hypothesis[] = [];
  #live: GeneratedIds[] = [{ ids: [], score: 0 }];
  #parents: number[] = [];
  #full = false;

  /**
   * Starts with one empty beginning.
   *
   * @param beams how many beginnings are kept
   * @param penalty exponent of the length; more than 0 favours long texts
   */
  constructor(limits: SearchLimits, beams: number, penalty: number) {
    this.#limits = limits;
    this.#beams = beams;
    this.#penalty = penalty;
  }

  get done(): boolean {
    return this.#full || this.#live[0].ids.length === this.#limits.maxTokens;
  }

  get tokens(): readonly number[] {
    return this.#live.map(({ ids }) => ids.at(-1)!);
  }

  get parents(): readonly number[] {
    return this.#parents;
  }

  advance(logits: Float32Array): void {
    const candidates = this.#candidates(logits);
    const live: GeneratedIds[] = [], parents: number[] = [];
    for (const [place, { row, id, score }] of candidates.entries()) {
      const text = { ids: [...this.#live[row].ids, id], score };
      if (id === this.#limits.end) {
        if (place < this.#beams) this.#add(text);
      } else if (live.length < this.#beams) {
        live.push(text);
        parents.push(row);
      }
    }
    const best = this.#rank(candidates[0].score, live[0].ids.length);
    this.#full = this.#pool.length === this.#beams && this.#pool.at(-1)!.rank >= best;
    this.#live = live;
    this.#parents = parents;
  }

  result(): GeneratedIds {
    if (!this.#full) { for (const text of this.#live) this.#add(text); }
    const [{ ids, score }] = this.#pool;
    return { ids, score };
  }

  /** The best continuations of all rows, best first; rows and then ids in order where equal. */
  #candidates(logits: Float32Array): Candidate[] {
    const best: Candidate[] = [], count = 2 * this.#beams;
    const vocabulary = logits.length / this.#beams;
    for (const [row, { score: before }] of this.#live.entries()) {
      const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary);
      const base = before - logSumExp(own);
      expectFinite(base, this.#limits);
      for (let id = 0; id < vocabulary; id++) {
        const score = base + own[id];
        if (id === this.#limits.pad || (best.length === count && score <= best[count - 1].score)) {
          continue;
        }
        let place = best.length;
        while (place > 0 && best[place - 1].score < score) place--;
        best.splice(place, 0, { row, id, score });
        if (best.length > count) best.pop();
      }
    }
    return best;
  }

  #rank(score: number, length: number): number {
    return score / length ** this.#penalty;
  }

  /** Keeps the pool in order, best first. */
  #add(text: GeneratedIds): void {
    const rank = this.#rank(text.score, text.ids.length);
    const place = this.#pool.findIndex((other) => other.rank < rank);
    this.#pool.splice(place < 0 ? this.#pool.length : place, 0, { ...text, rank });
    if (this.#pool.length > this.#beams) this.#pool.pop();
  }
}

/** Of logits that are no numbers, some token is the best one all the same. */
function expectFinite(logProb: number, { allowNonfinite }: SearchLimits): void {
  if (allowNonfinite || Number.isFinite(logProb)) return;
  throw new UserError(
    `the log-probability of a token is ${logProb}, expected a finite number; the model's values are out of ` +
      "range (--allow-nonfinite goes on)",
  );
}

/** The most probable token but padding (−1: of all); the first of equals. */
export function argMax(logits: Float32Array, pad: number): number {
  let best = pad === 0 ? 1 : 0;
  for (let id = best + 1; id < logits.length; id++) {
    if (id !== pad && logits[id] > logits[best]) best = id;
  }
  return best;
}

/** How tokens are drawn. */
export interface SampleSettings {
  /** Divides the logits. */
  temperature: number;
  /** Draws among so many most probable tokens; 0 for all. */
  topK: number;
  /** Draws among the fewest most probable tokens that have this share of the probability. */
  topP: number;
}

/**
 * What {@link draw} draws in proportion to: probabilities at a temperature, of which `topK` leaves the
 * largest, and `topP` the largest of those. Of equals, the first tokens stay.
 *
 * @returns one weight per token, 0 for padding and for what is left out
 */
export function sampleWeights(
  logits: Float32Array,
  pad: number,
  { temperature, topK, topP }: SampleSettings,
): Float64Array {
  const weights = new Float64Array(logits.length), max = logits[argMax(logits, pad)];
  for (let id = 0; id < weights.length; id++) {
    if (id !== pad) weights[id] = Math.exp((logits[id] - max) / temperature);
  }
  if (topK === 0 && topP === 1) return weights;
  // The rarest tokens together have no more than the share that is left out: they need not be sorted.
  const rare = topK === 0 ? (1 - topP) * sum(weights) / weights.length : 0;
  const ascending = weights.filter((weight) => weight > rare).sort();
  const chosen = ascending.subarray(topK === 0 ? 0 : Math.max(0, ascending.length - topK));
  const enough = topP * (topK === 0 ? sum(weights) : sum(chosen));
  let first = chosen.length - 1;
  for (let kept = chosen[first]; first > 0 && kept < enough; kept += chosen[first]) first--;
  const least = chosen[first];
  let equals = 0;
  for (let i = first; i < chosen.length && chosen[i] === least; i++) equals++;
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] < least || (weights[id] === least && equals-- <= 0)) weights[id] = 0;
  }
  return weights;
}

/** Draws a token in proportion to weights. */
export function draw(weights: Float64Array, random: Random): number {
  let rest = random.uniform() * sum(weights), last = 0;
  for (let id = 0; id < weights.length; id++) {
    if (weights[id] === 0) continue;
    rest -= weights[id];
    last = id;
    if (rest < 0) break;
  }
  return last;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i];
  return total;
}

function logSumExp(logits: Float32Array): number {
  let max = -Infinity, sum = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > max) max = logits[i];
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - max);
  return max + Math.log(sum);
}
