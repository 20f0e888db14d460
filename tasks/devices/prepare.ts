/**
 * Before anything is computed on: an adapter to compute on, and a card or its share of the cores for every
 * rank.
 *
 * @module
 */
import type { Device } from "../../ops/mod.ts";
import { ensureSoftware } from "./setup.ts";
import { chooseDevice, type DeviceFlags, partFor } from "./choose.ts";
import { findCards, openPlaced, placeRanks } from "./placement.ts";
import type { WorkerPlacement } from "./open.ts";

/**
 * Chooses the adapter, places the ranks of this process, and gives back the permission to run other
 * programs: counting cards and installing the software driver, for those who asked for it, are the only
 * reasons for it. Tells the user what there is to know.
 *
 * @throws {UserError} there is no such adapter, or there are fewer cards than ranks
 */
export async function prepareAdapters(
  { ranks, ...flags }: { ranks: number | "all" } & DeviceFlags,
): Promise<WorkerPlacement> {
  const device = await chooseDevice(flags, ranks), { adapter } = device;
  if (adapter === "software") await ensureSoftware();
  const cards = ranks !== 1 && adapter === "gpu" ? findCards() : [];
  const { environment, expect, notes } = placeRanks({ ranks, adapter, cards, mode: "workers" });
  await Deno.permissions.revoke({ name: "run" });
  for (const note of notes) console.error(`note: ${note}`);
  return { ...partFor(device, environment.length), environment, expect };
}

/**
 * Opens the one device of a command that needs no more.
 *
 * @throws {UserError} there is no such adapter
 */
export async function openAlone(flags: DeviceFlags): Promise<Device> {
  return await openFirst(await prepareAdapters({ ...flags, ranks: 1 }));
}

/** Opens the device of the first rank, in this thread. */
export async function openFirst(
  { environment: [environment], expect: [expect], ...options }: WorkerPlacement,
): Promise<Device> {
  return await openPlaced({ ...options, environment, expect });
}
