/**
 * `deno task finetune`: makes METRO-T0 of METRO-T5, by finetuning on prompted tasks.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { main } from "../tasks/command/cli.ts";
import { interruption } from "../tasks/command/interruption.ts";
import { FINETUNE_COMMAND, FINETUNE_CONFIG } from "../tasks/config/finetune.ts";
import { help } from "../tasks/command/help.ts";
import { checkModelFlags } from "../tasks/config/model_flags.ts";
import { defaults, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { parseDevices } from "../tasks/config/device_flags.ts";
import { finetuneDefaults } from "../tasks/config/help_defaults.ts";
import { resumeOf } from "../tasks/checkpoints/run_folder.ts";
import { finetuneOnDevices } from "../tasks/launch/finetune.ts";

const OPTIONS = { ...FINETUNE_COMMAND, ...FINETUNE_CONFIG };

const PAGE = {
  usage: "deno task finetune --run FOLDER | --model NAME|FOLDER [flags]",
  intro:
    "Finetunes a pretrained run, or a released model, on prompted tasks, as T0 does: rows of many " +
    "datasets, each through several templates, become text-to-text pairs. Without --data it uses " +
    "the sample tasks. Settings that are not given come from the run's preset, or from the preset " +
    "of the size nearest to the model's.",
  examples: [
    { command: "deno task finetune --run runs/tiny-metro", does: "train on the sample tasks" },
    {
      command: "deno task finetune --run runs/base-metro --mixture T0++ --data rows --templates ps",
      does: "the largest mixture of the paper, on your copy of the datasets",
    },
    {
      command:
        "deno task finetune --model google/t5-v1_1-base --mixture T0 --data rows --templates ps",
      does: "a T0 of a T5, in runs/t5-v1_1-base-T0",
    },
    {
      command: "deno task finetune --run runs/base-metro/T0++ --resume",
      does: "go on after a stop",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) {
    return console.log(help(OPTIONS, { ...PAGE, ...finetuneDefaults(Deno.args) }));
  }
  const flags = { ...defaults(FINETUNE_COMMAND), ...parseFlags(OPTIONS, Deno.args) };
  checkModelFlags(flags);
  const {
    run,
    model,
    relativeMaxDistance,
    allowNonfinite,
    out,
    resume,
    workers,
    devices,
    ...others
  } = flags;
  const { adapter, threads, timeout, retries, requeue, ...given } = others;
  const data = join(import.meta.dirname!, "..", "data");
  const interrupted = interruption("saving a checkpoint");
  const settings = {
    run,
    model,
    modelOptions: { relativeMaxDistance, allowNonfinite },
    out,
    resume: resumeOf({ resume, requeue }),
    given,
    sample: { data: join(data, "tasks"), templates: join(data, "templates") },
    workers,
  };
  const finished = await finetuneOnDevices(settings, {
    ...{ devices: parseDevices(devices), adapter, threads, timeout, retries, interrupted },
    output: process.stderr,
  });
  console.log(
    `Run folder: ${finished.run} (open ${join(finished.run, "report.html")} in a browser)`,
  );
  Deno.exit(0);
});
