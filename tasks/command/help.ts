/**
 * The text of `--help`, made from the description of the options.
 *
 * @module
 */
import { flagName, type Option, type Options } from "./options.ts";

/** The texts of a help page around the list of flags. */
export interface HelpPage {
  /** The command as typed: "deno task pretrain [flags]". */
  usage: string;
  /** What the command does, in a sentence or two. */
  intro: string;
  /** What holds where nothing is given, by config key, of a preset say: stands above the descriptions. */
  defaults?: Readonly<Record<string, unknown>>;
  /** Where these come from: a sentence above the flags. */
  note?: string;
  /** Commands to copy, each with what it does. */
  examples?: readonly { command: string; does: string }[];
}

/**
 * The text of `--help`: usage, introduction, flags by group with their defaults, examples.
 *
 * @param width columns to wrap at; usage and commands are left whole
 *
 * @example
 * ```ts
 * import { help } from "./help.ts";
 * import { describe } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const options = describe({
 *   batchTokens: { type: "integer", default: 4096, unit: "tokens", help: "Size of an update." },
 * });
 * const page = help(options, { usage: "deno task pretrain [flags]", intro: "Pretrains a model." });
 * assert.match(page, /--batch-tokens TOKENS +Size of an update\. Default: 4096\./);
 * ```
 */
export function help(options: Options, page: HelpPage, width = 100): string {
  const inForce = Object.entries(options).map(([key, option]) =>
    [key, { ...option, default: page.defaults?.[key] ?? option.default } as Option] as const
  );
  const groups = Map.groupBy(inForce, ([, option]) => option.group ?? "Options");
  const sections = [...groups].map(([title, entries]) => ({
    title,
    rows: entries.map(([key, option]) => [flagHead(key, option), flagText(option)]),
  }));
  sections.push({ title: "Help", rows: [["-h, --help", "Show this page."]] });
  const heads = sections.flatMap(({ rows }) => rows.map(([head]) => head.length));
  const column = Math.min(34, Math.max(...heads) + 4);
  const examples = page.examples?.map(({ command, does }) =>
    `${wrap(does, width - 2).map((line) => `  ${line}`).join("\n")}\n    ${command}`
  );
  return [
    wrap(page.intro, width).join("\n"),
    `Usage: ${page.usage}`,
    ...(page.note ? [wrap(page.note, width).join("\n")] : []),
    ...sections.map(({ title, rows }) =>
      `${title}:\n` + rows.map(([head, text]) => helpRow(head, text, column, width)).join("\n")
    ),
    ...(examples ? [`Examples:\n${examples.join("\n")}`] : []),
  ].join("\n\n");
}

function flagHead(key: string, option: Option): string {
  if (option.type === "paths" && option.positional) return placeholder(option);
  if (option.type === "boolean") return `--${option.default ? "no-" : ""}${flagName(key)}`;
  return `--${flagName(key)} ${placeholder(option)}`;
}

function placeholder(option: Option): string {
  if (option.unit) return option.unit.toUpperCase().replaceAll(" ", "-");
  if (option.type === "choice") {
    const all = option.choices.join("|");
    return all.length <= 16 ? all : "NAME";
  }
  if (option.type === "paths") return "PATH...";
  if (option.type === "numbers") return "NUMBER...";
  return option.type.toUpperCase();
}

function flagText(option: Option): string {
  const parts = [option.help.replace(/([^.!?])$/, "$1.")];
  if (option.type === "choice") parts.push(`One of ${option.choices.join(", ")}.`);
  if (option.type === "boolean") {
    if (option.default) parts.push("On by default; this flag turns it off.");
  } else if (option.default !== undefined) {
    parts.push(`Default: ${[option.default].flat().join(" ")}.`);
  }
  return parts.join(" ");
}

function helpRow(head: string, text: string, column: number, width: number): string {
  const lines = wrap(text, width - column);
  const first = `  ${head}`;
  const indent = " ".repeat(column);
  const joined = first.length + 2 <= column
    ? [first.padEnd(column) + lines[0], ...lines.slice(1).map((line) => indent + line)]
    : [first, ...lines.map((line) => indent + line)];
  return joined.join("\n");
}

/** Words in lines of at most so many columns. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else lines.push(word);
  }
  return lines;
}
