/**
 * Before anything is computed on: an adapter to compute on, and a card for every rank.
 *
 * @module
 */
import { ensureAdapter } from "../setup.ts";
import { type AdapterChoice, findCards, placeRanks } from "./placement.ts";
import type { WorkerPlacement } from "./rank_device.ts";

/**
 * Makes sure of an adapter, places the ranks of this process, and gives back the permission to run other
 * programs: installing a driver and counting cards are the only reasons for it. Tells the user what there
 * is to know.
 *
 * @throws {UserError} there is no adapter, or there are fewer cards than ranks
 */
export async function prepareAdapters(
  { ranks, adapter }: { ranks: number | "all"; adapter: AdapterChoice },
): Promise<WorkerPlacement> {
  await ensureAdapter();
  const cards = ranks !== 1 && adapter === "auto" ? findCards() : [];
  const { environment, expect, notes } = placeRanks({ ranks, adapter, cards, mode: "workers" });
  await Deno.permissions.revoke({ name: "run" });
  for (const note of notes) console.error(`note: ${note}`);
  return { adapter, environment, expect };
}
