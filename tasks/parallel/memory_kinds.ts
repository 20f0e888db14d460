/**
 * The kinds of device memory that outlive a program of training, and the names by which its states stand for
 * them.
 *
 * @module
 */

/** Weights, their gradients, AdamW's two moments, and sums for the metrics. */
const MEMORY_KINDS = ["parameter", "gradient", "mean", "square", "sum"] as const;

/** A kind of memory. */
export type MemoryKind = typeof MEMORY_KINDS[number];

/**
 * The state of a program that stands for a tensor of a kind. Models declare their parameters by bare names.
 *
 * @example
 * ```ts
 * import { keptAs, stateName } from "./memory_kinds.ts";
 * import assert from "node:assert/strict";
 *
 * const names = [stateName("parameter", "embed.tokens"), stateName("gradient", "embed.tokens")];
 * assert.deepEqual(names, ["embed.tokens", "gradient embed.tokens"]);
 * assert.deepEqual(keptAs(names[1]), { kind: "gradient", name: "embed.tokens" });
 * ```
 */
export function stateName(kind: MemoryKind, name: string): string {
  return kind === "parameter" ? name : `${kind} ${name}`;
}

/** What a state's name stands for. */
export function keptAs(state: string): { kind: MemoryKind; name: string } {
  const [first, name] = state.split(" ", 2);
  const kind = MEMORY_KINDS.find((kind) => kind === first);
  return name === undefined || !kind ? { kind: "parameter", name: state } : { kind, name };
}
