/**
 * Masking, on the host: which positions of a sequence the auxiliary model must predict and what it
 * sees there (paper, equation 6). A sequence's mask is a function of its random stream alone, so it does
 * not depend on its batch, its device or the order of training.
 *
 * @module
 */

import type { Random } from "../ops/graph/random.ts";
import { FIRST_ORDINARY, maskId, type ModelConfig, type ObjectiveConfig } from "./config.ts";

/**
 * `count` distinct numbers out of `candidates`, in random order: the first steps of a Fisher–Yates
 * shuffle.
 *
 * @param candidates is left partly shuffled
 *
 * @example
 * ```ts
 * import { drawDistinct } from "./masking.ts";
 * import { Random } from "../ops/graph/random.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(new Set(drawDistinct(new Random(1), Uint32Array.of(3, 5, 8), 2)).size, 2);
 * ```
 */
export function drawDistinct(random: Random, candidates: Uint32Array, count: number): Uint32Array {
  const n = Math.min(count, candidates.length);
  for (let i = 0; i < n; i++) {
    const j = i + random.below(candidates.length - i);
    [candidates[i], candidates[j]] = [candidates[j], candidates[i]];
  }
  return candidates.subarray(0, n);
}

/**
 * `expected`, rounded down or up at random so that the mean is right.
 *
 * @example
 * ```ts
 * import { roundRandomly } from "./masking.ts";
 * import { Random } from "../ops/graph/random.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok([76, 77].includes(roundRandomly(new Random(1), 0.15 * 512)));
 * ```
 */
export function roundRandomly(random: Random, expected: number): number {
  return Math.floor(expected + random.uniform());
}

/**
 * Selects positions of a sequence: ⌊p·n + u⌋ distinct ones, uniformly over all of it, or as many
 * starts of spans as cover that share (spans may overlap and are cut at the end).
 *
 * @param tokens the sequence, without padding
 * @returns the selected positions, rising
 *
 * @example
 * ```ts
 * import { selectPositions } from "./masking.ts";
 * import { preset } from "./presets.ts";
 * import { Random } from "../ops/graph/random.ts";
 * import assert from "node:assert/strict";
 *
 * const { objective } = preset("base");
 * const selected = selectPositions(new Random(7), new Uint32Array(512).fill(9), objective);
 * assert.ok(selected.length === 76 || selected.length === 77);
 * ```
 */
export function selectPositions(
  random: Random,
  tokens: Uint32Array,
  { maskProbability, maskSpecials, spanLength, spanStdev }: ObjectiveConfig,
): Uint32Array {
  const allowed = (i: number) => maskSpecials || tokens[i] >= FIRST_ORDINARY;
  const candidates = Uint32Array.from(tokens.keys()).filter(allowed);
  const count = roundRandomly(random, maskProbability * candidates.length / spanLength);
  const starts = drawDistinct(random, candidates, count);
  if (spanLength === 1) return starts.slice().sort();

  const selected = new Set<number>();
  for (const start of starts) {
    const length = spanStdev === 0
      ? spanLength
      : Math.max(0, Math.round(spanLength + spanStdev * random.normal()));
    const end = Math.min(start + length, tokens.length);
    for (let i = start; i < end; i++) if (allowed(i)) selected.add(i);
  }
  return Uint32Array.from(selected).sort();
}

/**
 * What the auxiliary model sees at selected positions: the mask symbol, the token itself, or a random
 * token that is no special one (but may be a sentinel).
 *
 * @param tokens [length], changed in place
 * @param selected positions in it
 *
 * @example
 * ```ts
 * import { maskTokens } from "./masking.ts";
 * import { preset } from "./presets.ts";
 * import { Random } from "../ops/graph/random.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("base", "paper");
 * const tokens = Uint32Array.of(0, 7, 8, 2);
 * maskTokens(new Random(7), tokens, Uint32Array.of(1), model, objective);
 * assert.deepEqual(tokens, Uint32Array.of(0, 32_768, 8, 2));
 * ```
 */
export function maskTokens(
  random: Random,
  tokens: Uint32Array,
  selected: Uint32Array,
  model: Pick<ModelConfig, "vocabSize" | "sentinels">,
  { keepShare, randomShare }: Pick<ObjectiveConfig, "keepShare" | "randomShare">,
): void {
  const mask = maskId(model);
  for (const position of selected) {
    const choice = random.uniform();
    if (choice < keepShare) continue;
    tokens[position] = choice < keepShare + randomShare
      ? FIRST_ORDINARY + random.below(model.vocabSize - FIRST_ORDINARY)
      : mask;
  }
}
