/**
 * `deno task generate`: answers prompts with a trained model, from the command line or in a conversation.
 *
 * @module
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import {
  generate,
  GENERATE_DEFAULTS,
  STRATEGIES,
  type Strategy,
} from "../tasks/generate/generate.ts";
import { help } from "../tasks/command/help.ts";
import { finetunedRun, loadModel } from "../tasks/checkpoints/model.ts";
import { checkModelFlags, MODEL_FLAGS } from "../tasks/config/model_flags.ts";
import { printableText } from "../tasks/command/printable.ts";
import { INPUT_FLAGS } from "../tasks/config/inputs.ts";
import { describe, flagName, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { ADAPTER_OPTIONS } from "../tasks/config/device_flags.ts";
import { openAlone } from "../tasks/devices/open.ts";

const DEFAULTS = GENERATE_DEFAULTS;

const OPTIONS = describe({
  words: {
    type: "paths",
    positional: true,
    unit: "word...",
    help: "The prompt. Without one, every line of the standard input is a prompt.",
  },
  run: {
    type: "path",
    unit: "folder",
    help:
      "The run whose model answers. Of a pretrained run that was finetuned, the finetuning run inside.",
  },
  ...MODEL_FLAGS,
  ...INPUT_FLAGS,
  pretrained: {
    type: "boolean",
    default: false,
    help: "Ask the pretrained model itself, even if it was finetuned.",
  },
  strategy: {
    type: "choice",
    choices: STRATEGIES,
    default: DEFAULTS.strategy,
    help: "greedy takes the most probable token, beam searches, sample draws.",
  },
  maxTokens: {
    type: "integer",
    min: 1,
    unit: "tokens",
    help: "Most tokens of an answer; no more than the model has positions.",
    default: DEFAULTS.maxTokens,
  },
  beams: {
    group: "Beam search",
    type: "integer",
    min: 1,
    default: DEFAULTS.beams,
    help: "Beginnings that are kept.",
  },
  lengthPenalty: {
    group: "Beam search",
    type: "number",
    default: DEFAULTS.lengthPenalty,
    help: "Answers are ranked by log-probability / length ^ this: more favours long ones.",
  },
  temperature: {
    group: "Sampling",
    type: "number",
    above: 0,
    default: DEFAULTS.temperature,
    help: "Less than 1 is less random.",
  },
  topP: {
    group: "Sampling",
    type: "number",
    above: 0,
    max: 1,
    default: DEFAULTS.topP,
    help: "Draw among the fewest tokens that have this share of the probability.",
  },
  topK: {
    group: "Sampling",
    type: "integer",
    min: 0,
    default: DEFAULTS.topK,
    help: "Draw among so many most probable tokens; 0 for all.",
  },
  seed: {
    group: "Sampling",
    type: "integer",
    default: DEFAULTS.seed,
    help: "The same seed gives the same answer.",
  },
  ...ADAPTER_OPTIONS,
});

const PAGE = {
  usage: "deno task generate --run FOLDER | --model NAME|FOLDER [flags] [WORD...]",
  intro: "Answers a prompt with a trained model, or one after the other if none is given: type a " +
    "line, read the answer, and end with Ctrl-D.",
  examples: [
    {
      command:
        'deno task generate --run runs/tiny-t0 "Is this review positive or negative? Great!"',
      does: "one answer",
    },
    {
      command: 'deno task generate --model gonglinyuan/metro_t0pp_base "Is rain wet? Yes or no?"',
      does: "one answer of a released model, which is downloaded first",
    },
    {
      command: "deno task generate --run runs/tiny-t0 --strategy sample --top-p 0.9 < prompts.txt",
      does: "an answer per line of a file",
    },
  ],
};

/** The flags that mean something for one strategy only. */
const BELONGS_TO: Readonly<Record<string, Strategy>> = {
  beams: "beam",
  lengthPenalty: "beam",
  temperature: "sample",
  topP: "sample",
  topK: "sample",
  seed: "sample",
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const flags = parseFlags(OPTIONS, Deno.args);
  checkModelFlags(flags);
  const { run, model: named, inputEndToken, relativeMaxDistance, allowNonfinite, ...rest } = flags;
  const reading = { inputEndToken, relativeMaxDistance, allowNonfinite };
  const { pretrained = false, words, ...others } = rest;
  const { adapter, threads, ...options } = others;
  for (const [flag, strategy] of Object.entries(BELONGS_TO)) {
    if (flag in options && options.strategy !== strategy) {
      throw new UserError(`--${flagName(flag)}: has a meaning with --strategy ${strategy} only`);
    }
  }
  const chosen = run === undefined ? named! : await finetunedRun(run, pretrained);
  const device = await openAlone({ adapter, threads });
  const model = await loadModel(device, chosen, reading);
  // A file gets the text as it is; a terminal would act on an escape sequence.
  const shown = Deno.stdout.isTerminal() ? printableText : String;
  const answer = async (prompt: string) => {
    const onToken = (text: string) => void process.stdout.write(shown(text));
    await generate(model, prompt, { ...options, onToken });
    process.stdout.write("\n");
  };
  if (words) await answer(words.join(" "));
  else await answerLines(answer);
  model.destroy();
  device.destroy();
  Deno.exit(0);
});

/** Answers the lines of the standard input until it ends. */
async function answerLines(answer: (prompt: string) => Promise<void>): Promise<void> {
  const terminal = Deno.stdin.isTerminal();
  const output = terminal ? process.stdout : undefined;
  const lines = createInterface({ input: process.stdin, output, terminal, prompt: "> " });
  const ask = () => terminal && lines.prompt();
  ask();
  for await (const line of lines) {
    if (line.trim() !== "") await answer(line);
    ask();
  }
  if (terminal) console.log();
}
