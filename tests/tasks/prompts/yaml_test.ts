// YAML by the rules of version 1.1, as PyYAML's SafeLoader has them.

import assert from "node:assert/strict";
import { repr } from "../../../tasks/jinja/python.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { parseYaml, YamlMap } from "../../../tasks/prompts/yaml.ts";

/** A value as Python prints it. */
function shown(value: unknown): string {
  if (value instanceof YamlMap) {
    const pairs = Array.from(value.entries, ([key, { value }]) => `'${key}': ${shown(value)}`);
    return `{${pairs.join(", ")}}`;
  }
  return Array.isArray(value) ? `[${value.map(shown).join(", ")}]` : repr(value);
}

function refused(text: string, message: RegExp): void {
  assert.throws(
    () => parseYaml(text, "x.yaml"),
    (error) =>
      error instanceof UserError && message.test(error.message) && !error.message.includes("\n"),
    text.slice(0, 80),
  );
}

/** What stands plain behind a key, and its value. */
const SCALARS: Readonly<Record<string, readonly [string, string][]>> = {
  "booleans have many words, but not y and n": [
    ...["yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"].map((t) =>
      [t, "True"] as [string, string]
    ),
    ...["no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"].map((t) =>
      [t, "False"] as [string, string]
    ),
    ...["y", "n", "Y", "tRue", "yEs"].map((t) => [t, `'${t}'`] as [string, string]),
  ],
  "null": [["~", "None"], ["null", "None"], ["Null", "None"], ["", "None"], ["nULL", "'nULL'"]],
  "integers: octal, hexadecimal, binary, base 60, underscores": [
    ["0", "0"],
    ["-0", "0"],
    ["+12", "12"],
    ["012", "10"],
    ["-012", "-10"],
    ["0o12", "'0o12'"],
    ["08", "'08'"],
    ["0x1F", "31"],
    ["0b11", "3"],
    ["1_000", "1000"],
    ["1:30", "90"],
    ["1:30:15", "5415"],
    ["1:60", "'1:60'"],
    ["12345678901234567890", "12345678901234567890"],
    ["1,000", "'1,000'"],
  ],
  "floats need a point, and a sign in their exponent": [
    ["1.5", "1.5"],
    ["1.", "1.0"],
    [".5", "0.5"],
    ["1_0.5", "10.5"],
    ["1.0e+3", "1000.0"],
    ["1.0e3", "'1.0e3'"],
    ["1e3", "'1e3'"],
    ["190:20:30.15", "685230.15"],
    ["-.inf", "-inf"],
    [".NaN", "nan"],
    [".nAn", "'.nAn'"],
  ],
  "dates": [
    ["2020-01-02", "datetime.date(2020, 1, 2)"],
    ["2020-1-2", "'2020-1-2'"],
    [
      "2020-01-02T03:04:05Z",
      "datetime.datetime(2020, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)",
    ],
    ["2020-1-2 03:04:05.5", "datetime.datetime(2020, 1, 2, 3, 4, 5, 500000)"],
  ],
  "texts": [
    ["'yes'", "'yes'"],
    ['"012"', "'012'"],
    ["!!str 12", "'12'"],
    ["! 12", "'12'"],
    ["!!int '12'", "12"],
    ["!!float 3", "3.0"],
    ["|\n  x\n  y\n", "'x\\ny\\n'"],
    [">-\n  x\n  y\n", "'x y'"],
    ['"a\\\n  b"', "'ab'"],
  ],
};

for (const [what, rows] of Object.entries(SCALARS)) {
  Deno.test(`yaml: ${what}`, () => {
    for (const [text, expected] of rows) {
      assert.equal(shown((parseYaml(`a: ${text}`, "x") as YamlMap).get("a")), expected, text);
    }
  });
}

Deno.test("yaml: the last of equal keys wins, at the place of the first", () => {
  assert.equal(shown(parseYaml("a: 1\nb: 2\na: 3\n", "x")), "{'a': 3, 'b': 2}");
});

Deno.test("yaml: merged keys come first, and one's own overwrite them", () => {
  const text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\n";
  const own = (body: string) => shown((parseYaml(text + body, "x") as YamlMap).get("own"));
  assert.equal(own("own: {z: 0, <<: *b, x: 5}"), "{'x': 5, 'y': 2, 'z': 0}");
  assert.equal(own("own: {<<: [*b, *o]}"), "{'y': 2, 'z': 4, 'x': 1}");
  assert.equal(own("own: {'<<': 1}"), "{'<<': 1}");
  refused("a: {<<: 1}", /expected keys behind '<<'/);
});

Deno.test("yaml: aliases share what they name, however many there are", () => {
  const map = parseYaml("a: &a [1]\nb: *a\n", "x") as YamlMap;
  assert.equal(map.get("a"), map.get("b"));
  const levels = Array.from({ length: 60 }, (_, i) => `l${i + 1}: &l${i + 1} [*l${i}, *l${i}]\n`);
  const bomb = parseYaml(`l0: &l0 [x]\n${levels.join("")}`, "x") as YamlMap;
  assert.equal((bomb.get("l60") as unknown[]).length, 2);
});

Deno.test("yaml: line ends of all systems are one", () => {
  const text = 'a: |\n  x\n\n  y\nb: "c\n  d"\n';
  const expected = shown(parseYaml(text, "x"));
  assert.equal(expected, "{'a': 'x\\n\\ny\\n', 'b': 'c d'}");
  for (const end of ["\r\n", "\r", "\x85"]) {
    assert.equal(shown(parseYaml(text.replaceAll("\n", end), "x")), expected);
  }
});

Deno.test("yaml: what cannot be read is one line, with its number", () => {
  refused("a: 1\nb: *none\n", /^x.yaml:2: .*alias/i);
  refused("a: &a [1, *a]\n", /^x.yaml:1: .*an alias refers to what it is part of/);
  refused("a: &a {b: *a}\n", /an alias refers to/);
  refused("a: !foo 1\n", /the tag !foo is not supported/);
  refused("a: !!python/tuple [1]\n", /the tag tag:yaml.org,2002:python.tuple is not supported/);
  refused("a: =\n", /put '=' in quotes/);
  refused("a: 2020-02-30\n", /put '2020-02-30' in quotes/);
  refused("? [a]\n: 1\n", /a key is no plain value/);
  refused("x: 1\na: 1\n b: 2\n", /^x.yaml:2: not YAML/);
  refused("a: 1\n---\nb: 2\n", /not YAML/);
  refused("a: 'x\n", /not YAML/);
  refused('a: 1\nb: "\x00"\n', /^x.yaml:2: not YAML: the character U\+0000/);
  refused("[".repeat(20_000), /not YAML/);
});
