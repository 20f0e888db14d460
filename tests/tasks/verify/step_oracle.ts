/**
 * Writes folders in the format of `tasks/verify/step_folder.ts` with numbers that no kernel has touched: losses,
 * counts and logits are those of `metro_by_hand.ts`, and AdamW is written out here once more. The graph, in
 * float64 on the host, gives noise and gradients; a gradient that is not the slope of the loss is refused.
 */
import assert from "node:assert/strict";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  declareParameters,
  foreignNames,
  initialize,
  lossScalars,
  maskId,
  metro,
  metroInputs,
  type ModelConfig,
  type ObjectiveConfig,
  parameterShapes,
  prepareMetroBatch,
  preset,
} from "../../../models/mod.ts";
import { NONE } from "../../../models/metro_batch.ts";
import { PARTS } from "../../../models/parameters.ts";
import { SPECIAL } from "../../../models/config.ts";
import { transpose } from "../../../models/names.ts";
import { grad, interpret } from "../../../ops/mod.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import {
  countsByHand,
  type HandLogits,
  type HandWeights,
  isSlope,
  logitsByHand,
  lossesByHand,
  sequencesOf,
} from "../../models/metro_by_hand.ts";

/** What to write. */
export interface OracleSpec {
  /** Changes to a small model. */
  model?: Partial<ModelConfig>;
  /** Changes to the METRO objective. */
  objective?: Partial<ObjectiveConfig>;
  /** Changes to the optimizer, as in `step.json`. */
  optimizer?: Partial<typeof OPTIMIZER>;
  /** Lengths of the sequences; the longest is the length of the batch. */
  lengths: readonly number[];
  /** Standard deviation of what is added to the initial weights; 0.2 makes every path matter. */
  spread?: number;
}

const OPTIMIZER = {
  name: "adamw",
  lr: 1e-3,
  beta1: 0.9,
  beta2: 0.98,
  eps: 1e-6,
  weight_decay: 0.01,
  clip_norm: 0,
};
const UPDATES = 2;

type Vectors = Record<string, Float64Array>;

/** Writes a folder; returns the model and objective that it is of. */
export async function writeOracle(folder: string, spec: OracleSpec) {
  const model: ModelConfig = {
    ...preset("tiny").model,
    clmHead: "linear",
    ...{ vocabSize: 101, sentinels: 20, dModel: 24, heads: 3, dFf: 40 },
    ...{ encoderLayers: 1, decoderLayers: 1, auxLayers: 1, maxPositions: 30, positionRows: 35 },
    ...{ relativeBuckets: 8, relativeMaxDistance: 12, dropout: 0, auxDropout: 0 },
    ...spec.model,
  };
  const objective: ObjectiveConfig = {
    ...preset("tiny").objective,
    maskProbability: 0.3,
    ...spec.objective,
  };
  const optimizer = { ...OPTIMIZER, ...spec.optimizer };
  const { inputs, counts } = prepareMetroBatch(model, objective, randomTokens(model, spec), 5);
  const rows = spec.lengths.length, length = inputs.tokens.length / rows;

  const parameters = declareParameters(model), names = Object.keys(parameters);
  const graph = metro(parameters, model, objective, metroInputs(objective, rows, length));
  const gradients = grad(graph.loss, names.map((name) => parameters[name]));

  const before = weightsOf(model, spec.spread ?? 0.2);
  const weights = mapped(before, (x) => x.slice());
  const mean = mapped(before, (x) => new Float64Array(x.length));
  const square = mapped(before, (x) => new Float64Array(x.length));
  const steps = [];
  let first: Vectors = {}, logits: Record<string, Float32Array> = {};
  for (let t = 1; t <= UPDATES; t++) {
    const [sampled, ...found] = interpret([graph.noise, ...gradients], {
      values: { ...weights, ...inputs },
      run: { key: t, scalars: lossScalars(objective, counts, counts) },
    });
    const noise = sampled as Uint32Array;
    const g = Object.fromEntries(names.map((name, i) => [name, found[i] as Float64Array]));
    const sequences = sequencesOf({ ...inputs, noise }, length);
    const read = (w: HandWeights) =>
      sequences.map((sequence) => logitsByHand(w, model, sequence, objective.rtdLocation));
    const hand = read(weights), losses = lossesByHand(hand, sequences, objective);
    const count = countsByHand(hand, sequences);
    if (t === 1) {
      [first, logits] = [g, padded(hand, spec.lengths)];
      const loss = (w: HandWeights) => lossesByHand(read(w), sequences, objective, hand).total;
      expectSlope(loss, weights, g);
    }
    const norm = Math.sqrt(Object.values(g).flatMap((x) => [...x]).reduce((s, x) => s + x * x, 0));
    steps.push({
      noise: grid(noise, length),
      loss: losses.total,
      mlm: losses.mlm,
      clm: losses.clm,
      sample_size: objective.maskedPositionsOnly === "none" ? counts.tokens : counts.selected,
      grad_norm: norm,
      replaced_total: count.replaced,
      clm_replaced_correct: count.replacedCorrect,
      mlm_correct: count.mlmCorrect,
      ...(model.rtdHead !== "none" && {
        rtd: losses.rtd,
        rtd_replaced_correct: count.replacedFound,
      }),
    });
    adamW(optimizer, t, norm, { weights, mean, square, gradients: g });
  }

  await mkdir(folder, { recursive: true });
  const step = {
    config: configOf(model),
    objective: objectiveOf(objective),
    optimizer: { ...optimizer, note: "anything" },
    batch: {
      tokens: grid(inputs.tokens, length),
      selected: grid(inputs.inverse.map((slot) => slot === NONE ? 0 : 1), length),
      aux_input: grid(inputs.auxTokens, length),
      decoder_input: grid(inputs.decoderTokens, length),
    },
    steps,
  };
  await writeFile(join(folder, "step.json"), JSON.stringify(step));
  const save = (file: string, vectors: Vectors) =>
    saveParameters(join(folder, file), model, vectors);
  await save("params_before.safetensors", before);
  await save("params_after.safetensors", weights);
  await save("grads.safetensors", first);

  const shapes: Record<string, number[]> = {
    mlm_logits: [counts.selected, model.vocabSize],
    clm_logits: [rows, length, model.vocabSize],
    rtd_logits: [rows, length],
  };
  const specs = Object.keys(logits).map((name) => ({ name, shape: shapes[name] }));
  await writeTensors(join(folder, "logits.safetensors"), specs, (name) => logits[name], {});
}

/** The logits of all sequences as a folder holds them: 0 at pads, where nothing is compared. */
function padded(hand: readonly HandLogits[], lengths: readonly number[]) {
  const vocab = hand[0].clm[0].length, longest = Math.max(...lengths);
  const rowOf = (
    row: number[],
    columns: number,
  ) => [...row, ...new Array<number>(columns - row.length).fill(0)];
  const logits: Record<string, number[]> = {
    mlm_logits: hand.flatMap(({ mlm }) => mlm.flat()),
    clm_logits: hand.flatMap(({ clm }) => rowOf(clm.flat(), longest * vocab)),
  };
  if (hand[0].rtd) logits.rtd_logits = hand.flatMap(({ rtd }) => rowOf(rtd!, longest));
  return Object.fromEntries(
    Object.entries(logits).map(([name, values]) => [name, Float32Array.from(values)]),
  );
}

/** Compares gradients with finite differences of the loss by hand, along a random direction. */
function expectSlope(
  loss: (weights: HandWeights) => number,
  weights: Vectors,
  gradients: Vectors,
): void {
  const random = new Random(17);
  const direction = mapped(gradients, (g) => g.map(() => 0.1 * random.normal()));
  const slope = Object.entries(gradients).reduce((sum, [name, g]) => {
    return g.reduce((sum, x, i) => sum + x * direction[name][i], sum);
  }, 0);
  assert.ok(isSlope(loss, weights, direction, slope), `${slope} is not the slope of the loss`);
}

/** Clipping, then decay, then the step; epsilon before bias correction. */
function adamW(
  { lr, beta1, beta2, eps, weight_decay, clip_norm }: typeof OPTIMIZER,
  t: number,
  norm: number,
  { weights, mean, square, gradients }: Record<
    "weights" | "mean" | "square" | "gradients",
    Vectors
  >,
): void {
  const clip = clip_norm > 0 ? Math.min(1, clip_norm / (norm + 1e-6)) : 1;
  const correction = Math.sqrt(1 - beta2 ** t) / (1 - beta1 ** t);
  for (const [name, w] of Object.entries(weights)) {
    const m = mean[name], v = square[name];
    for (let i = 0; i < w.length; i++) {
      const g = clip * gradients[name][i];
      m[i] = beta1 * m[i] + (1 - beta1) * g;
      v[i] = beta2 * v[i] + (1 - beta2) * g * g;
      w[i] = w[i] - lr * weight_decay * w[i] - lr * correction * m[i] / (Math.sqrt(v[i]) + eps);
    }
  }
}

function randomTokens({ vocabSize, sentinels }: ModelConfig, { lengths }: OracleSpec) {
  const length = Math.max(...lengths), random = new Random(11);
  const tokens = new Uint32Array(lengths.length * length).fill(SPECIAL.pad);
  for (const [row, used] of lengths.entries()) {
    const ids = Array.from({ length: used }, () => 4 + random.below(vocabSize - sentinels - 4));
    tokens.set([SPECIAL.bos, ...ids.slice(2), SPECIAL.eos], row * length);
  }
  return { tokens, length, sequences: lengths.map((_, row) => [0, row] as const) };
}

/** Rounded to float32, since that is what the folder will hold. */
function weightsOf(model: ModelConfig, spread: number): Vectors {
  return Object.fromEntries(Array.from(parameterShapes(model), ([name]) => {
    const random = new Random(key(9, ...new TextEncoder().encode(name)));
    const values = initialize(model, 3)(name).map((x) => x + spread * random.normal());
    return [name, Float64Array.from(values)];
  }));
}

async function saveParameters(path: string, model: ModelConfig, vectors: Vectors): Promise<void> {
  const foreign = foreignNames(model, "reference", PARTS);
  const byName = new Map(Array.from(foreign, ([our, there]) => [there.name, { our, ...there }]));
  await writeTensors(path, [...foreign.values()], (name) => {
    const { our, shape, transposed } = byName.get(name)!;
    const values = Float32Array.from(vectors[our]);
    return transposed ? transpose(values, shape[1], shape[0]) : values;
  }, {});
}

function configOf(model: ModelConfig) {
  return {
    ...SPECIAL,
    mask: maskId(model),
    vocab_size: model.vocabSize,
    sentinels: model.sentinels,
    d_model: model.dModel,
    num_heads: model.heads,
    d_ff: model.dFf,
    encoder_layers: model.encoderLayers,
    decoder_layers: model.decoderLayers,
    aux_layers: model.auxLayers,
    relative_buckets: model.relativeBuckets,
    relative_max_distance: model.relativeMaxDistance,
    max_positions: model.maxPositions,
    share: model.share,
    rtd_head: model.rtdHead,
    mlm_head: model.mlmHead,
    clm_head: model.clmHead,
    layer_norm_eps: model.layerNormEps,
    dropout: 0,
  };
}

function objectiveOf(objective: ObjectiveConfig) {
  return {
    masked_positions_only: objective.maskedPositionsOnly,
    weighted_lm_loss: objective.weightedLmLoss,
    divide_by_mean_weight: objective.divideByMeanWeight,
    label_smoothing: objective.labelSmoothing,
    copy_mechanism: objective.copyMechanism,
    rtd_location: objective.rtdLocation,
    mlm_weight: objective.mlmWeight,
    rtd_weight: objective.rtdWeight,
    clm_weight: objective.clmWeight,
  };
}

function grid(values: Uint32Array, length: number): number[][] {
  const rows = Array.from({ length: values.length / length }, (_, i) => i * length);
  return rows.map((start) => [...values.subarray(start, start + length)]);
}

function mapped(vectors: Vectors, change: (x: Float64Array) => Float64Array): Vectors {
  return Object.fromEntries(Object.entries(vectors).map(([name, x]) => [name, change(x)]));
}
