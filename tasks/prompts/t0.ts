/**
 * The datasets that T0 and METRO-T0 learn from and are judged by, as data: which, how many examples
 * of each, and which templates count.
 *
 * The code of both projects lists 38, 48 and 54 datasets; the METRO paper prints one more each, but
 * its average of 8.03 templates a dataset and T0's own list agree with the code. t-zero also names 24
 * tasks to leave out of training; none of them is the name of a template of promptsource, so that
 * list has no effect and is not repeated here.
 *
 * @module
 */

import type { MixingRule } from "../config/finetune.ts";

/** A dataset to learn from. All its templates are used, also those that are another task. */
export interface TrainDataset {
  /** `dataset/config` on the Hub, or the dataset alone where it has no configs. */
  dataset: string;
  /** The family of tasks, in t-zero's words. */
  task: string;
  /** The block it belongs to: T0's own, those added as in GPT-3's evaluation, those from SuperGLUE. */
  part: "BASE" | "GPT_EVAL" | "SGLUE";
  /** Rows of its training split, as t-zero counts them. */
  trainSize: number;
}

/** A block of datasets. */
export type MixturePart = TrainDataset["part"];

/** The names of the three mixtures, each holding the one before. */
export type MixtureName = "T0" | "T0+" | "T0++";

const BASE: readonly TrainDataset[] = part("BASE", {
  paraphrase: {
    "glue/mrpc": 3668,
    "glue/qqp": 363_846,
    "paws/labeled_final": 49_401,
  },
  QA_closed_book: {
    "kilt_tasks/hotpotqa": 88_869,
    "wiki_qa": 20_360,
  },
  QA_extractive: {
    "adversarial_qa/dbidaf": 10_000,
    "adversarial_qa/dbert": 10_000,
    "adversarial_qa/droberta": 10_000,
    "duorc/SelfRC": 60_721,
    "duorc/ParaphraseRC": 69_524,
    "ropes": 10_924,
    "quoref": 19_399,
  },
  QA_multiple_choice: {
    "cos_e/v1.11": 9741,
    "cosmos_qa": 25_262,
    "dream": 6116,
    "qasc": 8134,
    "quail": 10_246,
    "quarel": 1941,
    "quartz": 2696,
    "sciq": 11_679,
    "social_i_qa": 33_410,
    "wiki_hop/original": 43_738,
    "wiqa": 29_808,
  },
  sentiment: {
    "amazon_polarity": 3_600_000,
    "app_reviews": 288_065,
    "imdb": 25_000,
    "rotten_tomatoes": 8530,
    "yelp_review_full": 650_000,
  },
  structure_to_text: {
    "common_gen": 67_389,
    "wiki_bio": 582_659,
  },
  summarization: {
    "cnn_dailymail/3.0.0": 287_113,
    "gigaword": 3_803_957,
    "multi_news": 44_972,
    "samsum": 14_732,
    "xsum": 204_045,
  },
  topic_classification: {
    "ag_news": 120_000,
    "dbpedia_14": 560_000,
    "trec": 5452,
  },
});

const GPT_EVAL: readonly TrainDataset[] = part("GPT_EVAL", {
  QA_closed_book: {
    "ai2_arc/ARC-Challenge": 1119,
    "ai2_arc/ARC-Easy": 2251,
    "trivia_qa/unfiltered": 87_622,
    "web_questions": 3778,
  },
  QA_extractive: {
    "squad_v2": 130_319,
  },
  QA_multiple_choice: {
    "openbookqa/main": 4957,
    "race/high": 62_445,
    "race/middle": 25_421,
    "piqa": 16_113,
  },
  story_completion: {
    "hellaswag": 39_905,
  },
});

const SGLUE: readonly TrainDataset[] = part("SGLUE", {
  coreference: {
    "super_glue/wsc.fixed": 554,
  },
  QA_extractive: {
    "super_glue/record": 100_730,
  },
  QA_multiple_choice: {
    "super_glue/boolq": 9427,
    "super_glue/copa": 400,
    "super_glue/multirc": 27_243,
  },
  word_sense_disambiguation: {
    "super_glue/wic": 5428,
  },
});

function part(part: MixturePart, sizes: Record<string, Record<string, number>>): TrainDataset[] {
  return Object.entries(sizes).flatMap(([task, datasets]) =>
    Object.entries(datasets).map(([dataset, trainSize]) => ({ dataset, task, part, trainSize }))
  );
}

/** The 54 datasets of T0++; T0 and T0+ are parts of them. */
export const T0_DATASETS: readonly TrainDataset[] = [...BASE, ...GPT_EVAL, ...SGLUE];

/** The blocks that each mixture consists of. */
export const MIXTURES: Readonly<Record<MixtureName, readonly MixturePart[]>> = {
  "T0": ["BASE"],
  "T0+": ["BASE", "GPT_EVAL"],
  "T0++": ["BASE", "GPT_EVAL", "SGLUE"],
};

/**
 * The datasets of a mixture, sorted by name: the originals take them in the order of the file system,
 * which is another one on every machine.
 *
 * @example
 * ```ts
 * import { mixtureDatasets } from "@metro/t0/tasks";
 * import assert from "node:assert/strict";
 *
 * assert.equal(mixtureDatasets("T0").length, 38);
 * assert.equal(mixtureDatasets("T0++")[0].dataset, "adversarial_qa/dbert");
 * ```
 */
export function mixtureDatasets(mixture: "T0" | "T0+" | "T0++"): TrainDataset[] {
  return T0_DATASETS
    .filter(({ part }) => MIXTURES[mixture].includes(part))
    .sort((a, b) => a.dataset < b.dataset ? -1 : 1);
}

/** Examples of one dataset in the mixture, over all its templates, where a rule limits them. */
const LIMIT = 500_000;

/**
 * How many examples **each template** of a dataset gives.
 *
 * - `metro`: an epoch takes at most 500,000 examples of a dataset, an equal share for each template.
 * - `tzero`: all rows, unless there are more than 500,000, then such shares of 500,000. It is a weight
 *   in an endless mixture rather than a number in an epoch, and up to five times METRO's.
 *
 * @param trainSize rows of the dataset
 * @param templates how many templates it has
 *
 * @example
 * ```ts
 * import { cap } from "./t0.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(cap("metro", 363_846, 6), 83_333); // glue/qqp
 * assert.equal(cap("tzero", 363_846, 6), 363_846);
 * ```
 */
export function cap(rule: MixingRule, trainSize: number, templates: number): number {
  const share = Math.floor(LIMIT / templates);
  if (rule === "metro") return Math.min(trainSize, share);
  return trainSize <= LIMIT ? trainSize : share;
}

/**
 * The eleven columns of T0 Eval. ANLI is there three times, as its rounds are three splits of one
 * dataset.
 */
export const T0_EVAL: readonly {
  /** Its heading. */
  column: string;
  /** `dataset/config` on the Hub, or the dataset alone where it has no configs. */
  dataset: string;
  /** The split that is judged. */
  split: string;
  /** The family of tasks, in t-zero's words. */
  task: string;
}[] = [
  { column: "RTE", dataset: "super_glue/rte", split: "validation", task: "NLI" },
  { column: "CB", dataset: "super_glue/cb", split: "validation", task: "NLI" },
  { column: "ANLI R1", dataset: "anli", split: "dev_r1", task: "NLI" },
  { column: "ANLI R2", dataset: "anli", split: "dev_r2", task: "NLI" },
  { column: "ANLI R3", dataset: "anli", split: "dev_r3", task: "NLI" },
  { column: "WSC", dataset: "super_glue/wsc.fixed", split: "validation", task: "coreference" },
  {
    column: "Winogrande",
    dataset: "winogrande/winogrande_xl",
    split: "validation",
    task: "coreference",
  },
  { column: "COPA", dataset: "super_glue/copa", split: "validation", task: "QA_multiple_choice" },
  {
    column: "StoryCloze",
    dataset: "story_cloze/2016",
    split: "validation",
    task: "story_completion",
  },
  { column: "HellaSwag", dataset: "hellaswag", split: "validation", task: "story_completion" },
  {
    column: "WiC",
    dataset: "super_glue/wic",
    split: "validation",
    task: "word_sense_disambiguation",
  },
];

/** What {@link evalTemplates} asks a template about. */
export interface EvalTemplate {
  /** Its name within the dataset. */
  name: string;
  /** Whether it asks what the dataset was made to ask. */
  originalTask: boolean;
  /** The source of its answers; null where answers are free. */
  answerChoices: string | null;
}

/**
 * The templates by which a dataset is judged: those of its original task, with answers to choose from.
 *
 * COPA has four more, named `…`, which ask only about causes or only about effects and render nothing
 * for the other half of the rows. METRO leaves them out (112 pairs of column and template); t-zero
 * lists them (116), and its code fails on them.
 *
 * @param dataset the dataset's name, as in {@link T0_EVAL}
 * @param templates all its templates
 *
 * @example
 * ```ts
 * import { evalTemplates } from "./t0.ts";
 * import assert from "node:assert/strict";
 *
 * const template = { originalTask: true, answerChoices: "{{choice1}} ||| {{choice2}}" };
 * const templates = [{ name: "exercise", ...template }, { name: "…why? C1 or C2", ...template }];
 * assert.deepEqual(evalTemplates("super_glue/copa", templates), [templates[0]]);
 * assert.equal(evalTemplates("super_glue/copa", templates, { list: "tzero" }).length, 2);
 * ```
 */
export function evalTemplates<T extends EvalTemplate>(
  dataset: string,
  templates: readonly T[],
  { list = "metro" }: { list?: "metro" | "tzero" } = {},
): T[] {
  return templates.filter(({ name, originalTask, answerChoices }) =>
    originalTask && answerChoices !== null &&
    !(list === "metro" && dataset === "super_glue/copa" && name.startsWith("…"))
  );
}
