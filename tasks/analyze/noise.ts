/**
 * One step of METRO on sentences that were held out, token by token: what was hidden from the auxiliary
 * model, what it wrote there, what the main model's encoder suspects, and what its decoder puts right.
 *
 * @module
 */

import { join } from "node:path";
import { key } from "../../ops/graph/random.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { compile, type Device, StateMemory } from "../../ops/mod.ts";
import {
  declareParameters,
  metroInputs,
  type ModelConfig,
  type ObjectiveConfig,
  parameterShapes,
  prepareMetroBatch,
} from "../../models/mod.ts";
import { SPECIAL } from "../../models/config.ts";
import { metroTokens } from "../../models/metro.ts";
import { NONE } from "../../models/metro_batch.ts";
import { PARTS } from "../../models/parameters.ts";
import { readModelWeights, readRunModel } from "../checkpoints/model.ts";
import { readConfig } from "../checkpoints/run_folder.ts";
import { validate } from "../command/options.ts";
import { objectiveConfig, PRETRAIN_CONFIG, resolvePretrain } from "../config/pretrain.ts";
import { type BlockSource, openPacked } from "../text/packed.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** What {@link noiseSentences} needs. */
export interface NoiseJob {
  /** Where the models compute. */
  device: Device;
  /** Folder of a pretrained run. */
  run: string;
  /** Folder of its packed corpus; inside the run folder if absent. */
  packed?: string;
  /** How many blocks of held-out text. */
  sentences: number;
  /** Which ones, which of their positions, and what is drawn there. */
  seed: number;
}

/** A token on its way through METRO. */
export interface NoiseToken {
  /** As it stands in the text. */
  original: string;
  /** What the auxiliary model read in its place, if it had to say what stood there. */
  seen?: string;
  /** What the main model read: the original, or what the auxiliary model wrote. */
  noise: string;
  /** Whether that is another token. */
  isReplaced: boolean;
  /** How probable the RTD head finds it that it is; absent if the model has no such head. */
  replacedness?: number;
  /** What the decoder wrote, given the original tokens before. */
  correction: string;
  /** Whether that is the original. */
  isCorrect: boolean;
}

/**
 * Sends held-out text through a pretrained run's auxiliary and main model.
 *
 * @returns the tokens of each block of text
 * @throws {UserError} it is no METRO run with a checkpoint, or holds out no text
 *
 * @example
 * ```ts
 * import { noiseSentences } from "./noise.ts";
 * import { openDevice, pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0.1, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const device = await openDevice({ adapter: "cpu", threads: 1 });
 * const [tokens] = await noiseSentences({ device, run, sentences: 1, seed: 1 });
 * assert.ok(tokens.some(({ seen }) => seen !== undefined)); // something was hidden
 * device.destroy();
 * await rm(folder, { recursive: true });
 * ```
 */
export async function noiseSentences(job: NoiseJob): Promise<NoiseToken[][]> {
  const { device, run } = job;
  const { model, objective, tokenizer } = await readMetroRun(run);
  const heldout = openPacked(job.packed ?? join(run, "corpus"), "heldout");
  const parameters = new StateMemory(device, parameterShapes(model, PARTS), "parameters");
  try {
    const blocks = chooseBlocks(heldout, job);
    await readModelWeights(
      device,
      { folder: run, config: model, released: false },
      PARTS,
      parameters,
    );
    return await passBlocks(device, parameters, { model, objective, tokenizer }, blocks, job.seed);
  } finally {
    parameters.destroy();
    heldout.close();
  }
}

interface MetroRun {
  model: ModelConfig;
  objective: ObjectiveConfig;
  tokenizer: Tokenizer;
}

async function readMetroRun(run: string): Promise<MetroRun> {
  const { config, tokenizer, finetuned } = await readRunModel(run);
  const contents = await readConfig(run, "expected the folder of a run");
  if (finetuned) {
    throw new UserError(
      `${run}: is a finetuning run, which has no auxiliary model; name the pretrained run that it comes from`,
    );
  }
  const saved = validate(PRETRAIN_CONFIG, contents, join(run, "config.json"));
  const settings = resolvePretrain(saved, saved.text ?? []);
  if (settings.objective !== "metro") {
    throw new UserError(
      `${run}: was pretrained with --objective ${settings.objective}: no model made noise for it`,
    );
  }
  return { model: config, objective: objectiveConfig(settings), tokenizer };
}

/** As many blocks as are wanted and there, spread over the held-out text; another seed begins elsewhere. */
function chooseBlocks(heldout: BlockSource, { run, sentences, seed }: NoiseJob): Uint32Array[] {
  if (heldout.count === 0) {
    throw new UserError(`${run}: holds out no text to look at; pretrain with --held-out above 0`);
  }
  const count = Math.min(sentences, heldout.count), first = key(seed) % heldout.count;
  return Array.from(
    { length: count },
    (_, i) => heldout.read((first + Math.floor(i * heldout.count / count)) % heldout.count, 0),
  );
}

async function passBlocks(
  device: Device,
  parameters: StateMemory,
  { model, objective, tokenizer }: MetroRun,
  blocks: readonly Uint32Array[],
  seed: number,
): Promise<NoiseToken[][]> {
  const rows = blocks.length;
  const length = Math.ceil(Math.max(...blocks.map((block) => block.length)) / 8) * 8;
  const tokens = new Uint32Array(rows * length).fill(SPECIAL.pad);
  for (const [row, block] of blocks.entries()) tokens.set(block, row * length);
  const sequences = blocks.map((_, row): [number, number] => [0, row]);
  const { inputs } = prepareMetroBatch(model, objective, { tokens, length, sequences }, seed);
  const outputs = metroTokens(
    declareParameters(model),
    model,
    objective,
    metroInputs(objective, rows, length),
  );
  const program = compile(device, { name: "noise", outputs }, { state: parameters });
  try {
    program.run({ inputs: { ...inputs }, key: key(seed) });
    const noise = await program.read("noise"), correction = await program.read("correction");
    const replacedness = outputs.replacedness && await program.read("replacedness");
    const textOf = pieceTexts(tokenizer);
    return blocks.map((block, row) =>
      Array.from(block, (id, column) => {
        const i = row * length + column;
        return {
          original: textOf(id),
          ...(inputs.inverse[i] !== NONE && { seen: textOf(inputs.auxTokens[i]) }),
          noise: textOf(noise[i]),
          isReplaced: noise[i] !== id,
          ...(replacedness && { replacedness: replacedness[i] }),
          correction: textOf(correction[i]),
          isCorrect: correction[i] === id,
        };
      })
    );
  } finally {
    program.destroy();
  }
}

/** A token's text inside a line, where its space in front is kept: decoders drop that of a first word. */
function pieceTexts(tokenizer: Tokenizer): (id: number) => string {
  const first = tokenizer.encode("a")[0], before = tokenizer.decode([first]);
  return (id) => tokenizer.decode([first, id]).slice(before.length);
}
