/**
 * `deno run scripts/eval_t0.ts`: zero-shot evaluation by rank classification, with tables and plots.
 *
 * @module
 */
import { join } from "node:path";
import process from "node:process";
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import { resultsOf, writeEvaluation } from "../tasks/evaluate/report.ts";
import { help } from "../tasks/command/help.ts";
import { finetunedRun, shortName } from "../tasks/checkpoints/model.ts";
import { checkModelFlags, MODEL_FLAGS } from "../tasks/config/model_flags.ts";
import { INPUT_FLAGS } from "../tasks/config/inputs.ts";
import { defaults, describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { DEVICE_OPTIONS, parseDevices } from "../tasks/config/device_flags.ts";
import { evaluateOnDevices } from "../tasks/launch/evaluate.ts";

const OPTIONS = describe({
  run: {
    type: "path",
    unit: "folder",
    help: "The run to evaluate. Of a pretrained run that was finetuned, the finetuning run inside.",
  },
  ...MODEL_FLAGS,
  ...INPUT_FLAGS,
  pretrained: {
    type: "boolean",
    default: false,
    help: "Evaluate the pretrained model itself, even if it was finetuned.",
  },
  tasks: {
    type: "paths",
    unit: "name...",
    help:
      "T0-Eval (the paper's 11 columns), DATASET or DATASET:SPLIT, or `all` that have held-out " +
      "rows and choices. Default: T0-Eval; `all` for the sample tasks.",
  },
  data: {
    type: "path",
    unit: "folder",
    help: "Rows, as DATASET[/CONFIG]/SPLIT.jsonl, .csv or .parquet. The sample tasks if not given.",
  },
  templates: {
    type: "path",
    unit: "folder",
    help: "Templates in promptsource's format. Those of the sample tasks if not given.",
  },
  allowMissing: {
    type: "boolean",
    default: false,
    help: "Leave out tasks whose rows or templates are not there.",
  },
  skipBad: {
    type: "boolean",
    default: false,
    help: "Count and list unusable rows instead of stopping at the first.",
  },
  limit: { type: "integer", min: 1, help: "Rows of each task at most." },
  batchSize: { type: "integer", min: 1, help: "Prompts of a batch. Default: as many as suit." },
  batchTokens: {
    type: "integer",
    min: 1,
    unit: "tokens",
    help: "Padded tokens of a batch. Default: what keeps the device busy.",
  },
  seed: { type: "integer", min: 0, default: 1, help: "Seed of the templates' random choices." },
  out: {
    type: "path",
    unit: "folder",
    help:
      "Folder of the results. Default: eval/ in the run's folder; with --model, runs/MODEL/eval.",
  },
  compare: {
    type: "paths",
    unit: "folder...",
    help: "Runs, or folders of results, to put beside this one.",
  },
  ...DEVICE_OPTIONS,
});

const PAGE = {
  usage: "deno run scripts/eval_t0.ts --run FOLDER | --model NAME|FOLDER [flags]",
  intro:
    "Scores every answer choice of every prompt by its log-probability and counts how often the right " +
    "one wins. Prints mean and median over templates per task and the average over tasks; writes a " +
    "JSON file per task and template, summary.csv, summary.md and results.html. What is finished is " +
    "not run again.",
  examples: [
    { command: "deno task eval_t0 --run runs/tiny-metro", does: "evaluate on the sample tasks" },
    {
      command: "deno task eval_t0 --run runs/base-metro --data rows --templates promptsource",
      does: "T0 Eval on your copy of the datasets",
    },
    {
      command: "deno task eval_t0 --model gonglinyuan/metro_t0pp_base --data rows --templates ps",
      does: "the same for a released model",
    },
    {
      command: "deno task eval_t0 --run runs/a --compare runs/b",
      does: "differences between two runs, with bootstrap intervals",
    },
    {
      command: "deno task eval_t0 --run runs/base-metro --devices all",
      does: "the prompts split over all GPUs; the same results",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const flags = { ...defaults(OPTIONS), ...parseFlags(OPTIONS, Deno.args) };
  checkModelFlags(flags);
  const { adapter, threads, timeout } = flags;
  const { inputEndToken, relativeMaxDistance, allowNonfinite } = flags;
  const reading = { inputEndToken, relativeMaxDistance, allowNonfinite };
  const devices = parseDevices(flags.devices);
  if ((flags.data === undefined) !== (flags.templates === undefined)) {
    throw new UserError("--data and --templates go together: rows and their templates");
  }
  const sample = join(import.meta.dirname!, "..", "data");
  const { data = join(sample, "tasks"), templates = join(sample, "templates") } = flags;
  const tasks = flags.tasks ?? [flags.data === undefined ? "all" : "T0-Eval"];
  const chosen = flags.run === undefined
    ? flags.model!
    : await finetunedRun(flags.run, flags.pretrained);
  const out = flags.out ??
    join(flags.run === undefined ? join("runs", shortName(chosen)) : chosen, "eval");
  const compare = await Promise.all((flags.compare ?? []).map(resultsOf));
  const { allowMissing, skipBad, seed, limit, batchSize, batchTokens } = flags;
  const batches = { batchSize, batchTokens };
  const job = {
    run: chosen,
    tasks,
    data,
    templates,
    allowMissing,
    skipBad,
    out,
    seed,
    limit,
    batches,
  };
  const evaluation = await evaluateOnDevices({ ...job, ...reading }, {
    devices,
    adapter,
    threads,
    timeout,
    output: process.stderr,
  });
  for (const line of await writeEvaluation(evaluation, { run: chosen, out, compare })) {
    console.log(line);
  }
  console.log(`Results: ${out} (open ${join(out, "results.html")} in a browser)`);
  Deno.exit(0);
});
