/**
 * Evaluation across the devices of this machine: a worker for each, which share the batches.
 *
 * @module
 */
import type { Evaluation } from "../evaluate/results.ts";
import type { EvaluateArgs } from "./evaluate_rank.ts";
import { runWorkers, type WorkersJob } from "../parallel/workers.ts";

/** What {@link evaluateByWorkers} needs. */
export interface EvaluateWorkersJob
  extends EvaluateArgs, Pick<WorkersJob<EvaluateArgs>, "timeout" | "interrupted" | "output"> {}

/**
 * Evaluates a model on several devices. What is written is the same to the byte as on one of them.
 *
 * @throws {UserError} as `evaluate`, and if a device cannot be opened, fails or hangs; what is
 * finished by then is kept
 */
export function evaluateByWorkers(
  { timeout, interrupted, output, ...args }: EvaluateWorkersJob,
): Promise<Evaluation> {
  return runWorkers<EvaluateArgs, Evaluation>({
    module: new URL("./evaluate_rank.ts", import.meta.url),
    args,
    size: args.placement.environment.length,
    timeout,
    interrupted,
    output,
  });
}
