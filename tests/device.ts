/**
 * What the tests compute on. Only those that are about a driver take another device: the processor is
 * always there, and several times faster than a driver that computes on it.
 */

import { type Device, openDevice } from "../ops/mod.ts";

/**
 * Opens the tests' device. Their models are so small that further threads only wait for one another, which
 * is slow where other programs compute too.
 */
export function openTestDevice(): Promise<Device> {
  return openDevice({ adapter: "cpu", threads: 1 });
}

/** Registers a test of something that keeps threads and buffers beyond the test. */
export function cpuTest(
  name: string,
  fn: () => Promise<void> | void,
  { ignore = false }: { ignore?: boolean } = {},
): void {
  Deno.test({ name, ignore, sanitizeOps: false, sanitizeResources: false, fn });
}
