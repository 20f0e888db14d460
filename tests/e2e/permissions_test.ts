// What the table in README says that a task needs is all that it needs: each runs with exactly that.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ROOT } from "./command.ts";
import { TINY_MODEL, words } from "./prompted.ts";
import { TEXT } from "./small_run.ts";

let folder = "";
const at = (...names: string[]) => join(folder, ...names);

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-permissions-"));
  await mkdir(at("texts"));
  await writeFile(at("texts", "text.txt"), TEXT);
});
Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

/** What the table's words stand for. */
const placeOf = (word: string) => {
  const places: Record<string, string> = {
    TEXTS: at("texts"),
    RUN: at("run"),
    DATA: join(ROOT, "data"),
    OUT: at("out"),
    "OUT/eval": at("out", "eval"),
    FOLDER: at("converted"),
    "FOLDER.tmp": at("converted.tmp"),
    CODE: ROOT,
    REFERENCE: join(ROOT, "..", "shared", "golden", "metro_step", "tiny_lm"),
  };
  return places[word] ?? assert.fail(`README's table of permissions: what is ${word}?`);
};

const README = readFileSync(join(ROOT, "README.md"), "utf8");
const { tasks } = JSON.parse(readFileSync(join(ROOT, "deno.json"), "utf8"));

/** A row of the table: what a task reads and writes. */
function rowOf(task: string): { read: string[]; write: string[] } {
  const row = README.split("\n").find((line) => line.startsWith(`| \`${task}\` `)) ??
    assert.fail(`README's table of permissions has no ${task}`);
  const [, , read, write] = row.split("|");
  const wordsIn = (cell: string) => [...cell.matchAll(/`([^`]+)`/g)].map(([, word]) => word);
  return { read: wordsIn(read), write: wordsIn(write) };
}

/** Deno's flags for a task: those of its line but for network, programs, system and all of the disk. */
function permissionsOf(task: string): string[] {
  const { read, write } = rowOf(task);
  const line: string[] = tasks[task].command.split(" ");
  const list = (kind: string, words: string[]) =>
    words.length > 0 ? [`--allow-${kind}=${words.map(placeOf).join(",")}`] : [];
  return [
    ...line.filter((word) => word.startsWith("--allow-env")),
    ...list("read", read),
    ...list("write", write),
  ];
}

async function runWith(
  task: string,
  permissions: readonly string[],
  args: readonly string[],
): Promise<{ code: number; out: string; err: string }> {
  const script = tasks[task].command.split(" ").find((word: string) => word.endsWith(".ts"));
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", "--no-prompt", "--config", join(ROOT, "deno.json"), ...permissions],
      ...[join(ROOT, script), ...args],
    ],
    cwd: folder,
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: text(stdout), err: text(stderr) };
}

const CPU = { adapter: "cpu", threads: "1" };

/** Each task once, in an order in which the one finds what the other left. */
const JOBS: [task: string, args: () => string[]][] = [
  ["pretrain", () =>
    words({
      ...{ ...TINY_MODEL, ...CPU, text: at("texts"), run: at("run") },
      ...{ updates: "2", "vocab-size": "280", "clm-head": "linear" },
      "held-out": "0.2",
    })],
  ["analyze", () => ["noise", ...words({ ...CPU, run: at("run") })]],
  ["finetune", () => words({ ...CPU, run: at("run"), out: at("out"), updates: "2" })],
  ["eval_t0", () => words({ ...CPU, run: at("out"), limit: "2" })],
  ["generate", () => [...words({ ...CPU, run: at("out") }), "Is rain wet?"]],
  ["convert", () => words({ run: at("out"), out: at("converted") })],
  ["prompts", () => ["list"]],
  ["verify", () => ["step", placeOf("REFERENCE"), ...words(CPU)]],
  ["plan", () => words({ preset: "base", gpus: "1", rate: "10000" })],
];

for (const [task, args] of JOBS) {
  Deno.test(`${task} needs what README says`, async () => {
    const { code, err } = await runWith(task, permissionsOf(task), args());
    assert.equal(code, 0, err);
  });
}

Deno.test("every task that README lists is tried, and what it lists cannot be left out", async () => {
  const table = README.slice(README.indexOf("| `--allow-read=`"));
  const listed = [...table.slice(0, table.indexOf("\n\n")).matchAll(/^\| `(\w+)` /gm)];
  assert.deepEqual(listed.map(([, task]) => task).sort(), JOBS.map(([task]) => task).sort());
  for (const [task, args] of JOBS.filter(([task]) => ["generate", "prompts"].includes(task))) {
    const fewer = permissionsOf(task).filter((flag) => !flag.startsWith("--allow-read"));
    const { code, err } = await runWith(task, fewer, args());
    assert.equal(code, 1, `${task} without --allow-read: ${err}`);
    assert.match(err, /^error: .*(read access|--allow-read).*\n$/);
  }
});

Deno.test("only setup may install", () => {
  for (const [name, { command }] of Object.entries<{ command?: string }>(tasks)) {
    if (name !== "setup") assert.doesNotMatch(command ?? "", /apt-get|sudo/, name);
  }
});
