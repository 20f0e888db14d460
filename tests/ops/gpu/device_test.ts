// What the wrapper around WebGPU promises beyond the interface.

import assert from "node:assert/strict";
import { type GpuDevice, isFallback } from "../../../ops/gpu/device.ts";
import type { Dispatch, GpuLaunch } from "../../../ops/gpu/kernel.ts";
import { openDevice, UserError } from "../../../ops/mod.ts";
import { gpuTest } from "../../gpu.ts";
import { runKernels } from "./run_kernels.ts";

const open = async () => await openDevice({ adapter: "software" }) as GpuDevice;

/** y = 2·x, for 64 numbers. */
const DOUBLE: Dispatch = {
  source: {
    name: "double",
    bindings: [
      { name: "x", type: "array<f32>", access: "read" },
      { name: "y", type: "array<f32>", access: "read_write" },
    ],
    params: ["n"],
    body: `@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x < P.n) { y[id.x] = 2.0 * x[id.x]; }
}`,
  },
  params: [64],
  grid: [1, 1, 1],
};

const launchOf = (dispatch: Dispatch): GpuLaunch => ({
  ...dispatch,
  name: dispatch.source.name,
  operands: [{}, {}],
});

gpuTest("kernels with one text share a pipeline, and get their own params", async () => {
  const device = await open();
  const x = Float32Array.from({ length: 64 }, (_, i) => i), y = new Float32Array(64);
  const half = { ...DOUBLE, params: [32] };
  const { y: all } = await runKernels(device, [DOUBLE], { x, y }, ["y"]);
  const { y: some } = await runKernels(device, [half], { x, y }, ["y"]);
  assert.deepEqual(all, x.map((v) => 2 * v));
  assert.deepEqual(some, x.map((v, i) => i < 32 ? 2 * v : 0));
  assert.equal(device.kernelCount, 1);
  device.destroy();
});

gpuTest("a buffer may be read and written in one dispatch", async () => {
  const device = await open();
  const buffer = device.createBuffer(512, "both");
  device.write(buffer, 0, new Float32Array(64).fill(3));
  const views = [{ buffer, offset: 0, size: 256 }, { buffer, offset: 256, size: 256 }];
  const list = device.prepare("test", [{ launch: launchOf(DOUBLE), views }]);
  device.submit(list);
  const result = new Float32Array(await device.read(buffer, 256, 256));
  assert.ok(result.every((v) => v === 6));
  list.destroy();
  device.destroyBuffer(buffer);
  device.destroy();
});

gpuTest("a kernel that does not compile is named, with its text", async () => {
  const device = await open();
  const body = "@compute @workgroup_size(1) fn main() { y[0] = nonsense; }";
  const broken = { ...DOUBLE, source: { ...DOUBLE.source, name: "broken", body } };
  await assert.rejects(async () => {
    const x = new Float32Array(64);
    await runKernels(device, [broken], { x, y: x }, ["y"]);
    await device.finish();
  }, /kernel broken: [\s\S]*nonsense/);
  device.destroy();
});

gpuTest("a stopwatch tells the time of the slots that were used", async () => {
  const device = await open();
  const slots = 3000; // more than one set of queries holds
  const watch = device.stopwatch(slots);
  if (!watch) return device.destroy();
  assert.deepEqual(await watch.read(), new Float64Array(slots));
  const buffer = device.createBuffer(512, "memory");
  const views = [{ buffer, offset: 0, size: 256 }, { buffer, offset: 256, size: 256 }];
  const list = device.prepare("test", [{ launch: launchOf(DOUBLE), views }]);
  const used = [0, 1, 5, 2047, 2048, 2999];
  for (const slot of used) device.submit(list, { watch, slot });
  const times = await watch.read();
  for (const [slot, time] of times.entries()) {
    assert.ok(used.includes(slot) ? time >= 0 && time < 1000 : time === 0, `${slot}: ${time} ms`);
  }
  assert.ok(times.some((time) => time > 0));
  assert.throws(() => device.submit(list, { watch, slot: slots }), /no slot 3000/);
  watch.destroy();
  device.destroy();
});

gpuTest("ranges outside of buffers are refused before WebGPU sees them", async () => {
  const device = await open();
  const [a, b] = ["a", "b"].map((label) => device.createBuffer(64, label));
  device.write(a, 0, Float32Array.of(1, 2, 3, 4));
  device.copy({ buffer: a, offset: 4, size: 8 }, b, 16);
  assert.deepEqual([...new Float32Array(await device.read(b, 16, 8))], [2, 3]);
  const all = { buffer: a, offset: 0, size: 64 };
  assert.throws(() => device.copy(all, b, 16), /copy of 64 bytes .* to byte 16 of b \(64 bytes\)/);
  assert.throws(() => device.copy({ ...all, offset: 2, size: 4 }, b, 0), RangeError);
  assert.throws(() => device.write(a, 60, new Float32Array(2)), /write of 8 bytes at 60 into a/);
  assert.throws(() => device.read(a, 64, 4), /read of 4 bytes at 64 from a/);
  assert.throws(() => device.createBuffer(2 ** 50, "everything"), UserError);
  device.check();
  device.destroy();
});

Deno.test("a driver that computes on the processor is told from a GPU", () => {
  const is = (description: string, isFallbackAdapter = false) =>
    isFallback({ description, isFallbackAdapter });
  assert.ok(is("llvmpipe (LLVM 15.0.6, 256 bits)"));
  assert.ok(is("SwiftShader Device (Subzero)"));
  assert.ok(is("Microsoft Basic Render Driver"));
  assert.ok(is("", true));
  assert.ok(!is("NVIDIA H200"));
  assert.ok(!is("Apple M3"));
});
