/**
 * One prompt template, applied to rows exactly as promptsource's `Template.apply` does it.
 *
 * @module
 */
import type { Row } from "../rows/row.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { chooseFirst, type CompiledTemplate, compileTemplate } from "../jinja/evaluate.ts";
import { strip } from "../jinja/text.ts";
import { type Choose, type ErrorKind, JinjaError } from "../jinja/values.ts";

export type { Choose } from "../jinja/values.ts";

export type { Row };

/** What a template makes of a row. */
export type Rendered = ReturnType<Template["apply"]>;

/** A template's entry in its file. */
export interface TemplateSource {
  /** Unique in its file. */
  name: string;
  /** Unique everywhere. */
  id: string;
  /** Dataset and configuration: `super_glue/copa`. */
  dataset: string;
  /** Path of the file. */
  file: string;
  /** Whether it asks for what the dataset was made for. */
  originalTask: boolean;
  /** Whether the input names the choices; `null` if nobody said. */
  choicesInPrompt: boolean | null;
  /** Names of the metrics to judge answers by. */
  metrics: readonly string[];
  /** Where it comes from, in prose. */
  reference: string;
  /** The template. */
  jinja: string;
  /** The template of the choices, separated by `|||`; `null` if there are none. */
  answerChoices: string | null;
}

const SEPARATOR = "|||";
/** Stands for {@link SEPARATOR} within a row while it is rendered. Some templates name it. */
const PROTECTOR = "3ed2dface8203c4c9dfb1a5dc58e41e0";
const TRUNCATED_END = " | string | truncate(2048) }}";
const CHOICES = "answer_choices";

/** Thrown where promptsource fails to render: a matter of the row, mostly. */
export class RenderError extends Error {
  /** Always `"RenderError"`. */
  override name = "RenderError";
  /** The exception's name in Python. */
  readonly kind: string;
  /** The template's name. */
  readonly template: string;

  /** A failure of a template. */
  constructor(kind: ErrorKind, template: string, message: string) {
    super(message);
    this.kind = kind;
    this.template = template;
  }
}

/**
 * A prompt template. It is compiled when it is first used.
 *
 * @example
 * ```ts
 * import { Template } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const template = new Template({
 *   ...{ name: "question", id: "1", dataset: "copa", file: "copa/templates.yaml" },
 *   ...{ originalTask: true, choicesInPrompt: true, metrics: ["Accuracy"], reference: "" },
 *   jinja: "{{ premise }} Why? {{ answer_choices | join(' or ') }}\n|||\n{{ answer_choices[label] }}",
 *   answerChoices: "{{ choice1 }} ||| {{ choice2 }}",
 * });
 * const row = { premise: "It is wet.", choice1: "Rain", choice2: "Sun", label: 0 };
 * assert.deepEqual(template.apply(row), {
 *   parts: ["It is wet. Why? Rain or Sun", "Rain"],
 *   choices: ["Rain", "Sun"],
 * });
 * assert.deepEqual(template.fields, ["premise", "label", "choice1", "choice2"]);
 * ```
 */
export class Template implements TemplateSource {
  /** Unique in its file. */
  readonly name: string;
  /** Unique everywhere. */
  readonly id: string;
  /** Dataset and configuration: `super_glue/copa`. */
  readonly dataset: string;
  /** Path of the file. */
  readonly file: string;
  /** Whether it asks for what the dataset was made for. */
  readonly originalTask: boolean;
  /** Whether the input names the choices; `null` if nobody said. */
  readonly choicesInPrompt: boolean | null;
  /** Names of the metrics to judge answers by. */
  readonly metrics: readonly string[];
  /** Where it comes from, in prose. */
  readonly reference: string;
  /** The template. */
  readonly jinja: string;
  /** The template of the choices, separated by `|||`; `null` if there are none. */
  readonly answerChoices: string | null;

  #plain?: CompiledTemplate;
  #truncated?: CompiledTemplate;
  #choices?: CompiledTemplate;
  /** The choices, once they are known to need no row. */
  #fixed?: readonly string[];

  /** A template as its file has it. */
  constructor(source: TemplateSource) {
    this.name = source.name;
    this.id = source.id;
    this.dataset = source.dataset;
    this.file = source.file;
    this.originalTask = source.originalTask;
    this.choicesInPrompt = source.choicesInPrompt;
    this.metrics = source.metrics;
    this.reference = source.reference;
    this.jinja = source.jinja;
    this.answerChoices = source.answerChoices;
  }

  /**
   * Renders the template for a row.
   *
   * @param options `truncate`: whether to cut what each `{{ }}` prints at 2,048 code points, as promptsource
   *   does by default, which rewrites the source for that, and so in `{{ a + b }}` cuts `b` alone; `choose`:
   *   picks for the filters `choice` and `random`, of so many items; the first by default
   * @returns what `|||` separates, stripped: input and target, if all is well; and the answers to choose from,
   *   `null` if the template names none
   * @throws {RenderError} where promptsource raises
   * @throws {UserError} a template that does not compile
   */
  apply(
    row: Row,
    { truncate = true, choose = chooseFirst }: {
      truncate?: boolean;
      choose?: (n: number) => number;
    } = {},
  ): { parts: string[]; choices: string[] | null } {
    const template = truncate ? this.#compiledTruncated() : this.#compiledPlain();
    if (Object.hasOwn(row, CHOICES)) {
      throw new RenderError("ValueError", this.name, `a row has the restricted field ${CHOICES}`);
    }
    const choices = this.answerChoicesList(row, choose);
    const text = this.#render(template, row, choose, choices);
    return { parts: text.split(SEPARATOR).map((part) => strip(unprotected(part))), choices };
  }

  /**
   * The choices for a row; `null` if the template has none. They are never truncated.
   *
   * @param choose picks for `choice` and `random` (default: the first item)
   * @throws {RenderError} where promptsource raises
   * @throws {UserError} a template that does not compile
   */
  answerChoicesList(row: Row, choose: (n: number) => number = chooseFirst): string[] | null {
    if (this.answerChoices === null) return null;
    if (this.#fixed) return [...this.#fixed];
    const template = this.#compiledChoices(this.answerChoices);
    const text = this.#render(template, row, choose, undefined);
    const choices = text.split(SEPARATOR).map((choice) => unprotected(strip(choice)));
    // Most templates have the same few words for every row.
    if (template.names.length === 0 && !template.usesChoice) this.#fixed = [...choices];
    return choices;
  }

  /**
   * The choices, if they are the same for every row; else, or if there are none, `null`.
   *
   * @throws {RenderError} where promptsource raises
   * @throws {UserError} a template that does not compile
   */
  fixedAnswerChoices(): string[] | null {
    const template = this.answerChoices === null
      ? undefined
      : this.#compiledChoices(this.answerChoices);
    if (!template || template.reads.length > 0 || template.usesChoice) return null;
    return this.answerChoicesList({});
  }

  /** Whether it uses `choice` or `random`, so that its text depends on {@link ApplyOptions.choose}. */
  get usesChoice(): boolean {
    return this.#programs().some((program) => program.usesChoice);
  }

  /**
   * The fields of a row that it refers to, other than by asking whether they are there.
   *
   * @throws {UserError} a template that does not compile
   */
  get fields(): readonly string[] {
    const all = this.#programs().flatMap((program) => program.fields);
    return [...new Set(all)].filter((name) => name !== CHOICES);
  }

  /**
   * Compiles it now, in both modes.
   *
   * @throws {UserError} naming file, template and line
   */
  compile(): void {
    this.#programs();
    this.#compiledTruncated();
  }

  #programs(): CompiledTemplate[] {
    const choices = this.answerChoices === null ? [] : [this.#compiledChoices(this.answerChoices)];
    return [this.#compiledPlain(), ...choices];
  }

  #compiledPlain(): CompiledTemplate {
    return this.#plain ??= this.#compile(this.jinja, "jinja");
  }

  #compiledTruncated(): CompiledTemplate {
    return this.#truncated ??= this.#compile(
      this.jinja.replaceAll("}}", TRUNCATED_END),
      "jinja",
    );
  }

  #compiledChoices(source: string): CompiledTemplate {
    return this.#choices ??= this.#compile(source, CHOICES);
  }

  #compile(source: string, key: string): CompiledTemplate {
    try {
      return compileTemplate(source);
    } catch (error) {
      if (!(error instanceof JinjaError)) throw error;
      const line = error.line === undefined ? "" : ` line ${error.line}`;
      throw new UserError(`${this.file}: template '${this.name}': ${key}${line}: ${error.message}`);
    }
  }

  /** Hands over only what the template reads, so that a row's other fields cost nothing. */
  #render(
    template: CompiledTemplate,
    row: Row,
    choose: Choose,
    choices: readonly string[] | null | undefined,
  ): string {
    const { names } = template;
    const values = new Array<unknown>(names.length);
    for (let i = 0; i < names.length; i++) {
      const name = names[i];
      if (name === CHOICES) values[i] = choices;
      else if (Object.hasOwn(row, name)) values[i] = protectedValue(row[name]);
    }
    try {
      return template.renderValues(values, choose);
    } catch (error) {
      if (!(error instanceof JinjaError)) throw error;
      throw new RenderError(error.kind, this.name, error.message);
    }
  }
}

/** Texts within lists and dicts are not protected; promptsource does not do it either. */
function protectedValue(value: unknown): unknown {
  return typeof value === "string" && value.includes(SEPARATOR)
    ? value.replaceAll(SEPARATOR, PROTECTOR)
    : value;
}

function unprotected(text: string): string {
  return text.includes(PROTECTOR) ? text.replaceAll(PROTECTOR, SEPARATOR) : text;
}

/**
 * A row as the data preparation of T0 and METRO hands it to templates: hyphens in the names of fields
 * become underscores.
 *
 * @example
 * ```ts
 * import { normalizeRow } from "./template.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(normalizeRow({ "label-coarse": 1, text: "a-b" }), { label_coarse: 1, text: "a-b" });
 * ```
 */
export function normalizeRow(row: Row): Row {
  const names = Object.keys(row);
  if (!names.some((name) => name.includes("-"))) return row;
  return Object.fromEntries(names.map((name) => [name.replaceAll("-", "_"), row[name]]));
}
