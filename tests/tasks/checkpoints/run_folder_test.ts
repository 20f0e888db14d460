// Checkpoints of one rank and of several. Which rank has what, and which file, is the question: so weights and
// moments lie in ordinary memory, but for one test with trainers.
import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import { seq2seqObjective } from "../../../tasks/train/objective.ts";
import { optimizerFiles } from "../../../tasks/checkpoints/optimizer.ts";
import { alone, type Communicator } from "../../../tasks/parallel/communicator.ts";
import { expectMarks, marksOf } from "../../../tasks/checkpoints/own_files.ts";
import {
  readOwnConfig,
  restoreRun,
  saveRun,
  type Trained,
} from "../../../tasks/checkpoints/run_folder.ts";
import { writeJson } from "../../../tasks/files/json.ts";
import { Trainer } from "../../../tasks/train/trainer.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { fuzzJson } from "../../fuzz.ts";
import { runRanks } from "../local_group.ts";
import { T5 } from "../small_checkpoint.ts";
import { assertFilled, fill, trained } from "./trained_slices.ts";

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "run-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Saves as a number of ranks; `prepare` may spoil what a rank has. */
async function save(
  run: string,
  size: number,
  update: number,
  prepare: (share: Trained, group: Communicator) => void = () => {},
): Promise<void> {
  await runRanks(size, async (group) => {
    const share = trained(size, group.rank);
    fill(share, update);
    prepare(share, group);
    await saveRun(run, share, { update, rank: group.rank } as { update: number }, group);
  });
}

/** Restores as a number of ranks, and checks every value. */
async function restoredUpdate(run: string, size: number): Promise<number> {
  const states = await runRanks(size, async (group) => {
    const share = trained(size, group.rank);
    const state = await restoreRun<{ update: number; rank: number }>(run, share, group);
    assert.deepEqual(state, { update: state.update, rank: 0 });
    await assertFilled(share, state.update);
    return state.update;
  });
  assert.deepEqual(states, states.map(() => states[0]));
  return states[0];
}

const namesOf = (size: number) =>
  ["model.safetensors", ...optimizerFiles(size), "training.json"].sort();

async function refusal(work: () => Promise<unknown>): Promise<string> {
  const error = await work().then(() => undefined, (error) => error);
  assert.ok(error instanceof UserError, `expected a UserError, got ${error?.stack}`);
  assert.ok(!error.message.includes("\n"));
  return error.message;
}

Deno.test("what some ranks saved, others restore, and files of another number of ranks are gone", () =>
  inFolder(async (run) => {
    for (const [update, [writers, readers]] of [[1, 1], [3, 1], [2, 4], [1, 5], [4, 3]].entries()) {
      await save(run, writers, update);
      assert.deepEqual((await readdir(run)).sort(), namesOf(writers));
      assert.equal(await restoredUpdate(run, readers), update);
    }
  }));

Deno.test("one rank writes whole tensors under their shapes, as it always has", () =>
  inFolder(async (run) => {
    await save(run, 1, 7);
    const share = trained(1, 0);
    fill(share, 7);
    const specs = ["mean", "square"].flatMap((kind) =>
      Array.from(share.shapes, ([name, shape]) => ({ name: `${kind}.${name}`, shape }))
    );
    const path = join(run, "expected");
    const read = { mean: share.momentReader("mean"), square: share.momentReader("square") };
    await writeTensors(path, specs, (stored) => {
      const [, kind, name] = /^(mean|square)\.(.*)$/.exec(stored)!;
      const slice = share.slices.find((slice) => slice.name === name)!;
      return read[kind as "mean" | "square"](slice);
    }, { update: "7", format: "pt" });
    assert.deepEqual(await readFile(join(run, "optimizer.safetensors")), await readFile(path));
  }));

Deno.test("a checkpoint that does not name its optimizer file has the one of old", () =>
  inFolder(async (run) => {
    await save(run, 1, 2);
    await writeFile(join(run, "training.json"), '{"update":2,"rank":0}\n');
    assert.equal(await restoredUpdate(run, 1), 2);
    assert.equal(await restoredUpdate(run, 3), 2);
  }));

Deno.test("optimizer files that training.json does not name are not read, and the next save removes them", () =>
  inFolder(async (run) => {
    await save(run, 2, 1);
    // What a kill after the commit leaves of an earlier checkpoint, besides what is not ours.
    for (const name of ["optimizer.safetensors", ...optimizerFiles(3), "optimizer.txt"]) {
      await writeFile(join(run, name), "of another update");
    }
    assert.equal(await restoredUpdate(run, 3), 1);
    await save(run, 2, 2);
    assert.deepEqual((await readdir(run)).sort(), [...namesOf(2), "optimizer.txt"].sort());
  }));

Deno.test("a rank that cannot write leaves the last checkpoint, and its error is the news", () =>
  inFolder(async (run) => {
    for (const size of [1, 3]) {
      await save(run, size, 1);
      for (let lost = 0; lost < size; lost++) {
        const failing = save(run, size, 2, (share, { rank }) => {
          if (rank === lost) {
            share.momentReader = () => () => Promise.reject(new Error("device lost"));
          }
        });
        await assert.rejects(failing, /device lost/);
        assert.equal(await restoredUpdate(run, 2), 1);
      }
      await save(run, size, 3);
      assert.deepEqual((await readdir(run)).sort(), namesOf(size));
    }
  }));

Deno.test("ranks that do not share the folder are told so", () =>
  inFolder(async (run) => {
    const saving = runRanks(2, async (group) => {
      const share = trained(2, group.rank);
      await saveRun(join(run, `machine-${group.rank}`), share, { update: 1 }, group);
    });
    assert.match(
      await refusal(() => saving),
      /machine-1.checkpoint\.tmp: expected the folder that rank 0 has just made, found nothing; put/,
    );
  }));

Deno.test("every rank gives signs of life while it saves and restores", () =>
  inFolder(async (run) => {
    const signs = await runRanks(2, async (group) => {
      const said = new Map<string, number>();
      const alive = (doing: string) => void said.set(doing, (said.get(doing) ?? 0) + 1);
      const share = trained(2, group.rank);
      fill(share, 4);
      await saveRun(run, share, { update: 4 }, { ...group, alive });
      await restoreRun(run, share, { ...group, alive });
      return { said, slices: share.slices.filter(({ from, to }) => from < to).length };
    });
    for (const { said, slices } of signs) {
      assert.ok(said.get("saving update 4")! >= 2 * slices);
      assert.ok(said.get("restoring update 4")! >= 2 * slices);
    }
  }));

Deno.test("files that do not belong together are refused in one line that names one", () =>
  inFolder(async (run) => {
    const [first, second] = optimizerFiles(2);
    const restore = () => refusal(() => restoredUpdate(run, 3));
    assert.match(await restore(), /the run has no checkpoint yet/);

    await save(run, 2, 1);
    const old = await readFile(join(run, second));
    await save(run, 2, 2);
    const good = await readFile(join(run, second));

    await writeFile(join(run, second), old);
    assert.match(await restore(), /optimizer-00002-of-00002\.safetensors of update 1\); put back/);

    await rm(join(run, second));
    assert.match(await restore(), /optimizer-00002-of-00002\.safetensors: cannot be read: no such/);

    const damaged = Uint8Array.from(good);
    damaged[damaged.length - 1] ^= 1;
    await writeFile(join(run, second), damaged);
    assert.match(
      await restore(),
      /optimizer-00002-of-00002\.safetensors: cannot be used: the bytes/,
    );

    await writeFile(join(run, second), good);
    assert.equal(await restoredUpdate(run, 3), 2);
    const training = join(run, "training.json");
    await writeFile(training, JSON.stringify({ update: 3, rank: 0, optimizer: [first, second] }));
    assert.match(await restore(), /training\.json is of update 3, but the weights are of another/);
    await writeFile(training, JSON.stringify({ update: 2, rank: 0, optimizer: [first] }));
    assert.match(await restore(), /optimizer-00001-of-00002\.safetensors: has no tensor/);
    await writeFile(training, JSON.stringify({ update: 2, rank: 0, optimizer: [first, first] }));
    assert.match(await restore(), /overlaps/);
    for (
      const optimizer of [[], null, ["../optimizer.safetensors"], [1], "optimizer.safetensors"]
    ) {
      await writeFile(training, JSON.stringify({ update: 2, optimizer }));
      assert.match(await restore(), /training\.json: optimizer: expected a list of names such as/);
    }
    await writeFile(training, "[]");
    assert.match(await restore(), /training\.json: expected an object, got \[\]/);
    await writeFile(training, '{"update":"2"}');
    assert.match(
      await restore(),
      /training\.json: update: expected a whole number of at least 0, got 2/,
    );
  }));

Deno.test("training.json that was cut or edited is refused in one line, whatever the field", () =>
  inFolder(async (run) => {
    const share = trained(1, 0);
    fill(share, 3);
    const state = { update: 3, rank: 0 }, marks = marksOf({}, "hash");
    await saveRun(run, share, state, alone(), marks);
    const path = join(run, "training.json");
    const { refused } = await fuzzJson(
      JSON.parse(await readFile(path, "utf8")),
      200,
      async (text) => {
        await writeFile(path, text);
        assert.equal(await restoredUpdate(run, 1), 3);
      },
    );
    assert.ok(refused > 100, String(refused));
  }));

Deno.test("config.json and tokenizer.json go with the weights; a run may be told to go on for longer", () =>
  inFolder(async (run) => {
    const config = { updates: 4, scheduleUpdates: 6, dropout: 0.1, text: ["a"] };
    const share = trained(1, 0);
    fill(share, 4);
    await saveRun(run, share, { update: 4, config } as { update: number }, alone(), {
      ...marksOf(config, "hash"),
    });
    const path = join(run, "config.json"), write = (to: unknown) => writeJson(path, to);
    const own = () => readOwnConfig(run, "no run");
    await write(config);
    assert.deepEqual(await own(), config);
    const longer = { text: ["a"], dropout: 0.1, updates: 6, scheduleUpdates: 6 };
    for (const further of [longer, { ...longer, updates: 9, scheduleUpdates: 9 }]) {
      await write(further);
      assert.deepEqual(await own(), further);
    }
    const put = "when the checkpoint was saved; put it back";
    const edits: [object, string][] = [
      [{ ...config, dropout: 0.2 }, `dropout is 0.2, but was 0.1 ${put}`],
      [{ ...config, updates: 7 }, `updates is 7, but was 4 ${put}, or raise updates, and`],
      [{ ...config, updates: 3 }, `updates is 3, but was 4 ${put}, or raise updates, and`],
      [{ ...config, scheduleUpdates: 9 }, `scheduleUpdates is 9, but was 6 ${put}, or raise`],
      [{ ...longer, scheduleUpdates: 5, updates: 5 }, `updates is 5, but was 4 ${put}`],
      [{ ...longer, updates: "6" }, `updates is 6, but was 4 ${put}`],
      [{ ...longer, seed: 1 }, `seed is 1, but was nothing ${put}`],
      [{ updates: 4, scheduleUpdates: 6, dropout: 0.1 }, `text is nothing, but was ["a"] ${put}`],
    ];
    for (const [edited, message] of edits) {
      await write(edited);
      const said = await refusal(own);
      assert.ok(said.startsWith(`${path}: ${message}`), said);
    }
    for (const other of [null, [], "config", 3]) {
      await write(other);
      assert.match(await refusal(own), /config\.json: expected an object, got /);
    }
  }));

Deno.test("weights name the setting that was changed since, if training.json can tell it", async () => {
  const config = { dropout: 0.1, updates: 3 }, marks = marksOf(config, "hash");
  const look = (to: Record<string, unknown>, hash: string, saved?: object) =>
    expectMarks("run", to, hash, marks, () => Promise.resolve(saved as Record<string, unknown>));
  await look({ updates: 5, dropout: 0.1 }, "hash");
  await expectMarks("run", { any: 1 }, "hash", {}, () => Promise.reject(new Error("not asked")));
  const edited = { ...config, dropout: 0.3 };
  assert.match(await refusal(() => look(edited, "hash", config)), /dropout is 0\.3, but was 0\.1/);
  assert.match(
    await refusal(() => look(edited, "hash")),
    /config\.json: was changed since the wei/,
  );
  assert.match(await refusal(() => look(config, "other")), /tokenizer\.json: was changed since/);
});

cpuTest("what the trainers of three ranks saved, those of two and of one restore", async () => {
  const device = await openTestDevice();
  const adamw = { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weightDecay: 0, clipNorm: 1 };
  const asTrainers = (
    size: number,
    work: (trainer: Trainer, group: Communicator) => Promise<void>,
  ) =>
    runRanks(size, async (group) => {
      const trainer = new Trainer(device, T5, seq2seqObjective(T5, 0), adamw, 1, group);
      await work(trainer, group);
      trainer.destroy();
    });
  await inFolder(async (run) => {
    await asTrainers(3, async (trainer, group) => {
      fill(trainer, 5);
      await saveRun(run, trainer, { update: 5 }, group);
    });
    for (const size of [2, 1]) {
      await asTrainers(size, async (trainer, group) => {
        assert.deepEqual(await restoreRun(run, trainer, group), { update: 5 });
        await assertFilled(trainer, 5);
      });
    }
  });
  device.destroy();
});
