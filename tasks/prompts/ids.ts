/**
 * Prompts as the encoder reads them.
 *
 * @module
 */

import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/**
 * The ids of a prompt: `<s>`, the text with every run of white space made one space, `</s>`. A text that
 * is too long loses its end, never its `</s>`. Without `<s>` where the tokenizer has none (T5).
 *
 * @param maxLength most ids, `<s>` and `</s>` included
 * @throws {RangeError} if maxLength leaves no room for both
 *
 * @example
 * ```ts
 * import { encodePrompt } from "./ids.ts";
 * import { Tokenizer } from "../tokenizer/tokenizer.ts";
 * import { trainTokenizer } from "../tokenizer/train_bpe.ts";
 * import assert from "node:assert/strict";
 *
 * const json = await trainTokenizer(["to be or not"], { vocabSize: 260, lowercase: true, sentinels: 8 });
 * const tokenizer = new Tokenizer(json);
 * const ids = encodePrompt(tokenizer, "  to\n\nbe ", 16);
 * assert.equal(tokenizer.decode(ids.subarray(1, -1)), "to be");
 * assert.deepEqual([ids[0], ids.at(-1)], [tokenizer.bos, tokenizer.eos]);
 * ```
 */
export function encodePrompt(tokenizer: Tokenizer, text: string, maxLength: number): Uint32Array {
  if (!(maxLength >= 2)) throw new RangeError(`encodePrompt: ${maxLength} ids hold no prompt`);
  const pieces = tokenizer.encode(singleSpaces(text));
  const start = tokenizer.bos === undefined ? [] : [tokenizer.bos];
  const kept = pieces.subarray(0, maxLength - start.length - 1);
  const ids = new Uint32Array(start.length + kept.length + 1);
  ids.set(start);
  ids.set(kept, start.length);
  ids[ids.length - 1] = tokenizer.eos;
  return ids;
}

/**
 * The ids of a target or an answer choice: the text with every run of white space made one space,
 * `</s>`; no `<s>`. Cut like a prompt.
 *
 * @param maxLength most ids, `</s>` included
 *
 * @example
 * ```ts
 * import { encodeTarget } from "./ids.ts";
 * import { Tokenizer } from "../tokenizer/tokenizer.ts";
 * import { trainTokenizer } from "../tokenizer/train_bpe.ts";
 * import assert from "node:assert/strict";
 *
 * const json = await trainTokenizer(["to be or not"], { vocabSize: 260, lowercase: true, sentinels: 8 });
 * const tokenizer = new Tokenizer(json);
 * assert.equal(tokenizer.decode(encodeTarget(tokenizer, "to\tbe", 16)), "to be</s>");
 * ```
 */
export function encodeTarget(tokenizer: Tokenizer, text: string, maxLength: number): Uint32Array {
  const kept = tokenizer.encode(singleSpaces(text)).subarray(0, maxLength - 1);
  return Uint32Array.of(...kept, tokenizer.eos);
}

function singleSpaces(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}
