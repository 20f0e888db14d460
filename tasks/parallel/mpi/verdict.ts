/**
 * When a watch ends the job, and what it says then.
 *
 * @module
 */
import type { Collective } from "../communicator.ts";
import type { Look, RankState } from "./signs.ts";

/** What a rank writes into its heartbeat file. */
export interface Beat {
  rank: number;
  host: string;
  pid: number;
  state: RankState;
  /** "update 12". */
  doing: string;
  /** The call that it was last in. */
  call: Collective;
  /** Calls entered so far. */
  calls: number;
  /** Grows with every file written in this process. */
  beat: number;
  /** For a reader, as ISO 8601; nothing is computed from it. */
  time: string;
}

/** A heartbeat as another rank sees it. */
export interface Sighting {
  /** Undefined: there is no file. */
  beat?: Beat;
  /** For how many seconds it has been seen without a change. */
  unchanged: number;
}

/** What a watch knows. */
export interface Evidence {
  rank: number;
  /** The machine of each rank. */
  hosts: readonly string[];
  /** The limit, in seconds. */
  timeout: number;
  /** The rank itself. */
  look: Look;
  /** Seconds since its last sign. */
  silent: number;
  /** The others; undefined where ranks do not see each other. */
  sightings?: ReadonlyMap<number, Sighting>;
}

/**
 * Whether the job has to end. A rank that works in silence for longer than the limit is hung. One that
 * waits for longer blames those that have not come to the same call and whose heartbeats have stopped,
 * a quarter of the limit later, so that their own watches can speak first. While the missing ones show
 * signs of life, it goes on waiting: they are late, not hung, or their own watches will judge them.
 *
 * @returns the reason, to be put after "rank 3 (host)"
 *
 * @example
 * ```ts
 * import { verdict } from "./verdict.ts";
 * import assert from "node:assert/strict";
 *
 * const look = { state: "working", signs: 7, calls: 3, call: "barrier", doing: "update 12" } as const;
 * const evidence = { rank: 3, hosts: ["a", "a", "b", "b"], timeout: 60, look };
 * assert.equal(verdict({ ...evidence, silent: 59 }), undefined);
 * assert.equal(verdict({ ...evidence, silent: 61 }), ": no sign of life for 61 s during update 12");
 * ```
 */
export function verdict(
  { rank, hosts, timeout, look, silent, sightings }: Evidence,
): string | undefined {
  if (look.state === "patient") return undefined;
  const seconds = (time: number) => `${Math.round(time)} s`;
  if (look.state === "working") {
    if (silent <= timeout) return undefined;
    const during = look.doing ? ` during ${look.doing}` : "";
    return `: no sign of life for ${seconds(silent)}${during}`;
  }
  // One after the other, lest all say the same.
  const grace = Math.max(timeout / 4, 1) + timeout / 8 * rank / hosts.length;
  if (silent <= timeout + grace) return undefined;
  const waited = ` waited ${seconds(silent)} in ${look.call}`;
  if (!sightings) return `${waited} for other ranks`;
  const missing = hosts.flatMap((host, other) => {
    const { beat, unchanged } = sightings.get(other) ?? { unchanged: 0 };
    const hung = unchanged >= timeout / 2;
    const there = other === rank || (!hung && beat !== undefined && beat.calls >= look.calls);
    return there ? [] : [{ name: `rank ${other} (${host})`, hung, unchanged }];
  });
  if (missing.length === 0) {
    const others = hosts.flatMap((host, other) => {
      const beat = sightings.get(other)?.beat;
      const differs = beat?.calls === look.calls && beat.call !== look.call;
      return differs ? [`, and rank ${other} (${host}) in ${beat.call}`] : [];
    });
    if (others.length > 0) return `${waited}${others.join("")}: the ranks' calls differ`;
    return `${waited}, and all ranks are there: this one or the network hangs`;
  }
  const hung = missing.filter(({ hung }) => hung);
  if (hung.length === 0) return undefined;
  const names = hung.map(({ name }) => name).join(" and ");
  const longest = Math.max(...hung.map(({ unchanged }) => unchanged));
  return `${waited} for ${names}: no sign of life for ${seconds(longest)}`;
}
