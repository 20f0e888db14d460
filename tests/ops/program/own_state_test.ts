// A program that is given no memory makes its own; one that is given some shares it.

import assert from "node:assert/strict";
import {
  add,
  compile,
  type Device,
  grad,
  input,
  matmul,
  openDevice,
  relu,
  scalar,
  scale,
  state,
  StateMemory,
  sub,
  sumSquares,
} from "../../../ops/mod.ts";

async function withDevice(body: (device: Device) => Promise<void>): Promise<void> {
  const device = await openDevice({ adapter: "cpu", threads: 1 });
  try {
    const own = device.allocatedBytes;
    await body(device);
    device.check();
    assert.equal(device.allocatedBytes, own, "everything was freed");
  } finally {
    device.destroy();
  }
}

Deno.test("a program's own state starts as zeros, is written, updated and read", () =>
  withDevice(async (device) => {
    const total = state("total", [3]), x = input("x", [3]);
    const program = compile(device, {
      name: "count",
      outputs: { twice: add(total, total) },
      updates: [[total, add(total, x)]],
    });
    assert.deepEqual(await program.read("total"), new Float32Array(3));
    program.write("total", Float32Array.of(1, 2, 3));
    program.run({ inputs: { x: Float32Array.of(10, 20, 30) } });
    assert.deepEqual(await program.read("total"), Float32Array.of(11, 22, 33));
    assert.deepEqual(await program.read("twice"), Float32Array.of(2, 4, 6));
    program.destroy();
  }));

Deno.test("states of one name are one memory, and must have one shape", () =>
  withDevice(async (device) => {
    const sum = add(state("w", [2]), state("w", [2]));
    const program = compile(device, { name: "twins", outputs: { sum } });
    program.write("w", Float32Array.of(1, 2));
    program.run();
    assert.deepEqual(await program.read("sum"), Float32Array.of(2, 4));
    program.destroy();
    const spec = { name: "no twins", outputs: { sum: add(state("w", [2]), state("w", [1])) } };
    assert.throws(() => compile(device, spec), /state w: has two shapes, \[2\] and \[1\]/);
  }));

Deno.test("what was given is shared, and outlives the program", () =>
  withDevice(async (device) => {
    const n = state("n", []);
    const memory = new StateMemory(device, [["n", []]], "shared");
    const up = compile(device, { name: "up", updates: [[n, add(n, scalar(1))]] }, {
      state: memory,
    });
    const down = compile(device, { name: "down", updates: [[n, sub(n, scalar(3))]] }, {
      view: (name) => memory.view(name),
    });
    up.write("n", Float32Array.of(5));
    up.run();
    down.run();
    assert.deepEqual(await down.read("n"), Float32Array.of(3));
    up.destroy();
    down.destroy();
    assert.deepEqual(await memory.read("n"), Float32Array.of(3));
    memory.destroy();
  }));

Deno.test("a wrong name, or a wrong number of values, is refused", () =>
  withDevice(async (device) => {
    const w = state("w", [2]);
    const program = compile(device, { name: "step", outputs: { w2: scale(w, 2) } });
    assert.throws(() => program.write("v", new Float32Array(2)), {
      message: "step has no state v",
    });
    assert.throws(() => program.write("w", new Float32Array(3)), {
      name: "RangeError",
      message: "w: 3 values for 2 elements",
    });
    await assert.rejects(program.read("v"), { message: "step has no output or state v" });
    program.destroy();
  }));

Deno.test("a network of two layers is fitted in a few lines", () =>
  withDevice(async (device) => {
    const x = input("x", [16, 4]), y = input("y", [16, 1]);
    const w1 = state("w1", [4, 8]), w2 = state("w2", [8, 1]);
    const loss = sumSquares(sub(matmul(relu(matmul(x, w1)), w2), y));
    const weights = [w1, w2], gradients = grad(loss, weights);
    const step = compile(device, {
      name: "step",
      outputs: { loss },
      updates: weights.map((w, i) => [w, sub(w, scale(gradients[i], 1e-3))]),
    });
    const wave = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(7 * i + 1));
    step.write("w1", wave(32));
    step.write("w2", wave(8));
    const inputs = { x: wave(64), y: new Float32Array(16).fill(1) };
    step.run({ inputs });
    const [before] = await step.read("loss");
    for (let i = 0; i < 100; i++) step.run({ inputs });
    const [after] = await step.read("loss");
    assert.ok(after < before / 2, `${before} → ${after}`);
    step.destroy();
  }));
