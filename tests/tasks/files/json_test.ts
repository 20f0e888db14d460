import assert from "node:assert/strict";
import { key, Random } from "../../../ops/graph/random.ts";
import { parsePythonJson } from "../../../tasks/files/json.ts";

Deno.test("the constants of Python's json are numbers outside strings, and nothing else is", () => {
  const table: [string, unknown][] = [
    ["NaN", NaN],
    ["[NaN, Infinity,-Infinity]", [NaN, Infinity, -Infinity]],
    ['{"NaN": NaN, "a": "-Infinity", "b": "\\"NaN"}', { NaN, a: "-Infinity", b: '"NaN' }],
    ['{"a": Infinity, "b": 0.0e0, "c": 1e400}', { a: Infinity, b: 0, c: Infinity }],
    ['{"a": 1, "a": NaN}', { a: NaN }],
    ["[0.00e0, NaN]", [0, NaN]],
  ];
  for (const [text, value] of table) assert.deepEqual(parsePythonJson(text), value, text);
  for (
    const text of [
      "nan",
      "+Infinity",
      "NaNa",
      "- Infinity",
      "{NaN: 1}",
      "[1NaN]",
      "--NaN",
      '"NaN',
      "",
    ]
  ) {
    assert.throws(() => parsePythonJson(text), SyntaxError, text);
  }
});

Deno.test("deep brackets are refused, many are not", () => {
  const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
  parsePythonJson(nested(900));
  for (const depth of [901, 100_000]) {
    assert.throws(() => parsePythonJson(nested(depth)), /more than 900 brackets/);
  }
  const objects = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
  assert.throws(() => parsePythonJson(objects), /more than 900 brackets/);
  parsePythonJson(`[${Array(5000).fill("[]").join()}]`);
  assert.equal(parsePythonJson(`"${"[".repeat(5000)}${"]".repeat(5000)}"`), nested(5000));
  assert.throws(() => parsePythonJson("[".repeat(100_000)), SyntaxError);
});

/** A random value, and its text with random white space. */
function randomValue(random: Random, depth: number): [unknown, string] {
  const blank = () => ["", " ", "\n", "\t "][random.below(4)];
  const texts = ["", "NaN", '"', "\\", "Infinity: [", "é\u2028", "\ud83d\ude00", "0.0e0"];
  const simple: [unknown, string][] = [
    [NaN, "NaN"],
    [Infinity, "Infinity"],
    [-Infinity, "-Infinity"],
    [null, "null"],
    [true, "true"],
    [-1.5, "-1.5"],
    [0, "0.0e0"],
  ];
  const kind = random.below(depth > 3 ? 2 : 4);
  if (kind === 0) return simple[random.below(simple.length)];
  if (kind === 1) {
    const text = texts[random.below(texts.length)];
    return [text, JSON.stringify(text)];
  }
  const items = Array.from({ length: random.below(4) }, () => randomValue(random, depth + 1));
  if (kind === 2) {
    return [items.map(([value]) => value), `[${items.map(([, t]) => blank() + t + blank())}]`];
  }
  const fields = items.map(([value, text], i) => [`${texts[random.below(8)]}${i}`, value, text]);
  return [
    Object.fromEntries(fields.map(([name, value]) => [name, value])),
    `{${fields.map(([name, , text]) => `${blank()}${JSON.stringify(name)}:${blank()}${text}`)}}`,
  ];
}

Deno.test("random JSON with constants is read as it was written", () => {
  const random = new Random(key(3));
  for (let i = 0; i < 1000; i++) {
    const [value, text] = randomValue(random, 0);
    assert.deepEqual(parsePythonJson(text), value, text);
  }
});
