/**
 * Weights that other people wrote, as a folder of the Hub holds them: safetensors or PyTorch's own
 * format, in one file or in shards.
 *
 * Nothing in these files is trusted, and nothing in them is run: see `models/formats/safetensors.ts`,
 * `models/formats/torch_zip.ts` and `models/formats/pickle.ts`.
 *
 * @module
 */
import { type FileHandle, readdir } from "node:fs/promises";
import { extname, join } from "node:path";
import { crc32 } from "node:zlib";
import { type Dtype, headerSize, parseHeader } from "../../models/formats/safetensors.ts";
import { parseShardIndex } from "../../models/formats/shard_index.ts";
import {
  type ByteSource,
  elementCount,
  readFloats,
  rowMajorStrides,
  type SealedBytes,
  type StoredTensor,
  type WritePart,
} from "../../models/formats/stored.ts";
import { readTorchZip } from "../../models/formats/torch_zip.ts";
import { MAX_JSON_BYTES, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { openRegular } from "./read.ts";

/** Weights, open for reading. */
export interface Weights {
  /** The files that hold them. */
  readonly files: readonly string[];
  /** Every tensor by name, tied ones under each of their names. */
  readonly tensors: ReadonlyMap<
    string,
    { readonly shape: readonly number[]; readonly dtype: Dtype }
  >;
  /** The other names of the very same values, as the file says; safetensors files have none. */
  aliases(name: string): string[];
  /** The values in row-major order, as 32-bit floats. Throws a `UserError` unless they are floats. */
  read(name: string): Promise<Float32Array>;
  /**
   * The values in parts of at most 16 MiB, in order; `transposed` exchanges the dimensions of a matrix.
   * At most one tensor is in memory, and none whole that lies in the file as it is wanted.
   */
  readInto(name: string, write: WritePart, options?: { transposed?: boolean }): Promise<void>;
  /** Closes the files. */
  close(): Promise<void>;
}

/** A tensor and the file it is in. */
interface Located extends StoredTensor {
  readonly file: WeightFile;
}

interface LocatedWeights extends Weights {
  readonly tensors: ReadonlyMap<string, Located>;
}

/** Files that a folder may have its weights in, or their shards and index, the preferred one first. */
export const WEIGHT_FILES = ["model.safetensors", "pytorch_model.bin"] as const;
/** One of {@link WEIGHT_FILES}. */
export type WeightFileName = typeof WEIGHT_FILES[number];

const READERS: Readonly<
  Record<WeightFileName, (source: ByteSource) => Promise<Map<string, StoredTensor>>>
> = { "model.safetensors": readSafetensors, "pytorch_model.bin": readTorchZip };

/** Larger reads do not fit the system calls' 32-bit counts. */
const PIECE = 1 << 26;

/**
 * Opens the weights of a folder. Looks for each of some files, and for its index (`.index.json`).
 *
 * @param accepted the files to look for, in this order
 * @returns the weights; close them
 * @throws {UserError} there are none, or a file is damaged, malicious or not of the format; names it
 *
 * @example
 * ```ts
 * import { openWeights } from "./weights.ts";
 * import { writeTensors } from "../checkpoints/tensors.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(tmpdir() + "/weights-");
 * const values = Float32Array.of(1, 2, 3, 4, 5, 6);
 * await writeTensors(`${folder}/model.safetensors`, [{ name: "w", shape: [2, 3] }], () => values, {});
 *
 * const weights = await openWeights(folder);
 * assert.deepEqual(weights.tensors.get("w")?.shape, [2, 3]);
 * assert.deepEqual(await weights.read("w"), values);
 * const there: number[] = [];
 * await weights.readInto("w", (part) => void there.push(...part), { transposed: true });
 * assert.deepEqual(there, [1, 4, 2, 5, 3, 6]);
 * await weights.close();
 * await rm(folder, { recursive: true });
 * ```
 */
export async function openWeights(
  folder: string,
  accepted: readonly WeightFileName[] = WEIGHT_FILES,
): Promise<Weights> {
  const names = new Set(await inFile(folder, () => onDisk(() => readdir(folder))));
  const found = findWeights(names, accepted);
  if (!found) {
    const looked = candidates(accepted).map(({ file }) => file).join(", ");
    throw new UserError(`${folder}: expected weights (${looked}), found none of these`);
  }
  const { format, file } = found;
  return file === format
    ? await openFiles(folder, format, [file])
    : await openShards(folder, format, file, names);
}

/**
 * Where weights are among some files: in one of {@link WEIGHT_FILES}, or in shards that an index names.
 *
 * @param accepted the formats to look for, in this order
 * @returns the format, and the file or index; nothing if there are none
 *
 * @example
 * ```ts
 * import { findWeights } from "./weights.ts";
 * import assert from "node:assert/strict";
 *
 * const names = new Set(["pytorch_model.bin", "model.safetensors.index.json"]);
 * assert.equal(findWeights(names)?.file, "model.safetensors.index.json");
 * ```
 */
export function findWeights(
  names: ReadonlySet<string>,
  accepted: readonly WeightFileName[] = WEIGHT_FILES,
): { format: WeightFileName; file: string } | undefined {
  return candidates(accepted).find(({ file }) => names.has(file));
}

function candidates(accepted: readonly WeightFileName[]) {
  return accepted.flatMap((format) => [
    { format, file: format },
    { format, file: `${format}.index.json` },
  ]);
}

async function openShards(
  folder: string,
  format: WeightFileName,
  index: string,
  present: ReadonlySet<string>,
): Promise<LocatedWeights> {
  const path = join(folder, index);
  const shards = await readShardIndex(path, format);
  const names = [...new Set(shards.values())];
  const missing = names.find((name) => !present.has(name));
  if (missing !== undefined) throw new UserError(`${path}: its shard ${missing} is missing`);
  const weights = await openFiles(folder, format, names);
  for (const [name, shard] of shards) {
    if (weights.tensors.get(name)?.file.path === join(folder, shard)) continue;
    await weights.close();
    throw new UserError(`${path}: tensor ${shown(name)} is not in ${shard}, which should have it`);
  }
  return weights;
}

/**
 * Reads the index of weights in shards.
 *
 * @param format which files the shards are like
 * @returns the shard of each tensor: the plain name of a file beside the index
 * @throws {UserError} the index is missing, damaged, or names anything else
 */
export async function readShardIndex(
  path: string,
  format: WeightFileName,
): Promise<Map<string, string>> {
  const file = await WeightFile.open(path);
  try {
    return await inFile(path, async () => {
      if (file.size > MAX_JSON_BYTES) {
        throw new UserError(`expected at most ${MAX_JSON_BYTES} bytes, got ${file.size}`);
      }
      return parseShardIndex(await file.read(0, file.size), extname(format));
    });
  } finally {
    await file.close();
  }
}

async function openFiles(
  folder: string,
  format: WeightFileName,
  names: readonly string[],
): Promise<LocatedWeights> {
  const files: WeightFile[] = [];
  const tensors = new Map<string, Located>();
  try {
    for (const name of names) {
      const file = await WeightFile.open(join(folder, name));
      files.push(file);
      for (const [name, tensor] of await inFile(file.path, () => READERS[format](file))) {
        const other = tensors.get(name)?.file.path;
        if (other) throw new UserError(`${file.path}: tensor ${shown(name)} is in ${other}, too`);
        tensors.set(name, { ...tensor, file });
      }
    }
    return weightsOf(folder, files, tensors);
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
}

function weightsOf(
  folder: string,
  files: readonly WeightFile[],
  tensors: ReadonlyMap<string, Located>,
): LocatedWeights {
  const place = ({ file, dtype, offset, shape, strides }: Located) =>
    [file.path, dtype, offset, shape, strides].join(";");
  const byPlace = Map.groupBy(tensors.keys(), (name) => place(tensors.get(name)!));
  const locate = (name: string) => {
    const tensor = tensors.get(name);
    if (tensor) return tensor;
    throw new UserError(`${folder}: has no tensor ${shown(name)}; is it from another model?`);
  };
  const readInto: Weights["readInto"] = async (name, write, { transposed = false } = {}) => {
    const tensor = locate(name), where = `${tensor.file.path}: tensor ${shown(name)}`;
    await inFile(where, async () => {
      for (const sealed of tensor.sealed ?? []) await tensor.file.expectSum(sealed);
      await readFloats(tensor.file, tensor, write, transposed);
    });
  };
  return {
    files: files.map(({ path }) => path),
    tensors,
    aliases: (name) => byPlace.get(place(locate(name)))!.filter((other) => other !== name),
    readInto,
    async read(name) {
      const values = new Float32Array(elementCount(locate(name).shape));
      await readInto(name, (part, first) => values.set(part, first));
      return values;
    },
    async close() {
      for (const file of files) await file.close();
    },
  };
}

async function readSafetensors(source: ByteSource): Promise<Map<string, StoredTensor>> {
  const start = await source.read(0, Math.min(8, source.size));
  const header = await source.read(0, headerSize(start, source.size));
  const { tensors } = parseHeader(header, source.size);
  return new Map(Array.from(tensors, ([name, { dtype, shape, offset }]) => {
    return [name, { dtype, shape, offset, strides: rowMajorStrides(shape) }];
  }));
}

/** A file, read where it is asked for. */
class WeightFile implements ByteSource {
  readonly #handle: FileHandle;
  /** Places whose checksums are right. */
  readonly #sound = new Set<number>();

  private constructor(readonly path: string, readonly size: number, handle: FileHandle) {
    this.#handle = handle;
  }

  static async open(path: string): Promise<WeightFile> {
    const handle = await openRegular(path);
    return new WeightFile(path, (await handle.stat()).size, handle);
  }

  async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    for (let done = 0; done < length;) {
      const some = Math.min(PIECE, length - done);
      const { bytesRead } = await onDisk(() => this.#handle.read(bytes, done, some, offset + done));
      if (bytesRead === 0) throw new UserError("cut short while it was being read");
      done += bytesRead;
    }
    return bytes;
  }

  /** Throws a `UserError` unless bytes are those that were written. Reads them once. */
  async expectSum({ offset, bytes, crc32: expected }: SealedBytes): Promise<void> {
    if (this.#sound.has(offset)) return;
    let sum = 0;
    for (let done = 0; done < bytes; done += PIECE) {
      sum = crc32(await this.read(offset + done, Math.min(PIECE, bytes - done)), sum);
    }
    if (sum !== expected) {
      throw new UserError(
        "its bytes are not those that were written, by their checksum; put back a copy of the file, or load " +
          "it with PyTorch and save it again",
      );
    }
    this.#sound.add(offset);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** Says which file an error is about. */
async function inFile<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof UserError ? new UserError(`${path}: ${error.message}`) : error;
  }
}

/** What the file system refuses is the user's to mend. */
async function onDisk<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === undefined) throw error;
    const missing = code === "ENOENT" || code === "ENOTDIR";
    throw new UserError(
      missing ? "no such file or folder; check the path" : `unreadable (${code})`,
    );
  }
}
