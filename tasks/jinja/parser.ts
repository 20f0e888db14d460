/**
 * Parses templates by Jinja2's grammar. What it does not support, it refuses by name.
 *
 * @module
 */
import { nearest } from "../command/nearest.ts";
import {
  type Arguments,
  type Branch,
  type Comparison,
  type Expression,
  type Filter,
  type Macro,
  NO_ARGUMENTS,
  type Slice,
  type Statement,
  type Target,
} from "./ast.ts";
import { CHECKS } from "./checks.ts";
import { FILTERS } from "./filters.ts";
import { syntaxError, type Token, tokensOf } from "./lexer.ts";
import { parseInteger } from "./numbers.ts";
import { REFUSED_FILTERS, REFUSED_STATEMENTS, REFUSED_TESTS } from "./refused.ts";
import { toFloat } from "./values.ts";

/** How deeply expressions and blocks may be nested: more than Python's own stack lets Jinja2. */
const DEEPEST = 100;
/** Messages quote no more of a token. */
const LONGEST = 60;
const STATEMENTS = ["call", "filter", "for", "if", "macro", "print", "set", "with"];
const CONSTANTS: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ...[["true", true], ["True", true], ["false", false], ["False", false]] as const,
  ...[["none", null], ["None", null]] as const,
]);
const COMPARISONS = ["==", "!=", "<", "<=", ">", ">="];

/**
 * Parses a template.
 *
 * @throws {JinjaError} of kind `TemplateSyntaxError`, with the line
 *
 * @example
 * ```ts
 * import { parseTemplate } from "./parser.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(parseTemplate("a{{ b }}"), [
 *   { type: "text", text: "a" },
 *   { type: "print", value: { type: "name", name: "b" } },
 * ]);
 * ```
 */
export function parseTemplate(source: string): readonly Statement[] {
  return new Parser(tokensOf(source)).template();
}

/** Which of the expressions that commas separate may come: with `x if y else z`, or names alone. */
type Items = "any" | "no condition" | "targets";

class Parser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;

  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  template(): Statement[] {
    return this.#body([]);
  }

  // --- tokens ---

  get #now(): Token {
    return this.#tokens[this.#at];
  }

  /** Takes the token; the end is never taken. */
  #next(): Token {
    const token = this.#tokens[this.#at];
    if (token.kind !== "end") this.#at++;
    return token;
  }

  #is(sign: string, ahead = 0): boolean {
    const token = this.#tokens[this.#at + ahead];
    return token?.kind === "operator" && token.text === sign;
  }

  #isName(name: string, ahead = 0): boolean {
    const token = this.#tokens[this.#at + ahead];
    return token?.kind === "name" && token.text === name;
  }

  #skip(sign: string): boolean {
    return this.#is(sign) && this.#next() !== undefined;
  }

  #skipName(name: string): boolean {
    return this.#isName(name) && this.#next() !== undefined;
  }

  #expect(sign: string): void {
    if (!this.#skip(sign)) throw this.#unexpected(`'${sign}'`);
  }

  #expectKind(kind: Token["kind"], what: string): Token {
    if (this.#now.kind !== kind) throw this.#unexpected(what);
    return this.#next();
  }

  #unexpected(expected: string): Error {
    const { kind, text, line } = this.#now;
    if (kind === "end") {
      throw syntaxError(`expected ${expected}, got the end of the template`, line);
    }
    throw syntaxError(`expected ${expected}, got '${shortened(text)}'`, line);
  }

  /** Goes one level down. */
  #nested<T>(parse: () => T): T {
    if (++this.#depth > DEEPEST) {
      throw syntaxError(`nested more than ${DEEPEST} levels deep`, this.#now.line);
    }
    const value = parse();
    this.#depth--;
    return value;
  }

  // --- statements ---

  /** Statements up to one of these names, which is taken, or up to the end if there is none. */
  #body(ends: readonly string[]): Statement[] {
    const statements: Statement[] = [];
    for (;;) {
      const { kind, text } = this.#now;
      if (kind === "end") {
        if (ends.length === 0) return statements;
        throw this.#unexpected(`{% ${ends.at(-1)} %}`);
      }
      this.#next();
      if (kind === "text") statements.push({ type: "text", text });
      else if (kind === "print begin") {
        statements.push({ type: "print", value: this.#list("any") });
        this.#expectKind("print end", "}}");
      } else {
        if (this.#now.kind === "name" && ends.includes(this.#now.text)) return statements;
        statements.push(...this.#nested(() => this.#statement(ends)));
        this.#tagEnd();
      }
    }
  }

  /** The body of a statement, behind the end of its tag. */
  #block(...ends: string[]): Statement[] {
    this.#skip(":");
    this.#tagEnd();
    return this.#body(ends);
  }

  #tagEnd(): void {
    this.#expectKind("tag end", "%}");
  }

  /** The body of a statement that one name ends. */
  #blockUpTo(end: string): Statement[] {
    const body = this.#block(end);
    this.#next();
    return body;
  }

  #statement(ends: readonly string[]): Statement[] {
    const { text: name, line } = this.#expectKind("name", "a statement");
    switch (name) {
      case "call":
        return [this.#call()];
      case "filter": {
        const filter = this.#filters(this.#filter(undefined)) as Filter;
        return [{ type: "filter block", filter, body: this.#blockUpTo("endfilter") }];
      }
      case "for":
        return [this.#for()];
      case "if":
        return [this.#if()];
      case "macro":
        return [this.#macro()];
      case "print":
        return this.#print();
      case "set":
        return [this.#set()];
      case "with":
        return [this.#with()];
    }
    const reason = REFUSED_STATEMENTS.get(name);
    if (reason !== undefined) throw syntaxError(`{% ${name} %} is not supported${reason}`, line);
    const isEnd = /^(end|else|elif)/.test(name);
    if (isEnd && ends.length > 0) {
      throw syntaxError(`expected {% ${ends.at(-1)} %}, got '${name}'`, line);
    }
    if (isEnd) throw syntaxError(`unexpected {% ${name} %}`, line);
    throw syntaxError(`no statement named '${shortened(name)}'${hint(name, STATEMENTS)}`, line);
  }

  #if(): Statement {
    const branches: Branch[] = [];
    for (;;) {
      const test = this.#list("no condition");
      branches.push({ test, body: this.#block("elif", "else", "endif") });
      const { text } = this.#next();
      if (text === "elif") continue;
      const otherwise = text === "else" ? this.#blockUpTo("endif") : [];
      return { type: "if", branches, otherwise };
    }
  }

  #for(): Statement {
    const target = this.#target({ end: "in" });
    if (!this.#skipName("in")) throw this.#unexpected("'in'");
    const list = this.#list("no condition", "recursive");
    const test = this.#skipName("if") ? this.#expression() : undefined;
    const recursive = this.#skipName("recursive");
    const body = this.#block("else", "endfor");
    const otherwise = this.#next().text === "else" ? this.#blockUpTo("endfor") : [];
    return { type: "for", target, list, test, recursive, body, otherwise };
  }

  #print(): Statement[] {
    const statements: Statement[] = [];
    while (this.#now.kind !== "tag end") {
      if (statements.length > 0) this.#expect(",");
      statements.push({ type: "print", value: this.#expression() });
    }
    return statements;
  }

  #set(): Statement {
    const target = this.#target({ attributes: true });
    if (this.#skip("=")) return { type: "set", target, value: this.#list("any") };
    const filter = this.#is("|") ? this.#filters(undefined) as Filter : undefined;
    return { type: "set block", target, filter, body: this.#blockUpTo("endset") };
  }

  #with(): Statement {
    const pairs: [Target, Expression][] = [];
    while (this.#now.kind !== "tag end") {
      if (pairs.length > 0) this.#expect(",");
      const target = this.#target({});
      this.#expect("=");
      pairs.push([target, this.#expression()]);
    }
    return { type: "with", pairs, body: this.#blockUpTo("endwith") };
  }

  #macro(): Statement {
    const { text: name } = this.#nameToSet();
    const parameters = this.#parameters();
    return { type: "macro", macro: { name, parameters, body: this.#blockUpTo("endmacro") } };
  }

  #call(): Statement {
    const parameters = this.#is("(") ? this.#parameters() : [];
    const { line } = this.#now, call = this.#expression();
    if (call.type !== "call") throw syntaxError("expected a call behind {% call", line);
    const caller: Macro = { name: "caller", parameters, body: this.#blockUpTo("endcall") };
    return { type: "call block", call, caller };
  }

  #parameters(): Macro["parameters"] {
    this.#expect("(");
    const parameters: { name: string; otherwise?: Expression }[] = [];
    while (!this.#is(")")) {
      if (parameters.length > 0) this.#expect(",");
      const { text: name, line } = this.#nameToSet();
      const otherwise = this.#skip("=") ? this.#expression() : undefined;
      if (!otherwise && parameters.at(-1)?.otherwise) {
        throw syntaxError(
          `expected a default for '${name}', as the parameter before has one`,
          line,
        );
      }
      parameters.push({ name, otherwise });
    }
    this.#next();
    return parameters;
  }

  // --- what is set ---

  #nameToSet(): Token {
    const token = this.#now;
    if (token.kind !== "name" || CONSTANTS.has(token.text)) {
      throw this.#unexpected("a name to set");
    }
    return this.#next();
  }

  #target({ end, attributes = false }: { end?: string; attributes?: boolean }): Target {
    const { line } = this.#now;
    const target = asTarget(this.#list("targets", end, attributes), attributes);
    if (target) return target;
    throw syntaxError("expected a name to set, or names in parentheses", line);
  }

  // --- expressions ---

  /** One expression, or several with commas between them, which are a tuple. */
  #list(kind: Items, end?: string, attributes = false): Expression {
    return this.#items(kind, end, attributes) ?? this.#fail("an expression");
  }

  #fail(expected: string): never {
    throw this.#unexpected(expected);
  }

  /** The same; `undefined` if there are none. */
  #items(kind: Items, end?: string, attributes = false): Expression | undefined {
    const items: Expression[] = [];
    let isTuple = false;
    for (;;) {
      if (items.length > 0 && !this.#skip(",")) break;
      if (items.length > 0) isTuple = true;
      if (this.#isEndOfList(end)) break;
      if (kind !== "targets") items.push(this.#expression(kind === "any"));
      else items.push(this.#targetItem(attributes));
      if (!this.#is(",")) break;
    }
    return isTuple ? { type: "tuple", items } : items[0];
  }

  #targetItem(attributes: boolean): Expression {
    if (!attributes || !this.#is(".", 1)) return this.#primary();
    const { text: name } = this.#nameToSet();
    this.#next();
    const attribute = this.#expectKind("name", "the name of an attribute").text;
    return { type: "attribute", owner: { type: "name", name }, name: attribute };
  }

  #isEndOfList(end?: string): boolean {
    const { kind } = this.#now;
    return kind === "tag end" || kind === "print end" || this.#is(")") ||
      (end !== undefined && this.#isName(end));
  }

  #expression(withCondition = true): Expression {
    return this.#nested(() => withCondition ? this.#condition() : this.#or());
  }

  #condition(): Expression {
    let yes = this.#or();
    while (this.#skipName("if")) {
      const test = this.#or();
      const no = this.#skipName("else") ? this.#expression() : undefined;
      yes = { type: "condition", test, yes, no };
    }
    return yes;
  }

  #or(): Expression {
    let left = this.#and();
    while (this.#skipName("or")) left = { type: "or", left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.#skipName("and")) left = { type: "and", left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (!this.#skipName("not")) return this.#comparison();
    return { type: "unary", operator: "not", operand: this.#nested(() => this.#not()) };
  }

  #comparison(): Expression {
    const first = this.#sum(), rest: Comparison[] = [];
    for (;;) {
      const { kind, text } = this.#now;
      let operator: string;
      if (kind === "operator" && COMPARISONS.includes(text)) operator = text;
      else if (this.#isName("in")) operator = "in";
      else if (this.#isName("not") && this.#isName("in", 1)) operator = "not in";
      else break;
      this.#at += operator === "not in" ? 2 : 1;
      rest.push({ operator, operand: this.#sum() });
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  #sum(): Expression {
    return this.#binary(["+", "-"], () => this.#concat());
  }

  #concat(): Expression {
    const items = [this.#product()];
    while (this.#skip("~")) items.push(this.#product());
    return items.length === 1 ? items[0] : { type: "concat", items };
  }

  #product(): Expression {
    return this.#binary(["*", "/", "//", "%"], () => this.#power());
  }

  #power(): Expression {
    return this.#binary(["**"], () => this.#unary(true));
  }

  /** Operators of one rank, which group to the left. */
  #binary(operators: readonly string[], operand: () => Expression): Expression {
    let left = operand();
    for (;;) {
      const { kind, text } = this.#now;
      if (kind !== "operator" || !operators.includes(text)) return left;
      this.#next();
      left = { type: "binary", operator: text, left, right: operand() };
    }
  }

  /** A sign binds tighter than what stands behind its operand: `-1 | abs` is 1. */
  #unary(withFilters: boolean): Expression {
    let value: Expression;
    const sign = this.#now;
    if (this.#is("-") || this.#is("+")) {
      this.#next();
      const operand = this.#nested(() => this.#unary(false));
      value = { type: "unary", operator: sign.text as "-" | "+", operand };
    } else value = this.#primary();
    value = this.#postfix(value);
    return withFilters ? this.#filtersAndTests(value) : value;
  }

  #primary(): Expression {
    const { kind, text, line } = this.#now;
    switch (kind) {
      case "name":
        this.#next();
        if (CONSTANTS.has(text)) return { type: "constant", value: CONSTANTS.get(text) };
        if (text === "self") {
          throw syntaxError("'self' is not supported: there are no blocks", line);
        }
        return { type: "name", name: text };
      case "string": {
        let value = "";
        while (this.#now.kind === "string") value += this.#next().text;
        return { type: "constant", value };
      }
      case "integer":
        return { type: "constant", value: integerOf(this.#next()) };
      case "float":
        return { type: "constant", value: toFloat(Number(this.#next().text)) };
    }
    if (this.#is("(")) return this.#nested(() => this.#parentheses());
    if (this.#is("[")) return this.#nested(() => this.#listLiteral());
    if (this.#is("{")) return this.#nested(() => this.#dictLiteral());
    throw this.#unexpected("an expression");
  }

  #parentheses(): Expression {
    this.#next();
    const value = this.#items("any") ?? { type: "tuple", items: [] };
    this.#expect(")");
    return value;
  }

  #listLiteral(): Expression {
    this.#next();
    const items: Expression[] = [];
    while (!this.#is("]")) {
      if (items.length > 0) this.#expect(",");
      if (this.#is("]")) break;
      items.push(this.#expression());
    }
    this.#next();
    return { type: "list", items };
  }

  #dictLiteral(): Expression {
    this.#next();
    const pairs: [Expression, Expression][] = [];
    while (!this.#is("}")) {
      if (pairs.length > 0) this.#expect(",");
      if (this.#is("}")) break;
      const key = this.#expression();
      this.#expect(":");
      pairs.push([key, this.#expression()]);
    }
    this.#next();
    return { type: "dict", pairs };
  }

  // --- behind an expression ---

  #postfix(value: Expression): Expression {
    for (;;) {
      if (this.#skip(".")) value = this.#attribute(value);
      else if (this.#skip("[")) value = { type: "item", owner: value, key: this.#subscript() };
      else if (this.#is("(")) value = { type: "call", callee: value, args: this.#arguments() };
      else return value;
    }
  }

  #attribute(owner: Expression): Expression {
    const token = this.#now;
    if (token.kind === "integer") {
      this.#next();
      return { type: "item", owner, key: { type: "constant", value: integerOf(token) } };
    }
    const { text: name } = this.#expectKind("name", "a name or a whole number");
    return { type: "attribute", owner, name };
  }

  #subscript(): Expression {
    const parts: Expression[] = [];
    while (!this.#is("]")) {
      if (parts.length > 0) this.#expect(",");
      parts.push(this.#sliceOrExpression());
    }
    this.#next();
    return parts.length === 1 ? parts[0] : { type: "tuple", items: parts };
  }

  #sliceOrExpression(): Expression {
    const isOver = () => this.#is("]") || this.#is(",");
    const start = this.#is(":") ? undefined : this.#expression();
    if (!this.#skip(":")) return start!;
    const stop = this.#is(":") || isOver() ? undefined : this.#expression();
    const step = this.#skip(":") && !isOver() ? this.#expression() : undefined;
    return { type: "slice", bounds: [start, stop, step] } satisfies Slice;
  }

  #arguments(): Arguments {
    this.#expect("(");
    const placed: Expression[] = [], named: [string, Expression][] = [];
    const names = new Set<string>();
    let spread: Expression | undefined, spreadNamed: Expression | undefined;
    const inOrder = (isRight: boolean) => {
      if (!isRight) throw syntaxError("arguments are out of order", this.#now.line);
    };
    for (let first = true; !this.#is(")"); first = false) {
      if (!first) this.#expect(",");
      if (!first && this.#is(")")) break;
      if (this.#skip("*")) {
        inOrder(!spread && !spreadNamed);
        spread = this.#expression();
      } else if (this.#skip("**")) {
        inOrder(!spreadNamed);
        spreadNamed = this.#expression();
      } else if (this.#now.kind === "name" && this.#is("=", 1)) {
        inOrder(!spreadNamed);
        const { text: name, line } = this.#next();
        if (names.size === names.add(name).size) {
          throw syntaxError(`argument '${name}' is given twice`, line);
        }
        this.#next();
        named.push([name, this.#expression()]);
      } else {
        inOrder(!spread && !spreadNamed && named.length === 0);
        placed.push(this.#expression());
      }
    }
    this.#next();
    return { placed, named, spread, spreadNamed };
  }

  #filtersAndTests(value: Expression): Expression {
    for (;;) {
      if (this.#is("|")) value = this.#filters(value);
      else if (this.#isName("is")) value = this.#test(value);
      else if (this.#is("(")) value = { type: "call", callee: value, args: this.#arguments() };
      else return value;
    }
  }

  #filters(value: Expression | undefined): Expression {
    while (this.#skip("|")) value = this.#filter(value);
    return value!;
  }

  #filter(operand: Expression | undefined): Filter {
    const { line } = this.#now, name = this.#dotted("a filter's name");
    checkKnown("filter", name, FILTERS, REFUSED_FILTERS, line);
    const args = this.#is("(") ? this.#arguments() : NO_ARGUMENTS;
    return { type: "filter", operand, name, args, line };
  }

  #dotted(what: string): string {
    let name = this.#expectKind("name", what).text;
    while (this.#skip(".")) name += "." + this.#expectKind("name", what).text;
    return name;
  }

  #test(operand: Expression): Expression {
    this.#next();
    const negated = this.#skipName("not");
    const { line } = this.#now, name = this.#dotted("a test's name");
    checkKnown("test", name, CHECKS, REFUSED_TESTS, line);
    const args = this.#is("(") ? this.#arguments() : this.#testArgument();
    return { type: "test", operand, name, args, negated };
  }

  /** A test takes one argument without parentheses. */
  #testArgument(): Arguments {
    const { kind, line } = this.#now;
    const isArgument = ["name", "string", "integer", "float"].includes(kind) || this.#is("[") ||
      this.#is("{");
    if (!isArgument || ["else", "or", "and"].some((name) => this.#isName(name))) {
      return NO_ARGUMENTS;
    }
    if (this.#isName("is")) throw syntaxError("a test cannot follow a test: use 'and'", line);
    return { placed: [this.#postfix(this.#primary())], named: [] };
  }
}

function checkKnown(
  what: string,
  name: string,
  known: ReadonlyMap<string, unknown>,
  refused: ReadonlyMap<string, string>,
  line: number,
): void {
  if (known.has(name)) return;
  const reason = refused.get(name);
  if (reason !== undefined) {
    throw syntaxError(`the ${what} '${name}' is not supported${reason}`, line);
  }
  throw syntaxError(`no ${what} named '${shortened(name)}'${hint(name, [...known.keys()])}`, line);
}

function hint(name: string, names: readonly string[]): string {
  const near = name.length > LONGEST ? undefined : nearest(name, names);
  return near ? `; did you mean ${near}?` : `; there are ${names.join(", ")}`;
}

/** What a message quotes of a token. */
function shortened(text: string): string {
  return text.length > LONGEST ? text.slice(0, LONGEST) + "…" : text;
}

function integerOf({ text, line }: Token): number | bigint {
  const prefix = /^0[box]/i.exec(text)?.[0].toLowerCase() ?? "";
  const base = { "0b": 2, "0o": 8, "0x": 16 }[prefix] ?? 10;
  const value = parseInteger(text, base);
  if (value === undefined) throw syntaxError(`not a number: ${text}`, line);
  return value;
}

function asTarget(value: Expression, attributes: boolean): Target | undefined {
  if (value.type === "name") return value;
  if (value.type === "attribute" && attributes) return value;
  if (value.type !== "tuple") return undefined;
  const items = value.items.map((item) => asTarget(item, attributes));
  return items.includes(undefined) ? undefined : { type: "tuple", items: items as Target[] };
}
