/**
 * `deno task bench`: times kernels, whole training updates and the work on text on this machine.
 *
 * @module
 */
import { openDevice } from "../ops/mod.ts";
import { bench, BENCH_OPTIONS, benchJob } from "../tasks/bench.ts";
import { tables } from "../tasks/bench/report.ts";
import { main } from "../tasks/cli.ts";
import { help } from "../tasks/help.ts";
import { parseFlags, wantsHelp } from "../tasks/options.ts";
import { ensureAdapter } from "../tasks/setup.ts";

const PAGE = {
  usage: "deno task bench [flags]",
  intro:
    "Times the kernels at the shapes of the presets' layers, whole training updates, and the work on " +
    "text; prints tables and writes all numbers to a JSON file. What does not fit the adapter is " +
    "skipped, with the reason.",
  examples: [
    { command: "deno task bench --quick", does: "a first impression, in less than a minute" },
    {
      command: "deno task bench --only updates --preset base base++ large++",
      does: "the paper's models, on a GPU that holds them",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(BENCH_OPTIONS, PAGE));
  const flags = parseFlags(BENCH_OPTIONS, Deno.args);
  await ensureAdapter();
  await Deno.permissions.revoke({ name: "run" });
  const device = await openDevice({ deviceClass: flags.tiles });
  const job = benchJob(device, flags, Deno.systemMemoryInfo().available);
  const report = await bench({ ...job, onProgress: (what) => console.error(`... ${what}`) });
  const { out = BENCH_OPTIONS.out.default } = flags;
  await Deno.writeTextFile(out, JSON.stringify(report, null, 2) + "\n");
  console.log(tables(report));
  console.log(`\nAll numbers: ${out}`);
  device.destroy();
});
