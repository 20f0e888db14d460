/**
 * Pretraining on the devices of this machine.
 *
 * @module
 */
import type { PretrainJob } from "../pretrain.ts";
import type { MetricRecord } from "../reports/metrics.ts";
import { completed, type DevicesOptions } from "./options.ts";
import { train } from "./train.ts";

/**
 * Pretrains a model on one device or on several.
 *
 * @param job what {@link pretrain} takes, as plain data
 * @returns the run folder's last metric records
 * @throws {UserError} as {@link pretrain}, and if there are too few devices, or one fails or hangs
 *
 * @example
 * ```ts ignore
 * import { pretrainOnDevices } from "@metro/t0/tasks";
 *
 * await pretrainOnDevices(
 *   { run: "runs/base", given: { preset: "base", text: ["my/texts"] } },
 *   { devices: "all", retries: 3 },
 * );
 * ```
 */
export async function pretrainOnDevices(
  job: Omit<PretrainJob, "openDevice" | "cpu" | "group" | "interrupted" | "output">,
  options: DevicesOptions = {},
): Promise<MetricRecord[]> {
  return await train("pretrain", job, completed(options));
}
