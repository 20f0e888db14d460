/**
 * Python's `bytes`, as binary columns give them to templates.
 *
 * @module
 */
import { Callable, JinjaError, PyObject } from "./values.ts";

const ESCAPES: Readonly<Record<number, string>> = { 9: "\\t", 10: "\\n", 13: "\\r", 92: "\\\\" };

/**
 * `bytes`: prints as a literal, has a length, and can be decoded.
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./evaluate.ts";
 * import { PyBytes } from "./bytes.ts";
 * import assert from "node:assert/strict";
 *
 * const template = compileTemplate("{{ x }} {{ x.decode() }}");
 * const x = new PyBytes(new TextEncoder().encode("é"));
 * assert.equal(template.render({ x }), "b'\\xc3\\xa9' é");
 * ```
 */
export class PyBytes extends PyObject {
  /** Python's name of its type. */
  readonly type = "bytes";
  /** The bytes. */
  readonly value: Uint8Array;

  /** Some bytes, which nobody may change. */
  constructor(value: Uint8Array) {
    super();
    this.value = value;
  }

  /** `str(value)`, which is its `repr`. */
  override text(): string {
    return this.repr();
  }

  /** `repr(value)`: ASCII as it is, the rest in hexadecimal. */
  override repr(): string {
    const mark = this.value.includes(39) && !this.value.includes(34) ? '"' : "'";
    let body = "";
    for (const byte of this.value) {
      if (byte === mark.charCodeAt(0)) body += "\\" + mark;
      else if (byte in ESCAPES) body += ESCAPES[byte];
      else if (byte >= 32 && byte < 127) body += String.fromCharCode(byte);
      else body += "\\x" + byte.toString(16).padStart(2, "0");
    }
    return `b${mark}${body}${mark}`;
  }

  /** Sorts with bytes alone. */
  override compareTo(other: unknown): number | undefined {
    if (!(other instanceof PyBytes)) return undefined;
    const a = this.value, b = other.value, least = Math.min(a.length, b.length);
    for (let i = 0; i < least; i++) if (a[i] !== b[i]) return a[i] - b[i];
    return a.length - b.length;
  }

  /** Whether there are any. */
  override truthy(): boolean {
    return this.value.length > 0;
  }

  /** What equal ones have in common. */
  override get hash(): string {
    return this.repr();
  }

  /** Its bytes as integers. */
  override items(): number[] {
    return [...this.value];
  }

  /** `decode` and `hex`. */
  override attribute(name: string): unknown {
    if (name === "hex") {
      return new Callable(
        name,
        () => Array.from(this.value, (byte) => byte.toString(16).padStart(2, "0")).join(""),
      );
    }
    if (name !== "decode") return undefined;
    return new Callable(
      name,
      ([encoding = "utf-8", errors = "strict"], named = {}) =>
        decode(this.value, String(named.encoding ?? encoding), String(named.errors ?? errors)),
    );
  }

  /** What `JSON.stringify` writes. */
  toJSON(): string {
    return this.repr();
  }
}

function decode(bytes: Uint8Array, encoding: string, errors: string): string {
  const name = encoding.toLowerCase().replaceAll("_", "-");
  if (["latin-1", "latin1", "iso-8859-1"].includes(name)) {
    return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  }
  if (!["utf-8", "utf8", "ascii"].includes(name)) {
    throw new JinjaError("ValueError", `decode: only utf-8, ascii and latin-1, not ${encoding}`);
  }
  const isAscii = name !== "ascii" || bytes.every((byte) => byte < 128);
  try {
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    if (isAscii) return decoder.decode(bytes);
  } catch {
    if (errors === "replace") return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }
  throw new JinjaError("ValueError", `'${name}' codec can't decode the bytes`);
}
