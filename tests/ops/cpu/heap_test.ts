import assert from "node:assert/strict";
import { Heap, HEAP_ALIGN } from "../../../ops/cpu/heap.ts";
import { Random } from "../../../ops/graph/random.ts";

interface Taken {
  at: number;
  bytes: number;
}

/** What a piece covers: at least one place. */
const covered = (bytes: number) => Math.max(1, Math.ceil(bytes / HEAP_ALIGN)) * HEAP_ALIGN;

/** Bytes from `start` to the end of the heap that no piece covers, as [from, to] in order. */
function gaps(start: number, end: number, taken: readonly Taken[]): [number, number][] {
  const found: [number, number][] = [];
  let from = start;
  for (const { at, bytes } of taken.toSorted((a, b) => a.at - b.at)) {
    if (at > from) found.push([from, at]);
    from = at + covered(bytes);
  }
  if (end > from) found.push([from, end]);
  return found;
}

Deno.test("Heap: pieces never overlap, and each goes to the first gap that holds it", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed), start = HEAP_ALIGN * random.below(10);
    const heap = new Heap(start);
    const taken: Taken[] = [];
    for (let step = 0; step < 150; step++) {
      if (taken.length > 0 && random.below(5) < 2) {
        const [{ at, bytes }] = taken.splice(random.below(taken.length), 1);
        heap.free(at, bytes);
        continue;
      }
      const bytes = random.below(4) === 0 ? random.below(20_000) : random.below(3 * HEAP_ALIGN);
      const { end } = heap, free = gaps(start, end, taken), need = covered(bytes);
      const fitting = free.find(([from, to]) => to - from >= need);
      // Where none holds it, the last gap is the beginning of it, if it reaches to the end.
      const last = free.at(-1), atEnd = last && last[1] === end ? last[0] : end;
      const at = heap.take(bytes);
      assert.equal(at, fitting ? fitting[0] : atEnd, `seed ${seed}, step ${step}: ${bytes} bytes`);
      assert.equal(at % HEAP_ALIGN, 0);
      assert.equal(heap.end, fitting ? end : atEnd + need);
      const meets = taken.find((o) => at < o.at + covered(o.bytes) && o.at < at + need);
      assert.equal(meets, undefined);
      taken.push({ at, bytes });
    }
  }
});

Deno.test("Heap: what has all been freed, in whatever order, is one piece again", () => {
  for (let seed = 0; seed < 50; seed++) {
    const random = new Random(seed), heap = new Heap(1024);
    const taken = Array.from({ length: 20 }, () => {
      const bytes = 1 + random.below(5000);
      return { at: heap.take(bytes), bytes };
    });
    const { end } = heap;
    while (taken.length > 0) {
      const [{ at, bytes }] = taken.splice(random.below(taken.length), 1);
      heap.free(at, bytes);
    }
    assert.equal(heap.take(end - 1024), 1024);
    assert.equal(heap.end, end);
    assert.equal(heap.take(1), end);
  }
});

Deno.test("Heap: a piece of no bytes has a place of its own", () => {
  const heap = new Heap(0);
  assert.deepEqual([heap.take(0), heap.take(0), heap.end], [0, HEAP_ALIGN, 2 * HEAP_ALIGN]);
  heap.free(0, 0);
  assert.equal(heap.take(HEAP_ALIGN + 1), 2 * HEAP_ALIGN);
  assert.equal(heap.take(HEAP_ALIGN), 0);
});
