// Random graphs of all primitives, forward and backward: what no table of cases thinks of.
//
// A number seeds a graph. Values stay small, and conditions keep clear of ties, so that a device must come
// close to the float64 reference; how close is found out by disturbing the reference as rounding would.

import assert from "node:assert/strict";
import { CONSTANT, isSource, sizeOf, topological, type Values } from "../../ops/graph/tensor.ts";
import {
  add,
  type Device,
  grad,
  input,
  mul,
  runScalar,
  scale,
  state,
  sum,
  type Tensor,
} from "../../ops/mod.ts";
import { addAll } from "../../ops/primitives/reduce.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { LARGEST, PARTS, shapeOf, type Workshop } from "./random_parts.ts";
import { type Graph, RUN, runOn } from "./run.ts";

/** Magnitude beyond which a value is scaled down before it is used further. */
const HIGH = 4;
/** A graph with the names of its parts, for messages. */
export interface RandomGraph extends Graph {
  /** Of {@link PARTS}. */
  parts: string[];
}

/** A graph that a number stands for. */
export function randomGraph(seed: number): RandomGraph {
  for (let attempt = 0;; attempt++) {
    const graph = tryGraph(key(seed, attempt));
    if (graph) return graph;
  }
}

function tryGraph(seed: number): RandomGraph | undefined {
  const random = new Random(seed), values: Graph["values"] = {}, known = new Map<Tensor, Values>();
  const pool: Tensor[] = [], parts: string[] = [];
  let names = 0;
  const w: Workshop = {
    random,
    differentiable: random.below(3) > 0,
    between: (from, to) => from + random.below(to - from + 1),
    pick: (from) => from[random.below(from.length)],
    chance: (p) => random.uniform() < p,
    // Later ones more often.
    any: (test = () => true) => {
      const fit = pool.filter(test);
      return fit[Math.floor(Math.sqrt(random.uniform()) * fit.length)];
    },
    fresh(shape, isState = w.chance(0.8)) {
      const name = `x${names++}`;
      values[name] = Float32Array.from({ length: sizeOf(shape) }, () => random.uniform() * 2 - 1);
      return isState ? state(name, shape) : input(name, shape);
    },
    ids(shape, below) {
      const name = `i${names++}`;
      values[name] = Uint32Array.from({ length: sizeOf(shape) }, () => random.below(below));
      return input(name, shape, "u32");
    },
    valueOf: (t) => evaluated([t], values, known)[0],
    stream: () => random.bits(),
  };
  pool.push(w.fresh(shapeOf(w, 2)), w.fresh(shapeOf(w)));
  const steps = w.between(2, 9);
  for (let tries = 0; parts.length < steps && tries < 60; tries++) {
    const name = w.pick(Object.keys(PARTS));
    const made = PARTS[name](w);
    for (const t of made === undefined ? [] : [made].flat() as Tensor[]) {
      const most = magnitude(w.valueOf(t));
      if (sizeOf(t.shape) > LARGEST || !Number.isFinite(most)) continue;
      pool.push(most > HIGH ? scale(t, Math.fround(HIGH / most)) : t);
      parts.push(name);
    }
  }
  const outputs = [...new Set([pool.at(-1)!, w.any()!, w.any()!])];
  const updates: [Tensor, Tensor][] = [];
  if (w.differentiable) differentiate(w, outputs, updates);
  if (w.chance(0.4)) {
    // States that are written where they lie, and copied to another.
    const t = w.any()!, own = w.fresh(t.shape, true), other = w.fresh(t.shape, true);
    updates.push([own, add(mul(own, runScalar("a")), t)]);
    if (w.chance(0.5)) updates.push([other, own]);
  }
  const all = [...outputs, ...updates.flat()];
  const results = evaluated(all, values, known);
  return results.every((r) => magnitude(r) < 1e4) ? { outputs, updates, values, parts } : undefined;
}

/** Adds gradients of a weighted sum of outputs: as outputs, or to states in place. */
function differentiate(w: Workshop, outputs: Tensor[], updates: [Tensor, Tensor][]): void {
  const weighted = outputs.map((t) => sum(mul(t, w.fresh(t.shape, false))));
  const loss = addAll(weighted);
  const states = topological(outputs).filter(({ primitive }) => primitive.name === "state")
    .map(({ outputs: [t] }) => t).filter((t) => w.chance(0.6) && reaches(loss, t));
  const into = states.map((t) => w.chance(0.5) ? w.fresh(t.shape, true) : undefined);
  const bases = into.map((t) => t && mul(t, runScalar("a")));
  for (const [i, g] of grad(loss, states, bases).entries()) {
    if (into[i]) updates.push([into[i], g]);
    else outputs.push(g);
  }
}

/** Whether a gradient flows to a tensor. */
function reaches(loss: Tensor, t: Tensor): boolean {
  try {
    grad(loss, [t]);
    return true;
  } catch {
    return false;
  }
}

function magnitude(values: Values): number {
  let most = 0;
  for (const x of values) most = Math.max(most, Math.abs(x));
  return most;
}

/** The reference's values; with `disturb`, as if every value had been rounded on the way. */
function evaluated(
  outputs: readonly Tensor[],
  values: Graph["values"],
  known = new Map<Tensor, Values>(),
  disturb: (x: number) => number = (x) => x,
): Values[] {
  for (const node of topological(outputs)) {
    if (known.has(node.outputs[0])) continue;
    const given = values[node.attrs?.name];
    const results = isSource(node) && node.primitive !== CONSTANT
      ? [given instanceof Uint32Array ? given : Float64Array.from(given)]
      : node.primitive.reference(node.inputs.map((t) => known.get(t)!), node, RUN);
    for (const [i, t] of node.outputs.entries()) {
      known.set(t, t.dtype === "f32" ? results[i].map(disturb) : results[i]);
    }
  }
  return outputs.map((t) => known.get(t)!);
}

/** Part of the largest number by which kernels may be off. */
const TOLERANCE = 3e-5;
/** How many times the error that single roundings make. */
const ROUNDINGS = 100;

/** Fails unless a device computes a graph as the reference does. */
export async function assertRandomGraph(device: Device, seed: number): Promise<void> {
  const graph = randomGraph(seed), { outputs, updates = [], values, parts } = graph;
  const what = `seed ${seed} (${parts.join(", ")})`;
  const all = [...outputs, ...updates.map(([, value]) => value)];
  const want = evaluated(all, values);
  const random = new Random(key(seed, 1));
  const rounded = (x: number) => x * (1 + (random.uniform() * 2 - 1) * 2 ** -23);
  const disturbed = [0, 1].map(() => evaluated(all, values, new Map(), rounded));
  const got = await runOn(device, graph).catch((error) => {
    throw new Error(`${what}: ${error.message}`, { cause: error });
  });
  for (const [i, expected] of want.entries()) {
    const noise = Math.max(...disturbed.map((d) => magnitude(expected.map((x, k) => x - d[i][k]))));
    const allowed = TOLERANCE * Math.max(magnitude(expected), 0.05) + ROUNDINGS * noise;
    for (let k = 0; k < expected.length; k++) {
      const error = Math.abs(got[i][k] - expected[k]);
      if (error <= allowed) continue;
      assert.fail(
        `${what}, result ${i}[${k}]: got ${got[i][k]}, want ${expected[k]} within ${allowed}`,
      );
    }
  }
}
