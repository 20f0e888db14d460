/** A run of pretraining so small that it is a few seconds of start-up and little else. */

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Random } from "../../ops/graph/random.ts";
import { type Flags, metricsOf, TINY_MODEL } from "./prompted.ts";

/** Its flags, without `--text`. */
export const SMALL: Flags = {
  ...TINY_MODEL,
  "vocab-size": "280",
  "sequence-length": "32",
  "static-lengths": "2",
  "batch-tokens": "512",
  "micro-batch": "256",
  "warmup-updates": "2",
  "log-every": "3",
  "evaluate-every": "6",
  "save-every": "4",
  "held-out": "0.2",
};

/** What it reads. */
export const TEXT = Array.from({ length: 40 }, (_, i) => {
  const random = new Random(i);
  const words = ["the", "river", "mill", "ferry", "rope", "boat", "old", "new", "bell", "rings"];
  const line = () =>
    Array.from({ length: 12 }, () => words[random.below(words.length)]).join(" ") + ".";
  return [line(), line(), line()].join("\n");
}).join("\n\n") + "\n";

/** What must repeat: the weights, and the metrics but for times. */
export async function results(run: string): Promise<{ weights: string; metrics: string[] }> {
  const bytes = await readFile(join(run, "model.safetensors"));
  return {
    weights: createHash("sha256").update(bytes).digest("hex"),
    metrics: await metricsOf(run),
  };
}

/** Lines of metrics that a run has written so far. */
async function linesOf(run: string): Promise<number> {
  const text = await readFile(join(run, "metrics.jsonl"), "utf8").catch(() => "");
  return text.split("\n").length - 1;
}

const pause = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Waits for a random moment of a job: while it starts, or a little after some more lines of metrics. */
export async function randomMoment(
  job: Deno.ChildProcess,
  run: string,
  random: Random,
): Promise<void> {
  if (random.below(4) === 0) return void await pause(random.below(1500));
  let isOver = false;
  job.status.then(() => isOver = true);
  const goal = await linesOf(run) + 1 + random.below(3);
  while (!isOver && await linesOf(run) < goal) await pause(5);
  await pause(random.below(60));
}
