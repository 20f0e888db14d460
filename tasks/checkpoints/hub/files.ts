/**
 * Which files of a repository make a model that can be loaded. Code is never among them, and of two
 * copies of the weights only one.
 *
 * @module
 */

import { join } from "node:path";
import { shown } from "../../../models/formats/untrusted.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { MAX_WHOLE_FILE } from "../../files/read.ts";
import { findWeights, readShardIndex } from "../../files/weights.ts";

/** Config and tokenizer, as far as a repository has them. */
const SMALL_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "spiece.model",
  "sp.model",
  "dict.txt",
] as const;

/** None of them is longer. Bytes. */
const MAX_SMALL_FILE = MAX_WHOLE_FILE;

/**
 * Asserts that no file but the weights is announced with a size that nobody could read.
 *
 * @throws {UserError} naming the file
 */
export function checkSizes(model: string, files: readonly { name: string; size: number }[]): void {
  const small: readonly string[] = SMALL_FILES;
  for (const { name, size } of files) {
    const isSmall = small.includes(name) || name.endsWith(".index.json");
    if (!isSmall || size <= MAX_SMALL_FILE) continue;
    throw new UserError(
      `${model}: ${name}: expected at most ${MAX_SMALL_FILE} bytes, the repository announces ${size}`,
    );
  }
}

/** Files of which any one line is enough to tokenise. */
const TOKENIZERS = [["tokenizer.json"], ["spiece.model"], ["sp.model", "dict.txt"]] as const;

/** The small files that there are, and then the weights or their index. */
export function modelFiles(names: ReadonlySet<string>): string[] {
  const weights = findWeights(names);
  return [...SMALL_FILES.filter((name) => names.has(name)), ...(weights ? [weights.file] : [])];
}

/** What a model still lacks with these files, in words; nothing if it lacks nothing. */
export function missingPart(names: ReadonlySet<string>): string | undefined {
  if (!names.has("config.json")) return "config.json";
  if (!findWeights(names)) return "weights (model.safetensors or pytorch_model.bin)";
  if (!TOKENIZERS.some((line) => line.every((name) => names.has(name)))) {
    return "tokenizer (tokenizer.json, spiece.model, or sp.model with dict.txt)";
  }
}

/**
 * The parts of the weights that an index names; none if the weights are one file.
 *
 * @param folder where the index already is
 * @param names files that there are; a part must be one of them, so that no index leads elsewhere
 * @throws {UserError} if the index is damaged, or names something else
 */
export async function shardsOf(folder: string, names: ReadonlySet<string>): Promise<string[]> {
  const weights = findWeights(names);
  if (!weights || weights.file === weights.format) return [];
  const path = join(folder, weights.file);
  const shards = [...new Set((await readShardIndex(path, weights.format)).values())];
  const stray = shards.find((name) => !names.has(name));
  if (stray !== undefined) {
    throw new UserError(
      `${path}: names ${shown(stray)}, which is not in the repository`,
    );
  }
  return shards;
}
