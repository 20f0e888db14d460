/**
 * Encodes a stream of documents, on this thread or on several workers, with the same result.
 *
 * @module
 */
import type { Document } from "./corpus.ts";
import type { Tokenizer, TokenizerJson } from "../tokenizer/tokenizer.ts";
import { joinArrays } from "../files/arrays.ts";
import { OrderedPool } from "../parallel/ordered_pool.ts";

/** The ids of one document, without special tokens. */
export interface EncodedDocument {
  /** The ids of all lines, one line after another. */
  tokens: Uint32Array;
  /** How many ids each line has. */
  lengths: Uint32Array;
}

/** The ids of several documents in few arrays: what a worker sends back. */
export interface EncodedBatch {
  /** The ids of all lines of all documents. */
  tokens: Uint32Array<ArrayBuffer>;
  /** How many ids each line has. */
  lengths: Uint32Array<ArrayBuffer>;
  /** How many lines each document has. */
  lines: Uint32Array<ArrayBuffer>;
}

/** How much text is encoded at once, UTF-16 units: large enough that messages cost nothing. */
const BATCH = 1 << 18;
/** Batches a worker may have before its first answer is awaited: one in work, one waiting. */
const IN_FLIGHT = 2;

/**
 * Encodes documents in their order.
 *
 * @param workers threads to encode on; up to 1 means this thread (no worker, no permission needed).
 * Memory is bounded: a few batches per worker
 *
 * @example
 * ```ts
 * import { trainTokenizer } from "../tokenizer/train_bpe.ts";
 * import { Tokenizer } from "../tokenizer/tokenizer.ts";
 * import { encodeDocuments } from "./encode.ts";
 * import assert from "node:assert/strict";
 *
 * const json = await trainTokenizer(["a b"], { vocabSize: 260, lowercase: true, sentinels: 0 });
 * const documents = [{ lines: ["a b", "c"], source: "here" }];
 * const [encoded] = await Array.fromAsync(encodeDocuments(documents, new Tokenizer(json), 1));
 * assert.deepEqual([...encoded.lengths], [4, 2]); // " a b" and " c", byte by byte
 * ```
 */
export async function* encodeDocuments(
  documents: AsyncIterable<Document> | Iterable<Document>,
  tokenizer: Tokenizer,
  workers: number,
): AsyncGenerator<EncodedDocument> {
  if (workers <= 1) {
    for await (const batch of batches(documents)) yield* unpack(encodeBatch(tokenizer, batch));
    return;
  }
  const module = new URL("./encode_worker.ts", import.meta.url);
  const pool = new OrderedPool<TokenizerJson, string[][], EncodedBatch>(
    module,
    workers,
    "an encoding worker",
    tokenizer.json,
  );
  const pending: Promise<EncodedBatch>[] = [];
  try {
    for await (const batch of batches(documents)) {
      pending.push(pool.ask(batch));
      if (pending.length >= IN_FLIGHT * workers) yield* unpack(await pending.shift()!);
    }
    while (pending.length > 0) yield* unpack(await pending.shift()!);
  } finally {
    pool.close();
  }
}

/** Encodes the lines of some documents. */
export function encodeBatch(tokenizer: Tokenizer, documents: string[][]): EncodedBatch {
  const encoded = documents.flat().map((line) => tokenizer.encode(line));
  const lengths = Uint32Array.from(encoded, (ids) => ids.length);
  const tokens = joinArrays(Uint32Array, encoded);
  return { tokens, lengths, lines: Uint32Array.from(documents, (lines) => lines.length) };
}

async function* batches(
  documents: AsyncIterable<Document> | Iterable<Document>,
): AsyncGenerator<string[][]> {
  let batch: string[][] = [];
  let size = 0;
  for await (const { lines } of documents) {
    batch.push(lines);
    for (const line of lines) size += line.length;
    if (size < BATCH) continue;
    yield batch;
    batch = [];
    size = 0;
  }
  if (batch.length > 0) yield batch;
}

function* unpack({ tokens, lengths, lines }: EncodedBatch): Generator<EncodedDocument> {
  let line = 0;
  let token = 0;
  for (const count of lines) {
    const document = lengths.subarray(line, line += count);
    const size = document.reduce((sum, length) => sum + length, 0);
    yield { tokens: tokens.subarray(token, token += size), lengths: document };
  }
}
