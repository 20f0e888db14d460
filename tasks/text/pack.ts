/**
 * Packs a corpus into training blocks on disk: documents are encoded, put together into blocks of at
 * most `block` ids that begin with `<s>`, and written with an index; see {@link ./packed.ts} for the
 * files.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { basename, dirname, join, resolve } from "node:path";
import { crc32 } from "node:zlib";
import { lock } from "../files/lock.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { sealed } from "../files/seal.ts";
import { type Document, listCorpus, readDocuments } from "./corpus.ts";
import { isSameText, withDigests } from "./same_text.ts";
import {
  FORMAT,
  MANIFEST,
  type PackedManifest,
  type PackRule,
  type PartCounts,
  partFiles,
  type PartName,
  readManifest,
} from "./packed.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { type EncodedDocument, encodeDocuments } from "./encode.ts";

/** What {@link packCorpus} packs, and how. */
export interface PackRequest extends Partial<PackRule> {
  /** Files, folders or globs, see `listCorpus`. */
  paths: string[];
  /** Gives the ids. */
  tokenizer: Tokenizer;
  /** Folder to write; replaced if it is a packed corpus already, unless that is to be kept. */
  out: string;
  /** A packed corpus that is there already may be another run's: it is used if it is the same, or else kept. */
  keep?: boolean;
  /** Threads to encode on (default 1: this thread). */
  workers?: number;
  /** Called for every document read, with totals so far; characters are UTF-16 units. */
  onProgress?: (read: { documents: number; characters: number }) => void;
}

/**
 * The rule that holds where a request says nothing. Long lines are split, not cropped as in the
 * released code: nothing of the corpus is lost.
 */
const DEFAULT_RULE: PackRule = {
  block: 512,
  rule: "complete_doc",
  longLines: "split",
  heldOut: 0.02,
  seed: 1,
};

const MAX_BLOCK = 65536;

/** Streams of randomness, so that the two uses of one seed are independent. */
const HELD_OUT = 0x68656c64;
const CROP = 0x63726f70;

/**
 * Packs a corpus. Everything is written to a folder beside `out` that takes its name at the end: on
 * any failure nothing is left behind, and an earlier corpus in `out` stays as it was. What a process that was
 * killed has left behind is removed.
 *
 * With two documents or more and `heldOut` above 0, both parts have at least one document.
 *
 * @returns what was written as corpus.json
 * @throws {UserError} for a rule out of range, an unusable corpus, an `out` that holds other files or is
 * being packed by another process, a corpus that is to be kept, and a full disk
 *
 * @example
 * ```ts
 * import { packCorpus } from "./pack.ts";
 * import { openPacked } from "./packed.ts";
 * import { Tokenizer } from "../tokenizer/tokenizer.ts";
 * import { trainTokenizer } from "../tokenizer/train_bpe.ts";
 * import assert from "node:assert/strict";
 *
 * const dir = await Deno.makeTempDir();
 * await Deno.writeTextFile(`${dir}/a.txt`, "a b\nc\n\nd\n");
 * const json = await trainTokenizer(["a b"], { vocabSize: 260, lowercase: true, sentinels: 8 });
 * await packCorpus({
 *   paths: [`${dir}/a.txt`],
 *   tokenizer: new Tokenizer(json),
 *   block: 16,
 *   heldOut: 0,
 *   out: `${dir}/packed`,
 * });
 * const part = openPacked(`${dir}/packed`, "train");
 * assert.equal(part.count, 2); // one block for each document
 * assert.equal(part.length(1), 4); // <s>, two bytes of " d", </s>
 * part.close();
 * await Deno.remove(dir, { recursive: true });
 * ```
 */
export async function packCorpus(request: PackRequest): Promise<PackedManifest> {
  const { paths, tokenizer, out, keep = false } = request;
  const rule = fullRule(request);
  const files = listCorpus(paths);
  const { bos } = tokenizer;
  if (bos === undefined) {
    throw new UserError("tokenizer: it has no token <s>, with which every block begins");
  }
  if (keep && holdsCorpus(out)) return await kept(request); // perhaps on a disk that cannot be written to
  using _held = await lockPacked(out);
  refuseForeign(out);
  if (keep && holdsCorpus(out)) return await kept(request);
  removeLeftovers(out);
  const temporary = makeTemporary(out);
  try {
    const written = await writeParts({ ...request, rule, bos }, temporary);
    const { dtype, cropped, train, heldout } = written;
    if (train.blocks === 0) throw new UserError(`no text in ${paths.join(", ")}`);
    // Of the very bytes that were packed.
    const digests = await withDigests(files);
    const identity = { tokenizer: tokenizer.hash, ids: tokenizer.rows, rule, files: digests };
    const manifest: PackedManifest = {
      format: FORMAT,
      dtype,
      ...identity,
      cropped,
      train,
      heldout,
    };
    const text = JSON.stringify(sealed(manifest), null, 2) + "\n";
    Deno.writeTextFileSync(join(temporary, MANIFEST), text);
    replace(out, temporary);
    return manifest;
  } catch (error) {
    Deno.removeSync(temporary, { recursive: true });
    throw explain(error, out);
  }
}

/** A packed corpus that is there already, if it is what is asked for. */
async function kept(request: PackRequest): Promise<PackedManifest> {
  const { out } = request;
  if (await isFresh(out, request)) return readManifest(out);
  throw new UserError(
    `${out}: holds a packed corpus of other text, tokenizer or settings, which a run may need; give ` +
      "another --packed folder, or delete this one",
  );
}

/** The files of both parts, down to the disk. */
async function writeParts(
  request: Omit<PackRequest, "rule"> & { rule: PackRule; bos: number },
  folder: string,
): Promise<Pick<PackedManifest, "dtype" | "cropped" | PartName>> {
  const { paths, tokenizer, rule, bos, workers = 1, onProgress } = request;
  const dtype = tokenizer.rows <= 65536 ? "u16" : "u32";
  const open = (part: PartName) => new PartWriter(folder, part, dtype, bos);
  const parts = { train: open("train"), heldout: open("heldout") };
  let cropped = 0;
  try {
    const packers = {
      train: packer(rule, tokenizer.eos, parts.train),
      heldout: packer(rule, tokenizer.eos, parts.heldout),
    };
    const documents = counted(readDocuments(paths), onProgress);
    const encoded = encodeDocuments(documents, tokenizer, workers);
    for await (const { document, part } of assignParts(encoded, rule)) {
      cropped += packers[part].add(document);
    }
    for (const packer of Object.values(packers)) packer.finish();
    for (const part of Object.values(parts)) part.flush();
  } finally {
    for (const part of Object.values(parts)) part.close();
  }
  return { dtype, cropped, train: parts.train.contents(), heldout: parts.heldout.contents() };
}

/**
 * Looks whether a corpus can be packed into a folder, before any work is done. One that is there already is
 * used or refused when tokenizer and text are known.
 *
 * @throws {UserError} if it holds other files, cannot be written to, or another process packs into it
 */
export async function expectPackable(out: string): Promise<void> {
  if (holdsCorpus(out)) return;
  using _held = await lockPacked(out);
  refuseForeign(out);
}

function lockPacked(out: string) {
  return lock(`${resolve(out)}.lock`, {
    what: out,
    doing: "packing",
    otherwise: "wait until the corpus is packed, or give another folder",
  });
}

/**
 * Whether `dir` holds exactly what {@link packCorpus} would make of a request now: the same text, wherever
 * its files are, the same tokenizer, the same rule.
 *
 * @throws {UserError} if the request's own paths are unusable
 */
export async function isFresh(dir: string, request: Omit<PackRequest, "out">): Promise<boolean> {
  const now = listCorpus(request.paths);
  return isPackedBy(dir, request) && await isSameText(readManifest(dir).files, now);
}

/** Whether `dir` holds a corpus that was packed by a request's tokenizer and rule, whatever the text. */
export function isPackedBy(
  dir: string,
  request: Pick<PackRequest, "tokenizer"> & Partial<PackRule>,
): boolean {
  const wanted = [request.tokenizer.hash, fullRule(request)];
  try {
    const { tokenizer, rule } = readManifest(dir);
    return JSON.stringify([tokenizer, rule]) === JSON.stringify(wanted);
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

function holdsCorpus(dir: string): boolean {
  try {
    return Deno.statSync(join(dir, MANIFEST)).isFile;
  } catch {
    return false;
  }
}

/** The request's rule with defaults, its keys in a fixed order. */
function fullRule(request: Partial<PackRule>): PackRule {
  const { block, rule, longLines, heldOut, seed } = {
    ...DEFAULT_RULE,
    ...withoutUndefined(request),
  };
  if (!Number.isInteger(block) || block < 4 || block > MAX_BLOCK) {
    throw new UserError(`block length: expected a whole number in [4, ${MAX_BLOCK}], got ${block}`);
  }
  if (!(heldOut >= 0 && heldOut < 1)) {
    throw new UserError(`held-out fraction: expected at least 0 and less than 1, got ${heldOut}`);
  }
  return { block, rule, longLines, heldOut, seed };
}

function withoutUndefined<T extends object>(record: T): Partial<T> {
  const given = Object.entries(record).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as Partial<T>;
}

/** Only a packed corpus or an empty folder may be replaced. */
function refuseForeign(out: string): void {
  let names: string[];
  try {
    names = [...Deno.readDirSync(out)].map((entry) => entry.name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw explain(error, out);
  }
  if (names.length === 0 || names.includes(MANIFEST)) return;
  throw new UserError(`${out}: holds other files (${names[0]}...); choose a folder of its own`);
}

/** What processes have left behind that were killed while they packed; the lock says that they are dead. */
function removeLeftovers(out: string): void {
  const folder = dirname(resolve(out)), begin = `${basename(resolve(out))}.packing-`;
  for (const { name } of Deno.readDirSync(folder)) {
    if (!/^\d+(-old)?$/.test(name.startsWith(begin) ? name.slice(begin.length) : "")) continue;
    Deno.removeSync(join(folder, name), { recursive: true });
  }
}

function makeTemporary(out: string): string {
  const temporary = `${resolve(out)}.packing-${Deno.pid}`;
  try {
    Deno.mkdirSync(temporary, { recursive: true });
  } catch (error) {
    throw explain(error, out);
  }
  return temporary;
}

function replace(out: string, temporary: string): void {
  const old = `${temporary}-old`;
  try {
    Deno.renameSync(out, old);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    Deno.renameSync(temporary, out);
    return;
  }
  Deno.renameSync(temporary, out);
  Deno.removeSync(old, { recursive: true });
}

/** Failures of the file system are the user's to mend; everything else is passed on. */
function explain(error: unknown, out: string): unknown {
  if (error instanceof UserError || !(error instanceof Error && "code" in error)) return error;
  const advice = error.code === "ENOSPC" ? "; free some space or choose another disk" : "";
  return new UserError(`${out}: cannot be written: ${error.message}${advice}`);
}

async function* counted(
  documents: AsyncIterable<Document>,
  report: PackRequest["onProgress"],
): AsyncGenerator<Document> {
  const read = { documents: 0, characters: 0 };
  for await (const document of documents) {
    yield document;
    read.documents++;
    for (const line of document.lines) read.characters += line.length + 1;
    report?.(read);
  }
}

/**
 * Chooses each document's part by a hash of its number. One document is kept back until the next one
 * shows that it is not the last: the last one fills a part that would stay empty.
 */
async function* assignParts(
  documents: AsyncIterable<EncodedDocument>,
  { heldOut, seed }: PackRule,
): AsyncGenerator<{ document: EncodedDocument; part: PartName }> {
  const used = new Set<PartName>();
  let number = 0;
  let last: EncodedDocument | undefined;
  const choose = (): PartName => {
    const drawn = new Random(key(seed, HELD_OUT, number++)).uniform();
    return drawn < heldOut ? "heldout" : "train";
  };
  for await (const document of documents) {
    if (document.tokens.length === 0) continue;
    if (last !== undefined) {
      const part = choose();
      used.add(part);
      yield { document: last, part };
    }
    last = document;
  }
  if (last === undefined) return;
  let part = choose();
  if (!used.has("train")) part = "train";
  else if (heldOut > 0 && !used.has("heldout")) part = "heldout";
  yield { document: last, part };
}

/** Turns the documents of one part into blocks. */
interface Packer {
  /** Adds a document; returns how many ids were cropped away. */
  add(document: EncodedDocument): number;
  /** Writes what is left. */
  finish(): void;
}

function packer(rule: PackRule, eos: number, writer: PartWriter): Packer {
  return rule.rule === "concat"
    ? concatPacker(rule, eos, writer)
    : completeDocPacker(rule, eos, writer);
}

/**
 * fairseq's `complete_doc`: whole lines, each with its `</s>`, until the next would make the block
 * too long; a block never holds two documents.
 */
function completeDocPacker(
  { block, longLines, seed }: PackRule,
  eos: number,
  writer: PartWriter,
): Packer {
  const body = new Uint32Array(block - 1);
  let length = 0;
  const flush = (): void => {
    if (length > 1) writer.write(body.subarray(0, length));
    length = 0;
  };
  const append = (ids: Uint32Array): void => {
    if (length + ids.length > body.length) flush();
    body.set(ids, length);
    length += ids.length;
  };
  return {
    add(document) {
      let cropped = 0;
      for (const line of linesWithEos(document, eos)) {
        const excess = line.length - body.length;
        if (excess > 0 && longLines === "crop") {
          // As in the released code: keyed by the line alone, so every epoch sees the same window.
          const start = new Random(key(seed, CROP, writer.counts.lines)).below(excess);
          append(line.subarray(start, start + body.length));
          cropped += excess;
        } else {
          for (let at = 0; at < line.length; at += body.length) {
            append(line.subarray(at, at + body.length));
          }
        }
        writer.counts.lines++;
      }
      flush();
      writer.counts.documents++;
      return cropped;
    },
    finish: flush,
  };
}

/** All documents as one stream, cut into full blocks. */
function concatPacker({ block }: PackRule, eos: number, writer: PartWriter): Packer {
  const body = new Uint32Array(block - 1);
  let length = 0;
  return {
    add(document) {
      for (const line of linesWithEos(document, eos)) {
        for (let at = 0; at < line.length;) {
          const piece = line.subarray(at, at + body.length - length);
          body.set(piece, length);
          length += piece.length;
          at += piece.length;
          if (length < body.length) continue;
          writer.write(body);
          length = 0;
        }
        writer.counts.lines++;
      }
      writer.counts.documents++;
      return 0;
    },
    finish() {
      if (length > 1) writer.write(body.subarray(0, length));
    },
  };
}

/** The ids of each line followed by `</s>`; lines without ids are left out. */
function* linesWithEos({ tokens, lengths }: EncodedDocument, eos: number): Generator<Uint32Array> {
  let at = 0;
  for (const length of lengths) {
    if (length === 0) continue;
    const line = new Uint32Array(length + 1);
    line.set(tokens.subarray(at, at += length));
    line[length] = eos;
    yield line;
  }
}

/** How much is collected before it is written, in ids and in words of the index. */
const BUFFER = 1 << 19;

/** Writes the blocks of one part. */
class PartWriter {
  readonly counts: Omit<PartCounts, "index"> = {
    ...{ documents: 0, lines: 0, blocks: 0, tokens: 0, longest: 0 },
  };
  #tokens: Deno.FsFile;
  #index: Deno.FsFile;
  #ids: Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;
  #idCount = 0;
  #entries = new Uint32Array(3 * BUFFER);
  #entryWords = 0;
  readonly #digest = createHash("sha256");
  #bos: number;

  constructor(dir: string, part: PartName, dtype: "u16" | "u32", bos: number) {
    const { tokens, index } = partFiles(dir, part);
    this.#tokens = Deno.openSync(tokens, { write: true, create: true });
    this.#index = Deno.openSync(index, { write: true, create: true });
    this.#ids = dtype === "u16" ? new Uint16Array(BUFFER) : new Uint32Array(BUFFER);
    this.#bos = bos;
    this.#entry(0, 0);
  }

  /** What was written, once all of it is flushed. */
  contents(): PartCounts {
    return { ...this.counts, index: this.#digest.copy().digest("hex") };
  }

  /** Writes `<s>` and the ids as one block. */
  write(body: Uint32Array): void {
    const length = body.length + 1;
    if (this.#idCount + length > this.#ids.length) this.#flushIds();
    const from = this.#idCount;
    this.#ids[from] = this.#bos;
    this.#ids.set(body, from + 1);
    this.#idCount += length;
    this.counts.blocks++;
    this.counts.tokens += length;
    this.counts.longest = Math.max(this.counts.longest, length);
    const width = this.#ids.BYTES_PER_ELEMENT;
    const bytes = new Uint8Array(this.#ids.buffer, from * width, length * width);
    this.#entry(this.counts.tokens, crc32(bytes));
  }

  /** Writes what is still collected, down to the disk. */
  flush(): void {
    this.#flushIds();
    this.#flushEntries();
    this.#tokens.syncDataSync();
    this.#index.syncDataSync();
  }

  /** Closes the files. */
  close(): void {
    this.#tokens.close();
    this.#index.close();
  }

  /** Where the next block starts, and the checksum of the one before. */
  #entry(start: number, sum: number): void {
    if (this.#entryWords === this.#entries.length) this.#flushEntries();
    this.#entries.set([start % 2 ** 32, Math.floor(start / 2 ** 32), sum], this.#entryWords);
    this.#entryWords += 3;
  }

  #flushIds(): void {
    const size = this.#idCount * this.#ids.BYTES_PER_ELEMENT;
    writeAll(this.#tokens, new Uint8Array(this.#ids.buffer, 0, size));
    this.#idCount = 0;
  }

  #flushEntries(): void {
    const bytes = new Uint8Array(this.#entries.buffer, 0, this.#entryWords * 4);
    this.#digest.update(bytes);
    writeAll(this.#index, bytes);
    this.#entryWords = 0;
  }
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}
