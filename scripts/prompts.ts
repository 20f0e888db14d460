/**
 * `deno run scripts/prompts.ts`: looks at templates. The first word says what to do.
 *
 * @module
 */
import { join } from "node:path";
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import { help } from "../tasks/command/help.ts";
import { nearest } from "../tasks/command/nearest.ts";
import { defaults, describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { printableText } from "../tasks/command/printable.ts";
import { countLines, lintLines, listLines, showLines } from "../tasks/prompts/listing.ts";

const COMMON = describe({
  words: {
    type: "paths",
    positional: true,
    unit: "dataset...",
    help: "Datasets, such as super_glue/copa; all if none is named.",
  },
  templates: {
    type: "path",
    unit: "folder",
    help: "Templates in promptsource's format. Those of the sample tasks if not given.",
  },
  data: {
    type: "path",
    unit: "folder",
    help: "Rows, as DATASET[/CONFIG]/SPLIT.jsonl, .csv or .parquet. The sample tasks if not given.",
  },
  split: { type: "string", help: "Which rows; the first split there is if not given." },
});
const SHOW = describe({
  ...COMMON,
  template: {
    type: "string",
    unit: "name",
    help: "One template; all of the dataset if not given.",
  },
  row: { type: "integer", min: 0, default: 0, help: "Number of the row, from 0." },
});
const LINT = describe({
  ...COMMON,
  rows: { type: "integer", min: 1, default: 200, help: "Rows of each dataset to try at most." },
});

/** A thing to do. */
interface Command {
  does: string;
  options: Parameters<typeof help>[0];
  /** Lines to print; `fail` is true if the exit code should say that something is wrong. */
  run(args: readonly string[]): Promise<{ lines: string[]; fail?: boolean }>;
}

const sample = join(import.meta.dirname!, "..", "data");
const places = (flags: { data?: string; templates?: string }) => ({
  data: flags.data ?? (flags.templates === undefined ? join(sample, "tasks") : undefined),
  templates: flags.templates ?? join(sample, "templates"),
});

const COMMANDS: Readonly<Record<string, Command>> = {
  list: {
    does: "datasets and their templates, one per line",
    options: COMMON,
    run(args) {
      const flags = parseFlags(COMMON, args);
      return Promise.resolve({
        lines: listLines({ ...places(flags), datasets: flags.words ?? [] }),
      });
    },
  },
  show: {
    does: "a template, and what it makes of a row",
    options: SHOW,
    async run(args) {
      const { words = [], ...flags } = { ...defaults(SHOW), ...parseFlags(SHOW, args) };
      if (words.length !== 1) throw new UserError(`expected one dataset, got ${words.length}`);
      const shown = await showLines({ ...places(flags), ...flags, dataset: words[0] });
      return { lines: shown.lines, fail: shown.failures > 0 };
    },
  },
  lint: {
    does: "what is wrong with templates: on their own, and on rows",
    options: LINT,
    async run(args) {
      const { words, rows, ...flags } = { ...defaults(LINT), ...parseFlags(LINT, args) };
      const found = await lintLines({ ...places(flags), ...flags, datasets: words ?? [], rows });
      return { lines: found.lines, fail: found.errors > 0 };
    },
  },
  counts: {
    does: "how many templates train and evaluate, and what the mixtures hold",
    options: COMMON,
    run(args) {
      return Promise.resolve({ lines: countLines(places(parseFlags(COMMON, args)).templates) });
    },
  },
};

function overview(): string {
  const rows = Object.entries(COMMANDS).map(([name, { does }]) => `  ${name.padEnd(10)}${does}`);
  return [
    "Looks at templates in promptsource's format.",
    "Usage: deno run scripts/prompts.ts COMMAND ... (each has its own --help)",
    `Commands:\n${rows.join("\n")}`,
  ].join("\n\n");
}

await main(async () => {
  const [name, ...args] = Deno.args;
  if (name === undefined || name === "--help" || name === "-h") return console.log(overview());
  if (!Object.hasOwn(COMMANDS, name)) {
    const near = nearest(name, Object.keys(COMMANDS));
    throw new UserError(
      `unknown command ${name}` +
        (near ? `; did you mean ${near}?` : `; expected ${Object.keys(COMMANDS).join(", ")}`),
    );
  }
  const { does, options, run } = COMMANDS[name];
  if (wantsHelp(args)) {
    const usage = `deno run scripts/prompts.ts ${name} [dataset...] [flags]`;
    return console.log(help(options, { usage, intro: `Prints ${does}.`, examples: [] }));
  }
  const { lines, fail } = await run(args);
  for (const line of lines) console.log(printableText(line));
  if (fail) Deno.exit(1);
});
