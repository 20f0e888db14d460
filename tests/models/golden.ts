/**
 * Reads the golden numbers: training steps of the reference implementation, and checkpoints in the
 * released layout. They lie beside the repository, so tests that need them are skipped elsewhere.
 */
import { fileURLToPath } from "node:url";
import type { ModelConfig } from "../../models/config.ts";
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

/** A file or folder of `golden/`, as a path. */
export function goldenPath(path: string): string {
  return fileURLToPath(new URL(path, FOLDER));
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

function exists(path: URL): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
