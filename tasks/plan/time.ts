/**
 * The time of an update: computing, and what of the communication is not hidden behind it.
 *
 * With N devices, gradients of B bytes in k buckets are reduce-scattered during the last backward pass:
 * each bucket is read back, exchanged and added up, and the device's own part of the sum written. Several reads are under
 * way at a time, so that they share a wait. After the update
 * each device's part of the weights is read back, gathered, and all weights are written. A device sends
 * B · (N − 1) / N bytes either way, and one thread of its host adds up or copies the B bytes.
 *
 * @module
 */

import { trafficOf } from "../parallel/communicator.ts";
import { UNDER_WAY } from "../parallel/exchange.ts";
import type { MemoryPlan } from "../train/memory.ts";
import { gigabytes, wholeText } from "../command/number_text.ts";

/** The ways between devices. */
export interface Links {
  /** Bytes per second that each device can send to others, and receive at the same time. */
  interconnect: number;
  /** Seconds for the first byte of a message. */
  latency: number;
  /** Bytes per second between a device and its host. */
  hostLink: number;
  /** Bytes per second that a rank's one thread adds up of gradients, and puts together of weights. */
  hostSums: number;
  /** Seconds that a wait for bytes from the device takes beyond their copy. */
  readWait: number;
  /** Share of the last backward pass behind which exchanging gradients can hide. */
  overlap: number;
}

/** Part of an update's time, and how it comes about. */
export interface TimeItem {
  /** What takes the time. */
  what: string;
  /** The arithmetic: terms that are added up. */
  how: readonly string[];
  /** Seconds; negative where something is hidden. */
  seconds: number;
}

/** What {@link planTime} foresees. */
export interface TimePlan {
  /** Bytes that each device sends, and receives, in an update. */
  traffic: number;
  /** Parts of an update's time. */
  items: TimeItem[];
  /** Seconds of computing. */
  compute: number;
  /** Seconds of communication that nothing hides. */
  exposed: number;
  /** Seconds of an update. */
  seconds: number;
}

/** Bytes of the sums of an update besides gradients: the squares for the norm, in 64 bits. */
const SMALL_SUMS = 8;
/** The backward pass does two thirds of the arithmetic. */
const BACKWARD = 2 / 3;

/**
 * The time of an update on one of several devices.
 *
 * @param work tokens of each device in an update, in so many slices
 * @param rate tokens per second of a device, forward, backward and optimizer
 * @param memory sizes of gradients and buckets
 *
 * @example
 * ```ts
 * import { planTime } from "./time.ts";
 * import assert from "node:assert/strict";
 *
 * const memory = { gradientBytes: 1e9, lateBytes: 1e8, buckets: 40, bucketBytes: 25e6 };
 * const [hostLink, hostSums, interconnect] = [10e9, 5e9, 10e9];
 * const links = { interconnect, latency: 0, hostLink, hostSums, readWait: 0, overlap: 1 };
 * const work = { tokens: 10_000, slices: 1 };
 * const { traffic, compute, exposed } = planTime(work, 10_000, memory, 2, links);
 * assert.equal(traffic, 1e9 + 8); // 8 bytes for the norm
 * assert.equal(compute, 1);
 * // Of 0.1 GB of gradients all is read, half sent, half written; of 1 GB of weights half is read, half
 * // sent, all written. The host deals with all of it.
 * assert.equal(exposed.toFixed(6), (0.1 * 0.4 + 0.4).toFixed(6));
 * ```
 */
export function planTime(
  { tokens, slices }: { tokens: number; slices: number },
  rate: number,
  memory: Pick<MemoryPlan, "gradientBytes" | "lateBytes" | "buckets" | "bucketBytes">,
  devices: number,
  links: Links,
): TimePlan {
  const compute = tokens / rate;
  const computing = {
    what: "compute",
    how: [`${wholeText(tokens)} tokens / ${wholeText(rate)} tokens/s`],
    seconds: compute,
  };
  if (devices === 1) {
    return { traffic: 0, items: [computing], compute, exposed: 0, seconds: compute };
  }

  const { gradientBytes, lateBytes, buckets, bucketBytes } = memory;
  const rounds = roundsOf(devices);
  const lateBuckets = Math.min(buckets, Math.ceil(lateBytes / bucketBytes));
  const transfer = transfers(devices, links);
  const gradients = (when: string, bytes: number, count: number) =>
    transfer(`gradients, ${when}`, count, bytes, bytes, bytes / devices, count);
  const early = gradients("early", gradientBytes - lateBytes, buckets - lateBuckets);
  const late = gradients("late", lateBytes, lateBuckets);
  const hidden = Math.min(early.seconds, links.overlap * BACKWARD * compute / slices);

  const reads = Math.ceil(gradientBytes / devices / bucketBytes);
  const own = gradientBytes / devices;
  const weights = transfer("weights", reads, own, gradientBytes, gradientBytes, buckets);
  const norm = {
    what: "norm",
    how: [`2 × ${rounds} × ${microseconds(links.latency)}`],
    seconds: 2 * rounds * links.latency,
  };
  const hiding = {
    what: "hidden of the early ones",
    how: [`at most ${links.overlap} × 2/3 × compute${slices > 1 ? ` / ${slices} slices` : ""}`],
    seconds: -hidden,
  };
  const items = [computing, early, hiding, late, norm, weights];
  const seconds = items.reduce((sum, item) => sum + item.seconds, 0);
  const traffic = trafficOf(gradientBytes, devices, 2) + trafficOf(SMALL_SUMS, devices, 2);
  return { traffic, items, compute, exposed: seconds - compute, seconds };
}

/** What it takes to move bytes from one device to the others. */
function transfers(
  devices: number,
  { interconnect, latency, hostLink, hostSums, readWait }: Links,
) {
  const rounds = roundsOf(devices);
  /** Bytes read from the device in so many reads, exchanged and dealt with in so many messages, and written. */
  return (
    what: string,
    reads: number,
    read: number,
    exchanged: number,
    written: number,
    messages: number,
  ): TimeItem => {
    const waits = Math.ceil(reads / UNDER_WAY);
    const sent = trafficOf(exchanged, devices, 1);
    return {
      what,
      how: [
        `${waits} × ${milliseconds(readWait)}`,
        `${gigabytes(read + written)} / ${speed(hostLink)}`,
        `${gigabytes(sent)} / ${speed(interconnect)}`,
        `${gigabytes(exchanged)} / ${speed(hostSums)}`,
        `${messages} × ${rounds} × ${microseconds(latency)}`,
      ],
      seconds: waits * readWait + (read + written) / hostLink + sent / interconnect +
        exchanged / hostSums + messages * rounds * latency,
    };
  };
}

/** Messages of a rank that one collective call takes. */
function roundsOf(devices: number): number {
  return Math.ceil(Math.log2(devices));
}

function milliseconds(seconds: number): string {
  return `${round(seconds * 1e3)} ms`;
}

function microseconds(seconds: number): string {
  return `${round(seconds * 1e6)} µs`;
}

function speed(bytesPerSecond: number): string {
  return `${round(bytesPerSecond / 1e9)} GB/s`;
}

function round(x: number): number {
  return Number(x.toPrecision(4));
}
