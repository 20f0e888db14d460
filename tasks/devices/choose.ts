/**
 * From the flags to what will be computed on, before anything is made or installed.
 *
 * @module
 */

import { supportOf } from "../../ops/cpu/support.ts";
import { UserError } from "../../ops/graph/errors.ts";
import type { OpenOptions } from "../../ops/mod.ts";
import { type AdapterChoice, findGpu, noGpu } from "../../ops/open_device.ts";
import { prepareEnvironment } from "./setup.ts";
import { tooFew } from "./placement.ts";

/** What the flags say. */
export interface DeviceFlags {
  /** `auto` if absent. */
  adapter?: AdapterChoice;
  /** Threads of the CPU, for all ranks together; as many as it has if absent. */
  threads?: number;
}

/** What will be computed on; plain data. */
export interface ChosenDevice extends Omit<OpenOptions, "gpu" | "adapter"> {
  /** Which adapter: no longer `auto`. */
  adapter: Exclude<AdapterChoice, "auto">;
}

/** Threads that the CPU device takes at most. */
export const MOST_THREADS = 256;

/**
 * Looks for a GPU if the flags leave it open, and tells the user if there is none.
 *
 * Permissions: `--allow-env=DENO_WEBGPU_BACKEND,XDG_RUNTIME_DIR`, unless the adapter is `cpu`, and
 * `--allow-sys=systemMemoryInfo`, without which nobody says how much memory the CPU may use.
 *
 * @param ranks how many will share it on this machine
 * @param options `quiet`: another rank tells the user
 * @throws {UserError} the flags contradict each other, there is no GPU where one was asked for, or none for
 *   several ranks
 *
 * @example
 * ```ts
 * import { chooseDevice } from "./choose.ts";
 * import assert from "node:assert/strict";
 *
 * const { adapter, threads } = await chooseDevice({ adapter: "cpu", threads: 3 });
 * assert.deepEqual({ adapter, threads }, { adapter: "cpu", threads: 3 });
 * ```
 */
export async function chooseDevice(
  { adapter = "auto", threads }: DeviceFlags,
  ranks: number | "all" = 1,
  { quiet = false }: { quiet?: boolean } = {},
): Promise<ChosenDevice> {
  if (threads !== undefined && (adapter === "gpu" || adapter === "software")) {
    throw new UserError(
      `--threads: are those of the CPU and do nothing with --adapter ${adapter}; leave one of them out`,
    );
  }
  if (adapter === "software") return { adapter };
  if (adapter !== "cpu") {
    await prepareEnvironment();
    if (await findGpu()) return { adapter: "gpu" };
    if (adapter === "gpu") throw noGpu();
    if (ranks !== "all" && ranks > 1) throw tooFew(ranks, []);
  }
  const { cores, shared } = supportOf();
  const all = shared ? threads ?? Math.min(cores, MOST_THREADS) : 1;
  if (adapter === "auto" && !quiet) {
    console.error(
      `No GPU found: computing on the CPU, ${all} ${all === 1 ? "thread" : "threads"}.`,
    );
  }
  return { adapter: "cpu", threads: all, memoryBytes: availableMemory() };
}

/** What is free of the machine's memory, in bytes; undefined without the permission to ask. */
function availableMemory(): number | undefined {
  const permission = { name: "sys", kind: "systemMemoryInfo" } as const;
  if (Deno.permissions.querySync(permission).state !== "granted") return undefined;
  return Deno.systemMemoryInfo().available;
}

/**
 * The part of a device that one of several ranks gets: threads and memory are divided, a thread at least.
 *
 * @example
 * ```ts
 * import { partFor } from "./choose.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(partFor({ adapter: "cpu", threads: 7 }, 3), { adapter: "cpu", threads: 2 });
 * assert.equal(partFor({ adapter: "cpu", threads: 1 }, 4).threads, 1);
 * ```
 */
export function partFor(device: ChosenDevice, ranks: number): ChosenDevice {
  const { adapter, threads, memoryBytes } = device;
  return {
    adapter,
    ...(threads !== undefined && { threads: Math.max(1, Math.floor(threads / ranks)) }),
    ...(memoryBytes !== undefined && { memoryBytes: Math.floor(memoryBytes / ranks) }),
  };
}
