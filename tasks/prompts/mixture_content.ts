/**
 * What a mixture is made of, by contents: a run takes it down when it begins, and goes on only with the same
 * rows and templates, wherever they are then.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { type Check, fields, list, text } from "../files/fields.ts";
import { sha256 } from "../files/seal.ts";
import type { Mixture } from "./mixture.ts";
import { openTemplates } from "./templates.ts";

/** What is in a dataset: names of its splits and of its templates, in their order, each with a digest. */
export interface DatasetContent {
  /** Its name. */
  dataset: string;
  /** Its splits. */
  rows: [split: string, digest: string][];
  /** Its templates. */
  templates: [name: string, digest: string][];
}

/**
 * What is in the datasets of a mixture.
 *
 * @throws {UserError} if a template cannot be read
 */
export function contentOf({ templates: folder, datasets }: Mixture): DatasetContent[] {
  const templates = openTemplates(folder);
  return datasets.map(({ dataset, splits, templates: names, prerendered }) => ({
    dataset,
    rows: splits.map(({ split, digest }) => [split, digest]),
    templates: names.map((name) => {
      if (prerendered) return [name, ""];
      const { jinja, answerChoices } = templates.find(dataset, name);
      return [name, sha256(JSON.stringify([jinja, answerChoices]))];
    }),
  }));
}

const PAIRS = list(list(text, 2));

/** What {@link contentOf} gives, as it is read back from a file. */
export const CONTENT: Check = list(fields({ dataset: text, rows: PAIRS, templates: PAIRS }));

/**
 * Makes sure that a mixture is still what it was.
 *
 * @throws {UserError} naming what has changed
 */
export function expectSameContent(
  then: readonly DatasetContent[],
  now: readonly DatasetContent[],
): void {
  const change = changeIn(then, now);
  if (change === undefined) return;
  throw new UserError(
    `${change} since the run began; put back what it was begun with, or start another run`,
  );
}

function changeIn(
  then: readonly DatasetContent[],
  now: readonly DatasetContent[],
): string | undefined {
  const pairs = (all: readonly DatasetContent[]) =>
    all.map(({ dataset }): [string, string] => [dataset, ""]);
  const datasets = difference("dataset", pairs(then), pairs(now));
  if (datasets) return datasets;
  for (const [i, { dataset, rows, templates }] of now.entries()) {
    const change = difference("rows", then[i].rows, rows) ??
      difference("template", then[i].templates, templates);
    if (change) return `${dataset}: ${change}`;
  }
  return undefined;
}

/** The first difference between two lists of names with digests, in words. */
function difference(
  kind: string,
  then: readonly [string, string][],
  now: readonly [string, string][],
): string | undefined {
  const before = new Map(then), after = new Map(now);
  for (const [name, digest] of now) {
    const old = before.get(name);
    if (old === undefined) return `${kind} '${name}' was added`;
    if (old !== digest) return `${kind} '${name}' changed`;
  }
  for (const [name] of then) if (!after.has(name)) return `${kind} '${name}' is gone`;
  const moved = then.find(([name], i) => now[i][0] !== name);
  return moved && `${kind} '${moved[0]}' moved to another place in the order`;
}
