// A rank of pretraining that can be told to fail once, and that tells what it sent and kept.

import { existsSync, writeFileSync } from "node:fs";
import { openRankDevice } from "../../../tasks/devices/open.ts";
import type { SettingsOf, TrainArgs } from "../../../tasks/launch/train.ts";
import { serveRank } from "../../../tasks/parallel/worker.ts";
import { pretrain } from "../../../tasks/pretrain.ts";
import { GpuDevice } from "../../../ops/gpu/device.ts";
import { type Device } from "../../../ops/mod.ts";
import { DeviceLost } from "../../../ops/graph/errors.ts";

/** What goes wrong with rank 1 before its seventh update. */
export type Fault = "throws" | "loses its device";

/** Settings of pretraining, and what is to go wrong; `marker` is a file that says that it has. */
export interface FaultySettings extends SettingsOf<"pretrain"> {
  fault?: Fault;
  marker: string;
}

serveRank<TrainArgs<FaultySettings>>(
  async ({ settings: { fault, marker, ...settings }, placement }, { group, output }) => {
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
      ...settings,
      group,
      interrupted,
      output,
      openDevice: async () => device = await openRankDevice(group, placement, output),
    });
  },
);
