// Random collective calls of any communicator, each checked against a plain loop over what all ranks
// hold, which follows from the seed.

import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { key, Random } from "../../../ops/graph/random.ts";
import { type Communicator, trafficOf } from "../../../tasks/parallel/communicator.ts";

/** Which calls are made. */
export interface CollectivesPlan {
  seed: number;
  calls: number;
  maxLength: number;
}

type Floats = Float32Array | Float64Array;

const CALLS = ["allReduce32", "allReduce64", "reduceScatter", "allGather", "broadcast", "barrier"];
/** Values that show a wrong order of sums, and those that arithmetic treats apart. */
const SPECIAL = [0, -0, 1e30, -1e30, 1e-40, Infinity, NaN];

/** Every rank makes the calls of the plan; throws where a result has other bits than it should. */
export async function checkCollectives(
  group: Communicator,
  { seed, calls, maxLength }: CollectivesPlan,
): Promise<void> {
  const { rank, size } = group;
  let traffic = group.bytesSent;
  for (let call = 0; call < calls; call++) {
    const random = new Random(key(seed, call));
    const name = CALLS[random.below(CALLS.length)];
    const length = random.below(5) === 0 ? random.below(4) : random.below(maxLength);
    const inParts = name === "reduceScatter" || name === "allGather";
    const held = Array.from(
      { length: size },
      (_, r) => numbers(new Random(key(seed, call, r)), inParts ? length * size : length, name),
    );
    const mine = held[rank].slice();
    const what = `call ${call}: ${name} of ${mine.length}`;
    if (random.below(8) === 0) await group.patiently(what, () => pause(random.below(3)));
    switch (name) {
      case "allReduce32":
      case "allReduce64":
        await group.allReduce(mine);
        assertSameBits(mine, sumOf(held), what);
        traffic += trafficOf(mine.byteLength, size, 2);
        break;
      case "reduceScatter": {
        const part = await group.reduceScatter(mine as Float32Array);
        assertSameBits(part, sumOf(held).slice(rank * length, (rank + 1) * length), what);
        traffic += trafficOf(mine.byteLength, size, 1);
        break;
      }
      case "allGather": {
        const expected = mine.slice();
        held.forEach((values, r) => {
          expected.set(values.subarray(r * length, (r + 1) * length), r * length);
        });
        await group.allGather(mine as Float32Array);
        assertSameBits(mine, expected, what);
        traffic += trafficOf(mine.byteLength, size, 1);
        break;
      }
      case "broadcast": {
        const root = random.below(size);
        const bytes = new Uint8Array(mine.buffer, 0, Math.max(0, mine.byteLength - 3));
        await group.broadcast(bytes, root === 0 ? undefined : root);
        assertSameBits(bytes, new Uint8Array(held[root].buffer, 0, bytes.length), what);
        traffic += trafficOf(bytes.length, size, 1);
        break;
      }
      case "barrier":
        await group.barrier({ patient: random.below(2) === 0 });
    }
    assert.equal(group.bytesSent, traffic);
  }
}

function numbers(random: Random, length: number, call: string): Floats {
  const values = call === "allReduce64" ? new Float64Array(length) : new Float32Array(length);
  return values.map(() =>
    random.below(50) === 0
      ? SPECIAL[random.below(SPECIAL.length)]
      : (random.uniform() - 0.5) * 2 ** random.below(20)
  );
}

/** ((r0 + r1) + r2) + …, rounded each time. */
function sumOf(held: readonly Floats[]): Floats {
  const sum = held[0].slice();
  for (const values of held.slice(1)) values.forEach((value, i) => sum[i] += value);
  return sum;
}

function assertSameBits(actual: ArrayBufferView, expected: ArrayBufferView, what: string): void {
  const bytes = ({ buffer, byteOffset, byteLength }: ArrayBufferView) =>
    Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength);
  assert.ok(bytes(actual).equals(bytes(expected)), what);
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
