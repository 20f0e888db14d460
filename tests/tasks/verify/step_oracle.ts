/**
 * Writes folders in the format of `tasks/verify/step_folder.ts` with numbers that no kernel has touched: the
 * graph is evaluated in float64 on the host, and AdamW is written out here once more.
 */
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
  metroLogits,
  type ModelConfig,
  NONE,
  type ObjectiveConfig,
  parameterShapes,
  PARTS,
  prepareMetroBatch,
  preset,
  SPECIAL,
  transpose,
} from "../../../models/mod.ts";
import { evaluate, grad, key, Random, type Tensor } from "../../../ops/mod.ts";
import { writeTensors } from "../../../tasks/checkpoints/tensors.ts";

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
  const sums = Object.keys(graph.sums) as (keyof typeof graph.sums)[];
  const outputs = [graph.loss, graph.noise, ...sums.map((name) => graph.sums[name])];
  const gradients = grad(graph.loss, names.map((name) => parameters[name]));

  const before = weightsOf(model, spec.spread ?? 0.2);
  const weights = mapped(before, (x) => x.slice());
  const mean = mapped(before, (x) => new Float64Array(x.length));
  const square = mapped(before, (x) => new Float64Array(x.length));
  const steps = [], noises: Uint32Array[] = [];
  let first: Vectors = {};
  for (let t = 1; t <= UPDATES; t++) {
    const values = evaluate([...outputs, ...gradients], {
      values: { ...weights, ...inputs },
      run: { key: t, scalars: lossScalars(objective, counts, counts) },
    });
    const noise = values[1] as Uint32Array;
    const sum = Object.fromEntries(sums.map((name, i) => [name, values[2 + i][0]]));
    const g = Object.fromEntries(
      names.map((name, i) => [name, values[outputs.length + i] as Float64Array]),
    );
    if (t === 1) first = g;
    noises.push(noise);
    const norm = Math.sqrt(Object.values(g).flatMap((x) => [...x]).reduce((s, x) => s + x * x, 0));
    const { maskedPositionsOnly: only } = objective;
    const size = only === "none" ? counts.tokens : counts.selected;
    steps.push({
      noise: grid(noise, length),
      loss: values[0][0],
      mlm: sum.mlmNll / counts.selected,
      clm: sum.clmLoss / size,
      sample_size: size,
      grad_norm: norm,
      replaced_total: sum.clmReplaced,
      clm_replaced_correct: sum.clmReplacedCorrect,
      mlm_correct: sum.mlmCorrect,
      ...(model.rtdHead !== "none" && {
        rtd: sum.rtdLoss / (only === "both" ? counts.selected : counts.tokens),
        rtd_replaced_correct: sum.rtdReplacedPredicted,
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

  const given = metroInputs(objective, rows, length, { givenNoise: true });
  const heads: Record<string, Tensor> = Object.fromEntries(
    Object.entries(metroLogits(parameters, model, given, given.noise!, objective)),
  );
  const logits = evaluate(Object.values(heads), {
    values: { ...before, ...inputs, noise: noises[0] },
  });
  const shapes: Record<string, number[]> = {
    mlm: [counts.selected, model.vocabSize],
    clm: [rows, length, model.vocabSize],
    rtd: [rows, length],
  };
  const filled = Array.from(inputs.positions.keys()).filter((i) => inputs.positions[i] !== NONE);
  const found = Object.fromEntries(
    Object.keys(heads).map((head, i) => {
      const all = Float32Array.from(logits[i]);
      const row = (r: number) => [...all.subarray(r * model.vocabSize, (r + 1) * model.vocabSize)];
      return [`${head}_logits`, head === "mlm" ? Float32Array.from(filled.flatMap(row)) : all];
    }),
  );
  const specs = Object.keys(heads).map((head) => ({ name: `${head}_logits`, shape: shapes[head] }));
  await writeTensors(join(folder, "logits.safetensors"), specs, (name) => found[name], {});
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
