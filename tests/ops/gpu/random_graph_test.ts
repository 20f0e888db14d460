// Random graphs on WebGPU, by the software driver.

import { openDevice } from "../../../ops/mod.ts";
import { gpuTest } from "../../gpu.ts";
import { assertRandomGraph } from "../random_graph.ts";

/** Graphs of a run of the tests: the driver compiles each one's kernels for a second. */
const GRAPHS = 40;

gpuTest("WebGPU: random graphs equal the reference", async () => {
  const device = await openDevice({ adapter: "software" });
  for (let seed = 0; seed < GRAPHS; seed++) await assertRandomGraph(device, seed);
  device.destroy();
}, { seconds: 300 });
