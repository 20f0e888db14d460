/**
 * `deno task doctor`: prints what the toolkit finds on this machine and what it will do with it.
 * Installs nothing; without an adapter it says what to type, and exits with code 1.
 *
 * @module
 */
import { main } from "../tasks/cli.ts";
import { diagnosis, examine } from "../tasks/doctor.ts";
import { ensureAdapter } from "../tasks/setup.ts";

await main(async () => console.log(diagnosis(await examine(await ensureAdapter()))));
