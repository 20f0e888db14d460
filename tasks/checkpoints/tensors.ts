/**
 * Tensors in a safetensors file with a checksum of each, written and read one at a time.
 *
 * @module
 */

import type { FileHandle } from "node:fs/promises";
import { crc32 } from "node:zlib";
import {
  decodeFloats,
  encodeHeader,
  type Header,
  headerSize,
  parseHeader,
} from "../../models/formats/safetensors.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { openRegular } from "../files/read.ts";
import { fileError, PIECE, replaceFile, writeAll } from "../files/write.ts";

/** Bytes that may wait for the disk, or the flush at the end would take long without a sign of life. */
const UNFLUSHED = 1 << 30;

/** A tensor file that is open for reading. */
export interface Tensors {
  /** Where it is, for messages. */
  readonly path: string;
  /** The tensors' names, in the order of the file: the fastest order to read them in. */
  readonly names: readonly string[];
  /** Free text by key, as it was given to {@link writeTensors}. */
  readonly metadata: Readonly<Record<string, string>>;
  /** The dimensions of a tensor. Throws a `UserError` when the file has none of this name. */
  shape(name: string): readonly number[];
  /** The values of a tensor; F16 and BF16 are widened. Throws a `UserError` on damage. */
  read(name: string): Promise<Float32Array>;
  /** Closes the file. */
  close(): Promise<void>;
}

/**
 * Writes a safetensors file of 32-bit floats, one tensor after the other, so that only one of them
 * need be in memory. Whole or not at all, like {@link writeFile}.
 *
 * @param specs names and shapes, in any order; the file's order does not depend on it
 * @param produce the values of a tensor; called once for each, in the order of `specs`
 * @param metadata free text by key ("crc32" is taken)
 * @throws {UserError} the disk is full or the folder cannot be written to; the old file is intact
 * @throws {Error} `produce` gave a wrong number of values
 *
 * @example
 * ```ts
 * import { openTensors, writeTensors } from "@metro/t0/tasks";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const run = await mkdtemp(tmpdir() + "/run-"), path = `${run}/model.safetensors`;
 * await writeTensors(path, [{ name: "bias", shape: [2] }], () => new Float32Array([1, 2]), {});
 * const tensors = await openTensors(path);
 * assert.deepEqual([...await tensors.read("bias")], [1, 2]);
 * await tensors.close();
 * await rm(run, { recursive: true });
 * ```
 */
export async function writeTensors(
  path: string,
  specs: readonly { name: string; shape: readonly number[] }[],
  produce: (name: string) => Promise<Float32Array> | Float32Array,
  metadata: Readonly<Record<string, string>>,
): Promise<void> {
  // The sums are known last but stand first: the header is written again, at the same length.
  const headerWith = (sums: readonly string[]) =>
    encodeHeader(specs, { ...metadata, crc32: sums.join(" ") });
  const { bytes, tensors } = headerWith(specs.map(() => "00000000"));

  await replaceFile(path, async (file) => {
    await writeAll(file, bytes, 0);
    const sums = new Map<string, string>();
    let unflushed = 0;
    for (const { name } of specs) {
      const entry = tensors.get(name)!;
      const { buffer, byteOffset, byteLength } = await produce(name);
      if (byteLength !== entry.bytes) {
        const got = `${byteLength / 4} values for shape [${entry.shape}]`;
        throw new Error(`writing tensor ${name}: got ${got}`);
      }
      const values = new Uint8Array(buffer, byteOffset, byteLength);
      sums.set(name, crc32(values).toString(16).padStart(8, "0"));
      await writeAll(file, values, entry.offset);
      unflushed += byteLength;
      if (unflushed < UNFLUSHED) continue;
      await file.datasync();
      unflushed = 0;
    }
    await writeAll(
      file,
      headerWith(Array.from(tensors.keys(), (name) => sums.get(name)!)).bytes,
      0,
    );
  });
}

/**
 * Opens a safetensors file, and checks its header against its size.
 *
 * @throws {UserError} it is missing, cut short, or no safetensors file
 *
 * @example
 * ```ts
 * import { openTensors } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * await assert.rejects(openTensors("no-such-run/model.safetensors"), /no such file/);
 * ```
 */
export async function openTensors(path: string): Promise<Tensors> {
  const file = await openRegular(path);
  try {
    const { size } = await file.stat();
    const start = await readPiece(file, 0, Math.min(8, size));
    const header = parseHeader(await readPiece(file, 0, headerSize(start, size)), size);
    return tensorsOf(path, file, header);
  } catch (error) {
    await file.close();
    throw error instanceof UserError
      ? damaged(path, error.message)
      : fileError(error, "reading", path);
  }
}

async function readPiece(
  file: FileHandle,
  position: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const { bytesRead } = await file.read(
      bytes,
      done,
      Math.min(PIECE, length - done),
      position + done,
    );
    if (bytesRead === 0) throw new UserError("cut short while it was being read");
    done += bytesRead;
  }
  return bytes;
}

function tensorsOf(path: string, file: FileHandle, { tensors, metadata: all }: Header): Tensors {
  const names = [...tensors.keys()];
  const { crc32: sumList, ...metadata } = all;
  const sums = sumList?.split(" ");
  const entryOf = (name: string) => {
    const entry = tensors.get(name);
    if (!entry) throw new UserError(`${path}: has no tensor ${name}; is it from another model?`);
    return entry;
  };
  return {
    path,
    names,
    metadata,
    shape: (name) => entryOf(name).shape,
    async read(name) {
      const { dtype, offset, bytes: length } = entryOf(name);
      try {
        const bytes = await readPiece(file, offset, length);
        if (sums && crc32(bytes) !== parseInt(sums[names.indexOf(name)], 16)) {
          throw new UserError(`the bytes of tensor ${name} have changed since they were written`);
        }
        return decodeFloats(dtype, bytes);
      } catch (error) {
        throw error instanceof UserError ? damaged(path, error.message) : error;
      }
    },
    close: () => file.close(),
  };
}

function damaged(path: string, what: string): UserError {
  return new UserError(
    `${path}: cannot be used: ${what}; put back a copy of the file, or start a new run`,
  );
}
