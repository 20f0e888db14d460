import assert from "node:assert/strict";
import { trafficOf } from "../../../tasks/parallel/communicator.ts";
import { controlBlock } from "../../../tasks/parallel/control.ts";
import { createGroup, joinGroup } from "../../../tasks/parallel/shared.ts";
import { runWorkers } from "../../../tasks/parallel/workers.ts";
import type { CollectivesArgs } from "./collectives_rank.ts";

function collectives(size: number, chunkBytes: number | undefined, args: Partial<CollectivesArgs>) {
  return runWorkers<CollectivesArgs, number>({
    module: new URL("./collectives_rank.ts", import.meta.url),
    args: {
      shared: createGroup(size, { chunkBytes }),
      seed: size,
      calls: 60,
      maxLength: 300,
      ...args,
    },
    size,
    timeout: 60,
    output: { write: (text) => assert.fail(text) },
  });
}

for (const size of [1, 2, 3, 4, 7]) {
  Deno.test(`${size} ranks: random calls of all kinds give what plain loops give`, async () => {
    // Pieces of a few elements, so that most arrays take many rounds; then of some hundred bytes.
    assert.ok(await collectives(size, 64, { calls: 80 }) >= 0);
    assert.ok(await collectives(size, 2000, { seed: 100 + size }) >= 0);
  });
}

Deno.test("arrays longer than the usual staging memory pass through it", async () => {
  await collectives(2, undefined, { calls: 6, maxLength: 400_000 });
});

Deno.test("a group goes on when its counters wrap around", async () => {
  const shared = createGroup(3, { chunkBytes: 256 });
  for (let rank = 0; rank < 3; rank++) controlBlock(shared).reach(rank, 2 ** 31 - 20);
  await collectives(3, undefined, { shared });
  assert.ok(controlBlock(shared).reached(0) < -(2 ** 30));
});

Deno.test("staging memory grows with the number of ranks and no array", () => {
  const { staging } = createGroup(4, { chunkBytes: 1 << 16 });
  assert.equal(staging.byteLength, 4 * 4 * (1 << 16));
});

Deno.test("a length that cannot be divided among the ranks is an error of ours", async () => {
  const group = joinGroup(createGroup(2), 0);
  await assert.rejects(group.reduceScatter(new Float32Array(3)), /length 3 .* multiple of the 2/);
  await assert.rejects(group.allGather(new Float32Array(5)), /length 5 .* multiple of the 2/);
});

Deno.test("bytes sent are those of a ring", async () => {
  const group = joinGroup(createGroup(1), 0);
  await group.allReduce(new Float64Array(10));
  assert.equal(group.bytesSent, trafficOf(80, 1, 2));
});
