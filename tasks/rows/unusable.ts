/**
 * A value that its file holds but nobody can use: it does no harm until a template asks for it.
 *
 * @module
 */
import { JinjaError, PyObject } from "../jinja/values.ts";

/**
 * Stands in a row for a value that cannot be read. Whatever a template does with it is an error.
 *
 * @example
 * ```ts
 * import { compileTemplate } from "../jinja/evaluate.ts";
 * import { Unusable } from "./unusable.ts";
 * import assert from "node:assert/strict";
 *
 * const row = { text: "a", more: new Unusable("bytes that are not UTF-8") };
 * assert.equal(compileTemplate("{{ text }}").render(row), "a");
 * assert.throws(() => compileTemplate("{{ more }}").render(row), /bytes that are not UTF-8/);
 * ```
 */
export class Unusable extends PyObject {
  /** Always `"unusable"`. */
  readonly type = "unusable";
  /** Why it cannot be used. */
  readonly reason: string;

  /** A value that cannot be used for a reason. */
  constructor(reason: string) {
    super();
    this.reason = reason;
  }

  /** An error, as all that follows. */
  override text(): never {
    throw this.#error();
  }
  /** An error. */
  override repr(): never {
    throw this.#error();
  }
  /** An error. */
  override truthy(): never {
    throw this.#error();
  }
  /** An error. */
  override attribute(_name: string): never {
    throw this.#error();
  }
  /** An error. */
  override compareTo(_other: unknown): never {
    throw this.#error();
  }
  /** An error. */
  override items(): never {
    throw this.#error();
  }

  #error(): JinjaError {
    return new JinjaError("ValueError", `a value that cannot be read: ${this.reason}`);
  }
}
