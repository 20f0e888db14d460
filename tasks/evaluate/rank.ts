/**
 * Rank classification on a device: prompts with their choices go in batches through a few static shapes.
 * This thread lays out and compiles the next batch while the device works on the last one.
 *
 * A choice's score is the sum of the log-probabilities of its tokens and of `</s>`: no normalisation by
 * length. The best score wins, the first one on ties.
 *
 * Several devices share the batches of one plan, so that every batch, and with it every bit of a score, is
 * what it is on one device.
 *
 * @module
 */

import { setImmediate } from "node:timers/promises";
import { declareParameters, parameterCount, specialIds } from "../../models/mod.ts";
import { choiceLosses, layOutChoices, type RankShape } from "../../models/rank.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { compile, type Program, Workspace } from "../../ops/mod.ts";
import type { LoadedModel } from "../checkpoints/model.ts";
import { alone, type Communicator, fromFirst } from "../parallel/communicator.ts";
import { encodePrompt, encodeTarget } from "../prompts/ids.ts";
import { groupRequests, idOf, lengthOf, type RankBatch, type RankRequest } from "./rank_batches.ts";
import { addUp, putTogether, Results, type Section, sectionsOf } from "./rank_results.ts";

/** How a {@link Ranker} makes batches. */
export interface RankerOptions {
  /** Tokens of a batch, prompts and choices, padding counted. By kind of device if absent. */
  batchTokens?: number;
  /** Prompts of a batch; by {@link RankerOptions.batchTokens} if absent. */
  batchSize?: number;
  /**
   * Ranks that share the batches, each with the model on a device of its own; this one alone if absent.
   *
   * @ignore
   */
  group?: Communicator;
}

/** What a {@link Ranker} has done so far; of several ranks, this one. */
export interface RankerStatistics {
  /** Programs compiled. */
  programs: number;
  /** Tokens of prompts and choices. */
  tokens: number;
  /** Tokens that went through the model, padding and unused rows counted. */
  paddedTokens: number;
  /** Milliseconds of laying batches out and compiling programs, mostly while the device works. */
  hostMilliseconds: number;
  /** Milliseconds that the device worked on batches, by its own clock; NaN if it has none. */
  deviceMilliseconds: number;
}

/** Tokens of a batch that keep a device busy. */
const BATCH_TOKENS = { cpu: 2048, gpu: 32_768 };
/** Batches from one wait for the device to the next; at most twice as many are under way. */
const IN_FLIGHT = 32;
/**
 * Multiplications from one wait to the next, of large models: a rank gives no sign of life while it waits,
 * and must not be taken for hung. A minute on a slow GPU.
 */
const WORK_IN_FLIGHT = 3e13;
/** Compiled programs that are kept: the ones used last. */
const KEPT = 128;
/** Choices whose ids are kept: most templates have the same few for every row. */
const KEPT_CHOICES = 4096;

/**
 * Scores choices with one model. Holds compiled programs: keep it for many calls, then destroy it.
 *
 * Calls of {@link Ranker.scores} take turns. Who makes the next call before awaiting the last one leaves
 * the device no pause in between.
 *
 * @example
 * ```ts
 * import { loadModel, pretrain, Ranker } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const model = await loadModel(run), ranker = new Ranker(model);
 * const prompts = ["A dull, slow film. Good or bad?", "A joy to watch. Good or bad?"];
 * const scores = await ranker.scores(prompts.map((text) => ranker.request(text, ["good", "bad"])));
 * ranker.destroy();
 * model.destroy();
 * assert.deepEqual(scores.map(({ length }) => length), [2, 2]);
 * await rm(folder, { recursive: true });
 * ```
 */
export class Ranker {
  readonly #model: LoadedModel;
  readonly #options: RankerOptions;
  readonly #group: Communicator;
  /** Numbers in the model. */
  readonly #weights: number;
  readonly #workspace: Workspace;
  /** In the order of their last use. */
  readonly #programs = new Map<string, Program>();
  /**
   * Names of the shapes that count as compiled when batches are planned, in the order of their last use: of
   * all ranks' batches, so that the ranks make the same plan.
   */
  readonly #planned = new Set<string>();
  readonly #choices = new Map<string, Uint32Array>();
  /** Padded tokens of a batch, on which the ranks agree. */
  #batchTokens?: number;
  /** Settled when all calls so far have submitted their batches. */
  #turn: Promise<unknown> = Promise.resolve();
  /** Settled when the scores of all calls so far are complete. */
  #complete: Promise<unknown> = Promise.resolve();
  /** Settled when the device has done the batches up to the last wait. */
  #earlier: Promise<void> = Promise.resolve();
  #runs = 0;
  #work = 0;
  #compiled = 0;
  #tokens = 0;
  #paddedTokens = 0;
  #hostMilliseconds = 0;
  #deviceMilliseconds = 0;

  /** Compiles nothing yet. */
  constructor(model: LoadedModel, options: RankerOptions = {}) {
    this.#model = model;
    this.#options = options;
    this.#group = options.group ?? alone();
    this.#weights = parameterCount(model.config, ["main"]);
    this.#workspace = new Workspace(model.device);
  }

  /**
   * What was done so far.
   *
   * @ignore
   */
  get statistics(): RankerStatistics {
    return {
      programs: this.#compiled,
      tokens: this.#tokens,
      paddedTokens: this.#paddedTokens,
      hostMilliseconds: this.#hostMilliseconds,
      deviceMilliseconds: this.#deviceMilliseconds,
    };
  }

  /**
   * The ids of a prompt and its choices, cut to the model's lengths. A blank choice is the end token alone.
   *
   * @throws {UserError} for an empty prompt, or no choice
   */
  request(prompt: string, choices: readonly string[]): RankRequest {
    const { tokenizer, maxSource, inputs } = this.#model;
    if (prompt.trim() === "") throw new UserError("expected a prompt, got an empty text");
    if (choices.length === 0) throw new UserError("expected choices to rank, got none");
    return {
      source: encodePrompt(tokenizer, prompt, maxSource, inputs),
      choices: choices.map((choice) => this.#choice(choice)),
    };
  }

  #choice(text: string): Uint32Array {
    let ids = this.#choices.get(text);
    if (!ids) {
      const { tokenizer, maxTarget, inputs } = this.#model;
      ids = encodeTarget(tokenizer, text, maxTarget, inputs);
      if (this.#choices.size === KEPT_CHOICES) this.#choices.clear();
      this.#choices.set(text, ids);
    }
    return ids;
  }

  /**
   * Log-probabilities of all choices. Returns to the caller before anything is submitted, and lets other
   * work of this thread in between batches. All ranks of a group call it with the same requests.
   *
   * @returns one array per request, one number per choice, in order; independent of batches to rounding,
   * and of the number of ranks to the bit
   * @throws {UserError} if a score is no finite number, or the ranks' requests are not the same
   */
  async scores(requests: readonly RankRequest[]): Promise<Float64Array[]> {
    const scores = requests.map(({ choices }) => new Float64Array(choices.length));
    const submitted = this.#turn.then(() => this.#submitAll(requests, scores));
    this.#turn = submitted.catch(() => {});
    // One call after the other here, too: ranks must put the same scores together.
    const complete = Promise.all([submitted, this.#complete]).then(async ([{ read }]) => {
      await read;
      await putTogether(this.#group, requests, scores);
      if (!this.#model.allowNonfinite) expectFinite(scores);
    });
    this.#complete = complete.catch(() => {});
    await complete;
    return scores;
  }

  /** Returns once everything is submitted; `read` once the scores of this rank's batches are complete. */
  async #submitAll(
    requests: readonly RankRequest[],
    scores: readonly Float64Array[],
  ): Promise<{ read: Promise<void> }> {
    const plan = await this.#plan(requests);
    let read = Promise.resolve();
    for (const section of sectionsOf(plan)) {
      const next = await this.#submit(requests, section);
      // Two sections at a time have memory for their results.
      await read;
      read = this.#read(requests, section, next, scores);
      // Whoever awaits it hears of a failure; until then nobody does.
      read.catch(() => {});
    }
    return { read };
  }

  /** This rank's batches: every so many of a plan that all ranks make. */
  async #plan(requests: readonly RankRequest[]): Promise<RankBatch[]> {
    const { device, maxSource } = this.#model, { batchSize } = this.#options;
    const group = this.#group;
    const { batchTokens = BATCH_TOKENS[device.kind] } = this.#options;
    this.#batchTokens ??= await fromFirst(
      group,
      "planning",
      () => Promise.resolve(batchTokens),
    );
    const known = (shape: RankShape) => this.#planned.has(idOf(shape));
    const limits = { maxSource, batchSize, batchTokens: this.#batchTokens, known };
    const plan = groupRequests(requests, limits);
    for (const { shape } of plan) {
      const id = idOf(shape);
      this.#planned.delete(id);
      this.#planned.add(id);
      if (this.#planned.size > KEPT) this.#planned.delete(this.#planned.values().next().value!);
    }
    return plan.filter((_, i) => i % group.size === group.rank);
  }

  async #submit(requests: readonly RankRequest[], section: Section): Promise<Results> {
    const results = new Results(this.#model.device, section);
    try {
      for (const [i, batch] of section.batches.entries()) {
        this.#group.alive(`batch ${i + 1} of ${section.batches.length}`);
        this.#run(batch, batch.requests.map((r) => requests[r]), results, i);
        await this.#pace(batch);
      }
      return results;
    } catch (error) {
      results.destroy();
      throw error;
    }
  }

  /** Submits a batch and the collection of its results. */
  #run({ shape }: RankBatch, members: readonly RankRequest[], results: Results, i: number): void {
    const begun = performance.now();
    const { config, start } = this.#model;
    const program = this.#program(shape);
    const inputs = layOutChoices(members, shape, start, specialIds(config).pad);
    this.#hostMilliseconds += performance.now() - begun;
    program.run({ inputs, ...results.timing(i) });
    results.collect(program, i);
    for (const request of members) this.#tokens += request.source.length + lengthOf(request);
    this.#paddedTokens += shape.rows * (shape.length + shape.choices);
  }

  /** Lets other work of this thread in, and keeps the device's queue short. */
  async #pace({ shape: { rows, length, choices } }: RankBatch): Promise<void> {
    this.#work += rows * (length + choices) * this.#weights;
    if (++this.#runs < IN_FLIGHT && this.#work < WORK_IN_FLIGHT) return await setImmediate();
    this.#runs = 0, this.#work = 0;
    await this.#earlier;
    this.#earlier = this.#model.device.finish();
    // A failure is heard of when this is awaited, or at the next run.
    this.#earlier.catch(() => {});
  }

  async #read(
    requests: readonly RankRequest[],
    { batches }: Section,
    results: Results,
    scores: readonly Float64Array[],
  ): Promise<void> {
    try {
      const { losses, milliseconds } = await results.read();
      this.#deviceMilliseconds += milliseconds;
      for (const [i, batch] of batches.entries()) addUp(requests, batch, losses[i], scores);
    } finally {
      results.destroy();
    }
  }

  /** Frees the programs; the model stays. */
  destroy(): void {
    for (const program of this.#programs.values()) program.destroy();
    this.#workspace.destroy();
  }

  #program(shape: RankShape): Program {
    const id = idOf(shape);
    const kept = this.#programs.get(id);
    this.#programs.delete(id);
    const found = kept ?? this.#compile(id, shape);
    this.#programs.set(id, found);
    if (this.#programs.size > KEPT) {
      const [oldest, program] = this.#programs.entries().next().value!;
      program.destroy();
      this.#programs.delete(oldest);
    }
    return found;
  }

  #compile(id: string, shape: RankShape): Program {
    const { config, parameters, device } = this.#model;
    const losses = choiceLosses(declareParameters(config, ["main"]), config, shape);
    this.#compiled++;
    return compile(device, { name: id, outputs: { losses } }, {
      state: parameters,
      workspace: this.#workspace,
    });
  }
}

/** A score that is no number would be taken for the lowest. */
function expectFinite(scores: readonly Float64Array[]): void {
  for (const [prompt, some] of scores.entries()) {
    const choice = some.findIndex((score) => !Number.isFinite(score));
    if (choice < 0) continue;
    throw new UserError(
      `prompt ${prompt + 1}, choice ${choice + 1}: its log-probability is ${
        some[choice]
      }, expected a finite ` +
        "number; the model's values are out of range (--allow-nonfinite goes on)",
    );
  }
}

/** The choice with the highest score; the first one on ties. */
export function bestOf(scores: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
  return best;
}

const rankers = new WeakMap<LoadedModel, Ranker>();

/**
 * Ranks answer choices of one prompt. For many prompts, a {@link Ranker} is faster.
 *
 * @param choices at least one
 * @returns each choice's log-probability, and the place of the best one
 * @throws {UserError} for an empty prompt or choice
 *
 * @example
 * ```ts
 * import { loadModel, pretrain, rank } from "@metro/t0";
 * import { mkdtemp, rm } from "node:fs/promises";
 * import { tmpdir } from "node:os";
 * import assert from "node:assert/strict";
 *
 * const folder = await mkdtemp(`${tmpdir()}/metro-`), run = `${folder}/tiny`;
 * // One update on one file: a model that knows nothing yet.
 * const given = { text: ["data/corpus/answers_1.txt"], vocabSize: 300, heldOut: 0, updates: 1 };
 * await pretrain({ run, given: { ...given, batchTokens: 512 } });
 * const model = await loadModel(run);
 * const { scores, best } = await rank(model, "A dull, slow film. Good or bad?", ["good", "bad"]);
 * model.destroy();
 * assert.equal(scores[best], Math.max(...scores));
 * await rm(folder, { recursive: true });
 * ```
 */
export async function rank(
  model: LoadedModel,
  prompt: string,
  choices: readonly string[],
): Promise<{ scores: number[]; best: number }> {
  let ranker = rankers.get(model);
  if (!ranker) rankers.set(model, ranker = new Ranker(model));
  const [scores] = await ranker.scores([ranker.request(prompt, choices)]);
  return { scores: [...scores], best: bestOf(scores) };
}
