// A rank under MPI. Arguments: what to do; the library, if it is not to be looked for; a folder for
// heartbeats, if there is to be one.

import assert from "node:assert/strict";
import { type MpiGroup, openMpi } from "../../../../tasks/parallel/mpi/group.ts";
import { checkCollectives } from "../collectives.ts";

const pause = (milliseconds: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

/** All kinds of calls. */
async function collectives(group: MpiGroup): Promise<void> {
  await checkCollectives(group, { seed: group.size, calls: 60, maxLength: 9000 });
  await longArrays(group);
  // Calls that nobody waits for in between take their turns.
  const [a, b] = [Float32Array.of(group.rank), Float64Array.of(1)];
  await Promise.all([group.allReduce(a), group.barrier(), group.allReduce(b)]);
  assert.deepEqual([a[0], b[0]], [group.size * (group.size - 1) / 2, group.size]);
  console.log(
    `rank ${group.rank} of ${group.size}, ${group.localRank} of ${group.localSize} here: ` +
      `all is well with ${group.mpiVersion}`,
  );
}

/** Arrays of many chunks; of their values all sums are exact. */
async function longArrays({ size, rank, allReduce, reduceScatter, allGather }: MpiGroup) {
  const length = size * Math.ceil(2_200_000 / size);
  const value = (i: number, rank: number) => (i % 251) * (rank + 1);
  const sum = (i: number) => (i % 251) * size * (size + 1) / 2;
  const mine = Float32Array.from({ length }, (_, i) => value(i, rank));
  const part = await reduceScatter(mine);
  assert.ok(part.every((x, i) => x === sum(rank * part.length + i)), "reduceScatter");
  await allGather(mine);
  assert.ok(mine.every((x, i) => x === sum(i)), "allGather");
  const odd = Float64Array.from({ length: length + 1 }, (_, i) => value(i, rank));
  await allReduce(odd);
  assert.ok(odd.every((x, i) => x === sum(i)), "allReduce");
}

const FAULTS: Record<string, (group: MpiGroup) => unknown> = {
  abort: (group) => group.abort("the disk is full"),
  throw: () => {
    throw new Error("the disk is full");
  },
  exit: () => Deno.exit(0),
  kill: () => Deno.kill(Deno.pid, "SIGKILL"),
  loop: () => {
    for (;;);
  },
  idle: () => pause(3_600_000),
  stop: () => Deno.kill(Deno.pid, "SIGSTOP"),
  patient: (group) => group.patiently("packing", () => pause(4000)),
  late: async (group) => {
    for (let part = 0; part < 8; part++) {
      group.alive(`part ${part}`);
      await pause(500);
    }
  },
};

const [what, library, heartbeats] = Deno.args;
const group = await openMpi({
  mpiPath: library || undefined,
  heartbeats: heartbeats || undefined,
  timeout: what === "collectives" ? 60 : 2,
});
if (what === "collectives") {
  await collectives(group);
} else {
  group.alive("update 12");
  await group.allReduce(new Float64Array(1));
  if (group.rank === 1) await FAULTS[what](group);
  await group.barrier();
}
await group.finalize();
