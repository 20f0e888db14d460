/**
 * What is in a file, as one short text.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { openRegular, readError } from "./read.ts";

/** Read at a time; a longer piece would keep signals waiting. */
const PIECE = 1 << 22;

/**
 * The SHA-256 of a file's bytes.
 *
 * @throws {UserError} if it cannot be read
 *
 * @example
 * ```ts
 * import { digestFile } from "./digest.ts";
 * import assert from "node:assert/strict";
 *
 * const file = await Deno.makeTempFile();
 * await Deno.writeTextFile(file, "abc");
 * assert.match(await digestFile(file), /^ba7816bf.{48}f20015ad$/);
 * await Deno.remove(file);
 * ```
 */
export async function digestFile(path: string): Promise<string> {
  const digest = createHash("sha256"), piece = new Uint8Array(PIECE);
  const file = await openRegular(path);
  try {
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, PIECE, null);
      if (bytesRead === 0) return digest.digest("hex");
      digest.update(piece.subarray(0, bytesRead));
    }
  } catch (error) {
    throw readError(path, error);
  } finally {
    await file.close();
  }
}
