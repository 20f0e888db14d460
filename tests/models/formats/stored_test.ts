import assert from "node:assert/strict";
import { transpose } from "../../../models/names.ts";
import {
  elementCount,
  readFloats,
  rowMajorStrides,
  type StoredTensor,
} from "../../../models/formats/stored.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { source } from "./torch_file.ts";

const random = new Random(key(43));

/** Every value is its own place in the storage. */
const places = source(new Uint8Array(Float32Array.from({ length: 2000 }, (_, i) => i).buffer));

async function read(tensor: StoredTensor, transposed: boolean, piece: number): Promise<number[]> {
  const values: number[] = [];
  await readFloats(
    places,
    tensor,
    (part, first) => {
      assert.equal(first, values.length);
      assert.ok(part.length > 0 && part.length <= piece);
      values.push(...part);
    },
    transposed,
    piece,
  );
  return values;
}

/** A tensor with its dimensions in any order in memory, and gaps between them. */
function randomTensor(dimensions: number): StoredTensor {
  const shape = Array.from({ length: dimensions }, () => random.below(5));
  const strides = new Array<number>(dimensions);
  let span = 1;
  const order = shape.map((_, d) => d).sort(() => random.below(2) - 0.5);
  for (const d of order) {
    strides[d] = span + random.below(2);
    span += Math.max(shape[d] - 1, 0) * strides[d];
  }
  return { dtype: "F32", shape, strides, offset: 4 * random.below(2000 - span) };
}

/** The places of the elements, by the definition of strides. */
function expected({ shape, strides, offset }: StoredTensor): number[] {
  const steps = rowMajorStrides(shape);
  return Array.from({ length: elementCount(shape) }, (_, i) => {
    const indices = shape.map((n, d) => Math.floor(i / steps[d]) % n);
    return offset / 4 + indices.reduce((sum, index, d) => sum + index * strides[d], 0);
  });
}

Deno.test("any view is read in row-major order, in pieces of any size", async () => {
  for (let i = 0; i < 500; i++) {
    const tensor = randomTensor(random.below(5)), piece = 1 + random.below(20);
    assert.deepEqual(await read(tensor, false, piece), expected(tensor), JSON.stringify(tensor));
  }
});

Deno.test("a matrix that is wanted transposed is the transpose of what is stored", async () => {
  for (let i = 0; i < 200; i++) {
    const tensor = randomTensor(2), [rows, columns] = tensor.shape;
    const there = transpose(Float32Array.from(expected(tensor)), rows, columns);
    assert.deepEqual(await read(tensor, true, 1 + random.below(20)), [...there]);
  }
  const vector = { dtype: "F32", shape: [3], strides: [1], offset: 0 } as const;
  await assert.rejects(read(vector, true, 9), /expected a matrix, got shape \[3\]/);
});

Deno.test("what lies in the order in which it is wanted is read once and never held whole", async () => {
  const reads: number[] = [];
  const counting = {
    size: places.size,
    read: (offset: number, length: number) => (reads.push(length), places.read(offset, length)),
  };
  const matrix = { dtype: "F32", shape: [10, 10], strides: [10, 1], offset: 8 } as const;
  let most = 0;
  const note = (part: Float32Array) => void (most = Math.max(most, part.buffer.byteLength));
  await readFloats(counting, matrix, note, false, 32);
  assert.deepEqual(reads, [128, 128, 128, 16]);
  assert.equal(most, 128);
  // The transpose of a transposed view is in order again.
  reads.length = 0;
  await readFloats(counting, { ...matrix, strides: [1, 10] }, note, true, 50);
  assert.deepEqual(reads, [200, 200]);
});
