/**
 * `deno task verify`: checks the toolkit against numbers of other implementations. The first word says
 * what to check.
 *
 * @module
 */
import { printableText } from "../tasks/command/printable.ts";
import { main } from "../tasks/command/cli.ts";
import { help } from "../tasks/command/help.ts";
import { nearest } from "../tasks/command/nearest.ts";
import { defaults, describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { ADAPTER_OPTIONS } from "../tasks/config/device_flags.ts";
import { openAlone } from "../tasks/devices/open.ts";
import { openTemplates } from "../tasks/prompts/templates.ts";
import { readStepFolder, type StepFolder } from "../tasks/verify/step_folder.ts";
import { modelFailures, modelReportLines, verifyModel } from "../tasks/verify/model.ts";
import { promptFailures, promptReportLines, verifyPrompts } from "../tasks/verify/prompts.ts";
import { stepFailures, stepReportLines, verifyStep } from "../tasks/verify/step.ts";
import {
  tokenizerFailures,
  tokenizerReportLines,
  verifyTokenizer,
} from "../tasks/verify/tokenizer.ts";
import { UserError } from "../ops/graph/errors.ts";

/** Something to check; `run` is true if all is well. */
interface Check {
  does: string;
  page(): string;
  run(args: readonly string[]): Promise<boolean>;
}

const STEP = describe({
  folders: {
    type: "paths",
    positional: true,
    unit: "dir...",
    help: "Folders with step.json, params_before, params_after, grads and logits.safetensors.",
  },
  tolerance: {
    type: "number",
    above: 0,
    default: 1e-3,
    help: "Largest error that passes, relative to the largest magnitude of each tensor.",
  },
  ...ADAPTER_OPTIONS,
});

const step: Check = {
  does: "training steps: losses, logits, gradients, and weights after AdamW",
  page: () =>
    help(STEP, {
      usage: "deno task verify step DIR... [flags]",
      intro:
        "Repeats training steps of another METRO implementation with its noise tokens and compares " +
        "losses, counts, logits, every gradient, gradient norms and all weights after the updates. " +
        "A tensor's largest error counts, relative to its largest magnitude; for gradients, to at " +
        "least 1e-4 of the largest gradient of all, since some are zero but for rounding. A weight " +
        "may differ further by what one unit of float32 rounding of the largest gradient does to " +
        "its AdamW updates, which is negligible unless its gradient is nothing but rounding; the " +
        "table says how many weights need that. Exits with code 1 if anything is beyond the " +
        "tolerance.",
      examples: [
        {
          command: "deno task verify step golden/tiny_lm",
          does: "check this machine's device",
        },
      ],
    }),
  async run(args) {
    const { folders = [], tolerance, ...choice } = { ...defaults(STEP), ...parseFlags(STEP, args) };
    if (folders.length === 0) throw new UserError("expected one or more folders, got none");
    const read: StepFolder[] = []; // All before the first is run: a mistake shows at once.
    for (const folder of folders) read.push(await readStepFolder(folder));
    const device = await openAlone(choice);
    console.log(`On ${device.adapterName}`);
    let ok = true;
    for (const folder of read) {
      const report = await verifyStep(device, folder, tolerance);
      console.log(`\n${stepReportLines(report, tolerance).join("\n")}`);
      ok &&= stepFailures(report, tolerance).length === 0;
    }
    device.destroy();
    return ok;
  },
};

const PROMPTS = describe({
  folders: {
    type: "paths",
    positional: true,
    unit: "dir...",
    help:
      "Folders with examples.json (rows of each dataset) and renders.jsonl (what became of them).",
  },
  templates: {
    type: "path",
    unit: "dir",
    help:
      "Folder of promptsource's templates: DATASET/templates.yaml, DATASET/CONFIG/templates.yaml.",
  },
});

const prompts: Check = {
  does: "prompt templates: rendered inputs, targets and answer choices",
  page: () =>
    help(PROMPTS, {
      usage: "deno task verify prompts DIR... --templates DIR",
      intro:
        "Renders prompt templates for rows and compares the parts, with and without truncation, and " +
        "the answer choices with those of promptsource, byte for byte. Where promptsource raises, " +
        "this renderer must raise, too. Exits with code 1 on any difference.",
      examples: [
        {
          command: "deno task verify prompts golden/prompts --templates promptsource/templates",
          does: "check all templates that the folder has renders of",
        },
      ],
    }),
  async run(args) {
    const { folders = [], templates: folder } = parseFlags(PROMPTS, args);
    if (folders.length === 0) throw new UserError("expected one or more folders, got none");
    if (!folder) throw new UserError("--templates: expected a folder of templates, got none");
    const templates = openTemplates(folder);
    let ok = true;
    for (const folder of folders) {
      const report = await verifyPrompts(folder, templates);
      console.log(printableText(promptReportLines(report).join("\n")));
      ok &&= promptFailures(report) === 0;
    }
    return ok;
  },
};

const TOKENIZER = describe({
  files: {
    type: "paths",
    positional: true,
    unit: "file...",
    help:
      "JSON lines: text, and any of pretokenized, pretokenized_lower, ids_32k_lower, ids_64k, " +
      "ids_64k_lower.",
  },
  vocab: {
    type: "path",
    unit: "dir",
    help: "Folder with vocab_32k and vocab_64k, each with sp.model and dict.txt.",
  },
});

const tokenizer: Check = {
  does: "METRO's tokenizers: pre-tokenised text and ids",
  page: () =>
    help(TOKENIZER, {
      usage: "deno task verify tokenizer FILE... --vocab DIR",
      intro:
        "Tokenises texts with METRO's SentencePiece vocabularies and compares the words that go in " +
        "and the ids that come out with those of the reference. Ids may differ only where two " +
        "segmentations of one text have the same score, rounding aside: the table counts these " +
        "ties apart. Exits with code 1 on any other difference.",
      examples: [
        {
          command: "deno task verify tokenizer golden/tokenizer/metro.jsonl --vocab metro_vocab",
          does: "check all columns that the file has",
        },
      ],
    }),
  async run(args) {
    const { files = [], vocab } = parseFlags(TOKENIZER, args);
    if (files.length === 0) throw new UserError("expected one or more files, got none");
    if (!vocab) throw new UserError("--vocab: expected a folder of vocabularies, got none");
    let ok = true;
    for (const file of files) {
      const report = await verifyTokenizer(file, vocab);
      console.log(printableText(tokenizerReportLines(report).join("\n")));
      ok &&= tokenizerFailures(report) === 0;
    }
    return ok;
  },
};

const MODEL = describe({
  folders: {
    type: "paths",
    positional: true,
    unit: "dir...",
    help: "Folders with a checkpoint as on the Hugging Face Hub, expected.json and " +
      "expected_logits.safetensors.",
  },
  tolerance: {
    type: "number",
    above: 0,
    default: 1e-4,
    help: "Largest error that passes, relative to the largest logit, or to a score.",
  },
  ...ADAPTER_OPTIONS,
});

const model: Check = {
  does: "checkpoints: logits, scores of answer choices, greedy answers",
  page: () =>
    help(MODEL, {
      usage: "deno task verify model DIR... [flags]",
      intro:
        "Loads checkpoints in the published layout and compares what they compute here with what " +
        "another implementation computed: logits, scores on the way that evaluation takes, greedy " +
        "answers token by token on the way of generate. If a folder has the weights as safetensors " +
        "and as pytorch_model.bin, all tensors must be identical. Exits with code 1 if anything " +
        "differs by more than the tolerance.",
      examples: [
        { command: "deno task verify model golden/metro_hf/*", does: "check all of a folder" },
      ],
    }),
  async run(args) {
    const { folders = [], tolerance, ...choice } = {
      ...defaults(MODEL),
      ...parseFlags(MODEL, args),
    };
    if (folders.length === 0) throw new UserError("expected one or more folders, got none");
    const device = await openAlone(choice);
    let ok = true;
    for (const folder of folders) {
      const report = await verifyModel(device, folder);
      console.log(modelReportLines(report, tolerance).join("\n"));
      ok &&= modelFailures(report, tolerance).length === 0;
    }
    device.destroy();
    return ok;
  },
};

const CHECKS: Readonly<Record<string, Check>> = { step, prompts, tokenizer, model };

function overview(): string {
  const width = Math.max(...Object.keys(CHECKS).map((name) => name.length)) + 4;
  const rows = Object.entries(CHECKS).map(([name, { does }]) => `  ${name.padEnd(width)}${does}`);
  return [
    "Checks the toolkit against numbers of other implementations.",
    "Usage: deno task verify CHECK ... (each has its own --help)",
    `Checks:\n${rows.join("\n")}`,
  ].join("\n\n");
}

function checkNamed(name: string): Check {
  if (Object.hasOwn(CHECKS, name)) return CHECKS[name];
  const names = Object.keys(CHECKS), near = nearest(name, names);
  const hint = near ? `; did you mean ${near}?` : "";
  throw new UserError(`expected what to check, one of ${names.join(", ")}, got '${name}'${hint}`);
}

await main(async () => {
  const [name, ...rest] = Deno.args;
  if (name === undefined || wantsHelp([name])) return console.log(overview());
  const check = checkNamed(name);
  if (wantsHelp(rest)) return console.log(check.page());
  Deno.exit(await check.run(rest) ? 0 : 1);
});
