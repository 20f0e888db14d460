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
import {
  choiceLosses,
  declareParameters,
  layOutChoices,
  parameterCount,
  type RankShape,
  specialIds,
} from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import {
  compile,
  type Device,
  type DeviceBuffer,
  type Program,
  type Readback,
  type RunOptions,
  type Stopwatch,
  Workspace,
} from "../../ops/mod.ts";
import type { LoadedModel } from "../checkpoints/model.ts";
import { alone, type Communicator, fromFirst } from "../parallel/communicator.ts";
import { encodePrompt, encodeTarget } from "../prompts/ids.ts";
import { joinArrays } from "../files/arrays.ts";
import { greatestDivisor } from "../parallel/share.ts";

/** A prompt and its choices as ids. */
export interface RankRequest {
  /** `<s>` … `</s>`. */
  source: Uint32Array;
  /** … `</s>` each; at least one. */
  choices: readonly Uint32Array[];
}

/** How a {@link Ranker} makes batches. */
export interface RankerOptions {
  /** Tokens of a batch, prompts and choices, padding counted. By kind of device if absent. */
  batchTokens?: number;
  /** Prompts of a batch; by {@link RankerOptions.batchTokens} if absent. */
  batchSize?: number;
  /** Ranks that share the batches, each with the model on a device of its own; this one alone if absent. */
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
/** Losses that are collected on the device before they are read. */
const COLLECTED = 1 << 20;
/** Batches that are timed before the times are read. */
const TIMED = 2048;
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

/** A batch: the shape it goes through, and its requests by number. */
export interface RankBatch {
  /** Static sizes. */
  shape: RankShape;
  /** Places of its requests; unused rows follow. */
  requests: number[];
}

/** Batches whose results are read together. */
interface Section {
  batches: RankBatch[];
  /** Where each one's losses begin; where the last one's end. */
  slots: number[];
}

/**
 * Scores choices with one model. Holds compiled programs: keep it for many calls, then destroy it.
 *
 * Calls of {@link Ranker.scores} take turns. Who makes the next call before awaiting the last one leaves
 * the device no pause in between.
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

  /** What was done so far. */
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
   * The ids of a prompt and its choices, cut to the model's lengths.
   *
   * @throws {UserError} for an empty prompt, an empty choice, or no choice
   */
  request(prompt: string, choices: readonly string[]): RankRequest {
    const { tokenizer, maxSource } = this.#model;
    if (prompt.trim() === "") throw new UserError("expected a prompt, got an empty text");
    if (choices.length === 0) throw new UserError("expected choices to rank, got none");
    for (const [i, choice] of choices.entries()) {
      if (choice.trim() === "") throw new UserError(`choice ${i + 1}: expected a text, got none`);
    }
    return {
      source: encodePrompt(tokenizer, prompt, maxSource),
      choices: choices.map((choice) => this.#choice(choice)),
    };
  }

  #choice(text: string): Uint32Array {
    let ids = this.#choices.get(text);
    if (!ids) {
      ids = encodeTarget(this.#model.tokenizer, text, this.#model.maxTarget);
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
   * @throws {UserError} if the ranks' requests are not the same
   */
  async scores(requests: readonly RankRequest[]): Promise<Float64Array[]> {
    const scores = requests.map(({ choices }) => new Float64Array(choices.length));
    const submitted = this.#turn.then(() => this.#submitAll(requests, scores));
    this.#turn = submitted.catch(() => {});
    // One call after the other here, too: ranks must put the same scores together.
    const complete = Promise.all([submitted, this.#complete]).then(async ([{ read }]) => {
      await read;
      await putTogether(this.#group, requests, scores);
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
    const { rank, size } = this.#group;
    const { batchTokens = BATCH_TOKENS[device.kind] } = this.#options;
    this.#batchTokens ??= await fromFirst(
      this.#group,
      "planning",
      () => Promise.resolve(batchTokens),
    );
    const known = (shape: RankShape) => this.#planned.has(idOf(shape));
    const limits = { maxSource, batchSize, batchTokens: this.#batchTokens, known };
    const plan = planRanking(requests, limits);
    for (const { shape } of plan) {
      const id = idOf(shape);
      this.#planned.delete(id);
      this.#planned.add(id);
      if (this.#planned.size > KEPT) this.#planned.delete(this.#planned.values().next().value!);
    }
    return plan.filter((_, i) => i % size === rank);
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
      state: (name) => parameters.view(name),
      workspace: this.#workspace,
    });
  }
}

/** Collects what the batches of a section yield, losses and times, to be read at once. */
class Results {
  readonly #device: Device;
  readonly #slots: readonly number[];
  readonly #losses: DeviceBuffer;
  readonly #readback: Readback;
  readonly #watch?: Stopwatch;

  constructor(device: Device, { slots }: Section) {
    const bytes = 4 * slots.at(-1)!;
    this.#device = device;
    this.#slots = slots;
    this.#losses = device.createBuffer(bytes, "losses");
    this.#readback = device.createReadback(bytes, "rank results");
    this.#watch = device.stopwatch(slots.length - 1);
  }

  /** Has the device time batch `i`, if it has a clock. */
  timing(slot: number): Pick<RunOptions, "watch" | "slot"> {
    return { watch: this.#watch, slot };
  }

  /** Keeps batch `i`'s losses. */
  collect(program: Program, i: number): void {
    program.copy("losses", this.#losses, 4 * this.#slots[i]);
  }

  /** The losses of each batch, and the time that all of them took; NaN if the device has no clock. */
  async read(): Promise<{ losses: Float32Array[]; milliseconds: number }> {
    const slots = this.#slots;
    const all = { buffer: this.#losses, offset: 0, size: 4 * slots.at(-1)! };
    const [bytes, times] = await Promise.all([this.#readback.read([all]), this.#watch?.read()]);
    const values = new Float32Array(bytes.slice(0));
    const losses = slots.slice(1).map((end, i) => values.subarray(slots[i], end));
    return { losses, milliseconds: times?.reduce((a, b) => a + b, 0) ?? NaN };
  }

  destroy(): void {
    this.#device.destroyBuffer(this.#losses);
    this.#readback.destroy();
    this.#watch?.destroy();
  }
}

/**
 * Gives every rank the scores of all. A score is some rank's sum and every other rank's 0; no sum is -0, so
 * that adding changes no bit.
 */
async function putTogether(
  group: Communicator,
  requests: readonly RankRequest[],
  scores: readonly Float64Array[],
): Promise<void> {
  if (group.size === 1) return;
  // Sums over different requests would look like scores.
  const ids = fingerprintOf(requests);
  if (await fromFirst(group, "comparing prompts", () => Promise.resolve(ids)) !== ids) {
    throw new UserError(
      "the ranks were given different prompts: rows, templates and the model's tokenizer must be the " +
        "same on all machines",
    );
  }
  const all = joinArrays(Float64Array, scores);
  await group.allReduce(all);
  let at = 0;
  for (const some of scores) some.set(all.subarray(at, at += some.length));
}

/** A number that other requests have another of. */
function fingerprintOf(requests: readonly RankRequest[]): number {
  let hash = 0;
  const add = (value: number) => hash = Math.imul(hash ^ value, 0x01000193) + 1;
  for (const { source, choices } of requests) {
    for (const ids of [source, ...choices]) {
      add(ids.length);
      for (const id of ids) add(id);
    }
  }
  return hash;
}

/** Cuts a plan into parts whose results are read together. */
function* sectionsOf(plan: readonly RankBatch[]): Generator<Section> {
  let batches: RankBatch[] = [], slots = [0];
  for (const batch of plan) {
    const size = batch.shape.rows * batch.shape.choices;
    if (batches.length === TIMED || (batches.length > 0 && slots.at(-1)! + size > COLLECTED)) {
      yield { batches, slots };
      batches = [], slots = [0];
    }
    batches.push(batch);
    slots.push(slots.at(-1)! + size);
  }
  if (batches.length > 0) yield { batches, slots };
}

/** Limits of {@link planRanking}. */
export interface RankLimits {
  /** Longest prompt. */
  maxSource: number;
  /** Padded tokens of a batch. */
  batchTokens: number;
  /** Prompts of a batch, instead. */
  batchSize?: number;
  /** Tells the shapes that cost nothing to compile; none if absent. */
  known?: (shape: RankShape) => boolean;
}

/** Rungs of static lengths: a quarter of an octave apart, and no less than so many tokens. */
const RUNGS = 4, LEAST_STEP = 4;
/** Numbers of rows: few different ones, so that few programs are compiled. */
const ROWS = [1, ...Array.from({ length: 16 }, (_, k) => [2 << k, 3 << k]).flat()];
/** Rows of an operand of which kernels like to have a multiple; other numbers need kernels of their own. */
const ALIGNED = 32;
/** What a batch, and a shape that must be compiled, cost beside the padded tokens, in tokens. */
const BATCH_COST = 64, SHAPE_COST = 50;

/**
 * Puts requests of similar lengths into batches of few static shapes.
 *
 * @example
 * ```ts
 * import { planRanking } from "./rank.ts";
 * import assert from "node:assert/strict";
 *
 * const requests = [30, 31, 9].map((n) => ({
 *   source: new Uint32Array(n),
 *   choices: [new Uint32Array(2), new Uint32Array(3)],
 * }));
 * const batches = planRanking(requests, { maxSource: 512, batchTokens: 100 });
 * assert.deepEqual(batches.map(({ requests }) => requests), [[1, 0], [2]]);
 * ```
 */
export function planRanking(requests: readonly RankRequest[], limits: RankLimits): RankBatch[] {
  const totals = requests.map(lengthOf), rising = totals.toSorted((a, b) => a - b);
  const longestFirst = [...requests.keys()].sort((a, b) =>
    requests[b].source.length - requests[a].source.length || totals[b] - totals[a] || a - b
  );
  // All together or split by the choices' length first, in large batches or in smaller ones that leave
  // less of the last one empty: whichever costs least.
  const plans = [1, 2, 3, 4, 6, 8].flatMap((parts) => {
    const tops = quantiles(rising, parts);
    const groups = tops.map((top, k) => {
      const above = k === 0 ? 0 : tops[k - 1];
      return longestFirst.filter((i) => totals[i] <= top && totals[i] > above);
    });
    return [1, 2].map((share) => {
      const smaller = { ...limits, batchTokens: limits.batchTokens / share };
      return groups.flatMap((group) => fillBatches(requests, totals, group, smaller));
    });
  });
  const costs = plans.map((plan) => cost(plan, limits));
  return plans[costs.indexOf(Math.min(...costs))];
}

/** Consecutive batches of requests in the order of their prompts' lengths, longest first. */
function fillBatches(
  requests: readonly RankRequest[],
  totals: readonly number[],
  order: readonly number[],
  { maxSource, batchTokens, batchSize }: RankLimits,
): RankBatch[] {
  const batches: RankBatch[] = [];
  for (let at = 0; at < order.length;) {
    const length = Math.min(rung(requests[order[at]].source.length), maxSource);
    let shape: RankShape | undefined;
    for (const rows of batchSize ? [batchSize] : ROWS) {
      const widest = order.slice(at, at + rows).reduce((max, i) => Math.max(max, totals[i]), 0);
      const step = batchSize ? 1 : ALIGNED / greatestDivisor(rows, ALIGNED);
      const choices = Math.ceil(rung(widest) / step) * step;
      // The first one is always taken, however long.
      if (shape && rows * (length + choices) > batchTokens) break;
      shape = { rows, length, choices };
      if (at + rows >= order.length) break;
    }
    batches.push({ shape: shape!, requests: order.slice(at, at + shape!.rows) });
    at += shape!.rows;
  }
  return batches;
}

/** A choice's score is minus the sum of its tokens' losses, added up in float64. */
function addUp(
  requests: readonly RankRequest[],
  { shape, requests: members }: RankBatch,
  losses: Float32Array,
  scores: readonly Float64Array[],
): void {
  for (const [row, i] of members.entries()) {
    let at = row * shape.choices;
    for (const [k, ids] of requests[i].choices.entries()) {
      for (let t = 0; t < ids.length; t++) scores[i][k] -= losses[at++];
    }
  }
}

/** Tokens of all choices. */
function lengthOf({ choices }: RankRequest): number {
  return choices.reduce((sum, ids) => sum + ids.length, 0);
}

/** The next rung for a length. */
function rung(length: number): number {
  const step = Math.max(LEAST_STEP, 2 ** Math.ceil(Math.log2(length)) / 2 / RUNGS);
  return Math.ceil(length / step) * step;
}

/** Upper limits of equally large parts of rising numbers of tokens, each on a rung. */
function quantiles(rising: readonly number[], parts: number): number[] {
  const limits = Array.from({ length: parts }, (_, i) => {
    const at = Math.ceil((i + 1) * rising.length / parts) - 1;
    return rung(rising[Math.max(0, at)] ?? 0);
  });
  return [...new Set(limits)];
}

/** Padded tokens, and a little for every batch and every shape that is new. */
function cost(batches: readonly RankBatch[], { known = () => false }: RankLimits): number {
  const shapes = new Map(batches.map(({ shape }) => [idOf(shape), shape]));
  const compiled = [...shapes.values()].filter((shape) => !known(shape)).length;
  return batches.reduce(
    (sum, { shape: { rows, length, choices } }) => sum + rows * (length + choices) + BATCH_COST,
    SHAPE_COST * compiled,
  );
}

/** What a shape's program is called. */
function idOf({ rows, length, choices }: RankShape): string {
  return `rank ${rows}×${length}→${choices}`;
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
 * ```ts ignore
 * import { openDevice } from "../../ops/mod.ts";
 * import { loadModel } from "../checkpoints/model.ts";
 * import { rank } from "./rank.ts";
 *
 * const model = await loadModel(await openDevice(), "runs/tiny-metro/all");
 * const { best } = await rank(model, "A dull, slow film. Good or bad?", ["good", "bad"]);
 * console.log(["good", "bad"][best]);
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
