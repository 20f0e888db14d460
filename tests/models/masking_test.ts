import assert from "node:assert/strict";
import { FIRST_ORDINARY, maskId } from "../../models/config.ts";
import { maskTokens, selectPositions } from "../../models/masking.ts";
import { preset } from "../../models/presets.ts";
import { corruptSpans, longestTarget, sentinelsNeeded } from "../../models/spans.ts";
import { key, Random } from "../../ops/graph/random.ts";

const { model, objective } = preset("base");
const block = (length: number) => new Uint32Array(length).fill(9);

Deno.test("selectPositions: 76 or 77 distinct positions of 512, every position as often", () => {
  const tokens = block(512), runs = 2000;
  const hits = new Uint32Array(512), sizes = new Map<number, number>();
  for (let i = 0; i < runs; i++) {
    const selected = selectPositions(new Random(key(1, i)), tokens, objective);
    assert.equal(new Set(selected).size, selected.length);
    assert.deepEqual(selected, selected.slice().sort());
    for (const position of selected) hits[position]++;
    sizes.set(selected.length, (sizes.get(selected.length) ?? 0) + 1);
  }
  assert.deepEqual([...sizes.keys()].sort(), [76, 77]);
  assert.ok(Math.abs(sizes.get(77)! / runs - 0.8) < 0.04);
  // First and last position included: 0.15·2000 = 300 ± 16.
  for (const count of hits) assert.ok(Math.abs(count - 300) < 80, `${count}`);
});

Deno.test("selectPositions: special tokens only if they may be", () => {
  const tokens = Uint32Array.from({ length: 40 }, (_, i) => i % 2 ? 9 : 2);
  for (let i = 0; i < 50; i++) {
    const options = { ...objective, maskSpecials: false, maskProbability: 0.5 };
    for (const position of selectPositions(new Random(i), tokens, options)) {
      assert.equal(tokens[position], 9);
    }
  }
});

Deno.test("selectPositions: spans cover about the same share, in runs", () => {
  const runs = 500, spans = { ...objective, spanLength: 5 };
  let selected = 0, starts = 0;
  for (let i = 0; i < runs; i++) {
    const chosen = selectPositions(new Random(key(2, i)), block(512), spans);
    const set = new Set(chosen);
    selected += chosen.length;
    starts += chosen.filter((position) => !set.has(position - 1)).length;
    assert.ok(chosen.every((position) => position < 512));
  }
  // 15.4 starts of 5, less overlaps and what the right edge cuts.
  assert.ok(selected / runs > 65 && selected / runs < 76.8, `${selected / runs}`);
  assert.ok(selected / starts > 4.9);
  const varied = selectPositions(new Random(1), block(512), { ...spans, spanStdev: 2 });
  assert.ok(varied.length > 20);
});

Deno.test("maskTokens: 80% masks, 10% kept, 10% random ordinary tokens", () => {
  const all = Uint32Array.from(block(200_000).keys());
  const tokens = block(200_000).fill(1_000_000);
  maskTokens(new Random(3), tokens, all, model, objective);
  const share = (matches: (id: number) => boolean) => tokens.filter(matches).length / tokens.length;
  assert.ok(Math.abs(share((id) => id === maskId(model)) - 0.8) < 0.004);
  assert.ok(Math.abs(share((id) => id === 1_000_000) - 0.1) < 0.003);
  const random = tokens.filter((id) => id !== maskId(model) && id !== 1_000_000);
  assert.ok(random.every((id) => id >= FIRST_ORDINARY && id < model.vocabSize));
  const sentinels = random.filter((id) => id >= maskId(model)).length / random.length;
  assert.ok(Math.abs(sentinels - 0.0154) < 0.004);
});

Deno.test("maskTokens: masks alone, as the paper says", () => {
  const tokens = block(8);
  maskTokens(new Random(3), tokens, Uint32Array.of(2, 5), model, preset("base", "paper").objective);
  const mask = maskId(model);
  assert.deepEqual(tokens, Uint32Array.of(9, 9, mask, 9, 9, mask, 9, 9));
});

Deno.test("corruptSpans: statistics of the reference on blocks of 512", () => {
  const runs = 2000, first = maskId(model);
  const total = { masked: 0, spans: 0, empty: 0, source: 0, target: 0 };
  for (let i = 0; i < runs; i++) {
    const { source, target } = corruptSpans(new Random(key(4, i)), block(512), model);
    const sentinels = target.filter((id) => id > first).length;
    const spans = target.filter((id, at) => id === 9 && target[at - 1] !== 9).length;
    total.masked += target.filter((id) => id === 9).length;
    total.spans += spans;
    total.empty += sentinels - spans;
    total.source += source.length;
    total.target += target.length;
  }
  const expected = { masked: 65.9, spans: 20.3, empty: 7.8, source: 474, target: 95 };
  for (const [name, mean] of Object.entries(expected)) {
    const got = total[name as keyof typeof total] / runs;
    assert.ok(Math.abs(got - mean) < Math.max(0.004 * mean, 0.2), `${name}: ${got} for ${mean}`);
  }
});

Deno.test("corruptSpans: source and target together spell the sequence", () => {
  const first = maskId(model);
  for (let i = 0; i < 300; i++) {
    const length = 1 + i % 130;
    const tokens = Uint32Array.from({ length }, (_, i) => 100 + i);
    const { source, target } = corruptSpans(new Random(key(5, i)), tokens, model);
    assert.ok(target.length <= longestTarget(length));
    assert.equal(target.at(-1), first);
    const spans = new Map<number, number[]>();
    let sentinel = 0;
    for (const id of target.subarray(0, -1)) {
      if (id > first) spans.set(sentinel = id, []);
      else spans.get(sentinel)!.push(id);
    }
    const ids = [...spans.keys()];
    assert.deepEqual(ids, Array.from(ids, (_, i) => first + 1 + i));
    assert.ok(ids.length < sentinelsNeeded(length));
    const spelled = Array.from(source).flatMap((id) => spans.get(id) ?? [id]);
    assert.deepEqual(spelled, Array.from(tokens));
  }
});

Deno.test("corruptSpans: running out of sentinels is the user's mistake", () => {
  const few = { vocabSize: 104, sentinels: 4 };
  assert.throws(() => corruptSpans(new Random(1), block(512), few), {
    name: "UserError",
    message: /expected at least 34/,
  });
});
