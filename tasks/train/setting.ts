/**
 * What training recipes share before the first update: who computes, what is open, and what is taken back if
 * nothing comes of it.
 *
 * @module
 */

import process from "node:process";
import { type Device, openDevice } from "../../ops/mod.ts";
import { alone, type Communicator } from "../parallel/communicator.ts";
import type { CpuRoom } from "./room.ts";

/** Whether the user wants the job to stop: an `AbortSignal`, or a stand-in for it. */
export interface Interruption {
  /** True from then on. */
  readonly aborted: boolean;
  /** From now on there is something to save, before the job is ended. */
  listen?(): unknown;
}

/** What a rank of a recipe has of its own. */
export interface RankSetting {
  /** Opens the device, once the data have been read; what there is, a GPU rather than the CPU, if absent. */
  openDevice?(): Promise<Device>;
  /**
   * What the device will be, if it is the processor: a model that does not fit is refused at once.
   *
   * @ignore
   */
  cpu?: CpuRoom;
  /**
   * The ranks that train together, each with its own device; this one alone if absent.
   *
   * @ignore
   */
  group?: Communicator;
  /** Aborted when the user wants the job to stop. */
  interrupted?: Interruption;
  /** Where lines for the user go; standard error if absent. */
  output?: { isTTY?: boolean; write(text: string): unknown };
}

/** The setting with what is absent filled in. */
export function rankOf(
  { group = alone(), output = process.stderr, interrupted, ...rest }: RankSetting,
) {
  const leads = group.rank === 0;
  /** Tells the user, once for all ranks. */
  const say = (text: string) => void (leads && output.write(text + "\n"));
  const open = () => (rest.openDevice ?? openDevice)();
  return { group, output, interrupted, leads, say, openDevice: open };
}

/** What a recipe has open: closed at its end, last first. If training never begins, its traces go, too. */
export class Opened {
  readonly #stack = new DisposableStack();
  #undo?: () => Promise<void>;

  /** @param undo takes back what was written before training began */
  constructor(undo?: () => Promise<void>) {
    this.#undo = undo;
  }

  /** Keeps something open to the end. */
  add<T extends { destroy(): void } | { close(): void }>(resource: T): T {
    return this.#stack.adopt(resource, (r) => "destroy" in r ? r.destroy() : r.close());
  }

  /** From now on, what is written stays. */
  keep(): void {
    this.#undo = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stack.dispose();
    await this.#undo?.().catch(() => {}); // the error that ended the recipe matters
  }
}
