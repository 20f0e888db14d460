/**
 * Text from a model: greedy, by beam search, or sampled.
 *
 * @module
 */

import { type ModelConfig, specialIds } from "../../models/mod.ts";
import { neverWritten } from "../../models/generation.ts";
import { UserError } from "../../ops/mod.ts";
import { key, Random } from "../../ops/graph/random.ts";
import {
  CachedDecoder,
  canGoAhead,
  type Decoder,
  DecoderMemory,
  type DecoderShape,
  PlainDecoder,
} from "./decoder.ts";
import {
  argMax,
  Beams,
  Chain,
  draw,
  type GeneratedIds,
  runGreedy,
  runSearches,
  sampleWeights,
} from "./search.ts";
import { encodePrompt } from "../prompts/ids.ts";
import type { LoadedModel } from "../checkpoints/model.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

export type { GeneratedIds } from "./search.ts";

/** Ways to choose tokens. */
export const STRATEGIES = ["greedy", "beam", "sample"] as const;
/** One of {@link STRATEGIES}. */
export type Strategy = typeof STRATEGIES[number];

/** A model that can generate: what `loadModel` returns, or the part of it that is needed here. */
export type GenerationModel = Pick<
  LoadedModel,
  | "device"
  | "config"
  | "parameters"
  | "tokenizer"
  | "start"
  | "maxSource"
  | "inputs"
  | "allowNonfinite"
>;

/** How to generate. */
export interface GenerateOptions {
  /** `greedy` (default) takes the most probable token, `sample` draws one, `beam` searches. */
  strategy?: "greedy" | "beam" | "sample";
  /** Most tokens of an answer; 64 by default, or the model's positions if there are less. */
  maxTokens?: number;
  /** `beam`: beginnings kept; 4 by default. */
  beams?: number;
  /** `beam`: answers are ranked by score / length ^ this; 1 by default. */
  lengthPenalty?: number;
  /** `sample`: divides the logits; 1 by default, less is less random. */
  temperature?: number;
  /** `sample`: draws among the fewest tokens that have this share of the probability; 1 by default. */
  topP?: number;
  /** `sample`: draws among so many most probable tokens; 0, the default, for all. */
  topK?: number;
  /** `sample`: the same seed gives the same answers; 1 by default. */
  seed?: number;
  /**
   * Called with each further piece of an answer's text as soon as it is known; with `beam`, that is once,
   * at the end.
   *
   * @param text the piece
   * @param prompt number of the prompt
   */
  onToken?: (text: string, prompt: number) => void;
}

/** An answer. */
export interface Generated {
  /** Its text, without special tokens. */
  text: string;
  /** Its tokens, the end token included if it came. */
  ids: number[];
  /** Sum of their log-probabilities. */
  score: number;
}

type Settings = typeof GENERATE_DEFAULTS;

/** What holds where an option is not given. */
export const GENERATE_DEFAULTS: Readonly<Required<Omit<GenerateOptions, "onToken">>> = {
  strategy: "greedy",
  maxTokens: 64,
  beams: 4,
  lengthPenalty: 1,
  temperature: 1,
  topP: 1,
  topK: 0,
  seed: 1,
};

/** Keeps the randomness of sampling apart from other uses of the same seed. */
const SAMPLE = 0x67656e65;
/** Shortest padded prompt, and what numbers of tokens are rounded up to. */
const BLOCK = 32;

/**
 * Generates text with a model, many prompts at a time. Programs are compiled at the first use of a size
 * (prompts × padded length) and kept.
 *
 * @example
 * ```ts
 * import { Generator, Tokenizer, trainTokenizer } from "@metro/t0/tasks";
 * import { initialize, maskId, parameterShapes, preset } from "@metro/t0/models";
 * import { openDevice, StateMemory } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const json = await trainTokenizer(["to be or not"], { vocabSize: 260, lowercase: true, sentinels: 8 });
 * const tokenizer = new Tokenizer(json);
 * const tiny = { dModel: 16, heads: 2, dFf: 32, encoderLayers: 1, decoderLayers: 1 };
 * const config = { ...preset("tiny").model, ...tiny, vocabSize: tokenizer.rows, sentinels: 8 };
 *
 * const device = await openDevice();
 * const shapes = parameterShapes(config, ["main"]);
 * const parameters = new StateMemory(device, shapes, "parameters");
 * for (const name of shapes.keys()) parameters.write(name, initialize(config, 1)(name));
 * const model = { device, config, parameters, tokenizer, start: maskId(config), maxSource: 64 };
 *
 * const generator = new Generator(model);
 * const [answer] = await generator.generate(["to be"], { maxTokens: 5 });
 * assert.ok(answer.ids.length <= 5);
 *
 * generator.destroy();
 * parameters.destroy();
 * device.destroy();
 * ```
 */
export class Generator {
  readonly #model: GenerationModel;
  readonly #batch: number;
  readonly #cached: boolean;
  readonly #memory: DecoderMemory;
  readonly #decoders = new Map<string, Decoder>();
  #last: Promise<unknown> = Promise.resolve();

  /**
   * Compiles nothing yet.
   *
   * @param options `batch`: most prompts at a time, 8 by default; `cached`: keeps keys and values from token to
   *   token, `false` is the slow way, for comparison
   */
  constructor(
    model: Omit<LoadedModel, "maxTarget" | "name" | "trainedOn" | "destroy">,
    { batch = 8, cached = true }: { batch?: number; cached?: boolean } = {},
  ) {
    this.#model = model;
    this.#batch = batch;
    this.#cached = cached;
    this.#memory = new DecoderMemory(model.device, model.config, model.parameters);
  }

  /**
   * Answers prompts. An answer depends on its prompt and, where it is sampled, on the prompt's number.
   *
   * @returns in the order of the prompts
   * @throws {UserError} an empty prompt, an option out of its range, or probabilities that are no numbers
   */
  async generate(
    prompts: readonly string[],
    options: GenerateOptions = {},
  ): Promise<Generated[]> {
    const { tokenizer, maxSource, inputs } = this.#model;
    const sources = prompts.map((prompt, i) => {
      if (prompt.trim() !== "") return encodePrompt(tokenizer, prompt, maxSource, inputs);
      const which = prompts.length > 1 ? ` ${i + 1}` : "";
      throw new UserError(`prompt${which}: expected some text, got nothing`);
    });
    const { onToken } = options;
    const streams = sources.map((_, prompt) =>
      onToken && new TextStream(tokenizer, (text) => onToken(text, prompt))
    );
    const answers = await this.generateIds(
      sources,
      options,
      onToken && ((ids, prompt) => streams[prompt]!.push(ids)),
    );
    return answers.map(({ ids, score }, prompt) => {
      streams[prompt]?.end(ids);
      return { text: textOf(tokenizer, ids), ids, score };
    });
  }

  /**
   * The same for prompts that are ids already, such as {@link encodePrompt} makes.
   *
   * @param onIds called with all tokens of an answer so far and the prompt's number, whenever a token has
   *   been added; never with `beam`
   * @throws {UserError} an option out of its range
   */
  generateIds(
    sources: readonly Uint32Array[],
    options: Omit<GenerateOptions, "onToken"> = {},
    onIds?: (ids: readonly number[], prompt: number) => void,
  ): Promise<Omit<Generated, "text">[]> {
    const { config } = this.#model;
    const maxTokens = Math.min(GENERATE_DEFAULTS.maxTokens, config.maxPositions);
    const settings = { ...GENERATE_DEFAULTS, maxTokens, ...given(options) };
    checkSettings(settings, config);
    // One after the other: all use the same memory.
    const answers = this.#last.then(() => this.#generate(sources, settings, onIds));
    this.#last = answers.catch(() => {});
    return answers;
  }

  /** Frees programs and caches; the model stays. */
  destroy(): void {
    for (const decoder of this.#decoders.values()) decoder.destroy();
    this.#memory.destroy();
  }

  async #generate(
    sources: readonly Uint32Array[],
    settings: Settings,
    onIds?: (ids: readonly number[], prompt: number) => void,
  ): Promise<GeneratedIds[]> {
    const answers = new Array<GeneratedIds>(sources.length);
    const prompts = Math.min(this.#batch, sources.length);
    // Prompts of like length together, so that few pads are read.
    const order = [...sources.keys()].sort((a, b) => sources[a].length - sources[b].length);
    for (let done = 0; done < order.length; done += prompts) {
      const chosen = order.slice(done, done + prompts);
      const longest = sources[chosen.at(-1)!].length;
      const decoder = this.#decoder({
        prompts,
        beams: settings.strategy === "beam" ? settings.beams : 1,
        source: paddedLength(longest, this.#model.maxSource),
        slots: Math.ceil(settings.maxTokens / BLOCK) * BLOCK,
      });
      const { source: length } = decoder.shape, { pad } = specialIds(this.#model.config);
      const source = new Uint32Array(prompts * length).fill(pad);
      for (const [row, prompt] of chosen.entries()) source.set(sources[prompt], row * length);
      const found = await this.#run(decoder, source, chosen, settings, onIds);
      for (const [row, prompt] of chosen.entries()) answers[prompt] = found[row];
    }
    return answers;
  }

  #run(
    decoder: Decoder,
    source: Uint32Array,
    prompts: readonly number[],
    settings: Settings,
    onIds?: (ids: readonly number[], prompt: number) => void,
  ): Promise<GeneratedIds[]> {
    const { config, start, allowNonfinite } = this.#model, pad = neverWritten(config) ?? -1;
    const { strategy, maxTokens, beams, lengthPenalty, seed } = settings;
    const limits = { end: specialIds(config).eos, pad, maxTokens, allowNonfinite };
    if (strategy === "beam") {
      const searches = prompts.map(() => new Beams(limits, beams, lengthPenalty));
      return runSearches(decoder, source, searches, start);
    }
    const chain = (prompt: number, choose: (logits: Float32Array) => number) =>
      new Chain(limits, choose, onIds && ((ids) => onIds(ids, prompt)));
    if (strategy === "greedy") {
      const chains = prompts.map((prompt) => chain(prompt, (logits) => argMax(logits, pad)));
      return canGoAhead(decoder)
        ? runGreedy(decoder, source, chains, start, maxTokens)
        : runSearches(decoder, source, chains, start);
    }
    const chains = prompts.map((prompt) => {
      const random = new Random(key(SAMPLE, seed, prompt));
      return chain(prompt, (logits) => draw(sampleWeights(logits, pad, settings), random));
    });
    return runSearches(decoder, source, chains, start);
  }

  #decoder(shape: DecoderShape): Decoder {
    const id = `${shape.prompts}×${shape.beams}×${shape.source}×${shape.slots}`;
    let decoder = this.#decoders.get(id);
    if (!decoder) {
      decoder = new (this.#cached ? CachedDecoder : PlainDecoder)(this.#memory, shape);
      this.#decoders.set(id, decoder);
    }
    return decoder;
  }
}

const generators = new WeakMap<GenerationModel, Generator>();

/**
 * Answers one prompt. The model's programs are compiled at the first call and kept as long as the model.
 *
 * @returns the text
 * @throws {UserError} an empty prompt, or an option out of its range
 *
 * @example
 * ```ts
 * import { generate, loadModel, pretrain } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const model = await loadModel(run);
 * const answer = await generate(model, "Is rain wet? Yes or no?", { maxTokens: 4 });
 * model.destroy();
 * assert.equal(typeof answer, "string");
 * await rm(folder, { recursive: true });
 * ```
 */
export async function generate(
  model: Omit<LoadedModel, "maxTarget" | "name" | "trainedOn" | "destroy">,
  prompt: string,
  options: GenerateOptions = {},
): Promise<string> {
  let generator = generators.get(model);
  if (!generator) generators.set(model, generator = new Generator(model));
  const [{ text }] = await generator.generate([prompt], options);
  return text;
}

/** The options that are there: `undefined` must not hide a default. */
function given(options: GenerateOptions): Partial<Settings> {
  const names = Object.keys(GENERATE_DEFAULTS) as (keyof Settings)[];
  const entries = names.map((name) => [name, options[name]]);
  return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

function checkSettings(settings: Settings, { maxPositions, vocabSize }: ModelConfig): void {
  const expect = (ok: boolean, name: keyof Settings, expected: string) => {
    if (!ok) throw new UserError(`${name}: expected ${expected}, got ${settings[name]}`);
  };
  const { strategy, maxTokens, beams, temperature, topP, topK, lengthPenalty } = settings;
  const isCount = (x: number, least: number, most: number) =>
    Number.isSafeInteger(x) && x >= least && x <= most;
  expect(STRATEGIES.includes(strategy), "strategy", `one of ${STRATEGIES.join(", ")}`);
  expect(
    isCount(maxTokens, 1, maxPositions),
    "maxTokens",
    `an integer from 1 to ${maxPositions}, the model's positions`,
  );
  const most = Math.floor(vocabSize / 2) - 1;
  expect(isCount(beams, 1, most), "beams", `an integer from 1 to ${most}`);
  expect(Number.isFinite(lengthPenalty), "lengthPenalty", "a number");
  expect(temperature > 0 && temperature < Infinity, "temperature", "a number above 0");
  expect(topP > 0 && topP <= 1, "topP", "a number above 0 and of at most 1");
  expect(isCount(topK, 0, Infinity), "topK", "an integer of at least 0");
}

/** The length that prompts of up to `length` ids are padded to: a few sizes, so few programs. */
function paddedLength(length: number, maxSource: number): number {
  let padded = BLOCK;
  while (padded < length) padded *= 2;
  return Math.max(length, Math.min(padded, maxSource));
}

/** The text of ids that a model chose. */
export function textOf(tokenizer: Tokenizer, ids: readonly number[]): string {
  const { bos, eos, pad, rows } = tokenizer;
  // T5's token tables have rows that are no ids; a model that chooses one says nothing.
  return tokenizer.decode(ids.filter((id) => id !== bos && id !== eos && id !== pad && id < rows));
}

/** Turns a growing list of ids into pieces of text. */
class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #write: (text: string) => void;
  #written = 0;

  constructor(tokenizer: Tokenizer, write: (text: string) => void) {
    this.#tokenizer = tokenizer;
    this.#write = write;
  }

  push(ids: readonly number[]): void {
    const text = textOf(this.#tokenizer, ids);
    // The end may be the first bytes of a character whose others are yet to come.
    this.#writeUpTo(text.replace(/\uFFFD+$/, ""));
  }

  end(ids: readonly number[]): void {
    this.#writeUpTo(textOf(this.#tokenizer, ids));
  }

  #writeUpTo(text: string): void {
    if (text.length <= this.#written) return;
    this.#write(text.slice(this.#written));
    this.#written = text.length;
  }
}
