/**
 * The index of weights that are spread over several files, as the Hub has it
 * (`model.safetensors.index.json`, `pytorch_model.bin.index.json`).
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { isRecord, parseJsonObject, shown } from "./untrusted.ts";

/**
 * Reads an index: which file holds which tensor. Files are plain names of the index's own folder,
 * and of the right kind, so that an index can name neither another index nor itself.
 *
 * @param bytes the JSON
 * @param extension of every file, as `.safetensors`
 * @returns file names by tensor name
 * @throws {UserError} anything else in it; names the tensor
 *
 * @example
 * ```ts
 * import { parseShardIndex } from "./shard_index.ts";
 * import assert from "node:assert/strict";
 *
 * const index = (file: string) =>
 *   new TextEncoder().encode(JSON.stringify({ weight_map: { "shared.weight": file } }));
 * const files = parseShardIndex(index("model-1.safetensors"), ".safetensors");
 * assert.equal(files.get("shared.weight"), "model-1.safetensors");
 * assert.throws(() => parseShardIndex(index("../model-1.safetensors"), ".safetensors"), /plain name/);
 * ```
 */
export function parseShardIndex(bytes: Uint8Array, extension: string): Map<string, string> {
  const { weight_map: files } = parseJsonObject(bytes);
  if (!isRecord(files)) throw new UserError("weight_map: expected an object, got none");
  if (Object.keys(files).length === 0) {
    throw new UserError("weight_map: expected tensors with their files, got none");
  }
  for (const [tensor, file] of Object.entries(files)) {
    if (typeof file === "string" && isPlainName(file) && file.endsWith(extension)) continue;
    throw new UserError(
      `weight_map: ${shown(tensor)}: expected the plain name of a ${extension} file beside the ` +
        `index, got ${shown(file)}`,
    );
  }
  return new Map(Object.entries(files) as [string, string][]);
}

/** No folders, no drives, no hidden or special files, nothing that a file system would reinterpret. */
function isPlainName(file: string): boolean {
  return /^[A-Za-z0-9_][\w.+=@ -]{0,250}$/.test(file) && !file.includes("..");
}
