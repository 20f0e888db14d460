/**
 * AdamW's moments in files. Each rank of a job writes those that it keeps: `optimizer.safetensors` where
 * there is one rank, else `optimizer-00001-of-00004.safetensors` and so on. A tensor `mean.NAME` or
 * `square.NAME` is a whole one; `mean.NAME[from:to]` has those elements of the flattened tensor.
 *
 * Files of any number of ranks are read by any number: a rank reads what overlaps its own slices.
 *
 * @module
 */

import { elementCount } from "../../models/formats/stored.ts";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { type Tensors, writeTensors } from "./tensors.ts";
import type { TensorSlice } from "../parallel/buckets.ts";

/** The mean gradient, or the mean of its square. */
export type MomentKind = "mean" | "square";

const KINDS: readonly MomentKind[] = ["mean", "square"];

/** The moments that a rank keeps. */
export interface Moments {
  /** Names and shapes of all parameters, whoever keeps their moments. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** What this rank keeps moments of, in the order of memory. All ranks' slices cover every tensor once. */
  readonly slices: readonly TensorSlice[];
  /** Reads slices, fastest in their order; may hold a part of memory while it is in use. */
  momentReader(kind: MomentKind): (slice: TensorSlice) => Promise<Float32Array>;
  /** Sets a slice; the values are not used after the call. */
  writeMoment(kind: MomentKind, slice: TensorSlice, values: Float32Array): void;
}

/**
 * The names of a job's optimizer files, by rank.
 *
 * @param size ranks
 *
 * @example
 * ```ts
 * import { optimizerFiles } from "./optimizer.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(optimizerFiles(1), ["optimizer.safetensors"]);
 * assert.equal(optimizerFiles(4)[0], "optimizer-00001-of-00004.safetensors");
 * ```
 */
export function optimizerFiles(size: number): string[] {
  if (size === 1) return ["optimizer.safetensors"];
  const digits = (n: number) => String(n).padStart(5, "0");
  return Array.from(
    { length: size },
    (_, rank) => `optimizer-${digits(rank + 1)}-of-${digits(size)}.safetensors`,
  );
}

/** Whether a file has a name that {@link optimizerFiles} gives. */
export function isOptimizerFile(name: string): boolean {
  return /^optimizer(-\d{5,}-of-\d{5,})?\.safetensors$/.test(name);
}

/**
 * Writes the moments that a rank keeps. One slice at a time is in memory, besides what the reader holds.
 *
 * @param metadata free text by key: `update`
 * @param alive called before every slice
 * @throws {UserError} the disk is full or the folder cannot be written to
 *
 * @example
 * ```ts
 * import { openTensors } from "./tensors.ts";
 * import { type Moments, readMoments, writeMoments } from "./optimizer.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const values = { mean: Float32Array.of(1, 2, 3), square: Float32Array.of(1, 4, 9) };
 * const moments: Moments = {
 *   shapes: new Map([["w", [3]]]),
 *   slices: [{ name: "w", from: 0, to: 3 }],
 *   momentReader: (kind) => ({ from, to }) => Promise.resolve(values[kind].slice(from, to)),
 *   writeMoment: (kind, { from }, written) => values[kind].set(written, from),
 * };
 * const run = await mkdtemp(tmpdir() + "/run-"), path = `${run}/optimizer.safetensors`;
 * await writeMoments(path, moments, { update: "1" });
 *
 * values.mean.fill(0);
 * const file = await openTensors(path);
 * await readMoments([file], moments);
 * assert.deepEqual([...values.mean], [1, 2, 3]);
 * await file.close();
 * await rm(run, { recursive: true });
 * ```
 */
export async function writeMoments(
  path: string,
  moments: Moments,
  metadata: Readonly<Record<string, string>>,
  alive: () => void = () => {},
): Promise<void> {
  const slices = moments.slices.filter(({ from, to }) => from < to);
  const specs = KINDS.flatMap((kind) =>
    slices.map((slice) => ({ kind, slice, ...specOf(kind, slice, moments.shapes) }))
  );
  const stored = new Map(specs.map((spec) => [spec.name, spec]));
  // One reader at a time: it may hold much.
  let reading: MomentKind = KINDS[0], read = moments.momentReader(reading);
  await writeTensors(path, specs, async (name) => {
    alive();
    const { kind, slice } = stored.get(name)!;
    if (kind !== reading) read = moments.momentReader(reading = kind);
    return await read(slice);
  }, metadata);
}

/**
 * Reads the moments that a rank keeps, whatever slices they were written in. One stored tensor and one
 * slice are in memory at a time.
 *
 * @param files all optimizer files of a checkpoint
 * @param alive called before every slice
 * @throws {UserError} naming a file: values are missing, damaged, there twice, or of another model
 *
 * @example
 * ```ts
 * import { readMoments } from "./optimizer.ts";
 * import assert from "node:assert/strict";
 *
 * const nothing = {
 *   shapes: new Map(),
 *   slices: [],
 *   momentReader: () => () => Promise.resolve(new Float32Array()),
 *   writeMoment: () => assert.fail("no slice to write"),
 * };
 * await readMoments([], nothing);
 * ```
 */
export async function readMoments(
  files: readonly Tensors[],
  moments: Moments,
  alive: () => void = () => {},
): Promise<void> {
  const pieces = findPieces(files, moments.shapes);
  const read = holdingReader();
  for (const kind of KINDS) {
    for (const slice of moments.slices) {
      if (slice.from === slice.to) continue;
      alive();
      const values = await assemble(pieces.get(`${kind}.${slice.name}`)!, slice, read);
      moments.writeMoment(kind, slice, values);
    }
  }
}

/** A run of a tensor's elements in a file. */
interface Piece {
  file: Tensors;
  /** Its name there. */
  name: string;
  from: number;
  to: number;
}

function specOf(
  kind: MomentKind,
  { name, from, to }: TensorSlice,
  shapes: Moments["shapes"],
): { name: string; shape: readonly number[] } {
  const shape = shapes.get(name)!;
  return from === 0 && to === elementCount(shape)
    ? { name: `${kind}.${name}`, shape }
    : { name: `${kind}.${name}[${from}:${to}]`, shape: [to - from] };
}

/** What the files hold of every tensor, in order and complete, by `mean.NAME` and `square.NAME`. */
function findPieces(
  files: readonly Tensors[],
  shapes: Moments["shapes"],
): Map<string, Piece[]> {
  const found = new Map(
    KINDS.flatMap((kind) =>
      Array.from(
        shapes,
        ([name, shape]): [string, { shape: readonly number[]; pieces: Piece[] }] => {
          return [`${kind}.${name}`, { shape, pieces: [] }];
        },
      )
    ),
  );
  for (const file of files) {
    for (const name of file.names) {
      const [, tensor, from, to] = /^(.*?)(?:\[(\d+):(\d+)\])?$/s.exec(name)!;
      const known = found.get(tensor);
      // Others are of parts of the model that this job does not train.
      if (!known) continue;
      const { shape, pieces } = known;
      const piece = from === undefined
        ? { file, name, from: 0, to: elementCount(shape) }
        : { file, name, from: Number(from), to: Number(to) };
      expectPlace(piece, from === undefined ? shape : [piece.to - piece.from], shape);
      pieces.push(piece);
    }
  }
  return new Map(Array.from(found, ([tensor, { shape, pieces }]) => {
    pieces.sort((a, b) => a.from - b.from);
    expectComplete(files, tensor, pieces, elementCount(shape));
    return [tensor, pieces];
  }));
}

/** Fails unless a piece has a shape and a place that a piece of the tensor can have. */
function expectPlace(
  { file, name, from, to }: Piece,
  expected: readonly number[],
  shape: readonly number[],
): void {
  const got = file.shape(name);
  const inside = from < to && to <= elementCount(shape);
  if (inside && got.join() === expected.join()) return;
  throw new UserError(
    `${file.path}: tensor ${shown(name)}: expected ${
      inside ? `shape [${expected}]` : "a part"
    } of ` +
      `shape [${shape}], got shape ${shown(got)}; does config.json belong to it?`,
  );
}

/** Fails unless pieces, in order, are all of a tensor, and once. */
function expectComplete(
  files: readonly Tensors[],
  tensor: string,
  pieces: readonly Piece[],
  size: number,
): void {
  let end = 0;
  const expectNext = (from: number) => {
    if (from === end) return;
    const all = end === 0 && from === size;
    const missing = all ? tensor : `${tensor}[${end}:${from}]`;
    throw new UserError(
      files.length === 1
        ? `${files[0].path}: has no tensor ${missing}; is it from another model?`
        : `${files[0].path} and the ${files.length - 1} files that belong to it: no tensor ` +
          `${missing}; put back files that were saved together`,
    );
  };
  for (const [i, { file, name, from, to }] of pieces.entries()) {
    if (from < end) {
      const { file: other, name: twin } = pieces[i - 1];
      throw new UserError(
        `${file.path}: tensor ${name} overlaps ${twin} of ${other.path}; put back files that were ` +
          "saved together",
      );
    }
    expectNext(from);
    end = to;
  }
  expectNext(size);
}

/** Reads pieces, and keeps the last one: consecutive slices often lie in the same. */
function holdingReader(): (piece: Piece) => Promise<Float32Array> {
  let held: Piece | undefined, values = new Float32Array();
  return async (piece) => {
    if (piece === held) return values;
    held = undefined;
    values = new Float32Array(); // two pieces are never in memory at once
    values = await piece.file.read(piece.name) as typeof values;
    held = piece;
    return values;
  };
}

async function assemble(
  pieces: readonly Piece[],
  { from, to }: TensorSlice,
  read: (piece: Piece) => Promise<Float32Array>,
): Promise<Float32Array> {
  const parts = pieces.filter((piece) => piece.from < to && piece.to > from);
  const [only] = parts;
  if (parts.length === 1) return (await read(only)).subarray(from - only.from, to - only.from);
  const values = new Float32Array(to - from);
  for (const piece of parts) {
    const begin = Math.max(from, piece.from), end = Math.min(to, piece.to);
    const part = (await read(piece)).subarray(begin - piece.from, end - piece.from);
    values.set(part, begin - from);
  }
  return values;
}
