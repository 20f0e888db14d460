/**
 * Reads the golden numbers: one training step of the reference implementation, and checkpoints in the
 * released layout. They lie beside the repository, so tests that need them are skipped elsewhere.
 */
import { foreignNames, ourNames, transpose } from "../../models/names.ts";
import type { ModelConfig, ObjectiveConfig } from "../../models/config.ts";
import { PARTS } from "../../models/parameters.ts";
import { preset } from "../../models/presets.ts";
import { decodeFloats, parseHeader } from "../../models/safetensors.ts";

const FOLDER = new URL("../../../shared/golden/", import.meta.url);

/** Whether the golden files are there. */
export const hasGolden = exists(FOLDER);

/** A tensor of a file. */
export interface GoldenTensor {
  shape: readonly number[];
  values: Float32Array;
}

/** A file of `golden/`, as JSON. */
export function goldenJson<T>(path: string): T {
  return JSON.parse(Deno.readTextFileSync(new URL(path, FOLDER)));
}

/** A safetensors file of `golden/`. */
export function goldenTensors(path: string): Map<string, GoldenTensor> {
  const bytes = Deno.readFileSync(new URL(path, FOLDER));
  const { tensors } = parseHeader(bytes, bytes.length);
  return new Map(Array.from(tensors, ([name, { dtype, shape, offset, bytes: size }]) => {
    return [name, { shape, values: decodeFloats(dtype, bytes.slice(offset, offset + size)) }];
  }));
}

/** One step of the reference. */
export interface GoldenStep {
  config: Record<string, number> & Pick<ModelConfig, "share"> & { rtd_head: "roberta" };
  objective: {
    masked_positions_only: ObjectiveConfig["maskedPositionsOnly"];
    weighted_lm_loss: boolean;
    mlm_weight: number;
    rtd_weight: number;
    clm_weight: number;
  };
  batch: Record<"tokens" | "selected" | "aux_input" | "decoder_input", number[][]>;
  steps: {
    noise: number[][];
    mlm: number;
    clm: number;
    rtd: number;
    loss: number;
    sample_size: number;
    replaced_total: number;
    rtd_replaced_correct: number;
    clm_replaced_correct: number;
    mlm_correct: number;
  }[];
}

/** A step's configuration, in our terms. */
export function goldenConfig({ config, objective }: GoldenStep) {
  const model: ModelConfig = {
    ...preset("base").model,
    vocabSize: config.vocab_size,
    sentinels: config.sentinels,
    dModel: config.d_model,
    heads: config.num_heads,
    dFf: config.d_ff,
    encoderLayers: config.encoder_layers,
    decoderLayers: config.decoder_layers,
    auxLayers: config.aux_layers,
    relativeBuckets: config.relative_buckets,
    relativeMaxDistance: config.relative_max_distance,
    maxPositions: config.max_positions,
    positionRows: 1026,
    share: config.share,
    rtdHead: config.rtd_head,
    dropout: config.dropout,
    layerNormEps: config.layer_norm_eps,
  };
  return {
    model,
    objective: {
      ...preset("base").objective,
      // Room for any number of selected positions: the golden masks are not of the usual length.
      maskProbability: 0.5,
      maskedPositionsOnly: objective.masked_positions_only,
      weightedLmLoss: objective.weighted_lm_loss,
      mlmWeight: objective.mlm_weight,
      rtdWeight: objective.rtd_weight,
      clmWeight: objective.clm_weight,
    },
  };
}

/** The configuration of a checkpoint in the released layout, in our terms. */
export function releasedConfig(config: Record<string, number>): ModelConfig {
  return {
    ...preset("base", "release").model,
    vocabSize: config.vocab_size,
    dModel: config.d_model,
    heads: config.num_heads,
    dFf: config.d_ff,
    encoderLayers: config.num_layers,
    decoderLayers: config.num_decoder_layers,
    auxLayers: 0,
    relativeBuckets: config.relative_attention_num_buckets,
    relativeMaxDistance: config.relative_attention_max_distance,
    maxPositions: config.max_positions,
    layerNormEps: config.layer_norm_epsilon,
  };
}

/** Weights or gradients under reference names, as ours. */
export function fromReference(
  config: ModelConfig,
  tensors: Map<string, GoldenTensor>,
): Record<string, Float32Array> {
  const names = ourNames(config, "reference", PARTS);
  const foreign = foreignNames(config, "reference", PARTS);
  const values: Record<string, Float32Array> = {};
  for (const [name, tensor] of tensors) {
    const ours = names.get(name)!;
    const [rows, columns] = tensor.shape;
    values[ours] = foreign.get(ours)!.transposed
      ? transpose(tensor.values, rows, columns)
      : tensor.values;
  }
  return values;
}

function exists(path: URL): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
