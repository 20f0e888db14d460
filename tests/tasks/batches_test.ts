import assert from "node:assert/strict";
import { key, Random } from "../../ops/random.ts";
import {
  Batcher,
  type BatcherOptions,
  evaluationBatches,
  type MicroBatch,
  rowsOf,
} from "../../tasks/batches.ts";
import type { PackedPart } from "../../tasks/packed.ts";

/** Blocks `[0, i + 10, i + 10, …, 2]` of random lengths in [3, 64], many of them full. */
function part(count: number): PackedPart {
  const random = new Random(key(count));
  const blocks = Array.from({ length: count }, (_, i) => {
    const length = random.uniform() < 0.4 ? 64 : 3 + random.below(62);
    const block = new Uint32Array(length).fill(i + 10);
    block[0] = 0;
    block[length - 1] = 2;
    return block;
  });
  return {
    count,
    tokens: blocks.reduce((sum, block) => sum + block.length, 0),
    maxLength: 64,
    length: (i) => blocks[i].length,
    read: (i) => blocks[i],
    close: () => {},
  };
}

const OPTIONS: BatcherOptions = {
  microBatchTokens: 512,
  lengths: [16, 32, 48, 64],
  seed: 3,
  window: 100,
};

function take(batcher: Batcher, count: number): MicroBatch[] {
  return Array.from({ length: count }, () => batcher.next());
}

function epochOf(batcher: Batcher): MicroBatch[] {
  const batches: MicroBatch[] = [];
  const { epoch } = batcher.state();
  while (batcher.state().epoch === epoch) batches.push(batcher.next());
  return batches;
}

Deno.test("an epoch has every block exactly once, each epoch in another order", () => {
  const batcher = new Batcher(part(1037), OPTIONS);
  const orders = [0, 1, 2].map((epoch) => {
    const batches = epochOf(batcher);
    assert.ok(batches.every((batch) => batch.epoch === epoch));
    const blocks = batches.flatMap((batch) => batch.blocks);
    assert.deepEqual(blocks.toSorted((a, b) => a - b), [...Array(1037).keys()]);
    return blocks.join();
  });
  assert.equal(new Set(orders).size, 3);
});

Deno.test("batches have few static shapes, padded on the right", () => {
  const source = part(500);
  for (const batch of epochOf(new Batcher(source, OPTIONS))) {
    assert.ok(OPTIONS.lengths.includes(batch.length));
    assert.equal(batch.rows, Math.floor(512 / batch.length));
    assert.equal(batch.tokens.length, batch.rows * batch.length);
    assert.ok(batch.blocks.length >= 1 && batch.blocks.length <= batch.rows);
    for (let row = 0; row < batch.rows; row++) {
      const block = batch.blocks[row];
      const real = block === undefined ? [] : [...source.read(block)];
      const padding = new Array<number>(batch.length - real.length).fill(1);
      const ids = batch.tokens.subarray(row * batch.length, (row + 1) * batch.length);
      assert.deepEqual([...ids], [...real, ...padding]);
      assert.equal(batch.lengths[row], real.length);
    }
    assert.equal(batch.realTokens, batch.lengths.reduce((a, b) => a + b));
    assert.deepEqual(batch.sequences, batch.blocks.map((block) => [batch.epoch, block]));
  }
});

Deno.test("a window has at most one batch with unused rows", () => {
  const batches = epochOf(new Batcher(part(1000), OPTIONS));
  assert.ok(batches.filter((batch) => batch.blocks.length < batch.rows).length <= 10);
});

Deno.test("a restored batcher continues exactly, from any position and across epochs", () => {
  const source = part(230);
  const uninterrupted = new Batcher(source, OPTIONS);
  for (let i = 0; i < 90; i++) {
    const state = JSON.parse(JSON.stringify(uninterrupted.state()));
    const resumed = new Batcher(source, OPTIONS);
    resumed.restore(state);
    const expected = new Batcher(source, OPTIONS);
    expected.restore(uninterrupted.state());
    assert.deepEqual(take(resumed, 3), take(expected, 3));
    assert.deepEqual(resumed.state(), expected.state());
    const next = uninterrupted.next();
    const again = new Batcher(source, OPTIONS);
    again.restore(state);
    assert.deepEqual(again.next(), next);
  }
  assert.ok(uninterrupted.state().epoch >= 1);
});

Deno.test("an impossible position is refused", () => {
  const batcher = new Batcher(part(50), OPTIONS);
  assert.throws(() => batcher.restore({ epoch: 0, window: 7, batch: 0 }), RangeError);
  assert.throws(() => batcher.restore({ epoch: 0, window: 0, batch: 999 }), RangeError);
});

Deno.test("another seed gives other batches, the same seed the same", () => {
  const blocks = (seed: number) =>
    take(new Batcher(part(300), { ...OPTIONS, seed }), 10).map((batch) => batch.blocks);
  assert.deepEqual(blocks(1), blocks(1));
  assert.notDeepEqual(blocks(1), blocks(2));
});

Deno.test("grouping by length keeps the padding small", () => {
  const source = part(2000);
  const grouped = new Batcher(source, { ...OPTIONS, window: 1000 });
  const single = new Batcher(source, { ...OPTIONS, lengths: [64], window: 1000 });
  assert.equal(grouped.paddingOverhead, 1);
  epochOf(grouped);
  epochOf(single);
  assert.ok(grouped.paddingOverhead < 1.2, `grouped ${grouped.paddingOverhead}`);
  assert.ok(single.paddingOverhead > 1.25, `single ${single.paddingOverhead}`);
});

Deno.test("rows: at least one, and a multiple where there are enough", () => {
  const shapes = { microBatchTokens: 1000, lengths: [64] };
  assert.equal(rowsOf(shapes, 64), 15);
  assert.equal(rowsOf({ ...shapes, rowsMultipleOf: 8 }, 64), 8);
  assert.equal(rowsOf({ ...shapes, rowsMultipleOf: 8 }, 300), 3);
  assert.equal(rowsOf(shapes, 5000), 1);
});

Deno.test("fewer blocks than rows: one batch an epoch, with unused rows", () => {
  const batcher = new Batcher(part(2), OPTIONS);
  const [first, second] = take(batcher, 2);
  assert.deepEqual([first.epoch, second.epoch], [0, 1]);
  assert.equal(first.blocks.length, 2);
});

Deno.test("evaluation sees every block once, in the same order each time", () => {
  const source = part(333);
  const batches = [...evaluationBatches(source, OPTIONS)];
  const blocks = batches.flatMap((batch) => batch.blocks);
  assert.deepEqual(blocks.toSorted((a, b) => a - b), [...Array(333).keys()]);
  assert.deepEqual([...evaluationBatches(source, OPTIONS)], batches);
});

Deno.test("an empty part and unsuitable shapes are refused", () => {
  const make = (options: Partial<BatcherOptions>, count = 5) => () =>
    new Batcher(part(count), { ...OPTIONS, ...options });
  assert.throws(make({}, 0), /empty/);
  assert.throws(() => evaluationBatches(part(0), OPTIONS).next(), /empty/);
  assert.throws(make({ lengths: [16, 32] }), /longest block has 64 ids.*32/);
  assert.throws(make({ lengths: [64, 32] }), /rising/);
  assert.throws(make({ lengths: [] }), /longest/);
  assert.throws(make({ microBatchTokens: 0 }), /at least 1/);
});
