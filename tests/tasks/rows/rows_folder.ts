// What the tests of rows share: folders of files, and reading them in every way at once.

import assert from "node:assert/strict";
import { parquetWriteBuffer } from "hyparquet-writer";
import { UserError } from "../../../ops/graph/errors.ts";
import { indexRows, openRows, readRows, type Row } from "../../../tasks/rows/mod.ts";

export type Files = Record<string, string | Uint8Array>;

export async function inFolder(
  files: Files,
  body: (dir: string) => Promise<void> | void,
): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) await write(`${dir}/${name}`, content);
    await body(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

export async function write(path: string, content: string | Uint8Array): Promise<void> {
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  await Deno.writeFile(path, typeof content === "string" ? utf8(content) : content);
}

export function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** The rows of `d/train`, streamed; what is bad goes into `bad` if it is given. */
export async function stream(dir: string, bad?: string[], dataset = "d"): Promise<Row[]> {
  const onBad = bad && ((error: UserError) => void bad.push(error.message));
  const read = await Array.fromAsync(readRows(dir, dataset, "train", { onBad }));
  assert.deepEqual(read.map(({ number }) => number), read.map((_, i) => i));
  return read.map(({ row }) => row);
}

export function index(dir: string, onBad?: (error: UserError) => void) {
  return indexRows({ folder: dir, dataset: "d", split: "train", cache: `${dir}/.cache`, onBad });
}

/** The same by number, last row first. */
export async function byNumber(dir: string, bad?: string[]): Promise<Row[]> {
  const made = await index(dir, bad && ((error) => void bad.push(error.message)));
  assert.deepEqual(structuredClone(made), made, "can be posted to a worker");
  const reader = openRows(made);
  const rows = Array.from({ length: reader.count }, (_, i) => reader.read(reader.count - 1 - i));
  reader.close();
  return rows.reverse();
}

/** What streaming, indexing and the cache made by indexing give is the same. */
export async function rowsIn(dir: string, bad?: string[]): Promise<Row[]> {
  const messages: string[][] = [[], [], []];
  const streamed = await stream(dir, bad && messages[0]);
  assert.deepEqual(await byNumber(dir, bad && messages[1]), streamed);
  assert.deepEqual(await byNumber(dir, bad && messages[2]), streamed);
  assert.deepEqual([messages[1], messages[2]], [messages[0], messages[0]]);
  bad?.push(...messages[0]);
  return streamed;
}

export function userError(...parts: string[]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof UserError, String(error));
    for (const part of parts) assert.ok(error.message.includes(part), error.message);
    assert.ok(!error.message.includes("\n"), "one line");
    return true;
  };
}

/** Reading fails as said, both ways; and goes on, with that message alone, where bad is skipped. */
export async function assertBad(files: Files, parts: string[], kept: Row[]): Promise<void> {
  await inFolder(files, async (dir) => {
    await assert.rejects(stream(dir), userError(...parts));
    await assert.rejects(index(dir), userError(...parts));
    const bad: string[] = [];
    assert.deepEqual(await rowsIn(dir, bad), kept);
    assert.equal(bad.length, 1, bad.join(" | "));
    userError(...parts)(new UserError(bad[0]));
    await assert.rejects(index(dir), userError(...parts), "the cache holds the error, too");
  });
}

/** A Parquet file of columns whose types are guessed, or that `schema` gives. */
export function table(columns: Record<string, unknown[]>, options: object = {}): Uint8Array {
  const columnData = Object.entries(columns).map(([name, data]) => ({ name, data }));
  return new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize: 2, ...options } as never));
}
