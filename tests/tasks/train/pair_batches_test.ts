// Shares of finetuning's updates: the same examples, numbers and figures for any number of ranks.

import assert from "node:assert/strict";
import { key, Random } from "../../../ops/graph/random.ts";
import { COUNTS, type ExampleWindow } from "../../../tasks/prompts/windows.ts";
import type { PreparedBatch } from "../../../tasks/train/objective.ts";
import {
  layOutWindow,
  PairBatcher,
  type PairShapes,
  type WindowStream,
} from "../../../tasks/train/pair_batches.ts";
import type { Numbered } from "../../../tasks/parallel/share.ts";

const SHAPES: PairShapes = { sources: [16, 32, 48], targets: [4, 12], microBatch: 256 };
const SPECIAL = { pad: 1, eos: 2, start: 0 };
const OPTIONS = { batchSize: 40, seed: 3, datasets: 1, special: SPECIAL };
const SIZES = [1, 2, 3, 4, 7, 20];

/** Examples of random lengths; every one starts with ids of its own. */
function windowOf(epoch: number, number: number): ExampleWindow {
  const random = new Random(key(epoch, number));
  const count = number === 1 ? 0 : 50 + random.below(60); // a window may have no example at all
  const ids = (longest: number) =>
    Array.from(
      { length: count },
      () => Array.from({ length: 2 + random.below(longest - 1) }, () => 10 + random.below(1e6)),
    );
  const sources = ids(48), targets = ids(12);
  return {
    sources: Uint32Array.from(sources.flat()),
    sourceLengths: Uint32Array.from(sources, ({ length }) => length),
    targets: Uint32Array.from(targets.flat()),
    targetLengths: Uint32Array.from(targets, ({ length }) => length),
    counts: new Uint32Array(COUNTS.length).fill(count),
    bad: [],
  };
}

const WINDOWS: WindowStream = {
  windows: 3,
  get: (epoch, window) => Promise.resolve(windowOf(epoch, window)),
};

/** The used rows of batches: number in the update, shape, contents. */
function rowsIn(batches: readonly Numbered<PreparedBatch>[]) {
  return batches.flatMap(({ batch, micro, sequence }) =>
    Array.from({ length: batch.counts.examples }, (_, row) => {
      const cells = Object.entries(batch.inputs).map(([name, ids]) => {
        const columns = ids.length / batch.rows;
        return [name, [...ids.subarray(row * columns, (row + 1) * columns)]];
      });
      return { number: sequence + row, micro, cells };
    })
  ).toSorted((a, b) => a.number - b.number);
}

function sums(batches: readonly Numbered<PreparedBatch>[]) {
  const sum = (of: (batch: PreparedBatch) => number) =>
    batches.reduce((total, { batch }) => total + of(batch), 0);
  return [sum((b) => b.tokens), sum((b) => b.counts.targets), sum((b) => b.counts.examples)];
}

Deno.test("ranks together have the examples of one alone, for any number of ranks", async () => {
  const alone = new PairBatcher(WINDOWS, SHAPES, OPTIONS);
  const groups = SIZES.map((size) =>
    Array.from(
      { length: size },
      (_, rank) => new PairBatcher(WINDOWS, SHAPES, { ...OPTIONS, place: { rank, size } }),
    )
  );
  for (let update = 0; update < 8; update++) {
    const expected = await alone.next();
    const [tokens, , examples] = sums(expected.batches);
    assert.equal(expected.tokens, tokens);
    assert.equal(expected.micros, expected.batches.length);
    assert.ok(examples >= 40);
    for (const group of groups) {
      const shares = await Promise.all(group.map((batcher) => batcher.next()));
      const all = shares.flatMap(({ batches }) => batches);
      assert.deepEqual(rowsIn(all), rowsIn(expected.batches));
      assert.deepEqual(sums(all), sums(expected.batches));
      for (const [rank, { batches, micros, rows, tokens }] of shares.entries()) {
        const whole = [expected.micros, expected.rows, expected.tokens];
        assert.deepEqual([micros, rows, tokens], whole);
        const batcher = group[rank];
        assert.deepEqual(batcher.state(), alone.state());
        assert.deepEqual(batcher.countsOf(0), alone.countsOf(0));
        assert.equal(batcher.paddingOverhead, alone.paddingOverhead);
        // A slice of every micro-batch, of a size that the shape alone decides.
        assert.deepEqual(batches.map(({ micro }) => micro), [...Array(micros).keys()]);
        for (const { batch: { rows, length, target = 0 } } of batches) {
          const globalRows = Math.max(1, Math.floor(256 / Math.max(length, target)));
          assert.equal(rows, Math.ceil(globalRows / group.length));
        }
      }
    }
  }
  assert.ok(alone.epoch >= 1);
  assert.ok(alone.paddingOverhead > 1);
});

Deno.test("a checkpoint of some ranks goes on with any other number of them", async () => {
  const alone = new PairBatcher(WINDOWS, SHAPES, OPTIONS);
  let state = alone.state();
  for (const size of [3, 1, 4, 2]) {
    const expected = await alone.next();
    const batches: Numbered<PreparedBatch>[] = [];
    for (let rank = 0; rank < size; rank++) {
      const batcher = new PairBatcher(WINDOWS, SHAPES, { ...OPTIONS, place: { rank, size } });
      await batcher.restore(state);
      batches.push(...(await batcher.next()).batches);
      assert.deepEqual(batcher.state(), alone.state());
    }
    assert.deepEqual(rowsIn(batches), rowsIn(expected.batches));
    state = JSON.parse(JSON.stringify(alone.state()));
  }
});

Deno.test("ranks share a held-out window micro-batch by micro-batch", () => {
  const window = windowOf(0, 0);
  const whole = layOutWindow(window, SHAPES, SPECIAL);
  for (const size of SIZES) {
    const shares = Array.from(
      { length: size },
      (_, rank) => layOutWindow(window, SHAPES, SPECIAL, { rank, size }),
    );
    const all = shares.flat().toSorted((a, b) => a.micro - b.micro);
    assert.deepEqual(all, whole);
    let sequence = 0;
    for (const [i, numbered] of all.entries()) {
      assert.deepEqual([numbered.micro, numbered.sequence], [i, sequence]);
      sequence += numbered.batch.rows;
    }
    const counts = shares.map(({ length }) => length);
    assert.ok(Math.max(...counts) - Math.min(...counts) <= 1);
  }
});
