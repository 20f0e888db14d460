/**
 * Prompts as the encoder reads them.
 *
 * @module
 */

import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/**
 * The ids of a prompt: `<s>`, the text, `</s>`. A text that is too long loses its end, never its `</s>`.
 * Without `<s>` where the tokenizer has none (T5). With `<s>`, every run of white space is one space, as
 * METRO's models read it, unless the rule says otherwise.
 *
 * @param maxLength most ids, `<s>` and `</s>` included
 * @param rule how the model's inputs are made; without an end token, a prompt of no ids has one all the same
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
export function encodePrompt(
  tokenizer: Tokenizer,
  text: string,
  maxLength: number,
  rule: { endToken?: boolean; singleSpaces?: boolean } = {},
): Uint32Array {
  const { endToken = true, singleSpaces = tokenizer.bos !== undefined } = rule;
  if (!(maxLength >= 2)) throw new RangeError(`encodePrompt: ${maxLength} ids hold no prompt`);
  const pieces = tokenizer.encode(singleSpaces ? spaced(text) : text);
  const start = tokenizer.bos === undefined ? [] : [tokenizer.bos];
  const end = endToken || start.length + pieces.length === 0 ? [tokenizer.eos] : [];
  const kept = pieces.subarray(0, maxLength - start.length - end.length);
  const ids = new Uint32Array(start.length + kept.length + end.length);
  ids.set(start);
  ids.set(kept, start.length);
  ids.set(end, start.length + kept.length);
  return ids;
}

/**
 * The ids of a target or an answer choice: the text, `</s>`; no `<s>`. White space as in a prompt, and
 * cut like one.
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
export function encodeTarget(
  tokenizer: Tokenizer,
  text: string,
  maxLength: number,
  { singleSpaces = tokenizer.bos !== undefined }: { singleSpaces?: boolean } = {},
): Uint32Array {
  const kept = tokenizer.encode(singleSpaces ? spaced(text) : text).subarray(0, maxLength - 1);
  return Uint32Array.of(...kept, tokenizer.eos);
}

function spaced(text: string): string {
  return text.replace(/\s+/g, " ").trim();
}
