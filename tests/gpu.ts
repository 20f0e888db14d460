/**
 * Helpers of the GPU tests: a device per test file, and a timeout around every test, because a software
 * driver can hang.
 */

import { type Device, type DeviceClass, openDevice } from "../ops/mod.ts";

/** Opens a device once for a file; the last test of the file must close it. */
export function deviceForFile(deviceClass?: DeviceClass): {
  open(): Promise<Device>;
  close(): void;
} {
  let device: Promise<Device> | undefined;
  return {
    open: () => device ??= openDevice({ deviceClass }),
    close: () => void device?.then((d) => d.destroy()),
  };
}

/** Registers a test that fails after `seconds` instead of hanging, and is tried once more if it hung. */
export function gpuTest(name: string, body: () => Promise<void>, seconds = 60): void {
  Deno.test({
    name,
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      for (let attempt = 1;; attempt++) {
        let timer: ReturnType<typeof setTimeout> | undefined;
        const hung = Symbol();
        const timeout = new Promise<symbol>((resolve) => {
          timer = setTimeout(() => resolve(hung), seconds * 1000);
        });
        const result = await Promise.race([body(), timeout]).finally(() => clearTimeout(timer));
        if (result !== hung) return;
        if (attempt === 2) throw new Error(`no end after ${seconds} s, twice`);
      }
    },
  });
}
