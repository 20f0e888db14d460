// Rank classification: scores do not depend on batches, order or padding; padding stays small.

import assert from "node:assert/strict";
import type { RankShape } from "../../../models/rank.ts";
import { SPECIAL } from "../../../models/config.ts";
import type { LoadedModel } from "../../../tasks/checkpoints/model.ts";
import { runWorkers } from "../../../tasks/parallel/workers.ts";
import { bestOf, rank, Ranker } from "../../../tasks/evaluate/rank.ts";
import { groupRequests, type RankRequest } from "../../../tasks/evaluate/rank_batches.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { modelOn, requestsLike } from "../random_model.ts";
import type { ScoreArgs, Scores } from "./score_rank.ts";

const LIMITS = { maxSource: 512, batchTokens: 2048 };

function overheadOf(requests: RankRequest[], batchTokens: number): number {
  const plan = groupRequests(requests, { ...LIMITS, batchTokens });
  assert.deepEqual(plan.flatMap((b) => b.requests).toSorted((a, b) => a - b), [...requests.keys()]);
  const padded = plan.reduce(
    (sum, { shape: s }) => sum + s.rows * (s.length + s.choices),
    0,
  );
  const real = requests.reduce(
    (sum, r) => sum + r.source.length + r.choices.reduce((n, c) => n + c.length, 0),
    0,
  );
  return padded / real - 1;
}

for (
  const [like, requests] of [
    ["COPA", requestsLike(100, 2, [32, 6], [10, 3])],
    ["RTE", requestsLike(277, 2, [95, 45], [2, 0])],
    ["HellaSwag", requestsLike(2000, 4, [75, 25], [28, 9])],
  ] as const
) {
  Deno.test(`padding is under a quarter for prompts and choices like ${like}'s`, () => {
    for (const batchTokens of [1024, 2048]) {
      const overhead = overheadOf([...requests], batchTokens);
      assert.ok(overhead < 0.25, `${batchTokens}: ${(100 * overhead).toFixed(1)} %`);
    }
  });
}

Deno.test("a plan holds every request once, in shapes that fit it, whatever the batch", () => {
  const requests = [
    ...requestsLike(37, 2, [40, 30], [6, 4]),
    ...requestsLike(5, 3, [9, 2], [3, 1]),
  ];
  for (const batchSize of [undefined, 1, 3, 16]) {
    const plan = groupRequests(requests, { ...LIMITS, batchSize });
    const seen = plan.flatMap((b) => b.requests);
    assert.deepEqual(seen.toSorted((a, b) => a - b), [...requests.keys()]);
    for (const { shape, requests: members } of plan) {
      assert.ok(members.length <= shape.rows);
      if (batchSize) assert.equal(shape.rows, batchSize);
      for (const i of members) {
        const { source, choices } = requests[i];
        assert.ok(source.length <= shape.length);
        assert.ok(choices.reduce((sum, ids) => sum + ids.length, 0) <= shape.choices);
      }
    }
  }
});

Deno.test("templates of a dataset share shapes", () => {
  // Three templates: the second and third add a few words to every prompt.
  const known = new Map<string, RankShape>();
  const fresh = [0, 3, 7].map((words) => {
    const requests = requestsLike(277, 2, [95 + words, 45], [2, 0]);
    const before = known.size;
    const limits = { ...LIMITS, known: (shape: RankShape) => known.has(JSON.stringify(shape)) };
    for (const { shape } of groupRequests(requests, limits)) {
      known.set(JSON.stringify(shape), shape);
    }
    return known.size - before;
  });
  assert.ok(fresh[0] <= 12 && fresh[1] <= 4 && fresh[2] <= 4, fresh.join(", "));
});

Deno.test("ties go to the first choice", () => {
  assert.equal(bestOf([-2, -1, -1]), 1);
  assert.equal(bestOf([-1, -1]), 0);
});

async function withModel(body: (model: LoadedModel) => Promise<void>): Promise<void> {
  const device = await openTestDevice();
  const model = await modelOn(device);
  await body(model);
  model.destroy();
  device.destroy();
}

cpuTest("scores do not depend on the batch size, nor on the order of the prompts", async () => {
  await withModel(async (model) => {
    const requests = [
      ...requestsLike(21, 2, [30, 20], [5, 3]),
      ...requestsLike(6, 3, [12, 4], [4, 2]),
    ].map((r) => ({ ...r, source: r.source.subarray(0, 128) }));
    const order = requests.map((_, i) => i).sort((a, b) => (a * 7) % 27 - (b * 7) % 27);
    const runs: Float64Array[][] = [];
    for (const batchSize of [1, 3, 16, undefined]) {
      const ranker = new Ranker(model, { batchSize });
      runs.push(await ranker.scores(requests));
      const shuffled = await ranker.scores(order.map((i) => requests[i]));
      const back: Float64Array[] = [];
      for (const [at, i] of order.entries()) back[i] = shuffled[at];
      runs.push(back);
      ranker.destroy();
    }
    for (const run of runs) {
      for (const [i, scores] of run.entries()) {
        for (const [k, score] of scores.entries()) {
          const expected = runs[0][i][k];
          assert.ok(expected < -1);
          assert.ok(
            Math.abs(score - expected) <= 1e-5 * Math.abs(expected),
            `${score} ${expected}`,
          );
        }
      }
    }
  });
});

cpuTest("calls that overlap take turns, and the device's time is known", async () => {
  await withModel(async (model) => {
    const calls = [5, 40, 1].map((count) =>
      requestsLike(count, 2, [30, 20], [5, 3])
        .map((r) => ({ ...r, source: r.source.subarray(0, 128) }))
    );
    const ranker = new Ranker(model, { batchTokens: 256 });
    const one: Float64Array[][] = [];
    for (const requests of calls) one.push(await ranker.scores(requests));
    assert.deepEqual(await ranker.scores([]), []);
    const { programs } = ranker.statistics;

    const begun = performance.now(), before = ranker.statistics.deviceMilliseconds;
    const together = await Promise.all(calls.map((requests) => ranker.scores(requests)));
    const elapsed = performance.now() - begun;
    assert.deepEqual(together, one);
    const { deviceMilliseconds, programs: after } = ranker.statistics;
    assert.equal(after, programs, "the programs of the first round serve the second");
    const watch = model.device.stopwatch(1);
    watch?.destroy();
    if (watch) {
      const spent = deviceMilliseconds - before;
      assert.ok(spent > 0 && spent < elapsed, `${spent} of ${elapsed} ms`);
    } else assert.ok(Number.isNaN(deviceMilliseconds));
    ranker.destroy();
  });
});

cpuTest("a ranker keeps the programs that were used last, and no more", async () => {
  await withModel(async (model) => {
    const ranker = new Ranker(model, { batchSize: 1 });
    // 13 shapes per width of the choice; 128 programs are kept.
    const lengths = [...Array(8).keys()].flatMap((i) => [4 * (i + 1), 64 + 8 * i]);
    const scoresOf = (width: number) =>
      ranker.scores(lengths.map((length) => ({
        source: new Uint32Array(length).fill(7),
        choices: [new Uint32Array(width).fill(9)],
      })));
    const first = await scoresOf(4);
    for (const width of [8, 12, 16, 20, 24, 28, 32, 40, 48]) await scoresOf(width);
    const { programs } = ranker.statistics, { allocatedBytes } = model.device;
    assert.equal(programs, 130);
    for (const width of [56, 64, 80, 96]) await scoresOf(width);
    assert.ok(model.device.allocatedBytes < 1.2 * allocatedBytes);
    const before = ranker.statistics.programs;
    assert.deepEqual(await scoresOf(4), first);
    assert.ok(ranker.statistics.programs > before, "the first ones were dropped");
    await scoresOf(96);
    assert.equal(ranker.statistics.programs, before + 13, "the last ones were kept");
    ranker.destroy();
  });
});

cpuTest("a choice's score is the same alone and among others, and is a probability", async () => {
  await withModel(async (model) => {
    const words = ["good", "bad", "yes no the film", "no"];
    const { scores, best } = await rank(model, "the film was", words);
    for (const [i, word] of words.entries()) {
      const alone = await rank(model, " the\nfilm  was ", [word]);
      assert.ok(Math.abs(alone.scores[0] - scores[i]) <= 1e-5 * Math.abs(scores[i]));
    }
    assert.equal(best, bestOf(scores));
    // All one-token answers and their end: a sum of probabilities.
    const ranker = new Ranker(model);
    const { source } = ranker.request("the film was", ["x"]);
    const every = Array.from({ length: model.config.vocabSize - 4 }, (_, i) => i + 4);
    const all = await ranker.scores(
      every.map((id) => ({ source, choices: [Uint32Array.of(id, SPECIAL.eos)] })),
    );
    const total = all.reduce((sum, [score]) => sum + Math.exp(score), 0);
    assert.ok(total > 0 && total < 1, `${total}`);
    ranker.destroy();
  });
});

cpuTest(
  "a blank choice is scored as its end token alone, an empty prompt and no choice are refused",
  async () => {
    await withModel(async (model) => {
      await assert.rejects(rank(model, " \n", ["a"]), /expected a prompt, got an empty text/);
      const ranker = new Ranker(model);
      const { source, choices } = ranker.request("a", ["b", " \n", ""]);
      assert.deepEqual(choices.slice(1), Array(2).fill(Uint32Array.of(model.tokenizer.eos)));
      const alone = await ranker.scores([{
        source,
        choices: [Uint32Array.of(model.tokenizer.eos)],
      }]);
      const [[first, second, third]] = await ranker.scores([{ source, choices }]);
      ranker.destroy();
      assert.ok(Math.abs(second - alone[0][0]) < 1e-5 && second === third && first !== second);
      await assert.rejects(rank(model, "a", []), /expected choices to rank, got none/);
    });
  },
);

/** Scores by so many ranks, each on a software device of its own. */
function scoresBy(size: number, args: Partial<ScoreArgs> = {}): Promise<Scores> {
  return runWorkers<ScoreArgs, Scores>({
    module: new URL("./score_rank.ts", import.meta.url),
    // The second plan would be another if each rank went by the programs that it has.
    args: { calls: [[5, 30], [9, 34], [0, 1], [12, 44]], ...args },
    size,
    timeout: 60,
    output: { write: () => {} },
  });
}

cpuTest("scores and plans have the same bits whatever the number of ranks", async () => {
  const [one, three] = [await scoresBy(1), await scoresBy(3)];
  assert.ok(one.scores.flat(2).every((score) => score < -1));
  assert.deepEqual(three, one);
});

cpuTest(
  "scores that are no numbers end the job of several ranks, or stay so if they may",
  async () => {
    await assert.rejects(scoresBy(2, { scale: NaN }), {
      name: "UserError",
      message:
        /^rank \d: prompt 1, choice 1: its log-probability is NaN, expected a finite number;/,
    });
    const { scores } = await scoresBy(2, { scale: NaN, allowNonfinite: true });
    assert.ok(scores.flat(2).every(Number.isNaN), scores.flat(2).join(" "));
  },
);

cpuTest("ranks with different prompts end with a line instead of wrong scores", async () => {
  await assert.rejects(scoresBy(2, { different: true }), {
    name: "UserError",
    message: /^rank 1: the ranks were given different prompts: /,
  });
});
