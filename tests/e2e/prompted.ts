// What the tests of prompts, finetuning and evaluation share: a small pretrained run, rows and templates,
// and commands that must end well, or with one line.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Random } from "../../ops/graph/random.ts";
import { type MetricRecord, readMetrics } from "../../tasks/reports/metrics.ts";
import { type Ended, ended, ROOT, start } from "./command.ts";

/** Longer than any command here takes; a driver that hangs shall not block the tests. */
const LIMIT_MS = 150_000;

/** Flags by name; undefined leaves one out, an empty text stands for a switch. */
export type Flags = Record<string, string | undefined>;

/** A model so small that a run is a few seconds of start-up and little else. */
export const TINY_MODEL: Flags = {
  "d-model": "16",
  "heads": "2",
  "d-ff": "32",
  "encoder-layers": "1",
  "decoder-layers": "1",
  "aux-layers": "1",
};

/** Flags as words of a command line. */
export function words(flags: Flags): string[] {
  return Object.entries(flags).flatMap(([name, value]) =>
    value === undefined ? [] : value === "" ? [`--${name}`] : [`--${name}`, value]
  );
}

/** Kills a process, if it has not ended by itself. */
export function kill(process: Deno.ChildProcess): void {
  try {
    process.kill("SIGKILL");
  } catch { /* it has ended */ }
}

/** Waits for a process, but not for ever. */
export async function inTime(process: Deno.ChildProcess): Promise<Ended> {
  let late = false;
  const timer = setTimeout(() => {
    late = true;
    kill(process);
  }, LIMIT_MS);
  const result = await ended(process);
  clearTimeout(timer);
  assert.ok(!late, `no end after ${LIMIT_MS / 1000} s\n${result.err}`);
  return result;
}

/** Runs a task that must succeed. */
export async function succeed(
  task: string,
  args: string[],
  env: Record<string, string> = {},
): Promise<Ended> {
  const result = await inTime(start(task, args, ROOT, env));
  assert.equal(result.code, 0, `${task} ${args.join(" ")}\n${result.err}`);
  return result;
}

/** Runs a task that must fail with exit code 1 and one line, its last, that says what is wrong. */
export async function fail(
  task: string,
  args: string[],
  expected: RegExp,
  env: Record<string, string> = {},
): Promise<void> {
  const { code, err } = await inTime(start(task, args, ROOT, env));
  const shown = `${task} ${args.join(" ")}: exit code ${code}\n${err}`;
  assert.equal(code, 1, shown);
  const lines = err.trimEnd().split("\n");
  assert.equal(lines.filter((line) => line.startsWith("error:")).length, 1, shown);
  assert.match(lines.at(-1)!, /^error: /, shown);
  assert.match(lines.at(-1)!, expected, shown);
  assert.ok(!/^\s+at /m.test(err), `a stack was shown: ${shown}`);
}

/** Does something for each item, for a few at a time. */
export async function forEach<T>(
  items: readonly T[],
  body: (item: T, i: number) => Promise<void>,
): Promise<void> {
  const queue = [...items.entries()];
  const work = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await body(next[1], next[0]);
  };
  await Promise.all([work(), work(), work()]);
}

/** True if there is a file or folder of this name. */
export async function isThere(path: string): Promise<boolean> {
  return await stat(path).then(() => true, () => false);
}

/** Waits until a file has contents, or contents that match. */
export async function until(path: string, wanted = /./): Promise<void> {
  const latest = performance.now() + LIMIT_MS;
  while (!wanted.test(await readFile(path, "utf8").catch(() => ""))) {
    assert.ok(performance.now() < latest, `${path} never had ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Waits until a run has trained: a line of metrics before that is of the model as it began. */
export function untilTrained(run: string): Promise<void> {
  return until(join(run, "metrics.jsonl"), /"kind":"train"/);
}

/** Writes a file, and the folders that it is in. */
export async function put(path: string, contents: string | Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, contents);
}

/** Rows as JSON Lines. */
export function jsonLines(rows: readonly object[]): string {
  return rows.map((row) => JSON.stringify(row) + "\n").join("");
}

/** Reads a JSON file. */
// deno-lint-ignore no-explicit-any
export async function json(path: string): Promise<any> {
  return JSON.parse(await readFile(path, "utf8"));
}

/** A template of a test. */
export interface TestTemplate {
  name: string;
  jinja: string;
  choices?: string;
  original?: boolean;
}

/** A `templates.yaml` in promptsource's format. JSON texts are YAML, too. */
export function templatesFile(templates: readonly TestTemplate[]): string {
  const entries = templates.map(({ name, jinja, choices = null, original = true }, i) =>
    `  id-${i}: !Template
    answer_choices: ${JSON.stringify(choices)}
    id: id-${i}
    jinja: ${JSON.stringify(jinja)}
    metadata: !TemplateMetadata {metrics: [Accuracy], original_task: ${original}}
    name: ${JSON.stringify(name)}
    reference: ''
`
  );
  return `dataset: d\ntemplates:\n${entries.join("")}`;
}

const WORDS = ["the", "river", "mill", "ferry", "rope", "boat", "old", "new", "bell", "rings"];

/** Some words, the same for the same number. */
export function someWords(seed: number, count: number): string {
  const random = new Random(seed);
  return Array.from({ length: count }, () => WORDS[random.below(WORDS.length)]).join(" ");
}

/**
 * Pretrains a model so small that a command is a second of start-up and little else.
 *
 * @param more flags besides
 */
export async function pretrainSmall(
  folder: string,
  name = "pretrained",
  more: Record<string, string> = {},
): Promise<string> {
  const text = join(folder, "text.txt"), run = join(folder, name);
  const documents = Array.from({ length: 30 }, (_, i) => `${someWords(i, 30)}.`);
  await put(text, documents.join("\n\n") + "\n");
  const flags = {
    text,
    run,
    ...TINY_MODEL,
    "vocab-size": "290",
    "sequence-length": "64",
    "static-lengths": "1",
    "batch-tokens": "256",
    "micro-batch": "256",
    "warmup-updates": "1",
    "updates": "3",
    "held-out": "0",
    ...more,
  };
  await succeed("pretrain", words(flags));
  return run;
}

/** What must repeat: the weights, the metrics but for times, and what the examples were. */
export async function outcome(run: string): Promise<object> {
  const weights = await readFile(join(run, "model.safetensors"));
  return {
    weights: createHash("sha256").update(weights).digest("hex"),
    metrics: await metricsOf(run),
    mixture: await json(join(run, "mixture.json")),
  };
}

/** The metrics of a run so far. */
export function recordsOf(run: string): Promise<MetricRecord[]> {
  return readMetrics(join(run, "metrics.jsonl"));
}

/** The metrics but for times, one text per line. */
export async function metricsOf(run: string): Promise<string[]> {
  return (await recordsOf(run)).map(({ seconds: _s, tokensPerSecond: _t, ...rest }) =>
    JSON.stringify(rest)
  );
}

/** All losses of two runs agree to 1e-4; norms of gradients, which differ more, to 1e-3. */
export async function assertAgree(run: string, other: string): Promise<void> {
  const [a, b] = await Promise.all([run, other].map(recordsOf));
  assert.equal(a.length, b.length);
  for (const [i, line] of a.entries()) {
    for (const [name, value] of Object.entries(line)) {
      if (typeof value !== "number" || !/[lL]oss|gradNorm/.test(name)) continue;
      const error = Math.abs(Number(b[i][name]) / value - 1);
      assert.ok(
        error < (name === "gradNorm" ? 1e-3 : 1e-4),
        `${name} of line ${i + 1}: ${b[i][name]} instead of ${value}`,
      );
    }
  }
}
