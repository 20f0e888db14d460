/**
 * From graph to program: fuse, plan memory, have the device's target make kernels, prepare; then replay.
 *
 * A program owns nothing but its inputs and constants and what the device keeps to run it: state is given to
 * it, and intermediate values live in a workspace that programs share. Alone, it makes itself both.
 *
 * @module
 */

import {
  CONSTANT,
  formatShape,
  INPUT,
  reshape,
  sameShape,
  sizeOf,
  STATE,
  storageOf,
  type Tensor,
} from "../graph/tensor.ts";
import {
  type BufferView,
  type Device,
  type DeviceBuffer,
  type PreparedList,
  RUN_KEY,
  RUN_SCALARS,
  RUN_SEQUENCE,
  RUN_WORDS,
  type Stopwatch,
} from "./device.ts";
import { stopGradient } from "../primitives/pointwise.ts";
import { fuse, readsOf, runScalarsOf, type Step, writesOf } from "./fuse.ts";
import type { Launch, Lowering, Operand, Target } from "./lowering.ts";
import { aligned, bytesOf, StateMemory, Workspace } from "./memory.ts";
import { pack, planStorage, type Storage } from "./plan.ts";

/** What to compile. */
export interface ProgramSpec {
  /** Shown in errors and profiles. */
  name: string;
  /** Tensors to be read after a run, by name. */
  outputs?: Record<string, Tensor>;
  /** Pairs [state, new value], applied by every run. */
  updates?: readonly (readonly [Tensor, Tensor])[];
}

/** Where a program finds its memory. Programs that are given the same share it. */
export interface ProgramMemory {
  /** Where states are; the program's own memory if absent, which starts as zeros. */
  state?: StateMemory;
  /**
   * Where a state is, if not all lie in one memory.
   *
   * @ignore
   */
  view?(name: string): BufferView;
  /** Buffers for intermediate values; the program's own if absent. */
  workspace?: Workspace;
}

/** Arguments of one run. */
export interface RunOptions {
  /** Random key: any integer. Another one gives other dropout masks and samples. */
  key?: number;
  /** Index of the first sequence in the global batch. */
  sequence?: number;
  /** Scalar inputs, by name. */
  scalars?: Record<string, number>;
  /** Tensor inputs, by name; those left out keep their contents. */
  inputs?: Record<string, Float32Array | Uint32Array>;
  /**
   * Times the run; not one in parts.
   *
   * @ignore
   */
  watch?: Stopwatch;
  /**
   * Slot of the stopwatch.
   *
   * @ignore
   */
  slot?: number;
}

/** A launch and what is in memory after it. */
export interface LoweredLaunch {
  /** The launch. */
  launch: Launch;
  /** Tensors that the step which it belongs to makes. */
  writes: readonly Tensor[];
}

/** Memory that one step needs. */
export interface ScratchRequest {
  bytes: number;
  step: number;
}

/** A program without memory. Made by {@link lowerProgram}. */
export interface LoweredProgram {
  /** What to read after a run, by name; each lies in memory. */
  outputs: Record<string, Tensor>;
  /** Steps after fusion. */
  steps: Step[];
  /** Storage of every tensor that lies in memory. */
  storage: Map<Tensor, Storage>;
  /** Scalar inputs, in the order of the run block. */
  scalarNames: string[];
  /** Launches, in order. */
  lowered: LoweredLaunch[];
  /** Memory that single steps need. */
  scratch: ScratchRequest[];
}

/** Where an input is, or a state. */
interface InputPlace {
  view: BufferView;
  elements: number;
}

/** Where an output is. */
interface OutputPlace {
  view: BufferView;
  dtype: string;
}

/** Where a state is. */
type StatePlace = InputPlace & OutputPlace;

/** What {@link compile} makes a program from. */
interface ProgramParts {
  name: string;
  device: Device;
  list: PreparedList;
  steps: Step[];
  workspaceBytes: number;
  written: Map<string, number>;
  inputs: Map<string, InputPlace>;
  outputs: Map<string, OutputPlace>;
  states: Map<string, StatePlace>;
  scalarNames: string[];
  owned: DeviceBuffer[];
  /** What it was not given: its own. */
  own: { destroy(): void }[];
}

/**
 * A compiled program. Made by {@link compile}.
 *
 * @example
 * ```ts
 * import { add, compile, input, openDevice, state, sum } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const total = state("total", []), x = input("x", [3]);
 * const device = await openDevice({ adapter: "cpu", threads: 1 });
 * const program = compile(device, { name: "count", updates: [[total, add(total, sum(x))]] });
 * program.write("total", Float32Array.of(10));
 * for (let i = 0; i < 2; i++) program.run({ inputs: { x: Float32Array.of(1, 2, 3) } });
 * assert.deepEqual(await program.read("total"), Float32Array.of(22));
 * program.destroy();
 * device.destroy();
 * ```
 */
export class Program {
  /** Name given to {@link compile}. */
  readonly name: string;
  /**
   * The launches, ready to be submitted by the device.
   *
   * @ignore
   */
  readonly list: PreparedList;
  /**
   * Steps after fusion, for inspection.
   *
   * @ignore
   */
  readonly steps: readonly Step[];
  /** Bytes of intermediate values. */
  readonly workspaceBytes: number;
  /**
   * For every state that it updates: how many launches it takes until the new value is there.
   *
   * @ignore
   */
  readonly written: ReadonlyMap<string, number>;

  readonly #device: Device;
  readonly #inputs: Map<string, InputPlace>;
  readonly #outputs: Map<string, OutputPlace>;
  readonly #states: Map<string, StatePlace>;
  readonly #runWords = new Uint32Array(RUN_WORDS);
  readonly #runFloats = new Float32Array(this.#runWords.buffer);
  readonly #scalarNames: string[];
  readonly #owned: DeviceBuffer[];
  readonly #own: readonly { destroy(): void }[];

  /**
   * Use {@link compile}.
   *
   * @ignore
   */
  constructor(parts: ProgramParts) {
    this.name = parts.name;
    this.#device = parts.device;
    this.list = parts.list;
    this.steps = parts.steps;
    this.workspaceBytes = parts.workspaceBytes;
    this.written = parts.written;
    this.#inputs = parts.inputs;
    this.#outputs = parts.outputs;
    this.#states = parts.states;
    this.#scalarNames = parts.scalarNames;
    this.#owned = parts.owned;
    this.#own = parts.own;
  }

  /** Kernel names, in the order of the launches. */
  get kernels(): readonly string[] {
    return this.list.names;
  }

  /**
   * Submits one run and returns at once. Creates nothing on the device and waits for nothing.
   *
   * @throws {Error} if an input or scalar is missing or of the wrong size, or the device failed earlier
   */
  run(options: RunOptions = {}): void {
    this.#write(options);
    const { watch, slot } = options;
    this.#device.submit(this.list, { watch, slot });
  }

  /**
   * One run in several submissions, one per step of the iteration: what a part has written can be fetched
   * while the device works on the next.
   *
   * @param ends rising numbers of launches after which to cut; the rest of the program is the last part
   * @throws {Error} as {@link Program.run} does
   *
   * @example
   * ```ts ignore
   * for (const end of program.runInParts(options, [program.written.get("gradient")!])) {
   *   console.log(`submitted up to launch ${end}`);
   * }
   * ```
   *
   * @ignore
   */
  *runInParts(options: RunOptions, ends: readonly number[]): Generator<number> {
    this.#write(options);
    let from = 0;
    for (const to of [...ends, this.kernels.length]) {
      this.#device.submit(this.list, { from, to });
      yield from = to;
    }
  }

  /** Writes what differs from run to run. */
  #write({ key = 0, sequence = 0, scalars = {}, inputs = {} }: RunOptions): void {
    this.#device.check();
    this.#runWords[RUN_KEY] = key;
    this.#runWords[RUN_SEQUENCE] = sequence;
    for (const [i, name] of this.#scalarNames.entries()) {
      const value = scalars[name];
      if (value === undefined) throw new Error(`${this.name}: scalar input ${name} is missing`);
      this.#runFloats[RUN_SCALARS + i] = value;
    }
    this.#device.write(this.list.run, 0, this.#runWords);
    for (const name in inputs) {
      const found = this.#inputs.get(name);
      // A program may not need every input that the caller has at hand.
      if (!found) continue;
      const data = inputs[name];
      if (data.length !== found.elements) {
        throw new Error(
          `${this.name}: input ${name} needs ${found.elements} values, got ${data.length}`,
        );
      }
      this.#device.write(found.view.buffer, found.view.offset, data);
    }
  }

  /**
   * Reads an output of the last run, or a state as it is now. Costs 10 ms or more on a GPU.
   *
   * @throws {Error} if there is neither an output nor a state of this name
   */
  async read(name: string): Promise<Float32Array | Uint32Array> {
    const place = this.#outputs.get(name) ?? this.#states.get(name);
    if (!place) throw new Error(`${this.name} has no output or state ${name}`);
    const { view: { buffer, offset, size }, dtype } = place;
    const bytes = await this.#device.read(buffer, offset, size);
    return dtype === "f32" ? new Float32Array(bytes) : new Uint32Array(bytes);
  }

  /**
   * Sets a state. Programs that share its memory see the new values.
   *
   * @throws {Error} if there is no state of this name
   * @throws {RangeError} if the number of values is not the state's
   */
  write(name: string, values: Float32Array | Uint32Array): void {
    const place = this.#states.get(name);
    if (!place) throw new Error(`${this.name} has no state ${name}`);
    const { view: { buffer, offset }, elements } = place;
    if (values.length !== elements) {
      throw new RangeError(`${name}: ${values.length} values for ${elements} elements`);
    }
    this.#device.write(buffer, offset, values);
  }

  /**
   * Copies an output of the last run to another buffer of the device. Returns at once: many small results
   * can be collected so, and read together.
   *
   * @param offset bytes, a multiple of 4
   *
   * @ignore
   */
  copy(name: string, to: DeviceBuffer, offset: number): void {
    this.#device.copy(this.#output(name).view, to, offset);
  }

  #output(name: string): OutputPlace {
    const found = this.#outputs.get(name);
    if (!found) throw new Error(`${this.name} has no output ${name}`);
    return found;
  }

  /**
   * Runs once, one launch per submission, and times each.
   *
   * @returns kernel names and their times in milliseconds, in order
   * @throws {Error} if the device has no clock
   */
  async profile(options: RunOptions = {}): Promise<{ name: string; milliseconds: number }[]> {
    const watch = this.#device.stopwatch(this.kernels.length);
    if (!watch) throw new Error(`profile: ${this.#device.adapterName} has no clock`);
    this.#write(options);
    for (const from of this.kernels.keys()) {
      this.#device.submit(this.list, { from, to: from + 1, watch, slot: from });
    }
    try {
      const times = await watch.read();
      return this.kernels.map((name, i) => ({ name, milliseconds: times[i] }));
    } finally {
      watch.destroy();
    }
  }

  /** Frees what the program owns; state and a workspace that were given to it belong to others. */
  destroy(): void {
    this.list.destroy();
    for (const memory of this.#own) memory.destroy();
    for (const buffer of this.#owned) this.#device.destroyBuffer(buffer);
  }
}

/**
 * Compiles a graph for a device.
 *
 * @param memory what the program shares with others; what is left out it makes for itself
 * @throws {Error} if a kernel cannot be generated, or memory does not fit the device's limits
 *
 * @example
 * ```ts
 * import { compile, grad, matmul, openDevice, scale, state, sub, sumSquares } from "@metro/t0/ops";
 * import assert from "node:assert/strict";
 *
 * const w = state("w", [2, 2]);
 * const loss = sumSquares(matmul(w, w)), [gradient] = grad(loss, [w]);
 * const device = await openDevice({ adapter: "cpu", threads: 1 });
 * const step = compile(device, {
 *   name: "step",
 *   outputs: { loss },
 *   updates: [[w, sub(w, scale(gradient, 0.1))]],
 * });
 * step.write("w", Float32Array.of(1, 0, 0, 1));
 * step.run();
 * assert.equal((await step.read("loss"))[0], 2);
 * assert.ok((await step.read("w"))[0] < 1);
 * step.destroy();
 * device.destroy();
 * ```
 */
export function compile(device: Device, spec: ProgramSpec, memory: ProgramMemory = {}): Program {
  const program = lowerProgram(device.target, spec);
  const { steps, storage, scalarNames, lowered, scratch } = program;
  const owned: DeviceBuffer[] = [], own: { destroy(): void }[] = [];
  let { state, workspace } = memory;
  if (!state && !memory.view) own.push(state = ownState(device, spec.name, storage));
  if (!workspace) own.push(workspace = new Workspace(device));
  const { views, scratchViews, inputs, states, workspaceBytes } = allocate(
    device,
    storage,
    scratch,
    steps.length,
    workspace,
    memory.view ?? ((name) => state!.view(name)),
    owned,
  );
  const viewOf = (o: Operand): BufferView => {
    const whole = o.tensor
      ? views.get(storage.get(storageOf(o.tensor))!)!
      : scratchViews[o.scratch!];
    const offset = o.offset ?? 0;
    const size = Math.ceil((o.bytes ?? whole.size - offset) / 16) * 16;
    return { buffer: whole.buffer, offset: whole.offset + offset, size };
  };
  const list = device.prepare(
    spec.name,
    lowered.map(({ launch }) => ({ launch, views: launch.operands.map(viewOf) })),
  );
  const outputs = Object.entries(program.outputs).map(([name, t]): [string, OutputPlace] => [
    name,
    { view: { ...viewOf({ tensor: t }), size: bytesOf(t) }, dtype: t.dtype },
  ]);
  return new Program({
    name: spec.name,
    device,
    list,
    steps,
    workspaceBytes,
    written: writtenAfter(lowered, storage, spec.updates ?? []),
    inputs,
    outputs: new Map(outputs),
    states,
    scalarNames,
    owned,
    own,
  });
}

/** Memory for the states of a program that was given none. */
function ownState(device: Device, name: string, storage: Map<Tensor, Storage>): StateMemory {
  const shapes = new Map<string, readonly number[]>();
  for (const { source } of new Set(storage.values())) {
    if (source?.node.primitive !== STATE) continue;
    const { name } = source.node.attrs, known = shapes.get(name);
    if (known && !sameShape(known, source.shape)) {
      const both = `${formatShape(known)} and ${formatShape(source.shape)}`;
      throw new Error(`state ${name}: has two shapes, ${both}`);
    }
    shapes.set(name, source.shape);
  }
  return new StateMemory(device, shapes, `state of ${name}`);
}

/** After how many launches every updated state has its new value. */
function writtenAfter(
  lowered: readonly LoweredLaunch[],
  storage: ReadonlyMap<Tensor, Storage>,
  updates: readonly (readonly [Tensor, Tensor])[],
): Map<string, number> {
  const last = new Map<Storage, number>();
  for (const [i, { writes }] of lowered.entries()) {
    for (const t of writes) last.set(storage.get(t)!, i + 1);
  }
  return new Map(updates.map(([s]) => [s.node.attrs.name, last.get(storage.get(s)!) ?? 0]));
}

/** The part of compiling that needs no device: steps, who shares memory with whom, kernels. */
export function lowerProgram(target: Target, spec: ProgramSpec): LoweredProgram {
  const named = outputsOf(spec), outputs = Object.values(named);
  const updates = spec.updates ?? [];
  const steps = fuse([...outputs, ...updates.map(([, value]) => value)]);
  expectOnce(steps, updates);
  const { storage, copies } = planStorage(steps, outputs, updates);
  const scalarNames = runScalarsOf(steps);
  if (RUN_SCALARS + scalarNames.length > RUN_WORDS) {
    throw new Error(
      `${spec.name}: ${scalarNames.length} scalar inputs, at most ${RUN_WORDS - RUN_SCALARS}`,
    );
  }
  const scratch: ScratchRequest[] = [];
  const lowered: LoweredLaunch[] = [];
  const words = new Map(scalarNames.map((name, i) => [name, RUN_SCALARS + i]));
  const storageAt = (t: Tensor) => storage.get(storageOf(t));
  const servicesFor = (step: number, writes: readonly Tensor[]): Lowering => ({
    at: (tensor, offset, bytes) => ({ tensor, offset, bytes }),
    scratch(bytes) {
      scratch.push({ bytes, step });
      return { scratch: scratch.length - 1 };
    },
    emit: (launch) => void lowered.push({ launch, writes }),
    shares: (a, b) => storageAt(a) !== undefined && storageAt(a) === storageAt(b),
    scalarWord(name) {
      const word = words.get(name);
      if (word === undefined) throw new Error(`scalar input ${name} is not part of the program`);
      return word;
    },
  });
  for (const [k, step] of steps.entries()) target.lower(step, servicesFor(k, writesOf(step)));
  for (const [from, to] of copies) target.copy(from, to, servicesFor(steps.length, [to]));
  return { outputs: named, steps, storage, scalarNames, lowered, scratch };
}

/** The plan knows what a state's memory holds by its tensor: of one that a run changes, there may be but one. */
function expectOnce(steps: readonly Step[], updates: readonly (readonly [Tensor, Tensor])[]): void {
  const updated = new Map<string, Tensor>();
  const read = steps.flatMap(readsOf).filter(({ node }) => node.primitive === STATE);
  for (const s of updates.map(([s]) => s)) {
    const { name } = s.node.attrs, other = updated.get(name);
    if (other) throw new Error(`state ${name}: is updated twice`);
    updated.set(name, s);
  }
  for (const t of read) {
    const { name } = t.node.attrs, own = updated.get(name);
    if (own === undefined || own === t) continue;
    throw new Error(
      `state ${name}: is declared twice in a program that updates it; declare it once`,
    );
  }
}

/**
 * What to read after a run, by name. All updates happen at once: a state that is both updated and an output is
 * copied before.
 */
function outputsOf({ outputs = {}, updates = [] }: ProgramSpec): Record<string, Tensor> {
  const updated = new Set(updates.map(([s]) => s.node.attrs.name));
  return Object.fromEntries(
    Object.entries(outputs).map(([name, t]) => {
      const owner = storageOf(t), { primitive, attrs } = owner.node;
      if (primitive !== STATE || !updated.has(attrs.name)) return [name, t];
      return [name, reshape(stopGradient(owner), t.shape)];
    }),
  );
}

/** Which intermediate values and scratch requests share a buffer, and the size of each buffer. */
export function placeIntermediate(
  storage: Map<Tensor, Storage>,
  scratch: readonly ScratchRequest[],
  end: number,
) {
  const intermediate = [...new Set(storage.values())].filter(({ source }) => !source);
  const intervals = [
    // Outputs of unread steps still need a place while the step runs.
    ...intermediate.map((s) => ({
      bytes: s.bytes,
      from: s.from,
      to: Math.max(s.from, Math.min(s.to, end)),
    })),
    ...scratch.map(({ bytes, step }) => ({ bytes, from: step, to: step })),
  ];
  return { intermediate, intervals, ...pack(intervals) };
}

/** Gives every storage and scratch request a buffer. */
function allocate(
  device: Device,
  storage: Map<Tensor, Storage>,
  scratch: readonly ScratchRequest[],
  end: number,
  workspace: Workspace,
  viewOfState: (name: string) => BufferView,
  owned: DeviceBuffer[],
) {
  const views = new Map<Storage, BufferView>();
  const inputs = new Map<string, InputPlace>(), states = new Map<string, StatePlace>();
  for (const s of new Set(storage.values())) {
    if (!s.source) continue;
    const { node, shape } = s.source;
    const { name, data } = node.attrs;
    if (node.primitive === STATE) {
      const view = viewOfState(name);
      views.set(s, view);
      const elements = sizeOf(shape), { dtype } = s.source;
      states.set(name, { view: { ...view, size: elements * 4 }, elements, dtype });
      continue;
    }
    const known = node.primitive === INPUT ? inputs.get(name) : undefined;
    if (known) {
      if (known.elements !== sizeOf(shape)) {
        throw new Error(`input ${name}: has two sizes, ${known.elements} and ${sizeOf(shape)}`);
      }
      views.set(s, known.view);
      continue;
    }
    const buffer = device.createBuffer(aligned(s.bytes), name);
    owned.push(buffer);
    const view = { buffer, offset: 0, size: buffer.size };
    views.set(s, view);
    if (node.primitive === CONSTANT) device.write(buffer, 0, data!);
    if (node.primitive === INPUT) inputs.set(name, { view, elements: sizeOf(shape) });
  }
  const { intermediate, intervals, places, sizes } = placeIntermediate(storage, scratch, end);
  const buffers = workspace.acquire(sizes);
  const viewAt = (i: number): BufferView => ({
    buffer: buffers[places[i]],
    offset: 0,
    size: Math.max(16, Math.ceil(intervals[i].bytes / 16) * 16),
  });
  intermediate.forEach((s, i) => views.set(s, viewAt(i)));
  const scratchViews = scratch.map((_, i) => viewAt(intermediate.length + i));
  return { views, scratchViews, inputs, states, workspaceBytes: sizes.reduce((a, b) => a + b, 0) };
}
