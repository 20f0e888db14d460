/** The pages that users read, and what tests look for in them. */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** The project's folder. */
export const ROOT = join(import.meta.dirname!, "..", "..");

/** All pages, relative to {@link ROOT}. */
export const PAGES: readonly string[] = [
  "README.md",
  "ARCHITECTURE.md",
  "BENCHMARKS.md",
  "data/README.md",
  ...readdirSync(join(ROOT, "docs")).filter((name) => name.endsWith(".md")).sort()
    .map((name) => `docs/${name}`),
];

/** The text of a page, or of a source file. */
export function textOf(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

/** Whether there is such a file or folder. */
export function isThere(path: string): boolean {
  return existsSync(join(ROOT, path));
}

/** A block between fences. */
export interface Block {
  /** What stands behind the opening fence: `ts ignore`. */
  language: string;
  /** The lines between. */
  text: string;
}

/** The fenced blocks of a page, also those within lists. */
export function blocksOf(page: string): Block[] {
  return [...page.matchAll(/^( *)```([^\n`]*)\n([\s\S]*?)^\1```$/gm)]
    .map(([, , language, text]) => ({ language: language.trim(), text }));
}

/** A page without its fenced blocks. */
export function proseOf(page: string): string {
  return page.replace(/^( *)```[^\n`]*\n[\s\S]*?^\1```$/gm, "");
}

/** A link within the project. */
export interface Link {
  /** The file that it points to, relative to {@link ROOT}. */
  path: string;
  /** The heading, if it names one. */
  anchor?: string;
  /** What is to be clicked on, without the backticks. */
  label: string;
}

/** Links and pictures of a page that point into the project. */
export function linksOf(path: string, text: string = textOf(path)): Link[] {
  const prose = proseOf(text);
  const found = [
    ...[...prose.matchAll(/\[([^\]]*)\]\(([^)\s]+)\)/g)].map(([, label, to]) => ({ label, to })),
    ...[...prose.matchAll(/<(?:img|source)\b[^>]*?\b(?:src|srcset)="([^"]+)"/g)]
      .map(([, to]) => ({ label: "", to })),
  ];
  return found.filter(({ to }) => !/^[a-z]+:/.test(to)).map(({ label, to }) => {
    const [file, anchor] = to.split("#");
    const target = file === "" ? path : normalize(join(dirname(path), file));
    return { path: target.replaceAll("\\", "/"), anchor, label: label.replaceAll("`", "") };
  });
}

/** The anchors of a page's headings, as GitHub makes them. */
export function anchorsOf(page: string): string[] {
  return [...proseOf(page).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
    heading.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").toLowerCase()
      .replace(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(" ", "-")
  );
}

/** The part of a page under a heading, down to the next one of its level or above. */
export function sectionOf(page: string, heading: string): string {
  const from = page.indexOf(`\n${heading}\n`);
  if (from < 0) throw new Error(`no heading ${heading}`);
  const body = page.slice(from + heading.length + 2);
  const level = heading.indexOf(" ");
  const end = body.search(new RegExp(`^#{1,${level}} `, "m"));
  return end < 0 ? body : body.slice(0, end);
}

/** Whether a source file declares a name at its top level, exported or not. */
export function declares(source: string, name: string): boolean {
  const kind = "(?:async )?(?:function\\*?|const|class|interface|type)";
  return new RegExp(`^(?:export )?${kind} ${name}\\b`, "m").test(source);
}
