// `deno task prompts` and `deno task generate` from the outside: what they print, and their exit codes.

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT, start } from "./command.ts";
import {
  fail,
  forEach,
  inTime,
  jsonLines,
  pretrainSmall,
  put,
  succeed,
  templatesFile,
} from "./prompted.ts";

let folder = "";

const at = (...path: string[]) => join(folder, ...path);
const places = () => ["--data", at("rows"), "--templates", at("templates")];
const prompts = (...args: string[]) => succeed("prompts", args);

const NOTES = [
  {
    name: "good or bad",
    jinja: "{{ text }} Good? ||| {{ answer_choices[label] }}",
    choices: "no ||| yes",
  },
  { name: "write", jinja: "Write:\n ||| {{ text }}", original: false },
];

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-prompts-"));
  await put(at("templates/notes/templates.yaml"), templatesFile(NOTES));
  await put(
    at("templates/super_glue/copa/templates.yaml"),
    templatesFile([{ name: "why", jinja: "{{ premise }} ||| {{ choice1 }}" }]),
  );
  await put(at("rows/notes/train.jsonl"), jsonLines([{ text: "Dull.", label: 0 }]));
  await put(
    at("rows/notes/validation.jsonl"),
    jsonLines([{ text: "Fine.", label: 1 }, { text: "Great.", label: 1 }]),
  );
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

Deno.test("prompts list: a line per template", async () => {
  const { out } = await prompts("list", ...places());
  assert.deepEqual(out.trimEnd().split("\n"), [
    "notes            good or bad  original task  no ||| yes",
    "notes            write",
    "super_glue/copa  why          original task",
  ]);
  assert.equal(
    (await prompts("list", "super_glue/copa", ...places())).out,
    "super_glue/copa  why  original task\n",
  );
  // The sample tasks, if no folder is given.
  assert.match((await prompts("list")).out, /^film_notes +good_or_bad +original task/m);
});

Deno.test("prompts show: a row, and what the templates make of it", async () => {
  const { out } = await prompts(
    "show",
    "notes",
    ...places(),
    "--split",
    "validation",
    "--row",
    "1",
  );
  assert.equal(
    out,
    `row 1: {"text":"Great.","label":1}

good or bad (original task, Accuracy; reads text, label)
  template  {{ text }} Good? ||| {{ answer_choices[label] }}
  choices   no ||| yes
  prompt    Great. Good?
  target    yes
  ranked    no | yes

write (another task, Accuracy; reads text)
  template  Write:
             ||| {{ text }}
  prompt    Write:
  target    Great.
`,
  );
  const { out: one } = await prompts("show", "notes", ...places(), "--template", "write");
  assert.match(one, /^row 0: {"text":"Dull\.","label":0}\n\nwrite /);
  assert.doesNotMatch(one, /good or bad/);
  // Without rows, the template alone.
  const { out: bare } = await prompts("show", "super_glue/copa", ...places());
  assert.match(bare, /^why \(original task.*reads premise, choice1\)\n +template +\{\{ premise/);
});

Deno.test("prompts lint: exit code 1 for a target outside the choices, 0 if all is well", async () => {
  const { out: clean } = await prompts("lint", "notes", ...places());
  assert.equal(clean, "2 templates looked at; 0 findings, 0 of them errors\n");

  const bad = at("bad-templates");
  await put(
    join(bad, "notes/templates.yaml"),
    templatesFile([
      { ...NOTES[0], jinja: "{{ text }} ||| {{ ['no', 'yes!'][label] }}" },
      { name: "field", jinja: "{{ txt }} ||| {{ text }}" },
      { name: "sometimes", jinja: "{% if label == 0 %}{{ text }} ||| a{% endif %}" },
      { name: "broken", jinja: "{{ text ||| a" },
      { name: "fails", jinja: "{{ text }} ||| {{ [] | choice }}" },
    ]),
  );
  const lint = ["lint", "--data", at("rows"), "--templates", bad];
  const { code, out, err } = await inTime(start("prompts", [...lint, "--split", "validation"]));
  assert.deepEqual([code, err], [1, ""], out);
  const lines = out.trimEnd().split("\n");
  const target = "renders a target that is none of the answer choices in 2 of 2 rows";
  assert.equal(lines[0], `notes, 'good or bad': ${target}: row 0: 'yes!' is none of 'no', 'yes'`);
  assert.ok(lines.includes("notes, 'field': refers to a field that no row has: txt"), out);
  assert.match(out, /'sometimes': renders nothing, as conditional .* in 2 of 2 rows/);
  assert.match(
    out,
    /'broken': does not compile: .*templates\.yaml: template 'broken': jinja line 1/,
  );
  assert.match(out, /'fails': fails to render in 2 of 2 rows: row 0: IndexError/);
  assert.match(lines.at(-1)!, /^5 templates looked at; \d+ findings, \d+ of them errors$/);
  const failing = ["show", "notes", ...lint.slice(1), "--template", "fails"];
  const shown = await inTime(start("prompts", failing));
  assert.deepEqual([shown.code, shown.err], [1, ""]);
  assert.match(shown.out, /^ +fails +IndexError: /m);

  // A condition that leaves rows out is no mistake.
  const some = at("some-templates");
  const jinja = "{% if label == 0 %}{{ text }} ||| a{% endif %}";
  await put(join(some, "notes/templates.yaml"), templatesFile([{ name: "sometimes", jinja }]));
  const split = ["--split", "validation"];
  const { out: told } = await prompts("lint", "--data", at("rows"), "--templates", some, ...split);
  assert.match(told, /1 templates looked at; 1 findings, 0 of them errors\n$/);
});

Deno.test("prompts counts: templates, mixtures, and the pairs of T0 Eval", async () => {
  const { out } = await prompts("counts", "--templates", at("templates"));
  assert.match(out, /^3 templates of 2 datasets$/m);
  assert.match(out, /^T0: 0 of 38 datasets, 0 templates/m);
  assert.match(out, /^T0\+\+: 1 of 54 datasets, 1 templates/m);
  assert.match(out, /^T0 Eval: 0 pairs of column and template \(RTE 0, .*COPA 0/m);
});

Deno.test("prompts: mistakes get one line", async () => {
  const broken = at("broken"), rows = at("broken-rows");
  await put(join(broken, "notes/templates.yaml"), "templates:\n  1: [\n");
  await put(join(rows, "notes/train.jsonl"), "{\n");
  const cases: [string[], RegExp][] = [
    [["lsit"], /unknown command lsit; did you mean list\?/],
    [["show", ...places()], /expected one dataset, got 0/],
    [["show", "note", ...places()], /no templates for dataset 'note'; did you mean 'notes'\?/],
    [
      ["show", "notes", "--template", "good and bad", ...places()],
      /notes.templates\.yaml: no template 'good and bad'; did you mean 'good or bad'\?/,
    ],
    [["show", "notes", "--row", "7", ...places()], /notes: there is no row 7/],
    [["show", "notes", "--split", "tain", ...places()], /no split "tain".*did you mean train\?/],
    [["lint", "notes", "--data", rows, "--templates", at("templates")], /train\.jsonl:1: not JSON/],
    [["list", "--templates", broken], /templates\.yaml:\d+: not YAML/],
    [["list", "--templates", at("nowhere")], /nowhere: cannot be read: no such file or folder/],
    [["lint", "--data", at("nowhere"), "--templates", at("templates")], /nowhere: no such folder/],
    [["list", "--templtes", "x"], /unknown flag --templtes; did you mean --templates\?/],
  ];
  await forEach(cases, ([args, expected]) => fail("prompts", args, expected));
});

// ---- generate ----

/** Runs `deno task generate` with lines on its standard input. */
async function generateFrom(input: string, args: string[]) {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["task", "-q", "generate", "--adapter", "cpu", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1" },
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(input));
  await writer.close();
  return await inTime(process);
}

Deno.test("generate answers a prompt of words, and every line of the standard input", async () => {
  const run = await pretrainSmall(folder);
  const flags = ["--run", run, "--max-tokens", "5"];
  const [first, second, piped] = await Promise.all([
    succeed("generate", [...flags, "the", "old", "mill"]),
    succeed("generate", [...flags, "a new boat"]),
    // Empty lines are no prompts.
    generateFrom("the old mill\n\na new boat\n", flags),
  ]);
  assert.equal(piped.code, 0, piped.err);
  assert.equal(piped.out, first.out + second.out);
  assert.ok(first.out.endsWith("\n"));

  const sample = [...flags, "--strategy", "sample", "--seed", "3", "the", "mill"];
  const [a, b] = await Promise.all([succeed("generate", sample), succeed("generate", sample)]);
  assert.equal(a.out, b.out);

  const cases: [string[], RegExp][] = [
    [["--run", at("nowhere"), "mill"], /nowhere: expected the folder of a run/],
    [["mill"], /expected --run FOLDER/],
    [["--run", run, "--beams", "3", "mill"], /--beams: has a meaning with --strategy beam only/],
    [["--run", run, "--max-token", "3"], /unknown flag --max-token; did you mean --max-tokens/],
  ];
  await forEach(cases, ([args, expected]) => fail("generate", args, expected));
});
