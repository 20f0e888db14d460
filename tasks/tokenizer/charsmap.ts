/**
 * SentencePiece's precompiled normalisation rules: a trie over UTF-8 that maps byte sequences to
 * replacements. Everywhere the longest rule applies; what no rule starts with stays.
 *
 * The bytes: the size of the trie (u32), a Darts double array (u32 units), and the replacements, each
 * ended by a zero byte. Everything is little-endian.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Eight times the longest that Unicode's rules write: else a few bytes could stand for megabytes. */
const LONGEST_REPLACEMENT = 255;

/** Rust `tokenizers` replaces graphemes of fewer bytes whole. */
const SHORT_GRAPHEME = 6;
const GRAPHEMES = new Intl.Segmenter("en", { granularity: "grapheme" });

/** A unit whose low byte is the label; a leaf, whose unit is a value, can never have one. */
const LABEL = 0x800000ff;

/**
 * Compiled rules.
 *
 * @example
 * ```ts
 * import { Charsmap } from "./charsmap.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(new Charsmap(new Uint8Array()).apply("no rules"), "no rules");
 * ```
 */
export class Charsmap {
  #units: Uint32Array;
  #replacements: Uint8Array;
  /** Whether an ASCII character stays as it is before any other ASCII character. */
  #plain = new Uint8Array(128);
  #special: RegExp;
  #in = new Uint8Array(1024);
  #out = new Uint8Array(1024);
  /** The rule that {@link #match} found: where its replacement starts, how many bytes it takes. */
  #found = 0;
  #taken = 0;

  /**
   * Reads the rules; no bytes are no rules.
   *
   * @throws {UserError} if the bytes are no such rules
   */
  constructor(bytes: Uint8Array) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const size = bytes.length > 4 ? view.getUint32(0, true) : 0;
    if (bytes.length > 0 && (size === 0 || size % 4 !== 0 || 4 + size >= bytes.length)) {
      throw new UserError(
        `charsmap: expected a trie and its replacements, got ${bytes.length} bytes`,
      );
    }
    this.#units = Uint32Array.from({ length: size / 4 }, (_, i) => view.getUint32(4 + 4 * i, true));
    this.#replacements = bytes.subarray(4 + size);
    checkReplacements(this.#replacements);
    for (let c = 0; c < 128; c++) this.#plain[c] = Number(this.#isPlain(c));
    const plain = Array.from(this.#plain.keys()).filter((c) => this.#plain[c]);
    const hex = plain.map((c) => `\\x${c.toString(16).padStart(2, "0")}`).join("");
    this.#special = new RegExp(hex === "" ? "[^]" : `[^${hex}]`);
  }

  /** The text with every rule applied; a lone surrogate is read as U+FFFD. */
  apply(text: string): string {
    if (this.#units.length === 0 || !this.#special.test(text)) return text;
    if (this.#in.length < 3 * text.length) this.#in = new Uint8Array(4 * text.length);
    const { written: size } = utf8.encodeInto(text, this.#in);
    const bytes = this.#in;
    let length = 0;
    for (let at = 0; at < size;) {
      if (length + 4 > this.#out.length) this.#grow(4);
      if (this.#plain[bytes[at]] && (at + 1 === size || bytes[at + 1] < 128)) {
        this.#out[length++] = bytes[at++];
      } else if (this.#match(bytes, at, size)) {
        length = this.#replace(length);
        at += this.#taken;
      } else {
        const end = at + charLength(bytes[at]);
        while (at < end) this.#out[length++] = bytes[at++];
      }
    }
    return fromUtf8.decode(this.#out.subarray(0, length));
  }

  /**
   * The same as Rust `tokenizers` does it: a short grapheme is replaced whole by the shortest rule that
   * begins it, and so is each character of the others.
   */
  applyByGrapheme(text: string): string {
    if (this.#units.length === 0 || !this.#special.test(text) && !text.includes("\r\n")) {
      return text;
    }
    let result = "";
    for (const { segment } of GRAPHEMES.segment(text)) {
      const whole = utf8.encode(segment).length < SHORT_GRAPHEME
        ? this.#replacement(segment)
        : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of segment) result += this.#replacement(character) ?? character;
    }
    return result;
  }

  /** What the shortest rule puts in the place of a whole piece of text; undefined without a rule. */
  #replacement(piece: string): string | undefined {
    let node = offset(this.#units[0]);
    for (const byte of utf8.encode(piece)) {
      node ^= byte;
      const unit = this.#units[node];
      if (byte === 0 || unit === undefined || (unit & LABEL) >>> 0 !== byte) return undefined;
      node ^= offset(unit);
      if (!hasLeaf(unit)) continue;
      const start = (this.#units[node] ?? Infinity) & 0x7fffffff;
      if (start >= this.#replacements.length) return undefined;
      const end = this.#replacements.indexOf(0, start);
      return fromUtf8.decode(this.#replacements.subarray(start, end < 0 ? undefined : end));
    }
    return undefined;
  }

  /** Looks for the longest rule that starts at a byte. */
  #match(bytes: Uint8Array, at: number, end: number): boolean {
    this.#taken = 0;
    let node = offset(this.#units[0]);
    for (let i = at; i < end; i++) {
      node ^= bytes[i];
      const unit = this.#units[node];
      // Beyond the array there is no unit: a broken trie ends there.
      if (unit === undefined || (unit & LABEL) >>> 0 !== bytes[i]) break;
      node ^= offset(unit);
      if (!hasLeaf(unit)) continue;
      const replacement = (this.#units[node] ?? Infinity) & 0x7fffffff;
      if (replacement >= this.#replacements.length) continue;
      this.#found = replacement;
      this.#taken = i + 1 - at;
    }
    return this.#taken > 0;
  }

  #replace(length: number): number {
    let end = this.#replacements.indexOf(0, this.#found);
    if (end < 0) end = this.#replacements.length;
    if (length + end - this.#found > this.#out.length) this.#grow(end - this.#found);
    for (let i = this.#found; i < end; i++) this.#out[length++] = this.#replacements[i];
    return length;
  }

  #grow(more: number): void {
    const larger = new Uint8Array((this.#out.length + more) * 2);
    larger.set(this.#out);
    this.#out = larger;
  }

  #isPlain(c: number): boolean {
    if (this.#units.length === 0) return true;
    let node = offset(this.#units[0]) ^ c;
    const unit = this.#units[node] ?? 0;
    if ((unit & LABEL) >>> 0 !== c || c === 0) return c !== 0;
    node ^= offset(unit);
    if (hasLeaf(unit)) {
      const value = (this.#units[node] ?? 0) & 0x7fffffff;
      const [first, second] = this.#replacements.subarray(value, value + 2);
      if (first !== c || second !== 0) return false;
    }
    for (let next = 1; next < 128; next++) {
      if (((this.#units[node ^ next] ?? 0) & LABEL) >>> 0 === next) return false;
    }
    return true;
  }
}

function checkReplacements(bytes: Uint8Array): void {
  for (let start = 0; start < bytes.length;) {
    const zero = bytes.indexOf(0, start), end = zero < 0 ? bytes.length : zero;
    if (end - start > LONGEST_REPLACEMENT) {
      throw new UserError(
        `charsmap: expected replacements of at most ${LONGEST_REPLACEMENT} bytes, got ${
          end - start
        }`,
      );
    }
    start = end + 1;
  }
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 512) >>> 6);
}

function hasLeaf(unit: number): boolean {
  return (unit & 256) !== 0;
}

/** Bytes of the character that a valid first byte starts. */
function charLength(first: number): number {
  return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}
