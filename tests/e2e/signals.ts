/**
 * Signals at random moments of every phase: heard within two seconds, exit codes as documented, and what is
 * left goes on to the undisturbed weights.
 *
 * By hand: `deno run -A tests/e2e/signals.ts COUNT [SEED]`.
 */
import { mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { createHash } from "node:crypto";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { key, Random } from "../../ops/graph/random.ts";
import { start } from "./command.ts";
import { jsonLines, put, someWords, templatesFile, TINY_MODEL, words } from "./prompted.ts";

/** Something to interrupt, and where it is known to be when it is. */
interface Phase {
  name: string;
  task: "pretrain" | "finetune" | "eval_t0";
  /** Whether the process has got there, by what it has said and written. */
  isThere(said: string, files: string[], metrics: string): boolean;
}

const has = (files: string[], pattern: RegExp) => files.some((name) => pattern.test(name));

/** In the order of a run. */
export const PHASES: readonly Phase[] = [
  { name: "starting", task: "pretrain", isThere: () => true },
  { name: "tokenizing", task: "pretrain", isThere: (_, files) => has(files, /lock/) },
  { name: "packing", task: "pretrain", isThere: (said) => /tokenizer: /.test(said) },
  { name: "compiling", task: "pretrain", isThere: (said) => /parameters/.test(said) },
  {
    name: "updates",
    task: "pretrain",
    isThere: (_s, _f, metrics) => /"kind":"train"/.test(metrics),
  },
  {
    name: "evaluation",
    task: "pretrain",
    isThere: (_s, _f, metrics) => metrics.split('"heldout"').length > 2,
  },
  { name: "saving", task: "pretrain", isThere: (_, files) => has(files, /checkpoint\.(tmp|next)/) },
  { name: "mixing", task: "finetune", isThere: (_, files) => has(files, /rows/) },
  {
    name: "finetuning",
    task: "finetune",
    isThere: (_s, _f, metrics) => /"kind":"train"/.test(metrics),
  },
  { name: "ranking", task: "eval_t0", isThere: (said) => / on CPU/.test(said) },
];

/** How one trial went. */
interface Trial {
  /** Milliseconds from the signal to a word of it, or to the end. */
  heard: number;
  /** Milliseconds from the signal to the end. */
  ended: number;
  fault?: string;
}

/** What all trials share. */
interface Scene {
  folder: string;
  pretrained: string;
  expected: Record<Phase["task"], string>;
}

function argsOf(
  { folder, pretrained }: Pick<Scene, "folder" | "pretrained">,
  task: string,
  run: string,
) {
  const data = { data: join(folder, "rows"), templates: join(folder, "templates") };
  if (task === "eval_t0") return words({ ...data, run: pretrained, tasks: "notes", out: run });
  const rhythm = { "log-every": "1", "evaluate-every": "2", "save-every": "1", "updates": "8" };
  if (task === "finetune") {
    const sizes = { "source-length": "64", "batch-size": "16", "micro-batch": "256" };
    return words({ ...data, ...rhythm, ...sizes, run: pretrained, out: run, mixture: "notes" });
  }
  return words({
    ...TINY_MODEL,
    ...rhythm,
    ...{ run, text: join(folder, "text.txt"), "d-model": "64", "vocab-size": "700" },
    ...{ "sequence-length": "64", "static-lengths": "1", "batch-tokens": "4096" },
    ...{ "micro-batch": "256", "held-out": "0.3", "evaluate-tokens": "20000" },
  });
}

/** What must be the same in the end. */
async function made(task: Phase["task"], run: string): Promise<string> {
  const digest = createHash("sha256");
  if (task !== "eval_t0") {
    return digest.update(await readFile(join(run, "model.safetensors"))).digest("hex");
  }
  for (const name of (await readdir(run)).filter((name) => name.endsWith(".json")).sort()) {
    digest.update(name).update(await readFile(join(run, name)));
  }
  return digest.digest("hex");
}

async function toTheEnd(task: string, args: string[]): Promise<string | undefined> {
  const { code, stderr } = await start(task, args).output();
  return code === 0
    ? undefined
    : `exit code ${code}: ${new TextDecoder().decode(stderr).slice(-300)}`;
}

/** Makes text, rows, a pretrained run, and what undisturbed processes make. */
export async function prepare(): Promise<Scene> {
  const folder = await mkdtemp(join(tmpdir(), "signals-"));
  const documents = Array.from({ length: 1500 }, (_, i) => `${someWords(i, 60)} ${i * 7919}.`);
  await put(join(folder, "text.txt"), documents.join("\n\n") + "\n");
  const rows = Array.from({ length: 400 }, (_, i) => ({ text: someWords(i, 20), label: i % 2 }));
  for (const split of ["train", "validation"]) {
    await put(join(folder, "rows/notes", `${split}.jsonl`), jsonLines(rows));
  }
  const jinja = "{{ text }} ? ||| {{ answer_choices[label] }}";
  const templates = ["a", "b", "c"].map((name) => ({ name, jinja, choices: "yes ||| no" }));
  await put(join(folder, "templates/notes/templates.yaml"), templatesFile(templates));
  const pretrained = join(folder, "pretrained");
  const scene = { folder, pretrained, expected: { pretrain: "", finetune: "", eval_t0: "" } };
  for (const task of ["pretrain", "finetune", "eval_t0"] as const) {
    const run = task === "pretrain" ? pretrained : join(folder, `whole-${task}`);
    const fault = await toTheEnd(task, argsOf(scene, task, run));
    if (fault) throw new Error(`${task}: ${fault}`);
    scene.expected[task] = await made(task, run);
  }
  return scene;
}

const CODES = { SIGINT: 130, SIGTERM: 143 };

/** Interrupts a process in a phase, and lets it go on to its end. */
export async function interrupt(scene: Scene, phase: Phase, random: Random): Promise<Trial> {
  const run = join(scene.folder, "run"), { task } = phase;
  await rm(run, { recursive: true, force: true });
  await mkdir(join(scene.folder, "none"), { recursive: true });
  const process = start(task, argsOf(scene, task, run));
  let said = "", isOver = false, stopping: number | undefined;
  const listening = (async () => {
    for await (const text of process.stderr.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (/Stopping: /.test(said)) stopping ??= performance.now();
    }
  })();
  const draining = process.stdout.pipeTo(new WritableStream());
  const status = process.status.then((status) => (isOver = true, status));
  const state = async () => {
    const files = await readdir(run, { recursive: true }).catch(() => [] as string[]);
    return [files, await readFile(join(run, "metrics.jsonl"), "utf8").catch(() => "")] as const;
  };
  while (!isOver && !phase.isThere(said, ...await state())) await pause(2);
  await pause(random.below(phase.name === "starting" ? 700 : 250));
  const signal = random.below(2) === 0 ? "SIGINT" : "SIGTERM";
  const sent = performance.now();
  if (!isOver) process.kill(signal);
  const { code } = await status;
  const end = performance.now();
  await Promise.all([listening, draining]);
  const trial: Trial = { heard: (stopping ?? end) - sent, ended: end - sent };
  // A process that had ended, or was about to, is no failure.
  const codes = stopping === undefined ? [CODES[signal], 0] : [0];
  if (!codes.includes(code)) {
    return { ...trial, fault: `${signal}: exit code ${code}: ${said.slice(-300)}` };
  }
  if (trial.heard > 2000) return { ...trial, fault: `${signal}: heard after ${trial.heard} ms` };

  const files = await readdir(run).catch(() => [] as string[]);
  const resume = task !== "eval_t0" && files.includes("training.json");
  const fault = await toTheEnd(
    task,
    resume ? ["--run", run, "--resume"] : argsOf(scene, task, run),
  );
  if (fault) return { ...trial, fault: `going on: ${fault}` };
  const same = await made(task, run) === scene.expected[task];
  return same ? trial : { ...trial, fault: `${signal}: other weights or results` };
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

if (import.meta.main) {
  const [count = "20", seed = "1"] = Deno.args;
  const scene = await prepare();
  let wrong = 0, slowest = 0;
  for (let i = 0; i < Number(count); i++) {
    const phase = PHASES[i % PHASES.length];
    const { heard, ended, fault } = await interrupt(scene, phase, new Random(key(Number(seed), i)));
    slowest = Math.max(slowest, heard);
    if (fault) wrong++;
    console.log(
      `${phase.name}: heard ${heard.toFixed(0)} ms, ended ${ended.toFixed(0)} ms ${fault ?? ""}`,
    );
  }
  console.log(
    `${count} signals, ${wrong} wrong; the slowest was heard after ${slowest.toFixed(0)} ms`,
  );
  await rm(scene.folder, { recursive: true });
  Deno.exit(wrong > 0 ? 1 : 0);
}
