/**
 * A rank of training on several devices, as a worker. Started by `train.ts`.
 *
 * @module
 */
import { openRankDevice } from "../devices/open.ts";
import { serveRank } from "../parallel/worker.ts";
import { cpuRoom } from "../train/room.ts";
import { type Recipe, run, type SettingsOf, type TrainArgs } from "./train.ts";

serveRank<TrainArgs<SettingsOf<Recipe>>>(
  async ({ recipe, settings, placement }, { group, interrupted, output }) => {
    const openDevice = () => openRankDevice(group, placement, output);
    const cpu = cpuRoom(placement);
    return await run(recipe, settings, { openDevice, cpu, group, interrupted, output });
  },
);
