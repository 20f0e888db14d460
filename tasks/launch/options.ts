/**
 * How a job is spread over the devices of this machine.
 *
 * @module
 */
import process from "node:process";
import type { OpenOptions } from "../../ops/mod.ts";

/** What to compute on. */
export interface DevicesOptions {
  /** How many devices of this machine share the work; one if absent. */
  devices?: number | "all";
  /** Their kind; `auto` if absent. */
  adapter?: OpenOptions["adapter"];
  /** Threads of the CPU, for all devices together; as many as it has if absent. */
  threads?: number;
  /** A device that gives no sign of life for so many seconds is taken for hung; 300 if absent. */
  timeout?: number;
  /** Training starts again from the last checkpoint after so many failures at most; 0 if absent. */
  retries?: number;
  /** Aborted when the user wants the job to stop. */
  interrupted?: {
    readonly aborted: boolean;
    addEventListener(type: "abort", call: () => void): void;
    removeEventListener(type: "abort", call: () => void): void;
    /** Called when there is something to save: signals may end the process till then. */
    listen?(): unknown;
  };
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; columns?: number; write(text: string): unknown };
}

/** The options with what is meant where they say nothing, `devices` being called ranks from here on. */
export function completed({ devices = 1, timeout = 300, output, ...rest }: DevicesOptions) {
  return { ...rest, ranks: devices, timeout, output: output ?? process.stderr };
}
