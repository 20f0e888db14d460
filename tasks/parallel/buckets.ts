/**
 * ZeRO stage 1 in numbers: state memory is cut into buckets, each bucket into equal parts, one per rank. A
 * rank keeps AdamW's moments of its parts, and updates the weights there. (Rajbhandari et al. 2020, "ZeRO:
 * Memory Optimizations Toward Training Trillion Parameter Models", section 5.1.)
 *
 * @module
 */

import { ALIGN } from "../../ops/program/memory.ts";

/** A range of a slab of state memory, in bytes. */
export interface Range {
  /** Which slab. */
  slab: number;
  /** First byte. */
  offset: number;
  /** Number of bytes. */
  bytes: number;
}

/** A run of a tensor's elements, flattened. */
export interface TensorSlice {
  /** Name of the tensor. */
  name: string;
  /** First element. */
  from: number;
  /** Element after the last. */
  to: number;
}

/** A slice, and where its moments are. */
export interface PlacedSlice extends TensorSlice {
  /** Which range holds it. */
  range: number;
  /** Its first byte in that range. */
  at: number;
}

/** Where a tensor lies in state memory. */
export interface TensorPlace {
  /** Name of the tensor. */
  name: string;
  /** Which slab. */
  slab: number;
  /** First byte. */
  offset: number;
  /** Number of elements of 4 bytes. */
  elements: number;
}

/** About as much as is worth a message: the cost of sending it outweighs that of starting to. */
const BUCKET_BYTES = 25 << 20;

/** What the sizes of slabs must be multiples of, so that every bucket has equal parts. */
export function slabMultiple(size: number): number {
  return size * ALIGN;
}

/**
 * Cuts slabs into buckets.
 *
 * @param slabs bytes of each, multiples of {@link slabMultiple}
 * @param size ranks; a group of one has no reason to cut
 * @param target bytes of a bucket at most, but at least one {@link slabMultiple}
 *
 * @example
 * ```ts
 * import { cutSlabs } from "./buckets.ts";
 * import assert from "node:assert/strict";
 *
 * const buckets = cutSlabs([1536, 512], 2, 1024);
 * assert.deepEqual(buckets.map(({ bytes }) => bytes), [1024, 512, 512]);
 * ```
 */
export function cutSlabs(slabs: readonly number[], size: number, target = BUCKET_BYTES): Range[] {
  const multiple = slabMultiple(size);
  const step = size === 1 ? Infinity : Math.max(1, Math.floor(target / multiple)) * multiple;
  const buckets: Range[] = [];
  for (const [slab, total] of slabs.entries()) {
    for (let offset = 0; offset < total; offset += step) {
      buckets.push({ slab, offset, bytes: Math.min(step, total - offset) });
    }
  }
  return buckets;
}

/** A rank's part of a bucket. */
export function partOf({ slab, offset, bytes }: Range, rank: number, size: number): Range {
  const part = bytes / size;
  return { slab, offset: offset + rank * part, bytes: part };
}

/**
 * What of which tensors lies in ranges, in the order of the ranges and of the memory in them.
 *
 * @example
 * ```ts
 * import { slicesIn } from "./buckets.ts";
 * import assert from "node:assert/strict";
 *
 * const places = [{ name: "w", slab: 0, offset: 0, elements: 100 }];
 * const [slice] = slicesIn([{ slab: 0, offset: 256, bytes: 256 }], places);
 * assert.deepEqual(slice, { name: "w", from: 64, to: 100, range: 0, at: 0 });
 * ```
 */
export function slicesIn(
  ranges: readonly Range[],
  places: readonly TensorPlace[],
): PlacedSlice[] {
  return ranges.flatMap(({ slab, offset, bytes }, range) =>
    places.filter((place) => place.slab === slab).flatMap((place) => {
      const from = Math.max(0, (offset - place.offset) / 4);
      const to = Math.min(place.elements, (offset + bytes - place.offset) / 4);
      const at = place.offset + 4 * from - offset;
      return from < to ? [{ name: place.name, from, to, range, at }] : [];
    })
  );
}

/**
 * After how many launches of a program every bucket of gradients is complete.
 *
 * @param written for every tensor, after how many it is complete
 */
export function completion(
  buckets: readonly Range[],
  places: readonly TensorPlace[],
  written: (name: string) => number,
): number[] {
  const ends = buckets.map(() => 0);
  for (const { name, range } of slicesIn(buckets, places)) {
    ends[range] = Math.max(ends[range], written(name));
  }
  return ends;
}
