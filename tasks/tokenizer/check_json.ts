/**
 * The parts of a tokenizer.json that the toolkit relies on, checked before anything is built of them.
 *
 * @module
 */
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import type { TokenizerJson } from "./tokenizer.ts";

/** Many times the largest vocabularies; an id is a row of a token table. */
const MOST_IDS = 1 << 22;

/**
 * Refuses a tokenizer.json with a section missing, or with tokens, ids or scores that are none. What kinds
 * of normalizers and the like it names is for its reader to know.
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
  const { model, added_tokens } = given;
  expectAll("added_tokens", "a token with its id", added_tokens, isAddedToken);
  for (const section of ["normalizer", "pre_tokenizer", "decoder"]) {
    checkPatterns(section, given[section]);
  }
  if (!isRecord(model)) throw fault("model", "an object", model);
  if (Array.isArray(model.vocab)) checkUnigram(model, model.vocab);
  else if (!isRecord(model.vocab)) throw fault("model.vocab", "pieces", model.vocab);
  else expectAll("model.vocab", "a piece with its id", Object.entries(model.vocab), isPieceWithId);
}

/** Other readers print what they find in place of a pattern, and go on without. */
function checkPatterns(where: string, section: unknown): void {
  if (Array.isArray(section)) return section.forEach((part) => checkPatterns(where, part));
  if (!isRecord(section)) return;
  if (section.type === "Replace" || section.type === "Split") {
    const { Regex, String: literal } = isRecord(section.pattern) ? section.pattern : {};
    if (typeof (Regex ?? literal) !== "string") {
      throw fault(`${where}: pattern`, "a Regex or a String", section.pattern);
    }
  }
  for (const part of Object.values(section)) checkPatterns(where, part);
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
  return isRecord(token) && isId(token.id) && typeof token.content === "string" &&
    token.content !== "";
}

function isPieceWithId(entry: unknown): boolean {
  return isId((entry as unknown[])[1]);
}

function isScoredPiece(entry: unknown): boolean {
  return Array.isArray(entry) && typeof entry[0] === "string" && Number.isFinite(entry[1]);
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
