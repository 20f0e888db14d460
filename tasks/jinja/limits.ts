/**
 * How much one rendering may do. Nothing here looks at the clock: what is too much on one machine is too
 * much on all.
 *
 * @module
 */
import { JinjaError } from "./values.ts";

/**
 * What a rendering may spend: a unit for each character that it makes, eight for an item of a list, a step
 * of a loop or a call, and one for 64 characters that it reads.
 */
const BUDGET = 2 ** 26;
/** What an item, a step or a call costs. */
const STEP = 8;

let left = Infinity;

/** Pays for characters. */
export function spend(characters: number): void {
  left -= characters;
  if (left < 0) throw tooMuch();
}

/** Pays for items, steps or calls. */
export function spendSteps(count: number): void {
  left -= count * STEP;
  if (left < 0) throw tooMuch();
}

/** Pays for reading a text. */
export function spendReading(text: string): void {
  left -= 1 + (text.length >> 6);
  if (left < 0) throw tooMuch();
}

function tooMuch(): JinjaError {
  return new JinjaError(
    "MemoryError",
    `makes more than ${BUDGET / 2 ** 20} million characters, or ${BUDGET / 2 ** 20 / STEP} ` +
      "million items or steps, for one row",
  );
}

/**
 * Runs something that gets a whole budget, and turns what a template can do to the machine beneath into its
 * errors: too deep a recursion, too long a text.
 *
 * @throws {JinjaError} of kind `RecursionError` or `MemoryError`
 *
 * @example
 * ```ts
 * import { withinLimits } from "./limits.ts";
 * import assert from "node:assert/strict";
 *
 * const deeper = (): number => 1 + deeper();
 * assert.throws(() => withinLimits(deeper), /nested too deeply/);
 * ```
 */
export function withinLimits<T>(run: () => T): T {
  left = BUDGET;
  try {
    return run();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    if (/call stack/.test(error.message)) {
      throw new JinjaError("RecursionError", "nested too deeply, or calls itself for ever");
    }
    if (/Invalid (string|array) length|Maximum BigInt size/.test(error.message)) throw tooMuch();
    throw error;
  }
}
