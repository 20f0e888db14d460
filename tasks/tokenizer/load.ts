/**
 * Tokenizers from files: `tokenizer.json`, or the pieces of SentencePiece.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { parseJson } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { isFolder, readText } from "../files/read.ts";
import { readSentencePieceJson } from "./sentencepiece_json.ts";
import { Tokenizer, type TokenizerJson } from "./tokenizer.ts";

/**
 * Makes a {@link Tokenizer} from the content of a tokenizer.json, or from files.
 *
 * @param source a tokenizer.json; the path of one, or of a SentencePiece model (`*.model`); or a
 * folder with a tokenizer.json, with sp.model and dict.txt (METRO), or with spiece.model (T5)
 * @throws {UserError} naming the file if it is missing or not usable
 *
 * @example
 * ```ts
 * import { loadTokenizer, trainTokenizer } from "@metro/t0";
 * import assert from "node:assert/strict";
 *
 * const options = { vocabSize: 262, lowercase: true, sentinels: 8 };
 * const tokenizer = loadTokenizer(await trainTokenizer(["to be or not to be"], options));
 * assert.equal(tokenizer.decode(tokenizer.encode("Not to be")), "not to be");
 * ```
 */
export function loadTokenizer(source: TokenizerJson | string): Tokenizer {
  if (typeof source !== "string") return new Tokenizer(source);
  const file = isFolder(source) ? tokenizerFile(source) : source;
  // SentencePiece's models bring other files along; what is wrong says with which.
  if (file.endsWith(".model")) {
    const json = readSentencePieceJson(file);
    return usable(file, "tokenizer", () => new Tokenizer(json));
  }
  const text = readText(file);
  return usable(file, "tokenizer.json", () => new Tokenizer(parseJson(text) as TokenizerJson));
}

/** Says of which file it is that something cannot be made. */
function usable<T>(file: string, what: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const message = error.message.replace(/^tokenizer: /, "");
    throw new UserError(`${file}: not usable as a ${what}: ${message}`);
  }
}

/** The file of a folder that says most about its tokenizer. */
function tokenizerFile(folder: string): string {
  const names = ["tokenizer.json", "sp.model", "spiece.model"];
  const name = names.find((name) => existsSync(join(folder, name)));
  if (name) return join(folder, name);
  throw new UserError(`${folder}: expected a tokenizer: one of ${names.join(", ")}`);
}
