/** Buckets: every byte in one part of one bucket, every element of every tensor in one slice of one rank. */
import assert from "node:assert/strict";
import { layout } from "../../../ops/program/memory.ts";
import { Random } from "../../../ops/graph/random.ts";
import {
  completion,
  cutSlabs,
  partOf,
  slabMultiple,
  slicesIn,
  type TensorPlace,
} from "../../../tasks/parallel/buckets.ts";

const SIZES = [1, 2, 3, 4, 7, 16];

/** Tensors of random sizes, laid out for so many ranks. */
function randomMemory(seed: number, size: number): { places: TensorPlace[]; slabs: number[] } {
  const random = new Random(seed);
  const tensors = Array.from({ length: 1 + random.below(30) }, (_, i): [string, number[]] => {
    return [`t${i}`, [1 + random.below(5), 1 + random.below(400)]];
  });
  const { places, slabs } = layout(tensors, slabMultiple(size));
  return {
    slabs,
    places: tensors.map(([name, [rows, columns]]) => {
      const { slab, offset } = places.get(name)!;
      return { name, slab, offset, elements: rows * columns };
    }),
  };
}

for (const size of SIZES) {
  Deno.test(`cutSlabs: ${size} ranks have equal parts, which cover all memory once`, () => {
    for (let seed = 0; seed < 20; seed++) {
      const { slabs } = randomMemory(seed, size);
      for (const target of [1, 5000, Infinity]) {
        const buckets = cutSlabs(slabs, size, target);
        const covered = slabs.map((bytes) => new Uint8Array(bytes / 256));
        for (const bucket of buckets) {
          for (let rank = 0; rank < size; rank++) {
            const { slab, offset, bytes } = partOf(bucket, rank, size);
            assert.equal(offset % 256 + bytes % 256, 0);
            assert.equal(bytes, bucket.bytes / size);
            for (let at = offset; at < offset + bytes; at += 256) covered[slab][at / 256]++;
          }
        }
        assert(covered.every((marks) => marks.every((mark) => mark === 1)));
        const most = size === 1 ? Infinity : Math.max(target, slabMultiple(size));
        assert(buckets.every(({ bytes }) => bytes <= most));
      }
    }
  });

  Deno.test(`slicesIn: ${size} ranks hold every element of every tensor once`, () => {
    for (let seed = 0; seed < 20; seed++) {
      const { places, slabs } = randomMemory(seed, size);
      const buckets = cutSlabs(slabs, size, 3000);
      const held = new Map(places.map(({ name, elements }) => [name, new Uint8Array(elements)]));
      for (let rank = 0; rank < size; rank++) {
        const parts = buckets.map((bucket) => partOf(bucket, rank, size));
        for (const { name, from, to, range, at } of slicesIn(parts, places)) {
          for (let i = from; i < to; i++) held.get(name)![i]++;
          // Where the slice is said to lie in its part is where the tensor's element lies in the slab.
          const place = places.find((place) => place.name === name)!;
          assert.equal(parts[range].offset + at, place.offset + 4 * from);
        }
      }
      for (const [name, marks] of held) assert(marks.every((mark) => mark === 1), name);
    }
  });
}

Deno.test("slicesIn: a rank alone holds whole tensors, in the order of memory", () => {
  const { places, slabs } = randomMemory(3, 1);
  const slices = slicesIn(cutSlabs(slabs, 1), places);
  assert.deepEqual(
    slices.map(({ name, from, to }) => ({ name, from, to })),
    places.map(({ name, elements }) => ({ name, from: 0, to: elements })),
  );
});

Deno.test("completion: a bucket is complete when the last tensor that touches it is", () => {
  const places = [
    { name: "a", slab: 0, offset: 0, elements: 64 },
    { name: "b", slab: 0, offset: 256, elements: 128 },
    { name: "c", slab: 0, offset: 768, elements: 64 },
  ];
  const buckets = cutSlabs([1024], 2, 512);
  const written = { a: 9, b: 4, c: 7 } as Record<string, number>;
  assert.deepEqual(completion(buckets, places, (name) => written[name]), [9, 7]);
});
