// deno task analyze: from a run to a page.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fail, pretrainSmall, succeed, TINY_MODEL, words } from "./prompted.ts";

let folder = "";
const at = (...path: string[]) => join(folder, ...path);
Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-analyze-"));
});
Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

const CPU = ["--adapter", "cpu", "--threads", "1"];

Deno.test("analyze noise: the same seed shows the same, another one other tokens; the page has all", async () => {
  const run = await pretrainSmall(folder, "run", { "held-out": "0.3" });
  const noise = async (...more: string[]) =>
    (await succeed("analyze", ["noise", "--run", run, ...CPU, ...more])).out;
  const first = await noise("--sentences", "2");
  assert.match(first, /original +hidden as +written/);
  assert.match(first, /\d+ tokens, \d+ of them hidden/);
  const page = await readFile(join(run, "noise.html"), "utf8");
  assert.equal(page.match(/<p class="noise">/g)?.length, 2);
  const tokens = Number(first.match(/(\d+) tokens, /)![1]);
  assert.equal(page.match(/<span class="t/g)?.length, tokens);
  assert.equal(await noise("--sentences", "2"), first);
  assert.notEqual(await noise("--sentences", "2", "--seed", "2", "--out", at("x.html")), first);
});

Deno.test("analyze: mistakes get one line", async () => {
  await fail("analyze", [], /expected what to look at: noise; got nothing$/);
  await fail("analyze", ["neurones"], /expected what to look at: noise; got neurones$/);
  await fail("analyze", ["noise", ...CPU], /expected --run FOLDER: a pretrained run$/);
  await fail("analyze", ["noise", "--run", at("none"), ...CPU], /there is no config\.json in it$/);
  const run = await pretrainSmall(folder, "all", { "held-out": "0" });
  await fail("analyze", ["noise", "--run", run, ...CPU], /holds out no text to look at; pretrain/);
  const { "aux-layers": _, ...sizes } = TINY_MODEL;
  const t5 = at("t5"), text = at("text.txt");
  const flags = { ...sizes, objective: "t5", "vocab-size": "290", updates: "1", text, run: t5 };
  await succeed("pretrain", words({ ...flags, "batch-tokens": "256" }));
  await fail(
    "analyze",
    ["noise", "--run", t5, ...CPU],
    /--objective t5: no model made noise for it/,
  );
});
