/**
 * The parts of a tokenizer.json that the toolkit relies on, checked before anything is built of them.
 *
 * @module
 */
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import type { AddedToken, TokenizerJson } from "./tokenizer.ts";

/** Many times the largest vocabularies; an id is a row of a token table. */
const MOST_IDS = 1 << 22;

/** As deep as files may be; objects that are none are measured here. */
const MAX_DEPTH = 32;

const FLAGS = ["single_word", "lstrip", "rstrip", "normalized", "special"];

/**
 * Refuses a tokenizer.json with a section missing, or with tokens, ids or scores that are none. What kinds
 * of normalizers and the like it names is for `pipeline.ts` to know.
 *
 * @throws {UserError} naming the section
 *
 * @example
 * ```ts
 * import { checkTokenizerJson } from "./check_json.ts";
 * import assert from "node:assert/strict";
 *
 * assert.throws(() => checkTokenizerJson({ added_tokens: [] }), /no section normalizer, /);
 * ```
 */
export function checkTokenizerJson(json: unknown): asserts json is TokenizerJson {
  const sections = ["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder"];
  const given = isRecord(json) ? json : {};
  const missing = [...sections, "model"].filter((section) => given[section] === undefined);
  if (missing.length > 0) throw new UserError(`tokenizer: no section ${missing.join(", ")}`);
  const deep = Object.entries(given).find(([, section]) => isDeep(section, MAX_DEPTH));
  if (deep) throw new UserError(`tokenizer: ${shown(deep[0])} is nested too deeply`);
  const { model, added_tokens } = given;
  expectAll("added_tokens", "a token with its id", added_tokens, isAddedToken);
  if (!isRecord(model)) throw fault("model", "an object", model);
  if (Array.isArray(model.vocab)) checkUnigram(model, model.vocab);
  else if (!isRecord(model.vocab)) throw fault("model.vocab", "pieces", model.vocab);
  else checkIds(Object.entries(model.vocab));
  checkAdded(added_tokens as AddedToken[], model.vocab as Vocab);
}

function isDeep(value: unknown, levels: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeep(inner, levels - 1));
}

/** The ids of pieces that are named with them: each has one of its own. */
function checkIds(entries: [string, unknown][]): void {
  expectAll("model.vocab", "a piece with its id", entries, isPieceWithId);
  const owners = new Map<unknown, string>();
  for (const [piece, id] of entries) {
    const other = owners.get(id);
    if (other !== undefined) {
      throw new UserError(
        `tokenizer: model.vocab: ${shown(piece)} and ${shown(other)} have the same id ${id}`,
      );
    }
    owners.set(id, piece);
  }
}

type Vocab = Record<string, number> | [string, number][];

/** Other readers pass over the ids of added tokens, and give those that follow from their order. */
function checkAdded(tokens: readonly AddedToken[], vocab: Vocab): void {
  const pieces = Array.isArray(vocab)
    ? new Map(vocab.map(([piece], id) => [piece, id]))
    : new Map(Object.entries(vocab));
  const seen = new Set<string>();
  let next = Array.isArray(vocab) ? vocab.length : pieces.size;
  for (const { id, content } of tokens) {
    const expected = pieces.get(content) ?? next;
    const wrong = seen.has(content)
      ? "is listed twice"
      : id === expected
      ? undefined
      : `has the id ${id}, but the vocabulary and the order of the tokens give it ${expected}`;
    if (wrong) throw new UserError(`tokenizer: added_tokens: ${shown(content)} ${wrong}`);
    seen.add(content);
    if (!pieces.has(content)) next++;
  }
}

/** A Unigram model lists its pieces; the place of each is its id. */
function checkUnigram(model: Record<string, unknown>, vocab: unknown[]): void {
  const isIdHere = (id: unknown) => isId(id) && id < vocab.length;
  expectAll("model.vocab", "a piece with its score", vocab, isScoredPiece);
  const { unk_id } = model;
  if (unk_id !== undefined && unk_id !== null && !isIdHere(unk_id)) {
    throw fault("model.unk_id", `an id below ${vocab.length}`, unk_id);
  }
  for (const field of ["user_defined", "unmatched"]) {
    expectAll(`model.${field}`, `an id below ${vocab.length}`, model[field] ?? [], isIdHere);
  }
}

function isId(id: unknown): id is number {
  return Number.isInteger(id) && id as number >= 0 && id as number < MOST_IDS;
}

function isAddedToken(token: unknown): boolean {
  return isRecord(token) && isId(token.id) && isText(token.content) && token.content !== "" &&
    FLAGS.every((flag) => token[flag] === undefined || typeof token[flag] === "boolean");
}

/** Other readers refuse halves of surrogate pairs. */
function isText(value: unknown): value is string {
  return typeof value === "string" && value.isWellFormed();
}

function isPieceWithId(entry: unknown): boolean {
  const [piece, id] = entry as unknown[];
  return isText(piece) && isId(id);
}

function isScoredPiece(entry: unknown): boolean {
  return Array.isArray(entry) && entry.length === 2 && isText(entry[0]) &&
    Number.isFinite(entry[1]);
}

function expectAll(
  section: string,
  expected: string,
  list: unknown,
  ok: (entry: unknown) => boolean,
): void {
  if (!Array.isArray(list)) throw fault(section, "a list", list);
  const bad = list.findIndex((entry) => !ok(entry));
  if (bad >= 0) throw fault(`${section}: entry ${bad}`, expected, list[bad]);
}

function fault(section: string, expected: string, got: unknown): UserError {
  return new UserError(`tokenizer: ${section}: expected ${expected}, got ${shown(got)}`);
}
