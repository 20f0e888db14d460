/**
 * Broadcasting as in NumPy: shapes are aligned on the right, and axes of length 1 stretch.
 *
 * @module
 */

import { formatShape, sizeOf, type TensorType } from "./tensor.ts";

/**
 * The common shape of several tensors.
 *
 * @throws {Error} naming the op and the shapes
 *
 * @example
 * ```ts
 * import { broadcastShape } from "./broadcast.ts";
 * import assert from "node:assert/strict";
 *
 * const types = [{ shape: [2, 1], dtype: "f32" }, { shape: [3], dtype: "f32" }] as const;
 * assert.deepEqual(broadcastShape("add", types), [2, 3]);
 * ```
 */
export function broadcastShape(op: string, inputs: readonly TensorType[]): number[] {
  const rank = Math.max(...inputs.map((x) => x.shape.length));
  const out = new Array<number>(rank).fill(1);
  for (const { shape } of inputs) {
    for (let i = 0; i < shape.length; i++) {
      const at = rank - shape.length + i;
      if (out[at] === 1) out[at] = shape[i];
      else if (shape[i] !== 1 && shape[i] !== out[at]) {
        throw new Error(
          `${op}: shapes ${inputs.map((x) => formatShape(x.shape)).join(" and ")} do not broadcast`,
        );
      }
    }
  }
  return out;
}

/** How a smaller tensor repeats inside a larger one. */
export type Repeat =
  /** One element per element. */
  | { kind: "same" }
  /** One element for all. */
  | { kind: "one" }
  /** The tensor is the trailing axes: index = flat % period. */
  | { kind: "suffix"; period: number }
  /** The tensor is the leading axes: index = flat / run. */
  | { kind: "prefix"; run: number }
  /** Anything else, e.g. [B, 1, d] in [B, L, d]. */
  | { kind: "general" };

/** Classifies how `from` repeats in `to`; both shapes must broadcast. */
export function repeatOf(from: readonly number[], to: readonly number[]): Repeat {
  const size = sizeOf(from), all = sizeOf(to);
  if (size === all) return { kind: "same" };
  if (size === 1) return { kind: "one" };
  const padded = [...new Array<number>(to.length - from.length).fill(1), ...from];
  const equal = padded.map((n, i) => n === to[i]);
  const firstEqual = padded.findIndex((n) => n !== 1);
  if (equal.slice(firstEqual).every(Boolean)) return { kind: "suffix", period: size };
  const lastEqual = padded.findLastIndex((n) => n !== 1);
  if (equal.slice(0, lastEqual + 1).every(Boolean)) return { kind: "prefix", run: all / size };
  return { kind: "general" };
}

/** Maps a flat index of `to` to the flat index of `from`; both shapes must broadcast. */
export function broadcastIndex(
  from: readonly number[],
  to: readonly number[],
): (flat: number) => number {
  const repeat = repeatOf(from, to);
  switch (repeat.kind) {
    case "same":
      return (i) => i;
    case "one":
      return () => 0;
    case "suffix":
      return (i) => i % repeat.period;
    case "prefix":
      return (i) => Math.floor(i / repeat.run);
    case "general": {
      const shift = to.length - from.length;
      return (i) => {
        let index = 0, stride = 1;
        for (let axis = to.length - 1; axis >= 0; axis--) {
          const at = i % to[axis];
          i = Math.floor(i / to[axis]);
          const n = axis >= shift ? from[axis - shift] : 1;
          if (n !== 1) index += at * stride;
          stride *= n;
        }
        return index;
      };
    }
  }
}
