/**
 * How fast one device computes: told, measured, or from its arithmetic.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import type { BenchReport } from "../bench/report.ts";
import type { PretrainConfig } from "../config/pretrain.ts";
import { readText } from "../files/read.ts";
import { flopsPerToken } from "../train/work.ts";

/** A device's speed. */
export interface Rate {
  /** Tokens per second, forward, backward and optimizer. */
  tokensPerSecond: number;
  /** Where it comes from. */
  from: string;
}

/** Ways to tell a device's speed; exactly one is to be given. */
export interface GivenRate {
  /** Tokens per second. */
  rate?: number;
  /** 10¹² operations per second, by the model's formula. */
  tflops?: number;
  /** A file of `deno task bench`. */
  bench?: string;
}

/**
 * The speed of a device for a model.
 *
 * @throws {UserError} if none or several ways are given, or the file does not say
 *
 * @example
 * ```ts
 * import { rateOf } from "./rate.ts";
 * import { resolvePretrain } from "../config/pretrain.ts";
 * import assert from "node:assert/strict";
 *
 * const config = resolvePretrain({ preset: "base" }, []);
 * const { tokensPerSecond } = await rateOf(config, { tflops: 43.7 });
 * assert.equal(Math.round(tokensPerSecond / 1000), 27);
 * ```
 */
// deno-lint-ignore require-await -- what is wrong is a rejection
export async function rateOf(config: PretrainConfig, given: GivenRate): Promise<Rate> {
  const { rate, tflops, bench } = given;
  const flags = Object.entries(given).filter(([, value]) => value !== undefined);
  if (flags.length > 1) {
    const names = flags.map(([name]) => `--${name}`).join(" and ");
    throw new UserError(`${names}: expected one of --rate, --bench and --tflops, got several`);
  }
  if (rate !== undefined) return { tokensPerSecond: rate, from: "--rate" };
  const flops = flopsPerToken(config);
  const perToken = `${round(flops / 1e9)} GFLOP/token, forward and backward`;
  if (tflops !== undefined) {
    return { tokensPerSecond: tflops * 1e12 / flops, from: `${tflops} TFLOP/s / ${perToken}` };
  }
  if (bench !== undefined) {
    const gflops = measured(bench, config.preset);
    return {
      tokensPerSecond: gflops * 1e9 / flops,
      from: `${bench}: ${round(gflops / 1e3)} TFLOP/s / ${perToken}`,
    };
  }
  throw new UserError(
    "expected --rate, --bench or --tflops: how fast one GPU computes; measure it with `deno task " +
      `bench --only updates --preset ${config.preset}\`, which prints tokens per second (--rate) and ` +
      "writes bench.json (--bench bench.json)",
  );
}

function measured(path: string, preset: string): number {
  const updates = updatesOf(path, readText(path));
  const gflops = updates.find((update) => update?.preset === preset)?.gflops;
  if (typeof gflops !== "number" || !(gflops > 0)) {
    const names = updates.map((update) => update?.preset).join(", ") || "none";
    throw new UserError(
      `${path}: expected training updates of ${preset}, found those of ${names}; run ` +
        `\`deno task bench --only updates --preset ${preset}\``,
    );
  }
  return gflops;
}

function updatesOf(path: string, text: string): Partial<BenchReport["updates"][number]>[] {
  try {
    const { updates } = JSON.parse(text);
    if (Array.isArray(updates)) return updates;
  } catch {
    // The same as a file of another kind.
  }
  throw new UserError(`${path}: expected a file that deno task bench has written`);
}

function round(x: number): number {
  return Number(x.toPrecision(4));
}
