/**
 * Between tokenizer and parser: makes the tokens of `@huggingface/jinja` say what its parser would
 * lose or refuse, in terms that it understands.
 *
 * - **Parentheses.** The tree does not tell `(a < b) < c` from `a < b < c`, which to Python is a
 *   chain. So a group is passed on as `((…) | (`: a filter of a name that nobody can type.
 * - **Tests.** The parser knows none with arguments, and no filter behind one. Jinja gives both the
 *   same rank; so `x is divisibleby 3` is passed on as the filter call `x | is divisibleby(3)`.
 * - **Tuples.** `(a,)` and `()` become a list and a filter, and what stands bare in `{{ a, b }}` gets
 *   parentheses.
 * - **Colons.** `{% else: %}` is `{% else %}`.
 *
 * Names of statements, filters and tests are checked here, where their line is known; so is what the
 * parser takes and the compiler does not.
 *
 * @module
 */
import { parse, tokenize } from "@huggingface/jinja";
import { nearest } from "../command/nearest.ts";
import type { Node } from "./ast.ts";
import { CHECKS } from "./checks.ts";
import { FILTERS } from "./filters.ts";
import { JinjaError } from "./values.ts";

type Token = ReturnType<typeof tokenize>[number];

/** The filter that a parenthesis becomes. */
export const GROUP = "(";
/** The filter that makes a tuple of a list, for tuples of one and none. */
export const TUPLE = "(,)";
/** What the filters begin with that tests become. */
export const TEST = "is ";
/** The same, for `is not`. */
export const NEGATED_TEST = "is not ";

const STATEMENTS = ["set", "endset", "if", "elif", "else", "endif", "for", "endfor"];
/** Behind these names a parenthesis is a group, behind others it is a call. */
const KEYWORDS = new Set(["in", "not", "and", "or", "if", "else", "elif", "for", "set"]);
/** Behind a test's name these are no argument. */
const NO_ARGUMENT = new Set(["and", "or", "else", "if", "is", "in", "not"]);
const OPEN: Readonly<Record<string, string>> = {
  OpenParen: "CloseParen",
  OpenSquareBracket: "CloseSquareBracket",
  OpenCurlyBracket: "CloseCurlyBracket",
};
const TAGS = ["OpenExpression", "OpenStatement", "Comment"];

/**
 * Parses a template.
 *
 * @throws {JinjaError} with the line
 */
export function parseTemplate(source: string): readonly Node[] {
  const text = source.replace(/\r\n?/g, "\n"); // So does Jinja.
  const tags = tagsOf(text);
  const tokens = tokensOf(text, tags);
  const lines = linesOf(tokens, tags);
  checkNames(tokens, lines);
  const passed = tagRanges(tokens).flatMap(([from, to]) => rewriteTag(tokens.slice(from, to)));
  let furthest = 0;
  const watched = new Proxy(passed, {
    get(target, key, receiver) {
      if (typeof key === "string" && /^\d+$/.test(key)) furthest = Math.max(furthest, Number(key));
      return Reflect.get(target, key, receiver);
    },
  });
  try {
    return (parse(watched) as unknown as { body: Node[] }).body;
  } catch (error) {
    const line = linesOf(passed, tags)[Math.min(furthest, passed.length - 1)];
    if (furthest >= passed.length) throw syntaxError("unexpected end of the template", line);
    throw syntaxError(`${plainMessage(error)}, got '${passed[furthest].value}'`, line);
  }
}

/** The parser's message without its names of tokens. */
function plainMessage(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/^Parser Error: /, "").replace(/, got .*|[:.] \w+( !== \w+\.)?$/s, "");
}

function syntaxError(message: string, line: number): JinjaError {
  return new JinjaError("TemplateSyntaxError", message, line);
}

// --- where things are ---

/** `{{ … }}`, `{% … %}` or `{# … #}`. */
interface Tag {
  text: string;
  line: number;
}

const STRING = /"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^'\\])*'/y;

/** The tags of a template, by the tokenizer's own rules: strings and dicts may hold `}}`. */
function tagsOf(source: string): Tag[] {
  const tags: Tag[] = [];
  let line = 1, at = 0;
  for (;;) {
    const start = at + source.slice(at).search(/\{[{%#]/);
    if (start < at) return tags;
    line += source.slice(at, start).split("\n").length - 1;
    const end = endOfTag(source, start);
    tags.push({ text: source.slice(start, end), line });
    line += source.slice(start, end).split("\n").length - 1;
    at = end;
  }
}

function endOfTag(source: string, start: number): number {
  const kind = source[start + 1];
  if (kind === "#") {
    const end = source.indexOf("#}", start + 2);
    return end < 0 ? source.length : end + 2;
  }
  for (let at = start + 2, depth = 0; at < source.length; at++) {
    STRING.lastIndex = at;
    const string = STRING.exec(source)?.[0];
    if (string) at += string.length - 1;
    else if (source[at] === "{") depth++;
    else if (depth > 0 && source[at] === "}") depth--;
    else if (source.startsWith(kind === "{" ? "}}" : "%}", at)) return at + 2;
  }
  return source.length;
}

/** Which line each token's tag begins in. */
function linesOf(tokens: readonly Token[], tags: readonly Tag[]): number[] {
  let tag = -1;
  return tokens.map(({ type }) => {
    if (TAGS.includes(type)) tag++;
    return tags[Math.min(Math.max(tag, 0), tags.length - 1)]?.line ?? 1;
  });
}

function tokensOf(source: string, tags: readonly Tag[]): Token[] {
  try {
    return tokenize(source);
  } catch (error) {
    const wrong = tags.find(({ text }) => !canTokenize(text)) ?? tags.at(-1);
    throw syntaxError((error as Error).message, wrong?.line ?? 1);
  }
}

function canTokenize(source: string): boolean {
  try {
    tokenize(source);
    return true;
  } catch {
    return false;
  }
}

// --- names ---

function checkNames(tokens: readonly Token[], lines: readonly number[]): void {
  for (const [i, { type, value }] of tokens.entries()) {
    const [before, earlier] = [tokens[i - 1], tokens[i - 2]];
    if (["*", "**"].includes(value) && ["OpenParen", "Comma"].includes(before?.type)) {
      throw syntaxError(`${value} before an argument is not supported`, lines[i]);
    }
    if (isName(before, "set") && earlier?.type === "OpenStatement") {
      const wrong = notATarget(tokens.slice(i));
      if (wrong) throw syntaxError(`expected a name to set, got '${wrong.value}'`, lines[i]);
    }
    if (type !== "Identifier") continue;
    const check = (what: string, known: readonly string[]) => {
      if (known.includes(value)) return;
      const near = nearest(value, known);
      const hint = near ? `; did you mean ${near}?` : `; there are ${known.join(", ")}`;
      throw syntaxError(`no ${what} named '${value}'${hint}`, lines[i]);
    };
    if (before?.type === "OpenStatement") check("statement", STATEMENTS);
    if (before?.type === "Pipe") check("filter", [...FILTERS.keys()]);
    const isNot = isName(before, "not") && isName(earlier, "is");
    if ((isName(before, "is") && value !== "not") || isNot) check("test", [...CHECKS.keys()]);
  }
}

/** The first token of what a `set` sets that is no part of a name, a tuple or an attribute. */
function notATarget(tokens: readonly Token[]): Token | undefined {
  const end = tokens.findIndex(({ type }) => type === "Equals" || type === "CloseStatement");
  const target = tokens.slice(0, Math.max(end, 1));
  const allowed = ["Identifier", "Dot", "Comma", "OpenParen", "CloseParen"];
  return target.find(({ type }, i) =>
    !allowed.includes(type) || (type === "OpenParen" && target[i - 1]?.type === "Identifier")
  );
}

function isName(token: Token | undefined, name: string): boolean {
  return token?.type === "Identifier" && token.value === name;
}

// --- tokens for the parser ---

/** Each tag, and each token between them, as a range of tokens. */
function tagRanges(tokens: readonly Token[]): [number, number][] {
  const starts = tokens.flatMap(({ type }, i) => TAGS.includes(type) || type === "Text" ? [i] : []);
  return starts.map((start, i) => [start, starts[i + 1] ?? tokens.length]);
}

function rewriteTag(tokens: readonly Token[]): Token[] {
  const last = tokens.length - 1;
  if (tokens[last].type === "CloseStatement" && tokens[last - 1]?.type === "Colon") {
    return rewrite([...tokens.slice(0, last - 1), tokens[last]]);
  }
  const isBare = tokens[0].type === "OpenExpression" && tokens[last].type === "CloseExpression" &&
    hasComma(tokens.slice(1, last));
  if (!isBare) return rewrite(tokens);
  const tuple = [token("OpenParen", "("), ...tokens.slice(1, last), token("CloseParen", ")")];
  return [tokens[0], ...rewrite(tuple), tokens[last]];
}

function hasComma(tokens: readonly Token[]): boolean {
  for (let i = 0; i < tokens.length; i++) {
    if (tokens[i].type === "Comma") return true;
    if (tokens[i].type in OPEN) i = closing(tokens, i);
  }
  return false;
}

function rewrite(tokens: readonly Token[]): Token[] {
  const out: Token[] = [];
  for (let i = 0; i < tokens.length; i++) {
    if (isTest(tokens, i)) {
      i = rewriteTest(tokens, i, out);
    } else if (tokens[i].type === "OpenParen" && isGroup(tokens, i)) {
      const end = closing(tokens, i);
      out.push(...group(tokens.slice(i, end + 1)));
      i = end;
    } else out.push(tokens[i]);
  }
  return out;
}

function isTest(tokens: readonly Token[], at: number): boolean {
  const name = tokens[at + (isName(tokens[at + 1], "not") ? 2 : 1)];
  return isName(tokens[at], "is") && tokens[at - 1]?.type !== "Dot" && name?.type === "Identifier";
}

/** Passes on a test; returns the place of its last token. */
function rewriteTest(tokens: readonly Token[], at: number, out: Token[]): number {
  const negated = isName(tokens[at + 1], "not");
  const name = at + (negated ? 2 : 1);
  out.push(token("Pipe", "|"));
  out.push(token("Identifier", (negated ? NEGATED_TEST : TEST) + tokens[name].value));
  const next = tokens[name + 1];
  if (next?.type === "OpenParen") {
    const end = closing(tokens, name + 1);
    out.push(next, ...rewrite(tokens.slice(name + 2, end)), ...tokens.slice(end, end + 1));
    return end;
  }
  const isArgument = next !== undefined && (
    ["StringLiteral", "NumericLiteral", "OpenSquareBracket", "OpenCurlyBracket"].includes(
      next.type,
    ) ||
    (next.type === "Identifier" && !NO_ARGUMENT.has(next.value))
  );
  if (!isArgument) return name;
  const end = endOfOperand(tokens, name + 1);
  out.push(
    token("OpenParen", "("),
    ...rewrite(tokens.slice(name + 1, end)),
    token("CloseParen", ")"),
  );
  return end - 1;
}

function isGroup(tokens: readonly Token[], at: number): boolean {
  const before = tokens[at - 1];
  if (isName(before, "for")) return false; // Names to unpack into.
  if (before?.type !== "Identifier") {
    return !["CloseParen", "CloseSquareBracket", "CloseCurlyBracket", "StringLiteral"]
      .includes(before?.type ?? "");
  }
  return KEYWORDS.has(before.value) && tokens[at - 2]?.type !== "Dot";
}

function group(tokens: readonly Token[]): Token[] {
  if (tokens.at(-1)?.type !== "CloseParen") return [...tokens];
  const inside = rewrite(tokens.slice(1, -1));
  const trailing = inside.at(-1)?.type === "Comma";
  const items = trailing ? inside.slice(0, -1) : inside;
  const isShort = items.length === 0 || (trailing && !hasComma(items));
  return [
    token("OpenParen", "("),
    isShort ? token("OpenSquareBracket", "[") : token("OpenParen", "("),
    ...items,
    isShort ? token("CloseSquareBracket", "]") : token("CloseParen", ")"),
    token("Pipe", "|"),
    token("Identifier", isShort ? TUPLE : GROUP),
    token("CloseParen", ")"),
  ];
}

/** The place behind a literal or name and the subscripts and calls that follow it. */
function endOfOperand(tokens: readonly Token[], start: number): number {
  let end = (tokens[start].type in OPEN ? closing(tokens, start) : start) + 1;
  for (;;) {
    const type = tokens[end]?.type;
    if (type === "Dot") end += 2;
    else if (type === "OpenSquareBracket" || type === "OpenParen") end = closing(tokens, end) + 1;
    else return end;
  }
}

/** The place of the bracket that closes one; the end if none does. */
function closing(tokens: readonly Token[], open: number): number {
  const type = tokens[open].type;
  let depth = 0;
  for (let i = open; i < tokens.length; i++) {
    if (tokens[i].type === type) depth++;
    else if (tokens[i].type === OPEN[type] && --depth === 0) return i;
  }
  return tokens.length;
}

function token(type: Token["type"], value: string): Token {
  return { type, value };
}
