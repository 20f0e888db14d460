/**
 * Times whole training updates: forward, backward and AdamW, as `deno task pretrain` (METRO) and
 * `deno task finetune` make them.
 *
 * @module
 */

import {
  type ModelConfig,
  parameterCount,
  parameterShapes,
  preset,
  type PresetName,
} from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { type Device, type Program } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import type { MicroBatch } from "../text/batches.ts";
import {
  type BatchShape,
  metroObjective,
  type Objective,
  type PreparedBatch,
  seq2seqObjective,
} from "../train/objective.ts";
import { Trainer, wholeUpdate } from "../train/trainer.ts";
import { pairFlops, trainingFlopsPerToken } from "../train/flops.ts";
import type { Yardstick } from "./kernels.ts";
import { doesNotFit, noiseOf, randomIds } from "./random_model.ts";
import type { KernelResult, Skipped, UpdateResult } from "./report.ts";
import { hasTimestamps, median, type Patience, repeatedly, summary, warmUp } from "./timing.ts";

/** Limits of {@link timeUpdates}. */
export interface UpdateLimits extends Patience {
  /** A preset is left out if one update is expected to take more seconds. */
  longest: number;
  /** A preset is left out if it is expected to need more bytes. */
  memory: number;
}

/** Settings of AdamW and learning rate do not change the time. */
const SEED = 1, LEARNING_RATE = 1e-4;
/** Part of the matrix product's rate that an update is expected to reach. */
const EXPECTED_SHARE = 0.65;
/** Smaller micro-batches say little about training. */
const FEWEST_TOKENS = 128;
/** Milliseconds that the updates between two waits should take: a wait costs 10. */
const LONG_ENOUGH = 300;

/** What is trained in a benchmark, and what there is to know about it. */
export interface Subject {
  name: PresetName;
  model: ModelConfig;
  objective: Objective;
  parameters: number;
  shape: BatchShape;
  /** Tokens of the batch, sources and targets. */
  tokens: number;
  /** Operations of an update by the model's formula. */
  flops: number;
  /** A batch without padding. */
  batch(): PreparedBatch;
}

/** Pretraining; a batch of about so many tokens. */
export function pretraining(name: PresetName, tokens: number): Subject {
  const { model, objective: config, optimisation } = preset(name);
  const length = Math.min(optimisation.sequenceLength, tokens);
  const rows = Math.max(1, Math.floor(tokens / length));
  const objective = metroObjective(model, config, SEED);
  return {
    name,
    model,
    objective,
    parameters: parameterCount(model),
    shape: { rows, length },
    tokens: rows * length,
    flops: trainingFlopsPerToken(model, config, length) * rows * length,
    batch: () => objective.prepare(randomBlocks(model, rows, length)),
  };
}

/** Prompts and targets as short as those of many tasks are, after the tokenizer. */
const PROMPT = 64, TARGET = 8;

/** Finetuning on prompts; so many tokens of prompts in a batch. */
function finetuning(name: PresetName, tokens: number): Subject {
  const { model } = preset(name);
  const objective = seq2seqObjective(model, 0);
  const rows = Math.max(1, Math.floor(tokens / PROMPT));
  const shape = { rows, length: PROMPT, target: TARGET };
  const count = rows * (PROMPT + TARGET);
  return {
    name,
    model,
    objective,
    parameters: parameterCount(model, objective.parts),
    shape,
    tokens: count,
    flops: 3 * pairFlops(model, shape),
    batch() {
      const random = new Random(SEED);
      const ids = (columns: number) => randomIds(random, model, rows * columns);
      const inputs = { source: ids(PROMPT), decoderTokens: ids(TARGET), targets: ids(TARGET) };
      const counts = { targets: rows * TARGET, examples: rows };
      return { ...shape, inputs, counts, tokens: count };
    },
  };
}

/**
 * Times pretraining updates of one micro-batch, or says why not.
 *
 * @param tokens of the micro-batch; fewer, but no less than 128, if it would take too long
 */
export async function timeUpdates(
  device: Device,
  name: PresetName,
  tokens: number,
  yardstick: Yardstick,
  limits: UpdateLimits,
): Promise<UpdateResult | Skipped> {
  const rate = await yardstick.rate();
  let subject = pretraining(name, tokens);
  for (let t = tokens / 2; t >= FEWEST_TOKENS && tooSlow(subject, rate, limits.longest); t /= 2) {
    subject = pretraining(name, t);
  }
  return await timeSubject(device, `update of ${name}`, subject, yardstick, limits);
}

/** Times finetuning updates of one micro-batch, or says why not. */
export async function timeFinetuning(
  device: Device,
  name: PresetName,
  tokens: number,
  yardstick: Yardstick,
  limits: UpdateLimits,
): Promise<UpdateResult | Skipped> {
  const what = `finetuning update of ${name}`;
  return await timeSubject(device, what, finetuning(name, tokens), yardstick, limits);
}

async function timeSubject(
  device: Device,
  what: string,
  subject: Subject,
  yardstick: Yardstick,
  limits: UpdateLimits,
): Promise<UpdateResult | Skipped> {
  const rate = await yardstick.rate();
  const why = tooLarge(device, subject, limits.memory) ?? tooSlow(subject, rate, limits.longest);
  if (why) return { what, why };
  let trainer: Trainer | undefined;
  try {
    const before = device.allocatedBytes;
    trainer = openTrainer(device, subject);
    return await timeTrainer(device, trainer, subject, before, yardstick, limits);
  } catch (error) {
    if (error instanceof UserError) return { what, why: error.message };
    throw error;
  } finally {
    trainer?.destroy();
  }
}

/** Milliseconds of one of so many pieces of work, one after the other. */
async function timed(
  device: Device,
  count: number,
  work: () => Promise<unknown>,
): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < count; i++) await work();
  await device.finish();
  return (performance.now() - start) / count;
}

/** Bytes of the process after so many updates. */
interface MemoryAt {
  updates: number;
  bytes: number;
}

function growthOf(memory: readonly MemoryAt[]): Pick<UpdateResult, "growth"> {
  const start = memory[0], end = memory.at(-1)!;
  const updates = end.updates - start.updates;
  return updates > 0 ? { growth: { updates, bytes: Math.max(0, end.bytes - start.bytes) } } : {};
}

/** Asks the yardstick; a stopwatch that it makes is none of the updates' buffers. */
async function sampleApart(
  device: Device,
  yardstick: Yardstick,
  made: { buffers: number },
): Promise<number> {
  const already = device.buffersCreated, rate = await yardstick.sample();
  made.buffers += device.buffersCreated - already;
  return rate;
}

async function timeTrainer(
  device: Device,
  trainer: Trainer,
  subject: Subject,
  before: number,
  yardstick: Yardstick,
  limits: UpdateLimits,
): Promise<UpdateResult> {
  const { name, objective, parameters, shape, tokens, flops } = subject;
  const compiling = performance.now();
  const program = trainer.program(shape, true);
  await warmUp(device, program);
  const compileAndRun = performance.now() - compiling;
  trainer.initialize(noiseOf(trainer.shapes));
  const batch = subject.batch();
  let update = 0;
  const step = () =>
    trainer.update(wholeUpdate([batch]), { update: update++, learningRate: LEARNING_RATE });
  const updates = (count: number) => timed(device, count, step);

  // Compiles the optimizer's kernels.
  await trainer.update(wholeUpdate([]), { update: 0, learningRate: 0 });
  await device.finish();
  const made = { buffers: device.buffersCreated, pipelines: device.kernelCount };
  const sample = () => sampleApart(device, yardstick, made);
  const expected = flops / (await yardstick.rate()) / 1e6;
  const first = expected < 1000 ? await updates(1) : Infinity;
  const count = first === Infinity ? 1 : Math.max(1, Math.ceil(LONG_ENOUGH / first));
  const memory: MemoryAt[] = [];
  const rates = [await sample()];
  const times = await repeatedly(limits, async () => {
    const milliseconds = await updates(count);
    memory.push({ updates: update, bytes: Deno.memoryUsage().rss });
    rates.push(await sample());
    return milliseconds;
  });
  const shares = times.map((ms, i) => flops / ms / 1e6 / ((rates[i] + rates[i + 1]) / 2));
  const milliseconds = summary(times);
  const buffersCreated = device.buffersCreated - made.buffers;
  return {
    preset: name,
    parameters,
    batch: shape,
    milliseconds,
    tokensPerSecond: tokens / milliseconds.min * 1000,
    gflops: flops / milliseconds.min / 1e6,
    ofMatmul: median(shares),
    deviceBytes: device.allocatedBytes - before,
    workspaceBytes: program.workspaceBytes,
    dispatches: program.kernels.length,
    encodeMicroseconds: await submitTime(device, program),
    compileMilliseconds: Math.max(0, compileAndRun - milliseconds.min),
    buffersCreated,
    pipelinesCreated: device.kernelCount - made.pipelines,
    ...growthOf(memory),
    ...(hasTimestamps(device) && milliseconds.min < 5000 && {
      profile: await profile(program, objective, batch),
    }),
  };
}

/** Times AdamW over all parameters of a preset: the gradient's norm, clipping and the step. */
export async function timeOptimizer(
  device: Device,
  name: PresetName,
  limits: UpdateLimits,
): Promise<KernelResult | Skipped> {
  const subject = pretraining(name, 1);
  const shape = `${subject.parameters} parameters`;
  const what = `AdamW ${name} ${shape}`;
  const why = tooLarge(device, subject, limits.memory);
  if (why) return { what, why };
  let trainer: Trainer | undefined;
  try {
    trainer = openTrainer(device, subject);
    const steps = async (count: number) => {
      const start = performance.now();
      for (let i = 0; i < count; i++) {
        await trainer!.update(wholeUpdate([]), { update: i, learningRate: LEARNING_RATE });
      }
      await device.finish();
      return (performance.now() - start) / count;
    };
    await steps(1);
    const count = Math.max(1, Math.ceil(LONG_ENOUGH / (await steps(4))));
    const milliseconds = summary(await repeatedly(limits, () => steps(count)));
    // Reads gradients twice (norm, step), parameters and moments once; writes the latter.
    const bytes = 8 * 4 * subject.parameters;
    const gbps = bytes / milliseconds.min / 1e6;
    return { family: "AdamW", of: name, shape, milliseconds, gbps };
  } catch (error) {
    if (error instanceof UserError) return { what, why: error.message };
    throw error;
  } finally {
    trainer?.destroy();
  }
}

function openTrainer(device: Device, { name, model, objective }: Subject): Trainer {
  // Clipping on, as in the larger presets.
  const adamw = { ...preset(name).optimisation, clipNorm: 2 };
  return new Trainer(device, model, objective, adamw, SEED);
}

/** Why a preset does not fit the device; undefined if it does, as far as one can tell. */
function tooLarge(device: Device, subject: Subject, memory: number): string | undefined {
  const { model, objective, parameters, tokens } = subject;
  const needed = 16 * parameters + activationBytes(model, tokens);
  return doesNotFit(device, parameterShapes(model, objective.parts), needed, memory);
}

/** Rough: what layers keep for the backward pass, and two tiles of logits. */
function activationBytes(model: ModelConfig, tokens: number): number {
  const { dModel: d, dFf, encoderLayers, decoderLayers, auxLayers } = model;
  const perToken = (encoderLayers + auxLayers) * (10 * d + dFf) + decoderLayers * (16 * d + dFf);
  return 4 * tokens * perToken + (64 << 20);
}

function tooSlow(
  { flops, tokens }: Subject,
  rate: number,
  longest: number,
): string | undefined {
  const seconds = flops / rate / 1e9 / EXPECTED_SHARE;
  if (seconds <= longest) return undefined;
  const about = `about ${seconds.toFixed(0)} s for ${tokens} tokens`;
  return `an update would take ${about}, more than ${longest} s`;
}

/** Blocks of text without padding. */
function randomBlocks(model: ModelConfig, rows: number, length: number): MicroBatch {
  const tokens = randomIds(new Random(SEED), model, rows * length);
  return {
    epoch: 0,
    length,
    rows,
    blocks: Array.from({ length: rows }, (_, i) => i),
    tokens,
    lengths: new Uint32Array(rows).fill(length),
    realTokens: tokens.length,
    sequences: Array.from({ length: rows }, (_, i): [number, number] => [0, i]),
  };
}

const SUBMISSIONS = 3;

/** Microseconds of this thread to submit one launch: the least of some submissions to an idle device. */
async function submitTime(device: Device, { list, kernels }: Program): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < SUBMISSIONS; i++) {
    const start = performance.now();
    device.submit(list);
    least = Math.min(least, performance.now() - start);
    await device.finish();
  }
  return least * 1000 / kernels.length;
}

/** Time by kernel name, over one forward and backward pass. */
async function profile(
  program: Program,
  objective: Objective,
  batch: PreparedBatch,
): Promise<NonNullable<UpdateResult["profile"]>> {
  const scalars = { ...objective.scalars(batch.counts, batch.counts), keep: 0 };
  const times = await program.profile({ inputs: batch.inputs, scalars, key: SEED });
  const byName = Map.groupBy(times, ({ name }) => name);
  return [...byName].map(([kernel, all]) => ({
    kernel,
    dispatches: all.length,
    milliseconds: all.reduce((sum, t) => sum + t.milliseconds, 0),
  })).sort((a, b) => b.milliseconds - a.milliseconds);
}
