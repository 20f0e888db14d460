/**
 * The decoders of a tokenizer.json: from tokens to the text that they stand for.
 *
 * @module
 */
import { BYTE_SYMBOLS } from "./byte_level.ts";
import { matcher } from "./patterns.ts";
import { metaspaceOf } from "./pre_tokenizers.ts";
import type { Steps } from "./regex.ts";
import {
  character,
  count,
  flag,
  type Section,
  sectionOf,
  sections,
  text as textOf,
  unread,
} from "./section.ts";

/** What a decoder does to tokens; the text is what is left, joined. */
type Decode = (tokens: string[]) => string[];

/**
 * Compiles the section `decoder`.
 *
 * @param value the section; null for none
 * @param steps what its regular expressions may take
 * @throws {UserError} naming what is wrong, or not read here
 *
 * @example
 * ```ts
 * import { compileDecoders } from "./decoders.ts";
 * import assert from "node:assert/strict";
 *
 * const decode = compileDecoders({ type: "Metaspace", replacement: "▁" }, { left: 1000 });
 * assert.equal(decode(["▁to", "▁be"]), "to be");
 * ```
 */
export function compileDecoders(value: unknown, steps: Steps): (tokens: string[]) => string {
  if (value === null) return (tokens) => tokens.join(" ");
  const decode = compile(sectionOf("decoder", value), steps);
  return (tokens) => decode(tokens).join("");
}

function compile(section: Section, steps: Steps): Decode {
  if (section.type === "Sequence") {
    const inner = sections(section, "decoders")
      .map((step) => compile(sectionOf("decoder", step), steps));
    return (tokens) => inner.reduce((result, step) => step(result), tokens);
  }
  const kind = Object.hasOwn(KINDS, section.type) ? KINDS[section.type] : undefined;
  if (!kind) throw unread("decoder", section.type);
  return kind(section, steps);
}

const KINDS: Readonly<Record<string, (section: Section, steps: Steps) => Decode>> = {
  BPEDecoder(section) {
    const suffix = textOf(section, "suffix", "</w>");
    return (tokens) =>
      tokens.map((token, i) => token.replaceAll(suffix, i === tokens.length - 1 ? "" : " "));
  },
  ByteFallback: () => byteFallback,
  ByteLevel: () => byteLevel,
  Fuse: () => (tokens) => [tokens.join("")],
  Metaspace(section) {
    const { replacement, scheme } = metaspaceOf(section);
    return (tokens) =>
      tokens.map((token, i) =>
        token.replaceAll(replacement, i === 0 && scheme !== "never" ? "" : " ")
      );
  },
  Replace(section, steps) {
    const matches = matcher(section, steps), content = textOf(section, "content");
    return (tokens) =>
      tokens.map((token) => {
        let result = "", start = 0;
        for (const [from, to] of matches(token)) {
          result += token.slice(start, from) + content;
          start = to;
        }
        return result + token.slice(start);
      });
  },
  Strip(section) {
    const content = character(section, "content");
    const start = count(section, "start", 0), stop = count(section, "stop", 0);
    return (tokens) => tokens.map((token) => stripped(token, content, start, stop));
  },
  WordPiece(section) {
    const prefix = textOf(section, "prefix"), cleanup = flag(section, "cleanup");
    return (tokens) =>
      tokens.map((token, i) => {
        const inner = prefix !== "" && token.startsWith(prefix)
          ? token.slice(prefix.length)
          : " " + token;
        const joined = i === 0 ? token : inner;
        return cleanup ? cleanedUp(joined) : joined;
      });
  },
};

function stripped(token: string, content: string, start: number, stop: number): string {
  const characters = [...token];
  let from = 0, to = characters.length;
  while (from < Math.min(start, characters.length) && characters[from] === content) from++;
  for (let n = 0; n < stop && to > from && characters[to - 1] === content; n++) to--;
  return characters.slice(from, to).join("");
}

/** English as it is written, of tokens with spaces between them. */
const CLEANUP: readonly [string, string][] = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
  [" do not", " don't"],
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];

function cleanedUp(token: string): string {
  return CLEANUP.reduce((text, [from, to]) => text.replaceAll(from, to), token);
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const lenient = new TextDecoder("utf-8", { ignoreBOM: true });

/** Tokens of bytes in a row as the text that they spell, or a sign of damage for each. */
function byteFallback(tokens: string[]): string[] {
  const result: string[] = [];
  let bytes: number[] = [];
  const flush = () => {
    if (bytes.length === 0) return;
    try {
      result.push(strict.decode(Uint8Array.from(bytes)));
    } catch {
      for (const _ of bytes) result.push("\ufffd");
    }
    bytes = [];
  };
  for (const token of tokens) {
    const hex = /^<0x([0-9a-fA-F]{2})>$/.exec(token)?.[1];
    if (hex !== undefined) bytes.push(parseInt(hex, 16));
    else {
      flush();
      result.push(token);
    }
  }
  flush();
  return result;
}

const BYTES = new Map(BYTE_SYMBOLS.map((symbol, byte) => [symbol, byte]));
const utf8 = new TextEncoder();

function byteLevel(tokens: string[]): string[] {
  const bytes = tokens.flatMap((token) => {
    const spelled = Array.from(token, (symbol) => BYTES.get(symbol));
    // What is not written in byte symbols, such as an added token, is itself.
    return spelled.includes(undefined) ? [...utf8.encode(token)] : spelled as number[];
  });
  return [lenient.decode(Uint8Array.from(bytes))];
}
