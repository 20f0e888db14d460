// What a template can do to the machine: nothing. Each of these ends in one line, soon and in little memory.

import assert from "node:assert/strict";
import { compileTemplate } from "../../../tasks/jinja/evaluate.ts";
import { JinjaError } from "../../../tasks/jinja/values.ts";

const MANY = 20_000;

function failure(source: string): JinjaError {
  try {
    compileTemplate(source).render({ text: "word ".repeat(1000) });
  } catch (error) {
    if (error instanceof JinjaError) return error;
    throw error;
  }
  return assert.fail(`expected an error of ${source.slice(0, 80)}`);
}

function grown(step: string): string {
  return `{% set ns = namespace(x='a', l=[1], t=(1,)) %}{% for i in range(99) %}{% set ${step} %}{% endfor %}`;
}

/** Templates by the error that they end in. */
const HOSTILE: Readonly<Record<string, readonly string[]>> = {
  MemoryError: [
    "{{ 'a' * 10**9 }}",
    "{{ [0] * 10**9 }}",
    "{{ ([0] * 10**30) | length }}",
    "{{ 'a' | center(10**9) }}",
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.rjust(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ 'a\\t'.expandtabs(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '%.1000000000f' % 1.5 }}",
    "{{ '%.1000000000e' % 1.5 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:.1000000000f}'.format(1.5) }}",
    "{{ range(10**10) | list }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{{ 10**(10**8) }}",
    "{{ 'a\\nb' | indent(10**9) }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ ('a' * 10**5) | replace('', 'x' * 10**4) }}",
    "{{ ('a' * 10**5) | replace('a', 'x' * 10**4) }}",
    "{{ (('a' * 10**5) | list) | join('b' * 10**4) }}",
    grown("ns.x = ns.x + ns.x"),
    grown("ns.x = ns.x ~ ns.x"),
    grown("ns.l = ns.l + ns.l"),
    `${grown("ns.l = [ns.l, ns.l]")}{{ ns.l }}`,
    `${grown("ns.l = [ns.l, ns.l]")}{{ ns.l | tojson }}`,
    `${grown("ns.l = [ns.l, ns.l]")}{{ ns.l | pprint }}`,
    `${grown("ns.t = (ns.t, ns.t)")}{{ {ns.t: 1} }}`,
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "{% set s = 'é' * 10**6 %}{% for i in range(10**6) %}{{ s.isalpha() }}{% endfor %}",
  ],
  RecursionError: [
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}",
    `{% set ns = namespace(l=1) %}{% for i in range(${MANY}) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}`,
    `{{ 1${" + 1".repeat(MANY)} }}`,
    `{{ x${".a".repeat(MANY)} }}`,
    `{{ text${" | upper".repeat(MANY)} }}`,
  ],
  TemplateSyntaxError: [
    `{{ ${"(".repeat(MANY)}1${")".repeat(MANY)} }}`,
    `{{ ${"[".repeat(MANY)}${"]".repeat(MANY)} }}`,
    `{{ ${"{1: ".repeat(MANY)}1${"}".repeat(MANY)} }}`,
    `{{ ${"not ".repeat(MANY)}1 }}`,
    `{{ ${"- ".repeat(MANY)}1 }}`,
    `{{ x${"[y".repeat(MANY)}${"]".repeat(MANY)} }}`,
    "{% if 1 %}".repeat(MANY) + "{% endif %}".repeat(MANY),
  ],
  ValueError: ["{{ 10**5000 }}", "{{ '%d' % 10**5000 }}"],
};

for (const [kind, sources] of Object.entries(HOSTILE)) {
  Deno.test(`jinja: templates that ask for too much end in one line: ${kind}`, () => {
    for (const source of sources) {
      const { kind: got, message } = failure(source);
      assert.equal(got, kind, source.slice(0, 80));
      assert.ok(message.length < 600 && !message.includes("\n"), message);
    }
  });
}

Deno.test("jinja: what is large and cheap is allowed", () => {
  const render = (source: string) => compileTemplate(source).render({});
  assert.equal(render("{{ ('a' * 10**6) | upper | length }}"), "1000000");
  assert.equal(render("{{ range(10**5) | sum }}"), "4999950000");
  assert.equal(
    render("{{ (2**10000) % 1000007 }}"),
    render("{{ (2**5000 % 1000007) ** 2 % 1000007 }}"),
  );
  assert.equal(render(`{{ ${"(".repeat(30)}1${")".repeat(30)} }}`), "1");
  assert.equal(render("{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}"), "[1, [...]]");
  assert.equal(render("{% set d = {} %}{% set _ = d.update(a=d) %}{{ d }}"), "{'a': {...}}");
});

Deno.test("jinja: each rendering has a budget of its own", () => {
  const template = compileTemplate("{{ ('a' * 10**7) | length }}");
  for (let again = 0; again < 10; again++) assert.equal(template.render({}), "10000000");
});

Deno.test("jinja: messages are one line of moderate length, whatever they quote", () => {
  const { message } = failure(`{{ 1 '\n\x1b[31m${"a".repeat(9999)}' }}`);
  assert.match(message, /^expected }}, got '\\n\\x1b\[31ma+…'$/);
  assert.ok(failure("{{ {}.pop('k' * 10**6) }}").message.length < 600);
});
