// A process with a worker per rank; they open their devices in turn and send values there and back.
// Argument: JSON of { adapter, cards, ranks }. Prints each rank's line, and its failure if there is one.

import {
  describeRank,
  openPlaced,
  type OpenRequest,
  placeRanks,
} from "../../../tasks/devices/placement.ts";

/** What a worker is told. */
interface Start extends OpenRequest {
  rank: number;
  size: number;
}

const scope = globalThis as unknown as Worker & { name?: string };

if (!scope.name) await startRanks();
else scope.onmessage = ({ data }: MessageEvent<Start>) => openRank(data);

async function startRanks() {
  const { adapter, cards, ranks } = JSON.parse(Deno.args[0]);
  const { environment, expect, notes } = placeRanks({ ranks, adapter, cards, mode: "workers" });
  for (const note of notes) console.log(`note: ${note}`);
  const size = environment.length;
  for (const rank of environment.keys()) {
    const worker = new Worker(import.meta.url, { type: "module", name: `rank ${rank}` });
    const answer = new Promise<MessageEvent>((resolve) => worker.onmessage = resolve);
    const place = { environment: environment[rank], expect: expect[rank] };
    worker.postMessage({ rank, size, adapter, ...place } satisfies Start);
    console.log((await answer).data);
  }
  Deno.exit(0); // with all devices still open
}

async function openRank({ rank, size, ...request }: Start) {
  try {
    const device = await openPlaced(request);
    const buffer = device.createBuffer(16, "values");
    device.write(buffer, 0, Float32Array.of(rank, 1, 2, 3));
    const [value] = new Float32Array(await device.read(buffer, 0, 16));
    if (value !== rank) throw new Error(`wrote ${rank}, read ${value}`);
    const line = describeRank({ rank, size, device, expect: request.expect });
    scope.postMessage(`${line}, ${device.kind}`);
  } catch (error) {
    scope.postMessage(`${error}`);
  }
}
