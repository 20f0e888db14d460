// Commands that the pages show: tasks that there are, with flags and words that they take.

import assert from "node:assert/strict";
import { run } from "../e2e/command.ts";
import { blocksOf, PAGES, proseOf, ROOT, textOf } from "./pages.ts";

/** Tasks whose first word says what to do. */
const WITH_SUBCOMMANDS = ["verify", "prompts"];
/** Tasks that take nothing. */
const BARE = ["test", "check", "ok", "doctor"];
/** Flags of other programs that the pages speak of. */
const FOREIGN =
  /^--(allow-|bind|cap-|mca$|oversubscribe$|gpus-per-task|ntasks|nodes|cpus|mpi$|format)/;

/** What a command takes: flags by name, each with the words that may follow if they are few. */
type Flags = Map<string, readonly string[] | undefined>;

const { tasks } = JSON.parse(textOf("deno.json"));
const known = new Map<string, Promise<Flags>>();

/** The flags of a task, as its `--help` lists them. */
function flagsOf(task: string, subcommand: string[]): Promise<Flags> {
  const name = [task, ...subcommand].join(" ");
  const flags = known.get(name) ?? askHelp(task, subcommand);
  known.set(name, flags);
  return flags;
}

async function askHelp(task: string, subcommand: string[]): Promise<Flags> {
  const { code, out, err } = await run(task, [...subcommand, "--help"], ROOT);
  assert.equal(code, 0, `${task} ${subcommand}: ${err}`);
  const rows = out.split(/\n(?= {2}(?:-h, )?--)/).slice(1);
  return new Map(rows.map((row) => {
    const [, flag] = row.match(/(--[\w-]+)/)!;
    const choices = row.replace(/\s+/g, " ").match(/One of ([^.]+)\./)?.[1].split(", ");
    return [flag.replace(/^--no-/, "--"), choices];
  }));
}

/** The commands of a page, each on a line of its own. */
function commandsOf(page: string): string[] {
  const shell = blocksOf(page).filter(({ language }) => language === "sh")
    .flatMap(({ text }) => text.replace(/\\\n\s*/g, " ").split("\n"))
    .map((line) => line.replace(/(^|\s)#.*$/, ""));
  const inline = [...proseOf(page).matchAll(/`([^`]+)`/g)].map(([, code]) => code);
  return [...shell, ...inline].map((line) => line.replace(/\s+/g, " ").trim())
    .flatMap((line) => line.split(/(?=\bdeno(?:@[\d.]+)? task )/))
    .filter((line) => /^deno(@[\d.]+)? task /.test(line));
}

for (const path of PAGES) {
  Deno.test(`${path}: commands name tasks and flags that there are`, async () => {
    for (const command of commandsOf(textOf(path))) {
      const [, task, rest] = command.match(/^deno\S* task (?:-q )?([\w:]+)(.*)$/) ??
        assert.fail(`${path}: what is ${command}?`);
      if (task === "NAME") continue; // any of them
      assert.ok(Object.hasOwn(tasks, task), `${path}: there is no task ${task}`);
      const words = rest.replace(/"[^"]*"|'[^']*'/g, "TEXT").split(/ [|<>&]+( |$)/)[0].trim()
        .split(" ").filter((word) => word !== "");
      if (BARE.includes(task)) {
        assert.deepEqual(words, [], `${path}: ${command}`);
        continue;
      }
      if (words.length === 0) continue;
      const subcommands = WITH_SUBCOMMANDS.includes(task) ? words.shift()!.split("|") : [""];
      for (const subcommand of subcommands) {
        await checkWords(
          `${path}: ${command}`,
          words,
          await flagsOf(task, subcommand ? [subcommand] : []),
        );
      }
    }
  });
}

function checkWords(where: string, words: readonly string[], flags: Flags): void {
  let choices: readonly string[] | undefined;
  for (const word of words) {
    if (!word.startsWith("--")) {
      if (!choices) continue;
      for (const choice of word.split("|")) {
        assert.ok(choices.includes(choice), `${where}: ${choice} is none of ${choices.join(", ")}`);
      }
      continue;
    }
    const flag = word.split("=")[0];
    const name = flags.has(flag) ? flag : flag.replace(/^--no-/, "--");
    assert.ok(flags.has(name), `${where}: there is no flag ${flag}`);
    choices = flags.get(name);
  }
}

Deno.test("flags that the pages speak of are flags of some task", async () => {
  const all = new Set<string>();
  for (const task of Object.keys(tasks)) {
    if (BARE.includes(task)) continue;
    const subcommands = task === "verify"
      ? [["step"], ["prompts"], ["tokenizer"], ["model"]]
      : task === "prompts"
      ? [["list"], ["show"], ["lint"], ["counts"]]
      : [[]];
    for (const subcommand of subcommands) {
      for (const flag of (await flagsOf(task, subcommand)).keys()) all.add(flag);
    }
  }
  for (const path of PAGES) {
    for (const [, code] of proseOf(textOf(path)).matchAll(/`(--[^`]+)`/g)) {
      const flag = code.match(/^--[\w-]+/)![0];
      if (FOREIGN.test(flag)) continue;
      assert.ok(all.has(flag) || all.has(flag.replace(/^--no-/, "--")), `${path}: ${code}`);
    }
  }
});
