// A few of the mutations that `mutations.ts` makes by hand in their thousands.
import assert from "node:assert/strict";
import { cpuTest } from "../device.ts";
import { mutate, tallyText, Victims } from "./mutations.ts";

cpuTest("a run folder with a damaged file gives one line, or the same bits", async () => {
  const victims = await Victims.make();
  try {
    const tally = await mutate(victims, 40, 2);
    assert.deepEqual(tally.wrong, [], tallyText(tally));
    assert.ok(tally.same > 5 && tally.refused > 5, tallyText(tally));
  } finally {
    await victims.remove();
  }
});
