// `deno task verify prompts`: the golden renders of promptsource (beside the repository; skipped
// elsewhere), and small folders, right and wrong.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../../ops/graph/errors.ts";
import { openTemplates } from "../../../tasks/prompts/templates.ts";
import { promptFailures, promptReportLines, verifyPrompts } from "../../../tasks/verify/prompts.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";

const PROMPTSOURCE = fileURLToPath(
  new URL("../../../../shared/data/promptsource/v0.1.0", import.meta.url),
);
const ignore = !hasGolden;
if (ignore) console.log("verify prompts: promptsource's renders are not here, skipping them");

let scratch: string;
Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "verify-prompts-"));
});
Deno.test.afterAll(() => rm(scratch, { recursive: true }));

const ROWS = { "copa/None": { 0: { x: "a", l: ["p", "q"] }, 3: { x: "b|||c", l: [] } } };
const TEMPLATES = `
templates:
  1: !Template {name: one, answer_choices: "{{ x }} ||| n", metadata: {}, jinja: "{{ x }} ||| {{ l | choice }}"}
  2: !Template {name: two, answer_choices: null, metadata: {}, jinja: "{{ (x * 3000) }}"}
`;
const ERROR = { error: "IndexError: Cannot choose from an empty sequence" };
const RENDERS = [
  { ds: "copa/None", name: "one", i: 0, plain: ["a", "p"], trunc: ["a", "p"], ac: ["a", "n"] },
  { ds: "copa/None", name: "one", i: 3, plain: ERROR, trunc: ERROR, ac: ["b|||c", "n"] },
  {
    ...{ ds: "copa/None", name: "two", i: 0, ac: null },
    ...{ plain: ["a".repeat(3000)], trunc: ["a".repeat(2045) + "..."] },
  },
];

/** A folder with these files, and its templates. */
async function folderOf(renders: readonly unknown[], examples: unknown = ROWS) {
  const folder = await mkdtemp(join(scratch, "golden-"));
  await mkdir(join(folder, "templates", "copa"), { recursive: true });
  await writeFile(join(folder, "templates", "copa", "templates.yaml"), TEMPLATES);
  await writeFile(join(folder, "examples.json"), JSON.stringify(examples));
  const lines = renders.map((line) => typeof line === "string" ? line : JSON.stringify(line));
  await writeFile(join(folder, "renders.jsonl"), lines.join("\n") + "\n");
  return { folder, templates: openTemplates(join(folder, "templates")) };
}

function refused(run: Promise<unknown>, message: RegExp): Promise<void> {
  return assert.rejects(run, (error) => error instanceof UserError && message.test(error.message));
}

Deno.test({
  name: "verify prompts: all golden renders of promptsource are equal, byte for byte",
  ignore,
  async fn() {
    const report = await verifyPrompts(goldenPath("prompts"), openTemplates(PROMPTSOURCE));
    assert.deepEqual(report.differences, []);
    assert.equal(promptFailures(report), 0);
    assert.equal(report.templatesUsed, 516);
    assert.equal(report.compared, 1359);
    assert.equal(report.errors, 10);
  },
});

Deno.test("verify prompts: a right folder passes, its errors with it", async () => {
  const { folder, templates } = await folderOf(RENDERS);
  const report = await verifyPrompts(folder, templates);
  assert.deepEqual(report.differences, []);
  assert.deepEqual([report.compared, report.errors, report.templatesUsed], [3, 1, 2]);
  assert.match(
    promptReportLines(report).at(-1)!,
    /^ok .*: 3 renders of 2 templates, 1 of them errors$/,
  );
});

Deno.test("verify prompts: each thing that differs fails, and is named", async () => {
  const [one, error, two] = RENDERS;
  const { folder, templates } = await folderOf([
    { ...one, plain: ["a", "P"], ac: null },
    { ...error, trunc: ["b|||c", "p"] },
    { ...two, plain: ERROR, trunc: ["a".repeat(2045) + "…"] },
  ]);
  const report = await verifyPrompts(folder, templates);
  assert.deepEqual(
    report.differences.map(({ template, row, output }) => `${template} ${row} ${output}`),
    ["one 0 plain", "one 0 choices", "one 3 truncated", "two 0 plain", "two 0 truncated"],
  );
  assert.deepEqual(report.equal, { plain: 1, truncated: 1, choices: 2 });
  assert.equal(promptFailures(report), 5);
  const lines = promptReportLines(report);
  assert.ok(lines.includes("  copa, 'one', row 0, plain:"));
  assert.ok(lines.includes('    expected ["a","P"]'));
  assert.ok(lines.includes('    got      ["a","p"]'));
  assert.match(lines.at(-1)!, /^FAIL .*: 5 differences in 3 renders/);
});

Deno.test({
  name: "verify prompts: one changed letter in a copy of the golden renders is found",
  ignore,
  async fn() {
    const text = await Deno.readTextFile(goldenPath("prompts/renders.jsonl"));
    const line = text.split("\n").findIndex((line) => line.includes('"trunc": ["Passage: Mark'));
    const folder = await mkdtemp(join(scratch, "tampered-"));
    const examples = await Deno.readTextFile(goldenPath("prompts/examples.json"));
    await writeFile(join(folder, "examples.json"), examples);
    const lines = text.split("\n");
    lines[line] = lines[line].replace('"trunc": ["Passage: Mark', '"trunc": ["Passage: Marc');
    await writeFile(join(folder, "renders.jsonl"), lines.join("\n"));
    const report = await verifyPrompts(folder, openTemplates(PROMPTSOURCE));
    const { ds, name, i } = JSON.parse(lines[line]);
    const [difference, ...others] = report.differences;
    assert.deepEqual(others, []);
    const { dataset, template, row, output } = difference;
    assert.deepEqual([dataset, template, row, output], [ds, name, i, "truncated"]);
  },
});

Deno.test("verify prompts: missing and broken files are refused, with the line", async () => {
  const cases: [renders: unknown[], examples: unknown, message: RegExp][] = [
    [[RENDERS[0], "{"], ROWS, /renders\.jsonl:2: not JSON/],
    [[RENDERS[0], { ...RENDERS[0], plain: [1] }], ROWS, /renders\.jsonl:2: expected ds, name, i/],
    [[{ ...RENDERS[0], i: 7 }], ROWS, /renders\.jsonl:1: no row 7 of copa\/None/],
    [[{ ...RENDERS[0], name: "on" }], ROWS, /no template 'on'; did you mean 'one'/],
    [[], ROWS, /renders\.jsonl: holds no renders/],
    [RENDERS, [], /examples\.json: expected an object of datasets/],
    [RENDERS, { "copa/None": { 0: 1 } }, /examples\.json: copa\/None, row 0: expected an object/],
  ];
  for (const [renders, examples, message] of cases) {
    const { folder, templates } = await folderOf(renders, examples);
    await refused(verifyPrompts(folder, templates), message);
  }
  const { templates } = await folderOf(RENDERS);
  await refused(
    verifyPrompts(join(scratch, "nowhere"), templates),
    /examples\.json: cannot be read/,
  );
});

Deno.test("verify prompts: the command exits with 0 if all is equal, with 1 on a difference", async () => {
  const run = async (renders: readonly unknown[]) => {
    const { folder } = await folderOf(renders);
    const script = fileURLToPath(new URL("../../../scripts/verify.ts", import.meta.url));
    const allowed = [
      "--allow-read",
      "--allow-env=LOG_TOKENS,LOG_STREAM,XDG_RUNTIME_DIR,DENO_WEBGPU_BACKEND",
    ];
    const { code, stdout } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-q",
        "--no-prompt",
        ...allowed,
        script,
        "prompts",
        folder,
        "--templates",
        join(folder, "templates"),
      ],
    }).output();
    return { code, text: new TextDecoder().decode(stdout) };
  };
  assert.deepEqual((await run(RENDERS)).code, 0);
  const failed = await run([{ ...RENDERS[0], plain: ["b", "p"] }]);
  assert.equal(failed.code, 1);
  assert.match(failed.text, /copa, 'one', row 0, plain:/);
});
