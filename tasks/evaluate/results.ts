/**
 * What an evaluation finds: a JSON file per (dataset, template).
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { isFolder, namesIn, readText } from "../files/read.ts";
import { expectSeal, sealed } from "../files/seal.ts";
import { exists, writeFile } from "../files/write.ts";
import { taskName } from "../prompts/templates.ts";

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
  /** Whether the model's inputs ended with `</s>`; they did where older files do not say. */
  input_end_token?: boolean;
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
  await writeFile(fileOf(folder, taskName), JSON.stringify(sealed(result), null, 4) + "\n");
}

/** What a result answers. */
export interface Asked {
  /** The dataset, with its config: `super_glue/copa`. */
  dataset: string;
  /** The template, as promptsource calls it. */
  template: string;
}

/** Longer names do not fit all file systems. Bytes. */
const MAX_NAME = 200;

/**
 * The names of result files, without `.json`. As METRO names them: where this would give two templates the
 * same file, also of a file system that does not tell capitals, or a name that is too long, a checksum
 * of both names is added.
 *
 * @param folder where the files are or will be; what another template has written there is not written over
 *
 * @example
 * ```ts
 * import { resultNames } from "./results.ts";
 * import assert from "node:assert/strict";
 *
 * const asked = ["why?", "what"].map((template) => ({ dataset: "super_glue/copa", template }));
 * assert.deepEqual(await resultNames("no-such-folder", asked), [
 *   "super_glue_copa_why_",
 *   "super_glue_copa_what",
 * ]);
 * ```
 */
export async function resultNames(folder: string, asked: readonly Asked[]): Promise<string[]> {
  const fileKey = ({ dataset, template }: Asked) =>
    taskName(dataset, template).normalize("NFC").toLowerCase();
  const owners = new Map<string, Set<string>>();
  for (const one of asked) {
    const own = owners.get(fileKey(one)) ?? new Set();
    owners.set(fileKey(one), own.add(JSON.stringify([one.dataset, one.template])));
  }
  return await Promise.all(asked.map(async (one) => {
    const name = taskName(one.dataset, one.template);
    const isLong = new TextEncoder().encode(name).length > MAX_NAME;
    const isShared = owners.get(fileKey(one))!.size > 1;
    return isLong || isShared || await isOthers(folder, name, one) ? distinctName(name, one) : name;
  }));
}

/** The beginning of a name, which is at most four bytes a character, and a checksum. */
function distinctName(name: string, { dataset, template }: Asked): string {
  const digest = createHash("sha256").update(JSON.stringify([dataset, template])).digest("hex");
  return `${Array.from(name).slice(0, MAX_NAME / 4).join("")}-${digest.slice(0, 12)}`;
}

async function isOthers(
  folder: string,
  name: string,
  { dataset, template }: Asked,
): Promise<boolean> {
  const result = await readResult(folder, name);
  if (!result) return false;
  const config = result.dataset_config_name;
  const whose = config === null ? result.dataset_name : `${result.dataset_name}/${config}`;
  return whose !== dataset || result.template_name !== template;
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
  return await exists(path) ? parseResult(readText(path), path).result : undefined;
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
  const path = fileOf(folder, taskName);
  if (!await exists(path)) return undefined;
  const { result, isSealed } = parseResult(readText(path), path);
  const text = (fields: Partial<TemplateResult> | undefined, name: string) =>
    JSON.stringify(fields?.[name as keyof TemplateResult]);
  const same = Object.keys(identity).every((name) => text(result, name) === text(identity, name));
  return same && isSealed ? result : undefined;
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
// deno-lint-ignore require-await -- what is wrong is a rejection
export async function readResults(folder: string): Promise<TemplateResult[]> {
  if (!isFolder(folder)) {
    throw new UserError(`${folder}: no such folder; expected one with results of an evaluation`);
  }
  const names = namesIn(folder).filter((name) => name.endsWith(".json") && !name.startsWith("."));
  const paths = names.map((name) => join(folder, name));
  if (paths.length === 0) throw new UserError(`${folder}: holds no results (*.json)`);
  return paths.map((path) => parseResult(readText(path), path).result);
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

/** Those of others, and of older versions, have no checksum. */
function parseResult(text: string, path: string): { result: TemplateResult; isSealed: boolean } {
  const advice = "it is no result of an evaluation, or damaged; delete it, and run again";
  let contents: TemplateResult & { sha256?: string };
  try {
    contents = JSON.parse(text);
  } catch {
    throw new UserError(`${path}: expected JSON, got '${shown(text.slice(0, 60))}': ${advice}`);
  }
  if (isObject(contents)) expectSeal(contents, path, "delete it, and run again");
  const { sha256: seal, ...result } = contents ?? {};
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
  return { result, isSealed: seal !== undefined };
}
