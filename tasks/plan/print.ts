/**
 * A plan in words and figures, for the terminal.
 *
 * @module
 */

import { gigabytes, mib, percentText, wholeText } from "../command/number_text.ts";
import { align } from "../command/table.ts";
import { ADAPTER_LIMITS, nameOf, type Plan } from "./plan.ts";

/** A line of arithmetic: what, how, and what it comes to. */
type Line = readonly [what: string, how: string, result: string];

/** Terms of a sum that a line has room for. */
const TERMS = 3;

/**
 * The plan as text, with the arithmetic line by line.
 *
 * @example
 * ```ts
 * import { planText } from "./print.ts";
 * import { PLAN_OPTIONS, planRun } from "./plan.ts";
 * import { defaults } from "../command/options.ts";
 * import assert from "node:assert/strict";
 *
 * const plan = await planRun({ ...defaults(PLAN_OPTIONS), preset: "tiny", rate: 2048 });
 * assert.match(planText(plan), /compute +2,048 tokens \/ 2,048 tokens\/s +1\.000 s/);
 * ```
 */
export function planText(plan: Plan): string {
  const { config, devices, target } = plan, device = nameOf(target);
  const on = devices === 1 ? `one ${device}` : `${wholeText(devices)} ${device}s`;
  const what = config.objective === "metro" ? "METRO-T5" : "T5";
  return [
    `Pretraining ${what} ${config.preset} on ${on}, 32-bit floats`,
    section("Work of an update", workLines(plan)),
    section(`Memory of each ${device}`, memoryLines(plan)),
    section("Largest pieces of memory", limitLines(plan)),
    ...(devices > 1
      ? [section(`Sent, and received, by each ${device} in an update`, sentLines(plan))]
      : []),
    section("Time of an update", timeLines(plan)),
    section("Whole run, without evaluation and checkpoints", runLines(plan)),
  ].join("\n\n");
}

function workLines({ config, devices, target, work, rate }: Plan): Line[] {
  const device = nameOf(target);
  const { micros, micro: { rows, length }, slices, shapes, tokens, surplus } = work;
  const own = shapes.at(-1)!;
  const lines: Line[] = [
    [
      "update",
      `${wholeText(micros)} micro-batches of ${rows} × ${length}`,
      `${wholeText(micros * rows * length)} tokens`,
    ],
  ];
  if (devices > 1) {
    lines.push([
      `each ${device}`,
      `${wholeText(slices)} times ${own.rows} × ${own.length}`,
      `${wholeText(tokens)} tokens`,
    ]);
  }
  if (surplus > 1.0005) {
    lines.push([
      "more than its share",
      `rows do not divide by ${device}s`,
      `${percent(surplus - 1)}`,
    ]);
  }
  lines.push([`rate of a ${device}`, rate.from, `${wholeText(rate.tokensPerSecond)} tokens/s`]);
  if (micros * rows * length !== config.batchTokens) {
    lines.push([
      "--batch-tokens",
      "the nearest number of micro-batches is taken",
      `${wholeText(config.batchTokens)} tokens`,
    ]);
  }
  return lines;
}

function memoryLines({ memory }: Plan): Line[] {
  const lines = memory.items.map(({ what, how, bytes }): Line => [what, how, mib(bytes)]);
  lines.push(["together", "", mib(memory.bytes)]);
  if (memory.hostBytes > 0) {
    lines.push([
      "host, each rank",
      `${memory.hostBytes / memory.bucketBytes} buckets of ${
        mib(memory.bucketBytes)
      } on their way, beside Deno and the driver`,
      mib(memory.hostBytes),
    ]);
  }
  return lines;
}

function limitLines({ target, memory: { largestBinding, largestBuffer } }: Plan): Line[] {
  const limits = target.kind === "gpu" ? ADAPTER_LIMITS : [];
  return [
    ["binding", largestBinding.what, mib(largestBinding.bytes)],
    ["buffer", largestBuffer.what, mib(largestBuffer.bytes)],
    ...limits.map(({ bytes: limit, whose, of }): Line => {
      const over = [["binding", largestBinding] as const, ["buffer", largestBuffer] as const]
        .filter(([kind, { bytes }]) => of.includes(kind) && bytes > limit)
        .map(([kind]) => kind);
      const verdict = over.length === 0 ? "fits" : `${over.join(" and ")} too large`;
      return [`limit ${mib(limit)}`, whose, verdict];
    }),
  ];
}

function sentLines({ memory, devices, time }: Plan): Line[] {
  const part = `${gigabytes(memory.gradientBytes)} × ${devices - 1}/${devices}`;
  return [
    ["gradients", `reduce-scatter: ${part}`, gigabytes(time.traffic / 2)],
    ["weights", `all-gather: ${part}`, gigabytes(time.traffic / 2)],
    ["together", "and 8 bytes for the norm, twice", gigabytes(time.traffic)],
  ];
}

function timeLines({ time }: Plan): Line[] {
  const lines = time.items.flatMap(({ what, how, seconds }): Line[] => {
    const result = secondsText(seconds), rest = how.slice(TERMS);
    if (rest.length === 0) return [[what, sumOf(how), result]];
    return [[what, sumOf(how.slice(0, TERMS)), ""], ["", `+ ${sumOf(rest)}`, result]];
  });
  if (time.items.length === 1) return lines;
  return [
    ...lines,
    ["update", "", secondsText(time.seconds)],
    [
      "communication that nothing hides",
      `${secondsText(time.exposed)} of ${secondsText(time.seconds)}`,
      percent(time.exposed / time.seconds),
    ],
  ];
}

function sumOf(terms: readonly string[]): string {
  return terms.join(" + ");
}

function runLines({ config, devices, target, work, time }: Plan): Line[] {
  const { updates } = config;
  const tokens = updates * work.micros * work.micro.rows * work.micro.length;
  const hours = updates * time.seconds / 3600;
  const lines: Line[] = [
    ["time", `${wholeText(updates)} updates × ${secondsText(time.seconds)}`, hoursText(hours)],
    ["tokens", "padding included", wholeText(tokens)],
    ["tokens per second", `of all ${nameOf(target)}s`, wholeText(tokens / hours / 3600)],
  ];
  if (devices > 1) {
    lines.push([
      `${nameOf(target)}-hours`,
      `${devices} × ${hoursText(hours)}`,
      wholeText(devices * hours),
    ]);
  }
  return lines;
}

function section(title: string, lines: readonly Line[]): string {
  return `${title}\n${align(lines, 2)}`;
}

/** Seconds to the millisecond. */
export function secondsText(x: number): string {
  return `${x.toFixed(3)} s`;
}

/** Hours, or days where there are many. */
export function hoursText(hours: number): string {
  if (hours < 0.1) return `${(hours * 3600).toFixed(0)} s`;
  return hours < 1000
    ? `${hours.toFixed(1)} h`
    : `${wholeText(hours)} h (${wholeText(hours / 24)} days)`;
}

function percent(share: number): string {
  return percentText(share, 1, " %");
}
