// Training on several devices from the outside: workers and MPI ranks that share the processor. The number of
// devices decides nothing but where work is done; whatever ends a rank, the checkpoint stays good.

import assert from "node:assert/strict";
import { sealed } from "../../tasks/files/seal.ts";
import { readdirSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Random } from "../../ops/graph/random.ts";
import { AS_ROOT, ended, HAS_MPI, MPIRUN, start, startRanks } from "./command.ts";
import { assertAgree, fail, kill, recordsOf, succeed, until, words } from "./prompted.ts";
import { randomMoment, results, SMALL, TEXT } from "./small_run.ts";

let folder = "";

// Three micro-batches of an update divide evenly among no more ranks than one.
const CHANGES = {
  "batch-tokens": "768",
  "updates": "20",
  "log-every": "1",
  "dropout": "0.1",
  "clip-norm": "0.5",
  "timeout": "60",
};

const flags = (run: string, changes: Record<string, string | undefined> = {}) =>
  words({ ...SMALL, text: join(folder, "text.txt"), ...CHANGES, run, ...changes });

const byWorkers = (run: string, devices: number, changes = {}) =>
  start("pretrain", flags(run, { devices: String(devices), ...changes }));

const byMpi = (run: string, ranks: number, changes = {}) =>
  startRanks("pretrain:mpi", ranks, flags(run, changes));

async function assertEnds(process: Deno.ChildProcess): Promise<string> {
  const { code, err } = await ended(process);
  assert.equal(code, 0, err);
  return err;
}

Deno.test.beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metro-devices-"));
  await writeFile(join(folder, "text.txt"), TEXT);
  await assertEnds(byWorkers(join(folder, "one"), 1));
});

Deno.test.afterAll(() => rm(folder, { recursive: true, force: true }));

for (const devices of [2, 4]) {
  Deno.test(`${devices} workers train as one device does`, async () => {
    const run = join(folder, `workers-${devices}`);
    const said = await assertEnds(byWorkers(run, devices));
    for (let rank = 0; rank < devices; rank++) {
      assert.match(said, new RegExp(`^rank ${rank} of ${devices}: CPU, 1 thread$`, "m"));
    }
    await assertAgree(join(folder, "one"), run);
    const optimizer = (await readdir(run)).filter((name) => name.startsWith("optimizer"));
    assert.equal(optimizer.length, devices, optimizer.join(", "));
  });
}

Deno.test("corpora with weights are mixed alike on one device and on two", async () => {
  const one = join(folder, "mixed-1"), two = join(folder, "mixed-2");
  const other = join(folder, "other.txt");
  await writeFile(other, TEXT.split("\n\n").slice(0, 12).join("\n\n"));
  const args = (run: string, devices: string) => [
    ...flags(run, { devices, text: undefined, updates: "8" }),
    ...["--text", join(folder, "text.txt"), other, "--text-weights", "1", "3"],
  ];
  const { err } = await succeed("pretrain", args(one, "1"));
  assert.match(
    err,
    /text\.txt: 2\d\.\d % of the tokens.*\n.*other\.txt: 7\d\.\d % of the tokens, \d/,
  );
  await succeed("pretrain", args(two, "2"));
  await assertAgree(one, two);
});

Deno.test("what devices cannot do is refused in one line", async () => {
  const run = join(folder, "refused");
  const args = (changes: Record<string, string>) => flags(run, changes);
  await fail(
    "pretrain",
    args({ devices: "no" }),
    /--devices: expected a number of at least 1, or all/,
  );
  await fail("pretrain", args({ devices: "99", adapter: "auto" }), /99 devices asked for/);
  await fail(
    "pretrain",
    args({ "text-weights": "2" }).concat("3"),
    /--text-weights: expected 1 number/,
  );
  const divided = args({ devices: "2", "divide-by-mean-weight": "", "weighted-lm-loss": "" });
  await fail("pretrain", divided, /--divide-by-mean-weight: .* 2 devices would have to cut/);
  await fail("pretrain:mpi", flags(run), /expected to be started by an MPI launcher/);
  const launcher = [...flags(run), "--launch", "no-such-mpirun -n 2"];
  await fail("pretrain:mpi", launcher, /--launch: no-such-mpirun cannot be started .*openmpi-bin/);
  assert(!(await readdir(folder)).includes("refused"));
});

for (const ranks of [1, 2, 4]) {
  Deno.test({
    name: `MPI, ranks: ${ranks}; the bits of as many workers`,
    ignore: !HAS_MPI,
    async fn() {
      const run = join(folder, `mpi-${ranks}`);
      await assertEnds(byMpi(run, ranks));
      const same = join(folder, ranks === 1 ? "one" : `workers-${ranks}`);
      assert.deepEqual(await results(run), await results(same));
    },
  });
}

Deno.test("a run of 4 goes on with 1, and then with 2", async () => {
  const run = join(folder, "moving");
  const first = byWorkers(run, 4);
  await until(join(run, "training.json"));
  first.kill("SIGTERM");
  assert.match(await assertEnds(first), /Saved update \d+/);
  const resumed = (devices: number) =>
    start("pretrain", [
      ...["--run", run, "--resume", "--devices", String(devices)],
    ]);
  const second = resumed(1);
  const { length } = await recordsOf(run);
  while ((await recordsOf(run)).length < length + 3) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  second.kill("SIGINT");
  await assertEnds(second);
  const optimizer = (await readdir(run)).filter((name) => name.startsWith("optimizer"));
  assert.deepEqual(optimizer, ["optimizer.safetensors"]);
  // A checkpoint of the time before there were ranks.
  const state = JSON.parse(await readFile(join(run, "training.json"), "utf8"));
  const { optimizer: _, sha256: __, ...old } = { ...state, sums: state.sums[0] };
  await writeFile(join(run, "training.json"), JSON.stringify(sealed(old)));
  await assertEnds(resumed(2));
  await assertAgree(join(folder, "one"), run);
});

/** Kills a job at random moments, starts it again each time, and lets it end. */
async function tornRun(
  start: (run: string) => Deno.ChildProcess,
  kill: (job: Deno.ChildProcess) => void,
  run: string,
): Promise<void> {
  const random = new Random(7);
  for (let kills = 0;; kills++) {
    const job = start(run);
    if (kills < 2) randomMoment(job, run, random).then(() => kill(job));
    const { code, err } = await ended(job);
    if (code === 0) return assert.ok(kills > 0, "it was over before it was killed");
    assert(kills < 2, err);
  }
}

Deno.test("workers killed at random moments and started again end with the undisturbed weights", async () => {
  const run = join(folder, "torn-workers");
  const begin = (run: string) => start("pretrain", [...flags(run, { devices: "2" }), "--requeue"]);
  await tornRun(begin, kill, run);
  assert.deepEqual(await results(run), await results(join(folder, "workers-2")));
});

Deno.test({
  name: "a rank under MPI killed at random moments ends the job; started again, the same weights",
  ignore: !HAS_MPI,
  async fn() {
    const run = join(folder, "torn-ranks");
    const begin = (run: string) => startRanks("pretrain:mpi", 2, [...flags(run), "--requeue"]);
    await tornRun(begin, (job) => void killRank(job.pid, run), run);
    assert.deepEqual(await results(run), await results(join(folder, "workers-2")));
  },
});

/** The words that a process was started with, as Linux shows them; none of one that has ended. */
function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [""];
  }
}

/** SIGKILL to one of the processes of a run under MPI. */
function killRank(seed: number, run: string): boolean {
  const ranks = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).filter((pid) => {
    const [program, command, ...words] = commandLine(pid);
    const isRank = /deno$/.test(program) && command === "run" && words.includes(run);
    return isRank && !words.includes("--launch");
  });
  if (ranks.length === 0) return false;
  Deno.kill(Number(ranks[new Random(seed).below(ranks.length)]), "SIGKILL");
  return true;
}

Deno.test({
  name: "--launch starts mpirun, and again after a failure, but not over another run",
  ignore: !HAS_MPI,
  async fn() {
    const run = join(folder, "launched");
    const [program, ...options] = MPIRUN;
    const launcher = [program, "-n", "2", ...options].join(" ");
    const args = [...flags(run), "--launch", launcher, "--retries", "1"];
    const job = start("pretrain:mpi", args, undefined, AS_ROOT);
    await until(join(run, "training.json"));
    assert(killRank(1, run), "no rank was found");
    const { code, err } = await ended(job);
    assert.equal(code, 0, err);
    assert.match(err, /starting again \(1 of 1\)/);
    assert.match(err, /Resumed at update \d+/);
    assert.deepEqual(await results(run), await results(join(folder, "workers-2")));
    await fail("pretrain:mpi", args, /already holds a run/);
  },
});

Deno.test("--requeue begins a run that saved nothing anew, and leaves other folders alone", async () => {
  const run = join(folder, "requeued"), foreign = join(folder, "foreign");
  const args = (run: string) => [...flags(run, { updates: "4" }), "--requeue"];
  await mkdir(run);
  await writeFile(join(run, "config.json"), JSON.stringify({ preset: "tiny", updates: 9 }));
  await assertEnds(start("pretrain", args(run)));
  assert.equal((await recordsOf(run)).at(-1)!.update, 4);
  await mkdir(foreign);
  await writeFile(join(foreign, "config.json"), JSON.stringify({ model_type: "t5" }));
  await fail("pretrain", args(foreign), /config\.json that is not of a pretrain run/);
  assert.deepEqual(await readdir(foreign), ["config.json"]);
});

Deno.test("under Slurm a requeued job goes on by itself", async () => {
  const job = (restarts: string) =>
    start(
      "pretrain",
      words({ ...SMALL, ...CHANGES, text: join(folder, "text.txt") }),
      folder,
      {
        SLURM_JOB_ID: "77",
        SLURM_RESTART_COUNT: restarts,
      },
    );
  const first = job("0");
  const run = join(folder, "runs", "tiny-metro-job77");
  await until(join(run, "training.json"));
  first.kill("SIGUSR2");
  await assertEnds(first);
  assert.match(await assertEnds(job("1")), /Resumed at update \d+/);
  assert.deepEqual((await results(run)).weights, (await results(join(folder, "one"))).weights);
});
