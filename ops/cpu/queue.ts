/**
 * The host's end of the ring of commands: it puts work in and returns at once, starts threads when there is
 * work and none to do it, and waits where it must.
 *
 * Everything that touches the device's memory goes through here in order, so that memory that is freed and
 * taken again needs no waiting. Host data goes into the memory itself if the threads are idle, else into a
 * staging area, from which a command takes it.
 *
 * @module
 */

import {
  COMMAND,
  COMMAND_NUMBERS,
  CONTROL,
  createExecutor,
  type Executor,
  RING,
  type SharedState,
  STAGING_BYTES,
  TEXT_BYTES,
  THREAD_WORDS,
  type ThreadStart,
  worker,
} from "./threads.ts";

/** What a queue is made with: the device's memory and how it is used. */
export type QueueParts =
  & Pick<SharedState, "memory" | "threads" | "wide" | "counters" | "scratch">
  & {
    /** Milliseconds without work after which threads end. */
    idle: number;
    /** Name of a kernel, by its number. */
    nameOf(kernel: number): string;
  };

/** Commands on their way to the threads. */
export class Queue {
  /** What the threads share. */
  readonly state: SharedState;
  /** The calling thread's, where no memory can be shared. */
  readonly #executor?: Executor;
  readonly #idle: number;
  /** How often each thread was started again. */
  readonly #starts: number[] = [];
  readonly #nameOf: (kernel: number) => string;
  /** Where host data goes next in the staging area. */
  #staged = 0;
  /** For each half of the staging area, the number of commands after which it is free. */
  readonly #freeAfter = [0, 0];
  #bytes: Uint8Array;
  #submitted = 0;
  #url?: string;

  /** Starts no thread yet. */
  constructor({ memory, threads, wide, counters, scratch, idle, nameOf }: QueueParts) {
    this.#idle = idle;
    this.#nameOf = nameOf;
    const isShared = typeof SharedArrayBuffer !== "undefined" &&
      memory.buffer as ArrayBufferLike instanceof SharedArrayBuffer;
    const block = (bytes: number) =>
      isShared ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes);
    this.state = {
      ...{ memory, threads, wide, counters, scratch },
      control: new Int32Array(block(4 * (CONTROL.threads + THREAD_WORDS * threads))),
      commands: new Float64Array(block(8 * COMMAND_NUMBERS * RING)),
      text: new Uint8Array(block(TEXT_BYTES)),
      staging: new Uint8Array(block(isShared ? STAGING_BYTES : 0)),
      kernels: [],
    };
    this.#bytes = new Uint8Array(memory.buffer);
    if (!isShared) this.#executor = createExecutor(this.state, 0, [0, 0]);
    // All of them are gone: the first command starts them.
    for (let id = 0; id < threads; id++) this.state.control[wordOf(id)] = 1;
  }

  /** Commands that are done. */
  get #done(): number {
    return Atomics.load(this.state.control, CONTROL.done);
  }

  /** True if all commands are done. */
  get isIdle(): boolean {
    return this.#done === this.#submitted;
  }

  /** The memory has grown. */
  grown(): void {
    this.#bytes = new Uint8Array(this.state.memory.buffer);
  }

  /**
   * Throws the first error of a thread.
   *
   * @throws {Error} naming the kernel
   */
  check(): void {
    const { control, text } = this.state;
    if (Atomics.load(control, CONTROL.failed) === 0) return;
    const message = new TextDecoder().decode(text.slice(0, text.indexOf(0)));
    const named = message.replace(
      /^kernel (\d+)/,
      (_, number) => `kernel ${this.#nameOf(Number(number))}`,
    );
    throw new Error(`the CPU device failed: ${named}`);
  }

  /** Adds a command. */
  submit(kind: number, ...args: number[]): void {
    const { control, commands } = this.state;
    if (!this.#executor) this.#waitUntil(() => distance(this.#submitted, this.#done) < RING);
    const slot = (this.#submitted >>> 0) % RING;
    commands[slot * COMMAND_NUMBERS] = kind;
    for (const [i, value] of args.entries()) commands[slot * COMMAND_NUMBERS + 1 + i] = value;
    this.#submitted = (this.#submitted + 1) | 0;
    if (this.#executor) {
      this.#executor.execute(slot);
      control[CONTROL.done] = this.#submitted;
      return;
    }
    Atomics.store(control, CONTROL.submitted, this.#submitted);
    Atomics.notify(control, CONTROL.submitted);
    this.#start();
  }

  /** Starts the threads that are gone. */
  #start(): void {
    const { control, threads } = this.state;
    for (let id = 0; id < threads; id++) {
      if (Atomics.compareExchange(control, wordOf(id), 1, 0) !== 1) continue;
      this.#url ??= URL.createObjectURL(
        new Blob([`(${worker})(${createExecutor})`], { type: "text/javascript" }),
      );
      const thread = new Worker(this.#url, { type: "module" });
      thread.onerror = (event) => {
        // What a thread does not catch itself is a mistake in it: it must not vanish.
        this.#fail(event.message);
        event.preventDefault();
      };
      const starts = this.#starts[id] = (this.#starts[id] ?? -1) + 1;
      const idle = idleTime(this.#idle, starts);
      const start: ThreadStart = { state: this.state, id, idle };
      thread.postMessage(start);
    }
  }

  #fail(message: string): void {
    const { control, text } = this.state;
    if (Atomics.compareExchange(control, CONTROL.failed, 0, 1) !== 0) return;
    const bytes = new TextEncoder().encode(message).slice(0, text.length - 1);
    text.set(bytes);
    text[bytes.length] = 0;
  }

  /** Fills memory with zeros. */
  clear(address: number, bytes: number): void {
    if (this.isIdle) this.#bytes.fill(0, address, address + bytes);
    else this.submit(COMMAND.clear, address, bytes);
  }

  /** Writes host data, which may be changed after the call. */
  write(address: number, data: Uint8Array): void {
    const half = STAGING_BYTES / 2;
    if (!this.isIdle && data.length > half) this.wait();
    if (this.isIdle) {
      this.#bytes.set(data, address);
      return;
    }
    // A half that is full is left for the other.
    let at = this.#staged;
    if (at % half + data.length > half) at = at < half ? half : 0;
    const which = at < half ? 0 : 1;
    if (at % half === 0) this.#waitUntil(() => distance(this.#done, this.#freeAfter[which]) >= 0);
    this.state.staging.set(data, at);
    this.submit(COMMAND.put, at, address, data.length);
    this.#freeAfter[which] = this.#submitted;
    this.#staged = (at + Math.ceil(data.length / 16) * 16) % STAGING_BYTES;
  }

  /** Reads memory as it is. */
  read(address: number, bytes: number): ArrayBuffer {
    const result = new Uint8Array(bytes);
    result.set(this.#bytes.subarray(address, address + bytes));
    return result.buffer;
  }

  /** Hands a module to all threads. */
  load(number: number, address: number, module: Uint8Array<ArrayBuffer>): void {
    // Compiled here too, so that what is wrong with it is known now; threads find the result.
    new WebAssembly.Module(module);
    this.#bytes.set(module, address);
    this.state.kernels[number] = [address, module.length];
    // Threads that are gone load all modules when they start.
    if (this.#executor || !this.#allGone()) {
      this.submit(COMMAND.load, number, address, module.length);
    }
  }

  #allGone(): boolean {
    return this.isIdle && this.threadsAlive === 0;
  }

  /** Threads that are alive. */
  get threadsAlive(): number {
    const { control, threads } = this.state;
    if (this.#executor) return 0;
    const gone = Array.from({ length: threads }, (_, id) => Atomics.load(control, wordOf(id)));
    return gone.filter((isGone) => isGone === 0).length;
  }

  /** Waits, without letting anything else on this thread happen. */
  wait(): void {
    this.#waitUntil(() => this.isIdle);
  }

  #waitUntil(isSo: () => boolean): void {
    const { control } = this.state;
    while (!isSo()) {
      this.check();
      const done = this.#done;
      if (isSo()) break;
      try {
        Atomics.wait(control, CONTROL.done, done, 100);
      } catch {
        // The main thread of a page may not sleep.
      }
    }
  }

  /** Commands so far; the count may pass 2³¹. */
  get submitted(): number {
    return this.#submitted;
  }

  /**
   * Waits until commands are done; other work of this thread goes on.
   *
   * @param until how many; all so far if absent
   */
  async finish(until: number = this.#submitted): Promise<void> {
    const { control } = this.state;
    const isDone = () => distance(this.#done, until) >= 0;
    while (!isDone()) {
      this.check();
      const done = this.#done;
      if (isDone()) break;
      await (Atomics as unknown as {
        waitAsync(words: Int32Array, at: number, value: number, ms: number): {
          value: Promise<string> | string;
        };
      }).waitAsync(control as Int32Array, CONTROL.done, done, 1000).value;
    }
    this.check();
  }

  /** Ends the threads, after all that was submitted. */
  end(): void {
    if (this.#executor || this.#allGone()) return;
    this.submit(COMMAND.end);
  }
}

/** As often the time is doubled at most: from a second to half a minute. */
const MOST_DOUBLINGS = 5;

/**
 * How long a thread stays without work: longer each time that it was started again. A rank that waits for
 * others longer than its threads stay, on a busy machine, would start them anew every time; that takes so
 * long that the others' threads end meanwhile, and so on.
 *
 * @param idle milliseconds, the first time
 * @param starts how often it was started before
 */
export function idleTime(idle: number, starts: number): number {
  return idle * 2 ** Math.min(starts, MOST_DOUBLINGS);
}

/** Word of the control block that says whether a thread is gone. */
function wordOf(id: number): number {
  return CONTROL.threads + THREAD_WORDS * id;
}

/** a − b for counts that may pass 2³¹. */
function distance(a: number, b: number): number {
  return (a - b) | 0;
}
