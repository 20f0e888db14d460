/**
 * `deno task pretrain`: pretrains METRO-T5, or the T5 baseline, from raw text.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { openDevice } from "../ops/mod.ts";
import { interruption, main } from "../tasks/cli.ts";
import { help } from "../tasks/help.ts";
import { parseFlags, wantsHelp } from "../tasks/options.ts";
import { pretrain } from "../tasks/pretrain.ts";
import { PRETRAIN_COMMAND, PRETRAIN_CONFIG } from "../tasks/pretrain_options.ts";
import { newRunFolder } from "../tasks/run_folder.ts";
import { ensureAdapter } from "../tasks/setup.ts";

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
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const { run, resume = false, packed, workers = 1, ...given } = parseFlags(OPTIONS, Deno.args);
  const folder = run ??
    await newRunFolder("runs", `${given.preset ?? "tiny"}-${given.objective ?? "metro"}`);
  const interrupted = interruption("saving a checkpoint");
  await pretrain({
    openDevice: async () => {
      await ensureAdapter();
      // Installing the driver was the only reason to start other programs.
      await Deno.permissions.revoke({ name: "run" });
      return await openDevice();
    },
    run: folder,
    resume,
    given,
    sampleCorpus: join(import.meta.dirname!, "..", "data", "corpus"),
    packed,
    workers,
    interrupted,
    output: process.stderr,
  });
  console.log(`Run folder: ${folder} (open ${join(folder, "report.html")} in a browser)`);
  Deno.exit(0);
});
