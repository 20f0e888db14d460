/**
 * From weights in files to a model's parameters: finds every parameter under the name that the file
 * has for it, checks names and shapes, and writes the values to the device.
 *
 * A run's own checkpoint and other people's weights go the same way.
 *
 * @module
 */

import { dirname } from "node:path";
import { foreignNames, type ModelConfig, ourNames, type Part } from "../../models/mod.ts";
import { shown } from "../../models/formats/untrusted.ts";
import { type Scheme, transpose } from "../../models/names.ts";
import { UserError } from "../../ops/graph/errors.ts";
import type { Device, StateMemory } from "../../ops/mod.ts";
import type { Tensors } from "./tensors.ts";
import type { Weights } from "../files/weights.ts";

/** Where a parameter is in a file. */
export interface FoundParameter {
  /** Its name there, or the first of them. */
  name: string;
  /** Whether it is our matrix transposed. */
  transposed: boolean;
}

/**
 * What files may hold besides: fairseq's version buffers, a table that version 1.0 of T5 has and never
 * uses, and the parts of METRO that only pretraining needs.
 */
const UNUSED = [
  /(^|\.)version$/,
  /^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$/,
  /^(generator|rtd_head)\./,
];

/** Bytes of writes that may wait for the device: it keeps a copy of them on the host. */
const WAITING_BYTES = 1 << 25;

/**
 * A run's checkpoint as weights like any others; its checksums are checked when a tensor is read.
 *
 * @param file where it is, for messages
 */
export function checkpointWeights(file: string, tensors: Tensors): Weights {
  return {
    files: [file],
    tensors: new Map(
      tensors.names.map((name) => [name, { shape: tensors.shape(name), dtype: "F32" }]),
    ),
    aliases: () => [],
    read: (name) => tensors.read(name),
    async readInto(name, write, { transposed = false } = {}) {
      const values = await tensors.read(name);
      const [rows, columns] = tensors.shape(name);
      await write(transposed ? transpose(values, rows, columns) : values, 0);
    },
    close: () => tensors.close(),
  };
}

/**
 * Weights of which every number that is read is finite: what is computed with others means nothing.
 *
 * @param advice what to do about others
 * @returns the same weights, whose reading throws a `UserError` that names the file and the tensor
 */
export function soundWeights(
  weights: Weights,
  advice = "take a sound copy, or go on with --allow-nonfinite",
): Weights {
  const where = whereOf(weights);
  const faultOf = (name: string, values: Float32Array, first: number) => {
    const at = firstNonfinite(values);
    return at < 0 ? undefined : new UserError(
      `${where}: tensor ${shown(name)}: value ${first + at} is ${
        values[at]
      }, expected finite numbers; ${advice}`,
    );
  };
  return {
    ...weights,
    async read(name) {
      const values = await weights.read(name), fault = faultOf(name, values, 0);
      if (fault) throw fault;
      return values;
    },
    async readInto(name, write, options) {
      let fault: UserError | undefined;
      const checked = (part: Float32Array, first: number) => {
        fault = faultOf(name, part, first);
        if (fault) throw fault;
        return write(part, first);
      };
      // Whoever reads says where, too.
      await weights.readInto(name, checked, options).catch((error) => {
        throw fault ?? error;
      });
    },
  };
}

/** A plain loop: `findIndex` takes several times as long, and all weights pass here. −1 if there is none. */
function firstNonfinite(values: Float32Array): number {
  // Only what is no finite number differs from itself by something else than 0.
  for (let i = 0; i < values.length; i++) if (values[i] - values[i] !== 0) return i;
  return -1;
}

function whereOf({ files }: Weights): string {
  return files.length === 1 ? files[0] : dirname(files[0]);
}

/**
 * Finds the parameters of a model among weights. Every tensor must have a name that the model knows and
 * the right shape, every parameter must be there, and where a file holds the token table several times,
 * the copies must be equal.
 *
 * @param parts which parts of the model
 * @param schemes naming schemes that the file may follow
 * @returns by our name, in the model's order
 * @throws {UserError} naming the file and the first tensor that is missing, unknown, or of another shape,
 * or that differs from its copy
 *
 * @example
 * ```ts ignore
 * import { modelFromHubConfig } from "../../models/mod.ts";
 * import { findParameters } from "./parameters.ts";
 * import { openWeights } from "../files/weights.ts";
 * import { readFile } from "node:fs/promises";
 *
 * const config = modelFromHubConfig(JSON.parse(await readFile("metro_t0_base/config.json", "utf8")));
 * const weights = await openWeights("metro_t0_base");
 * const found = await findParameters(weights, config, ["main"], ["release", "reference"]);
 * console.log(found.get("encoder.0.ffn.in.weight")); // { name: "encoder.block.0.…", transposed: true }
 * await weights.close();
 * ```
 */
export async function findParameters(
  weights: Weights,
  model: ModelConfig,
  parts: readonly Part[],
  schemes: readonly Scheme[],
): Promise<Map<string, FoundParameter>> {
  const where = whereOf(weights);
  const scheme = likeliestScheme(weights, model, parts, schemes);
  const ours = ourNames(model, scheme, parts), foreign = foreignNames(model, scheme, parts);
  const there = new Map<string, string[]>();
  for (const [name, { shape }] of weights.tensors) {
    const parameter = ours.get(name);
    if (parameter === undefined) {
      if (UNUSED.some((pattern) => pattern.test(name))) continue;
      throw new UserError(
        `${where}: tensor ${
          shown(name)
        } has no place in the model that config.json describes; do ` +
          "the files belong together?",
      );
    }
    const expected = foreign.get(parameter)!.shape;
    if (shape.join() !== expected.join()) {
      throw new UserError(
        `${where}: tensor ${name}: expected shape [${expected}], got ${shown(shape)}; does ` +
          "config.json belong to it?",
      );
    }
    there.set(parameter, [...there.get(parameter) ?? [], name]);
  }
  const found = new Map<string, FoundParameter>();
  for (const [parameter, { name, shape, transposed }] of foreign) {
    const names = there.get(parameter);
    if (!names) {
      throw new UserError(
        `${where}: tensor ${name} is missing; expected it with shape [${shape}]`,
      );
    }
    await expectEqual(weights, names, where);
    found.set(parameter, { name: names[0], transposed });
  }
  return found;
}

/** Names of T5's output table and of its token table. */
const HEAD = "lm_head.weight";
const TABLES = ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"];

/**
 * Whether weights of the T5 family hold an output table that differs from the token table. Config files do not
 * say: version 5 of Hugging Face's library writes of all of them that both are tied.
 */
export async function hasOwnHead(weights: Weights): Promise<boolean> {
  const table = TABLES.find((name) => weights.tensors.has(name));
  if (table === undefined || !weights.tensors.has(HEAD)) return false;
  if (weights.aliases(HEAD).includes(table)) return false;
  const shape = (name: string) => weights.tensors.get(name)!.shape.join();
  if (shape(HEAD) !== shape(table)) return true;
  // Tables that differ do so from the start, mostly; neither need be read whole then.
  const [own, tokens] = [await firstPart(weights, HEAD), await firstPart(weights, table)];
  return own.some((x, i) => !Object.is(x, tokens[i])) ||
    await firstDifference(weights, table, HEAD) !== undefined;
}

/** The first values of a tensor; no more than these are read. */
async function firstPart(weights: Weights, name: string): Promise<Float32Array> {
  let first: Float32Array | undefined;
  const enough = new Error("enough");
  const take = (part: Float32Array) => {
    first = part.slice();
    throw enough;
  };
  await weights.readInto(name, take).catch((error) => {
    if (error !== enough) throw error;
  });
  return first ?? new Float32Array();
}

/** The scheme that knows most of the names; the first if there is a tie. */
function likeliestScheme(
  weights: Weights,
  model: ModelConfig,
  parts: readonly Part[],
  [first, ...others]: readonly Scheme[],
): Scheme {
  const known = (scheme: Scheme) => {
    const names = ourNames(model, scheme, parts);
    return weights.tensors.keys().filter((name) => names.has(name)).toArray().length;
  };
  return others.reduce((best, scheme) => known(scheme) > known(best) ? scheme : best, first);
}

/** Tensors that the model ties must be one, whatever the file makes of them. */
async function expectEqual(
  weights: Weights,
  [name, ...copies]: readonly string[],
  where: string,
): Promise<void> {
  const same = copies.length > 0 ? weights.aliases(name) : [];
  const others = copies.filter((copy) => !same.includes(copy));
  if (others.length === 0) return;
  for (const other of others) {
    const at = await firstDifference(weights, name, other);
    if (at === undefined) continue;
    throw new UserError(
      `${where}: tensors ${name} and ${other} are tied in this model, but differ at element ` +
        `${at}; does config.json belong to them?`,
    );
  }
}

/** The first element, if any, at which two tensors of one shape differ. */
async function firstDifference(
  weights: Weights,
  name: string,
  other: string,
): Promise<number | undefined> {
  const values = await weights.read(name);
  let found: number | undefined;
  await weights.readInto(other, (part, first) => {
    if (found !== undefined) return;
    const at = part.findIndex((x, i) => !Object.is(x, values[first + i]));
    if (at >= 0) found = first + at;
  });
  return found;
}

/**
 * Writes parameters to the device, part by part: of the host's memory it takes one matrix at most, and
 * not that if it lies in the file as it lies on the device.
 *
 * @param found what {@link findParameters} found among the weights
 */
export async function loadParameters(
  device: Device,
  weights: Weights,
  found: ReadonlyMap<string, FoundParameter>,
  into: StateMemory,
): Promise<void> {
  let waiting = 0;
  for (const [parameter, { name, transposed }] of found) {
    const { buffer, offset } = into.view(parameter);
    await weights.readInto(name, async (part, first) => {
      device.write(buffer, offset + 4 * first, part);
      waiting += part.byteLength;
      if (waiting < WAITING_BYTES) return;
      await device.finish();
      waiting = 0;
    }, { transposed });
  }
}
