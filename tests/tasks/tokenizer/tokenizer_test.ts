import assert from "node:assert/strict";
import { Tokenizer as Reference } from "@huggingface/tokenizers";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { type Document, readDocuments } from "../../../tasks/text/corpus.ts";
import { loadTokenizer } from "../../../tasks/tokenizer/load.ts";
import { Tokenizer, type TokenizerJson } from "../../../tasks/tokenizer/tokenizer.ts";
import { PipelineCodec } from "../../../tasks/tokenizer/pipeline.ts";
import { merge, mergeTable } from "../../../tasks/tokenizer/bpe.ts";
import { WORD } from "../../../tasks/tokenizer/byte_level.ts";
import { encodeDocuments } from "../../../tasks/text/encode.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";

const ROOT = new URL("../../../", import.meta.url);
const corpus = (await Array.fromAsync(readDocuments([new URL("data/corpus", ROOT).pathname])))
  .flatMap((document) => document.lines);
const trained = await trainTokenizer(corpus, { vocabSize: 700, lowercase: true, sentinels: 16 });
const cased = await trainTokenizer(corpus, { vocabSize: 700, lowercase: false, sentinels: 0 });

/** Text fragments on which implementations are known to part ways. */
const NASTY =
  ("a the Σ ΑΣ σς İ ß ﬁ Ⅷ ½ é e\u0301 한 ㅎㅏㄴ 漢字 カ゛ ｶﾞ 👩‍👩‍👧 🇩🇪 \u{10ffff} \0 \x1c 's 'S 're ’s " +
    "don't <s> <S> <pad> <sen003> <sen ＜s＞ </s> <unk> 1 ٣ २ ... — `` \u202e 𝔘𝔫 ǅ Å \ud800 \udc00")
    .split(" ").concat([
      " ",
      "  ",
      "\t",
      "\n",
      "\r\n",
      "\x85",
      "\ufeff",
      "\xa0",
      "\u3000",
      "\u200b",
    ])
    .concat(["z".repeat(70), "ab".repeat(200)]);

function nastyText(random: Random): string {
  return Array.from(
    { length: 1 + random.below(12) },
    () =>
      random.uniform() < 0.8
        ? NASTY[random.below(NASTY.length)]
        : String.fromCodePoint(random.below(0x11000)),
  ).join("");
}

function reference(json: TokenizerJson): (text: string) => number[] {
  const tokenizer = new Reference(json, { clean_up_tokenization_spaces: false });
  return (text) => tokenizer.encode(text, { add_special_tokens: false }).ids;
}

function assertSameIds(json: TokenizerJson, texts: string[]): void {
  const own = new Tokenizer(json), slow = new PipelineCodec(json);
  assert.ok(own.fast);
  for (const text of texts) {
    assert.deepEqual([...own.encode(text)], [...slow.encode(text)], JSON.stringify(text));
  }
}

Deno.test("the short cut's ids are the steps' on the sample corpus, and those of @huggingface/tokenizers", () => {
  for (const json of [trained, cased]) {
    assertSameIds(json, corpus);
    const own = new Tokenizer(json), expected = reference(json);
    for (const text of corpus) assert.deepEqual([...own.encode(text)], expected(text), text);
  }
});

Deno.test("the short cut's ids are the steps' on nasty text", () => {
  const random = new Random(key(11));
  const texts = Array.from({ length: 3000 }, () => nastyText(random));
  assertSameIds(trained, texts);
  assertSameIds(cased, texts);
});

Deno.test("the short cut's ids are the steps' on foreign text", async (t) => {
  const file = new URL("../shared/data/wikitext-2/wikitext-2-valid.txt", ROOT);
  let text: string;
  try {
    text = await Deno.readTextFile(file);
  } catch {
    console.log("skipped: no shared/data/wikitext-2 beside the repository");
    return;
  }
  await t.step("wikitext-2", () => {
    assertSameIds(trained, text.split("\n").filter((_, i) => i % 4 === 0));
  });
});

Deno.test("decoding gives back the normalised text, special tokens written out", () => {
  const tokenizer = new Tokenizer(cased);
  for (const text of [...corpus, "don't  stop\n\tnow ", "漢字 👩‍👩‍👧 é", "x</s> y", ""]) {
    assert.equal(tokenizer.decode(tokenizer.encode(text)), text.normalize("NFKC"));
  }
  const uncased = new Tokenizer(trained);
  assert.equal(uncased.decode(uncased.encode("ΑΣ ﬁne<sen003>\ud800")), "ασ fine<sen003> \ufffd");
  assert.throws(() => uncased.decode([uncased.rows]), RangeError);
});

Deno.test("ids: specials, pieces, sentinels", () => {
  const { bos, pad, eos, unk, vocabSize, sentinels, sentinel0, rows } = new Tokenizer(trained);
  assert.deepEqual([bos, pad, eos, unk], [0, 1, 2, 3]);
  assert.deepEqual([vocabSize, sentinels, sentinel0, rows], [700, 16, 700, 716]);
  assert.deepEqual([...new Tokenizer(trained).encode("<sen000><sen015>")], [700, 715]);
  const none = new Tokenizer(cased);
  assert.deepEqual([none.vocabSize, none.sentinels, none.sentinel0, none.rows], [700, 0, 700, 700]);
});

Deno.test("a line's first word has the same id as elsewhere", () => {
  const tokenizer = new Tokenizer(trained);
  const [first, second] = [tokenizer.encode("the"), tokenizer.encode("the the")];
  assert.deepEqual([...second], [...first, ...first]);
});

Deno.test("training makes the merges that counting anew each time makes", async () => {
  const lines = corpus.slice(0, 12);
  const json = await trainTokenizer(lines, { vocabSize: 360, lowercase: true, sentinels: 0 });
  assert.deepEqual(json.model.merges, naiveMerges(lines, json, 100));
});

/** Textbook BPE: recounts all pairs before each merge. */
function naiveMerges(lines: string[], json: TokenizerJson, count: number): string[] {
  const vocab = json.model.vocab as Record<string, number>;
  const expected = reference({ ...json, model: { ...json.model, merges: [] } });
  const pieces = Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]);
  const words = lines.flatMap((line) => ` ${line.toLowerCase()}`.match(WORD)!)
    .map((word) =>
      expected(word.startsWith(" ") ? word : " " + word).slice(word[0] === " " ? 0 : 1)
    );
  const merges: string[] = [];
  while (merges.length < count) {
    const counts = new Map<string, number>();
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        const pair = [word[i], word[i + 1]].map((id) => String(id).padStart(6, "0")).join(" ");
        counts.set(pair, (counts.get(pair) ?? 0) + 1);
      }
    }
    const [best] = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
    const [left, right] = best[0].split(" ").map(Number);
    const joined = vocab[pieces[left] + pieces[right]];
    for (const word of words) {
      for (let i = 0; i + 1 < word.length; i++) {
        if (word[i] === left && word[i + 1] === right) word.splice(i, 2, joined);
      }
    }
    merges.push(`${pieces[left]} ${pieces[right]}`);
  }
  return merges;
}

Deno.test("training is a function of the text", async () => {
  const again = await trainTokenizer(corpus, { vocabSize: 700, lowercase: true, sentinels: 16 });
  assert.deepEqual(again, trained);
  assert.equal(new Tokenizer(again).hash, new Tokenizer(trained).hash);
});

Deno.test("no piece spells a special token", async () => {
  const lines = Array.from({ length: 50 }, () => "<S> ＜s＞ a<S> <SEN000>");
  const json = await trainTokenizer(lines, { vocabSize: 264, lowercase: true, sentinels: 1 });
  assert.equal((json.model.vocab as Record<string, number>)["<s>"], 0);
  assertSameIds(json, lines);
});

Deno.test("a vocabulary that does not fit the text is refused with what would", async () => {
  const train = (vocabSize: number) =>
    trainTokenizer(["to be or not to be"], { vocabSize, lowercase: true, sentinels: 0 });
  await assert.rejects(train(259), (error: Error) => {
    return error instanceof UserError && error.message.includes("260");
  });
  const largest = await train(5000).then(() => 0, (error: Error) => {
    assert.ok(error instanceof UserError);
    return Number(/at most (\d+)/.exec(error.message)![1]);
  });
  assert.equal(new Tokenizer(await train(largest)).vocabSize, largest);
});

Deno.test("a sample limit stops reading", async () => {
  let read = 0;
  const endless = (function* () {
    for (;; read++) yield "some words, again and again";
  })();
  await trainTokenizer(endless, { vocabSize: 262, lowercase: true, sentinels: 0, sample: 1000 });
  assert.ok(read < 50);
});

Deno.test("long words: the heap and the scan join alike", () => {
  const random = new Random(key(5));
  const table = mergeTable([[1, 1, 4], [1, 2, 5], [4, 4, 6], [5, 5, 7], [2, 4, 8], [6, 3, 9]]);
  for (let round = 0; round < 300; round++) {
    const length = 2 + random.below(62);
    const word = Uint32Array.from({ length }, () => 1 + random.below(3));
    // A piece that joins with nothing: alone it makes the word long, and changes nothing else.
    const long = Uint32Array.from([...word, ...new Array<number>(80).fill(10)]);
    const scanned = word.subarray(0, merge(word, length, table));
    const heaped = long.subarray(0, merge(long, length + 80, table) - 80);
    assert.deepEqual(heaped, scanned);
  }
});

Deno.test("a megabyte without a space is encoded", () => {
  const tokenizer = new Tokenizer(trained);
  const text = "abcdefghij".repeat(100_000);
  assert.equal(tokenizer.decode(tokenizer.encode(text)), text);
});

Deno.test("other tokenizers run step by step, texts of any length", () => {
  const names = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁cat", "▁", "t", "h", "e"];
  const json: TokenizerJson = {
    added_tokens: names.slice(0, 4).map((content, id) => ({ id, content, special: true })),
    normalizer: null,
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
    post_processor: null,
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always" },
    model: {
      type: "Unigram",
      unk_id: 3,
      vocab: names.map((name, i) => [name, -i]),
      byte_fallback: true,
    },
  };
  const tokenizer = new Tokenizer(json);
  assert.ok(!tokenizer.fast);
  assert.equal(tokenizer.rows, 10);
  assert.deepEqual([...tokenizer.encode("the cat")], [4, 5]);
  assert.equal(tokenizer.decode([4, 5]), "the cat");
  assert.equal(tokenizer.decode([]), "");
  const long = "the cat ".repeat(40_000).trim();
  assert.equal(tokenizer.encode(long).length, 80_000);
});

Deno.test("a file that is no tokenizer is refused with its name", async () => {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  const refused = (content: string, ...parts: string[]) => {
    Deno.writeTextFileSync(file, content);
    assert.throws(() => loadTokenizer(file), (error: Error) => {
      assert.ok(error instanceof UserError, error.stack);
      return [file, ...parts].every((part) => error.message.includes(part));
    });
  };
  refused("{");
  refused("{}", "model");
  refused("null", "model");
  refused(
    JSON.stringify({ ...trained, added_tokens: [], model: { type: "BPE", vocab: {} } }),
    "<s>",
  );
  Deno.writeTextFileSync(file, JSON.stringify(trained));
  assert.equal(loadTokenizer(file).hash, new Tokenizer(trained).hash);
  await Deno.remove(file);
  assert.throws(() => loadTokenizer(file), UserError);
});

Deno.test("workers give what one thread gives, in order", async () => {
  const tokenizer = new Tokenizer(trained);
  const documents: Document[] = Array.from({ length: 200 }, (_, i) => ({
    lines: corpus.slice(i % corpus.length, i % corpus.length + 9).concat(`document ${i}`),
    source: "",
  }));
  const [one, two] = [1, 2].map((workers) =>
    Array.fromAsync(encodeDocuments(documents, tokenizer, workers))
  );
  assert.deepEqual(await two, await one);
  const last = (await one).at(-1)!;
  assert.equal(tokenizer.decode(last.tokens.slice(-last.lengths.at(-1)!)), "document 199");
});

Deno.test("an error while reading stops the workers and is passed on", async () => {
  const failing = async function* (): AsyncGenerator<Document> {
    yield { lines: corpus, source: "" };
    await Promise.resolve();
    throw new UserError("the disk is gone");
  };
  const encoding = Array.fromAsync(encodeDocuments(failing(), new Tokenizer(trained), 2));
  await assert.rejects(encoding, /the disk is gone/);
});
