/**
 * `deno task analyze`: looks into what a pretrained run does. `noise`: one step of METRO, token by token.
 *
 * @module
 */
import { basename, join, resolve } from "node:path";
import { UserError } from "../ops/graph/errors.ts";
import { noiseSentences } from "../tasks/analyze/noise.ts";
import { countNoise, countsText, noiseLines, noisePage } from "../tasks/analyze/noise_view.ts";
import { main } from "../tasks/command/cli.ts";
import { help } from "../tasks/command/help.ts";
import { defaults, describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { ADAPTER_OPTIONS } from "../tasks/config/device_flags.ts";
import { openAlone } from "../tasks/devices/open.ts";
import { writeFile } from "../tasks/files/write.ts";

const OPTIONS = describe({
  run: { type: "path", unit: "folder", help: "The pretrained run." },
  packed: {
    type: "path",
    unit: "folder",
    help: "Its packed corpus, if it is not in the run's folder.",
  },
  sentences: {
    type: "integer",
    min: 1,
    max: 256,
    default: 5,
    help: "Blocks of held-out text to look at.",
  },
  seed: {
    type: "integer",
    min: 0,
    default: 1,
    help: "Which ones, what is hidden of them, and what is drawn there.",
  },
  out: {
    type: "path",
    unit: "file",
    help: "The page to write. Default: noise.html in the run's folder.",
  },
  ...ADAPTER_OPTIONS,
});

const PAGE = {
  usage: "deno task analyze noise --run FOLDER [flags]",
  intro:
    "Shows what METRO does with held-out text: what is hidden from the auxiliary model, what that writes " +
    "there, which tokens the main model's encoder suspects, and what its decoder puts right. In the " +
    "terminal, and as a page.",
};

await main(async () => {
  const [what, ...args] = Deno.args;
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  if (what !== "noise") {
    throw new UserError(`expected what to look at: noise; got ${what ?? "nothing"}`);
  }
  const flags = { ...defaults(OPTIONS), ...parseFlags(OPTIONS, args) };
  const { run, packed, sentences, seed, out, ...device } = flags;
  if (run === undefined) throw new UserError("expected --run FOLDER: a pretrained run");
  const opened = await openAlone(device);
  try {
    const found = await noiseSentences({ device: opened, run, packed, sentences, seed });
    const page = out ?? join(run, "noise.html");
    await writeFile(page, noisePage(basename(resolve(run)), found));
    for (const line of noiseLines(found)) console.log(line);
    console.log(`\n${countsText(countNoise(found))}\nPage: ${page}`);
  } finally {
    opened.destroy();
  }
});
