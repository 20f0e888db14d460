/**
 * Regular expressions of a tokenizer.json, which are Oniguruma's, matched in a bounded number of steps:
 * they come from other people, and some backtrack for ever.
 *
 * @module
 */
import {
  type AlternativeElementNode,
  type AlternativeNode,
  type CharacterClassNode,
  type CharacterSetNode,
  parse,
} from "oniguruma-parser/parser";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";

/** How many steps matching may take, shared by all expressions of a tokenizer. */
export interface Steps {
  /** Steps that are left. */
  left: number;
}

/** Whether a character is one of a set. */
type Test = (code: number) => boolean;

/** An instruction of the matcher; `then` is where it goes on. */
type Instruction =
  | { kind: "one"; test: Test }
  | { kind: "many"; test: Test; most: number }
  | { kind: "split"; first: number; second: number }
  | { kind: "jump"; to: number }
  | { kind: "assert"; holds: (text: string, at: number) => boolean }
  | { kind: "look"; behind: boolean; negate: boolean; body: Program }
  | { kind: "atomic"; body: Program }
  | { kind: "match" };

interface Program {
  code: Instruction[];
  /** Fewest and most characters that it matches. */
  least: number;
  most: number;
}

/** A larger program is no pattern for words. */
const LARGEST = 10_000;

/**
 * A compiled expression.
 *
 * @example
 * ```ts
 * import { Regex } from "./regex.ts";
 * import assert from "node:assert/strict";
 *
 * const words = new Regex("\\p{L}+|[^\\s\\p{L}]+", { left: 1000 });
 * assert.deepEqual(words.matches("to be?"), [[0, 2], [3, 5], [5, 6]]);
 * const endless = new Regex("(a+)+$", { left: 100_000 });
 * assert.throws(() => endless.matches("a".repeat(40) + "!"), /takes too many steps/);
 * ```
 */
export class Regex {
  readonly #source: string;
  readonly #program: Program;
  readonly #steps: Steps;

  /**
   * Compiles an expression.
   *
   * @param source the expression
   * @param steps what it may take; the owner sets it anew for each text
   * @throws {UserError} if it is none, or has something that is not read here, with its name
   */
  constructor(source: string, steps: Steps) {
    this.#source = source;
    this.#steps = steps;
    try {
      if (source.length > LARGEST) refuse(`an expression of ${source.length} characters`);
      const { body } = parse(source, { rules: { singleline: false } });
      this.#program = compile(body as AlternativeNode[], PLAIN);
    } catch (error) {
      // The parser and the compiler follow the nesting.
      const deep = error instanceof RangeError, { message } = error as Error;
      const reason = deep ? "it is nested too deeply" : shown(message);
      throw new UserError(`tokenizer: the regular expression ${shown(source)}: ${reason}`);
    }
  }

  /** Where the matches are, from left to right: none is empty right behind another. */
  matches(text: string): [start: number, end: number][] {
    const found: [number, number][] = [];
    let from = 0, last = -1;
    while (from <= text.length) {
      const match = this.#find(text, from);
      if (!match) break;
      const [start, end] = match;
      if (start === end && end === last) {
        from = next(text, from);
        continue;
      }
      found.push(match);
      from = last = end;
    }
    return found;
  }

  #find(text: string, from: number): [number, number] | undefined {
    for (let start = from; start <= text.length; start = next(text, start)) {
      const end = this.#run(this.#program, text, start);
      if (end >= 0) return [start, end];
    }
    return undefined;
  }

  /** Where the first way to match from `start` ends, or -1; with `until`, only one that ends there. */
  #run({ code }: Program, text: string, start: number, until = -1): number {
    // Choices not taken yet: an instruction, where it goes on, and the shortest it may become.
    const later: number[] = [];
    let pc = 0, at = start;
    for (;;) {
      if (--this.#steps.left < 0) throw this.#tooLong(text);
      const step = code[pc];
      let fails = false;
      switch (step.kind) {
        case "one":
          if (at < text.length && step.test(text.codePointAt(at)!)) {
            at = next(text, at);
            pc++;
          } else fails = true;
          break;
        case "many": {
          const begin = at;
          for (let n = 0; n < step.most && at < text.length; n++) {
            if (!step.test(text.codePointAt(at)!)) break;
            at = next(text, at);
            this.#steps.left--;
          }
          pc++;
          if (at > begin) later.push(pc, at, begin);
          break;
        }
        case "split":
          later.push(step.second, at, at);
          pc = step.first;
          break;
        case "jump":
          pc = step.to;
          break;
        case "assert":
          if (step.holds(text, at)) pc++;
          else fails = true;
          break;
        case "look":
          if (this.#looks(step, text, at) !== step.negate) pc++;
          else fails = true;
          break;
        case "atomic": {
          const end = this.#run(step.body, text, at);
          if (end >= 0) [at, pc] = [end, pc + 1];
          else fails = true;
          break;
        }
        case "match":
          if (until < 0 || at === until) return at;
          fails = true;
      }
      if (!fails) continue;
      if (later.length === 0) return -1;
      const shortest = later.pop()!, end = later.pop()!;
      pc = later.pop()!;
      // A run of characters gives back one at a time.
      at = end > shortest ? previous(text, end) : end;
      if (at > shortest) later.push(pc, at, shortest);
    }
  }

  #looks({ behind, body }: { behind: boolean; body: Program }, text: string, at: number): boolean {
    if (!behind) return this.#run(body, text, at) >= 0;
    for (let start = at, length = 0; length <= body.most; length++) {
      if (length >= body.least && this.#run(body, text, start, at) >= 0) return true;
      if (start === 0) return false;
      start = previous(text, start);
    }
    return false;
  }

  #tooLong(text: string): UserError {
    return new UserError(
      `tokenizer: the regular expression ${
        shown(this.#source)
      } takes too many steps on a text of ` +
        `${text.length} characters: it backtracks`,
    );
  }
}

function next(text: string, at: number): number {
  return at + (text.codePointAt(at)! > 0xffff ? 2 : 1);
}

/** Texts are well-formed: a low surrogate has its high one before it. */
function previous(text: string, at: number): number {
  return at - ((text.charCodeAt(at - 1) & 0xfc00) === 0xdc00 ? 2 : 1);
}

// --- compilation ---

/** What groups may switch. */
interface Flags {
  ignoreCase: boolean;
  dotAll: boolean;
}

const PLAIN: Flags = { ignoreCase: false, dotAll: false };

/** Thrown within this module. */
function refuse(what: string): never {
  throw new Error(`${what} is not read here`);
}

function compile(alternatives: readonly AlternativeNode[], flags: Flags): Program {
  const program = either(alternatives.map((alternative) => sequence(alternative, flags)));
  program.code.push({ kind: "match" });
  return program;
}

function sized({ code, least, most }: Program): Program {
  if (code.length > LARGEST) refuse(`an expression of more than ${LARGEST} instructions`);
  return { code, least, most };
}

/** One of several, the first that fits. */
function either(programs: readonly Program[]): Program {
  return programs.reduceRight((rest, program) => {
    const { code } = program, length = code.length;
    return sized({
      code: [
        { kind: "split", first: 1, second: length + 2 },
        ...moved(code, 1),
        { kind: "jump", to: length + 2 + rest.code.length },
        ...moved(rest.code, length + 2),
      ],
      least: Math.min(program.least, rest.least),
      most: Math.max(program.most, rest.most),
    });
  });
}

/** Instructions that stand elsewhere. */
function moved(code: readonly Instruction[], by: number): Instruction[] {
  return code.map((step) => {
    if (step.kind === "jump") return { ...step, to: step.to + by };
    if (step.kind !== "split") return step;
    return { ...step, first: step.first + by, second: step.second + by };
  });
}

function joined(programs: readonly Program[]): Program {
  const all: Program = { code: [], least: 0, most: 0 };
  for (const { code, least, most } of programs) {
    all.code.push(...moved(code, all.code.length));
    all.least += least;
    all.most += most;
    sized(all);
  }
  return all;
}

/** Characters that together are the other case of one: Oniguruma matches them as one, too. */
const FOLDED_TOGETHER = /ss|ff|fi|fl|st/i;

function sequence({ body }: AlternativeNode, flags: Flags): Program {
  if (flags.ignoreCase) {
    const letters = body.map((node) => {
      return node.type === "Character" ? String.fromCodePoint(node.value) : " ";
    });
    const together = FOLDED_TOGETHER.exec(letters.join(""));
    if (together) refuse(`'${together[0]}' where case is ignored`);
  }
  return joined(body.map((node) => element(node, flags)));
}

function element(node: AlternativeElementNode, flags: Flags): Program {
  switch (node.type) {
    case "Character":
    case "CharacterClass":
    case "CharacterSet":
      return one(testOf(node, flags));
    case "Quantifier":
      return repeated(node, flags);
    case "CapturingGroup":
      return either(node.body.map((alternative) => sequence(alternative, flags)));
    case "Group": {
      const { enable = {}, disable = {} } = node.flags ?? {};
      for (const name of Object.keys({ ...enable, ...disable })) {
        if (name !== "ignoreCase" && name !== "dotAll") refuse(`the flag ${name}`);
      }
      const inside = { ...flags, ...enable } as Flags;
      for (const name of Object.keys(disable)) inside[name as keyof Flags] = false;
      if (node.atomic) return atomic(compile(node.body as AlternativeNode[], inside));
      return either(node.body.map((inner) => sequence(inner as AlternativeNode, inside)));
    }
    case "LookaroundAssertion": {
      const body = compile(node.body as AlternativeNode[], flags);
      const behind = node.kind === "lookbehind";
      return fixed({ kind: "look", behind, negate: node.negate, body }, 0);
    }
    case "Assertion": {
      const holds = ASSERTIONS[node.kind];
      if (!holds) return refuse(`the assertion ${node.kind}`);
      return fixed({
        kind: "assert",
        holds: node.negate ? (text, at) => !holds(text, at) : holds,
      }, 0);
    }
    default:
      return refuse(`what the format calls ${node.type}`);
  }
}

function fixed(step: Instruction, length: number): Program {
  return { code: [step], least: length, most: length };
}

function one(test: Test): Program {
  return fixed({ kind: "one", test }, 1);
}

function atomic(body: Program): Program {
  return { ...fixed({ kind: "atomic", body }, 0), least: body.least, most: body.most };
}

type QuantifierNode = Extract<AlternativeElementNode, { type: "Quantifier" }>;

function repeated({ kind, min, max: most, body }: QuantifierNode, flags: Flags): Program {
  if (kind === "possessive") {
    const { code, ...lengths } = repeated(
      { kind: "greedy", min, max: most, body } as QuantifierNode,
      flags,
    );
    return atomic({ code: [...code, { kind: "match" }], ...lengths });
  }
  const inner = element(body as AlternativeElementNode, flags), [single] = inner.code;
  if (min > LARGEST || (most > LARGEST && most < Infinity)) {
    refuse(`a repeat of more than ${LARGEST}`);
  }
  if (most > 1 && inner.least === 0) refuse("a repeat of what can be empty");
  const needed = joined(Array.from({ length: min }, () => inner));
  const more = most - min, longest = more === 0 ? 0 : more * inner.most;
  if (more === 0) return needed;
  const rest: Program = inner.code.length === 1 && single.kind === "one" && kind === "greedy"
    ? { code: [{ kind: "many", test: single.test, most: more }], least: 0, most: longest }
    : more === Infinity
    ? { code: loop(inner.code, kind === "greedy"), least: 0, most: longest }
    : optional(inner, more, kind === "greedy");
  return joined([needed, rest]);
}

function loop(code: readonly Instruction[], greedy: boolean): Instruction[] {
  const end = code.length + 2;
  return [branch(1, end, greedy), ...moved(code, 1), { kind: "jump", to: 0 }];
}

/** Up to so many more, each in the last one's footsteps. */
function optional(inner: Program, times: number, greedy: boolean): Program {
  const length = inner.code.length + 1, end = times * length;
  sized({ ...inner, code: new Array(Math.min(end, LARGEST + 1)) });
  const code = Array.from({ length: times }, (_, i) => {
    return [branch(i * length + 1, end, greedy), ...moved(inner.code, i * length + 1)];
  }).flat();
  return { code, least: 0, most: times * inner.most };
}

function branch(on: number, out: number, greedy: boolean): Instruction {
  return { kind: "split", first: greedy ? on : out, second: greedy ? out : on };
}

const isWord = (text: string, at: number) => at < text.length && WORD_ALONE(text.codePointAt(at)!);
const beforeIsWord = (text: string, at: number) => at > 0 && isWord(text, previous(text, at));

const ASSERTIONS: Readonly<Record<string, (text: string, at: number) => boolean>> = {
  // A line begins behind a line end, unless nothing follows it.
  line_start: (text, at) => at === 0 || (text[at - 1] === "\n" && at < text.length),
  line_end: (text, at) => at === text.length || text[at] === "\n",
  string_start: (_, at) => at === 0,
  string_end: (text, at) => at === text.length,
  string_end_newline: (text, at) =>
    at === text.length || (at === text.length - 1 && text[at] === "\n"),
  word_boundary: (text, at) => isWord(text, at) !== beforeIsWord(text, at),
};

// --- sets of characters ---

/** A test whose answers are kept. */
function kept(test: Test): Test {
  const known = new Uint8Array(0x10000);
  return (code) => {
    if (code > 0xffff) return test(code);
    if (known[code] === 0) known[code] = test(code) ? 2 : 1;
    return known[code] === 2;
  };
}

function pattern(set: string): Test {
  const regex = new RegExp(`^[${set}]$`, "u");
  return kept((code) => regex.test(String.fromCodePoint(code)));
}

const WORD = pattern("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}");
/** Outside of a class, and only there, six numbers of Latin-1 are characters of words, too. */
const WORD_ALONE = pattern("\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}²³¹¼½¾");
/** Sets without a name of their own; of `posix` the values that are read. */
const SETS: Readonly<Record<string, Test>> = {
  word: WORD,
  space: pattern("\\p{White_Space}"),
  digit: pattern("\\p{Nd}"),
  hex: pattern("0-9A-Fa-f"),
  alpha: pattern("\\p{Alphabetic}"),
  alnum: pattern("\\p{Alphabetic}\\p{Nd}"),
  upper: pattern("\\p{Uppercase}"),
  lower: pattern("\\p{Lowercase}"),
  xdigit: pattern("0-9A-Fa-f"),
  punct: pattern("\\p{P}\\p{S}"),
  cntrl: pattern("\\p{Cc}"),
};

type SetNode = CharacterClassNode | CharacterSetNode | {
  type: "Character";
  value: number;
};

function testOf(node: SetNode, flags: Flags): Test {
  if (node.type === "CharacterClass") {
    if (flags.ignoreCase) refuse("a character class where case is ignored");
    return kept(classTest(node, flags));
  }
  if (node.type === "CharacterSet") {
    if (node.kind !== "word") return setTest(node, flags);
    return node.negate ? (code) => !WORD_ALONE(code) : WORD_ALONE;
  }
  const { value } = node;
  if (!flags.ignoreCase) return (code) => code === value;
  const letter = String.fromCodePoint(value);
  if (value > 127) refuse(`'${letter}' where case is ignored`);
  if (!/[a-z]/i.test(letter)) return (code) => code === value;
  const either = new RegExp(`^${letter}$`, "iu");
  return (code) => either.test(String.fromCodePoint(code));
}

function classTest({ kind, negate, body }: CharacterClassNode, flags: Flags): Test {
  const tests = body.map((node): Test => {
    switch (node.type) {
      case "CharacterClassRange": {
        const low = node.min.value, high = node.max.value;
        return (code) => code >= low && code <= high;
      }
      case "CharacterClass":
        return classTest(node, flags);
      case "Character":
      case "CharacterSet":
        return node.type === "Character" ? testOf(node, flags) : setTest(node, flags);
      default:
        return refuse(`what the format calls ${(node as { type: string }).type} in a class`);
    }
  });
  const holds: Test = kind === "intersection"
    ? (code) => tests.every((test) => test(code))
    : (code) => tests.some((test) => test(code));
  return negate ? (code) => !holds(code) : holds;
}

function setTest(node: CharacterSetNode, { dotAll }: Flags): Test {
  const { kind } = node, { value, negate } = node as { value?: string; negate?: boolean };
  if (kind === "dot") return dotAll ? () => true : (code) => code !== 10;
  if (kind === "any") return () => true;
  if (kind === "newline" && negate) return (code) => code !== 10;
  const name = kind === "posix" ? value! : kind;
  const test = kind === "property"
    ? property(value!)
    : Object.hasOwn(SETS, name)
    ? SETS[name]
    : refuse(`the set ${name}`);
  return negate ? (code) => !test(code) : test;
}

/** A general category, a binary property or a script, by the name that JavaScript has for it. */
function property(name: string): Test {
  for (const set of [`\\p{${name}}`, `\\p{Script=${name}}`]) {
    try {
      return pattern(set);
    } catch {
      // Another kind of property, or none.
    }
  }
  return refuse(`the property ${name}`);
}
