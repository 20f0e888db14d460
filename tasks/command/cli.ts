/**
 * What every command line has in common: how it ends. A mistake of the user is one line and exit
 * code 1; a mistake of ours keeps its stack.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { printable } from "./printable.ts";

/**
 * Runs a script, and ends the process with exit code 1 when it fails.
 *
 * @param run the script; a {@link UserError} that it throws is shown as one line, without a stack, and so is
 *   what the system refuses
 *
 * @example
 * ```ts
 * import { main } from "./cli.ts";
 *
 * await main(async () => console.log(await Promise.resolve("done")));
 * ```
 */
export async function main(run: () => Promise<void>): Promise<void> {
  try {
    await run();
  } catch (error) {
    const isTold = error instanceof UserError || isRefused(error);
    if (isTold) console.error(`error: ${printable(oneLine((error as Error).message))}`);
    else console.error(error);
    Deno.exit(1);
  }
}

/** What the system refuses is the user's to mend: the path in the message tells more than our stack. */
function isRefused(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return error.name === "NotCapable" || REFUSALS.includes((error as { code?: string }).code ?? "");
}

/** What only the machine, its disks and its rights can be the reason of. */
const REFUSALS =
  "ENOENT EACCES EPERM EROFS ENOSPC EDQUOT EFBIG EIO ENOTDIR EISDIR ELOOP ENAMETOOLONG ESTALE EMFILE ENFILE"
    .split(" ");

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ");
}
