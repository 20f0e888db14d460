/**
 * Turns text, `if`, `for` and `set` into closures that return what they print.
 *
 * @module
 */
import type { For, Node } from "./ast.ts";
import type { Expressions } from "./expressions.ts";
import { iterate, str, truthy } from "./python.ts";
import type { Frame, Scope, Write } from "./scope.ts";
import { GROUP } from "./tokens.ts";
import { JinjaError, Namespace, PyObject } from "./values.ts";

/** What a part of a template prints. */
export type Print = (frame: Frame) => string;

/** `loop` of one loop. */
class Loop extends PyObject {
  readonly type = "LoopContext";
  index = 0;

  constructor(readonly all: readonly unknown[]) {
    super();
  }

  override attribute(name: string): unknown {
    const { index, all: items } = this;
    switch (name) {
      case "index":
        return index + 1;
      case "index0":
        return index;
      case "revindex":
        return items.length - index;
      case "revindex0":
        return items.length - index - 1;
      case "first":
        return index === 0;
      case "last":
        return index === items.length - 1;
      case "length":
        return items.length;
      case "previtem":
        return items[index - 1];
      case "nextitem":
        return items[index + 1];
    }
  }
}

/** Compiles the statements of one template. */
export class Statements {
  readonly #expressions: Expressions;

  /** Statements with these expressions in them. */
  constructor(expressions: Expressions) {
    this.#expressions = expressions;
  }

  /** Statements and text, one after the other. */
  body(nodes: readonly Node[], scope: Scope): Print {
    const parts: (string | Print)[] = [];
    for (const node of nodes) {
      const part = this.#statement(node, scope);
      const last = parts.length - 1;
      if (typeof part === "string" && typeof parts[last] === "string") parts[last] += part;
      else parts.push(part);
    }
    const prints = parts.map((part) => typeof part === "string" ? () => part : part);
    if (prints.length === 0) return () => "";
    if (prints.length === 1) return prints[0];
    return (frame) => {
      let text = "";
      for (let i = 0; i < prints.length; i++) text += prints[i](frame);
      return text;
    };
  }

  #statement(node: Node, scope: Scope): string | Print {
    switch (node.type) {
      case "Comment":
        return "";
      case "StringLiteral":
        return node.value;
      case "If": {
        const test = this.#expressions.compile(node.test, scope);
        const body = this.body(node.body, scope), otherwise = this.body(node.alternate, scope);
        return (frame) => truthy(test(frame)) ? body(frame) : otherwise(frame);
      }
      case "For":
        return this.#loop(node, scope);
      case "Set": {
        const value = node.value
          ? this.#expressions.compile(node.value, scope)
          : this.#block(node.body, scope);
        const write = this.#target(node.assignee, scope, (name) => scope.assign(name));
        return (frame) => {
          write(frame, value(frame));
          return "";
        };
      }
    }
    const value = this.#expressions.compile(node, scope);
    return (frame) => str(value(frame));
  }

  #block(nodes: readonly Node[], outer: Scope): Print {
    const scope = outer.inner();
    const body = this.body(nodes, scope);
    return (frame) => {
      scope.enter(frame);
      return body(frame);
    };
  }

  #loop({ loopvar, iterable, body: nodes, defaultBlock }: For, outer: Scope): Print {
    const scope = outer.inner();
    const filtered = iterable.type === "SelectExpression" ? iterable : undefined;
    const list = this.#expressions.compile(filtered?.lhs ?? iterable, outer);
    const write = this.#target(loopvar, outer, (name) => scope.declare(name));
    const test = filtered && this.#expressions.compile(filtered.test, scope);
    const writeLoop = scope.declare("loop");
    const body = this.body(nodes, scope);
    const otherwise = this.#block(defaultBlock, outer);
    return (frame) => {
      const all = iterate(list(frame));
      const items = test
        ? all.filter((item) => {
          write(frame, item);
          return truthy(test(frame));
        })
        : all;
      if (items.length === 0) return otherwise(frame);
      const loop = new Loop(items);
      writeLoop(frame, loop);
      let text = "";
      for (const count = items.length; loop.index < count; loop.index++) {
        write(frame, items[loop.index]);
        scope.enter(frame);
        text += body(frame);
      }
      return text;
    };
  }

  /** Writes to a name, to the names of a tuple, or to an attribute of a namespace. */
  #target(node: Node, scope: Scope, writeName: (name: string) => Write): Write {
    if (node.type === "Identifier") return writeName(node.value);
    if (node.type === "FilterExpression" && node.filter.type === "Identifier") {
      if (node.filter.value === GROUP) return this.#target(node.operand, scope, writeName);
    }
    if (node.type === "TupleLiteral") {
      const writes = node.value.map((part) => this.#target(part, scope, writeName));
      return (frame, value) => {
        const items = iterate(value);
        if (items.length !== writes.length) throw wrongCount(items.length, writes.length);
        for (let i = 0; i < writes.length; i++) writes[i](frame, items[i]);
      };
    }
    if (node.type === "MemberExpression" && node.property.type === "Identifier") {
      const owner = this.#expressions.compile(node.object, scope), name = node.property.value;
      return (frame, value) => {
        const namespace = owner(frame);
        if (!(namespace instanceof Namespace)) {
          throw new JinjaError(
            "TemplateRuntimeError",
            "cannot assign attribute on non-namespace object",
          );
        }
        namespace.attributes.set(name, value);
      };
    }
    throw new JinjaError("TemplateSyntaxError", "cannot assign to an expression");
  }
}

function wrongCount(got: number, expected: number): JinjaError {
  const message = got > expected
    ? `too many values to unpack (expected ${expected})`
    : `not enough values to unpack (expected ${expected}, got ${got})`;
  return new JinjaError("ValueError", message);
}
