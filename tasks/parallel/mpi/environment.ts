/**
 * What an MPI launcher tells the processes that it starts, in environment variables: before the library
 * is opened, this is how a process knows that it is one of several, and whose library to open.
 *
 * @module
 */
import type { MpiFamily } from "./library.ts";

/** How a process was started. */
export interface MpiEnvironment {
  /** Who started it. */
  launcher: string;
  /** Whose library goes with this launcher; undefined where both may. */
  family?: MpiFamily;
  /** Number of this process. */
  rank: number;
  /** How many there are. */
  size: number;
  /** Number of this process among those of its machine. */
  localRank?: number;
  /** How many there are on this machine. */
  localSize?: number;
}

/** A launcher, and the variables by which it is known: rank and size have to be there. */
interface Launcher {
  launcher: string;
  family?: MpiFamily;
  rank: string;
  size: string;
  localRank: string;
  localSize?: string;
}

/** The more telling ones first: under Slurm, the variables of mpirun are there as well as Slurm's. */
const LAUNCHERS: readonly Launcher[] = [
  {
    launcher: "Open MPI's mpirun",
    family: "Open MPI",
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    localRank: "OMPI_COMM_WORLD_LOCAL_RANK",
    localSize: "OMPI_COMM_WORLD_LOCAL_SIZE",
  },
  {
    launcher: "a launcher with MPICH's interface (PMI)",
    family: "MPICH",
    rank: "PMI_RANK",
    size: "PMI_SIZE",
    localRank: "MPI_LOCALRANKID",
    localSize: "MPI_LOCALNRANKS",
  },
  // The size is known in what srun starts, the rank also in the script of the job.
  {
    launcher: "srun",
    rank: "SLURM_PROCID",
    size: "SLURM_STEP_NUM_TASKS",
    localRank: "SLURM_LOCALID",
  },
];

/**
 * The environment variables that are read: what `--allow-env=` has to list.
 *
 * @example
 * ```ts
 * import { MPI_VARIABLES } from "./environment.ts";
 * import assert from "node:assert/strict";
 *
 * assert(MPI_VARIABLES.includes("OMPI_COMM_WORLD_RANK"));
 * ```
 */
export const MPI_VARIABLES: readonly string[] = LAUNCHERS.flatMap(
  ({ rank, size, localRank, localSize }) =>
    [rank, size, localRank, localSize].filter((name) => name !== undefined),
);

/**
 * Whether an MPI launcher started this process, and what it said.
 *
 * @param read gives the value of a variable; by default that of this process, if it may be read
 * @returns undefined if none did
 *
 * @example
 * ```ts
 * import { mpiEnvironment } from "./environment.ts";
 * import assert from "node:assert/strict";
 *
 * const variables = new Map([["PMI_RANK", "2"], ["PMI_SIZE", "4"]]);
 * const { family, rank, size } = mpiEnvironment((name) => variables.get(name))!;
 * assert.deepEqual([family, rank, size], ["MPICH", 2, 4]);
 * ```
 */
export function mpiEnvironment(
  read: (name: string) => string | undefined = readVariable,
): MpiEnvironment | undefined {
  const number = (name: string | undefined): number | undefined => {
    const text = name && read(name);
    return text && /^\d+$/.test(text) ? Number(text) : undefined;
  };
  for (const { launcher, family, ...names } of LAUNCHERS) {
    const rank = number(names.rank);
    const size = number(names.size);
    if (rank === undefined || size === undefined) continue;
    const localRank = number(names.localRank);
    return { launcher, family, rank, size, localRank, localSize: number(names.localSize) };
  }
  return undefined;
}

/** Nothing is asked of the user: a variable that may not be read counts as absent. */
function readVariable(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" ? Deno.env.get(variable) : undefined;
}
