/**
 * Looks for what goes wrong with templates: those that do not compile, fields that the rows do not
 * have, targets that are none of the choices.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import type { Choose } from "../jinja/values.ts";
import { type Rendered, RenderError, type Row, type Template } from "./template.ts";

/** What can be found, with what it means. */
export const LINT_KINDS = {
  syntax: "does not compile",
  "unknown field": "refers to a field that no row has",
  "render error": "fails to render",
  "nothing rendered": "renders nothing, as conditional templates do for some rows",
  "not two parts": "does not render an input and a target",
  "empty input": "renders an empty input",
  "empty target": "renders an empty target",
  "target not a choice": "renders a target that is none of the answer choices",
  "repeated choices": "has an answer choice twice",
} as const;

/** One thing found about one template. */
export interface Finding {
  /** The template's dataset. */
  dataset: string;
  /** The template's name. */
  template: string;
  /** What was found. */
  kind: keyof typeof LINT_KINDS;
  /** In how many rows; for what does not depend on rows, 1. */
  count: number;
  /** Of how many; for what does not depend on rows, 1. */
  of: number;
  /** The message, the field's name, or the first row that shows it. */
  example: string;
}

/** How {@link lintTemplates} looks. */
export interface LintOptions {
  /** Picks for the filters `choice` and `random` (default: the first item). */
  choose?: Choose;
}

/**
 * Renders templates for rows of their dataset, truncated as in training, and lists what is wrong.
 *
 * @param rows as templates get them; see `normalizeRow`
 *
 * @example
 * ```ts
 * import { lintTemplates } from "./lint.ts";
 * import { Template } from "./template.ts";
 * import assert from "node:assert/strict";
 *
 * const template = new Template({
 *   ...{ name: "wet?", id: "1", dataset: "copa", file: "copa/templates.yaml" },
 *   ...{ originalTask: true, choicesInPrompt: true, metrics: ["Accuracy"], reference: "" },
 *   jinja: "{{ premise }} Wet? ||| {{ ['No', 'Yes.'][label] }}",
 *   answerChoices: "No ||| Yes",
 * });
 * const rows = [{ premise: "Rain.", label: 1 }, { premise: "Sun.", label: 0 }];
 * const [finding, ...others] = lintTemplates([template], rows);
 * assert.equal(finding.kind, "target not a choice");
 * assert.equal(`${finding.count} of ${finding.of}`, "1 of 2");
 * assert.equal(finding.example, "row 0: 'Yes.' is none of 'No', 'Yes'");
 * assert.equal(others.length, 0);
 * ```
 */
export function lintTemplates(
  templates: readonly Template[],
  rows: readonly Row[],
  options: LintOptions = {},
): Finding[] {
  return templates.flatMap((template) => lintTemplate(template, rows, options));
}

function lintTemplate(template: Template, rows: readonly Row[], options: LintOptions): Finding[] {
  const about = { dataset: template.dataset, template: template.name };
  try {
    template.compile();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return [{ ...about, kind: "syntax", count: 1, of: 1, example: error.message }];
  }
  const unknown = rows.length === 0
    ? []
    : template.fields.filter((field) => !rows.some((row) => Object.hasOwn(row, field)));
  const findings: Finding[] = unknown.map((field) => {
    return { ...about, kind: "unknown field", count: 1, of: 1, example: field };
  });
  const found = new Map<Finding["kind"], Finding>();
  for (const [i, row] of rows.entries()) {
    for (const [kind, text] of faultsOf(template, row, options)) {
      const example = `row ${i}: ${text}`;
      const finding = found.get(kind) ?? { ...about, kind, count: 0, of: rows.length, example };
      finding.count++;
      found.set(kind, finding);
    }
  }
  return [...findings, ...found.values()];
}

type Fault = [kind: Finding["kind"], text: string];

function faultsOf(template: Template, row: Row, { choose }: LintOptions): Fault[] {
  let rendered: Rendered;
  try {
    rendered = template.apply(row, { choose });
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    return [["render error", `${error.kind}: ${error.message}`]];
  }
  const { parts, choices } = rendered;
  const faults: Fault[] = [];
  if (parts.length === 1 && parts[0] === "") faults.push(["nothing rendered", "no text"]);
  else if (parts.length !== 2) faults.push(["not two parts", `${parts.length} parts`]);
  else {
    const [input, target] = parts;
    if (input === "") faults.push(["empty input", `the target is ${quoted(target)}`]);
    if (target === "") faults.push(["empty target", `the input is ${quoted(input)}`]);
    else if (choices && !choices.includes(target)) {
      const list = choices.map(quoted).join(", ");
      faults.push(["target not a choice", `${quoted(target)} is none of ${list}`]);
    }
  }
  const repeated = choices?.find((choice, i) => choices.indexOf(choice) < i);
  if (repeated !== undefined) faults.push(["repeated choices", `${quoted(repeated)} twice`]);
  return faults;
}

const SHOWN = 80;

function quoted(text: string): string {
  return `'${text.length > SHOWN ? text.slice(0, SHOWN) + "…" : text}'`;
}
