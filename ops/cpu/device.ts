/**
 * A place holder until ops/cpu/ is merged.
 *
 * @module
 */

import type { Device } from "../program/device.ts";

/** Opens the processor. */
export function openCpuDevice(_options: { threads?: number } = {}): Promise<Device> {
  throw new Error("there is no CPU target yet");
}
