// docs/own_tasks.md: the files to paste make a task that can be looked at, trained on and evaluated.

import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { resolveMixture } from "../../tasks/prompts/mixture.ts";
import { lintLines, showLines } from "../../tasks/prompts/listing.ts";
import { resolveTasks } from "../../tasks/evaluate/tasks.ts";
import { textOf } from "./pages.ts";

/** Writes the files of the page, each shown under its name. */
async function paste(folder: string): Promise<void> {
  const shown = textOf("docs/own_tasks.md").matchAll(
    /^`(my\/[^`]+)`:\n\n```\w+\n([\s\S]*?)^```$/gm,
  );
  for (const [, path, text] of shown) {
    await Deno.mkdir(join(folder, dirname(path)), { recursive: true });
    await Deno.writeTextFile(join(folder, path), text);
  }
}

Deno.test("the files of the page make a task", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await paste(folder);
    const data = join(folder, "my/rows"), templates = join(folder, "my/templates");

    const linted = await lintLines({ data, templates, datasets: [], rows: 200 });
    assert.equal(linted.errors, 0, linted.lines.join("\n"));
    const shown = await showLines({ data, templates, dataset: "garden_notes", row: 0 });
    assert.equal(shown.failures, 0);
    assert.match(shown.lines.join("\n"), /ranked +bad \| good/);

    const mixture = await resolveMixture({
      ...{ names: ["garden_notes"], data, templates, rule: "metro", allowMissing: false },
      cache: join(folder, "cache"),
    });
    const [{ rows, templates: used }] = mixture.datasets;
    assert.equal(rows, 4);
    assert.equal(used.length, 3);

    const asked = { tasks: ["garden_notes"], data, templates, allowMissing: false, skipBad: false };
    const { tasks: [task] } = await resolveTasks(asked);
    assert.equal(task.split, "validation");
    assert.deepEqual(task.templates.map(({ name }) => name), ["good_news", "how_does_it_sound"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
