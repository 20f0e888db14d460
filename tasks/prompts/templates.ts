/**
 * Finds and reads promptsource's template files: `<folder>/<dataset>[/<config>]/templates.yaml`.
 *
 * @module
 */
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { nearest } from "../command/nearest.ts";
import { realPath } from "../files/find.ts";
import { isFolder, namesIn, readText } from "../files/read.ts";
import { Template } from "./template.ts";
import { parseYaml, YamlMap } from "./yaml.ts";

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
  const datasets = listDatasets(folder);
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

/** All of promptsource has 3 MB; the parser needs some twenty times as much memory. */
const LARGEST = 1 << 25;
/** More folders are no collection of templates, but links that lead round and round. */
const MOST_FOLDERS = 100_000;

/**
 * Paths of the folders with a file, below one; the empty path is the folder itself. Links are followed, but for
 * those that lead back to a folder above.
 */
function listDatasets(folder: string): string[] {
  const found: string[] = [];
  let looked = 0;
  const look = (path: string, above: readonly string[]) => {
    const place = join(folder, path), real = realPath(place);
    if (above.includes(real)) return;
    if (++looked > MOST_FOLDERS) {
      throw new UserError(
        `${folder}: has more than ${MOST_FOLDERS} folders in it; check its links`,
      );
    }
    for (const name of namesIn(place)) {
      const inner = path === "" ? name : `${path}/${name}`;
      if (isFolder(join(place, name))) look(inner, [...above, real]);
      else if (name === FILE) found.push(path);
    }
  };
  look("", []);
  // By code unit, not by locale: the same order on every machine.
  return found.sort((a, b) => a < b ? -1 : 1);
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
  keys: YamlMap;
}

function parseFile(file: string): Entry[] {
  const contents = parseYaml(readText(file, LARGEST), file);
  const templates = contents instanceof YamlMap ? contents.get("templates") : undefined;
  if (!(templates instanceof YamlMap)) {
    throw new UserError(`${file}: expected a key 'templates' with templates`);
  }
  return Array.from(templates.entries, ([id, { value, line }]) => {
    if (value instanceof YamlMap) return { id, line, keys: value };
    throw new UserError(`${file}:${line}: template ${id}: expected keys`);
  });
}

function readTemplate({ id, line, keys }: Entry, file: string, dataset: string): Template {
  const name = keys.get("name");
  const what = `${file}:${line}: template ${typeof name === "string" ? `'${name}'` : id}`;
  const fault = (key: string, expected: string) => {
    const came = keys.has(key) ? `got ${shown(keys.get(key))}` : "it is missing";
    return new UserError(`${what}: ${key}: expected ${expected}, ${came}`);
  };
  const text = (key: string, otherwise?: string): string => {
    const value = keys.get(key) ?? otherwise;
    if (typeof value === "string") return value;
    throw fault(key, "a text");
  };
  const about = keys.get("metadata");
  if (!(about instanceof YamlMap)) throw fault("metadata", "keys");
  if (!keys.has("answer_choices")) throw fault("answer_choices", "a text or null");
  const inPrompt = about.get("choices_in_prompt"), metrics = about.get("metrics") ?? [];
  if (!Array.isArray(metrics) || metrics.some((metric) => typeof metric !== "string")) {
    throw new UserError(`${what}: metrics: expected a list of names, got ${shown(metrics)}`);
  }
  return new Template({
    name: text("name"),
    id: typeof keys.get("id") === "string" ? text("id") : id,
    dataset,
    file,
    originalTask: about.get("original_task") === true,
    choicesInPrompt: typeof inPrompt === "boolean" ? inPrompt : null,
    metrics: metrics as string[],
    reference: text("reference", ""),
    jinja: text("jinja"),
    answerChoices: keys.get("answer_choices") === null ? null : text("answer_choices"),
  });
}

/** A value as a message shows it. */
function shown(value: unknown): string {
  if (value instanceof YamlMap) return "keys";
  if (Array.isArray(value)) return value.length > 3 ? "a list" : `[${value.map(shownItem)}]`;
  if (value === null || typeof value === "string") return shownItem(value);
  return `${shownItem(value)}, which YAML takes for no text: put it in quotes`;
}

function shownItem(value: unknown): string {
  if (value instanceof YamlMap) return "{…}";
  if (Array.isArray(value)) return "[…]";
  const text = typeof value === "bigint" ? String(value) : JSON.stringify(value);
  return text.length > 60 ? text.slice(0, 60) + "…" : text;
}
