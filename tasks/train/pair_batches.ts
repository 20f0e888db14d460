/**
 * Micro-batches of (source, target) pairs in a few static shapes. No packing, as in the paper's code:
 * a row is one example.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { expectFields, fields, list, whole } from "../files/fields.ts";
import type { SpecialIds } from "../../models/config.ts";
import { key, Random, shuffle } from "../../ops/graph/random.ts";
import { COUNTS, type ExampleWindow, type WindowAhead } from "../prompts/windows.ts";
import { chooseLengths, fittingLength } from "./static_shapes.ts";
import type { BatchShape, BatchSource, PreparedBatch } from "./objective.ts";
import {
  ALONE,
  type Numbered,
  type RankPlace,
  rowsOfSlice,
  type Share,
} from "../parallel/share.ts";

/** The static shapes of pairs: every combination of a source and a target length. */
export interface PairShapes {
  /** Source lengths, rising. */
  sources: readonly number[];
  /** Target lengths, rising. */
  targets: readonly number[];
  /** Tokens on the device at a time: rows times the longer of both lengths. */
  microBatch: number;
}

/** How many shapes, and what they must hold. */
export interface ShapeLimits {
  /** Source lengths to choose. */
  sourceShapes: number;
  /** Target lengths to choose. */
  targetShapes: number;
  /** Longest source. */
  sourceLength: number;
  /** Longest target. */
  targetLength: number;
  /** Tokens on the device at a time. */
  microBatch: number;
}

/** Chooses shapes with little padding for examples like those of a window. */
export function choosePairShapes(window: ExampleWindow, limits: ShapeLimits): PairShapes {
  const { sourceShapes, targetShapes, sourceLength, targetLength, microBatch } = limits;
  return {
    sources: chooseLengths([...window.sourceLengths], sourceShapes, sourceLength),
    targets: chooseLengths([...window.targetLengths], targetShapes, targetLength),
    microBatch,
  };
}

/** Examples of one shape that are computed at a time, by their numbers in the window. */
export interface Portion {
  /** The shape. */
  shape: Required<BatchShape>;
  /** At most as many as it has rows. */
  examples: number[];
}

/**
 * Groups a window's examples into micro-batches. Within a shape the window's order stays: sorting by the
 * exact length would sort by the answer, too.
 */
export function portionsOf(window: ExampleWindow, shapes: PairShapes): Portion[] {
  const groups = new Map<string, Portion>();
  for (let i = 0; i < window.sourceLengths.length; i++) {
    const length = fittingLength(shapes.sources, window.sourceLengths[i]);
    const target = fittingLength(shapes.targets, window.targetLengths[i]);
    const id = `${length} ${target}`;
    let group = groups.get(id);
    if (!group) {
      const rows = Math.max(1, Math.floor(shapes.microBatch / Math.max(length, target)));
      groups.set(id, group = { shape: { rows, length, target }, examples: [] });
    }
    group.examples.push(i);
  }
  const portions: Portion[] = [];
  for (const { shape, examples } of groups.values()) {
    for (let at = 0; at < examples.length; at += shape.rows) {
      portions.push({ shape, examples: examples.slice(at, at + shape.rows) });
    }
  }
  return portions;
}

/** Where every example of a window begins. */
interface Offsets {
  sources: Float64Array;
  targets: Float64Array;
}

function offsetsOf({ sourceLengths, targetLengths }: ExampleWindow): Offsets {
  return { sources: starts(sourceLengths), targets: starts(targetLengths) };
}

function starts(lengths: Uint32Array): Float64Array {
  const result = new Float64Array(lengths.length);
  for (let i = 1; i < lengths.length; i++) result[i] = result[i - 1] + lengths[i - 1];
  return result;
}

/** Positions of a portion, and how many of them are real. */
function sizeOf(
  { sourceLengths, targetLengths }: ExampleWindow,
  { shape: { rows, length, target }, examples }: Portion,
): { padded: number; real: number } {
  const real = examples.reduce((sum, i) => sum + sourceLengths[i] + targetLengths[i], 0);
  return { padded: rows * (length + target), real };
}

/** A slice of a portion's rows. Slices of one shape are of one shape, too. */
function sliced({ shape, examples }: Portion, part: number, parts: number) {
  const { first, count } = rowsOfSlice(shape.rows, { part, parts });
  const portion: Portion = {
    shape: { ...shape, rows: count },
    examples: examples.slice(first, first + count),
  };
  return { first, portion };
}

/** Lays examples out for `seq2seq`: padded on the right, the decoder's input one behind the targets. */
function layOut(
  window: ExampleWindow,
  at: Offsets,
  { shape, examples }: Portion,
  { pad, start }: SpecialIds,
): PreparedBatch {
  const { rows, length, target } = shape;
  const padded = (columns: number) => new Uint32Array(rows * columns).fill(pad);
  const source = padded(length), targets = padded(target), decoderTokens = padded(target);
  let tokens = 0, targetTokens = 0;
  for (const [row, i] of examples.entries()) {
    const s = window.sources.subarray(at.sources[i], at.sources[i] + window.sourceLengths[i]);
    const t = window.targets.subarray(at.targets[i], at.targets[i] + window.targetLengths[i]);
    source.set(s, row * length);
    targets.set(t, row * target);
    // METRO starts from `</s>` now; in pretraining it started from the first sentinel.
    decoderTokens[row * target] = start;
    decoderTokens.set(t.subarray(0, -1), row * target + 1);
    tokens += s.length + t.length;
    targetTokens += t.length;
  }
  const counts = { targets: targetTokens, examples: examples.length };
  return { ...shape, inputs: { source, decoderTokens, targets }, counts, tokens };
}

/**
 * All examples of a window as micro-batches, for evaluation: of a group's ranks, each has every size-th
 * one, whole.
 *
 * @param special ids of the model
 * @param place the rank; all micro-batches if absent
 * @returns micro-batches, numbered among those of all ranks
 */
export function layOutWindow(
  window: ExampleWindow,
  shapes: PairShapes,
  special: SpecialIds,
  { rank, size }: RankPlace = ALONE,
): Numbered<PreparedBatch>[] {
  const at = offsetsOf(window);
  const share: Numbered<PreparedBatch>[] = [];
  let sequence = 0;
  for (const [micro, portion] of portionsOf(window, shapes).entries()) {
    if (micro % size === rank) {
      share.push({ batch: layOut(window, at, portion, special), micro, sequence });
    }
    sequence += portion.shape.rows;
  }
  return share;
}

/** Where a {@link PairBatcher} is. */
interface PairState {
  epoch: number;
  window: number;
  /** Micro-batches of the window that are used. */
  batch: number;
  /** {@link COUNTS} per dataset of all windows begun. */
  counts: number[];
}

const POSITION = fields({
  epoch: whole(),
  window: whole(),
  batch: whole(),
  counts: list(whole()),
});

/** What a {@link PairBatcher} must know. */
export interface PairBatcherOptions {
  /** Examples of an update; the last micro-batch may bring a few more. */
  batchSize: number;
  /** Decides the order. */
  seed: number;
  /** Datasets of the mixture. */
  datasets: number;
  /** Ids of the model. */
  special: SpecialIds;
  /** The rank whose share of the updates is wanted; all of them if absent. */
  place?: RankPlace;
}

/** Windows in their order; {@link WindowAhead} makes them. */
export type WindowStream = Pick<WindowAhead, "windows" | "get">;

/**
 * The endless sequence of updates: micro-batches of a window in random order, as many as hold the wanted
 * number of examples.
 */
export class PairBatcher implements BatchSource {
  /** Padded positions, sources and targets, over real ones in all updates so far, those of all ranks. */
  paddingOverhead = 1;
  /** The first few unusable rows that were skipped, in words. */
  readonly bad: string[] = [];
  readonly #windows: WindowStream;
  readonly #shapes: PairShapes;
  readonly #batchSize: number;
  readonly #seed: number;
  readonly #special: SpecialIds;
  readonly #place: RankPlace;
  #state: PairState;
  #current: { window: ExampleWindow; at: Offsets; portions: Portion[] } | undefined;
  #padded = 0;
  #real = 0;

  /** Starts at the beginning of epoch 0. */
  constructor(
    windows: WindowStream,
    shapes: PairShapes,
    { batchSize, seed, datasets, special, place = ALONE }: PairBatcherOptions,
  ) {
    this.#windows = windows;
    this.#shapes = shapes;
    this.#batchSize = batchSize;
    this.#seed = seed;
    this.#special = special;
    this.#place = place;
    const counts = new Array<number>(datasets * COUNTS.length).fill(0);
    this.#state = { epoch: 0, window: 0, batch: 0, counts };
  }

  get epoch(): number {
    return this.#state.epoch;
  }

  /** {@link COUNTS} of a dataset in all windows begun so far, in this and earlier sessions. */
  countsOf(dataset: number): Record<typeof COUNTS[number], number> {
    const at = dataset * COUNTS.length;
    return Object.fromEntries(
      COUNTS.map((name, i) => [name, this.#state.counts[at + i]]),
    ) as Record<
      typeof COUNTS[number],
      number
    >;
  }

  /**
   * The next update. Its micro-batches are the same for any number of ranks, and every rank has a slice of
   * the rows of each: since their number varies, dealing out whole ones would need other programs for every
   * number.
   *
   * @throws {UserError} for an unusable row, unless they are skipped
   */
  async next(): Promise<Share<PreparedBatch>> {
    const { rank, size } = this.#place;
    const share: Share<PreparedBatch> = { batches: [], micros: 0, rows: 0, tokens: 0 };
    for (let examples = 0; examples < this.#batchSize;) {
      const { window, at, portions } = this.#current ??= await this.#open(true);
      const portion = portions[this.#state.batch];
      if (portion) {
        const { first, portion: own } = sliced(portion, rank, size);
        const batch = layOut(window, at, own, this.#special);
        share.batches.push({ batch, micro: share.micros, sequence: share.rows + first });
        const { padded, real } = sizeOf(window, portion);
        examples += portion.examples.length;
        share.micros++;
        share.rows += portion.shape.rows;
        share.tokens += real;
        this.#padded += padded;
        this.#real += real;
      }
      if (++this.#state.batch >= portions.length) this.#nextWindow();
    }
    this.paddingOverhead = this.#padded / this.#real;
    return share;
  }

  state(): unknown {
    return structuredClone(this.#state);
  }

  async restore(state: unknown): Promise<void> {
    const { counts } = this.#state, others = "put back the files that belong to the checkpoint";
    expectFields(state, POSITION, "the place in the data", others);
    this.#state = structuredClone(state as PairState);
    if (
      this.#state.counts.length !== counts.length || this.#state.window >= this.#windows.windows
    ) {
      throw new UserError(`the place in the data: is that of another mixture; ${others}`);
    }
    // The counts already hold a window that was begun.
    this.#current = this.#state.batch > 0 ? await this.#open(false) : undefined;
  }

  async #open(isNew: boolean) {
    const { epoch, window: number, counts } = this.#state;
    const window = await this.#windows.get(epoch, number);
    if (isNew) window.counts.forEach((n, i) => counts[i] += n);
    this.bad.push(...window.bad);
    const portions = portionsOf(window, this.#shapes);
    shuffle(portions, new Random(key(this.#seed, BATCHES, epoch, number)));
    return { window, at: offsetsOf(window), portions };
  }

  #nextWindow(): void {
    const last = this.#state.window + 1 === this.#windows.windows;
    this.#state.epoch += last ? 1 : 0;
    this.#state.window = last ? 0 : this.#state.window + 1;
    this.#state.batch = 0;
    this.#current = undefined;
  }
}

const BATCHES = 0x70616972;
