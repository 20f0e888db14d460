/**
 * Checks a checkpoint against what another implementation computes with it: logits, scores of ranking,
 * greedy answers; and two copies of its weights against each other.
 *
 * A folder holds a model as those on the Hub are (no tokenizer is needed); `expected.json` with padded
 * `input_ids` and `labels` [batch, length], `scores`, the sums of the labels' log-probabilities, and
 * `greedy`, the ids that follow from each unpadded source, 16 at most, the end token included; and
 * `expected_logits.safetensors` with `logits` [batch, target, vocabulary].
 *
 * @module
 */

import { basename, join, resolve } from "node:path";
import {
  declareParameters,
  decode,
  encode,
  type ModelConfig,
  ourNames,
  parameterCount,
  parameterShapes,
  specialIds,
} from "../../models/mod.ts";
import { isRecord } from "../../models/formats/untrusted.ts";
import { languageModelLogits } from "../../models/heads.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { compile, type Device, input, StateMemory } from "../../ops/mod.ts";
import { openTensors } from "../checkpoints/tensors.ts";
import { Generator } from "../generate/generate.ts";
import { readJson } from "../files/json.ts";
import { type LoadedModel, releasedConfig, withParameters } from "../checkpoints/model.ts";
import { type FoundParameter, loadParameters } from "../checkpoints/parameters.ts";
import { Ranker } from "../evaluate/rank.ts";
import { readConfig } from "../checkpoints/run_folder.ts";
import { exists } from "../files/write.ts";
import { openWeights, type Weights } from "../files/weights.ts";

/** What is compared, in the order of the table. */
export const MODEL_FIGURES = ["logits", "scores", "greedy answers", "copies"] as const;

/** A comparison. */
export interface ModelFigure {
  /** Its row of the table. */
  group: typeof MODEL_FIGURES[number];
  /** What was compared: an example, or a tensor. */
  name: string;
  /** Largest error, relative to the largest logit or to the score; 0 or infinite for what must be equal. */
  error: number;
}

/** What {@link verifyModel} found. */
export interface ModelReport {
  /** The folder's name. */
  name: string;
  /** How many numbers the weights are. */
  parameters: number;
  /** All comparisons. */
  figures: readonly ModelFigure[];
}

/** A folder's expectations. */
interface Expected {
  sources: number[][];
  targets: number[][];
  /** Positions of a row of logits, the padded ones included. */
  positions: number;
  scores: number[];
  greedy: number[][];
  logits: Float32Array;
}

/** Longest of the greedy answers. */
const MOST_TOKENS = 16;

/**
 * Loads a checkpoint onto a device and compares what it computes there with what the folder says, on the
 * ways that evaluation and generation take.
 *
 * @throws {UserError} if the folder's files are missing or do not belong together
 *
 * @example
 * ```ts ignore
 * import { openDevice } from "../../ops/mod.ts";
 * import { modelReportLines, verifyModel } from "./model.ts";
 *
 * const report = await verifyModel(await openDevice(), "golden/metro_hf/tiny");
 * console.log(modelReportLines(report, 1e-4).join("\n"));
 * ```
 */
export async function verifyModel(device: Device, folder: string): Promise<ModelReport> {
  const config = await releasedConfig(
    folder,
    await readConfig(folder, "there is no config.json in it"),
  );
  const expected = await readExpected(folder, config);
  const parameters = new StateMemory(device, parameterShapes(config, ["main"]), "parameters");
  const files = { folder, config, released: true };
  try {
    return await withParameters(files, ["main"], async (weights, found) => {
      await loadParameters(device, weights, found, parameters);
      const model = idsOnly(device, folder, config, parameters, expected);
      return {
        name: basename(resolve(folder)),
        parameters: parameterCount(config, ["main"]),
        figures: [
          ...await compareLogits(model, expected),
          ...await compareScores(model, expected),
          ...await compareAnswers(model, expected),
          ...await compareCopies(folder, config, weights, found),
        ],
      };
    });
  } finally {
    parameters.destroy();
  }
}

/** A model that is asked in ids and answers in ids. */
function idsOnly(
  device: Device,
  name: string,
  config: ModelConfig,
  parameters: StateMemory,
  { sources, positions }: Expected,
): LoadedModel {
  return {
    device,
    config,
    parameters,
    get tokenizer(): never {
      throw new Error("verifying a model needs no tokenizer");
    },
    start: specialIds(config).start,
    maxSource: longest(sources),
    maxTarget: positions,
    name,
    trainedOn: [],
    destroy: () => parameters.destroy(),
  };
}

async function compareLogits(
  { device, config, parameters, start, maxSource, maxTarget }: LoadedModel,
  { sources, targets, logits: expected }: Expected,
): Promise<ModelFigure[]> {
  const rows = sources.length, { vocabSize } = config, { pad } = specialIds(config);
  const tensors = declareParameters(config, ["main"]);
  const memoryTokens = input("source", [rows, maxSource], "u32");
  const tokens = input("target", [rows, maxTarget], "u32");
  const memory = encode(tensors, config, memoryTokens);
  const hidden = decode(tensors, config, tokens, { memory, memoryTokens });
  const outputs = { logits: languageModelLogits(tensors, config, "clm", hidden) };
  const program = compile(device, { name: "logits", outputs }, {
    state: parameters,
  });
  const shifted = targets.map((ids) => [start, ...ids.slice(0, -1)]);
  const source = padded(sources, maxSource, pad), target = padded(shifted, maxTarget, pad);
  program.run({ inputs: { source, target } });
  const logits = await program.read("logits") as Float32Array;
  program.destroy();
  const scale = largest(expected);
  return targets.map((ids, row) => {
    // What follows the end of a row is nobody's prediction.
    const first = row * maxTarget * vocabSize, end = first + ids.length * vocabSize;
    const error = difference(logits.subarray(first, end), expected.subarray(first, end)) / scale;
    return { group: "logits", name: exampleName(row), error: orInfinite(error) };
  });
}

/** Every label is a choice for every source. */
async function compareScores(
  model: LoadedModel,
  { sources, targets, scores }: Expected,
): Promise<ModelFigure[]> {
  const ranker = new Ranker(model);
  try {
    const choices = targets.map((ids) => Uint32Array.from(ids));
    const got = await ranker.scores(sources.map((ids) => {
      return { source: Uint32Array.from(ids), choices };
    }));
    return scores.map((score, row) => {
      const error = Math.abs(got[row][row] / score - 1);
      return { group: "scores", name: exampleName(row), error: orInfinite(error) };
    });
  } finally {
    ranker.destroy();
  }
}

async function compareAnswers(
  model: LoadedModel,
  { sources, greedy }: Expected,
): Promise<ModelFigure[]> {
  const generator = new Generator(model);
  try {
    const prompts = sources.map((ids) => Uint32Array.from(ids));
    const answers = await generator.generateIds(prompts, { maxTokens: MOST_TOKENS });
    return answers.map(({ ids }, row) => {
      const same = ids.join() === greedy[row].join();
      const said = same ? "" : `: expected ${greedy[row].join(" ")}, got ${ids.join(" ")}`;
      const name = exampleName(row) + said;
      return { group: "greedy answers", name, error: same ? 0 : Infinity };
    });
  } finally {
    generator.destroy();
  }
}

/** Where a folder has its weights in PyTorch's format as well, both must hold the same numbers. */
async function compareCopies(
  folder: string,
  config: ModelConfig,
  weights: Weights,
  found: ReadonlyMap<string, FoundParameter>,
): Promise<ModelFigure[]> {
  const path = join(folder, "pytorch_model.bin");
  if (weights.files.includes(path) || !await exists(path)) return [];
  const copies = await openWeights(folder, ["pytorch_model.bin"]);
  try {
    const names = ourNames(config, "release", ["main"]), copied = new Set<string>();
    const figures: ModelFigure[] = [];
    const add = (name: string, same: boolean) =>
      figures.push({ group: "copies", name, error: same ? 0 : Infinity });
    for (const name of copies.tensors.keys()) {
      const ours = names.get(name) ?? name, original = found.get(ours)?.name;
      copied.add(ours);
      add(name, original !== undefined && await areEqual(weights, original, copies, name));
    }
    for (const [ours, { name }] of found) if (!copied.has(ours)) add(name, false);
    return figures;
  } finally {
    await copies.close();
  }
}

async function areEqual(a: Weights, inA: string, b: Weights, inB: string): Promise<boolean> {
  const values = await a.read(inA);
  let count = 0, same = true;
  await b.readInto(inB, (part, first) => {
    same &&= part.every((x, i) => Object.is(x, values[first + i]));
    count += part.length;
  });
  return same && count === values.length;
}

/**
 * What is not as it should be, in words.
 *
 * @example
 * ```ts
 * import { modelFailures } from "./model.ts";
 * import assert from "node:assert/strict";
 *
 * const figure = { group: "logits", name: "example 1", error: 0.002 } as const;
 * const report = { name: "tiny", parameters: 1000, figures: [figure] };
 * assert.deepEqual(modelFailures(report, 0.01), []);
 * assert.deepEqual(modelFailures(report, 0.001), ["logits, example 1: off by 2.0e-3, more than 0.001"]);
 * ```
 */
export function modelFailures({ figures }: ModelReport, tolerance: number): string[] {
  return figures.filter(({ error }) => error > tolerance).map(({ group, name, error }) => {
    if (group === "greedy answers") return `${group}, ${name}`;
    if (group === "copies") return `${group}, ${name}: differs in pytorch_model.bin`;
    return `${group}, ${name}: off by ${error.toExponential(1)}, more than ${tolerance}`;
  });
}

/** The table of a report, and the verdict. */
export function modelReportLines(report: ModelReport, tolerance: number): string[] {
  const { name, parameters, figures } = report, failed = modelFailures(report, tolerance);
  const table = MODEL_FIGURES.flatMap((group) => {
    const errors = figures.filter((f) => f.group === group).map(({ error }) => error);
    if (errors.length === 0) return [];
    const equal = errors.filter((error) => error === 0).length;
    const exact = group === "greedy answers" || group === "copies";
    const shown = exact
      ? `${equal} of ${errors.length} identical`
      : Math.max(...errors).toExponential(1);
    return [`  ${group.padEnd(18)}${shown}`];
  });
  return [
    `${name}: ${parameters} parameters`,
    `  ${"figure".padEnd(18)}largest error`,
    ...table,
    ...failed.map((line) => `  ${line}`),
    failed.length === 0
      ? `PASS ${name}: ${figures.length} figures within ${tolerance}`
      : `FAIL ${name}: ${failed.length} of ${figures.length} figures beyond ${tolerance}`,
  ];
}

// --- files ---

async function readExpected(folder: string, config: ModelConfig): Promise<Expected> {
  const path = join(folder, "expected.json");
  if (!await exists(path)) {
    throw new UserError(`${path}: no such file; expected figures to compare`);
  }
  const json = await readJson(path);
  if (!isRecord(json)) throw new UserError(`${path}: expected an object`);
  const { pad } = specialIds(config), { vocabSize } = config;
  const idRows = (field: string) => {
    const rows = json[field];
    const isId = (id: unknown) =>
      Number.isSafeInteger(id) && id as number >= 0 && id as number < vocabSize;
    const ok = Array.isArray(rows) && rows.length > 0 &&
      rows.every((row) => Array.isArray(row) && row.length > 0 && row.every(isId));
    if (!ok) throw new UserError(`${path}: ${field}: expected rows of ids below ${vocabSize}`);
    return rows as number[][];
  };
  const sources = idRows("input_ids"), labels = idRows("labels"), greedy = idRows("greedy");
  const scores = json.scores as number[];
  if (!Array.isArray(scores) || !scores.every(Number.isFinite)) {
    throw new UserError(`${path}: scores: expected numbers`);
  }
  if ([labels, greedy, scores].some(({ length }) => length !== sources.length)) {
    throw new UserError(`${path}: expected as many labels, scores and greedy answers as input_ids`);
  }
  const tensors = await openTensors(join(folder, "expected_logits.safetensors"));
  try {
    const shape = [sources.length, longest(labels), vocabSize];
    if (tensors.shape("logits").join() !== shape.join()) {
      const got = tensors.shape("logits");
      throw new UserError(
        `${
          join(folder, "expected_logits.safetensors")
        }: logits: expected shape [${shape}], got [${got}]`,
      );
    }
    const unpadded = (row: number[]) => row.slice(0, row.findLastIndex((id) => id !== pad) + 1);
    return {
      sources: sources.map(unpadded),
      targets: labels.map(unpadded),
      positions: longest(labels),
      scores,
      greedy,
      logits: await tensors.read("logits"),
    };
  } finally {
    await tensors.close();
  }
}

// --- numbers ---

const exampleName = (row: number) => `example ${row + 1}`;

function longest(rows: readonly number[][]): number {
  return Math.max(...rows.map(({ length }) => length));
}

function padded(rows: readonly number[][], length: number, pad: number): Uint32Array {
  const result = new Uint32Array(rows.length * length).fill(pad);
  for (const [i, row] of rows.entries()) result.set(row, i * length);
  return result;
}

function largest(values: Float32Array): number {
  return values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
}

/** The largest difference; not a number if one of them is none. */
function difference(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0);
}

function orInfinite(error: number): number {
  return Number.isNaN(error) ? Infinity : error;
}
