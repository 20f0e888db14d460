/** Runs the project's commands as a user would: real processes, with the permissions of `deno.json`. */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { askProgram } from "../../tasks/devices/ask_program.ts";

/** The project's folder. */
export const ROOT = join(import.meta.dirname!, "..", "..");

/** How a command ended. */
export interface Ended {
  /** Exit code. */
  code: number;
  /** Standard output. */
  out: string;
  /** Standard error. */
  err: string;
}

/** The words of a task of `deno.json`, `deno` being the program that runs this. */
function wordsOf(task: string): string[] {
  const { tasks } = JSON.parse(readFileSync(join(ROOT, "deno.json"), "utf8"));
  const command: string = typeof tasks[task] === "string" ? tasks[task] : tasks[task].command;
  const [, ...words] = command.split(" ").map((w) => w.endsWith(".ts") ? join(ROOT, w) : w);
  return [Deno.execPath(), ...words];
}

/** Tasks that compute. */
const COMPUTING = ["pretrain", "pretrain:mpi", "finetune", "eval_t0", "generate", "bench"];

/**
 * Tests compute on the processor, unless they say otherwise, and on one thread of it: their models are so
 * small that further ones only wait for one another.
 */
function withAdapter(task: string, args: string[]): string[] {
  if (!COMPUTING.includes(task) || args.includes("--adapter")) return args;
  const threads = args.includes("--threads") ? [] : ["--threads", "1"];
  return [...args, "--adapter", "cpu", ...threads];
}

/** A process of a task of `deno.json`, running. */
export function start(
  task: string,
  args: string[],
  cwd = ROOT,
  env: Record<string, string> = {},
): Deno.ChildProcess {
  return startWords([...wordsOf(task), ...withAdapter(task, args)], cwd, env);
}

/** How `mpirun` is told to start more ranks than there are cores, in a container, as root. */
export const MPIRUN = [
  "mpirun",
  ..."--oversubscribe --mca mpi_yield_when_idle 1".split(" "),
  ..."--mca btl_vader_single_copy_mechanism none".split(" "),
];

/** What root must say to start `mpirun`. */
export const AS_ROOT = {
  OMPI_ALLOW_RUN_AS_ROOT: "1",
  OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1",
};

/** Whether this machine has an MPI launcher. */
export const { success: HAS_MPI } = await askProgram("mpirun", ["--version"]);

/** A task of `deno.json` by so many ranks under MPI, running. */
export function startRanks(task: string, ranks: number, args: string[]): Deno.ChildProcess {
  const words = [...wordsOf(task), ...withAdapter(task, args)];
  return startWords([...MPIRUN, "-n", String(ranks), ...words], ROOT, AS_ROOT);
}

function startWords(words: string[], cwd: string, env: Record<string, string>): Deno.ChildProcess {
  return new Deno.Command(words[0], {
    args: words.slice(1),
    cwd,
    env: { NO_COLOR: "1", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** Waits for a process. */
export async function ended(process: Deno.ChildProcess): Promise<Ended> {
  const { code, stdout, stderr } = await process.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, out: decode(stdout), err: decode(stderr) };
}

/** Runs a task to its end. */
export function run(task: string, args: string[], cwd = ROOT): Promise<Ended> {
  return ended(start(task, args, cwd));
}
