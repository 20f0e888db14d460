/**
 * From flags to devices: an adapter to compute on, a card or its share of the cores for every rank, and the
 * device of each.
 *
 * @module
 */

import type { Device, OpenOptions } from "../../ops/mod.ts";
import { type Communicator, inTurn } from "../parallel/communicator.ts";
import { chooseDevice, type DeviceFlags, partFor } from "./choose.ts";
import { describeRank, findCards, openPlaced, type Placement, placeRanks } from "./placement.ts";
import { expectSoftware } from "./setup.ts";

/** Where the workers of a process compute, for all of them; survives structured cloning. */
export interface WorkerPlacement
  extends Pick<Placement, "environment" | "expect">, Omit<OpenOptions, "gpu"> {}

/**
 * Chooses the adapter, places the ranks of this process, and gives back the permission to run other
 * programs: counting cards is the only reason for it. Tells the user what there is to know.
 *
 * @throws {UserError} there is no such adapter, or there are fewer cards than ranks
 */
export async function prepareAdapters(
  { ranks, ...flags }: { ranks: number | "all" } & DeviceFlags,
): Promise<WorkerPlacement> {
  const device = await chooseDevice(flags, ranks), { adapter } = device;
  if (adapter === "software") await expectSoftware();
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

/**
 * Opens a worker's device; rank 0 says which one each rank got. The environment that chooses a card is the
 * process's: the workers take turns.
 *
 * @throws {UserError} there is no such adapter, or another one came
 */
export async function openRankDevice(
  group: Communicator,
  { environment, expect, ...options }: WorkerPlacement,
  output: { write(text: string): unknown },
): Promise<Device> {
  const { rank, size } = group;
  const device = await inTurn(
    group,
    "opening the device",
    () => openPlaced({ ...options, environment: environment[rank], expect: expect[rank] }),
  );
  const lines = await textsOf(group, describeRank({ rank, size, device, expect: expect[rank] }));
  if (rank === 0) { for (const line of lines) output.write(`${line}\n`); }
  return device;
}

/** Letters of a rank's line at most. */
const LETTERS = 200;

/** A line of every rank, on all of them. */
async function textsOf(group: Communicator, text: string): Promise<string[]> {
  const letters = new Float32Array(group.size * LETTERS);
  const own = Array.from(text.slice(0, LETTERS), (letter) => letter.charCodeAt(0));
  letters.set(own, group.rank * LETTERS);
  await group.allGather(letters);
  return Array.from({ length: group.size }, (_, rank) => {
    const line = letters.subarray(rank * LETTERS, (rank + 1) * LETTERS).filter((code) => code > 0);
    return String.fromCharCode(...line);
  });
}
