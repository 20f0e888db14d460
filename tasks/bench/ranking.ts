/**
 * Times rank classification as `deno task eval_t0` does it, on prompts and choices as long as COPA's.
 *
 * @module
 */

import {
  type ModelConfig,
  parameterCount,
  parameterShapes,
  preset,
  type PresetName,
  specialIds,
} from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { type Device, StateMemory } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import type { LoadedModel } from "../checkpoints/model.ts";
import { Ranker } from "../evaluate/rank.ts";
import { type RankRequest } from "../evaluate/rank_batches.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { trainTokenizer } from "../tokenizer/train_bpe.ts";
import { pairFlops } from "../train/flops.ts";
import type { Yardstick } from "./kernels.ts";
import { doesNotFit, noiseOf, randomIds } from "./random_model.ts";
import type { RankingResult, Skipped } from "./report.ts";
import { median, type Patience, repeatedly, summary } from "./timing.ts";

/** Limits of {@link timeRanking}. */
export interface RankingLimits extends Patience {
  /** A preset is left out if ranking the prompts once is expected to take more seconds. */
  longest: number;
  /** A preset is left out if it is expected to need more bytes. */
  memory: number;
}

/** Part of the matrix product's rate that ranking is expected to reach: rows are short. */
const EXPECTED_SHARE = 0.4;
/** Memory beside the weights: batches and programs. */
const WORKSPACE_BYTES = 256 << 20;

/**
 * Prompts and choices of COPA's lengths: two choices of about 10 tokens for a prompt of about 32.
 *
 * @example
 * ```ts
 * import { copaLike } from "./ranking.ts";
 * import { preset } from "../../models/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const requests = copaLike(preset("tiny").model, 100);
 * assert.ok(requests.every(({ choices }) => choices.length === 2));
 * ```
 */
export function copaLike(model: ModelConfig, prompts: number): RankRequest[] {
  const random = new Random(1);
  const ids = (mean: number, spread: number) =>
    randomIds(random, model, Math.max(2, Math.round(mean + spread * random.normal())));
  return Array.from({ length: prompts }, () => ({
    source: ids(32, 6),
    choices: [ids(10, 3), ids(10, 3)],
  }));
}

/** Times the ranking of so many prompts, or says why not. */
export async function timeRanking(
  device: Device,
  name: PresetName,
  prompts: number,
  yardstick: Yardstick,
  limits: RankingLimits,
): Promise<RankingResult | Skipped> {
  const what = `ranking with ${name}`;
  const { model } = preset(name);
  const requests = copaLike(model, prompts);
  // By the lengths of the texts: padding is the ranker's own loss.
  const flops = requests.reduce((sum, request) => sum + flopsOf(model, request), 0);
  const shapes = parameterShapes(model, ["main"]);
  const needed = 4 * parameterCount(model, ["main"]) + WORKSPACE_BYTES;
  const seconds = flops / (await yardstick.rate()) / 1e9 / EXPECTED_SHARE;
  const why = doesNotFit(device, shapes, needed, limits.memory) ??
    (seconds > limits.longest
      ? `it would take about ${seconds.toFixed(0)} s, more than ${limits.longest} s`
      : undefined);
  if (why) return { what, why };
  let loaded: LoadedModel | undefined, ranker: Ranker | undefined;
  try {
    loaded = await randomModel(device, name);
    ranker = new Ranker(loaded);
    return await timeRanker(ranker, name, requests, flops, yardstick, limits);
  } catch (error) {
    if (error instanceof UserError) return { what, why: error.message };
    throw error;
  } finally {
    ranker?.destroy();
    loaded?.destroy();
  }
}

async function timeRanker(
  ranker: Ranker,
  name: PresetName,
  requests: readonly RankRequest[],
  flops: number,
  yardstick: Yardstick,
  limits: RankingLimits,
): Promise<RankingResult> {
  // Compiles what it needs.
  await ranker.scores(requests);
  const start = ranker.statistics;
  const rates = [await yardstick.sample()];
  const times = await repeatedly(limits, async () => {
    const begun = performance.now();
    await ranker.scores(requests);
    const milliseconds = performance.now() - begun;
    rates.push(await yardstick.sample());
    return milliseconds;
  });
  const shares = times.map((ms, i) => flops / ms / 1e6 / ((rates[i] + rates[i + 1]) / 2));
  const milliseconds = summary(times), end = ranker.statistics;
  const total = times.reduce((sum, ms) => sum + ms, 0);
  const outsideDevice = 1 - (end.deviceMilliseconds - start.deviceMilliseconds) / total;
  return {
    preset: name,
    parameters: parameterCount(preset(name).model, ["main"]),
    prompts: requests.length,
    choices: requests[0].choices.length,
    tokens: start.tokens,
    milliseconds,
    promptsPerSecond: requests.length / milliseconds.min * 1000,
    gflops: flops / milliseconds.min / 1e6,
    ofMatmul: median(shares),
    paddingOverhead: start.paddedTokens / start.tokens - 1,
    programs: end.programs,
    ...(Number.isFinite(outsideDevice) && { outsideDevice }),
  };
}

function flopsOf(model: ModelConfig, { source, choices }: RankRequest): number {
  const target = choices.reduce((sum, ids) => sum + ids.length, 0);
  return pairFlops(model, { rows: 1, length: source.length, target });
}

async function randomModel(device: Device, name: PresetName): Promise<LoadedModel> {
  const { model: config } = preset(name);
  const shapes = parameterShapes(config, ["main"]);
  const parameters = new StateMemory(device, shapes, "parameters");
  const values = noiseOf(shapes);
  for (const parameter of shapes.keys()) parameters.write(parameter, values(parameter));
  // Nobody asks it: the prompts are ids already.
  const options = { vocabSize: 260, lowercase: true, sentinels: 8 };
  const tokenizer = new Tokenizer(await trainTokenizer(["a word"], options));
  return {
    device,
    config,
    parameters,
    tokenizer,
    start: specialIds(config).start,
    maxSource: 512,
    maxTarget: 256,
    name,
    trainedOn: [],
    destroy: () => parameters.destroy(),
  };
}
