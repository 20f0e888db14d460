/**
 * `deno task setup`: makes sure that there is a graphics adapter, and installs the software driver
 * where there is none. The other tasks do the same by themselves; this one is for images and CI.
 *
 * @module
 */
import { main } from "../tasks/cli.ts";
import { help } from "../tasks/help.ts";
import { describe, parseFlags, wantsHelp } from "../tasks/options.ts";
import { ensureAdapter, ensureMpi } from "../tasks/setup.ts";

const OPTIONS = describe({
  tests: { type: "boolean", help: "Also what only the tests need: MPI, if it can be installed." },
});

const PAGE = {
  usage: "deno task setup [flags]",
  intro: "Makes sure that there is a WebGPU adapter; installs the software driver if need be.",
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const { tests } = parseFlags(OPTIONS, Deno.args);
  const { info } = await ensureAdapter();
  if (tests) await ensureMpi();
  console.log(`Ready: ${info.description}`);
});
