/**
 * Training on the devices of this machine: on one, in this thread, or with a worker for each and another
 * start after a failure.
 *
 * @module
 */
import type { Resume } from "../checkpoints/run_folder.ts";
import type { DeviceFlags } from "../devices/choose.ts";
import { openFirst, prepareAdapters, type WorkerPlacement } from "../devices/open.ts";
import { finetune } from "../finetune.ts";
import { runWorkers, type WorkersJob } from "../parallel/workers.ts";
import { pretrain } from "../pretrain.ts";
import { cpuRoom } from "../train/room.ts";
import type { RankSetting } from "../train/setting.ts";

/** What can be trained. */
const RECIPES = { pretrain, finetune };

/** The name of a recipe. */
export type Recipe = keyof typeof RECIPES;

/** A recipe's settings, without what each rank has of its own: plain data. */
export type SettingsOf<R extends Recipe> = Omit<
  Parameters<typeof RECIPES[R]>[0],
  keyof RankSetting
>;

/** What a recipe returns. */
export type ResultOf<R extends Recipe> = Awaited<ReturnType<typeof RECIPES[R]>>;

/** What every rank is given; plain data. */
export interface TrainArgs<Settings> {
  /** What the ranks do. */
  recipe: Recipe;
  /** With which settings. */
  settings: Settings;
  /** Where they compute. */
  placement: WorkerPlacement;
}

/** What is said to the workers, and what they say. */
type WorkerOptions = Pick<WorkersJob<unknown>, "timeout" | "retries" | "interrupted" | "output">;

/** How {@link train} trains. */
export interface TrainOptions extends DeviceFlags, WorkerOptions {
  /** Devices to train on. */
  ranks: number | "all";
}

/**
 * Trains on one device or on several.
 *
 * @returns what the recipe returned, on rank 0
 * @throws {UserError} there is no adapter, or too few; and what {@link trainByWorkers} throws
 */
export async function train<R extends Recipe>(
  recipe: R,
  settings: SettingsOf<R>,
  { ranks, adapter, threads, ...options }: TrainOptions,
): Promise<ResultOf<R>> {
  const placement = await prepareAdapters({ ranks, adapter, threads });
  // Only another thread can be started again.
  if (ranks === 1 && !options.retries) {
    const { interrupted, output } = options;
    const place = { openDevice: () => openFirst(placement), cpu: cpuRoom(placement) };
    return await run(recipe, settings, { ...place, interrupted, output });
  }
  const args = { recipe, settings, placement };
  return await trainByWorkers<SettingsOf<R>, ResultOf<R>>(args, options);
}

/** Follows a recipe, in this thread. */
export async function run<R extends Recipe>(
  recipe: R,
  settings: SettingsOf<R>,
  setting: RankSetting,
): Promise<ResultOf<R>> {
  // The compiler does not know that a recipe and its settings belong together.
  const follow = RECIPES[recipe] as (all: object) => Promise<ResultOf<R>>;
  return await follow({ ...settings, ...setting });
}

/**
 * Trains on several devices. After a failure that is nobody's mistake, all ranks start again, from the last
 * checkpoint or, if there is none yet, from the beginning.
 *
 * @param module serves the ranks
 * @returns what rank 0 returned
 * @throws {UserError} that a rank threw
 * @throws {Error} if a rank failed, ended or hung, and the retries are used up
 */
export async function trainByWorkers<Settings extends { resume?: Resume }, Result>(
  args: TrainArgs<Settings>,
  options: WorkerOptions,
  module: URL = new URL("./train_rank.ts", import.meta.url),
): Promise<Result> {
  // A start after a failure keeps the folder that the one before may still hold.
  const settings = { ...args.settings, job: crypto.randomUUID() };
  return await runWorkers<TrainArgs<Settings>, Result>({
    ...options,
    module,
    args: { ...args, settings },
    size: args.placement.environment.length,
    retry: (args) => ({ ...args, settings: { ...args.settings, resume: "requeue" } }),
  });
}
