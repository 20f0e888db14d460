/** Runs the project's commands as a user would: real processes, with the permissions of `deno.json`. */

import { readFileSync } from "node:fs";
import { join } from "node:path";

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

/** A process of a task of `deno.json`, running. */
export function start(task: string, args: string[], cwd = ROOT): Deno.ChildProcess {
  const { tasks } = JSON.parse(readFileSync(join(ROOT, "deno.json"), "utf8"));
  const command: string = typeof tasks[task] === "string" ? tasks[task] : tasks[task].command;
  const words = command.split(" ").map((w) => w.endsWith(".ts") ? join(ROOT, w) : w);
  return new Deno.Command(Deno.execPath(), {
    args: [...words.slice(1), ...args],
    cwd,
    env: { NO_COLOR: "1" },
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
