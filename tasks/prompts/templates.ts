/**
 * Finds and reads promptsource's template files: `<folder>/<dataset>[/<config>]/templates.yaml`.
 *
 * @module
 */
import { join } from "node:path";
import { isMap, isScalar, LineCounter, parseDocument, type YAMLMap } from "yaml";
import { UserError } from "../../ops/graph/errors.ts";
import { nearest } from "../command/nearest.ts";
import { readText } from "../files/read.ts";
import { Template } from "./template.ts";

const FILE = "templates.yaml";

/** The templates of a folder; each file is read when it is first asked for. */
export interface Templates {
  /** The folder. */
  readonly folder: string;
  /** Names of the datasets, with their configurations (`super_glue/copa`), sorted. */
  readonly datasets: readonly string[];
  /**
   * The templates of a dataset, in the order of their file.
   *
   * @throws {UserError} an unknown dataset, or a file that is not right
   */
  of(dataset: string): readonly Template[];
  /**
   * One template, by its name.
   *
   * @throws {UserError} an unknown dataset or template, or a file that is not right
   */
  find(dataset: string, name: string): Template;
}

/**
 * Lists the templates below a folder. The path says what dataset a file is for, whatever the file
 * says.
 *
 * @throws {UserError} no such folder, or no templates in it
 *
 * @example
 * ```ts
 * import { openTemplates } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.mkdir(`${folder}/copa`);
 * await Deno.writeTextFile(`${folder}/copa/templates.yaml`, `
 * dataset: copa
 * templates:
 *   1: !Template
 *     name: why
 *     jinja: "{{ premise }} Why? ||| {{ cause }}"
 *     answer_choices: null
 *     metadata: !TemplateMetadata
 *       original_task: true
 * `);
 * const templates = openTemplates(folder);
 * assert.deepEqual(templates.datasets, ["copa"]);
 * const { parts } = templates.find("copa", "why").apply({ premise: "Wet.", cause: "Rain." });
 * assert.deepEqual(parts, ["Wet. Why?", "Rain."]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function openTemplates(folder: string): Templates {
  const datasets = listDatasets(folder, "");
  if (datasets.length === 0 || datasets[0] === "") throw noTemplates(folder, datasets.length > 0);
  const read = new Map<string, readonly Template[]>();
  const of = (dataset: string) => {
    if (!datasets.includes(dataset)) {
      const what = `${folder}: no templates for dataset '${dataset}'`;
      throw new UserError(what + suggestion(dataset, datasets));
    }
    const templates = read.get(dataset) ?? readTemplates(join(folder, dataset, FILE), dataset);
    read.set(dataset, templates);
    return templates;
  };
  const find = (dataset: string, name: string) => {
    const templates = of(dataset);
    const found = templates.find((template) => template.name === name);
    if (found) return found;
    const what = `${templates[0]?.file ?? folder}: no template '${name}'`;
    throw new UserError(what + suggestion(name, templates.map((template) => template.name)));
  };
  return { folder, datasets, of, find };
}

/**
 * The name of a dataset's template as one word, as METRO names its result files.
 *
 * @example
 * ```ts
 * import { taskName } from "./templates.ts";
 * import assert from "node:assert/strict";
 *
 * const task = taskName("super_glue/wsc.fixed", "does the pronoun refer to?");
 * assert.equal(task, "super_glue_wsc.fixed_does_the_pronoun_refer_to_");
 * ```
 */
export function taskName(dataset: string, template: string): string {
  return `${dataset}_${template}`.replace(/[^\p{L}\p{N}_.]+/gu, "_");
}

// --- finding ---

/** Paths of the folders with a file, below one; the empty path is the folder itself. */
function listDatasets(folder: string, path: string): string[] {
  const entries = entriesOf(join(folder, path));
  const own = entries.some(({ name, isFile }) => isFile && name === FILE) ? [path] : [];
  const below = entries
    .filter(({ isDirectory }) => isDirectory)
    .flatMap(({ name }) => listDatasets(folder, path === "" ? name : `${path}/${name}`));
  // By code unit, not by locale: the same order on every machine.
  return [...own, ...below].sort((a, b) => a < b ? -1 : 1);
}

function entriesOf(folder: string): Deno.DirEntry[] {
  try {
    return [...Deno.readDirSync(folder)];
  } catch (error) {
    throw new UserError(`${folder}: expected a folder with templates: ${(error as Error).message}`);
  }
}

function noTemplates(folder: string, isDataset: boolean): UserError {
  return new UserError(
    isDataset
      ? `${folder}: holds a ${FILE} itself; give the folder above it, so that its name is the dataset`
      : `${folder}: holds no templates; expected DATASET/${FILE} or DATASET/CONFIG/${FILE} in it`,
  );
}

function suggestion(word: string, words: readonly string[]): string {
  const near = nearest(word, words);
  if (near) return `; did you mean '${near}'?`;
  return `; there are ${words.length}${words.length > 0 ? `, such as '${words[0]}'` : ""}`;
}

// --- reading ---

function readTemplates(file: string, dataset: string): Template[] {
  const templates = parseFile(file).map((entry) => readTemplate(entry, file, dataset));
  const names = new Set<string>();
  for (const { name } of templates) {
    if (names.has(name)) throw new UserError(`${file}: two templates have the name '${name}'`);
    names.add(name);
  }
  return templates;
}

/** A template's keys, with the line that it begins in. */
interface Entry {
  id: string;
  line: number;
  keys: Record<string, unknown>;
}

function parseFile(file: string): Entry[] {
  const lines = new LineCounter();
  const document = parseDocument(readText(file), { lineCounter: lines, logLevel: "error" });
  const [error] = document.errors;
  if (error) {
    const line = error.linePos?.[0].line ?? 1;
    throw new UserError(`${file}:${line}: not YAML: ${error.message.split(" at line ")[0]}`);
  }
  const templates = isMap(document.contents) ? document.contents.get("templates", true) : undefined;
  if (!isMap(templates)) throw new UserError(`${file}: expected a key 'templates' with templates`);
  return (templates as YAMLMap).items.map(({ key, value }) => {
    const id = isScalar(key) ? String(key.value) : String(key);
    const { line } = lines.linePos(isScalar(key) ? key.range?.[0] ?? 0 : 0);
    if (!isMap(value)) throw new UserError(`${file}:${line}: template ${id}: expected keys`);
    return { id, line, keys: value.toJS(document) };
  });
}

function readTemplate({ id, line, keys }: Entry, file: string, dataset: string): Template {
  const { name } = keys;
  const what = `${file}:${line}: template ${typeof name === "string" ? `'${name}'` : id}`;
  const fault = (key: string, expected: string) => {
    const came = key in keys ? `got ${JSON.stringify(keys[key])}` : "it is missing";
    return new UserError(`${what}: ${key}: expected ${expected}, ${came}`);
  };
  const text = (key: string, otherwise?: string): string => {
    const value = keys[key] ?? otherwise;
    if (typeof value === "string") return value;
    throw fault(key, "a text");
  };
  const { metadata } = keys;
  if (typeof metadata !== "object" || metadata === null) throw fault("metadata", "keys");
  if (!("answer_choices" in keys)) throw fault("answer_choices", "a text or null");
  const about = metadata as Record<string, unknown>;
  return new Template({
    name: text("name"),
    id: text("id", id),
    dataset,
    file,
    originalTask: about.original_task === true,
    choicesInPrompt: typeof about.choices_in_prompt === "boolean" ? about.choices_in_prompt : null,
    metrics: Array.isArray(about.metrics) ? about.metrics.map(String) : [],
    reference: text("reference", ""),
    jinja: text("jinja"),
    answerChoices: keys.answer_choices === null ? null : text("answer_choices"),
  });
}
