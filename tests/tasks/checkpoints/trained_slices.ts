/** Weights and moments in ordinary memory, cut at random among ranks: what a checkpoint is made of. */
import assert from "node:assert/strict";
import type { ModelConfig } from "../../../models/config.ts";
import { parameterShapes } from "../../../models/parameters.ts";
import { preset } from "../../../models/presets.ts";
import { elementCount } from "../../../models/formats/stored.ts";
import { key, mix32, Random } from "../../../ops/graph/random.ts";
import type { MomentKind, Moments } from "../../../tasks/checkpoints/optimizer.ts";
import type { TensorSlice } from "../../../tasks/parallel/buckets.ts";
import type { Trained } from "../../../tasks/checkpoints/run_folder.ts";

/** A small model with every kind of parameter. */
export const MODEL: ModelConfig = {
  ...preset("tiny").model,
  ...{ dModel: 8, heads: 2, dFf: 16, encoderLayers: 1, decoderLayers: 1, auxLayers: 1 },
  ...{ vocabSize: 90, sentinels: 20 },
};

const PARTS = ["main", "rtd", "aux"] as const;

/** Names and shapes. */
export type Shapes = ReadonlyMap<string, readonly number[]>;

/** Flattened values by name; all 0 at first. */
export class Values extends Map<string, Float32Array> {
  constructor(shapes: Shapes) {
    super(Array.from(shapes, ([name, shape]) => [name, new Float32Array(elementCount(shape))]));
  }

  get names(): string[] {
    return [...this.keys()];
  }

  reader() {
    return (name: string) => Promise.resolve(this.get(name)!.slice());
  }

  write(name: string, values: Float32Array | Uint32Array): void {
    this.get(name)!.set(values);
  }
}

/** What one rank keeps; `mean` and `square` have values in its slices alone. */
export type Kept = Moments & Record<MomentKind, Values>;

/** Moments of which a rank keeps slices. */
export function kept(shapes: Shapes, slices: readonly TensorSlice[]): Kept {
  const values = { mean: new Values(shapes), square: new Values(shapes) };
  return {
    ...values,
    shapes,
    slices,
    momentReader: (kind) => ({ name, from, to }) =>
      Promise.resolve(values[kind].get(name)!.slice(from, to)),
    writeMoment: (kind, { name, from }, written) => values[kind].get(name)!.set(written, from),
  };
}

/** Cuts tensors at random places, and deals the slices out to ranks; some may get none. */
export function randomSlices(shapes: Shapes, size: number, seed: number): TensorSlice[][] {
  const random = new Random(key(seed, size));
  const slices = Array.from({ length: size }, (): TensorSlice[] => []);
  for (const [name, shape] of shapes) {
    const elements = elementCount(shape);
    const cuts = Array.from({ length: random.below(2 * size) }, () => random.below(elements + 1));
    const ends = [...cuts, elements].sort((a, b) => a - b);
    for (const [i, to] of ends.entries()) {
      slices[random.below(size)].push({ name, from: ends[i - 1] ?? 0, to });
    }
  }
  return slices;
}

/** A rank's share of {@link MODEL} in training: one of several, or whole tensors. */
export function trained(size: number, rank: number): Trained {
  const shapes = parameterShapes(MODEL, PARTS);
  const slices = size === 1
    ? Array.from(shapes, ([name, shape]) => ({ name, from: 0, to: elementCount(shape) }))
    : randomSlices(shapes, size, 5)[rank];
  return { ...kept(shapes, slices), model: MODEL, parts: PARTS, parameters: new Values(shapes) };
}

/** Sets every value that a rank has to one that no other place and no other update has. */
export function fill(share: Trained, update: number): void {
  for (const kind of ["mean", "square"] as const) {
    for (const slice of share.slices) {
      share.writeMoment(kind, slice, valuesAt(kind, slice, update));
    }
  }
  for (const weight of weightsOf(share)) {
    share.parameters.write(weight.name, valuesAt("weight", weight, update));
  }
}

/** Fails unless a rank has the values of {@link fill}. */
export async function assertFilled(share: Trained, update: number): Promise<void> {
  const check = (kind: string, slice: TensorSlice, values: Float32Array) => {
    const { name, from, to } = slice;
    assert.deepEqual(values, valuesAt(kind, slice, update), `${kind} of ${name}[${from}:${to}]`);
  };
  for (const kind of ["mean", "square"] as const) {
    const read = share.momentReader(kind);
    for (const slice of share.slices) check(kind, slice, await read(slice));
  }
  const read = share.parameters.reader();
  for (const weight of weightsOf(share)) check("weight", weight, await read(weight.name));
}

function weightsOf({ shapes }: Trained): TensorSlice[] {
  return Array.from(shapes, ([name, shape]) => ({ name, from: 0, to: elementCount(shape) }));
}

/** An update below 1024 and 14 bits of noise: exact in 32-bit floats. */
function valuesAt(kind: string, { name, from, to }: TensorSlice, update: number): Float32Array {
  const seed = key(...new TextEncoder().encode(`${kind} ${name}`));
  return Float32Array.from(
    { length: to - from },
    (_, i) => update + (mix32(seed + from + i) & 0x3fff) / 0x4000,
  );
}
