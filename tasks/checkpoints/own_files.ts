/**
 * Whether a run's small files are those that its weights were saved with. A digit of `config.json` that
 * somebody has changed would make other figures of the same weights, or other weights of the same text.
 *
 * The weights' file has a checksum of the settings and of the tokenizer; `training.json` has the settings as
 * they were, so that what differs can be named.
 *
 * @module
 */
import { join } from "node:path";
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { sha256 } from "../files/seal.ts";

/** Settings that say how long training goes on. */
const LENGTH = ["updates", "scheduleUpdates"];
/**
 * Settings that say nothing of what the weights are: where things lie, and how often to look. Runs that differ
 * in these alone have the same weights, to the byte.
 */
const ASIDE = [
  ...LENGTH,
  ...["text", "tokenizer", "data", "templates", "from"],
  ...["logEvery", "evaluateEvery", "evaluateTokens", "evaluateExamples", "saveEvery"],
];

/**
 * What the weights' file says of the files that belong to it.
 *
 * @param config what `config.json` holds; how it is spaced and ordered does not matter, nor how long the run
 * is to go on, where its data lie, and how often it looks
 * @param tokenizer checksum of the tokenizer
 *
 * @example
 * ```ts
 * import { marksOf } from "./own_files.ts";
 * import assert from "node:assert/strict";
 *
 * const { config } = marksOf({ updates: 4, dropout: 0.1 }, "5d41402a");
 * assert.equal(marksOf({ dropout: 0.1, updates: 8 }, "5d41402a").config, config);
 * assert.notEqual(marksOf({ updates: 4, dropout: 0.2 }, "5d41402a").config, config);
 * ```
 */
export function marksOf(config: object, tokenizer: string): { config: string; tokenizer: string } {
  const settings = Object.entries(config).filter(([name]) => !ASIDE.includes(name));
  return { config: sha256(canonical(Object.fromEntries(settings))), tokenizer };
}

/**
 * Fails unless config and tokenizer are those that weights were saved with.
 *
 * @param run the folder, for the message
 * @param metadata of the weights' file; older ones say nothing of it
 * @param saved finds the settings as they were, if anything says it
 * @throws {UserError} naming the file, and the setting if possible
 */
export async function expectMarks(
  run: string,
  config: Record<string, unknown>,
  tokenizer: string,
  metadata: Readonly<Record<string, string>>,
  saved: () => Promise<Readonly<Record<string, unknown>> | undefined>,
): Promise<void> {
  const marks = marksOf(config, tokenizer);
  if ((metadata.config ?? marks.config) !== marks.config) {
    const path = join(run, "config.json"), before = await saved();
    if (before) expectSettings(path, config, before);
    throw new UserError(
      `${path}: was changed since the weights were saved; put back a copy of the file`,
    );
  }
  if ((metadata.tokenizer ?? marks.tokenizer) !== marks.tokenizer) {
    throw new UserError(
      `${
        join(run, "tokenizer.json")
      }: was changed since the weights were saved; put back a copy of the file`,
    );
  }
}

/**
 * Fails unless settings are those that a checkpoint was saved with. One edit is allowed: a run may go on for
 * longer, if `updates` is raised, as far as the learning rate goes; `scheduleUpdates` may be raised with it.
 *
 * @param path of the file, for the message
 * @throws {UserError} naming the setting that differs
 *
 * @example
 * ```ts
 * import { expectSettings } from "./own_files.ts";
 * import assert from "node:assert/strict";
 *
 * const saved = { updates: 4, scheduleUpdates: 4, dropout: 0.1 };
 * expectSettings("config.json", { ...saved, updates: 8, scheduleUpdates: 8 }, saved);
 * assert.throws(() => expectSettings("config.json", { ...saved, dropout: 0.2 }, saved), {
 *   message: "config.json: dropout is 0.2, but was 0.1 when the checkpoint was saved; put it back",
 * });
 * ```
 */
export function expectSettings(
  path: string,
  config: Readonly<Record<string, unknown>>,
  saved: Readonly<Record<string, unknown>>,
): void {
  const rises = (name: string, least: number) =>
    Number.isSafeInteger(config[name]) && Number(config[name]) - Number(saved[name]) >= least;
  const isLonger = rises("updates", 1) && rises("scheduleUpdates", 0) &&
    Number(config.updates) <= Number(config.scheduleUpdates);
  for (const name of new Set([...Object.keys(saved), ...Object.keys(config)])) {
    if (canonical(config[name]) === canonical(saved[name])) continue;
    if (isLonger && LENGTH.includes(name)) continue;
    const longer = LENGTH.includes(name)
      ? ", or raise updates, and scheduleUpdates with it, for a longer run"
      : "";
    throw new UserError(
      `${path}: ${shown(name)} is ${shown(config[name])}, but was ${shown(saved[name])} when the ` +
        `checkpoint was saved; put it back${longer}`,
    );
  }
}

/** JSON with the names of every object in order. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  if (!isRecord(value)) return JSON.stringify(value) ?? "undefined";
  const names = Object.keys(value).sort();
  return `{${names.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`)}}`;
}
