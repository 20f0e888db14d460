/**
 * JSON from files, as strict as all that reads other people's files: what is wrong with it is the user's
 * to mend, and says where.
 *
 * @module
 */

import { readFile } from "node:fs/promises";
import { parseJson } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { writeFile } from "./write.ts";

/**
 * Reads a JSON file.
 *
 * @throws {UserError} if it cannot be read, or is not JSON
 */
export async function readJson(path: string): Promise<unknown> {
  return parseAt(path, await textOf(path));
}

/**
 * Reads a file with JSON on each line; lines without anything are passed over.
 *
 * @returns the values with the numbers of their lines
 * @throws {UserError} if it cannot be read, or a line is not JSON
 */
export async function readJsonLines(path: string): Promise<[line: number, value: unknown][]> {
  return (await textOf(path)).split("\n").flatMap((text, i): [number, unknown][] => {
    return text.trim() === "" ? [] : [[i + 1, parseAt(`${path}:${i + 1}`, text)]];
  });
}

/**
 * Writes a JSON file, for people to read.
 *
 * @throws {UserError} what the file system refuses
 */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(path, JSON.stringify(value, null, 2) + "\n");
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    throw new UserError(`${path}: cannot be read: ${(error as Error).message}`);
  }
}

/** `where` is a file, or a line of one. */
export function parseAt(where: string, text: string): unknown {
  try {
    return parseJson(text);
  } catch (error) {
    throw error instanceof UserError ? new UserError(`${where}: ${error.message}`) : error;
  }
}
