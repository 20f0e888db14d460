/**
 * The two kinds of failure: a {@link UserError} is something the person at the keyboard can mend
 * (shown as one line, exit code 1, no stack); every other `Error` is ours and keeps its stack.
 *
 * @module
 */

/**
 * A mistake in what the user gave: flags, files, sizes. Its message says what was expected, what
 * came, and what to do. Scripts print it as one line and exit with code 1.
 *
 * @example
 * ```ts
 * import { UserError } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * assert.throws(() => {
 *   throw new UserError("--updates: expected a positive integer, got 'many'");
 * }, UserError);
 * ```
 */
export class UserError extends Error {
  /** Always `"UserError"`. */
  override name = "UserError";
}

/** The device has gone away, by no fault of anybody's: what was saved is good, and another start may work. */
export class DeviceLost extends UserError {}
