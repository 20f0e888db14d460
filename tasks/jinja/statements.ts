/**
 * Turns text and statements into closures that return what they print.
 *
 * @module
 */
import type { For, Macro, Statement, Target } from "./ast.ts";
import type { Expressions } from "./expressions.ts";
import { spend, spendSteps } from "./limits.ts";
import { Loop } from "./loop.ts";
import { macroOf } from "./macro.ts";
import { iterate, str, truthy } from "./python.ts";
import type { Frame, Read, Scope, Write } from "./scope.ts";
import { JinjaError, Namespace } from "./values.ts";

/** What a part of a template prints. */
export type Print = (frame: Frame) => string;

/** Compiles the statements of one template. */
export class Statements {
  readonly #expressions: Expressions;

  /** Statements with these expressions in them. */
  constructor(expressions: Expressions) {
    this.#expressions = expressions;
  }

  /** Statements and text, one after the other. */
  body(nodes: readonly Statement[], scope: Scope): Print {
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

  #statement(node: Statement, scope: Scope): string | Print {
    switch (node.type) {
      case "text":
        return node.text;
      case "print": {
        const value = this.#expressions.compile(node.value, scope);
        return (frame) => str(value(frame));
      }
      case "if":
        return this.#if(node, scope);
      case "for":
        return this.#loop(node, scope);
      case "set": {
        const value = this.#expressions.compile(node.value, scope);
        return this.#set(value, node.target, scope);
      }
      case "set block": {
        const body = this.#block(node.body, scope);
        const { filter } = node;
        return this.#set(
          filter ? this.#expressions.filter(filter, scope, body) : body,
          node.target,
          scope,
        );
      }
      case "filter block": {
        const filter = this.#expressions.filter(node.filter, scope, this.#block(node.body, scope));
        return (frame) => str(filter(frame));
      }
      case "with":
        return this.#with(node, scope);
      case "macro": {
        const write = scope.assign(node.macro.name);
        const macro = this.#macro(node.macro, scope);
        return (frame) => {
          write(frame, macro(frame));
          return "";
        };
      }
      case "call block": {
        const caller = this.#macro(node.caller, scope);
        const call = this.#expressions.call(node.call, scope, caller);
        return (frame) => str(call(frame));
      }
    }
  }

  #if({ branches, otherwise }: Statement & { type: "if" }, scope: Scope): Print {
    const compiled = branches.map(({ test, body }) => ({
      test: this.#expressions.compile(test, scope),
      body: this.body(body, scope),
    }));
    const rest = this.body(otherwise, scope);
    if (compiled.length === 1) {
      const [{ test, body }] = compiled;
      return (frame) => truthy(test(frame)) ? body(frame) : rest(frame);
    }
    return (frame) => {
      for (const { test, body } of compiled) if (truthy(test(frame))) return body(frame);
      return rest(frame);
    };
  }

  #set(value: Read, target: Target, scope: Scope): Print {
    const write = this.#target(target, scope, (name) => scope.assign(name));
    return (frame) => {
      write(frame, value(frame));
      return "";
    };
  }

  /** Values are those of outside, whatever the names before them say. */
  #with({ pairs, body: nodes }: Statement & { type: "with" }, outer: Scope): Print {
    const values = pairs.map(([, value]) => this.#expressions.compile(value, outer));
    const scope = outer.inner();
    const writes = pairs.map(([target]) =>
      this.#target(target, outer, (name) => scope.declare(name))
    );
    const body = this.body(nodes, scope);
    return (frame) => {
      const given = values.map((value) => value(frame));
      writes.forEach((write, i) => write(frame, given[i]));
      scope.enter(frame);
      return body(frame);
    };
  }

  #block(nodes: readonly Statement[], outer: Scope): Print {
    const scope = outer.inner();
    const body = this.body(nodes, scope);
    return (frame) => {
      scope.enter(frame);
      const text = body(frame);
      spend(text.length);
      return text;
    };
  }

  #macro(macro: Macro, outer: Scope): Read {
    const scope = outer.call();
    const parameters = macro.parameters.map(({ name, otherwise }) => ({
      name,
      // A default may name the parameters before it.
      otherwise: otherwise && this.#expressions.compile(otherwise, scope),
      write: scope.declare(name),
    }));
    const extras = ["varargs", "kwargs", "caller"]
      .filter((name) => macro.parameters.every((parameter) => parameter.name !== name))
      .map((name) => [name, scope.declare(name)] as const);
    const body = this.body(macro.body, scope);
    const used = new Map(extras.filter(([name]) => scope.isRead(name)));
    return macroOf({ name: macro.name, parameters, used, body, scope });
  }

  #loop({ target, list: listNode, test: testNode, ...node }: For, outer: Scope): Print {
    const list = this.#expressions.compile(listNode, outer);
    const scope = node.recursive ? outer.call() : outer.inner();
    const write = this.#target(target, outer, (name) => {
      if (name !== "loop") return scope.declare(name);
      throw new JinjaError("TemplateSyntaxError", "a loop's items cannot be called 'loop'");
    });
    const test = testNode && this.#expressions.compile(testNode, scope);
    const writeLoop = scope.declare("loop");
    const body = this.body(node.body, scope);
    const otherwise = this.#block(node.otherwise, outer);
    const round = (value: unknown, frame: Frame, depth: number, again?: Loop["again"]): string => {
      const items = test ? kept(iterate(value), frame, write, test) : iterate(value);
      if (items.length === 0) return otherwise(node.recursive ? frame.outer! : frame);
      const loop = new Loop(items, depth, again);
      writeLoop(frame, loop);
      let text = "";
      for (const count = items.length; loop.index < count; loop.index++) {
        spendSteps(1);
        write(frame, items[loop.index]);
        scope.enter(frame);
        const part = body(frame);
        spend(part.length);
        text += part;
      }
      return text;
    };
    if (!node.recursive) return (frame) => round(list(frame), frame, 0);
    const start = (value: unknown, outside: Frame, depth: number): string =>
      round(value, scope.frame(outside), depth, (inner) => start(inner, outside, depth + 1));
    return (frame) => start(list(frame), frame, 0);
  }

  /** Writes to a name, to the names of a tuple, or to an attribute of a namespace. */
  #target(node: Target, scope: Scope, writeName: (name: string) => Write): Write {
    if (node.type === "name") return writeName(node.name);
    if (node.type === "tuple") {
      const writes = node.items.map((part) => this.#target(part, scope, writeName));
      return (frame, value) => {
        const items = iterate(value);
        if (items.length !== writes.length) throw wrongCount(items.length, writes.length);
        for (let i = 0; i < writes.length; i++) writes[i](frame, items[i]);
      };
    }
    const owner = this.#expressions.compile(node.owner, scope), { name } = node;
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
}

/** The items that a loop's condition leaves. */
function kept(items: readonly unknown[], frame: Frame, write: Write, test: Read): unknown[] {
  spendSteps(items.length);
  return items.filter((item) => {
    write(frame, item);
    return truthy(test(frame));
  });
}

function wrongCount(got: number, expected: number): JinjaError {
  const message = got > expected
    ? `too many values to unpack (expected ${expected})`
    : `not enough values to unpack (expected ${expected}, got ${got})`;
  return new JinjaError("ValueError", message);
}
