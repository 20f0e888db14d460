/**
 * `deno task convert`: runs and checkpoints as folders that others read, vocabularies as tokenizer.json.
 *
 * @module
 */
import { UserError } from "../ops/graph/errors.ts";
import { main } from "../tasks/command/cli.ts";
import { convertModel, convertTokenizer } from "../tasks/checkpoints/convert.ts";
import { help } from "../tasks/command/help.ts";
import { finetunedRun } from "../tasks/checkpoints/model.ts";
import { checkModelFlags, MODEL_FLAGS } from "../tasks/config/model_flags.ts";
import { describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { millions } from "../tasks/checkpoints/run_folder.ts";

const OPTIONS = describe({
  run: {
    type: "path",
    unit: "folder",
    help:
      "The run to convert: its main model, without what only pretraining needs. Of a pretrained " +
      "run that was finetuned, the finetuning run inside.",
  },
  ...MODEL_FLAGS,
  pretrained: {
    type: "boolean",
    default: false,
    help: "Convert the pretrained model itself, even if it was finetuned.",
  },
  tokenizer: {
    type: "path",
    unit: "folder|file",
    help:
      "Convert a tokenizer alone: sp.model with dict.txt (METRO) or spiece.model (T5), or the " +
      "folder that holds them.",
  },
  out: {
    type: "path",
    unit: "folder",
    help: "The new folder. With --tokenizer, it may be there already.",
  },
});

const PAGE = {
  usage:
    "deno task convert --run FOLDER | --model NAME|FOLDER | --tokenizer FOLDER|FILE --out FOLDER",
  intro:
    "Writes a model as Python's transformers and this toolkit read it: config.json, weights in 32-bit " +
    "floats as model.safetensors, tokenizer.json. Models of T5's family load there as they are, METRO " +
    "with the released modelling code.",
  examples: [
    {
      command: "deno task convert --run runs/base-metro/T0 --out metro_t0_base",
      does: "share what you have finetuned",
    },
    {
      command: "deno task convert --model gonglinyuan/metro_t0pp_base --out metro_t0pp_base",
      does: "a pickle as safetensors, a SentencePiece vocabulary as tokenizer.json",
    },
    {
      command: "deno task convert --tokenizer spiece.model --out t5-tokenizer",
      does: "a vocabulary alone",
    },
  ],
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const flags = parseFlags(OPTIONS, Deno.args);
  const { run, model, tokenizer, pretrained = false, out } = flags;
  const { relativeMaxDistance, allowNonfinite } = flags;
  if (out === undefined) throw new UserError("expected --out FOLDER: where to write");
  if (tokenizer !== undefined) {
    if ([run, model, relativeMaxDistance, allowNonfinite].some((flag) => flag !== undefined)) {
      throw new UserError("--tokenizer: stands alone; a model is converted with its tokenizer");
    }
    const { rows, sentinels } = await convertTokenizer(tokenizer, out);
    console.log(`${out}: tokenizer.json of ${rows} ids, ${sentinels} of them sentinels`);
    return;
  }
  checkModelFlags(flags);
  const source = run === undefined ? model! : await finetunedRun(run, pretrained);
  const { parameters, tensors } = await convertModel(source, out, {
    relativeMaxDistance,
    allowNonfinite,
  });
  console.log(`${source} to ${out}: ${millions(parameters)} parameters in ${tensors} tensors`);
});
