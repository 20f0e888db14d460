/**
 * A rank as a worker: the other side of `workers.ts`. A module that serves a rank calls
 * {@link serveRank} once, at its top level.
 *
 * @module
 */
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { DeviceLost, UserError } from "../../ops/graph/errors.ts";
import { type Communicator, GroupEnded } from "./communicator.ts";
import { controlBlock } from "./control.ts";
import { joinGroup } from "./shared.ts";
import type { RankMessage, RankStart } from "./workers.ts";

/** What a rank is given. */
export interface RankContext {
  /** The ranks. */
  readonly group: Communicator;
  /**
   * Becomes true when the user wants the job to stop in good order. Ranks may see it at different
   * points of their work: they have to agree on one before they stop.
   */
  readonly interrupted: { readonly aborted: boolean; listen(): void };
  /** Where lines for the user go; for all ranks but 0 each line names the rank. */
  readonly output: RankOutput;
}

/** A rank's way to the user. */
export interface RankOutput {
  /** Whether it is a terminal, which rank 0 may draw on. */
  readonly isTTY: boolean;
  /** Its width, if known. */
  readonly columns?: number;
  /** Writes text. */
  write(text: string): void;
}

/**
 * Runs a rank in this worker, with the arguments that `runWorkers` passes on.
 *
 * @param run the rank's work; what it gives on rank 0 must survive structured cloning
 *
 * @example
 * ```ts
 * import { serveRank } from "./worker.ts";
 *
 * serveRank<{ step: number }>(async ({ step }, { group, output }) => {
 *   const sum = Float32Array.of(step * group.rank);
 *   await group.allReduce(sum);
 *   if (group.rank === 0) output.write(`${sum[0]}\n`);
 * });
 * ```
 */
export function serveRank<Args>(run: (args: Args, context: RankContext) => Promise<unknown>): void {
  self.onmessage = async ({ data }: MessageEvent<RankStart<Args>>) => {
    const { shared, rank, args, terminal } = data;
    const control = controlBlock(shared);
    const post = (message: RankMessage) => self.postMessage(message);
    const fail = (error: unknown) => {
      post(failure(error));
      control.abort();
      control.setState(rank, "ended");
    };
    const gone = () => {
      if (control.state(rank) !== "done") control.setState(rank, "ended");
    };
    self.addEventListener("unload", gone); // Deno.exit
    const close = self.close.bind(self); // of this there is no event
    self.close = () => {
      gone();
      close();
    };
    // Both come from work that nobody awaits.
    self.addEventListener("unhandledrejection", (event) => {
      event.preventDefault();
      fail(event.reason);
    });
    self.addEventListener("error", (event) => {
      event.preventDefault();
      fail(event.error ?? event.message);
    });
    try {
      control.setState(rank, "working");
      const result = await run(args, {
        group: joinGroup(shared, rank),
        interrupted: {
          get aborted() {
            return control.interrupted;
          },
          listen: () => post({ listens: true }),
        },
        output: { ...terminal, write: (text) => post({ text }) },
      });
      post({ done: rank === 0 ? result : undefined });
      control.setState(rank, "done");
    } catch (error) {
      fail(error);
    }
  };
}

/** An error as text: an error's class would not survive the way to another thread. */
function failure(error: unknown): RankMessage {
  if (isEcho(error)) return { failed: "echo", message: error.message };
  if (error instanceof DeviceLost) return { failed: "lost", message: error.message };
  if (error instanceof UserError) return { failed: "user", message: error.message };
  const { name, message } = error instanceof Error ? error : { name: "Error", message: `${error}` };
  const text = name === "Error" ? message : `${name}: ${message}`;
  return { failed: "error", message: text, stack: Deno.inspect(error) };
}

function isEcho(error: unknown): error is Error {
  return error instanceof GroupEnded || error instanceof Error && isEcho(error.cause);
}
