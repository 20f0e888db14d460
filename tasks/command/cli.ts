/**
 * What every command line has in common: how it ends. A mistake of the user is one line and exit
 * code 1; a mistake of ours keeps its stack; Ctrl-C asks the job to stop, a second one forces it.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { printable } from "./printable.ts";

/** The exit code that shells expect of a program that Ctrl-C has ended. */
const INTERRUPTED = 130;

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

/**
 * What {@link interruption} listens to. Schedulers send SIGTERM, or what they are told to, before they kill;
 * Open MPI's launcher passes SIGUSR2 on without killing. (SIGUSR1 makes Deno open its inspector.)
 */
const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT"]
  : ["SIGINT", "SIGTERM", "SIGUSR2"];

/**
 * From now on, Ctrl-C (or SIGTERM, or SIGUSR2) asks the job to stop where it can do so in good order, and
 * says so; a second Ctrl-C ends the process at once.
 *
 * @param closing what the job will do first, for the message: "saving a checkpoint"
 * @param options `isRank`: of several processes, which a launcher may tell more than once: the signal
 *   counts once and is not announced
 * @returns a signal that the job looks at between two updates
 *
 * @example
 * ```ts
 * import { interruption } from "./cli.ts";
 * import assert from "node:assert/strict";
 *
 * const interrupted = interruption("saving a checkpoint");
 * assert.equal(interrupted.aborted, false);
 * ```
 */
export function interruption(
  closing: string,
  { isRank = false }: { isRank?: boolean } = {},
): AbortSignal {
  const controller = new AbortController();
  const stop = (signal: Deno.Signal) => {
    if (controller.signal.aborted) {
      if (signal === "SIGINT" && !isRank) Deno.exit(INTERRUPTED);
      return;
    }
    if (!isRank) console.error(`\nStopping: ${closing}. Press Ctrl-C again to quit at once.`);
    controller.abort();
  };
  for (const signal of SIGNALS) Deno.addSignalListener(signal, () => stop(signal));
  return controller.signal;
}

/** What the system refuses is the user's to mend: the path in the message tells more than our stack. */
function isRefused(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  return error.name === "NotCapable" || REFUSALS.includes((error as { code?: string }).code ?? "");
}

/** What only the machine, its disks and its rights can be the reason of. */
const REFUSALS =
  "EACCES EPERM EROFS ENOSPC EDQUOT EFBIG EIO ENOTDIR EISDIR ELOOP ENAMETOOLONG ESTALE EMFILE ENFILE"
    .split(" ");

function oneLine(text: string): string {
  return text.replace(/\s*\n\s*/g, " ");
}
