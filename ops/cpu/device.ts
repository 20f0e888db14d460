/**
 * The processor as a device: WebAssembly with vectors, on as many threads as it has cores. It needs no
 * driver, and no Deno either; without shared memory, as on a page that is not cross-origin isolated, the
 * calling thread does the work.
 *
 * @module
 */

import { UserError } from "../graph/errors.ts";
import {
  type BoundLaunch,
  type BufferView,
  type Device,
  type DeviceBuffer,
  type DeviceLimits,
  type PreparedList,
  type Readback,
  type Stopwatch,
  type Submission,
} from "../program/device.ts";
import type { Target } from "../program/lowering.ts";
import { type MemoryKind, NARROW_PAGES, WIDE_PAGES } from "./assembler.ts";
import { Heap } from "./heap.ts";
import { assemble, type CpuLaunch, type KernelSource, SCRATCH_BYTES } from "./kernel.ts";
import { Queue, type QueueParts } from "./queue.ts";
import { cpuTarget, layOutList } from "./target.ts";
import { COMMAND } from "./threads.ts";
import { supportOf } from "./support.ts";

/** How to open the processor. */
export interface CpuOptions {
  /** Threads; as many as the processor has if absent. */
  threads?: number;
  /** Bytes that may be used in all; what the addresses reach if absent. */
  memoryBytes?: number;
  /** 64-bit addresses from the start. */
  wide?: boolean;
  /** Bytes after which addresses get 64 bits; all that 32 bits reach if absent. */
  narrowBytes?: number;
  /** Milliseconds without work after which threads end, so that a process can; 1000 if absent. */
  idle?: number;
}

/** A piece of the device's memory. */
export interface CpuBuffer extends DeviceBuffer {
  /** Its address. */
  readonly address: number;
}

/** The {@link PreparedList} of this device. */
export interface CpuList extends PreparedList {
  /** Address of the table of launches. */
  readonly table: number;
  /** Its memory, of which the run block is the beginning. */
  readonly run: CpuBuffer;
}

const PAGE = 65536;
/** Kernels read a little behind the end of what they are given. */
const SLACK = 8192;
/** Memory grows by at least so much. */
const GROWTH = 32 << 20;
/** Modules are kept in memory, for threads that start later. */
const ARENA = 1 << 20;
/** Size of the buffer through which everything is read back while there is other work. */
const STAGING_BYTES = 4 << 20;

/** The processor. Made by {@link openCpuDevice}. */
export class CpuDevice implements Device {
  /** What programs ask to know the device. */
  readonly kind = "cpu";
  /** How steps become kernels. */
  readonly target: Target;
  /** Threads that compute. */
  readonly threads: number;
  /** Bytes of buffers alive now. */
  allocatedBytes = 0;
  /** Largest value that {@link allocatedBytes} ever had. */
  peakBytes = 0;
  /** Buffers created so far. */
  buffersCreated = 0;

  readonly #most: number;
  readonly #narrow: number;
  readonly #habits: Pick<QueueParts, "idle" | "nameOf">;
  #kind: MemoryKind;
  #heap: Heap;
  #queue: Queue;
  readonly #numbers = new Map<string, number>();
  readonly #sources: KernelSource[] = [];
  readonly #names: string[] = [];
  #arena = { at: 0, left: 0 };
  readonly #staging: CpuReadback;
  #lastRead: Promise<unknown> = Promise.resolve();
  #destroyed = false;
  /** Commands that were submitted before the last call of {@link pace}. */
  #paced = 0;

  /** Use {@link openCpuDevice}. */
  constructor(options: CpuOptions) {
    const { threads, wide = false, memoryBytes = Infinity, idle = 1000 } = options;
    const support = supportOf();
    this.threads = support.shared ? threads ?? support.cores : 1;
    this.target = cpuTarget(this.threads);
    this.#kind = { shared: support.shared, fused: support.fused, wide };
    this.#most = Math.min(memoryBytes, (support.wide ? WIDE_PAGES : NARROW_PAGES) * PAGE - SLACK);
    this.#habits = { idle, nameOf: (kernel) => this.#names[kernel] };
    this.#narrow = options.narrowBytes ?? NARROW_PAGES * PAGE;
    // Counters and the threads' own memory come first.
    const counters = PAGE, scratch = counters + 1024;
    this.#heap = new Heap(scratch + this.threads * SCRATCH_BYTES);
    this.#queue = new Queue({
      memory: newMemory(this.#kind, this.#heap.end + GROWTH),
      threads: this.threads,
      wide,
      ...this.#habits,
      counters,
      scratch: [scratch, SCRATCH_BYTES],
    });
    this.#staging = new CpuReadback(this, STAGING_BYTES, "readback");
  }

  /** How it is called. */
  get adapterName(): string {
    return `CPU, ${this.threads} ${this.threads === 1 ? "thread" : "threads"}`;
  }

  /** What it allows. */
  get limits(): DeviceLimits {
    return { bufferBytes: this.#most, bindingBytes: this.#most };
  }

  /** Distinct kernels generated so far. */
  get kernelCount(): number {
    return this.#sources.length;
  }

  /** Addresses have 64 bits: so they do once 4 GiB are passed. */
  get isWide(): boolean {
    return this.#kind.wide;
  }

  /** Threads that are alive. */
  get threadsAlive(): number {
    return this.#queue.threadsAlive;
  }

  /** Throws the first error of a thread. */
  check(): void {
    if (this.#destroyed) throw new Error("the CPU device was destroyed");
    this.#queue.check();
  }

  /** Creates a buffer of zeros. */
  createBuffer(bytes: number, label: string): CpuBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    if (this.allocatedBytes + size > this.#most) {
      throw new UserError(
        `${label} needs ${mib(size)} beside the ${
          mib(this.allocatedBytes)
        } in use, but there are ` +
          `${mib(this.#most)} of memory: choose a smaller preset, --vocab-size or --micro-batch`,
      );
    }
    const before = this.#heap.end;
    const address = this.#heap.take(size);
    this.#reach(this.#heap.end);
    // Memory is zero where nothing has been yet.
    if (address < before) this.#queue.clear(address, Math.min(size, before - address));
    this.buffersCreated++;
    this.allocatedBytes += size;
    this.peakBytes = Math.max(this.peakBytes, this.allocatedBytes);
    return { size, label, address };
  }

  /** Makes the memory reach an address. */
  #reach(end: number): void {
    const { memory } = this.#queue.state;
    const missing = end + SLACK - memory.buffer.byteLength;
    if (missing <= 0) return;
    const limit = this.#kind.wide ? WIDE_PAGES * PAGE : this.#narrow;
    if (end + SLACK > limit) {
      if (this.#kind.wide) throw new UserError(`the CPU device is out of addresses (${mib(end)})`);
      return this.#widen(end);
    }
    const room = limit - memory.buffer.byteLength;
    const pages = Math.ceil(Math.max(missing, Math.min(room, GROWTH)) / PAGE);
    try {
      grow(memory, pages, this.#kind.wide);
    } catch {
      throw new UserError(
        `no memory: ${mib(end)} are needed. Choose a smaller preset, --vocab-size or --micro-batch`,
      );
    }
    this.#queue.grown();
  }

  /** Moves everything to a memory with 64-bit addresses. */
  #widen(end: number): void {
    const old = this.#queue;
    old.wait();
    this.#kind = { ...this.#kind, wide: true };
    const memory = newMemory(this.#kind, end + GROWTH);
    new Uint8Array(memory.buffer).set(new Uint8Array(old.state.memory.buffer));
    this.#queue = new Queue({ ...old.state, ...this.#habits, memory, wide: true });
    this.#paced = 0; // it counts from the start
    old.end();
    this.#arena = { at: 0, left: 0 };
    for (const [i, source] of this.#sources.entries()) this.#load(i, source);
  }

  /** Frees a buffer. Work that was submitted before may still use it: what comes later waits its turn. */
  destroyBuffer(buffer: DeviceBuffer): void {
    this.allocatedBytes -= buffer.size;
    this.#heap.free((buffer as CpuBuffer).address, buffer.size);
  }

  /** Creates a readback of at least so many bytes. */
  createReadback(bytes: number, label: string): Readback {
    return new CpuReadback(this, bytes, label);
  }

  /** Writes host data into a buffer. */
  write(buffer: DeviceBuffer, offset: number, data: ArrayBufferView<ArrayBufferLike>): void {
    if (data.byteLength === 0) return;
    if (offset % 4 !== 0 || data.byteLength % 4 !== 0 || offset + data.byteLength > buffer.size) {
      throw new RangeError(
        `write of ${data.byteLength} bytes at ${offset} into ${buffer.label} of ${buffer.size} bytes`,
      );
    }
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.#queue.write((buffer as CpuBuffer).address + offset, bytes);
  }

  /** Copies a window to another buffer. */
  copy({ buffer, offset, size }: BufferView, to: DeviceBuffer, at: number): void {
    if (offset + size > buffer.size || at + size > to.size) {
      throw new RangeError(`copy of ${size} bytes from ${buffer.label} to ${to.label} at ${at}`);
    }
    const from = (buffer as CpuBuffer).address + offset;
    this.#queue.submit(COMMAND.copy, from, (to as CpuBuffer).address + at, size);
  }

  /** Reads part of a buffer back, after all submitted work. */
  read(buffer: DeviceBuffer, offset: number, size: number): Promise<ArrayBuffer> {
    if (offset % 4 !== 0 || size % 4 !== 0 || offset + size > buffer.size) {
      throw new RangeError(`read of ${size} bytes at ${offset} from ${buffer.label}`);
    }
    const next = this.#lastRead.then(async () => {
      this.check();
      if (this.#queue.isIdle) return this.#queue.read((buffer as CpuBuffer).address + offset, size);
      const result = new Uint8Array(size);
      for (let done = 0; done < size; done += STAGING_BYTES) {
        const piece = Math.min(STAGING_BYTES, size - done);
        const view = { buffer, offset: offset + done, size: piece };
        result.set(new Uint8Array(await this.#staging.read([view])), done);
      }
      return result.buffer;
    });
    this.#lastRead = next.catch(() => {});
    return next;
  }

  /** The bytes of a buffer, once all that was submitted is done. */
  async bytesOf({ address }: CpuBuffer, size: number): Promise<ArrayBuffer> {
    await this.#queue.finish();
    return this.#queue.read(address, size);
  }

  /** Why something failed: there is nothing here that becomes known later. */
  reason(error: unknown): Promise<unknown> {
    return Promise.resolve(error);
  }

  /** Makes launches ready to be replayed. */
  prepare(label: string, launches: readonly BoundLaunch[]): CpuList {
    const all = launches.map(({ launch }) => launch as CpuLaunch);
    const { table, args, bytes } = layOutList(all);
    const run = this.createBuffer(bytes, `${label} arguments`);
    const host = new ArrayBuffer(bytes);
    const words = new Uint32Array(host), numbers = new Float64Array(host);
    const address = (word: number, value: number) => {
      words[word] = value % 2 ** 32;
      words[word + 1] = Math.floor(value / 2 ** 32);
    };
    for (const [i, { launch, views }] of launches.entries()) {
      const { source, items, params } = launch as CpuLaunch;
      if (views.length !== source.operands) {
        throw new Error(
          `${launch.name}: ${views.length} buffers for ${source.operands} operands`,
        );
      }
      numbers[table / 8 + 2 * i] = this.#kernel(launch.name, source);
      numbers[table / 8 + 2 * i + 1] = run.address + args[i];
      const at = args[i] / 4;
      words[at] = items;
      address(at + 2, run.address);
      for (const [k, { buffer, offset }] of views.entries()) {
        address(at + 4 + 2 * k, (buffer as CpuBuffer).address + offset);
      }
      words.set(params, at + 4 + 2 * views.length);
    }
    this.write(run, 0, words);
    const names = all.map(({ name }) => name);
    const destroy = () => this.destroyBuffer(run);
    return { names, run, table: run.address + table, destroy };
  }

  #kernel(name: string, source: KernelSource): number {
    const known = this.#numbers.get(source.key);
    if (known !== undefined) return known;
    const number = this.#sources.push(source) - 1;
    this.#numbers.set(source.key, number);
    this.#names[number] = name;
    try {
      this.#load(number, source);
    } catch (error) {
      throw new Error(`kernel ${name}: ${(error as Error).message}`, { cause: error });
    }
    return number;
  }

  #load(number: number, source: KernelSource): void {
    const bytes = assemble(source, this.#kind);
    if (bytes.length > this.#arena.left) {
      const left = Math.max(ARENA, bytes.length);
      const at = this.#heap.take(left);
      this.#reach(this.#heap.end);
      this.#arena = { at, left };
    }
    const { at } = this.#arena;
    const taken = Math.ceil(bytes.length / 16) * 16;
    this.#arena = { at: at + taken, left: Math.max(0, this.#arena.left - taken) };
    this.#queue.load(number, at, bytes);
  }

  /** Runs launches of a list. */
  submit(list: PreparedList, { from = 0, to, watch, slot = 0 }: Submission = {}): void {
    const { table, names } = list as CpuList;
    const time = watch ? (watch as CpuStopwatch).addressOf(slot) : -1;
    this.#queue.submit(COMMAND.run, table, from, to ?? names.length, time);
  }

  /** A stopwatch of so many slots. */
  stopwatch(slots: number): Stopwatch {
    return new CpuStopwatch(this, slots);
  }

  /** Waits until what was submitted before the last call of this is done: one program runs, one waits. */
  async pace(): Promise<void> {
    const before = this.#paced;
    this.#paced = this.#queue.submitted;
    await this.#queue.finish(before);
  }

  /** Waits until all submitted work is done. */
  async finish(): Promise<void> {
    await this.#queue.finish();
    this.check();
  }

  /** Ends the threads. */
  destroy(): void {
    this.#destroyed = true;
    this.#queue.end();
  }
}

/** Time by slot, kept in the device's memory by its first thread. */
class CpuStopwatch implements Stopwatch {
  readonly #device: CpuDevice;
  readonly #times: CpuBuffer;
  readonly #slots: number;

  constructor(device: CpuDevice, slots: number) {
    this.#device = device;
    this.#slots = slots;
    this.#times = device.createBuffer(4 * slots, "times");
  }

  addressOf(slot: number): number {
    return this.#times.address + 4 * slot;
  }

  async read(): Promise<Float64Array> {
    const bytes = await this.#device.read(this.#times, 0, 4 * this.#slots);
    return Float64Array.from(new Float32Array(bytes));
  }

  destroy(): void {
    this.#device.destroyBuffer(this.#times);
  }
}

class CpuReadback implements Readback {
  readonly #device: CpuDevice;
  readonly #buffer: CpuBuffer;

  constructor(device: CpuDevice, bytes: number, label: string) {
    this.#device = device;
    this.#buffer = device.createBuffer(bytes, label);
  }

  get capacity(): number {
    return this.#buffer.size;
  }

  read(views: readonly BufferView[]): Promise<ArrayBuffer> {
    const size = views.reduce((sum, view) => sum + view.size, 0);
    if (size > this.capacity) {
      throw new RangeError(
        `${this.#buffer.label}: a read of ${size} bytes, but ${this.capacity} fit`,
      );
    }
    let at = 0;
    for (const view of views) {
      this.#device.copy(view, this.#buffer, at);
      at += view.size;
    }
    return this.#device.bytesOf(this.#buffer, size);
  }

  destroy(): void {
    this.#device.destroyBuffer(this.#buffer);
  }
}

function newMemory({ shared, wide }: MemoryKind, bytes: number): WebAssembly.Memory {
  const pages = Math.ceil((bytes + SLACK) / PAGE);
  const descriptor = { initial: pages, maximum: wide ? WIDE_PAGES : NARROW_PAGES, shared };
  if (!wide) return new WebAssembly.Memory(descriptor);
  const { initial, maximum } = descriptor;
  const big = { initial: BigInt(initial), maximum: BigInt(maximum), shared, address: "i64" };
  return new WebAssembly.Memory(big as unknown as WebAssembly.MemoryDescriptor);
}

function grow(memory: WebAssembly.Memory, pages: number, wide: boolean): void {
  memory.grow((wide ? BigInt(pages) : pages) as number);
}

function mib(bytes: number): string {
  return `${(bytes / 1048576).toFixed(0)} MiB`;
}

/**
 * Opens the processor.
 *
 * @throws {UserError} if the runtime's WebAssembly has no vectors
 *
 * @example
 * ```ts
 * import { openCpuDevice } from "./device.ts";
 * import assert from "node:assert/strict";
 *
 * const device = await openCpuDevice({ threads: 2 });
 * const buffer = device.createBuffer(16, "four numbers");
 * device.write(buffer, 0, Float32Array.of(1, 2, 3, 4));
 * assert.deepEqual([...new Float32Array(await device.read(buffer, 0, 16))], [1, 2, 3, 4]);
 * device.destroy();
 * ```
 */
export function openCpuDevice(options: CpuOptions = {}): Promise<CpuDevice> {
  const { threads } = options;
  if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 256)) {
    throw new UserError(`threads: expected an integer from 1 to 256, got ${threads}`);
  }
  if (!supportOf().vectors) {
    throw new UserError(
      "this runtime's WebAssembly has no 128-bit vectors: take a newer one, or compute on a GPU",
    );
  }
  return Promise.resolve(new CpuDevice(options));
}
