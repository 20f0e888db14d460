/**
 * The flags with which commands name a model: a run, or one from the Hugging Face Hub.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { describe } from "../command/options.ts";

/** Flags that name a model which is no run. */
export const MODEL_FLAGS = describe({
  model: {
    type: "string",
    unit: "name|folder",
    help:
      "Instead of a run: a model of the Hugging Face Hub (owner/name), which is downloaded once, or " +
      "a folder with its files. METRO-T0, T0, T5, Flan-T5 and UMT5.",
  },
  relativeMaxDistance: {
    type: "integer",
    min: 1,
    unit: "tokens",
    help:
      "With --model: distance from which all relative positions share a bucket. Default: what " +
      "its config.json says, 128 for METRO-T0 large++, which may have been trained with 256.",
  },
  allowNonfinite: {
    type: "boolean",
    default: false,
    help:
      "Take weights that hold NaN or infinity, and what is computed with them. Else they are an error " +
      "that names the tensor.",
  },
});

/**
 * Checks that exactly one of two flags names a model.
 *
 * @throws {UserError} if it is not exactly one, or a flag belongs to the other
 *
 * @example
 * ```ts
 * import { checkModelFlags } from "./model_flags.ts";
 * import assert from "node:assert/strict";
 *
 * checkModelFlags({ model: "google/flan-t5-base" });
 * assert.throws(() => checkModelFlags({}), /expected --run FOLDER or --model/);
 * ```
 */
export function checkModelFlags(
  { run, model, relativeMaxDistance }: {
    run?: string;
    model?: string;
    relativeMaxDistance?: number;
  },
): void {
  if ((run === undefined) === (model === undefined)) {
    const got = run === undefined ? "neither" : "both";
    throw new UserError(
      `expected --run FOLDER or --model NAME|FOLDER, one of them, got ${got}`,
    );
  }
  if (relativeMaxDistance !== undefined && model === undefined) {
    throw new UserError(
      "--relative-max-distance: goes with --model; a run's config.json has its own",
    );
  }
}
