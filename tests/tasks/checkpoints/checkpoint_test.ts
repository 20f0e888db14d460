import assert from "node:assert/strict";
import { writeFile as replaceFile } from "../../../tasks/files/write.ts";
import { askProgram } from "../../../tasks/devices/ask_program.ts";
import {
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { restoreRun, saveRun } from "../../../tasks/checkpoints/run_folder.ts";
import { openCheckpoint, readNewest, saveCheckpoint } from "../../../tasks/checkpoints/save.ts";
import { openTensors, writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import { runRanks } from "../local_group.ts";
import { assertFilled, fill, trained } from "./trained_slices.ts";

const NAMES = ["model.safetensors", "optimizer.safetensors"];
const SPECS = [{ name: "w", shape: [4, 4] }, { name: "b", shape: [3] }];

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "checkpoint-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Writes a tensor file whose every value is the number of the update. */
const filled = (update: number) => (path: string) =>
  writeTensors(
    path,
    SPECS,
    (name) => new Float32Array(name === "w" ? 16 : 3).fill(update),
    { update: `${update}` },
  );

const save = (folder: string, update: number) =>
  saveCheckpoint(folder, Object.fromEntries(NAMES.map((name) => [name, filled(update)])));

/** The update of the checkpoint in a folder, after making sure that every value is of it. */
async function loadedUpdate(folder: string): Promise<number> {
  const files = await openCheckpoint(folder, NAMES);
  const update = Number(files[0].metadata.update);
  for (const tensors of files) {
    for (const name of tensors.names) {
      assert.ok((await tensors.read(name)).every((value) => value === update));
    }
    await tensors.close();
  }
  return update;
}

async function refusal(work: () => Promise<unknown>): Promise<string> {
  const error = await work().then(() => undefined, (error) => error);
  assert.ok(error instanceof UserError, `expected a UserError, got ${error}`);
  assert.ok(!error.message.includes("\n"));
  return error.message;
}

Deno.test("tensors read back as they were written, and the same input gives the same bytes", () =>
  inFolder(async (folder) => {
    const values = new Map([["b", new Float32Array([1, NaN, -0])], ["w", new Float32Array(16)]]);
    const write = (path: string, specs: typeof SPECS) =>
      writeTensors(path, specs, (name) => values.get(name)!, { update: "3" });
    await write(join(folder, "1"), SPECS);
    await write(join(folder, "2"), SPECS.toReversed());
    assert.deepEqual(await readFile(join(folder, "1")), await readFile(join(folder, "2")));

    const tensors = await openTensors(join(folder, "1"));
    assert.deepEqual(tensors.names, ["b", "w"]);
    assert.deepEqual(tensors.shape("w"), [4, 4]);
    assert.deepEqual(await tensors.read("b"), values.get("b"));
    assert.deepEqual(tensors.metadata, { update: "3" });
    assert.match(await refusal(() => tensors.read("v")), /has no tensor v/);
    await tensors.close();
  }));

Deno.test("killed at any moment, a writer leaves a whole checkpoint", async () => {
  const killing = randomMoments(2023);
  await inFolder(async (folder) => {
    let update = 0;
    await save(folder, update);
    for (let trial = 0; trial < 40; trial++) update = await killed(killing, folder, update + 1);
    assert.ok(update > 20, `only ${update} checkpoints were saved`);
  });
});

Deno.test("killed at any moment, one rank after another, a job leaves a whole checkpoint", async () => {
  const killing = randomMoments(2024);
  await inFolder(async (run) => {
    let update = 0;
    const share = trained(1, 0);
    fill(share, update);
    await saveRun(run, share, { update });
    for (const size of [3, 3, 2, 3, 3, 2, 1, 3]) {
      update = await jobKilled(killing, run, size, update + 1);
      const readers = 1 + killing.random.below(4);
      assert.equal(await restoredUpdate(run, readers), update);
    }
    assert.ok(update > 4, `only ${update} checkpoints were saved`);
  });
});

type Killing = ReturnType<typeof randomMoments>;

/** Moments within the first saves of a process, whatever time a save takes on this machine. */
function randomMoments(seed: number) {
  const random = new Random(key(seed));
  let taken = 10;
  return {
    random,
    /** What to call when saving begins, and after every save; kills a random while after one of them. */
    killer(kill: (taken: number) => void): () => void {
      const saves = random.below(3), part = random.uniform();
      let calls = 0, last = 0;
      return () => {
        const now = performance.now();
        if (calls > 0) taken = now - last;
        last = now;
        if (calls++ === saves) setTimeout(() => kill(taken), part * taken);
      };
    },
  };
}

/** Runs the writer, kills it, and gives the update of the checkpoint that it left. */
async function killed({ killer }: Killing, folder: string, start: number): Promise<number> {
  const writer = new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "--quiet", `--allow-read=${folder}`, `--allow-write=${folder}`],
      ...[new URL("./checkpoint_writer.ts", import.meta.url).href, folder, `${start}`],
    ],
    stdout: "piped",
  }).spawn();
  const saved = killer(() => writer.kill("SIGKILL"));
  let announced = start - 1;
  for await (const line of linesOf(writer.stdout)) {
    if (line !== "ready") announced = Number(line);
    saved();
  }
  assert.equal((await writer.status).signal, "SIGKILL");
  const found = await loadedUpdate(folder);
  assert.ok(found === announced || found === announced + 1, `said ${announced}, found ${found}`);
  return found;
}

/** Runs a job of several processes, kills one and then the others, and gives the update that they left. */
async function jobKilled(
  { random, killer }: Killing,
  run: string,
  size: number,
  start: number,
): Promise<number> {
  const job = Array.from({ length: size }, (_, rank) =>
    new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "--no-prompt", `--allow-read=${run}`, `--allow-write=${run}`],
        ...[
          new URL("./rank_writer.ts", import.meta.url).href,
          run,
          `${size}`,
          `${rank}`,
          `${start}`,
        ],
      ],
      stdin: "piped",
      stdout: "piped",
    }).spawn());
  const inputs = job.map(({ stdin }) => stdin.getWriter());
  const victim = job[random.below(size)], others = job.filter((rank) => rank !== victim);
  const later = random.uniform();
  const saved = killer((taken) => {
    victim.kill("SIGKILL");
    setTimeout(() => others.forEach((rank) => rank.kill("SIGKILL")), later * taken);
  });
  let arrived = 0, begun = false, announced = start - 1;
  const arrive = async () => {
    if (++arrived < size) return;
    arrived = 0;
    if (!begun) saved();
    begun = true;
    // A rank that is dead already reads nothing.
    for (const input of inputs) await input.write(new TextEncoder().encode("go\n")).catch(() => {});
  };
  await Promise.all(job.map(async ({ stdout }) => {
    for await (const line of linesOf(stdout)) {
      if (line === "barrier") {
        await arrive();
        continue;
      }
      announced = Number(line);
      saved();
    }
  }));
  for (const rank of job) assert.equal((await rank.status).signal, "SIGKILL");
  for (const input of inputs) await input.close().catch(() => {});
  const found = await restoredUpdate(run, 1);
  assert.ok(found === announced || found === announced + 1, `said ${announced}, found ${found}`);
  return found;
}

/** Restores as a number of ranks, and makes sure that every value is of the same update. */
async function restoredUpdate(run: string, size: number): Promise<number> {
  const [update, ...others] = await runRanks(size, async (group) => {
    const share = trained(size, group.rank);
    const { update } = await restoreRun(run, share, group);
    await assertFilled(share, update);
    return update;
  });
  for (const other of others) assert.equal(other, update);
  return update;
}

async function* linesOf(stream: ReadableStream<Uint8Array<ArrayBuffer>>): AsyncGenerator<string> {
  let rest = "";
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

Deno.test("a commit that was cut off is read as committed, and finished by the next save", () =>
  inFolder(async (folder) => {
    for (const moved of [0, 1, 2]) {
      const update = 10 * (moved + 1);
      await save(folder, update);
      // What a kill leaves after the commit, when `moved` of the two files are in place.
      await save(join(folder, "other"), update + 1);
      await rename(join(folder, "other"), join(folder, "checkpoint.next"));
      for (const name of NAMES.slice(0, moved)) {
        await rename(join(folder, "checkpoint.next", name), join(folder, name));
      }
      assert.equal(await loadedUpdate(folder), update + 1);
      await save(folder, update + 2);
      assert.equal(await loadedUpdate(folder), update + 2);
      assert.deepEqual((await readdir(folder)).sort(), NAMES);
    }
  }));

Deno.test("a save that was cut off before its commit is as if it had not been", () =>
  inFolder(async (folder) => {
    await save(folder, 1);
    await mkdir(join(folder, "checkpoint.tmp"));
    await writeFile(join(folder, "checkpoint.tmp", NAMES[0]), "half of a fil");
    assert.equal(await loadedUpdate(folder), 1);
    await save(folder, 2);
    assert.deepEqual((await readdir(folder)).sort(), NAMES);
  }));

Deno.test("a writer that fails leaves the previous checkpoint and no rubbish", () =>
  inFolder(async (folder) => {
    await save(folder, 1);
    const lost = () => Promise.reject(new Error("device lost"));
    await assert.rejects(
      saveCheckpoint(folder, { [NAMES[0]]: filled(2), [NAMES[1]]: lost }),
      /device lost/,
    );
    await assert.rejects(
      writeTensors(join(folder, NAMES[0]), SPECS, () => new Float32Array(1), {}),
      /writing tensor w: got 1 values for shape \[4,4\]/,
    );
    assert.equal(await loadedUpdate(folder), 1);
    assert.deepEqual((await readdir(folder)).sort(), NAMES);
  }));

Deno.test("a damaged checkpoint gives one line that says what to do", () =>
  inFolder(async (folder) => {
    const path = join(folder, NAMES[0]);
    const remedy = /put back a copy of the file, or start a new run$/;
    const read = async () => {
      const tensors = await openTensors(path);
      await tensors.read("w").finally(() => tensors.close());
    };

    await save(folder, 1);
    const bytes = await readFile(path);
    await truncate(path, bytes.length - 1);
    assert.match(await refusal(read), /model\.safetensors: cannot be used: cut short: expected/);
    assert.match(await refusal(() => openCheckpoint(folder, NAMES)), remedy);

    for (const size of [0, 5, 60]) {
      await writeFile(path, bytes.subarray(0, size));
      assert.match(await refusal(read), remedy);
    }

    bytes[bytes.length - 1] ^= 1;
    await writeFile(path, bytes);
    assert.match(await refusal(read), /the bytes of tensor w have changed since they were written/);

    await rm(path);
    assert.match(await refusal(read), /no such file or folder; check the path$/);
  }));

Deno.test("files of different checkpoints are not mixed", () =>
  inFolder(async (folder) => {
    await save(folder, 1);
    await filled(2)(join(folder, NAMES[0]));
    assert.match(
      await refusal(() => openCheckpoint(folder, NAMES)),
      /different checkpoints \(model\.safetensors of update 2, optimizer\.safetensors of update 1\)/,
    );
  }));

Deno.test("a full disk leaves the previous checkpoint and no rubbish", async (test) => {
  await inFolder(async (folder) => {
    const command = (name: string, ...args: string[]) => askProgram(name, args);
    const mounted = await command("mount", "-t", "tmpfs", "-o", "size=64k", "none", folder);
    await test.step({
      name: mounted.success ? "on a disk of 64 KiB" : "skipped: no right to mount a small disk",
      ignore: !mounted.success,
      fn: async () => {
        await save(folder, 1);
        const large = (path: string) =>
          writeTensors(path, [{ name: "w", shape: [32768] }], () => new Float32Array(32768), {});
        const full = /the disk is full; make room, then run again with --resume$/;
        const files = { [NAMES[0]]: filled(2), [NAMES[1]]: large };
        assert.match(await refusal(() => saveCheckpoint(folder, files)), full);
        assert.match(await refusal(() => large(join(folder, NAMES[0]))), full);
        const report = () => replaceFile(join(folder, "report.html"), "x".repeat(100_000));
        assert.match(await refusal(report), full);
        assert.equal(await loadedUpdate(folder), 1);
        assert.deepEqual((await readdir(folder)).sort(), NAMES);

        for (const unlucky of [0, 1]) {
          const saving = runRanks(2, async (group) => {
            const own = group.rank === unlucky ? large : filled(2);
            const files = NAMES.map((name, rank) => [name, rank === group.rank ? own : undefined]);
            await saveCheckpoint(folder, Object.fromEntries(files), { group });
          });
          assert.match(await refusal(() => saving), full);
          assert.equal(await loadedUpdate(folder), 1);
          await save(folder, 1);
          assert.deepEqual((await readdir(folder)).sort(), NAMES);
        }
      },
    });
    if (mounted.success) await command("umount", folder);
  });
});

Deno.test("a folder that cannot be written to is refused in one line", async () => {
  assert.match(await refusal(() => save("/dev/null/run", 1)), /part of the path is a file/);
});

Deno.test("a reader finds a file that is moved into place while it is opened", () =>
  inFolder(async (folder) => {
    const next = join(folder, "checkpoint.next"), name = "training.json";
    const commit = async (contents: string) => {
      await mkdir(next);
      await writeFile(join(next, name), contents);
    };
    const place = async () => {
      await rename(join(next, name), join(folder, name));
      await rm(next, { recursive: true });
    };
    await commit("first");
    const paths: string[] = [];
    const seen = await readNewest(folder, name, async (path) => {
      paths.push(path);
      if (paths.length === 1) await place();
      return await readFile(path, "utf8");
    });
    assert.equal(seen, "first");
    assert.deepEqual(paths, [join(next, name), join(folder, name)]);
    // What fails for another reason is not tried again.
    let times = 0;
    const failing = readNewest(folder, name, () => {
      times++;
      return Promise.reject(new Error("damaged"));
    });
    await assert.rejects(failing, /damaged/);
    assert.equal(times, 1);
  }));
