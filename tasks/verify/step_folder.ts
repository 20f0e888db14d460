/**
 * A folder with training steps of another METRO implementation, to be checked against: what it did,
 * in which order, and what came out.
 *
 * - `step.json`: `config`, `objective`, `optimizer`, `batch`, and `steps`, one entry per update;
 * - `params_before.safetensors`, `params_after.safetensors`: all weights;
 * - `grads.safetensors`: gradient of the loss of the first update for every weight, before clipping;
 * - `logits.safetensors`: `mlm_logits` [selected, vocab], `clm_logits` [batch, length, vocab] and,
 *   where there is an RTD head, `rtd_logits` [batch, length], of the first update. Where `decoder_target`
 *   is `masked_tokens`, `decoder_input` and `clm_logits` have as many columns as the sequence with the most
 *   selected tokens.
 *
 * Tensors have the names and shapes of the reference implementation (`models/names.ts`). Every field
 * is either understood or refused by name; only `note`, which any part may have, is ignored.
 *
 * @module
 */
import { basename, join, resolve } from "node:path";
import {
  foreignNames,
  type ForeignTensor,
  maskId,
  type ModelConfig,
  type ObjectiveConfig,
  ourNames,
  preset,
} from "../../models/mod.ts";
import {
  checkModelConfig,
  checkObjectiveConfig,
  LM_HEADS,
  MASKED_POSITIONS_ONLY,
  RTD_HEADS,
  RTD_LOCATIONS,
  SHARE_MODES,
  SPECIAL,
} from "../../models/config.ts";
import { layOutMetroBatch, type LossCounts, type MetroValues } from "../../models/metro_batch.ts";
import { PARTS } from "../../models/parameters.ts";
import { transpose } from "../../models/names.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { readJson } from "../files/json.ts";
import { exists } from "../files/write.ts";
import { openTensors, type Tensors } from "../checkpoints/tensors.ts";
import { defaults, describe, type Options, validate, type Values } from "../command/options.ts";
import type { AdamWConfig } from "../train/programs.ts";

const SIZE = { type: "integer", min: 1 } as const;
const ID = { type: "integer", min: 0 } as const;
const WEIGHT = { type: "number", min: 0 } as const;
const SWITCH = { type: "boolean", default: false } as const;

const CONFIG = describe({
  vocab_size: { ...SIZE, help: "Rows of the token table, sentinels included." },
  pad: { ...ID, help: "Id of the padding." },
  bos: { ...ID, help: "Id of the first token of every sequence." },
  eos: { ...ID, help: "Id of the last one." },
  unk: { ...ID, help: "Id of unknown tokens." },
  mask: { ...ID, help: "Id of the mask, which is the first sentinel and starts the decoder." },
  sentinels: { ...SIZE, help: "How many of the last ids are sentinels." },
  d_model: { ...SIZE, help: "Hidden dimension." },
  num_heads: { ...SIZE, help: "Attention heads." },
  d_ff: { ...SIZE, help: "Width of the feed-forward layers." },
  encoder_layers: { ...SIZE, help: "Layers of the main encoder." },
  decoder_layers: { ...SIZE, help: "Layers of the main decoder." },
  aux_layers: { ...SIZE, help: "Layers of the auxiliary model." },
  relative_buckets: { ...SIZE, help: "Rows of each relative position table." },
  relative_max_distance: { ...SIZE, help: "Distance from which the last bucket holds." },
  max_positions: { ...SIZE, help: "Longest sequence." },
  share: { type: "choice", choices: SHARE_MODES, help: "What the auxiliary model shares." },
  rtd_head: { type: "choice", choices: RTD_HEADS, help: "Shape of the RTD head." },
  mlm_head: { type: "choice", choices: LM_HEADS, default: "roberta", help: "Auxiliary head." },
  clm_head: { type: "choice", choices: LM_HEADS, default: "linear", help: "Decoder's head." },
  layer_norm_eps: { type: "number", above: 0, help: "Added to the variance." },
  dropout: { type: "number", min: 0, max: 0, help: "Always 0: nobody can repeat its masks." },
});

const OBJECTIVE = describe({
  masked_positions_only: {
    type: "choice",
    choices: MASKED_POSITIONS_ONLY,
    help: "Which positions count in the losses.",
  },
  decoder_target: {
    type: "choice",
    choices: ["all_tokens", "masked_tokens"],
    default: "all_tokens",
    help: "What the decoder writes.",
  },
  weighted_lm_loss: { ...SWITCH, help: "Weighs the CLM loss by what the RTD head thinks." },
  divide_by_mean_weight: { ...SWITCH, help: "Divides those weights by their mean." },
  label_smoothing: { type: "number", min: 0, max: 1, default: 0, help: "Of the CLM loss." },
  copy_mechanism: { ...SWITCH, help: "Lets the decoder copy." },
  rtd_location: {
    type: "choice",
    choices: RTD_LOCATIONS,
    default: "encoder",
    help: "What the RTD head reads.",
  },
  mlm_weight: { ...WEIGHT, help: "Weight of the MLM loss." },
  rtd_weight: { ...WEIGHT, help: "Weight of the RTD loss." },
  clm_weight: { ...WEIGHT, help: "Weight of the CLM loss." },
});

const OPTIMIZER = describe({
  name: { type: "choice", choices: ["adamw"], help: "Decoupled weight decay on every parameter." },
  lr: { type: "number", min: 0, help: "Learning rate, constant." },
  beta1: { type: "number", min: 0, below: 1, help: "Decay of the mean gradient." },
  beta2: { type: "number", min: 0, below: 1, help: "Decay of the mean square." },
  eps: { type: "number", above: 0, help: "Added to its root, before bias correction." },
  weight_decay: { type: "number", min: 0, help: "Decoupled from the gradient." },
  clip_norm: { type: "number", min: 0, help: "Largest gradient norm; 0 is none." },
});

const COUNT = { type: "integer", min: 0 } as const;
const LOSS = { type: "number" } as const;
const FIGURES = describe({
  mlm: { ...LOSS, help: "MLM loss, a mean over the selected positions." },
  clm: { ...LOSS, help: "CLM loss, a mean over the positions that count." },
  loss: { ...LOSS, help: "What is differentiated." },
  sample_size: { ...COUNT, help: "What the reference divides by." },
  grad_norm: { type: "number", min: 0, help: "Before clipping." },
  replaced_total: { ...COUNT, help: "Tokens that the noise changed." },
  clm_replaced_correct: { ...COUNT, help: "Of these, corrected." },
  mlm_correct: { ...COUNT, help: "Selected tokens that the auxiliary model gets right." },
});
/** What a model without RTD head need not state. */
const RTD_FIGURES = describe({
  rtd: { ...LOSS, help: "RTD loss, a mean over the positions that count." },
  rtd_replaced_correct: { ...COUNT, help: "Replaced tokens that are detected." },
});

/** One update of a {@link StepFolder}. */
export interface GoldenUpdate {
  /** What the main model's encoder reads, [rows, length]. */
  noise: Uint32Array;
  /** Losses, each a mean over its own count, and their weighted sum. */
  losses: Readonly<Record<"mlm" | "rtd" | "clm" | "total", number>>;
  /** Norm of the gradient before clipping. */
  gradNorm: number;
  /** Counts for the metrics. */
  counts: Readonly<Record<typeof GOLDEN_COUNTS[number], number>>;
}

/** Names of {@link GoldenUpdate.counts}, as in `step.json`. */
export const GOLDEN_COUNTS = [
  "sample_size",
  "replaced_total",
  "rtd_replaced_correct",
  "clm_replaced_correct",
  "mlm_correct",
] as const;

/** A folder, read and checked. Weights and gradients are under our names and in our layout. */
export interface StepFolder {
  /** Name of the folder. */
  name: string;
  /** The model, without dropout. */
  model: ModelConfig;
  /** The objective; its masking settings have no meaning here but that there is room for the masks. */
  objective: ObjectiveConfig;
  /** The optimizer. */
  adamw: AdamWConfig;
  /** Its constant learning rate. */
  learningRate: number;
  /** Sequences of the batch. */
  rows: number;
  /** Padded length of each. */
  length: number;
  /** The batch, the same in every update. */
  inputs: MetroValues;
  /** Counts of the batch. */
  counts: LossCounts;
  /** The updates, in order. */
  updates: readonly GoldenUpdate[];
  /** Weights before the first update. */
  before: Readonly<Record<string, Float32Array>>;
  /** Weights after the last update. */
  after: Readonly<Record<string, Float32Array>>;
  /** Gradients of the first update. */
  gradients: Readonly<Record<string, Float32Array>>;
  /** Logits of the first update; no `rtd` where the model has no RTD head. */
  logits: Readonly<{ mlm: Float32Array; clm: Float32Array; rtd?: Float32Array }>;
  /** What the folder's files call each parameter. */
  fileNames: ReadonlyMap<string, string>;
}

/**
 * Reads and checks a folder.
 *
 * @throws {UserError} something is missing, malformed, unknown or contradicts the rest; names the file
 *   and the field or tensor
 *
 * @example
 * ```ts ignore
 * import { readStepFolder } from "./step_folder.ts";
 *
 * const { model, updates } = await readStepFolder("golden/tiny_lm");
 * console.log(model.share, updates.length);
 * ```
 */
export async function readStepFolder(path: string): Promise<StepFolder> {
  const file = join(path, "step.json");
  if (!await exists(file)) {
    throw new UserError(`${file}: no such file; give a folder that has one`);
  }
  const json = await readJson(file);
  const { config, objective: losses, optimizer, batch, steps } = parts(json, file);
  const size = fields(CONFIG, config, `${file}: config`);
  const adamw = fields(OPTIMIZER, optimizer, `${file}: optimizer`);
  const goals = fields(OBJECTIVE, losses, `${file}: objective`);
  const onlyMasked = goals.decoder_target === "masked_tokens";
  const tokens = readBatch(batch, size.vocab_size, onlyMasked, `${file}: batch`);
  checkIds(size, `${file}: config`);

  const before = join(path, "params_before.safetensors");
  const model = modelOf(size, await positionRows(before));
  const objective = objectiveOf(goals, tokens);
  ours(`${file}: config`, () => checkModelConfig(model));
  ours(`${file}: objective`, () => checkObjectiveConfig(objective, model));
  const { inputs, counts } = layOut(model, objective, tokens, `${file}: batch`);
  const updates = readUpdates(steps, model, tokens, `${file}: steps`);
  const parameters = (name: string) => readParameters(join(path, name), model);
  const gradients = await parameters("grads.safetensors");
  return {
    name: basename(resolve(path)),
    model,
    objective,
    adamw: {
      beta1: adamw.beta1,
      beta2: adamw.beta2,
      epsilon: adamw.eps,
      weightDecay: adamw.weight_decay,
      clipNorm: adamw.clip_norm,
    },
    learningRate: adamw.lr,
    rows: tokens.rows,
    length: tokens.length,
    inputs,
    counts,
    updates,
    before: (await parameters("params_before.safetensors")).values,
    after: (await parameters("params_after.safetensors")).values,
    gradients: gradients.values,
    logits: await readLogits(join(path, "logits.safetensors"), model, tokens, counts),
    fileNames: gradients.fileNames,
  };
}

// --- step.json ---

type Json = Record<string, unknown>;

/** The five parts of `step.json`, no more and no less. */
function parts(json: unknown, where: string): Record<typeof PARTS_OF_STEP[number], unknown> {
  return exactly(PARTS_OF_STEP, json, where);
}
const PARTS_OF_STEP = ["config", "objective", "optimizer", "batch", "steps"] as const;

/** An object that has all of these keys and, but for `note`, no other. */
function exactly<K extends string>(
  keys: readonly K[],
  value: unknown,
  where: string,
): Record<K, unknown> {
  const { note: _, ...object } = expectObject(value, where);
  for (const key of keys) {
    if (!Object.hasOwn(object, key)) throw new UserError(`${where}: ${key}: missing`);
  }
  const unknown = Object.keys(object).find((key) => !(keys as readonly string[]).includes(key));
  if (unknown !== undefined) {
    throw new UserError(`${where}: ${unknown}: unknown; expected ${keys.join(", ")}`);
  }
  return object as Record<K, unknown>;
}

/** Values of described fields; those without default must be there. */
function fields<T extends Options>(
  described: T,
  value: unknown,
  where: string,
): Required<Values<T>> {
  const { note: _, ...object } = expectObject(value, where);
  const given = validate(described, object, where);
  const all = { ...defaults(described), ...given } as Required<Values<T>>;
  for (const key of Object.keys(described)) {
    if (!(key in all)) throw new UserError(`${where}: ${key}: missing`);
  }
  return all;
}

function expectObject(value: unknown, where: string): Json {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  throw new UserError(`${where}: expected an object, got ${JSON.stringify(value)?.slice(0, 40)}`);
}

/** Every vocabulary has the same special ids. */
function checkIds(config: Values<typeof CONFIG> & Json, where: string): void {
  const { vocab_size = 0, sentinels = 0 } = config;
  const mask = maskId({ vocabSize: vocab_size, sentinels });
  for (const [field, id] of Object.entries({ ...SPECIAL, mask })) {
    if (config[field] !== id) {
      throw new UserError(`${where}: ${field}: expected ${id}, got ${config[field]}`);
    }
  }
}

function modelOf(config: Required<Values<typeof CONFIG>>, positionRows: number): ModelConfig {
  return {
    vocabSize: config.vocab_size,
    sentinels: config.sentinels,
    dModel: config.d_model,
    heads: config.num_heads,
    dFf: config.d_ff,
    encoderLayers: config.encoder_layers,
    decoderLayers: config.decoder_layers,
    auxLayers: config.aux_layers,
    relativeBuckets: config.relative_buckets,
    relativeMaxDistance: config.relative_max_distance,
    maxPositions: config.max_positions,
    positionRows,
    share: config.share,
    rtdHead: config.rtd_head,
    mlmHead: config.mlm_head,
    clmHead: config.clm_head,
    dropout: config.dropout,
    auxDropout: config.dropout,
    layerNormEps: config.layer_norm_eps,
  };
}

function objectiveOf(
  config: Required<Values<typeof OBJECTIVE>>,
  { selected, length }: StepTokens,
): ObjectiveConfig {
  return {
    ...preset("base").objective,
    maskProbability: Math.max(...selected.map((positions) => positions.length)) / length,
    maskedPositionsOnly: config.masked_positions_only,
    decoderTarget: config.decoder_target === "masked_tokens" ? "maskedTokens" : "allTokens",
    weightedLmLoss: config.weighted_lm_loss,
    divideByMeanWeight: config.divide_by_mean_weight,
    labelSmoothing: config.label_smoothing,
    copyMechanism: config.copy_mechanism,
    rtdLocation: config.rtd_location,
    mlmWeight: config.mlm_weight,
    rtdWeight: config.rtd_weight,
    clmWeight: config.clm_weight,
  };
}

/** Runs a check that names our fields; the error names the file's. */
function ours(where: string, check: () => void): void {
  try {
    check();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const theirs = (name: string) =>
      name === "heads"
        ? "num_heads"
        : name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    throw new UserError(`${where}: ${error.message.replace(/^\w+/, theirs)}`);
  }
}

// --- tokens ---

interface StepTokens {
  rows: number;
  length: number;
  tokens: Uint32Array;
  aux: Uint32Array;
  decoder: Uint32Array;
  /** Columns of what the decoder sees. */
  decoderLength: number;
  /** Selected positions of each row, rising. */
  selected: Uint32Array[];
}

function readBatch(
  value: unknown,
  vocab: number,
  onlyMasked: boolean,
  where: string,
): StepTokens {
  const names = ["tokens", "selected", "aux_input", "decoder_input"] as const;
  const batch = exactly(names, value, where);
  const first = batch.tokens;
  const rows = Array.isArray(first) ? first.length : 0;
  const length = rows > 0 && Array.isArray(first) && Array.isArray(first[0]) ? first[0].length : 0;
  if (length === 0) throw new UserError(`${where}: tokens: expected rows of ids, got none`);
  const read = (name: typeof names[number], limit: number, columns = length) =>
    readGrid(batch[name], rows, columns, limit, `${where}: ${name}`);
  const tokens = read("tokens", vocab), chosen = read("selected", 2);
  const selected = Array.from({ length: rows }, (_, row) => {
    const flags = chosen.subarray(row * length, (row + 1) * length);
    return Uint32Array.from(flags.keys()).filter((position) => flags[position] === 1);
  });
  const pad = tokens.findIndex((token, i) => token === SPECIAL.pad && chosen[i] === 1);
  if (pad >= 0) throw new UserError(`${where}: selected: ${at(pad, length)} is padding`);
  if (!chosen.includes(1)) throw new UserError(`${where}: selected: expected a 1, got none`);
  const decoderLength = onlyMasked ? Math.max(...selected.map((row) => row.length)) : length;
  const aux = read("aux_input", vocab), decoder = read("decoder_input", vocab, decoderLength);
  return { rows, length, tokens, aux, decoder, decoderLength, selected };
}

/** Integers below `limit`, [rows, length], as one array. */
function readGrid(
  value: unknown,
  rows: number,
  length: number,
  limit: number,
  where: string,
): Uint32Array {
  if (!Array.isArray(value) || value.length !== rows) {
    throw new UserError(`${where}: expected ${rows} rows, got ${counted(value)}`);
  }
  for (const [i, row] of value.entries()) {
    if (!Array.isArray(row) || row.length !== length) {
      throw new UserError(`${where}: row ${i}: expected ${length} numbers, got ${counted(row)}`);
    }
    for (const [j, id] of row.entries()) {
      if (Number.isInteger(id) && id >= 0 && id < limit) continue;
      const expected = `expected an integer from 0 to ${limit - 1}`;
      const got = JSON.stringify(id).slice(0, 40);
      throw new UserError(`${where}: ${at(i * length + j, length)}: ${expected}, got ${got}`);
    }
  }
  return Uint32Array.from(value.flat());
}

function counted(value: unknown): string {
  return Array.isArray(value) ? `${value.length}` : `${JSON.stringify(value)?.slice(0, 40)}`;
}

/** A place in a grid, counted from 0 as in the file. */
function at(index: number, length: number): string {
  return `row ${Math.floor(index / length)}, column ${index % length}`;
}

function layOut(
  model: ModelConfig,
  objective: ObjectiveConfig,
  { tokens, length, aux, decoder, decoderLength, selected }: StepTokens,
  where: string,
) {
  if (length > model.maxPositions) {
    const most = `at most max_positions = ${model.maxPositions}`;
    throw new UserError(`${where}: tokens: expected ${most} columns, got ${length}`);
  }
  const batch = { tokens, length, sequences: [] };
  const laidOut = layOutMetroBatch(model, objective, batch, aux, selected);
  const counted = tokens.filter((token) => token !== SPECIAL.pad).length;
  if (laidOut.counts.tokens !== counted) {
    throw new UserError(`${where}: tokens: expected padding at the ends of rows only`);
  }
  // Ours may have more columns, all padding.
  const { decoderTokens } = laidOut.inputs, columns = decoderTokens.length / selected.length;
  const ours = (i: number) =>
    decoderTokens[Math.floor(i / decoderLength) * columns + i % decoderLength];
  const wrong = decoder.findIndex((token, i) => token !== ours(i));
  if (wrong >= 0) {
    const expected = `expected ${ours(wrong)} (the mask, then the tokens but the last)`;
    throw new UserError(
      `${where}: decoder_input: ${at(wrong, decoderLength)}: ${expected}, got ${decoder[wrong]}`,
    );
  }
  return laidOut;
}

// --- updates ---

function readUpdates(
  steps: unknown,
  model: ModelConfig,
  batch: StepTokens,
  where: string,
): GoldenUpdate[] {
  if (!Array.isArray(steps) || steps.length === 0) {
    throw new UserError(`${where}: expected at least one update, got ${counted(steps)}`);
  }
  return steps.map((step, i) => readUpdate(step, model, batch, `${where}[${i}]`));
}

function readUpdate(
  step: unknown,
  model: ModelConfig,
  { rows, length, tokens, selected }: StepTokens,
  where: string,
): GoldenUpdate {
  const { noise: grid, ...rest } = expectObject(step, where);
  const noise = readGrid(grid, rows, length, model.vocabSize, `${where}: noise`);
  const isSelected = (i: number) => selected[Math.floor(i / length)].includes(i % length);
  const stray = noise.findIndex((token, i) => token !== tokens[i] && !isSelected(i));
  if (stray >= 0) {
    const what = `${noise[stray]} instead of ${tokens[stray]}, but that is not selected`;
    throw new UserError(`${where}: noise: ${at(stray, length)}: ${what}`);
  }
  const hasRtd = model.rtdHead !== "none";
  if (!hasRtd) { // Whatever stands for "none" there.
    for (const key of Object.keys(RTD_FIGURES)) rest[key] ??= 0;
  }
  const figures = fields({ ...FIGURES, ...RTD_FIGURES }, rest, where);
  const { mlm, rtd, clm, loss, grad_norm, ...counts } = figures;
  return { noise, losses: { mlm, rtd, clm, total: loss }, gradNorm: grad_norm, counts };
}

// --- tensors ---

/** Rows of the main model's position tables, which `step.json` does not state. */
async function positionRows(file: string): Promise<number> {
  return await withTensors(file, (tensors) => {
    const name = "encoder.embed_positions.weight";
    return Promise.resolve(tensors.shape(name)[0] ?? 0);
  });
}

async function readParameters(file: string, model: ModelConfig) {
  const names = ourNames(model, "reference", PARTS);
  const foreign = foreignNames(model, "reference", PARTS);
  return await withTensors(file, async (tensors) => {
    const values: Record<string, Float32Array> = {};
    const fileNames = new Map<string, string>();
    for (const name of tensors.names) {
      const our = names.get(name);
      if (our === undefined) {
        throw new UserError(`${file}: ${name}: the model of step.json has no such tensor`);
      }
      if (fileNames.has(our)) {
        throw new UserError(`${file}: ${name}: the same tensor as ${fileNames.get(our)}; keep one`);
      }
      fileNames.set(our, name);
      values[our] = await readParameter(tensors, name, foreign.get(our)!, file);
    }
    for (const [our, { name }] of foreign) {
      if (!fileNames.has(our)) throw new UserError(`${file}: ${name}: missing`);
    }
    return { values, fileNames };
  });
}

async function readParameter(
  tensors: Tensors,
  name: string,
  { shape, transposed }: ForeignTensor,
  file: string,
): Promise<Float32Array> {
  expectShape(tensors, name, shape, file);
  const values = await tensors.read(name);
  return transposed ? transpose(values, shape[0], shape[1]) : values;
}

async function readLogits(
  file: string,
  { vocabSize, rtdHead }: ModelConfig,
  { rows, length, decoderLength }: StepTokens,
  { selected }: LossCounts,
) {
  return await withTensors(file, async (tensors) => {
    const read = async (name: string, shape: number[]) => {
      expectShape(tensors, name, shape, file);
      return await tensors.read(name);
    };
    const known = ["mlm_logits", "clm_logits", "rtd_logits"];
    const unknown = tensors.names.find((name) => !known.includes(name));
    if (unknown) throw new UserError(`${file}: ${unknown}: unknown; expected ${known.join(", ")}`);
    return {
      mlm: await read("mlm_logits", [selected, vocabSize]),
      clm: await read("clm_logits", [rows, decoderLength, vocabSize]),
      ...(rtdHead !== "none" && { rtd: await read("rtd_logits", [rows, length]) }),
    };
  });
}

function expectShape(tensors: Tensors, name: string, shape: readonly number[], file: string): void {
  const got = tensors.names.includes(name) ? tensors.shape(name) : undefined;
  if (got === undefined) throw new UserError(`${file}: ${name}: missing`);
  if (got.length === shape.length && got.every((n, i) => n === shape[i])) return;
  throw new UserError(`${file}: ${name}: expected shape [${shape}], got [${got}]`);
}

async function withTensors<T>(file: string, use: (tensors: Tensors) => Promise<T>): Promise<T> {
  const tensors = await openTensors(file);
  try {
    return await use(tensors);
  } finally {
    await tensors.close();
  }
}
