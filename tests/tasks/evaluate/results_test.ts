import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { key, Random } from "../../../ops/graph/random.ts";
import { T0_EVAL } from "../../../tasks/prompts/t0.ts";
import { compareRuns, comparisonLines } from "../../../tasks/evaluate/compare.ts";
import {
  finished,
  readResult,
  readResults,
  resultNames,
  type TemplateResult,
  writeResult,
} from "../../../tasks/evaluate/results.ts";
import { summarize, summaryCsv, summaryLines } from "../../../tasks/evaluate/summary.ts";
import { summaryMarkdown } from "../../../tasks/evaluate/report.ts";
import { resultsPage, stripPlots } from "../../../tasks/evaluate/plots.ts";

const COLUMNS = T0_EVAL.map(({ column }) => column);
/** Templates and choices of the eleven columns, in METRO's list. */
const TEMPLATES = [10, 15, 15, 15, 15, 10, 5, 8, 5, 4, 10];
const CHOICES = [2, 3, 3, 3, 3, 2, 2, 2, 2, 4, 2];

/** A result whose accuracy follows from its signs, unless it is given. */
function result(
  column: string,
  template_name: string,
  correct: string,
  rest: Partial<TemplateResult> = {},
): TemplateResult {
  const judged = correct.replaceAll("-", "");
  const right = judged.replaceAll("0", "").length;
  const left = correct.length - judged.length;
  return {
    dataset_name: column.toLowerCase(),
    dataset_config_name: null,
    template_name,
    evaluation: { accuracy: judged ? right / judged.length : 0 },
    model_name_or_path: "runs/a",
    split: "validation",
    column,
    task: "NLI",
    examples: judged.length,
    correct,
    skipped: left ? { "empty prompt": left } : {},
    ...rest,
  };
}

/** One template per column, with these accuracies in percent. */
function ofColumns(accuracies: readonly number[], columns = COLUMNS): TemplateResult[] {
  return columns.map((column, i) =>
    result(column, "only", "1", { evaluation: { accuracy: accuracies[i] / 100 } })
  );
}

/** A run over T0 Eval: every example is right with probability `share`, nearly alike in all templates. */
function simulated(seed: number, share: number, rows: number): TemplateResult[] {
  return COLUMNS.flatMap((column, c) => {
    const ease = new Random(key(7, c)), noise = new Random(key(seed, c));
    const hardness = Array.from({ length: rows }, () => ease.uniform());
    return Array.from({ length: TEMPLATES[c] }, (_, t) => {
      const signs = hardness.map((h) => noise.uniform() < share + 0.4 * (h - 0.5) ? "1" : "0");
      return result(column, `template ${t}`, signs.join(""), { choices: CHOICES[c] });
    });
  });
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "results-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

function near(actual: number, expected: number, within: number): void {
  assert.ok(Math.abs(actual - expected) <= within, `${actual} is not ${expected}`);
}

// --- files ---

Deno.test("a result is written in t-zero's layout and read back", () =>
  inFolder(async (folder) => {
    const written = result("RTE", "GPT-3 style", "110-", { choices: 2 });
    await writeResult(folder, "super_glue_rte_GPT_3_style", written);
    const text = await readFile(join(folder, "super_glue_rte_GPT_3_style.json"), "utf8");
    assert.match(text, /^\{\n {4}"dataset_name": "rte",\n {4}"dataset_config_name": null,\n/);
    assert.match(text, /\n {4}"evaluation": \{\n {8}"accuracy": 0\.666/);
    assert.deepEqual(await readdir(folder), ["super_glue_rte_GPT_3_style.json"]);
    assert.deepEqual(await readResults(folder), [written]);
    assert.deepEqual(await readResult(folder, "super_glue_rte_GPT_3_style"), written);
  }));

Deno.test("finished: only a result of the same identity counts", () =>
  inFolder(async (folder) => {
    const written = result("RTE", "a", "10", { settings: "0123" });
    await writeResult(folder, "rte_a", written);
    assert.deepEqual(
      await finished(folder, "rte_a", { split: "validation", examples: 2 }),
      written,
    );
    assert.deepEqual(await finished(folder, "rte_a", { settings: "0123" }), written);
    assert.equal(await finished(folder, "rte_a", { settings: "4567" }), undefined);
    assert.equal(await finished(folder, "rte_a", { split: "test", examples: 2 }), undefined);
    assert.equal(await finished(folder, "rte_b", { examples: 2 }), undefined);
    assert.equal(await finished(folder, "rte_b", {}), undefined);
  }));

Deno.test("a result that was edited is refused; one without a checksum is read, and run again", () =>
  inFolder(async (folder) => {
    const written = result("RTE", "a", "1100", { settings: "0123" });
    await writeResult(folder, "rte_a", written);
    const path = join(folder, "rte_a.json"), good = await readFile(path, "utf8");
    const edits = [["1100", "1010"], ["0.5", "0.75"], ["validation", "test"], ["0123", "0124"]];
    for (const [from, to] of edits) {
      await writeFile(path, good.replace(from, to));
      const message = /rte_a\.json: was changed since it was written; delete it, and run again/;
      await assert.rejects(readResults(folder), message);
      await assert.rejects(finished(folder, "rte_a", { settings: "0123" }), message);
    }
    await writeFile(path, JSON.stringify(written));
    assert.deepEqual(await readResults(folder), [written]);
    assert.equal(await finished(folder, "rte_a", { settings: "0123" }), undefined);
  }));

Deno.test("files that are no results are named, with what is wrong", () =>
  inFolder(async (folder) => {
    const path = join(folder, "rte_a.json"), good = result("RTE", "a", "10");
    const faults: [string, RegExp][] = [
      ['{"dataset_name": "rt', /expected JSON, got '\{"dataset_name": "rt'/],
      ["[]", /dataset_name: expected a text, got nothing/],
      ["null", /dataset_name: expected a text, got nothing/],
      [JSON.stringify({ ...good, correct: undefined }), /correct: expected signs .*, got nothing/],
      [JSON.stringify({ ...good, correct: "1x" }), /correct: expected signs .*, got "1x"/],
      [
        JSON.stringify({ ...good, evaluation: {} }),
        /evaluation: expected an accuracy .*, got \{\}/,
      ],
      [JSON.stringify({ ...good, evaluation: { accuracy: 83 } }), /accuracy from 0 to 1, got/],
      [JSON.stringify({ ...good, examples: 3 }), /examples: expected 2, .* got 3/],
      [JSON.stringify({ ...good, skipped: { a: "b" } }), /skipped: expected counts/],
    ];
    for (const [text, message] of faults) {
      await writeFile(path, text);
      await assert.rejects(readResults(folder), (error: Error) => {
        assert.equal(error.name, "UserError");
        assert.ok(error.message.startsWith(path), error.message);
        assert.match(error.message, message);
        return true;
      });
    }
  }));

Deno.test("a folder without results says so; other files in it do not matter", () =>
  inFolder(async (folder) => {
    await writeFile(join(folder, "summary.csv"), "");
    await assert.rejects(readResults(folder), /holds no results/);
    await assert.rejects(readResults(join(folder, "summary.csv")), /no such folder/);
  }));

// --- summary ---

Deno.test({
  name: "a summary's figures are those computed by hand",
  permissions: "none",
  fn() {
    const { columns, templates, average } = summarize([
      result("b", "1", "1000", { choices: 2 }),
      result("a", "1", "11-0", { choices: 4 }),
      result("b", "2", "1110", { choices: 2 }),
      result("a", "2", "1-00", { choices: 4 }),
      result("b", "3", "1111", { choices: 2 }),
    ]);
    assert.deepEqual(columns, [
      {
        ...{ column: "b", task: "NLI", templates: 3, mean: 2 / 3, median: 0.75, min: 0.25, max: 1 },
        ...{ chance: 0.5, examples: 4, skipped: 0, trained: false },
      },
      {
        ...{
          column: "a",
          task: "NLI",
          templates: 2,
          mean: 0.5,
          median: 0.5,
          min: 1 / 3,
          max: 2 / 3,
        },
        ...{ chance: 0.25, examples: 3, skipped: 2, trained: false },
      },
    ]);
    assert.deepEqual(templates.map(({ column, template }) => column + template), [
      ...["b1", "b2", "b3", "a1", "a2"],
    ]);
    near(average.mean, (2 / 3 + 0.5) / 2, 1e-12);
    assert.equal(average.median, 0.625);
    assert.equal(average.chance, 0.375);
    assert.equal(average.label, "average of 2 columns");
  },
});

Deno.test("the average over T0 Eval is the one of the METRO paper's Table 2", () => {
  // RTE, CB, ANLI R1, R2, R3, WSC, Winogrande, COPA, StoryCloze, HellaSwag, WiC; AVG.
  const rows: [string, number[], number][] = [
    [
      "METRO-T0++ large++",
      [83.68, 74.88, 46.84, 40.37, 44.95, 71.83, 62.75, 92.63, 95.65, 83.74, 70.49],
      69.80,
    ],
    [
      "METRO-T0 base",
      [65.18, 45.60, 31.64, 32.98, 33.81, 55.77, 51.07, 70.81, 80.97, 25.28, 50.69],
      49.44,
    ],
    [
      "METRO-T0+ base++",
      [71.44, 60.71, 36.91, 35.24, 36.46, 62.21, 54.08, 78.88, 90.29, 67.57, 51.60],
      58.67,
    ],
    [
      "T0 3B",
      [64.55, 45.36, 33.84, 33.11, 33.33, 65.10, 50.97, 72.40, 84.03, 27.29, 50.69],
      50.97,
    ],
    [
      "T0++ 11B",
      [85.31, 75.69, 47.07, 42.18, 44.09, 70.29, 66.42, 93.71, 96.49, 86.11, 70.02],
      70.67,
    ],
  ];
  for (const [name, accuracies, expected] of rows) {
    const { average } = summarize(ofColumns(accuracies));
    near(100 * average.mean, expected, 0.01);
    assert.equal(average.label, "11-column average (ANLI three times)", name);
    assert.deepEqual(average.missing, []);
  }
});

Deno.test("columns are in the papers' order, and the average names those that are missing", () => {
  const { columns, average } = summarize(ofColumns([60, 50, 40], ["WiC", "RTE", "COPA"]));
  assert.deepEqual(columns.map(({ column }) => column), ["RTE", "COPA", "WiC"]);
  assert.equal(
    average.label,
    "average of 3 of 11 columns (missing: CB, ANLI R1, ANLI R2, ANLI R3, WSC, Winogrande, " +
      "StoryCloze, HellaSwag)",
  );
  near(average.mean, 0.5, 1e-12);
});

Deno.test("columns other than T0 Eval's are averaged as they are", () => {
  const { columns, average } = summarize(ofColumns([90, 50], ["trec", "RTE"]));
  assert.deepEqual(columns.map(({ column }) => column), ["RTE", "trec"]);
  assert.equal(average.label, "average of 2 columns");
  const given = summarize(ofColumns([90, 50, 40], ["trec", "RTE", "CB"]), ["CB", "imdb", "trec"]);
  assert.deepEqual(given.columns.map(({ column }) => column), ["CB", "trec"]);
  assert.equal(given.average.label, "average of 2 of 3 columns (missing: imdb)");
  near(given.average.mean, 0.65, 1e-12);
});

Deno.test("notes say what was skipped, not counted, or learned from", () => {
  const { notes, columns } = summarize([
    result("CB", "1", "10--", { skipped: { "empty prompt": 1, "no choices": 1 } }),
    result("CB", "2", "1001"),
    result("CB", "3", "----"),
    result("RTE", "1", "1", { trained: true }),
    result("WiC", "1", "-"),
  ]);
  assert.equal(columns[1].templates, 2);
  assert.deepEqual(notes, [
    "* The model has learned from RTE: not zero-shot.",
    "CB: 2 of 8 pairs of row and template skipped (1 empty prompt, 1 no choices).",
    "CB: not counted, all rows skipped: '3'.",
    "WiC: not counted, all rows skipped: '1'.",
  ]);
});

Deno.test("nothing to summarize, and two results of one template, are refused", () => {
  assert.throws(() => summarize([]), /no results/);
  assert.throws(() => summarize([result("RTE", "1", "-")]), /no result has an example/);
  assert.throws(() => summarize([result("a", "1", "1")], ["b"]), /expected results of b, got a/);
  const twins = [result("a", "1", "1"), result("a", "1", "0", { split: "test" })];
  assert.throws(() => summarize(twins), /a, template '1': there are two results/);
});

Deno.test("CSV: names with commas, quotes and line ends are quoted", () => {
  const summary = summarize([result('a,"b"\nc', "1", "10"), result("d", "1", "1", { choices: 4 })]);
  assert.equal(
    summaryCsv(summary),
    "column,task,templates,mean,median,min,max,chance,examples,skipped,trained\n" +
      '"a,""b""\nc",NLI,1,0.5,0.5,0.5,0.5,,2,0,false\n' +
      "d,NLI,1,1,1,1,1,0.25,1,0,false\n" +
      "average,average of 2 columns,2,0.75,0.75,,,,3,0,\n",
  );
});

Deno.test("the terminal's table is aligned, in percent", () => {
  const lines = summaryLines(summarize([
    result("RTE", "1", "110", { choices: 2 }),
    result("RTE", "2", "1-0", { choices: 2 }),
    result("trec", "1", "0".repeat(1000) + "1", { trained: true }),
  ]));
  assert.deepEqual(lines.slice(0, 5), [
    "column   templates   mean  median    min    max  chance  examples  skipped",
    "RTE              2  58.33   58.33  50.00  66.67   50.00         3        1",
    "trec*            1   0.10    0.10   0.10   0.10             1,001        0",
    "average          3  29.22   29.22                           1,004        1",
    "average: average of 2 columns; below median, the average of the medians.",
  ]);
});

Deno.test("Markdown: the table, what it is an average of, and a comparison", () => {
  const a = [result("x|y", "1", "1100")], b = [result("x|y", "1", "1110")];
  const runs = [{ name: "a_b", results: a }, { name: "c", results: b }];
  const text = summaryMarkdown(summarize(a), compareRuns(runs));
  assert.match(
    text,
    /^\| column \| templates \| mean \| median \| min \| max \| examples \|\n\| :-- /,
  );
  assert.match(text, /\n\| x\\\|y \| 1 \| 50\.00 \| 50\.00 \| 50\.00 \| 50\.00 \| 4 \|\n/);
  assert.ok(text.includes("\n| **average** | 1 | 50.00 | 50.00 |  |  | 4 |\n\naverage: "));
  assert.match(text, /\n\| column \| templates \| a\\_b \| c \| difference \| 95% interval \|\n/);
});

// --- comparison ---

Deno.test("a comparison says that runs were given inputs in different ways", () => {
  const run = (name: string, input_end_token?: boolean) => {
    return { name, results: [result("RTE", "1", "1100", { input_end_token })] };
  };
  const notes = (...runs: ReturnType<typeof run>[]) =>
    compareRuns(runs).notes.filter((note) => note.includes("</s>"));
  // Results of older versions do not say; their inputs had one.
  assert.deepEqual(notes(run("a"), run("b", true)), []);
  assert.deepEqual(notes(run("a", false), run("b", false)), []);
  assert.deepEqual(notes(run("a"), run("b", false), run("c", true)), [
    "Inputs ended with </s> in 'a', 'c', and did not in 'b': part of the difference may come from that " +
    "(--input-end-token).",
  ]);
});

Deno.test("runs that are equal differ by nothing", () => {
  const results = simulated(1, 0.6, 50);
  const { columns, average } = compareRuns([{ name: "a", results }, { name: "b", results }]);
  assert.equal(columns.length, 11);
  for (const { differences } of [...columns, average]) {
    assert.deepEqual(differences, [{ value: 0, low: 0, high: 0 }]);
  }
});

Deno.test("a comparison repeats with its seed, in every column whatever others there are", () => {
  const runs = [1, 2].map((n) => ({ name: `${n}`, results: simulated(n, 0.5 + n / 20, 60) }));
  const first = compareRuns(runs);
  assert.deepEqual(compareRuns(runs), first);
  assert.notDeepEqual(
    compareRuns(runs, { seed: 2 }).average.differences,
    first.average.differences,
  );
  const only = compareRuns(runs, { columns: ["COPA"] });
  assert.deepEqual(only.columns, first.columns.filter(({ column }) => column === "COPA"));
  assert.equal(only.label, "average of 1 column");
});

Deno.test("the interval is that of the difference of means under resampling", () => {
  // One template, 400 rows, 40 more right: the normal approximation is good.
  const a = "1".repeat(160) + "0".repeat(240), b = "1".repeat(200) + "0".repeat(200);
  const { columns: [column], average } = compareRuns([
    { name: "a", results: [result("RTE", "1", a)] },
    { name: "b", results: [result("RTE", "1", b)] },
  ]);
  const { value, low, high } = column.differences[0];
  const deviation = Math.sqrt(0.1 * 0.9 / 400);
  near(value, 0.1, 1e-12);
  near(low, 0.1 - 1.96 * deviation, 0.004);
  near(high, 0.1 + 1.96 * deviation, 0.004);
  assert.deepEqual(average.differences, column.differences);
});

Deno.test("about 95 of 100 intervals hold the true difference", () => {
  let held = 0;
  for (let trial = 0; trial < 200; trial++) {
    // The easier half of the second run's extra answers are shared by its two templates.
    const random = new Random(key(trial, 3));
    const rows = Array.from({ length: 120 }, () => [random.uniform(), random.uniform()]);
    const right = (share: number, t: number) =>
      rows.map(([common, own]) => (t === 0 ? common : (common + own) % 1) < share ? "1" : "0").join(
        "",
      );
    const run = (name: string, share: number) => ({
      name,
      results: [0, 1].map((t) => result("RTE", `${t}`, right(share, t))),
    });
    const { low, high } = compareRuns([run("a", 0.5), run("b", 0.62)], { resamples: 400 })
      .average.differences[0];
    if (low <= 0.12 && 0.12 <= high) held++;
  }
  assert.ok(held >= 180 && held <= 199, `${held} of 200`);
});

Deno.test("examples that a run skipped in a template do not count there", () => {
  const a = [result("RTE", "1", "1-00"), result("RTE", "2", "0000")];
  const b = [result("RTE", "1", "1110"), result("RTE", "2", "10-0")];
  const { columns: [column] } = compareRuns([{ name: "a", results: a }, { name: "b", results: b }]);
  assert.equal(column.templates, 2);
  assert.equal(column.examples, 4);
  near(column.means[0], (1 / 3 + 0) / 2, 1e-12);
  near(column.means[1], (2 / 3 + 1 / 3) / 2, 1e-12);
  near(column.differences[0].value, 1 / 3, 1e-12);
  const { low, high } = column.differences[0];
  assert.ok(low >= 0 && low < 1 / 3 && high > 1 / 3 && high <= 1);
});

Deno.test("what not all runs have is left out, and noted", () => {
  const a = [
    ...["1", "2", "3", "4"].map((name) => result("CB", name, "0101")),
    result("RTE", "1", "01"),
    result("WSC", "1", "01"),
  ];
  const b = [
    result("CB", "1", "1111"),
    result("CB", "2", "111"),
    result("CB", "4", "----"),
    result("WSC", "1", "11"),
  ];
  const { columns, label, notes } = compareRuns([
    { name: "a", results: a },
    { name: "b", results: b },
  ]);
  assert.deepEqual(columns.map(({ column, templates }) => [column, templates]), [
    ["CB", 1],
    ["WSC", 1],
  ]);
  assert.match(label, /^average of 2 of 11 columns \(missing: RTE, /);
  assert.deepEqual(notes.slice(1), [
    "CB: left out, other rows in other runs: '2'.",
    "CB: left out, not in all runs: '3'.",
    "CB: left out, no example that all runs judged: '4'.",
    "RTE: left out, not in all runs: all templates.",
  ]);
});

Deno.test("runs that cannot be compared are refused", () => {
  const results = [result("RTE", "1", "01")];
  const other = [result("RTE", "1", "011")];
  assert.throws(() => compareRuns([{ name: "a", results }]), /two or more runs/);
  assert.throws(
    () => compareRuns([{ name: "a", results }, { name: "a", results }]),
    /expected different names, got a, a/,
  );
  assert.throws(
    () => compareRuns([{ name: "a", results }, { name: "b", results: other }]),
    /a, b: no template was evaluated on the same rows in all of them/,
  );
});

Deno.test("three runs are each compared to the first", () => {
  const runs = ["0011", "0111", "1111"].map((correct, i) => ({
    name: `run ${i}`,
    results: [result("trec", "1", correct)],
  }));
  const comparison = compareRuns(runs, { resamples: 50 });
  assert.deepEqual(comparison.average.means, [0.5, 0.75, 1]);
  assert.deepEqual(comparison.average.differences.map(({ value }) => value), [0.25, 0.5]);
  assert.match(comparisonLines(comparison)[0], /run 0 +run 1 +difference .* run 2 +difference/);
});

Deno.test("two runs over all of T0 Eval are compared within seconds", () => {
  const runs = [1, 2].map((n) => ({ name: `${n}`, results: simulated(n, 0.6, 1600) }));
  const begun = performance.now();
  compareRuns(runs);
  assert.ok(performance.now() - begun < 10_000);
});

// --- page ---

const VOID = new Set(["meta", "br"]);

/** Checks that every tag is closed, in order. */
function expectClosed(html: string): void {
  const open: string[] = [];
  const text = html.replace(/<style>[\s\S]*?<\/style>/, "").replace("<!doctype html>", "");
  for (const [tag, close, name, self] of text.matchAll(/<(\/?)([a-zA-Z0-9]+)[^<>]*?(\/?)>/g)) {
    if (self || VOID.has(name)) continue;
    if (!close) open.push(name);
    else assert.equal(open.pop(), name, `${tag} closes another tag`);
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(text.replaceAll(/<\/?[a-zA-Z0-9]+(\s[^<>]*)?>/g, ""), /[<>]/);
}

/** The drawings of a page: for each its label and how many dots and diamonds it has. */
function drawings(html: string) {
  return [...html.matchAll(/<svg role="img" aria-label="([^"]*)"[\s\S]*?<\/svg>/g)].map((m) => {
    const symbols = [...m[0].matchAll(/class="mark-symbol[^>]*>([\s\S]*?)<\/g>/g)]
      .map(([, group]) => [...group.matchAll(/<path /g)].length);
    return { label: m[1], symbols };
  });
}

const RUNS = [0, 1].map((n) => ({
  name: `runs/${n}`,
  results: simulated(n, 0.6 - n / 10, 40),
}));
const SUMMARIES = RUNS.map(({ name, results }) => ({ name, summary: summarize(results) }));

Deno.test({
  name: "every task has a drawing with a dot per template, and words for it",
  permissions: "none",
  async fn() {
    const [average, ...panels] = drawings(await stripPlots(SUMMARIES));
    assert.match(
      average.label,
      /^Average over tasks: runs\/0 \d+\.\d\d%; runs\/1 .*guessing 41\.67%/,
    );
    assert.deepEqual(panels.map(({ label }) => label.split(":")[0]), COLUMNS);
    // Two runs: twice the dots, and two diamonds.
    assert.deepEqual(panels.map(({ symbols }) => symbols), TEMPLATES.map((n) => [2 * n, 2]));
    assert.match(
      panels[0].label,
      /^RTE: runs\/0, 10 templates from \S+% to \S+%, median \S+%, mean/,
    );
  },
});

Deno.test("templates of equal accuracy do not cover each other", async () => {
  const results = Array.from({ length: 15 }, (_, t) => result("trec", `${t}`, "10"));
  const svg = (await stripPlots([{ name: "a", summary: summarize(results) }])).split("<svg ")[2];
  const [dots] = svg.split('class="mark-symbol')[1].split("</g>");
  const places = [...dots.matchAll(/translate\(([^)]*)\)/g)].map((m) => m[1]);
  assert.equal(places.length, 15);
  assert.equal(new Set(places).size, 15);
});

Deno.test("a page of results is whole, closed, and needs nothing else", async () => {
  const comparison = compareRuns(RUNS, { resamples: 100 });
  const page = await resultsPage({ name: "runs/0", runs: SUMMARIES, comparison });
  expectClosed(page);
  const references = page.replaceAll(/xmlns(:xlink)?="[^"]*"/g, "");
  assert.doesNotMatch(references, /<script|<link|<img|https?:|url\(|@import|href=/);
  assert.match(page, /<title>Zero-shot evaluation of runs\/0<\/title>/);
  assert.match(page, /The average is the 11-column average \(ANLI three times\)\./);
  assert.match(page, /<h2>Comparison<\/h2>/);
  assert.match(page, /<tfoot>\n<tr><th scope="row">average<\/th>/);
  const rows = page.split("<details")[1].match(/<tr><th scope="row">/g);
  assert.equal(rows?.length, 112);
  assert.deepEqual(page, await resultsPage({ name: "runs/0", runs: SUMMARIES, comparison }));
});

Deno.test("a page of one run has no comparison; names from outside are escaped", async () => {
  const summary = summarize([result("<b>$&", '"><i>', "10")]);
  const page = await resultsPage({ name: "<u>&", runs: [{ name: "<s>", summary }] });
  expectClosed(page);
  assert.doesNotMatch(page, /<b>|<i>|<u>|<s>|Comparison/);
  assert.match(page, /aria-label="&lt;b&gt;\$&amp;: &lt;s&gt;, 1 template from 50\.00% to 50\.00%/);
});

Deno.test("in bold are the differences whose interval leaves out 0", async () => {
  const run = (name: string, correct: string) => ({
    name,
    results: [result("trec", "1", correct), result("imdb", "1", "0110")],
  });
  const runs = [run("a", "0".repeat(50)), run("b", "1".repeat(40) + "0".repeat(10))];
  const summaries = runs.map(({ name, results }) => ({ name, summary: summarize(results) }));
  const page = await resultsPage({ name: "a", runs: summaries, comparison: compareRuns(runs) });
  assert.match(page, /<th scope="row">trec<\/th>.*<td><strong>\+80\.00<\/strong><\/td><td>\[/);
  assert.match(page, /<th scope="row">imdb<\/th>.*<td>0\.00<\/td><td>\[0\.00, 0\.00\]<\/td>/);
});

Deno.test("names of result files are one to one with datasets and templates", async () => {
  const names = [
    "why?",
    "why!",
    "Why ",
    "why",
    "é",
    "e\u0301",
    "x".repeat(300),
    `${"x".repeat(300)}y`,
  ];
  const asked = ["d", "d/x", "d_x"].flatMap((dataset) =>
    [...names, "漢".repeat(90)].map((template) => ({ dataset, template }))
  );
  await inFolder(async (folder) => {
    const files = await resultNames(folder, [...asked, asked[0]]);
    assert.equal(files.at(-1), files[0]);
    const onDisk = new Set(files.map((file) => file.normalize("NFC").toLowerCase()));
    assert.equal(onDisk.size, asked.length, "also where capitals are not told");
    for (const [i, { dataset, template }] of asked.entries()) {
      const written = result("c", template, "10", {
        dataset_name: dataset.split("/")[0],
        dataset_config_name: dataset.split("/")[1] ?? null,
      });
      await writeResult(folder, files[i], written);
    }
    const read = await readResults(folder);
    assert.equal(read.length, asked.length);
    // Later, alone: what another template has written stays.
    const [alone] = await resultNames(folder, [{ dataset: "d", template: "a" }]);
    assert.equal(alone, "d_a");
    await writeResult(folder, "d_a", result("c", "A", "1", { dataset_name: "d" }));
    const [beside] = await resultNames(folder, [{ dataset: "d", template: "a" }]);
    assert.match(beside, /^d_a-[0-9a-f]{12}$/);
  });
});
