/**
 * Writes a file under a temporary name, so that under its own name it is always whole.
 *
 * @module
 */

const BUFFER = 1 << 18;
const encoder = new TextEncoder();

/**
 * A file that is written from beginning to end and then takes its name, over an old one. Without
 * {@link TemporaryFile.commit} it disappears at the end of its `using` block.
 *
 * @example
 * ```ts
 * import { TemporaryFile } from "./temporary_file.ts";
 * import assert from "node:assert/strict";
 *
 * const path = await Deno.makeTempFile();
 * {
 *   using file = new TemporaryFile(path);
 *   file.writeText("né\n");
 *   assert.equal(file.size, 4);
 *   file.commit();
 * }
 * assert.equal(await Deno.readTextFile(path), "né\n");
 * await Deno.remove(path);
 * ```
 */
export class TemporaryFile {
  readonly #path: string;
  readonly #temporary: string;
  readonly #file: Deno.FsFile;
  readonly #buffer = new Uint8Array(BUFFER);
  readonly #view = new DataView(this.#buffer.buffer);
  #used = 0;
  #flushed = 0;
  #done = false;

  /**
   * Begins the file under its temporary name.
   *
   * @param path where the file will be; its folder exists
   */
  constructor(path: string) {
    this.#path = path;
    this.#temporary = `${path}.${crypto.randomUUID().slice(0, 8)}.tmp`;
    this.#file = Deno.openSync(this.#temporary, { write: true, createNew: true });
  }

  /** Bytes written so far. */
  get size(): number {
    return this.#flushed + this.#used;
  }

  /** Appends text as UTF-8. */
  writeText(text: string): void {
    // A UTF-16 unit takes at most three bytes.
    if (this.#used + text.length * 3 > BUFFER) this.#flush();
    if (text.length * 3 > BUFFER) this.#writeAll(encoder.encode(text));
    else this.#used += encoder.encodeInto(text, this.#buffer.subarray(this.#used)).written;
  }

  /** Appends a number as eight bytes, f64 little-endian. */
  writeNumber(value: number): void {
    if (this.#used + 8 > BUFFER) this.#flush();
    this.#view.setFloat64(this.#used, value, true);
    this.#used += 8;
  }

  /** Flushes the file to the disk and gives it its name. */
  commit(): void {
    this.#flush();
    this.#file.syncSync();
    Deno.renameSync(this.#temporary, this.#path);
    this.#done = true;
  }

  /** Closes the file, and removes it if it was not committed. */
  [Symbol.dispose](): void {
    this.#file.close();
    if (!this.#done) Deno.removeSync(this.#temporary);
  }

  #flush(): void {
    this.#writeAll(this.#buffer.subarray(0, this.#used));
    this.#used = 0;
  }

  #writeAll(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
    this.#flushed += bytes.length;
  }
}

/** Whether an error says that the disk is full. */
export function isFull(error: Error): boolean {
  return "code" in error && error.code === "ENOSPC";
}
