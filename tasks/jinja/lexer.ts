/**
 * Cuts a template into text and the tokens of its tags, as Jinja2 does: a token's kind says what it is,
 * and its text alone never does.
 *
 * @module
 */
import { SPACE, stripEnd } from "./text.ts";
import { JinjaError } from "./values.ts";

/** What a token is: text between tags, the borders of tags, and what stands in them. */
export type TokenKind =
  | "text"
  | "tag begin"
  | "tag end"
  | "print begin"
  | "print end"
  | "name"
  | "string"
  | "integer"
  | "float"
  | "operator"
  | "end";

/** A piece of a template. */
export interface Token {
  /** What it is. */
  kind: TokenKind;
  /** Its text; of a string what it stands for, of an operator its sign. */
  text: string;
  /** The line it begins in, from 1. */
  line: number;
}

const BEGIN = /\{[%{#]/g;
const RAW = new RegExp(`\\{%[-+]?[${SPACE}]*raw[${SPACE}]*(-?)%\\}`, "y");
const END_RAW = new RegExp(`\\{%([-+]?)[${SPACE}]*endraw[${SPACE}]*([-+]?)%\\}`, "g");
const SPACES = new RegExp(`[${SPACE}]+`, "y");
const DIGITS = "\\d+(?:_\\d+)*";
const FLOAT = new RegExp(
  `(?<!\\.)${DIGITS}(?:(?:\\.${DIGITS})?e[-+]?${DIGITS}|\\.${DIGITS})`,
  "iy",
);
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{N}\p{M}\p{Pc}]+/uy;
const IDENTIFIER = /^[\p{ID_Start}_][\p{ID_Continue}]*$/u;
const STRING = /'(?:\\[^]|[^'\\])*'|"(?:\\[^]|[^"\\])*"/y;
const OPERATOR = /\/\/|\*\*|[=!><]=|[-+\/*%~[\](){}><=.:|,;]/y;
const CLOSES: Readonly<Record<string, string>> = { ")": "(", "]": "[", "}": "{" };

/**
 * The tokens of a template, the last of which is its end. Line ends become `\n`, and the last one goes.
 *
 * @throws {JinjaError} of kind `TemplateSyntaxError`, with the line
 *
 * @example
 * ```ts
 * import { tokensOf } from "./lexer.ts";
 * import assert from "node:assert/strict";
 *
 * const tokens = tokensOf("a {{ '}}' | upper }}").map(({ kind, text }) => `${kind} ${text}`);
 * const expected = "text a ,print begin {{,string }},operator |,name upper,print end }},end ";
 * assert.equal(tokens.join(), expected);
 * ```
 */
export function tokensOf(source: string): Token[] {
  return new Lexer(source.replace(/\r\n?/g, "\n").replace(/\n$/, "")).tokens();
}

class Lexer {
  readonly #source: string;
  readonly #tokens: Token[] = [];
  #at = 0;
  #line = 1;
  /** Up to where lines are counted. */
  #counted = 0;

  constructor(source: string) {
    this.#source = source;
  }

  tokens(): Token[] {
    for (;;) {
      BEGIN.lastIndex = this.#at;
      const begin = BEGIN.exec(this.#source)?.index ?? this.#source.length;
      this.#text(begin);
      if (begin === this.#source.length) break;
      RAW.lastIndex = begin;
      const raw = RAW.exec(this.#source);
      if (raw) this.#raw(raw);
      else if (this.#source[begin + 1] === "#") this.#comment();
      else this.#tag(this.#source[begin + 1] === "{" ? "print" : "tag");
    }
    this.#push("end", "", this.#source.length);
    return this.#tokens;
  }

  /** Text up to a tag, which may eat white space before it. */
  #text(end: number): void {
    const text = this.#source.slice(this.#at, end);
    const kept = this.#source[end + 2] === "-" ? stripEnd(text) : text;
    if (kept !== "") this.#push("text", kept, this.#at);
    this.#at = end;
  }

  #raw(begin: RegExpExecArray): void {
    const line = this.#lineOf(this.#at);
    this.#at = begin.index + begin[0].length;
    if (begin[1] === "-") this.#skipSpaces();
    END_RAW.lastIndex = this.#at;
    const end = END_RAW.exec(this.#source);
    if (!end) throw syntaxError("expected {% endraw %}, got the end of the template", line);
    const text = this.#source.slice(this.#at, end.index);
    const kept = end[1] === "-" ? stripEnd(text) : text;
    if (kept !== "") this.#push("text", kept, this.#at);
    this.#at = end.index + end[0].length;
    if (end[2] === "-") this.#skipSpaces();
  }

  #comment(): void {
    const isSigned = /[-+]/.test(this.#source[this.#at + 2] ?? "");
    const start = this.#at + (isSigned ? 3 : 2), end = this.#source.indexOf("#}", start);
    if (end < 0) {
      throw syntaxError("expected #}, got the end of the template", this.#lineOf(this.#at));
    }
    this.#at = end + 2;
    if (end > start && this.#source[end - 1] === "-") this.#skipSpaces();
  }

  #skipSpaces(): void {
    SPACES.lastIndex = this.#at;
    this.#at += SPACES.exec(this.#source)?.[0].length ?? 0;
  }

  #tag(kind: "tag" | "print"): void {
    const start = this.#at, end = kind === "tag" ? "%}" : "}}";
    this.#push(`${kind} begin`, this.#source.slice(start, start + 2), start);
    this.#at = start + (/[-+]/.test(this.#source[start + 2] ?? "") ? 3 : 2);
    const open: string[] = [];
    for (;;) {
      this.#skipSpaces();
      if (open.length === 0 && this.#tagEnd(kind, end)) return;
      const before = this.#at;
      if (before >= this.#source.length) {
        const wanted = open.length > 0 ? `a bracket that closes '${open.at(-1)}'` : end;
        throw syntaxError(`expected ${wanted}, got the end of the template`, this.#lineOf(start));
      }
      if (!this.#literal()) this.#operator(open);
    }
  }

  #tagEnd(kind: "tag" | "print", end: string): boolean {
    const sign = this.#source[this.#at];
    const isSigned = (sign === "-" || (sign === "+" && kind === "tag")) &&
      this.#source.startsWith(end, this.#at + 1);
    if (!isSigned && !this.#source.startsWith(end, this.#at)) return false;
    this.#push(`${kind} end`, end, this.#at);
    this.#at += isSigned ? 3 : 2;
    if (isSigned && sign === "-") this.#skipSpaces();
    return true;
  }

  /** A number, name or string. */
  #literal(): boolean {
    const start = this.#at;
    const float = this.#match(FLOAT);
    if (float) return this.#push("float", float.replaceAll("_", ""), start);
    const integer = this.#match(INTEGER);
    if (integer) return this.#push("integer", integer.replaceAll("_", ""), start);
    const name = this.#match(NAME);
    if (name) {
      if (!IDENTIFIER.test(name)) {
        throw syntaxError(`expected a name, got '${name}'`, this.#lineOf(start));
      }
      return this.#push("name", name, start);
    }
    const string = this.#match(STRING);
    if (!string) return false;
    const line = this.#lineOf(start);
    return this.#push("string", unescaped(string.slice(1, -1), line), start);
  }

  #operator(open: string[]): void {
    const start = this.#at, line = this.#lineOf(start);
    const sign = this.#match(OPERATOR);
    if (!sign) {
      const character = String.fromCodePoint(this.#source.codePointAt(start)!);
      const isQuote = character === "'" || character === '"';
      const what = isQuote ? `a text without its closing ${character}` : `character: ${character}`;
      throw syntaxError(`unexpected ${what}`, line);
    }
    if ("([{".includes(sign)) open.push(sign);
    const opens = CLOSES[sign];
    if (opens !== undefined && open.pop() !== opens) {
      throw syntaxError(`unexpected '${sign}'`, line);
    }
    this.#push("operator", sign, start);
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const text = pattern.exec(this.#source)?.[0];
    if (text !== undefined) this.#at += text.length;
    return text;
  }

  #push(kind: TokenKind, text: string, start: number): true {
    this.#tokens.push({ kind, text, line: this.#lineOf(start) });
    return true;
  }

  #lineOf(place: number): number {
    for (; this.#counted < place; this.#counted++) {
      if (this.#source.charCodeAt(this.#counted) === 10) this.#line++;
    }
    return this.#line;
  }
}

/** A `TemplateSyntaxError`. */
export function syntaxError(message: string, line: number): JinjaError {
  return new JinjaError("TemplateSyntaxError", message, line);
}

const ESCAPES: Readonly<Record<string, string>> = {
  ...{ "\n": "", "\\": "\\", "'": "'", '"': '"', a: "\x07", b: "\b", f: "\f" },
  ...{ n: "\n", r: "\r", t: "\t", v: "\v" },
};
const HEX = "[\\da-fA-F]";
const ESCAPE = new RegExp(
  `\\\\(?:([0-7]{1,3})|x(${HEX}{2})|u(${HEX}{4})|U(${HEX}{8})|([^]))`,
  "gu",
);

/** What a string's escapes stand for, by Python's rules: those that it does not know stay. */
function unescaped(text: string, line: number): string {
  if (!text.includes("\\")) return text;
  return text.replace(ESCAPE, (all, octal, x, u, U, other) => {
    if (octal) return String.fromCodePoint(parseInt(octal, 8));
    const hex = x ?? u ?? U;
    if (hex) {
      const code = parseInt(hex, 16);
      if (code > 0x10ffff) throw syntaxError(`the escape ${all} stands for no character`, line);
      return String.fromCodePoint(code);
    }
    if ("xuU".includes(other)) throw syntaxError(`the escape \\${other} is cut short`, line);
    if (other === "N") throw syntaxError("the escape \\N{...} is not supported", line);
    if (Object.hasOwn(ESCAPES, other)) return ESCAPES[other];
    // Python sees characters beyond ASCII as escapes themselves, and the two backslashes as one.
    return other.codePointAt(0)! < 128 ? all : "\\" + escaped(other.codePointAt(0)!);
  });
}

function escaped(code: number): string {
  const hex = code.toString(16);
  if (code < 0x100) return "x" + hex.padStart(2, "0");
  return code < 0x10000 ? "u" + hex.padStart(4, "0") : "U" + hex.padStart(8, "0");
}
