/**
 * `deno task bench`: times kernels, whole training updates and the work on text on this machine.
 *
 * @module
 */
import process from "node:process";
import { bench, BENCH_OPTIONS, benchJob, PARALLEL } from "../tasks/bench/bench.ts";
import { benchParallel, onePreset, parallelTable } from "../tasks/bench/parallel.ts";
import { tables } from "../tasks/bench/report.ts";
import { main } from "../tasks/command/cli.ts";
import { writeJson } from "../tasks/files/json.ts";
import { expectWritable } from "../tasks/files/write.ts";
import { help } from "../tasks/command/help.ts";
import { defaults, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { findCards } from "../tasks/devices/placement.ts";
import { openAlone, prepareAdapters } from "../tasks/devices/open.ts";
import { resolvePretrain } from "../tasks/config/pretrain.ts";

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
    {
      command: "deno task bench --adapter cpu --threads 1",
      does: "the CPU, even if there is a GPU, on one thread",
    },
    {
      command: "deno task bench --parallel --ranks 2",
      does: "what it costs that two ranks exchange gradients and weights",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(BENCH_OPTIONS, PAGE));
  const flags = { ...defaults(BENCH_OPTIONS), ...parseFlags(BENCH_OPTIONS, Deno.args) };
  // They differ in what they hold, and `plan` reads only the first.
  const { out = flags.parallel ? "bench-parallel.json" : "bench.json" } = flags;
  await expectWritable(out);
  const write = (report: unknown) => writeJson(out, report);
  if (flags.parallel) {
    const preset = onePreset(flags.preset, "small");
    const { ranks, threads } = flags;
    const isFew = flags.adapter === "auto" && findCards().length < ranks;
    const adapter = isFew ? "cpu" : flags.adapter;
    const placement = await prepareAdapters({ ranks, adapter, threads });
    const onGpu = placement.adapter === "gpu";
    const tokens = flags.rankTokens ??
      (onGpu ? resolvePretrain({ preset }, []).microBatch : PARALLEL.cpuTokens);
    const repeat = flags.repeat ?? PARALLEL.repeat[onGpu ? "gpu" : "cpu"], output = process.stderr;
    const report = await benchParallel({ preset, tokens, repeat, placement, output });
    await write(report);
    console.log(parallelTable(report));
  } else {
    const device = await openAlone(flags);
    const job = benchJob(device, flags, Deno.systemMemoryInfo().available);
    const report = await bench({ ...job, onProgress: (what) => console.error(`... ${what}`) });
    await write(report);
    console.log(tables(report));
    device.destroy();
  }
  console.log(`\nAll numbers: ${out}`);
});
