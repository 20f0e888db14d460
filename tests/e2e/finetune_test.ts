// `deno task finetune` from the outside: same seed, same run; killed and resumed, same weights; the same
// rows in any format, same training; what is dropped is counted; bad input, one line.

import assert from "node:assert/strict";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parquetMetadata } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";
import { Random } from "../../ops/graph/random.ts";
import { openTensors } from "../../tasks/checkpoints/tensors.ts";
import { float } from "../../tasks/rows/row.ts";
import { start } from "./command.ts";
import {
  assertAgree,
  fail,
  type Flags,
  forEach,
  inTime,
  isThere,
  json,
  jsonLines,
  kill,
  metricsOf,
  outcome,
  pretrainSmall,
  put,
  someWords,
  succeed,
  templatesFile,
  until,
  untilTrained,
  words,
} from "./prompted.ts";
import { randomMoment } from "./small_run.ts";

let folder = "", pretrained = "";
/** The run that others must repeat. */
let whole = "";

const SMALL: Flags = {
  "source-length": "56",
  "target-length": "16",
  "source-shapes": "1",
  "target-shapes": "1",
  "batch-size": "4",
  "micro-batch": "224",
  "peak-learning-rate": "0.01",
  "seed": "3",
};

/** A run that meets three epochs in windows of 16 examples. */
const LONG: Flags = {
  ...SMALL,
  "mixture": "notes",
  "source-shapes": "2",
  "window": "16",
  "updates": "20",
  "log-every": "3",
  "evaluate-every": "9",
  "evaluate-examples": "8",
  "save-every": "0",
};

const finetune = (flags: Flags) => succeed("finetune", words(flags));
const longFlags = (changes: Flags) => {
  const data = join(folder, "rows"), templates = join(folder, "templates");
  return { run: pretrained, data, templates, ...LONG, ...changes };
};
const shortFlags = (changes: Flags) =>
  longFlags({ updates: "3", "evaluate-every": undefined, "log-every": "1", ...changes });

// ---- Rows: an opinion, with all that formats may stumble over ----

interface Note {
  text: string;
  stars: number;
  remark: string | null;
  label: number;
}

const notes = (count: number, seed: number): Note[] =>
  Array.from({ length: count }, (_, i) => ({
    text: [`${someWords(seed + i, 3)}, ${i}`, `A "fine"\nold café ${i}`, "1.50"][i % 3],
    stars: 1 + i % 8 / 2,
    remark: i % 4 === 0 ? "so, so" : null,
    label: i % 2,
  }));

const TRAIN = notes(18, 100), VALIDATION = notes(6, 200);

const CHOICES = ["bad", "good"];

/** Templates, and what they make of a row. */
const TEMPLATES = [
  {
    name: "good or bad?",
    jinja: "{{ text }} ({{ stars }}) {% if remark %}{{ remark }} {% endif %}Good or bad? ||| " +
      "{{ answer_choices[label] }}",
    choices: "bad ||| good",
    prompt: ({ text, stars, remark }: Note) => {
      const float = Number.isInteger(stars) ? `${stars}.0` : `${stars}`;
      return `${text} (${float}) ${remark === null ? "" : `${remark} `}Good or bad?`;
    },
  },
  {
    name: "say it",
    jinja: "Say of {{ text }}: ||| {{ answer_choices[label] }}",
    choices: "bad ||| good",
    prompt: ({ text }: Note) => `Say of ${text}:`,
  },
];

function asJsonLines(rows: readonly Note[]): string {
  return jsonLines(rows.map((row) => ({ ...row, stars: float(row.stars) })));
}

function asCsv(rows: readonly Note[]): string {
  const cell = (text: string) => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  const lines = rows.map(({ text, stars, remark, label }) =>
    [cell(text), stars.toFixed(1), cell(remark ?? ""), `${label}`].join(",")
  );
  return ["text,stars,remark,label", ...lines, ""].join("\r\n");
}

function asParquet(rows: readonly Note[], rowGroupSize = 4): Uint8Array {
  const columnData = (["text", "stars", "remark", "label"] as const)
    .map((name) => ({ name, data: rows.map((row) => row[name]) }));
  return new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize }));
}

/** The rows of one template in P3, whose texts are not stripped. */
function asP3(rows: readonly Note[], { prompt }: typeof TEMPLATES[number]): string {
  return jsonLines(rows.map((row) => ({
    answer_choices: CHOICES,
    inputs: [1, 2, 3],
    inputs_pretokenized: `\n${prompt(row)} `,
    targets: [4, 1],
    targets_pretokenized: `${CHOICES[row.label]}\n`,
  })));
}

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-finetune-"));
  const at = (...path: string[]) => join(folder, ...path);
  await put(at("templates/notes/templates.yaml"), templatesFile(TEMPLATES));
  for (const [split, rows] of [["train", TRAIN], ["validation", VALIDATION]] as const) {
    await put(at(`rows/notes/${split}.jsonl`), asJsonLines(rows));
    await put(at(`csv/notes/${split}.csv`), asCsv(rows));
    await put(at(`parquet/notes/${split}.parquet`), asParquet(rows));
    for (const [i, name] of ["notes_good_or_bad_", "notes_say_it"].entries()) {
      await put(at(`p3/${name}/${split}.jsonl`), asP3(rows, TEMPLATES[i]));
    }
  }
  pretrained = await pretrainSmall(folder);
  // Without --out it lies within the pretrained run.
  whole = join(pretrained, "notes");
  // Mostly, commands wait for the device: side by side they take little longer than one.
  await Promise.all([
    finetune(longFlags({})),
    finetune(longFlags({ out: at("same"), workers: "2" })),
    finetune(longFlags({ out: at("other"), seed: "4" })),
    ...["csv", "parquet", "p3"].map((name) =>
      finetune(longFlags({ data: at(name), out: at(`from-${name}`) }))
    ),
  ]);
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

Deno.test("the same seed gives the same run, bit for bit; another seed does not", async () => {
  assert.deepEqual(await outcome(join(folder, "same")), await outcome(whole));
  assert.notDeepEqual(await metricsOf(join(folder, "other")), await metricsOf(whole));
});

Deno.test("the run folder holds everything, and of the weights only the main model's", async () => {
  const files = await readdir(whole);
  for (
    const file of [
      ...["config.json", "tokenizer.json", "model.safetensors", "optimizer.safetensors"],
      ...["training.json", "metrics.jsonl", "mixture.json", "report.html"],
    ]
  ) assert.ok(files.includes(file), `${file} is missing`);
  assert.match(await readFile(join(whole, "report.html"), "utf8"), /<svg/);
  const config = await json(join(whole, "config.json"));
  assert.deepEqual([config.kind, config.from, config.datasets], ["finetune", pretrained, [
    "notes",
  ]]);
  const kinds = (await metricsOf(whole)).map((line) => JSON.parse(line))
    .map(({ kind, update }) => `${kind} ${update}`);
  const heldout = [0, 9, 18, 20].map((update) => `heldout ${update}`);
  assert.deepEqual(kinds.filter((kind) => kind.startsWith("heldout")), heldout);

  const names = async (run: string) => {
    const tensors = await openTensors(join(run, "model.safetensors"));
    await tensors.close();
    return tensors.names;
  };
  const extra = /aux|generator|rtd/i;
  const all = await names(pretrained);
  assert.ok(all.some((name) => extra.test(name)), all.join(" "));
  assert.deepEqual(
    (await names(whole)).toSorted(),
    all.filter((name) => !extra.test(name)).toSorted(),
  );
});

Deno.test("killed at random moments and resumed, also with other threads, a run ends with the same bits", async () => {
  const torn = join(folder, "torn");
  const random = new Random(2026);
  let process = start("finetune", words(longFlags({ out: torn, "save-every": "7" })));
  await until(join(torn, "training.json"));
  // The first time soon after a checkpoint.
  for (const workers of ["2", "3"]) {
    const job = process;
    if (workers === "2") kill(job);
    else randomMoment(job, torn, random).then(() => kill(job));
    const { code, err } = await inTime(job);
    // On a fast machine it may be done before it is killed; resuming then finds nothing left to do.
    assert.ok(code === 137 || code === 0, err);
    process = start("finetune", ["--run", torn, "--resume", "--workers", workers]);
  }
  assert.equal((await inTime(process)).code, 0);
  assert.deepEqual(await outcome(torn), await outcome(whole));
});

Deno.test("Ctrl-C saves a checkpoint and exits cleanly; the resumed run is the same run", async () => {
  const stopped = join(folder, "stopped"), calm = join(folder, "calm");
  // Long enough to be stopped in time.
  const updates = { "updates": "150", "evaluate-every": "50" };
  await finetune(longFlags({ ...updates, out: calm }));
  const process = start("finetune", words(longFlags({ ...updates, out: stopped })));
  await untilTrained(stopped);
  process.kill("SIGINT");
  const { code, err } = await inTime(process);
  assert.equal(code, 0, err);
  assert.match(err, /Saved update \d+ in .*; go on with --resume/);
  // Flags may be repeated.
  const { err: resumed } = await finetune(longFlags({ ...updates, out: stopped, resume: "" }));
  assert.match(resumed, /Resumed at update \d+ of 150/);
  assert.deepEqual(await outcome(stopped), await outcome(calm));
});

Deno.test("two devices finetune as one does", async () => {
  const one = join(folder, "one-device"), two = join(folder, "two-devices");
  const flags = { updates: "6", "log-every": "1", "evaluate-every": "3" };
  await finetune(longFlags({ ...flags, out: one }));
  await finetune(longFlags({ ...flags, out: two, devices: "2" }));
  await assertAgree(one, two);
  const [a, b] = await Promise.all([one, two].map((run) => json(join(run, "mixture.json"))));
  assert.deepEqual(a, b);
  const { err } = await succeed("finetune", [
    ...words(longFlags({ ...flags, out: one })),
    "--requeue",
  ]);
  assert.match(err, /Resumed at update 6 of 6/);
});

Deno.test("a run folder is resumed as it was begun, or not at all", async () => {
  const fresh = join(folder, "fresh"), nowhere = join(folder, "nowhere");
  await mkdir(fresh);
  for (const file of ["config.json", "tokenizer.json"]) {
    await cp(join(whole, file), join(fresh, file));
  }
  const cases: [string[], RegExp][] = [
    [words(longFlags({})), /already holds a run/],
    [["--run", whole, "--resume", "--batch-size", "8"], /--batch-size: .* with 4, got 8/],
    [["--run", whole, "--resume", "--mixture", "all"], /--mixture: .* \["notes"\], got \["all"\]/],
    [["--run", whole, "--resume", "--mixing", "tzero"], /--mixing: .* "metro", got "tzero"/],
    [["--run", whole, "--resume", "--skip-bad"], /--skip-bad: .* with false, got true/],
    [["--run", pretrained, "--resume"], /is a pretraining run/],
    [["--run", nowhere, "--resume"], /no run to resume/],
    [["--run", fresh, "--resume"], /no checkpoint yet; start it again by the same command/],
  ];
  const before = await outcome(whole);
  await forEach(cases, ([args, expected]) => fail("finetune", args, expected));
  assert.deepEqual(await outcome(whole), before);
});

Deno.test("eval_t0 and generate take the finetuning run inside a pretrained run; of two, one must be named", async () => {
  const outer = join(folder, "outer");
  await cp(pretrained, outer, { recursive: true });
  // Whoever took the pretrained model itself would stumble.
  await truncate(join(outer, "model.safetensors"), 1000);
  const data = ["--data", join(folder, "rows"), "--templates", join(folder, "templates")];
  const evaluate = ["--run", outer, ...data, "--tasks", "notes"];
  const ask = (...run: string[]) => ["--run", ...run, "--max-tokens", "4", "Say", "of"];
  const [inside, named] = await Promise.all([
    succeed("generate", ask(outer)),
    succeed("generate", ask(whole)),
    succeed("eval_t0", evaluate),
    fail("generate", ask(outer, "--pretrained"), /model\.safetensors: cannot be used/),
    fail("eval_t0", [...evaluate, "--pretrained"], /model\.safetensors: cannot be used/),
  ]);
  assert.equal(inside.out, named.out);
  assert.ok((await readdir(join(outer, "notes", "eval"))).includes("results.html"));
  assert.ok(!await isThere(join(outer, "eval")));

  await cp(join(outer, "notes"), join(outer, "again"), { recursive: true });
  const choose = /was finetuned 2 times; choose one: --run .*again, --run .*notes$/;
  const compare = ["--run", whole, ...data, "--tasks", "notes", "--compare", outer];
  await Promise.all([
    fail("eval_t0", evaluate, choose),
    fail("generate", ask(outer), choose),
    fail("eval_t0", compare, /holds 2 evaluated runs; choose one: --compare .*again, --compare /),
  ]);
});

// ---- Formats and mixtures ----

Deno.test("the same rows as JSONL, CSV and Parquet train the same model", async () => {
  for (const name of ["from-csv", "from-parquet"]) {
    assert.deepEqual(await outcome(join(folder, name)), await outcome(whole), name);
  }
});

Deno.test("folders of P3, named after a dataset's templates, train as its own rows do", async () => {
  const out = join(folder, "from-p3");
  assert.deepEqual(await metricsOf(out), await metricsOf(whole));
  const { datasets } = await json(join(out, "mixture.json"));
  assert.deepEqual(
    datasets.map(({ dataset, rows, templates }: Record<string, unknown>) => [
      ...[dataset, rows, templates],
    ]),
    ["notes_good_or_bad_", "notes_say_it"].map((name) => [name, 18, ["pre-rendered"]]),
  );
  // Evaluated on the dataset itself, the model must not pass for one that has never seen it.
  const trained = (await json(join(out, "config.json"))).datasets;
  assert.deepEqual(trained.toSorted(), ["notes", "notes_good_or_bad_", "notes_say_it"]);
});

Deno.test("what METRO's and T0's rules drop is counted in mixture.json", async () => {
  const data = join(folder, "droppable"), templates = join(folder, "droppable-templates");
  const good = { prompt: "What?", answer: "that", asked: true, options: ["this", "that"] };
  const rows = [
    ...Array.from({ length: 5 }, () => good),
    ...Array.from({ length: 2 }, () => ({ ...good, answer: "" })),
    { ...good, prompt: "" },
    { ...good, asked: false },
    { ...good, options: [] },
    { ...good, options: ["this ||| that"] },
    { ...good, prompt: someWords(1, 80) },
    { ...good, answer: someWords(2, 40) },
  ];
  await put(join(data, "questions/train.jsonl"), jsonLines(rows));
  await put(
    join(templates, "questions/templates.yaml"),
    templatesFile([
      { name: "plain", jinja: "{{ prompt }} ||| {{ answer }}" },
      { name: "if", jinja: "{% if asked %}{{ prompt }} ||| {{ answer }}{% endif %}" },
      { name: "any", jinja: "{{ prompt }} ||| {{ options | choice }}", original: false },
    ]),
  );
  const ready = [["Who?", "he"], ["When?", ""], ["", "yes"]].map(([input, target]) => ({
    inputs_pretokenized: input,
    targets_pretokenized: target,
  }));
  await put(join(data, "ready/train.jsonl"), jsonLines(ready));
  await put(join(data, "unwanted/train.jsonl"), jsonLines(ready));
  const list = join(folder, "my list.txt");
  await put(list, "# mine\nready\n\nquestions # all templates\nlost\n");

  const parent = join(folder, "parent");
  await cp(pretrained, parent, { recursive: true });
  const of = async (mixing: string, out?: string) => {
    const flags = { run: parent, data, templates, mixture: list, mixing, "allow-missing": "", out };
    await finetune(shortFlags({ ...flags, window: undefined, "source-shapes": "1" }));
    return await json(join(out ?? join(parent, "my list"), "mixture.json"));
  };
  const [metro, tzero] = await Promise.all([of("metro"), of("tzero", join(folder, "run-tzero"))]);

  const { table: _m, used: _u, sha256, ...about } = metro;
  assert.match(sha256, /^[0-9a-f]{64}$/);
  assert.deepEqual(about, {
    name: list,
    rule: "metro",
    templates,
    missing: ["lost"],
    datasets: [
      {
        dataset: "questions",
        splits: ["train"],
        rows: 13,
        skipped: 0,
        templates: ["plain", "if", "any"],
        cap: 13,
      },
      {
        dataset: "ready",
        splits: ["train"],
        rows: 3,
        skipped: 0,
        templates: ["pre-rendered"],
        cap: 3,
      },
    ],
  });
  const none = { noTarget: 0, noInput: 0, bad: 0, sourceCut: 0, targetCut: 0 };
  // The long prompt comes thrice, the long answer twice; `asked` and ` ||| ` leave no two parts.
  const questions = { ...none, seen: 39, parts: 2, noChoice: 1, sourceCut: 3, targetCut: 2 };
  const expected = {
    metro: [
      { ...questions, noTarget: 4 },
      { ...none, seen: 3, parts: 0, noChoice: 0, noTarget: 1 },
    ],
    tzero: [
      { ...questions, noInput: 3 },
      { ...none, seen: 3, parts: 0, noChoice: 0, noInput: 1 },
    ],
  };
  for (const [rule, { table, used }] of Object.entries({ metro, tzero })) {
    const counts = expected[rule as keyof typeof expected];
    assert.deepEqual(table.map((t: { counts: object }) => t.counts), counts, rule);
    assert.deepEqual(table.map((t: { share: number }) => t.share), [39 / 42, 3 / 42]);
    // Three updates are less than an epoch, and its first window holds all of it.
    const names = ["questions", "ready"];
    assert.deepEqual(used, counts.map((c, i) => ({ dataset: names[i], ...c })), rule);
  }
});

// ---- Bad input ----

/** A Parquet file in which a page of the second row group is damaged. */
function damagedParquet(rows: readonly Note[]): Uint8Array {
  const bytes = asParquet(rows);
  const [, group] = parquetMetadata(bytes.buffer as ArrayBuffer).row_groups;
  const page = Number(group.columns[0].meta_data!.data_page_offset);
  return bytes.fill(0xff, page + 40, page + 60);
}

/** Without the label, which is null if other rows have it. */
const lacking = ({ text, stars, remark }: Note) => ({ text, stars, remark });

Deno.test("bad input gets one line and leaves nothing behind", async () => {
  const at = (...path: string[]) => join(folder, "bad", ...path);
  const rowsAt = async (name: string, file: string, contents: string | Uint8Array) => {
    await put(at(name, "notes", file), contents);
    return { data: at(name) };
  };
  const templatesAt = async (name: string, text: string) => {
    await put(at(name, "notes/templates.yaml"), text);
    return { templates: at(name) };
  };
  const many = notes(120, 300);
  const late = {
    name: "late",
    jinja: "{{ text.lower() }} ||| {{ answer_choices[label] }}",
    choices: "bad ||| good",
  };
  const bare = at("bare");
  await mkdir(bare, { recursive: true });
  for (const file of ["config.json", "tokenizer.json"]) {
    await cp(join(pretrained, file), join(bare, file));
  }
  const cases: [Flags, RegExp][] = [
    [
      await templatesAt("syntax", templatesFile([{ name: "x", jinja: "a\n{% if %} ||| b" }])),
      /syntax.notes.templates\.yaml: template 'x': jinja line 2: /,
    ],
    [
      {
        ...await templatesAt("syntax", templatesFile([{ name: "x", jinja: "a\n{% if %} ||| b" }])),
        "skip-bad": "",
      },
      /syntax.notes.templates\.yaml: template 'x': jinja line 2: /,
    ],
    [
      await templatesAt("yaml", "dataset: d\ntemplates:\n  1: !Template\n   a: [\n"),
      /yaml.notes.templates\.yaml:\d+: not YAML/,
    ],
    [
      await rowsAt("field", "train.jsonl", jsonLines(TRAIN.map(lacking))),
      /notes train, row \d+: no field 'label', which template '.*' reads; the row has text, stars/,
    ],
    [
      {
        // Beyond the rows that the table looks at.
        ...await rowsAt("late", "train.jsonl", jsonLines([...many, { ...many[0], text: null }])),
        ...await templatesAt("late-templates", templatesFile([late])),
      },
      /notes train, row 120, template 'late': 'NoneType' object has no attribute 'lower'/,
    ],
    [await rowsAt("json", "train.jsonl", '{"text": "a"}\n{"text": \n'), /train\.jsonl:2: not JSON/],
    [
      await rowsAt("page", "train.parquet", damagedParquet(TRAIN)),
      /train\.parquet, row group 1 \(rows 4 to 7\): damaged/,
    ],
    [await rowsAt("empty", "train.jsonl", ""), /train\.jsonl: holds no rows/],
    [await rowsAt("heldout", "validation.jsonl", asJsonLines(TRAIN)), /notes \(no train split\)/],
    [{ mixture: "nodes" }, /nodes \(no rows; did you mean notes\?\)/],
    [{ mixture: at("no.txt") }, /no\.txt: no such file/],
    [{ data: undefined }, /--templates is given without --data/],
    [{ templates: undefined }, /--data is given without --templates/],
    [{ data: at("nowhere") }, /nowhere: no such folder/],
    [{ templates: at("nowhere") }, /nowhere: cannot be read: no such file or folder/],
    [{ run: at("nowhere") }, /nowhere: expected the folder of a run/],
    [{ run: undefined }, /expected --run FOLDER/],
    [{ run: bare }, /bare: the run has no weights yet/],
    [{ "batch-sise": "4" }, /unknown flag --batch-sise; did you mean --batch-size\?/],
    [{ "source-length": "5000" }, /--source-length: expected at most \d+ positions, got 5000/],
    [{ "micro-batch": "8" }, /--micro-batch: expected at least one example of 56, got 8/],
    [{ "mixing": "t-zero" }, /--mixing: .*did you mean tzero\?/],
  ];
  await forEach(cases, async ([changes, expected], i) => {
    const never = at(`never-${i}`);
    await fail(
      "finetune",
      words(shortFlags({ out: never, window: undefined, ...changes })),
      expected,
    );
    assert.ok(!await isThere(never), JSON.stringify(changes));
  });
  // What was there before stays, and nothing comes to it.
  const own = at("own");
  await put(join(own, "mine.txt"), "mine");
  await fail("finetune", words(shortFlags({ out: own, data: at("field") })), /no field 'label'/);
  assert.deepEqual(await readdir(own), ["mine.txt"]);
});

Deno.test("with --skip-bad, unusable rows are counted, listed and left out", async () => {
  const data = join(folder, "skip"), out = join(folder, "run-skip");
  const broken = '{"text": \n';
  await put(join(data, "notes/train-00000-of-00002.jsonl"), asJsonLines(TRAIN) + broken);
  await put(join(data, "notes/train-00001-of-00002.jsonl"), jsonLines([lacking(TRAIN[0])]));
  await put(join(data, "notes/validation.jsonl"), broken + asJsonLines(VALIDATION));
  const page = join(folder, "skip-page"), pageOut = join(folder, "run-page");
  await put(join(page, "notes/train.parquet"), damagedParquet(TRAIN));
  const flags = { window: undefined, "skip-bad": "" };
  const [{ err }, { err: told }] = await Promise.all([
    finetune(shortFlags({ ...flags, data, out })),
    finetune(shortFlags({ ...flags, data: page, out: pageOut })),
  ]);
  assert.match(
    err,
    /skipped: rows that cannot be read: 1, unusable examples: 0; the first of them:/,
  );
  assert.match(err, /train-00000-of-00002\.jsonl:19: not JSON/);
  const { datasets, table, used } = await json(join(out, "mixture.json"));
  assert.deepEqual([datasets[0].rows, datasets[0].skipped], [19, 1]);
  assert.deepEqual([table[0].counts.seen, table[0].counts.bad], [38, 0]);
  assert.deepEqual([used[0].seen, used[0].bad], [38, 0]);

  assert.match(told, /row group 1 \(rows 4 to 7\): damaged/);
  const [{ rows, skipped }] = (await json(join(pageOut, "mixture.json"))).datasets;
  assert.deepEqual([rows, skipped], [14, 1]);
});
