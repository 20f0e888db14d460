import assert from "node:assert/strict";
import type { MixingRule } from "../../../tasks/config/finetune.ts";
import { parse } from "yaml";
import {
  cap,
  type EvalTemplate,
  evalTemplates,
  mixtureDatasets,
  type MixtureName,
  T0_DATASETS,
  T0_EVAL,
} from "../../../tasks/prompts/t0.ts";

const TEMPLATES = new URL("../../../../shared/data/promptsource/v0.1.0/", import.meta.url);
const NAMES: MixtureName[] = ["T0", "T0+", "T0++"];

/** How many templates promptsource v0.1.0 has for each training dataset, and which have so many. */
const COUNTS = new Map(
  `
4 app_reviews dbpedia_14
5 kilt_tasks/hotpotqa adversarial_qa/dbidaf adversarial_qa/dbert adversarial_qa/droberta dream quarel sciq wiki_bio trivia_qa/unfiltered web_questions
6 glue/qqp social_i_qa multi_news ai2_arc/ARC-Challenge ai2_arc/ARC-Easy
7 glue/mrpc yelp_review_full samsum ag_news openbookqa/main
8 qasc quartz wiqa race/high race/middle
9 duorc/SelfRC duorc/ParaphraseRC wiki_hop/original amazon_polarity common_gen cnn_dailymail/3.0.0 gigaword
10 rotten_tomatoes xsum super_glue/wsc.fixed super_glue/boolq super_glue/multirc super_glue/wic
11 wiki_qa quoref cos_e/v1.11 imdb piqa hellaswag
12 paws/labeled_final ropes squad_v2 super_glue/copa
13 cosmos_qa quail
18 trec
20 super_glue/record
`.trim().split("\n").flatMap((line) => {
    const [count, ...datasets] = line.split(" ");
    return datasets.map((dataset) => [dataset, Number(count)] as const);
  }),
);

interface Entry {
  name: string;
  answer_choices: string | null;
  metadata: { original_task: boolean };
}

async function templatesOf(dataset: string): Promise<EvalTemplate[]> {
  const text = await Deno.readTextFile(new URL(`${dataset}/templates.yaml`, TEMPLATES));
  const { templates } = parse(text, { logLevel: "error" }) as { templates: Record<string, Entry> };
  return Object.values(templates).map(({ name, answer_choices, metadata }) => ({
    name,
    originalTask: metadata.original_task,
    answerChoices: answer_choices,
  }));
}

/** Whether promptsource's files are there; says so if not. */
async function haveTemplates(): Promise<boolean> {
  try {
    await Deno.stat(TEMPLATES);
    return true;
  } catch {
    console.log("skipped: no shared/data/promptsource beside the repository");
    return false;
  }
}

Deno.test("the mixtures have 38, 48 and 54 datasets, each once, each mixture in the next", () => {
  const names = NAMES.map((name) => mixtureDatasets(name).map(({ dataset }) => dataset));
  assert.deepEqual(names.map((datasets) => new Set(datasets).size), [38, 48, 54]);
  assert.deepEqual(names.map((datasets) => datasets.length), [38, 48, 54]);
  assert.ok(new Set(names[1]).isSupersetOf(new Set(names[0])));
  assert.ok(new Set(names[2]).isSupersetOf(new Set(names[1])));
  assert.deepEqual(names[2], names[2].toSorted((a, b) => a < b ? -1 : 1));
});

Deno.test("an epoch of a mixture is as large as the specification says, by either rule", () => {
  const millions = (rule: MixingRule, name: MixtureName) => {
    const examples = mixtureDatasets(name).map(({ dataset, trainSize }) => {
      const templates = COUNTS.get(dataset)!;
      return templates * cap(rule, trainSize, templates);
    });
    return (examples.reduce((sum, count) => sum + count, 0) / 1e6).toFixed(2);
  };
  assert.deepEqual(NAMES.map((name) => millions("tzero", name)), ["17.28", "20.67", "23.12"]);
  assert.deepEqual(NAMES.map((name) => millions("metro", name)), ["10.61", "12.94", "13.87"]);
});

Deno.test("cap: shares of 500,000 for all datasets, or for those that are larger", () => {
  assert.equal(cap("metro", 3668, 7), 3668);
  assert.equal(cap("tzero", 500_000, 3), 500_000);
  assert.equal(cap("tzero", 500_001, 3), 166_666);
  assert.equal(cap("metro", 500_000, 3), 166_666);
});

Deno.test("T0 Eval has eleven columns of nine datasets", () => {
  assert.equal(T0_EVAL.length, 11);
  assert.equal(new Set(T0_EVAL.map(({ dataset }) => dataset)).size, 9);
  const both = T0_EVAL.filter(({ dataset }) => T0_DATASETS.some((d) => d.dataset === dataset));
  assert.deepEqual(both.map(({ column }) => column), ["WSC", "COPA", "HellaSwag", "WiC"]);
});

Deno.test("evaluation takes the original task's templates that have answers", () => {
  const yes = { name: "…yes", originalTask: true, answerChoices: "a ||| b" };
  const templates = [
    yes,
    { ...yes, originalTask: false },
    { ...yes, answerChoices: null },
  ];
  assert.deepEqual(evalTemplates("super_glue/cb", templates), [yes]);
  assert.deepEqual(evalTemplates("super_glue/copa", templates), []);
  assert.deepEqual(evalTemplates("super_glue/copa", templates, { list: "tzero" }), [yes]);
});

Deno.test("promptsource v0.1.0 has 313, 392 and 464 templates for the mixtures", async () => {
  if (!await haveTemplates()) return;
  const counts = new Map<string, number>();
  for (const { dataset } of T0_DATASETS) counts.set(dataset, (await templatesOf(dataset)).length);
  assert.deepEqual([...counts].sort(), [...COUNTS].sort());
  const totals = NAMES.map((name) =>
    mixtureDatasets(name).reduce((sum, { dataset }) => sum + counts.get(dataset)!, 0)
  );
  assert.deepEqual(totals, [313, 392, 464]);
});

Deno.test("promptsource v0.1.0 gives 112 pairs to evaluate, 116 by t-zero's list", async () => {
  if (!await haveTemplates()) return;
  const pairs = { metro: 0, tzero: 0 };
  for (const { dataset } of T0_EVAL) {
    const templates = await templatesOf(dataset);
    for (const list of ["metro", "tzero"] as const) {
      pairs[list] += evalTemplates(dataset, templates, { list }).length;
    }
  }
  assert.deepEqual(pairs, { metro: 112, tzero: 116 });
});
