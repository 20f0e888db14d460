/**
 * Reading while the device goes on working: a buffer of its own per read, so that several are under way.
 *
 * @module
 */

import type { Readback } from "../program/device.ts";
import type { GpuDevice, GpuView } from "./device.ts";

/** One read at a time through one buffer of fixed size. Made by `GpuDevice.createReadback`. */
export class GpuReadback implements Readback {
  readonly #device: GpuDevice;
  readonly #buffer: GPUBuffer;
  #isMapped = false;

  /** Takes a buffer that can be mapped, and owns it. */
  constructor(device: GpuDevice, buffer: GPUBuffer) {
    this.#device = device;
    this.#buffer = buffer;
  }

  /** Bytes that a read may have at most. */
  get capacity(): number {
    return this.#buffer.size;
  }

  /**
   * Reads windows of buffers as they are after all work submitted so far. Some runtimes return from the
   * call only when the device is idle; work submitted directly afterwards keeps it busy while the
   * promise, which takes 10 ms or more, is awaited.
   */
  read(views: readonly GpuView[]): Promise<ArrayBuffer> {
    const size = views.reduce((sum, view) => sum + view.size, 0);
    if (size > this.capacity) {
      throw new RangeError(
        `${this.#buffer.label}: a read of ${size} bytes, but ${this.capacity} fit`,
      );
    }
    if (this.#isMapped) this.#buffer.unmap();
    this.#isMapped = false;
    const { gpu } = this.#device;
    const encoder = gpu.createCommandEncoder();
    let at = 0;
    for (const { buffer, offset, size } of views) {
      encoder.copyBufferToBuffer(buffer, offset, this.#buffer, at, size);
      at += size;
    }
    gpu.queue.submit([encoder.finish()]);
    return this.#device.map(this.#buffer, size).then(() => {
      this.#isMapped = true;
      return this.#buffer.getMappedRange(0, size);
    });
  }

  /** Frees the buffer. */
  destroy(): void {
    this.#device.destroyBuffer(this.#buffer);
  }
}
