// A rank of pretraining that can be told to fail once, and that tells what it sent and kept.

import { existsSync, writeFileSync } from "node:fs";
import { openRankDevice, type WorkerPlacement } from "../../../tasks/devices/open.ts";
import type { PretrainRankJob } from "../../../tasks/launch/pretrain_rank.ts";
import { serveRank } from "../../../tasks/parallel/worker.ts";
import { pretrain } from "../../../tasks/pretrain.ts";
import { GpuDevice } from "../../../ops/gpu/device.ts";
import { type Device } from "../../../ops/mod.ts";
import { DeviceLost } from "../../../ops/graph/errors.ts";

/** What goes wrong with rank 1 before its seventh update. */
export type Fault = "throws" | "loses its device";

/** The job of pretraining, and what is to go wrong; `marker` is a file that says that it has. */
export interface FaultyJob extends PretrainRankJob {
  fault?: Fault;
  marker: string;
}

serveRank<{ job: FaultyJob; placement: WorkerPlacement }>(
  async ({ job: { fault, marker, ...job }, placement }, { group, output }) => {
    let device: Device, looks = 0;
    // The training loop looks once before every update.
    const interrupted = {
      get aborted() {
        if (++looks === 7 && group.rank === 1 && fault && !existsSync(marker)) {
          writeFileSync(marker, "");
          if (fault === "throws") throw new RangeError("made up");
          // The processor is never lost.
          if (!(device instanceof GpuDevice)) throw new DeviceLost("the device was lost: made up");
          device.gpu.destroy();
        }
        return false;
      },
    };
    await pretrain({
      ...job,
      group,
      interrupted,
      output,
      openDevice: async () => device = await openRankDevice(group, placement, output),
    });
  },
);
