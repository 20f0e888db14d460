// The kernels of WebGPU against the float64 reference, on the software driver.

import { gpuTest, softwareDevice } from "../../gpu.ts";
import { CASES, graphOf } from "../cases.ts";
import { assertEqualsReference } from "../run.ts";

for (const [name, make] of Object.entries(CASES)) {
  gpuTest(`WebGPU: ${name}: kernels equal the reference`, async () => {
    const c = make();
    await assertEqualsReference(await softwareDevice(), graphOf(c), c.tolerance ?? 1e-5, name);
  });
}
