// docs/paper_to_code.md: the names that it gives are in the files that it names, and its table of disputes
// is the one that presets are made by.

import assert from "node:assert/strict";
import { type Dispute, DISPUTES } from "../../models/presets.ts";
import { flagName } from "../../tasks/command/options.ts";
import { declares, linksOf, sectionOf, textOf } from "./pages.ts";

const PAGE = "docs/paper_to_code.md";

Deno.test("what the page links to by name is declared there", () => {
  const named = linksOf(PAGE).filter(({ path, label }) =>
    path.endsWith(".ts") && !/[/.]/.test(label)
  );
  assert.ok(named.length > 40);
  for (const { path, label } of named) {
    assert.ok(declares(textOf(path), label), `${PAGE}: ${path} declares no ${label}`);
  }
});

/** A row of the table, as cells. */
function rowOf({ item, presets, says, settings }: Dispute): string[] {
  const keys = Object.values(settings).flatMap((parts) =>
    Object.values(parts).flatMap(Object.keys)
  );
  const flags = [...new Set(keys)].map((key) =>
    `\`--${key === "algorithm" ? "tokenizer" : flagName(key)}\``
  );
  const code = (text: string) => text.replace(/<\/?s>/g, "`$&`");
  return [
    item,
    presets?.join(", ") ?? "all",
    code(says.paper),
    code(says.code),
    code(says.release),
    flags.join(", ") || "–",
  ];
}

Deno.test("the table of disputes is DISPUTES", () => {
  const lines = sectionOf(textOf(PAGE), "## Where the sources disagree").split("\n")
    .filter((line) => line.startsWith("|"));
  const cells = lines.map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()));
  assert.deepEqual(cells.slice(2), DISPUTES.map(rowOf));
});
