/**
 * What the ranks of a job say to each other. One interface, three implementations: alone
 * ({@link alone}), threads of one process (`shared.ts`), and processes under MPI (`mpi.ts`).
 *
 * Every rank makes the same calls in the same order. Sums are taken in the order of the ranks, so the
 * same inputs give the same bits on every rank and in every run.
 *
 * @module
 */

/** The calls in which ranks meet. */
export const COLLECTIVES = [
  "allReduce",
  "reduceScatter",
  "allGather",
  "broadcast",
  "barrier",
] as const;
/** One of {@link COLLECTIVES}. */
export type Collective = typeof COLLECTIVES[number];

/** What can be added up. */
export type Floats = Float32Array | Float64Array;

/** A group of ranks, as one of them sees it. */
export interface Communicator {
  /** This rank's number, from 0. */
  readonly rank: number;
  /** How many ranks there are. */
  readonly size: number;
  /** Bytes that this rank has handed to others: what a ring would send, see {@link trafficOf}. */
  readonly bytesSent: number;
  /** Adds arrays of equal length up, element by element; every rank's array becomes the sum. */
  allReduce(values: Floats): Promise<void>;
  /**
   * Adds arrays of equal length up, but each rank receives its own part only.
   *
   * @param values length a multiple of {@link Communicator.size}; its contents are undefined afterwards
   * @returns the sum of part `rank` (of `size` equal parts); valid until the next call
   */
  reduceScatter(values: Float32Array): Promise<Float32Array>;
  /**
   * Puts the parts of all ranks together.
   *
   * @param values length a multiple of {@link Communicator.size}; part `rank` is this rank's contribution,
   *   the rest is overwritten
   */
  allGather(values: Float32Array): Promise<void>;
  /** Every rank's bytes become those of `root` (rank 0 if absent). */
  broadcast(values: Uint8Array, root?: number): Promise<void>;
  /**
   * Waits for all ranks.
   *
   * @param options `patient`: however long it takes
   */
  barrier(options?: { patient?: boolean }): Promise<void>;
  /**
   * A sign of life. A rank that gives none for longer than the job's time limit, and is not waiting for
   * others, is taken for hung.
   *
   * @param doing what begins now, for the message that a hang would cause: "update 12"
   */
  alive(doing: string): void;
  /** Does work that may take any time without a sign of life, such as packing a corpus. */
  patiently<T>(doing: string, work: () => Promise<T>): Promise<T>;
}

/** Thrown by a rank's calls when the job ends because another rank failed: not the news, but its echo. */
export class GroupEnded extends Error {
  /** Always `"GroupEnded"`. */
  override name = "GroupEnded";
}

/**
 * A group of one: nothing to say, nobody to wait for.
 *
 * @example
 * ```ts
 * import { alone } from "./communicator.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([...await alone().reduceScatter(Float32Array.of(1, 2))], [1, 2]);
 * ```
 */
export function alone(): Communicator {
  return {
    rank: 0,
    size: 1,
    bytesSent: 0,
    allReduce: () => Promise.resolve(),
    reduceScatter: (values) => Promise.resolve(values),
    allGather: () => Promise.resolve(),
    broadcast: () => Promise.resolve(),
    barrier: () => Promise.resolve(),
    alive: () => {},
    patiently: (_doing, work) => work(),
  };
}

/**
 * target = a + b, rounded as the arrays are. All implementations add up with it, in the order of the ranks:
 * that is why they make the same bits.
 */
export function addInto(target: Floats, a: Floats, b: Floats): void {
  for (let i = 0; i < target.length; i++) target[i] = a[i] + b[i];
}

/**
 * Has rank 0 do work that is done once for all, while the others wait however long it takes.
 *
 * @returns on rank 0 what `work` gave, elsewhere undefined
 */
export async function first<T>(
  group: Communicator,
  doing: string,
  work: () => Promise<T>,
): Promise<T | undefined> {
  const result = group.rank === 0 ? await group.patiently(doing, work) : undefined;
  await group.barrier({ patient: true });
  return result;
}

/**
 * Has all ranks do the same work, rank 0 first: files that the work leaves behind are there for the others.
 */
export async function firstThenAll<T>(
  group: Communicator,
  doing: string,
  work: () => Promise<T>,
): Promise<T> {
  const result = await first(group, doing, work);
  return group.rank === 0 ? result as T : await group.patiently(doing, work);
}

/**
 * What rank 0 finds out, on every rank, while the others wait however long it takes.
 *
 * @param find gives plain data for JSON
 */
export async function fromFirst<T>(
  group: Communicator,
  doing: string,
  find: () => Promise<T>,
): Promise<T> {
  if (group.size === 1) return await find();
  const found = await first(group, doing, find);
  const own = group.rank === 0 ? new TextEncoder().encode(JSON.stringify(found)) : undefined;
  const length = new Uint32Array([own?.length ?? 0]);
  await group.broadcast(new Uint8Array(length.buffer));
  const text = own ?? new Uint8Array(length[0]);
  await group.broadcast(text);
  return JSON.parse(new TextDecoder().decode(text));
}

/** Has the ranks do something one after the other, rank 0 first, however long it takes. */
export async function inTurn<T>(
  group: Communicator,
  doing: string,
  work: () => Promise<T>,
): Promise<T> {
  let result: T;
  for (let rank = 0; rank < group.size; rank++) {
    if (rank === group.rank) result = await group.patiently(doing, work);
    await group.barrier({ patient: true });
  }
  return result!;
}

/**
 * Bytes that each rank sends in a ring: every byte of an array passes once (reduce-scatter, all-gather)
 * or twice (all-reduce) through (N − 1)/N of the connections.
 *
 * @param bytes of the whole array
 * @param size ranks
 * @param passes 1 or 2
 *
 * @example
 * ```ts
 * import { trafficOf } from "./communicator.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(trafficOf(400, 4, 2), 600);
 * ```
 */
export function trafficOf(bytes: number, size: number, passes: 1 | 2): number {
  return passes * bytes * (size - 1) / size;
}
