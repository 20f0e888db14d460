/**
 * Text to ids and back, by a standard `tokenizer.json` or by SentencePiece's files.
 *
 * Byte-level BPE, which {@link https://huggingface.co/docs/tokenizers | tokenizers} calls `ByteLevel`,
 * and Unigram, the kind of METRO's and T5's vocabularies, run on code of our own, several times
 * faster; every other kind runs on `@huggingface/tokenizers`. The ids of byte-level BPE are those of
 * `@huggingface/tokenizers`; the ids of Unigram are SentencePiece's.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { merge, type Merges, mergeTable } from "./bpe.ts";
import { BYTE_SYMBOLS, compileNormalizer, literalPattern, WORD } from "./byte_level.ts";
import { checkTokenizerJson } from "./check_json.ts";
import { isPlain, UnigramCodec } from "./unigram_codec.ts";

/** The parts of a tokenizer.json that are read here. */
export interface TokenizerJson {
  /** Special tokens, and tokens that were added after training. */
  added_tokens: {
    /** Its id. */
    id: number;
    /** Its text. */
    content: string;
    /** Whether it only counts as a whole word. */
    single_word?: boolean;
    /** Whether it swallows white space before it. */
    lstrip?: boolean;
    /** Whether it swallows white space after it. */
    rstrip?: boolean;
    /** Whether it is looked for in the normalised text. */
    normalized?: boolean;
    /** Whether it is a control token. */
    special?: boolean;
  }[];
  /** How text is normalised before it is split; null for not at all. */
  normalizer: unknown;
  /** How text is split into words. */
  pre_tokenizer: unknown;
  /** What is put around an encoded text; not applied by {@link Tokenizer.encode}. */
  post_processor: unknown;
  /** How pieces become text again. */
  decoder: unknown;
  /** Vocabulary and merges or scores. */
  model: Record<string, unknown>;
  /** The other sections, kept as they are. */
  [section: string]: unknown;
}

/** A token that is recognised in the text before anything else. */
export type AddedToken = TokenizerJson["added_tokens"][number];

interface Codec {
  encode(text: string): Uint32Array;
  decode(ids: ArrayLike<number>): string;
}

/**
 * Encodes and decodes text.
 *
 * A special token written out in the text, such as `<unk>`, becomes its id, as with every
 * tokenizer.json. Encoding ignores one leading space: a line's first word is the same token as that
 * word elsewhere.
 *
 * Whatever a tokenizer.json holds, it is used or refused, and of a short text its literal rules make ids
 * at once. Rules can still be written so that they take for ever, or all memory: regular expressions of
 * other people's that backtrack, and replacements that make a text longer many times over.
 *
 * @example
 * ```ts
 * import { Tokenizer, trainTokenizer } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const lines = ["to be or not to be", "be or not"];
 * const json = await trainTokenizer(lines, { vocabSize: 264, lowercase: true, sentinels: 8 });
 * const tokenizer = new Tokenizer(json);
 * assert.equal(tokenizer.decode(tokenizer.encode("To be, or not!")), "to be, or not!");
 * assert.equal(tokenizer.rows, 264 + 8);
 * ```
 */
export class Tokenizer {
  /** The content that this tokenizer was made from. */
  readonly json: TokenizerJson;
  /** SHA-256 of the content, hexadecimal: two tokenizers with one hash give the same ids. */
  readonly hash: string;
  /** Special tokens and pieces, without the sentinels. */
  readonly vocabSize: number;
  /** How many sentinels `<sen000>`, `<sen001>` … follow the vocabulary. */
  readonly sentinels: number;
  /** Rows of an embedding table: vocabulary and sentinels. */
  readonly rows: number;
  /** Id of `<s>`; undefined where there is none, as in T5's vocabulary. */
  readonly bos: number | undefined;
  /** Id of `<pad>`. */
  readonly pad: number;
  /** Id of `</s>`. */
  readonly eos: number;
  /** Id of `<unk>`. */
  readonly unk: number;
  /** Id of `<sen000>`; equals `vocabSize` even where there are no sentinels. */
  readonly sentinel0: number;
  #codec: Codec;

  /**
   * Compiles a tokenizer.json.
   *
   * @throws {UserError} if a section is missing or broken, or one of the special tokens is missing; only
   * `<s>` may be
   */
  constructor(json: TokenizerJson) {
    checkTokenizerJson(json);
    this.json = json;
    this.hash = createHash("sha256").update(JSON.stringify(json)).digest("hex");
    const ids = vocabulary(json);
    const required = (token: string): number => {
      const id = ids.get(token);
      if (id !== undefined) return id;
      const needed = "<pad>, </s> and <unk> are needed, <s> for pretraining";
      throw new UserError(`tokenizer: it has no token ${token}; ${needed}`);
    };
    this.bos = ids.get("<s>");
    this.pad = required("<pad>");
    this.eos = required("</s>");
    this.unk = required("<unk>");
    this.rows = ids.values().reduce((rows, id) => Math.max(rows, id + 1), 0);
    this.sentinel0 = ids.get(sentinelName(0)) ?? this.rows;
    this.sentinels = countSentinels(ids, this.sentinel0);
    this.vocabSize = this.rows - this.sentinels;
    if (this.sentinel0 !== this.vocabSize) {
      const found = `<sen000> is ${this.sentinel0} and there are ${this.rows} ids`;
      throw new UserError(`tokenizer: sentinels <sen000>... must be the last ids, but ${found}`);
    }
    this.#codec = ByteLevelCodec.create(json, ids) ?? UnigramCodec.create(json) ??
      new HuggingFaceCodec(json);
  }

  /** Whether encoding runs on our own code. */
  get fast(): boolean {
    return !(this.#codec instanceof HuggingFaceCodec);
  }

  /**
   * The ids of a text; no special tokens are put around it.
   *
   * @param text any string; a lone surrogate is read as U+FFFD
   * @throws {UserError} if the rules of another reader's kind turn out not to work
   */
  encode(text: string): Uint32Array {
    return this.#codec.encode(text);
  }

  /**
   * The text of some ids, special tokens written out. What bytes do not form UTF-8 reads as U+FFFD.
   *
   * @throws {RangeError} for an id that the tokenizer does not have
   */
  decode(ids: ArrayLike<number>): string {
    for (let i = 0; i < ids.length; i++) {
      if (!(ids[i] < this.rows)) throw new RangeError(`id ${ids[i]}: there are ${this.rows} ids`);
    }
    return ids.length === 0 ? "" : this.#codec.decode(ids);
  }
}

/** The name of sentinel `i`: `<sen000>`, `<sen001>` … */
export function sentinelName(i: number): string {
  return `<sen${String(i).padStart(3, "0")}>`;
}

function vocabulary({ model, added_tokens }: TokenizerJson): Map<string, number> {
  const vocab = model.vocab as Record<string, number> | [string, number][];
  const ids = new Map<string, number>(
    // A unigram model lists pieces with their scores; the position is the id.
    Array.isArray(vocab) ? vocab.map(([piece], id) => [piece, id]) : Object.entries(vocab),
  );
  for (const { content, id } of added_tokens) ids.set(content, id);
  return ids;
}

function countSentinels(ids: Map<string, number>, first: number): number {
  let count = 0;
  while (ids.get(sentinelName(count)) === first + count) count++;
  return count;
}

/** Distinct words kept with their ids; the cache starts afresh when it is full. */
const CACHED_WORDS = 1 << 18;
/** Longer words are rarely seen twice. UTF-16 units. */
const CACHED_LENGTH = 64;
const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

class ByteLevelCodec implements Codec {
  #normalize: (text: string) => string;
  #addedIds: Map<string, number>;
  #added: RegExp | undefined;
  #prefixSpace: boolean;
  #byteIds: Uint32Array;
  #merges: Merges;
  #bytes: (Uint8Array | undefined)[] = [];
  #contents: (string | undefined)[] = [];
  #words = new Map<string, number | Uint32Array>();
  #scratch = new Uint8Array(256);
  #pieces = new Uint32Array(256);
  #out = new Uint32Array(1024);
  #length = 0;

  /** Returns undefined for a tokenizer with anything that this class does not do exactly. */
  static create(json: TokenizerJson, ids: Map<string, number>): ByteLevelCodec | undefined {
    const { model, added_tokens } = json;
    const pre = json.pre_tokenizer as Record<string, unknown> | null;
    const decoder = json.decoder as Record<string, unknown> | null;
    const normalize = compileNormalizer(json.normalizer);
    const plain = model.type === "BPE" && !model.dropout && !model.continuing_subword_prefix &&
      !model.continuing_subword_suffix && !model.end_of_word_suffix && !model.byte_fallback &&
      !model.ignore_merges && !model.fuse_unk && Array.isArray(model.merges) &&
      pre?.type === "ByteLevel" && pre.use_regex !== false && decoder?.type === "ByteLevel" &&
      BYTE_SYMBOLS.every((symbol) => ids.has(symbol)) && added_tokens.every(isPlain);
    return plain && normalize ? new ByteLevelCodec(json, ids, normalize) : undefined;
  }

  private constructor(
    { added_tokens, pre_tokenizer, model }: TokenizerJson,
    ids: Map<string, number>,
    normalize: (text: string) => string,
  ) {
    this.#normalize = normalize;
    this.#addedIds = new Map(added_tokens.map(({ content, id }) => [content, id]));
    this.#added = literalPattern([...this.#addedIds.keys()]);
    this.#prefixSpace = (pre_tokenizer as { add_prefix_space?: boolean }).add_prefix_space ?? false;
    this.#byteIds = Uint32Array.from(BYTE_SYMBOLS, (symbol) => ids.get(symbol)!);
    this.#merges = mergeTable(readMerges(model.merges as unknown[], ids));
    const bytes = new Map(BYTE_SYMBOLS.map((symbol, byte) => [symbol, byte]));
    for (const [piece, id] of ids) {
      if (this.#addedIds.has(piece)) this.#contents[id] = piece;
      else this.#bytes[id] = Uint8Array.from(piece, (symbol) => bytes.get(symbol) ?? 0);
    }
  }

  encode(text: string): Uint32Array {
    this.#length = 0;
    let start = 0;
    if (this.#added) {
      for (const found of text.matchAll(this.#added)) {
        this.#section(text.slice(start, found.index));
        this.#push(this.#addedIds.get(found[0])!);
        start = found.index + found[0].length;
      }
    }
    this.#section(start === 0 ? text : text.slice(start));
    return this.#out.slice(0, this.#length);
  }

  /** Encodes what is between two added tokens. */
  #section(text: string): void {
    if (text === "") return;
    text = this.#normalize(text);
    // The reference also takes a whole section that is an added token only once normalised.
    const added = this.#addedIds.get(text);
    if (added !== undefined) return this.#push(added);
    if (this.#prefixSpace && text !== "" && !text.startsWith(" ")) text = " " + text;
    for (const word of text.match(WORD) ?? []) {
      const cached = this.#words.get(word) ?? this.#encodeWord(word);
      if (typeof cached === "number") this.#push(cached);
      else this.#pushAll(cached);
    }
  }

  #encodeWord(word: string): number | Uint32Array {
    if (word.length * 3 > this.#scratch.length) {
      this.#scratch = new Uint8Array(word.length * 4);
      this.#pieces = new Uint32Array(word.length * 4);
    }
    const { written } = utf8.encodeInto(word, this.#scratch);
    for (let i = 0; i < written; i++) this.#pieces[i] = this.#byteIds[this.#scratch[i]];
    const count = merge(this.#pieces, written, this.#merges);
    const ids = count === 1 ? this.#pieces[0] : this.#pieces.slice(0, count);
    if (word.length <= CACHED_LENGTH) {
      if (this.#words.size >= CACHED_WORDS) this.#words.clear();
      // A match is a view that would keep its whole text alive; decoding makes a copy.
      this.#words.set(fromUtf8.decode(this.#scratch.subarray(0, written)), ids);
    }
    return ids;
  }

  #push(id: number): void {
    if (this.#length === this.#out.length) this.#grow(1);
    this.#out[this.#length++] = id;
  }

  #pushAll(ids: Uint32Array): void {
    if (this.#length + ids.length > this.#out.length) this.#grow(ids.length);
    for (let i = 0; i < ids.length; i++) this.#out[this.#length++] = ids[i];
  }

  #grow(more: number): void {
    const larger = new Uint32Array((this.#length + more) * 2);
    larger.set(this.#out);
    this.#out = larger;
  }

  decode(ids: ArrayLike<number>): string {
    let text = "";
    let run: number[] = [];
    const flush = (): void => {
      text += fromUtf8.decode(Uint8Array.from(run));
      run = [];
    };
    for (let i = 0; i < ids.length; i++) {
      const content = this.#contents[ids[i]];
      if (content === undefined) { for (const byte of this.#bytes[ids[i]] ?? []) run.push(byte); }
      else {
        flush();
        text += content;
      }
    }
    flush();
    return this.#prefixSpace && text.startsWith(" ") ? text.slice(1) : text;
  }
}

function readMerges(
  merges: readonly unknown[],
  ids: Map<string, number>,
): [number, number, number][] {
  return merges.map((entry) => {
    const pair = typeof entry === "string" ? entry.split(" ", 2) : entry;
    const ok = Array.isArray(pair) && pair.length === 2 &&
      pair.every((piece) => typeof piece === "string");
    if (!ok) {
      throw new UserError(`tokenizer: expected a merge of two pieces, got ${shown(entry)}`);
    }
    const [left, right] = pair;
    const triple = [left, right, left + right].map((piece) => ids.get(piece));
    if (triple.includes(undefined)) {
      throw new UserError(`tokenizer: merge ${shown(entry)} is not in the vocabulary`);
    }
    return triple as [number, number, number];
  });
}

/** The reference's own recursion overflows the stack on one very long text. UTF-16 units. */
const LONGEST_CALL = 100_000;

class HuggingFaceCodec implements Codec {
  #tokenizer: HuggingFaceTokenizer;

  constructor(json: TokenizerJson) {
    this.#tokenizer = attempt(() => {
      return new HuggingFaceTokenizer(json, { clean_up_tokenization_spaces: false });
    });
  }

  encode(text: string): Uint32Array {
    const ids: number[] = [];
    for (let start = 0; start < text.length;) {
      const end = callEnd(text, start);
      const part = text.slice(start, end);
      const { ids: more } = attempt(() => {
        return this.#tokenizer.encode(part, { add_special_tokens: false });
      });
      for (const id of more) ids.push(known(id));
      start = end;
    }
    return Uint32Array.from(ids);
  }

  decode(ids: ArrayLike<number>): string {
    return attempt(() => this.#tokenizer.decode(Array.from(ids), { skip_special_tokens: false }));
  }
}

/** What the other reader cannot work with is the file's fault, and shows at any time. */
function attempt<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    const message = error instanceof Error ? error.message : error;
    throw new UserError(
      `tokenizer: it does not work with @huggingface/tokenizers: ${shown(message)}`,
    );
  }
}

/** Where a vocabulary has no token for the unknown, the other reader gives no id. */
function known(id: number | undefined): number {
  if (Number.isInteger(id)) return id as number;
  throw new UserError(
    "tokenizer: a text has a part that no token stands for, and its model has no unk_token",
  );
}

/** Where a call that starts at `start` may end: the end of the text, or before a space. */
function callEnd(text: string, start: number): number {
  if (text.length - start <= LONGEST_CALL) return text.length;
  const space = text.lastIndexOf(" ", start + LONGEST_CALL);
  return space > start ? space : start + LONGEST_CALL;
}
