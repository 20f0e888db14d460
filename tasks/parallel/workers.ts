/**
 * The supervisor of ranks that are workers of this process: it starts them, writes what they have to
 * say, and ends them all when one fails, hangs or disappears. It reads the ranks' control block at
 * intervals and needs nothing of them: a rank may be blocked for as long as it likes.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { type ControlBlock, controlBlock, type RankSnapshot } from "./control.ts";
import { createGroup, type SharedGroup } from "./shared.ts";

/** How often the supervisor looks, in milliseconds. */
const POLL = 200;
/** The longest time between two looks that counts as silence: more, and it was the machine that slept. */
const LONGEST_POLL = 1000;
/** How long the other ranks have to end by themselves after a failure, in milliseconds. */
const GRACE = 500;
/** Shows the cursor and wraps lines, if rank 0 was ended while it drew. */
const RESTORE_TERMINAL = "\x1b[?25h\x1b[?7h";

/** A job of several ranks. */
export interface WorkersJob<Args> {
  /** The ranks' module, which calls `serveRank` of `worker.ts`. */
  module: URL;
  /** What each rank receives; structured-cloneable. */
  args: Args;
  /** How many ranks. */
  size: number;
  /** Seconds without a sign of life after which a rank that neither waits nor is patient has failed. */
  timeout: number;
  /** How many times to start again after a failure; 0 if absent. A user's mistake is not tried again. */
  retries?: number;
  /** Arguments for another start, from those of the one that failed; the same if absent. */
  retry?(args: Args): Args;
  /** Passed on to the ranks, which see it between two collective calls or whenever they look. */
  interrupted?: Interruptible;
  /** Where the ranks' lines go; on a terminal rank 0 may draw. */
  output: { isTTY?: boolean; columns?: number; write(text: string): unknown };
}

/** How a job is asked to stop: an `AbortSignal`, or what begins to listen when a rank says so. */
export interface Interruptible {
  /** True from then on. */
  readonly aborted: boolean;
  /** Calls back when the job is asked to stop. */
  addEventListener(type: "abort", call: () => void): void;
  /** Takes a callback back. */
  removeEventListener(type: "abort", call: () => void): void;
  /** From now on there is something to save, before the job is ended. */
  listen?(): unknown;
}

/**
 * A rank has hung, disappeared, or lost its device. To the user this is one line, since no stack would
 * tell more; unlike what a user did wrong it is worth another try.
 */
export class RankLost extends UserError {}

/** What a rank's worker is sent, once. */
export interface RankStart<Args> {
  /** The group's memory. */
  shared: SharedGroup;
  /** Which rank it is. */
  rank: number;
  /** The job's arguments. */
  args: Args;
  /** What it may take its output for. */
  terminal: { isTTY: boolean; columns?: number };
}

/** How a rank failed; an echo: because another did. */
export interface RankFailure {
  /** What kind of error it was. */
  failed: "user" | "lost" | "error" | "echo";
  /** What it said. */
  message: string;
  /** And where it came from. */
  stack?: string;
}

/** What a rank's worker sends: text for the user, and at last how it ended. */
export type RankMessage = { text: string } | { listens: true } | { done: unknown } | RankFailure;

/**
 * Runs a job on workers of this process, to its end. A thread that hangs is given up, but nothing ends
 * it before the process does: a script has to end with `Deno.exit` then, as `main` of `cli.ts` does
 * after a failure.
 *
 * @returns what rank 0 returned
 * @throws {UserError} that a rank threw, with the rank's number before it
 * @throws {RankLost} if a rank ended before its work was done, gave no sign of life within the time
 *   limit, or returned while another waited for it
 * @throws {Error} if a rank threw another error; its stack is kept
 *
 * @example
 * ```ts
 * import { runWorkers } from "./workers.ts";
 * import assert from "node:assert/strict";
 *
 * const rank = `import { serveRank } from "${import.meta.resolve("./worker.ts")}";
 *   serveRank(async (args, { group }) => {
 *     const values = Float32Array.of(args.first + group.rank);
 *     await group.allReduce(values);
 *     return values[0];
 *   });`;
 * const sum = await runWorkers({
 *   module: new URL(`data:text/javascript,${encodeURIComponent(rank)}`),
 *   args: { first: 20 },
 *   size: 2,
 *   timeout: 60,
 *   output: { write: console.log },
 * });
 * assert.equal(sum, 20 + 21);
 * ```
 */
export async function runWorkers<Args, Result>(job: WorkersJob<Args>): Promise<Result> {
  const { retries = 0 } = job;
  let args = job.args;
  for (let attempt = 1;; attempt++) {
    try {
      return await runOnce<Args, Result>(job, args);
    } catch (error) {
      const mistake = error instanceof UserError && !(error instanceof RankLost);
      if (mistake || attempt > retries || job.interrupted?.aborted) throw error;
      if (job.retry) args = job.retry(args);
      const [news] = (error as Error).message.split("\n");
      const start = `starting again (${attempt} of ${retries})`;
      job.output.write(`${news}; ${start}\n`);
    }
  }
}

async function runOnce<Args, Result>(job: WorkersJob<Args>, args: Args): Promise<Result> {
  const shared = createGroup(job.size);
  const control = controlBlock(shared);
  const interrupt = () => control.interrupt();
  if (job.interrupted?.aborted) interrupt();
  job.interrupted?.addEventListener("abort", interrupt);

  const running = new Map<number, Worker>();
  const { promise, resolve, reject } = Promise.withResolvers<Result>();
  let result: { done: unknown } | undefined;
  let failure: Error | undefined;
  let grace: ReturnType<typeof setTimeout> | undefined;
  const settle = () => {
    if (failure || !result) reject(failure ?? new Error("the ranks ended without a result"));
    else resolve(result.done as Result);
  };
  const fail = (error: Error) => {
    if (failure) return;
    failure = error;
    control.abort();
    grace = setTimeout(settle, GRACE);
  };
  const end = (rank: number) => {
    running.get(rank)?.terminate();
    running.delete(rank);
    if (running.size === 0) settle();
  };
  const watch = watchRanks(control, job, (rank) => running.has(rank), fail);
  try {
    for (let rank = 0; rank < job.size; rank++) {
      const worker = startRank(job, { shared, rank, args });
      running.set(rank, worker);
      worker.onmessage = ({ data }: MessageEvent<RankMessage>) => {
        if ("text" in data) {
          const lines = rank === 0 ? data.text : data.text.replace(/^(?=.)/gm, `[rank ${rank}] `);
          return void job.output.write(lines);
        }
        if ("listens" in data) return void job.interrupted?.listen?.();
        if ("failed" in data) {
          if (data.failed !== "echo") fail(rankError(rank, data));
        } else if (rank === 0) result = data;
        end(rank);
      };
      worker.onerror = (event) => {
        event.preventDefault(); // otherwise this process ends as well
        fail(new Error(`rank ${rank}: ${event.message}`));
        end(rank);
      };
    }
    return await promise;
  } finally {
    clearInterval(watch);
    clearTimeout(grace);
    job.interrupted?.removeEventListener("abort", interrupt);
    for (const worker of running.values()) worker.terminate();
    if (running.has(0) && job.output.isTTY) job.output.write(RESTORE_TERMINAL);
  }
}

function startRank<Args>(
  { module, output }: WorkersJob<Args>,
  start: Omit<RankStart<Args>, "terminal">,
): Worker {
  const { rank } = start;
  const worker = new Worker(module, { type: "module", name: `rank ${rank}` });
  const terminal = { isTTY: rank === 0 && output.isTTY === true, columns: output.columns };
  worker.postMessage({ ...start, terminal } satisfies RankStart<Args>);
  return worker;
}

/** Looks at the ranks at intervals, and tells of the first that is lost. */
function watchRanks(
  control: ControlBlock,
  { size, timeout }: { size: number; timeout: number },
  isRunning: (rank: number) => boolean,
  fail: (error: Error) => void,
): ReturnType<typeof setInterval> {
  const ranks = Array.from({ length: size }, () => ({ beats: -1, silence: 0, ended: false }));
  let last = performance.now();
  return setInterval(() => {
    const now = performance.now();
    const passed = Math.min(now - last, LONGEST_POLL);
    last = now;
    const snapshots = ranks.map((_, rank) => control.snapshot(rank));
    ranks.forEach((seen, rank) => {
      const snapshot = snapshots[rank];
      const { state, beats, doing } = snapshot;
      if (state === "ended" && isRunning(rank)) {
        // A message about it may be on its way: it has until the next look.
        if (seen.ended) {
          fail(new RankLost(`rank ${rank} ended before its work was done, ${during(doing)}`));
        }
        seen.ended = true;
      }
      if (state === "waiting" && snapshots[snapshot.waitsFor].state === "done") {
        const again = control.snapshot(rank); // only now is it certain that the two will not meet
        if (again.unmet && again.beats === beats) fail(new RankLost(missed(rank, again)));
      }
      const excused = state === "patient" || state === "done" || state === "ended" ||
        state === "waiting" && snapshot.unmet;
      seen.silence = excused || beats !== seen.beats ? 0 : seen.silence + passed / 1000;
      seen.beats = beats;
      if (seen.silence <= timeout) return;
      const where = state === "waiting" ? `in ${snapshot.call.name}` : during(doing);
      fail(new RankLost(`rank ${rank} gave no sign of life for ${timeout} s ${where}`));
    });
  }, POLL);
}

function during(doing: string): string {
  return doing ? `during ${doing}` : "while it started";
}

function missed(rank: number, { call, waitsFor, doing }: RankSnapshot): string {
  const since = doing && ` (${during(doing)})`;
  return `rank ${rank} waits in ${call.name}${since} for rank ${waitsFor}, which has returned`;
}

function rankError(rank: number, { failed, message, stack }: RankFailure): Error {
  const text = `rank ${rank}: ${message}`;
  if (failed === "lost") return new RankLost(text);
  if (failed === "user") return new UserError(text);
  const error = new Error(text);
  if (stack) error.stack = `rank ${rank}: ${stack}`;
  return error;
}
