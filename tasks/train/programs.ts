/**
 * Training as graphs: a micro-batch forward and backward, and AdamW. The `Trainer` compiles them; a plan
 * estimates what they need without a device.
 *
 * @module
 */

import { declareParameters, type ModelConfig, parameterShapes } from "../../models/mod.ts";
import {
  add,
  div,
  grad,
  greater,
  mul,
  type ProgramSpec,
  runScalar,
  scalar,
  scale,
  sqrt,
  state,
  sub,
  sumSquares,
  type Tensor,
  where,
} from "../../ops/mod.ts";
import { addAll } from "../../ops/primitives/reduce.ts";
import type { BatchShape, Objective } from "./objective.ts";
import { type MemoryKind, stateName } from "../parallel/memory_kinds.ts";

/** Settings of AdamW. */
export interface AdamWConfig {
  /** Decay of the mean gradient. */
  beta1: number;
  /** Decay of the mean square. */
  beta2: number;
  /** Added to the root of the mean square, before bias correction. */
  epsilon: number;
  /** Decoupled weight decay, on every parameter. */
  weightDecay: number;
  /** Largest global gradient norm; 0 switches clipping off. */
  clipNorm: number;
}

/** Name of the sum of gradient norms, and of the norm that the host gives. */
export const GRAD_NORM = "gradNorm";
/** Name of the number of the first update whose gradient was not finite. */
export const BAD_UPDATE = "badUpdate";
/** Larger numbers than this, infinity and NaN are not a gradient norm. */
export const LARGEST_NORM = 1e37;

/**
 * Forward and, in training, backward pass over a micro-batch.
 *
 * @param train `false`: of held-out text, without dropout and gradients
 *
 * @example
 * ```ts
 * import { microSpec } from "./programs.ts";
 * import { preset } from "../../models/mod.ts";
 * import { estimateProgram } from "../../ops/program/estimate.ts";
 * import { gpuTarget } from "../../ops/gpu/target.ts";
 * import { metroObjective } from "./objective.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective: config } = preset("tiny");
 * const objective = metroObjective(model, config, 1);
 * const spec = microSpec(model, objective, { rows: 2, length: 64 }, true);
 * const { largest } = estimateProgram(spec, gpuTarget);
 * assert.equal(largest.bytes, 1026 * 128 * 4); // a table of positions
 * ```
 */
export function microSpec(
  model: ModelConfig,
  objective: Objective,
  shape: BatchShape,
  train: boolean,
): ProgramSpec {
  const kind = train ? "train" : "heldout";
  const parameters = declareParameters(model, objective.parts);
  const { loss, sums } = objective.build(parameters, shape, train);
  const updates: [Tensor, Tensor][] = Object.entries(sums).map(([name, value]) => {
    const total = state(stateName("sum", `${kind}/${name}`), value.shape);
    return [total, add(total, value)];
  });
  if (train) {
    const shapes = parameterShapes(model, objective.parts);
    const names = [...shapes.keys()];
    const accumulators = names.map((name) => state(stateName("gradient", name), shapes.get(name)!));
    // keep = 0 in the first micro-batch of an update: it starts the gradients anew.
    const start = accumulators.map((g) => mul(g, runScalar("keep")));
    const grads = grad(loss, names.map((name) => parameters[name]), start);
    updates.push(...accumulators.map((g, i): [Tensor, Tensor] => [g, grads[i]]));
  }
  return { name: `${shape.rows}×${lengthsOf(shape).join("→")} ${kind}`, updates };
}

/**
 * AdamW over the parts of state memory that a device updates, by their numbers.
 *
 * @param parts bytes of each
 * @param grouped whether there are other devices, so that it is the host that knows the gradient's norm
 */
export function updateSpec(
  parts: readonly number[],
  { beta1, beta2, epsilon, weightDecay, clipNorm }: AdamWConfig,
  grouped: boolean,
): ProgramSpec {
  const slabs = parts.map((bytes, i) => {
    const of = (kind: MemoryKind) => state(stateName(kind, String(i)), [bytes / 4]);
    return { p: of("parameter"), g: of("gradient"), m: of("mean"), v: of("square") };
  });
  const norm = grouped ? runScalar(GRAD_NORM) : sqrt(addAll(slabs.map(({ g }) => sumSquares(g))));
  const finite = greater(scalar(LARGEST_NORM), norm);
  const ratio = div(scalar(clipNorm), add(norm, scalar(1e-6)));
  const clip = clipNorm > 0 ? where(greater(ratio, scalar(1)), scalar(1), ratio) : scalar(1);
  const updates = slabs.flatMap(({ p, g, m, v }): [Tensor, Tensor][] => {
    // Each value has one use, so that it is computed where it is used and never lies in memory.
    const gradient = () => clipNorm > 0 ? mul(g, clip) : g;
    // A gradient that is not finite changes nothing: the weights stay those of the last good update.
    const unless = (next: Tensor, old: Tensor) => where(finite, next, old);
    const mean = unless(add(scale(m, beta1), scale(gradient(), 1 - beta1)), m);
    const slope = gradient();
    const square = unless(add(scale(v, beta2), scale(mul(slope, slope), 1 - beta2)), v);
    // Decay first, then the step; epsilon is added before bias correction (`stepSize` holds it).
    const kept = sub(scalar(1), mul(runScalar("learningRate"), scalar(weightDecay)));
    const step = mul(runScalar("stepSize"), div(mean, add(sqrt(square), scalar(epsilon))));
    return [[m, mean], [v, square], [p, unless(sub(mul(p, kept), step), p)]];
  });
  const norms = state(stateName("sum", GRAD_NORM), []);
  const bad = state(stateName("sum", BAD_UPDATE), []);
  const first = where(greater(bad, scalar(0)), bad, runScalar("updateNumber"));
  updates.push([norms, add(norms, norm)], [bad, where(finite, bad, first)]);
  return { name: "update", updates };
}

/**
 * The metric sums of training and of evaluation as they lie in memory: names and shapes.
 *
 * @example
 * ```ts
 * import { sumTensors } from "./programs.ts";
 * import { preset } from "../../models/mod.ts";
 * import { seq2seqObjective } from "./objective.ts";
 * import assert from "node:assert/strict";
 *
 * const sums = sumTensors(seq2seqObjective(preset("tiny").model, 0));
 * assert.deepEqual(sums[0], ["train/clmNll", []]);
 * assert.deepEqual(sums.at(-1), ["badUpdate", []]);
 * ```
 */
export function sumTensors({ sums }: Objective): [string, readonly number[]][] {
  const named = (kind: string) =>
    Object.entries(sums).map(([name, shape]): [string, readonly number[]] => {
      return [`${kind}/${name}`, shape];
    });
  return [...named("train"), ...named("heldout"), [GRAD_NORM, []], [BAD_UPDATE, []]];
}

/**
 * The parameters in the order in which memory is laid out. Of several ranks it is that in which a backward
 * pass completes the gradients, so that buckets of neighbours are complete early.
 *
 * @param size ranks
 * @returns names and shapes
 *
 * @example
 * ```ts
 * import { memoryOrder } from "./programs.ts";
 * import { preset } from "../../models/mod.ts";
 * import { metroObjective } from "./objective.ts";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("tiny");
 * const names = memoryOrder(model, metroObjective(model, objective, 1), 2).map(([name]) => name);
 * assert.equal(names.at(-1), "embed.tokens"); // the first to be used
 * ```
 */
export function memoryOrder(
  model: ModelConfig,
  objective: Objective,
  size: number,
): [string, readonly number[]][] {
  const shapes = parameterShapes(model, objective.parts);
  if (size === 1) return [...shapes];
  const parameters = declareParameters(model, objective.parts);
  const names = [...shapes.keys()];
  // The order is that of the graph, whatever the shape.
  const { loss } = objective.build(parameters, { rows: 1, length: 8, target: 8 }, true);
  const grads = grad(loss, names.map((name) => parameters[name]));
  return names.map((name, i) => ({ name, id: grads[i].node.id }))
    .sort((a, b) => a.id - b.id)
    .map(({ name }) => [name, shapes.get(name)!]);
}

/** The padded lengths of a batch: of its sequences, or of its sources and targets. */
export function lengthsOf({ length, target }: BatchShape): number[] {
  return target === undefined ? [length] : [length, target];
}
