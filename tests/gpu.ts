/**
 * Helpers of the GPU tests.
 */

import { type Device, openDevice } from "../ops/mod.ts";

/** Settings of {@link gpuTest}. */
export interface GpuTestOptions {
  /** Time limit of one attempt. */
  seconds?: number;
  /** Do not run it. */
  ignore?: boolean;
}

let shared: Promise<Device> | undefined;

/**
 * The software device that the tests of a file share. To be asked for within each test: what an attempt
 * hangs on is left to it, and the next one gets another.
 */
export function softwareDevice(): Promise<Device> {
  return shared ??= openDevice({ adapter: "software" });
}

Deno.test.afterAll(async () => (await shared)?.destroy());

/**
 * Registers a test that fails instead of hanging, because a software driver can hang, and that is tried
 * once more if it did, on another device: the body opens its own or takes {@link softwareDevice}.
 */
export function gpuTest(
  name: string,
  body: () => Promise<void>,
  { seconds = 60, ignore = false }: GpuTestOptions = {},
): void {
  Deno.test({
    name,
    ignore,
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
        shared = undefined;
        if (attempt === 2) throw new Error(`no end after ${seconds} s, twice`);
      }
    },
  });
}
