// Random graphs of all primitives on the CPU, against the float64 reference.

import { type CpuDevice, openCpuDevice } from "../../../ops/cpu/device.ts";
import { assertRandomGraph } from "../random_graph.ts";

const SEEDS = 500, TOGETHER = 100;

let device: CpuDevice;

Deno.test.beforeAll(async () => {
  device = await openCpuDevice({ threads: 2 });
});

Deno.test.afterAll(() => device.destroy());

for (let first = 1; first <= SEEDS; first += TOGETHER) {
  Deno.test(`CPU: random graphs ${first} to ${first + TOGETHER - 1} equal the reference`, async () => {
    for (let seed = first; seed < first + TOGETHER; seed++) await assertRandomGraph(device, seed);
  });
}
