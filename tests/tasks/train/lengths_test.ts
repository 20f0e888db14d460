import assert from "node:assert/strict";
import { Random } from "../../../ops/graph/random.ts";
import { chooseLengths, fittingLength } from "../../../tasks/train/static_shapes.ts";

/** Padded tokens of all sequences. */
function padded(lengths: readonly number[], chosen: readonly number[]): number {
  return lengths.reduce((sum, length) => sum + fittingLength(chosen, length), 0);
}

/** The least padded tokens that any `count` lengths come to, found by trying all of them. */
function least(lengths: readonly number[], count: number, limit: number): number {
  const last = Math.ceil(limit / 8) * 8;
  const tryAll = (chosen: readonly number[]): number => {
    if (chosen.length === count) return padded(lengths, chosen);
    let best = padded(lengths, chosen);
    for (let length = 8; length < chosen[0]; length += 8) {
      best = Math.min(best, tryAll([length, ...chosen]));
    }
    return best;
  };
  return tryAll([last]);
}

Deno.test("chooseLengths: no other choice pads less", () => {
  for (let seed = 0; seed < 60; seed++) {
    const random = new Random(seed);
    const limit = 8 + random.below(73), count = 1 + random.below(4);
    const lengths = Array.from({ length: random.below(30) }, () => 1 + random.below(limit));
    const chosen = chooseLengths(lengths, count, limit);
    const what = `seed ${seed}: ${lengths}; ${count} of at most ${limit}: ${chosen}`;
    assert.ok(chosen.length <= count && chosen.length > 0, what);
    assert.equal(chosen.at(-1), Math.ceil(limit / 8) * 8, what);
    assert.ok(chosen.every((length, i) => length % 8 === 0 && length > (chosen[i - 1] ?? 0)), what);
    assert.equal(padded(lengths, chosen), least(lengths, count, limit), what);
  }
});

Deno.test("chooseLengths: no length that spares nothing", () => {
  assert.deepEqual(chooseLengths([64, 64], 4, 64), [64]);
  assert.deepEqual(chooseLengths([], 4, 60), [64]);
  assert.deepEqual(chooseLengths([1], 1, 512), [512]);
  assert.deepEqual(chooseLengths([1], 2, 512), [8, 512]);
  // What is too long counts as the longest.
  assert.deepEqual(chooseLengths([5, 600], 2, 512), [8, 512]);
});

Deno.test("fittingLength: the shortest that holds it, or the last", () => {
  assert.deepEqual([1, 8, 9, 24, 99].map((n) => fittingLength([8, 24], n)), [8, 8, 24, 24, 24]);
});
