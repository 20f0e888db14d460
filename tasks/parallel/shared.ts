/**
 * The communicator of threads: ranks are workers of one process and move data through memory that
 * they share. Arrays of any length pass through staging memory of fixed size, round by round; each
 * rank adds up its own part of a round, so the work of summing is shared out and every rank receives
 * the same bits.
 *
 * @module
 */
import { addInto, type Communicator, type Floats, GroupEnded, trafficOf } from "./communicator.ts";
import {
  type Call,
  type ControlBlock,
  controlBlock,
  controlBytes,
  type SharedGroup,
} from "./control.ts";

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
  const { size, pieceBytes } = shared;
  const others = Array.from({ length: size }, (_, i) => i).filter((i) => i !== rank);
  const meeting = meetings(shared, rank, others);
  const inStages = collectives(meeting);
  const { scatter, sum, show, collect, bytesOf } = stages(shared, rank, others);
  let bytesSent = 0;
  const collective: typeof inStages = (call, parts, ...stages) => {
    inStages(call, parts, ...stages);
    const passes = PASSES[call.name];
    if (passes) bytesSent += trafficOf(call.values!.byteLength, size, passes);
  };
  const sumAndShow = (parts: readonly Floats[], slot: number) => {
    sum(parts, slot);
    show(parts, slot);
  };

  return {
    rank,
    size,
    get bytesSent() {
      return bytesSent;
    },
    alive: meeting.alive,
    patiently: meeting.patiently,
    // deno-lint-ignore require-await -- so that what is thrown becomes a rejection
    async allReduce(values) {
      const parts = partsOfRounds(shared, values);
      collective({ name: "allReduce", values }, parts, scatter, sumAndShow, collect);
    },
    // deno-lint-ignore require-await -- as above
    async reduceScatter(values) {
      collective({ name: "reduceScatter", values }, roundsOfParts(shared, values), scatter, sum);
      const part = values.length / size;
      return values.subarray(rank * part, (rank + 1) * part);
    },
    // deno-lint-ignore require-await -- as above
    async allGather(values) {
      collective({ name: "allGather", values }, roundsOfParts(shared, values), show, collect);
    },
    // deno-lint-ignore require-await -- as above
    async broadcast(values, root = 0) {
      const parts = ranges(values.length, size * size * pieceBytes)
        .map(([from, to]) => values.subarray(from, to));
      const copy = (writes: boolean) => (part: Uint8Array, slot: number) => {
        const there = bytesOf(slot, part.length);
        if (writes && rank === root) there.set(part);
        if (!writes && rank !== root) part.set(there);
      };
      collective({ name: "broadcast", values, root }, parts, copy(true), copy(false));
    },
    // deno-lint-ignore require-await -- as above
    async barrier() {
      collective({ name: "barrier" }, [undefined], () => {}, () => {});
    },
  };
}

/** How often a collective call's values pass a rank. */
const PASSES: Partial<Record<Call["name"], 1 | 2>> = {
  allReduce: 2,
  reduceScatter: 1,
  allGather: 1,
  broadcast: 1,
};

/**
 * Collective calls. The data of one pass in rounds, and each round in stages, in which a rank reads what
 * the others wrote in the stage before. In a tick, a rank works at one stage of several rounds:
 * stage i of round k has tick k + 2i. Before tick t it waits for the others to have finished tick
 * t − 2, so that ranks that keep pace do not wait. A slot's next round comes four ticks later, when
 * what the last one left there is read.
 */
function collectives({ begin, follow, advance }: ReturnType<typeof meetings>) {
  let rounds = 0;
  return <Part>(
    { name, values, root }: Pick<Call, "name"> & { values?: Floats | Uint8Array; root?: number },
    parts: readonly Part[],
    ...stages: ((part: Part, slot: number) => void)[]
  ) => {
    begin(name, values, root);
    const count = parts.length;
    for (let tick = 0; tick < count + DISTANCE * (stages.length - 1); tick++) {
      if (tick >= DISTANCE) follow();
      stages.forEach((stage, i) => {
        const round = tick - DISTANCE * i;
        if (round >= 0 && round < count) stage(parts[round], (rounds + round) % SLOTS);
      });
      advance();
    }
    rounds = (rounds + count) % SLOTS;
  };
}

/** What a rank does in the stages of a round; `parts` has a part of the round for every rank. */
function stages(shared: SharedGroup, rank: number, others: readonly number[]) {
  const { size } = shared, { piece, bytesOf } = stagingMemory(shared);
  return {
    bytesOf,
    /** Offers the other ranks what they add up. */
    scatter(parts: readonly Floats[], slot: number) {
      for (const other of others) piece(slot, rank, other, parts[other]).set(parts[other]);
    },
    /** Adds this rank's part of the round up, in the order of the ranks. */
    sum({ [rank]: own }: readonly Floats[], slot: number) {
      const total = piece(slot, rank, rank, own);
      const term = (from: number) => from === rank ? own : piece(slot, from, rank, own);
      for (let from = 1; from < size; from++) {
        addInto(from === size - 1 ? own : total, from === 1 ? term(0) : total, term(from));
      }
    },
    /** Shows the other ranks this rank's part. */
    show({ [rank]: own }: readonly Floats[], slot: number) {
      piece(slot, rank, rank, own).set(own);
    },
    /** Fetches the other ranks' parts. */
    collect(parts: readonly Floats[], slot: number) {
      for (const other of others) parts[other].set(piece(slot, other, other, parts[other]));
    },
  };
}

/** The parts of each round when every rank has one part of the whole array. */
function roundsOfParts({ size, pieceBytes }: SharedGroup, values: Floats): Floats[][] {
  const part = values.length / size;
  if (!Number.isInteger(part)) {
    throw new Error(`length ${values.length} is not a multiple of the ${size} ranks`);
  }
  return ranges(part, pieceBytes / values.BYTES_PER_ELEMENT).map(([from, to]) =>
    Array.from({ length: size }, (_, i) => values.subarray(i * part + from, i * part + to))
  );
}

/** The parts of each round when every rank has one part of each round. */
function partsOfRounds({ size, pieceBytes }: SharedGroup, values: Floats): Floats[][] {
  const step = size * pieceBytes / values.BYTES_PER_ELEMENT;
  return ranges(values.length, step).map(([from, to]) => {
    const part = Math.ceil((to - from) / size);
    const bound = (i: number) => Math.min(from + i * part, to);
    return Array.from({ length: size }, (_, i) => values.subarray(bound(i), bound(i + 1)));
  });
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
      if (!compared) compareCalls(control, rank, calls, others);
      compared = true;
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
 * Compares this rank's call with the others'. Made once they are in this call: they may have begun the next
 * one by now, but have not got to this point in it, and two calls are kept.
 */
function compareCalls(
  control: ControlBlock,
  rank: number,
  number: number,
  others: readonly number[],
): void {
  const mine = callText(control.call(rank, number));
  for (const other of others) {
    const theirs = callText(control.call(other, number));
    if (theirs === mine) continue;
    throw new Error(`the ranks' calls differ: ${mine} on rank ${rank}, ${theirs} on rank ${other}`);
  }
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
