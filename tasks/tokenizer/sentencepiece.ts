/**
 * Reads SentencePiece's model files (`sp.model`, `spiece.model`): a protocol buffer with the pieces,
 * how they were trained, and how text is normalised.
 *
 * @module
 */
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { Charsmap } from "./charsmap.ts";

/** What a piece is for. */
export type PieceType = "normal" | "unknown" | "control" | "userDefined" | "unused" | "byte";

/** One piece; its place is its id. */
export interface Piece {
  /** Its text, spaces written ▁. */
  piece: string;
  /** Its log-probability, a float32. */
  score: number;
  /** What it is for. */
  type: PieceType;
}

/** A Unigram model. */
export interface SentencePieceModel {
  /** All pieces, by id. */
  pieces: readonly Piece[];
  /** Id of the unknown piece. */
  unk: number;
  /** Name of the normalisation: `nmt_nfkc`, `nmt_nfkc_cf`, `identity` … */
  normalization: string;
  /** The rules of the normalisation, see {@link Charsmap}. */
  charsmap: Uint8Array<ArrayBuffer>;
}

/** The protocol's numbers for {@link PieceType}, from 1. */
const TYPES: readonly PieceType[] = [
  "normal",
  "unknown",
  "control",
  "userDefined",
  "unused",
  "byte",
];
/** The protocol's numbers for kinds of models, from 1. */
const MODELS = ["unigram", "bpe", "word", "char"];

/** A field of a message: a whole number, or 4, 8 or more bytes. */
interface Field {
  number: number;
  wire: number;
  value: number;
  bytes: Uint8Array;
}

/**
 * Reads a Unigram model.
 *
 * Only what METRO, T5 and nearly all other Unigram models have is accepted: a space in front of the
 * text, spaces in a row made one, no pieces for bytes.
 *
 * @param name what an error calls the file
 * @throws {UserError} if the bytes are no model, or one of another kind
 *
 * @example
 * ```ts ignore
 * import { readSentencePiece } from "./sentencepiece.ts";
 *
 * const model = readSentencePiece(Deno.readFileSync("sp.model"), "sp.model");
 * console.log(model.pieces.length, model.normalization);
 * ```
 */
export function readSentencePiece(bytes: Uint8Array, name = "sp.model"): SentencePieceModel {
  try {
    return readModel(bytes);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw new UserError(`${name}: not usable as a SentencePiece model: ${error.message}`);
  }
}

function readModel(bytes: Uint8Array): SentencePieceModel {
  const pieces: Piece[] = [];
  const model = { unk: -1, normalization: "", charsmap: new Uint8Array() };
  for (const field of fields(bytes)) {
    if (field.number === 1) pieces.push(readPiece(message(field)));
    else if (field.number === 2) checkTrainer(message(field));
    else if (field.number === 3) Object.assign(model, readNormalizer(message(field)));
  }
  return { ...model, pieces, unk: checkPieces(pieces) };
}

function readPiece(bytes: Uint8Array): Piece {
  const piece: Piece = { piece: "", score: 0, type: "normal" };
  for (const field of fields(bytes)) {
    if (field.number === 1) piece.piece = text(field);
    else if (field.number === 2) piece.score = float(field);
    else if (field.number === 3) {
      const type = TYPES[whole(field) - 1];
      if (!type) {
        throw new UserError(`piece '${shown(piece.piece)}' has the unknown type ${field.value}`);
      }
      piece.type = type;
    }
  }
  return piece;
}

/** Refuses a model of another kind; the numbers are those of the protocol's TrainerSpec. */
function checkTrainer(bytes: Uint8Array): void {
  for (const field of fields(bytes)) {
    if (field.number === 3 && whole(field) !== 1) {
      const kind = MODELS[field.value - 1] ?? field.value;
      throw new UserError(`expected a Unigram model, got one of kind ${kind}`);
    }
    if (field.number === 24 && whole(field)) throw new UserError("its words end in a space");
    if (field.number === 35 && whole(field)) throw new UserError("it falls back to bytes");
  }
}

function readNormalizer(bytes: Uint8Array): { normalization: string; charsmap: Uint8Array } {
  const normalizer = { normalization: "", charsmap: new Uint8Array() };
  for (const field of fields(bytes)) {
    if (field.number === 1) normalizer.normalization = text(field);
    else if (field.number === 2) normalizer.charsmap = message(field).slice();
    else if (field.number >= 3 && field.number <= 5 && !whole(field)) {
      throw new UserError(
        "expected add_dummy_prefix, remove_extra_whitespaces and escape_whitespaces",
      );
    }
  }
  new Charsmap(normalizer.charsmap); // Broken rules are refused here, with the file's name.
  return normalizer;
}

/** Returns the id of the unknown piece. */
function checkPieces(pieces: readonly Piece[]): number {
  const seen = new Set<string>();
  for (const { piece, score, type } of pieces) {
    if (piece === "") throw new UserError("a piece is empty");
    if (seen.has(piece)) throw new UserError(`the piece '${shown(piece)}' is there twice`);
    if (!Number.isFinite(score)) {
      throw new UserError(`the piece '${shown(piece)}' has no finite score`);
    }
    if (type === "byte") throw new UserError("it falls back to bytes");
    seen.add(piece);
  }
  const unknown = pieces.flatMap(({ type }, id) => type === "unknown" ? [id] : []);
  if (unknown.length !== 1) {
    throw new UserError(`expected one unknown piece, got ${unknown.length}`);
  }
  if (!pieces.some(({ type }) => type === "normal")) throw new UserError("it has no pieces");
  return unknown[0];
}

// --- protocol buffers ---

/** The fields of a message, in order. */
function* fields(bytes: Uint8Array): Generator<Field> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; scale < 2 ** 70; scale *= 128) {
      if (at === bytes.length) throw new UserError("it ends within a number");
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new UserError("a number is too long");
  };
  while (at < bytes.length) {
    const tag = varint();
    const field = { number: Math.floor(tag / 8), wire: tag % 8, value: 0, bytes };
    if (field.number === 0) throw new UserError("a field has the number 0");
    if (field.wire === 0) field.value = varint();
    else {
      const fixed = field.wire === 1 ? 8 : field.wire === 5 ? 4 : undefined;
      if (fixed === undefined && field.wire !== 2) {
        throw new UserError(`a field has the unknown wire type ${field.wire}`);
      }
      const size = fixed ?? varint();
      if (size > bytes.length - at) throw new UserError("it ends within a field");
      field.bytes = bytes.subarray(at, at + size);
      if (fixed === 4) field.value = view.getFloat32(at, true);
      at += size;
    }
    yield field;
  }
}

function typed(field: Field, wire: number): Field {
  if (field.wire === wire) return field;
  throw new UserError(`field ${field.number} has wire type ${field.wire}, expected ${wire}`);
}

function whole(field: Field): number {
  return typed(field, 0).value;
}

function float(field: Field): number {
  return typed(field, 5).value;
}

function message(field: Field): Uint8Array {
  return typed(field, 2).bytes;
}

const fromUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function text(field: Field): string {
  try {
    return fromUtf8.decode(message(field));
  } catch (error) {
    if (error instanceof TypeError) throw new UserError("a text is not UTF-8");
    throw error;
  }
}
