// Runs kernels as generators make them, without a graph.

import type { Dispatch, GpuLaunch } from "../../../ops/gpu/kernel.ts";
import type { Device } from "../../../ops/mod.ts";
import type { BufferView } from "../../../ops/program/device.ts";

/**
 * Runs dispatches one after the other and reads results.
 *
 * @param memory contents of every binding before the first, by name
 * @param results names of bindings to be read after the last
 * @param run first words of the run block
 */
export async function runKernels(
  device: Device,
  dispatches: readonly Dispatch[],
  memory: Readonly<Record<string, Float32Array | Uint32Array>>,
  results: readonly string[],
  run: readonly number[] = [],
): Promise<Record<string, Float32Array>> {
  const views: Record<string, BufferView> = {};
  for (const [name, data] of Object.entries(memory)) {
    const buffer = device.createBuffer(data.byteLength, name);
    device.write(buffer, 0, data);
    views[name] = { buffer, offset: 0, size: buffer.size };
  }
  const list = device.prepare(
    "test",
    dispatches.map((dispatch) => {
      const { name, bindings } = dispatch.source;
      const launch: GpuLaunch = { ...dispatch, name, operands: bindings.map(() => ({})) };
      return { launch, views: bindings.map((b) => views[b.name]) };
    }),
  );
  try {
    device.write(list.run, 0, Uint32Array.from(run));
    device.submit(list);
    const read: Record<string, Float32Array> = {};
    for (const name of results) {
      const bytes = await device.read(views[name].buffer, 0, memory[name].byteLength);
      read[name] = new Float32Array(bytes);
    }
    return read;
  } finally {
    list.destroy();
    for (const { buffer } of Object.values(views)) device.destroyBuffer(buffer);
  }
}
