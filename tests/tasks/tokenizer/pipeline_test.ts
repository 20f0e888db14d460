// The steps of a tokenizer.json: ids of Rust tokenizers 0.23.2, the features one by one with ids derived by
// hand, and random settings against slow definitions.

import assert from "node:assert/strict";
import { key, Random } from "../../../ops/graph/random.ts";
import { checkTokenizerJson } from "../../../tasks/tokenizer/check_json.ts";
import { checkSteps, PipelineCodec } from "../../../tasks/tokenizer/pipeline.ts";
import { compileNormalizers } from "../../../tasks/tokenizer/normalizers.ts";
import { compilePreTokenizers } from "../../../tasks/tokenizer/pre_tokenizers.ts";
import { Regex } from "../../../tasks/tokenizer/regex.ts";
import { Tokenizer, type TokenizerJson } from "../../../tasks/tokenizer/tokenizer.ts";
import { mutate, recorded } from "./mutations.ts";

const steps = () => ({ left: 1_000_000 });

Deno.test("recorded: random settings give the ids that Rust tokenizers 0.23.2 gave", async () => {
  let texts = 0;
  for (const { json, cases } of await recorded()) {
    const tokenizer = new Tokenizer(json);
    for (const [text, ids] of cases) {
      const { vocab: _, ...model } = json.model;
      const settings = JSON.stringify({ ...json, model }).slice(0, 3000);
      assert.deepEqual([...tokenizer.encode(text)], ids, `${JSON.stringify(text)} ${settings}`);
      texts++;
    }
  }
  assert.ok(texts > 150);
});

// --- by hand ---

const WORDS: TokenizerJson = {
  added_tokens: [],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: {
    type: "WordLevel",
    unk_token: "?",
    vocab: { "?": 0, a: 1, b: 2, "a b": 3, "▁a": 4, "▁b": 5 },
  },
};
const added = (content: string, settings: object = {}) => {
  const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  return { id: 6, content, ...plain, special: false, ...settings };
};
const bpe = (settings: object) => ({
  type: "BPE",
  merges: [["a", "b"]],
  vocab: { "?": 0, a: 1, b: 2, ab: 3, "<0x63>": 4, "b!": 5, "ab!": 6, "#b": 7, "#a": 8 },
  ...settings,
});
const unigram = (settings: object) => ({
  type: "Unigram",
  unk_id: 0,
  vocab: [["?", 0], ["a", -1], ["b", -2], ["ab", -2.5], ["<0xC3>", 0], ["<0xA9>", 0]],
  ...settings,
});
const split = (behavior: string, invert = false, pattern: object = { String: " " }) => {
  return { type: "Split", pattern, behavior, invert };
};
const meta = (scheme: string, settings: object = {}) => {
  return { type: "Metaspace", replacement: "▁", prepend_scheme: scheme, ...settings };
};

/** What is set, a text, and its ids. */
const BY_HAND: [settings: object, text: string, ids: number[]][] = [
  [{}, "a b", [3]],
  [{}, "a b ", [0]],
  [{ added_tokens: [added("x")] }, "axb", [1, 6, 2]],
  [{ added_tokens: [added("x", { single_word: true })] }, "ax", [0]],
  [{ added_tokens: [added("x", { single_word: true })] }, "x", [6]],
  [{ added_tokens: [added("x", { lstrip: true })] }, "a \n xb", [1, 6, 2]],
  [{ added_tokens: [added("x", { rstrip: true })] }, "ax \u2003b", [1, 6, 2]],
  [{ added_tokens: [added("x", { rstrip: true })] }, "ax b x", [1, 6, 0, 6]],
  [{ added_tokens: [added("X", { normalized: true })], normalizer: { type: "Lowercase" } }, "AXb", [
    1,
    6,
    2,
  ]],
  [{ added_tokens: [added("X")], normalizer: { type: "Lowercase" } }, "axB", [0]],
  [{ added_tokens: [added("\n")] }, "a\n\nb", [1, 6, 6, 2]],
  [{ pre_tokenizer: split("Removed") }, "a b", [1, 2]],
  [{ pre_tokenizer: split("Removed", true) }, "a b", [0]],
  [{ pre_tokenizer: split("Isolated") }, "a b", [1, 0, 2]],
  [{ pre_tokenizer: split("MergedWithNext", false, { String: "a" }) }, "ba b", [2, 3]],
  [{ pre_tokenizer: split("MergedWithPrevious", false, { String: "a" }) }, "a bba", [1, 0]],
  [{ pre_tokenizer: split("Contiguous", false, { Regex: "b" }) }, "abb", [1, 0]],
  [{ pre_tokenizer: meta("always") }, "a b", [4, 5]],
  [{ pre_tokenizer: meta("always") }, "▁a b", [4, 5]],
  [{ pre_tokenizer: meta("never") }, "a b", [1, 5]],
  [{ pre_tokenizer: meta("first"), added_tokens: [added("x")] }, "axa b", [4, 6, 1, 5]],
  [{ pre_tokenizer: meta("always"), added_tokens: [added("x")] }, "axa b", [4, 6, 4, 5]],
  [{ pre_tokenizer: meta("always", { split: false }) }, "a b", [0]],
  [{ normalizer: { type: "Prepend", prepend: "▁" } }, "a", [4]],
  [{ normalizer: { type: "Strip", strip_left: true, strip_right: false } }, "\u3000a b", [3]],
  [{ normalizer: { type: "Replace", pattern: { Regex: "\\s+" }, content: " " } }, "a \n\x85b", [3]],
  [{ normalizer: { type: "NFKC" } }, "ａ b", [3]],
  [{ normalizer: { type: "StripAccents" } }, "a\u0301 b", [3]],
  [{ model: bpe({}) }, "abc", [3]],
  [{ model: bpe({ unk_token: "?" }) }, "ababcc", [3, 3, 0, 0]],
  [{ model: bpe({ unk_token: "?", fuse_unk: true }) }, "abdc", [3, 0]],
  [{ model: bpe({ unk_token: "?", byte_fallback: true }) }, "abcd", [3, 4, 0]],
  [{ model: bpe({ end_of_word_suffix: "!", merges: [["a", "b!"]] }) }, "ab", [6]],
  [{ model: bpe({ continuing_subword_prefix: "#", merges: [["a", "#b"]] }) }, "aba", [3, 8]],
  [{ model: bpe({ ignore_merges: true, merges: [] }) }, "ab", [3]],
  [{ model: bpe({ ignore_merges: false, merges: [] }) }, "ab", [1, 2]],
  [{ model: unigram({}) }, "abé", [3, 0]],
  [{ model: unigram({ byte_fallback: true }) }, "abé", [3, 4, 5]],
  [{ model: unigram({ byte_fallback: true }) }, "aèè", [1, 0]],
];

Deno.test("by hand: each feature gives the ids that its definition says", () => {
  for (const [settings, text, expected] of BY_HAND) {
    const json = { ...WORDS, ...settings } as TokenizerJson;
    checkTokenizerJson(json);
    checkSteps(json);
    const ids = [...new PipelineCodec(json).encode(text)];
    assert.deepEqual(ids, expected, JSON.stringify([settings, text]));
  }
});

// --- at random ---

const random = new Random(key(77));
const pick = <T>(list: readonly T[]) => list[random.below(list.length)];
const word = (letters: string, most: number) => {
  return Array.from({ length: random.below(most + 1) }, () => pick([...letters])).join("");
};

/** Splits letter by letter: whether a piece ends between two stretches follows from their kinds alone. */
function slowSplit(text: string, letter: string, behavior: string, invert: boolean): string[] {
  // A run of other letters is one stretch, every letter that is looked for another.
  const stretches = text.match(new RegExp(`${letter}|[^${letter}]+`, "g")) ?? [];
  const found = stretches.map((stretch) => (stretch === letter) !== invert);
  let pieces = "";
  stretches.forEach((stretch, i) => {
    const next = i + 1 < stretches.length;
    if (behavior === "Removed" && found[i]) pieces += "|";
    else pieces += stretch;
    if (!next) return;
    const before = found[i], after = found[i + 1];
    // "With the previous" joins a match to what precedes it, unless that is a match itself.
    const joined = behavior === "Contiguous"
      ? before === after
      : behavior === "MergedWithPrevious"
      ? after && !before
      : behavior === "MergedWithNext" && before && !after;
    if (!joined) pieces += "|";
  });
  return pieces.split("|").filter((piece) => piece !== "");
}

Deno.test("at random: every split cuts as its definition says", () => {
  const behaviors = ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];
  for (let round = 0; round < 4000; round++) {
    const text = word("aabcd", 12), behavior = pick(behaviors), invert = random.uniform() < 0.5;
    const pattern = pick([{ String: "a" }, { Regex: "a" }]);
    const run = compilePreTokenizers({ type: "Split", pattern, behavior, invert }, steps());
    const pieces = run({ text, first: true }).map(({ text }) => text);
    assert.deepEqual(
      pieces,
      slowSplit(text, "a", behavior, invert),
      `${text} ${behavior} ${invert}`,
    );
  }
});

/** All ways to cut a text into pieces, from pieces and single unknown characters. */
function* cuts(text: string, pieces: ReadonlyMap<string, number>): Generator<string[]> {
  if (text === "") return yield [];
  for (let end = 1; end <= text.length; end++) {
    const piece = text.slice(0, end);
    if (!pieces.has(piece) && end > 1) continue;
    for (const rest of cuts(text.slice(end), pieces)) yield [piece, ...rest];
  }
}

Deno.test("at random: Unigram finds the best of all cuts, and bytes for what no piece covers", () => {
  for (let round = 0; round < 300; round++) {
    const names = new Set(["?", "a", "ab", "b", "ba", "aab", "bb", "xa"].filter((name) => {
      return name === "?" || random.uniform() < 0.7;
    }));
    const fallback = random.uniform() < 0.5;
    const byte = fallback && random.uniform() < 0.7 ? ["<0x78>"] : [];
    const vocab = [...names, ...byte].map((
      name,
    ): [string, number] => [name, -random.uniform() * 9]);
    const scores = new Map(vocab), least = Math.min(...scores.values()) - 10;
    const ids = new Map(vocab.map(([name], id) => [name, id]));
    const model = { type: "Unigram", unk_id: 0, vocab, byte_fallback: fallback };
    const codec = new PipelineCodec({ ...WORDS, model });
    const text = word("aabbx", 8);
    const score = (cut: string[]) => cut.reduce((sum, p) => sum + (scores.get(p) ?? least), 0);
    const all = [...cuts(text, scores)];
    const best = all.reduce((a, b) => score(b) > score(a) ? b : a);
    const expected = best.flatMap((piece, i) => {
      const id = ids.get(piece);
      if (id !== undefined) return [id];
      const spelled = fallback && piece === "x" ? ids.get("<0x78>") : undefined;
      const again = i > 0 && !ids.has(best[i - 1]);
      // A run of unknown characters is one text: it is spelled only if all of it can be.
      let from = i, to = i + 1;
      while (from > 0 && !ids.has(best[from - 1])) from--;
      while (to < best.length && !ids.has(best[to])) to++;
      const run = best.slice(from, to).join("");
      if (spelled !== undefined && /^x+$/.test(run)) return [spelled];
      return again ? [] : [0];
    });
    assert.deepEqual([...codec.encode(text)], expected, JSON.stringify({ text, vocab }));
  }
});

Deno.test("at random: BPE joins the first pair of the lowest rank until none is left", () => {
  for (let round = 0; round < 500; round++) {
    const pieces = ["?", "a", "b", "c"], merges: [string, string][] = [];
    for (let n = random.below(8); n > 0; n--) {
      const [left, right] = [pick(pieces.slice(1)), pick(pieces.slice(1))];
      if (pieces.includes(left + right)) continue;
      pieces.push(left + right);
      merges.push([left, right]);
    }
    const vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]));
    const fuse_unk = random.uniform() < 0.5, ignore_merges = random.uniform() < 0.3;
    const model = { type: "BPE", vocab, merges, unk_token: "?", fuse_unk, ignore_merges };
    const text = word("aabbcx", 10);
    let expected = ignore_merges && vocab[text]
      ? [text]
      : [...text].map((c) => c === "x" ? "?" : c);
    if (fuse_unk) {
      expected = expected.filter((piece, i) => piece !== "?" || expected[i - 1] !== "?");
    }
    for (;;) {
      const ranks = expected.map((left, i) => {
        return merges.findIndex(([a, b]) => a === left && b === expected[i + 1]);
      });
      const rank = Math.min(...ranks.filter((rank) => rank >= 0));
      if (rank === Infinity) break;
      expected.splice(ranks.indexOf(rank), 2, merges[rank].join(""));
    }
    const ids = [...new PipelineCodec({ ...WORDS, model }).encode(text)];
    assert.deepEqual(ids, expected.map((piece) => vocab[piece]), JSON.stringify({ text, model }));
  }
});

Deno.test("at random: added tokens are the longest from the left, with the space that they swallow", () => {
  for (let round = 0; round < 3000; round++) {
    const settings = ["x", "xy", "yx"].filter(() => random.uniform() < 0.7).map((content, i) => ({
      ...added(content, { lstrip: random.uniform() < 0.4, rstrip: random.uniform() < 0.4 }),
      id: 6 + i,
    }));
    const text = word("ab  xy", 10);
    // Each place of the text has a token's id, or the letter itself.
    const marks: (number | string)[] = [...text];
    for (let at = 0; at < text.length; at++) {
      const [token] = settings.filter(({ content }) => text.startsWith(content, at))
        .sort((a, b) => b.content.length - a.content.length);
      if (!token) continue;
      let start = at, end = at + token.content.length;
      if (token.lstrip) { while (marks[start - 1] === " ") start--; }
      if (token.rstrip) { while (text[end] === " ") end++; }
      marks.fill("", start, end);
      marks[start] = token.id;
      at = end - 1;
    }
    const vocab = { ...WORDS.model.vocab as object };
    const expected = marks.reduce<(number | string)[]>((all, mark) => {
      const last = all.at(-1);
      if (typeof mark === "number") all.push(mark);
      else if (typeof last === "string") all[all.length - 1] = last + mark;
      else if (mark !== "") all.push(mark);
      return all;
    }, []).filter((part) => part !== "").map((part) => {
      return typeof part === "number" ? part : (vocab as Record<string, number>)[part] ?? 0;
    });
    const tokens = { ...WORDS, added_tokens: settings };
    checkTokenizerJson(tokens);
    assert.deepEqual(
      [...new PipelineCodec(tokens).encode(text)],
      expected,
      JSON.stringify([text, settings]),
    );
  }
});

Deno.test("at random: expressions that JavaScript reads alike match alike", () => {
  const atom = (deep: number): string => {
    const kinds = ["a", "b", "[ab]", "[^a]", "\\d", "(?=a)", "(?!b)", "(?<=a)", "\\p{L}", "a|b"];
    const kind = deep > 0 && random.uniform() < 0.3 ? expression(deep - 1) : pick(kinds);
    const looks = kind.startsWith("(?");
    return looks ? kind : `(?:${kind})${pick(["", "", "+", "{1,2}", "{2}", "+?"])}`;
  };
  const expression = (deep: number): string => {
    const alternative = () =>
      Array.from({ length: 1 + random.below(3) }, () => atom(deep)).join("");
    return Array.from({ length: 1 + random.below(2) }, alternative).join("|");
  };
  for (let round = 0; round < 2000; round++) {
    const source = expression(2), text = word("aab1c\u{1f600}", 12);
    let own: Regex;
    try {
      own = new Regex(source, { left: 1e7 });
    } catch (error) {
      assert.match((error as Error).message, /a repeat of what can be empty/);
      continue;
    }
    const found = [...text.matchAll(new RegExp(source, "gu"))].filter(({ 0: match }) =>
      match !== ""
    );
    const matches = own.matches(text).filter(([start, end]) => end > start);
    assert.deepEqual(
      matches,
      found.map(({ 0: m, index }) => [index, index + m.length]),
      `${source} ${text}`,
    );
  }
});

// --- limits and refusals ---

Deno.test("an expression that backtracks for ever is an error of one line", () => {
  const text = "a".repeat(5000) + "!";
  const message = /takes too many steps on a text of 5001/;
  for (const source of ["(a|a)+$", "(a|aa)+$", "(?:a*a*)b|(?:a+){2,}c", "(?=(a+)+b)a"]) {
    const steps = { left: 1_000_000 };
    assert.throws(() => new Regex(source, steps).matches(text), { name: "UserError", message });
  }
  const pre_tokenizer = split("Isolated", false, { Regex: "(a+)+$" });
  const codec = new PipelineCodec({ ...WORDS, pre_tokenizer });
  assert.throws(() => codec.encode(text), { name: "UserError", message });
  // The limit is for each text.
  assert.ok(codec.encode("a").length > 0);
});

Deno.test("replacements cannot make a text of any length", () => {
  const double = { type: "Replace", pattern: { String: "a" }, content: "aa" };
  const normalizers = new Array(40).fill(double);
  const run = compileNormalizers({ type: "Sequence", normalizers }, steps());
  assert.throws(() => run("a"), {
    name: "UserError",
    message: /Replace: makes more than \d+ char/,
  });
});

/** What is set, and what the refusal says. */
const REFUSED: [settings: object, message: RegExp][] = [
  [{ truncation: { max_length: 5 } }, /truncation: cutting texts .* is not read here/],
  [{ padding: { strategy: { Fixed: 7 } } }, /padding: filling texts up/],
  [{ normalizer: { type: "Nfc" } }, /normalizer: Nfc is not read here/],
  [{ normalizer: { type: "Replace", pattern: { Regex: "(a)\\1" }, content: "" } }, /Backreference/],
  [
    { normalizer: { type: "Replace", pattern: { String: "" }, content: "" } },
    /a Regex or a String/,
  ],
  [{ normalizer: { type: "Strip", strip_left: 1 } }, /Strip: strip_left: expected true or false/],
  [{ pre_tokenizer: { type: "UnicodeScripts" } }, /pre_tokenizer: UnicodeScripts is not read/],
  [{ pre_tokenizer: split("Sideways") }, /behavior: expected one of Removed, /],
  [{ pre_tokenizer: split("Isolated", false, { Regex: "(" }) }, /regular expression \(: /],
  [{ pre_tokenizer: meta("second") }, /prepend_scheme: expected one of always, first, never/],
  [
    { pre_tokenizer: meta("first"), normalizer: { type: "Nmt" } },
    /prepend_scheme first after the normalizer Nmt is not read/,
  ],
  [{ decoder: { type: "CTC" } }, /decoder: CTC is not read here/],
  [{ post_processor: { type: "Mystery" } }, /post_processor: Mystery is not read here/],
  [{ model: bpe({ dropout: 0.1 }) }, /model: BPE: dropout, which makes ids random, is not/],
  [{ model: bpe({ merges: [["a", "c"]] }) }, /merge .* is not in the vocabulary/],
  [{ model: bpe({ unk_token: "none" }) }, /unk_token none is not in the vocabulary/],
  [{ model: unigram({ unk_id: null }) }, /unk_id/],
  [
    { normalizer: { type: "Sequence", normalizers: new Array(65).fill({ type: "NFC" }) } },
    /64 steps, got 65/,
  ],
  [{ pre_tokenizer: split("Isolated", false, { Regex: "(a{1000}){1000}" }) }, /10000 instructions/],
  [
    { pre_tokenizer: split("Isolated", false, { Regex: "(".repeat(4999) + ")".repeat(4999) }) },
    /regular expression \(+…: (it is nested too deeply|an expression)|normalizer|empty/,
  ],
  [
    { normalizer: Array.from({ length: 99 }).reduce((inner) => [inner], []) },
    /normalizer is nested too deeply/,
  ],
  [{ model: { type: "Magic", vocab: {} } }, /model: Magic is not read here/],
  [{ model: { ...WORDS.model, vocab: { a: 1, b: 1 } } }, /b and a have the same id 1/],
  [{ added_tokens: [added("x"), added("x")] }, /x is listed twice/],
  [{ added_tokens: [{ ...added("x"), id: 9 }] }, /x has the id 9, but .* give it 6/],
  [{ added_tokens: [{ ...added("a"), id: 6 }] }, /a has the id 6, but .* give it 1/],
  [{ added_tokens: [added("x", { lstrip: "yes" })] }, /entry 0: expected a token with its id/],
  [
    {
      added_tokens: [added(" ", { normalized: true })],
      normalizer: { type: "Strip", strip_left: true, strip_right: true },
    },
    /the normalizer leaves nothing of it/,
  ],
];

Deno.test("what is not read here, or not as the format has it, is refused by name", () => {
  for (const [settings, message] of REFUSED) {
    const json: unknown = { ...WORDS, ...settings };
    const read = () => {
      checkTokenizerJson(json);
      checkSteps(json);
      return new PipelineCodec(json);
    };
    assert.throws(read, { name: "UserError", message }, JSON.stringify(settings));
  }
});

Deno.test("a damaged tokenizer.json gives ids, or one line", async () => {
  const { read, refused, same } = await mutate(30);
  assert.ok(read > 20 && refused > 500 && same > 10, JSON.stringify({ read, refused, same }));
});
