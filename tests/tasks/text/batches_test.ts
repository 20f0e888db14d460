import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import {
  Batcher,
  type BatcherOptions,
  evaluationShare,
  type MicroBatch,
  rowsOf,
} from "../../../tasks/text/batches.ts";
import type { PackedPart } from "../../../tasks/text/packed.ts";
import { type Numbered, partsOf, rowsOfSlice, slicesOf } from "../../../tasks/parallel/share.ts";

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
  assert.throws(() => batcher.restore({ epoch: 0, window: 7, batch: 0 }), UserError);
  assert.throws(() => batcher.restore({ epoch: 0, window: 0, batch: 999 }), UserError);
  for (const state of [null, 7, {}, { epoch: 0, window: 0, batch: -1 }]) {
    assert.throws(() => batcher.restore(state), UserError);
  }
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
  const batches = [...evaluationShare(source, OPTIONS)];
  const blocks = batches.flatMap(({ batch }) => batch.blocks);
  assert.deepEqual(blocks.toSorted((a, b) => a - b), [...Array(333).keys()]);
  assert.deepEqual([...evaluationShare(source, OPTIONS)], batches);
});

Deno.test("an empty part and unsuitable shapes are refused", () => {
  const make = (options: Partial<BatcherOptions>, count = 5) => () =>
    new Batcher(part(count), { ...OPTIONS, ...options });
  assert.throws(make({}, 0), /empty/);
  assert.throws(() => evaluationShare(part(0), OPTIONS).next(), /empty/);
  assert.throws(make({ lengths: [16, 32] }), /longest block has 64 ids.*32/);
  assert.throws(make({ lengths: [64, 32] }), /rising/);
  assert.throws(make({ lengths: [] }), /longest/);
  assert.throws(make({ microBatchTokens: 0 }), /at least 1/);
});

// ---- Shares of ranks ----

const SIZES = [1, 2, 3, 4, 5, 8, 70];

/** A part that notes which blocks are read. */
function watched(source: PackedPart): { source: PackedPart; read: number[] } {
  const read: number[] = [];
  const note = (i: number) => {
    read.push(i);
    return source.read(i);
  };
  return { source: { ...source, read: note }, read };
}

/** The used rows of batches: number in the update, shape's length, ids, key of the noise. */
function rowsIn(batches: readonly Numbered<MicroBatch>[]) {
  return batches.flatMap(({ batch, micro, sequence }) =>
    batch.sequences.map((key, row) => {
      const ids = batch.tokens.slice(row * batch.length, (row + 1) * batch.length);
      return { number: sequence + row, micro, ids: ids.join(" "), real: batch.lengths[row], key };
    })
  ).toSorted((a, b) => a.number - b.number);
}

Deno.test("every row of every micro-batch belongs to one rank, with equal work for all", () => {
  for (let micros = 1; micros <= 9; micros++) {
    for (let size = 1; size <= 12; size++) {
      const ranks = Array.from({ length: size }, (_, rank) => slicesOf(micros, rank, size));
      assert.equal(new Set(ranks.map((slices) => slices.length)).size, 1);
      assert.ok(ranks.flat().every(({ parts }) => parts === partsOf(micros, size)));
      for (const rows of [1, 2, 7, 12, 64]) {
        const owned = new Map<string, number>();
        for (const slice of ranks.flat()) {
          const { first, count } = rowsOfSlice(rows, slice);
          assert.equal(count, Math.ceil(rows / slice.parts));
          for (let row = first; row < Math.min(rows, first + count); row++) {
            owned.set(`${slice.micro} ${row}`, (owned.get(`${slice.micro} ${row}`) ?? 0) + 1);
          }
        }
        assert.equal(owned.size, micros * rows);
        assert.ok([...owned.values()].every((owners) => owners === 1));
      }
    }
  }
  assert.deepEqual(slicesOf(2, 0, 1), [0, 1].map((micro) => ({ micro, part: 0, parts: 1 })));
});

Deno.test("a group of one has the batches that next gives", () => {
  const shared = new Batcher(part(300), OPTIONS), plain = new Batcher(part(300), OPTIONS);
  for (let update = 0; update < 20; update++) {
    const { batches, micros, rows, tokens } = shared.share(3);
    const expected = take(plain, 3);
    assert.deepEqual(batches.map(({ batch }) => batch), expected);
    assert.deepEqual(batches.map(({ micro }) => micro), [0, 1, 2]);
    assert.equal(micros, 3);
    assert.equal(rows, expected.reduce((sum, batch) => sum + batch.rows, 0));
    assert.equal(tokens, expected.reduce((sum, batch) => sum + batch.realTokens, 0));
    assert.equal(shared.paddingOverhead, plain.paddingOverhead);
  }
});

Deno.test("ranks together have the rows of one alone, for any number of ranks", () => {
  const source = part(230);
  for (const micros of [1, 2, 3, 6]) {
    const alone = new Batcher(source, OPTIONS);
    const groups = SIZES.map((size) =>
      Array.from({ length: size }, (_, rank) => ({
        batcher: new Batcher(source, OPTIONS),
        place: { rank, size },
      }))
    );
    for (let update = 0; update < 6; update++) {
      const expected = alone.share(micros);
      for (const group of groups) {
        const shares = group.map(({ batcher, place }) => batcher.share(micros, place));
        assert.deepEqual(
          rowsIn(shares.flatMap((share) => share.batches)),
          rowsIn(expected.batches),
        );
        for (const [rank, { micros, rows, tokens, batches }] of shares.entries()) {
          const all = [expected.micros, expected.rows, expected.tokens];
          assert.deepEqual([micros, rows, tokens], all);
          assert.equal(batches.length, shares[0].batches.length);
          assert.deepEqual(group[rank].batcher.state(), alone.state());
          assert.equal(group[rank].batcher.paddingOverhead, alone.paddingOverhead);
        }
      }
    }
  }
});

Deno.test("all slices of a shape have one static number of rows", () => {
  for (let rank = 0; rank < 3; rank++) {
    for (
      const { batch, sequence, micro } of new Batcher(part(400), OPTIONS).share(40, {
        rank,
        size: 3,
      }).batches
    ) {
      assert.equal(batch.globalRows, Math.floor(512 / batch.length));
      assert.equal(batch.rows, Math.ceil(batch.globalRows / 3));
      assert.equal(batch.tokens.length, batch.rows * batch.length);
      assert.equal(batch.first % batch.rows, 0);
      assert.ok(sequence >= micro + batch.first);
    }
  }
});

Deno.test("a rank reads the blocks of its own rows and no others", () => {
  const source = part(500);
  const { source: all, read: expected } = watched(source);
  new Batcher(all, OPTIONS).share(7);
  for (const size of [2, 3, 7]) {
    const reads = Array.from({ length: size }, (_, rank) => {
      const { source: own, read } = watched(source);
      const { batches } = new Batcher(own, OPTIONS).share(7, { rank, size });
      assert.deepEqual(read, batches.flatMap(({ batch }) => batch.blocks));
      return read;
    });
    assert.deepEqual(reads.flat().toSorted(), expected.toSorted());
  }
  const { source: skipped, read } = watched(source);
  const batcher = new Batcher(skipped, OPTIONS), other = new Batcher(source, OPTIONS);
  const { rows, tokens } = batcher.skip();
  const { rows: whole, realTokens } = other.next();
  assert.deepEqual([rows, tokens], [whole, realTokens]);
  assert.deepEqual(read, []);
  assert.deepEqual(batcher.next(), other.next());
});

Deno.test("a checkpoint of some ranks goes on with any other number of them", () => {
  const source = part(230);
  const alone = new Batcher(source, OPTIONS);
  let state = alone.state();
  for (const size of [3, 1, 2, 8, 5, 1]) {
    const expected = alone.share(4);
    const shares = Array.from({ length: size }, (_, rank) => {
      const batcher = new Batcher(source, OPTIONS);
      batcher.restore(state);
      const share = batcher.share(4, { rank, size });
      assert.deepEqual(batcher.state(), alone.state());
      return share;
    });
    assert.deepEqual(rowsIn(shares.flatMap(({ batches }) => batches)), rowsIn(expected.batches));
    state = JSON.parse(JSON.stringify(alone.state()));
  }
});

Deno.test("ranks share an evaluation batch by batch, and end it at the same place", () => {
  const source = part(333);
  const whole = [...evaluationShare(source, OPTIONS)];
  let sequence = 0;
  for (const [i, numbered] of whole.entries()) {
    assert.deepEqual([numbered.micro, numbered.sequence], [i, sequence]);
    sequence += numbered.batch.rows;
  }
  for (const tokens of [0, 1, 3000, 1e9]) {
    let seen = 0;
    const expected = whole.filter(({ batch }) => {
      const begins = seen < tokens;
      seen += batch.realTokens;
      return begins;
    });
    for (const size of SIZES) {
      const shares = Array.from({ length: size }, (_, rank) => {
        const { source: own, read } = watched(source);
        const share = [...evaluationShare(own, OPTIONS, { rank, size }, tokens)];
        assert.deepEqual(read, share.flatMap(({ batch }) => batch.blocks));
        return share;
      });
      assert.deepEqual(shares.flat().toSorted((a, b) => a.micro - b.micro), expected);
    }
  }
});
