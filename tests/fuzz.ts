/**
 * Hostile files: bytes put together, damaged at random, and what must come of reading them.
 */
import assert from "node:assert/strict";
import { UserError } from "../ops/graph/errors.ts";
import { key, Random } from "../ops/graph/random.ts";

const utf8 = new TextEncoder();
const fromUtf8 = new TextDecoder();

/** Characters up to 0xff stand for themselves. */
export type Part = string | number | Uint8Array;

/** Texts, bytes and single byte values, one after the other. */
export function joined(...parts: readonly Part[]): Uint8Array<ArrayBuffer> {
  const arrays = parts.map((part) => {
    if (typeof part === "number") return Uint8Array.of(part);
    return typeof part === "string" ? Uint8Array.from(part, (c) => c.charCodeAt(0)) : part;
  });
  const all = new Uint8Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    all.set(array, at);
    at += array.length;
  }
  return all;
}

/** Fails unless this is an error for the user: one printable line that is not endless. */
export function assertUserError(error: unknown): asserts error is UserError {
  assert.ok(error instanceof UserError, `${(error as Error)?.stack ?? error}`);
  const { message } = error;
  assert.match(message.length > 700 ? message.slice(0, 100) : message, /^[^\p{C}]{10,700}$/u);
  assert.ok(message.length <= 700, `${message.slice(0, 100)}… of ${message.length} characters`);
}

/** How many damaged files were read, and how many refused. */
export interface Outcome {
  read: number;
  refused: number;
}

/** Damages files at random and reads them: each time this must succeed, or refuse with a `UserError`. */
export function fuzz(
  files: readonly Uint8Array<ArrayBuffer>[],
  times: number,
  read: (bytes: Uint8Array<ArrayBuffer>) => unknown,
): Promise<Outcome> {
  return damage(files, times, mutated, read);
}

/**
 * The same with the values of JSON: half the time bytes are damaged, half the time one value becomes
 * another that JSON allows and nobody expects there.
 */
export async function fuzzJson(
  json: unknown,
  times: number,
  read: (text: string) => unknown,
): Promise<Outcome> {
  const half = Math.ceil(times / 2), whole = JSON.stringify(json);
  const bytes = await fuzz([utf8.encode(whole)], half, (bytes) => read(fromUtf8.decode(bytes)));
  const values = await damage([whole], half, withOtherValue, read);
  return { read: bytes.read + values.read, refused: bytes.refused + values.refused };
}

async function damage<T>(
  files: readonly T[],
  times: number,
  mutate: (file: T, random: Random) => T,
  read: (file: T) => unknown,
): Promise<Outcome> {
  const random = new Random(key(41));
  const outcome = { read: 0, refused: 0 };
  for (let i = 0; i < times; i++) {
    let file = files[i % files.length];
    for (let n = 1 + random.below(3); n > 0; n--) file = mutate(file, random);
    try {
      await read(file);
      outcome.read++;
    } catch (error) {
      assertUserError(error);
      outcome.refused++;
    }
  }
  return outcome;
}

/** One flip, extreme byte, cut, insertion, or span copied elsewhere. */
export function mutated(bytes: Uint8Array<ArrayBuffer>, random: Random): Uint8Array<ArrayBuffer> {
  const at = random.below(bytes.length + 1), length = 1 + random.below(12);
  const before = bytes.subarray(0, at), after = bytes.subarray(at), rest = after.subarray(length);
  const noise = Uint8Array.from({ length }, () => random.below(256));
  const from = random.below(bytes.length + 1);
  const span = bytes.subarray(from, from + 1 + random.below(60));
  const choices: Part[][] = [
    [before, (after[0] ?? 0) ^ (1 << random.below(8)), after.subarray(1)],
    [before, random.below(2) * 255, after.subarray(1)],
    [before],
    [before, rest],
    [before, noise, after],
    [before, noise, rest],
    [before, span, after],
    [before, span, after.subarray(span.length)],
  ];
  return joined(...choices[random.below(choices.length)]);
}

/** JSON texts that are no value of any field, or too much of one. */
const VALUES = [
  ..."null true false 0 -1 1 2 0.5 -0.5 1e15 1000000000 16777216 1e400 -1e400 4294967295".split(
    " ",
  ),
  ...['""', '"1"', '"\\u0000\\n\\ud800"', "[]", "[[]]", "{}", '{"toString":1,"type":"?"}'],
  ...['{"__proto__":null}', "[null]", `"${"a".repeat(2000)}"`, "[".repeat(99) + "]".repeat(99)],
];

const TOKENS = /"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^[\]{}:,"]+/g;

/** One value or key, chosen at random from all of a JSON text, becomes another one of it, or of `VALUES`. */
export function withOtherValue(text: string, random: Random): string {
  const tokens = text.match(TOKENS) ?? [];
  const starts = tokens.flatMap((token, i) => "]}:,".includes(token) ? [] : [i]);
  const valueAt = (from: number) => {
    let to = from;
    for (let depth = 0; to < tokens.length; to++) {
      depth += Number("[{".includes(tokens[to])) - Number("]}".includes(tokens[to]));
      if (depth <= 0) break;
    }
    return tokens.slice(from, to + 1);
  };
  const at = starts[random.below(starts.length)];
  const other = random.uniform() < 0.3
    ? valueAt(starts[random.below(starts.length)])
    : [VALUES[random.below(VALUES.length)]];
  return tokens.toSpliced(at, valueAt(at).length, ...other).join("");
}
