/**
 * From the user's choice to a device.
 *
 * @module
 */

import { openCpuDevice } from "./cpu/device.ts";
import { isFallback, openGpuDevice } from "./gpu/device.ts";
import { UserError } from "./graph/errors.ts";
import type { Device } from "./program/device.ts";

/**
 * What to compute on. `auto`: a GPU if there is one, else the processor. `gpu`: a GPU. `cpu`: the processor.
 * `software`: the kernels of GPUs on a driver that computes on the processor, for tests.
 */
export type AdapterChoice = "auto" | "gpu" | "cpu" | "software";

/** How to open a device. */
export interface OpenOptions {
  /** What to compute on; `auto` if absent. */
  adapter?: AdapterChoice;
  /** Threads of the processor; all it has if absent. */
  threads?: number;
  /** A WebGPU implementation; the runtime's own if absent. */
  gpu?: GPU;
}

/**
 * Opens a device.
 *
 * @throws {UserError} if there is none of the kind that was asked for
 *
 * @example
 * ```ts ignore
 * import { openDevice } from "./open_device.ts";
 *
 * const device = await openDevice({ adapter: "gpu" });
 * console.log(device.adapterName);
 * device.destroy();
 * ```
 */
export async function openDevice(options: OpenOptions = {}): Promise<Device> {
  const { adapter = "auto", threads, gpu = globalThis.navigator?.gpu } = options;
  if (adapter === "cpu") return await openCpuDevice({ threads });
  if (adapter === "software") return await openGpuDevice(await softwareAdapter(gpu));
  const found = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (found && !isFallback(found.info)) return await openGpuDevice(found);
  if (adapter === "auto") return await openCpuDevice({ threads });
  throw new UserError(
    "no GPU: WebGPU offers no adapter but software; install the vendor's Vulkan driver, or compute on the " +
      "CPU with --adapter cpu",
  );
}

async function softwareAdapter(gpu: GPU | undefined): Promise<GPUAdapter> {
  const found = await gpu?.requestAdapter({ forceFallbackAdapter: true });
  if (found) return found;
  throw new UserError(
    "no software adapter: install Mesa's software driver (on Debian: apt-get install libvulkan1 " +
      "mesa-vulkan-drivers) or run `deno task setup`",
  );
}
