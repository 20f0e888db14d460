/**
 * The paper's three pretraining runs as worked examples: the speed of a GPU is taken from the smallest
 * one, the others are foreseen, and compared with what the paper reports.
 *
 * @module
 */

import type { PresetName } from "../../models/mod.ts";
import { gpuTarget } from "../../ops/gpu/target.ts";
import { type PretrainConfig, resolvePretrain } from "../config/pretrain.ts";
import { gigabytes, percentText, wholeText } from "../command/number_text.ts";
import { align } from "../command/table.ts";
import { wrap } from "../command/help.ts";
import { trafficOf } from "../parallel/communicator.ts";
import { planMemory } from "../train/memory.ts";
import { hoursText, secondsText } from "./print.ts";
import { planTime } from "./time.ts";
import { flopsPerToken, workOf } from "../train/work.ts";

/** Wall-clock hours of the paper's runs (appendix A.6), on A100 GPUs of 40 GB. */
const PAPER: readonly { preset: PresetName; devices: number; hours: number }[] = [
  { preset: "base", devices: 64, hours: 20.8 },
  { preset: "base++", devices: 128, hours: 159 },
  { preset: "large++", devices: 256, hours: 289 },
];
/** Assumed: nodes of 8 GPUs, with 8 links of 200 Gbit/s. The paper does not say. */
const INTERCONNECT = 25e9;
/** Assumed: PCIe 4.0 x16, for what passes the host. */
const HOST_LINK = 24e9;
/** Assumed: what `deno task plan` does; the processors are unknown too. */
const HOST_SUMS = 3e9;
/** The paper's gradients, in 16 bits, go from GPU to GPU. */
const PAPER_BYTES = 2;

/** One of the paper's runs, foreseen. */
export interface Example {
  /** The preset. */
  preset: PresetName;
  /** Number of GPUs. */
  devices: number;
  /** Billions of operations per token, forward and backward. */
  gflopsPerToken: number;
  /** Tokens per second of a GPU. */
  rate: number;
  /** Tokens that each GPU computes in an update. */
  tokens: number;
  /** Micro-batches in which it does. */
  slices: number;
  /** Seconds of computing in an update. */
  compute: number;
  /** The paper's all-reduce: bytes sent by a GPU, seconds, and those that the backward pass can hide. */
  allReduce: { bytes: number; seconds: number; window: number };
  /** Seconds of an update, if gradients travel as the paper's do. */
  seconds: number;
  /** Hours of the run, likewise. */
  hours: number;
  /** Hours that the paper reports. */
  paperHours: number;
  /** Seconds of an update that it reports. */
  paperSeconds: number;
  /** Hours, if gradients and weights travel as this toolkit's do. */
  ownHours: number;
  /** Seconds of an update then. */
  ownSeconds: number;
  /** Bytes of device memory then. */
  ownBytes: number;
}

/** The paper's code computes the decoder's head at all positions, whatever the loss counts. */
const AS_RUN = { maskedPositionsOnly: "none" } as const;

/**
 * Foresees the paper's runs.
 *
 * @example
 * ```ts ignore
 * import { paperExamples } from "./examples.ts";
 *
 * const [base] = paperExamples();
 * console.log(base.rate, base.hours); // 27350, 20.8: no news, since the rate is this run's
 * ```
 */
export function paperExamples(): Example[] {
  const flops = (config: PretrainConfig) => flopsPerToken({ ...config, ...AS_RUN });
  const base = resolvePretrain({ preset: "base" }, []);
  const [{ devices: baseDevices, hours: baseHours }] = PAPER;
  const baseTokens = base.updates * base.batchTokens;
  const speed = flops(base) * baseTokens / (baseHours * 3600 * baseDevices);
  return PAPER.map(({ preset, devices, hours: paperHours }) => {
    const config = resolvePretrain({ preset }, []);
    const rate = speed / flops(config);
    const work = workOf(config, devices);
    const memory = planMemory(config, devices, gpuTarget);
    const time = planTime(work, rate, memory, devices, {
      interconnect: INTERCONNECT,
      latency: 20e-6,
      hostLink: HOST_LINK,
      hostSums: HOST_SUMS,
      readWait: 0.01,
      overlap: 1,
    });
    const { compute } = time;
    const bytes = trafficOf(PAPER_BYTES * memory.parameters, devices, 2);
    const sending = bytes / INTERCONNECT, window = 2 / 3 * compute / work.slices;
    const seconds = compute + Math.max(0, sending - window);
    const inHours = (seconds: number) => config.updates * seconds / 3600;
    return {
      preset,
      devices,
      gflopsPerToken: flops(config) / 1e9,
      rate,
      compute,
      tokens: work.tokens,
      slices: work.slices,
      allReduce: { bytes, seconds: sending, window },
      seconds,
      hours: inHours(seconds),
      paperHours,
      paperSeconds: paperHours * 3600 / config.updates,
      ownHours: inHours(time.seconds),
      ownSeconds: time.seconds,
      ownBytes: memory.bytes,
    };
  });
}

/**
 * Examples as text, with the arithmetic and what it does not explain.
 *
 * @param examples of {@link paperExamples}
 *
 * @example
 * ```ts
 * import { examplesText, paperExamples } from "./examples.ts";
 * import assert from "node:assert/strict";
 *
 * assert.match(examplesText(paperExamples()), /base\+\+ +128 +0\.328 s +0\.286 s/);
 * ```
 */
export function examplesText(examples: readonly Example[]): string {
  return [
    "The paper's three pretraining runs, foreseen from the smallest one",
    paragraphs(
      "Assumed, since the paper does not say: nodes of 8 A100 GPUs with 8 links of 200 Gbit/s, so " +
        `${
          INTERCONNECT / 1e9
        } GB/s for each GPU; gradients of ${PAPER_BYTES} bytes, summed from GPU to ` +
        "GPU during the backward pass of an update's last micro-batch.",
    ),
    ...arithmetic(examples),
    ...comparison(examples),
    ...ownRuns(examples),
  ].join("\n\n");
}

function arithmetic(examples: readonly Example[]): string[] {
  const [base, ...others] = examples;
  const speed = `${teraflops(base.rate * base.gflopsPerToken)} TFLOP/s`;
  return [
    "1. How fast is a GPU? From the run of base:\n" + indent([
      `${base.paperHours} h / 125,000 updates = ${secondsText(base.paperSeconds)} per update`,
      `1,048,576 tokens / ${base.devices} GPUs / ${secondsText(base.paperSeconds)} = ` +
      `${wholeText(base.rate)} tokens/s per GPU`,
      `× ${base.gflopsPerToken.toFixed(3)} GFLOP per token = ${speed} per GPU`,
    ]),
    "2. How long do the others compute at this speed?\n" +
    indent(
      others.map((e) =>
        `${e.preset}: ${speed} / ${e.gflopsPerToken.toFixed(3)} GFLOP per token = ` +
        `${wholeText(e.rate)} tokens/s; ${wholeText(e.tokens)} tokens in ${secondsText(e.compute)}`
      ),
    ),
    "3. Does the backward pass hide the all-reduce?\n" + indent(examples.map((e) => {
      const { bytes, seconds, window } = e.allReduce;
      const slices = e.slices > 1 ? ` / ${e.slices} micro-batches` : "";
      return `${e.preset}: ${gigabytes(bytes)} / ${INTERCONNECT / 1e9} GB/s = ${
        secondsText(seconds)
      }; ` +
        `2/3 × ${secondsText(e.compute)}${slices} = ${secondsText(window)}: ` +
        (seconds <= window ? "yes" : "not all of it");
    })),
  ];
}

function comparison(examples: readonly Example[]): string[] {
  const [base, plus, large] = examples;
  const speed = teraflops(base.rate * base.gflopsPerToken);
  const reached = ({ tokens, gflopsPerToken, paperSeconds }: Example) =>
    `${teraflops(tokens * gflopsPerToken / paperSeconds)} TFLOP/s`;
  // What the interconnect would have given if it alone explained the paper's time.
  const { bytes, window } = large.allReduce;
  const slow = bytes / (large.paperSeconds - large.compute + window);
  return [
    "4. Foreseen, and what the paper reports\n" + align([
      ["", "GPUs", "update", "paper", "run", "paper", "foreseen / paper"],
      ...examples.map((e) => [
        e.preset,
        String(e.devices),
        secondsText(e.seconds),
        secondsText(e.paperSeconds),
        hoursText(e.hours),
        hoursText(e.paperHours),
        (e.hours / e.paperHours).toFixed(2),
      ]),
    ], 1),
    paragraphs(
      "base: no news, since its own rate was put in, with whatever its communication cost.",
      `base++: the paper's GPUs did ${
        reached(plus)
      }, not ${speed}. It trained in bf16 without loss ` +
        "scaling, base in fp16, and in one micro-batch per update and GPU instead of two. Which of " +
        "these counts, the times do not tell.",
      `large++: the paper's GPUs did ${
        reached(large)
      }. Its micro-batches hold 2,048 tokens, a quarter ` +
        "of base's, which may be too few to keep such a GPU busy, and 256 GPUs sum three times as many " +
        "gradients. If communication alone were to blame, each GPU would have got only " +
        `${
          (slow / 1e9).toFixed(1)
        } GB/s. A rate measured with one model says little about a model of ` +
        "three times its size at a quarter of its micro-batch: measure the one that is to be trained.",
    ),
  ];
}

function ownRuns(examples: readonly Example[]): string[] {
  return [
    "5. The same by this toolkit, if its kernels reached the same rate\n" + align([
      ["", "GPUs", "memory", "update", "run", "of it computing"],
      ...examples.map((e) => [
        e.preset,
        String(e.devices),
        `${(e.ownBytes / 1e9).toFixed(1)} GB`,
        secondsText(e.ownSeconds),
        hoursText(e.ownHours),
        percentText(e.compute / e.ownSeconds, 0, " %"),
      ]),
    ], 1),
    paragraphs(
      "Nobody has made such a run. In 32-bit floats twice as many bytes travel, all of them by way of " +
        `the host (${
          HOST_LINK / 1e9
        } GB/s, PCIe 4.0), gradients bucket by bucket, four to a wait of ` +
        "10 ms, and nothing hides the gathering of the weights. Most of it is the work of the host, where " +
        `one thread for each GPU adds up all gradients and puts all weights together, ${
          HOST_SUMS / 1e9
        } GB/s of ` +
        "them. The more tokens each GPU has in an update, the less this matters: fewer GPUs, or larger " +
        "--batch-tokens.",
    ),
  ];
}

function indent(lines: readonly string[]): string {
  return lines.map((line) => `   ${line}`).join("\n");
}

function paragraphs(...texts: readonly string[]): string {
  return texts.map((text) => wrap(text, 96).join("\n")).join("\n");
}

function teraflops(gigaflops: number): string {
  return (gigaflops / 1e3).toFixed(1);
}
