/**
 * Reads the golden numbers: training steps of the reference implementation, and checkpoints in the
 * released layout. They lie beside the repository, so tests that need them are skipped elsewhere.
 */
import { fileURLToPath } from "node:url";
import type { ModelConfig } from "../../models/config.ts";
import { modelFromHubConfig } from "../../models/hub_config.ts";
import { foreignNames, transpose } from "../../models/names.ts";
import { decodeFloats, parseHeader } from "../../models/formats/safetensors.ts";

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

/** The configuration of a checkpoint as models on the Hub carry it, in our terms. */
export function releasedConfig(config: Record<string, unknown>): ModelConfig {
  return modelFromHubConfig(config);
}

/** A checkpoint of `golden/` as models on the Hub are: its model, and its weights by our names. */
export function goldenModel(
  folder: string,
): { config: ModelConfig; weights: Record<string, Float32Array> } {
  const config = releasedConfig(goldenJson(`${folder}/config.json`));
  const tensors = goldenTensors(`${folder}/model.safetensors`);
  const names = foreignNames(config, "release", ["main"]);
  const weights = Object.fromEntries(
    Array.from(names, ([ours, { name, shape: [rows, columns], transposed }]) => {
      const { values } = tensors.get(name)!;
      return [ours, transposed ? transpose(values, rows, columns) : values];
    }),
  );
  return { config, weights };
}

function exists(path: URL): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}
