// Where `--start short`, tiny's, lets the heads begin: at what the corpus says to expect.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openTensors } from "../../tasks/checkpoints/tensors.ts";
import { readMetrics } from "../../tasks/reports/metrics.ts";
import { succeed, words } from "./prompted.ts";
import { SMALL, TEXT } from "./small_run.ts";

/** A run that is over before a weight has moved. */
const STILL = { updates: "1", "warmup-updates": "0", "peak-learning-rate": "1e-30" };
const HEADS = { "rtd-head": "simple", "mlm-head": "roberta", "clm-head": "roberta" };

let folder = "";

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "start-"));
  await writeFile(join(folder, "text.txt"), TEXT);
});

Deno.test.afterAll(() => rm(folder, { recursive: true }));

/** The biases of the heads that a run has made, by the reference's names. */
async function biasesOf(run: string): Promise<Record<string, Float32Array>> {
  const tensors = await openTensors(join(run, "model.safetensors"));
  const names = tensors.names.filter((name) => {
    return /(^|\.)(lm_head|output_projection|clm_head)\.bias$|^rtd_head\.bias$/.test(name);
  });
  const biases: Record<string, Float32Array> = {};
  for (const name of names) biases[name] = await tensors.read(name);
  await tensors.close();
  return biases;
}

Deno.test("a short run starts from heads that know how often each token is to be expected", async () => {
  const run = join(folder, "short"), text = join(folder, "text.txt");
  const flags = words({ ...SMALL, ...STILL, ...HEADS, text, run });
  await succeed("pretrain", flags);
  const { "rtd_head.bias": [rtd], ...vocabulary } = await biasesOf(run);
  assert.equal(Object.keys(vocabulary).length, 2, "the auxiliary model's and the decoder's");

  const { buffer } = await readFile(join(run, "corpus", "train.tokens.bin"));
  const tokens = new Uint16Array(buffer);
  for (const [name, biases] of Object.entries(vocabulary)) {
    const counts = new Float64Array(biases.length);
    for (const token of tokens) counts[token]++;
    const shares = Array.from(biases, Math.exp);
    // A distribution: that of the corpus, with a little for what does not occur.
    assert.ok(Math.abs(shares.reduce((a, b) => a + b) - 1) < 1e-5, name);
    const unseen = shares[counts.indexOf(0)];
    assert.ok(unseen > 0 && unseen < 0.5 / tokens.length, name);
    for (const [id, count] of counts.entries()) {
      assert.ok(Math.abs(shares[id] - count / tokens.length) < 0.01, `${name}, id ${id}`);
      if (count > 0) assert.ok(shares[id] > unseen);
    }
    // Of the selected positions, so many are replaced if the draws are as frequent as in the corpus.
    const same = shares.reduce((sum, share) => sum + share * share, 0);
    const { maskProbability } = JSON.parse(await readFile(join(run, "config.json"), "utf8"));
    const replaced = maskProbability * (1 - same);
    assert.ok(Math.abs(1 / (1 + Math.exp(-rtd)) - replaced) < 1e-3, `${rtd}`);
  }

  // The reference starts undecided, and from nothing but ln V.
  const other = join(folder, "reference");
  await succeed(
    "pretrain",
    words({ ...SMALL, ...STILL, ...HEADS, text, run: other, start: "reference" }),
  );
  for (const [name, biases] of Object.entries(await biasesOf(other))) {
    assert.ok(biases.every((x) => Math.abs(x) < 1e-20), name);
  }
  const losses = await Promise.all([run, other].map(async (folder) => {
    return Number((await readMetrics(join(folder, "metrics.jsonl"))).at(-1)!.mlmLoss);
  }));
  assert.ok(losses[0] < losses[1] - 1, losses.join(", "));
});
