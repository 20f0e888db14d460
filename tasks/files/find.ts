/**
 * Finds files by folder or by a pattern as shells have it. Links are followed, and no folder is walked
 * twice, so that one that leads back to a folder above ends there.
 *
 * @module
 */

import { join } from "node:path";
import { isFolder, namesIn, readError } from "./read.ts";

/**
 * The files below a folder, to the bottom, with what only stands for one: links to nothing, pipes,
 * devices. Sorted folder by folder, by code unit.
 *
 * @throws {UserError} a folder cannot be read
 *
 * @example
 * ```ts
 * import { filesBelow } from "./find.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.mkdir(`${folder}/b`);
 * for (const name of ["c.txt", "b/a.txt"]) await Deno.writeTextFile(`${folder}/${name}`, "");
 * await Deno.symlink(".", `${folder}/latest`);
 * assert.deepEqual(filesBelow(folder), [`${folder}/b/a.txt`, `${folder}/c.txt`]);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function filesBelow(folder: string): string[] {
  return walk(folder, new Set(), () => []);
}

/**
 * Walks a folder whose real path is not in `seen`; what `found` gives for a folder goes before what is
 * below it.
 */
function walk(folder: string, seen: Set<string>, found: (folder: string) => string[]): string[] {
  const real = realPath(folder);
  if (seen.has(real)) return [];
  seen.add(real);
  const below = namesIn(folder).flatMap((name) => {
    const path = join(folder, name);
    return isFolder(path) ? walk(path, seen, found) : [path];
  });
  return [...found(folder), ...below];
}

/**
 * A path without links: two paths of one file have the same.
 *
 * @throws {UserError} there is no such file
 */
export function realPath(path: string): string {
  try {
    return Deno.realPathSync(path);
  } catch (error) {
    throw readError(path, error);
  }
}

/** True for a text with signs of a pattern. */
export function isPattern(path: string): boolean {
  return /[*?{[]/.test(path);
}

/**
 * The files that a pattern matches, in the order of {@link filesBelow}.
 *
 * `*` stands for any part of a name, `?` for a character, `[ab]`, `[a-z]` and `[!a]` for one of some or of
 * all others, `{a,b}` for either, and `**` for any folders. A bracket that is never closed is itself.
 *
 * @throws {UserError} a folder on the way cannot be read
 *
 * @example
 * ```ts
 * import { filesMatching } from "./find.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir();
 * await Deno.mkdir(`${folder}/sub`);
 * for (const name of ["a.txt", "b.txt", "sub/c.txt"]) {
 *   await Deno.writeTextFile(`${folder}/${name}`, "");
 * }
 * assert.deepEqual(filesMatching(`${folder}/[!a].txt`), [`${folder}/b.txt`]);
 * assert.equal(filesMatching(`${folder}/**\/*.txt`).length, 3);
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export function filesMatching(pattern: string): string[] {
  const files = new Set<string>();
  for (const one of withoutBraces(pattern)) {
    const parts = join(one).split("/");
    const root = parts[0] === "" ? "/" : ".";
    for (const file of matching(root, root === "/" ? parts.slice(1) : parts)) files.add(file);
  }
  return [...files].map((file) => file.split("/")).sort(byParts).map((parts) => parts.join("/"));
}

/** The order in which a walk finds files. */
function byParts(a: readonly string[], b: readonly string[]): number {
  let i = 0;
  while (i < a.length && a[i] === b[i]) i++;
  return i === a.length || (i < b.length && a[i] < b[i]) ? -1 : 1;
}

function matching(folder: string, [part, ...rest]: readonly string[]): string[] {
  if (part === undefined || !isFolder(folder)) return [];
  if (part === "**") {
    const last = rest.length === 0 ? ["*"] : rest;
    const found: string[] = [];
    walk(folder, new Set(), (each) => (found.push(...matching(each, last)), []));
    return found;
  }
  const names = isPattern(part) ? namesIn(folder).filter(matcher(part)) : [part];
  return names.map((name) => join(folder, name)).flatMap((path) =>
    rest.length > 0 ? matching(path, rest) : isFolder(path) || !isThere(path) ? [] : [path]
  );
}

/** True if there is something of this name, be it a link to nothing. */
export function isThere(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

/** `a{b,c{d,e}}` as `ab`, `acd` and `ace`; a brace that is never closed is itself. */
function withoutBraces(pattern: string): string[] {
  const open = pattern.indexOf("{");
  if (open < 0) return [pattern];
  const cuts = [open];
  let depth = 0;
  for (let i = open; i < pattern.length; i++) {
    if (pattern[i] === "{") depth++;
    else if (pattern[i] === "," && depth === 1) cuts.push(i);
    else if (pattern[i] === "}" && --depth === 0) {
      cuts.push(i);
      break;
    }
  }
  const ends = withoutBraces(pattern.slice((depth === 0 ? cuts.at(-1)! : open) + 1));
  const choices = depth === 0
    ? cuts.slice(1).flatMap((cut, i) => withoutBraces(pattern.slice(cuts[i] + 1, cut)))
    : ["{"];
  const start = pattern.slice(0, open);
  return choices.flatMap((choice) => ends.map((end) => start + choice + end));
}

/** Written here because the runtime's own patterns ask for environment permission. */
function matcher(part: string): (name: string) => boolean {
  let source = "";
  for (let i = 0; i < part.length; i++) {
    const c = part[i];
    const close = c === "[" ? part.indexOf("]", i + (part[i + 1] === "!" ? 3 : 2)) : -1;
    if (c === "*") source += source.endsWith(".*") ? "" : ".*";
    else if (c === "?") source += ".";
    else if (close < 0) source += RegExp.escape(c);
    else {
      source += oneOf(part.slice(i + 1, close));
      i = close;
    }
  }
  const expression = new RegExp(`^${source}$`, "su");
  return (name) => expression.test(name);
}

/** `a-z` is a range unless it runs backwards: then it holds nothing. */
function oneOf(inside: string): string {
  const negated = /^[!^]./s.test(inside);
  const characters = Array.from(negated ? inside.slice(1) : inside);
  let set = "";
  for (let i = 0; i < characters.length; i++) {
    const isRange = characters[i + 1] === "-" && i + 2 < characters.length;
    const [from, to] = [characters[i], characters[isRange ? i + 2 : i]];
    if (isRange) i += 2;
    if (from.codePointAt(0)! <= to.codePointAt(0)!) set += `${inClass(from)}-${inClass(to)}`;
  }
  return `[${negated ? "^" : ""}${set}]`;
}

function inClass(character: string): string {
  return `\\u{${character.codePointAt(0)!.toString(16)}}`;
}
