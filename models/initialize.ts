/**
 * The values that training starts from, exactly as the reference code makes them, including what it
 * does by accident: one rule per kind of tensor, listed in {@link RULES}. Runs of a few hundred updates
 * can start from larger ones, {@link SHORT_RUN}.
 *
 * @module
 */

import { key, Random } from "../ops/graph/random.ts";
import { isT5, type ModelConfig, SPECIAL } from "./config.ts";
import { parameterShapes } from "./parameters.ts";
import { relativeBucket } from "./relative.ts";

/** A distribution to fill a tensor from. */
type Fill =
  | { kind: "constant"; value: number }
  /** Normal with mean 0. */
  | { kind: "normal"; deviation: number; zeroPadRow?: boolean }
  /** Uniform between −bound and bound. */
  | { kind: "uniform"; bound: number; zeroPadRow?: boolean }
  /** A relative table whose heads look at near positions: see {@link nearby}. */
  | { kind: "nearby"; positions: number };

interface Rule {
  /** Names that it covers; the first rule that matches counts. */
  matches: RegExp;
  /** From the tensor's shape ([in, out] for linear maps) and the model. */
  fill(shape: readonly number[], config: ModelConfig): Fill;
}

const ZERO: Fill = { kind: "constant", value: 0 };
/** The default of the framework in which the reference is written: U(±1/√in). */
const framework = (inputs: number): Fill => ({ kind: "uniform", bound: 1 / Math.sqrt(inputs) });
/** The rule of BERT, which the auxiliary model follows. */
const BERT_DEVIATION = 0.02;

const RULES: readonly Rule[] = [
  { matches: /\.gain$/, fill: () => ({ kind: "constant", value: 1 }) },
  // A detection head that starts at 0 starts undecided: its loss is ln 2 exactly.
  { matches: /^rtd\.out\./, fill: () => ZERO },
  // The dense maps of heads are made after the rules of their models have run.
  { matches: /^(mlm|rtd|clm)\.dense\./, fill: (_shape, { dModel }) => framework(dModel) },
  { matches: /\.bias$/, fill: () => ZERO },
  {
    matches: /^aux\.embed\./,
    fill: () => ({ kind: "normal", deviation: BERT_DEVIATION, zeroPadRow: true }),
  },
  { matches: /^aux\./, fill: () => ({ kind: "normal", deviation: BERT_DEVIATION }) },
  { matches: /\.relative$/, fill: () => ZERO },
  {
    matches: /\.embed\.positions$/,
    fill: (_shape, { dModel }) => ({
      kind: "uniform",
      bound: Math.sqrt(3 / (2 * dModel)),
      zeroPadRow: true,
    }),
  },
  // The table is also the output map, whose rule runs last: deviation 1/√(2V), pad row included.
  { matches: /^embed\.tokens$/, fill: ([vocab]) => linearMap(vocab) },
  { matches: /\.weight$/, fill: ([, outputs]) => linearMap(outputs) },
];

/** Where training starts from. */
export const STARTS = ["reference", "short"] as const;
/** One of {@link STARTS}. */
export type Start = typeof STARTS[number];

/**
 * What a run of a few hundred updates changes. Adam moves every weight by about the learning rate per
 * update, whatever its size, and so short a run needs a rate that soon outweighs the reference's small
 * values: tokens become indistinguishable before anything is learned of them, and the encoder's output
 * the same everywhere. So the tokens start larger, also in comparison with the absolute positions, and
 * the encoder's heads begin with the positions next to their own ({@link nearby}): a relative table that
 * starts at 0, or at random, does not get there at all.
 */
const SHORT_RUN: readonly Rule[] = [
  { matches: /^embed\.tokens$/, fill: () => ({ kind: "normal", deviation: 0.1 }) },
  {
    matches: /^(encoder|decoder)\.embed\.positions$/,
    fill: (_shape, { dModel }) => ({
      kind: "uniform",
      bound: 0.3 * Math.sqrt(3 / (2 * dModel)),
      zeroPadRow: true,
    }),
  },
  {
    matches: /^encoder\..*\.relative$/,
    fill: (_shape, { positionRows }) => ({ kind: "nearby", positions: positionRows - 2 }),
  },
  {
    matches: /^encoder\..*\.ffn\.(in|out)\.weight$/,
    fill: ([, outputs]) => ({ kind: "normal", deviation: Math.sqrt(2 / outputs) }),
  },
];

/** Meant as 1/√(in + out), but the reference takes the number of outputs for both. */
function linearMap(outputs: number): Fill {
  return { kind: "normal", deviation: 1 / Math.sqrt(2 * outputs) };
}

/**
 * Makes initial values. Every tensor is a function of seed and name alone, so any one can be made
 * without the others, in any order.
 *
 * @param config the model
 * @param seed any integer
 * @param start the reference's values, or those for short runs
 * @returns a function from a parameter's name to its values, row-major
 * @throws {Error} for a T5; (the returned function) if the model has no such parameter
 *
 * @example
 * ```ts
 * import { initialize, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const values = initialize(preset("tiny").model, 1);
 * assert.equal(values("encoder.0.ffn.in.weight").length, 128 * 512);
 * assert.deepEqual(values("rtd.out.bias"), new Float32Array([0]));
 * ```
 */
export function initialize(
  config: ModelConfig,
  seed: number,
  start: "reference" | "short" = "reference",
): (name: string) => Float32Array {
  if (isT5(config)) {
    throw new Error("initialize: the rules are METRO's; weights of a T5 are loaded");
  }
  const shapes = parameterShapes(config);
  const rules = start === "short" ? [...SHORT_RUN, ...RULES] : RULES;
  return (name) => {
    const shape = shapes.get(name);
    const rule = rules.find(({ matches }) => matches.test(name));
    if (!shape || !rule) throw new Error(`initialize: the model has no parameter ${name}`);
    return draw(rule.fill(shape, config), shape, config, new Random(key(seed, ...nameCodes(name))));
  };
}

function draw(
  fill: Fill,
  shape: readonly number[],
  config: ModelConfig,
  random: Random,
): Float32Array {
  if (fill.kind === "nearby") return nearby(shape, config, fill.positions);
  const values = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (fill.kind === "constant") return values.fill(fill.value);
  if (fill.kind === "normal") {
    for (let i = 0; i < values.length; i++) values[i] = fill.deviation * random.normal();
  } else {
    for (let i = 0; i < values.length; i++) values[i] = fill.bound * (2 * random.uniform() - 1);
  }
  const width = shape[shape.length - 1];
  if (fill.zeroPadRow) values.fill(0, SPECIAL.pad * width, (SPECIAL.pad + 1) * width);
  return values;
}

/** By how much a bucket's bias falls short of its neighbour's that is nearer to where a head looks. */
const FALL = 2;

/**
 * Each head looks at a position of its own, one before, one behind, two before, two behind, and so on,
 * and less at others the further they are from there.
 */
function nearby(shape: readonly number[], config: ModelConfig, positions: number): Float32Array {
  const [rows, heads] = shape, values = new Float32Array(rows * heads);
  for (let head = 0; head < heads; head++) {
    const distance = 1 + (head >> 1);
    const target = relativeBucket(head % 2 === 0 ? -distance : distance, config, positions);
    for (let row = 0; row < rows; row++) {
      values[row * heads + head] = -FALL * Math.abs(row - target);
    }
  }
  return values;
}

function nameCodes(name: string): number[] {
  return Array.from(name, (letter) => letter.codePointAt(0)!);
}
