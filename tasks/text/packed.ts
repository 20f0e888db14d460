/**
 * The files of a packed corpus, and random access to its blocks.
 *
 * ```text
 * corpus.json          what it was made from and how, and what it holds
 * train.tokens.bin     the ids of all blocks, one after another, u16 or u32 little-endian
 * train.index.bin      count + 1 entries of 12 bytes, little-endian: where a block starts, in ids, u64;
 *                      CRC-32 of the bytes of the block before it, u32
 * heldout.*.bin        the same for the held-out documents
 * ```
 *
 * Nothing of it is believed unseen: the manifest has a checksum of itself and of the indexes, which are
 * read once when a part is opened; a block's own checksum, and that its ids are in the vocabulary, is seen
 * to whenever the block is read.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { closeSync, fstatSync, readSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { UserError } from "../../ops/graph/errors.ts";
import { expectFields, fields, finite, list, oneOf, text, whole } from "../files/fields.ts";
import { parseAt } from "../files/json.ts";
import { openRegularNumber, readText } from "../files/read.ts";
import { expectSeal } from "../files/seal.ts";
import type { CorpusFile } from "./corpus.ts";

/** The two parts of a packed corpus. */
export type PartName = "train" | "heldout";

/** How documents become blocks. */
export interface PackRule {
  /** Longest block, in ids with its `<s>`. */
  block: number;
  /** `complete_doc`: whole lines of one document; `concat`: one stream of all documents, cut. */
  rule: "complete_doc" | "concat";
  /** For `complete_doc`, a line longer than a block: cut into pieces, or cropped to one piece. */
  longLines: "split" | "crop";
  /** Fraction of the documents that is held out, in [0, 1). */
  heldOut: number;
  /** Seed of the held-out choice and of the crops. */
  seed: number;
}

/** What a part holds. */
export interface PartCounts {
  /** Documents with text. */
  documents: number;
  /** Their lines. */
  lines: number;
  /** Blocks. */
  blocks: number;
  /** Ids in all blocks, special tokens included. */
  tokens: number;
  /** Ids in the longest block. */
  longest: number;
  /** SHA-256 of the index. */
  index: string;
}

/** A file of text that was packed, with what was in it. */
export interface PackedFile extends CorpusFile {
  /** SHA-256 of its bytes. */
  sha256: string;
}

/** The content of corpus.json. */
export interface PackedManifest {
  /** Version of the format. */
  format: number;
  /** How one id is stored. */
  dtype: "u16" | "u32";
  /** SHA-256 of the tokenizer, see `Tokenizer.hash`. */
  tokenizer: string;
  /** Ids are below this. */
  ids: number;
  /** The rule. */
  rule: PackRule;
  /** The files it was made from. */
  files: PackedFile[];
  /** Ids cut off by `longLines: "crop"`. */
  cropped: number;
  /** The training part. */
  train: PartCounts;
  /** The held-out part. */
  heldout: PartCounts;
}

/** The version of the format that this code writes and reads. */
export const FORMAT = 2;
/** Name of the manifest inside the folder. */
export const MANIFEST = "corpus.json";

/**
 * The file names of a part.
 *
 * @param dir folder of the packed corpus
 */
export function partFiles(dir: string, part: PartName): { tokens: string; index: string } {
  return { tokens: join(dir, `${part}.tokens.bin`), index: join(dir, `${part}.index.bin`) };
}

/** Bytes of an entry of an index. */
const ENTRY_BYTES = 12;

/** What to do about a corpus that is not as it was packed. */
const AGAIN = "delete the folder to have it packed again";

const PART = fields({
  documents: whole(),
  lines: whole(),
  blocks: whole(),
  tokens: whole(),
  longest: whole(0, 65536),
  index: text,
});

/** What corpus.json must be, besides its format. */
const CONTENTS = fields({
  dtype: oneOf(["u16", "u32"]),
  tokenizer: text,
  ids: whole(1),
  rule: fields({
    block: whole(1),
    rule: oneOf(["complete_doc", "concat"]),
    longLines: oneOf(["split", "crop"]),
    heldOut: finite(0),
    seed: whole(),
  }),
  files: list(
    fields({ path: text, size: whole(), modified: whole(), changed: whole(), sha256: text }),
  ),
  cropped: whole(),
  train: PART,
  heldout: PART,
});

/**
 * Reads corpus.json.
 *
 * @throws {UserError} if the folder is not a packed corpus of this format, or the file is not as it was
 * written
 */
export function readManifest(dir: string): PackedManifest {
  const path = join(dir, MANIFEST);
  let contents: string;
  try {
    contents = readText(path);
  } catch (error) {
    throw new UserError(`${dir}: not a packed corpus: ${(error as Error).message}`);
  }
  const manifest = parseAt(path, contents) as PackedManifest;
  expectFields(manifest, fields({ format: whole() }), path, AGAIN);
  if (manifest.format !== FORMAT) {
    throw new UserError(
      `${dir}: packed in format ${manifest.format}, this version reads ${FORMAT}; ${AGAIN}`,
    );
  }
  expectFields(manifest, CONTENTS, path, AGAIN);
  expectSeal(manifest, path, AGAIN);
  return manifest;
}

/** Random access to blocks of ids: one part of a packed corpus, or a mix of several corpora. */
export interface BlockSource {
  /** Number of blocks in an epoch. */
  count: number;
  /** Ids in all blocks, where that is known without looking. */
  tokens?: number;
  /** Ids in the longest block. */
  maxLength: number;
  /** Ids in block `i` of an epoch. A mix may use other blocks in every epoch. */
  length(i: number, epoch: number): number;
  /** The ids of block `i` of an epoch, `<s>` first. */
  read(i: number, epoch: number): Uint32Array;
  /** Closes the files. */
  close(): void;
}

/**
 * Random access to the blocks of one part, the same in every epoch. Nothing but a few pages of the index is
 * in memory.
 */
export interface PackedPart extends BlockSource {
  /** Number of blocks. */
  count: number;
  /** Ids in all blocks. */
  tokens: number;
  /** Ids in the longest block. */
  maxLength: number;
  /** Ids in block `i`. */
  length(i: number): number;
  /** The ids of block `i`, `<s>` first. */
  read(i: number): Uint32Array;
  /** Closes the files. */
  close(): void;
}

/**
 * Opens one part of a packed corpus; close it when done. Its index is read once, to see that it is as it was
 * packed.
 *
 * @throws {UserError} if the folder is not a packed corpus, or its files are not as corpus.json says
 */
export function openPacked(dir: string, part: PartName): PackedPart {
  const { dtype, ids: limit, [part]: counts } = readManifest(dir);
  const { blocks: count, tokens, longest } = counts;
  const width = dtype === "u16" ? 2 : 4;
  const files = partFiles(dir, part);
  const size = (count + 1) * ENTRY_BYTES;
  const index = openSized(files.index, size);
  let data: number | undefined;
  try {
    expectIndex(files.index, index, size, counts.index);
    data = openSized(files.tokens, tokens * width);
  } catch (error) {
    closeSync(index);
    throw error;
  }
  const handle = data, entry = pagedEntries(index, count + 1);
  const check = (i: number): void => {
    if (!(i >= 0 && i < count)) throw new RangeError(`block ${i}: there are ${count} blocks`);
  };
  return {
    count,
    tokens,
    maxLength: longest,
    length(i) {
      check(i);
      return entry(i + 1).start - entry(i).start;
    },
    read(i) {
      check(i);
      const { start } = entry(i), { start: end, sum } = entry(i + 1);
      const bytes = readExactly(handle, start * width, (end - start) * width);
      const ids = width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
      if (crc32(bytes) !== sum || !allBelow(ids, limit)) {
        throw new UserError(
          `${files.tokens}: block ${i} was changed since it was packed; ${AGAIN}`,
        );
      }
      return Uint32Array.from(ids);
    },
    close() {
      closeSync(index);
      closeSync(handle);
    },
  };
}

/** A plain loop: `every` takes longer than reading the block. */
function allBelow(ids: Uint16Array | Uint32Array, limit: number): boolean {
  for (let i = 0; i < ids.length; i++) if (ids[i] >= limit) return false;
  return true;
}

function openSized(file: string, expected: number): number {
  const handle = openRegularNumber(file);
  const { size } = fstatSync(handle);
  if (size === expected) return handle;
  closeSync(handle);
  throw new UserError(`${file}: ${size} bytes instead of ${expected}; ${AGAIN}`);
}

/** Bytes of an index that are looked at in one piece. */
const PIECE = 1 << 20;

function expectIndex(file: string, handle: number, size: number, expected: string): void {
  const digest = createHash("sha256");
  for (let done = 0; done < size; done += PIECE) {
    digest.update(readExactly(handle, done, Math.min(PIECE, size - done)));
  }
  if (digest.digest("hex") === expected) return;
  throw new UserError(`${file}: was changed since it was packed; ${AGAIN}`);
}

function readExactly(handle: number, position: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const read = readSync(handle, bytes, done, length - done, position + done);
    if (read === 0) {
      throw new UserError(`a file of the packed corpus ends before byte ${position}; ${AGAIN}`);
    }
    done += read;
  }
  return bytes;
}

/** Entries per page: 6 KB, so that a random access costs two disk pages. */
const PAGE = 512;
/** 6 MB in all: the whole index of half a million blocks. */
const PAGES = 1024;

/** Where a block starts, and the checksum of the one before it. */
interface Entry {
  start: number;
  sum: number;
}

/** Reads entries of an index through a small cache of pages; the least recently used page goes. */
function pagedEntries(handle: number, entries: number): (i: number) => Entry {
  const pages = new Map<number, Uint32Array>();
  return (i) => {
    const number = Math.floor(i / PAGE);
    let page = pages.get(number);
    if (page === undefined) {
      const length = Math.min(PAGE, entries - number * PAGE);
      const from = number * PAGE * ENTRY_BYTES;
      page = new Uint32Array(readExactly(handle, from, length * ENTRY_BYTES).buffer);
      if (pages.size >= PAGES) pages.delete(pages.keys().next().value!);
    } else pages.delete(number);
    pages.set(number, page);
    const at = (i - number * PAGE) * 3;
    return { start: page[at] + page[at + 1] * 2 ** 32, sum: page[at + 2] };
  };
}
