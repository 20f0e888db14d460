// Mixes of corpora: shares of an epoch, even use of blocks, order, refusals.

import { checkTextWeights } from "../../../tasks/config/pretrain.ts";
import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { Batcher, evaluationShare } from "../../../tasks/text/batches.ts";
import { blocksPerEpoch, describeMix, mixCorpora, mixedHeldout } from "../../../tasks/text/mix.ts";
import { packCorpus } from "../../../tasks/text/pack.ts";
import { type BlockSource, openPacked, type PackedPart } from "../../../tasks/text/packed.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";

/** Blocks `[0, id + 10, i + 10, …]` of lengths in [3, longest], the same for any id. */
function corpus(id: number, count: number, longest = 32): PackedPart {
  const random = new Random(key(count));
  const lengths = Array.from({ length: count }, () => 3 + random.below(longest - 2));
  return {
    count,
    tokens: lengths.reduce((a, b) => a + b, 0),
    maxLength: longest,
    length: (i) => lengths[i],
    read: (i) => {
      if (!(i >= 0 && i < count)) throw new RangeError(`block ${i} of ${count}`);
      const ids = new Uint32Array(lengths[i]).fill(9);
      ids.set([0, id + 10, i + 10]);
      return ids;
    },
    close: () => {},
  };
}

/** [corpus, block] at every place of an epoch. */
function placesOf(mix: BlockSource, epoch: number): [number, number][] {
  return Array.from({ length: mix.count }, (_, i) => {
    const ids = mix.read(i, epoch);
    assert.equal(mix.length(i, epoch), ids.length);
    return [ids[1] - 10, ids[2] - 10];
  });
}

const WEIGHTS = [3, 1, 0.25, 10];
const CORPORA = () => [corpus(0, 200), corpus(1, 90, 12), corpus(2, 400), corpus(3, 7)];

Deno.test("every epoch has exactly the corpora's places, in proportion to the weights", () => {
  const parts = CORPORA();
  const places = blocksPerEpoch(parts, WEIGHTS);
  const mix = mixCorpora(parts, WEIGHTS, 1);
  assert.equal(mix.count, places.reduce((a, b) => a + b));
  assert.equal(mix.maxLength, 32);
  const total = parts.reduce((sum, { tokens }) => sum + tokens, 0);
  for (const [c, { tokens, count }] of parts.entries()) {
    const wanted = total * WEIGHTS[c] / 14.25;
    assert.ok(Math.abs(places[c] * tokens / count - wanted) <= tokens / count / 2, `corpus ${c}`);
  }
  for (const epoch of [0, 1, 17]) {
    const found = placesOf(mix, epoch);
    assert.deepEqual(parts.map((_, c) => found.filter(([id]) => id === c).length), places);
  }
});

Deno.test("blocks of a corpus are used equally often, over any number of epochs", () => {
  const parts = CORPORA();
  const mix = mixCorpora(parts, WEIGHTS, 5);
  const uses = parts.map(({ count }) => new Array<number>(count).fill(0));
  for (let epoch = 0; epoch < 25; epoch++) {
    for (const [c, block] of placesOf(mix, epoch)) uses[c][block]++;
    for (const counts of uses) {
      assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `after epoch ${epoch}`);
    }
  }
});

Deno.test("equal corpora of equal weights: every block once an epoch", () => {
  const parts = [corpus(0, 60), corpus(0, 60), corpus(0, 60)];
  assert.deepEqual(blocksPerEpoch(parts, [1, 1, 1]), [60, 60, 60]);
  assert.deepEqual(blocksPerEpoch(parts, [0.1, 0.1, 0.1]), [60, 60, 60]);
  const mix = mixCorpora([corpus(0, 60), corpus(1, 60)], [2, 2], 1);
  const orders = [0, 1].map((epoch) => {
    const places = placesOf(mix, epoch).map((place) => place.join());
    assert.equal(new Set(places).size, 120);
    return places.join(" ");
  });
  assert.notEqual(orders[0], orders[1]);
});

Deno.test("the order follows from the seed, and another seed gives another", () => {
  const order = (seed: number) => placesOf(mixCorpora(CORPORA(), WEIGHTS, seed), 2);
  assert.deepEqual(order(4), order(4));
  assert.notDeepEqual(order(4), order(5));
});

Deno.test("the first places are a fair sample of an epoch", () => {
  const parts = [corpus(0, 3000), corpus(1, 3000)];
  const ids = (source: BlockSource) =>
    Array.from({ length: 600 }, (_, i) => source.read(i, 0)[1] - 10);
  const second = (source: BlockSource) => ids(source).filter((id) => id === 1).length;
  assert.ok(Math.abs(second(mixCorpora(parts, [1, 1], 1)) - 300) < 75);
  assert.ok(Math.abs(second(mixedHeldout(parts)) - 300) < 75);
});

Deno.test("batches of a mix go on after a restore, and no two sequences share their key", () => {
  const shapes = { microBatchTokens: 256, lengths: [8, 16, 32], seed: 7, window: 100 };
  const uninterrupted = new Batcher(mixCorpora(CORPORA(), WEIGHTS, 7), shapes);
  const keys = new Set<string>();
  let rows = 0;
  while (uninterrupted.state().epoch < 3) {
    const resumed = new Batcher(mixCorpora(CORPORA(), WEIGHTS, 7), shapes);
    resumed.restore(JSON.parse(JSON.stringify(uninterrupted.state())));
    const batch = uninterrupted.next();
    assert.deepEqual(resumed.next(), batch);
    assert.deepEqual(resumed.state(), uninterrupted.state());
    for (const sequence of batch.sequences) keys.add(sequence.join());
    rows += batch.sequences.length;
    for (const [row, length] of batch.lengths.entries()) {
      const ids = batch.tokens.subarray(row * batch.length, (row + 1) * batch.length);
      assert.equal(ids.findLastIndex((id) => id !== 1) + 1, length);
    }
  }
  assert.equal(keys.size, rows);
});

Deno.test("memory does not grow with the corpora", () => {
  // Corpora that no list of blocks could hold.
  const huge = (count: number): PackedPart => ({
    count,
    tokens: count * 500,
    maxLength: 512,
    length: (i) => 489 + i % 23,
    read: (i) => new Uint32Array(489 + i % 23).fill(i % 1000),
    close: () => {},
  });
  const mix = mixCorpora([huge(2 ** 40), huge(3 ** 20)], [1, 2], 1);
  assert.ok(mix.count > 2 ** 40);
  const batcher = new Batcher(mix, { microBatchTokens: 4096, lengths: [512], seed: 1 });
  batcher.restore({ epoch: 9, window: 2 ** 26, batch: 100 });
  assert.equal(batcher.next().blocks.length, 8);
});

Deno.test("unusable weights are refused, and the flag is named", () => {
  const refusal = (weights: number[], texts = 2) => {
    try {
      checkTextWeights(weights, texts);
    } catch (error) {
      assert.ok(error instanceof UserError);
      return error.message;
    }
    throw new assert.AssertionError({ message: `accepted: ${weights}` });
  };
  for (const wrong of [0, -1, NaN, Infinity]) {
    assert.equal(
      refusal([1, wrong]),
      `--text-weights: expected numbers above 0, got ${wrong}; ` +
        "leave a --text out that is not to be used",
    );
    assert.throws(() => mixCorpora([corpus(0, 5), corpus(1, 5)], [wrong, 1], 1), UserError);
  }
  assert.equal(
    refusal([3, 1, 2]),
    "--text-weights: expected 2 numbers, one for each --text, got 3: 3 1 2",
  );
  assert.match(refusal([3, 1], 1), /expected 1 number, one for each --text, got 2: 3 1$/);
  assert.throws(() => mixCorpora([corpus(0, 5), corpus(1, 0)], [1, 1], 1), {
    name: "UserError",
    message: "--text: corpus 2 has no block to train on; leave it out",
  });
  const parts = [corpus(0, 5), corpus(1, 5)];
  assert.deepEqual(blocksPerEpoch(parts, [1e308, 1e308]), blocksPerEpoch(parts, [1, 1]));
  assert.equal(blocksPerEpoch(parts, [1, 1e-300])[1], 1);
});

Deno.test("a mix in words says each corpus's share and passes", () => {
  const [wiki, books] = [{ count: 10, tokens: 1000 }, { count: 1, tokens: 100 }];
  assert.deepEqual(describeMix([wiki, books], [1, 3], ["wiki", "books"]), [
    "wiki: 27.3 % of the tokens, 0.30 passes per epoch",
    "books: 72.7 % of the tokens, 8.0 passes per epoch",
  ]);
});

Deno.test("packed corpora on disk mix, and their held-out parts are evaluated whole", async () => {
  const folder = await mkdtemp(join(tmpdir(), "metro-mix-"));
  try {
    const texts = ["red green blue", "one two three four"].map((words, c) =>
      Array.from({ length: 300 }, (_, i) => `${words} ${i * (c + 1)}\n\n`).join("")
    );
    const tokenizer = new Tokenizer(
      await trainTokenizer(texts.map((text) => text.split("\n")).flat(), {
        vocabSize: 300,
        lowercase: false,
        sentinels: 16,
      }),
    );
    const folders = await Promise.all(texts.map(async (text, c) => {
      await writeFile(join(folder, `${c}.txt`), text);
      const out = join(folder, `packed-${c}`);
      const rule = { block: 16, heldOut: 0.2 };
      await packCorpus({ paths: [join(folder, `${c}.txt`)], tokenizer, out, ...rule });
      return out;
    }));
    const train = folders.map((out) => openPacked(out, "train"));
    const mix = mixCorpora(train, [3, 1], 1);
    let first = 0, tokens = 0;
    for (let i = 0; i < mix.count; i++) {
      const text = tokenizer.decode([...mix.read(i, 0)]);
      tokens += mix.length(i, 0);
      if (text.includes("green")) first += mix.length(i, 0);
    }
    assert.ok(Math.abs(first / tokens - 0.75) < 0.02);
    mix.close();
    assert.throws(() => mix.read(0, 0));

    const parts = folders.map((out) => openPacked(out, "heldout"));
    const heldout = mixedHeldout(parts);
    const shapes = { microBatchTokens: 64, lengths: [16] };
    const seen = [...evaluationShare(heldout, shapes)];
    assert.equal(heldout.count, parts[0].count + parts[1].count);
    assert.deepEqual(
      seen.flatMap(({ batch }) => batch.blocks).toSorted((a, b) => a - b),
      [...Array(heldout.count).keys()],
    );
    const real = seen.reduce((sum, { batch }) => sum + batch.realTokens, 0);
    assert.equal(real, parts[0].tokens + parts[1].tokens);
    assert.equal(mixedHeldout([parts[0]]), parts[0]);
    heldout.close();
  } finally {
    await rm(folder, { recursive: true });
  }
});
