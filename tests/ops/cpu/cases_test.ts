// The kernels of the CPU against the float64 reference: on one thread and several, with addresses of both widths.

import { type CpuDevice, openCpuDevice } from "../../../ops/cpu/device.ts";
import { CASES, graphOf } from "../cases.ts";
import { assertEqualsReference } from "../run.ts";

const KINDS = {
  "1 thread": { threads: 1 },
  "3 threads": { threads: 3 },
  "64-bit addresses": { threads: 2, wide: true },
};

for (const [kind, options] of Object.entries(KINDS)) {
  let device: CpuDevice;

  Deno.test(`CPU, ${kind}: every primitive equals the reference`, async (t) => {
    device = await openCpuDevice(options);
    for (const [name, make] of Object.entries(CASES)) {
      await t.step(name, async () => {
        const c = make();
        await assertEqualsReference(device, graphOf(c), c.tolerance ?? 1e-5, name);
      });
    }
    device.destroy();
  });
}
