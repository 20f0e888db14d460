// SentencePiece's models: the file format, normalisation, METRO's pre-tokenizer, and tokenizers made of
// them. Ids of `RECORDED` are those of SentencePiece 0.1.97's spm_encode for the same bytes.

import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tokenizer as Reference } from "@huggingface/tokenizers";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { encodePrompt, encodeTarget } from "../../../tasks/prompts/ids.ts";
import { loadTokenizer } from "../../../tasks/tokenizer/load.ts";
import { Tokenizer, type TokenizerJson } from "../../../tasks/tokenizer/tokenizer.ts";
import { Charsmap } from "../../../tasks/tokenizer/charsmap.ts";
import { metroText } from "../../../tasks/tokenizer/metro_text.ts";
import { readSentencePiece } from "../../../tasks/tokenizer/sentencepiece.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";
import { charsmapBytes, modelBytes, type ModelParts } from "./sentencepiece_bytes.ts";

const VOCABULARIES = fileURLToPath(new URL("../../../../shared/data/metro_vocab", import.meta.url));
const ignore = !hasGolden;
if (ignore) console.log("sentencepiece: the released vocabularies are not here, skipping them");

let scratch: string;
Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "sentencepiece-"));
});
Deno.test.afterAll(() => rm(scratch, { recursive: true }));

/** A folder with these files. */
async function folderOf(files: Record<string, string | Uint8Array>): Promise<string> {
  const folder = await mkdtemp(join(scratch, "folder-"));
  for (const [name, content] of Object.entries(files)) await writeFile(join(folder, name), content);
  return folder;
}

function refused(run: () => unknown, message: RegExp): void {
  assert.throws(run, (error) => error instanceof UserError && message.test(error.message));
}

const T5: ModelParts = {
  pieces: [
    ["<pad>", 0, "control"],
    ["</s>", 0, "control"],
    ["<unk>", 0, "unknown"],
    ["▁", -2.5],
    ["▁the", -3.25],
    ["a", -4.125],
    ["aa", -8.25],
    ["▁a", -6.625],
    ["b", -4.7],
    ["ab", -5.3],
    ["<sep>", 0, "userDefined"],
    ["abab", -1, "unused"],
    ["i", -3.1],
    ["ii", -6.2],
    ["v", -5],
    ["vi", -8.1],
    ["c▁d", -7],
    ["c", -4],
    ["d", -4.5],
    ["é", -9],
  ],
  rules: {
    "A": "a",
    "B": "b",
    "e\u0301": "é",
    "ⅷ": "viii",
    "\t": " ",
    "\u3000": " ",
    "\u200b": "",
    "¨": " \u0308",
    "½": "1/2",
  },
};

const RECORDED: readonly [text: string, ids: string][] = [
  ["the aa b", "4 3 6 3 8"],
  ["  A  B\tab ", "7 3 8 3 9"],
  ["aaaaaaa", "7 6 6 6"],
  ["viii vii ⅷ", "3 14 12 13 3 14 12 12 3 15 12 12"],
  ["c d cd c  d", "3 16 3 17 18 3 16"],
  ["abab ab", "3 9 9 3 9"],
  ["x<sep>y", "3 2 10 2"],
  ["a<sep> <SEP> b", "7 10 3 2 3 8"],
  ["e\u0301 é e", "3 19 3 19 3 2"],
  ["xyz x yy", "3 2 3 2 3 2"],
  ["\u200b", ""],
  ["a¨b½", "7 3 2 8 2"],
  ["▁a▁", "3 7"],
  ["ii iii iiii a\u3000b", "3 13 3 12 12 12 3 12 13 12 7 3 8"],
  ["", ""],
  ["the", "4"],
];

Deno.test("sentencepiece: a model's bytes are read: pieces, types, float32 scores, rules", () => {
  const { pieces, unk, normalization, charsmap } = readSentencePiece(modelBytes(T5));
  const expected = T5.pieces.map(([piece, score, type = "normal"]) => {
    return { piece, score: Math.fround(score), type };
  });
  assert.deepEqual(pieces, expected);
  assert.deepEqual([unk, normalization], [2, "test"]);
  assert.deepEqual(charsmap, charsmapBytes(T5.rules!));
});

Deno.test("sentencepiece: a broken model, or one of another kind, is refused with the reason", () => {
  const of = (parts: Partial<ModelParts>) => () =>
    readSentencePiece(modelBytes({ ...T5, ...parts }));
  const unknown = ["<unk>", 0, "unknown"] as const;
  refused(of({ trainer: { 3: 2 } }), /sp\.model: .*expected a Unigram model, got one of kind bpe/);
  refused(of({ trainer: { 35: 1 } }), /falls back to bytes/);
  refused(of({ trainer: { 24: 1 } }), /words end in a space/);
  for (const flag of [3, 4, 5]) refused(of({ normalizer: { [flag]: 0 } }), /add_dummy_prefix/);
  refused(of({ pieces: [unknown] }), /it has no pieces/);
  refused(of({ pieces: [["a", 1]] }), /expected one unknown piece, got 0/);
  refused(of({ pieces: [unknown, ["a", 1], ["a", 2]] }), /'a' is there twice/);
  refused(of({ pieces: [unknown, ["a", NaN]] }), /'a' has no finite score/);
  refused(of({ pieces: [unknown, ["", 1]] }), /a piece is empty/);
  refused(of({ pieces: [unknown, ["<0x00>", 1, "byte"]] }), /falls back to bytes/);
  const read = (...bytes: number[]) => () => readSentencePiece(Uint8Array.from(bytes), "x");
  refused(read(), /^x: not usable as a SentencePiece model: expected one unknown piece/);
  refused(read(10, 100), /ends within a field/);
  refused(read(128), /ends within a number/);
  refused(read(...new Array(12).fill(255)), /a number is too long/);
  refused(read(11), /unknown wire type 3/);
  refused(read(0, 0), /number 0/);
  refused(read(8, 1), /field 1 has wire type 0, expected 2/);
  refused(read(10, 3, 10, 1, 255), /not UTF-8/);
  refused(read(10, 2, 24, 9), /unknown type 9/);
  refused(read(26, 6, 18, 4, 255, 255, 255, 255), /charsmap/);
});

Deno.test("charsmap: everywhere the longest rule applies", () => {
  const random = new Random(key(4));
  const letters = [..."abcé漢😀 "];
  const text = (longest: number) =>
    Array.from({ length: random.below(longest + 1) }, () => letters[random.below(letters.length)])
      .join("");
  for (let round = 0; round < 100; round++) {
    const rules = Object.fromEntries(
      Array.from({ length: 1 + random.below(8) }, () => [text(3) || "a", text(4)]),
    );
    const sources = Object.keys(rules).sort((a, b) => b.length - a.length);
    const charsmap = new Charsmap(charsmapBytes(rules));
    for (let line = 0; line < 20; line++) {
      const input = text(30);
      let expected = "";
      for (let at = 0; at < input.length;) {
        const source = sources.find((source) => input.startsWith(source, at));
        expected += source === undefined ? input[at] : rules[source];
        at += source?.length ?? 1;
      }
      assert.equal(charsmap.apply(input), expected, JSON.stringify({ rules, input }));
    }
  }
  assert.equal(new Charsmap(charsmapBytes({ b: "c" })).apply("a\ud800b"), "a\ufffdc");
});

Deno.test({
  name: "charsmap: the released rules normalise as nmt_nfkc, 32k folds case, too",
  ignore,
  fn() {
    const [folding, keeping] = ["vocab_32k", "vocab_64k"].map((name) => {
      const file = join(VOCABULARIES, name, "sp.model");
      return new Charsmap(readSentencePiece(Deno.readFileSync(file)).charsmap);
    });
    const text = "ﬁne Ⅷ e\u0301 ＡＢ ½ ㎏ ™ x\u00a0y\u3000z\u200b Ｓtraße\x07";
    assert.equal(keeping.apply(text), "fine VIII é AB 1\u20442 kg TM x y z  Straße");
    assert.equal(folding.apply(text), "fine viii é ab 1\u20442 kg tm x y z  straße");
  },
});

/** METRO's pre-tokenizer word by word, as its description says it, not as rules. */
function splitWords(text: string): string {
  const isPunctuation = (c: string) => /[!-/:-@[-`{-~]|\p{P}/u.test(c);
  const ascii = text.replaceAll("``", '"').replaceAll("''", '"').replace(/[‘’´]/g, "'")
    .replace(/[“”]/g, '"').replace(/[—–]/g, "-");
  const spaced = ascii.replaceAll("\x85", " ").replaceAll("\x1c", " ").trim();
  const words = (spaced === "" ? [] : spaced.split(/\s+/)).flatMap((word) => {
    const characters = [...word], marks = characters.map(isPunctuation);
    const first = marks.indexOf(false), last = marks.lastIndexOf(false) + 1;
    if (first < 0) return [word];
    const parts = [[0, first], [first, last], [last, undefined]] as const;
    return parts.map(([from, to]) => characters.slice(from, to).join("")).filter((part) => part);
  });
  const clitics = new Set("s m d t S M D T ll LL re RE ve VE".split(" "));
  return words.map((word, i) => {
    return (i === 0 || (words[i - 1].endsWith("'") && clitics.has(word)) ? "" : " ") + word;
  }).join("");
}

Deno.test("METRO's rules split words as their description says", () => {
  const random = new Random(key(6));
  const parts = [..."ab1é漢😀.,!'’‘´\"“”`-–—()[]<>|$+…。、 \t\n\u00a0\u3000\x85\x1c"]
    .concat(["``", "''", "'s", "'ll", "'RE ", " 't ", "don't", "  "]);
  for (let round = 0; round < 5000; round++) {
    const length = random.below(16);
    const text = Array.from({ length }, () => parts[random.below(parts.length)]).join("");
    assert.equal(metroText(text, false), splitWords(text), JSON.stringify(text));
    assert.equal(metroText(text, true), splitWords(text).toLowerCase());
  }
  const dots = ".".repeat(100_000);
  assert.equal(metroText(`${dots}a${dots}`, false), `${dots} a ${dots}`);
});

Deno.test("T5: ids are SentencePiece's; no <s>, no sentinels, extra ids come last first", async () => {
  const tokenizer = loadTokenizer(await folderOf({ "spiece.model": modelBytes(T5) }));
  assert.ok(tokenizer.fast);
  for (const [text, ids] of RECORDED) {
    assert.equal(tokenizer.encode(text).join(" "), ids, JSON.stringify(text));
  }
  const { bos, pad, eos, unk, rows, vocabSize, sentinels } = tokenizer;
  assert.deepEqual([bos, pad, eos, unk], [undefined, 0, 1, 2]);
  assert.deepEqual([rows, vocabSize, sentinels], [120, 120, 0]);
  assert.deepEqual([...tokenizer.encode("the<extra_id_0>a<extra_id_99></s>")], [4, 119, 7, 20, 1]);
  assert.equal(tokenizer.decode([4, 7, 3, 8, 1]), "the a b</s>");
  assert.deepEqual([...encodePrompt(tokenizer, " the   a ", 9)], [4, 7, 1]);
  assert.deepEqual([...encodePrompt(tokenizer, "the a b", 3)], [4, 7, 1]);
  assert.deepEqual([...encodeTarget(tokenizer, "the a b", 3)], [4, 7, 1]);
});

Deno.test("T5: the Hub's form of tokenizer.json gives the same ids, but for ties", async () => {
  const folder = await folderOf({ "spiece.model": modelBytes({ ...T5, pieces: plainPieces() }) });
  const { json } = loadTokenizer(folder);
  const { user_defined: _, unmatched: __, ...model } = json.model;
  const metaspace = { type: "Metaspace", replacement: "▁", add_prefix_space: true };
  const precompiled = (json.normalizer as { normalizers: unknown[] }).normalizers[0];
  const hub: TokenizerJson = {
    ...json,
    normalizer: precompiled,
    pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] },
    decoder: metaspace,
    model,
  };
  const [ours, theirs] = [new Tokenizer(json), new Tokenizer(hub)];
  // Scores are added in double precision there: what ties in single precision need not.
  for (const [text] of RECORDED.filter(([text]) => !/[▁<]|ii/.test(text))) {
    assert.deepEqual(theirs.encode(text), ours.encode(text), JSON.stringify(text));
  }
});

/** The pieces without those that only SentencePiece's own file describes. */
function plainPieces(): ModelParts["pieces"] {
  return T5.pieces.filter(([piece, , type]) =>
    type !== "userDefined" && type !== "unused" && piece !== "c▁d"
  );
}

const METRO: ModelParts = {
  pieces: [
    ["[CLS]", 0, "control"],
    ["[PAD]", 0, "control"],
    ["[SEP]", 0, "control"],
    ["[UNK]", 0, "unknown"],
    ["[MASK]", 0, "userDefined"],
    ...Array.from("▁abcdehinot.,'\"sTB", (c, i): [string, number] => [c, -6 - i / 7]),
    ["▁to", -3.3],
    ["▁be", -3.7],
    ["▁,", -2.9],
    ["▁the", -3.1],
    ["on", -4.2],
    ["▁not", -4.9],
  ],
};
const DICTIONARY = METRO.pieces.slice(4).map(([piece]) => `${piece} 1\n`).join("");

Deno.test("METRO: sp.model and dict.txt make the ids, lower case is the default", async () => {
  const files = { "sp.model": modelBytes(METRO), "dict.txt": DICTIONARY };
  const tokenizer = loadTokenizer(await folderOf(files));
  const { bos, pad, eos, unk, vocabSize, sentinels, sentinel0, rows } = tokenizer;
  const size = METRO.pieces.length;
  assert.deepEqual([bos, pad, eos, unk], [0, 1, 2, 3]);
  assert.deepEqual([vocabSize, sentinels, sentinel0, rows], [size, 512, size, size + 512]);
  const id = (piece: string) => METRO.pieces.findIndex(([text]) => text === piece);
  const expected = ["▁to", "▁be", "▁,"].map(id);
  assert.deepEqual([...tokenizer.encode(" To  Be,")], expected);
  assert.equal(tokenizer.decode(expected), "to be ,");
  assert.deepEqual([...encodePrompt(tokenizer, "to be,", 9)], [0, ...expected, 2]);
  const cased = await folderOf({ ...files, "tokenizer_config.json": '{"lower": false}' });
  assert.deepEqual([...loadTokenizer(cased).encode("To")], ["▁", "T", "o"].map(id));
  // Written out, a control token is text, its brackets words of their own.
  const written = [id("▁"), unk, id("▁"), id("s"), id("▁"), unk];
  assert.deepEqual([...tokenizer.encode("<s>")], written);
  const reversed = DICTIONARY.trimEnd().split("\n").reverse().join("\n") + "\n";
  const renumbered = loadTokenizer(await folderOf({ ...files, "dict.txt": reversed }));
  assert.deepEqual(
    [...renumbered.encode("to be,")],
    expected.map((id) => 4 + METRO.pieces.length - 1 - id),
  );
});

Deno.test("METRO: white space at the ends of a dictionary's lines is none of its symbols", async () => {
  const model = modelBytes(METRO);
  const hashes = [
    DICTIONARY,
    DICTIONARY.trimEnd(),
    ...["\r\n", " \t\n", "\x85\n"].map((end) => {
      return DICTIONARY.replaceAll("\n", end);
    }),
  ].map(async (dictionary) => {
    return loadTokenizer(await folderOf({ "sp.model": model, "dict.txt": dictionary })).hash;
  });
  assert.equal(new Set(await Promise.all(hashes)).size, 1);
});

Deno.test("METRO: tokenizer.json comes first, and gives the same ids in other readers", async () => {
  const folder = await folderOf({ "sp.model": modelBytes(METRO), "dict.txt": DICTIONARY });
  const tokenizer = loadTokenizer(folder);
  const copy = await folderOf({
    "tokenizer.json": JSON.stringify(tokenizer.json),
    "sp.model": "?",
  });
  for (const source of [copy, join(copy, "tokenizer.json"), join(folder, "sp.model")]) {
    assert.equal(loadTokenizer(source).hash, tokenizer.hash);
  }
  const other = new Reference(tokenizer.json, { clean_up_tokenization_spaces: false });
  const random = new Random(key(12));
  const parts = [..."abehnotTBx.,'\" "].concat(["to ", " be", "don't ", "'s ", "``", "—"]);
  for (let round = 0; round < 1000; round++) {
    const length = 1 + random.below(30);
    const text = Array.from({ length }, () => parts[random.below(parts.length)]).join("");
    const { ids } = other.encode(text, { add_special_tokens: false });
    assert.deepEqual([...tokenizer.encode(text)], text.trim() === "" ? [] : ids, text);
  }
  assert.deepEqual(other.encode("to").ids, [...encodePrompt(tokenizer, "to", 8)]);
});

Deno.test("METRO: a dictionary that does not fit the model is refused, as is a folder with neither", async () => {
  const model = modelBytes(METRO);
  const cases: [files: Record<string, string | Uint8Array>, message: RegExp][] = [
    [
      { "sp.model": model, "dict.txt": DICTIONARY + "x 1\n" },
      /dict\.txt: line \d+: 'x' is no piece/,
    ],
    [{ "sp.model": model, "dict.txt": DICTIONARY + "on 1\n" }, /'on' is no piece .*twice/],
    [{ "sp.model": model, "dict.txt": "[MASK] 1\n" }, /expected all pieces .*none for '▁'/],
    [{ "sp.model": model, "dict.txt": "[MASK]\n" }, /dict\.txt:1: expected a symbol and its count/],
    [{ "sp.model": model }, /dict\.txt: not found/],
    [{ "sp.model": "", "dict.txt": "" }, /sp\.model: not usable/],
    [
      { "sp.model": model, "dict.txt": DICTIONARY, "tokenizer_config.json": "{" },
      /tokenizer_config\.json: not JSON/,
    ],
    [{ "spiece.model": model }, /spiece\.model: .*no token <pad>/],
    [{ "readme.md": "" }, /expected a tokenizer: one of tokenizer\.json, sp\.model, spiece\.model/],
  ];
  for (const [files, message] of cases) {
    const folder = await folderOf(files);
    refused(() => loadTokenizer(folder), message);
  }
  refused(() => loadTokenizer(join(scratch, "none.model")), /none\.model: cannot be read/);
});

Deno.test({
  name: "METRO: other readers of the released vocabularies' tokenizer.json give the golden ids",
  ignore,
  fn() {
    const { json } = loadTokenizer(join(VOCABULARIES, "vocab_32k"));
    const other = new Reference(json, { clean_up_tokenization_spaces: false });
    const lines = Deno.readTextFileSync(goldenPath("tokenizer/metro.jsonl")).trim().split("\n");
    for (const { text, ids_32k_lower } of lines.map((line) => JSON.parse(line)).slice(2)) {
      assert.deepEqual(other.encode(text, { add_special_tokens: false }).ids, ids_32k_lower);
    }
  },
});
