/**
 * Prompted examples: a row of a dataset and one of its templates become token ids, or a reason why not.
 *
 * @module
 */

import type { MixingRule } from "../config/finetune.ts";
import type { InputRule } from "../config/inputs.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { encodePrompt, encodeTarget } from "./ids.ts";
import { RenderError, type Template } from "./template.ts";
import { adaptRow } from "../rows/adapt.ts";
import { isP3, p3Example } from "../rows/p3.ts";
import type { Row } from "../rows/row.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Why a row gives no example, in the words of the mixture's table. */
export const DROPS = {
  parts: "no prompt and target (conditional template, or `|||` in the data)",
  noTarget: "empty target",
  noInput: "empty prompt",
  noChoice: "a random choice among nothing",
  bad: "unusable row",
} as const;

/** A reason for which a row gives no example. */
export type Drop = keyof typeof DROPS;

/** What METRO writes and T0 calls an example without a target. */
const NO_LABEL = "<NO LABEL>";

/** The text of an example. */
export interface PromptedText {
  /** What the encoder reads. */
  input: string;
  /** What the decoder must write. */
  target: string;
}

/** An example as ids. */
export interface PromptedExample {
  /** `<s>` … `</s>`, as far as the model's inputs have them. */
  source: Uint32Array;
  /** … `</s>`. */
  target: Uint32Array;
  /** Whether the source lost its end. */
  sourceCut: boolean;
  /** Whether the target lost its end. */
  targetCut: boolean;
}

/** Where a row stands, for messages. */
export interface Place {
  /** Its dataset. */
  dataset: string;
  /** Its split. */
  split: string;
  /** Its number in the split, from 0. */
  row: number;
}

/**
 * Renders a row, by the drop rules of METRO or of T0 (their data preparation differs; see the README).
 *
 * @param template absent for rows that are examples already (P3)
 * @param seed of the templates' random choices: they depend on the seed, the template and the row alone
 * @throws {UserError} naming dataset, row and template for a row that lacks a field, or on which the
 * template fails
 */
export function renderExample(
  template: Template | undefined,
  row: Row,
  place: Place,
  { rule, seed }: { rule: MixingRule; seed: number },
): PromptedText | Drop {
  if (!template) {
    if (isP3(row)) return kept(p3Parts(row), rule);
    throw new UserError(
      `${describePlace(place)}: expected a row of P3, with a prompt and a target`,
    );
  }
  const adapted = adaptRow(place.dataset, row, template.fields);
  expectFields(template, adapted, place);
  let parts: readonly string[];
  try {
    let draws = 0;
    const choose = (n: number) =>
      new Random(key(seed, CHOICE, hash(template.name), place.row, draws++)).below(n);
    parts = template.apply(adapted, { choose }).parts;
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    if (error.kind === "IndexError") return "noChoice";
    throw new UserError(`${describePlace(place)}, template '${template.name}': ${error.message}`);
  }
  return kept(parts, rule);
}

function p3Parts(row: Row): string[] {
  const { input, target } = p3Example(row);
  return [input, target];
}

function kept(parts: readonly string[], rule: MixingRule): PromptedText | Drop {
  if (parts.length !== 2) return "parts";
  const [input, target] = parts;
  if (rule === "tzero") {
    if (input === "") return "noInput";
    return { input, target: target === "" ? NO_LABEL : target };
  }
  return target === "" ? "noTarget" : { input, target };
}

/**
 * An example's ids.
 *
 * @param sourceLength longest source, with `<s>` and `</s>`
 * @param targetLength longest target, with `</s>`
 * @param rule how the model's inputs are made
 */
export function encodeExample(
  tokenizer: Tokenizer,
  { input, target }: PromptedText,
  sourceLength: number,
  targetLength: number,
  rule: Partial<InputRule> = {},
): PromptedExample {
  const source = encodePrompt(tokenizer, input, sourceLength + 1, rule);
  const wanted = encodeTarget(tokenizer, target, targetLength + 1, rule);
  const sourceCut = source.length > sourceLength, targetCut = wanted.length > targetLength;
  return {
    source: !sourceCut
      ? source
      : rule.endToken === false
      ? source.slice(0, sourceLength)
      : ended(source, sourceLength),
    target: targetCut ? ended(wanted, targetLength) : wanted,
    sourceCut,
    targetCut,
  };
}

/** The beginning, with the last token kept as the last (`</s>`). */
function ended(ids: Uint32Array, length: number): Uint32Array {
  const cut = ids.slice(0, length);
  cut[length - 1] = ids[ids.length - 1];
  return cut;
}

/**
 * Refuses a row that lacks a field that the template reads: the template engine would print nothing in
 * its place.
 *
 * @throws {UserError} naming dataset, row and field
 */
export function expectFields(template: Template, row: Row, place: Place): void {
  for (const field of template.fields) {
    if (field in row) continue;
    throw new UserError(
      `${describePlace(place)}: no field '${field}', which template '${template.name}' reads; ` +
        `the row has ${Object.keys(row).join(", ")}`,
    );
  }
}

/** A row in words. */
export function describePlace({ dataset, split, row }: Place): string {
  return `${dataset} ${split}, row ${row}`;
}

const CHOICE = 0x63686f69;

/** 32 bits of a name: FNV-1a over its UTF-16 units. */
export function hash(name: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) h = Math.imul(h ^ name.charCodeAt(i), 0x01000193);
  return h >>> 0;
}
