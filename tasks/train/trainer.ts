/**
 * A model in training on one device: parameters, gradients, AdamW moments and metric sums in device
 * memory, and the programs that move them.
 *
 * Two kinds of program: a *micro* program per batch shape runs forward and backward and adds to the
 * gradients; one *update* program clips and applies them. Alone, nothing is read back until someone asks.
 * In a group of ranks, each with a device of its own, gradients are added up and weights put together in
 * every update (`parallel/exchange.ts`), and a rank keeps moments of its parts only.
 *
 * @module
 */

import { type ModelConfig, parameterShapes, type Part } from "../../models/mod.ts";
import { UserError } from "../../ops/graph/errors.ts";
import { compile, type Device, type Program, StateMemory, Workspace } from "../../ops/mod.ts";
import { key } from "../../ops/graph/random.ts";
import type { DeviceBuffer } from "../../ops/program/device.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import {
  addCounts,
  type BatchShape,
  namedSums,
  type Objective,
  type PreparedBatch,
  type Sums,
} from "./objective.ts";
import type { MomentKind } from "../checkpoints/optimizer.ts";
import {
  cutSlabs,
  partOf,
  type PlacedSlice,
  type Range,
  slabMultiple,
  slicesIn,
  type TensorPlace,
  type TensorSlice,
} from "../parallel/buckets.ts";
import { alone, type Communicator } from "../parallel/communicator.ts";
import { Exchange } from "../parallel/exchange.ts";
import type { Numbered } from "../parallel/share.ts";
import {
  type AdamWConfig,
  BAD_UPDATE,
  GRAD_NORM,
  LARGEST_NORM,
  lengthsOf,
  memoryOrder,
  microSpec,
  sumTensors,
  updateSpec,
} from "./programs.ts";
import { keptAs } from "../parallel/memory_kinds.ts";

/** What one update needs. */
export interface UpdateOptions {
  /** Updates made before this one. */
  update: number;
  /** Learning rate. */
  learningRate: number;
  /** False leaves the other ranks out, for a benchmark of what they cost: the weights drift apart. */
  exchange?: boolean;
  /** Alone, an update that has become unwanted meanwhile is given up between two micro-batches. */
  unwanted?: () => boolean;
}

/** An update's micro-batches, or one rank's share of them. */
export interface UpdateBatches {
  /** What runs here: micro-batches or slices of their rows. */
  batches: readonly Numbered<PreparedBatch>[];
  /** Counts of every micro-batch of the update, wherever it runs. */
  counts: readonly Readonly<Record<string, number>>[];
}

/** All of an update on one device. */
export function wholeUpdate(batches: readonly PreparedBatch[]): UpdateBatches {
  let sequence = 0;
  return {
    batches: batches.map((batch, micro) => {
      const first = sequence;
      sequence += batch.rows;
      return { batch, micro, sequence: first };
    }),
    counts: batches.map(({ counts }) => counts),
  };
}

/** Parameters and optimizer of a model in training, on one device. */
export class Trainer {
  /** Where it is. */
  readonly device: Device;
  /** The model. */
  readonly model: ModelConfig;
  /** What it learns. */
  readonly objective: Objective;
  /** The ranks that train it together. */
  readonly group: Communicator;
  /** Names and shapes of the parameters. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** Parameters, by name. */
  readonly parameters: StateMemory;
  /** Gradients of the update in progress, by parameter name. */
  readonly gradients: StateMemory;
  /** What this rank keeps moments of, in the order of memory; whole tensors if it is alone. */
  readonly slices: readonly TensorSlice[];

  readonly #adamw: AdamWConfig;
  readonly #seed: number;
  /** The parts of parameters and gradients that this rank updates. */
  readonly #parts: readonly Range[];
  readonly #placed: ReadonlyMap<string, PlacedSlice>;
  /** AdamW's moments of those parts, by their numbers. */
  readonly #moments: Readonly<Record<MomentKind, StateMemory>>;
  readonly #exchange?: Exchange;
  readonly #sums: StateMemory;
  #sumsBefore?: DeviceBuffer;
  readonly #workspace: Workspace;
  readonly #micro = new Map<string, Program>();
  readonly #updateProgram: Program;

  /**
   * Allocates everything but intermediate values.
   *
   * @param group the ranks that train the model together; each makes a trainer with the same arguments
   * @throws {UserError} if the device's limits do not allow the model
   */
  constructor(
    device: Device,
    model: ModelConfig,
    objective: Objective,
    adamw: AdamWConfig,
    seed: number,
    group: Communicator = alone(),
  ) {
    this.model = model;
    this.device = device;
    this.objective = objective;
    this.#adamw = adamw;
    this.#seed = seed;
    this.group = group;
    this.shapes = parameterShapes(model, objective.parts);
    const { rank, size } = group;
    const tensors = memoryOrder(model, objective, size);
    const slabs = (label: string) => new StateMemory(device, tensors, label, slabMultiple(size));
    this.parameters = slabs("parameters");
    this.gradients = slabs("gradients");
    const buckets = cutSlabs(this.parameters.buffers.map((buffer) => buffer.size), size);
    const places = tensors.map(([name, shape]): TensorPlace => {
      return { name, ...this.parameters.place(name), elements: sizeOf(shape) };
    });
    this.#parts = buckets.map((bucket) => partOf(bucket, rank, size));
    const placed = slicesIn(this.#parts, places);
    this.slices = placed;
    this.#placed = new Map(placed.map((slice) => [idOf(slice), slice]));
    const moment = (label: string) =>
      new StateMemory(
        device,
        this.#parts.map(({ bytes }, i): [string, number[]] => [String(i), [bytes / 4]]),
        label,
      );
    this.#moments = { mean: moment("mean gradients"), square: moment("mean squares") };
    if (size > 1) this.#exchange = new Exchange(device, group, buckets, places, this);
    this.#sums = new StateMemory(device, sumTensors(objective), "metric sums");
    this.#workspace = new Workspace(device);
    this.#updateProgram = this.#compileUpdate();
  }

  /** Parts of the model that it trains. */
  get parts(): readonly Part[] {
    return this.objective.parts;
  }

  /** Bytes of device memory in use. */
  get deviceBytes(): number {
    return this.device.allocatedBytes;
  }

  /** Bytes of AdamW's moments on this device. */
  get momentBytes(): number {
    const { mean, square } = this.#moments;
    return [mean, square].flatMap(({ buffers }) => buffers).reduce((sum, b) => sum + b.size, 0);
  }

  /** Number of numbers that training changes. */
  get parameterCount(): number {
    let count = 0;
    for (const shape of this.shapes.values()) count += shape.reduce((a, b) => a * b, 1);
    return count;
  }

  /** Sets every parameter, one at a time. */
  initialize(values: (name: string) => Float32Array): void {
    for (const name of this.shapes.keys()) this.parameters.write(name, values(name));
  }

  /**
   * Compiles the program of a batch shape, so that no update, or evaluation, has to wait for it.
   *
   * @throws {UserError} if the device's limits do not allow it
   */
  compileShape(shape: BatchShape, use: "train" | "heldout"): void {
    this.#program(shape, use === "train");
  }

  /** The program of a batch shape, for benchmarks and tests. */
  program(shape: BatchShape, train: boolean): Program {
    return this.#program(shape, train);
  }

  /** Number of compiled programs, the update program not counted. */
  get programCount(): number {
    return this.#micro.size;
  }

  /**
   * One update from the micro-batches of a global batch. Alone, it returns when all work is submitted; a
   * group waits for one another.
   *
   * @returns counts of the whole update; nothing if it was given up: then weights, moments and sums are as
   * they were
   */
  async update(
    { batches, counts }: UpdateBatches,
    { update, learningRate, exchange: wanted = true, unwanted }: UpdateOptions,
  ): Promise<Record<string, number> | undefined> {
    const total = addCounts(counts);
    const exchange = wanted ? this.#exchange : undefined;
    const mayStop = unwanted !== undefined && this.group.size === 1 && batches.length > 1;
    if (mayStop) this.#keepSums();
    let gradNorm = 0;
    for (const [i, { batch, micro, sequence }] of batches.entries()) {
      if (i > 0) await this.device.pace();
      if (mayStop && i > 0 && unwanted()) return this.#takeBackSums();
      this.group.alive(`update ${update + 1}`);
      const program = this.#program(batch, true);
      const options = {
        inputs: batch.inputs,
        scalars: {
          ...this.objective.scalars(counts[micro], total),
          keep: i === 0 ? 0 : 1,
        },
        key: key(this.#seed, update, ...lengthsOf(batch)),
        sequence,
      };
      if (exchange && i === batches.length - 1) {
        gradNorm = await exchange.reduce(program, options);
      } else program.run(options);
    }
    const { beta1, beta2 } = this.#adamw;
    const t = update + 1;
    this.#updateProgram.run({
      scalars: {
        learningRate,
        stepSize: learningRate * Math.sqrt(1 - beta2 ** t) / (1 - beta1 ** t),
        updateNumber: t,
        gradNorm: finiteNorm(gradNorm),
      },
    });
    await exchange?.gather();
    return total;
  }

  /** Reads what this rank keeps of a moment, one slice of {@link Trainer.slices} after the other. */
  momentReader(moment: MomentKind): (slice: TensorSlice) => Promise<Float32Array> {
    const memory = this.#moments[moment];
    let held = -1, values: Float32Array = new Float32Array();
    return async (slice) => {
      const { range, at, from, to } = this.#placed.get(idOf(slice))!;
      if (range !== held) {
        values = await memory.read(String(range));
        held = range;
      }
      return values.slice(at / 4, at / 4 + to - from);
    };
  }

  /** Sets a moment of one of {@link Trainer.slices}. */
  writeMoment(moment: MomentKind, slice: TensorSlice, values: Float32Array): void {
    const { range, at, from, to } = this.#placed.get(idOf(slice))!;
    if (values.length !== to - from) {
      throw new RangeError(`${idOf(slice)}: ${values.length} values`);
    }
    const { buffer, offset } = this.#moments[moment].view(String(range));
    this.device.write(buffer, offset + at, values);
  }

  /** Adds a held-out batch to the held-out sums. */
  evaluate(batch: PreparedBatch, sequence: number): void {
    this.#program(batch, false).run({
      inputs: batch.inputs,
      scalars: this.objective.scalars(batch.counts, batch.counts),
      // The same noise at every evaluation, so that curves are comparable.
      key: key(this.#seed, 0x68656c64, ...lengthsOf(batch)),
      sequence,
    });
  }

  /**
   * Reads and clears the sums of training or of evaluation, of all ranks. Waits for the device.
   *
   * @returns sums by name; for training also `gradNorm` (sum of the norms) and `badUpdate` (number of
   *   the first update whose gradient was not finite, else 0)
   */
  async takeSums(kind: "train" | "heldout"): Promise<Sums> {
    const own = await this.#ownSums();
    const tensors = Object.entries(this.objective.sums);
    const shared = Float64Array.from(tensors.flatMap(([name]) => own[`${kind}/${name}`]));
    await this.group.allReduce(shared);
    const sums = namedSums(tensors, shared);
    const names = tensors.map(([name]) => `${kind}/${name}`);
    if (kind === "train") {
      names.push(GRAD_NORM, BAD_UPDATE);
      // These are the same on every rank.
      Object.assign(sums, { [GRAD_NORM]: own[GRAD_NORM], [BAD_UPDATE]: own[BAD_UPDATE] });
    }
    for (const name of names) this.#sums.write(name, new Float32Array(own[name].length));
    return sums;
  }

  /** Gradients need no copy: the first micro-batch of an update does not add to them. */
  #keepSums(): void {
    const { buffer, size } = this.#sums.slab(0);
    this.#sumsBefore ??= this.device.createBuffer(size, "metric sums before the update");
    this.device.copy({ buffer, offset: 0, size }, this.#sumsBefore, 0);
  }

  #takeBackSums(): undefined {
    const { buffer, size } = this.#sums.slab(0);
    this.device.copy({ buffer: this.#sumsBefore!, offset: 0, size }, buffer, 0);
  }

  async #ownSums(): Promise<Sums> {
    const { buffer, size } = this.#sums.slab(0);
    const floats = new Float32Array(await this.device.read(buffer, 0, size));
    return Object.fromEntries(this.#sums.names.map((name) => {
      const from = this.#sums.place(name).offset / 4;
      return [name, [...floats.subarray(from, from + sizeOf(this.#sums.shape(name)))]];
    }));
  }

  /** All metric sums as they stand on the devices, per rank, for a checkpoint. Waits for the device. */
  async sums(): Promise<number[][]> {
    const { rank, size } = this.group;
    const own = Object.values(await this.#ownSums()).flat();
    const all = new Float64Array(size * own.length);
    all.set(own, rank * own.length);
    await this.group.allReduce(all);
    return Array.from(
      { length: size },
      (_, i) => [...all.subarray(i * own.length, (i + 1) * own.length)],
    );
  }

  /**
   * Puts back what {@link sums} returned. As many ranks as before go on bit for bit; otherwise rank 0 takes
   * all of it over.
   *
   * @throws {UserError} if they are those of another objective
   */
  restoreSums(saved: readonly (readonly number[])[]): void {
    const { rank, size } = this.group;
    const tensors = this.#savedSums(saved[0].length);
    const ranks = saved.map((values) => namedSums(tensors, values));
    for (const [name] of tensors) {
      const isShared = name === GRAD_NORM || name === BAD_UPDATE;
      const total = (i: number) =>
        rank > 0 ? 0 : ranks.reduce((sum, values) => sum + values[name][i], 0);
      const values = saved.length === size
        ? ranks[rank][name]
        : isShared
        ? ranks[0][name]
        : ranks[0][name].map((_, i) => total(i));
      this.#sums.write(name, Float32Array.from(values));
    }
  }

  /** What a checkpoint's list of so many numbers holds. */
  #savedSums(count: number): [string, readonly number[]][] {
    const all = sumTensors(this.objective);
    // Earlier checkpoints hold sums of one number only; the others start at 0.
    const single = all.filter(([, shape]) => shape.length === 0);
    const found = [all, single].find((tensors) =>
      tensors.reduce((sum, [, shape]) => sum + sizeOf(shape), 0) === count
    );
    if (found) return found;
    throw new UserError(
      `training.json: got ${count} metric sums, which this version does not know; go on with the ` +
        "version that wrote it",
    );
  }

  /** Number of the first update whose gradient was not finite, among {@link sums}; 0 if there is none. */
  badUpdate(sums: readonly (readonly number[])[]): number {
    // It stands last.
    return sums[0][sums[0].length - 1];
  }

  /** Frees all device memory. */
  destroy(): void {
    for (const program of this.#micro.values()) program.destroy();
    this.#updateProgram.destroy();
    this.#workspace.destroy();
    this.#exchange?.destroy();
    if (this.#sumsBefore) this.device.destroyBuffer(this.#sumsBefore);
    const { mean, square } = this.#moments;
    for (const m of [this.parameters, this.gradients, mean, square, this.#sums]) m.destroy();
  }

  #program(shape: BatchShape, train: boolean): Program {
    const id = `${shape.rows}×${lengthsOf(shape).join("→")} ${train ? "train" : "heldout"}`;
    let program = this.#micro.get(id);
    if (!program) this.#micro.set(id, program = this.#compileMicro(shape, train));
    return program;
  }

  #compileMicro(shape: BatchShape, train: boolean): Program {
    return compile(this.device, microSpec(this.model, this.objective, shape, train), {
      workspace: this.#workspace,
      view: (state) => {
        const { kind, name } = keptAs(state);
        if (kind === "gradient") return this.gradients.view(name);
        return (kind === "sum" ? this.#sums : this.parameters).view(name);
      },
    });
  }

  /** AdamW over whole slabs, or over this rank's parts of them: the layout of all four is the same. */
  #compileUpdate(): Program {
    // The norm of a gradient that is spread over ranks is known to the host.
    const spec = updateSpec(this.#parts.map(({ bytes }) => bytes), this.#adamw, !!this.#exchange);
    return compile(this.device, spec, {
      workspace: this.#workspace,
      view: (state) => {
        const { kind, name } = keptAs(state);
        if (kind === "sum") return this.#sums.view(name);
        if (kind === "mean" || kind === "square") return this.#moments[kind].view(name);
        const { slab, offset, bytes } = this.#parts[Number(name)];
        const { buffers } = kind === "parameter" ? this.parameters : this.gradients;
        return { buffer: buffers[slab], offset, size: bytes };
      },
    });
  }
}

function idOf({ name, from, to }: TensorSlice): string {
  return `${name}[${from}:${to}]`;
}

/** WGSL may take infinity and NaN for any number; this one is larger than a norm can be. */
function finiteNorm(norm: number): number {
  return norm < LARGEST_NORM ? norm : 3e38;
}
