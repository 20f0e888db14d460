/**
 * Times of passes, by the device's own clock.
 *
 * @module
 */

import type { Stopwatch } from "../program/device.ts";
import type { GpuDevice } from "./device.ts";

/** Queries of a set at most. */
const SET_QUERIES = 4096;
const RESOLVE = 0x200 | 0x4; // QUERY_RESOLVE | COPY_SRC
/** Results start at multiples of so many bytes. */
const ALIGN = 256;

/** A beginning and an end for every slot. Made by `GpuDevice.stopwatch`. */
export class GpuStopwatch implements Stopwatch {
  readonly #device: GpuDevice;
  readonly #sets: GPUQuerySet[] = [];
  readonly #used: boolean[];

  /** The device must have timestamps. */
  constructor(device: GpuDevice, slots: number) {
    this.#device = device;
    this.#used = new Array(slots).fill(false);
    for (let made = 0; made < 2 * slots; made += SET_QUERIES) {
      const count = Math.min(SET_QUERIES, 2 * slots - made);
      this.#sets.push(device.gpu.createQuerySet({ type: "timestamp", count }));
    }
  }

  /** Has a pass note when it begins and ends. */
  writesOf(slot: number): GPUComputePassTimestampWrites {
    if (!(slot in this.#used)) throw new RangeError(`the stopwatch has no slot ${slot}`);
    this.#used[slot] = true;
    const first = 2 * slot % SET_QUERIES;
    return {
      querySet: this.#sets[Math.floor(2 * slot / SET_QUERIES)],
      beginningOfPassWriteIndex: first,
      endOfPassWriteIndex: first + 1,
    };
  }

  /** Milliseconds of every slot, after all submitted work; 0 for those never used. */
  async read(): Promise<Float64Array> {
    const { gpu } = this.#device;
    const runs = this.#runs();
    const last = runs.at(-1);
    const result = new Float64Array(this.#used.length);
    if (!last) return result;
    const size = last.at + last.count * 16;
    const buffer = gpu.createBuffer({ size, usage: RESOLVE, label: "times" });
    const encoder = gpu.createCommandEncoder();
    for (const { slot, count, at } of runs) {
      const set = this.#sets[Math.floor(2 * slot / SET_QUERIES)];
      encoder.resolveQuerySet(set, 2 * slot % SET_QUERIES, 2 * count, buffer, at);
    }
    gpu.queue.submit([encoder.finish()]);
    try {
      const times = new BigUint64Array(await this.#device.read(buffer, 0, size));
      for (const { slot, count, at } of runs) {
        for (let i = 0; i < count; i++) {
          const begin = at / 8 + 2 * i;
          result[slot + i] = Number(times[begin + 1] - times[begin]) / 1e6;
        }
      }
      return result;
    } finally {
      buffer.destroy();
    }
  }

  /** Neighbouring slots of one set that were used: drivers may wait for ever for a query never written. */
  #runs(): { slot: number; count: number; at: number }[] {
    const runs: { slot: number; count: number; at: number }[] = [];
    for (const [slot, used] of this.#used.entries()) {
      if (!used) continue;
      const run = runs.at(-1);
      if (run && run.slot + run.count === slot && 2 * slot % SET_QUERIES !== 0) run.count++;
      else {
        const end = run ? run.at + run.count * 16 : 0;
        runs.push({ slot, count: 1, at: Math.ceil(end / ALIGN) * ALIGN });
      }
    }
    return runs;
  }

  /** Frees the queries. */
  destroy(): void {
    for (const set of this.#sets) set.destroy();
  }
}
