// Runs a graph on a device and compares what comes with the float64 reference.

import assert from "node:assert/strict";
import { sizeOf, topological } from "../../ops/graph/tensor.ts";
import { compile, type Device, interpret, StateMemory, type Tensor } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";

/** Values of sources, by name. */
export type SourceValues = Record<string, Float32Array | Uint32Array>;

/** What every run is given. */
export const RUN = { key: 12345, sequence: 3, scalars: { a: 0.75, b: -2 } };

/** Something to compute. */
export interface Graph {
  /** What is read after a run. */
  outputs: Tensor[];
  /** States that a run changes, with their new values. */
  updates?: [Tensor, Tensor][];
  /** Values of all sources before the run. */
  values: SourceValues;
}

/** Values for every source under `outputs`: f32 uniform in [−1, 1], u32 below `ids`. */
export function valuesFor(outputs: readonly Tensor[], ids: number, seed = 7): SourceValues {
  const random = new Random(seed);
  const values: SourceValues = {};
  for (const node of topological(outputs)) {
    const { name, shape, dtype, data } = node.attrs ?? {};
    if (node.inputs.length > 0 || !name || data || node.primitive.pointwise || name in values) {
      continue;
    }
    values[name] = dtype === "f32"
      ? Float32Array.from({ length: sizeOf(shape) }, () => random.uniform() * 2 - 1)
      : Uint32Array.from({ length: sizeOf(shape) }, () => random.below(ids));
  }
  return values;
}

/** Outputs, then the updated states, as a device computes them. */
export async function runOn(
  device: Device,
  { outputs, updates = [], values }: Graph,
): Promise<(Float32Array | Uint32Array)[]> {
  const states = new Map<string, readonly number[]>();
  const all = [...outputs, ...updates.flat()];
  for (const { primitive, attrs } of topological(all)) {
    if (primitive.name === "state") states.set(attrs.name, attrs.shape);
  }
  const memory = new StateMemory(device, states, "test");
  for (const name of states.keys()) memory.write(name, values[name]);
  const named = Object.fromEntries(outputs.map((t, i) => [`o${i}`, t]));
  const program = compile(device, { name: "test", outputs: named, updates }, {
    state: memory,
  });
  program.run({ ...RUN, inputs: values });
  const results: (Float32Array | Uint32Array)[] = [];
  for (const i of outputs.keys()) results.push(await program.read(`o${i}`));
  for (const [state] of updates) results.push(await memory.read(state.node.attrs.name));
  program.destroy();
  memory.destroy();
  return results;
}

/** Fails unless numbers differ by at most `tolerance` times the largest of those that are wanted. */
export function assertClose(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  assert.equal(got.length, want.length, what);
  let largest = 1e-3;
  for (let i = 0; i < want.length; i++) largest = Math.max(largest, Math.abs(want[i]));
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i] - want[i]);
    if (!(error <= tolerance * largest)) {
      assert.fail(`${what}[${i}]: got ${got[i]}, want ${want[i]} (largest ${largest})`);
    }
  }
}

/** Fails unless a device computes what the reference does. */
export async function assertEqualsReference(
  device: Device,
  graph: Graph,
  tolerance: number,
  what: string,
): Promise<void> {
  const { outputs, updates = [], values } = graph;
  const all = [...outputs, ...updates.map(([, value]) => value)];
  const want = interpret(all, { values, run: RUN });
  const got = await runOn(device, graph);
  for (const i of all.keys()) assertClose(got[i], want[i], tolerance, `${what}, result ${i}`);
}
