// No function is longer than a screen, but for those that are one long thing by nature.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

const ROOT = join(import.meta.dirname!, "..", "..");
const LONGEST = 60;

/** What may be longer, by the reason. */
const EXEMPT: Record<string, RegExp> = {
  "kernels are text, or code that emits code": /^ops\/(gpu|cpu)\//,
  "a table of cases": /^tasks\/bench\/kernel_cases\.ts streamingCases$/,
};

/** How a function begins in formatted code: a declaration, a method, or an arrow with a name. */
const HEADS = [
  /^ *(?:export )?(?:async )?function\*? ?(\w+)/,
  /^ +(?:(?:static|async|get|set|private) )*\*?(#?\w+)(?:<.*>)?\(.*[({]$/,
  /^ *(?:export )?const (\w+)\b.* = (?:async )?(?:<.*>)?\(.*(?:=> \{|\()$/,
];
const STATEMENTS = ["if", "for", "while", "switch", "catch", "return", "await", "super"];

/** Functions of a formatted file and their lines: a body ends where the indentation of its head returns. */
function functionsOf(text: string): { name: string; lines: number }[] {
  const lines = text.split("\n");
  return lines.flatMap((line, i) => {
    const name = HEADS.map((head) => head.exec(line)?.[1]).find((found) => found !== undefined);
    if (name === undefined || STATEMENTS.includes(name)) return [];
    const indent = /^ */.exec(line)![0];
    const isBack = (at: number) => lines[at].startsWith(indent) && lines[at][indent.length] !== " ";
    const rest = lines.keys().drop(i + 1).filter((at) => lines[at] !== "" && isBack(at));
    // Parameters and types may have lines of their own.
    let begin: number | undefined = i;
    while (begin !== undefined && !lines[begin].endsWith("{")) begin = rest.next().value;
    const end = rest.next().value;
    if (begin === undefined || end === undefined || !/^ *[})]/.test(lines[end])) return [];
    return [{ name, lines: end - i + 1 }];
  });
}

Deno.test("the scan finds functions, methods and arrows with their lines", () => {
  const text = [
    "export function one(",
    "  a: number,",
    "): number {",
    "  return a;",
    "}",
    "class A {",
    "  async #two(b: { c: number }) {",
    "    if (b) {",
    "      await 1;",
    "    }",
    "  }",
    "}",
    "const three = async (x: number) => {",
    "  await x;",
    "};",
    "call(1);",
  ].join("\n");
  assert.deepEqual(functionsOf(text), [
    { name: "one", lines: 5 },
    { name: "#two", lines: 5 },
    { name: "three", lines: 3 },
  ]);
});

Deno.test(`no function has more than ${LONGEST} lines`, async () => {
  const long: string[] = [], met = new Set<RegExp>();
  for (const layer of ["ops", "models", "tasks", "scripts"]) {
    for (const entry of await readdir(join(ROOT, layer), { recursive: true })) {
      if (!entry.endsWith(".ts")) continue;
      const path = `${layer}/${entry.replaceAll("\\", "/")}`;
      for (const { name, lines } of functionsOf(await readFile(join(ROOT, path), "utf8"))) {
        if (lines <= LONGEST) continue;
        const exempt = Object.values(EXEMPT).find((reason) => reason.test(`${path} ${name}`));
        if (exempt) met.add(exempt);
        else long.push(`${path} ${name}: ${lines}`);
      }
    }
  }
  assert.deepEqual(long, [], `cut these up: no function is longer than ${LONGEST} lines`);
  assert.equal(met.size, Object.keys(EXEMPT).length, "an exemption is not needed any more");
});
