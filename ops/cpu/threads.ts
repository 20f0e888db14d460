/**
 * The threads of the CPU device: each runs {@link worker}, which takes commands from a ring in shared memory.
 *
 * All threads carry out every command together. They wait by looking again some thousands of times, which
 * takes less than a microsecond, and go to sleep only then. A thread without work ends after a while, so
 * that a process can end; the device starts it again when there is work.
 *
 * @module
 */

/** Words of the control block. */
export const CONTROL = {
  /** Commands that the host has put into the ring. */
  submitted: 0,
  /** Commands that are done. */
  done: 1,
  /** Threads that have come to a meeting, counted from the start. */
  met: 2,
  /** Threads that sleep. */
  asleep: 3,
  /** 1 if a command failed; the message stands in the text. */
  failed: 4,
  /** First word of the threads: {@link THREAD_WORDS} each. */
  threads: 16,
} as const;

/** Words of a thread in the control block: whether it is gone, commands done, launches run, meetings held. */
export const THREAD_WORDS = 4;
/** Commands that the ring holds. */
export const RING = 1024;
/** Numbers of a command: its kind, then its arguments. */
export const COMMAND_NUMBERS = 6;
/** Bytes of the staging area: two halves, used in turn. */
export const STAGING_BYTES = 8 << 20;
/** Bytes for the message of a failure. */
export const TEXT_BYTES = 1024;

/** Kinds of command. */
export const COMMAND = {
  /** Launches of a list: address of the list, first, end, address of the time or −1. */
  run: 0,
  /** Copies: from, to, bytes. */
  copy: 1,
  /** Fills with zeros: from, bytes. */
  clear: 2,
  /** A new kernel: its number, address and length of the module. */
  load: 3,
  /** Host data: place in the staging area, to, bytes. */
  put: 4,
  /** Ends the threads. */
  end: 5,
} as const;

/** What the threads of a device share. */
export interface SharedState {
  /** The device's memory. */
  memory: WebAssembly.Memory;
  /** Words of {@link CONTROL}. */
  control: Int32Array<ArrayBufferLike>;
  /** The ring of commands. */
  commands: Float64Array<ArrayBufferLike>;
  /** The message of a failure. */
  text: Uint8Array<ArrayBufferLike>;
  /** Host data on its way into the memory. */
  staging: Uint8Array<ArrayBufferLike>;
  /** Number of threads. */
  threads: number;
  /** Addresses have 64 bits. */
  wide: boolean;
  /** Address of the counters from which work is taken: 8, 64 bytes apart. */
  counters: number;
  /** Address of the memory of thread 0; bytes of each. */
  scratch: [address: number, bytes: number];
  /** Kernels so far: address and length of each module. */
  kernels: [address: number, length: number][];
}

/** One thread's part of the work. */
export interface Executor {
  /** Carries out the command in a place of the ring. */
  execute(slot: number): void;
  /** Launches run and meetings held so far. */
  counts(): [launches: number, meetings: number];
}

/**
 * Makes one thread's executor. It is also sent to threads as text, so it uses nothing from outside.
 *
 * @param id number of the thread
 * @param counts what {@link Executor.counts} said when the thread ended before
 */
export function createExecutor(
  state: SharedState,
  id: number,
  counts: readonly [number, number],
): Executor {
  const { memory, control, commands, text, staging, threads, wide, counters } = state;
  type Run = (args: number | bigint, counter: number | bigint, scratch: number | bigint) => void;
  const kernels: Run[] = [];
  let [launches, meetings] = counts;
  let numbers = new Float64Array(memory.buffer), words = new Int32Array(memory.buffer);
  const fresh = (end: number) => {
    // Memory may have grown since.
    if (end <= words.byteLength) return;
    numbers = new Float64Array(memory.buffer);
    words = new Int32Array(memory.buffer);
  };
  const load = (index: number, address: number, length: number) => {
    const bytes = new Uint8Array(memory.buffer, address, length).slice();
    const instance = new WebAssembly.Instance(new WebAssembly.Module(bytes), { e: { m: memory } });
    kernels[index] = instance.exports.f as Run;
  };
  const meet = () => {
    if (threads === 1) return;
    meetings = (meetings + threads) | 0;
    const came = (Atomics.add(control, 2, 1) + 1) | 0;
    if (came === meetings) {
      if (Atomics.load(control, 3) > 0) Atomics.notify(control, 2);
      return;
    }
    const open = () => ((Atomics.load(control, 2) - meetings) | 0) < 0;
    const pause = (Atomics as { pause?: () => void }).pause ?? (() => {});
    for (let tries = 0; tries < 4000; tries++) {
      if (!open()) return;
      pause();
    }
    Atomics.add(control, 3, 1);
    while (open()) {
      const seen = Atomics.load(control, 2);
      if (((seen - meetings) | 0) < 0) Atomics.wait(control, 2, seen, 1000);
    }
    Atomics.sub(control, 3, 1);
  };
  const fail = (error: unknown) => {
    if (Atomics.compareExchange(control, 4, 0, 1) !== 0) return;
    const message = new TextEncoder().encode(String(error)).slice(0, text.length - 1);
    text.set(message);
    text[message.length] = 0;
  };
  const pointer = (address: number) => wide ? BigInt(address) : address;
  const own = pointer(state.scratch[0] + id * state.scratch[1]);
  const runList = (list: number, from: number, to: number, time: number) => {
    fresh(list + 16 * to);
    // Who wakes up late must not make what is timed look short.
    if (time >= 0) meet();
    const begun = time >= 0 ? performance.now() : 0;
    for (let i = from; i < to; i++) {
      const at = list / 8 + 2 * i;
      const turn = launches++ & 7;
      // The counter after next but two: nobody can be at it.
      if (id === 0) Atomics.store(words, (counters >> 2) + 16 * ((turn + 4) & 7), 0);
      const counter = pointer(counters + 64 * turn);
      if (Atomics.load(control, 4) === 0) {
        try {
          kernels[numbers[at]](pointer(numbers[at + 1]), counter, own);
        } catch (error) {
          fail(`kernel ${numbers[at]}: ${error}`);
        }
      }
      meet();
    }
    if (time >= 0 && id === 0) {
      new Float32Array(memory.buffer, time, 1)[0] += performance.now() - begun;
    }
  };
  state.kernels.forEach(([address, length], i) => load(i, address, length));
  return {
    counts: () => [launches, meetings],
    execute(slot) {
      const [kind, a, b, c, d] = commands.subarray(slot * 6, slot * 6 + 6);
      try {
        if (kind === 0) runList(a, b, c, d);
        else if (kind === 3) load(a, b, c);
        else if (id === 0) {
          const bytes = new Uint8Array(memory.buffer);
          if (kind === 1) bytes.copyWithin(b, a, a + c);
          else if (kind === 2) bytes.fill(0, a, a + b);
          else if (kind === 4) bytes.set(staging.subarray(a, a + c), b);
        }
      } catch (error) {
        fail(error);
      }
      // A list ends with a meeting; everything else needs one.
      if (kind !== 0 || b === c) meet();
    },
  };
}

/** What a thread is started with. */
export interface ThreadStart {
  /** What it shares with the others. */
  state: SharedState;
  /** Its number. */
  id: number;
  /** Milliseconds without work after which it ends. */
  idle: number;
}

/** The body of a thread. Sent as text, with {@link createExecutor} beside it. */
export function worker(create: typeof createExecutor): void {
  const scope = self as unknown as {
    onmessage: (event: { data: ThreadStart }) => void;
    close(): void;
  };
  scope.onmessage = ({ data: { state, id, idle } }) => {
    const { control } = state;
    const own = 16 + 4 * id;
    let done = control[own + 1];
    const executor = create(state, id, [control[own + 2], control[own + 3]]);
    const waitForWork = (): boolean => {
      const pause = (Atomics as { pause?: () => void }).pause ?? (() => {});
      for (let tries = 0; tries < 4000; tries++) {
        if (Atomics.load(control, 0) !== done) return true;
        pause();
      }
      const until = performance.now() + idle;
      for (;;) {
        if (Atomics.load(control, 0) !== done) return true;
        const left = until - performance.now();
        if (left <= 0) return false;
        Atomics.wait(control, 0, done, left);
      }
    };
    for (;;) {
      if (!waitForWork()) {
        [control[own + 2], control[own + 3]] = executor.counts();
        control[own + 1] = done;
        Atomics.store(control, own, 1);
        // Work that came in between is the host's to see, unless it has looked already.
        if (
          Atomics.load(control, 0) === done || Atomics.compareExchange(control, own, 1, 0) !== 1
        ) {
          break;
        }
        continue;
      }
      const slot = (done >>> 0) % 1024;
      const isEnd = state.commands[slot * 6] === 5;
      executor.execute(slot);
      done = (done + 1) | 0;
      if (id === 0) {
        Atomics.store(control, 1, done);
        Atomics.notify(control, 1);
      }
      if (isEnd) break;
    }
    scope.close();
  };
}
