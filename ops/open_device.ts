/**
 * From the user's choice to a device.
 *
 * @module
 */

import { openCpuDevice } from "./cpu/device.ts";
import { isFallback, openGpuDevice } from "./gpu/device.ts";
import { UserError } from "./graph/errors.ts";
import type { Device } from "./program/device.ts";

/** How to open a device. */
export interface OpenOptions {
  /**
   * What to compute on. `auto`, if absent: a GPU if there is one, else the processor. `gpu`: a GPU. `cpu`: the
   * processor. `software`: the kernels of GPUs on a driver that computes on the processor, for tests.
   */
  adapter?: "auto" | "gpu" | "cpu" | "software";
  /** Threads of the processor; all it has if absent. */
  threads?: number;
  /** Bytes of memory that the processor may use; what it can address if absent. */
  memoryBytes?: number;
  /** A WebGPU implementation; the runtime's own if absent. */
  gpu?: GPU;
}

/** What to compute on. */
export type AdapterChoice = NonNullable<OpenOptions["adapter"]>;

/**
 * Opens a device.
 *
 * @throws {UserError} if there is none of the kind that was asked for
 *
 * @example
 * ```ts
 * import { openDevice } from "@metro/t0/ops";
 *
 * const device = await openDevice({ adapter: "cpu", threads: 1 });
 * console.log(device.adapterName);
 * device.destroy();
 * ```
 */
export async function openDevice(options: OpenOptions = {}): Promise<Device> {
  const { adapter = "auto", threads, memoryBytes, gpu } = options;
  if (adapter === "cpu") return await openCpuDevice({ threads, memoryBytes });
  if (adapter === "software") return await openGpuDevice(await softwareAdapter(gpu));
  const found = await findGpu(gpu);
  if (found) return await openGpuDevice(found);
  if (adapter === "auto") return await openCpuDevice({ threads, memoryBytes });
  throw noGpu();
}

/** The GPU that WebGPU prefers; undefined if it offers none, or only a driver that computes on the processor. */
export async function findGpu(
  gpu: GPU | undefined = globalThis.navigator?.gpu,
): Promise<GPUAdapter | undefined> {
  const found = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  return found && !isFallback(found.info) ? found : undefined;
}

/** What to tell a user who asked for a GPU where there is none. */
export function noGpu(): UserError {
  return new UserError(
    "no GPU: WebGPU offers no adapter but software; install the vendor's Vulkan driver, or compute on the " +
      "CPU with --adapter cpu",
  );
}

async function softwareAdapter(
  gpu: GPU | undefined = globalThis.navigator?.gpu,
): Promise<GPUAdapter> {
  const found = await gpu?.requestAdapter({ forceFallbackAdapter: true });
  if (found) return found;
  throw new UserError(
    "no software adapter: install Mesa's software driver (on Debian: apt-get install libvulkan1 " +
      "mesa-vulkan-drivers) or run `deno task setup`",
  );
}
