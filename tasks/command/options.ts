/**
 * Options, described once: the flags, `--help` (see `help.ts`), the check of a config file, the
 * defaults and the TypeScript type of the result are all made from the same description.
 *
 * ```ts
 * import { defaults, describe, parseFlags } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const options = describe({
 *   text: { type: "paths", group: "Data", help: "Text files or folders to learn from." },
 *   batchTokens: { type: "integer", min: 1, default: 4096, unit: "tokens", help: "Per update." },
 * });
 * const config = { ...defaults(options), ...parseFlags(options, ["--text", "a.txt", "b.txt"]) };
 * assert.deepEqual(config, { batchTokens: 4096, text: ["a.txt", "b.txt"] });
 * ```
 *
 * Layers are merged by spreading (`defaults`, preset, config file, flags, in this order): a layer
 * holds only what was given, so that it never hides the layer below.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { nearest } from "./nearest.ts";

/** What every kind of option says about itself. */
export interface OptionText {
  /** One or more sentences for `--help`. */
  help: string;
  /** The heading it stands under in `--help`; options without one come first. */
  group?: string;
  /** What the value counts or names ("tokens", "folder"), shown in place of the type's name. */
  unit?: string;
}

/** Bounds of a number: `min` and `max` are allowed values, `above` and `below` are not. */
export interface Bounds {
  /** The smallest allowed value. */
  min?: number;
  /** The largest allowed value. */
  max?: number;
  /** Values must be greater than this. */
  above?: number;
  /** Values must be less than this. */
  below?: number;
}

/** A number, with its bounds. */
export interface NumberOption extends OptionText, Bounds {
  /** `integer` takes whole numbers only. */
  type: "integer" | "number";
  /** The value when nothing is given. */
  default?: number;
}

/** A list of numbers, each within the bounds: `--text-weights 3 1`, or the flag several times. */
export interface NumbersOption extends OptionText, Bounds {
  /** At least one number. */
  type: "numbers";
  /** The value when nothing is given. */
  default?: readonly number[];
}

/** A word or sentence (`string`), or the name of a file or folder (`path`). Never empty. */
export interface TextOption extends OptionText {
  /** `path` differs from `string` in `--help` only. */
  type: "string" | "path";
  /** The value when nothing is given. */
  default?: string;
}

/** A list of files or folders: `--text a b c`, or the flag several times. */
export interface PathsOption extends OptionText {
  /** At least one path. */
  type: "paths";
  /** The value when nothing is given. */
  default?: readonly string[];
  /** Words that belong to no flag are its values too: `verify step a b`. One option at most. */
  positional?: boolean;
}

/** A switch: `--resume`, `--no-resume`. */
export interface BooleanOption extends OptionText {
  /** `true` or `false`. */
  type: "boolean";
  /** The value when nothing is given. */
  default?: boolean;
}

/** One of a few words. */
export interface ChoiceOption extends OptionText {
  /** One of {@link ChoiceOption.choices}. */
  type: "choice";
  /** The allowed words. */
  choices: readonly string[];
  /** The value when nothing is given. */
  default?: string;
}

/** The description of one option. */
export type Option =
  | NumberOption
  | NumbersOption
  | TextOption
  | PathsOption
  | BooleanOption
  | ChoiceOption;

/** Descriptions by config key, in camelCase. */
export type Options = Readonly<Record<string, Option>>;

/** The type of one option's value. */
export type Value<O extends Option> = O extends NumberOption ? number
  : O extends NumbersOption ? readonly number[]
  : O extends PathsOption ? readonly string[]
  : O extends BooleanOption ? boolean
  : O extends { choices: readonly (infer C)[] } ? C
  : string;

/** The type of a whole config: keys with a default are always there. */
export type Values<T extends Options> =
  & {
    [K in keyof T as T[K] extends { default: unknown } ? K : never]: Value<T[K]>;
  }
  & {
    [K in keyof T as T[K] extends { default: unknown } ? never : K]?: Value<T[K]>;
  };

/** What one layer (a config file, the flags) gives: any part of the config. */
export type Given<T extends Options> = { [K in keyof T]?: Value<T[K]> };

/**
 * Names the description, and keeps its exact type so that the config's type can be inferred.
 *
 * @throws {Error} a default that its own description does not allow
 *
 * @example
 * ```ts
 * import { describe, type Values } from "./options.ts";
 *
 * const options = describe({
 *   objective: { type: "choice", choices: ["metro", "t5"], default: "metro", help: "What to learn." },
 *   updates: { type: "integer", min: 1, help: "How many updates." },
 * });
 * const config: Values<typeof options> = { objective: "t5" }; // updates?: number
 * console.log(config.objective);
 * ```
 */
export function describe<const T extends Options>(options: T): T {
  for (const [key, option] of Object.entries(options)) {
    if (option.default === undefined) continue;
    const fault = faultOf(option, option.default);
    if (fault) throw new Error(`default of option ${key}: ${fault}`);
  }
  return options;
}

/**
 * The lowest layer of a config: every default that is described.
 *
 * @example
 * ```ts
 * import { defaults, describe } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const seed = { type: "integer", default: 1, help: "Seed of all randomness." } as const;
 * assert.deepEqual(defaults(describe({ seed })), { seed: 1 });
 * ```
 */
export function defaults<T extends Options>(options: T): Values<T> {
  const given = Object.entries(options).filter(([, option]) => option.default !== undefined);
  return Object.fromEntries(given.map(([key, option]) => [key, option.default])) as Values<T>;
}

/**
 * Whether the user asks for help: look before {@link parseFlags}, so that help is shown even beside
 * a mistyped flag.
 *
 * @example
 * ```ts
 * import { wantsHelp } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok(wantsHelp(["--sed", "1", "--help"]));
 * ```
 */
export function wantsHelp(args: readonly string[]): boolean {
  return args.includes("--help") || args.includes("-h");
}

/**
 * Reads flags: `--batch-tokens 512`, `--batchTokens=512`, `--text a b c`, `--resume`, `--no-resume`.
 *
 * @returns only what was given
 * @throws {UserError} an unknown flag, a value that does not fit, a value too many or too few
 *
 * @example
 * ```ts
 * import { describe, parseFlags } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const options = describe({ batchTokens: { type: "integer", min: 1, help: "Tokens per update." } });
 * assert.deepEqual(parseFlags(options, ["--batch-tokens", "512"]), { batchTokens: 512 });
 * assert.throws(() => parseFlags(options, ["--batch-token", "512"]), /did you mean --batch-tokens/);
 * ```
 */
export function parseFlags<T extends Options>(options: T, args: readonly string[]): Given<T> {
  const keyOf = flagNames(options);
  const { tokens } = parseArgs({
    args: [...args],
    strict: false, // our own messages are better than the library's
    tokens: true,
    options: Object.fromEntries(
      [...keyOf].map(([flag, key]) => [
        flag,
        { type: options[key].type === "boolean" ? "boolean" : "string" } as const,
      ]),
    ),
  });

  const given: Record<string, unknown> = {};
  const positional = Object.keys(options).find((key) => isPositional(options[key]));
  let list: { key: string; typed: string } | undefined; // `--text a b c`: later words belong to it
  const addToList = (key: string, typed: string, text: string): void => {
    list = { key, typed };
    const values = (given[key] ??= []) as unknown[];
    values.push(fromText(options[key], text));
    check(options[key], typed, values);
  };
  let read = -1; // index of the last word that was read as a whole
  for (const token of tokens) {
    if (token.kind === "option-terminator" || token.index === read) continue;
    const word = token.kind === "positional" ? token.value : args[token.index];
    const numbers = list !== undefined && options[list.key].type === "numbers";
    if (token.kind === "positional" || (numbers && isNumber(word))) { // such as -1
      if (!list && positional) list = { key: positional, typed: flagName(positional) };
      if (!list) throw unexpectedWord(word);
      addToList(list.key, list.typed, word);
      read = token.index;
      continue;
    }
    list = undefined;
    const typed = token.rawName.startsWith("--") ? token.rawName : word;
    const negated = token.name.startsWith("no-") && !keyOf.has(token.name);
    const key = keyOf.get(negated ? token.name.slice(3) : token.name);
    if (!key || !token.rawName.startsWith("--")) throw unknownFlag(typed, keyOf);
    const option = options[key];
    if (negated && option.type !== "boolean") throw unknownFlag(typed, keyOf);

    if (isList(option)) {
      addToList(key, typed, textOf(typed, option, token));
      continue;
    }
    if (key in given) throw new UserError(`${typed}: given more than once; give it once`);
    given[key] = option.type === "boolean"
      ? switchOf(typed, token.value, negated)
      : fromText(option, textOf(typed, option, token));
    check(option, typed, given[key]);
  }
  return given as Given<T>;
}

/**
 * What can be read of a command line on which help was asked for: the first value of each option, if it
 * fits. Other words are not looked at.
 *
 * @example
 * ```ts
 * import { describe, readablePart } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const options = describe({ preset: { type: "choice", choices: ["a", "b"], help: "Size." } });
 * assert.deepEqual(readablePart(options, ["--oops", "--preset", "b", "--help"]), { preset: "b" });
 * assert.deepEqual(readablePart(options, ["--preset", "--help"]), {});
 * ```
 */
export function readablePart<T extends Options>(options: T, args: readonly string[]): Given<T> {
  const given: Record<string, unknown> = {};
  for (const [key, option] of Object.entries(options)) {
    const flags = [flagName(key), key].map((name) => `--${name}`);
    const at = args.findIndex((word) => flags.includes(word.split("=")[0]));
    if (at < 0) continue;
    try {
      const words = args.slice(at, args[at].includes("=") ? at + 1 : at + 2);
      Object.assign(given, parseFlags({ [key]: option }, words));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
    }
  }
  return given as Given<T>;
}

/**
 * Checks a config object, such as the contents of a config file.
 *
 * @param where what the object is, for the messages ("run/config.json")
 * @returns the same object, now with its type
 * @throws {UserError} an unknown key, or a value of the wrong type or out of range
 *
 * @example
 * ```ts
 * import { describe, validate } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * const options = describe({ updates: { type: "integer", min: 1, help: "How many updates." } });
 * assert.deepEqual(validate(options, { updates: 3 }, "config.json"), { updates: 3 });
 * assert.throws(() => validate(options, { updates: 0 }, "config.json"), {
 *   message: "config.json: updates: expected an integer of at least 1, got 0",
 * });
 * ```
 */
export function validate<T extends Options>(options: T, object: unknown, where: string): Given<T> {
  if (typeof object !== "object" || object === null || Array.isArray(object)) {
    throw new UserError(`${where}: expected an object of options, got ${show(object)}`);
  }
  for (const [key, value] of Object.entries(object)) {
    if (!Object.hasOwn(options, key)) {
      throw new UserError(
        `${where}: unknown key ${shown(JSON.stringify(key))}` +
          suggestion(key, Object.keys(options), (near) => JSON.stringify(near)),
      );
    }
    const fault = faultOf(options[key], value);
    if (fault) throw new UserError(`${where}: ${key}: ${fault}`);
  }
  return object as Given<T>;
}

// --- flags ---

type OptionToken = { value?: string; inlineValue?: boolean };

/** Both spellings of every flag (batch-tokens, batchTokens), each with its config key. */
function flagNames(options: Options): Map<string, string> {
  return new Map(Object.keys(options).flatMap((key) => [[flagName(key), key], [key, key]]));
}

/**
 * A config key as a flag is written.
 *
 * @example
 * ```ts
 * import { flagName } from "./options.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(flagName("batchTokens"), "batch-tokens");
 * ```
 */
export function flagName(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => "-" + letter.toLowerCase());
}

function check(option: Option, typed: string, value: unknown): void {
  const fault = faultOf(option, value);
  if (fault) throw new UserError(`${typed}: ${fault}`);
}

function isList(option: Option): boolean {
  return option.type === "paths" || option.type === "numbers";
}

function isPositional(option: Option): boolean {
  return option.type === "paths" && option.positional === true;
}

/** The word after a flag; another flag there means that the word was forgotten. */
function textOf(typed: string, option: Option, { value, inlineValue }: OptionToken): string {
  const isFlag = !inlineValue && value?.startsWith("-") && isNaN(Number(value));
  if (value !== undefined && !isFlag) return value;
  const came = value === undefined ? "nothing" : `the flag ${value}`;
  const way = isFlag ? `; if ${value} is meant as the value, type ${typed}=${value}` : "";
  throw new UserError(`${typed}: expected ${expectation(option)} after it, got ${came}${way}`);
}

function switchOf(typed: string, value: string | undefined, negated: boolean): boolean {
  if (value === undefined) return !negated;
  if (!negated && (value === "true" || value === "false")) return value === "true";
  throw new UserError(`${typed}: is a switch and takes no value, got ${show(value)}`);
}

/** Numbers are read from text; what is not a number stays text, for {@link faultOf} to show. */
function fromText({ type }: Option, text: string): number | string {
  const numeric = type === "integer" || type === "number" || type === "numbers";
  return numeric && isNumber(text) ? Number(text) : text;
}

function isNumber(text: string): boolean {
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text);
}

function unknownFlag(typed: string, keyOf: Map<string, string>): UserError {
  const flags = [...new Set([...keyOf.values()].map(flagName)), "help"];
  const bare = typed.split("=")[0].replace(/^-+(no-)?/, "");
  return new UserError(
    `unknown flag ${typed.split("=")[0]}` + suggestion(bare, flags, (near) => `--${near}`),
  );
}

function unexpectedWord(word: string): UserError {
  return new UserError(`unexpected word ${show(word)}: expected a flag such as --help`);
}

function suggestion(word: string, words: readonly string[], name: (near: string) => string) {
  const near = nearest(word, words);
  return near ? `; did you mean ${name(near)}?` : `; --help lists what there is`;
}

// --- values ---

/** What is wrong with a value, as "expected ..., got ..."; undefined when it fits. */
function faultOf(option: Option, value: unknown): string | undefined {
  if (fits(option, value)) return undefined;
  const near = option.type === "choice" && typeof value === "string"
    ? nearest(value, option.choices)
    : undefined;
  const hint = near ? `; did you mean ${near}?` : "";
  return `expected ${expectation(option)}, got ${show(value)}${hint}`;
}

function fits(option: Option, value: unknown): boolean {
  switch (option.type) {
    case "boolean":
      return typeof value === "boolean";
    case "choice":
      return typeof value === "string" && option.choices.includes(value);
    case "string":
    case "path":
      return isText(value);
    case "paths":
      return Array.isArray(value) && value.length > 0 && value.every(isText);
    case "numbers":
      return Array.isArray(value) && value.length > 0 &&
        value.every((number) => isInRange(number, option) && Number.isFinite(number));
    case "integer":
      return isInRange(value, option) && Number.isSafeInteger(value);
    case "number":
      return isInRange(value, option) && Number.isFinite(value);
  }
}

function isText(value: unknown): boolean {
  return typeof value === "string" && value.trim() !== "" && !value.includes("\0");
}

function isInRange(value: unknown, bounds: Bounds): boolean {
  const { min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = bounds;
  return typeof value === "number" && value >= min && value <= max && value > above &&
    value < below;
}

function expectation(option: Option): string {
  switch (option.type) {
    case "boolean":
      return "true or false";
    case "choice":
      return `one of ${option.choices.join(", ")}`;
    case "string":
      return option.unit ? `a ${option.unit}` : "a text";
    case "path":
      return option.unit ? `a ${option.unit}` : "a path";
    case "paths":
      return "one or more paths";
    case "numbers":
      return "one or more numbers" + rangeOf(option);
    default:
      return (option.type === "integer" ? "an integer" : "a number") + rangeOf(option);
  }
}

function rangeOf({ min, max, above, below }: Bounds): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  const bounds = [
    min !== undefined && `of at least ${min}`,
    above !== undefined && `above ${above}`,
    max !== undefined && `of at most ${max}`,
    below !== undefined && `below ${below}`,
  ].filter((bound) => bound !== false);
  return bounds.length ? ` ${bounds.join(" and ")}` : "";
}

function show(value: unknown): string {
  if (typeof value === "string") return `'${shown(value)}'`;
  return typeof value === "number" ? String(value) : shown(value);
}
