/**
 * The memory plan: which values share memory. Values whose lives do not overlap get the same place;
 * pointwise results overwrite an operand that dies with them; updates of state land in the state itself.
 *
 * @module
 */

import { isSource, type Node, STATE, storageOf, type Tensor } from "../graph/tensor.ts";
import { readsOf, type Step, writesOf } from "./fuse.ts";
import { aligned, bytesOf } from "./memory.ts";

/** Memory that one or more values occupy in turn. */
export interface Storage {
  /** Bytes. */
  bytes: number;
  /** First step that writes it; −1 for sources. */
  from: number;
  /** Last step that needs it; `Infinity` if it must survive the run. */
  to: number;
  /** The source that owns it, if it is not an intermediate value. */
  source?: Tensor;
}

/** The decisions of {@link planStorage}. */
export interface StoragePlan {
  /** Storage of every tensor that lies in memory. */
  storage: Map<Tensor, Storage>;
  /** Updates that need a copy at the end: [from, to], in an order in which none overwrites another's. */
  copies: [Tensor, Tensor][];
}

/**
 * Decides which tensors share storage. All updates happen at once: what a program reads of a state is
 * what the run before has left, whatever the order of the updates.
 *
 * @param steps in order of execution
 * @param outputs tensors that must survive the run
 * @param updates pairs [state, new value]
 * @throws {Error} if states would exchange their contents
 */
export function planStorage(
  steps: readonly Step[],
  outputs: readonly Tensor[],
  updates: readonly (readonly [Tensor, Tensor])[],
): StoragePlan {
  const lastUse = lastUses(steps, outputs, updates);
  const updated = new Set(updates.map(([s]) => s));
  // State that is not updated, inputs and constants must keep their contents.
  const endOf = (t: Tensor) =>
    isSource(t.node) && !(t.node.primitive === STATE && updated.has(t))
      ? Infinity
      : lastUse.get(t) ?? -1;

  const storage = new Map<Tensor, Storage>();
  const place = (t: Tensor, from: number): Storage => {
    const created = { bytes: bytesOf(t), from, to: endOf(t), source: from < 0 ? t : undefined };
    storage.set(t, created);
    return created;
  };
  const target = new Map<Tensor, Tensor>();
  for (const [s, value] of updates) {
    place(s, -1);
    const owner = storageOf(value);
    if (!target.has(owner)) target.set(owner, s);
  }

  for (const [k, step] of steps.entries()) {
    for (const t of readsOf(step)) if (!storage.has(t)) place(t, -1);
    for (const t of writesOf(step)) {
      const home = target.get(t);
      const end = endOf(t);
      const operand = inPlaceOperand(step, t, k, lastUse, storage, home && storage.get(home), end);
      if (operand) {
        const shared = storage.get(operand)!;
        shared.to = end;
        storage.set(t, shared);
        continue;
      }
      // The state's own memory, if its old contents are no longer needed.
      const own = home && storage.get(home)!;
      if (own && own.to < k && own.bytes === bytesOf(t)) {
        own.to = end;
        storage.set(t, own);
      } else place(t, k);
    }
  }
  // A source can be an output without a step that reads it.
  for (const t of outputs.map(storageOf)) {
    if (isSource(t.node) && !storage.has(t)) place(t, -1);
  }
  const copies = updates
    .filter(([s, value]) => storage.get(storageOf(value)) !== storage.get(s))
    .map(([s, value]): [Tensor, Tensor] => {
      const from = storageOf(value);
      if (!storage.has(from)) place(from, -1);
      return [from, s];
    });
  return { storage, copies: inOrder(copies, storage) };
}

/** The number of the last step that reads a tensor; infinity if it must survive the run. */
function lastUses(
  steps: readonly Step[],
  outputs: readonly Tensor[],
  updates: readonly (readonly [Tensor, Tensor])[],
): Map<Tensor, number> {
  const lastUse = new Map<Tensor, number>();
  for (const [k, step] of steps.entries()) {
    for (const t of readsOf(step)) lastUse.set(t, k);
  }
  for (const t of outputs) lastUse.set(storageOf(t), Infinity);
  for (const [, value] of updates) lastUse.set(storageOf(value), Infinity);
  return lastUse;
}

/** Copies ordered so that each reads its source before another one overwrites it. */
function inOrder(
  copies: readonly [Tensor, Tensor][],
  storage: Map<Tensor, Storage>,
): [Tensor, Tensor][] {
  const ordered: [Tensor, Tensor][] = [], pending = [...copies];
  while (pending.length > 0) {
    const next = pending.findIndex(([, to]) =>
      pending.every(([from]) => storage.get(from) !== storage.get(to))
    );
    if (next < 0) {
      const names = pending.map(([, to]) => to.node.attrs.name).join(", ");
      throw new Error(`updates: ${names} would exchange their contents, which needs another state`);
    }
    ordered.push(...pending.splice(next, 1));
  }
  return ordered;
}

/** An operand that dies in step k and whose memory the step's output may take over. */
function inPlaceOperand(
  step: Step,
  output: Tensor,
  k: number,
  lastUse: Map<Tensor, number>,
  storage: Map<Tensor, Storage>,
  preferred: Storage | undefined,
  end: number,
): Tensor | undefined {
  const candidates = (output === step.result ? alignedOperands(step) : [])
    .concat(declaredOperands(step, output))
    .filter((t) => {
      const s = storage.get(t);
      // What survives the run cannot stay in a state whose own update is copied there at the end.
      const mayStay = end < Infinity || s === preferred || !s?.source;
      return s && mayStay && s.to === k && lastUse.get(t) === k && s.bytes === bytesOf(output) &&
        t.dtype === output.dtype;
    });
  return candidates.find((t) => storage.get(t) === preferred) ?? candidates[0];
}

/** Operands that the step's pointwise part reads only at the element it then writes. */
function alignedOperands(step: Step): Tensor[] {
  // The prologue and the anchor read elsewhere than they write.
  const elsewhere = new Set<Tensor>();
  const forbid = (node: Node) => node.inputs.forEach((t) => elsewhere.add(storageOf(t)));
  step.prologue.forEach(forbid);
  if (step.anchor) forbid(step.anchor);
  const found = new Set<Tensor>();
  for (const node of step.epilogue) {
    if (!node.primitive.pointwise) {
      forbid(node); // a gather
      continue;
    }
    for (const t of node.inputs) {
      const owner = storageOf(t);
      if (bytesOf(t) === bytesOf(step.result)) found.add(owner);
      else elsewhere.add(owner);
    }
  }
  return [...found].filter((t) => !elsewhere.has(t));
}

/** Operands that the anchor itself declares as shareable with this output. */
function declaredOperands(step: Step, output: Tensor): Tensor[] {
  const { anchor } = step;
  if (!anchor?.primitive.inPlace || step.epilogue.length > 0) return [];
  const pairs = anchor.primitive.inPlace(anchor);
  return pairs
    .filter(([o]) => anchor.outputs[o] === output)
    .map(([, i]) => anchor.inputs[i])
    .filter((t) => anchor.inputs.filter((x) => storageOf(x) === storageOf(t)).length === 1)
    .map(storageOf);
}

/** A value or scratch memory to be placed. */
export interface Interval {
  /** Bytes. */
  bytes: number;
  /** First step. */
  from: number;
  /** Last step, inclusive. */
  to: number;
}

/**
 * Packs intervals into as few bytes as a greedy rule finds: largest first, each into the first place that
 * is free for its whole life.
 *
 * @returns the place of every interval, and the size of every place
 *
 * @example
 * ```ts
 * import { pack } from "./plan.ts";
 * import assert from "node:assert/strict";
 *
 * const { places } = pack([
 *   { bytes: 100, from: 0, to: 1 },
 *   { bytes: 50, from: 1, to: 2 },
 *   { bytes: 80, from: 2, to: 3 },
 * ]);
 * assert.deepEqual(places, [0, 1, 0]);
 * ```
 */
export function pack(intervals: readonly Interval[]): { places: number[]; sizes: number[] } {
  const order = intervals.map((_, i) => i)
    .sort((a, b) => intervals[b].bytes - intervals[a].bytes || a - b);
  const tenants: Interval[][] = [];
  const sizes: number[] = [];
  const places = new Array<number>(intervals.length);
  for (const i of order) {
    const x = intervals[i];
    let at = tenants.findIndex((list) => list.every((y) => y.to < x.from || x.to < y.from));
    if (at < 0) {
      at = tenants.length;
      tenants.push([]);
      sizes.push(aligned(x.bytes));
    }
    tenants[at].push(x);
    places[i] = at;
  }
  return { places, sizes };
}
