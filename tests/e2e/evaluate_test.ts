// `deno task eval_t0` from the outside: files and tables, results that are kept or made again, the same
// figures whatever the batches, comparisons; bad input, one line.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetMetadata } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";
import type { Evaluation, TemplateResult } from "../../tasks/evaluate/results.ts";
import { runWorkers } from "../../tasks/parallel/workers.ts";
import { cpuTest } from "../device.ts";
import type { InterruptedArgs } from "./interrupted_rank.ts";
import {
  fail,
  forEach,
  isThere,
  json,
  jsonLines,
  pretrainSmall,
  put,
  someWords,
  succeed,
  templatesFile,
  words,
} from "./prompted.ts";

let folder = "", pretrained = "", first = "", second = "";

const at = (...path: string[]) => join(folder, ...path);
const evaluate = (run: string, ...flags: string[]) =>
  succeed("eval_t0", [
    "--run",
    run,
    "--data",
    at("rows"),
    "--templates",
    at("templates"),
    ...flags,
  ]);

// ---- Rows ----

interface Topic {
  text: string;
  first: string;
  second: string;
  answer: number;
}

const topics = (count: number, seed: number): Topic[] =>
  Array.from({ length: count }, (_, i) => ({
    text: `${someWords(seed + i, 1 + i % 7)}.`,
    first: ["mill", "rope", "boat"][i % 3],
    second: ["bell", "rain"][i % 2],
    answer: (i >> 1) % 2,
  }));

const WHICH = {
  name: "which one?",
  jinja: "{{ text }} Is it {{ first }} or {{ second }}? ||| {{ [first, second][answer] }}",
  choices: "{{ first }} ||| {{ second }}",
};
const TEMPLATES = [
  WHICH,
  { ...WHICH, name: "short", jinja: "{{ text }} It is ||| {{ answer_choices[answer] }}" },
  { ...WHICH, name: "other task", original: false },
  { name: "free", jinja: "{{ text }} ||| {{ first }}" },
];
const NOTES = [{
  name: "good or bad",
  jinja: "{{ text }} Good or bad? ||| {{ answer_choices[answer] }}",
  choices: "bad ||| good",
}];

const VALIDATION = topics(11, 300);
const promptOf = ({ text, first, second }: Topic) => `${text} Is it ${first} or ${second}?`;

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-evaluate-"));
  await put(at("templates/topics/templates.yaml"), templatesFile(TEMPLATES));
  await put(at("templates/notes/templates.yaml"), templatesFile(NOTES));
  await put(at("rows/notes/train.jsonl"), jsonLines(topics(16, 100)));
  await put(at("rows/notes/validation.jsonl"), jsonLines(topics(6, 200)));
  await put(at("rows/topics/validation.jsonl"), jsonLines(VALIDATION));
  await put(at("rows/topics/test.jsonl"), jsonLines(topics(5, 400)));
  // The same questions as P3 has them: whole, and one row per answer.
  const whole = VALIDATION.map((row) => ({
    inputs_pretokenized: promptOf(row),
    targets_pretokenized: [row.first, row.second][row.answer],
    answer_choices: [row.first, row.second],
  }));
  const answers = VALIDATION.flatMap((row, i) =>
    [row.first, row.second].map((choice, k) => ({
      idx: [i, k],
      inputs_pretokenized: promptOf(row),
      targets_pretokenized: choice,
      is_correct: k === row.answer,
      weight: 1,
    }))
  );
  await put(at("rows/topics_which/validation.jsonl"), jsonLines(whole));
  await put(at("rows/topics_which_score_eval/validation.jsonl"), jsonLines(answers.toReversed()));

  pretrained = await pretrainSmall(folder);
  [first, second] = await Promise.all(["1", "2"].map(async (seed) => {
    const out = at(`finetuned-${seed}`);
    const flags = {
      run: pretrained,
      out,
      seed,
      "data": at("rows"),
      "templates": at("templates"),
      "updates": "3",
      "source-length": "56",
      "target-length": "16",
      "source-shapes": "1",
      "target-shapes": "1",
      "batch-size": "4",
      "micro-batch": "224",
      "evaluate-examples": "0",
      "peak-learning-rate": "0.02",
    };
    await succeed("finetune", words(flags));
    return out;
  }));
  await evaluate(first, "--tasks", "all");
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

/** The results in a folder, by file name. */
async function resultsIn(out: string): Promise<Record<string, TemplateResult>> {
  const names = (await readdir(out)).filter((name) => name.endsWith(".json")).toSorted();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => {
      const { sha256: _, ...result } = await json(join(out, name));
      return [name, result];
    })),
  );
}

/** A sign per row, by file name. */
async function signsIn(out: string): Promise<Record<string, string>> {
  const results = Object.entries(await resultsIn(out));
  return Object.fromEntries(results.map(([name, { correct }]) => [name, correct]));
}

const FILES = [
  "notes_good_or_bad.json",
  "topics_short.json",
  "topics_which_one_.json",
  "topics_which_pre_rendered.json",
  "topics_which_score_eval_pre_rendered.json",
];

Deno.test("an evaluation leaves a file per task and template, tables and a page; what was trained is marked", async () => {
  const out = join(first, "eval");
  const results = await resultsIn(out);
  assert.deepEqual(Object.keys(results), FILES);
  const { settings, ...result } = results["topics_which_one_.json"];
  assert.match(settings!, /^[0-9a-f]{16}$/);
  assert.match(result.correct, /^[01]{11}$/);
  const right = result.correct.split("1").length - 1;
  assert.deepEqual(result, {
    dataset_name: "topics",
    dataset_config_name: null,
    template_name: "which one?",
    evaluation: { accuracy: right / 11 },
    model_name_or_path: first,
    split: "validation",
    column: "topics",
    task: "topics",
    examples: 11,
    correct: result.correct,
    skipped: {},
    choices: 2,
    trained: false,
    input_end_token: true,
  });
  assert.deepEqual(
    Object.values(results).map(({ trained }) => trained),
    [true, false, false, false, false],
  );

  const csv = (await readFile(join(out, "summary.csv"), "utf8")).trim().split(/\r?\n/);
  assert.match(
    csv[0],
    /^column,task,templates,mean,median,min,max,chance,examples,skipped,trained/,
  );
  const columns = ["notes", "topics", "topics_which", "topics_which_score_eval"];
  for (const column of columns) {
    assert.ok(csv.some((line) => line.startsWith(`${column},`)), csv.join("\n"));
  }
  const topicsLine = csv.find((line) => line.startsWith("topics,"))!.split(",");
  const accuracies = [results["topics_short.json"], result].map((r) => r.evaluation.accuracy);
  assert.ok(Math.abs(Number(topicsLine[3]) - (accuracies[0] + accuracies[1]) / 2) < 1e-4, csv[2]);
  const markdown = await readFile(join(out, "summary.md"), "utf8");
  for (const column of columns) assert.ok(markdown.replaceAll("\\", "").includes(`| ${column}`));
  assert.match(markdown, /learned from notes: not zero-shot/);
  assert.match(await readFile(join(out, "results.html"), "utf8"), /<svg/);
});

Deno.test("rows of P3, whole or one per answer, are judged as the rows they were made of", async () => {
  const signs = await signsIn(join(first, "eval"));
  assert.equal(signs["topics_which_pre_rendered.json"], signs["topics_which_one_.json"]);
  assert.equal(signs["topics_which_score_eval_pre_rendered.json"], signs["topics_which_one_.json"]);
});

Deno.test("what is finished is not run again, until the weights are others", async () => {
  const out = join(first, "eval"), shared = at("shared");
  const times = async (folder: string) =>
    await Promise.all(FILES.map(async (name) => (await stat(join(folder, name))).mtimeMs));
  await cp(out, shared, { recursive: true });
  const before = await times(out), sharedBefore = await times(shared);
  const [again, other] = await Promise.all([
    evaluate(first, "--tasks", "all"),
    evaluate(second, "--tasks", "all", "--out", shared),
  ]);
  assert.equal(again.err.match(/\(done before\)/g)?.length, 5, again.err);
  assert.match(again.out, /^average .* 39$/m);
  assert.deepEqual(await times(out), before);

  // As many updates, but other weights.
  assert.doesNotMatch(other.err, /done before/);
  for (const [i, time] of (await times(shared)).entries()) assert.ok(time > sharedBefore[i]);
});

Deno.test("accuracies are the same for batches of 1, of 3 and of many prompts", async () => {
  const sizes = ["1", "3"];
  await Promise.all(
    sizes.map((size) =>
      evaluate(first, "--tasks", "all", "--batch-size", size, "--out", at(`of-${size}`))
    ),
  );
  for (const size of sizes) {
    assert.deepEqual(await signsIn(at(`of-${size}`)), await signsIn(join(first, "eval")));
  }
});

/** Every file of a folder, by name. */
async function filesIn(out: string): Promise<Record<string, string>> {
  const names = (await readdir(out)).toSorted();
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, await readFile(join(out, name), "utf8")])),
  );
}

Deno.test("two devices write the very same files as one, and go on where one has stopped", async () => {
  const flags = (out: string) => ["--tasks", "all", "--batch-size", "3", "--out", at(out)];
  const devices = ["--devices", "2"];
  const [one, two] = await Promise.all([
    evaluate(first, ...flags("by-one")),
    evaluate(first, ...flags("by-two"), ...devices),
  ]);
  const files = await filesIn(at("by-one"));
  assert.deepEqual(Object.keys(files).length, FILES.length + 3);
  assert.deepEqual(await filesIn(at("by-two")), files);
  for (const rank of [0, 1]) assert.match(two.err, new RegExp(`rank ${rank} of 2: `));
  // The same tables, and the same padding.
  const said = ({ out }: { out: string }) =>
    out.replace(/\d+ programs; (padding \S+ %).*/, "$1").replace(/^Results: .*/m, "");
  assert.match(said(one), /padding \d/);
  assert.equal(said(two), said(one));

  await rm(join(at("by-two"), FILES[1]));
  const again = await evaluate(first, ...flags("by-two"), ...devices);
  assert.equal(again.err.match(/\(done before\)/g)?.length, FILES.length - 1, again.err);
  assert.deepEqual(await filesIn(at("by-two")), files);
});

cpuTest(
  "when one rank is told to stop, all stop at the same template and keep what is done",
  async () => {
    const out = at("stopped");
    const evaluation = await runWorkers<InterruptedArgs, Evaluation>({
      module: new URL("./interrupted_rank.ts", import.meta.url),
      args: {
        job: {
          run: first,
          tasks: ["all"],
          data: at("rows"),
          templates: at("templates"),
          allowMissing: false,
          skipBad: false,
          out,
          seed: 1,
        },
        placement: {
          adapter: "cpu",
          threads: 1,
          environment: [{}, {}],
          expect: [undefined, undefined],
        },
        told: 1,
        after: 2,
      },
      size: 2,
      timeout: 60,
      output: { write: () => {} },
    });
    const kept = await resultsIn(out), whole = await resultsIn(join(first, "eval"));
    assert.deepEqual(Object.keys(kept).length, 2);
    for (const [name, result] of Object.entries(kept)) assert.deepEqual(result, whole[name]);
    assert.deepEqual(evaluation.results.map((r) => r.template_name), ["good or bad", "which one?"]);
  },
);

Deno.test("a split can be named; a limit takes the first rows", async () => {
  await evaluate(first, "--tasks", "topics:test", "notes", "--limit", "4", "--out", at("split"));
  const results = await resultsIn(at("split"));
  assert.deepEqual(
    Object.entries(results).map(([name, r]) => [
      ...[name, r.column, r.dataset_name, r.dataset_config_name, r.split, r.examples],
    ]),
    [
      ["notes_good_or_bad.json", "notes", "notes", null, "validation", 4],
      ["topics_test_short.json", "topics:test", "topics", "test", "test", 4],
      ["topics_test_which_one_.json", "topics:test", "topics", "test", "test", 4],
    ],
  );
});

Deno.test("two runs are put side by side, with the intervals of their differences", async () => {
  const { out } = await evaluate(second, "--tasks", "all", "--compare", first);
  const interval = String.raw`\[[-+]?\d+\.\d\d, [-+]?\d+\.\d\d\]`;
  for (const column of ["notes", "topics", "topics_which_score_eval", "average"]) {
    const line = new RegExp(
      String.raw`^${column} +\d+( +\d+\.\d\d){2} +[-+]?\d+\.\d\d +${interval}$`,
      "m",
    );
    assert.match(out, line);
  }
  const markdown = await readFile(join(second, "eval", "summary.md"), "utf8");
  assert.match(markdown, /95% interval/);
  const missing = at("unevaluated");
  await mkdir(missing);
  await cp(join(first, "config.json"), join(missing, "config.json"));
  const flags = ["--run", first, "--data", at("rows"), "--templates", at("templates")];
  await fail(
    "eval_t0",
    [...flags, "--tasks", "notes", "--compare", missing],
    /unevaluated: was not evaluated yet; run eval_t0 on it first/,
  );
});

// ---- Bad input ----

const good = VALIDATION.slice(0, 3);
const faults = {
  field: { text: "a.", first: "mill", answer: 0 },
  target: { ...good[0], answer: 2 },
  prompt: { ...good[0], text: "" },
};

/** Asks of every row, whatever it is like. */
const STRICT = templatesFile([{
  name: "bare",
  jinja: "{{ text }} ||| {{ [first, second, 'none'][answer] }}",
  choices: WHICH.choices,
}]);

/** If other rows had it, it would be null. */
const withoutSecond = ({ second: _, ...row }: typeof good[number]) => row;

Deno.test("bad input gets one line and leaves nothing behind", async () => {
  await put(at("strict/topics/templates.yaml"), STRICT);
  await put(
    at("syntax/topics/templates.yaml"),
    templatesFile([{ ...WHICH, name: "x", jinja: "a\n{{ text | nofilter }} ||| {{ first }}" }]),
  );
  const rowsAt = async (name: string, file: string, contents: string | Uint8Array) => {
    await put(at("bad", name, "topics", file), contents);
    return { data: at("bad", name), templates: at("strict") };
  };
  const columnData = (["text", "first", "second", "answer"] as const)
    .map((name) => ({ name, data: VALIDATION.map((row) => row[name]) }));
  const parquet = new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize: 5 }));
  const [, group] = parquetMetadata(parquet.buffer).row_groups;
  const page = Number(group.columns[0].meta_data!.data_page_offset);
  parquet.fill(0xff, page + 40, page + 60);
  const bare = at("bare");
  await mkdir(bare);
  for (const file of ["config.json", "tokenizer.json"]) {
    await cp(join(first, file), join(bare, file));
  }

  const cases: [Record<string, string | undefined>, RegExp][] = [
    [
      await rowsAt("field", "validation.jsonl", jsonLines(good.map(withoutSecond))),
      /: topics validation, row 0: no field 'second', which template 'bare' reads; .* --skip-bad/,
    ],
    [
      await rowsAt("target", "validation.jsonl", jsonLines([...good, faults.target])),
      /row 3, template 'bare': the target 'none' is not among the choices mill \| bell/,
    ],
    [
      await rowsAt("prompt", "validation.jsonl", jsonLines([faults.prompt, ...good])),
      /row 0, template 'bare': the prompt is empty/,
    ],
    [
      await rowsAt("page", "validation.parquet", parquet),
      /validation\.parquet, row group 1 \(rows 5 to 9\): damaged/,
    ],
    [{ templates: at("syntax") }, /syntax.topics.templates\.yaml: template 'x': jinja line 2: /],
    [
      { "templates": at("syntax"), "skip-bad": undefined },
      /syntax.topics.templates\.yaml: template 'x': jinja line 2: /,
    ],
    [{ tasks: "topcis" }, /topcis \(.*did you mean topics\?\)/],
    [{ tasks: "topics:tset" }, /no rows of tset/],
    [{ data: undefined }, /--data and --templates go together/],
    [{ templates: undefined }, /--data and --templates go together/],
    [{ data: at("nowhere") }, /nowhere: no such folder/],
    [{ run: at("nowhere") }, /nowhere: expected the folder of a run/],
    [{ run: bare }, /bare: the run has no weights yet/],
    [{ devices: "none" }, /--devices: expected a number of at least 1, or all, got 'none'/],
    [{ devices: "999", adapter: "auto" }, /999 devices asked for, .* found/],
    [
      { devices: "2", data: at("bad", "field"), templates: at("strict") },
      /rank \d: topics validation, row 0: no field 'second'/,
    ],
    [{ "batch-sise": "4" }, /unknown flag --batch-sise; did you mean --batch-size\?/],
    [{ compare: at("nowhere") }, /nowhere: no such folder; expected a run/],
  ];
  await forEach(cases, async ([changes, expected], i) => {
    const out = at(`never-${i}`);
    const flags = { run: first, data: at("rows"), templates: at("templates"), out };
    await fail("eval_t0", words({ ...flags, tasks: "topics", ...changes }), expected);
    assert.ok(!await isThere(out), JSON.stringify(changes));
  });
});

Deno.test("with --skip-bad, unusable rows are counted, listed and left out", async () => {
  const data = at("mixed"), templates = at("mixed-templates"), out = at("mixed-out");
  await put(join(templates, "topics/templates.yaml"), STRICT);
  const { field, target, prompt } = faults;
  const rows = jsonLines([good[0], field, target, good[1], prompt, good[2]]);
  await put(join(data, "topics/validation.jsonl"), '{"text": \n' + rows);
  // Of P3, even the row by which it is known.
  const whole = ["yes", "no"].map((answer) => ({
    inputs_pretokenized: "Is it?",
    targets_pretokenized: answer,
    answer_choices: ["yes", "no"],
  }));
  await put(join(data, "ready/validation.jsonl"), '{"inputs": \n' + jsonLines(whole));
  const flags = { run: first, data, templates, out, tasks: "topics", "skip-bad": "" };
  const { out: printed } = await succeed("eval_t0", [...words(flags), "--tasks", "ready"]);
  const result = (await resultsIn(out))["topics_bare.json"];
  assert.match(result.correct, /^[01]{2}-[01]-[01]$/);
  assert.equal(result.examples, 4);
  const skipped = {
    "target not among the choices": 1,
    "empty prompt": 1,
    "unreadable": 1,
  };
  assert.deepEqual(result.skipped, skipped);
  const { examples, skipped: left } = (await resultsIn(out))["ready_pre_rendered.json"];
  assert.deepEqual([examples, left], [2, { unreadable: 1 }]);
  assert.match(printed, /unusable rows, the first of them:/);
  assert.match(printed, /validation\.jsonl:1: not JSON/);
  assert.match(printed, /row 2, template 'bare': the target 'none' is not among the choices/);
  const csv = await readFile(join(out, "summary.csv"), "utf8");
  assert.match(csv, /^topics,topics,1,.*,4,3,/m);
});
