/**
 * The files of a packed corpus, and random access to its blocks.
 *
 * ```text
 * corpus.json          what it was made from and how, and what it holds
 * train.tokens.bin     the ids of all blocks, one after another, u16 or u32 little-endian
 * train.index.bin      where each block starts, in ids: count + 1 numbers, u64 little-endian
 * heldout.*.bin        the same for the held-out documents
 * ```
 *
 * @module
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
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
}

/** The content of corpus.json. */
export interface PackedManifest {
  /** Version of the format. */
  format: number;
  /** How one id is stored. */
  dtype: "u16" | "u32";
  /** SHA-256 of the tokenizer, see `Tokenizer.hash`. */
  tokenizer: string;
  /** The rule. */
  rule: PackRule;
  /** The files it was made from. */
  files: CorpusFile[];
  /** Ids cut off by `longLines: "crop"`. */
  cropped: number;
  /** The training part. */
  train: PartCounts;
  /** The held-out part. */
  heldout: PartCounts;
}

/** The version of the format that this code writes and reads. */
export const FORMAT = 1;
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

/**
 * Reads corpus.json.
 *
 * @throws {UserError} if the folder is not a packed corpus of this format
 */
export function readManifest(dir: string): PackedManifest {
  let manifest: PackedManifest;
  try {
    manifest = JSON.parse(Deno.readTextFileSync(join(dir, MANIFEST)));
  } catch (error) {
    throw new UserError(`${dir}: not a packed corpus: ${(error as Error).message}`);
  }
  if (manifest.format === FORMAT) return manifest;
  throw new UserError(
    `${dir}: packed in format ${manifest.format}, this version reads ${FORMAT}; pack it again`,
  );
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
 * Opens one part of a packed corpus; close it when done.
 *
 * @throws {UserError} if the folder is not a packed corpus, or its files are not as long as
 * corpus.json says
 */
export function openPacked(dir: string, part: PartName): PackedPart {
  const { dtype, [part]: { blocks: count, tokens, longest } } = readManifest(dir);
  const width = dtype === "u16" ? 2 : 4;
  const files = partFiles(dir, part);
  const index = openSized(files.index, (count + 1) * 8);
  let data: number;
  try {
    data = openSized(files.tokens, tokens * width);
  } catch (error) {
    closeSync(index);
    throw error;
  }
  const offset = pagedOffsets(index, count + 1);
  const check = (i: number): void => {
    if (!(i >= 0 && i < count)) throw new RangeError(`block ${i}: there are ${count} blocks`);
  };
  return {
    count,
    tokens,
    maxLength: longest,
    length(i) {
      check(i);
      return offset(i + 1) - offset(i);
    },
    read(i) {
      check(i);
      const start = offset(i);
      const length = offset(i + 1) - start;
      const bytes = readExactly(data, start * width, length * width);
      const ids = width === 2 ? new Uint16Array(bytes.buffer) : new Uint32Array(bytes.buffer);
      return Uint32Array.from(ids);
    },
    close() {
      closeSync(index);
      closeSync(data);
    },
  };
}

function openSized(file: string, expected: number): number {
  let handle: number;
  try {
    handle = openSync(file, "r");
  } catch (error) {
    throw new UserError(`${file}: cannot be read: ${(error as Error).message}`);
  }
  const { size } = fstatSync(handle);
  if (size === expected) return handle;
  closeSync(handle);
  throw new UserError(`${file}: ${size} bytes instead of ${expected}; pack the corpus again`);
}

function readExactly(handle: number, position: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const read = readSync(handle, bytes, done, length - done, position + done);
    if (read === 0) throw new Error(`the file of a packed corpus ends before byte ${position}`);
    done += read;
  }
  return bytes;
}

/** Entries per page: 4 KB, so that a random access costs one disk page. */
const PAGE = 512;
/** 4 MB in all: the whole index of half a million blocks. */
const PAGES = 1024;

/** Reads entries of an index through a small cache of pages; the least recently used page goes. */
function pagedOffsets(handle: number, entries: number): (i: number) => number {
  const pages = new Map<number, Uint32Array>();
  return (i) => {
    const number = Math.floor(i / PAGE);
    let page = pages.get(number);
    if (page === undefined) {
      const length = Math.min(PAGE, entries - number * PAGE);
      page = new Uint32Array(readExactly(handle, number * PAGE * 8, length * 8).buffer);
      if (pages.size >= PAGES) pages.delete(pages.keys().next().value!);
    } else pages.delete(number);
    pages.set(number, page);
    const at = (i - number * PAGE) * 2;
    return page[at] + page[at + 1] * 2 ** 32;
  };
}
