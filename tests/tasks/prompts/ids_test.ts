import assert from "node:assert/strict";
import { encodePrompt, encodeTarget } from "../../../tasks/prompts/ids.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";

const tokenizer = new Tokenizer(
  await trainTokenizer(["to be or not to be"], { vocabSize: 262, lowercase: true, sentinels: 8 }),
);
/** The same without `<s>`, as T5's are. */
const withoutStart = new Proxy(tokenizer, {
  get: (target, key) => {
    const value = key === "bos" ? undefined : Reflect.get(target, key, target);
    return typeof value === "function" ? value.bind(target) : value;
  },
});
const TEXT = "to be or not to be";

Deno.test("encodePrompt: <s>, the text with single spaces, </s>", () => {
  const ids = encodePrompt(tokenizer, ` \tto  be or\r\nnot\u00a0to be\n`, 64);
  assert.deepEqual(ids, encodePrompt(tokenizer, TEXT, 64));
  assert.deepEqual(Array.from(ids), [
    tokenizer.bos,
    ...tokenizer.encode(TEXT),
    tokenizer.eos,
  ]);
});

Deno.test("encodePrompt: what is too long loses its end, never its </s>", () => {
  const whole = encodePrompt(tokenizer, TEXT, 64);
  for (let length = 2; length <= whole.length + 2; length++) {
    const ids = encodePrompt(tokenizer, TEXT, length);
    assert.equal(ids.length, Math.min(length, whole.length));
    assert.deepEqual(ids.subarray(0, -1), whole.subarray(0, ids.length - 1));
    assert.equal(ids.at(-1), tokenizer.eos);
  }
  for (const length of [1, 0, -1, NaN]) {
    assert.throws(() => encodePrompt(tokenizer, TEXT, length), RangeError);
  }
});

Deno.test("encodePrompt: an empty prompt is <s> </s>; a tokenizer without <s> writes none", () => {
  const { bos, eos } = tokenizer;
  assert.deepEqual(Array.from(encodePrompt(tokenizer, " \n ", 8)), [bos, eos]);
  assert.deepEqual(Array.from(encodePrompt(withoutStart, "", 8)), [eos]);
  const ids = encodePrompt(withoutStart, TEXT, 64);
  assert.deepEqual(ids, encodePrompt(tokenizer, TEXT, 64).subarray(1));
  assert.deepEqual(ids.length, encodePrompt(withoutStart, TEXT, ids.length).length);
});

Deno.test("encodePrompt: without an end token the text alone, cut at its end", () => {
  const { bos } = tokenizer, pieces = [...tokenizer.encode(TEXT)];
  const ids = (length: number, from = tokenizer) => {
    return Array.from(encodePrompt(from, TEXT, length, { endToken: false }));
  };
  assert.deepEqual(ids(64), [bos, ...pieces]);
  assert.deepEqual(ids(64, withoutStart), pieces);
  assert.deepEqual(ids(3, withoutStart), pieces.slice(0, 3));
  assert.deepEqual(Array.from(encodePrompt(withoutStart, "", 8, { endToken: false })), [
    tokenizer.eos,
  ]);
});

Deno.test("white space is made single for vocabularies with <s>, or as the rule says", () => {
  const text = "to\n\n be",
    ids = (from: Tokenizer, rule = {}) => {
      const [prompt, target] = [
        encodePrompt(from, text, 64, rule),
        encodeTarget(from, text, 64, rule),
      ];
      assert.deepEqual(
        Array.from(prompt).slice(from.bos === undefined ? 0 : 1),
        Array.from(target),
      );
      return Array.from(target.subarray(0, -1));
    };
  const single = Array.from(tokenizer.encode("to be")), whole = Array.from(tokenizer.encode(text));
  assert.notDeepEqual(single, whole);
  assert.deepEqual(ids(tokenizer), single);
  assert.deepEqual(ids(withoutStart), whole);
  assert.deepEqual(ids(tokenizer, { singleSpaces: false }), whole);
  assert.deepEqual(ids(withoutStart, { singleSpaces: true }), single);
});

Deno.test("encodeTarget: the text and </s>, cut like a prompt", () => {
  const whole = encodeTarget(tokenizer, TEXT, 64);
  assert.deepEqual(whole, encodePrompt(tokenizer, TEXT, 64).subarray(1));
  const cut = encodeTarget(tokenizer, TEXT, 3);
  assert.deepEqual(Array.from(cut), [whole[0], whole[1], tokenizer.eos]);
  assert.deepEqual(Array.from(encodeTarget(tokenizer, TEXT, 1)), [tokenizer.eos]);
});
