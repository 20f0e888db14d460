/**
 * What a program needs of the machine it runs on. Two targets implement it, `ops/gpu/` and `ops/cpu/`;
 * everything else, programs, state memory, training, ranks, is written against this page.
 *
 * Work is a queue: writes, copies and submitted launches take effect in the order of the calls, which
 * return at once; only reads and {@link Device.finish} wait.
 *
 * @module
 */

import type { Launch, Target } from "./lowering.ts";

/** Memory of a device. */
export interface DeviceBuffer {
  /** Bytes, a multiple of 16. */
  readonly size: number;
  /** What it holds, for error messages. */
  readonly label: string;
}

/** A window of a buffer, in bytes. */
export interface BufferView {
  /** The buffer. */
  buffer: DeviceBuffer;
  /** First byte; a multiple of 256 keeps every device content. */
  offset: number;
  /** Number of bytes. */
  size: number;
}

/** A launch with the memory of its operands, in their order. */
export interface BoundLaunch {
  /** The launch. */
  launch: Launch;
  /** One window per operand. */
  views: BufferView[];
}

/** Launches made ready: replaying them creates nothing. */
export interface PreparedList {
  /** Kernel names, in order, for profiles. */
  readonly names: readonly string[];
  /** Holds the run block: {@link RUN_WORDS} words that the host writes before each run. */
  readonly run: DeviceBuffer;
  /** Frees what the list owns, its run block included. */
  destroy(): void;
}

/** Measures how long the device is busy with submissions. */
export interface Stopwatch {
  /** Milliseconds of every slot, after all submitted work; 0 for those never used. */
  read(): Promise<Float64Array>;
  /** Frees it. */
  destroy(): void;
}

/** Which launches of a list to submit, and how. */
export interface Submission {
  /** First launch; 0 if absent. */
  from?: number;
  /** One past the last; all if absent. */
  to?: number;
  /** Times the submission. */
  watch?: Stopwatch;
  /** Slot of the stopwatch. */
  slot?: number;
}

/** Reads while the device goes on working. */
export interface Readback {
  /** Bytes that a read may have at most. */
  readonly capacity: number;
  /**
   * Reads windows of buffers as they are after all work submitted so far; work submitted afterwards does not
   * change what is read.
   *
   * @param views sizes and offsets are multiples of 4 bytes; all together at most {@link Readback.capacity}
   * @returns the bytes, one window after the other; valid until the next read
   * @throws {RangeError} if they do not fit
   * @throws {Error} that the device reported meanwhile
   */
  read(views: readonly BufferView[]): Promise<ArrayBuffer>;
  /** Frees the buffer. */
  destroy(): void;
}

/** An open device. Made by `openDevice`. */
export interface Device {
  /** `"gpu"`: WebGPU, whatever is behind it. `"cpu"`: WebAssembly on the processor's cores. */
  readonly kind: "gpu" | "cpu";
  /** How it is called, e.g. `"NVIDIA H200"` or `"CPU, 2 threads"`. */
  readonly adapterName: string;
  /**
   * How steps become kernels.
   *
   * @ignore
   */
  readonly target: Target;
  /** What it allows. */
  readonly limits: {
    /** Bytes of the largest buffer. */
    bufferBytes: number;
    /** Bytes of the largest window that a kernel can be given. */
    bindingBytes: number;
  };
  /** Bytes of buffers alive now. */
  readonly allocatedBytes: number;
  /** Largest value that {@link Device.allocatedBytes} ever had. */
  readonly peakBytes: number;
  /** Buffers created so far; a training loop must not raise it after its first update. */
  readonly buffersCreated: number;
  /** Distinct kernels compiled so far; the same holds. */
  readonly kernelCount: number;

  /**
   * Throws the first error that the device reported since it was opened, if any.
   *
   * @throws {Error} naming the kernel or buffer at fault
   */
  check(): void;

  /**
   * Why something failed: what the device reported, if anything, else the error itself. That a device is
   * lost can become known a little after calls begin to fail.
   *
   * @ignore
   */
  reason(error: unknown): Promise<unknown>;

  /**
   * Creates a buffer of zeros.
   *
   * @param bytes size; rounded up to a multiple of 16
   * @param label what it holds, for error messages
   * @throws {UserError} if the device's limits do not allow the size
   *
   * @ignore
   */
  createBuffer(bytes: number, label: string): DeviceBuffer;

  /**
   * Creates a {@link Readback} of at least so many bytes.
   *
   * @ignore
   */
  createReadback(bytes: number, label: string): Readback;

  /**
   * Frees a buffer at once: the garbage collector never does. Work submitted before may still use it.
   *
   * @ignore
   */
  destroyBuffer(buffer: DeviceBuffer): void;

  /**
   * Writes host data into a buffer.
   *
   * @param offset first byte, a multiple of 4
   * @param data source; its byte length must be a multiple of 4. It may be changed after the call
   * @throws {RangeError} if the range leaves the buffer
   *
   * @ignore
   */
  write(buffer: DeviceBuffer, offset: number, data: ArrayBufferView<ArrayBufferLike>): void;

  /**
   * Copies a window to another buffer, from byte `offset` on; both are multiples of 4.
   *
   * @ignore
   */
  copy(from: BufferView, to: DeviceBuffer, offset: number): void;

  /**
   * Reads part of a buffer back, after all submitted work. Costs 10 ms or more on a GPU: read seldom.
   *
   * @param offset first byte, a multiple of 4
   * @param size bytes, a multiple of 4
   * @throws {Error} that the device reported meanwhile
   *
   * @ignore
   */
  read(buffer: DeviceBuffer, offset: number, size: number): Promise<ArrayBuffer>;

  /**
   * Makes launches ready to be replayed.
   *
   * @param label the program's name
   * @throws {Error} if a kernel does not compile, with its name
   * @throws {UserError} if a window is larger than the device allows
   *
   * @ignore
   */
  prepare(label: string, launches: readonly BoundLaunch[]): PreparedList;

  /**
   * Runs launches of a list, one after the other.
   *
   * @ignore
   */
  submit(list: PreparedList, how?: Submission): void;

  /**
   * A stopwatch of so many slots; undefined if the device has no clock.
   *
   * @ignore
   */
  stopwatch(slots: number): Stopwatch | undefined;

  /**
   * Waits, if need be, until what was submitted before the last call of this is done: called between
   * programs, it keeps two of them queued and not more, so that a job can stop soon.
   *
   * @ignore
   */
  pace(): Promise<void>;

  /** Waits until all submitted work is done, then {@link Device.check}s. */
  finish(): Promise<void>;

  /** Frees the device. Buffers must have been destroyed by their owners. */
  destroy(): void;
}

/** What a device allows. */
export type DeviceLimits = Device["limits"];

/** 32-bit words of the run block. */
export const RUN_WORDS = 64;
/** Word of the run block that holds the random key of the run (seed and update folded on the host). */
export const RUN_KEY = 0;
/** Word that holds the index, within the global batch, of the first sequence of the run. */
export const RUN_SEQUENCE = 1;
/** First word that holds a scalar input. */
export const RUN_SCALARS = 4;
