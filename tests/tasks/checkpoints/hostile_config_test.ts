// Every kind of small JSON file and vocabulary of a model, damaged 10,000 times and more: each is used, or
// refused in one line; what is used works.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { hubConfig, modelFromHubConfig } from "../../../models/hub_config.ts";
import { parameterCount, parameterShapes } from "../../../models/parameters.ts";
import { preset } from "../../../models/presets.ts";
import { parseJson } from "../../../models/formats/untrusted.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import { readModel } from "../../../tasks/checkpoints/model.ts";
import { loadTokenizer } from "../../../tasks/tokenizer/load.ts";
import { Tokenizer, type TokenizerJson } from "../../../tasks/tokenizer/tokenizer.ts";
import { Charsmap } from "../../../tasks/tokenizer/charsmap.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";
import { trainUnigram } from "../../../tasks/tokenizer/train_unigram.ts";
import { fuzz, fuzzJson, joined, type Outcome } from "../../fuzz.ts";
import { modelBytes } from "../tokenizer/sentencepiece_bytes.ts";
import { METRO, metroTokenizer, T5, t5Tokenizer } from "../small_checkpoint.ts";

/** Mutations of each kind; more by hand. */
const MANY = Number(Deno.env.get("METRO_MUTATIONS") ?? 5000);

let scratch: string;
Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "hostile-"));
});
Deno.test.afterAll(() => rm(scratch, { recursive: true }));

/** The damage must go deep enough to be refused, and leave enough whole to get past the first checks. */
function assertBoth({ read, refused }: Outcome, least = 50): void {
  assert.ok(read >= least && refused >= least, JSON.stringify({ read, refused }));
}

// --- config.json ---

for (const [kind, config] of Object.entries({ METRO, T5 })) {
  Deno.test(`config.json of ${kind}: damaged ones are models, or are refused`, async () => {
    const outcome = await fuzzJson(hubConfig(config), MANY, (text) => {
      const model = modelFromHubConfig(parseJson(text));
      assert.ok(Number.isFinite(parameterCount(model)));
      assert.ok(parameterShapes(model).size < 100_000);
    });
    assertBoth(outcome);
  });
}

const { vocabSize: _, sentinels: __, maxPositions: ___, positionRows: ____, ...sizes } =
  preset("tiny").model;

/** What runs write, of sizes that the tokenizer for METRO fits. */
const RUNS = {
  "a pretraining run": { preset: "tiny", source: "paper", seed: 3, ...sizes },
  "a finetuning run": {
    kind: "finetune",
    preset: "tiny",
    source: "paper",
    model: METRO,
    sourceLength: 64,
    targetLength: 16,
    datasets: ["a/b"],
  },
  "a finetuned T5": {
    kind: "finetune",
    preset: "base",
    source: "release",
    model: { ...T5, vocabSize: 99 },
    sourceLength: 64,
    targetLength: 16,
    datasets: [],
  },
  "a released model": hubConfig(METRO),
};

for (const [kind, json] of Object.entries(RUNS)) {
  Deno.test(`readModel: ${kind} with a damaged config.json is read, or refused`, async () => {
    const folder = join(scratch, kind);
    await mkdir(folder);
    await writeFile(join(folder, "tokenizer.json"), JSON.stringify(metroTokenizer()));
    await writeTensors(join(folder, "model.safetensors"), [], () => new Float32Array(), {});
    const read = async (text: string) => {
      await writeFile(join(folder, "config.json"), text);
      const { config, tokenizer } = await readModel(folder);
      assert.ok(Number.isFinite(parameterCount(config)));
      tokenizer.decode([0, Math.min(config.vocabSize, tokenizer.rows) - 1]);
    };
    await read(JSON.stringify(json));
    assertBoth(await fuzzJson(json, 300, read), 1);
  });
}

// --- tokenizer.json ---

const TEXT = "It's a good\u3000test,\n says <pad> 12,345 — ＷＨＡＴ?! \ud800😀 <extra_id_3>  ";

const added = (content: string, id: number, special = true) => {
  return { id, content, single_word: false, lstrip: false, rstrip: false, special };
};
const SPECIALS = ["<pad>", "</s>", "<unk>"];
const WORDS = ["it", "'", "s", "a", "good", "##o", "##d", "g", "t", "##est", ",", "▁", "▁a", "1"];
const VOCAB = Object.fromEntries([...SPECIALS, ...WORDS].map((piece, id) => [piece, id]));
const BASE = {
  added_tokens: SPECIALS.map((token, id) => added(token, id, id < 2)),
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
};
const regexSplit = {
  type: "Split",
  pattern: { Regex: "[\\s,]+" },
  behavior: "Isolated",
  invert: false,
};
/** Kinds that no short cut is for. */
const OTHERS: Record<string, unknown> = {
  WordPiece: {
    ...BASE,
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      lowercase: true,
      strip_accents: null,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "<unk>",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: VOCAB,
    },
  },
  BPE: {
    ...BASE,
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Prepend", prepend: "▁" },
        { type: "Replace", pattern: { String: " " }, content: "▁" },
        { type: "StripAccents" },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [{ type: "Digits", individual_digits: true }, { type: "Punctuation" }],
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      unk_token: "<unk>",
      fuse_unk: true,
      byte_fallback: true,
      vocab: { ...VOCAB, "<0x0A>": 30, "▁ag": 31 },
      merges: ["▁ a", "▁a g"],
    },
  },
  Unigram: {
    ...BASE,
    normalizer: { type: "NFKC" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [regexSplit, { type: "Metaspace", replacement: "▁", prepend_scheme: "first" }],
    },
    decoder: { type: "Metaspace", replacement: "_" },
    model: {
      type: "Unigram",
      unk_id: 2,
      vocab: [...SPECIALS, ...WORDS].map((piece, i) => [piece, -i / 4]),
    },
  },
};

const lines = ["it's a good test", "a good toast, they say", "a goose says so"];
const TOKENIZERS: Record<string, unknown> = {
  "our BPE": await trainTokenizer(lines, { vocabSize: 270, lowercase: true, sentinels: 2 }),
  "our Unigram": await trainUnigram(lines, { vocabSize: 22, lowercase: true, sentinels: 2 }),
  METRO: metroTokenizer(60),
  T5: t5Tokenizer(),
  ...OTHERS,
};

/** Ids of a text are rows, and have a text. */
function use(tokenizer: Tokenizer): void {
  for (const text of [TEXT, ""]) {
    const ids = tokenizer.encode(text);
    assert.ok(ids.every((id) => id < tokenizer.rows));
    assert.equal(typeof tokenizer.decode(ids), "string");
  }
  const { pad, eos, unk } = tokenizer;
  assert.equal(typeof tokenizer.decode([pad, eos, unk, tokenizer.rows - 1]), "string");
}

for (const [kind, json] of Object.entries(TOKENIZERS)) {
  Deno.test(`tokenizer.json of ${kind}: damaged ones encode and decode, or are refused`, async () => {
    const whole = new Tokenizer(json as TokenizerJson);
    assert.equal(whole.fast, !(kind in OTHERS));
    const read = (text: string) => use(new Tokenizer(parseJson(text) as TokenizerJson));
    read(JSON.stringify(json));
    // Nearly all of a small file means something, and is wrong when it is something else.
    assertBoth(await fuzzJson(json, 1500, read), 20);
  });
}

Deno.test("tokenizer.json: an id that no table could have, and what is no merge, are refused", () => {
  const bpe = OTHERS.BPE as TokenizerJson, ours = TOKENIZERS["our BPE"] as TokenizerJson;
  const refused = (json: TokenizerJson, message: RegExp) =>
    assert.throws(() => new Tokenizer(json), { name: "UserError", message });
  for (const id of [1e9, 2 ** 53, -1, 0.5, NaN, "7", null]) {
    refused(
      { ...bpe, added_tokens: [added("x", id as number)] },
      /added_tokens: entry 0: expected/,
    );
    refused(
      { ...bpe, model: { ...bpe.model, vocab: { x: id } } },
      /model\.vocab: entry 0: expected a piece with its id/,
    );
  }
  for (const merge of [null, 7, "a", ["a"], ["a", { toString: 1 }], "a b c d"]) {
    refused({ ...ours, model: { ...ours.model, merges: [merge] } }, /merge/);
  }
});

// --- SentencePiece ---

type Files = Readonly<Record<string, string | Uint8Array>>;

/** Damages one file of a folder that loads, and encodes with what still loads. */
async function damageFile(files: Files, name: string, times: number): Promise<Outcome> {
  const folder = await mkdtemp(join(scratch, "vocabulary-"));
  for (const [name, contents] of Object.entries(files)) {
    await writeFile(join(folder, name), contents);
  }
  const load = async (contents: string | Uint8Array) => {
    await writeFile(join(folder, name), contents);
    use(loadTokenizer(folder));
  };
  const whole = files[name];
  await load(whole);
  if (typeof whole !== "string") return await fuzz([joined(whole)], times, load);
  if (name.endsWith(".json")) return await fuzzJson(JSON.parse(whole), times, load);
  return await fuzz([new TextEncoder().encode(whole)], times, load);
}

const METRO_FILES: Files = {
  "sp.model": modelBytes({
    pieces: [["[UNK]", 0, "unknown"], ["▁", -2.5], ["a", -4.125], ["▁good", -6], ["t", -5]],
  }),
  "dict.txt": "▁ 9\nt 4\na 3\n▁good 1\n",
  "tokenizer_config.json": '{"lower": true, "do_lower_case": [1]}',
};
const T5_FILES: Files = {
  "spiece.model": modelBytes({
    pieces: [
      ["<pad>", 0, "control"],
      ["</s>", 0, "control"],
      ["<unk>", 0, "unknown"],
      ["▁", -2.5],
      ["a", -4.125],
      ["▁a", -6],
      ["good", -4, "userDefined"],
    ],
    rules: { "W": "w", "!": "?", "o": "" },
  }),
  "tokenizer_config.json": '{"extra_ids": 3, "x": {}}',
};

for (
  const [kind, files, name, times] of [
    ["METRO", METRO_FILES, "sp.model", MANY],
    ["METRO", METRO_FILES, "dict.txt", 10_000],
    ["METRO", METRO_FILES, "tokenizer_config.json", MANY],
    ["T5", T5_FILES, "spiece.model", MANY],
    ["T5", T5_FILES, "tokenizer_config.json", MANY],
  ] as const
) {
  Deno.test(`${name} of ${kind}: damaged ones make a tokenizer, or are refused`, async () => {
    assertBoth(await damageFile(files, name, times));
  });
}

Deno.test("tokenizer_config.json: ids beyond all measure are refused", async () => {
  const folder = await mkdtemp(join(scratch, "extra-"));
  const files = { ...T5_FILES, "tokenizer_config.json": '{"extra_ids": 1e15}' };
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  const message = /extra_ids: expected a count of at most 10000, got 1000000000000000/;
  assert.throws(() => loadTokenizer(folder), { name: "UserError", message });
});

Deno.test("charsmap: tries that run in circles or out of the array end, and write what is there", () => {
  const random = new Random(key(43));
  for (let round = 0; round < 10_000; round++) {
    const units = Uint32Array.from({ length: 1 + random.below(40) }, () => random.bits());
    // Offsets that stay near make circles; labels that are letters make matches.
    for (let i = 0; i < units.length; i++) {
      if (random.below(4) > 0) {
        units[i] = random.below(64) << 10 | random.below(2) << 8 | random.below(128);
      }
    }
    const size = new Uint8Array(Uint32Array.of(units.byteLength).buffer);
    const charsmap = new Charsmap(joined(size, new Uint8Array(units.buffer), "ab\0c\0"));
    const text = Array.from({ length: 40 }, () => String.fromCharCode(random.below(160))).join("");
    assert.ok(charsmap.apply(text).length <= 2 * text.length);
  }
});

Deno.test("charsmap: a replacement without end is refused", () => {
  const trie = [8, 0, 0, 0, ...new Array(8).fill(0)];
  assert.ok(new Charsmap(Uint8Array.from([...trie, ...new Array(255).fill(97), 0])));
  const long = Uint8Array.from([...trie, ...new Array(256).fill(97)]);
  assert.throws(() => new Charsmap(long), /at most 255 bytes, got 256/);
});
