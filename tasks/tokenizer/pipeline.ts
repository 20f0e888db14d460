/**
 * Any tokenizer.json of the kinds that are read here, step by step as Rust `tokenizers` does it: added
 * tokens, normalizer, pre-tokenizer, model, and the decoder on the way back.
 *
 * @module
 */
import { isRecord } from "../../models/formats/untrusted.ts";
import type { TokenizerJson } from "./tokenizer.ts";
import { AddedTokens, isNormalized } from "./added_tokens.ts";
import { compileDecoders } from "./decoders.ts";
import { compileModel, type Model } from "./models.ts";
import { compileNormalizers, type Normalize } from "./normalizers.ts";
import { compilePreTokenizers, type PreTokenize } from "./pre_tokenizers.ts";
import type { Steps } from "./regex.ts";
import { fault, sectionOf, sections, unread } from "./section.ts";

/** What regular expressions may take on a text: far more than those that do not backtrack need. */
const STEPS = { least: 10_000_000, perCharacter: 200 };
/** Distinct pieces kept with their ids; the cache starts afresh when it is full. */
const CACHED_PIECES = 1 << 17;
/** Longer pieces are rarely seen twice. UTF-16 units. */
const CACHED_LENGTH = 64;

/**
 * Encodes and decodes by the rules of a tokenizer.json.
 *
 * @example
 * ```ts
 * import { PipelineCodec } from "./pipeline.ts";
 * import assert from "node:assert/strict";
 *
 * const codec = new PipelineCodec({
 *   added_tokens: [],
 *   normalizer: { type: "Lowercase" },
 *   pre_tokenizer: { type: "WhitespaceSplit" },
 *   post_processor: null,
 *   decoder: null,
 *   model: { type: "WordLevel", vocab: { "<unk>": 0, to: 1, be: 2 }, unk_token: "<unk>" },
 * });
 * assert.deepEqual([...codec.encode("To be or")], [1, 2, 0]);
 * assert.equal(codec.decode([1, 2]), "to be");
 * ```
 */
export class PipelineCodec {
  readonly #steps: Steps = { left: 0 };
  readonly #normalize: Normalize;
  readonly #added: AddedTokens;
  readonly #preTokenize: PreTokenize;
  readonly #model: Model;
  readonly #decode: (tokens: string[]) => string;
  readonly #tokens: (string | undefined)[] = [];
  readonly #cache = new Map<string, number[]>();

  /**
   * Compiles all sections; {@link checkSteps} has seen them.
   *
   * @throws {UserError} naming a feature that is not read here, or a setting that is not as the format has it
   */
  constructor(json: TokenizerJson) {
    this.#start(0);
    const { vocab } = json.model;
    this.#normalize = compileNormalizers(json.normalizer, this.#steps);
    this.#added = new AddedTokens(json.added_tokens, this.#normalize);
    this.#preTokenize = compilePreTokenizers(json.pre_tokenizer, this.#steps);
    this.#model = compileModel(json.model);
    this.#decode = compileDecoders(json.decoder, this.#steps);
    if (Array.isArray(vocab)) this.#tokens = vocab.map(([piece]) => piece);
    else for (const [piece, id] of Object.entries(vocab!)) this.#tokens[id as number] = piece;
    for (const token of json.added_tokens) {
      const { id, content } = token;
      this.#tokens[id] = isNormalized(token) ? this.#normalize(content) : content;
    }
  }

  /** The ids of a text. */
  encode(text: string): Uint32Array {
    text = text.toWellFormed();
    this.#start(text.length);
    const ids: number[] = [];
    for (const section of this.#added.split(text, this.#normalize)) {
      if ("id" in section) ids.push(section.id);
      else {
        const { text, start } = section;
        for (const piece of this.#preTokenize({ text, first: start === 0 })) {
          for (const id of this.#encodePiece(piece.text)) ids.push(id);
        }
      }
    }
    return Uint32Array.from(ids);
  }

  #encodePiece(piece: string): number[] {
    if (piece.length > CACHED_LENGTH) return this.#model(piece);
    let ids = this.#cache.get(piece);
    if (!ids) {
      if (this.#cache.size >= CACHED_PIECES) this.#cache.clear();
      this.#cache.set(piece, ids = this.#model(piece));
    }
    return ids;
  }

  /** The text of some ids. */
  decode(ids: ArrayLike<number>): string {
    const tokens = Array.from(ids, (id) => this.#tokens[id]).filter((token) => token !== undefined);
    this.#start(tokens.reduce((length, token) => length + token.length, 0));
    return this.#decode(tokens);
  }

  #start(length: number): void {
    this.#steps.left = STEPS.least + STEPS.perCharacter * length;
  }
}

/**
 * Refuses a tokenizer.json with steps that are not read here, or not as the format has them, whatever
 * its model is.
 *
 * @throws {UserError} naming the feature
 */
export function checkSteps(json: TokenizerJson): void {
  const steps = { left: 0 };
  checkLengths(json);
  checkPostProcessor(json.post_processor);
  checkFirst(json);
  compileNormalizers(json.normalizer, steps);
  compilePreTokenizers(json.pre_tokenizer, steps);
  compileDecoders(json.decoder, steps);
}

/** Lengths are flags of the jobs here: what would cut or fill up every text is not passed over in silence. */
function checkLengths({ truncation, padding }: TokenizerJson): void {
  if ((truncation ?? null) !== null) {
    throw unread("truncation", "cutting texts (set it to null: lengths are given by flags)");
  }
  if ((padding ?? null) === null) return;
  if (!isRecord(padding)) throw fault("padding", "an object or null", padding);
  const alone = padding.strategy === "BatchLongest" &&
    (padding.pad_to_multiple_of ?? null) === null;
  if (!alone) throw unread("padding", "filling texts up (set it to null)");
}

const POST_PROCESSORS = ["BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"];

/** What it puts around a text is not asked for here, so that its kind is all that matters. */
function checkPostProcessor(value: unknown): void {
  if (value === null) return;
  const section = sectionOf("post_processor", value);
  if (section.type === "Sequence") {
    return sections(section, "processors").forEach(checkPostProcessor);
  }
  if (!POST_PROCESSORS.includes(section.type)) throw unread("post_processor", section.type);
}

/** Normalizers that keep the beginning of a text where it is. */
const KEEP_BEGINNING = ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"];

/** Where the beginning of a text went is not followed through every normalizer. */
function checkFirst({ normalizer, pre_tokenizer }: TokenizerJson): void {
  const schemes = kindsIn(pre_tokenizer).some(({ prepend_scheme }) => prepend_scheme === "first");
  const moving = kindsIn(normalizer).find(({ type }) => {
    return type !== "Sequence" && !KEEP_BEGINNING.includes(type as string);
  });
  if (!schemes || !moving) return;
  throw unread(
    "pre_tokenizer: Metaspace",
    `prepend_scheme first after the normalizer ${moving.type}`,
  );
}

/** All sections with a type, at any depth. */
function kindsIn(value: unknown): Record<string, unknown>[] {
  if (Array.isArray(value)) return value.flatMap(kindsIn);
  if (!isRecord(value)) return [];
  return ["type" in value ? [value] : [], ...Object.values(value).map(kindsIn)].flat();
}
