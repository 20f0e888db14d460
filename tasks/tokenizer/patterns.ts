/**
 * What `Replace` and `Split` look for: a literal text or a regular expression.
 *
 * @module
 */
import { isRecord } from "../../models/formats/untrusted.ts";
import { Regex, type Steps } from "./regex.ts";
import { fault, type Section } from "./section.ts";

/** Where something is found in a text, from left to right. */
export type Matches = (text: string) => [start: number, end: number][];

/**
 * Compiles the `pattern` of a section.
 *
 * @throws {UserError} if there is none, or one that is not read here
 */
export function matcher({ where, fields }: Section, steps: Steps): Matches {
  const { pattern } = fields, given = isRecord(pattern) ? Object.entries(pattern) : [];
  const [name, source] = given.length === 1 ? given[0] : [];
  if (typeof source !== "string" || source === "" || !source.isWellFormed()) {
    throw fault(`${where}: pattern`, "a Regex or a String", pattern);
  }
  if (name === "String") return (text) => literals(text, source);
  if (name !== "Regex") throw fault(`${where}: pattern`, "a Regex or a String", pattern);
  const regex = new Regex(source, steps);
  // In an empty text nothing is looked for.
  return (text) => text === "" ? [] : regex.matches(text);
}

function literals(text: string, literal: string): [number, number][] {
  const found: [number, number][] = [];
  for (let at = text.indexOf(literal); at >= 0;) {
    found.push([at, at + literal.length]);
    at = text.indexOf(literal, at + literal.length);
  }
  return found;
}
