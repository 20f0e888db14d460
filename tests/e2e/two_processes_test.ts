// Two processes that want the same folder: a few rounds of the campaign, and what is said to the second.

import assert from "node:assert/strict";
import { campaign } from "./two_processes.ts";

Deno.test("of two processes on one folder, one is refused or takes over, and one whole run is left", async () => {
  const tally = await campaign(0, 6);
  assert.equal([...tally.values()].reduce((sum, n) => sum + n, 0), 6);
});
