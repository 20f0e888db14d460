/**
 * Training mixtures: which datasets and templates, how many examples of each per epoch, and which
 * example stands where in an epoch.
 *
 * An epoch takes from every (dataset, template) at most its cap. Where there are more rows, epoch e takes
 * positions e·cap … of one fixed permutation of them, so that epochs go round all rows. No list is made:
 * the example at any position of any epoch is computed.
 *
 * @module
 */

import type { MixingRule } from "../config/finetune.ts";
import { existsSync } from "node:fs";
import { UserError } from "../../ops/graph/errors.ts";
import { readText } from "../files/read.ts";
import { key, permute } from "../../ops/graph/random.ts";
import { hash } from "./examples.ts";
import { nearest } from "../command/nearest.ts";
import { cap, mixtureDatasets, type MixtureName, T0_DATASETS } from "./t0.ts";
import { openTemplates, taskName, type Templates } from "./templates.ts";
import { datasetsIn, indexRows, isP3, readRows, type RowIndex, splitsOf } from "../rows/mod.ts";

/** Names of the mixtures of T0, largest last. */
const MIXTURE_NAMES = ["T0", "T0+", "T0++"] as const satisfies readonly MixtureName[];

/** A dataset of a mixture. Plain data: it can be sent to a worker. */
export interface MixtureDataset {
  /** `super_glue/copa`. */
  dataset: string;
  /** Its training rows, one entry per split. */
  splits: readonly RowIndex[];
  /** Rows of all splits. */
  rows: number;
  /** Names of the templates in use. */
  templates: readonly string[];
  /** Examples per template and epoch at most. */
  cap: number;
  /** Rows are examples already, as in P3: there is one stand-in for a template. */
  prerendered?: boolean;
  /** Of a folder of P3 that is named after a template: the dataset that the template is for. */
  of?: string;
}

/** A resolved mixture. Plain data: it can be sent to a worker. */
export interface Mixture {
  /** What the user asked for. */
  name: string;
  /** Whose mixing and drop rules. */
  rule: MixingRule;
  /** Folder of the templates. */
  templates: string;
  /** In the order of their names. */
  datasets: readonly MixtureDataset[];
  /** Datasets of the mixture that are left out since their rows or templates are not there. */
  missing: readonly string[];
}

/** What {@link resolveMixture} needs. */
export interface MixtureRequest {
  /** `T0`, `T0+`, `T0++`; dataset names; text files with one name per line; `all` that have rows. */
  names: readonly string[];
  /** Folder of the rows. */
  data: string;
  /** Folder of the templates. */
  templates: string;
  /** Whose mixing rule. */
  rule: MixingRule;
  /** Leave missing datasets out instead of refusing. */
  allowMissing: boolean;
  /** Folder for what makes rows randomly accessible. */
  cache: string;
  /** Which splits: those whose name starts with `train` (default), or all others. */
  part?: "train" | "heldout";
  /** Leave templates out that are not the dataset's original task. */
  originalOnly?: boolean;
  /** Called for unusable rows, which are left out; without it they are an error. */
  onBad?: (error: UserError) => void;
}

/** Names that stand for lists of datasets. */
export function expandMixture(names: readonly string[], available: () => string[]): string[] {
  const datasets = names.flatMap((name) => {
    if ((MIXTURE_NAMES as readonly string[]).includes(name)) {
      return mixtureDatasets(name as MixtureName).map(({ dataset }) => dataset);
    }
    if (name === "all") return available();
    if (name.endsWith(".txt")) return namesIn(name);
    return [name];
  });
  return [...new Set(datasets)].sort();
}

function namesIn(file: string): string[] {
  if (!existsSync(file)) {
    throw new UserError(`${file}: no such file; expected one dataset per line`);
  }
  const names = readText(file).split(/\r\n?|\n/)
    .map((line) => line.replace(/#.*/, "").trim()).filter((line) => line !== "");
  if (names.length === 0) throw new UserError(`${file}: expected one dataset per line, got none`);
  return names;
}

/**
 * Finds rows and templates of a mixture.
 *
 * @throws {UserError} listing the datasets that are missing, unless they are allowed to; for unreadable
 * rows; if nothing is left
 */
export async function resolveMixture(request: MixtureRequest): Promise<Mixture> {
  const { names, data, rule, cache, part = "train", originalOnly, onBad } = request;
  const templates = openTemplates(request.templates);
  const there = datasetsIn(data);
  const splitsFor = (dataset: string) =>
    there.includes(dataset)
      ? splitsOf(data, dataset).filter((split) => split.startsWith("train") === (part === "train"))
      : [];
  const usable = () =>
    there.filter((d) => splitsFor(d).length > 0 && templates.datasets.includes(d));
  const wanted = expandMixture(names, usable);
  const missing: string[] = [], why: string[] = [];
  const datasets: MixtureDataset[] = [];
  const add = async (
    dataset: string,
    names: readonly string[],
    sharers: number,
    p3: Pick<MixtureDataset, "prerendered" | "of"> = {},
  ) => {
    const indexed: RowIndex[] = [];
    for (const split of splitsFor(dataset)) {
      indexed.push(await indexRows({ folder: data, dataset, split, cache, onBad }));
    }
    const rows = indexed.reduce((sum, { count }) => sum + count, 0);
    const share = cap(rule, rows, sharers);
    datasets.push({ dataset, splits: indexed, rows, templates: names, cap: share, ...p3 });
  };
  for (const dataset of wanted) {
    const chosen = templates.datasets.includes(dataset)
      ? templates.of(dataset).filter((t) => !originalOnly || t.originalTask)
      : [];
    const splits = splitsFor(dataset);
    const names = chosen.map(({ name }) => name);
    // P3 has a folder per template, named like this.
    const prerendered = names.map((name) => taskName(dataset, name))
      .filter((task) => splitsFor(task).length > 0);
    if (splits.length > 0 && names.length > 0) {
      // A template that does not compile is no matter of rows.
      for (const template of chosen) template.compile();
      await add(dataset, names, names.length);
    } else if (splits.length > 0 && await isPrerendered(data, dataset, splits[0], onBad)) {
      await add(dataset, [PRERENDERED], 1, { prerendered: true });
    } else if (splits.length === 0 && prerendered.length > 0) {
      for (const task of prerendered) {
        await add(task, [PRERENDERED], prerendered.length, { prerendered: true, of: dataset });
      }
    } else {
      missing.push(dataset);
      why.push(whyMissing(dataset, there, splits, templates, part));
    }
  }
  if (missing.length > 0 && !request.allowMissing) {
    throw new UserError(
      `${missing.length} of ${wanted.length} datasets of the mixture cannot be used: ` +
        `${why.join("; ")}. Add them, choose another --mixture, or give --allow-missing`,
    );
  }
  if (datasets.length === 0) throw new UserError(`${data}: holds no dataset of the mixture`);
  return { name: names.join(" "), rule, templates: request.templates, datasets, missing };
}

/** Stands for the template of rows that are examples already. */
export const PRERENDERED = "pre-rendered";

/**
 * Whether a split's rows are P3's: prompt and target instead of fields.
 *
 * @param onBad given if unusable rows may be passed over; those here are not told
 */
export async function isPrerendered(
  data: string,
  dataset: string,
  split: string,
  onBad?: MixtureRequest["onBad"],
): Promise<boolean> {
  const options = { onBad: onBad && (() => {}) };
  for await (const { row } of readRows(data, dataset, split, options)) return isP3(row);
  return false;
}

function whyMissing(
  dataset: string,
  there: readonly string[],
  splits: readonly string[],
  templates: Templates,
  part: string,
): string {
  if (!there.includes(dataset)) {
    const known = T0_DATASETS.some((d) => d.dataset === dataset);
    const near = known ? undefined : nearest(dataset, [...there, ...templates.datasets]);
    return `${dataset} (no rows${near ? `; did you mean ${near}?` : ""})`;
  }
  if (splits.length === 0) {
    return `${dataset} (no ${part === "train" ? "train" : "held-out"} split)`;
  }
  return `${dataset} (no templates)`;
}

/** One (dataset, template) of a mixture. */
export interface MixtureTask {
  /** Place of its dataset in the mixture. */
  dataset: number;
  /** Template name. */
  template: string;
  /** Rows there are. */
  rows: number;
  /** Examples per epoch. */
  used: number;
}

/** The order of a mixture's examples, epoch by epoch. */
export class MixtureOrder {
  /** Every (dataset, template). */
  readonly tasks: readonly MixtureTask[];
  /** Examples of one epoch, before drops. */
  readonly size: number;
  readonly #starts: Float64Array;
  readonly #keys: readonly number[];
  readonly #seed: number;

  /** The order that follows from a seed. */
  constructor(mixture: Pick<Mixture, "datasets">, seed: number) {
    this.tasks = mixture.datasets.flatMap(({ rows, templates, cap }, dataset) =>
      templates.map((template) => ({ dataset, template, rows, used: Math.min(rows, cap) }))
    );
    this.#keys = this.tasks.map(({ dataset, template }) =>
      key(seed, TASK_ORDER, hash(`${mixture.datasets[dataset].dataset} ${template}`))
    );
    this.#starts = new Float64Array(this.tasks.length + 1);
    for (const [i, { used }] of this.tasks.entries()) this.#starts[i + 1] = this.#starts[i] + used;
    this.size = this.#starts[this.tasks.length];
    this.#seed = seed;
  }

  /**
   * The example at a position of an epoch.
   *
   * @param position from 0 to size − 1
   * @returns its task's number, and the row's number in the dataset
   */
  at(epoch: number, position: number): { task: number; row: number } {
    const place = permute(position, this.size, key(this.#seed, EPOCH_ORDER, epoch));
    let low = 0, high = this.tasks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#starts[middle] <= place) low = middle;
      else high = middle - 1;
    }
    const { rows, used } = this.tasks[low], nth = place - this.#starts[low];
    if (rows === used) return { task: low, row: nth };
    return { task: low, row: permute((epoch * used + nth) % rows, rows, this.#keys[low]) };
  }
}

const TASK_ORDER = 0x7461736b, EPOCH_ORDER = 0x65706f63;
