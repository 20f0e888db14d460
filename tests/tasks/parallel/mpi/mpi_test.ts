import assert from "node:assert/strict";
import { askProgram } from "../../../../tasks/devices/ask_program.ts";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MPI_VARIABLES, mpiEnvironment } from "../../../../tasks/parallel/mpi/environment.ts";
import { familyOf, loadMpi, MPI_LIBRARIES } from "../../../../tasks/parallel/mpi/library.ts";
import { createSigns, readSigns, writeSigns } from "../../../../tasks/parallel/mpi/signs.ts";
import { type Beat, type Evidence, verdict } from "../../../../tasks/parallel/mpi/verdict.ts";

/** A launcher of this machine. */
interface Launcher {
  name: "Open MPI" | "MPICH";
  command: string;
  flags: readonly string[];
}

const launchers = (await Promise.all([
  findLauncher("Open MPI", ["mpirun.openmpi", "mpirun"], /Open MPI/, [
    ...["--oversubscribe", "--bind-to", "none"],
    ...["--mca", "mpi_yield_when_idle", "1"],
    ...["--mca", "btl_vader_single_copy_mechanism", "none"], // containers may forbid the other ones
  ]),
  findLauncher("MPICH", ["mpirun.mpich", "mpirun"], /hydra/i, []),
])).filter((launcher) => launcher !== undefined);

async function findLauncher(
  name: Launcher["name"],
  commands: readonly string[],
  says: RegExp,
  flags: readonly string[],
): Promise<Launcher | undefined> {
  for (const command of commands) {
    const { stdout } = await askProgram(command, ["--version"]);
    if (says.test(stdout)) return { name, command, flags };
  }
}

interface Outcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the ranks of `mpi_rank.ts`. */
async function mpirun(
  { command, flags }: Launcher,
  ranks: number,
  what: string,
  { library = "", heartbeats = "" } = {},
): Promise<Outcome> {
  const program = new URL("./mpi_rank.ts", import.meta.url).href;
  const config = new URL("../../../../deno.json", import.meta.url).pathname;
  const output = await new Deno.Command(command, {
    args: [
      ...[...flags, "-n", `${ranks}`, Deno.execPath(), "run", "-q", "--no-check", "--no-prompt"],
      ...["-A", "--config", config, program, what, library, heartbeats],
    ],
    env: { NO_COLOR: "1", OMPI_ALLOW_RUN_AS_ROOT: "1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: "1" },
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code: output.code, stdout: text(output.stdout), stderr: text(output.stderr) };
}

async function inFolder<T>(body: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "mpi-"));
  try {
    return await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A test of a launcher; left out, under a name that says so, where there is none. */
function mpiTest(name: string, of: Launcher["name"], body: (launcher: Launcher) => Promise<void>) {
  const launcher = launchers.find(({ name }) => name === of);
  Deno.test({
    name: `${of}${launcher ? "" : " (not installed)"}: ${name}`,
    ignore: !launcher,
    fn: () => body(launcher!),
  });
}

for (const [family, sizes] of [["Open MPI", [1, 2, 4]], ["MPICH", [2]]] as const) {
  for (const size of sizes) {
    mpiTest(`${size} ranks: all calls give what plain loops give`, family, async (launcher) => {
      const { code, stdout, stderr } = await mpirun(launcher, size, "collectives");
      assert.equal(code, 0, stderr);
      const expected = Array.from(
        { length: size },
        (_, rank) => `rank ${rank} of ${size}, ${rank} of ${size} here: all is well with ${family}`,
      );
      const lines = stdout.trim().split("\n").sort();
      assert.deepEqual(lines.map((line) => line.replace(/ \d[\d.]*$/, "")), expected);
    });
  }

  mpiTest("an error ends the job with its message", family, async (launcher) => {
    const { code, stderr } = await mpirun(launcher, 3, "abort");
    assert.equal(code, 1);
    assert.match(stderr, /^rank 1 \(.+\): the disk is full$/m);
  });

  mpiTest("a rank in an endless loop is ended by its watch", family, async (launcher) => {
    const { code, stderr } = await mpirun(launcher, 2, "loop");
    assert.equal(code, 1);
    assert.match(stderr, /^rank 1 \(.+\): no sign of life for \d+ s during update 12$/m);
    assert.doesNotMatch(stderr, /rank 0 .* waited/);
  });
}

for (const what of ["throw", "exit", "kill"]) {
  mpiTest(`a rank that ends early (${what}) ends the job`, "Open MPI", async (launcher) => {
    const { code, stderr } = await mpirun(launcher, 2, what);
    assert.notEqual(code, 0);
    assert.match(stderr, /rank 1|\],1\]/); // the launcher's words: "process rank 1", "[[5,1],1]"
    assert.doesNotMatch(stderr, /no sign of life|waited/); // it did not take the watches
  });
}

mpiTest("ranks that wait judge by heartbeats", "Open MPI", async (launcher) => {
  // Together, because each of them mostly waits.
  const [idle, stopped, unseen, patient, late] = await Promise.all([
    inFolder((heartbeats) => mpirun(launcher, 2, "idle", { heartbeats })),
    inFolder((heartbeats) => mpirun(launcher, 2, "stop", { heartbeats })),
    mpirun(launcher, 2, "stop"),
    ...["patient", "late"].map((what) =>
      inFolder(async (folder) => {
        const heartbeats = join(folder, "ranks");
        const outcome = await mpirun(launcher, 2, what, { heartbeats });
        return { ...outcome, left: existsSync(heartbeats) };
      })
    ),
  ]);
  assert.equal(idle.code, 1);
  assert.match(idle.stderr, /^rank 1 \(.+\): no sign of life for \d+ s during update 12$/m);
  assert.equal(stopped.code, 1);
  assert.match(
    stopped.stderr,
    /^rank 0 \(.+\) waited \d+ s in barrier for rank 1 \(.+\): no sign of life for \d+ s$/m,
  );
  assert.equal(unseen.code, 1);
  assert.match(unseen.stderr, /^rank 0 \(.+\) waited \d+ s in barrier for other ranks$/m);
  // Others wait for twice the limit, and the job goes on.
  assert.deepEqual(patient, { code: 0, stdout: "", stderr: "", left: false });
  assert.deepEqual(late, { code: 0, stdout: "", stderr: "", left: false });
});

Deno.test({
  name: "a library that is not the launcher's is named" +
    (launchers.length < 2 ? " (takes Open MPI and MPICH)" : ""),
  ignore: launchers.length < 2,
  async fn() {
    const [openMpi] = launchers;
    const library = MPI_LIBRARIES.find((path) => /libmpich/.test(path) && existsSync(path))!;
    const { code, stderr } = await mpirun(openMpi, 2, "collectives", { library });
    assert.notEqual(code, 0);
    assert.match(stderr, /Open MPI's mpirun started 2 processes, but .*MPICH.* sees 1/);
  },
});

Deno.test("a file that is no MPI library is named", () => {
  assert.throws(() => loadMpi({ path: "/nowhere/libmpi.so" }), {
    name: "UserError",
    message: /^no MPI library can be opened at \/nowhere\/libmpi\.so: /,
  });
});

Deno.test("the libraries' own words tell whose interface they have", () => {
  for (
    const [version, family] of [
      ["Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4", "Open MPI"],
      ["MPICH Version:      4.0.2\nMPICH Release date: Thu Apr  7", "MPICH"],
      ["Intel(R) MPI Library 2021.5 for Linux* OS", "MPICH"],
      ["MVAPICH2 Version      :\t2.3.7", "MPICH"],
      ["MPI VERSION    : CRAY MPICH version 8.1.28.15 (ANL base 3.4a2)", "MPICH"],
      ["Another MPI 1.0", undefined],
    ]
  ) assert.equal(familyOf(version!), family);
});

Deno.test("launchers are known by their variables", () => {
  const read = (variables: Record<string, string>) => mpiEnvironment((name) => variables[name]);
  const slurm = { SLURM_PROCID: "1", SLURM_LOCALID: "0", SLURM_STEP_NUM_TASKS: "4" };
  const openMpi = { OMPI_COMM_WORLD_RANK: "5", OMPI_COMM_WORLD_SIZE: "8" };
  assert.equal(read({}), undefined);
  assert.equal(read({ SLURM_PROCID: "0" }), undefined); // the script of a Slurm job
  assert.deepEqual(read(slurm), {
    ...{ launcher: "srun", family: undefined, rank: 1, size: 4 },
    ...{ localRank: 0, localSize: undefined },
  });
  assert.equal(read({ ...slurm, ...openMpi })?.family, "Open MPI");
  assert.equal(read({ ...slurm, ...openMpi })?.rank, 5);
  assert.equal(read({ ...slurm, PMI_RANK: "2", PMI_SIZE: "3" })?.family, "MPICH");
});

Deno.test("tasks that run under MPI may use all its libraries and variables", async () => {
  const url = new URL("../../../../deno.json", import.meta.url);
  const { tasks } = JSON.parse(await readFile(url, "utf8"));
  const commands = Object.values<{ command: string } | string>(tasks)
    .map((task) => typeof task === "string" ? task : task.command)
    .filter((command) => command.includes("--allow-ffi"));
  for (const command of commands) {
    const allowed = (what: string) =>
      new RegExp(`--allow-${what}=(\\S+)`).exec(command)?.[1].split(",") ?? [];
    assert.deepEqual(allowed("ffi"), MPI_LIBRARIES);
    assert.deepEqual(MPI_VARIABLES.filter((name) => !allowed("env").includes(name)), []);
  }
});

Deno.test("signs show what a rank is at; a text that is too long is cut", () => {
  const shared = createSigns();
  const signs = writeSigns(shared);
  assert.deepEqual(readSigns(shared), {
    ...{ state: "working", signs: 0, calls: 0, call: "allReduce", doing: "" },
  });
  signs.alive("x".repeat(1000));
  signs.show("waiting", "broadcast");
  signs.show("patient");
  assert.deepEqual(readSigns(shared), {
    ...{ state: "patient", signs: 3, calls: 1, call: "broadcast", doing: "x".repeat(256) },
  });
});

Deno.test("a watch blames whoever is missing and silent, and nobody else", () => {
  const look = { state: "waiting", signs: 9, calls: 5, call: "allGather", doing: "" } as const;
  const beat = (calls: number): Beat => ({
    ...{ rank: 0, host: "", pid: 1, state: "working", doing: "", call: "allGather", calls },
    ...{ beat: 7, time: "" },
  });
  const judge = (
    silent: number,
    others: [calls: number | undefined, unchanged: number][],
    evidence: Partial<Evidence> = {},
  ) =>
    verdict({
      ...{ rank: 0, hosts: ["a", "b", "c"], timeout: 60, look, silent },
      sightings: new Map(others.map(([calls, unchanged], i) => [
        i + 1,
        { beat: calls === undefined ? undefined : beat(calls), unchanged },
      ])),
      ...evidence,
    });
  assert.equal(judge(75, [[4, 70], [5, 0]]), undefined); // not yet
  assert.equal(
    judge(76, [[4, 70], [5, 0]]),
    " waited 76 s in allGather for rank 1 (b): no sign of life for 70 s",
  );
  assert.equal(
    judge(76, [[5, 65], [undefined, 70]]), // came, then stopped; never seen
    " waited 76 s in allGather for rank 1 (b) and rank 2 (c): no sign of life for 70 s",
  );
  assert.equal(judge(500, [[4, 3], [5, 3]]), undefined); // late but alive
  assert.match(judge(76, [[5, 0], [6, 0]])!, /all ranks are there: this one or the network hangs$/);
  assert.equal(judge(500, [[4, 70]], { look: { ...look, state: "patient" } }), undefined);
  assert.equal(
    judge(76, [], { sightings: undefined }),
    " waited 76 s in allGather for other ranks",
  );
});
