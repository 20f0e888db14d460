// A run's folder from the outside: who may write it, when it can be begun again, what it goes on with, and
// what cannot be written.

import assert from "node:assert/strict";
import {
  cp,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { start } from "./command.ts";
import {
  fail,
  type Flags,
  forEach,
  inTime,
  isThere,
  json,
  jsonLines,
  kill,
  put,
  succeed,
  templatesFile,
  until,
  untilTrained,
  words,
} from "./prompted.ts";
import { results, SMALL, TEXT } from "./small_run.ts";

let folder = "";
const at = (...path: string[]) => join(folder, ...path);
const flags = (more: Flags = {}) =>
  words({ ...SMALL, text: at("text.txt"), updates: "6", "save-every": "3", ...more });
const TUNING = () => ({ data: at("rows"), templates: at("templates") });
const tuning = (more: Flags = {}) =>
  words({
    ...{ run: at("first"), ...TUNING(), updates: "6", "save-every": "3", "batch-size": "4" },
    ...{ "source-length": "32", "warmup-updates": "1", window: "24", ...more },
  });
const ROWS = Array.from({ length: 24 }, (_, i) => ({ text: `row ${i} of it`, label: i % 2 }));
const TEMPLATE = {
  name: "which",
  jinja: "{{ text }}? ||| {{ answer_choices[label] }}",
  choices: "even ||| odd",
};

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-runs-"));
  await put(at("text.txt"), TEXT);
  await put(at("rows/notes/train.jsonl"), jsonLines(ROWS));
  await put(at("templates/notes/templates.yaml"), templatesFile([TEMPLATE]));
  await succeed("pretrain", flags({ run: at("first") }));
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

/** A run that has made 3 of 6 updates, as if it had been stopped there. */
async function half(
  task: "pretrain" | "finetune",
  name: string,
  more: Flags = {},
): Promise<string> {
  const place = task === "pretrain" ? { run: at(name) } : { out: at(name) };
  const length = { ...place, updates: "3", "schedule-updates": "6", ...more };
  await succeed(task, task === "pretrain" ? flags(length) : tuning(length));
  const path = at(name, "config.json");
  await writeFile(path, JSON.stringify({ ...await json(path), updates: 6 }, null, 2) + "\n");
  return at(name);
}

const weights = async (run: string) => (await results(run)).weights;

/** Other contents of the same length, with the old dates. */
async function alter(path: string, from: string, to: string): Promise<void> {
  assert.equal(from.length, to.length);
  const { atime, mtime } = await stat(path), contents = await readFile(path, "utf8");
  assert.ok(contents.includes(from));
  await writeFile(path, contents.replace(from, to));
  await utimes(path, atime, mtime);
}

Deno.test("a run goes on with the same text, whatever its date, place and name, or without it", async () => {
  await put(at("mine/text.txt"), TEXT);
  const text = at("mine/text.txt"), run = await half("pretrain", "half", { text });
  const copy = async (name: string) => {
    await cp(run, at(name), { recursive: true });
    return ["--run", at(name), "--resume"];
  };
  await succeed("pretrain", await copy("control"));
  const expected = await weights(at("control"));
  assert.equal(expected, await weights(at("control")));

  await utimes(text, 1, 1);
  await succeed("pretrain", [
    ...await copy("touched"),
    "--text",
    join(at("mine"), ".", "text.txt"),
  ]);
  await rename(at("mine"), at("yours"));
  await succeed("pretrain", [...await copy("moved"), "--text", at("yours/text.txt")]);
  const { err } = await succeed("pretrain", await copy("gone"));
  assert.match(err, /mine\/text\.txt: not there any more; the packed corpus .* has it/);
  for (const name of ["touched", "moved", "gone"]) {
    assert.equal(await weights(at(name)), expected, name);
  }

  await put(text, TEXT);
  await alter(text, "river", "rover");
  await fail(
    "pretrain",
    await copy("other"),
    /mine\/text\.txt: this text changed after the run had/,
  );
  await put(at("more.txt"), "more\n");
  await fail(
    "pretrain",
    [...await copy("more"), "--text", at("more.txt")],
    /more\.txt: this text was added/,
  );
});

Deno.test("a run that was packed elsewhere goes on with its own packed corpus alone", async () => {
  const packed = at("packed"), run = await half("pretrain", "half-packed", { packed });
  const other = flags({ run: at("other-seed"), packed, seed: "9" });
  await fail(
    "pretrain",
    other,
    /packed: holds a packed corpus of other text, tokenizer or settings/,
  );
  assert.ok(!await isThere(at("other-seed")));
  await fail(
    "pretrain",
    ["--run", run, "--resume"],
    /missing.*; if it lies elsewhere, give --packed/,
  );
  // The same rule and tokenizer, other text.
  await put(at("text-2.txt"), TEXT.replaceAll("bell", "bull"));
  const tokenizer = join(run, "tokenizer.json");
  const foreign = { run: at("foreign"), packed: at("packed-2"), text: at("text-2.txt"), tokenizer };
  await succeed("pretrain", flags(foreign));
  await rm(at("text-2.txt"));
  await fail(
    "pretrain",
    ["--run", run, "--resume", "--packed", at("packed-2")],
    /is not the packed corpus/,
  );
  // Another run with the same text uses it, too; then the first goes on.
  await succeed("pretrain", flags({ run: at("same-seed"), packed }));
  await succeed("pretrain", ["--run", run, "--resume", "--packed", packed]);
});

Deno.test("finetuning goes on with the same rows and templates, wherever they are, and names what changed", async () => {
  const places = { data: at("my-rows"), templates: at("my-templates") };
  await cp(at("rows"), places.data, { recursive: true });
  await cp(at("templates"), places.templates, { recursive: true });
  const run = await half("finetune", "half-tuned", places);
  const copy = async (name: string) => {
    await cp(run, at(name), { recursive: true });
    return ["--run", at(name), "--resume"];
  };
  await succeed("finetune", await copy("tuned-control"));
  const expected = await weights(at("tuned-control"));
  const rows = join(places.data, "notes/train.jsonl");
  await utimes(rows, 1, 1);
  await succeed("finetune", await copy("tuned-touched"));
  const moved = { data: at("their-rows"), templates: at("their-templates") };
  await rename(places.data, moved.data);
  await rename(places.templates, moved.templates);
  await succeed("finetune", [...await copy("tuned-moved"), ...words(moved)]);
  // Once more where it has just been saved with the new places.
  await succeed("finetune", ["--run", at("tuned-moved"), "--resume", ...words(moved)]);
  for (const name of ["tuned-touched", "tuned-moved"]) {
    assert.equal(await weights(at(name)), expected);
  }

  const again = [...await copy("tuned-other"), ...words(moved)];
  const template = join(moved.templates, "notes/templates.yaml"),
    row = join(moved.data, "notes/train.jsonl");
  await alter(row, '"label":0', '"label":1');
  await fail("finetune", again, /notes: rows 'train' changed since the run began/);
  await alter(row, '"label":1', '"label":0');
  await alter(template, "even", "both");
  await fail("finetune", again, /notes: template 'which' changed since the run began/);
  await alter(template, "both", "even");
  await succeed("finetune", again);
  assert.equal(await weights(at("tuned-other")), expected);
});

Deno.test("a text of one document trains, with nothing held out; a short corpus among others does, too", async () => {
  await put(at("one.txt"), TEXT.replaceAll("\n\n", "\n"));
  const { err } = await succeed("pretrain", flags({ run: at("one"), text: at("one.txt") }));
  assert.match(err, /nothing is held out: the text is one document/);
  assert.doesNotMatch(await readFile(at("one/metrics.jsonl"), "utf8"), /heldout/);
  await succeed("pretrain", ["--run", at("one"), "--resume"]);
  const two = ["--text", at("text.txt"), at("one.txt"), "--text-weights", "2", "1"];
  await succeed("pretrain", [...flags({ run: at("two"), text: undefined }), ...two]);
  assert.match(await readFile(at("two/metrics.jsonl"), "utf8"), /heldout/);
});

Deno.test("what ended before its first checkpoint is begun again by the same command", async () => {
  for (const task of ["pretrain", "finetune"] as const) {
    const run = at(`begun-${task}`), long = { updates: "100000", "save-every": "0" };
    const short = (more: Flags) =>
      task === "pretrain" ? flags({ run, ...more }) : tuning({ out: run, ...more });
    const process = start(task, short(long));
    await untilTrained(run);
    kill(process);
    await process.output();
    await fail(
      task,
      ["--run", run, "--resume"],
      /no checkpoint yet; start it again by the same command/,
    );
    const other = task === "pretrain" ? "finetune" : "pretrain";
    const others = other === "pretrain" ? flags({ run }) : tuning({ out: run });
    await fail(other, others, new RegExp(`config\\.json that is not of a ${other} run`));
    await succeed(task, short({}));
    const whole = at(`unbroken-${task}`);
    await succeed(task, task === "pretrain" ? flags({ run: whole }) : tuning({ out: whole }));
    assert.deepEqual(await results(run), await results(whole));
    assert.deepEqual((await readdir(run)).sort(), (await readdir(whole)).sort());
  }
});

Deno.test("one process at a time writes a folder; others may read it", async () => {
  const run = at("long"), head = { "clm-head": "linear" };
  const long = { updates: "100000", "save-every": "1", "evaluate-every": "0", ...head };
  const process = start("pretrain", flags({ run, ...long }));
  try {
    await until(join(run, "training.json"));
    const inUse = new RegExp(
      `long: in use by process ${process.pid}\\b.* \\(pretrain\\) since .*; wait`,
    );
    await forEach<[string, string[]]>([
      ["pretrain", flags({ run })],
      ["pretrain", ["--run", run, "--resume"]],
      ["pretrain", flags({ run, devices: "2" })],
      ["finetune", tuning({ out: run })],
    ], ([task, args]) => fail(task, args, inUse));
    await succeed("convert", ["--run", run, "--out", at("converted")]);
    await succeed("eval_t0", [
      "--run",
      run,
      "--out",
      at("evaluated"),
      "--tasks",
      "film_notes",
      "--limit",
      "2",
    ]);
    await succeed("generate", ["--run", run, "--max-tokens", "2", "hello"]);
  } finally {
    process.kill("SIGINT");
    const { code, err } = await inTime(process);
    assert.equal(code, 0, err);
  }
  assert.ok(!await isThere(join(run, "run.lock")));
});

Deno.test("what cannot be written is one line before any work, and leaves everything as it was", async () => {
  await put(at("file"), "");
  await put(at("blocked/metrics.jsonl/x"), "");
  await put(at("blocked-2/corpus"), "");
  await put(at("blocked-3/summary.csv/x"), "");
  const before = await readdir(folder, { recursive: true });
  const evaluate = ["--run", at("first"), "--tasks", "film_notes", "--limit", "2"];
  const cases: [string, string[], RegExp][] = [
    ...["file", "file/run"].flatMap((name): [string, string[], RegExp][] => [
      ["pretrain", flags({ run: at(name) }), /file.*: .*(folder|file)/],
      ["finetune", tuning({ out: at(name) }), /file.*: .*(folder|file)/],
      ["eval_t0", [...evaluate, "--out", at(name)], /file.*: .*(folder|file)/],
      ["convert", ["--run", at("first"), "--out", at(name)], /file.*: /],
      ["pretrain", flags({ run: at("never"), packed: at(name) }), /file.*: /],
    ]),
    ["pretrain", flags({ run: at("blocked") }), /metrics\.jsonl: expected a file, got a folder/],
    ["finetune", tuning({ out: at("blocked") }), /metrics\.jsonl: expected a file, got a folder/],
    ["pretrain", flags({ run: at("blocked-2") }), /corpus: expected a folder, got a file/],
    [
      "eval_t0",
      [...evaluate, "--out", at("blocked-3")],
      /summary\.csv: expected a file, got a fol/,
    ],
    ["bench", ["--out", at("rows")], /rows: expected a file, got a folder/],
    ["bench", ["--out", at("none/bench.json")], /none\/bench\.json: no such file or folder/],
    ["pretrain", flags({ run: "/proc/metro" }), /\/proc\/metro/],
  ];
  await forEach(cases, ([task, args, expected]) => fail(task, args, expected));
  assert.deepEqual(await readdir(folder, { recursive: true }), before);
});
