/**
 * Finetuning on the devices of this machine.
 *
 * @module
 */
import type { FinetuneJob } from "../finetune.ts";
import type { MetricRecord } from "../reports/metrics.ts";
import { completed, type DevicesOptions } from "./options.ts";
import { train } from "./train.ts";

/**
 * Finetunes a model on one device or on several.
 *
 * @param job what {@link finetune} takes, as plain data
 * @returns the finetuning run's folder and its metric records
 * @throws {UserError} as {@link finetune}, and if there are too few devices, or one fails or hangs
 *
 * @example
 * ```ts ignore
 * import { finetuneOnDevices } from "@metro/t0/tasks";
 *
 * const { run } = await finetuneOnDevices({
 *   run: "runs/base",
 *   given: { mixture: ["T0"], data: "rows", templates: "promptsource/templates" },
 * }, { devices: 4 });
 * console.log(run);
 * ```
 */
export async function finetuneOnDevices(
  job: Omit<FinetuneJob, "openDevice" | "cpu" | "group" | "interrupted" | "output">,
  options: DevicesOptions = {},
): Promise<{ run: string; metrics: MetricRecord[] }> {
  return await train("finetune", job, completed(options));
}
