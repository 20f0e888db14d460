/**
 * The GPU behind a small wrapper that makes three promises the raw API does not: errors are exceptions
 * that name the kernel, memory is counted, and arguments known to abort the process are refused first.
 *
 * Everything goes through the standard WebGPU types: `navigator.gpu` is the default, and another
 * implementation can be passed in.
 *
 * @module
 */

import { DeviceLost, UserError } from "./errors.ts";
import { assemble, type DeviceClass, type Launch, paddingWords, RUN_WORDS } from "./kernel.ts";

/** A window of a buffer, in bytes. */
export interface BufferView {
  /** The buffer. */
  buffer: GPUBuffer;
  /** First byte; a multiple of 256 keeps every device content. */
  offset: number;
  /** Number of bytes. */
  size: number;
}

/** A dispatch with its pipeline and bind group made: replaying it creates no GPU object. */
export interface PreparedDispatch {
  /** Kernel name, for errors and profiles. */
  name: string;
  /** Compiled pipeline. */
  pipeline: GPUComputePipeline;
  /** Bound buffers. */
  bindGroup: GPUBindGroup;
  /** Workgroups in x, y, z. */
  grid: [number, number, number];
}

/** How to open a {@link Device}. */
export interface DeviceOptions {
  /** A WebGPU implementation; the runtime's own if absent. */
  gpu?: GPU;
  /** Tile family; found from the adapter if absent. Tests set it to run GPU tiles on a software driver. */
  deviceClass?: DeviceClass;
  /** Take the driver that computes on the CPU, even where there is a GPU. */
  software?: boolean;
}

/** Usage of every buffer that kernels see. */
const STORAGE = 0x80 | 0x4 | 0x8; // STORAGE | COPY_SRC | COPY_DST
const UNIFORM = 0x40 | 0x8; // UNIFORM | COPY_DST
const READBACK = 0x1 | 0x8; // MAP_READ | COPY_DST

/** Size of the buffer through which everything is read back. */
export const STAGING_BYTES = 4 << 20;

/** An open WebGPU device. Made by {@link openDevice}. */
export class Device {
  /** The device of the WebGPU API. */
  readonly gpu: GPUDevice;
  /** The adapter's own description, e.g. `"llvmpipe (LLVM 15.0.6, 256 bits)"`. */
  readonly adapterName: string;
  /** Which family of tile shapes kernels use. */
  readonly deviceClass: DeviceClass;
  /** Lanes of a subgroup if the device has subgroups of one fixed size, else 0. */
  readonly subgroupSize: number;
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

  /** Use {@link openDevice}. */
  constructor(gpu: GPUDevice, adapterName: string, deviceClass: DeviceClass) {
    this.gpu = gpu;
    this.adapterName = adapterName;
    this.deviceClass = deviceClass;
    const { subgroupMinSize = 0, subgroupMaxSize = 0 } = gpu.adapterInfo ?? {};
    const fixed = gpu.features.has("subgroups") && subgroupMinSize === subgroupMaxSize;
    this.subgroupSize = fixed ? subgroupMinSize : 0;
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
  get pipelineCount(): number {
    return this.#pipelines.size;
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
    const limit = this.gpu.limits.maxBufferSize;
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

  /** Creates a uniform buffer of at least `bytes` bytes. */
  createUniform(bytes: number, label: string): GPUBuffer {
    const size = Math.max(256, Math.ceil(bytes / 256) * 256);
    const buffer = this.gpu.createBuffer({ size, usage: UNIFORM, label });
    this.#count(size);
    return buffer;
  }

  /** Creates a buffer of at least `bytes` bytes to which results are copied and read; see `readback.ts`. */
  createReadback(bytes: number, label: string): GPUBuffer {
    const size = Math.max(16, Math.ceil(bytes / 16) * 16);
    const buffer = this.gpu.createBuffer({ size, usage: READBACK, label });
    this.#count(size);
    return buffer;
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
   * Makes pipeline and bind group of a launch, once.
   *
   * @param launch kernel, params and grid
   * @param views one per binding of the kernel, in order
   * @param params uniform buffer holding `launch.params` (see {@link uploadParams})
   * @param run the run block, if the kernel uses it
   * @throws {Error} if the WGSL does not compile, with the compiler's message and the kernel's name
   */
  prepare(
    launch: Launch,
    views: BufferView[],
    params: BufferView | undefined,
    run: BufferView | undefined,
  ): PreparedDispatch {
    const { source } = launch;
    if (views.length !== source.bindings.length) {
      throw new Error(
        `${source.name}: ${views.length} buffers for ${source.bindings.length} bindings`,
      );
    }
    for (const g of launch.grid) {
      if (!(g >= 1 && g <= this.gpu.limits.maxComputeWorkgroupsPerDimension)) {
        throw new Error(
          `${source.name}: grid ${launch.grid.join("×")} is outside the device's limits`,
        );
      }
    }
    const pipeline = this.#pipeline(launch);
    const all = [...views];
    if (source.params.length > 0) all.push(params!);
    if (source.usesRun) all.push(run!);
    const limit = this.gpu.limits.maxStorageBufferBindingSize;
    for (const view of views) {
      if (view.size > limit) {
        throw new UserError(
          `${view.buffer.label || source.name} needs a binding of ${mib(view.size)}, but ` +
            `${this.adapterName} allows ${mib(limit)}: choose a smaller preset or --vocab-size, ` +
            "or another adapter",
        );
      }
    }
    const bindGroup = this.gpu.createBindGroup({
      label: source.name,
      layout: pipeline.getBindGroupLayout(0),
      entries: all.map((view, binding) => ({ binding, resource: view })),
    });
    return { name: source.name, pipeline, bindGroup, grid: launch.grid };
  }

  #pipeline({ source }: Launch): GPUComputePipeline {
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

  /**
   * Uploads the params of many launches into one uniform buffer.
   *
   * @returns one view per launch (undefined where a kernel has no params)
   */
  uploadParams(launches: Launch[]): (BufferView | undefined)[] {
    const align = Math.max(256, this.gpu.limits.minUniformBufferOffsetAlignment);
    const slots = launches.map((l) =>
      l.params.length === 0 ? 0 : Math.ceil(l.params.length * 4 / align)
    );
    const total = slots.reduce((a, b) => a + b, 0);
    if (total === 0) return launches.map(() => undefined);
    const host = new Uint32Array(total * align / 4);
    const buffer = this.createUniform(host.byteLength, "params");
    let slot = 0;
    const views = launches.map((launch, i) => {
      if (launch.params.length !== launch.source.params.length) {
        throw new Error(`${launch.source.name}: ${launch.params.length} params given`);
      }
      if (slots[i] === 0) return undefined;
      host.set(launch.params, slot * align / 4);
      const words = launch.params.length + paddingWords(launch.params.length);
      const view = { buffer, offset: slot * align, size: words * 4 };
      slot += slots[i];
      return view;
    });
    this.write(buffer, 0, host);
    return views;
  }

  /** Records dispatches into one pass and submits it. */
  submit(dispatches: PreparedDispatch[]): void {
    const encoder = this.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    record(pass, dispatches);
    pass.end();
    this.gpu.queue.submit([encoder.finish()]);
  }

  /** Waits until all submitted work is done, then {@link check}s. */
  async finish(): Promise<void> {
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

/** Records dispatches into an open pass; about a microsecond each. */
export function record(pass: GPUComputePassEncoder, dispatches: PreparedDispatch[]): void {
  let pipeline: GPUComputePipeline | undefined;
  for (const d of dispatches) {
    if (d.pipeline !== pipeline) pass.setPipeline(pipeline = d.pipeline);
    pass.setBindGroup(0, d.bindGroup);
    pass.dispatchWorkgroups(d.grid[0], d.grid[1], d.grid[2]);
  }
}

/** Size in bytes of the run block. */
export const RUN_BYTES = RUN_WORDS * 4;

/**
 * Opens the best adapter, or the software driver's, with all the limits it offers.
 *
 * @throws {UserError} if there is no adapter
 */
export async function openDevice(options: DeviceOptions = {}): Promise<Device> {
  const gpu = options.gpu ?? navigator.gpu;
  const adapter = await gpu?.requestAdapter({
    powerPreference: "high-performance",
    forceFallbackAdapter: options.software ?? false,
  });
  if (!adapter) {
    const driver = options.software ? "Mesa's software driver" : "a Vulkan driver";
    throw new UserError(
      `no ${options.software ? "software" : "WebGPU"} adapter: install ${driver} ` +
        "(on Debian: apt-get install libvulkan1 " +
        "mesa-vulkan-drivers) or run `deno task setup`",
    );
  }
  const requiredLimits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = (adapter.limits as unknown as Record<string, unknown>)[name];
    if (typeof value === "number") requiredLimits[name] = value;
  }
  const requiredFeatures: GPUFeatureName[] = adapter.features.has("timestamp-query")
    ? ["timestamp-query"]
    : [];
  // Some runtimes grant subgroups without listing them, so the only way to know is to ask.
  const device = await adapter
    .requestDevice({ requiredFeatures: [...requiredFeatures, "subgroups"], requiredLimits })
    .catch(() => adapter.requestDevice({ requiredFeatures, requiredLimits }));
  const name = adapter.info.description || adapter.info.device || "unknown adapter";
  const deviceClass = options.deviceClass ??
    (adapter.info.isFallbackAdapter ? "software" : "gpu");
  return new Device(device, name, deviceClass);
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
