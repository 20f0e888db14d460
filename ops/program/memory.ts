/**
 * Device memory: named state that outlives programs, and the workspace that programs share for their
 * intermediate values.
 *
 * @module
 */

import { sizeOf, type Tensor } from "../graph/tensor.ts";
import type { BufferView, Device, DeviceBuffer } from "./device.ts";

/** Windows start at multiples of this many bytes, which satisfies every device. */
export const ALIGN = 256;

/** Slabs larger than this are avoided: some drivers refuse single buffers of 200 MB and more. */
const SLAB_BYTES = 128 << 20;

/** Rounds up to {@link ALIGN}. */
export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGN) * ALIGN;
}

/** Where a state tensor lives. */
interface Place {
  slab: number;
  offset: number;
  bytes: number;
  shape: readonly number[];
}

/**
 * Named tensors in a few large buffers ("slabs"), so that one kernel can update many of them at once.
 * Gaps between tensors hold zeros.
 *
 * @example
 * ```ts
 * import { add, compile, openDevice, scalar, state, StateMemory } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const n = state("n", []), device = await openDevice({ adapter: "cpu", threads: 1 });
 * const memory = new StateMemory(device, [["n", n.shape]], "shared");
 * const shared = { state: memory };
 * const up = compile(device, { name: "up", updates: [[n, add(n, scalar(1))]] }, shared);
 * const show = compile(device, { name: "show", outputs: { now: add(n, n) } }, shared);
 * up.run();
 * show.run();
 * assert.deepEqual(await show.read("now"), Float32Array.of(2));
 * for (const owner of [up, show, memory, device]) owner.destroy();
 * ```
 */
export class StateMemory {
  /**
   * One buffer per slab.
   *
   * @ignore
   */
  readonly buffers: DeviceBuffer[];
  readonly #device: Device;
  readonly #places: Map<string, Place>;

  /**
   * Allocates zeros.
   *
   * @param device where to allocate
   * @param tensors names and shapes; 4 bytes per element
   * @param label for error messages
   * @param multiple slabs have a multiple of so many bytes
   */
  constructor(
    device: Device,
    tensors: Iterable<[string, readonly number[]]>,
    label: string,
    multiple: number = ALIGN,
  ) {
    this.#device = device;
    const { places, slabs } = layout(tensors, multiple);
    this.#places = places;
    this.buffers = slabs.map((bytes, i) => device.createBuffer(bytes, `${label} ${i}`));
  }

  /** Names of the tensors, in order of allocation. */
  get names(): string[] {
    return [...this.#places.keys()];
  }

  /** Shape of a tensor. */
  shape(name: string): readonly number[] {
    return this.#place(name).shape;
  }

  /** True if there is a tensor of this name. */
  has(name: string): boolean {
    return this.#places.has(name);
  }

  /**
   * The window that a tensor occupies.
   *
   * @ignore
   */
  view(name: string): BufferView {
    const { slab, offset, bytes } = this.#place(name);
    return { buffer: this.buffers[slab], offset, size: Math.ceil(bytes / 16) * 16 };
  }

  /**
   * Where a tensor lies: which slab, and from which byte of it.
   *
   * @ignore
   */
  place(name: string): { slab: number; offset: number } {
    const { slab, offset } = this.#place(name);
    return { slab, offset };
  }

  /**
   * A whole slab.
   *
   * @ignore
   */
  slab(index: number): BufferView {
    const buffer = this.buffers[index];
    return { buffer, offset: 0, size: buffer.size };
  }

  /**
   * Sets a tensor.
   *
   * @throws {RangeError} if the number of values is not the tensor's
   */
  write(name: string, values: Float32Array | Uint32Array): void {
    const { slab, offset, bytes } = this.#place(name);
    if (values.byteLength !== bytes) {
      throw new RangeError(`${name}: ${values.length} values for ${bytes / 4} elements`);
    }
    this.#device.write(this.buffers[slab], offset, values);
  }

  /** Reads a tensor back. */
  async read(name: string): Promise<Float32Array> {
    const { slab, offset, bytes } = this.#place(name);
    return new Float32Array(await this.#device.read(this.buffers[slab], offset, bytes));
  }

  /**
   * Reads tensors one after the other with few waits: a whole slab at a time, which it keeps on the host
   * until a tensor of another slab is asked for. What it returns is as old as the slab's reading.
   */
  reader(): (name: string) => Promise<Float32Array> {
    let held = -1, bytes = new ArrayBuffer(0);
    return async (name) => {
      const { slab, offset, bytes: size } = this.#place(name);
      if (slab !== held) {
        bytes = await this.#device.read(this.buffers[slab], 0, this.buffers[slab].size);
        held = slab;
      }
      return new Float32Array(bytes.slice(offset, offset + size));
    };
  }

  /** Frees the buffers. */
  destroy(): void {
    for (const buffer of this.buffers) this.#device.destroyBuffer(buffer);
  }

  #place(name: string): Place {
    const place = this.#places.get(name);
    if (!place) throw new Error(`there is no state named ${name}`);
    return place;
  }
}

/**
 * Assigns tensors to slabs, in order: a new slab starts when the next tensor would pass 128 MiB.
 *
 * @param multiple slabs have a multiple of so many bytes; itself a multiple of {@link ALIGN}
 * @returns places by name, and the size of every slab in bytes
 *
 * @example
 * ```ts
 * import { layout } from "./memory.ts";
 * import assert from "node:assert/strict";
 *
 * const { slabs } = layout([["a", [3]], ["b", [100]]]);
 * assert.deepEqual(slabs, [768]); // bytes: 256 for a, 512 for b
 * ```
 */
export function layout(
  tensors: Iterable<[string, readonly number[]]>,
  multiple: number = ALIGN,
): { places: Map<string, Place>; slabs: number[] } {
  const places = new Map<string, Place>();
  const slabs: number[] = [];
  for (const [name, shape] of tensors) {
    if (places.has(name)) throw new Error(`state ${name} is declared twice`);
    const bytes = sizeOf(shape) * 4;
    if (slabs.length === 0 || slabs[slabs.length - 1] + aligned(bytes) > SLAB_BYTES) slabs.push(0);
    const slab = slabs.length - 1;
    places.set(name, { slab, offset: slabs[slab], bytes, shape });
    slabs[slab] += aligned(bytes);
  }
  return { places, slabs: slabs.map((bytes) => Math.ceil(bytes / multiple) * multiple) };
}

/**
 * Buffers that programs share for intermediate values: programs run one after the other, and nothing in
 * the workspace outlives a run.
 *
 * @example
 * ```ts
 * import { compile, exp, input, openDevice, sum, Workspace } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const device = await openDevice({ adapter: "cpu", threads: 1 });
 * const workspace = new Workspace(device), total = sum(exp(input("x", [100])));
 * const one = compile(device, { name: "one", outputs: { total } }, { workspace });
 * const held = workspace.bytes;
 * const two = compile(device, { name: "two", outputs: { total } }, { workspace });
 * assert.equal(workspace.bytes, held);
 * for (const owner of [one, two, workspace, device]) owner.destroy();
 * ```
 */
export class Workspace {
  readonly #device: Device;
  readonly #buffers: DeviceBuffer[] = [];

  /** Starts empty; buffers are made in `device` when programs ask for them. */
  constructor(device: Device) {
    this.#device = device;
  }

  /** Bytes held. */
  get bytes(): number {
    return this.#buffers.reduce((sum, b) => sum + b.size, 0);
  }

  /**
   * Buffers of at least the given sizes, all different. Existing ones are used first.
   *
   * @param sizes bytes
   *
   * @ignore
   */
  acquire(sizes: readonly number[]): DeviceBuffer[] {
    const { chosen, missing } = chooseBuffers(this.#buffers.map(({ size }) => size), sizes);
    for (const size of missing) {
      this.#buffers.push(this.#device.createBuffer(size, "intermediate values"));
    }
    return chosen.map((i) => this.#buffers[i]);
  }

  /** Frees the buffers; programs that use them must not run again. */
  destroy(): void {
    for (const buffer of this.#buffers.splice(0)) this.#device.destroyBuffer(buffer);
  }
}

/**
 * Which buffers serve which requests, all different: for each, the largest first, the smallest buffer
 * that holds it, or a new one.
 *
 * @param have sizes of the buffers there are
 * @param sizes what is asked for
 * @returns a buffer's number for each request, and the sizes of the new buffers, whose numbers follow
 *
 * @example
 * ```ts
 * import { chooseBuffers } from "./memory.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(chooseBuffers([512, 256], [256, 768]), { chosen: [1, 2], missing: [768] });
 * ```
 */
export function chooseBuffers(
  have: readonly number[],
  sizes: readonly number[],
): { chosen: number[]; missing: number[] } {
  const free = have.map((_, i) => i).sort((a, b) => have[a] - have[b]);
  const largestFirst = sizes.map((_, i) => i).sort((a, b) => sizes[b] - sizes[a]);
  const chosen = new Array<number>(sizes.length), missing: number[] = [];
  for (const i of largestFirst) {
    const at = free.findIndex((b) => have[b] >= sizes[i]);
    if (at >= 0) [chosen[i]] = free.splice(at, 1);
    else chosen[i] = have.length + missing.push(sizes[i]) - 1;
  }
  return { chosen, missing };
}

/** Bytes of a tensor in memory. */
export function bytesOf(t: Tensor): number {
  return sizeOf(t.shape) * 4;
}
