/**
 * Asking another program something.
 *
 * @module
 */

/**
 * Runs a program, without input and without showing what it prints.
 *
 * @returns whether it succeeded, and its standard output; no success, too, if it is not there or may not be
 *   run, for which `Deno.Command` throws where it should reject
 *
 * @example
 * ```ts
 * import { askProgram } from "./ask_program.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(await askProgram("no-such-program", []), { success: false, stdout: "" });
 * ```
 */
export async function askProgram(
  program: string,
  args: string[],
): Promise<{ success: boolean; stdout: string }> {
  try {
    const command = new Deno.Command(program, { args, stdin: "null", stderr: "null" });
    const { success, stdout } = await command.output();
    return { success, stdout: new TextDecoder().decode(stdout) };
  } catch {
    return { success: false, stdout: "" };
  }
}
