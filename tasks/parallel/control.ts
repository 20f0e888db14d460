/**
 * The control block of a group of threads: what every rank says about itself, in memory that all of
 * them and their supervisor see. Nothing here waits for anybody's event loop.
 *
 * @module
 */

import { type Collective, COLLECTIVES } from "./communicator.ts";

/** Memory that the ranks of one process share. It can be posted to workers. */
export interface SharedGroup {
  /** How many ranks there are. */
  readonly size: number;
  /** Bytes that a rank gives to one other rank in a round. */
  readonly pieceBytes: number;
  /** What the ranks say about themselves, see {@link ControlBlock}. */
  readonly control: SharedArrayBuffer;
  /** Through which data goes: slots of size × size pieces. */
  readonly staging: SharedArrayBuffer;
}

/** What a rank is about; `ended`: its thread is gone, or about to go, without a result. */
export const STATES = ["starting", "working", "waiting", "patient", "done", "ended"] as const;
/** One of {@link STATES}. */
export type RankState = typeof STATES[number];

/** A collective call. The ranks' calls must be equal. */
export interface Call {
  /** Which one. */
  readonly name: Collective;
  /** Elements of the array. */
  readonly length: number;
  /** Bytes of an element. */
  readonly bytes: number;
  /** The rank whose values count, of a broadcast. */
  readonly root: number;
}

/** A rank, as it was a moment ago. */
export interface RankSnapshot {
  /** What it is about. */
  readonly state: RankState;
  /** Changes with every sign of life. */
  readonly beats: number;
  /** What it said it was doing: "update 12". */
  readonly doing: string;
  /** Whom it waits for; only while it waits. */
  readonly waitsFor: number;
  /** Whether that rank has not yet reached the point where the two meet. */
  readonly unmet: boolean;
  /** The call it is in, or the last one. */
  readonly call: Call;
}

/** The control block, with names for its words. */
export interface ControlBlock {
  /** Whether the job ends because a rank failed. */
  readonly aborted: boolean;
  /** Whether the user wants the job to stop in good order. */
  readonly interrupted: boolean;
  /** Ends the job: ranks that wait wake up. */
  abort(): void;
  /** Asks the ranks to stop in good order. */
  interrupt(): void;
  /** The latest point that a rank has reached. */
  reached(rank: number): number;
  /** Says that a rank has reached a point. */
  reach(rank: number, step: number): void;
  /** Sleeps until a rank has moved on from a point, the job ends, or the time is over. */
  sleep(rank: number, step: number, milliseconds: number): void;
  /** A sign of life; with it, what begins now if that is given. */
  beat(rank: number, doing?: string): void;
  /** What a rank is about now; also a sign of life. */
  setState(rank: number, state: RankState): void;
  /** What a rank is about. */
  state(rank: number): RankState;
  /** Whom a rank waits for, and to reach which point. */
  setWait(rank: number, other: number, step: number): void;
  /** Writes down a rank's call; the last two are kept. */
  setCall(rank: number, number: number, call: Call): void;
  /** A rank's call of that number, or of the same parity. */
  call(rank: number, number: number): Call;
  /** All that is known of a rank. */
  snapshot(rank: number): RankSnapshot;
}

/** Bytes kept of what a rank says it does. */
const DOING_BYTES = 240;

/** Words of a rank: what others poll, on a cache line of its own, then the rest. */
const WORDS = {
  step: 0,
  state: 16,
  beats: 17,
  other: 18,
  until: 19,
  calls: 20,
  doing: 32,
} as const;
/** Words of a written call: number, name, bytes, root, length (low, high). */
const CALL_WORDS = 6;
const RANK_WORDS = 32 + 4 + DOING_BYTES / 4 + 12;
const HEADER_WORDS = 16;
const ABORTED = 0;
const INTERRUPTED = 1;

/** Bytes of the control block of so many ranks. */
export function controlBytes(size: number): number {
  return 4 * (HEADER_WORDS + size * RANK_WORDS);
}

/** Names for the words of a control block. */
export function controlBlock({ size, control }: SharedGroup): ControlBlock {
  const words = new Int32Array(control);
  const at = (rank: number, word: number) => HEADER_WORDS + rank * RANK_WORDS + word;
  const get = (rank: number, word: number) => Atomics.load(words, at(rank, word));
  const set = (rank: number, word: number, value: number) =>
    void Atomics.store(words, at(rank, word), value);
  const calls = callsIn(words, (rank) => at(rank, WORDS.calls));
  const block: ControlBlock = {
    get aborted() {
      return Atomics.load(words, ABORTED) !== 0;
    },
    get interrupted() {
      return Atomics.load(words, INTERRUPTED) !== 0;
    },
    abort() {
      Atomics.store(words, ABORTED, 1);
      for (let rank = 0; rank < size; rank++) Atomics.notify(words, at(rank, WORDS.step));
    },
    interrupt: () => void Atomics.store(words, INTERRUPTED, 1),
    reached: (rank) => get(rank, WORDS.step),
    reach(rank, step) {
      set(rank, WORDS.step, step);
      Atomics.notify(words, at(rank, WORDS.step));
    },
    sleep: (rank, step, milliseconds) =>
      void Atomics.wait(words, at(rank, WORDS.step), step, milliseconds),
    beat(rank, doing) {
      if (doing !== undefined) writeText(control, at(rank, WORDS.doing), doing);
      Atomics.add(words, at(rank, WORDS.beats), 1);
    },
    setState(rank, state) {
      set(rank, WORDS.state, STATES.indexOf(state));
      block.beat(rank);
    },
    state: (rank) => STATES[get(rank, WORDS.state)],
    setWait(rank, other, step) {
      set(rank, WORDS.other, other);
      set(rank, WORDS.until, step);
    },
    setCall: calls.set,
    call: calls.get,
    snapshot(rank) {
      const waitsFor = get(rank, WORDS.other);
      return {
        state: block.state(rank),
        beats: get(rank, WORDS.beats),
        doing: readText(control, at(rank, WORDS.doing)),
        waitsFor,
        unmet: (get(rank, WORDS.until) - get(waitsFor, WORDS.step) | 0) > 0,
        call: calls.last(rank),
      };
    },
  };
  return block;
}

/** Writes a short text: a word with its length, then its bytes. */
function writeText(control: SharedArrayBuffer, word: number, text: string): void {
  const bytes = new TextEncoder().encode(text).subarray(0, DOING_BYTES);
  new Uint8Array(control, 4 * (word + 1)).set(bytes);
  Atomics.store(new Int32Array(control), word, bytes.length);
}

function readText(control: SharedArrayBuffer, word: number): string {
  const length = Atomics.load(new Int32Array(control), word);
  return new TextDecoder().decode(new Uint8Array(control, 4 * (word + 1), length).slice());
}

/** The calls that ranks write down, two each. */
function callsIn(words: Int32Array, start: (rank: number) => number) {
  const at = (rank: number, number: number) => start(rank) + (number & 1) * CALL_WORDS;
  const get = (rank: number, number: number): Call => {
    const from = at(rank, number);
    const [, name, bytes, root, low, high] = words.subarray(from, from + CALL_WORDS);
    return { name: COLLECTIVES[name], bytes, root, length: high * 2 ** 32 + (low >>> 0) };
  };
  return {
    get,
    set(rank: number, number: number, { name, length, bytes, root }: Call) {
      const high = Math.floor(length / 2 ** 32);
      words.set(
        [number, COLLECTIVES.indexOf(name), bytes, root, length | 0, high],
        at(rank, number),
      );
    },
    last: (rank: number) => get(rank, (words[at(rank, 0)] - words[at(rank, 1)] | 0) > 0 ? 0 : 1),
  };
}
