/**
 * From our folders to those that others read, and back: runs and checkpoints as standard Hub folders,
 * SentencePiece vocabularies as tokenizer.json.
 *
 * @module
 */

import { mkdir, readdir, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import {
  foreignNames,
  hubConfig,
  isT5,
  type ModelConfig,
  parameterCount,
  specialIds,
} from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { writeTensors } from "./tensors.ts";
import { lock } from "../files/lock.ts";
import { exists, writeFile } from "../files/write.ts";
import { type ModelOptions, readModel, withParameters } from "./model.ts";
import { loadTokenizer } from "../tokenizer/load.ts";
import { type Tokenizer } from "../tokenizer/tokenizer.ts";
import { writeJson } from "../files/json.ts";

/**
 * Writes a model as others read it: `config.json`, `generation_config.json`, the tokenizer, and
 * `model.safetensors` in 32-bit floats under the published names, tied tensors once. T5's family loads in
 * Python's transformers as it is; METRO needs the released modelling code. A run's auxiliary model and RTD
 * head have no place there and are left out.
 *
 * One tensor at a time is in memory. The folder appears when it is complete.
 *
 * @param source folder of a run, folder as models on the Hub are (weights of any format), or a model's name
 * @param out the new folder
 * @returns what was written: the model, how many numbers its weights are, and how many tensors, those that are
 *   tied once
 * @throws {UserError} if the folder is there already, or the model cannot be read, or not be expressed
 *
 * @example
 * ```ts ignore
 * import { convertModel } from "@metro/t0/tasks";
 *
 * const { tensors } = await convertModel("runs/base-metro/T0", "metro_t0_base");
 * console.log(tensors); // 523
 * ```
 */
export async function convertModel(
  source: string,
  out: string,
  options: ModelOptions = {},
): Promise<{ config: ModelConfig; parameters: number; tensors: number }> {
  await expectNew(out);
  using _held = await lock(join(`${out}.tmp`, LOCK), {
    what: out,
    doing: "convert",
    otherwise: "wait until it has ended, or choose another --out",
  });
  const model = await readModel(source, options);
  const { config, tokenizer, inputs } = model;
  const json = publishedConfig(source, config);
  const names = foreignNames(config, "release", ["main"]);
  const ours = new Map(Array.from(names, ([name, foreign]) => [foreign.name, name]));
  await withParameters(model, ["main"], (weights, found) => {
    return wholeFolder(out, async (folder) => {
      const { pad, eos, start } = specialIds(config);
      // For ourselves: others take it for a field that they do not know.
      await writeJson(join(folder, "config.json"), {
        ...json,
        input_end_token: inputs.endToken,
      });
      await writeJson(join(folder, "generation_config.json"), {
        decoder_start_token_id: start,
        eos_token_id: eos,
        pad_token_id: pad,
      });
      await writeTokenizer(folder, tokenizer);
      await writeTensors(
        join(folder, "model.safetensors"),
        [...names.values()].map(({ name, shape }) => ({ name, shape })),
        (name) => weights.read(found.get(ours.get(name)!)!.name),
        { format: "pt" },
      );
    });
  });
  return { config, parameters: parameterCount(config, ["main"]), tensors: names.size };
}

/**
 * Writes a tokenizer as others read it: `tokenizer.json`, `tokenizer_config.json` and
 * `special_tokens_map.json`.
 *
 * @param source a folder or file that {@link loadTokenizer} takes: SentencePiece's models of METRO and T5
 * @param out folder for the three files; the same folder is fine
 * @returns the tokenizer
 * @throws {UserError} if the source is not usable
 *
 * @example
 * ```ts
 * import { convertTokenizer, trainTokenizer } from "@metro/t0/tasks";
 * import { mkdtemp, rm, writeFile } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), file = `${folder}/small.json`;
 * const options = { vocabSize: 262, lowercase: true, sentinels: 8 };
 * const json = await trainTokenizer(["to be or not to be"], options);
 * await writeFile(file, JSON.stringify(json));
 * const tokenizer = await convertTokenizer(file, `${folder}/small`);
 * assert.equal(tokenizer.rows, 270);
 * await rm(folder, { recursive: true });
 * ```
 */
export async function convertTokenizer(source: string, out: string): Promise<Tokenizer> {
  const tokenizer = loadTokenizer(source);
  await mkdir(out, { recursive: true }).catch((error) => {
    throw diskError(out, error);
  });
  await writeTokenizer(out, tokenizer);
  return tokenizer;
}

function publishedConfig(source: string, config: ModelConfig): Record<string, unknown> {
  if (!isT5(config) && config.clmHead !== "linear") {
    throw new UserError(
      `${source}: its decoder has a ${config.clmHead} head, and the released architecture no place ` +
        "for one; pretrain with --clm-head linear",
    );
  }
  try {
    return hubConfig(config);
  } catch (error) {
    throw error instanceof UserError ? new UserError(`${source}: ${error.message}`) : error;
  }
}

async function writeTokenizer(folder: string, { json, bos }: Tokenizer): Promise<void> {
  const special = {
    ...(bos !== undefined && { bos_token: "<s>" }),
    eos_token: "</s>",
    pad_token: "<pad>",
    unk_token: "<unk>",
  };
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json) + "\n");
  await writeJson(join(folder, "tokenizer_config.json"), {
    tokenizer_class: "PreTrainedTokenizerFast",
    ...special,
    clean_up_tokenization_spaces: false,
  });
  await writeJson(join(folder, "special_tokens_map.json"), special);
}

/** In the folder that is being filled. */
const LOCK = "convert.lock";

async function expectNew(out: string): Promise<void> {
  if (await exists(out)) throw new UserError(`${out}: is there already; choose another --out`);
}

/** Fills a folder under another name, and gives it its own when all is written; on an error, it goes. */
async function wholeFolder(out: string, fill: (folder: string) => Promise<void>): Promise<void> {
  const temporary = `${out}.tmp`;
  try {
    // What a process has left that was killed.
    for (const name of await readdir(temporary)) {
      if (name !== LOCK) await rm(join(temporary, name), { recursive: true });
    }
    await fill(temporary);
    await rename(temporary, out);
    await rm(join(out, LOCK));
  } catch (error) {
    await rm(temporary, { recursive: true, force: true }).catch(() => {}); // the first error matters
    throw diskError(out, error);
  }
}

/** What the file system refuses is the user's to mend; anything else passes through. */
function diskError(out: string, error: unknown): unknown {
  const { code } = error as { code?: string };
  return code ? new UserError(`${out}: cannot be written (${code}); choose another --out`) : error;
}
