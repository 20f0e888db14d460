/**
 * Jinja2 templates as promptsource renders them, with Python's semantics. A template is parsed once
 * and turned into closures; rendering calls them.
 *
 * What is not there is refused while compiling, by its name: see `refused.ts`.
 *
 * @module
 */
import type { Statement } from "./ast.ts";
import { changeableCopy } from "./container_methods.ts";
import { Expressions } from "./expressions.ts";
import { GLOBALS } from "./globals.ts";
import { withinLimits } from "./limits.ts";
import { parseTemplate } from "./parser.ts";
import { Names, Scope } from "./scope.ts";
import { type Print, Statements } from "./statements.ts";
import type { Choose } from "./values.ts";

/** The default of {@link CompiledTemplate.render}: always the first one. */
export function chooseFirst(): number {
  return 0;
}

/** How {@link CompiledTemplate.render} behaves. */
export interface RenderOptions {
  /** Picks for the filters `choice` and `random` (default: the first item). */
  choose?: Choose;
}

/** A template, ready to be rendered. */
export class CompiledTemplate {
  /** Names of the variables that {@link CompiledTemplate.renderValues} takes, in its order. */
  readonly names: readonly string[];
  /** Those of them on which it may depend what the template renders. */
  readonly reads: readonly string[];
  /**
   * Those that it needs: no built-in functions, and nothing that it asks for with `is defined` or
   * replaces by `default`.
   */
  readonly fields: readonly string[];
  /** Whether it uses `choice` or `random`. */
  readonly usesChoice: boolean;
  readonly #copies: boolean;
  readonly #scope: Scope;
  readonly #body: Print;

  /** Compiles what {@link parseTemplate} gave; {@link compileTemplate} does both. */
  constructor(nodes: readonly Statement[]) {
    const names = new Names();
    const expressions = new Expressions();
    this.#scope = new Scope(names);
    this.#body = new Statements(expressions).body(nodes, this.#scope);
    this.#copies = expressions.changesValues;
    this.usesChoice = expressions.usesChoice;
    this.names = names.all;
    this.reads = [...names.read].filter((name) => !GLOBALS.has(name));
    this.fields = this.reads.filter((name) => !names.optional.has(name));
  }

  /**
   * Renders the template.
   *
   * @param variables what it may read; they are never changed
   * @throws {JinjaError} where Jinja2 raises
   *
   * @example
   * ```ts
   * import { compileTemplate } from "./evaluate.ts";
   * import assert from "node:assert/strict";
   *
   * const template = compileTemplate("{{ ['Yes', 'No'] | choice }}");
   * assert.equal(template.render({}, { choose: (n) => n - 1 }), "No");
   * ```
   */
  render(
    variables: Readonly<Record<string, unknown>>,
    { choose = chooseFirst }: RenderOptions = {},
  ): string {
    const values = this.names.map((name) =>
      Object.hasOwn(variables, name) ? variables[name] : undefined
    );
    return this.renderValues(values, choose);
  }

  /**
   * The same, without looking names up.
   *
   * @param values of {@link CompiledTemplate.names}, `undefined` for what there is not; the array is
   * overwritten
   */
  renderValues(values: unknown[], choose: Choose): string {
    for (let i = 0; i < values.length; i++) {
      if (values[i] === undefined) values[i] = GLOBALS.get(this.names[i]);
      else if (this.#copies) values[i] = changeableCopy(values[i]);
    }
    return withinLimits(() => this.#body({ values, locals: new Array(this.#scope.size), choose }));
  }
}

/**
 * Compiles a template.
 *
 * @throws {JinjaError} of kind `TemplateSyntaxError`, with the line
 *
 * @example
 * ```ts
 * import { compileTemplate } from "./evaluate.ts";
 * import assert from "node:assert/strict";
 *
 * const template = compileTemplate("{% for x in list %}{{ loop.index }}:{{ x }} {% endfor %}{{ end }}");
 * assert.deepEqual(template.fields, ["list", "end"]);
 * assert.equal(template.render({ list: ["a", null], end: true }), "1:a 2:None True");
 * ```
 */
export function compileTemplate(source: string): CompiledTemplate {
  return withinLimits(() => new CompiledTemplate(parseTemplate(source)));
}
