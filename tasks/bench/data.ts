/**
 * Times the work on text that feeds the device, on one core: encoding, packing and masking of made-up text
 * in a temporary folder, and the rendering of prompts.
 *
 * @module
 */

import { preset } from "../../models/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import { Batcher } from "../text/batches.ts";
import { metroObjective } from "../train/objective.ts";
import { packCorpus } from "../text/pack.ts";
import { openPacked } from "../text/packed.ts";
import type { Template } from "../prompts/template.ts";
import { openTemplates } from "../prompts/templates.ts";
import { datasetsIn, readRows, type Row, splitsOf } from "../rows/mod.ts";
import { Tokenizer, type TokenizerJson } from "../tokenizer/tokenizer.ts";
import { trainTokenizer } from "../tokenizer/train_bpe.ts";
import { trainUnigram } from "../tokenizer/train_unigram.ts";
import type { DataResult } from "./report.ts";
import { type Patience, repeatedly, summary } from "./timing.ts";

const WORDS = 20_000;
const SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split(" ");

/**
 * Text that is to a tokenizer much like language: few words are frequent, most are rare.
 *
 * @param bytes about how much
 *
 * @example
 * ```ts
 * import { syntheticText } from "./data.ts";
 * import assert from "node:assert/strict";
 *
 * const text = syntheticText(10_000);
 * assert.equal(syntheticText(10_000), text);
 * assert.match(text, /^[a-z .\n]+$/);
 * ```
 */
export function syntheticText(bytes: number): string {
  const random = new Random(1);
  const words = Array.from({ length: WORDS }, () => {
    const syllables = 1 + random.below(4);
    return Array.from({ length: syllables }, () => SYLLABLES[random.below(SYLLABLES.length)])
      .join("");
  });
  const lines: string[] = [];
  for (let size = 0; size < bytes; size += lines.at(-1)!.length + 1) {
    if (lines.length % 20 === 19) {
      lines.push(""); // ends a document
      continue;
    }
    const length = 5 + random.below(20);
    // Frequency falls with rank, as Zipf found.
    const word = () => words[Math.floor(WORDS ** random.uniform()) - 1];
    lines.push(Array.from({ length }, word).join(" ") + ".");
  }
  return lines.join("\n") + "\n";
}

/** Times every job on about `bytes` of text. */
export async function timeData(bytes: number, patience: Patience): Promise<DataResult[]> {
  const text = syntheticText(bytes);
  const lines = text.split("\n");
  const { tokenizer: { vocabSize, lowercase }, optimisation } = preset("tiny");
  const options = { vocabSize, lowercase, sentinels: optimisation.sequenceLength };
  const json = await trainTokenizer(lines, options);
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/text.txt`;
    await Deno.writeTextFile(path, text);
    const unigram = await trainUnigram(lines, options);
    return [
      ...await timeEncoding("BPE", json, lines, text.length, patience),
      ...await timeEncoding("Unigram", unigram, lines, text.length, patience),
      await timePacking(json, path, text.length, patience),
      await timeMasking(`${path}-packed`, patience),
    ];
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function timeEncoding(
  kind: string,
  json: TokenizerJson,
  lines: readonly string[],
  bytes: number,
  patience: Patience,
): Promise<DataResult[]> {
  let tokenizer = new Tokenizer(json);
  const encode = () => {
    const start = performance.now();
    for (const line of lines) tokenizer.encode(line);
    return Promise.resolve(performance.now() - start);
  };
  const cold = await repeatedly(patience, () => {
    tokenizer = new Tokenizer(json); // knows no word yet
    return encode();
  });
  const warm = await repeatedly(patience, encode);
  return [
    result(`encoding ${kind}, cold`, bytes, "bytes", cold),
    result(`encoding ${kind}, warm`, bytes, "bytes", warm),
  ];
}

async function timePacking(
  json: TokenizerJson,
  path: string,
  bytes: number,
  patience: Patience,
): Promise<DataResult> {
  const { sequenceLength: block } = preset("tiny").optimisation;
  const tokenizer = new Tokenizer(json);
  const times = await repeatedly(patience, async () => {
    const start = performance.now();
    await packCorpus({ paths: [path], tokenizer, block, out: `${path}-packed` });
    return performance.now() - start;
  });
  return result("packing, with encoding", bytes, "bytes", times);
}

/** Batches for the device: reads blocks, pads, masks, lays out. */
async function timeMasking(packed: string, patience: Patience): Promise<DataResult> {
  const { model, objective, optimisation } = preset("tiny");
  const { prepare } = metroObjective(model, objective, 1);
  const part = openPacked(packed, "train");
  try {
    const shapes = { microBatchTokens: 4096, lengths: [optimisation.sequenceLength] };
    const batcher = new Batcher(part, { ...shapes, seed: 1 });
    const count = 16;
    const times = await repeatedly(patience, () => {
      const start = performance.now();
      for (let i = 0; i < count; i++) prepare(batcher.next());
      return Promise.resolve(performance.now() - start);
    });
    return result("batches, masked", count * shapes.microBatchTokens, "tokens", times);
  } finally {
    part.close();
  }
}

/**
 * Times templates at work: every one of a folder's datasets on every row, truncating as promptsource does
 * by default.
 *
 * @param rows folder of the rows
 * @param templates folder of their templates
 */
export async function timeRendering(
  rows: string,
  templates: string,
  patience: Patience,
): Promise<DataResult> {
  const found = openTemplates(templates);
  const work: [Template, Row][] = [];
  for (const dataset of datasetsIn(rows).filter((name) => found.datasets.includes(name))) {
    for (const split of splitsOf(rows, dataset)) {
      for await (const { row } of readRows(rows, dataset, split)) {
        for (const template of found.of(dataset)) work.push([template, row]);
      }
    }
  }
  for (const [template] of work) template.compile();
  const times = await repeatedly(patience, () => {
    const start = performance.now();
    for (const [template, row] of work) template.apply(row);
    return Promise.resolve(performance.now() - start);
  });
  return result("rendering, truncated", work.length, "renders", times);
}

function result(
  job: string,
  amount: number,
  unit: DataResult["unit"],
  times: readonly number[],
): DataResult {
  const milliseconds = summary(times);
  return { job, amount, unit, milliseconds, perSecond: amount / milliseconds.min * 1000 };
}
