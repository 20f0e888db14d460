/**
 * Ranks that are processes, under MPI: on one machine or on many. A launcher (`mpirun`, `srun`) starts
 * them; {@link openMpi} joins them.
 *
 * **Sums** are taken here, not by the library: parts are exchanged, and each rank adds its part up in
 * the order of the ranks. MPI promises that all ranks see the same sum, but not which; this way it has
 * the same bits with every library, on every network and with the threads of one process. The traffic
 * is a ring's, memory a few MiB, and adding up overlaps with the exchange of the next chunk.
 *
 * **Waiting** spins, one thread per rank. With more ranks than cores, say so to Open MPI:
 * `mpirun --mca mpi_yield_when_idle 1`. Its mpirun also binds each of two ranks to one core, where a
 * software driver has no others: `mpirun --bind-to none`.
 *
 * **Faults** end the job with a line that names the rank: see {@link openMpi}.
 *
 * @module
 */
import { UserError } from "../../../ops/graph/errors.ts";
import type { Communicator } from "../communicator.ts";
import { equalParts, mpiCalls } from "./calls.ts";
import { mpiEnvironment } from "./environment.ts";
import { loadMpi, type MpiLibrary, THREADS } from "./library.ts";
import { createSigns, writeSigns } from "./signs.ts";
import type { WatchOrder, WatchReply } from "./watch.ts";

export { mpiEnvironment } from "./environment.ts";

/** A rank that is a process. */
export interface MpiGroup extends Communicator {
  /** This rank's number among those of its machine, from 0. */
  readonly localRank: number;
  /** How many ranks this machine has. */
  readonly localSize: number;
  /** The name of this machine. */
  readonly host: string;
  /** Whose MPI it is: "Open MPI 4.1.4". */
  readonly mpiVersion: string;
  /** Leaves the group, after all ranks have come here: the last call, without which the job counts as failed. */
  finalize(): Promise<void>;
  /** Ends all ranks with exit code 1, after a line on standard error: "rank 3 (host): reason". */
  abort(reason: string): never;
}

/** How to join. */
export interface MpiOptions {
  /** Path of the MPI library; without it the usual places are searched. */
  mpiPath?: string;
  /** Seconds without a sign of life after which a rank is taken for hung. */
  timeout: number;
  /**
   * A folder that all ranks see, into which each writes a small file (`rank-3`) eight times per
   * `timeout`. With it, ranks that wait know whom they wait for: they name those that have stopped, and go
   * on waiting for those that are busy.
   */
  heartbeats?: string;
}

/** Room for the name of a machine, in bytes. */
const HOST_BYTES = 256;

/**
 * Joins the other processes that the launcher has started.
 *
 * How a job ends when something goes wrong, always with an exit code other than 0:
 *
 * | fault                                    | who notices                  | line on standard error                                   |
 * | ---------------------------------------- | ---------------------------- | -------------------------------------------------------- |
 * | an error                                 | the program, see `abort`     | rank 3 (host): reason                                    |
 * | exit, crash                              | the launcher                 | the launcher's                                           |
 * | no sign of life, endless loop            | the rank's own watch thread  | rank 3 (host): no sign of life for 60 s during update 12 |
 * | the process is stopped, its machine gone | the watches of those waiting | rank 1 (host) waited 75 s in allReduce for rank 3 (host): … |
 *
 * @throws {UserError} no library; one that does not go with the launcher, or without support for threads
 *
 * @example Started by `mpirun -n 2`, each of the two prints 3.
 * ```ts
 * import { mpiEnvironment, openMpi } from "./group.ts";
 *
 * if (mpiEnvironment()) {
 *   const group = await openMpi({ timeout: 60 });
 *   const values = Float32Array.of(group.rank + 1);
 *   await group.allReduce(values);
 *   console.log(values[0]);
 *   await group.finalize();
 * }
 * ```
 */
export async function openMpi({ mpiPath, timeout, heartbeats }: MpiOptions): Promise<MpiGroup> {
  const started = mpiEnvironment();
  const mpi = loadMpi({ path: mpiPath, preferred: started?.family });
  const threads = mpi.initialize();
  const { rank, size } = mpi.place("world");
  if (started && started.size !== size) {
    mpi.finalize();
    throw new UserError(
      `${started.launcher} started ${started.size} processes, but ${mpi.path} (${mpi.version}) ` +
        `sees ${size}: they do not belong together; ${adviceFor(started.launcher)}`,
    );
  }
  if (threads < THREADS.serialized) {
    mpi.finalize();
    throw new UserError(`${mpi.path} (${mpi.version}) was built without support for threads`);
  }
  const local = mpi.place("machine");
  const host = mpi.host();
  const hosts = await gatherHosts(mpi, rank, size);
  const shared = createSigns();
  const order = { shared, mpiPath: mpi.path, threads, rank, hosts, timeout, heartbeats };
  const watch = await startWatch(order);
  const signs = writeSigns(shared);
  const calls = mpiCalls(mpi, { rank, size }, signs);
  return Object.assign(calls, {
    ...{ host, mpiVersion: mpi.version, localRank: local.rank, localSize: local.size },
    async finalize() {
      await calls.barrier({ patient: true });
      signs.end();
      await watch.ended;
      mpi.finalize();
    },
    abort(reason: string): never {
      Deno.stderr.writeSync(new TextEncoder().encode(`rank ${rank} (${host}): ${reason}\n`));
      return mpi.abort(threads);
    },
  });
}

function adviceFor(launcher: string): string {
  return launcher === "srun"
    ? "choose the library's interface, as in srun --mpi=pmix (srun --mpi=list shows them)"
    : "start with the library's own mpirun, or name the library of this one";
}

/** The machine of each rank. */
async function gatherHosts(mpi: MpiLibrary, rank: number, size: number): Promise<string[]> {
  const names = new Uint8Array(size * HOST_BYTES);
  names.set(new TextEncoder().encode(mpi.host()).subarray(0, HOST_BYTES), rank * HOST_BYTES);
  await mpi.allGather(names, equalParts(size, HOST_BYTES));
  return Array.from({ length: size }, (_, of) => {
    const name = names.subarray(of * HOST_BYTES, (of + 1) * HOST_BYTES);
    return new TextDecoder().decode(name).replace(/\0+$/, "");
  });
}

/** Starts the watch thread; resolves when it watches. */
async function startWatch(order: WatchOrder): Promise<{ ended: Promise<void> }> {
  const worker = new Worker(new URL("./watch.ts", import.meta.url), { type: "module" });
  const replies = { watching: Promise.withResolvers<void>(), ended: Promise.withResolvers<void>() };
  worker.onmessage = ({ data }: MessageEvent<WatchReply>) => {
    replies[data].resolve();
    if (data === "ended") worker.terminate();
  };
  // An error of the watch thread ends the process: no rank goes on unwatched.
  worker.postMessage(order);
  await replies.watching.promise;
  return { ended: replies.ended.promise };
}
