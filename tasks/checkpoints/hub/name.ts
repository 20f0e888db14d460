/**
 * What a person may write for a model: `owner/name`, `owner/name@revision`, or an old bare `name`.
 *
 * @module
 */

import { readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { nearest } from "../../command/nearest.ts";

/** A model on the Hub. */
export interface HubModel {
  /** `owner/name`, or a bare name. */
  readonly name: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

/**
 * Reads the name of a model on the Hub; nothing if the text can only be a path.
 *
 * @example
 * ```ts
 * import { parseHubModel } from "./name.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(parseHubModel("t5-small"), { name: "t5-small", revision: "main" });
 * assert.equal(parseHubModel("google/t5@refs/pr/1")?.revision, "refs/pr/1");
 * assert.equal(parseHubModel("../runs/tiny"), undefined);
 * ```
 */
export function parseHubModel(text: string): HubModel | undefined {
  const [, name, revision = "main"] = text.match(/^([^@]+)(?:@(.+))?$/) ?? [];
  if (!name) return undefined;
  const parts = name.split("/");
  const isName = parts.length <= 2 && parts.every(isPart) && !/--/.test(name);
  const isRevision = revision.split("/").every((part) => /^\w[\w.+-]*$/.test(part)) &&
    !revision.includes("..");
  return isName && isRevision ? { name, revision } : undefined;
}

/** Letters, digits, `-`, `_` and `.`, of which the last two kinds of sign must be inside. */
function isPart(part: string): boolean {
  return /^\w([\w.-]*\w)?$/.test(part) && !part.includes("..") && part.length <= 96;
}

/** "; did you mean ...?" with the folder of nearly this path, or nothing. */
export async function nearFolder(path: string): Promise<string> {
  const parent = dirname(path);
  const entries = await readdir(parent, { withFileTypes: true }).catch(() => []);
  const folders = entries.filter((entry) => entry.isDirectory()).map((entry) => entry.name);
  const near = nearest(basename(path), folders);
  return near ? `; did you mean the folder ${join(parent, near)}?` : "";
}
