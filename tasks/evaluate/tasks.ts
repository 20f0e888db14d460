/**
 * What is evaluated: tasks, their rows, and what a template asks of a row.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { describePlace, expectFields, hash, type Place } from "../prompts/examples.ts";
import { isPrerendered, PRERENDERED } from "../prompts/mixture.ts";
import { nearest } from "../command/nearest.ts";
import { evalTemplates, T0_EVAL } from "../prompts/t0.ts";
import { RenderError, Template } from "../prompts/template.ts";
import { openTemplates } from "../prompts/templates.ts";
import {
  adaptRow,
  datasetsIn,
  groupScoreEval,
  isP3,
  isScoreEval,
  p3Example,
  readRows,
  type Row,
  splitsOf,
} from "../rows/mod.ts";

/** What is to be evaluated, and on which rows. */
export interface TaskRequest {
  /** `T0-Eval`; `DATASET` or `DATASET:SPLIT`; `all` datasets that have held-out rows and choices. */
  tasks: readonly string[];
  /** Folder of the rows. */
  data: string;
  /** Folder of the templates. */
  templates: string;
  /** Leave tasks out whose rows or templates are not there. */
  allowMissing?: boolean;
  /** Count unusable rows instead of stopping at the first. */
  skipBad?: boolean;
  /** Seed of the templates' random choices; 1 if absent. */
  seed?: number;
  /** Examples of each task at most, from the first on; all if absent. */
  limit?: number;
}

/** A task to evaluate: a column of the table. */
export interface EvaluationTask {
  /** Its name in the table: `RTE`, or the dataset. */
  column: string;
  /** Where its rows are. */
  dataset: string;
  /** Which split. */
  split: string;
  /** Kind of task. */
  task: string;
  /** The templates that count; for rows of P3, a stand-in. */
  templates: readonly Template[];
  /** Rows are examples already, as in P3. */
  prerendered?: boolean;
}

/** Unusable rows that are listed in words. */
export const LISTED = 20;
/** Where the random choices start that nobody chose. */
export const SEED = 1;
const RANDOM_CHOICE = 0x6576616c;

/**
 * Finds the tasks that names stand for.
 *
 * @throws {UserError} naming what is missing, unless it is allowed to be
 */
export async function resolveTasks(
  { tasks: names, data, templates: folder, allowMissing, skipBad }: TaskRequest,
): Promise<{ tasks: EvaluationTask[]; missing: string[] }> {
  const onBad = skipBad ? () => {} : undefined;
  const templates = openTemplates(folder);
  const there = datasetsIn(data);
  const wanted = names.flatMap((name) => {
    if (name === "T0-Eval") return T0_EVAL.map((t) => ({ ...t }));
    if (name === "all") return there.flatMap((dataset) => heldout(dataset));
    const [dataset, split] = name.split(":");
    if (split !== undefined) return [{ column: name, dataset, split, task: dataset }];
    const columns = T0_EVAL.filter((t) => t.dataset === dataset);
    return columns.length > 0 ? columns.map((t) => ({ ...t })) : heldout(dataset, true);
  });
  function heldout(dataset: string, must = false) {
    const splits = there.includes(dataset) ? splitsOf(data, dataset) : [];
    const split = ["validation", "test", "dev"].find((s) => splits.includes(s));
    if (split === undefined && !must) return [];
    return [{ column: dataset, dataset, split: split ?? "validation", task: dataset }];
  }
  const tasks: EvaluationTask[] = [], missing: string[] = [];
  for (const { column, dataset, split, task } of wanted) {
    const chosen = templates.datasets.includes(dataset)
      ? evalTemplates(dataset, templates.of(dataset))
      : [];
    const rows = there.includes(dataset) && splitsOf(data, dataset).includes(split);
    if (rows && chosen.length > 0) {
      // A template that does not compile is no matter of rows.
      for (const template of chosen) template.compile();
      tasks.push({ column, dataset, split, task, templates: chosen });
    } else if (rows && await isPrerendered(data, dataset, split, onBad)) {
      tasks.push({ column, dataset, split, task, templates: [STAND_IN], prerendered: true });
    } else if (!(names.includes("all") && rows)) {
      const why = rows ? "no templates with answer choices" : `no rows of ${split}`;
      const near = there.includes(dataset) ? undefined : nearest(dataset, there);
      missing.push(`${dataset} (${why}${near ? `; did you mean ${near}?` : ""})`);
    }
  }
  if (missing.length > 0 && !allowMissing) {
    throw new UserError(
      `${missing.length} of ${wanted.length} tasks cannot be evaluated: ${
        missing.join("; ")
      }. Add ` +
        "them, name others with --tasks, or give --allow-missing",
    );
  }
  if (tasks.length === 0) throw new UserError(`${data}: holds no task to evaluate`);
  return { tasks, missing };
}

/** The t-zero way to name a task: ANLI's rounds are splits, but count as configs; so do splits by name. */
export function nameOf({ column, dataset, split }: EvaluationTask): string {
  return column.includes(":") || dataset === "anli" ? `${dataset}/${split}` : dataset;
}

/** A row of a task, with its number in the split. */
export interface NumberedRow {
  row: Row;
  number: number;
}

export async function rowsOf(
  job: TaskRequest,
  task: EvaluationTask,
  bad: string[],
): Promise<{ rows: NumberedRow[]; unreadable: number }> {
  let unreadable = 0;
  const onBad = job.skipBad
    ? (error: UserError) => {
      unreadable++;
      if (bad.length < LISTED) bad.push(error.message);
    }
    : undefined;
  const rows: NumberedRow[] = [];
  if (task.prerendered && await isOneRowPerAnswer(job, task)) {
    const answers = readRows(job.data, task.dataset, task.split, { onBad });
    for await (const { input, choices, gold } of groupScoreEval(answers)) {
      const row = { inputs_pretokenized: input, targets_pretokenized: choices[gold] ?? "" };
      rows.push({ row: { ...row, answer_choices: choices }, number: rows.length });
      if (rows.length === job.limit) break;
    }
    return { rows, unreadable };
  }
  for await (const { row, number } of readRows(job.data, task.dataset, task.split, { onBad })) {
    rows.push({ row, number });
    if (rows.length === job.limit) break;
  }
  if (rows.length === 0) throw new UserError(`${task.dataset} ${task.split}: holds no rows`);
  return { rows, unreadable };
}

async function isOneRowPerAnswer(
  { data, skipBad }: TaskRequest,
  { dataset, split }: EvaluationTask,
): Promise<boolean> {
  const options = { onBad: skipBad ? () => {} : undefined };
  for await (const { row } of readRows(data, dataset, split, options)) return isScoreEval(row);
  return false;
}

/** A row that a template cannot ask about; `reason` is what such rows are counted under. */
export class Unusable extends UserError {
  constructor(readonly reason: string, message: string) {
    super(message);
  }
}

/** Where rows are examples already, there is nothing to render. */
const STAND_IN = new Template({
  name: PRERENDERED,
  id: PRERENDERED,
  dataset: "",
  file: "",
  originalTask: true,
  choicesInPrompt: null,
  metrics: ["Accuracy"],
  reference: "",
  jinja: "{{ inputs_pretokenized }} ||| {{ targets_pretokenized }}",
  answerChoices: "{{ answer_choices | join('|||') }}",
});

/** The prompt of a row, its choices, and which of them is right: the first that equals the target. */
export function questionOf(
  template: Template,
  row: Row,
  place: Place,
  seed: number,
): { prompt: string; choices: readonly string[]; gold: number } {
  const where = `${describePlace(place)}, template '${template.name}'`;
  const { parts, choices } = renderQuestion(template, row, place, seed, where);
  if (parts.length !== 2) {
    const count = parts.length === 1 ? "1 part" : `${parts.length} parts`;
    throw new Unusable(
      "not a prompt and a target",
      `${where}: expected a prompt and a target, got ${count}`,
    );
  }
  const [prompt, target] = parts;
  if (prompt === "") throw new Unusable("empty prompt", `${where}: the prompt is empty`);
  if (!choices || choices.length === 0) {
    throw new Unusable("no choices", `${where}: there are no answer choices`);
  }
  const gold = choices.indexOf(target);
  if (gold < 0) {
    throw new Unusable(
      "target not among the choices",
      `${where}: the target '${target}' is not among the choices ${choices.join(" | ")}`,
    );
  }
  return { prompt, choices, gold };
}

function renderQuestion(template: Template, row: Row, place: Place, seed: number, where: string) {
  if (template === STAND_IN) {
    if (!isP3(row)) throw new Unusable("not a row of P3", `${where}: is not a row of P3`);
    const { input, target, choices } = p3Example(row);
    return { parts: [input, target], choices };
  }
  const adapted = adaptRow(place.dataset, row, template.fields);
  try {
    expectFields(template, adapted, place);
  } catch (error) {
    throw new Unusable("missing field", (error as Error).message);
  }
  let draws = 0;
  const choose = (n: number) =>
    new Random(key(seed, RANDOM_CHOICE, hash(template.name), place.row, draws++)).below(n);
  try {
    return template.apply(adapted, { choose });
  } catch (error) {
    if (!(error instanceof RenderError)) throw error;
    throw new Unusable("rendering failed", `${where}: ${error.message}`);
  }
}
