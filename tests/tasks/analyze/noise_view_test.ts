// What is shown of tokens on their way through METRO.

import assert from "node:assert/strict";
import type { NoiseToken } from "../../../tasks/analyze/noise.ts";
import {
  countNoise,
  countsText,
  noiseLines,
  noisePage,
} from "../../../tasks/analyze/noise_view.ts";

const kept: NoiseToken = {
  original: " bell",
  noise: " bell",
  isReplaced: false,
  replacedness: 0.1,
  correction: " bell",
  isCorrect: true,
};
const found: NoiseToken = {
  ...kept,
  seen: "[MASK]",
  noise: " <b>&",
  isReplaced: true,
  replacedness: 0.75,
};
const missed: NoiseToken = { ...found, replacedness: 0.2, correction: " mill", isCorrect: false };
const suspected: NoiseToken = { ...kept, original: " odd", noise: " odd", replacedness: 0.5 };

Deno.test("counts: hidden, replaced, found, named, put right", () => {
  const counts = countNoise([[kept, found], [missed, suspected]]);
  assert.deepEqual(counts, {
    ...{ tokens: 4, selected: 2, replaced: 2, found: 1, named: 2, corrected: 1 },
  });
  assert.match(countsText(counts), /found 1 \(50\.0 %\), among 2 .* put 1 right \(50\.0 %\)/);
});

Deno.test("a model without an RTD head names nothing, and shares of nothing are dashes", () => {
  const { replacedness: _, ...headless } = kept;
  const counts = countNoise([[headless]]);
  assert.equal(counts.named, 0);
  assert.match(countsText(counts), /found 0 \(–\)/);
  assert.match(noiseLines([[{ ...headless, seen: "[MASK]" }]])[2], /–/);
});

Deno.test("lines show what was hidden or is suspected, and the spaces that are part of tokens", () => {
  const [text, header, ...rows] = noiseLines([[kept, found, missed, suspected]]);
  assert.equal(text, " bell bell bell odd");
  assert.match(header, /original +hidden as +written +suspicion +corrected/);
  assert.equal(rows.length, 3);
  assert.match(rows[0], /␣bell +\[MASK\] +␣<b>& +replaced +75 % +␣bell +right/);
  assert.match(rows[1], /20 % +␣mill +wrong/);
  assert.match(rows[2], /␣odd +␣odd +50 % +␣bell +right/);
});

Deno.test("a page holds every token, and nothing of it is taken for HTML", () => {
  const page = noisePage("<run>", [[kept, found], [suspected]]);
  assert.match(page, /<h1>What &lt;run&gt; makes of held-out text<\/h1>/);
  assert.doesNotMatch(page, /<b>&amp;|<run>|<script/);
  assert.equal(page.match(/<span class="t/g)?.length, 3);
  assert.match(
    page,
    /class="t hidden replaced" style="background: color-mix\(in srgb, #d9480f 53%/,
  );
});
