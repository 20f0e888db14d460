/**
 * A campaign: two processes that want the same folder, started at random distances, one of them killed at
 * random. One is refused, or takes over cleanly; what is left is one whole run, to the bit.
 *
 * ```sh
 * deno run -A tests/e2e/two_processes.ts 50    # so many rounds
 * ```
 */

import assert from "node:assert/strict";
import { cp, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { key, Random } from "../../ops/graph/random.ts";
import { type Ended, start } from "./command.ts";
import { inTime, json, jsonLines, kill, put, succeed, templatesFile, words } from "./prompted.ts";
import { hasCheckpoint } from "../../tasks/checkpoints/run_folder.ts";
import { lock } from "../../tasks/files/lock.ts";
import { results, SMALL, TEXT } from "./small_run.ts";

/** What a round did, in a few words. */
export type Tally = Map<string, number>;

/** A process of a round: what it is told to do. */
interface Job {
  task: "pretrain" | "finetune";
  args: string[];
  /** What the folder must be like when it has done it. */
  reference: string;
}

/** Folders that all rounds share. */
interface Stage {
  folder: string;
  /** The jobs that may meet, for a folder. */
  pairs: ((run: string) => { jobs: [Job, Job]; begin?: string; resume: (job: Job) => string[] })[];
}

/** Longest distance between two starts, and longest life of the one that is killed, in milliseconds. */
const DISTANCE = 1200, LIFE = 2500;

/** Prepares what every round needs: text, rows, a run to finetune, one to go on with, and what must come out. */
export async function prepare(): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), "metro-two-")),
    at = (name: string) => join(folder, name);
  await put(at("text.txt"), TEXT);
  const rows = Array.from({ length: 24 }, (_, i) => ({ text: `row ${i} of it`, label: i % 2 }));
  await put(at("rows/notes/train.jsonl"), jsonLines(rows));
  const template = { name: "which", jinja: "{{ text }}? ||| {{ answer_choices[label] }}" };
  const file = templatesFile([{ ...template, choices: "even ||| odd" }]);
  await put(at("templates/notes/templates.yaml"), file);

  const pretrain = (run: string, seed: number): Job => ({
    task: "pretrain",
    reference: at(`pretrained-${seed}`),
    args: words({
      ...SMALL,
      ...{ text: at("text.txt"), run, updates: "12", "save-every": "2", seed: String(seed) },
    }),
  });
  const finetune = (out: string): Job => ({
    task: "finetune",
    reference: at("finetuned"),
    args: words({
      ...{ run: at("pretrained-1"), out, data: at("rows"), templates: at("templates") },
      ...{ updates: "12", "save-every": "2", "batch-size": "4", "source-length": "32" },
      ...{ "warmup-updates": "1", window: "24" },
    }),
  });
  for (const seed of [1, 2]) {
    await succeed("pretrain", pretrain(at(`pretrained-${seed}`), seed).args);
  }
  await succeed("finetune", finetune(at("finetuned")).args);
  // To go on with: as if it had been stopped after update 4 of 12.
  const begun = at("begun"), early = pretrain(begun, 1).args, length = ["--schedule-updates", "12"];
  await succeed(
    "pretrain",
    [...early, ...length].map((w, i) => early[i - 1] === "--updates" ? "4" : w),
  );
  await put(join(begun, "config.json"), await raised(join(begun, "config.json")));
  await cp(begun, at("whole"), { recursive: true });
  await succeed("pretrain", ["--run", at("whole"), "--resume"]);

  const goOn = (run: string) => ["--run", run, "--resume"];
  return {
    folder,
    pairs: [
      (run) => ({ jobs: [pretrain(run, 1), pretrain(run, 2)], resume: () => goOn(run) }),
      (run) => ({ jobs: [pretrain(run, 2), finetune(run)], resume: () => goOn(run) }),
      (run) => {
        const job: Job = { task: "pretrain", args: goOn(run), reference: at("whole") };
        return { jobs: [job, job], begin: begun, resume: () => goOn(run) };
      },
    ],
  };
}

async function raised(path: string): Promise<string> {
  return JSON.stringify({ ...await json(path), updates: 12 }, null, 2) + "\n";
}

/** One round; its number says what happens when. */
export async function round(stage: Stage, number: number): Promise<string> {
  const random = new Random(key(2027, number)), run = join(stage.folder, `run-${number}`);
  const { jobs, begin, resume } = stage.pairs[number % stage.pairs.length](run);
  if (begin) await cp(begin, run, { recursive: true });
  if (random.below(2) === 0) jobs.reverse();
  const first = start(jobs[0].task, jobs[0].args);
  await pause(random.below(DISTANCE));
  const second = start(jobs[1].task, jobs[1].args);
  const victim = random.below(2) === 0 ? first : second;
  const over = Promise.all([first, second].map(inTime));
  await Promise.race([over, pause(random.below(LIFE))]);
  kill(victim);
  const ends = await over;
  const happened = ends.map((end, i) => howItEnded(end, [first, second][i] === victim));
  const done = jobs.filter((_, i) => ends[i].code === 0);

  // Nothing is left to do where one has done it; or else whoever comes next takes over.
  let owner = done[0];
  if (owner === undefined) {
    owner = await ownerOf(run, jobs);
    await succeed(owner.task, await hasCheckpoint(run) ? resume(owner) : owner.args);
    happened.push("taken over");
  } else {assert.ok(
      done.every(({ reference }) => reference === owner.reference),
      "two runs in one folder",
    );}
  assert.deepEqual(await results(run), await results(owner.reference), `round ${number}`);
  // A lock's file that a killed process has left locks nothing, and goes with the next lock.
  const nobody = { what: run, doing: "test", otherwise: "" };
  (await lock(join(run, "run.lock"), nobody))[Symbol.dispose]();
  // A start of another kind that was killed may leave what it had made of its data, and nothing else.
  const isMixed = jobs[0].task !== jobs[1].task, data = ["corpus", "rows"];
  const named = async (folder: string) =>
    (await readdir(folder)).filter((name) => !isMixed || !data.includes(name)).sort();
  assert.deepEqual(await named(run), await named(owner.reference), `round ${number}`);
  await rm(run, { recursive: true });
  return happened.join(", ");
}

/** How a process of a round may end, in a word. */
function howItEnded({ code, err }: Ended, isVictim: boolean): string {
  if (code === 0) return "done";
  if (code === 137 && isVictim) return "killed";
  const lines = err.trimEnd().split("\n"), last = lines.at(-1)!;
  assert.equal(code, 1, err);
  assert.equal(lines.filter((line) => line.startsWith("error:")).length, 1, err);
  assert.doesNotMatch(err, /^\s+at /m);
  if (/^error: .*: in use by (process \d+ .*since|another process)/.test(last)) return "refused";
  if (/already holds a run: give --resume/.test(last)) return "came too late";
  if (/holds a config\.json that is not of/.test(last)) return "another kind of run";
  throw new assert.AssertionError({ message: err });
}

/** Whose run a folder holds; the first one's if it holds none yet. */
async function ownerOf(run: string, jobs: readonly Job[]): Promise<Job> {
  const config = await json(join(run, "config.json")).catch(() => undefined);
  if (config === undefined) return jobs[0];
  for (const job of jobs) {
    const other = await json(join(job.reference, "config.json"));
    if (config.kind === other.kind && config.seed === other.seed) return job;
  }
  throw new Error(`${run}: whose run is this?`);
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Rounds from one number to another. */
export async function campaign(
  from: number,
  to: number,
  log = (_line: string) => {},
): Promise<Tally> {
  const stage = await prepare(), tally: Tally = new Map();
  try {
    for (let number = from; number < to; number++) {
      const happened = await round(stage, number);
      log(`${number}: ${happened}`);
      tally.set(happened, (tally.get(happened) ?? 0) + 1);
    }
    return tally;
  } finally {
    await rm(stage.folder, { recursive: true });
  }
}

if (import.meta.main) {
  const [rounds = "50", first = "0"] = Deno.args;
  const tally = await campaign(Number(first), Number(first) + Number(rounds), console.log);
  for (const [happened, times] of tally) console.log(`${times} × ${happened}`);
  Deno.exit(0);
}
