/**
 * `deno task setup`: makes sure that there is a graphics adapter, and installs the software driver
 * where there is none. The other tasks do the same by themselves; this one is for images and CI.
 *
 * @module
 */
import { main } from "../tasks/cli.ts";
import { ensureAdapter } from "../tasks/setup.ts";

await main(async () => {
  const { info } = await ensureAdapter();
  console.log(`Ready: ${info.description}`);
});
