// What replaying a program promises: no new objects on the device, the same bits, shared memory, few kernels.

import assert from "node:assert/strict";
import { type ModelConfig, preset } from "../../../models/mod.ts";
import { initialize } from "../../../models/initialize.ts";
import {
  add,
  compile,
  type Device,
  dropout,
  gatherRows,
  grad,
  input,
  matmul,
  mul,
  openDevice,
  type Program,
  relu,
  reshape,
  runScalar,
  scalar,
  scale,
  state,
  StateMemory,
  sum,
  sumSquares,
  type Tensor,
  where,
} from "../../../ops/mod.ts";
import { writesOf } from "../../../ops/program/fuse.ts";
import { Random } from "../../../ops/graph/random.ts";
import { sizeOf } from "../../../ops/graph/tensor.ts";
import { metroObjective, namedSums, type PreparedBatch } from "../../../tasks/train/objective.ts";
import { Trainer, wholeUpdate } from "../../../tasks/train/trainer.ts";
import { sumTensors } from "../../../tasks/train/programs.ts";
import { gpuTest } from "../../gpu.ts";

const { model: tiny, objective: objectiveConfig, optimisation } = preset("tiny");
const MODEL: ModelConfig = {
  ...tiny,
  vocabSize: 96,
  sentinels: 32,
  dModel: 16,
  heads: 2,
  dFf: 32,
  encoderLayers: 1,
  decoderLayers: 1,
};
const ROWS = 2, LENGTH = 16;
const OBJECTIVE = metroObjective(MODEL, objectiveConfig, 1);

/** Runs a body on a device of its own. */
async function withDevice(body: (device: Device) => Promise<void>): Promise<void> {
  const device = await openDevice();
  try {
    await body(device);
    device.check();
  } finally {
    device.destroy();
  }
}

async function withTrainer(body: (trainer: Trainer, device: Device) => Promise<void>) {
  await withDevice(async (device) => {
    const trainer = new Trainer(device, MODEL, OBJECTIVE, optimisation, 1);
    trainer.initialize(initialize(MODEL, 1));
    await body(trainer, device);
    trainer.destroy();
  });
}

function batch(first: number): PreparedBatch {
  const random = new Random(first);
  const sequences = Array.from({ length: ROWS }, (_, i): [number, number] => [0, first + i]);
  return OBJECTIVE.prepare({
    epoch: 0,
    length: LENGTH,
    rows: ROWS,
    blocks: sequences.map(([, block]) => block),
    tokens: Uint32Array.from({ length: ROWS * LENGTH }, () => 4 + random.below(60)),
    lengths: new Uint32Array(ROWS).fill(LENGTH),
    realTokens: ROWS * LENGTH,
    sequences,
  });
}

/** State memory with small random numbers. */
function memoryOf(device: Device, shapes: Record<string, number[]>): StateMemory {
  const memory = new StateMemory(device, Object.entries(shapes), "test");
  const random = new Random(3);
  for (const name of memory.names) {
    const size = sizeOf(memory.shape(name));
    memory.write(name, Float32Array.from({ length: size }, () => random.uniform() - 0.5));
  }
  return memory;
}

const namesOf = (program: Program) => [...program.kernels];

gpuTest("updates after the first create no buffer and no kernel, and read nothing", async () => {
  await withTrainer(async (trainer, device) => {
    const step = (update: number) =>
      trainer.update(wholeUpdate([batch(2 * update), batch(2 * update + 1)]), {
        update,
        learningRate: 1e-3,
      });
    await step(0);
    await device.finish();
    const { buffersCreated, kernelCount, allocatedBytes } = device;
    for (let update = 1; update <= 50; update++) await step(update);
    const sums = await trainer.takeSums("train");
    assert.equal(device.buffersCreated, buffersCreated);
    assert.equal(device.kernelCount, kernelCount);
    assert.equal(device.allocatedBytes, allocatedBytes);
    assert.deepEqual(sums.badUpdate, [0]);
    for (const [name, all] of Object.entries(sums)) assert.ok(all.every(Number.isFinite), name);
  });
}, { seconds: 120 });

gpuTest("one key gives the same bits, another key another mask", async () => {
  await withDevice(async (device) => {
    const memory = memoryOf(device, { x: [32, 64] });
    const y = dropout(state("x", [32, 64]), 0.5, 7);
    const program = compile(device, { name: "mask", outputs: { y } }, {
      state: memory,
    });
    const run = async (key: number) => {
      program.run({ key });
      return await program.read("y");
    };
    const first = await run(11);
    assert.notDeepEqual(await run(12), first);
    assert.deepEqual(await run(11), first);
    program.destroy();
    memory.destroy();
  });
});

gpuTest("two trainers from one seed make the same bits", async () => {
  await withDevice(async (device) => {
    const weights: Float32Array[] = [];
    for (let run = 0; run < 2; run++) {
      const trainer = new Trainer(device, MODEL, OBJECTIVE, optimisation, 1);
      trainer.initialize(initialize(MODEL, 1));
      for (let update = 0; update < 3; update++) {
        await trainer.update(wholeUpdate([batch(update)]), { update, learningRate: 1e-3 });
      }
      weights.push(await trainer.parameters.read("embed.tokens"));
      trainer.destroy();
    }
    assert.deepEqual(weights[0], weights[1]);
  });
}, { seconds: 120 });

gpuTest("metric sums of equal micro-batches grow evenly", async () => {
  await withTrainer(async (trainer) => {
    const prepared = batch(1);
    // Evaluation: the same noise, no dropout, weights that stay.
    const sumsOf = async (times: number) => {
      for (let i = 0; i < times; i++) trainer.evaluate(prepared, 0);
      return await trainer.takeSums("heldout");
    };
    const once = await sumsOf(1), thrice = await sumsOf(3);
    for (const [name, values] of Object.entries(once)) {
      for (const [i, value] of values.entries()) {
        const after = thrice[name][i];
        const error = Math.abs(after - 3 * value);
        assert.ok(error <= 1e-5 * Math.abs(value), `${name}: ${value}, three times ${after}`);
      }
    }
  });
});

gpuTest(
  "metric sums go on from a checkpoint, also from one without sums of several numbers",
  async () => {
    await withTrainer(async (trainer) => {
      trainer.evaluate(batch(1), 0);
      const saved = await trainer.sums();
      const whole = await trainer.takeSums("heldout");
      trainer.restoreSums(saved);
      assert.deepEqual(await trainer.takeSums("heldout"), whole);

      const tensors = sumTensors(OBJECTIVE);
      const named = namedSums(tensors, saved[0]);
      const single = tensors.filter(([, shape]) => shape.length === 0);
      trainer.restoreSums([single.map(([name]) => named[name][0])]);
      for (const [name, values] of Object.entries(await trainer.takeSums("heldout"))) {
        assert.deepEqual(values, values.length === 1 ? whole[name] : values.map(() => 0), name);
      }
      assert.throws(() => trainer.restoreSums([[1, 2, 3]]), {
        name: "UserError",
        message: /got 3 metric sums/,
      });
    });
  },
);

gpuTest("intermediate values share memory", async () => {
  await withTrainer((trainer) => {
    const { steps, workspaceBytes } = trainer.program({ rows: ROWS, length: LENGTH }, true);
    const all = steps.flatMap(writesOf).reduce((bytes, t) => bytes + 4 * sizeOf(t.shape), 0);
    assert.ok(workspaceBytes > 0);
    assert.ok(workspaceBytes < all / 2, `${workspaceBytes} of ${all} bytes`);
    return Promise.resolve();
  });
});

gpuTest("a chain of layers needs the memory of a few", async () => {
  await withDevice((device) => {
    const layers = 12, shape = [128, 64];
    const shapes = Object.fromEntries(
      Array.from({ length: layers }, (_, i) => [`w${i}`, [64, 64]]),
    );
    const memory = memoryOf(device, { x: shape, ...shapes });
    let y: Tensor = state("x", shape);
    for (let i = 0; i < layers; i++) y = relu(matmul(y, state(`w${i}`, [64, 64])));
    const program = compile(device, { name: "chain", outputs: { y } }, {
      state: memory,
    });
    assert.equal(program.kernels.length, layers);
    assert.ok(program.workspaceBytes <= 3 * 4 * sizeOf(shape), `${program.workspaceBytes} bytes`);
    program.destroy();
    memory.destroy();
    return Promise.resolve();
  });
});

gpuTest("a linear layer with bias, ReLU, dropout and residual is one kernel", async () => {
  await withDevice((device) => {
    const memory = memoryOf(device, { x: [32, 64], w: [64, 64], b: [64] });
    const x = state("x", [32, 64]), w = state("w", [64, 64]), b = state("b", [64]);
    const linear = add(matmul(x, w), b);
    const graphs = { relu: relu(linear), residual: add(x, dropout(linear, 0.1, 1)) };
    for (const [name, y] of Object.entries(graphs)) {
      const program = compile(device, { name, outputs: { y } }, {
        state: memory,
      });
      assert.equal(program.kernels.length, 1, `${name}: ${namesOf(program)}`);
      assert.match(program.kernels[0], /^matmul/);
      program.destroy();
    }
    memory.destroy();
    return Promise.resolve();
  });
});

gpuTest("gradients are added to their accumulators in place", async () => {
  await withDevice(async (device) => {
    const memory = memoryOf(device, { w: [64, 32], "grad w": [64, 32] });
    const before = await memory.read("grad w");
    const x = input("x", [16, 64]), w = state("w", [64, 32]), total = state("grad w", [64, 32]);
    const loss = sum(mul(matmul(x, w), runScalar("scale")));
    const [next] = grad(loss, [w], [mul(total, runScalar("keep"))]);
    const program = compile(device, { name: "accumulate", updates: [[total, next]] }, {
      state: memory,
    });
    assert.ok(!namesOf(program).includes("copy"), `${namesOf(program)}`);

    const ones = new Float32Array(16 * 64).fill(1);
    program.run({ inputs: { x: ones }, scalars: { scale: 0.5, keep: 1 } });
    const added = await memory.read("grad w");
    for (const [i, g] of added.entries()) assert.ok(Math.abs(g - before[i] - 8) < 1e-4);
    program.run({ scalars: { scale: 0.5, keep: 0 } });
    for (const g of await memory.read("grad w")) assert.equal(g, 8);
    program.destroy();
    memory.destroy();
  });
});

gpuTest("a training program has no copies and a few dispatches per layer", async () => {
  await withTrainer((trainer) => {
    const names = namesOf(trainer.program({ rows: ROWS, length: LENGTH }, true));
    assert.ok(!names.includes("copy"));
    // An auxiliary layer, an encoder layer, a decoder layer, three heads and three embeddings.
    assert.ok(names.length < 320, `${names.length} dispatches`);
    return Promise.resolve();
  });
});

gpuTest("updates read what the run before has left, whatever their order", async () => {
  await withDevice(async (device) => {
    const shape = [8, 16], names = ["a", "b", "c"];
    const memory = memoryOf(device, { a: shape, b: shape, c: shape });
    const [a, b, c] = names.map((name) => state(name, shape));
    const more = add(a, scalar(1));
    type Values = Record<string, number>;
    const cases: [[Tensor, Tensor][], (v: Values) => Values][] = [
      [[[b, add(b, scalar(1))], [a, b]], ({ b, c }) => ({ a: b, b: b + 1, c })],
      [[[a, b], [b, add(a, c)], [c, b]], ({ a, b, c }) => ({ a: b, b: a + c, c: b })],
      [[[a, more], [b, scale(a, 2)], [c, more]], ({ a }) => ({ a: a + 1, b: 2 * a, c: a + 1 })],
    ];
    for (const [i, [updates, expected]] of cases.entries()) {
      const program = compile(device, { name: `case ${i}`, updates }, {
        state: memory,
      });
      const before = await Promise.all(names.map((name) => memory.read(name)));
      program.run();
      const after = await Promise.all(names.map((name) => memory.read(name)));
      for (let k = 0; k < sizeOf(shape); k++) {
        const values = expected({ a: before[0][k], b: before[1][k], c: before[2][k] });
        for (const [n, name] of names.entries()) {
          assert.ok(Math.abs(after[n][k] - values[name]) < 1e-5, `case ${i}: ${name}[${k}]`);
        }
      }
      program.destroy();
    }
    const swap = { name: "swap", updates: [[a, b], [b, a]] as [Tensor, Tensor][] };
    assert.throws(
      () => compile(device, swap, { state: memory }),
      /a, b would exchange/,
    );
    memory.destroy();
  });
});

gpuTest(
  "a state whose rows go on from other rows of itself reads them all before it is written",
  async () => {
    await withDevice(async (device) => {
      const rows = 6, slots = 5, width = 8, size = rows * slots * width;
      const memory = memoryOf(device, { cache: [rows, slots, width] });
      const before = await memory.read("cache");
      const cache = state("cache", [rows, slots, width]);
      const origins = input("origins", [rows, slots], "u32"),
        here = input("here", [rows, slots, 1]);
      const moved = gatherRows(reshape(cache, [rows * slots, width]), origins);
      const programOf = (kept: Tensor) =>
        compile(device, {
          name: "cache",
          outputs: { total: sum(cache) },
          updates: [[cache, where(here, scalar(7), kept)]],
        }, { state: memory });

      const parents = [1, 0, 0, 5, 3, 2];
      const inputs = {
        origins: Uint32Array.from(
          { length: rows * slots },
          (_, i) => parents[Math.floor(i / slots)] * slots + i % slots,
        ),
        here: Float32Array.from({ length: rows * slots }, (_, i) => i % slots === 3 ? 1 : 0),
      };
      const program = programOf(moved);
      program.run({ inputs });
      const after = await memory.read("cache");
      for (let i = 0; i < size; i++) {
        const row = Math.floor(i / slots / width), slot = Math.floor(i / width) % slots;
        const from = i + (parents[row] - row) * slots * width;
        assert.equal(after[i], slot === 3 ? 7 : before[from]);
      }
      const [total] = await program.read("total");
      assert.ok(Math.abs(total - before.reduce((x, y) => x + y)) < 1e-3);

      // Rows that stay where they are need no second copy of the state.
      const inPlace = programOf(cache);
      assert.ok(!namesOf(inPlace).includes("copy"), `${namesOf(inPlace)}`);
      inPlace.run({ inputs: { here: inputs.here.map((x) => 1 - x) } });
      for (const value of await memory.read("cache")) assert.equal(value, 7);
      for (const p of [program, inPlace]) p.destroy();
      memory.destroy();
    });
  },
);

gpuTest(
  "a run in parts computes what a run does; what is said to be written then, is",
  async () => {
    await withDevice(async (device) => {
      const shapes = { w: [40, 24], u: [24, 40], gw: [40, 24], gu: [24, 40], x: [16, 40] };
      const memory = memoryOf(device, shapes);
      const [w, u, gw, gu, x] = Object.entries(shapes).map(([name, shape]) => state(name, shape));
      const loss = sumSquares(matmul(relu(matmul(x, w)), u));
      const grads = grad(loss, [w, u]);
      const program = compile(device, {
        name: "parts",
        updates: [[gw, grads[0]], [gu, grads[1]]],
      }, { state: memory });
      const names = ["gw", "gu"];
      program.run();
      const expected = await Promise.all(names.map((name) => memory.read(name)));
      for (const [i, name] of names.entries()) {
        memory.write(name, new Float32Array(expected[i].length));
      }
      const ends = names.map((name) => program.written.get(name)!);
      // The gradient of the last weight is there first.
      assert.ok(0 < ends[1] && ends[1] < ends[0] && ends[0] <= program.kernels.length);
      const parts = program.runInParts({}, [ends[1], ends[0]]);
      for (const i of [1, 0]) {
        assert.equal(parts.next().value, ends[i]);
        assert.deepEqual(await memory.read(names[i]), expected[i]);
      }
      assert.deepEqual([...parts], [program.kernels.length]);
      program.destroy();
      memory.destroy();
    });
  },
);

gpuTest("a readback takes several windows at once, while the next work is submitted", async () => {
  await withDevice(async (device) => {
    const memory = memoryOf(device, { a: [256], b: [128], c: [64] });
    const values = await Promise.all(["a", "b", "c"].map((name) => memory.read(name)));
    const readback = device.createReadback(4 * 384, "test");
    const bytes = readback.read([memory.view("b"), memory.view("a")]);
    memory.write("a", new Float32Array(256));
    assert.deepEqual([...new Float32Array(await bytes)], [...values[1], ...values[0]]);
    assert.deepEqual(new Float32Array(await readback.read([memory.view("c")])), values[2]);
    assert.throws(() => readback.read([memory.slab(0)]), /test: a read of \d+ bytes, but 1536 fit/);
    readback.destroy();
    memory.destroy();
  });
});
