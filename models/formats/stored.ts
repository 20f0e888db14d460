/**
 * Tensors as they lie in files: where the first element is, and how far apart the others are. They
 * are read piece by piece, so that a file of any size costs little memory.
 *
 * @module
 */
import { decodeFloats, type Dtype, DTYPE_BYTES } from "./safetensors.ts";

/** Random access to a file, or to bytes that stand for one. */
export interface ByteSource {
  /** Size of the whole in bytes. */
  readonly size: number;
  /** Exactly these bytes, in memory of their own; the range lies within the size. */
  read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** A tensor in a file. No two of its elements share a place. */
export interface StoredTensor {
  /** The element type. */
  readonly dtype: Dtype;
  /** The dimensions. */
  readonly shape: readonly number[];
  /** Elements from one index of each dimension to the next. */
  readonly strides: readonly number[];
  /** The first element's first byte, counted from the start of the file. */
  readonly offset: number;
  /** Bytes that it is a part of, and that say what it is, as far as the file has checksums of them. */
  readonly sealed?: readonly SealedBytes[];
}

/** Bytes of a file, and the checksum with which they were written. */
export interface SealedBytes {
  /** The first of them, counted from the start of the file. */
  readonly offset: number;
  /** How many. */
  readonly bytes: number;
  /** Their CRC-32. */
  readonly crc32: number;
}

/** Takes consecutive values in row-major order; `first` is the index of the first of them. */
export type WritePart = (part: Float32Array, first: number) => void | Promise<void>;

/** Elements read at a time: large enough for the disk, small enough for memory. */
const PIECE = 1 << 22;

/**
 * The strides of a tensor whose elements follow one another in row-major order.
 *
 * @example
 * ```ts
 * import { rowMajorStrides } from "./stored.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(rowMajorStrides([2, 3, 4]), [12, 4, 1]);
 * ```
 */
export function rowMajorStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length).fill(1);
  for (let d = shape.length - 2; d >= 0; d--) strides[d] = strides[d + 1] * shape[d + 1];
  return strides;
}

/** How many elements a shape has. */
export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

/**
 * Reads a tensor as 32-bit floats, in row-major order, in parts of at most 16 MiB.
 *
 * A tensor that lies in the order in which it is wanted streams through. One that does not (a strided
 * view, or any matrix that is wanted transposed) is read in the order of its bytes and scattered into
 * one array: the peak is that array and a piece.
 *
 * @param write called with the parts in order; awaited
 * @param transposed exchange the two dimensions of a matrix: [rows, columns] comes as [columns, rows]
 * @param piece elements read at a time
 * @throws {UserError} the elements are not floats
 *
 * @example
 * ```ts
 * import { readFloats } from "./stored.ts";
 * import assert from "node:assert/strict";
 *
 * const bytes = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);
 * const source = {
 *   size: bytes.length,
 *   read: (offset: number, length: number) => Promise.resolve(bytes.slice(offset, offset + length)),
 * };
 * const matrix = { dtype: "F32", shape: [2, 3], strides: [3, 1], offset: 0 } as const;
 * const values: number[] = [];
 * await readFloats(source, matrix, (part) => void values.push(...part), true);
 * assert.deepEqual(values, [1, 4, 2, 5, 3, 6]);
 * ```
 */
export async function readFloats(
  source: ByteSource,
  tensor: StoredTensor,
  write: WritePart,
  transposed = false,
  piece: number = PIECE,
): Promise<void> {
  const { dtype, shape, strides, offset } = tensor;
  const bytes = DTYPE_BYTES[dtype], count = elementCount(shape);
  const load = async (first: number, end: number) =>
    decodeFloats(dtype, await source.read(offset + first * bytes, (end - first) * bytes));

  const wanted = wantedStrides(shape, transposed);
  const streams = shape.every((n, d) => n < 2 || strides[d] === wanted[d]);
  const whole = streams ? undefined : await gather(load, tensor, wanted, piece);
  for (let first = 0; first < count; first += piece) {
    const end = Math.min(first + piece, count);
    await write(whole?.subarray(first, end) ?? await load(first, end), first);
  }
}

/** Where the elements go: the strides of the result in terms of the stored dimensions. */
function wantedStrides(shape: readonly number[], transposed: boolean): number[] {
  if (!transposed) return rowMajorStrides(shape);
  if (shape.length !== 2) throw new Error(`transposed: expected a matrix, got shape [${shape}]`);
  return [1, shape[0]];
}

/** Reads forward only; `load` gives the elements from one place in the storage to another. */
async function gather(
  load: (first: number, end: number) => Promise<Float32Array>,
  { shape, strides }: StoredTensor,
  wanted: readonly number[],
  piece: number,
): Promise<Float32Array> {
  const result = new Float32Array(elementCount(shape));
  if (result.length === 0) return result;
  const dims = shape
    .map((size, d) => ({ size, from: strides[d], to: wanted[d] }))
    .filter(({ size }) => size > 1)
    .sort((a, b) => b.from - a.from);
  const inner = dims.pop()!; // what does not stream has a dimension
  const storageEnd = dims.reduce((end, { size, from }) => end + (size - 1) * from, 0) +
    (inner.size - 1) * inner.from + 1;

  let held: Float32Array = new Float32Array(), begin = 0, end = 0;
  for (const { from, to } of runs(dims)) {
    for (let i = 0; i < inner.size;) {
      const next = from + i * inner.from;
      if (next >= end) {
        begin = next;
        end = Math.min(next + piece, storageEnd);
        held = await load(begin, end);
      }
      const stop = Math.min(inner.size, Math.ceil((end - from) / inner.from));
      for (; i < stop; i++) result[to + i * inner.to] = held[from - begin + i * inner.from];
    }
  }
  return result;
}

/** Every index of the dimensions, the last one fastest, as the places that it stands for. */
function* runs(
  dims: readonly { size: number; from: number; to: number }[],
): Generator<{ from: number; to: number }> {
  const total = elementCount(dims.map(({ size }) => size));
  for (let run = 0; run < total; run++) {
    let from = 0, to = 0, rest = run;
    for (let d = dims.length - 1; d >= 0; d--) {
      const index = rest % dims[d].size;
      rest = Math.floor(rest / dims[d].size);
      from += index * dims[d].from;
      to += index * dims[d].to;
    }
    yield { from, to };
  }
}
