/**
 * `deno task doctor`: prints what the toolkit finds on this machine to compute on, and what it will use.
 * Installs nothing.
 *
 * @module
 */
import { main } from "../tasks/command/cli.ts";
import { diagnosis, examine } from "../tasks/devices/doctor.ts";
import { prepareEnvironment } from "../tasks/devices/setup.ts";

await main(async () => {
  await prepareEnvironment();
  console.log(diagnosis(await examine()));
});
