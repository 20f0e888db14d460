/**
 * The pre-tokenizers of a tokenizer.json: from a text to pieces, each of which a model encodes by itself.
 *
 * @module
 */
import { WORD } from "./byte_level.ts";
import { isNumeric, isPunctuation, isSpace, WORD_CHARACTERS } from "./characters.ts";
import { bytesWritten } from "./normalizers.ts";
import { matcher, type Matches } from "./patterns.ts";
import type { Steps } from "./regex.ts";
import {
  character,
  choice,
  count,
  fault,
  flag,
  type Section,
  sectionOf,
  sections,
  unread,
} from "./section.ts";

/** A piece of a text. */
export interface Piece {
  /** What a model reads. */
  text: string;
  /** Whether it is the beginning of the whole text. */
  first: boolean;
}

/** What a pre-tokenizer does to a piece. */
export type PreTokenize = (piece: Piece) => Piece[];

/** What happens to what a split finds. */
const BEHAVIORS = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
] as const;
type Behavior = typeof BEHAVIORS[number];

/**
 * Compiles the section `pre_tokenizer`.
 *
 * @param value the section; null for none
 * @param steps what its regular expressions may take
 * @throws {UserError} naming what is wrong, or not read here
 *
 * @example
 * ```ts
 * import { compilePreTokenizers } from "./pre_tokenizers.ts";
 * import assert from "node:assert/strict";
 *
 * const split = compilePreTokenizers({ type: "Digits", individual_digits: true }, { left: 1000 });
 * const pieces = split({ text: "in 42", first: true });
 * assert.deepEqual(pieces.map(({ text }) => text), ["in ", "4", "2"]);
 * ```
 */
export function compilePreTokenizers(value: unknown, steps: Steps): PreTokenize {
  if (value === null) return (piece) => [piece];
  return compile(sectionOf("pre_tokenizer", value), steps);
}

function compile(section: Section, steps: Steps): PreTokenize {
  if (section.type === "Sequence") {
    const inner = sections(section, "pretokenizers")
      .map((step) => compile(sectionOf("pre_tokenizer", step), steps));
    return (piece) => inner.reduce((pieces, step) => pieces.flatMap(step), [piece]);
  }
  const kind = Object.hasOwn(KINDS, section.type) ? KINDS[section.type] : undefined;
  if (!kind) throw unread("pre_tokenizer", section.type);
  return kind(section, steps);
}

const KINDS: Readonly<Record<string, (section: Section, steps: Steps) => PreTokenize>> = {
  BertPreTokenizer() {
    const words = splitter(each(isSpace), "Removed");
    const punctuation = splitter(each(isPunctuation), "Isolated");
    return (piece) => words(piece).flatMap(punctuation);
  },
  ByteLevel: byteLevel,
  CharDelimiterSplit(section) {
    const delimiter = character(section, "delimiter");
    return splitter(each((c) => c === delimiter), "Removed");
  },
  Digits(section) {
    return splitter(
      each(isNumeric),
      flag(section, "individual_digits") ? "Isolated" : "Contiguous",
    );
  },
  FixedLength(section) {
    const length = count(section, "length", 1, 5);
    return splitter((text) => chunks(text, length), "Isolated");
  },
  Metaspace: metaspace,
  Punctuation(section) {
    return splitter(each(isPunctuation), choice(section, "behavior", BEHAVIORS, "Isolated"));
  },
  Split(section, steps) {
    const matches = matcher(section, steps), invert = flag(section, "invert");
    return splitter(matches, choice(section, "behavior", BEHAVIORS), invert);
  },
  Whitespace: () => splitter(wordsAndSymbols, "Removed", true),
  WhitespaceSplit: () => splitter(each(isSpace), "Removed"),
};

const WORD_OR_SYMBOLS = new RegExp(
  `[${WORD_CHARACTERS}]+|[^${WORD_CHARACTERS}\\p{White_Space}]+`,
  "gu",
);

/** Words, and runs of what is neither word nor white space. */
function wordsAndSymbols(text: string): [number, number][] {
  return [...text.matchAll(WORD_OR_SYMBOLS)].map((
    { 0: match, index },
  ) => [index, index + match.length]);
}

/** Every character of a kind by itself. */
function each(is: (character: string) => boolean): Matches {
  return (text) => {
    const found: [number, number][] = [];
    let at = 0;
    for (const c of text) {
      if (is(c)) found.push([at, at + c.length]);
      at += c.length;
    }
    return found;
  };
}

function chunks(text: string, length: number): [number, number][] {
  const found: [number, number][] = [];
  let start = 0, at = 0, n = 0;
  for (const c of text) {
    at += c.length;
    if (++n % length === 0 || at === text.length) {
      found.push([start, at]);
      start = at;
    }
  }
  return found;
}

/** A stretch of a text, and whether it is what was looked for. */
type Stretch = [start: number, end: number, found: boolean];

function splitter(matches: Matches, behavior: Behavior, invert = false): PreTokenize {
  return ({ text, first }) => {
    const stretches = stretchesOf(text, matches(text), invert);
    return arranged(stretches, behavior).filter(([start, end]) => end > start)
      .map(([start, end]) => ({ text: text.slice(start, end), first: first && start === 0 }));
  };
}

/** The whole text, as matches and what lies between them. */
function stretchesOf(text: string, matches: [number, number][], invert: boolean): Stretch[] {
  const stretches: Stretch[] = [];
  let at = 0;
  for (const [start, end] of matches) {
    if (at < start) stretches.push([at, start, invert]);
    stretches.push([start, end, !invert]);
    at = end;
  }
  if (at < text.length) stretches.push([at, text.length, invert]);
  return stretches;
}

function arranged(stretches: Stretch[], behavior: Behavior): Stretch[] {
  switch (behavior) {
    case "Removed":
      return stretches.filter(([, , found]) => !found);
    case "Isolated":
      return stretches;
    case "Contiguous":
      return glued(stretches, (previous, found) => previous === found);
    case "MergedWithPrevious":
      return glued(stretches, (previous, found) => found && !previous);
    case "MergedWithNext": {
      // The same from the other end.
      const mirrored = stretches.toReversed().map(([start, end, found]): Stretch => {
        return [-end, -start, found];
      });
      return glued(mirrored, (previous, found) => found && !previous).toReversed()
        .map(([start, end, found]) => [-end, -start, found]);
    }
  }
}

/** Stretches, those made longer that take the next one in. */
function glued(
  stretches: Stretch[],
  takesIn: (previous: boolean, found: boolean) => boolean,
): Stretch[] {
  const result: Stretch[] = [];
  let previous = false;
  for (const [start, end, found] of stretches) {
    const last = result.at(-1);
    if (last && takesIn(previous, found)) last[1] = end;
    else result.push([start, end, found]);
    previous = found;
  }
  return result;
}

function byteLevel(section: Section): PreTokenize {
  const prefix = flag(section, "add_prefix_space"), words = flag(section, "use_regex", true);
  flag(section, "trim_offsets");
  return ({ text, first }) => {
    const spaced = prefix && !text.startsWith(" ") ? " " + text : text;
    const pieces = words ? spaced.match(WORD) ?? [] : [spaced];
    return pieces.map((piece, i) => ({ text: bytesWritten(piece), first: first && i === 0 }));
  };
}

const SCHEMES = ["always", "first", "never"] as const;

/** How a `Metaspace` section, of a pre-tokenizer or a decoder, writes spaces. */
export function metaspaceOf(section: Section): {
  replacement: string;
  scheme: typeof SCHEMES[number];
  split: boolean;
} {
  const replacement = character(section, "replacement");
  const scheme = choice(section, "prepend_scheme", SCHEMES, "always");
  const old = flag(section, "add_prefix_space", scheme !== "never");
  // Files of old say it by a switch alone; where both are there they must agree.
  if (section.fields.prepend_scheme === undefined && !old) {
    return { replacement, scheme: "never", split: flag(section, "split", true) };
  }
  if (old !== (scheme !== "never")) {
    throw fault(`${section.where}: add_prefix_space`, `what prepend_scheme ${scheme} says`, old);
  }
  return { replacement, scheme, split: flag(section, "split", true) };
}

function metaspace(section: Section): PreTokenize {
  const { replacement, scheme, split } = metaspaceOf(section);
  const atSpaces = splitter(each((c) => c === replacement), "MergedWithNext");
  return (piece) => {
    let text = piece.text.replaceAll(" ", replacement);
    const prepends = scheme === "always" || (scheme === "first" && piece.first);
    if (prepends && !text.startsWith(replacement)) text = replacement + text;
    return split ? atSpaces({ ...piece, text }) : [{ ...piece, text }];
  };
}
