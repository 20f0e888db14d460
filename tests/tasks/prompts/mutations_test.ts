// Templates with mistakes: whatever is wrong, it is one line of the user's, never a stack of ours.

import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { RenderError, Template } from "../../../tasks/prompts/template.ts";
import { parseYaml } from "../../../tasks/prompts/yaml.ts";
import { BUILTINS, STATEMENTS } from "../jinja/jinja_builtins_table.ts";
import { BLOCKS, EXPRESSIONS, VARIABLES } from "../jinja/jinja_table.ts";

const SOURCES = [
  ...Object.values({ ...EXPRESSIONS, ...BUILTINS }).flat().map(([source]) => `{{ ${source} }}`),
  ...Object.values({ ...BLOCKS, ...STATEMENTS }).flat().map(([source]) => source),
];

const FILE = `dataset: copa
templates:
  1: &first !Template
    name: "a \\u00e9"
    jinja: |
      {{ premise }} ||| {{ choice1 }}
    answer_choices: null
    metadata: !TemplateMetadata {original_task: true, metrics: [Accuracy]}
  2: {<<: *first, name: b}
`;

/** Numbers that depend on the seed alone. */
function generator(seed: number): (n: number) => number {
  let state = seed;
  return (n) => (state = state * 48271 % 2147483647) % n;
}

/** Takes out, repeats or exchanges a word or sign, flips a bit, or cuts the end off; one to three times. */
function mutated(source: string, random: (n: number) => number): string {
  let text = source;
  for (let times = 1 + random(3); times > 0; times--) {
    const parts = text.match(/\s+|\w+|[^\w\s]/gu) ?? [""], at = random(parts.length);
    const others = SOURCES[random(SOURCES.length)].match(/\w+|[^\w\s]/gu)!;
    const kind = random(6), place = random(text.length + 1);
    if (kind === 0) parts.splice(at, 1);
    if (kind === 1) parts.splice(at, 0, parts[random(parts.length)]);
    if (kind === 2) parts[at] = parts[random(parts.length)];
    if (kind === 3) parts[at] = others[random(others.length)];
    if (kind === 4) parts.length = at;
    const flipped = String.fromCharCode((text.charCodeAt(place) || 32) ^ (1 << random(8)));
    text = kind === 5 ? text.slice(0, place) + flipped + text.slice(place + 1) : parts.join("");
  }
  return text;
}

/** Whether something worked, or failed as a user's mistake does. */
function outcome(source: string, run: () => unknown): string {
  try {
    run();
    return "works";
  } catch (error) {
    const isTheirs = error instanceof UserError || error instanceof RenderError;
    assert.ok(isTheirs, `${JSON.stringify(source)}: ${(error as Error).stack}`);
    assert.ok(!/\p{Cc}/u.test(error.message), error.message);
    return "fails";
  }
}

Deno.test("templates: 3,000 mutations render, or end in one line", () => {
  const random = generator(1), found = { works: 0, fails: 0 };
  for (let i = 0; i < 3000; i++) {
    const jinja = mutated(SOURCES[random(SOURCES.length)], random);
    const template = new Template({
      ...{ name: "it", id: "1", dataset: "d", file: "f", jinja, answerChoices: null },
      ...{ originalTask: true, choicesInPrompt: null, metrics: [], reference: "" },
    });
    const how = outcome(jinja, () => template.apply(VARIABLES, { truncate: i % 2 === 0 }));
    found[how as keyof typeof found]++;
  }
  assert.ok(found.works > 300 && found.fails > 300, JSON.stringify(found));
});

Deno.test("yaml: 1,000 mutations are read, or end in one line", () => {
  const random = generator(2), found = { works: 0, fails: 0 };
  for (let i = 0; i < 1000; i++) {
    const text = mutated(FILE, random);
    found[outcome(text, () => parseYaml(text, "f")) as keyof typeof found]++;
  }
  assert.ok(found.works > 100 && found.fails > 100, JSON.stringify(found));
});
