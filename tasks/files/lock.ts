/**
 * One process at a time writes a folder: a lock that the system itself gives up when its holder dies,
 * however it dies.
 *
 * The lock is the system's advisory lock on a small file, not the file: a file that a killed process has
 * left behind is locked by nobody, and the next process takes it over. Its contents say who holds it.
 *
 * Some network file systems keep such locks to each machine. So a holder also touches the file every few
 * seconds; a file of another machine is taken over only once it has not been touched for a while.
 *
 * @module
 */
import { dirname } from "node:path";
import { isRecord, parseJson } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { fileError } from "./write.ts";

/** What {@link lock} is to say and to wait for. */
export interface LockOptions {
  /** What is locked, for messages: a folder. */
  what: string;
  /** What is done with it, for the messages of others: a word or two, such as "pretraining". */
  doing: string;
  /** What the user can do when another process has it. */
  otherwise: string;
  /** A job that starts again in the same process after a thread of it failed: it keeps its lock. */
  job?: string;
  /** Where a line for the user goes that says why this takes long; nowhere if absent. */
  say?(text: string): void;
  /**
   * Milliseconds between two touches, and how many without one mean that another machine's holder is dead.
   *
   * @ignore
   */
  patience?: { touch: number; silence: number };
}

/** A lock that is held; released at the end of a `using` block. */
export interface Lock extends Disposable {
  /** Whether its folder was made for it; then it goes with the lock if nothing else came into it. */
  readonly madeFolder: boolean;
}

/** Who holds a lock, as its file says. */
interface Holder {
  doing: string;
  pid: number;
  host: string;
  since: string;
  job?: string;
}

const PATIENCE = { touch: 4000, silence: 30_000 };
/** How long a thread that is being ended may still hold its job's lock, in milliseconds. */
const HANDOVER = 2000;

/**
 * Locks by a file, whose folder is made if need be.
 *
 * @param path the lock's file; it is removed when the lock is released
 * @throws {UserError} if another process holds the lock, naming it; and what the file system refuses
 *
 * @example
 * ```ts
 * import { lock } from "./lock.ts";
 * import assert from "node:assert/strict";
 *
 * const folder = await Deno.makeTempDir(), path = `${folder}/run/run.lock`;
 * const options = { what: `${folder}/run`, doing: "a test", otherwise: "wait" };
 * {
 *   using _held = await lock(path, options);
 *   await assert.rejects(lock(path, options), /run: in use by process \d+ .*\(a test\).*; wait/);
 * }
 * (await lock(path, options))[Symbol.dispose]();
 * assert.deepEqual([...Deno.readDirSync(folder)], []);
 * await Deno.remove(folder);
 * ```
 */
export async function lock(path: string, options: LockOptions): Promise<Lock> {
  const madeFolder = makeFolder(dirname(path));
  const host = hostName();
  const latest = performance.now() + HANDOVER;
  for (;;) {
    const file = openFile(path);
    const locked = tryLock(file);
    if (locked === false) {
      const holder = holderIn(file);
      file.close();
      if (options.job === undefined || holder?.job !== options.job) throw inUse(holder, options);
      // A thread of this very process that has been given up, and with it no other process can have the lock.
      if (performance.now() > latest) return { madeFolder, [Symbol.dispose]() {} };
      await pause(50);
      continue;
    }
    // Its holder has removed it in the meantime: what is locked now is no one's any more.
    if (!isAt(file, path)) {
      file.close();
      continue;
    }
    const holder = holderIn(file);
    try {
      const isSure = locked === true && (holder === undefined || holder.host === host);
      if (holder && !isSure) await expectSilence(path, holder, options);
      write(file, path, { ...own(options), host });
    } catch (error) {
      file.close();
      throw error;
    }
    return held(file, path, madeFolder, options);
  }
}

function held(
  file: Deno.FsFile,
  path: string,
  madeFolder: boolean,
  { patience = PATIENCE }: LockOptions,
): Lock {
  const keeper = setInterval(() => {
    const now = new Date();
    attempt(() => Deno.utimeSync(path, now, now)); // if the folder is gone, its owner will find out
  }, patience.touch);
  Deno.unrefTimer(keeper);
  return {
    madeFolder,
    [Symbol.dispose]() {
      clearInterval(keeper);
      // Removed while it is held: whoever has opened it by now sees that it is not there any more.
      if (isAt(file, path)) attempt(() => Deno.removeSync(path));
      file.close();
      if (madeFolder) attempt(() => Deno.removeSync(dirname(path))); // only if it is empty
    },
  };
}

function own({ doing, job }: LockOptions): Omit<Holder, "host"> {
  return { doing, pid: Deno.pid, since: new Date().toISOString(), ...(job && { job }) };
}

/** Makes a folder; false if it is there. */
function makeFolder(folder: string): boolean {
  try {
    Deno.statSync(folder);
    return false;
  } catch { /* why it is not there, making it tells */ }
  try {
    Deno.mkdirSync(folder, { recursive: true });
    return true;
  } catch (error) {
    throw fileError(error, "writing", folder);
  }
}

function openFile(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { read: true, write: true, create: true });
  } catch (error) {
    // The one who had it has taken its folder away, too.
    if (error instanceof Deno.errors.NotFound && makeFolder(dirname(path))) return openFile(path);
    throw fileError(error, "writing", path);
  }
}

/** Undefined where the file system has no locks. */
function tryLock(file: Deno.FsFile): boolean | undefined {
  try {
    return file.tryLockSync(true);
  } catch {
    return undefined;
  }
}

/** Whether an open file is still the one of this name. */
function isAt(file: Deno.FsFile, path: string): boolean {
  const own = file.statSync();
  try {
    const there = Deno.statSync(path);
    return there.ino === own.ino && there.dev === own.dev;
  } catch {
    return false;
  }
}

/** Says who holds the lock, unless the file says nothing that can be trusted. */
function holderIn(file: Deno.FsFile): Holder | undefined {
  const bytes = new Uint8Array(1000);
  file.seekSync(0, Deno.SeekMode.Start);
  const length = file.readSync(bytes) ?? 0;
  let value: unknown;
  try {
    value = parseJson(new TextDecoder().decode(bytes.subarray(0, length)));
  } catch {
    return undefined; // just made, or no lock's file
  }
  if (!isRecord(value)) return undefined;
  const { doing, pid, host, since, job } = value;
  const isWords = (text: unknown): text is string =>
    typeof text === "string" && /^[\w .:-]{0,253}$/.test(text);
  if (!isWords(doing) || !isWords(host) || !isWords(since)) return undefined;
  if (typeof pid !== "number" || !Number.isSafeInteger(pid)) return undefined;
  return { doing, pid, host, since, ...(isWords(job) && { job }) };
}

function write(file: Deno.FsFile, path: string, holder: Holder): void {
  try {
    file.truncateSync(0);
    file.seekSync(0, Deno.SeekMode.Start);
    file.writeSync(new TextEncoder().encode(JSON.stringify(holder) + "\n"));
  } catch (error) {
    throw fileError(error, "writing", path);
  }
}

function inUse(holder: Holder | undefined, { what, otherwise }: LockOptions): UserError {
  const who = holder
    ? `process ${holder.pid}${holder.host && ` on ${holder.host}`} (${holder.doing}) since ` +
      holder.since.replace(/T(.{8}).*/, " $1 UTC")
    : "another process";
  return new UserError(`${what}: in use by ${who}; ${otherwise}`);
}

/**
 * Waits until it is certain that another machine's holder is dead.
 *
 * @throws {UserError} if it is alive
 */
async function expectSilence(path: string, holder: Holder, options: LockOptions): Promise<void> {
  const { touch, silence } = options.patience ?? PATIENCE;
  const first = lastTouched(path), latest = performance.now() + silence;
  const seconds = Math.ceil(silence / 1000);
  options.say?.(
    `${options.what}: process ${holder.pid} on ${holder.host} has left its lock behind; waiting ` +
      `${seconds} s for a sign of life`,
  );
  while (performance.now() < latest) {
    await pause(touch / 4);
    if (lastTouched(path) !== first) throw inUse(holder, options);
  }
}

/** Asks by opening the file, which on a network says what is so now, not what was a minute ago. */
function lastTouched(path: string): number | undefined {
  try {
    using file = Deno.openSync(path, { read: true });
    return file.statSync().mtime?.getTime();
  } catch {
    return undefined;
  }
}

/** The machine's name, as far as one may know it. */
function hostName(): string {
  for (const name of [() => Deno.readTextFileSync("/etc/hostname"), () => Deno.hostname()]) {
    try {
      const host = name().trim();
      if (/^[\w.-]{1,253}$/.test(host)) return host;
    } catch { /* not there, or not ours to ask */ }
  }
  return "";
}

function attempt(work: () => void): void {
  try {
    work();
  } catch { /* what is left does not matter: nobody holds it */ }
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
