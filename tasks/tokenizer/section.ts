/**
 * Reads the sections of a tokenizer.json that name a kind and its settings: a setting that is not as the
 * format has it is refused with its name, and so is a kind that is not read here.
 *
 * @module
 */
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";

/** A section with its place in the file, for messages. */
export interface Section {
  /** Where it stands, such as `pre_tokenizer: Split`. */
  readonly where: string;
  /** What kind it is of. */
  readonly type: string;
  /** Its settings. */
  readonly fields: Readonly<Record<string, unknown>>;
}

/**
 * A section as an object with a type.
 *
 * @throws {UserError} if it is none
 */
export function sectionOf(where: string, value: unknown): Section {
  if (!isRecord(value) || typeof value.type !== "string") {
    throw fault(where, "a section with its type", value);
  }
  return { where: `${where}: ${shown(value.type)}`, type: value.type, fields: value };
}

/** The error of a section that has something else than the format wants. */
export function fault(where: string, expected: string, got: unknown): UserError {
  const what = got === undefined ? "nothing" : shown(got);
  return new UserError(`tokenizer: ${where}: expected ${expected}, got ${what}`);
}

/** The error of a feature that other readers know and this one does not. */
export function unread(where: string, feature: string): UserError {
  return new UserError(
    `tokenizer: ${where}: ${shown(feature)} is not read here (see docs/files.md)`,
  );
}

/** A switch. */
export function flag({ where, fields }: Section, name: string, otherwise?: boolean): boolean {
  const value = fields[name] ?? otherwise;
  if (typeof value === "boolean") return value;
  throw fault(`${where}: ${name}`, "true or false", fields[name]);
}

/** A text. */
export function text({ where, fields }: Section, name: string, otherwise?: string): string {
  const value = fields[name] ?? otherwise;
  if (typeof value === "string" && value.isWellFormed()) return value;
  throw fault(`${where}: ${name}`, "a text", fields[name]);
}

/** A single character. */
export function character(section: Section, name: string): string {
  const value = text(section, name);
  if ([...value].length === 1) return value;
  throw fault(`${section.where}: ${name}`, "one character", value);
}

/** A whole number of at least `least`. */
export function count(
  { where, fields }: Section,
  name: string,
  least: number,
  otherwise?: number,
): number {
  const value = fields[name] ?? otherwise;
  if (Number.isSafeInteger(value) && value as number >= least) return value as number;
  throw fault(`${where}: ${name}`, `a whole number of at least ${least}`, fields[name]);
}

/** One of some names. */
export function choice<T extends string>(
  { where, fields }: Section,
  name: string,
  names: readonly T[],
  otherwise?: T,
): T {
  const value = fields[name] ?? otherwise;
  if (names.includes(value as T)) return value as T;
  throw fault(`${where}: ${name}`, `one of ${names.join(", ")}`, fields[name]);
}

/** More steps one after the other are nobody's. */
const MOST_STEPS = 64;

/** Sections in a list. */
export function sections({ where, fields }: Section, name: string): unknown[] {
  const value = fields[name];
  if (Array.isArray(value) && value.length <= MOST_STEPS) return value;
  const got = Array.isArray(value) ? `${value.length} steps` : value;
  throw fault(`${where}: ${name}`, `a list of at most ${MOST_STEPS} steps`, got);
}
