/**
 * The calls of {@link Communicator} under MPI: sums in the order of the ranks, one call at a time, with
 * signs of life for the watch.
 *
 * @module
 */
import {
  addInto,
  type Collective,
  type Communicator,
  type Floats,
  trafficOf,
} from "../communicator.ts";
import type { MpiLibrary, MpiParts } from "./library.ts";
import type { SignWriter } from "./signs.ts";

/** Arrays to be summed up to this length go whole to all ranks: one exchange, not two. */
const SHORT_BYTES = 16 * 1024;
/** Memory for what comes from other ranks; half of it is added up while the other half fills. */
const ROOM_BYTES = 8 * 2 ** 20;
/** The most that one broadcast takes: the library counts in 32 bits. */
const BROADCAST_BYTES = 2 ** 30;

/** One part of `length` elements per rank. */
export function equalParts(size: number, length: number): MpiParts {
  return {
    counts: new Int32Array(size).fill(length),
    offsets: Int32Array.from({ length: size }, (_, rank) => rank * length),
  };
}

/**
 * The calls of one rank.
 *
 * @param mpi the library, initialized
 * @param place this rank's number, and how many there are
 * @param signs what its watch sees
 */
export function mpiCalls(
  mpi: MpiLibrary,
  { rank, size }: { rank: number; size: number },
  signs: SignWriter,
): Communicator {
  let bytesSent = 0;
  const { call, patiently } = turns(signs);
  const { sumShort, sumOwnPart } = sums(mpi, rank, size);
  const partLength = (values: Floats): number => {
    if (values.length % size === 0) return values.length / size;
    throw new Error(`length ${values.length} is not a multiple of the ${size} ranks`);
  };

  return {
    rank,
    size,
    get bytesSent() {
      return bytesSent;
    },
    allReduce: (values) =>
      call("allReduce", false, async () => {
        bytesSent += trafficOf(values.byteLength, size, 2);
        if (size === 1) return;
        if (
          values.byteLength <= SHORT_BYTES && values.byteLength * size <= ROOM_BYTES / 2
        ) return await sumShort(values);
        const parts = nearlyEqualParts(size, values.length);
        await sumOwnPart(values, parts);
        await mpi.allGather(values, parts);
      }),
    reduceScatter: (values) =>
      call("reduceScatter", false, async () => {
        const length = partLength(values);
        bytesSent += trafficOf(values.byteLength, size, 1);
        if (size > 1) await sumOwnPart(values, equalParts(size, length));
        return values.subarray(rank * length, (rank + 1) * length);
      }),
    allGather: (values) =>
      call("allGather", false, async () => {
        const parts = equalParts(size, partLength(values));
        bytesSent += trafficOf(values.byteLength, size, 1);
        if (size > 1) await mpi.allGather(values, parts);
      }),
    broadcast: (values, root = 0) =>
      call("broadcast", false, async () => {
        bytesSent += trafficOf(values.byteLength, size, 1);
        for (let from = 0; size > 1 && from < values.length; from += BROADCAST_BYTES) {
          await mpi.broadcast(values.subarray(from, from + BROADCAST_BYTES), root);
        }
      }),
    barrier: ({ patient = false } = {}) => call("barrier", patient, () => mpi.barrier()),
    alive: (doing) => signs.alive(doing),
    patiently,
  };
}

/** Calls take turns, and the watch sees what a rank is about. */
function turns(signs: SignWriter) {
  let patience = 0; // how many pieces of work that may take any time are under way
  let turn: Promise<unknown> = Promise.resolve();
  return {
    call<T>(name: Collective, patient: boolean, run: () => Promise<T>): Promise<T> {
      const result = turn.then(async () => {
        signs.show(patient || patience > 0 ? "patient" : "waiting", name);
        try {
          return await run();
        } finally {
          signs.show(patience > 0 ? "patient" : "working");
        }
      });
      turn = result.catch(() => {});
      return result;
    },
    async patiently<T>(doing: string, work: () => Promise<T>): Promise<T> {
      signs.alive(doing);
      patience++;
      signs.show("patient");
      try {
        return await work();
      } finally {
        patience--;
        signs.show(patience > 0 ? "patient" : "working");
      }
    },
  };
}

/** Sums over the ranks, in their order. */
function sums(mpi: MpiLibrary, rank: number, size: number) {
  const room = new ArrayBuffer(size > 1 ? ROOM_BYTES : 0);

  /** Adds this rank's part up, chunk by chunk, where it lies. */
  const sumOwnPart = async (values: Floats, parts: MpiParts): Promise<void> => {
    const spaces = halves(room, values);
    const chunk = Math.floor(spaces[0].length / size);
    const longest = Math.max(...parts.counts);
    const received = (from: number): MpiParts => ({
      counts: Int32Array.from(
        { length: size },
        (_, of) => of === rank ? 0 : lengthFrom(parts.counts[rank], from, chunk),
      ),
      offsets: Int32Array.from({ length: size }, (_, of) => of * chunk),
    });
    const sent = (from: number): MpiParts => ({
      counts: parts.counts.map((count, of) => of === rank ? 0 : lengthFrom(count, from, chunk)),
      offsets: parts.offsets.map((offset) => offset + from),
    });
    const fetch = (from: number, space: Floats) =>
      mpi.allToAll(values, sent(from), space, received(from));

    let arriving = fetch(0, spaces[0]);
    for (let from = 0, half = 0; from < longest; from += chunk, half = 1 - half) {
      await arriving;
      const next = from + chunk;
      if (next < longest) arriving = fetch(next, spaces[1 - half]);
      const length = lengthFrom(parts.counts[rank], from, chunk);
      const start = parts.offsets[rank] + from;
      const own = values.subarray(start, start + length);
      addUp(
        own,
        Array.from(
          { length: size },
          (_, of) => of === rank ? own : spaces[half].subarray(of * chunk, of * chunk + length),
        ),
      );
    }
  };

  const sumShort = async (values: Floats): Promise<void> => {
    const { length } = values;
    const space = halves(room, values)[0].subarray(0, size * length);
    space.set(values, rank * length);
    await mpi.allGather(space, equalParts(size, length));
    addUp(
      values,
      Array.from({ length: size }, (_, of) => space.subarray(of * length, (of + 1) * length)),
    );
  };

  return { sumShort, sumOwnPart };
}

/** Parts that differ by at most one element. */
function nearlyEqualParts(size: number, length: number): MpiParts {
  const offset = (rank: number) => Math.floor(length * rank / size);
  return {
    counts: Int32Array.from({ length: size }, (_, rank) => offset(rank + 1) - offset(rank)),
    offsets: Int32Array.from({ length: size }, (_, rank) => offset(rank)),
  };
}

/** How much of a part is in the chunk that begins at `from`. */
function lengthFrom(count: number, from: number, chunk: number): number {
  return Math.max(0, Math.min(count - from, chunk));
}

/** Two arrays of the type of `values` in the same memory. */
function halves(room: ArrayBuffer, values: Floats): [Floats, Floats] {
  const type = values instanceof Float32Array ? Float32Array : Float64Array;
  const length = Math.floor(room.byteLength / 2 / type.BYTES_PER_ELEMENT);
  return [new type(room, 0, length), new type(room, room.byteLength / 2, length)];
}

/**
 * Adds up in the order of `terms`, each sum rounded as the arrays are. The sum may replace one of the
 * terms; the first one is overwritten.
 */
function addUp(sum: Floats, terms: readonly Floats[]): void {
  const last = terms.length - 1;
  for (let i = 1; i <= last; i++) addInto(i === last ? sum : terms[0], terms[0], terms[i]);
}
