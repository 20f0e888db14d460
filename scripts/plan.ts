/**
 * `deno task plan`: memory, traffic and time of pretraining on some number of GPUs, before it is run.
 *
 * @module
 */
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import { help } from "../tasks/command/help.ts";
import { defaults, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { pretrainDefaults } from "../tasks/config/help_defaults.ts";
import { PLAN_OPTIONS, planRun } from "../tasks/plan/plan.ts";
import { examplesText, paperExamples } from "../tasks/plan/examples.ts";
import { planText } from "../tasks/plan/print.ts";

const PAGE = {
  usage: "deno task plan [flags]",
  intro:
    "Foresees a pretraining run, with the arithmetic: memory of each GPU, bytes sent, time. The model, " +
    "for N GPUs and gradients of B bytes: compute = tokens of an update / (N × rate). Gradients are " +
    "reduce-scattered: B read back, B × (N − 1)/N sent, B/N written, all but the token table's behind " +
    "the last backward pass, which is 2/3 of the compute of the last micro-batch. Weights are gathered: " +
    "B/N read back, B × (N − 1)/N sent, B written, behind nothing. Either way one thread of each rank adds up or " +
    "copies B bytes. Each read waits, each message of " +
    "25 MiB takes log2(N) latencies. docs/plan.md says more.",
  examples: [
    {
      command: "deno task plan --preset base --gpus 64 --rate 27350 --interconnect 12.5",
      does: "64 GPUs of a known rate, 100 Gbit/s each",
    },
    {
      command:
        "deno task plan --preset large++ --bench bench.json --gpus 8 --interconnect 20 --memory 80",
      does: "a rate that deno task bench has measured, GPUs of 80 GB",
    },
    {
      command: "deno task plan --examples",
      does: "the paper's runs, beside the paper's own times",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) {
    return console.log(help(PLAN_OPTIONS, { ...PAGE, ...pretrainDefaults(Deno.args, "base") }));
  }
  const flags = parseFlags(PLAN_OPTIONS, Deno.args);
  if (flags.examples) {
    if (Object.keys(flags).length > 1) throw new UserError("--examples: expected no other flags");
    return console.log(examplesText(paperExamples()));
  }
  const plan = await planRun({ ...defaults(PLAN_OPTIONS), ...flags });
  console.log(planText(plan));
  if (plan.reasons.length > 0) throw new UserError(plan.reasons.join("; "));
});
