/**
 * Ctrl-C and its like. Before there is anything to lose, a signal ends the process at once, as it does with
 * any program. Once a job listens, the first signal asks it to stop in good order, and a second Ctrl-C ends
 * it at once, whatever it is doing: a thread of its own hears signals, since the one that works may be busy
 * for as long as it likes, and a flag in shared memory tells.
 *
 * @module
 */

/**
 * What {@link interruption} listens to. Schedulers send SIGTERM, or what they are told to, before they kill;
 * Open MPI's launcher passes SIGUSR2 on without killing. (SIGUSR1 makes Deno open its inspector.)
 */
const SIGNALS: Readonly<Partial<Record<Deno.Signal, number>>> = Deno.build.os === "windows"
  ? { SIGINT: 2 }
  : { SIGINT: 2, SIGTERM: 15, SIGUSR2: Deno.build.os === "darwin" ? 31 : 12 };

/**
 * A key press may come more than once: the terminal tells all processes of a command, and `deno task` tells
 * its child again. Milliseconds in which that is one.
 */
export const ONE_PRESS = 300;

/** Whether, and by what, a job was asked to stop. */
export interface Interruption {
  /** True from then on; true at once, even if nothing else on this thread happens. */
  readonly aborted: boolean;
  /** What a program that the signal ends exits with: 128 and the signal's number; 0 without a signal. */
  readonly exitCode: number;
  /** From now on signals are heard. Returns when they are. */
  listen(): Promise<void>;
  /** Calls back when the job is asked to stop. */
  addEventListener(type: "abort", listener: () => void): void;
  /** Takes a callback back. */
  removeEventListener(type: "abort", listener: () => void): void;
}

/** What the thread is told. */
interface Start {
  words: Int32Array;
  signals: Readonly<Partial<Record<Deno.Signal, number>>>;
  line: string;
  onePress: number;
}

/**
 * Makes a way to ask a job to stop. Nothing is heard before the job calls `listen`: till then, a signal ends
 * the process.
 *
 * @param closing what the job will do first, for the message: "saving a checkpoint"
 * @param options `isRank`: of several processes, which a launcher may tell more than once: it listens at
 *   once, on this thread, a signal counts once and is not announced
 *
 * @example
 * ```ts
 * import { interruption } from "./interruption.ts";
 * import assert from "node:assert/strict";
 *
 * const interrupted = interruption("saving a checkpoint");
 * assert.equal(interrupted.aborted, false);
 * ```
 */
export function interruption(
  closing: string,
  { isRank = false }: { isRank?: boolean } = {},
): Interruption {
  const words = new Int32Array(new SharedArrayBuffer(4));
  const events = new EventTarget();
  let listening: Promise<void> | undefined;
  const told = () => void events.dispatchEvent(new Event("abort"));
  if (isRank) {
    for (const [signal, number] of Object.entries(SIGNALS)) {
      Deno.addSignalListener(signal as Deno.Signal, () => {
        if (Atomics.compareExchange(words, 0, 0, number) === 0) told();
      });
    }
  }
  const line = `\nStopping: ${closing}. Press Ctrl-C again to quit at once.`;
  const start: Start = { words, signals: SIGNALS, line, onePress: ONE_PRESS };
  return {
    get aborted() {
      return Atomics.load(words, 0) !== 0;
    },
    get exitCode() {
      const number = Atomics.load(words, 0);
      return number === 0 ? 0 : 128 + number;
    },
    listen: () => listening ??= isRank ? Promise.resolve() : hear(start, told),
    addEventListener: (type, listener) => events.addEventListener(type, listener),
    removeEventListener: (type, listener) => events.removeEventListener(type, listener),
  };
}

/** Starts the thread; returns when it hears. */
async function hear(start: Start, told: () => void): Promise<void> {
  // As text, since that needs no permission to read.
  const blob = new Blob([`(${ears})()`], { type: "text/javascript" });
  const url = URL.createObjectURL(blob);
  const thread = new Worker(url, { type: "module", name: "signals" });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  thread.onerror = (event) => reject(new Error(event.message));
  thread.onmessage = ({ data }) => data === "listening" ? resolve() : told();
  thread.postMessage(start);
  await promise;
  URL.revokeObjectURL(url);
}

/** The thread; it is sent as text, so it uses nothing from outside. */
function ears(): void {
  const scope = self as unknown as {
    onmessage: (event: MessageEvent<Start>) => void;
    postMessage(message: string): void;
  };
  scope.onmessage = ({ data: { words, signals, line, onePress } }) => {
    const listeners = new Map<Deno.Signal, () => void>();
    // Without a listener a signal does what it does by itself: it ends the process.
    const quit = () => Deno.removeSignalListener("SIGINT", listeners.get("SIGINT")!);
    for (const [name, number] of Object.entries(signals)) {
      const listener = () => {
        if (Atomics.compareExchange(words, 0, 0, number) !== 0) return;
        // A progress bar hides the cursor, and a second signal leaves no time to show it again.
        console.error((Deno.stderr.isTerminal() ? "\x1b[?25h" : "") + line);
        scope.postMessage("told");
        setTimeout(quit, onePress);
      };
      listeners.set(name as Deno.Signal, listener);
      Deno.addSignalListener(name as Deno.Signal, listener);
    }
    scope.postMessage("listening");
  };
}
