/**
 * Places in a memory: what is free, and where something fits.
 *
 * @module
 */

/** Places begin at multiples of this many bytes. */
const HEAP_ALIGN = 256;

/** A piece of memory. */
interface Piece {
  at: number;
  bytes: number;
}

/**
 * Hands out pieces of a line of bytes: the first that fits, neighbours put together when they are freed.
 *
 * @example
 * ```ts
 * import { Heap } from "./heap.ts";
 * import assert from "node:assert/strict";
 *
 * const heap = new Heap(1024);
 * const a = heap.take(100), b = heap.take(300);
 * assert.deepEqual([a, b, heap.end], [1024, 1280, 1792]);
 * heap.free(a, 100);
 * assert.equal(heap.take(200), 1024);
 * ```
 */
export class Heap {
  /** One past the last byte ever handed out. */
  end: number;
  /** Free pieces below {@link Heap.end}, in order. */
  readonly #free: Piece[] = [];

  /** Starts with everything from `start` on free. */
  constructor(start: number) {
    this.end = start;
  }

  /** The address of a free piece of so many bytes. */
  take(bytes: number): number {
    const need = rounded(bytes);
    const i = this.#free.findIndex((piece) => piece.bytes >= need);
    if (i < 0) {
      const last = this.#free.at(-1);
      // The last free piece may be the beginning of what is needed.
      const at = last && last.at + last.bytes === this.end ? this.#free.pop()!.at : this.end;
      this.end = at + need;
      return at;
    }
    const piece = this.#free[i];
    const { at } = piece;
    piece.at += need;
    piece.bytes -= need;
    if (piece.bytes === 0) this.#free.splice(i, 1);
    return at;
  }

  /** Gives a piece back. */
  free(at: number, bytes: number): void {
    const size = rounded(bytes);
    let i = this.#free.findIndex((piece) => piece.at > at);
    if (i < 0) i = this.#free.length;
    this.#free.splice(i, 0, { at, bytes: size });
    for (const k of [i, i - 1]) {
      const [a, b] = [this.#free[k], this.#free[k + 1]];
      if (a && b && a.at + a.bytes === b.at) {
        a.bytes += b.bytes;
        this.#free.splice(k + 1, 1);
      }
    }
  }
}

function rounded(bytes: number): number {
  return Math.max(HEAP_ALIGN, Math.ceil(bytes / HEAP_ALIGN) * HEAP_ALIGN);
}
