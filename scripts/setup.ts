/**
 * `deno task setup`: makes sure that there is the software adapter, whose driver it installs if need be.
 * Nothing needs it but tests and `--adapter software`.
 *
 * @module
 */
import { main } from "../tasks/command/cli.ts";
import { help } from "../tasks/command/help.ts";
import { describe, parseFlags, wantsHelp } from "../tasks/command/options.ts";
import { ensureMpi, ensureSoftware } from "../tasks/devices/setup.ts";

const OPTIONS = describe({
  tests: { type: "boolean", help: "Also what only the tests need: MPI, if it can be installed." },
});

const PAGE = {
  usage: "deno task setup [flags]",
  intro:
    "Makes sure that there is WebGPU's software adapter, for tests and --adapter software; installs its " +
    "driver if need be. Computing on a GPU or on the CPU needs nothing of it.",
};

await main(async () => {
  if (wantsHelp(Deno.args)) return console.log(help(OPTIONS, PAGE));
  const { tests } = parseFlags(OPTIONS, Deno.args);
  const { info } = await ensureSoftware();
  if (tests) await ensureMpi();
  console.log(`Ready: ${info.description}`);
});
