import assert from "node:assert/strict";
import type { MetricRecord } from "../../../tasks/reports/metrics.ts";
import { trainingReport } from "../../../tasks/reports/training.ts";

const CONFIG = { preset: "tiny", objective: "metro", text: ["a & b.txt", "<c>"], seed: 1 };

/** A run whose losses fall and accuracies rise, with a held-out record every 100 updates. */
function metroRun(updates: number): MetricRecord[] {
  return Array.from({ length: updates }, (_, i): MetricRecord[] => {
    const update = i + 1, fall = 1 / update;
    const figures = {
      loss: 5 + fall,
      mlmLoss: 3 + fall,
      rtdLoss: 0.2 + fall,
      clmLoss: 2 + fall,
      mlmAccuracy: 0.3 - fall / 4,
      rtdRecall: 0.5,
      rtdPrecision: 0.7,
      rtdAuc: 0.8,
      clmAccuracyReplaced: 0.2,
      clmAccuracyOther: 0.9,
    };
    const speed = { tokens: 4096 * update, seconds: update, tokensPerSecond: 4096 };
    const train = { kind: "train" as const, update, ...speed, learningRate: 1e-4, ...figures };
    const heldout = { kind: "heldout" as const, update, ...figures, baselineAccuracy: 0.05 };
    return update % 100 === 0 ? [train, heldout] : [train];
  }).flat();
}

const t5Run: MetricRecord[] = [
  { kind: "train", update: 1, loss: 9, accuracy: 0.01 },
  { kind: "train", update: 2, loss: 8, accuracy: 0.02 },
];

/** The labels of the drawings, for a reader who does not see them. */
const labels = (page: string) =>
  [...page.matchAll(/<svg role="img" aria-label="([^"]*)"/g)].map((m) => m[1]);

Deno.test({
  name: "a report has a drawing, with words for it, of every figure that was measured",
  permissions: "none",
  async fn() {
    const page = await trainingReport({ name: "first", config: CONFIG, metrics: metroRun(300) });
    const drawn = labels(page);
    assert.deepEqual(drawn.map((label) => label.split(" over ")[0]), [
      ...["Loss", "MLM loss", "RTD loss", "CLM loss", "MLM accuracy", "RTD", "CLM accuracy"],
      ...["Learning rate", "Tokens per second"],
    ]);
    assert.equal(
      drawn[5],
      "RTD over updates 1 to 300: recall, train from 50.0% to 50.0%; " +
        "recall, held-out from 50.0% to 50.0%; precision, train from 70.0% to 70.0%; " +
        "precision, held-out from 70.0% to 70.0%; " +
        "AUC, train from 0.800 to 0.800; AUC, held-out from 0.800 to 0.800.",
    );
    assert.match(page, /<th scope="row">CLM loss<\/th><td>2\.003<\/td><td>2\.003<\/td>/);
  },
});

Deno.test("charts of figures that a run does not have are left out", async () => {
  const page = await trainingReport({ name: "t5", config: {}, metrics: t5Run });
  assert.deepEqual(labels(page), [
    "Loss over updates 1 to 2: train from 9.000 to 8.000.",
    "Accuracy over updates 1 to 2: train from 1.0% to 2.0%.",
  ]);
});

Deno.test("figures that are no numbers stand as dashes, and are not drawn", async () => {
  const none = { rtdRecall: 0, rtdPrecision: null, gradNorm: NaN };
  const metrics = [1, 2].map((update): MetricRecord => ({ kind: "train", update, ...none }));
  const page = await trainingReport({ name: "early", config: CONFIG, metrics });
  assert.deepEqual(labels(page), ["RTD over updates 1 to 2: train from 0.0% to 0.0%."]);
  assert.match(page, /<th scope="row">RTD precision<\/th><td>–<\/td><td>–<\/td>/);
  assert.doesNotMatch(page, /NaN|Infinity|null/);
});

Deno.test("a report needs nothing else: no script, no network", async () => {
  const page = await trainingReport({ name: "first", config: CONFIG, metrics: metroRun(20) });
  const references = page.replaceAll(/xmlns(:xlink)?="[^"]*"/g, "");
  assert.doesNotMatch(references, /<script|<link|<img|https?:|url\(|@import|href=/);
});

Deno.test("a report's size does not grow with the run", async () => {
  const metrics = metroRun(20_000);
  const page = await trainingReport({ name: "long", config: CONFIG, metrics });
  assert.ok(page.length < 600_000, `${page.length} characters`);
});

Deno.test("the same run gives the same report", async () => {
  const run = { name: "first", config: CONFIG, metrics: metroRun(200) };
  assert.equal(await trainingReport(run), await trainingReport(run));
});

Deno.test("names and values from outside are escaped", async () => {
  const config = { ...CONFIG, tokenizer: '"><script>alert(1)</script>' };
  const page = await trainingReport({ name: "<b>&", config, metrics: [] });
  assert.match(page, /<title>METRO-T0 run &lt;b&gt;&amp;<\/title>/);
  assert.match(page, /a &amp; b\.txt, &lt;c&gt;/);
  assert.doesNotMatch(page, /<script|<b>/);
});

Deno.test("a run that has measured nothing yet has a report all the same", async () => {
  const page = await trainingReport({ name: "new", config: CONFIG, metrics: [] });
  assert.match(page, /No figures yet/);
});
