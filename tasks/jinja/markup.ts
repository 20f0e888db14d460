/**
 * MarkupSafe's `Markup`: text that `safe`, `escape` or `tojson` has marked as safe in HTML. It prints like
 * any text, but escapes what is added to it.
 *
 * @module
 */
import { spend } from "./limits.ts";
import { PyObject } from "./values.ts";

const ESCAPES: Readonly<Record<string, string>> = {
  ...{ "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" },
};

/**
 * A text that is safe in HTML.
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./evaluate.ts";
 * import assert from "node:assert/strict";
 *
 * const template = compileTemplate("{{ ('<b>' | safe) + '<i>' }}");
 * assert.equal(template.render({}), "<b>&lt;i&gt;");
 * ```
 */
export class Markup extends PyObject {
  /** Python's name of its type. */
  readonly type = "Markup";
  /** The text. */
  readonly value: string;

  /** A text that needs no escaping. */
  constructor(value: string) {
    super();
    this.value = value;
  }

  /** `str(value)`. */
  override text(): string {
    return this.value;
  }

  /** Whether it is not empty. */
  override truthy(): boolean {
    return this.value !== "";
  }

  /** What it has in common with the text that it is. */
  override get hash(): string {
    return `text ${this.value}`;
  }
}

/** A text with what HTML gives a meaning written otherwise. */
export function escaped(text: string): string {
  spend(text.length);
  return text.replace(/[&<>'"]/g, (character) => ESCAPES[character]);
}

/** The text of a string, marked as safe or not; `undefined` of all else. */
export function plainText(value: unknown): string | undefined {
  return value instanceof Markup ? value.value : typeof value === "string" ? value : undefined;
}
