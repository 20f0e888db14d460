/**
 * A rank of pretraining on several devices, as a worker. Started by `train.ts`.
 *
 * @module
 */
import { pretrain, type PretrainJob } from "../pretrain.ts";
import { cpuRoom } from "../plan/room.ts";
import { openRankDevice } from "../devices/open.ts";
import type { TrainArgs } from "./train.ts";
import { serveRank } from "../parallel/worker.ts";

/** The job, without what each rank has of its own: plain data. */
export type PretrainRankJob = Omit<
  PretrainJob,
  "openDevice" | "cpu" | "group" | "interrupted" | "output"
>;

serveRank<TrainArgs<PretrainRankJob>>(
  async ({ job, placement }, { group, interrupted, output }) => {
    const openDevice = () => openRankDevice(group, placement, output);
    const cpu = cpuRoom(placement);
    return await pretrain({ ...job, openDevice, cpu, group, interrupted, output });
  },
);
