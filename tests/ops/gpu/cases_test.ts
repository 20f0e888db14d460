// The kernels of WebGPU against the float64 reference, on the software driver.

import { type Device, openDevice } from "../../../ops/mod.ts";
import { gpuTest } from "../../gpu.ts";
import { CASES, graphOf } from "../cases.ts";
import { assertEqualsReference } from "../run.ts";

let device: Device;

Deno.test.beforeAll(async () => {
  device = await openDevice({ adapter: "software" });
});

Deno.test.afterAll(() => device.destroy());

for (const [name, make] of Object.entries(CASES)) {
  gpuTest(`WebGPU: ${name}: kernels equal the reference`, async () => {
    const c = make();
    await assertEqualsReference(device, graphOf(c), c.tolerance ?? 1e-5, name);
  });
}
