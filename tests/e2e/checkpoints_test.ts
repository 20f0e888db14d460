// `--model` and `deno task convert` from the outside, with the permissions of deno.json: checkpoints that
// are no runs are evaluated, asked, finetuned and converted; bad input, one line.

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
import { HUB_HOSTS, HUB_VARIABLES } from "../../tasks/checkpoints/hub.ts";
import type { TemplateResult } from "../../tasks/evaluate/results.ts";
import { METRO, T5_GATED, writeCheckpoint } from "../tasks/small_checkpoint.ts";
import { ROOT } from "./command.ts";
import { fail, isThere, json, metricsOf, pretrainSmall, put, succeed, words } from "./prompted.ts";

let folder = "", metro = "", t5 = "";
const at = (...path: string[]) => join(folder, ...path);

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-checkpoints-"));
  metro = await writeCheckpoint(at("metro"), METRO);
  t5 = await writeCheckpoint(at("t5"), T5_GATED);
});
Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

const PROMPT = "is rain wet? yes or no?";
const SHORT = {
  "mixture": "film_notes",
  "updates": "4",
  "save-every": "2",
  "batch-size": "4",
  // As long as prompts to a model that is no run.
  "source-length": "512",
  "target-length": "16",
  "source-shapes": "1",
  "target-shapes": "1",
  "micro-batch": "1024",
  "window": "32",
  "evaluate-examples": "4",
  "peak-learning-rate": "0.01",
};

/** What the model says; sampled, since one that has learned nothing may end at once otherwise. */
async function answers(...which: string[]): Promise<string> {
  return await answersIn({}, ...which);
}

/** The same with environment variables. */
async function answersIn(env: Record<string, string>, ...which: string[]): Promise<string> {
  const flags = ["--strategy", "sample", "--temperature", "5", "--max-tokens", "12"];
  return (await succeed("generate", [...which, ...flags, ...PROMPT.split(" ")], env)).out;
}

/** A sign per row and template, and the name in the table. */
async function evaluated(out: string, ...which: string[]) {
  return await evaluatedIn({}, out, ...which);
}

/** The same with environment variables. */
async function evaluatedIn(env: Record<string, string>, out: string, ...which: string[]) {
  const flags = ["--tasks", "film_notes", "--limit", "6", "--out", out];
  const { out: said, err } = await succeed("eval_t0", [...which, ...flags], env);
  const files = (await readdir(out)).filter((name) => name.endsWith(".json")).toSorted();
  const results: TemplateResult[] = await Promise.all(files.map((name) => json(join(out, name))));
  return {
    signs: results.map(({ correct, template_name }) => [template_name, correct]),
    names: [...new Set(results.map(({ model_name_or_path: name }) => name))],
    said,
    err,
  };
}

for (const kind of ["METRO", "T5"]) {
  Deno.test(`${kind}: finetuned, resumed, converted: the same outputs on every way`, async () => {
    const model = kind === "T5" ? t5 : metro, run = at(`${kind}-run`), out = at(`${kind}-out`);
    await succeed("finetune", words({ model, out: run, ...SHORT }));
    const config = await json(join(run, "config.json"));
    assert.deepEqual([config.kind, config.from], ["finetune", model]);
    const before = await readFile(join(model, "model.safetensors"));
    const weights = await readFile(join(run, "model.safetensors"));
    assert.notDeepEqual(weights, before);

    const metrics = await metricsOf(run);
    assert.ok(metrics.some((line) => JSON.parse(line).kind === "heldout"));
    await succeed("finetune", ["--run", run, "--resume"]);
    assert.deepEqual(await metricsOf(run), metrics);
    assert.deepEqual(await readFile(join(run, "model.safetensors")), weights);

    await succeed("convert", ["--run", run, "--out", out]);
    const said = await answers("--run", run);
    assert.ok(said.trim().length > 0);
    assert.notEqual(said, await answers("--model", model), "finetuning changes what it says");
    assert.equal(await answers("--model", out), said);
    const [ours, theirs] = [
      await evaluated(at(`${kind}-eval-1`), "--run", run),
      await evaluated(at(`${kind}-eval-2`), "--model", out),
    ];
    assert.deepEqual(theirs.signs, ours.signs);
    assert.deepEqual([ours.names, theirs.names], [[run], [out]]);
    assert.ok(ours.said.includes("film_notes"));
  });
}

Deno.test("eval_t0 --model: kept for the same files, made again for others", async () => {
  const model = at("changing"), out = at("changing-eval");
  await cp(metro, model, { recursive: true });
  const first = await evaluated(out, "--model", model);
  assert.doesNotMatch(first.err, /done before/);
  const again = await evaluated(out, "--model", model);
  assert.match(again.err, /done before/);
  assert.deepEqual(again.signs, first.signs);
  const other = await evaluated(out, "--model", model, "--relative-max-distance", "16");
  assert.doesNotMatch(other.err, /done before/);
});

Deno.test("eval_t0 knows a model by its contents, not by its place or its files' dates", async () => {
  const model = at("known"), moved = at("known-moved"), out = at("known-eval");
  await cp(metro, model, { recursive: true });
  await evaluated(out, "--model", model);
  await rename(model, moved);
  const weights = join(moved, "model.safetensors"), { atime, mtime } = await stat(weights);
  await utimes(weights, 1, 1);
  assert.match((await evaluated(out, "--model", moved)).err, /done before/);

  // One number is another; size and date are as before.
  const bytes = await readFile(weights), last = new DataView(bytes.buffer, bytes.byteLength - 4);
  last.setFloat32(0, 0.5 - last.getFloat32(0, true), true);
  await writeFile(weights, bytes);
  await utimes(weights, atime, mtime);
  assert.doesNotMatch((await evaluated(out, "--model", moved)).err, /done before/);
  assert.match((await evaluated(out, "--model", moved)).err, /done before/);

  // The same weights, other ids.
  const path = join(moved, "tokenizer.json"), tokenizer = await json(path);
  const normalizer = { type: "Lowercase" }, { normalizer: own } = tokenizer;
  const both = { type: "Sequence", normalizers: own ? [normalizer, own] : [normalizer] };
  await writeFile(path, JSON.stringify({ ...tokenizer, normalizer: own ? both : normalizer }));
  assert.doesNotMatch((await evaluated(out, "--model", moved)).err, /done before/);
});

Deno.test("a name of the Hub is found in the cache, without a network", async () => {
  const commit = "0123456789abcdef0123456789abcdef01234567", kept = at("cache/models--someone--t5");
  await put(join(kept, "refs/main"), commit);
  await cp(t5, join(kept, "snapshots", commit), { recursive: true });
  const env = { HF_HUB_CACHE: at("cache"), HF_HUB_OFFLINE: "1" };
  assert.equal(await answersIn(env, "--model", "someone/t5"), await answers("--model", t5));
  const { names } = await evaluatedIn(env, at("named-eval"), "--model", "someone/t5");
  assert.deepEqual(names, ["someone/t5"]);
  const missing = /HF_HUB_OFFLINE is set, and the cache/;
  await fail("generate", ["--model", "someone/t6", "x"], missing, env);
});

Deno.test("a pretrained run is converted if its head is linear, and refused if not", async () => {
  const roberta = await pretrainSmall(folder);
  const run = await pretrainSmall(folder, "linear", { "clm-head": "linear" });
  await succeed("convert", ["--run", run, "--out", at("linear-out")]);
  assert.ok(await isThere(at("linear-out/model.safetensors")));
  assert.ok((await answers("--model", at("linear-out"))).length > 0);
  const args = ["--run", roberta, "--out", at("roberta-out")];
  await fail("convert", args, /roberta head.*pretrain with --clm-head linear$/);
  assert.ok(!await isThere(at("roberta-out")));
});

Deno.test("a model is named once, and where it belongs", async () => {
  const one = /expected --run FOLDER or --model NAME\|FOLDER, one of them, got (neither|both)$/;
  for (const task of ["eval_t0", "generate", "finetune"]) {
    await fail(task, [], one);
    await fail(task, ["--run", metro, "--model", metro], one);
  }
  await fail("convert", ["--out", at("x")], one);
  await fail("convert", ["--run", t5, "--out", at("x")], /is no run, .* give it as --model$/);
  await fail("convert", ["--model", t5], /expected --out FOLDER/);
  await fail("convert", ["--tokenizer", t5, "--model", t5, "--out", at("x")], /stands alone/);
  await fail("generate", ["--run", metro, "x"], /is no run, .* give it as --model$/);
  const distance = ["--relative-max-distance", "9"];
  await fail(
    "generate",
    ["--run", metro, ...distance],
    /--relative-max-distance: goes with --model/,
  );
  await fail("finetune", ["--model", t5, "--resume"], /--resume: goes on with a finetuning run/);
  await fail(
    "generate",
    ["--model", at("config.json")],
    /no such folder; expected one, or the name/,
  );
});

Deno.test("deno.json allows what downloads need, and no more of it", async () => {
  const { tasks } = await json(join(ROOT, "deno.json"));
  for (const task of ["finetune", "eval_t0", "generate", "convert"]) {
    const flags: string[] = tasks[task].command.split(" ");
    const listed = (flag: string) =>
      flags.find((f) => f.startsWith(flag))!.split("=")[1].split(",");
    assert.deepEqual(listed("--allow-net"), [...HUB_HOSTS], task);
    const env = new Set(listed("--allow-env"));
    assert.deepEqual(HUB_VARIABLES.filter((name) => !env.has(name)), [], task);
    assert.ok(listed("--allow-sys").includes("homedir"), task);
    assert.ok(flags.includes("--allow-write"), task);
  }
});
