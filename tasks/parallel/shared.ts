/**
 * The communicator of threads: ranks are workers of one process and move data through memory that
 * they share. Arrays of any length pass through staging memory of fixed size, round by round; each
 * rank adds up its own part of a round, so the work of summing is shared out and every rank receives
 * the same bits.
 *
 * @module
 */
import { addInto, type Communicator, type Floats, GroupEnded, trafficOf } from "./communicator.ts";
import { type Call, controlBlock, controlBytes, type SharedGroup } from "./control.ts";

export type { SharedGroup } from "./control.ts";

/** Bytes that a rank puts into staging memory per round. From 128 KiB to 4 MiB all are about as fast. */
const CHUNK_BYTES = 1 << 19;
/** Rounds take the slots of staging memory in turn. */
const SLOTS = 4;
/** Ticks between two stages of a round. Others may lag by one tick before anybody waits for them. */
const DISTANCE = SLOTS / 2;
/** How long a wait sleeps before it looks whether the job has ended, in milliseconds. */
const SLICE = 100;

/**
 * Memory for a group of threads.
 *
 * @param size how many ranks
 * @param options `chunkBytes`: what a rank puts into staging memory per round; the whole of it takes
 *   4 · size · chunkBytes
 *
 * @example
 * ```ts
 * import { createGroup, joinGroup } from "./shared.ts";
 * import assert from "node:assert/strict";
 *
 * const group = joinGroup(createGroup(1), 0);
 * const gradient = Float32Array.of(1, 2, 3);
 * await group.allReduce(gradient);
 * assert.deepEqual([...gradient], [1, 2, 3]);
 * ```
 */
export function createGroup(
  size: number,
  { chunkBytes = CHUNK_BYTES }: { chunkBytes?: number } = {},
): SharedGroup {
  // A multiple of a cache line, so that no two ranks write to the same one.
  const pieceBytes = Math.max(64, Math.floor(chunkBytes / size / 64) * 64);
  return {
    size,
    pieceBytes,
    control: new SharedArrayBuffer(controlBytes(size)),
    staging: new SharedArrayBuffer(SLOTS * size * size * pieceBytes),
  };
}

/**
 * The communicator of one rank. Its calls block the thread until the other ranks have made theirs;
 * for a `patient` barrier as for any other there is no limit of time here, since the supervisor
 * watches the ranks that do not wait.
 *
 * @param shared from {@link createGroup}
 * @param rank which one this thread is; each is joined once
 * @throws {GroupEnded} from any call, when another rank has failed
 */
export function joinGroup(shared: SharedGroup, rank: number): Communicator {
  const { size } = shared;
  const others = Array.from({ length: size }, (_, i) => i).filter((i) => i !== rank);
  const { begin, follow, advance, alive, patiently } = meetings(shared, rank, others);
  const { piece, bytesOf } = stagingMemory(shared);
  let bytesSent = 0;
  let rounds = 0;

  /**
   * A collective call. Its data pass in rounds, and each round in stages, in which a rank reads what
   * the others wrote in the stage before. In a tick, a rank works at one stage of several rounds:
   * stage i of round k has tick k + 2i. Before tick t it waits for the others to have finished tick
   * t − 2, so that ranks that keep pace do not wait. A slot's next round comes four ticks later, when
   * what the last one left there is read.
   */
  const collective = (
    name: Call["name"],
    values: Floats | Uint8Array | undefined,
    root: number,
    count: number,
    ...stages: ((round: number, slot: number) => void)[]
  ) => {
    begin(name, values, root);
    for (let tick = 0; tick < count + DISTANCE * (stages.length - 1); tick++) {
      if (tick >= DISTANCE) follow();
      stages.forEach((stage, i) => {
        const round = tick - DISTANCE * i;
        if (round >= 0 && round < count) stage(round, (rounds + round) % SLOTS);
      });
      advance();
    }
    rounds = (rounds + count) % SLOTS;
  };

  /** Offers the other ranks what they add up: `parts` are this rank's of the round. */
  const scatter = (parts: readonly Floats[], slot: number) => {
    for (const other of others) piece(slot, rank, other, parts[other]).set(parts[other]);
  };
  /** Adds this rank's part of the round up, in the order of the ranks. */
  const sum = (own: Floats, slot: number) => {
    const total = piece(slot, rank, rank, own);
    const term = (from: number) => from === rank ? own : piece(slot, from, rank, own);
    for (let from = 1; from < size; from++) {
      addInto(from === size - 1 ? own : total, from === 1 ? term(0) : total, term(from));
    }
  };
  /** Shows the other ranks this rank's part. */
  const show = (own: Floats, slot: number) => piece(slot, rank, rank, own).set(own);
  /** Fetches the other ranks' parts. */
  const collect = (parts: readonly Floats[], slot: number) => {
    for (const other of others) parts[other].set(piece(slot, other, other, parts[other]));
  };
  const pieceLength = (values: Floats) => shared.pieceBytes / values.BYTES_PER_ELEMENT;
  /** The parts of each round when every rank has one part of the whole array. */
  const roundsOfParts = (values: Floats) => {
    const part = values.length / size;
    if (!Number.isInteger(part)) {
      throw new Error(`length ${values.length} is not a multiple of the ${size} ranks`);
    }
    return ranges(part, pieceLength(values)).map(([from, to]) =>
      Array.from({ length: size }, (_, i) => values.subarray(i * part + from, i * part + to))
    );
  };
  /** The parts of each round when every rank has one part of each round. */
  const partsOfRounds = (values: Floats) =>
    ranges(values.length, size * pieceLength(values)).map(([from, to]) => {
      const part = Math.ceil((to - from) / size);
      const bound = (i: number) => Math.min(from + i * part, to);
      return Array.from({ length: size }, (_, i) => values.subarray(bound(i), bound(i + 1)));
    });

  return {
    rank,
    size,
    get bytesSent() {
      return bytesSent;
    },
    alive,
    patiently,
    // deno-lint-ignore require-await -- so that what is thrown becomes a rejection
    async allReduce(values) {
      const parts = partsOfRounds(values);
      collective("allReduce", values, 0, parts.length, (round, slot) => {
        scatter(parts[round], slot);
      }, (round, slot) => {
        sum(parts[round][rank], slot);
        show(parts[round][rank], slot);
      }, (round, slot) => {
        collect(parts[round], slot);
      });
      bytesSent += trafficOf(values.byteLength, size, 2);
    },
    // deno-lint-ignore require-await -- as above
    async reduceScatter(values) {
      const parts = roundsOfParts(values);
      collective("reduceScatter", values, 0, parts.length, (round, slot) => {
        scatter(parts[round], slot);
      }, (round, slot) => {
        sum(parts[round][rank], slot);
      });
      bytesSent += trafficOf(values.byteLength, size, 1);
      const part = values.length / size;
      return values.subarray(rank * part, (rank + 1) * part);
    },
    // deno-lint-ignore require-await -- as above
    async allGather(values) {
      const parts = roundsOfParts(values);
      collective("allGather", values, 0, parts.length, (round, slot) => {
        show(parts[round][rank], slot);
      }, (round, slot) => {
        collect(parts[round], slot);
      });
      bytesSent += trafficOf(values.byteLength, size, 1);
    },
    // deno-lint-ignore require-await -- as above
    async broadcast(values, root = 0) {
      const parts = ranges(values.length, size * size * shared.pieceBytes)
        .map(([from, to]) => values.subarray(from, to));
      collective("broadcast", values, root, parts.length, (round, slot) => {
        if (rank === root) bytesOf(slot, parts[round].length).set(parts[round]);
      }, (round, slot) => {
        if (rank !== root) parts[round].set(bytesOf(slot, parts[round].length));
      });
      bytesSent += trafficOf(values.byteLength, size, 1);
    },
    // deno-lint-ignore require-await -- as above
    async barrier() {
      collective("barrier", undefined, 0, 1, () => {}, () => {});
    },
  };
}

/** How a rank and the others meet, and what it says about itself meanwhile. */
function meetings(shared: SharedGroup, rank: number, others: readonly number[]) {
  const control = controlBlock(shared);
  let step = control.reached(rank);
  let calls = 0;
  let compared = true;

  const throwIfEnded = () => {
    if (control.aborted) throw new GroupEnded("another rank has failed");
  };
  const waitFor = (other: number, until: number) => {
    let reached = control.reached(other);
    if (!isBefore(reached, until)) return;
    const before = control.state(rank);
    control.setWait(rank, other, until);
    control.setState(rank, "waiting");
    while (isBefore(reached, until)) {
      control.sleep(other, reached, SLICE);
      throwIfEnded();
      reached = control.reached(other);
    }
    control.setState(rank, before);
  };
  /**
   * Made once the others are in this call. They may have begun the next one by now, but have not got
   * to this point in it, and two calls are kept.
   */
  const compareCalls = () => {
    compared = true;
    const mine = callText(control.call(rank, calls));
    for (const other of others) {
      const theirs = callText(control.call(other, calls));
      if (theirs === mine) continue;
      throw new Error(
        `the ranks' calls differ: ${mine} on rank ${rank}, ${theirs} on rank ${other}`,
      );
    }
  };
  return {
    begin(name: Call["name"], values?: Floats | Uint8Array, root = 0) {
      throwIfEnded();
      const [length, bytes] = values ? [values.length, values.BYTES_PER_ELEMENT] : [0, 0];
      control.setCall(rank, calls = calls + 1 | 0, { name, length, bytes, root });
      compared = false;
    },
    /** Waits until the others have finished the tick before the last one. */
    follow() {
      for (const other of others) waitFor(other, step + 1 - DISTANCE | 0);
      if (!compared) compareCalls();
    },
    /** Has finished a tick: what was written in it others can read. */
    advance() {
      step = step + 1 | 0;
      control.reach(rank, step);
    },
    alive(doing: string) {
      throwIfEnded();
      control.beat(rank, doing);
    },
    async patiently<T>(doing: string, work: () => Promise<T>): Promise<T> {
      throwIfEnded();
      const before = control.state(rank);
      control.beat(rank, doing);
      control.setState(rank, "patient");
      try {
        return await work();
      } finally {
        control.setState(rank, before);
      }
    },
  };
}

/**
 * Slots of pieces. In each slot there is a piece from every rank to every other; that from a rank to
 * itself holds its part of the sum, for all to read.
 */
function stagingMemory({ size, pieceBytes, staging }: SharedGroup) {
  const slotBytes = size * size * pieceBytes;
  const singles = new Float32Array(staging);
  const doubles = new Float64Array(staging);
  return {
    bytesOf: (slot: number, length: number) => new Uint8Array(staging, slot * slotBytes, length),
    /** The piece from one rank to another, of the type and length of an array. */
    piece(slot: number, from: number, to: number, { length, BYTES_PER_ELEMENT }: Floats) {
      const start = (slot * slotBytes + (from * size + to) * pieceBytes) / BYTES_PER_ELEMENT;
      const values = BYTES_PER_ELEMENT === 4 ? singles : doubles;
      return values.subarray(start, start + length);
    },
  };
}

/** Consecutive ranges of at most `step`; one empty range if there is nothing. */
function ranges(length: number, step: number): [from: number, to: number][] {
  const count = Math.max(1, Math.ceil(length / step));
  return Array.from({ length: count }, (_, i) => [i * step, Math.min((i + 1) * step, length)]);
}

/** Whether a counter that wraps around at 2³¹ has yet to reach a point. */
function isBefore(reached: number, step: number): boolean {
  return (reached - step | 0) < 0;
}

function callText({ name, length, bytes, root }: Call): string {
  if (name === "barrier") return name;
  return `${name} of ${length} × ${bytes} bytes` +
    (name === "broadcast" ? ` from rank ${root}` : "");
}
