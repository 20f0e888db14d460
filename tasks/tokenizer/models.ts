/**
 * The models of a tokenizer.json: from a piece of text to ids.
 *
 * @module
 */
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { merge, mergeTable } from "./bpe.ts";
import { type ScoredPiece, Trie } from "./unigram.ts";
import { count, fault, flag, type Section, sectionOf, text as textOf, unread } from "./section.ts";

/** Encodes a piece that is not empty. */
export type Model = (piece: string) => number[];

/** A vocabulary that names pieces with their ids. */
type Vocabulary = Map<string, number>;

/**
 * Compiles the section `model`.
 *
 * @param value the section, whose `vocab` is known to be sound
 * @throws {UserError} naming what is wrong, or not read here
 *
 * @example
 * ```ts
 * import { compileModel } from "./models.ts";
 * import assert from "node:assert/strict";
 *
 * const vocab = { "[UNK]": 0, "un": 1, "##do": 2 };
 * const settings = { unk_token: "[UNK]", continuing_subword_prefix: "##" };
 * const model = compileModel({ type: "WordPiece", vocab, max_input_chars_per_word: 9, ...settings });
 * assert.deepEqual([model("undo"), model("redo")], [[1, 2], [0]]);
 * ```
 */
export function compileModel(value: unknown): Model {
  const section = sectionOf("model", value);
  const kind = Object.hasOwn(KINDS, section.type) ? KINDS[section.type] : undefined;
  if (!kind) throw unread("model", section.type);
  return kind(section);
}

const KINDS: Readonly<Record<string, (section: Section) => Model>> = {
  BPE: bpe,
  Unigram: unigram,
  WordLevel(section) {
    const vocabulary = named(section), unknown = unknownId(section, vocabulary, true)!;
    return (piece) => [vocabulary.get(piece) ?? unknown];
  },
  WordPiece: wordPiece,
};

function named({ where, fields: { vocab } }: Section): Vocabulary {
  if (Array.isArray(vocab)) throw fault(`${where}: vocab`, "pieces with their ids", vocab);
  return new Map(Object.entries(vocab as Record<string, number>));
}

/** The id of `unk_token`; undefined where it is null or absent and may be. */
function unknownId(section: Section, vocabulary: Vocabulary, needed: boolean): number | undefined {
  if (!needed && (section.fields.unk_token ?? null) === null) return undefined;
  const token = textOf(section, "unk_token"), id = vocabulary.get(token);
  if (id !== undefined) return id;
  throw new UserError(
    `tokenizer: ${section.where}: unk_token ${shown(token)} is not in the vocabulary`,
  );
}

const utf8 = new TextEncoder();

/** The ids of the bytes of a text; undefined unless there is one for each. */
function byteIds(text: string, vocabulary: Vocabulary): number[] | undefined {
  const ids: number[] = [];
  for (const byte of utf8.encode(text)) {
    const id = vocabulary.get(byteName(byte));
    if (id === undefined) return undefined;
    ids.push(id);
  }
  return ids;
}

/** How vocabularies write a byte that stands for itself. */
function byteName(byte: number): string {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

function bpe(section: Section): Model {
  const { where, fields } = section, vocabulary = named(section);
  const unknown = unknownId(section, vocabulary, false);
  const prefix = affix(section, "continuing_subword_prefix");
  const suffix = affix(section, "end_of_word_suffix");
  const fuse = flag(section, "fuse_unk", false), bytes = flag(section, "byte_fallback", false);
  const whole = flag(section, "ignore_merges", false);
  const dropout = fields.dropout ?? 0;
  if (typeof dropout !== "number") throw fault(`${where}: dropout`, "a number", dropout);
  if (dropout !== 0) throw unread(where, "dropout, which makes ids random,");
  const merges = mergeTable(readMerges(fields.merges, vocabulary, prefix));
  return (piece) => {
    const id = whole ? vocabulary.get(piece) : undefined;
    if (id !== undefined) return [id];
    const pieces: number[] = [], characters = [...piece];
    let pending = false;
    characters.forEach((character, i) => {
      const symbol = (i > 0 ? prefix : "") + character +
        (i === characters.length - 1 ? suffix : "");
      const known = vocabulary.get(symbol);
      if (known !== undefined) {
        if (pending) pieces.push(unknown!);
        pending = false;
        return void pieces.push(known);
      }
      const spelled = bytes ? byteIds(symbol, vocabulary) : undefined;
      if (spelled) return void pieces.push(...spelled);
      // Without a token for the unknown it is left out, as elsewhere.
      if (unknown === undefined) return;
      if (pending && !fuse) pieces.push(unknown);
      pending = true;
    });
    if (pending) pieces.push(unknown!);
    const ids = Uint32Array.from(pieces);
    return [...ids.subarray(0, merge(ids, ids.length, merges))];
  };
}

function affix(section: Section, name: string): string {
  return (section.fields[name] ?? null) === null ? "" : textOf(section, name);
}

/**
 * The merges of a BPE model by ids: `[left, right, joined]`.
 *
 * @param prefix what begins all pieces but a word's first; a joined piece has it once
 * @throws {UserError} for what is no merge, or one of pieces that the vocabulary does not have
 */
export function readMerges(
  merges: unknown,
  vocabulary: Vocabulary,
  prefix = "",
): [number, number, number][] {
  if (!Array.isArray(merges)) throw fault("model: merges", "a list", merges);
  const given = merges.filter((entry) => {
    return typeof entry !== "string" || !entry.startsWith("#version");
  });
  return given.map((entry) => {
    const pair = typeof entry === "string" ? entry.split(" ") : entry;
    const ok = Array.isArray(pair) && pair.length === 2 &&
      pair.every((piece) => typeof piece === "string");
    if (!ok) throw new UserError(`tokenizer: expected a merge of two pieces, got ${shown(entry)}`);
    const [left, right] = pair as string[];
    const joined = right.startsWith(prefix) ? left + right.slice(prefix.length) : undefined;
    const triple = [left, right, joined].map((piece) => vocabulary.get(piece!));
    if (triple.includes(undefined)) {
      throw new UserError(`tokenizer: merge ${shown(entry)} is not in the vocabulary`);
    }
    return triple as [number, number, number];
  });
}

function wordPiece(section: Section): Model {
  const vocabulary = named(section), unknown = unknownId(section, vocabulary, true)!;
  const prefix = textOf(section, "continuing_subword_prefix");
  const longest = count(section, "max_input_chars_per_word", 0);
  const longestPiece = vocabulary.keys()
    .reduce((length, piece) => Math.max(length, [...piece].length), 0);
  return (piece) => {
    const characters = [...piece], ids: number[] = [];
    if (characters.length > longest) return [unknown];
    for (let start = 0; start < characters.length;) {
      let end = Math.min(characters.length, start + longestPiece), id: number | undefined;
      for (; end > start; end--) {
        const part = characters.slice(start, end).join("");
        id = vocabulary.get(start > 0 ? prefix + part : part);
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  };
}

/** How much less probable what no piece covers is than the least probable piece. */
const UNKNOWN_PENALTY = 10;

/** The most probable split into pieces, in double precision as Rust `tokenizers` computes it. */
function unigram(section: Section): Model {
  const { where, fields } = section, bytes = flag(section, "byte_fallback", false);
  if (!Array.isArray(fields.vocab)) throw fault(`${where}: vocab`, "a list", fields.vocab);
  const vocab = fields.vocab as ScoredPiece[];
  const unknown = count(section, "unk_id", 0);
  const vocabulary: Vocabulary = new Map(vocab.map(([piece], id) => [piece, id]));
  const trie = new Trie([...vocabulary]);
  const least = vocab.reduce((least, [, score]) => Math.min(least, score), Infinity);
  return (piece) => {
    const path = bestPath(piece, trie, vocab, least - UNKNOWN_PENALTY);
    return fused(path, unknown).flatMap(({ from, to }) => {
      const part = piece.slice(from, to), known = vocabulary.get(part);
      return known ?? (bytes ? byteIds(part, vocabulary) : undefined) ?? unknown;
    });
  };
}

/** A part of a text, and the piece that covers it: none but the unknown one for -1. */
interface Part {
  from: number;
  to: number;
  id: number;
}

function bestPath(
  text: string,
  trie: Trie,
  vocab: readonly ScoredPiece[],
  unknown: number,
): Part[] {
  const size = text.length;
  const best = new Float64Array(size + 1), starts = new Int32Array(size + 1).fill(-1);
  const ids = new Int32Array(size + 1);
  const offer = (from: number, to: number, id: number, score: number) => {
    const sum = score + best[from];
    if (starts[to] >= 0 && !(sum > best[to])) return;
    best[to] = sum;
    starts[to] = from;
    ids[to] = id;
  };
  for (let at = 0; at < size;) {
    const character = at + (text.codePointAt(at)! > 0xffff ? 2 : 1);
    let single = false;
    for (let node = 0, end = at; end < size;) {
      node = trie.child(node, text.charCodeAt(end++));
      if (node < 0) break;
      const id = trie.ids[node];
      if (id < 0) continue;
      offer(at, end, id, vocab[id][1]);
      if (end === character) single = true;
    }
    if (!single) offer(at, character, -1, unknown);
    at = character;
  }
  const path: Part[] = [];
  for (let to = size; to > 0; to = starts[to]) path.push({ from: starts[to], to, id: ids[to] });
  return path.reverse();
}

/** Unknown parts in a row as one. */
function fused(path: readonly Part[], unknown: number): Part[] {
  const parts: Part[] = [];
  let open = false;
  for (const part of path) {
    const isUnknown = part.id < 0 || part.id === unknown;
    if (isUnknown && open) parts.at(-1)!.to = part.to;
    else parts.push({ ...part });
    open = isUnknown;
  }
  return parts;
}
