// The CPU as a device: threads, the queue of commands, memory of both kinds, failures.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import process from "node:process";
import { type CpuDevice, type CpuOptions, openCpuDevice } from "../../../ops/cpu/device.ts";
import { i32, v } from "../../../ops/cpu/assembler.ts";
import type { CpuLaunch } from "../../../ops/cpu/kernel.ts";
import { idleTime } from "../../../ops/cpu/queue.ts";
import {
  add,
  attention,
  compile,
  crossEntropy,
  dropout,
  grad,
  input,
  layerNorm,
  matmul,
  mul,
  relu,
  scalar,
  scale,
  state,
  StateMemory,
  sub,
  sum,
  type Tensor,
} from "../../../ops/mod.ts";
import { runOn, valuesFor } from "../run.ts";

/** A training step of a small model, with everything in it that sums in an order. */
function step(): { outputs: Tensor[]; updates: [Tensor, Tensor][] } {
  const x = input("x", [3, 40, 32]), w = state("w", [32, 64]), u = state("u", [64, 32]);
  const gain = state("gain", [32]), bias = state("bias", [32]), table = state("table", [301, 32]);
  const mask = input("mask", [3, 40], "u32"), targets = input("targets", [3, 40], "u32");
  let h = dropout(matmul(relu(matmul(x, w)), u), 0.1, 3);
  h = attention(h, h, h, mask, { heads: 4, dropout: 0.1, stream: 9, causal: true });
  h = layerNorm(add(h, x), gain, bias, 1e-5);
  const { nll } = crossEntropy(h, table, targets);
  const loss = scale(sum(nll), 1 / 120), parameters = [w, u, gain, bias, table];
  const updates = grad(loss, parameters).map((g, i): [Tensor, Tensor] => {
    return [parameters[i], sub(parameters[i], mul(g, scalar(0.1)))];
  });
  return { outputs: [loss], updates };
}

async function stepOn(options: CpuOptions): Promise<(Float32Array | Uint32Array)[]> {
  const device = await openCpuDevice(options);
  const graph = step();
  const all = [...graph.outputs, ...graph.updates.map(([, value]) => value)];
  const values = valuesFor(all, 300);
  values.mask.fill(1);
  const results = await runOn(device, { ...graph, values });
  device.destroy();
  return results;
}

Deno.test("the bits depend neither on the threads nor on the width of addresses", async () => {
  const one = await stepOn({ threads: 1 });
  for (const options of [{ threads: 2 }, { threads: 5 }, { threads: 2, wide: true }]) {
    assert.deepEqual(await stepOn(options), one);
  }
});

/** y = x + 1, many times over: work that takes a while. */
function counting(device: CpuDevice, turns: number) {
  const size = 1 << 14;
  const memory = new StateMemory(device, [["x", [size]]], "numbers");
  const x = state("x", [size]);
  let y: Tensor = x;
  // Sums cannot be fused into one another.
  for (let i = 0; i < turns; i++) y = add(y, scale(sum(scale(y, 0)), 1));
  const program = compile(device, { name: "count", updates: [[x, add(y, scalar(1))]] }, {
    state: memory,
  });
  return { program, memory, size };
}

Deno.test("writes, runs, copies and reads take effect in the order of the calls", async () => {
  const device = await openCpuDevice({ threads: 2 });
  const { program, memory, size } = counting(device, 20);
  const copies = device.createBuffer(4 * 400, "copies");
  const host = new Float32Array(size);
  for (let i = 0; i < 400; i++) {
    host.fill(i);
    // 26 MB in all pass through the staging area while the threads work.
    memory.write("x", host);
    program.run();
    device.copy({ ...memory.view("x"), size: 4 }, copies, 4 * i);
  }
  const got = new Float32Array(await device.read(copies, 0, 1600));
  assert.deepEqual([...got], Array.from({ length: 400 }, (_, i) => i + 1));
  device.destroy();
});

Deno.test("a read shows memory as it was at the call, whatever runs afterwards", async () => {
  const device = await openCpuDevice({ threads: 2 });
  const { program, memory } = counting(device, 50);
  const readback = device.createReadback(16, "test");
  const reads: Promise<ArrayBuffer>[] = [];
  for (let i = 0; i < 5; i++) {
    program.run();
    reads.push(device.createReadback(16, "test").read([{ ...memory.view("x"), size: 16 }]));
  }
  const last = readback.read([{ ...memory.view("x"), size: 16 }]);
  program.run();
  for (const [i, read] of reads.entries()) assert.equal(new Float32Array(await read)[0], i + 1);
  assert.equal(new Float32Array(await last)[0], 5);
  assert.equal((await memory.read("x"))[0], 6);
  device.destroy();
});

Deno.test("memory that is taken again holds zeros, even while the threads use it", async () => {
  const device = await openCpuDevice({ threads: 2 });
  const { program, memory } = counting(device, 50);
  program.run();
  for (let i = 0; i < 5; i++) {
    const buffer = device.createBuffer(1 << 16, "again");
    assert.deepEqual(new Float32Array(await device.read(buffer, 0, 64)), new Float32Array(16));
    program.run();
    device.copy(memory.view("x"), buffer, 0);
    device.destroyBuffer(buffer);
  }
  device.destroy();
});

/** Waits until no thread is left; they end by themselves. */
async function untilAlone(device: CpuDevice): Promise<void> {
  while (device.threadsAlive > 0) await new Promise((resolve) => setTimeout(resolve, 5));
}

Deno.test("threads without work end, and start again where they were", async () => {
  const device = await openCpuDevice({ threads: 3, idle: 1 });
  const { program, memory } = counting(device, 10);
  for (let i = 1; i <= 4; i++) {
    program.run();
    if (i % 2 === 0) program.run();
    await device.finish();
    await untilAlone(device);
  }
  assert.equal((await memory.read("x"))[5], 6);
  device.destroy();
});

Deno.test("threads that are started again and again stay longer each time, up to half a minute", () => {
  assert.deepEqual([0, 1, 2, 5, 6, 99].map((starts) => idleTime(1000, starts)), [
    ...[1000, 2000, 4000, 32_000, 32_000, 32_000],
  ]);
});

Deno.test("a process that forgets to destroy its device ends all the same", () => {
  const at = (path: string) => new URL(`../../../${path}`, import.meta.url).href;
  const code = `import { openDevice } from "${at("ops/mod.ts")}";
    const device = await openDevice({ adapter: "cpu", threads: 2 });
    const a = device.createBuffer(1024, "a");
    device.copy({ buffer: a, offset: 0, size: 512 }, a, 512);
    await device.finish();
    console.log("done");`;
  const { stdout, status } = spawnSync(process.execPath, ["eval", code], { encoding: "utf8" });
  assert.equal(stdout, "done\n");
  assert.equal(status, 0);
});

Deno.test("past 4 GiB, or what stands for it, addresses get 64 bits and work goes on", async () => {
  const device = await openCpuDevice({ threads: 2, narrowBytes: 80 << 20 });
  const { program, memory } = counting(device, 5);
  program.run();
  assert.equal(device.isWide, false);
  const kernels = device.kernelCount;
  const large = device.createBuffer(96 << 20, "large");
  assert.equal(device.isWide, true);
  program.run();
  const other = counting(device, 5);
  other.program.run();
  device.copy({ ...memory.view("x"), size: 4 }, large, large.size - 4);
  assert.equal(new Float32Array(await device.read(large, large.size - 4, 4))[0], 2);
  assert.equal((await other.memory.read("x"))[0], 1);
  assert.equal(device.kernelCount, kernels);
  device.destroy();
});

Deno.test("after the first update nothing is made: no buffer, no kernel", async () => {
  const device = await openCpuDevice({ threads: 2 });
  const { program } = counting(device, 5);
  program.run();
  const before = [device.buffersCreated, device.kernelCount, device.allocatedBytes];
  for (let i = 0; i < 500; i++) program.run();
  await device.finish();
  assert.deepEqual([device.buffersCreated, device.kernelCount, device.allocatedBytes], before);
  device.destroy();
});

Deno.test("a kernel that reads outside of the memory is an error with its name", async () => {
  const device = await openCpuDevice({ threads: 2 });
  const launch: CpuLaunch = {
    name: "astray",
    operands: [{}],
    params: [],
    items: 1,
    source: {
      key: "astray",
      operands: 1,
      emit(k) {
        k.items(() => {
          const far = k.f.plus(k.operand(0), i32.const(0x7ffffff0));
          k.f.store(k.operand(0), v.load(far));
        });
      },
    },
  };
  const buffer = device.createBuffer(64, "small");
  const views = [{ buffer, offset: 0, size: 64 }];
  device.submit(device.prepare("test", [{ launch, views }]));
  await assert.rejects(device.finish(), /kernel astray: .*out of bounds/);
  assert.throws(() => device.check(), /kernel astray/);
  device.destroy();
});

Deno.test("mistakes are told in one line", async () => {
  for (const threads of [0, -1, 1.5, 1000]) {
    assert.throws(() => openCpuDevice({ threads }), {
      name: "UserError",
      message: `threads: expected an integer from 1 to 256, got ${threads}`,
    });
  }
  const device = await openCpuDevice({ threads: 1, memoryBytes: 100 << 20 });
  assert.throws(() => device.createBuffer(101 << 20, "parameters"), {
    name: "UserError",
    message: /^parameters needs 101 MiB beside the 4 MiB in use, but there are 100 MiB of memory: /,
  });
  const buffer = device.createBuffer(16, "b");
  assert.throws(() => device.write(buffer, 8, new Float32Array(3)), RangeError);
  assert.throws(() => device.read(buffer, 0, 32), RangeError);
  device.destroy();
});
