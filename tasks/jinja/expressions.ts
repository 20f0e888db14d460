/**
 * Turns expressions into closures.
 *
 * @module
 */
import type { Arguments, Comparison, Expression, Filter } from "./ast.ts";
import { argumentsOf, CHECKS } from "./checks.ts";
import { inOrder } from "./filter.ts";
import { FILTERS } from "./filters.ts";
import { callMethod, callValue, getAttribute, getSubscript } from "./attributes.ts";
import { MUTATING } from "./container_methods.ts";
import { COMPARISONS, OPERATORS } from "./operators.ts";
import { plainText } from "./markup.ts";
import { spend, spendReading, spendSteps } from "./limits.ts";
import { add, iterate, negate, slice, str, truthy } from "./python.ts";
import type { Frame, Read, Scope } from "./scope.ts";
import { PyDict, setKey } from "./dict.ts";
import { entriesOf, integral, isDict, JinjaError, type Named, Tuple, typeName } from "./values.ts";

/** Filters and tests that make do with an undefined value. */
const LENIENT = new Set(["default", "d"]), LENIENT_TESTS = new Set(["defined", "undefined"]);
const CHOOSING = new Set(["choice", "random"]);
const NO_NAMED: Named = {};

/** Compiles the expressions of one template. */
export class Expressions {
  /** Whether a filter that picks one of several has come up. */
  usesChoice = false;
  /** Whether a method that changes its owner has come up. */
  changesValues = false;

  /**
   * Compiles an expression.
   *
   * @param lenient whether the template copes where the value is undefined
   */
  compile(node: Expression, scope: Scope, lenient = false): Read {
    switch (node.type) {
      case "constant":
        return constant(node.value);
      case "name":
        return scope.read(node.name, lenient);
      case "list":
      case "tuple":
      case "dict": {
        const build = this.#build(node, scope);
        return isConstant(node) ? this.#shared(build) : build;
      }
      case "attribute": {
        const owner = this.compile(node.owner, scope), { name } = node;
        this.#noteMutating(name);
        return (frame) => getAttribute(owner(frame), name, node.owner);
      }
      case "item":
        return this.#item(node, scope);
      case "call":
        return this.call(node, scope);
      case "unary":
        return this.#unary(node, scope);
      case "condition": {
        const test = this.compile(node.test, scope), yes = this.compile(node.yes, scope);
        const no = node.no ? this.compile(node.no, scope) : constant(undefined);
        return (frame) => truthy(test(frame)) ? yes(frame) : no(frame);
      }
      case "filter":
        return this.filter(node, scope);
      case "test": {
        const check = CHECKS.get(node.name)!, wanted = !node.negated;
        const value = this.compile(node.operand, scope, LENIENT_TESTS.has(node.name));
        const { placed, count } = this.#arguments(node.args, scope);
        if (count !== argumentsOf(node.name)) return wrongArguments(node.name);
        return (frame) => check(value(frame), placed(frame)) === wanted;
      }
      case "slice":
        throw new JinjaError("TemplateSyntaxError", "a slice within a tuple is not supported");
    }
    return this.#operator(node, scope);
  }

  #operator(
    node: Expression & { type: "binary" | "and" | "or" | "concat" | "compare" },
    scope: Scope,
  ): Read {
    switch (node.type) {
      case "binary": {
        const a = this.compile(node.left, scope), b = this.compile(node.right, scope);
        const compute = OPERATORS.get(node.operator)!;
        return (frame) => compute(a(frame), b(frame));
      }
      case "and":
      case "or": {
        const a = this.compile(node.left, scope), b = this.compile(node.right, scope);
        const stop = node.type === "or";
        return (frame) => {
          const first = a(frame);
          return truthy(first) === stop ? first : b(frame);
        };
      }
      case "concat": {
        const items = node.items.map((item) => this.compile(item, scope));
        return (frame) => {
          let text = "";
          for (const item of items) text += str(item(frame));
          spend(text.length);
          return text;
        };
      }
      case "compare":
        return this.#comparison(node.first, node.rest, scope);
    }
  }

  #unary(node: Expression & { type: "unary" }, scope: Scope): Read {
    const value = this.compile(node.operand, scope);
    if (node.operator === "not") return (frame) => !truthy(value(frame));
    return node.operator === "-"
      ? (frame) => negate(value(frame))
      : (frame) => add(0, value(frame));
  }

  /** Builds a fixed value once, unless the template has methods that could change it. */
  #shared<T>(build: (frame: Frame) => T): (frame: Frame) => T {
    let shared: T | undefined;
    return (frame) => this.changesValues ? build(frame) : shared ??= build(frame);
  }

  #build(node: Collection, scope: Scope): Read {
    if (node.type === "dict") {
      const pairs = node.pairs.map((pair) => pair.map((part) => this.compile(part, scope)));
      return (frame) => {
        const dict = new PyDict();
        spendSteps(4 * pairs.length);
        for (const [key, value] of pairs) setKey(dict, key(frame), value(frame));
        return dict;
      };
    }
    const items = node.items.map((item) => this.compile(item, scope));
    if (node.type === "list") return (frame) => items.map((item) => item(frame));
    return (frame) => Tuple.from(items, (item) => item(frame));
  }

  #item({ owner: ownerNode, key: keyNode }: Expression & { type: "item" }, scope: Scope): Read {
    const owner = this.compile(ownerNode, scope);
    if (keyNode.type === "slice") {
      const [start, stop, step] = [0, 1, 2].map((i) => {
        const bound = keyNode.bounds[i];
        return bound && this.compile(bound, scope);
      });
      return (frame) => {
        const value = owner(frame);
        if (value === undefined) getSubscript(value, 0, ownerNode);
        return slice(value, bound(start, frame), bound(stop, frame), bound(step, frame));
      };
    }
    // A key that is computed may name a method as well; `getSubscript` refuses those that change values.
    if (keyNode.type === "constant" && typeof keyNode.value === "string") {
      this.#noteMutating(keyNode.value);
    }
    const key = this.compile(keyNode, scope);
    const isFixed = keyNode.type === "constant";
    return (frame) => getSubscript(owner(frame), key(frame), ownerNode, isFixed);
  }

  #noteMutating(name: string): void {
    this.changesValues ||= MUTATING.has(name);
  }

  /** Compiles a call; a call block gives it a `caller`. */
  call(
    { callee, args }: Expression & { type: "call" },
    scope: Scope,
    caller?: Read,
  ): Read {
    const { placed, named: given } = this.#arguments(args, scope);
    const named = caller ? (frame: Frame) => ({ ...given(frame), caller: caller(frame) }) : given;
    if (callee.type === "attribute") {
      const { name } = callee, owner = this.compile(callee.owner, scope);
      this.#noteMutating(name);
      return (frame) => callMethod(owner(frame), name, callee.owner, placed(frame), named(frame));
    }
    const value = this.compile(callee, scope);
    return (frame) => callValue(value(frame), callee, placed(frame), named(frame));
  }

  #arguments({ placed, named, spread, spreadNamed }: Arguments, scope: Scope): Given {
    const values = placed.map((node) => this.compile(node, scope));
    const pairs = named.map(([name, node]) => [name, this.compile(node, scope)] as const);
    const more = spread && this.compile(spread, scope);
    const moreNamed = spreadNamed && this.compile(spreadNamed, scope);
    const byPlace = (frame: Frame) => values.map((value) => value(frame));
    const byName = (frame: Frame): Named =>
      Object.fromEntries(pairs.map(([name, value]) => [name, value(frame)]));
    const isFixed = !more && placed.every(isConstant);
    return {
      count: more ? Infinity : values.length,
      hasNamed: pairs.length > 0 || moreNamed !== undefined,
      placed: isFixed
        ? this.#shared(byPlace)
        : more
        ? (frame) => [...byPlace(frame), ...iterate(more(frame))]
        : byPlace,
      named: moreNamed
        ? (frame) => withNames(byName(frame), moreNamed(frame))
        : pairs.length === 0
        ? () => NO_NAMED
        : byName,
    };
  }

  /** Compiles a filter; `text` is what it filters if it is a block's. */
  filter(node: Filter, scope: Scope, text?: Read): Read {
    const { name, operand } = node;
    const isInner = operand?.type === "filter" && text !== undefined;
    const value = isInner
      ? this.filter(operand, scope, text)
      : operand
      ? this.compile(operand, scope, LENIENT.has(name))
      : text!;
    const { placed, named, count, hasNamed } = this.#arguments(node.args, scope);
    this.usesChoice ||= CHOOSING.has(name) || name === "map" && mayChoose(node.args);
    const known = FILTERS.get(name)!, { parameters, needed = 0, run } = known;
    if (!hasNamed && (!parameters || count <= parameters.length && count >= needed)) {
      return (frame) => {
        const item = value(frame);
        return paid(item, run(item, placed(frame), frame.choose, NO_NAMED));
      };
    }
    return (frame) => {
      const item = value(frame), given = placed(frame), byName = named(frame);
      const args = parameters ? inOrder(name, known, given, byName) : given;
      return paid(item, run(item, args, frame.choose, byName));
    };
  }

  /** `a < b < c` is `a < b and b < c`, with `b` evaluated once. */
  #comparison(first: Expression, rest: readonly Comparison[], scope: Scope): Read {
    const start = this.compile(first, scope);
    const links = rest.map(({ operator, operand }) => ({
      holds: COMPARISONS.get(operator)!,
      value: this.compile(operand, scope),
    }));
    if (links.length === 1) {
      const [{ holds, value }] = links;
      return (frame) => holds(start(frame), value(frame));
    }
    return (frame) => {
      let left = start(frame);
      return links.every(({ holds, value }) => holds(left, left = value(frame)));
    };
  }
}

/** Pays for reading and making texts. */
function paid(value: unknown, result: unknown): unknown {
  if (typeof value === "string") spendReading(value);
  const text = plainText(result);
  if (text !== undefined) spend(text === value ? text.length >> 2 : text.length);
  return result;
}

/** A test with too many arguments or too few fails where it is asked. */
function wrongArguments(name: string): Read {
  const wanted = argumentsOf(name) === 1 ? "one argument" : "no argument";
  return () => {
    throw new JinjaError("TypeError", `the test ${name} takes ${wanted}`);
  };
}

/** Whether `map` may apply a filter that picks one of several. */
function mayChoose({ placed, spread }: Arguments): boolean {
  const [name] = placed;
  if (!name) return spread !== undefined;
  return name.type !== "constant" || CHOOSING.has(String(name.value));
}

/** The arguments of a call. */
interface Given {
  count: number;
  hasNamed: boolean;
  placed(frame: Frame): readonly unknown[];
  named(frame: Frame): Named;
}

type Collection = Expression & { type: "list" | "tuple" | "dict" };

function isConstant(node: Expression): boolean {
  switch (node.type) {
    case "constant":
      return true;
    case "list":
    case "tuple":
      return node.items.every(isConstant);
    case "dict":
      return node.pairs.flat().every(isConstant);
  }
  return false;
}

function constant(value: unknown): Read {
  return () => value;
}

/** Named arguments with those of a dict. */
function withNames(named: Named, dict: unknown): Named {
  if (!isDict(dict)) {
    const kind = typeName(dict);
    throw new JinjaError("TypeError", `argument after ** must be a mapping, not ${kind}`);
  }
  const names = new Map(Object.entries(named));
  for (const [key, value] of entriesOf(dict)) {
    if (typeof key !== "string") throw new JinjaError("TypeError", "keywords must be strings");
    if (names.has(key)) {
      throw new JinjaError("TypeError", `got multiple values for keyword argument '${key}'`);
    }
    names.set(key, value);
  }
  return Object.fromEntries(names);
}

/** One end of a slice. */
function bound(read: Read | undefined, frame: Frame): number | undefined {
  if (!read) return undefined;
  const value = read(frame);
  if (value === null) return undefined;
  const number = integral(value);
  if (number !== undefined) return Number(number);
  throw new JinjaError("TypeError", `slice indices must be integers, got ${typeName(value)}`);
}
