/**
 * Micro-batches of padded blocks in a few static shapes, so that every shape is compiled once.
 *
 * Blocks come in a shuffled order, window by window; within a window, blocks of similar length share
 * a batch. A batch of length `L` always has `floor(microBatchTokens / L)` rows.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { key, permute, Random, shuffle } from "../../ops/graph/random.ts";
import { expectFields, fields, whole } from "../files/fields.ts";
import type { BlockSource } from "./packed.ts";
import {
  ALONE,
  type Numbered,
  type RankPlace,
  rowsOfSlice,
  type Share,
  type Slice,
  slicesOf,
} from "../parallel/share.ts";

/** The shapes of micro-batches. */
export interface BatchShapes {
  /** Padded ids per micro-batch at most (but a batch has at least one row). */
  microBatchTokens: number;
  /** The static lengths, rising; the last one must hold the longest block. */
  lengths: number[];
  /** Rows are a multiple of this where there are enough of them (default 1). */
  rowsMultipleOf?: number;
  /** Id that fills up (default 1, `<pad>`). */
  pad?: number;
}

/** How a {@link Batcher} orders its batches. */
export interface BatcherOptions extends BatchShapes {
  /** Seed of the order. */
  seed: number;
  /** Blocks per window (default 4096): more means less padding and less mixing of lengths. */
  window?: number;
}

/** One micro-batch. */
export interface MicroBatch {
  /** The epoch it belongs to, from 0. */
  epoch: number;
  /** Columns: one of the static lengths. */
  length: number;
  /** Rows of the tensor, used or not. */
  rows: number;
  /** The blocks in the used rows, from the first row on. */
  blocks: number[];
  /** Ids `[rows, length]`, padded on the right; unused rows are all padding. */
  tokens: Uint32Array;
  /** Ids in each row `[rows]`; 0 for an unused row. */
  lengths: Uint32Array;
  /** Ids that are not padding. */
  realTokens: number;
  /** `[epoch, block]` of each used row: the key of a sequence's masks and noise. */
  sequences: [number, number][];
}

/** A micro-batch, or a slice of its rows. */
export interface MicroSlice extends MicroBatch {
  /** Number of the first row in the whole micro-batch. */
  first: number;
  /** Rows of the whole micro-batch, used or not. */
  globalRows: number;
}

/** A position in the endless order of batches, for a checkpoint. */
export interface BatcherState {
  /** Epoch of the next batch. */
  epoch: number;
  /** Its window in the epoch. */
  window: number;
  /** Its place in the window. */
  batch: number;
}

const POSITION = fields({ epoch: whole(), window: whole(), batch: whole() });
const OTHERS = "put back the text and the files of the run that belong to its checkpoint";

/** Streams of randomness, so that the uses of one seed are independent. */
const ORDER = 0x6f726472;
const BATCHES = 0x62746368;

/**
 * The micro-batches of a training part, epoch after epoch without end. The sequence of batches is a
 * function of the part and the options; {@link Batcher.state} is a position in it.
 *
 * A batch that a length group cannot fill goes up to the next longer group, so each window has at
 * most one batch with unused rows.
 *
 * @example
 * ```ts
 * import { Batcher } from "./batches.ts";
 * import assert from "node:assert/strict";
 *
 * const blocks = [[0, 7, 2], [0, 8, 9, 9, 2], [0, 5, 2]].map((ids) => Uint32Array.from(ids));
 * const part = {
 *   count: 3,
 *   tokens: 11,
 *   maxLength: 5,
 *   length: (i: number) => blocks[i].length,
 *   read: (i: number) => blocks[i],
 *   close: () => {},
 * };
 * const batcher = new Batcher(part, { microBatchTokens: 8, lengths: [4, 8], seed: 1 });
 * const batches = [batcher.next(), batcher.next()];
 * assert.deepEqual(batches.map((b) => b.rows * b.length), [8, 8]);
 * assert.deepEqual(batches.flatMap((b) => b.blocks).sort(), [0, 1, 2]);
 *
 * // The second of two ranks has the second of an update's two micro-batches.
 * batcher.restore({ epoch: 0, window: 0, batch: 0 });
 * const { batches: own } = batcher.share(2, { rank: 1, size: 2 });
 * assert.deepEqual(own, [{ batch: batches[1], micro: 1, sequence: batches[0].rows }]);
 * ```
 */
export class Batcher {
  #part: BlockSource;
  #options: BatcherOptions;
  #state: BatcherState = { epoch: 0, window: 0, batch: 0 };
  #plan: Plan[] | undefined;
  #padded = 0;
  #real = 0;

  /**
   * Starts at the first batch of epoch 0.
   *
   * @throws {UserError} for an empty part, or shapes that do not hold its longest block
   */
  constructor(part: BlockSource, options: BatcherOptions) {
    checkShapes(part, options);
    this.#part = part;
    this.#options = options;
  }

  /**
   * The next micro-batch, or a slice of it: nothing is read of the other rows but their lengths.
   *
   * @param slice the whole micro-batch if absent
   */
  next(slice: Pick<Slice, "part" | "parts"> = WHOLE): MicroSlice {
    const batch = this.#read(slice);
    this.skip();
    return batch;
  }

  /**
   * Leaves a micro-batch to others.
   *
   * @returns its rows, used or not, and its tokens that are not padding
   */
  skip(): { rows: number; tokens: number } {
    const { length, realTokens } = this.#current();
    const rows = rowsOf(this.#options, length);
    this.#padded += rows * length;
    this.#real += realTokens;
    if (++this.#state.batch === this.#plan!.length) this.#nextWindow();
    return { rows, tokens: realTokens };
  }

  /**
   * A rank's share of the next update. The micro-batches are the same for any number of ranks; the rows of
   * other ranks are not read.
   *
   * @param micros micro-batches of the update
   * @param place the rank; it has all of the update if absent
   */
  share(micros: number, { rank, size }: RankPlace = ALONE): Share<MicroSlice> {
    const slices = slicesOf(micros, rank, size);
    const share: Share<MicroSlice> = { batches: [], micros, rows: 0, tokens: 0 };
    for (let micro = 0; micro < micros; micro++) {
      for (const slice of slices.filter((slice) => slice.micro === micro)) {
        const batch = this.#read(slice);
        share.batches.push({ batch, micro, sequence: share.rows + batch.first });
      }
      const { rows, tokens } = this.skip();
      share.rows += rows;
      share.tokens += tokens;
    }
    return share;
  }

  /** The position of the next micro-batch; plain data for JSON. */
  state(): BatcherState {
    return { ...this.#state };
  }

  /**
   * Continues from a position; the part and the options must be those of the batcher that gave it.
   *
   * @throws {UserError} if there is no such position
   */
  restore(state: unknown): void {
    expectFields(state, POSITION, "the place in the data", OTHERS);
    const { epoch, window, batch } = state as BatcherState;
    this.#state = { epoch, window, batch };
    this.#plan = window < this.#windows() ? this.#planWindow() : undefined;
    if (this.#plan?.[batch] !== undefined) return;
    throw new UserError(
      `the place in the data: no batch at ${JSON.stringify(this.#state)}; ${OTHERS}`,
    );
  }

  /** Padded ids per real id in the micro-batches so far, those of all ranks; 1 is no padding. */
  get paddingOverhead(): number {
    return this.#real === 0 ? 1 : this.#padded / this.#real;
  }

  #current(): Plan {
    this.#plan ??= this.#planWindow();
    return this.#plan[this.#state.batch];
  }

  #read(slice: Pick<Slice, "part" | "parts">): MicroSlice {
    return fill(this.#part, this.#options, this.#current(), this.#state.epoch, slice);
  }

  #windowSize(): number {
    return this.#options.window ?? 4096;
  }

  #windows(): number {
    return Math.ceil(this.#part.count / this.#windowSize());
  }

  #planWindow(): Plan[] {
    const { epoch, window } = this.#state;
    const { count } = this.#part;
    const { seed } = this.#options;
    const size = this.#windowSize();
    const order = key(seed, ORDER, epoch);
    const blocks: number[] = [];
    for (let i = window * size; i < Math.min(count, (window + 1) * size); i++) {
      blocks.push(permute(i, count, order));
    }
    const plan = planBatches(this.#part, this.#options, blocks, epoch);
    return shuffle(plan, new Random(key(seed, BATCHES, epoch, window)));
  }

  #nextWindow(): void {
    const { epoch, window } = this.#state;
    const last = window + 1 === this.#windows();
    this.#state = { epoch: last ? epoch + 1 : epoch, window: last ? 0 : window + 1, batch: 0 };
    this.#plan = undefined;
  }
}

/**
 * Every block of a part once, in a fixed order, for evaluation: of a group's ranks, each has every size-th
 * batch, whole. Nothing is read of the others.
 *
 * @param place the rank; all batches if absent
 * @param tokens no batch begins after so many tokens of all ranks, padding not counted; no end if absent
 * @returns batches with epoch 0, numbered among those of all ranks
 * @throws {UserError} for an empty part, or shapes that do not hold its longest block
 */
export function* evaluationShare(
  part: BlockSource,
  shapes: BatchShapes,
  { rank, size }: RankPlace = ALONE,
  tokens = Infinity,
): Generator<Numbered<MicroBatch>> {
  checkShapes(part, shapes);
  let micro = 0, sequence = 0, seen = 0;
  for (const plan of evaluationPlans(part, shapes)) {
    if (seen >= tokens) return;
    if (micro % size === rank) yield { batch: fill(part, shapes, plan, 0), micro, sequence };
    micro++;
    sequence += rowsOf(shapes, plan.length);
    seen += plan.realTokens;
  }
}

function* evaluationPlans(part: BlockSource, shapes: BatchShapes): Generator<Plan> {
  const window = 4096;
  for (let start = 0; start < part.count; start += window) {
    const size = Math.min(window, part.count - start);
    const blocks = Array.from({ length: size }, (_, i) => start + i);
    yield* planBatches(part, shapes, blocks, 0);
  }
}

/**
 * Rows of every micro-batch of a static length.
 *
 * @param length one of `shapes.lengths`
 */
export function rowsOf(
  { microBatchTokens, rowsMultipleOf = 1 }: BatchShapes,
  length: number,
): number {
  const rows = Math.max(1, Math.floor(microBatchTokens / length));
  return rows < rowsMultipleOf ? rows : rows - rows % rowsMultipleOf;
}

/** A micro-batch before its ids are read. */
interface Plan {
  length: number;
  blocks: number[];
  realTokens: number;
}

const WHOLE = { part: 0, parts: 1 };

function checkShapes(part: BlockSource, { lengths, microBatchTokens }: BatchShapes): void {
  if (part.count === 0) throw new UserError("this part of the corpus is empty: nothing to batch");
  if (!lengths.every((length, i) => Number.isInteger(length) && length > (lengths[i - 1] ?? 0))) {
    throw new UserError(`batch lengths: expected rising whole numbers, got ${lengths.join(", ")}`);
  }
  const longest = lengths.at(-1) ?? 0;
  if (longest < part.maxLength) {
    const blocks = `the longest block has ${part.maxLength} ids`;
    throw new UserError(`batch lengths: ${blocks}, but the longest batch length is ${longest}`);
  }
  if (!(microBatchTokens >= 1)) {
    throw new UserError(`micro-batch tokens: expected at least 1, got ${microBatchTokens}`);
  }
}

/** Groups blocks by the shortest static length that holds them; what fills no batch moves up. */
function planBatches(
  part: BlockSource,
  shapes: BatchShapes,
  blocks: number[],
  epoch: number,
): Plan[] {
  const sized = blocks.map((block) => ({ block, length: part.length(block, epoch) }));
  sized.sort((a, b) => a.length - b.length); // stable: equal lengths stay in shuffled order
  const plan: Plan[] = [];
  const longest = shapes.lengths.at(-1)!;
  let next = 0, first = 0; // the group waiting for a batch is sized[first, next)
  for (const length of shapes.lengths) {
    while (next < sized.length && sized[next].length <= length) next++;
    const rows = rowsOf(shapes, length);
    const end = length === longest ? next : next - (next - first) % rows;
    for (; first < end; first += rows) {
      const batch = sized.slice(first, Math.min(first + rows, end));
      plan.push({
        length,
        blocks: batch.map(({ block }) => block),
        realTokens: batch.reduce((sum, { length }) => sum + length, 0),
      });
    }
  }
  return plan;
}

function fill(
  part: BlockSource,
  shapes: BatchShapes,
  { length, blocks: all }: Plan,
  epoch: number,
  slice: Pick<Slice, "part" | "parts"> = WHOLE,
): MicroSlice {
  const globalRows = rowsOf(shapes, length);
  const { first, count: rows } = rowsOfSlice(globalRows, slice);
  const blocks = all.slice(first, first + rows);
  const tokens = new Uint32Array(rows * length).fill(shapes.pad ?? 1);
  const lengths = new Uint32Array(rows);
  let realTokens = 0;
  for (const [row, block] of blocks.entries()) {
    const ids = part.read(block, epoch);
    tokens.set(ids, row * length);
    lengths[row] = ids.length;
    realTokens += ids.length;
  }
  const sequences = blocks.map((block): [number, number] => [epoch, block]);
  return { epoch, length, rows, blocks, tokens, lengths, realTokens, sequences, first, globalRows };
}
