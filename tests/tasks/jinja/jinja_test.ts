// Jinja2 with Python's semantics, against what Jinja2 itself rendered (jinja_table.ts) and against
// plain definitions on arrays of code points.

import assert from "node:assert/strict";
import { compileTemplate } from "../../../tasks/jinja/evaluate.ts";
import { floatText } from "../../../tasks/jinja/numbers.ts";
import { slicePoints, strip, truncate } from "../../../tasks/jinja/text.ts";
import { JinjaError, PyFloat } from "../../../tasks/jinja/values.ts";
import { BUILTINS, STATEMENTS } from "./jinja_builtins_table.ts";
import { BLOCKS, ERRORS, EXPRESSIONS, VARIABLES } from "./jinja_table.ts";

const choose = (n: number) => 1 % n;

function render(source: string, variables: Readonly<Record<string, unknown>> = VARIABLES): string {
  return compileTemplate(source).render(variables, { choose });
}

function failure(run: () => unknown): JinjaError {
  try {
    run();
  } catch (error) {
    if (error instanceof JinjaError) return error;
    throw error;
  }
  return assert.fail("expected an error");
}

for (const [what, rows] of Object.entries({ ...EXPRESSIONS, ...BUILTINS })) {
  Deno.test(`jinja: ${what}`, () => {
    for (const [expression, expected] of rows) {
      assert.equal(render(`{{ ${expression} }}`), expected, expression);
    }
  });
}

for (const [what, rows] of Object.entries({ ...BLOCKS, ...STATEMENTS })) {
  Deno.test(`jinja: ${what}`, () => {
    for (const [source, expected] of rows) assert.equal(render(source), expected, source);
  });
}

Deno.test("jinja: fails where Python does, and in the same way", () => {
  for (const [kind, sources] of Object.entries(ERRORS)) {
    for (const source of sources) assert.equal(failure(() => render(source)).kind, kind, source);
  }
});

Deno.test("jinja: what promptsource's truncation adds changes nothing about short values", () => {
  for (const [expression, expected] of Object.values(EXPRESSIONS).flat()) {
    // It binds to the last operand alone, so only where there is one.
    if (/ (if|and|or|not|in|[-+*/%~<>=]+) |^not |^1, /.test(expression)) continue;
    assert.equal(render(`{{ ${expression} | string | truncate(2048) }}`), expected, expression);
  }
});

Deno.test("jinja: a filter binds to the last operand only", () => {
  assert.equal(render('{{ "a" ~ "b" | upper }}{{ "a" if z else "b" | upper }}'), "aBB");
});

Deno.test("jinja: floats of float columns print as Python's, whole numbers as they are", () => {
  const variables = { x: new PyFloat(4), n: 4, list: [new PyFloat(0), 0.5, 4] };
  assert.equal(render("{{ x }} {{ n }} {{ list }}", variables), "4.0 4 [0.0, 0.5, 4]");
  assert.equal(
    render("{{ x == n }} {{ x / 2 }} {{ n * x }} {{ x | int }}", variables),
    "True 2.0 16.0 4",
  );
  assert.equal(render("{{ [7, 8][x] }}{{ {4: 'four'}[x] }}", { x: new PyFloat(4) }), "four");
});

Deno.test("jinja: floats have Python's exponents", () => {
  const numbers = [1e-5, 1e-4, 123456789012345680, 1e16, 1e22, 5e-324, NaN, -Infinity, -0];
  assert.deepEqual(numbers.map(floatText), [
    ...["1e-05", "0.0001", "1.2345678901234568e+17", "1e+16", "1e+22", "5e-324"],
    ...["nan", "-inf", "-0.0"],
  ]);
});

Deno.test("jinja: Python's white space is stripped, and nothing else", () => {
  const spaces =
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000";
  assert.equal(strip(`${spaces}a${spaces}`), "a");
  assert.equal(strip("\ufeff\u200b\u180e a"), "\ufeff\u200b\u180e a");
});

Deno.test("jinja: line ends in a template become newlines, and the last one goes", () => {
  assert.equal(render("a\r\nb\rc\n\r\n"), "a\nb\nc\n");
  assert.equal(render("{{ e }}\r\n", { e: "x\r\ny" }), "x\r\ny");
});

Deno.test("jinja: a colon may end a statement, as in Python", () => {
  const source = "{% for x in nums: %}{% if x == 1: %}a{% else: %}b{% endif %}{% endfor %}";
  assert.equal(render(source), "babba");
});

Deno.test("jinja: braces and tags within strings are text", () => {
  assert.equal(render(`{{ "}}" }}{{ '%}{#' }}{{ {"a": {"b": "}"}}["a"]["b"] }}`), "}}%}{#}");
});

Deno.test("jinja: a field comes before a function of its name", () => {
  assert.equal(render("{{ zip }} {{ range }}", { zip: "90210", range: null }), "90210 None");
});

Deno.test("jinja: rendering never changes what it is given", () => {
  const variables = { list: [1, [2]], dict: { a: [1] }, text: "x" };
  const template = compileTemplate(
    "{% set _ = list.append(3) %}{% set _ = list[1].append(4) %}{% set _ = dict.update({'b': 2}) %}" +
      "{% set _ = dict.a.pop() %}{% set own = [] %}{% set _ = own.append(text) %}{{ list }}{{ dict }}{{ own }}",
  );
  for (let again = 0; again < 2; again++) {
    assert.equal(template.render(variables), "[1, [2, 4], 3]{'a': [], 'b': 2}['x']");
    assert.deepEqual(variables, { list: [1, [2]], dict: { a: [1] }, text: "x" });
  }
});

Deno.test("jinja: names of objects and arrays in JavaScript mean nothing", () => {
  for (const name of ["constructor", "__proto__", "toString", "length", "hasOwnProperty"]) {
    assert.equal(
      render(`{{ ${name} }}{{ d.${name} }}{{ d["${name}"] }}{{ l.${name} }}{{ s.${name} }}`),
      "",
    );
    assert.equal(failure(() => render(`{{ s.${name}() }}`)).kind, "UndefinedError");
  }
  assert.equal(failure(() => compileTemplate("{{ s | toString }}")).kind, "TemplateSyntaxError");
});

Deno.test("jinja: a template knows the fields that it needs", () => {
  const template = compileTemplate(
    "{% set y = x %}{{ y.a }}{% for k in range(n) %}{{ k }}{{ loop.index }}{% set z = k %}{{ z }}{% endfor %}" +
      "{% if maybe is defined %}{{ maybe }}{% endif %}{{ other | default(1) }}{{ zip }}{{ none }}{{ y | choice }}",
  );
  assert.deepEqual(template.fields, ["x", "n"]);
  assert.deepEqual(template.reads, ["x", "n", "z", "maybe", "other"]);
  assert.equal(template.usesChoice, true);
  assert.equal(compileTemplate("{{ x | random }}").usesChoice, true);
  assert.equal(compileTemplate("{{ choice }}").usesChoice, false);
});

Deno.test("jinja: choice asks once per use, and takes what it is told", () => {
  const template = compileTemplate("{{ list | choice }}{{ 'xyz' | choice }}");
  const asked: number[] = [];
  const last = (n: number) => (asked.push(n), n - 1);
  assert.equal(template.render({ list: [1, 2] }, { choose: last }), "2z");
  assert.deepEqual(asked, [2, 3]);
  assert.equal(template.render({ list: [1, 2] }), "1x");
  assert.throws(() => template.render({ list: [1] }, { choose: () => 1 }), /index from 0 to 0/);
});

Deno.test("jinja: syntax errors name the line", () => {
  const lines: [source: string, line: number, message: RegExp][] = [
    ["a\n{{ x", 2, /end of/],
    ["{{ x\n}}\n{{ 1 + }}", 3, /got '}}'/],
    ["{{ 'a\n}}' }}{# \n #}\n{{ x ? }}", 4, /character: \?/],
    ["\n\n{% foo %}", 3, /no statement named 'foo'/],
    ["{{ x }}\n{{ x | titel }}", 2, /no filter named 'titel'; did you mean title\?/],
    ["{{ x is defind }}", 1, /no test named 'defind'; did you mean defined\?/],
    ["{% if x %}\n{% endfor %}", 2, /expected {% endif %}, got 'endfor'/],
    ["{% if x %}\n", 1, /end of the template/],
    ["\n{{ f(*x, *y) }}", 2, /arguments are out of order/],
    ["\n{% set a.b() = 1 %}", 2, /expected %}, got '\('/],
    ["{% set true = 1 %}", 1, /expected a name to set/],
    ["a\n{{ 'b }}", 2, /a text without its closing '/],
    ["{{ (1 }}", 1, /unexpected '}'/],
    ["{# a\n", 1, /expected #}/],
    ["\n{% raw %}", 2, /expected {% endraw %}/],
    ["{{ '\\x4' }}", 1, /the escape \\x is cut short/],
  ];
  for (const [source, line, message] of lines) {
    const error = failure(() => compileTemplate(source));
    assert.equal(error.kind, "TemplateSyntaxError", source);
    assert.equal(error.line, line, source);
    assert.match(error.message, message);
  }
});

Deno.test("jinja: generators and methods have no text, and the error says what to do", () => {
  assert.match(failure(() => render("{{ l | map('string') }}")).message, /put \| list behind it/);
  assert.match(failure(() => render("{{ d.items }}")).message, /was it meant to be called/);
});

Deno.test("jinja: slices and truncation agree with arrays of code points, on random text", () => {
  const characters = ["a", "b", " ", " ", "é", "😀", "\ud83d", "\ude00"];
  let seed = 1;
  const random = (n: number) => (seed = seed * 48271 % 2147483647) % n;
  for (let round = 0; round < 2000; round++) {
    const text = Array.from({ length: random(12) }, () => characters[random(8)]).join("");
    const points = [...text], bound = () => random(4) === 0 ? undefined : random(30) - 15;
    const start = bound(), stop = bound();
    assert.equal(slicePoints(text, start, stop), points.slice(start, stop).join(""));
    const length = 3 + random(6), leeway = random(3);
    const kept = points.slice(0, length - 3).join("");
    const cut = kept.includes(" ") ? kept.slice(0, kept.lastIndexOf(" ")) : kept;
    const expected = points.length <= length + leeway ? text : cut + "...";
    assert.equal(truncate(text, length, { leeway }), expected);
  }
});
