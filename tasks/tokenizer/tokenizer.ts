/**
 * Text to ids and back, by a standard `tokenizer.json` or by SentencePiece's files.
 *
 * The ids are those of Hugging Face's {@link https://huggingface.co/docs/tokenizers | tokenizers}, or the
 * file is refused with the name of the feature that is not read here; of SentencePiece's files they are
 * SentencePiece's. Byte-level BPE and the Unigram vocabularies that the toolkit makes run on short cuts,
 * several times faster than the steps of `pipeline.ts`, with the same ids.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { UserError } from "../../ops/graph/errors.ts";
import { merge, type Merges, mergeTable } from "./bpe.ts";
import { BYTE_SYMBOLS, compileNormalizer, literalPattern, WORD } from "./byte_level.ts";
import { checkTokenizerJson } from "./check_json.ts";
import { checkSteps, PipelineCodec } from "./pipeline.ts";
import { readMerges } from "./models.ts";
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
 * Whatever a tokenizer.json holds, it is used or refused, and no text takes for ever: regular expressions
 * have a limit of steps, replacements one of length.
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
    checkSteps(json);
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
    this.#codec = ByteLevelCodec.create(json) ?? UnigramCodec.create(json) ??
      new PipelineCodec(json);
  }

  /** Whether encoding runs on our own code. */
  get fast(): boolean {
    return !(this.#codec instanceof PipelineCodec);
  }

  /**
   * The ids of a text; no special tokens are put around it.
   *
   * @param text any string; a lone surrogate is read as U+FFFD
   * @throws {UserError} if the file's rules take too long on it, or make it too long
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
  static create(json: TokenizerJson): ByteLevelCodec | undefined {
    const { model, added_tokens } = json;
    const ids = new Map(Object.entries(model.vocab as Record<string, number>));
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
    this.#merges = mergeTable(readMerges(model.merges, ids));
    const bytes = new Map(BYTE_SYMBOLS.map((symbol, byte) => [symbol, byte]));
    for (const [piece, id] of ids) {
      this.#bytes[id] = Uint8Array.from(piece, (symbol) => bytes.get(symbol) ?? 0);
    }
    for (const [content, id] of this.#addedIds) this.#contents[id] = content;
  }

  encode(text: string): Uint32Array {
    text = text.toWellFormed();
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
