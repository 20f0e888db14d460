/**
 * The device of a rank that is a worker.
 *
 * @module
 */

import type { Device, OpenOptions } from "../../ops/mod.ts";
import { type Communicator, inTurn } from "../parallel/communicator.ts";
import { describeRank, openPlaced, type Placement } from "./placement.ts";

/** Where the workers of a process compute, for all of them; survives structured cloning. */
export interface WorkerPlacement
  extends Pick<Placement, "environment" | "expect">, Omit<OpenOptions, "gpu"> {}

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
