/** A small model with random weights, and requests to rank like those of real tasks. */

import { initialize, parameterShapes, preset } from "../../models/mod.ts";
import { SPECIAL } from "../../models/config.ts";
import { type Device, StateMemory } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import type { LoadedModel } from "../../tasks/checkpoints/model.ts";
import type { RankRequest } from "../../tasks/evaluate/rank_batches.ts";
import { Tokenizer } from "../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../tasks/tokenizer/train_bpe.ts";

/** Ids of a random length around a mean, as texts have. */
function ids(random: Random, mean: number, spread: number): Uint32Array {
  const length = Math.max(2, Math.round(mean + spread * random.normal()));
  return Uint32Array.from({ length }, () => 4 + random.below(200));
}

/** Requests whose prompts and choices have these mean lengths and spreads, the same in every call. */
export function requestsLike(
  count: number,
  choices: number,
  prompt: [number, number],
  choice: [number, number],
): RankRequest[] {
  const random = new Random(7);
  return Array.from({ length: count }, () => ({
    source: ids(random, ...prompt),
    choices: Array.from({ length: choices }, () => ids(random, ...choice)),
  }));
}

/**
 * The model on a device; the same weights in every call.
 *
 * @param more factor of its matrices, beside one that makes choices differ
 */
export async function modelOn(device: Device, more = 1): Promise<LoadedModel> {
  const json = await trainTokenizer(["good bad yes no the film was"], {
    vocabSize: 260,
    lowercase: true,
    sentinels: 8,
  });
  const tokenizer = new Tokenizer(json);
  const config = {
    ...preset("tiny").model,
    vocabSize: tokenizer.rows,
    sentinels: 8,
    dModel: 32,
    heads: 2,
    dFf: 64,
    encoderLayers: 2,
    decoderLayers: 2,
  };
  const shapes = parameterShapes(config, ["main"]);
  const parameters = new StateMemory(device, shapes, "parameters");
  const values = initialize(config, 3);
  for (const name of shapes.keys()) {
    // Larger than at the start of training, so that choices differ.
    const scale = /weight|embed/.test(name) ? 3 * more : 1;
    parameters.write(name, values(name).map((x) => scale * x));
  }
  return {
    device,
    config,
    parameters,
    tokenizer,
    start: SPECIAL.eos,
    maxSource: 128,
    maxTarget: 64,
    name: "random",
    trainedOn: [],
    destroy: () => parameters.destroy(),
  };
}
