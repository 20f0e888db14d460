/**
 * What a rank shows its watch thread: shared memory that the rank writes and {@link ./mpi_watch.ts}
 * reads, even when the rank's own thread is stuck in a loop or in a native call.
 *
 * @module
 */

import { type Collective, COLLECTIVES } from "../communicator.ts";

/** What a rank is at. */
export type RankState = "working" | "waiting" | "patient";

/** A look at a rank. */
export interface Look {
  state: RankState;
  /** Grows with every sign of life. */
  signs: number;
  /** Calls entered so far. */
  calls: number;
  /** The last of them. */
  call: Collective;
  /** "update 12". */
  doing: string;
}

const STATES: readonly RankState[] = ["working", "waiting", "patient"];

/** Places in the shared memory, in 32-bit words; the text follows. */
const [ENDED, SIGNS, STATE, CALL_COUNT, CALL, TEXT_BYTES, WORDS] = [0, 1, 2, 3, 4, 5, 6];
const TEXT_ROOM = 256;

/** Shared memory for the signs of one rank. */
export function createSigns(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4 + TEXT_ROOM);
}

/** The rank's side, which writes. */
export interface SignWriter {
  /** A sign of life. */
  alive(doing: string): void;
  /** A call begins (its name), or something else does. */
  show(state: RankState, call?: Collective): void;
  /** The last sign; wakes the watch. */
  end(): void;
}

/**
 * The rank's side.
 *
 * @example
 * ```ts
 * import { createSigns, readSigns, writeSigns } from "./signs.ts";
 * import assert from "node:assert/strict";
 *
 * const shared = createSigns();
 * const signs = writeSigns(shared);
 * signs.alive("update 12");
 * signs.show("waiting", "barrier");
 * const { state, call, doing } = readSigns(shared);
 * assert.deepEqual([state, call, doing], ["waiting", "barrier", "update 12"]);
 * ```
 */
export function writeSigns(shared: SharedArrayBuffer): SignWriter {
  const words = new Int32Array(shared, 0, WORDS);
  const text = new Uint8Array(shared, WORDS * 4);
  let shown = "";
  return {
    alive(doing) {
      if (doing !== shown) {
        const bytes = new TextEncoder().encode(doing).subarray(0, TEXT_ROOM);
        text.set(bytes);
        Atomics.store(words, TEXT_BYTES, bytes.length);
        shown = doing;
      }
      Atomics.add(words, SIGNS, 1);
    },
    show(state, call) {
      if (call) {
        Atomics.store(words, CALL, COLLECTIVES.indexOf(call));
        Atomics.add(words, CALL_COUNT, 1);
      }
      Atomics.store(words, STATE, STATES.indexOf(state));
      Atomics.add(words, SIGNS, 1);
    },
    end() {
      Atomics.store(words, ENDED, 1);
      Atomics.notify(words, ENDED);
    },
  };
}

/** The watch's side: a look at the rank. */
export function readSigns(shared: SharedArrayBuffer): Look {
  const words = new Int32Array(shared, 0, WORDS);
  const text = new Uint8Array(shared, WORDS * 4).slice(0, Atomics.load(words, TEXT_BYTES));
  return {
    state: STATES[Atomics.load(words, STATE)],
    signs: Atomics.load(words, SIGNS),
    calls: Atomics.load(words, CALL_COUNT),
    call: COLLECTIVES[Atomics.load(words, CALL)],
    doing: new TextDecoder().decode(text),
  };
}

/**
 * The watch's side: waits for the rank's end.
 *
 * @param seconds the longest wait
 * @returns whether it has come
 */
export function sleepUntilEnd(shared: SharedArrayBuffer, seconds: number): boolean {
  const words = new Int32Array(shared, 0, WORDS);
  Atomics.wait(words, ENDED, 0, seconds * 1000);
  return Atomics.load(words, ENDED) === 1;
}
