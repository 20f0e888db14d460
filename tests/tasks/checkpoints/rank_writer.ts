/**
 * One of several ranks that save a run until they are killed: a victim of the test "killed at any moment".
 * Its barrier is a line to the parent, which answers when all ranks have sent theirs.
 */
import { alone } from "../../../tasks/parallel/communicator.ts";
import { saveRun } from "../../../tasks/checkpoints/run_folder.ts";
import { fill, trained } from "./trained_slices.ts";

const run = Deno.args[0], [size, rank, start] = Deno.args.slice(1).map(Number);
const answers = Deno.stdin.readable.pipeThrough(new TextDecoderStream()).getReader();
const group = {
  ...alone(),
  ...{ rank, size },
  async barrier() {
    console.log("barrier");
    const { done } = await answers.read();
    if (done) throw new Error("the parent is gone");
  },
};

const share = trained(size, rank);
await group.barrier();
for (let update = start;; update++) {
  fill(share, update);
  await saveRun(run, share, { update }, group);
  if (rank === 0) console.log(update);
}
