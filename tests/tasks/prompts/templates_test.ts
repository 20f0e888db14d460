// Prompt templates: promptsource's own (beside the repository; skipped elsewhere), and small ones for
// each rule of applying, finding, reading and linting them.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../../ops/graph/errors.ts";
import { lintTemplates } from "../../../tasks/prompts/lint.ts";
import { normalizeRow, RenderError, Template } from "../../../tasks/prompts/template.ts";
import { openTemplates, taskName } from "../../../tasks/prompts/templates.ts";
import { goldenJson, hasGolden } from "../../models/golden.ts";

const PROMPTSOURCE = fileURLToPath(
  new URL("../../../../shared/data/promptsource/v0.1.0", import.meta.url),
);
const ignore = !hasGolden;
if (ignore) console.log("templates: promptsource's are not here, skipping them");

let scratch: string;
Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "templates-"));
});
Deno.test.afterAll(() => rm(scratch, { recursive: true }));

const PROTECTOR = "3ed2dface8203c4c9dfb1a5dc58e41e0";

function template(jinja: string, answerChoices: string | null = null, name = "it"): Template {
  return new Template({
    ...{ name, id: "1", dataset: "copa", file: "copa/templates.yaml", jinja, answerChoices },
    ...{ originalTask: true, choicesInPrompt: null, metrics: [], reference: "" },
  });
}

function parts(jinja: string, row: Record<string, unknown>, truncate = true): string[] {
  return template(jinja).apply(row, { truncate }).parts;
}

function entry(changes: Record<string, string | undefined> = {}): string {
  const keys = {
    ...{ answer_choices: "null", jinja: "'{{ a }} ||| {{ b }}'", name: "first" },
    ...{ metadata: "!TemplateMetadata {original_task: true, metrics: [Accuracy]}", ...changes },
  };
  const lines = Object.entries(keys).filter(([, value]) => value !== undefined);
  return `  k1: !Template\n${lines.map(([key, value]) => `    ${key}: ${value}\n`).join("")}`;
}

/** A folder of templates with these files. */
async function folderOf(files: Record<string, string>): Promise<string> {
  const folder = await mkdtemp(join(scratch, "folder-"));
  for (const [dataset, text] of Object.entries(files)) {
    const file = join(folder, dataset, "templates.yaml");
    await mkdir(dirname(file), { recursive: true });
    await writeFile(file, text);
  }
  return folder;
}

function refused(run: () => unknown, message: RegExp): void {
  assert.throws(run, (error) => error instanceof UserError && message.test(error.message));
}

// --- promptsource's ---

Deno.test({
  name: "templates: all 516 of promptsource load, compile, and know their fields",
  ignore,
  fn() {
    const templates = openTemplates(PROMPTSOURCE);
    const examples = goldenJson<Record<string, Record<string, object>>>("prompts/examples.json");
    assert.equal(templates.datasets.length, 59);
    assert.deepEqual(templates.datasets, [...templates.datasets].sort());
    const all = templates.datasets.flatMap((dataset) => templates.of(dataset));
    assert.equal(all.length, 516);
    assert.equal(all.filter((template) => template.usesChoice).length, 103);
    for (const template of all) {
      template.compile();
      const rows = examples[template.dataset] ?? examples[`${template.dataset}/None`];
      const known = new Set(Object.values(rows).flatMap(Object.keys));
      assert.deepEqual(template.fields.filter((field) => !known.has(field)), [], template.name);
      assert.ok(template.fields.length > 0, template.name);
    }
  },
});

Deno.test({
  name: "templates: every one of promptsource has golden renders",
  ignore,
  fn() {
    const templates = openTemplates(PROMPTSOURCE);
    const url = new URL("../../../../shared/golden/prompts/renders.jsonl", import.meta.url);
    const lines = Deno.readTextFileSync(url).trim().split("\n").map((line) => JSON.parse(line));
    const rendered = new Set(lines.map(({ ds, name }) => `${ds.replace(/\/None$/, "")}\n${name}`));
    for (const dataset of templates.datasets) {
      for (const { name } of templates.of(dataset)) assert.ok(rendered.has(`${dataset}\n${name}`));
    }
    assert.equal(rendered.size, 516);
  },
});

Deno.test({
  name: "templates: T0 evaluates 86, which are the original tasks with choices",
  ignore,
  fn() {
    const templates = openTemplates(PROMPTSOURCE);
    const superGlue = ["cb", "copa", "rte", "wic", "wsc.fixed"].map((name) => `super_glue/${name}`);
    const others = ["anli", "hellaswag", "story_cloze/2016", "winogrande/winogrande_xl"];
    const counts = [...superGlue, ...others].map((dataset) => {
      const used = templates.of(dataset).filter((t) => t.originalTask && t.answerChoices !== null);
      return used.length;
    });
    assert.deepEqual(counts, [15, 12, 10, 10, 10, 15, 4, 5, 5]);
    const wic = templates.find("super_glue/wic", "same_sense");
    assert.deepEqual(wic.fixedAnswerChoices(), ["No", "Yes"]);
    assert.equal(templates.find("super_glue/copa", "best_option").fixedAnswerChoices(), null);
  },
});

// --- applying ---

Deno.test("template: prints are cut beyond 2,053 code points, at a word, to 2,048", () => {
  for (const letter of ["w", "😀"]) {
    for (const length of [2048, 2049, 2052, 2053]) {
      assert.equal(parts("{{ x }}", { x: letter.repeat(length) })[0], letter.repeat(length));
    }
    assert.equal(parts("{{ x }}", { x: letter.repeat(2054) })[0], letter.repeat(2045) + "...");
    const words = `${letter.repeat(2000)} ${letter.repeat(2000)}`;
    assert.equal(parts("{{ x }}", { x: words })[0], letter.repeat(2000) + "...");
    assert.equal(parts("{{ x }}", { x: words }, false)[0], words);
  }
});

Deno.test("template: only what braces print is cut, and only its last operand", () => {
  const x = "w".repeat(3000), cut = "w".repeat(2045) + "...";
  assert.equal(parts("{{ x + y }}", { x, y: x })[0], x + cut);
  assert.equal(parts("{{ x if c else y }}", { x, y: x, c: 1 })[0], x);
  assert.equal(parts("{{ x if c else y }}", { x, y: x, c: 0 })[0], cut);
  assert.equal(
    parts("{% set y = x %}{{ y }}|||{% for c in [x] %}{{ c }}{% endfor %}", { x })[1],
    cut,
  );
  assert.equal(parts("{{ [x] | join }}", { x })[0], cut);
  assert.equal(parts('{{ {"a": {"b": n}}}}', { n: 1 })[0], "{'a': {'b': '1'}}");
});

Deno.test("template: ||| in a text does not separate, in a list or in choices it does", () => {
  assert.deepEqual(parts("{{ x }} ||| b", { x: " a ||| b " }), ["a ||| b", "b"]);
  assert.deepEqual(parts("{{ x[0] }} ||| c", { x: ["a ||| b"] }), ["a", "b", "c"]);
  assert.deepEqual(parts("{{ x.length }}{{ x | length }}", { x: "|||" }), ["32"]);
  assert.deepEqual(parts(`{{ x.split("${PROTECTOR}||") | join("+") }}`, { x: "a|||||b" }), ["a+b"]);
  const choosing = template("Q ||| {{ answer_choices[0] }}", "{{ x }} ||| c");
  assert.deepEqual(choosing.apply({ x: "a ||| b" }), {
    parts: ["Q", "a", "b"],
    choices: ["a ||| b", "c"],
  });
});

Deno.test("template: parts and choices are stripped as Python strips", () => {
  const spaced = template("\x1f\x85 a \ufeff ||| {{ x }} \n", " \u3000b ||| {{ x }}\x1c ");
  assert.deepEqual(spaced.apply({ x: " c " }), { parts: ["a \ufeff", "c"], choices: ["b", "c"] });
});

Deno.test("template: a condition that fails renders one empty part", () => {
  assert.deepEqual(parts("{% if x %}a ||| b{% endif %}", { x: 0 }), [""]);
});

Deno.test("template: choices are never cut, and are a copy for everyone", () => {
  const changing = template(
    "{% set _ = answer_choices.append('z') %}{{ answer_choices }}",
    "a ||| b",
  );
  for (let again = 0; again < 2; again++) {
    const { parts, choices } = changing.apply({});
    assert.deepEqual(parts, ["['a', 'b', 'z']"]);
    assert.deepEqual(choices, ["a", "b"]);
    choices!.push("c");
    changing.fixedAnswerChoices()!.push("d");
  }
  const long = "w".repeat(3000);
  assert.deepEqual(template("a", "{{ x }}").apply({ x: long }).choices, [long]);
});

Deno.test("template: choices that depend on a row or on chance are not fixed", () => {
  assert.deepEqual(template("a", "A ||| {{ 'B' }}").fixedAnswerChoices(), ["A", "B"]);
  assert.deepEqual(template("a", "{% set x = 'A' %}{{ x }}").fixedAnswerChoices(), ["A"]);
  for (
    const source of ["{{ x }}", "{{ ['A', 'B'] | choice }}", "{% if x is defined %}A{% endif %}"]
  ) {
    assert.equal(template("a", source).fixedAnswerChoices(), null, source);
  }
  assert.deepEqual(template("a", "{{ zip }}").answerChoicesList({ zip: "90210" }), ["90210"]);
  assert.equal(template("a").fixedAnswerChoices(), null);
  assert.equal(template("a").answerChoicesList({}), null);
});

Deno.test("template: choice takes the first item, or the one it is told", () => {
  const drawing = template("{{ x | choice }} ||| {{ answer_choices[0] }}", "{{ x | choice }}");
  assert.equal(drawing.usesChoice, true);
  assert.deepEqual(drawing.apply({ x: ["a", "b"] }).parts, ["a", "a"]);
  assert.deepEqual(drawing.apply({ x: ["a", "b"] }, { choose: (n) => n - 1 }).parts, ["b", "b"]);
});

Deno.test("template: what fails to render says how, and in which template", () => {
  const failures: [jinja: string, row: Record<string, unknown>, kind: string][] = [
    ["{{ x | choice }}", { x: [] }, "IndexError"],
    ["{{ x.y.z }}", { x: {} }, "UndefinedError"],
    ["{{ 1 + x }}", { x: "a" }, "TypeError"],
    ["{{ x }}", { answer_choices: [] }, "ValueError"],
  ];
  for (const [jinja, row, kind] of failures) {
    assert.throws(() => template(jinja).apply(row), (error) => {
      return error instanceof RenderError && error.kind === kind && error.template === "it";
    });
  }
});

Deno.test("template: what does not compile names file, template and line", () => {
  const broken = template("a\n{{ x | trunc }}");
  refused(() => broken.compile(), /^copa\/templates.yaml: template 'it': jinja line 2: no filter/);
  refused(() => broken.apply({}), /line 2/);
  refused(() => template("a", "{{").compile(), /: answer_choices line 1: /);
});

Deno.test("normalizeRow: hyphens in names of fields become underscores, the rest stays", () => {
  assert.deepEqual(normalizeRow({ "a-b-c": { "d-e": "f-g" } }), { a_b_c: { "d-e": "f-g" } });
  const row = { a_b: 1 };
  assert.equal(normalizeRow(row), row);
});

Deno.test("taskName: runs of what is no letter, digit, dot or underscore become one underscore", () => {
  assert.equal(taskName("super_glue/copa", "…why? C1 or C2"), "super_glue_copa__why_C1_or_C2");
  assert.equal(taskName("wsc.fixed", "é  \u0301²x"), "wsc.fixed_é_²x");
});

// --- finding and reading ---

Deno.test("openTemplates: finds files at any depth, and reads them when asked", async () => {
  const file = `dataset: other\ntemplates:\n${entry({ task_template: "x" })}`;
  const folder = await folderOf({ "b": file, "a/c.1": file, "user/d/e": file, "broken": "a: [" });
  const templates = openTemplates(folder);
  assert.deepEqual(templates.datasets, ["a/c.1", "b", "broken", "user/d/e"]);
  const { name, id, dataset, originalTask, choicesInPrompt, metrics } = templates.of("a/c.1")[0];
  assert.deepEqual([name, id, dataset, originalTask], ["first", "k1", "a/c.1", true]);
  assert.deepEqual([choicesInPrompt, metrics], [null, ["Accuracy"]]);
  assert.equal(templates.of("b"), templates.of("b"));
  refused(() => templates.of("broken"), /broken.templates\.yaml:1: not YAML: /);
});

Deno.test("openTemplates: keeps the order of the file", async () => {
  const entries = ["z", "a", "m"].map((name) => entry({ name }).replace("k1", name));
  const folder = await folderOf({ copa: `templates:\n${entries.join("")}` });
  assert.deepEqual(openTemplates(folder).of("copa").map(({ name }) => name), ["z", "a", "m"]);
});

Deno.test("openTemplates: unknown names get the nearest one", async () => {
  const file = `templates:\n${entry({ name: "best option" })}`;
  const templates = openTemplates(await folderOf({ "super_glue/copa": file, anli: file }));
  refused(
    () => templates.of("super_glue/cope"),
    /'super_glue\/cope'; did you mean 'super_glue\/copa'/,
  );
  refused(
    () => templates.of("zebra"),
    /no templates for dataset 'zebra'; there are 2, such as 'anli'/,
  );
  refused(() => templates.find("anli", "best opton"), /did you mean 'best option'\?/);
});

Deno.test("openTemplates: refuses a folder without templates, or of one dataset", async () => {
  const file = `templates:\n${entry()}`;
  refused(() => openTemplates(join(scratch, "nowhere")), /nowhere: cannot be read: no such/);
  const folder = await folderOf({ copa: file });
  refused(() => openTemplates(join(folder, "copa")), /give the folder above it/);
  const empty = await folderOf({});
  refused(() => openTemplates(empty), /holds no templates; expected DATASET/);
});

Deno.test("openTemplates: links are what they lead to, and lead round in no circle", async () => {
  const file = `templates:\n${entry()}`;
  const folder = await folderOf({ "a/b": file, "elsewhere/c": file });
  await symlink(join(folder, "elsewhere"), join(folder, "linked"));
  await symlink(folder, join(folder, "a", "up"));
  await symlink("../other", join(folder, "a", "other"));
  await symlink("a/other", join(folder, "other"));
  await symlink("nowhere", join(folder, "dangling"));
  await mkdir(join(folder, "file"));
  await symlink("../a/b/templates.yaml", join(folder, "file", "templates.yaml"));
  const templates = openTemplates(folder);
  assert.deepEqual(templates.datasets, ["a/b", "elsewhere/c", "file", "linked/c"]);
  for (const dataset of templates.datasets) assert.equal(templates.of(dataset).length, 1);
});

Deno.test("openTemplates: a file that is none is named when it is read", async () => {
  const folder = await folderOf({ a: `templates:\n${entry()}` });
  await mkdir(join(folder, "b"));
  await symlink("nowhere", join(folder, "b", "templates.yaml"));
  refused(() => openTemplates(folder).of("b"), /b.templates.yaml: cannot be read: no such file/);
  await writeFile(join(folder, "a", "templates.yaml"), Uint8Array.of(0x61, 0xff));
  refused(() => openTemplates(folder).of("a"), /a.templates.yaml: not valid UTF-8/);
});

Deno.test("openTemplates: what is wrong in a file is named, with its line", async () => {
  const faults: [text: string, message: RegExp][] = [
    [`templates:\n  a: 1\n b: 2\n`, /yaml:3: not YAML/],
    [`dataset: x\n`, /expected a key 'templates'/],
    [`templates:\n  k: 1\n`, /:2: template k: expected keys/],
    [
      `templates:\n${entry({ jinja: undefined })}`,
      /:2: template 'first': jinja: expected a text, it is/,
    ],
    [
      `templates:\n${entry({ answer_choices: undefined })}`,
      /answer_choices: expected a text or null/,
    ],
    [`templates:\n${entry({ metadata: undefined })}`, /metadata: expected keys, it is missing/],
    [`templates:\n${entry({ name: "[1]" })}`, /template k1: name: expected a text, got \[1\]/],
    [`templates:\n${entry({ name: "yes" })}`, /name: expected a text, got true, which YAML takes/],
    [`templates:\n${entry({ jinja: "*x" })}`, /yaml:4: .*alias/i],
    [
      `templates:\n${entry({ metadata: "{metrics: [[1]]}" })}`,
      /expected a list of names, got \[\[…\]\]/,
    ],
    [`templates:\n${entry()}${entry().replace("k1", "k2")}`, /two templates have the name 'first'/],
  ];
  for (const [text, message] of faults) {
    const templates = openTemplates(await folderOf({ copa: text }));
    refused(() => templates.of("copa"), message);
  }
});

// --- linting ---

Deno.test("lintTemplates: finds each kind of fault, with how often and where first", () => {
  const rows = [{ x: "a", y: "b", l: ["q"] }, { x: "", y: "b", l: [] }, {
    x: "c",
    y: "c",
    l: ["r"],
  }];
  const found = (jinja: string, choices: string | null = null) =>
    lintTemplates([template(jinja, choices)], rows)
      .map(({ kind, count, of, example }) => `${kind} ${count}/${of} ${example}`);
  assert.deepEqual(found("{{ x }}Q ||| {{ y }}", "b ||| c"), []);
  assert.match(
    found("{{ x").join(),
    /^syntax 1\/1 copa.templates\.yaml: template 'it': jinja line 1/,
  );
  assert.deepEqual(found("{{ x }}{{ z }}Q ||| A"), ["unknown field 1/1 z"]);
  assert.deepEqual(found("{% if z is defined %}{{ z }}{% endif %}Q ||| A"), []);
  assert.deepEqual(found("{{ l | choice }} ||| A"), [
    "render error 1/3 row 1: IndexError: Cannot choose from an empty sequence",
  ]);
  assert.deepEqual(found("{% if x == 'a' %}Q ||| A{% endif %}"), [
    "nothing rendered 2/3 row 1: no text",
  ]);
  assert.deepEqual(found("Q"), ["not two parts 3/3 row 0: 1 parts"]);
  assert.deepEqual(found("{{ x }} ||| A"), ["empty input 1/3 row 1: the target is 'A'"]);
  assert.deepEqual(found("Q ||| {{ x }}"), ["empty target 1/3 row 1: the input is 'Q'"]);
  assert.deepEqual(found("Q ||| {{ x }}b", "ab ||| b"), [
    "target not a choice 1/3 row 2: 'cb' is none of 'ab', 'b'",
  ]);
  assert.deepEqual(found("Q ||| {{ y }}", "{{ x }} ||| {{ y }}"), [
    "repeated choices 1/3 row 2: 'c' twice",
  ]);
});
