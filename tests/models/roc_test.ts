import assert from "node:assert/strict";
import { areaUnderRoc, countAbove, ROC_THRESHOLDS } from "../../models/roc.ts";
import { interpret, state } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";

/** Scores of positions, and 1 for those looked for. */
interface Positions {
  scores: number[];
  labels: number[];
}

/** Scores around a mean for either kind. */
function positions(random: Random, count: number, spread: number, apart: number): Positions {
  const labels = Array.from({ length: count }, () => random.below(5) === 0 ? 1 : 0);
  const scores = labels.map((label) =>
    Math.fround(-1.75 + apart * label + spread * random.normal())
  );
  return { scores, labels };
}

/** What the device's graph counts, by the reference. */
function counts({ scores, labels }: Positions): [all: number[], sought: number[]] {
  const shape = [scores.length];
  const counted = [state("ones", shape), state("labels", shape)];
  const above = counted.map((weights) => countAbove(state("scores", shape), weights));
  const values = {
    scores: Float32Array.from(scores),
    ones: new Float32Array(scores.length).fill(1),
    labels: Float32Array.from(labels),
  };
  const [all, sought] = interpret(above, { values }).map((counts) => Array.from(counts));
  return [all, sought];
}

const area = (p: Positions) => areaUnderRoc(...counts(p));

/** The share of pairs of both kinds that stand in the right order; equal scores count half. */
function exactArea({ scores, labels }: Positions): number {
  let right = 0, pairs = 0;
  for (const [i, a] of scores.entries()) {
    for (const [j, b] of scores.entries()) {
      if (labels[i] !== 1 || labels[j] !== 0) continue;
      pairs++;
      right += a > b ? 1 : a === b ? 0.5 : 0;
    }
  }
  return right / pairs;
}

/** Half the share of pairs between two thresholds, whose order is not known. */
function resolution(p: Positions): number {
  const [all, sought] = counts(p);
  const others = all.map((n, i) => n - sought[i]);
  const within = (n: readonly number[]) => n.map((count, i) => count - (n[i + 1] ?? 0));
  const [a, b] = [within(sought), within(others)];
  return a.reduce((sum, n, i) => sum + n * b[i], 0) / (2 * sought[0] * others[0]);
}

Deno.test("areaUnderRoc: the rank statistic, within the resolution of the thresholds", () => {
  const random = new Random(11);
  for (let round = 0; round < 60; round++) {
    const spread = [0.1, 1, 4, 20][round % 4], apart = random.normal();
    const p = positions(random, 50 + random.below(300), spread, apart);
    const error = Math.abs(area(p) - exactArea(p)), bound = resolution(p);
    assert.ok(error <= bound + 1e-12, `off by ${error}, more than ${bound}, spread ${spread}`);
  }
});

Deno.test("areaUnderRoc: fine enough for logits as a detector has them, early and late", () => {
  const random = new Random(12);
  for (const spread of [0.03, 0.1, 0.3, 1, 3]) {
    const p = positions(random, 2000, spread, spread);
    const error = Math.abs(area(p) - exactArea(p));
    assert.ok(error < 0.01, `spread ${spread}: off by ${error}`);
  }
});

Deno.test("areaUnderRoc: scores between the same thresholds are equal", () => {
  const middle = ROC_THRESHOLDS.slice(1, -1).map((t, i) => (t + ROC_THRESHOLDS[i + 2]) / 2);
  const random = new Random(13);
  const scores = Array.from(
    { length: 300 },
    () => Math.fround(middle[random.below(middle.length)]),
  );
  const labels = scores.map((score) => random.normal() < score ? 1 : 0);
  assert.ok(Math.abs(area({ scores, labels }) - exactArea({ scores, labels })) < 1e-12);
});

Deno.test("areaUnderRoc: perfect is 1, reversed 0, knowing nothing 0.5", () => {
  assert.equal(area({ scores: [-3, 4, -2, 5], labels: [0, 1, 0, 1] }), 1);
  assert.equal(area({ scores: [-3, 4, -2, 5], labels: [1, 0, 1, 0] }), 0);
  assert.equal(area({ scores: [1, 1, 1, 1], labels: [0, 1, 0, 0] }), 0.5);
  // Beyond the outermost thresholds, too, there is an order of inner and outer.
  assert.equal(area({ scores: [-1e30, 1e30], labels: [0, 1] }), 1);
  const random = new Random(14);
  const guess = positions(random, 20_000, 1, 0);
  assert.ok(Math.abs(area(guess) - 0.5) < 0.02);
});

Deno.test("areaUnderRoc: with one kind only there is nothing to tell apart", () => {
  assert.ok(Number.isNaN(area({ scores: [1, 2], labels: [0, 0] })));
  assert.ok(Number.isNaN(area({ scores: [1, 2], labels: [1, 1] })));
  assert.ok(Number.isNaN(areaUnderRoc([0, 0], [0, 0])));
});

Deno.test("countAbove: counts of parts add up to those of the whole", () => {
  const { scores, labels } = positions(new Random(15), 500, 2, 1);
  const parts = [[0, 200], [200, 500]].map(([from, to]) =>
    counts({ scores: scores.slice(from, to), labels: labels.slice(from, to) })
  );
  const whole = counts({ scores, labels });
  for (const kind of [0, 1]) {
    assert.deepEqual(whole[kind], parts[0][kind].map((n, i) => n + parts[1][kind][i]));
  }
});
