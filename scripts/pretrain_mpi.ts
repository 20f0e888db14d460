/**
 * `deno task pretrain:mpi`: pretraining by processes under MPI, one per GPU, on any number of machines.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import { interruption } from "../tasks/command/interruption.ts";
import { help } from "../tasks/command/help.ts";
import { defaults, describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { DEVICES } from "../tasks/config/device_flags.ts";
import { pretrainDefaults } from "../tasks/config/help_defaults.ts";
import { mpiEnvironment } from "../tasks/parallel/mpi/group.ts";
import { launch, pretrainUnderMpi } from "../tasks/launch/mpi.ts";
import { resumeOf, unnamedRun } from "../tasks/checkpoints/run_folder.ts";
import { PRETRAIN_COMMAND, PRETRAIN_CONFIG } from "../tasks/config/pretrain.ts";

const { devices: _launchers, ...COMMAND } = PRETRAIN_COMMAND;

const OPTIONS = {
  ...COMMAND,
  ...describe({
    mpiLibrary: {
      type: "path",
      group: DEVICES,
      help:
        "The MPI library, where it is in none of the usual places. Deno must be told as well: " +
        "deno run --allow-ffi=PATH ….",
    },
    launch: {
      type: "string",
      unit: "command",
      group: DEVICES,
      help:
        "Start this launcher, in quotes, with this command; with --retries again after a failure.",
    },
  }),
  ...PRETRAIN_CONFIG,
};

/** What may be started by `--launch`: the same list as in the task's permissions. */
const LAUNCHERS = ["mpirun", "mpiexec", "srun"];

const PAGE = {
  usage: "mpirun -n N deno task pretrain:mpi [flags]",
  intro:
    "Pretrains as `deno task pretrain` does, by one process per GPU, on one machine or on many: " +
    "started by mpirun, mpiexec or srun. All processes must see the same folders. The guide is " +
    "docs/clusters.md.",
  examples: [
    {
      command: "mpirun -n 16 --hostfile hosts deno task pretrain:mpi --preset base --run runs/base",
      does: "on 16 GPUs of the machines in the file",
    },
    {
      command: 'deno task pretrain:mpi --launch "mpirun -n 4" --run runs/base --retries 3',
      does: "start mpirun, and start it again after a failure",
    },
    {
      command: "mpirun -n 2 deno task pretrain:mpi --adapter cpu",
      does: "try it out on the CPU",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) {
    return console.log(help(OPTIONS, { ...PAGE, ...pretrainDefaults(Deno.args) }));
  }
  const flags = { ...defaults(COMMAND), ...parseFlags(OPTIONS, Deno.args) };
  const { run, resume, packed, workers, adapter, threads, timeout, ...others } = flags;
  const { retries, requeue, mpiLibrary, launch: launcher, ...given } = others;
  const goesOn = resumeOf({ resume, requeue });
  if (launcher !== undefined) {
    if (retries > 0 && run === undefined) {
      throw new UserError("--retries: name the run's folder too, so that the next start finds it");
    }
    const interrupted = interruption("saving a checkpoint", { isRank: true });
    const command = ranks();
    Deno.exit(await launch({ launcher, command, run, resume: goesOn, retries, interrupted }));
  }
  if (!mpiEnvironment()) {
    throw new UserError(
      "expected to be started by an MPI launcher: mpirun -n 2 deno task pretrain:mpi …, or give " +
        '--launch "mpirun -n 2"; for the GPUs of one machine, deno task pretrain --devices all',
    );
  }
  if (retries > 0) {
    throw new UserError(
      "--retries: a rank that fails ends its launcher as well; start the launcher by --launch, or " +
        "repeat the command with --requeue",
    );
  }
  // Only the process that starts a launcher starts other programs of the user's choice.
  for (const command of LAUNCHERS) await Deno.permissions.revoke({ name: "run", command });
  const name = `${given.preset ?? "tiny"}-${given.objective ?? "metro"}`;
  const folder = await pretrainUnderMpi({
    run,
    unnamed: () => unnamedRun(name, goesOn),
    resume: goesOn,
    given,
    sampleCorpus: join(import.meta.dirname!, "..", "data", "corpus"),
    packed,
    workers,
    flags: { adapter, threads },
    timeout,
    mpiPath: mpiLibrary,
    interrupted: interruption("saving a checkpoint", { isRank: true }),
    output: process.stderr,
  });
  if (folder !== undefined) {
    console.log(`Run folder: ${folder} (open ${join(folder, "report.html")} in a browser)`);
  }
  Deno.exit(0);
});

/** This command as the launcher shall run it: the same task, without what only the first process needs. */
function ranks(): string[] {
  const args = [...Deno.args];
  for (const flag of ["--launch", "--retries"]) {
    const at = args.findIndex((word) => word === flag || word.startsWith(`${flag}=`));
    if (at >= 0) args.splice(at, args[at] === flag ? 2 : 1);
  }
  const config = join(import.meta.dirname!, "..", "deno.json");
  return [Deno.execPath(), "task", "-q", "--config", config, "pretrain:mpi", ...args];
}
