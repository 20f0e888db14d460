/**
 * What the ranks exchange in an update: gradients are reduce-scattered while the backward pass is still
 * under way, bucket by bucket; updated weights are gathered.
 *
 * @module
 */

import type { Device, Program, RunOptions, StateMemory } from "../../ops/mod.ts";
import type { BufferView, Readback } from "../../ops/program/device.ts";
import { completion, partOf, type Range, type TensorPlace } from "./buckets.ts";
import type { Communicator } from "./communicator.ts";
import { stateName } from "./memory_kinds.ts";

/** Reads that are under way at a time. */
export const UNDER_WAY = 4;

/** Between this device and the other ranks. */
export class Exchange {
  readonly #device: Device;
  readonly #group: Communicator;
  readonly #buckets: readonly Range[];
  readonly #places: readonly TensorPlace[];
  readonly #parameters: StateMemory;
  readonly #gradients: StateMemory;
  readonly #readbacks: readonly Readback[];
  readonly #ends = new Map<Program, number[]>();

  /**
   * Allocates buffers for reading: {@link UNDER_WAY} times the largest bucket, or fewer.
   *
   * @param memory parameters and gradients, of one layout
   */
  constructor(
    device: Device,
    group: Communicator,
    buckets: readonly Range[],
    places: readonly TensorPlace[],
    { parameters, gradients }: { parameters: StateMemory; gradients: StateMemory },
  ) {
    this.#device = device;
    this.#group = group;
    this.#buckets = buckets;
    this.#places = places;
    this.#parameters = parameters;
    this.#gradients = gradients;
    const largest = Math.max(...buckets.map(({ bytes }) => bytes));
    const count = Math.min(UNDER_WAY, buckets.length);
    this.#readbacks = Array.from(
      { length: count },
      (_, i) => device.createReadback(largest, `bucket ${i}`),
    );
  }

  /**
   * Runs the last micro-batch of an update, and adds up the gradients of all ranks: those of this rank's
   * parts are then in its gradient memory.
   *
   * @returns the norm of the whole gradient; the same on every rank
   */
  async reduce(program: Program, options: RunOptions): Promise<number> {
    const { rank, size } = this.#group;
    const parts = program.runInParts(options, this.#endsOf(program));
    let squares = 0;
    parts.next();
    await this.#stream(
      this.#buckets.map((bucket) => [this.#in(this.#gradients, bucket)]),
      // The device works on the next part while the host deals with the buckets before.
      () => void parts.next(),
      async (gradients, k) => {
        const sum = await this.#group.reduceScatter(gradients);
        for (let i = 0; i < sum.length; i++) squares += sum[i] * sum[i];
        const { buffer, offset } = this.#in(
          this.#gradients,
          partOf(this.#buckets[k], rank, size),
        );
        this.#device.write(buffer, offset, sum);
      },
    );
    const total = Float64Array.of(squares);
    await this.#group.allReduce(total);
    return Math.sqrt(total[0]);
  }

  /** Puts the weights together that each rank has updated. */
  async gather(): Promise<void> {
    const { rank, size } = this.#group;
    const loads = this.#loads();
    await this.#stream(
      loads.map((load) =>
        load.map((bucket) => this.#in(this.#parameters, partOf(bucket, rank, size)))
      ),
      () => {},
      async (own, k) => {
        let at = 0;
        for (const bucket of loads[k]) {
          const values = new Float32Array(bucket.bytes / 4), part = values.length / size;
          values.set(own.subarray(at, at + part), rank * part);
          at += part;
          await this.#group.allGather(values);
          const { buffer, offset } = this.#in(this.#parameters, bucket);
          this.#device.write(buffer, offset, values);
        }
      },
    );
  }

  /**
   * Reads one thing after the other, in order. Several reads are under way at a time, since each takes 10 ms
   * or more to arrive, however little it brings.
   *
   * @param views of each read
   * @param then called when the device has done a read, with nothing left to do
   * @param use what to do with the values that have arrived, and the number of the read
   */
  async #stream(
    views: readonly BufferView[][],
    then: () => void,
    use: (values: Float32Array, k: number) => Promise<void>,
  ): Promise<void> {
    const arriving: Promise<ArrayBuffer>[] = [];
    const next = async (k: number) => await use(new Float32Array(await arriving[k]), k);
    for (const [k, windows] of views.entries()) {
      arriving[k] = this.#readbacks[k % this.#readbacks.length].read(windows);
      // A failure is heard of when this is awaited.
      arriving[k].catch(() => {});
      then();
      if (k + 1 >= UNDER_WAY) await next(k + 1 - UNDER_WAY);
    }
    for (let k = Math.max(0, views.length - UNDER_WAY + 1); k < views.length; k++) await next(k);
  }

  /** Frees the buffers. */
  destroy(): void {
    for (const readback of this.#readbacks) readback.destroy();
  }

  #in(memory: StateMemory, { slab, offset, bytes }: Range): BufferView {
    return { buffer: memory.buffers[slab], offset, size: bytes };
  }

  /**
   * After how many launches each bucket may be sent. The order is that of the buckets, whatever the
   * program, since the ranks may run different ones; memory is laid out so that it fits.
   */
  #endsOf(program: Program): number[] {
    let ends = this.#ends.get(program);
    if (!ends) {
      const written = (name: string) => program.written.get(stateName("gradient", name))!;
      let latest = 0;
      ends = completion(this.#buckets, this.#places, written)
        .map((end) => latest = Math.max(latest, end));
      this.#ends.set(program, ends);
    }
    return ends;
  }

  /** Buckets whose parts are read together: a read costs 10 ms however little it brings. */
  #loads(): Range[][] {
    const loads: Range[][] = [];
    let room = 0;
    for (const bucket of this.#buckets) {
      const bytes = bucket.bytes / this.#group.size;
      if (bytes > room) {
        loads.push([]);
        room = this.#readbacks[0].capacity;
      }
      loads.at(-1)!.push(bucket);
      room -= bytes;
    }
    return loads;
  }
}
