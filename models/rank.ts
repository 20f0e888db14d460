/**
 * Rank classification (spec of T0's evaluation; paper, section 5.1): how probable is each answer choice,
 * given the prompt?
 *
 * @module
 */

import { input, type Tensor } from "../ops/mod.ts";
import { type ModelConfig, SPECIAL } from "./config.ts";
import { FIRST_POSITION } from "./generation.ts";
import { languageModel } from "./heads.ts";
import type { Parameters } from "./parameters.ts";
import { decode, encode } from "./transformer.ts";

/** Static sizes of a batch of prompts with their choices. */
export interface RankShape {
  /** Prompts. */
  rows: number;
  /** Padded length of the prompts. */
  length: number;
  /** Padded length of all choices of a prompt, one after the other. */
  choices: number;
}

/**
 * −log p(token | prompt, tokens of the same choice before it) for all choices of all prompts. The encoder
 * runs once per prompt; the choices of a prompt share a row of the decoder, as segments that do not see
 * each other, so that choices of different lengths need no padding between them.
 *
 * Inputs of the program, all u32: `source` [rows, length]; `decoderTokens`, `targets`, `segments`,
 * `positions`, each [rows, choices]: {@link layOutChoices} fills them.
 *
 * @returns [rows, choices]; what stands at pads means nothing
 *
 * @example
 * ```ts
 * import { choiceLosses } from "./rank.ts";
 * import { declareParameters } from "./parameters.ts";
 * import { preset } from "./presets.ts";
 * import assert from "node:assert/strict";
 *
 * const { model } = preset("tiny"), shape = { rows: 3, length: 16, choices: 8 };
 * assert.deepEqual(choiceLosses(declareParameters(model, ["main"]), model, shape).shape, [3, 8]);
 * ```
 */
export function choiceLosses(
  parameters: Parameters,
  config: ModelConfig,
  { rows, length, choices }: RankShape,
): Tensor {
  const source = input("source", [rows, length], "u32");
  const ofChoices = (name: string) => input(name, [rows, choices], "u32");
  const memory = encode(parameters, config, source);
  const h = decode(parameters, config, ofChoices("decoderTokens"), {
    memory,
    memoryTokens: source,
    segments: { numbers: ofChoices("segments"), positions: ofChoices("positions") },
  });
  return languageModel(parameters, config, "clm", h, ofChoices("targets")).nll;
}

/** Values of the inputs of {@link choiceLosses}. */
export type RankInputs = Record<
  "source" | "decoderTokens" | "targets" | "segments" | "positions",
  Uint32Array
>;

/**
 * Lays prompts and choices out for {@link choiceLosses}.
 *
 * @param requests at most `shape.rows`: each prompt with `<s>` and `</s>`, each choice with `</s>`
 * @param start the id from which decoding starts
 * @param pad the id that fills rows up
 *
 * @example
 * ```ts
 * import { layOutChoices } from "./rank.ts";
 * import assert from "node:assert/strict";
 *
 * const request = { source: [0, 9, 2], choices: [[7, 2], [8, 2]] };
 * const inputs = layOutChoices([request], { rows: 1, length: 4, choices: 5 }, 2);
 * assert.deepEqual([...inputs.decoderTokens], [2, 7, 2, 8, 1]);
 * assert.deepEqual([...inputs.segments], [1, 1, 2, 2, 0]);
 * assert.deepEqual([...inputs.positions], [2, 3, 2, 3, 1]);
 * ```
 */
export function layOutChoices(
  requests: readonly { source: ArrayLike<number>; choices: readonly ArrayLike<number>[] }[],
  { rows, length, choices: columns }: RankShape,
  start: number,
  pad: number = SPECIAL.pad,
): RankInputs {
  const padded = (count: number) => new Uint32Array(count).fill(pad);
  const source = padded(rows * length), positions = padded(rows * columns);
  const decoderTokens = padded(rows * columns), targets = padded(rows * columns);
  const segments = new Uint32Array(rows * columns);
  for (const [row, request] of requests.entries()) {
    source.set(request.source, row * length);
    let at = row * columns;
    for (const [k, ids] of request.choices.entries()) {
      targets.set(ids, at);
      for (let t = 0; t < ids.length; t++, at++) {
        decoderTokens[at] = t === 0 ? start : ids[t - 1];
        segments[at] = k + 1;
        positions[at] = FIRST_POSITION + t;
      }
    }
  }
  return { source, decoderTokens, targets, segments, positions };
}
