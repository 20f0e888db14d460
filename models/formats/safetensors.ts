/**
 * The safetensors format: eight bytes of header length, a JSON header, then the tensors' bytes.
 * Everything here works on bytes in memory; `tasks/checkpoints/save.ts` adds the files.
 *
 * Every header is distrusted: whatever it says is checked against the size of the file before a
 * byte is read by it, as strictly as the reference implementation does (no gap, no overlap, no
 * duplicate, nothing after the last tensor).
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { isRecord, MAX_JSON_BYTES, parseJsonObject, shown } from "./untrusted.ts";

/** An element type, as the format names it. */
export type Dtype =
  | ("BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2")
  | ("I16" | "U16" | "F16" | "BF16")
  | ("I32" | "U32" | "F32")
  | ("I64" | "U64" | "F64");

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<Dtype, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
};

/** A tensor to be written. */
export interface TensorSpec {
  /** Unique in its file. */
  name: string;
  /** Its dimensions; a scalar has none. */
  shape: readonly number[];
  /** Its element type, F32 when absent. */
  dtype?: Dtype;
}

/** Where a tensor lies in a file. */
export interface TensorEntry {
  /** The element type. */
  dtype: Dtype;
  /** The dimensions. */
  shape: readonly number[];
  /** The first byte, counted from the start of the file. */
  offset: number;
  /** How many bytes. */
  bytes: number;
}

/** A header that has been read and checked. */
export interface Header {
  /** The tensors, in the order of their bytes in the file. */
  tensors: Map<string, TensorEntry>;
  /** Free text by key. */
  metadata: Record<string, string>;
}

/**
 * How many bytes of a file {@link parseHeader} needs.
 *
 * @param start the first eight bytes of the file (more do no harm)
 * @param fileSize size of the whole file in bytes
 * @throws {UserError} the file is too short, or is no safetensors file
 *
 * @example
 * ```ts
 * import { encodeHeader, headerSize } from "./safetensors.ts";
 * import assert from "node:assert/strict";
 *
 * const bytes = encodeHeader([{ name: "w", shape: [0] }], {}).bytes;
 * assert.equal(headerSize(bytes, bytes.length), bytes.length);
 * ```
 */
export function headerSize(start: Uint8Array, fileSize: number): number {
  if (fileSize < 8 || start.length < 8) {
    throw new UserError(`expected a safetensors file, got ${fileSize} bytes`);
  }
  const length = Number(new DataView(start.buffer, start.byteOffset).getBigUint64(0, true));
  if (length > MAX_JSON_BYTES) {
    throw new UserError(
      `not a safetensors file: its header would be ${length} bytes long, of at most ${MAX_JSON_BYTES}`,
    );
  }
  if (8 + length > fileSize) {
    throw new UserError(`cut short: the header alone is ${8 + length} bytes, the file ${fileSize}`);
  }
  return 8 + length;
}

/**
 * Reads and checks a header.
 *
 * @param bytes the first {@link headerSize} bytes of the file, or more
 * @param fileSize size of the whole file in bytes
 * @throws {UserError} anything in it that is malformed or does not agree with the size of the file
 *
 * @example
 * ```ts
 * import { encodeHeader, parseHeader } from "./safetensors.ts";
 * import assert from "node:assert/strict";
 *
 * const { bytes } = encodeHeader([{ name: "w", shape: [2, 3] }], { update: "7" });
 * const { tensors, metadata } = parseHeader(bytes, bytes.length + 24);
 * assert.equal(tensors.get("w")?.bytes, 24);
 * assert.equal(metadata.update, "7");
 * assert.throws(() => parseHeader(bytes, bytes.length + 20), /cut short/);
 * ```
 */
export function parseHeader(bytes: Uint8Array, fileSize: number): Header {
  const dataOffset = headerSize(bytes, fileSize);
  const json = parseJson(bytes.subarray(8, dataOffset));
  const metadata = checkMetadata(json.__metadata__);
  const entries = Object.entries(json)
    .filter(([name]) => name !== "__metadata__")
    .map(([name, value]) => [name, checkEntry(name, value, dataOffset)] as const)
    .sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes);
  checkLayout(entries, dataOffset, fileSize);
  return { tensors: new Map(entries), metadata };
}

/**
 * Makes the header of a file. The order of the tensors depends on nothing but themselves: wider
 * element types first (which aligns every tensor), then by name.
 *
 * @param specs the tensors, in any order
 * @param metadata free text by key
 * @returns the bytes before the first tensor (a multiple of eight), and where each tensor goes
 * @throws {Error} two tensors of the same name, or a shape that is none
 *
 * @example
 * ```ts
 * import { encodeHeader } from "./safetensors.ts";
 * import assert from "node:assert/strict";
 *
 * const { bytes, tensors } = encodeHeader([{ name: "b", shape: [4] }, { name: "a", shape: [] }], {});
 * assert.deepEqual([...tensors.keys()], ["a", "b"]);
 * assert.equal(tensors.get("b")?.offset, bytes.length + 4);
 * ```
 */
export function encodeHeader(
  specs: readonly TensorSpec[],
  metadata: Readonly<Record<string, string>>,
): Header & { bytes: Uint8Array<ArrayBuffer> } {
  const ordered = specs
    .map(({ name, shape, dtype = "F32" as const }) => ({ name, shape, dtype }))
    .sort((a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1));

  const json: [string, unknown][] = [];
  const sortedMetadata = Object.fromEntries(Object.entries(metadata).sort());
  if (Object.keys(metadata).length > 0) json.push(["__metadata__", sortedMetadata]);
  let end = 0;
  const tensors = new Map<string, TensorEntry>();
  for (const { name, shape, dtype } of ordered) {
    const size = tensorBytes(shape, dtype);
    if (size === undefined) throw new Error(`tensor ${name}: impossible shape [${shape}]`);
    if (tensors.has(name) || name === "__metadata__") {
      throw new Error(`tensor ${name}: the name is taken`);
    }
    json.push([name, { dtype, shape, data_offsets: [end, end + size] }]);
    tensors.set(name, { dtype, shape, offset: end, bytes: size });
    end += size;
  }

  const text = new TextEncoder().encode(JSON.stringify(Object.fromEntries(json)));
  const length = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20, 8 + text.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(text, 8);
  for (const entry of tensors.values()) entry.offset += bytes.length;
  return { bytes, tensors, metadata: sortedMetadata };
}

/**
 * A tensor's bytes as 32-bit floats: F32 as they are (sharing memory), F16 and BF16 widened, which
 * is exact, F64 rounded.
 *
 * @param bytes the tensor's bytes; they must begin at a multiple of the element's size in their buffer
 * @throws {UserError} another element type
 *
 * @example
 * ```ts
 * import { decodeFloats } from "./safetensors.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual([...decodeFloats("BF16", new Uint8Array([0x80, 0x3f]))], [1]);
 * ```
 */
export function decodeFloats(dtype: Dtype, bytes: Uint8Array<ArrayBuffer>): Float32Array {
  const { buffer, byteOffset, byteLength } = bytes;
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, byteLength / 4);
  if (dtype === "F64") {
    return new Float32Array(new Float64Array(buffer, byteOffset, byteLength / 8));
  }
  const view = new DataView(buffer, byteOffset, byteLength);
  const values = new Float32Array(byteLength / 2);
  if (dtype === "F16") {
    for (let i = 0; i < values.length; i++) values[i] = view.getFloat16(2 * i, true);
  } else if (dtype === "BF16") {
    const bits = new Uint32Array(values.buffer);
    for (let i = 0; i < bits.length; i++) bits[i] = view.getUint16(2 * i, true) << 16;
  } else {
    throw new UserError(`expected elements of type F32, F16, BF16 or F64, got ${dtype}`);
  }
  return values;
}

/**
 * The size of a tensor in bytes; undefined for a shape that is none or a size past exact integers.
 *
 * @example
 * ```ts
 * import { tensorBytes } from "./safetensors.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(tensorBytes([2, 3], "BF16"), 12);
 * assert.equal(tensorBytes([2 ** 50, 2 ** 50], "BF16"), undefined);
 * ```
 */
export function tensorBytes(shape: readonly number[], dtype: Dtype): number | undefined {
  let bytes = DTYPE_BYTES[dtype];
  for (const n of shape) {
    if (!Number.isSafeInteger(n) || n < 0) return undefined;
    bytes *= n;
    // Every prefix must be exact: a zero at the end must not excuse what overflowed before it.
    if (!Number.isSafeInteger(bytes)) return undefined;
  }
  return bytes;
}

function parseJson(bytes: Uint8Array): Record<string, unknown> {
  try {
    if (bytes[0] !== 0x7b) throw new UserError("does not start with a brace");
    return parseJsonObject(bytes);
  } catch (error) {
    throw error instanceof UserError ? new UserError(`header: ${error.message}`) : error;
  }
}

function checkMetadata(value: unknown): Record<string, string> {
  if (value === undefined) return {};
  if (!isRecord(value) || !Object.values(value).every((text) => typeof text === "string")) {
    throw new UserError("__metadata__: expected an object of texts");
  }
  return value as Record<string, string>;
}

function checkEntry(name: string, value: unknown, dataOffset: number): TensorEntry {
  const fail = (what: string, came: unknown) =>
    new UserError(`tensor ${shown(name)}: expected ${what}, got ${shown(came)}`);

  if (!isRecord(value)) throw fail("an object with dtype, shape and data_offsets", value);
  const { dtype, shape, data_offsets: span } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw fail(`a dtype (one of ${Object.keys(DTYPE_BYTES).join(", ")})`, dtype);
  }
  const size = Array.isArray(shape) ? tensorBytes(shape, dtype as Dtype) : undefined;
  if (size === undefined) throw fail("a shape (a list of sizes)", shape);
  const isSpan = Array.isArray(span) && span.length === 2 &&
    span.every((n) => Number.isSafeInteger(n) && n >= 0) && span[0] <= span[1];
  if (!isSpan) throw fail("data_offsets (begin and end)", span);
  const [begin, end] = span as [number, number];
  if (end - begin !== size) {
    throw fail(`${size} bytes for shape ${shown(shape)} of ${dtype}`, end - begin);
  }
  return {
    dtype: dtype as Dtype,
    shape: shape as number[],
    offset: dataOffset + begin,
    bytes: size,
  };
}

/** Tensors must follow one another without gap or overlap, and end where the file ends. */
function checkLayout(
  entries: readonly (readonly [string, TensorEntry])[],
  dataOffset: number,
  fileSize: number,
): void {
  let end = dataOffset;
  for (const [name, { offset, bytes }] of entries) {
    if (offset < end) throw new UserError(`tensor ${shown(name)} overlaps the one before it`);
    if (offset > end) {
      throw new UserError(`${offset - end} stray bytes before tensor ${shown(name)}`);
    }
    end = offset + bytes;
  }
  if (end > fileSize) {
    throw new UserError(`cut short: expected ${end} bytes, the file has ${fileSize}`);
  }
  if (end < fileSize) {
    throw new UserError(`${fileSize - end} stray bytes after the last tensor`);
  }
}
