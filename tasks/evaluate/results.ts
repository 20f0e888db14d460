/**
 * What an evaluation finds: a JSON file per (dataset, template).
 *
 * @module
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { writeFile } from "../files/write.ts";

/** What an evaluation did. */
export interface Evaluation {
  /** Results of all tasks that were asked for, finished earlier or now; on rank 0 only. */
  results: TemplateResult[];
  /** Tasks that were left out. */
  missing: string[];
  /** Programs compiled, by all ranks together. */
  programs: number;
  /** Padded over real tokens, minus 1; NaN if nothing was run. */
  paddingOverhead: number;
  /** Share of the time that threads were busy while it could have been the devices'; NaN likewise. */
  hostShare: number;
  /** The first few unusable rows, in words. */
  bad: string[];
}

/** The result of one template on one dataset: a file. */
export interface TemplateResult {
  /** The dataset, as the Hub calls it. */
  dataset_name: string;
  /** Its config; null if it has none. */
  dataset_config_name: string | null;
  /** The template, as promptsource calls it. */
  template_name: string;
  /** What was found. */
  evaluation: {
    /** Share of the examples that were answered rightly. */
    accuracy: number;
  };
  /** The model. */
  model_name_or_path: string;
  /** The split that was judged. */
  split: string;
  /** The column of the table that it belongs to. */
  column: string;
  /** The family of tasks. */
  task: string;
  /** How many examples were judged. */
  examples: number;
  /** A sign per row, in order: `1` right, `0` wrong, `-` skipped. */
  correct: string;
  /** How many rows were skipped, by reason. */
  skipped: Record<string, number>;
  /** Which templates these are. */
  templates_version?: string;
  /** Answers to choose from, on average: guessing is right once in so many times. */
  choices?: number;
  /** Whether the model has learned from this dataset, so that this is not zero-shot. */
  trained?: boolean;
  /** What the result depends on, as one short text; with another one it must be run again. */
  settings?: string;
}

/**
 * Writes a result as `FOLDER/TASK.json`, whole or not at all.
 *
 * @param folder an existing folder
 * @param taskName names the dataset and the template: the file's name without `.json`
 * @throws {UserError} the disk is full or the folder cannot be written to
 *
 * @example
 * ```ts
 * import { finished, readResults, TemplateResult, writeResult } from "./results.ts";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const result: TemplateResult = {
 *   dataset_name: "super_glue", dataset_config_name: "copa", template_name: "exercise",
 *   evaluation: { accuracy: 0.5 }, model_name_or_path: "runs/a", split: "validation",
 *   column: "COPA", task: "QA_multiple_choice", examples: 2, correct: "10", skipped: {},
 * };
 * const folder = await mkdtemp(tmpdir() + "/eval-");
 * await writeResult(folder, "super_glue_copa_exercise", result);
 * assert.deepEqual(await readResults(folder), [result]);
 * const same = { split: "validation", examples: 2 };
 * assert.deepEqual(await finished(folder, "super_glue_copa_exercise", same), result);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function writeResult(
  folder: string,
  taskName: string,
  result: TemplateResult,
): Promise<void> {
  await writeFile(fileOf(folder, taskName), JSON.stringify(result, null, 4) + "\n");
}

/**
 * Reads the result of one task.
 *
 * @returns undefined if there is none
 * @throws {UserError} the file is no result
 */
export async function readResult(
  folder: string,
  taskName: string,
): Promise<TemplateResult | undefined> {
  const path = fileOf(folder, taskName);
  const text = await readFile(path, "utf8").catch((error) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  return text === undefined ? undefined : parseResult(text, path);
}

/**
 * The result of a task, if it has been run already as it would be now.
 *
 * @param identity the fields that must be equal, such as `settings`, or `split` and `examples`
 * @returns undefined if it is to be run
 * @throws {UserError} the file is no result
 */
export async function finished(
  folder: string,
  taskName: string,
  identity: Partial<TemplateResult>,
): Promise<TemplateResult | undefined> {
  const result = await readResult(folder, taskName);
  const text = (fields: Partial<TemplateResult> | undefined, name: string) =>
    JSON.stringify(fields?.[name as keyof TemplateResult]);
  const same = Object.keys(identity).every((name) => text(result, name) === text(identity, name));
  return same ? result : undefined;
}

/**
 * Reads all results of a folder: its `.json` files, in the order of their names.
 *
 * @throws {UserError} there is no such folder, it holds none, or one of them is no result
 *
 * @example
 * ```ts
 * import { readResults } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * await assert.rejects(readResults("no-such-folder"), /no-such-folder: no such folder/);
 * ```
 */
export async function readResults(folder: string): Promise<TemplateResult[]> {
  const names = await readdir(folder).catch((error) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
    throw new UserError(`${folder}: no such folder; expected one with results of an evaluation`);
  });
  const paths = names.filter((name) => name.endsWith(".json")).sort().map((n) => join(folder, n));
  if (paths.length === 0) throw new UserError(`${folder}: holds no results (*.json)`);
  const results: TemplateResult[] = [];
  for (const path of paths) results.push(parseResult(await readFile(path, "utf8"), path));
  return results;
}

function fileOf(folder: string, taskName: string): string {
  return join(folder, `${taskName}.json`);
}

const isText = (value: unknown) => typeof value === "string";
const isCount = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0;
const isObject = (value: unknown) => typeof value === "object" && value !== null;

/** What must be in a file: how each key is called in a message, and whether its value fits. */
const EXPECTED: Readonly<Record<string, [what: string, fits: (value: unknown) => boolean]>> = {
  dataset_name: ["a text", isText],
  dataset_config_name: ["a text or null", (value) => value === null || isText(value)],
  template_name: ["a text", isText],
  evaluation: ["an accuracy from 0 to 1", (value) => {
    const accuracy = (value as TemplateResult["evaluation"] | null)?.accuracy;
    return typeof accuracy === "number" && accuracy >= 0 && accuracy <= 1;
  }],
  model_name_or_path: ["a text", isText],
  split: ["a text", isText],
  column: ["a text", isText],
  task: ["a text", isText],
  examples: ["a count", isCount],
  correct: ["signs 0, 1 and -", (value) => isText(value) && /^[01-]*$/.test(String(value))],
  skipped: ["counts by reason", (value) => isObject(value) && Object.values(value!).every(isCount)],
};

function parseResult(text: string, path: string): TemplateResult {
  const advice = "it is no result of an evaluation, or damaged; delete it, and run again";
  let result: TemplateResult;
  try {
    result = JSON.parse(text);
  } catch {
    throw new UserError(`${path}: expected JSON, got '${text.slice(0, 60)}': ${advice}`);
  }
  for (const [name, [what, fits]] of Object.entries(EXPECTED)) {
    const value: unknown = result?.[name as keyof TemplateResult];
    if (fits(value)) continue;
    const got = value === undefined ? "nothing" : JSON.stringify(value).slice(0, 60);
    throw new UserError(`${path}: ${name}: expected ${what}, got ${got}: ${advice}`);
  }
  const judged = result.correct.replaceAll("-", "").length;
  if (judged !== result.examples) {
    throw new UserError(
      `${path}: examples: expected ${judged}, the signs 0 and 1 in correct, got ` +
        `${result.examples}: ${advice}`,
    );
  }
  return result;
}
