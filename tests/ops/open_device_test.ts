// From what was asked for to a device, with made-up adapters.

import assert from "node:assert/strict";
import { openDevice, UserError } from "../../ops/mod.ts";
import { gpuTest } from "../gpu.ts";

/** A WebGPU implementation that offers an adapter of this description, or none. */
function offering(description?: string): GPU {
  const info = { description, isFallbackAdapter: false };
  return { requestAdapter: () => Promise.resolve(description ? { info } : null) } as unknown as GPU;
}

Deno.test("openDevice: a GPU that is not there is one line that says what to do", async () => {
  for (const gpu of [offering(), offering("llvmpipe (LLVM 15.0.6, 256 bits)")]) {
    await assert.rejects(openDevice({ adapter: "gpu", gpu }), (error: Error) => {
      assert.ok(error instanceof UserError);
      assert.match(error.message, /^no GPU: .*--adapter cpu$/);
      return true;
    });
  }
});

Deno.test("openDevice: a software driver that is not there can be installed", async () => {
  const opened = openDevice({ adapter: "software", gpu: offering() });
  await assert.rejects(opened, { name: "UserError", message: /^no software adapter: install/ });
});

gpuTest("openDevice: the software driver runs the kernels of GPUs", async () => {
  const device = await openDevice({ adapter: "software" });
  assert.equal(device.kind, "gpu");
  assert.ok(device.limits.bindingBytes <= device.limits.bufferBytes);
  device.destroy();
});
