/**
 * Pretraining by processes under MPI, one per GPU: what each of them does, and how the launcher is started
 * again after a failure.
 *
 * @module
 */
import { rmdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { UserError } from "../../ops/graph/errors.ts";
import type { Device } from "../../ops/mod.ts";
import { type Interruption, ONE_PRESS } from "../command/interruption.ts";
import { askProgram } from "../devices/ask_program.ts";
import { pretrain, type PretrainJob } from "../pretrain.ts";
import { expectNoRun, type Resume } from "../checkpoints/run_folder.ts";
import { exists } from "../files/write.ts";
import { expectSoftware } from "../devices/setup.ts";
import { cpuRoom } from "../train/room.ts";
import { chooseDevice, type ChosenDevice, type DeviceFlags, partFor } from "../devices/choose.ts";
import { fromFirst, GroupEnded } from "../parallel/communicator.ts";
import { type MpiGroup, openMpi } from "../parallel/mpi/group.ts";
import { describeRank, findCards, openPlaced, placeRank } from "../devices/placement.ts";

/** What a process is to do. */
export interface MpiPretrainJob extends Omit<PretrainJob, "run" | "openDevice" | "cpu" | "group"> {
  /** Folder of the run, if the user named one. */
  run?: string;
  /** The folder of a run that the user did not name. */
  unnamed(): Promise<string>;
  /** What to compute on. */
  flags: DeviceFlags;
  /** Seconds without a sign of life after which a rank is taken for hung. */
  timeout: number;
  /** Path of the MPI library, if the user named one. */
  mpiPath?: string;
}

/**
 * Joins the other processes, and pretrains with them. A failure of one ends all, with its reason.
 *
 * @returns the run's folder, on rank 0; elsewhere undefined
 * @throws {UserError} if there is no usable MPI library
 */
export async function pretrainUnderMpi(
  { run, unnamed, flags, timeout, mpiPath, ...job }: MpiPretrainJob,
): Promise<string | undefined> {
  const heartbeats = heartbeatsOf(run);
  const group = await openMpi({ mpiPath, timeout, heartbeats });
  try {
    const device = await chooseForRank(group, flags);
    const folder = run ?? await fromFirst(group, "naming the run", unnamed);
    const openDevice = () => openForRank(group, device);
    await pretrain({ ...job, run: folder, group, openDevice, cpu: cpuRoom(device) });
    await group.finalize();
    // Jobs that still run keep theirs there.
    if (heartbeats !== undefined) await rmdir(dirname(heartbeats)).catch(() => {});
    return group.rank === 0 ? folder : undefined;
  } catch (error) {
    // What all ranks find out, rank 0 tells; an echo is no news at all.
    const isEcho = error instanceof GroupEnded, isMistake = error instanceof UserError;
    if (group.rank > 0 && (isEcho || isMistake)) await pause(isEcho ? ECHO : MISTAKE);
    return group.abort(isMistake || isEcho ? error.message : Deno.inspect(error));
  }
}

/** Milliseconds that ranks but the first keep an error to themselves. */
const ECHO = 60_000, MISTAKE = 2000;

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/**
 * A folder that this job's processes see and no other job uses, beside the run; none where the launcher has
 * no name for the job.
 */
function heartbeatsOf(run: string | undefined): string | undefined {
  const slurm = ["SLURM_JOB_ID", "SLURM_STEP_ID"].map((name) => Deno.env.get(name));
  const id = Deno.env.get("PMIX_NAMESPACE") ?? (slurm.every((part) => part) && slurm.join("."));
  if (!id) return undefined;
  return join(run === undefined ? "runs" : dirname(run), ".ranks", id.replace(/[^\w.]/g, "-"));
}

/**
 * What this rank computes on: of the CPU, its share of the machine's cores.
 *
 * @throws {UserError} there is no such adapter, too few, or only some ranks have a GPU
 */
async function chooseForRank(group: MpiGroup, flags: DeviceFlags): Promise<ChosenDevice> {
  const { size, localRank, localSize } = group;
  const choose = () => chooseDevice(flags, localSize, { quiet: localRank > 0 });
  const device = await group.patiently("looking for an adapter", choose);
  const onGpu = Float64Array.of(device.adapter === "gpu" ? 1 : 0);
  await group.allReduce(onGpu);
  if (onGpu[0] > 0 && onGpu[0] < size) {
    throw new UserError(
      `${onGpu[0]} of ${size} ranks have a GPU: leave out the machines that have none, or give ` +
        "--adapter cpu",
    );
  }
  if (device.adapter === "cpu") await Deno.permissions.revoke({ name: "run" });
  return partFor(device, localSize);
}

/** The card of this rank, among those of its machine; every rank says which one it got. */
async function openForRank(group: MpiGroup, chosen: ChosenDevice): Promise<Device> {
  const { rank, size, host, localRank, localSize } = group, { adapter } = chosen;
  if (adapter === "software") {
    await group.patiently("looking for a driver", expectSoftware);
    await group.barrier({ patient: true });
  }
  const cards = localSize > 1 && adapter === "gpu" ? findCards() : [];
  const { environment, notes, expect } = placeRank({ localRank, localSize, adapter, cards });
  await Deno.permissions.revoke({ name: "run" });
  const device = await openPlaced({ ...chosen, environment, expect });
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
  /** Folder of the run, if it is known. */
  run?: string;
  /** Whether the first start goes on with the run, by arguments in the command. */
  resume: Resume;
  /** Starts after a failure, at most. */
  retries: number;
  /** Asks the job to stop in good order. */
  interrupted: Interruption;
}

/**
 * Starts an MPI launcher, and starts it again when the job fails after training has begun.
 *
 * @returns the exit code of the last start
 * @throws {UserError} if there is no such program, or it may not be run; if there is a run in the folder
 *   that is not to be gone on with
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const { launcher, command, run, resume, retries, interrupted } = options;
  const [program, ...args] = launcher.trim().split(/\s+/);
  const signal = await stopSignal(program);
  if (run !== undefined && !resume) await expectNoRun(run, "pretrain");
  for (let attempt = 0;; attempt++) {
    const again = attempt > 0 && resume !== "requeue" ? ["--requeue"] : [];
    const code = await runOnce(program, [...args, ...command, ...again], signal, interrupted);
    const isOver = code === 0 || attempt === retries || interrupted.aborted;
    // A mistake of the user's ends a job before it has a config.
    if (isOver || run === undefined || !await exists(join(run, "config.json"))) return code;
    console.error(
      `the job ended with exit code ${code}; starting again (${attempt + 1} of ${retries})`,
    );
  }
}

/** Starts a program, and has it stopped when the user wants it: in good order first, then at once. */
async function runOnce(
  program: string,
  args: string[],
  signal: Deno.Signal,
  interrupted: Interruption,
): Promise<number> {
  const child = start(program, args);
  const stop = () => child.kill(signal);
  if (interrupted.aborted) stop();
  interrupted.addEventListener("abort", stop);
  let first: number | undefined;
  const onInterrupt = () => {
    const now = performance.now();
    if (now - (first ??= now) > ONE_PRESS) child.kill("SIGTERM");
  };
  // The child has a process group of its own, so that Ctrl-C does not reach it by itself.
  Deno.addSignalListener("SIGINT", onInterrupt);
  try {
    return (await child.status).code;
  } finally {
    interrupted.removeEventListener("abort", stop);
    Deno.removeSignalListener("SIGINT", onInterrupt);
  }
}

/**
 * What a launcher passes on to the ranks at once and survives. Open MPI's answers SIGTERM by a SIGKILL to the
 * ranks two seconds later, MPICH's dies of SIGUSR2.
 */
async function stopSignal(program: string): Promise<Deno.Signal> {
  const { stdout } = await askProgram(program, ["--version"]);
  return /Open MPI|OpenRTE|PRRTE/.test(stdout) ? "SIGUSR2" : "SIGTERM";
}

function start(program: string, args: string[]): Deno.ChildProcess {
  try {
    return new Deno.Command(program, { args, stdin: "null", detached: true }).spawn();
  } catch (error) {
    throw new UserError(
      `--launch: ${program} cannot be started (${(error as Error).message}); is MPI installed ` +
        "(apt-get install openmpi-bin)?",
    );
  }
}
