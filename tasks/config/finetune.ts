/**
 * Everything that can be set about finetuning on prompts: one description, from which flags, `--help`,
 * `config.json` and their checks follow. The preset of the pretrained run gives what nobody sets.
 *
 * @module
 */

import { type ModelConfig, type OptimisationConfig, preset } from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { defaults, describe, flagName, type Option } from "../command/options.ts";
import { TRAIN_DEVICE_OPTIONS } from "./device_flags.ts";
import { INPUT_FLAGS, type InputEndToken, type InputRule } from "./inputs.ts";
import { MODEL_FLAGS } from "./model_flags.ts";
import { PRETRAIN_CONFIG, type PretrainConfig } from "./pretrain.ts";

const { updates, peakLearningRate, warmupUpdates, scheduleUpdates } = PRETRAIN_CONFIG;
const { beta1, beta2, epsilon, weightDecay, clipNorm } = PRETRAIN_CONFIG;
const { logEvery, evaluateEvery, saveEvery, dropout, labelSmoothing, seed } = PRETRAIN_CONFIG;
const DATA = "Data", TRAINING = "Optimisation";

const count = (help: string, group: string, min = 1) =>
  ({ type: "integer", min, help, group }) as const;

/** Flags and checks of the settings that a finetuning run's `config.json` remembers. */
export const FINETUNE_CONFIG = describe(
  {
    mixture: {
      type: "paths",
      unit: "name...",
      help:
        "What to train on: T0, T0+ or T0++ (38, 48, 54 datasets), names of datasets, .txt files " +
        "with a name per line, or `all` that have rows and templates.",
      default: ["all"],
      group: DATA,
    },
    mixing: {
      type: "choice",
      choices: ["metro", "tzero"] as const,
      default: "metro",
      help: "Whose rules for shares and for unusable examples: the METRO authors' or T0's.",
      group: DATA,
    },
    data: {
      type: "path",
      unit: "folder",
      help:
        "Rows, as DATASET[/CONFIG]/SPLIT.jsonl, .csv or .parquet. The sample tasks if not given.",
      group: DATA,
    },
    templates: {
      type: "path",
      unit: "folder",
      help:
        "Templates in promptsource's format, as DATASET[/CONFIG]/templates.yaml. Those of the sample " +
        "tasks if not given.",
      group: DATA,
    },
    allowMissing: {
      type: "boolean",
      default: false,
      help: "Leave out datasets of the mixture that are not there.",
      group: DATA,
    },
    skipBad: {
      type: "boolean",
      default: false,
      help: "Count and list unusable rows instead of stopping at the first.",
      group: DATA,
    },
    ...INPUT_FLAGS,
    sourceLength: count("Longest prompt, in tokens; longer ones lose their end.", DATA, 8),
    targetLength: count("Longest target, in tokens.", DATA, 2),
    sourceShapes: {
      ...count("Padded prompt lengths for which programs are compiled.", DATA),
      max: 16,
      default: 6,
    },
    targetShapes: {
      ...count("Padded target lengths for which programs are compiled.", DATA),
      max: 8,
      default: 3,
    },
    window: {
      ...count("Examples that are rendered, tokenised and batched at a time.", DATA),
      default: 8192,
    },
    seed,
    updates,
    batchSize: { ...count("Examples of one update.", TRAINING), unit: "examples" },
    microBatch: {
      ...count("Padded tokens on the device at a time.", TRAINING),
      unit: "tokens",
    },
    peakLearningRate,
    warmupUpdates,
    scheduleUpdates,
    beta1,
    beta2,
    epsilon,
    weightDecay,
    clipNorm,
    labelSmoothing,
    dropout,
    logEvery,
    evaluateEvery,
    evaluateExamples: {
      ...count("Held-out examples of an evaluation at most; 0 for none.", TRAINING, 0),
      default: 512,
    },
    saveEvery,
  } satisfies Record<keyof FinetuneSettings, Option>,
);

/** Flags of the command that are not part of a run's config. */
export const FINETUNE_COMMAND = describe({
  run: {
    type: "path",
    unit: "folder",
    help: "The pretrained run to start from, or, with --resume, the finetuning run to go on with.",
  },
  ...MODEL_FLAGS,
  out: {
    type: "path",
    unit: "folder",
    help: "Folder of the finetuning run. Default: one inside the pretrained run, named after the " +
      "mixture; with --model, runs/MODEL-MIXTURE.",
  },
  resume: { type: "boolean", default: false, help: "Go on from the run's last checkpoint." },
  workers: {
    type: "integer",
    min: 1,
    max: 64,
    default: 1,
    help: "Threads that render and tokenise ahead, for each device.",
    group: DATA,
  },
  ...TRAIN_DEVICE_OPTIONS,
});

/** Whose rule says how much of a dataset is used; see `cap` in `prompts/t0.ts`. */
export type MixingRule = FinetuneSettings["mixing"];

/** What the config of a finetuning run says about its model. */
export interface FinetunedModel {
  /** Tells it from a pretraining run. */
  kind: "finetune";
  /** Sizes and parts. */
  model: ModelConfig;
  /** Longest source. */
  sourceLength: number;
  /** Longest target. */
  targetLength: number;
  /** Whether its inputs end with `</s>`; those of older versions, which do not say, do. */
  inputEndToken?: InputEndToken;
  /** Datasets of the mixture. */
  datasets: readonly string[];
}

/** What it starts from: a run, or a model that is none. */
export interface StartingModel extends Pick<PretrainConfig, "preset" | "source"> {
  /** Sizes and parts. */
  config: ModelConfig;
  /** How its inputs are made, where it is known. */
  inputs?: InputRule;
}

/** What the user can set about a finetuning run. */
export interface FinetuneSettings
  extends Omit<OptimisationConfig, "batchSequences" | "sequenceLength"> {
  /** `T0`, `T0+`, `T0++`, datasets, files with a dataset per line, or `all`. */
  mixture: readonly string[];
  /** Whose shares, and whose rules for unusable examples. */
  mixing: "metro" | "tzero";
  /** Folder of the rows. */
  data: string;
  /** Folder of the templates. */
  templates: string;
  /** Leave out datasets that are not there. */
  allowMissing: boolean;
  /** Count unusable rows instead of stopping. */
  skipBad: boolean;
  /** Whether inputs end with `</s>`. */
  inputEndToken: "auto" | "yes" | "no";
  /** Longest source, in tokens. */
  sourceLength: number;
  /** Longest target, in tokens. */
  targetLength: number;
  /** Static source lengths. */
  sourceShapes: number;
  /** Static target lengths. */
  targetShapes: number;
  /** Examples that are rendered, tokenised and batched at a time. */
  window: number;
  /** Examples of one update. */
  batchSize: number;
  /** Padded tokens on the device at a time. */
  microBatch: number;
  /** Label smoothing of the loss. */
  labelSmoothing: number;
  /** Dropout of the model. */
  dropout: number;
  /** Updates between lines of metrics. */
  logEvery: number;
  /** Updates between evaluations; 0 for the end only. */
  evaluateEvery: number;
  /** Held-out examples of an evaluation at most. */
  evaluateExamples: number;
  /** Updates between checkpoints; 0 for the end only. */
  saveEvery: number;
}

/** Some settings, as flags or a config file give them. */
export type GivenFinetune = Partial<FinetuneSettings>;

/** Everything that a finetuning run's `config.json` holds. */
export interface FinetuneConfig extends FinetuneSettings, FinetunedModel {
  /** Whether inputs end with `</s>`. */
  inputEndToken: InputEndToken;
  /** Longest source, in tokens. */
  sourceLength: number;
  /** Longest target, in tokens. */
  targetLength: number;
  /** The pretrained run, or the model that is none. */
  from: string;
  /** Its preset, or the one of the nearest size. */
  preset: PretrainConfig["preset"];
  /** Whom it follows. */
  source: PretrainConfig["source"];
}

/** What the presets say about rhythm. */
const RECIPES = {
  "tiny": { microBatch: 2048, logEvery: 20, evaluateEvery: 100, saveEvery: 250 },
  "small": { microBatch: 8192, logEvery: 20, evaluateEvery: 500, saveEvery: 500 },
  "base": { microBatch: 8192, logEvery: 50, evaluateEvery: 5000, saveEvery: 5000 },
  "base++": { microBatch: 8192, logEvery: 50, evaluateEvery: 5000, saveEvery: 5000 },
  "large++": { microBatch: 2048, logEvery: 50, evaluateEvery: 5000, saveEvery: 5000 },
} as const;

/** What a finetuning run starts from, and where its data is if nobody says. */
export interface FinetuneBase {
  /** The pretrained run's folder, or what else names the model. */
  from: string;
  /** What it says about its model. */
  model: StartingModel;
  /** Folder of the sample rows. */
  sampleData: string;
  /** Folder of the sample templates. */
  sampleTemplates: string;
}

/**
 * Completes what was given with the preset's values (paper, Table 6).
 *
 * @throws {UserError} if the settings contradict each other or the model
 */
export function resolveFinetune(given: GivenFinetune, base: FinetuneBase): FinetuneConfig {
  const { preset: name, source, config, inputs } = base.model;
  const { inputEndToken: wanted = "auto" } = given;
  const { batchSequences, sequenceLength, ...recipe } = preset(name, source).finetuning;
  const dropout = given.dropout ?? config.dropout;
  const model: ModelConfig = { ...config, dropout };
  const resolved: FinetuneConfig = {
    ...defaults(FINETUNE_CONFIG),
    labelSmoothing: 0,
    data: base.sampleData,
    templates: base.sampleTemplates,
    batchSize: batchSequences,
    sourceLength: sequenceLength,
    ...recipe,
    ...RECIPES[name],
    // A schedule that nobody set ends with the training.
    ...(given.updates !== undefined && {
      scheduleUpdates: given.updates,
      warmupUpdates: Math.min(recipe.warmupUpdates, Math.floor(given.updates / 10)),
    }),
    ...given,
    // What the model's family does is remembered as what it is.
    inputEndToken: wanted !== "auto" || !inputs ? wanted : inputs.endToken ? "yes" : "no",
    dropout,
    kind: "finetune",
    from: base.from,
    preset: name,
    source,
    model,
    datasets: [],
  };
  if ((given.data === undefined) !== (given.templates === undefined)) {
    const [there, lacking] = given.data === undefined
      ? ["templates", "data"]
      : ["data", "templates"];
    throw new UserError(`--${there} is given without --${lacking}: rows and templates go together`);
  }
  check(resolved);
  return resolved;
}

function check(config: FinetuneConfig): void {
  const { microBatch, sourceLength, targetLength, updates, scheduleUpdates, model } = config;
  const fail = (key: string, expected: string, got: unknown): never => {
    throw new UserError(`--${flagName(key)}: expected ${expected}, got ${got}`);
  };
  const positions = model.positionRows - 2;
  if (sourceLength > positions) {
    fail("sourceLength", `at most ${positions} positions`, sourceLength);
  }
  if (targetLength > positions) {
    fail("targetLength", `at most ${positions} positions`, targetLength);
  }
  const longest = Math.max(sourceLength, targetLength);
  if (microBatch < longest) fail("microBatch", `at least one example of ${longest}`, microBatch);
  if (scheduleUpdates < updates) {
    fail("scheduleUpdates", `at least --updates ${updates}`, scheduleUpdates);
  }
  if (config.warmupUpdates >= scheduleUpdates) {
    fail("warmupUpdates", `less than --schedule-updates ${scheduleUpdates}`, config.warmupUpdates);
  }
}
