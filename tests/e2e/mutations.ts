/**
 * Mutations of run folders: one file of a run is damaged, or one value in it becomes another, and whatever
 * reads the run must give one line, or exactly what it gives of the undamaged folder.
 *
 * By hand, for as many as one likes: `deno run -A tests/e2e/mutations.ts COUNT [SEED] [processes]`; with the
 * last word as a user meets them, by the commands themselves.
 */
import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { type Device, openDevice } from "../../ops/mod.ts";
import { loadModel } from "../../tasks/checkpoints/model.ts";
import { evaluate } from "../../tasks/evaluate.ts";
import { writeEvaluation } from "../../tasks/evaluate/report.ts";
import { finetune } from "../../tasks/finetune.ts";
import { pretrain } from "../../tasks/pretrain.ts";
import { readMetrics } from "../../tasks/reports/metrics.ts";
import { mutated, withOtherValue } from "../fuzz.ts";
import { start } from "./command.ts";
import { inTime, jsonLines, put, someWords, templatesFile, words } from "./prompted.ts";

/** What came of it. */
export interface Tally {
  /** Mutations that made no difference. */
  same: number;
  /** Those that were refused in one line. */
  refused: number;
  /** Everything else, in words. */
  wrong: string[];
  /** How many of which file. */
  files: Map<string, number>;
}

const cpu = () => openDevice({ adapter: "cpu", threads: 1 });
const quiet = { write: () => {} };

/** Stops a run after so many updates, of one micro-batch each. */
function stopAfter(updates: number) {
  let looks = 0;
  return {
    get aborted() {
      return ++looks > updates;
    },
  };
}

/** A folder with a pretraining run, a finetuning run and its evaluation; the runs can go on. */
export class Victims {
  private constructor(readonly folder: string, readonly device: Device) {}

  static async make(): Promise<Victims> {
    const folder = await mkdtemp(join(tmpdir(), "mutations-"));
    const victims = new Victims(folder, await cpu());
    const documents = Array.from({ length: 24 }, (_, i) => `${someWords(i, 24)}.`);
    await put(join(folder, "text.txt"), documents.join("\n\n") + "\n");
    const rows = Array.from(
      { length: 12 },
      (_, i) => ({ text: someWords(i, 5), label: i % 2 }),
    );
    for (const split of ["train", "validation"]) {
      const csv = rows.map(({ text, label }) => `${text},${label}`);
      await put(join(folder, "rows/notes", `${split}.jsonl`), jsonLines(rows));
      await put(join(folder, "rows/lines", `${split}.csv`), ["text,label", ...csv].join("\n"));
    }
    for (const dataset of ["notes", "lines"]) {
      const jinja = "{{ text }} ? ||| {{ answer_choices[label] }}";
      const templates = [{ name: "t", jinja, choices: "yes ||| no" }];
      await put(join(folder, "templates", dataset, "templates.yaml"), templatesFile(templates));
    }
    const run = join(folder, "runs/run");
    const rhythm = { logEvery: 1, evaluateEvery: 2, saveEvery: 2, updates: 4, warmupUpdates: 1 };
    await pretrain({
      run,
      given: {
        text: [join(folder, "text.txt")],
        ...{ vocabSize: 280, sequenceLength: 16, batchTokens: 64, microBatch: 64, heldOut: 0.2 },
        ...{ dModel: 8, heads: 2, dFf: 16, encoderLayers: 1, decoderLayers: 1, auxLayers: 1 },
        ...rhythm,
      },
      openDevice: cpu,
      interrupted: stopAfter(3),
      output: quiet,
    });
    const ft = join(folder, "runs/ft");
    await finetune({
      run,
      out: ft,
      given: {
        ...{ data: join(folder, "rows"), templates: join(folder, "templates"), mixture: ["all"] },
        ...{ batchSize: 4, sourceLength: 32, targetLength: 8, microBatch: 64, window: 16 },
        ...{ sourceShapes: 1, targetShapes: 1, evaluateExamples: 4, ...rhythm },
      },
      openDevice: cpu,
      interrupted: stopAfter(3),
      output: quiet,
    });
    await victims.#evaluate(ft);
    return victims;
  }

  async remove(): Promise<void> {
    this.device.destroy();
    await rm(this.folder, { recursive: true });
  }

  async #evaluate(run: string): Promise<unknown> {
    const model = await loadModel(this.device, run);
    try {
      const out = join(run, "eval");
      const { results } = await evaluate({
        ...{ model: { ...model, name: "model" }, run, out, tasks: ["all"], output: quiet },
        ...{ data: join(this.folder, "rows"), templates: join(this.folder, "templates") },
      });
      const evaluation = { results, missing: [], bad: [], programs: 0 };
      const lines = await writeEvaluation(
        { ...evaluation, paddingOverhead: 0, hostShare: 0 },
        { run: "model", out },
      );
      return [results, lines, await readFile(join(out, "summary.csv"), "utf8")];
    } finally {
      model.destroy();
    }
  }

  async #results(run: string): Promise<unknown> {
    const metrics = await readMetrics(join(run, "metrics.jsonl"));
    const names = ["model.safetensors", "optimizer.safetensors"];
    const files = await Promise.all(names.map((name) => readFile(join(run, name), "base64")));
    return [files, metrics.map(({ seconds: _s, tokensPerSecond: _t, ...rest }) => rest)];
  }

  /** What is done with a run: to go on with it, or to evaluate it. */
  readonly uses: Record<string, (runs: string) => Promise<unknown>> = {
    "pretrain --resume": async (runs) => {
      const run = join(runs, "run");
      await pretrain({ run, resume: true, given: {}, openDevice: cpu, output: quiet });
      return await this.#results(run);
    },
    "finetune --resume": async (runs) => {
      const run = join(runs, "ft");
      await finetune({ run, resume: true, given: {}, openDevice: cpu, output: quiet });
      const { sha256: _, ...mixture } = JSON.parse(
        await readFile(join(run, "mixture.json"), "utf8"),
      );
      return [await this.#results(run), mixture];
    },
    "eval_t0 --run ft": (runs) => this.#evaluate(join(runs, "ft")),
  };

  /** The same by the commands of `deno.json`. */
  readonly processes: Record<string, (runs: string) => Promise<unknown>> = {
    "pretrain --resume": async (runs) => {
      await command("pretrain", { run: join(runs, "run"), resume: "" });
      return await this.#results(join(runs, "run"));
    },
    "finetune --resume": async (runs) => {
      await command("finetune", { run: join(runs, "ft"), resume: "" });
      return await this.#results(join(runs, "ft"));
    },
    "eval_t0 --run ft": async (runs) => {
      const data = { data: join(this.folder, "rows"), templates: join(this.folder, "templates") };
      await command("eval_t0", { run: join(runs, "ft"), tasks: "all", ...data });
      return await readFile(join(runs, "ft/eval/summary.csv"), "utf8");
    },
  };

  /** Which uses read a file. */
  usesOf(path: string): string[] {
    if (path.startsWith("run/")) return ["pretrain --resume"];
    if (path.startsWith("ft/eval/")) return ["eval_t0 --run ft"];
    return ["finetune --resume", "eval_t0 --run ft"];
  }
}

/** Runs a command; a `UserError` is what it says in one line before it ends with exit code 1. */
async function command(task: string, flags: Record<string, string>): Promise<void> {
  const { code, err } = await inTime(start(task, words(flags)));
  if (code === 0) return;
  const lines = err.trimEnd().split("\n");
  const errors = lines.filter((line) => line.startsWith("error:"));
  if (code !== 1 || errors.length !== 1 || errors[0] !== lines.at(-1) || /^\s+at /m.test(err)) {
    throw new Error(`exit code ${code}: ${err}`);
  }
  throw new UserError(errors[0]);
}

/** Mutates files of runs, chosen at random. */
export async function mutate(
  victims: Victims,
  count: number,
  seed: number,
  uses = victims.uses,
  progress: (tally: Tally, done: number) => void = () => {},
): Promise<Tally> {
  const runs = join(victims.folder, "runs"), kept = join(victims.folder, "kept");
  await cp(runs, kept, { recursive: true, preserveTimestamps: true });
  const paths = (await readdir(runs, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(runs.length + 1))
    .sort();
  const fresh = async () => {
    // In the same place: row indexes hold absolute paths.
    await rm(runs, { recursive: true, force: true });
    await cp(kept, runs, { recursive: true, preserveTimestamps: true });
  };
  const expected = new Map<string, unknown>();
  for (const [name, use] of Object.entries(uses)) {
    await fresh();
    expected.set(name, await use(runs));
  }
  const tally: Tally = { same: 0, refused: 0, wrong: [], files: new Map() };
  for (let i = 0; i < count; i++) {
    const random = new Random(key(seed, i));
    const path = paths[random.below(paths.length)];
    const names = victims.usesOf(path), use = names[random.below(names.length)];
    await fresh();
    const target = join(runs, path), before = new Uint8Array(await readFile(target));
    const { atime, mtime } = await stat(target);
    await writeFile(target, mutation(path, before, random));
    // A disk that rots does not tell when.
    if (random.below(2) === 0) await utimes(target, atime, mtime);
    tally.files.set(path, (tally.files.get(path) ?? 0) + 1);
    const where = `seed ${seed}, number ${i}: ${path}, ${use}`;
    try {
      assert.deepEqual(await uses[use](runs), expected.get(use));
      tally.same++;
    } catch (error) {
      const fault = faultOf(error);
      if (fault) tally.wrong.push(`${where}: ${fault}`);
      else tally.refused++;
    }
    progress(tally, i + 1);
  }
  await fresh();
  await rm(kept, { recursive: true });
  return tally;
}

/** One or two changes, of bytes or of values of JSON. */
function mutation(path: string, before: Uint8Array<ArrayBuffer>, random: Random) {
  const isJson = path.endsWith(".json") && random.below(2) === 0;
  if (isJson) {
    const text = withOtherValue(new TextDecoder().decode(before), random);
    return new TextEncoder().encode(text);
  }
  let after = before;
  for (let n = 1 + random.below(2); n > 0; n--) after = mutated(after, random);
  return after;
}

/** What is wrong with a failure; undefined if it is one line for the user. */
function faultOf(error: unknown): string | undefined {
  if (error instanceof assert.AssertionError) return "other figures or weights, silently";
  if (!(error instanceof UserError)) return `a stack: ${(error as Error)?.stack ?? error}`;
  const { message } = error;
  return /^[^\p{C}]{10,900}$/u.test(message) ? undefined : `no single line: ${message}`;
}

/** The tally as text. */
export function tallyText({ same, refused, wrong, files }: Tally): string {
  const each = Array.from(files, ([path, n]) => `${path} ${n}`).sort().join(", ");
  return [`same ${same}, refused ${refused}, wrong ${wrong.length}`, each, ...wrong].join("\n");
}

if (import.meta.main) {
  const [count = "3000", seed = "1", how] = Deno.args;
  const victims = await Victims.make();
  const uses = how === "processes" ? victims.processes : victims.uses;
  const tally = await mutate(victims, Number(count), Number(seed), uses, (tally, done) => {
    if (done % 50 === 0) {
      console.error(`${done}: ${tallyText(tally).split("\n").toSpliced(1, 1).join("\n")}`);
    }
  });
  await victims.remove();
  console.log(tallyText(tally));
  Deno.exit(tally.wrong.length > 0 ? 1 : 0);
}
