/** A rank that scores made-up requests: what `rank_test.ts` runs in workers. */

import { openTestDevice } from "../../device.ts";
import { inTurn } from "../../../tasks/parallel/communicator.ts";
import { serveRank } from "../../../tasks/parallel/worker.ts";
import { Ranker } from "../../../tasks/evaluate/rank.ts";
import { modelOn, requestsLike } from "../random_model.ts";

/** What to score. */
export interface ScoreArgs {
  /** A call of `scores` each: how many requests, and the mean length of their prompts. */
  calls: readonly (readonly [count: number, length: number])[];
  /** Factor of the weights. */
  scale?: number;
  /** Whether scores may be no numbers. */
  allowNonfinite?: boolean;
  /** Each rank gets requests of its own. */
  different?: boolean;
}

/** What came of it. */
export interface Scores {
  /** Of each call, of each request, of each choice. */
  scores: number[][][];
  /** Tokens that went through all ranks' models. */
  paddedTokens: number;
}

serveRank<ScoreArgs>(async (args, { group }): Promise<Scores> => {
  const device = await inTurn(
    group,
    "opening the device",
    () => openTestDevice(),
  );
  const { calls, scale, different, allowNonfinite } = args;
  const model = { ...await modelOn(device, scale), allowNonfinite };
  const ranker = new Ranker(model, { batchTokens: 256, group });
  const scores: number[][][] = [];
  for (const [count, length] of calls) {
    const requests = requestsLike(count, 2, [length + (different ? group.rank : 0), 20], [5, 3])
      .map((r) => ({ ...r, source: r.source.subarray(0, 128) }));
    scores.push((await ranker.scores(requests)).map((some) => [...some]));
  }
  const padded = Float64Array.of(ranker.statistics.paddedTokens);
  await group.allReduce(padded);
  ranker.destroy();
  model.destroy();
  device.destroy();
  return { scores, paddedTokens: padded[0] };
});
