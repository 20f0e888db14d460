/**
 * What batches yield, read from the device many at a time, and put together from all ranks.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { type Device, type Program, type RunOptions } from "../../ops/mod.ts";
import type { DeviceBuffer, Readback, Stopwatch } from "../../ops/program/device.ts";
import { type Communicator, fromFirst } from "../parallel/communicator.ts";
import { joinArrays } from "../files/arrays.ts";
import { type RankBatch, type RankRequest } from "./rank_batches.ts";

/** Losses that are collected on the device before they are read. */
const COLLECTED = 1 << 20;

/** Batches that are timed before the times are read. */
const TIMED = 2048;

/** Batches whose results are read together. */
export interface Section {
  batches: RankBatch[];
  /** Where each one's losses begin; where the last one's end. */
  slots: number[];
}

/** Collects what the batches of a section yield, losses and times, to be read at once. */
export class Results {
  readonly #device: Device;
  readonly #slots: readonly number[];
  readonly #losses: DeviceBuffer;
  readonly #readback: Readback;
  readonly #watch?: Stopwatch;

  constructor(device: Device, { slots }: Section) {
    const bytes = 4 * slots.at(-1)!;
    this.#device = device;
    this.#slots = slots;
    this.#losses = device.createBuffer(bytes, "losses");
    this.#readback = device.createReadback(bytes, "rank results");
    this.#watch = device.stopwatch(slots.length - 1);
  }

  /** Has the device time batch `i`, if it has a clock. */
  timing(slot: number): Pick<RunOptions, "watch" | "slot"> {
    return { watch: this.#watch, slot };
  }

  /** Keeps batch `i`'s losses. */
  collect(program: Program, i: number): void {
    program.copy("losses", this.#losses, 4 * this.#slots[i]);
  }

  /** The losses of each batch, and the time that all of them took; NaN if the device has no clock. */
  async read(): Promise<{ losses: Float32Array[]; milliseconds: number }> {
    const slots = this.#slots;
    const all = { buffer: this.#losses, offset: 0, size: 4 * slots.at(-1)! };
    const [bytes, times] = await Promise.all([this.#readback.read([all]), this.#watch?.read()]);
    const values = new Float32Array(bytes.slice(0));
    const losses = slots.slice(1).map((end, i) => values.subarray(slots[i], end));
    return { losses, milliseconds: times?.reduce((a, b) => a + b, 0) ?? NaN };
  }

  destroy(): void {
    this.#device.destroyBuffer(this.#losses);
    this.#readback.destroy();
    this.#watch?.destroy();
  }
}

/**
 * Gives every rank the scores of all. A score is some rank's sum and every other rank's 0; no sum is -0, so
 * that adding changes no bit.
 */
export async function putTogether(
  group: Communicator,
  requests: readonly RankRequest[],
  scores: readonly Float64Array[],
): Promise<void> {
  if (group.size === 1) return;
  // Sums over different requests would look like scores.
  const ids = fingerprintOf(requests);
  if (await fromFirst(group, "comparing prompts", () => Promise.resolve(ids)) !== ids) {
    throw new UserError(
      "the ranks were given different prompts: rows, templates and the model's tokenizer must be the " +
        "same on all machines",
    );
  }
  const all = joinArrays(Float64Array, scores);
  await group.allReduce(all);
  let at = 0;
  for (const some of scores) some.set(all.subarray(at, at += some.length));
}

/** A number that other requests have another of. */
function fingerprintOf(requests: readonly RankRequest[]): number {
  let hash = 0;
  const add = (value: number) => hash = Math.imul(hash ^ value, 0x01000193) + 1;
  for (const { source, choices } of requests) {
    for (const ids of [source, ...choices]) {
      add(ids.length);
      for (const id of ids) add(id);
    }
  }
  return hash;
}

/** Cuts a plan into parts whose results are read together. */
export function* sectionsOf(plan: readonly RankBatch[]): Generator<Section> {
  let batches: RankBatch[] = [], slots = [0];
  for (const batch of plan) {
    const size = batch.shape.rows * batch.shape.choices;
    if (batches.length === TIMED || (batches.length > 0 && slots.at(-1)! + size > COLLECTED)) {
      yield { batches, slots };
      batches = [], slots = [0];
    }
    batches.push(batch);
    slots.push(slots.at(-1)! + size);
  }
  if (batches.length > 0) yield { batches, slots };
}

/** A choice's score is minus the sum of its tokens' losses, added up in float64. */
export function addUp(
  requests: readonly RankRequest[],
  { shape, requests: members }: RankBatch,
  losses: Float32Array,
  scores: readonly Float64Array[],
): void {
  for (const [row, i] of members.entries()) {
    let at = row * shape.choices;
    for (const [k, ids] of requests[i].choices.entries()) {
      for (let t = 0; t < ids.length; t++) scores[i][k] -= losses[at++];
    }
  }
}
