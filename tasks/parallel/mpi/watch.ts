/**
 * The watch thread of a rank under MPI. It looks at the rank's signs of life, writes them down where the
 * watches of other ranks read them, and ends the job when this rank, or one that it waits for, gives
 * none.
 *
 * @module
 */
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { mkdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadMpi } from "./library.ts";
import { type Look, readSigns, sleepUntilEnd } from "./signs.ts";
import { type Beat, type Sighting, verdict } from "./verdict.ts";

/** What a watch is told at first. */
export interface WatchOrder {
  shared: SharedArrayBuffer;
  /** Path of the MPI library. */
  mpiPath: string;
  /** Its level of thread support. */
  threads: number;
  rank: number;
  /** The machine of each rank. */
  hosts: readonly string[];
  /** Seconds without a sign of life after which a rank is taken for hung. */
  timeout: number;
  /** Folder of the files by which ranks see each other. */
  heartbeats?: string;
}

/** What it says: that it watches, and that it has ended. */
export type WatchReply = "watching" | "ended";

self.onmessage = ({ data }: MessageEvent<WatchOrder>): void => {
  const mpi = loadMpi({ path: data.mpiPath });
  const say = (reply: WatchReply) => self.postMessage(reply);
  say("watching");
  const reason = watch(data);
  if (reason !== undefined) {
    const { rank, hosts, threads } = data;
    Deno.stderr.writeSync(new TextEncoder().encode(`rank ${rank} (${hosts[rank]})${reason}\n`));
    mpi.abort(threads);
  }
  say("ended");
};

/** Returns when the rank has ended, or with the reason why the job has to. */
function watch({ shared, rank, hosts, timeout, heartbeats }: WatchOrder): string | undefined {
  const tick = Math.min(timeout / 16, 1);
  const notes = heartbeats === undefined ? undefined : openNotes(heartbeats, rank, hosts[rank]);
  const others = hosts.keys().filter((other) => other !== rank).toArray();
  const sightings = new Map<number, Sighting>();
  let signs = -1;
  let silent = 0; // seconds since the rank's last sign
  let noted = Infinity; // seconds since the last heartbeat
  let before = performance.now();
  do {
    // A process that was stopped, or a machine that slept, has not been silent for all that time.
    const now = performance.now();
    const step = Math.min((now - before) / 1000, 4 * tick);
    before = now;

    const look = readSigns(shared);
    silent = look.signs === signs ? silent + step : 0;
    signs = look.signs;
    noted += step;
    if (look.state !== "waiting" || silent === 0) sightings.clear();
    if (notes && noted >= timeout / 8) {
      notes.write(look);
      if (look.state === "waiting" && silent > 0) {
        for (const other of others) sight(sightings, other, notes.read(other), noted);
      }
      noted = 0;
    }
    const reason = verdict({ rank, hosts, timeout, look, silent, sightings: notes && sightings });
    if (reason !== undefined) return reason;
  } while (!sleepUntilEnd(shared, tick));
  notes?.remove();
  return undefined;
}

/** Ages are measured by this machine's clock: from when a heartbeat was first seen. */
function sight(
  sightings: Map<number, Sighting>,
  rank: number,
  beat: Beat | undefined,
  step: number,
) {
  const last = sightings.get(rank);
  const same = last !== undefined && last.beat?.beat === beat?.beat;
  sightings.set(rank, { beat, unchanged: same ? last.unchanged + step : 0 });
}

/** The files `rank-N` of a folder that all ranks see. */
function openNotes(folder: string, rank: number, host: string) {
  const file = (of: number) => join(folder, `rank-${of}`);
  let beat = 0;
  let complained = false;
  return {
    write({ state, calls, call, doing }: Look): void {
      const note: Beat = {
        ...{ rank, host, pid: Deno.pid, state, doing, call, calls, beat: beat++ },
        time: new Date().toISOString(),
      };
      try {
        mkdirSync(folder, { recursive: true });
        writeFileSync(`${file(rank)}.new`, `${JSON.stringify(note)}\n`);
        renameSync(`${file(rank)}.new`, file(rank));
      } catch (error) {
        if (!complained) {
          console.error(
            `rank ${rank} (${host}) cannot show signs of life: ${(error as Error).message}`,
          );
        }
        complained = true;
      }
    },
    read(of: number): Beat | undefined {
      try {
        return JSON.parse(readFileSync(file(of), "utf8"));
      } catch {
        return undefined;
      }
    },
    /** The last one takes the folder with it. */
    remove(): void {
      try {
        rmSync(file(rank), { force: true });
        rmdirSync(folder);
      } catch {
        // Others are still there, or the disk is gone: neither matters at the end.
      }
    },
  };
}
