// What a finetuning run notices when it goes on: any change of rows, templates and their order, and nothing
// else.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { contentOf, expectSameContent } from "../../../tasks/prompts/mixture_content.ts";
import { resolveMixture } from "../../../tasks/prompts/mixture.ts";

const ROWS = '{"text":"one","label":0}\n{"text":"two","label":1}\n';

function templates(...entries: [name: string, jinja: string, choices?: string][]): string {
  const all = entries.map(([name, jinja, choices = "null"], i) =>
    `  id-${i}: !Template {name: ${name}, id: id-${i}, jinja: "${jinja}", answer_choices: ${choices}, ` +
    `reference: '', metadata: !TemplateMetadata {original_task: true}}\n`
  );
  return `dataset: notes\ntemplates:\n${all.join("")}`;
}

const TEMPLATES = templates(["ask", "{{ text }}? ||| yes"], ["tell", "{{ text }} ||| so"]);

/** A folder with rows and templates, and what their mixture is made of now. */
async function inFolder(
  work: (folder: string, content: () => Promise<ReturnType<typeof contentOf>>) => Promise<void>,
): Promise<void> {
  let folder = await mkdtemp(join(tmpdir(), "content-"));
  await mkdir(join(folder, "rows", "notes"), { recursive: true });
  await mkdir(join(folder, "templates", "notes"), { recursive: true });
  await writeFile(join(folder, "rows/notes/train.jsonl"), ROWS);
  await writeFile(join(folder, "templates/notes/templates.yaml"), TEMPLATES);
  const at = (name: string) => join(folder, name);
  try {
    await work(folder, async () => {
      if (!await Deno.stat(folder).then(() => true, () => false)) folder += "-moved";
      return contentOf(
        await resolveMixture({
          names: ["all"],
          data: at("rows"),
          templates: at("templates"),
          rule: "metro",
          allowMissing: true,
          cache: at("cache"),
        }),
      );
    });
  } finally {
    await rm(folder, { recursive: true });
  }
}

const CHANGES: [what: string, file: string, contents: string, expected: RegExp][] = [
  [
    "a row more",
    "rows/notes/train.jsonl",
    ROWS + '{"text":"three","label":1}\n',
    /notes: rows 'train' changed/,
  ],
  [
    "another label",
    "rows/notes/train.jsonl",
    ROWS.replace("1}", "0}"),
    /notes: rows 'train' changed/,
  ],
  [
    "rows in another order",
    "rows/notes/train.jsonl",
    ROWS.split("\n").reverse().join("\n").trim() + "\n",
    /rows 'train' changed/,
  ],
  ["a split more", "rows/notes/train2.jsonl", ROWS, /notes: rows 'train2' was added/],
  [
    "another template text",
    "templates/notes/templates.yaml",
    TEMPLATES.replace("so", "this"),
    /notes: template 'tell' changed/,
  ],
  [
    "answer choices",
    "templates/notes/templates.yaml",
    TEMPLATES.replace("answer_choices: null", "answer_choices: a ||| b"),
    /notes: template 'ask' changed/,
  ],
  [
    "a template less",
    "templates/notes/templates.yaml",
    templates(["ask", "{{ text }}? ||| yes"]),
    /notes: template 'tell' is gone/,
  ],
  [
    "a template by another name",
    "templates/notes/templates.yaml",
    TEMPLATES.replace("name: tell", "name: say"),
    /notes: template 'say' was added/,
  ],
  [
    "templates in another order",
    "templates/notes/templates.yaml",
    templates(["tell", "{{ text }} ||| so"], ["ask", "{{ text }}? ||| yes"]),
    /notes: template 'ask' moved to another place/,
  ],
];

for (const [what, file, contents, expected] of CHANGES) {
  Deno.test(`noticed: ${what}`, () =>
    inFolder(async (folder, content) => {
      const before = await content();
      const path = join(folder, file), there = await Deno.stat(path).catch(() => undefined);
      await writeFile(path, contents);
      // As if nothing had been done to it.
      if (there) await utimes(path, there.atime!, there.mtime!);
      const after = await content();
      assert.throws(() => expectSameContent(before, after), expected);
      expectSameContent(after, after);
    }));
}

Deno.test("noticed: another dataset", () =>
  inFolder(async (folder, content) => {
    const before = await content();
    for (const kind of ["rows", "templates"]) await mkdir(join(folder, kind, "more"));
    await writeFile(join(folder, "rows/more/train.jsonl"), ROWS);
    await writeFile(join(folder, "templates/more/templates.yaml"), TEMPLATES);
    const after = await content();
    assert.throws(() => expectSameContent(before, after), /dataset 'more' was added since the run/);
    assert.throws(() => expectSameContent(after, before), /dataset 'more' is gone since the run/);
  }));

Deno.test("not noticed: another place, another date, another reference, what is not used", () =>
  inFolder(async (folder, content) => {
    const before = await content();
    await utimes(join(folder, "rows/notes/train.jsonl"), 1, 1);
    await writeFile(join(folder, "rows/notes/validation.jsonl"), '{"text":"held out"}\n');
    const edited = TEMPLATES.replace("reference: ''", "reference: 'a paper'");
    await writeFile(join(folder, "templates/notes/templates.yaml"), edited);
    expectSameContent(before, await content());
    await rename(folder, folder + "-moved");
    expectSameContent(before, await content());
  }));
