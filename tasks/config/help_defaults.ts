/**
 * What `--help` shows as defaults: the settings that a command would use, given the preset, the source and
 * the objective that stand beside `--help`.
 *
 * @module
 */

import { preset, type PresetName } from "../../models/mod.ts";
import type { HelpPage } from "../command/help.ts";
import { defaults, type Options, readablePart } from "../command/options.ts";
import { FINETUNE_CONFIG, resolveFinetune } from "./finetune.ts";
import { PRETRAIN_CONFIG, type PretrainConfig, resolvePretrain } from "./pretrain.ts";

/** The part of a help page that depends on its other flags. */
export type HelpDefaults = Required<Pick<HelpPage, "defaults" | "note">>;

const { preset: PRESET, source: SOURCE, objective: OBJECTIVE } = PRETRAIN_CONFIG;
/** What other defaults depend on, and what holds of that. */
const CHOICES = { preset: PRESET, source: SOURCE, objective: OBJECTIVE };
const CHOSEN = defaults(CHOICES) as Pick<PretrainConfig, keyof typeof CHOICES>;

/**
 * Defaults of pretraining, and of what takes the same flags.
 *
 * @param args words of the command line, mistakes allowed
 * @param standard the preset if none is given
 *
 * @example
 * ```ts
 * import { pretrainDefaults } from "./help_defaults.ts";
 * import assert from "node:assert/strict";
 *
 * const { defaults, note } = pretrainDefaults(["--preset", "base", "--help"]);
 * assert.equal(defaults.peakLearningRate, 4e-4);
 * assert.match(note, /preset base, source code, objective metro/);
 * ```
 */
export function pretrainDefaults(
  args: readonly string[],
  standard: PresetName = CHOSEN.preset,
): HelpDefaults {
  const chosen = { ...CHOSEN, preset: standard, ...readablePart(CHOICES, args) };
  return {
    defaults: without(resolvePretrain(chosen, []), ["text", ...Object.keys(CHOICES)]),
    note:
      `Defaults below are those of preset ${chosen.preset}, source ${chosen.source}, objective ` +
      `${chosen.objective}; --preset, --source and --objective beside --help show others'.`,
  };
}

/**
 * Defaults of finetuning. They depend on the preset of the run that is finetuned, which is not read for
 * help: `--preset` and `--source` say here what it is.
 *
 * @param args words of the command line, mistakes allowed
 *
 * @example
 * ```ts
 * import { finetuneDefaults } from "./help_defaults.ts";
 * import assert from "node:assert/strict";
 *
 * const { defaults, note } = finetuneDefaults(["--help"]);
 * assert.equal(defaults.updates, 700);
 * assert.match(note, /for a run of preset tiny/);
 * ```
 */
export function finetuneDefaults(args: readonly string[]): HelpDefaults {
  const { preset: name, source } = { ...CHOSEN, ...readablePart(CHOICES, args) };
  const config = resolveFinetune({}, {
    ...{ from: "", sampleData: "", sampleTemplates: "" },
    model: { preset: name, source, config: preset(name, source).model },
  });
  return {
    defaults: without(only(config, FINETUNE_CONFIG), ["data", "templates"]),
    note:
      `Defaults below are those for a run of preset ${name}, source ${source}: help does not look at ` +
      "--run or --model; --preset and --source beside --help show others'.",
  };
}

function without(config: object, keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => !keys.includes(key)));
}

function only(config: object, options: Options): Record<string, unknown> {
  return Object.fromEntries(Object.entries(config).filter(([key]) => Object.hasOwn(options, key)));
}
