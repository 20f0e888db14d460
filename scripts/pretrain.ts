/**
 * `deno task pretrain`: pretrains METRO-T5, or the T5 baseline, from raw text.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { main } from "../tasks/command/cli.ts";
import { interruption } from "../tasks/command/interruption.ts";
import { help } from "../tasks/command/help.ts";
import { defaults, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { parseDevices } from "../tasks/config/device_flags.ts";
import { pretrainDefaults } from "../tasks/config/help_defaults.ts";
import { resumeOf, unnamedRun } from "../tasks/checkpoints/run_folder.ts";
import { pretrainOnDevices } from "../tasks/launch/pretrain.ts";
import { PRETRAIN_COMMAND, PRETRAIN_CONFIG } from "../tasks/config/pretrain.ts";

const OPTIONS = { ...PRETRAIN_COMMAND, ...PRETRAIN_CONFIG };

const PAGE = {
  usage: "deno task pretrain [flags]",
  intro:
    "Pretrains METRO-T5 from raw text: an auxiliary model makes noise, an encoder-decoder learns to " +
    "detect and correct it. Without flags it trains a tiny model on the sample corpus in about three " +
    "minutes. Settings that are not given come from the preset.",
  examples: [
    {
      command: "deno task pretrain --text my/texts --preset small",
      does: "train on your own text",
    },
    {
      command: "deno task pretrain --objective t5 --updates 500",
      does: "the T5 baseline, shorter",
    },
    { command: "deno task pretrain --run runs/tiny-metro --resume", does: "go on after a stop" },
    { command: "deno task pretrain --preset base --devices all", does: "on all GPUs at once" },
    {
      command: "deno task pretrain --devices 2 --adapter cpu",
      does: "try several devices out on the CPU",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) {
    return console.log(help(OPTIONS, { ...PAGE, ...pretrainDefaults(Deno.args) }));
  }
  const flags = { ...defaults(PRETRAIN_COMMAND), ...parseFlags(OPTIONS, Deno.args) };
  const { run, resume, packed, workers, devices, adapter, threads, ...others } = flags;
  const { timeout, retries, requeue, ...given } = others;
  const goesOn = resumeOf({ resume, requeue });
  const name = `${given.preset ?? "tiny"}-${given.objective ?? "metro"}`;
  const folder = run ?? await unnamedRun(name, goesOn);
  const interrupted = interruption("saving a checkpoint");
  const settings = {
    run: folder,
    resume: goesOn,
    given,
    sampleCorpus: join(import.meta.dirname!, "..", "data", "corpus"),
    packed,
    workers,
  };
  await pretrainOnDevices(settings, {
    ...{ devices: parseDevices(devices), adapter, threads, timeout, retries, interrupted },
    output: process.stderr,
  });
  console.log(`Run folder: ${folder} (open ${join(folder, "report.html")} in a browser)`);
  Deno.exit(0);
});
