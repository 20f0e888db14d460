/**
 * JSON with a checksum of itself, in a last field `sha256`: what is read is what was written. A file that
 * was cut, or a digit of which was changed, is noticed before anything is done by it.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";

/** Name of the field with the checksum. */
const FIELD = "sha256";

/** SHA-256 of a text, hexadecimal. */
export function sha256(text: string | Uint8Array): string {
  return createHash("sha256").update(text).digest("hex");
}

/**
 * An object with its checksum; how it is spaced in a file does not matter.
 *
 * @example
 * ```ts
 * import { expectSeal, sealed } from "./seal.ts";
 * import assert from "node:assert/strict";
 *
 * const text = JSON.stringify(sealed({ update: 7 }), null, 2);
 * expectSeal(JSON.parse(text), "training.json", "put back a copy");
 * const edited = JSON.parse(text.replace("7", "8"));
 * assert.throws(() => expectSeal(edited, "training.json", "put back a copy"), {
 *   message: "training.json: was changed since it was written; put back a copy",
 * });
 * ```
 */
export function sealed<T extends object>(value: T): T & { [FIELD]: string } {
  return { ...value, [FIELD]: checksum(value) };
}

/**
 * Fails if an object is not what was sealed. One without a checksum is of an older version, and passes.
 *
 * @param where the file, for the message
 * @param advice what to do about it
 * @throws {UserError} naming the file
 */
export function expectSeal(value: object, where: string, advice: string): void {
  if (!Object.hasOwn(value, FIELD)) return;
  const { [FIELD]: seal, ...rest } = value as Record<string, unknown>;
  if (seal === checksum(rest)) return;
  throw new UserError(`${shown(where)}: was changed since it was written; ${advice}`);
}

function checksum(value: object): string {
  return sha256(JSON.stringify(value));
}
