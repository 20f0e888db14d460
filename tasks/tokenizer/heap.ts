/**
 * A binary heap, for the merges of byte-pair encoding.
 *
 * @module
 */

/**
 * A priority queue: {@link Heap.pop} returns the smallest item by the given order.
 *
 * @example
 * ```ts
 * import { Heap } from "./heap.ts";
 * import assert from "node:assert/strict";
 *
 * const heap = new Heap<number>((a, b) => a < b);
 * for (const n of [3, 1, 2]) heap.push(n);
 * assert.deepEqual([heap.pop(), heap.pop(), heap.pop(), heap.pop()], [1, 2, 3, undefined]);
 * ```
 */
export class Heap<T> {
  #items: T[] = [];
  #before: (a: T, b: T) => boolean;

  /**
   * Makes an empty queue.
   *
   * @param before a strict order: whether the first argument comes out first
   */
  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before;
  }

  /** Adds an item. */
  push(item: T): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(item, items[parent])) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = item;
  }

  /** Takes out the smallest item; undefined when empty. */
  pop(): T | undefined {
    const items = this.#items;
    const top = items[0];
    const last = items.pop()!;
    if (items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && this.#before(items[child + 1], items[child])) child++;
      if (!this.#before(items[child], last)) break;
      items[at] = items[child];
      at = child;
    }
    items[at] = last;
    return top;
  }
}
