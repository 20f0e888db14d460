/**
 * Pretraining by processes under MPI, one per GPU: what each of them does, and how the launcher is started
 * again after a failure.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { UserError } from "../../ops/errors.ts";
import type { Device } from "../../ops/mod.ts";
import { pretrain, type PretrainJob } from "../pretrain.ts";
import { newRunFolder } from "../run_folder.ts";
import { ensureAdapter } from "../setup.ts";
import { inTurn } from "./communicator.ts";
import { type MpiGroup, openMpi } from "./mpi.ts";
import { type AdapterChoice, describeRank, findCards, openPlaced, placeRank } from "./placement.ts";

/** What a process is to do. */
export interface MpiPretrainJob
  extends Omit<PretrainJob, "run" | "openDevice" | "group" | "workers"> {
  /** Folder of the run, if the user named one. */
  run?: string;
  /** What a new one is called. */
  name: string;
  /** Threads that encode text, in rank 0. */
  workers: number;
  /** Which adapter. */
  adapter: AdapterChoice;
  /** Seconds without a sign of life after which a rank is taken for hung. */
  timeout: number;
  /** Path of the MPI library, if the user named one. */
  library?: string;
}

/**
 * Joins the other processes, and pretrains with them. A failure of one ends all, with its reason.
 *
 * @returns the run's folder, on rank 0; elsewhere undefined
 * @throws {UserError} if there is no usable MPI library
 */
export async function pretrainUnderMpi(
  { run, name, adapter, timeout, library, ...job }: MpiPretrainJob,
): Promise<string | undefined> {
  const heartbeats = join(run === undefined ? "runs" : dirname(run), ".ranks", jobId());
  const group = await openMpi({ library, timeout, heartbeats });
  try {
    const folder = run ?? await sharedText(group, await newRunFolder("runs", name));
    const { output = { write: (text: string) => console.error(text.trimEnd()) } } = job;
    await pretrain({
      ...job,
      run: folder,
      group,
      output,
      openDevice: () => openDevice(group, adapter),
    });
    await group.finalize();
    return group.rank === 0 ? folder : undefined;
  } catch (error) {
    return group.abort(error instanceof UserError ? error.message : Deno.inspect(error));
  }
}

/** What tells this job's processes from those of others that use the same folders. */
function jobId(): string {
  const variables = ["PMIX_NAMESPACE", "SLURM_JOB_ID"];
  return variables.map((name) => Deno.env.get(name)).find((id) => id)?.replace(/[^\w.]/g, "-") ??
    "job";
}

/** The text that rank 0 has, on all ranks. */
async function sharedText(group: MpiGroup, text: string): Promise<string> {
  const bytes = new Uint8Array(4096);
  new TextEncoder().encodeInto(text, bytes);
  await group.broadcast(bytes);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}

/** The card of this rank, among those of its machine; every rank says which one it got. */
async function openDevice(group: MpiGroup, adapter: AdapterChoice): Promise<Device> {
  const { rank, size, host, localRank, localSize } = group;
  // A driver is installed once per machine at most: the ranks take turns.
  await inTurn(group, "looking for an adapter", ensureAdapter);
  const cards = localSize > 1 && adapter === "auto" ? findCards() : [];
  const { environment, notes, expect } = placeRank({ localRank, localSize, adapter, cards });
  await Deno.permissions.revoke({ name: "run" });
  const device = await openPlaced({ adapter, environment, expect });
  if (localRank === 0) { for (const note of notes) console.error(`note (${host}): ${note}`); }
  console.error(describeRank({ rank, size, host, device, expect }));
  return device;
}

/** How {@link launch} starts the processes. */
export interface LaunchOptions {
  /** The launcher and its flags: "mpirun -n 4". */
  launcher: string;
  /** What it starts: a program and its arguments. */
  command: readonly string[];
  /** Arguments to add after a failure, so that it goes on. */
  again: readonly string[];
  /** Starts after a failure, at most. */
  retries: number;
  /** Passed on to the launcher. */
  interrupted: AbortSignal;
}

/**
 * Starts an MPI launcher, and starts it again when the job fails.
 *
 * @returns the exit code of the last start
 * @throws {UserError} if there is no such program, or it may not be run
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const { launcher, command, again, retries, interrupted } = options;
  const [program, ...args] = launcher.trim().split(/\s+/);
  const signal = await stopSignal(program);
  for (let attempt = 0;; attempt++) {
    const words = [...args, ...command, ...attempt > 0 ? again : []];
    const child = start(program, words);
    const stop = () => child.kill(signal);
    interrupted.addEventListener("abort", stop);
    const { code } = await child.status;
    interrupted.removeEventListener("abort", stop);
    if (code === 0 || attempt === retries || interrupted.aborted) return code;
    console.error(
      `the job ended with exit code ${code}; starting again from the last checkpoint ` +
        `(${attempt + 1} of ${retries})`,
    );
  }
}

/**
 * What a launcher passes on to the ranks at once and survives. Open MPI's answers SIGTERM by a SIGKILL to the
 * ranks two seconds later, MPICH's dies of SIGUSR2.
 */
async function stopSignal(program: string): Promise<Deno.Signal> {
  const version = await new Deno.Command(program, { args: ["--version"], stderr: "null" }).output()
    .then(({ stdout }) => new TextDecoder().decode(stdout), () => "");
  return /Open MPI|OpenRTE|PRRTE/.test(version) ? "SIGUSR2" : "SIGTERM";
}

function start(program: string, args: string[]): Deno.ChildProcess {
  try {
    return new Deno.Command(program, { args, stdin: "null" }).spawn();
  } catch (error) {
    throw new UserError(
      `--launch: ${program} cannot be started (${(error as Error).message}); is MPI installed ` +
        "(apt-get install openmpi-bin)?",
    );
  }
}
