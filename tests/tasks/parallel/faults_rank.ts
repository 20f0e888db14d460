// A rank that comes to grief on demand.

import { UserError } from "../../../ops/graph/errors.ts";
import type { Communicator } from "../../../tasks/parallel/communicator.ts";
import { type RankContext, serveRank } from "../../../tasks/parallel/worker.ts";

/** What happens, and to which rank. */
export interface FaultArgs {
  fault: keyof typeof FAULTS | "returnEarly";
  rank: number;
  /** Starts in which it happens; all if absent. */
  failures?: number;
}

/** Nothing ends a thread that hangs but the process's end: it must not burden the next tests. */
const HANG = 6000;
const pause = (milliseconds: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

const FAULTS = {
  none: () => {},
  userError: () => {
    throw new UserError("--data: no such file");
  },
  error: () => {
    throw new TypeError("the device is lost", { cause: new Error("driver reset") });
  },
  text: () => {
    throw "just text";
  },
  close: () => self.close(),
  exit: () => Deno.exit(3),
  patientClose: (group: Communicator) =>
    group.patiently("packing", () => {
      self.close();
      return pause(60_000);
    }),
  patientExit: (group: Communicator) => group.patiently("packing", () => Deno.exit(3)),
  busyLoop: () => {
    for (const end = performance.now() + HANG; performance.now() < end;);
  },
  nativeWait: () => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, HANG),
  asyncHang: () => new Promise<void>(() => {}),
  otherCall: (group: Communicator) => group.barrier(),
  otherLength: (group: Communicator) => group.allReduce(new Float32Array(7)),
  otherType: (group: Communicator) => group.allReduce(new Float64Array(8)),
  unhandledRejection: async () => {
    Promise.reject(new Error("nobody awaits this"));
    await pause(60_000);
  },
  uncaughtError: async () => {
    setTimeout(() => {
      throw new Error("thrown by a timer");
    });
    await pause(60_000);
  },
  patient: (group: Communicator) => group.patiently("packing", () => pause(4000)),
  alive: async (group: Communicator) => {
    for (let i = 0; i < 40; i++) {
      group.alive(`part ${i}`);
      await pause(100);
    }
  },
} satisfies Record<string, (group: Communicator) => unknown>;

serveRank<FaultArgs>(async ({ fault, rank, failures }, { group, output }: RankContext) => {
  await group.barrier();
  group.alive("update 12");
  if (rank === group.rank && failures !== 0) {
    if (fault === "returnEarly") return;
    await FAULTS[fault](group);
  }
  const values = new Float32Array(8).fill(1);
  await group.allReduce(values);
  output.write(`sum ${values[0]}\n`);
  return values[0];
});
