/**
 * A trained model, ready to be asked: weights of the main model in device memory, tokenizer, lengths. It
 * comes from a run, from a folder as models on the Hugging Face Hub are, or from the Hub itself.
 *
 * @module
 */

import { readdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import {
  isT5,
  maskId,
  type ModelConfig,
  modelFromHubConfig,
  parameterCount,
  parameterShapes,
  type Part,
  preset,
  type PresetName,
  PRESETS,
  specialIds,
} from "../../models/mod.ts";
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { checkModelConfig } from "../../models/config.ts";
import type { Scheme } from "../../models/names.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { type Device, openDevice, StateMemory } from "../../ops/mod.ts";
import { readNewest } from "./save.ts";
import { openTensors } from "./tensors.ts";
import { type HubOptions, resolveModel } from "./hub.ts";
import { expectFields, fields } from "../files/fields.ts";
import { readJson } from "../files/json.ts";
import {
  checkpointWeights,
  findParameters,
  type FoundParameter,
  hasOwnHead,
  loadParameters,
  soundWeights,
} from "./parameters.ts";
import { defaults, validate } from "../command/options.ts";
import type { FinetunedModel } from "../config/finetune.ts";
import {
  chosenRule,
  INPUT_FLAGS,
  type InputEndToken,
  type InputRule,
  inputRule,
} from "../config/inputs.ts";
import { modelConfig, PRETRAIN_CONFIG, type PretrainConfig } from "../config/pretrain.ts";
import { expectMarks } from "./own_files.ts";
import { readConfig, savedConfig } from "./run_folder.ts";
import { exists } from "../files/write.ts";
import { loadTokenizer } from "../tokenizer/load.ts";
import { type Tokenizer } from "../tokenizer/tokenizer.ts";
import { openWeights, type Weights } from "../files/weights.ts";

/** A model without an owner: what scoring and generation need. */
export interface LoadedModel {
  /** Where the weights are. */
  device: Device;
  /** Sizes and parts. */
  config: ModelConfig;
  /** Weights of the main model, by name. */
  parameters: StateMemory;
  /** Text to ids and back. */
  tokenizer: Tokenizer;
  /** Id from which decoding starts: `</s>` after finetuning, the first sentinel before; T5's own in T5. */
  start: number;
  /** Longest source in tokens, with its `<s>` and `</s>`. */
  maxSource: number;
  /** Longest target in tokens, with its `</s>`. */
  maxTarget: number;
  /** What it is called in tables: the run's path, or the name that was given. */
  name: string;
  /** Datasets that it was finetuned on, as far as is known. */
  trainedOn: readonly string[];
  /** Whether scores and answers may come of numbers that are not finite; else they are refused. */
  allowNonfinite?: boolean;
  /** How its inputs are made of text; with an end token, and white space as its tokenizer wants it, if absent. */
  inputs?: {
    /** Whether inputs end with `</s>`. */
    endToken: boolean;
    /** Whether every run of white space is made one space before the tokenizer sees it. */
    singleSpaces: boolean;
  };
  /** Frees the weights; the device stays open, unless `loadModel` has opened it. */
  destroy(): void;
}

/** How to read a model. */
export interface ModelOptions {
  /** Where progress is shown while a model is downloaded; standard error unless given. */
  output?: { isTTY?: boolean; columns?: number; write(text: string): unknown };
  /**
   * How long a connection is trusted and tried again; some seconds unless given.
   *
   * @ignore
   */
  patience?: HubOptions["patience"];
  /**
   * Distance from which all relative positions share the last bucket, instead of the config's; for models
   * that are no runs. The released METRO-T0 large++ says 128 and may have been trained with 256.
   */
  relativeMaxDistance?: number;
  /** Whether inputs end with `</s>`; as the model's family has it, or a finetuned run was trained, if absent. */
  inputEndToken?: "auto" | "yes" | "no";
  /** Take weights that are not all finite numbers, and what is computed with them; refused unless given. */
  allowNonfinite?: boolean;
}

/** What a folder says about its model, without the weights. */
export interface RunModel {
  /** The folder: of a run, or as models on the Hub are. */
  folder: string;
  /** Sizes and parts. */
  config: ModelConfig;
  /** Text to ids and back. */
  tokenizer: Tokenizer;
  /** The run's preset, or the one of the nearest size: what finetuning settings follow from. */
  preset: PretrainConfig["preset"];
  /** Whom the run followed. */
  source: PretrainConfig["source"];
  /** Its finetuning, if it is a finetuning run. */
  finetuned?: FinetunedModel;
  /** Whether it is no run, but a model as those on the Hub are. */
  released: boolean;
  /** How its inputs are made of text. */
  inputs: InputRule;
  /** Whether its weights need not be finite numbers. */
  allowNonfinite?: boolean;
}

/** The config.json of a run, which a model of the Hub is not. */
async function readRunConfig(run: string): Promise<unknown> {
  const contents = await readConfig(
    run,
    "expected the folder of a run, but there is no config.json in it",
  );
  if (!isReleased(contents)) return contents;
  throw new UserError(`${run}: is no run, but a model as those on the Hub are; give it as --model`);
}

/**
 * Reads what a run folder says about its model: config and tokenizer.
 *
 * @throws {UserError} if the folder holds no run, one without a checkpoint, or one whose config is broken
 */
export async function readRunModel(run: string): Promise<RunModel> {
  const contents = await readRunConfig(run), path = join(run, "config.json");
  await readNewest(run, "model.safetensors", async (weights) => {
    if (await exists(weights)) return;
    throw new UserError(`${run}: the run has no weights yet; finish it, or go on with --resume`);
  });
  expectFields(contents, fields({}), path, "put back a copy of the file");
  const tokenizer = loadTokenizer(join(run, "tokenizer.json"));
  await readNewest(run, "model.safetensors", (weights) => {
    return expectOwn(run, weights, contents as Record<string, unknown>, tokenizer);
  });
  if (isRecord(contents) && contents.kind === "finetune") {
    return finetunedModel(run, contents, tokenizer);
  }
  const given = validate(PRETRAIN_CONFIG, contents, path);
  const settings = { ...defaults(PRETRAIN_CONFIG), ...given } as PretrainConfig;
  const config = modelConfig(settings, tokenizer.rows, tokenizer.sentinels);
  checkedConfig(path, config);
  const { preset, source } = settings;
  const inputs = inputRule({ config, tokenizer, released: false });
  return { folder: run, preset, source, released: false, config, tokenizer, inputs };
}

/** Fails unless config and tokenizer are those that the weights were saved with. */
async function expectOwn(
  run: string,
  path: string,
  config: Record<string, unknown>,
  { hash }: Tokenizer,
): Promise<void> {
  const weights = await openTensors(path);
  await weights.close();
  // Only what was changed needs `training.json`, which a finished run may have lost.
  const saved = () => savedConfig(run).catch(() => undefined);
  await expectMarks(run, config, hash, weights.metadata, saved);
}

function finetunedModel(
  run: string,
  contents: Record<string, unknown>,
  tokenizer: Tokenizer,
): RunModel {
  const path = join(run, "config.json");
  const expect = (field: string, expected: string, ok: (x: unknown) => boolean) => {
    if (ok(contents[field])) return;
    throw new UserError(`${path}: ${field}: expected ${expected}, got ${shown(contents[field])}`);
  };
  expect("model", "the sizes of a model", isRecord);
  for (const length of ["sourceLength", "targetLength"]) {
    expect(length, "a number of tokens", (x) => Number.isSafeInteger(x) && x as number > 0);
  }
  expect("inputEndToken", "yes or no", (x) => {
    return x === undefined || INPUT_FLAGS.inputEndToken.choices.includes(x as InputEndToken);
  });
  expect("datasets", "a list of names", (x) => {
    return Array.isArray(x) && x.every((name) => typeof name === "string");
  });
  const { preset, source } = PRETRAIN_CONFIG;
  expect("preset", "the name of a preset", (x) => preset.choices.includes(x as PresetName));
  expect("source", "whom the model follows", (x) => source.choices.includes(x as never));

  const finetuned = contents as unknown as FinetunedModel & Pick<RunModel, "preset" | "source">;
  const config = checkedConfig(path, withT5Settings(finetuned.model));
  if (tokenizer.rows > config.vocabSize) {
    throw new UserError(
      `${run}: the tokenizer has ${tokenizer.rows} ids and the model's token table ` +
        `${config.vocabSize} rows; do the files belong together?`,
    );
  }
  return {
    folder: run,
    preset: finetuned.preset,
    source: finetuned.source,
    released: false,
    inputs: inputRule({ config, tokenizer, released: false, finetuned }),
    config,
    tokenizer,
    finetuned,
  };
}

/** Runs of older versions do not say what then followed from tied tables. */
function withT5Settings(model: ModelConfig): ModelConfig {
  if (!("t5" in model) || !isRecord(model.t5)) return model;
  const settings = { scaleOutputs: model.t5.tiedHead, relativeTables: "stack" as const };
  return { ...model, t5: { ...settings, ...model.t5 } };
}

function checkedConfig(path: string, config: ModelConfig): ModelConfig {
  try {
    checkModelConfig(config);
  } catch (error) {
    throw error instanceof UserError ? new UserError(`${path}: ${error.message}`) : error;
  }
  return config;
}

/**
 * Reads what a run, or a model from the Hub, says about itself; downloads the latter if need be.
 *
 * @param source folder of a run or of a model, or a model's name on the Hub
 * @throws {UserError} if there is no such run or model, or it is not one that the toolkit knows
 */
export async function readModel(source: string, options: ModelOptions = {}): Promise<RunModel> {
  const folder = await resolveModel(source, options);
  const otherwise = "expected a run or a model, but there is no config.json in it";
  const json = await readConfig(folder, otherwise), { allowNonfinite } = options;
  if (isReleased(json)) return { ...await readReleased(folder, json, options), allowNonfinite };
  if (options.relativeMaxDistance === undefined) {
    return { ...await readRunModel(folder), allowNonfinite };
  }
  throw new UserError(
    `relativeMaxDistance: ${source} is a run, whose config.json says what it is; leave it out`,
  );
}

/** Configs of the Hub say of what kind the model is; those of runs do not. */
function isReleased(config: unknown): boolean {
  return isRecord(config) && "model_type" in config;
}

async function readReleased(
  folder: string,
  json: unknown,
  options: ModelOptions,
): Promise<RunModel> {
  const config = await releasedConfig(folder, json, options);
  const tokenizer = loadTokenizer(folder);
  checkTokenizer(folder, config, tokenizer);
  return {
    folder,
    config,
    tokenizer,
    preset: nearestPreset(config),
    source: "release",
    released: true,
    inputs: inputRule({ config, tokenizer, released: true, said: saysEndToken(folder, json) }),
  };
}

/**
 * The model that a folder like those of the Hub holds: what its `config.json` describes, and, where that leaves
 * open whether a T5 has an output table of its own, its weights.
 *
 * @throws {UserError} naming the file and the field that is not usable
 */
export async function releasedConfig(
  folder: string,
  json: unknown,
  { relativeMaxDistance }: ModelOptions = {},
): Promise<ModelConfig> {
  const read = (ownHead?: boolean) =>
    inFile(folder, () => modelFromHubConfig(json, { relativeMaxDistance, ownHead }));
  let config = read();
  if (isT5(config) && !saysUntied(json)) {
    const weights = await openWeights(folder);
    try {
      config = read(await hasOwnHead(weights));
    } finally {
      await weights.close();
    }
  }
  await checkGenerationConfig(folder, config);
  return config;
}

function inFile<T>(folder: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof UserError ? new UserError(join(folder, error.message)) : error;
  }
}

function saysUntied(json: unknown): boolean {
  return isRecord(json) && json.tie_word_embeddings === false;
}

/** Ids that Hugging Face's library takes from `generation_config.json` must be those of `config.json`. */
async function checkGenerationConfig(folder: string, config: ModelConfig): Promise<void> {
  const path = join(folder, "generation_config.json");
  if (!await exists(path)) return;
  const json = await readJson(path);
  if (!isRecord(json)) throw new UserError(`${path}: expected an object, got ${shown(json)}`);
  const { pad, eos, start } = specialIds(config);
  const ids = { decoder_start_token_id: start, eos_token_id: eos, pad_token_id: pad };
  for (const [field, expected] of Object.entries(ids)) {
    const value = json[field] ?? expected;
    const one = Array.isArray(value) && value.length === 1 ? value[0] : value;
    if (one === expected) continue;
    throw new UserError(
      `${path}: ${field}: expected ${expected}, as in config.json, got ${shown(value)}`,
    );
  }
}

/** T5's token tables have some rows that its vocabulary has no use for; METRO's have none. */
function checkTokenizer(folder: string, config: ModelConfig, tokenizer: Tokenizer): void {
  const { rows } = tokenizer, { vocabSize } = config;
  if (isT5(config) ? rows > vocabSize : rows !== vocabSize) {
    throw new UserError(
      `${folder}: the tokenizer has ${rows} ids and the model's token table ${vocabSize} rows; ` +
        `expected ${isT5(config) ? "at most as many ids" : "as many of both"}`,
    );
  }
  const special = specialIds(config);
  for (const name of ["pad", "eos"] as const) {
    if (tokenizer[name] === special[name]) continue;
    throw new UserError(
      `${folder}: ${name} is ${tokenizer[name]} for the tokenizer and ${special[name]} for ` +
        "config.json; do the files belong together?",
    );
  }
}

function nearestPreset(config: ModelConfig): PresetName {
  const size = (model: ModelConfig) => Math.log(parameterCount(model, ["main"]));
  const distance = (name: PresetName) => Math.abs(size(preset(name).model) - size(config));
  return PRESETS.toSorted((a, b) => distance(a) - distance(b))[0];
}

/** A run's checkpoint, or the files of a model as those on the Hub are. */
async function openModelWeights({ folder, released }: ModelFiles): Promise<Weights> {
  if (released) return await openWeights(folder);
  return await readNewest(folder, "model.safetensors", async (path) => {
    return checkpointWeights(path, await openTensors(path));
  });
}

/** What of a model leads to its weights. */
export type ModelFiles = Pick<RunModel, "folder" | "config" | "released" | "allowNonfinite">;

/** Whether a model that was converted here says how its inputs end. */
function saysEndToken(folder: string, json: unknown): boolean | undefined {
  const said = isRecord(json) ? json.input_end_token : undefined;
  if (said === undefined || typeof said === "boolean") return said;
  throw new UserError(
    `${join(folder, "config.json")}: input_end_token: expected true or false, got ${shown(said)}`,
  );
}

/**
 * Reads a model's weights into device memory.
 *
 * @param parts which parts of the model `parameters` has
 * @throws {UserError} if the weights are not those of the model
 */
export async function readModelWeights(
  device: Device,
  model: ModelFiles,
  parts: readonly Part[],
  parameters: StateMemory,
): Promise<void> {
  await withParameters(model, parts, (weights, found) => {
    return loadParameters(device, weights, found, parameters);
  });
}

/**
 * Opens a model's weights while they are used.
 *
 * @param use gets the weights, and what {@link findParameters} found among them
 * @throws {UserError} if the weights are not those of the model, or not finite numbers
 */
export async function withParameters<T>(
  model: ModelFiles,
  parts: readonly Part[],
  use: (weights: Weights, found: Map<string, FoundParameter>) => Promise<T>,
): Promise<T> {
  const weights = await openModelWeights(model);
  try {
    // A run's weights are named as in the reference.
    const schemes: Scheme[] = model.released ? ["release", "reference"] : ["reference"];
    const found = await findParameters(weights, model.config, parts, schemes);
    return await use(model.allowNonfinite ? weights : soundWeights(weights), found);
  } finally {
    await weights.close();
  }
}

/**
 * Loads a model onto a device of its own, which `destroy` closes: the form for scripts.
 *
 * @param source folder of a run, folder as models on the Hub are, or a model's name there
 * @throws {UserError} if there is no adapter or no such model, or it cannot be used
 *
 * @example
 * ```ts ignore
 * import { generate, loadModel } from "@metro/t0";
 *
 * const model = await loadModel("gonglinyuan/metro_t0pp_base");
 * console.log(await generate(model, "Is this review positive or negative? A great film!"));
 * model.destroy();
 * ```
 */
export function loadModel(source: string, options?: ModelOptions): Promise<LoadedModel>;
/**
 * Loads a model onto a device. Of a run, the auxiliary model and the RTD head stay on the disk.
 *
 * @param source folder of a run, folder as models on the Hub are, or a model's name there
 * @throws {UserError} if there is no such run or model, its files do not belong together, or the device's
 * limits do not allow the model
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const device = await openDevice({ adapter: "cpu" });
 * const model = await loadModel(device, run);
 * assert.equal(model.tokenizer.vocabSize, 300);
 * model.destroy();
 * device.destroy();
 * await rm(folder, { recursive: true });
 * ```
 */
export function loadModel(
  device: Device,
  source: string,
  options?: ModelOptions,
): Promise<LoadedModel>;
export async function loadModel(
  first: Device | string,
  second?: string | ModelOptions,
  third?: ModelOptions,
): Promise<LoadedModel> {
  if (typeof first !== "string") return await loadOnto(first, second as string, third);
  const device = await openDevice();
  try {
    const model = await loadOnto(device, first, second as ModelOptions | undefined);
    const destroy = () => {
      model.destroy();
      device.destroy();
    };
    return { ...model, destroy };
  } catch (error) {
    device.destroy();
    throw error;
  }
}

async function loadOnto(
  device: Device,
  source: string,
  options?: ModelOptions,
): Promise<LoadedModel> {
  const model = await readModel(source, options);
  const { config, tokenizer, finetuned, released, inputs } = model;
  // No memory is taken by the sizes in config.json before the weights are seen to have them.
  const parameters = await withParameters(model, ["main"], async (weights, found) => {
    const memory = new StateMemory(device, parameterShapes(config, ["main"]), "parameters");
    try {
      await loadParameters(device, weights, found, memory);
      return memory;
    } catch (error) {
      memory.destroy();
      throw error;
    }
  });
  const positions = config.maxPositions;
  const prompted = finetuned !== undefined || released || isT5(config);
  return {
    device,
    config,
    parameters,
    tokenizer,
    start: prompted ? specialIds(config).start : maskId(config),
    maxSource: Math.min(finetuned?.sourceLength ?? 512, positions),
    maxTarget: Math.min(finetuned?.targetLength ?? 256, positions),
    name: source,
    inputs: chosenRule(inputs, options?.inputEndToken),
    trainedOn: finetuned?.datasets ?? [],
    allowNonfinite: options?.allowNonfinite,
    destroy: () => parameters.destroy(),
  };
}

/**
 * A name for folders of what is made with a model: the end of its path or of its name on the Hub.
 *
 * @example
 * ```ts
 * import { shortName } from "./model.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(shortName("gonglinyuan/metro_t0_base@refs/pr/1"), "metro_t0_base");
 * ```
 */
export function shortName(source: string): string {
  const name = source.replace(/(?<=\w)@.*$/, "");
  return basename(resolve(name)).replace(/[^\w.+-]/g, "-");
}

/**
 * The run that a folder means: itself, or, for a pretraining run that was finetuned, the finetuning run
 * inside it.
 *
 * @param pretrained take the pretrained model itself
 * @throws {UserError} if there are several finetuning runs to choose from
 */
export async function finetunedRun(run: string, pretrained: boolean): Promise<string> {
  if (pretrained) return run;
  const own = await readRunConfig(run);
  if (isRecord(own) && own.kind === "finetune") return run;
  const inside: string[] = [];
  for (const entry of await readdir(run, { withFileTypes: true })) {
    const path = join(run, entry.name, "config.json");
    if (!entry.isDirectory() || !await exists(path)) continue;
    const config = await readJson(path);
    if (isRecord(config) && config.kind === "finetune") inside.push(join(run, entry.name));
  }
  if (inside.length > 1) {
    throw new UserError(
      `${run}: was finetuned ${inside.length} times; choose one: ` +
        inside.toSorted().map((path) => `--run ${path}`).join(", "),
    );
  }
  return inside[0] ?? run;
}
