/**
 * The GPU behind a small wrapper that makes three promises the raw API does not: errors are exceptions
 * that name the kernel, memory is counted, and arguments known to abort the process are refused first.
 *
 * Everything goes through the standard WebGPU types, so that any implementation will do.
 *
 * @module
 */

import { DeviceLost, UserError } from "../graph/errors.ts";
import {
  type BoundLaunch,
  type BufferView as AnyView,
  type Device,
  type DeviceLimits,
  RUN_WORDS,
  type Submission,
} from "../program/device.ts";
import type { Target } from "../program/lowering.ts";
import {
  assemble,
  type Dispatch,
  type GpuLaunch,
  type KernelSource,
  paddingWords,
} from "./kernel.ts";
import { GpuReadback } from "./readback.ts";
import { GpuStopwatch } from "./stopwatch.ts";
import { gpuTarget } from "./target.ts";

/** A window of a buffer, in bytes. */
export interface GpuView extends AnyView {
  /** The buffer. */
  buffer: GPUBuffer;
}

/** A dispatch with its pipeline and bind group made: replaying it creates no GPU object. */
interface PreparedDispatch {
  pipeline: GPUComputePipeline;
  bindGroup: GPUBindGroup;
  grid: [number, number, number];
}

/** The {@link PreparedList} of this device. */
export interface GpuList {
  /** Kernel names, in order. */
  readonly names: readonly string[];
  /** The run block. */
  readonly run: GPUBuffer;
  /** The dispatches, in order. */
  readonly dispatches: readonly PreparedDispatch[];
  /** Frees the uniform blocks. */
  destroy(): void;
}

/** Usage of every buffer that kernels see. */
const STORAGE = 0x80 | 0x4 | 0x8; // STORAGE | COPY_SRC | COPY_DST
const UNIFORM = 0x40 | 0x8; // UNIFORM | COPY_DST
const READBACK = 0x1 | 0x8; // MAP_READ | COPY_DST

/** Size of the buffer through which everything is read back. */
export const STAGING_BYTES = 4 << 20;

/** A card, as `GPUAdapterInfo` names it: PCI numbers as hexadecimal text, where the runtime tells them. */
export interface CardIds {
  /** Of the maker. */
  vendor: string;
  /** Of the model. */
  device: string;
}

/** An open WebGPU device. Made by {@link openGpuDevice}. */
export class GpuDevice implements Device {
  /** What programs ask to know the device. */
  readonly kind = "gpu";
  /** How steps become kernels. */
  readonly target: Target = gpuTarget;
  /** The device of the WebGPU API. */
  readonly gpu: GPUDevice;
  /** The adapter's own description, e.g. `"llvmpipe (LLVM 15.0.6, 256 bits)"`. */
  readonly adapterName: string;
  /** What it allows. */
  readonly limits: DeviceLimits;
  /** Bytes of buffers alive now. */
  allocatedBytes = 0;
  /** Largest value that {@link allocatedBytes} ever had. */
  peakBytes = 0;
  /** Buffers created so far; a training loop must not raise it after its first update. */
  buffersCreated = 0;

  readonly #staging: GPUBuffer;
  #lastRead: Promise<unknown> = Promise.resolve();
  #pipelines = new Map<string, GPUComputePipeline>();
  #failure: Error | undefined;
  /** Bytes written since `write` last submitted. */
  #unsubmitted = 0;
  #destroyed = false;

  /** Use {@link openGpuDevice}. */
  constructor(gpu: GPUDevice, adapterName: string) {
    this.gpu = gpu;
    this.adapterName = adapterName;
    const { maxBufferSize, maxStorageBufferBindingSize } = gpu.limits;
    this.limits = { bufferBytes: maxBufferSize, bindingBytes: maxStorageBufferBindingSize };
    this.#staging = gpu.createBuffer({ size: STAGING_BYTES, usage: READBACK, label: "readback" });
    this.#count(STAGING_BYTES);
    // Without this listener validation errors and out-of-memory vanish without a trace.
    gpu.addEventListener("uncapturederror", (event) => {
      this.#failure ??= describe((event as GPUUncapturedErrorEvent).error);
    });
    gpu.lost.then((lost) => {
      if (!this.#destroyed) {
        this.#failure ??= new DeviceLost(
          `the GPU device was lost (${
            lost.message || lost.reason
          }): restart the run with --resume; ` +
            "if it happens again, lower --micro-batch",
        );
      }
    });
  }

  /** Number of distinct kernels compiled so far. */
  get kernelCount(): number {
    return this.#pipelines.size;
  }

  /** The card behind the adapter. */
  get cardIds(): CardIds {
    return this.gpu.adapterInfo;
  }

  /** Whether the adapter computes on the processor. */
  get isFallback(): boolean {
    return isFallback(this.gpu.adapterInfo);
  }

  /**
   * Throws the first error that the GPU reported since the device was opened, if any.
   *
   * @throws {Error} naming the kernel or buffer at fault
   */
  check(): void {
    if (this.#failure) throw this.#failure;
  }

  /**
   * Creates a storage buffer.
   *
   * @param bytes size; rounded up to a multiple of 16
   * @param label what it holds, for error messages
   * @throws {UserError} if the device's limits do not allow the size
   */
  createBuffer(bytes: number, label: string): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const limit = this.limits.bufferBytes;
    if (size > limit) {
      throw new UserError(
        `${label} needs a buffer of ${mib(size)}, but ${this.adapterName} allows ${mib(limit)}: ` +
          "choose a smaller preset, --vocab-size or --micro-batch",
      );
    }
    const buffer = this.gpu.createBuffer({ size, usage: STORAGE, label });
    this.#count(size);
    return buffer;
  }

  #createUniform(bytes: number, label: string): GPUBuffer {
    const size = Math.max(256, Math.ceil(bytes / 256) * 256);
    const buffer = this.gpu.createBuffer({ size, usage: UNIFORM, label });
    this.#count(size);
    return buffer;
  }

  /** Creates a {@link GpuReadback} of at least so many bytes. */
  createReadback(bytes: number, label: string): GpuReadback {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const buffer = this.gpu.createBuffer({ size, usage: READBACK, label });
    this.#count(size);
    return new GpuReadback(this, buffer);
  }

  #count(size: number): void {
    this.buffersCreated++;
    this.allocatedBytes += size;
    this.peakBytes = Math.max(this.peakBytes, this.allocatedBytes);
  }

  /** Destroys a buffer at once: the garbage collector never does. */
  destroyBuffer(buffer: GPUBuffer): void {
    this.allocatedBytes -= buffer.size;
    buffer.destroy();
  }

  /**
   * Writes host data into a buffer.
   *
   * @param buffer destination
   * @param offset first byte, a multiple of 4
   * @param data source; its byte length must be a multiple of 4
   * @throws {RangeError} if the range leaves the buffer (the raw API would abort the process)
   */
  write(buffer: GPUBuffer, offset: number, data: ArrayBufferView<ArrayBufferLike>): void {
    if (data.byteLength === 0) return;
    if (offset % 4 !== 0 || data.byteLength % 4 !== 0 || offset + data.byteLength > buffer.size) {
      throw new RangeError(
        `write of ${data.byteLength} bytes at ${offset} into ${buffer.label} of ${buffer.size} bytes`,
      );
    }
    // Slices keep the driver's staging memory small.
    const slice = 16 << 20;
    for (let done = 0; done < data.byteLength; done += slice) {
      const size = Math.min(slice, data.byteLength - done);
      this.gpu.queue.writeBuffer(
        buffer,
        offset + done,
        data.buffer as ArrayBuffer,
        data.byteOffset + done,
        size,
      );
      // A write without a submit keeps its staging copy for ever.
      this.#unsubmitted += size;
      if (this.#unsubmitted >= slice) {
        this.gpu.queue.submit([]);
        this.#unsubmitted = 0;
      }
    }
  }

  /**
   * Copies a window to another buffer, from byte `offset` on; both are multiples of 4.
   *
   * @throws {RangeError} if the range leaves a buffer (the raw API would lose the device)
   */
  copy({ buffer, offset: from, size }: GpuView, to: GPUBuffer, offset: number): void {
    const whole = [from, size, offset].every((n) => n % 4 === 0);
    if (!whole || from + size > buffer.size || offset + size > to.size) {
      throw new RangeError(
        `copy of ${size} bytes from byte ${from} of ${buffer.label} (${buffer.size} bytes) ` +
          `to byte ${offset} of ${to.label} (${to.size} bytes)`,
      );
    }
    const encoder = this.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, from, to, offset, size);
    this.gpu.queue.submit([encoder.finish()]);
  }

  /**
   * Reads part of a buffer back, after all submitted work. Costs 10 ms or more: read seldom. All reads go
   * through one staging buffer of fixed size, so that reading never allocates device memory.
   *
   * @param buffer source
   * @param offset first byte, a multiple of 4
   * @param size bytes, a multiple of 4
   * @throws {Error} that the GPU reported meanwhile
   */
  read(buffer: GPUBuffer, offset: number, size: number): Promise<ArrayBuffer> {
    if (offset % 4 !== 0 || size % 4 !== 0 || offset + size > buffer.size) {
      throw new RangeError(`read of ${size} bytes at ${offset} from ${buffer.label}`);
    }
    const next = this.#lastRead.then(() => this.#read(buffer, offset, size));
    this.#lastRead = next.catch(() => {});
    return next;
  }

  async #read(buffer: GPUBuffer, offset: number, size: number): Promise<ArrayBuffer> {
    const result = new Uint8Array(size);
    for (let done = 0; done < size; done += STAGING_BYTES) {
      const piece = Math.min(STAGING_BYTES, size - done);
      const encoder = this.gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, offset + done, this.#staging, 0, piece);
      this.gpu.queue.submit([encoder.finish()]);
      await this.map(this.#staging, piece);
      result.set(new Uint8Array(this.#staging.getMappedRange(0, piece)), done);
      this.#staging.unmap();
    }
    return result.buffer;
  }

  /**
   * Maps the first bytes of a readback buffer, after all submitted work.
   *
   * @throws {Error} that the GPU reported meanwhile, rather than that mapping failed
   */
  async map(buffer: GPUBuffer, size: number): Promise<void> {
    try {
      await buffer.mapAsync(0x1, 0, size);
    } catch (error) {
      throw await this.reason(error);
    }
    this.check();
  }

  /**
   * Why something failed: what the GPU reported, if anything, else the error itself. That the device is lost
   * becomes known a little after calls begin to fail.
   */
  async reason(error: unknown): Promise<unknown> {
    // Runtimes differ in the class of what their calls throw.
    const isOfGpu = error instanceof DOMException || (error as Error)?.name === "OperationError";
    if (!this.#failure && isOfGpu) {
      await Promise.race([this.gpu.lost, new Promise((resolve) => setTimeout(resolve, 100))]);
    }
    return isOfGpu ? this.#failure ?? error : error;
  }

  /**
   * Makes pipelines and bind groups of launches, once, and uploads their params into one uniform buffer.
   *
   * @throws {Error} if a kernel does not compile, with the compiler's message and the kernel's name: at
   * once, or at the next {@link GpuDevice.check} where the implementation compiles later
   * @throws {UserError} if a window is larger than the device allows
   */
  prepare(label: string, launches: readonly BoundLaunch[]): GpuList {
    const bound = launches.map(({ launch, views }) => {
      const windows = views as GpuView[], { source, params, grid } = launch as GpuLaunch;
      if (windows.length !== source.bindings.length) {
        throw new Error(
          `${source.name}: ${windows.length} buffers for ${source.bindings.length} bindings`,
        );
      }
      return { dispatch: { source: withoutConflicts(source, windows), params, grid }, windows };
    });
    const run = this.#createUniform(RUN_WORDS * 4, `${label} run block`);
    const { buffer, views } = this.#uploadParams(label, bound.map(({ dispatch }) => dispatch));
    const runView = { buffer: run, offset: 0, size: RUN_WORDS * 4 };
    return {
      names: bound.map(({ dispatch }) => dispatch.source.name),
      run,
      dispatches: bound.map(({ dispatch, windows }, i) =>
        this.#prepare(dispatch, windows, views[i], runView)
      ),
      destroy: () => {
        this.destroyBuffer(run);
        if (buffer) this.destroyBuffer(buffer);
      },
    };
  }

  #prepare(
    { source, grid }: Dispatch,
    windows: readonly GpuView[],
    params: GpuView | undefined,
    run: GpuView,
  ): PreparedDispatch {
    for (const g of grid) {
      if (!(g >= 1 && g <= this.gpu.limits.maxComputeWorkgroupsPerDimension)) {
        throw new Error(`${source.name}: grid ${grid.join("×")} is outside the device's limits`);
      }
    }
    const pipeline = this.#pipeline(source);
    const limit = this.limits.bindingBytes;
    for (const { size, buffer } of windows) {
      if (size > limit) {
        throw new UserError(
          `${buffer.label || source.name} needs a binding of ${mib(size)}, but ` +
            `${this.adapterName} allows ${mib(limit)}: choose a smaller preset or --vocab-size, ` +
            "or another adapter",
        );
      }
    }
    const all = [...windows];
    if (source.params.length > 0) all.push(params!);
    if (source.usesRun) all.push(run);
    const bindGroup = this.gpu.createBindGroup({
      label: source.name,
      layout: pipeline.getBindGroupLayout(0),
      entries: all.map((view, binding) => ({ binding, resource: view })),
    });
    return { pipeline, bindGroup, grid };
  }

  #pipeline(source: KernelSource): GPUComputePipeline {
    const code = assemble(source);
    const cached = this.#pipelines.get(code);
    if (cached) return cached;
    const entries: GPUBindGroupLayoutEntry[] = source.bindings.map((b, binding) => ({
      binding,
      visibility: 4,
      buffer: { type: b.access === "read" ? "read-only-storage" : "storage" },
    }));
    let next = entries.length;
    if (source.params.length > 0) {
      entries.push({ binding: next++, visibility: 4, buffer: { type: "uniform" } });
    }
    if (source.usesRun) {
      entries.push({ binding: next++, visibility: 4, buffer: { type: "uniform" } });
    }
    this.gpu.pushErrorScope("validation");
    const module = this.gpu.createShaderModule({ code, label: source.name });
    const layout = this.gpu.createBindGroupLayout({ entries, label: source.name });
    const pipeline = this.gpu.createComputePipeline({
      label: source.name,
      layout: this.gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module, entryPoint: "main" },
    });
    this.gpu.popErrorScope().then((error) => {
      if (!error) return;
      const numbered = code.split("\n").map((line, i) => `${i + 1}: ${line}`).join("\n");
      this.#failure ??= new Error(`kernel ${source.name}: ${error.message}\n${numbered}`);
    });
    this.#pipelines.set(code, pipeline);
    return pipeline;
  }

  /** A window per dispatch, undefined where a kernel has no params, all of one buffer, if any has. */
  #uploadParams(
    label: string,
    dispatches: readonly Dispatch[],
  ): { buffer?: GPUBuffer; views: (GpuView | undefined)[] } {
    const align = Math.max(256, this.gpu.limits.minUniformBufferOffsetAlignment);
    const slots = dispatches.map(({ params }) => Math.ceil(params.length * 4 / align));
    const total = slots.reduce((a, b) => a + b, 0);
    if (total === 0) return { views: dispatches.map(() => undefined) };
    const host = new Uint32Array(total * align / 4);
    const buffer = this.#createUniform(host.byteLength, `${label} params`);
    let slot = 0;
    const views = dispatches.map(({ source, params }, i) => {
      if (params.length !== source.params.length) {
        throw new Error(`${source.name}: ${params.length} params given`);
      }
      if (slots[i] === 0) return undefined;
      host.set(params, slot * align / 4);
      const words = params.length + paddingWords(params.length);
      const view = { buffer, offset: slot * align, size: words * 4 };
      slot += slots[i];
      return view;
    });
    this.write(buffer, 0, host);
    return { buffer, views };
  }

  /** Records dispatches into one pass and submits it; about a microsecond each. */
  submit(list: GpuList, { from = 0, to, watch, slot = 0 }: Submission = {}): void {
    const encoder = this.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass({
      timestampWrites: (watch as GpuStopwatch | undefined)?.writesOf(slot),
    });
    let pipeline: GPUComputePipeline | undefined;
    for (const d of list.dispatches.slice(from, to)) {
      if (d.pipeline !== pipeline) pass.setPipeline(pipeline = d.pipeline);
      pass.setBindGroup(0, d.bindGroup);
      pass.dispatchWorkgroups(d.grid[0], d.grid[1], d.grid[2]);
    }
    pass.end();
    this.gpu.queue.submit([encoder.finish()]);
  }

  /** A stopwatch of so many slots; undefined if the adapter has no timestamps. */
  stopwatch(slots: number): GpuStopwatch | undefined {
    return this.gpu.features.has("timestamp-query") ? new GpuStopwatch(this, slots) : undefined;
  }

  /** Does not wait: some runtimes know of a submission only when all of them are done, and then idle. */
  pace(): Promise<void> {
    return Promise.resolve();
  }

  /** Waits until all submitted work is done, then {@link check}s. */
  async finish(): Promise<void> {
    // Writes that no submission follows are part of it.
    this.gpu.queue.submit([]);
    this.#unsubmitted = 0;
    await this.gpu.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Frees the device. Buffers must have been destroyed by their owners. */
  destroy(): void {
    this.#destroyed = true;
    this.#staging.destroy();
    this.gpu.destroy();
  }
}

/**
 * Opens an adapter's device, with all the limits it offers.
 *
 * @example
 * ```ts ignore
 * const adapter = await navigator.gpu.requestAdapter();
 * const device = await openGpuDevice(adapter!);
 * ```
 */
export async function openGpuDevice(adapter: GPUAdapter): Promise<GpuDevice> {
  const requiredLimits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = (adapter.limits as unknown as Record<string, unknown>)[name];
    if (typeof value === "number") requiredLimits[name] = value;
  }
  const requiredFeatures: GPUFeatureName[] = adapter.features.has("timestamp-query")
    ? ["timestamp-query"]
    : [];
  const device = await adapter.requestDevice({ requiredFeatures, requiredLimits });
  const name = adapter.info.description || adapter.info.device || "unknown adapter";
  return new GpuDevice(device, name);
}

/** Names of drivers that compute on the processor. */
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|basic render|software/i;

/** True for an adapter that computes on the processor: a fallback, where there is no GPU. */
export function isFallback(
  { isFallbackAdapter, description }: Pick<GPUAdapterInfo, "isFallbackAdapter" | "description">,
): boolean {
  return isFallbackAdapter || SOFTWARE.test(description);
}

/**
 * A buffer may not be bound for reading and for writing in one dispatch, even in windows that do not
 * overlap: then all its bindings are declared writable.
 */
function withoutConflicts(source: KernelSource, windows: readonly GpuView[]): KernelSource {
  const written = new Set(
    windows.filter((_, i) => source.bindings[i].access === "read_write").map((v) => v.buffer),
  );
  if (!windows.some((v, i) => source.bindings[i].access === "read" && written.has(v.buffer))) {
    return source;
  }
  const bindings = source.bindings.map((b, i) => ({
    ...b,
    access: written.has(windows[i].buffer) ? "read_write" as const : b.access,
  }));
  return { ...source, bindings };
}

function describe(error: GPUError): Error {
  if (error.constructor.name === "GPUOutOfMemoryError") {
    return new UserError(
      `out of device memory (${error.message}): lower --micro-batch or choose a smaller preset`,
    );
  }
  return new Error(`WebGPU: ${error.message}`);
}

function mib(bytes: number): string {
  return `${(bytes / 1048576).toFixed(0)} MiB`;
}
