/**
 * Helpers of the GPU tests.
 */

/** Settings of {@link gpuTest}. */
export interface GpuTestOptions {
  /** Time limit of one attempt. */
  seconds?: number;
  /** Do not run it. */
  ignore?: boolean;
}

/**
 * Registers a test that fails instead of hanging, because a software driver can hang, and that is tried
 * once more if it did.
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
        if (attempt === 2) throw new Error(`no end after ${seconds} s, twice`);
      }
    },
  });
}
