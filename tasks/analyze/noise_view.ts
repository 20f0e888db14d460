/**
 * {@link noiseSentences} to look at: lines for a terminal, and a page.
 *
 * @module
 */

import { percentText } from "../command/number_text.ts";
import { aligned } from "../command/table.ts";
import { escapeHtml, htmlPage } from "../reports/page.ts";
import type { NoiseToken } from "./noise.ts";

/** What the RTD head says from here on counts as "replaced". */
const REPLACED = 0.5;

/** Counts over all sentences. */
export interface NoiseCounts {
  /** Tokens. */
  tokens: number;
  /** Positions that the auxiliary model had to fill. */
  selected: number;
  /** Positions at which it wrote another token. */
  replaced: number;
  /** Of these, those that the RTD head named. */
  found: number;
  /** All that it named. */
  named: number;
  /** Of the replaced ones, those whose original the decoder wrote. */
  corrected: number;
}

/**
 * Counts what happened.
 *
 * @example
 * ```ts
 * import { countNoise } from "./noise_view.ts";
 * import assert from "node:assert/strict";
 *
 * const kept = { original: "a", noise: "a", isReplaced: false, correction: "a", isCorrect: true };
 * const replaced = { ...kept, seen: "[MASK]", noise: "b", isReplaced: true, replacedness: 0.9 };
 * const { selected, found, corrected } = countNoise([[kept, replaced]]);
 * assert.deepEqual([selected, found, corrected], [1, 1, 1]);
 * ```
 */
export function countNoise(sentences: readonly (readonly NoiseToken[])[]): NoiseCounts {
  const tokens = sentences.flat(), replaced = tokens.filter(({ isReplaced }) => isReplaced);
  return {
    tokens: tokens.length,
    selected: tokens.filter(({ seen }) => seen !== undefined).length,
    replaced: replaced.length,
    found: replaced.filter(isNamed).length,
    named: tokens.filter(isNamed).length,
    corrected: replaced.filter(({ isCorrect }) => isCorrect).length,
  };
}

function isNamed({ replacedness = 0 }: NoiseToken): boolean {
  return replacedness >= REPLACED;
}

/** The counts in a sentence. */
export function countsText(
  { tokens, selected, replaced, found, named, corrected }: NoiseCounts,
): string {
  const share = (part: number, whole: number) => percentText(part / whole, 1, " %");
  return `${tokens} tokens, ${selected} of them hidden; at ${replaced} the auxiliary model wrote another one. ` +
    `Of these, the encoder found ${found} (${
      share(found, replaced)
    }), among ${named} that it named ` +
    `(${share(found, named)}), and the decoder put ${corrected} right (${
      share(corrected, replaced)
    }).`;
}

/**
 * Lines for a terminal: of each sentence the original, and a row for every token that was hidden or that the
 * encoder suspects.
 */
export function noiseLines(sentences: readonly (readonly NoiseToken[])[]): string[] {
  const header = ["original", "hidden as", "written", "", "suspicion", "corrected", ""];
  return sentences.flatMap((tokens, i) => {
    const shown = tokens.filter((token) => token.seen !== undefined || isNamed(token));
    const rows = shown.map((token) => [
      quoted(token.original),
      token.seen === undefined ? "" : quoted(token.seen),
      quoted(token.noise),
      token.isReplaced ? "replaced" : "",
      percentText(token.replacedness, 0, " %"),
      quoted(token.correction),
      token.isCorrect ? "right" : "wrong",
    ]);
    return [
      ...(i > 0 ? [""] : []),
      tokens.map(({ original }) => original).join(""),
      ...aligned([header, ...rows], header.length).map((line) => `  ${line}`),
    ];
  });
}

/** A space at an end is part of many tokens, and is to be seen. */
function quoted(text: string): string {
  return text.replace(/^ /, "␣").replace(/\n/g, "⏎");
}

const STYLE = `<style>
.noise { line-height: 1; margin: 0 0 2rem; }
.noise span.t { display: inline-block; vertical-align: bottom; text-align: center; margin: .15rem 0;
  padding: .1rem .15rem; border-radius: .2rem; white-space: pre; }
.noise span.t small { display: block; font-size: .75rem; min-height: 1rem; }
.noise span.t b { display: block; line-height: 1.6; }
.noise .hidden b { text-decoration: underline; text-underline-offset: .2rem; }
.noise .replaced b { text-decoration: underline wavy; }
</style>`;

/**
 * A page: above each hidden token the original, in the middle what the main model reads, the more colored the
 * more its encoder suspects it, and below what its decoder makes of it.
 *
 * @param name of the run
 */
export function noisePage(name: string, sentences: readonly (readonly NoiseToken[])[]): string {
  const paragraphs = sentences.map((tokens) =>
    `<p class="noise">${tokens.map(tokenHtml).join("\n")}</p>`
  );
  const legend =
    `<p>${escapeHtml(countsText(countNoise(sentences)))} Underlined: hidden from the ` +
    `auxiliary model, with the original above; a wavy line where it wrote another token. Color: how ` +
    `probable the encoder finds it that the token was replaced. Below: what the decoder writes, ✓ right, ` +
    `✗ wrong.</p>`;
  return htmlPage({
    title: `What ${name} makes of held-out text`,
    body: [STYLE, legend, ...paragraphs].join("\n"),
  });
}

function tokenHtml(token: NoiseToken): string {
  const { original, seen, noise, isReplaced, replacedness = 0, correction, isCorrect } = token;
  const isShown = seen !== undefined || isNamed(token);
  const title = `original ${quoted(original)}, ` +
    (seen === undefined ? "" : `hidden as ${quoted(seen)}, written ${quoted(noise)}, `) +
    `suspicion ${percentText(token.replacedness, 0, " %")}, corrected ${quoted(correction)}`;
  const classes = ["t", seen === undefined ? "" : "hidden", isReplaced ? "replaced" : ""];
  const color = `background: color-mix(in srgb, #d9480f ${
    Math.round(70 * replacedness)
  }%, transparent)`;
  const above = isShown ? escapeHtml(quoted(original)) : "";
  const below = isShown ? `${escapeHtml(quoted(correction))} ${isCorrect ? "✓" : "✗"}` : "";
  return `<span class="${classes.filter((word) => word !== "").join(" ")}" style="${color}" ` +
    `title="${escapeHtml(title)}"><small>${above}</small><b>${escapeHtml(quoted(noise))}</b>` +
    `<small>${below}</small></span>`;
}
