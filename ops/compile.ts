/**
 * From graph to program: fuse, plan memory, generate kernels, bind; then replay.
 *
 * A program owns nothing but its inputs, constants and uniform blocks: state is given to it, and
 * intermediate values live in a workspace that programs share.
 *
 * @module
 */

import { groupEpilogue, groupPrologue, pointwiseKernel, scalarWords } from "./codegen.ts";
import {
  type BufferView,
  type Device,
  type PreparedDispatch,
  record,
  RUN_BYTES,
} from "./device.ts";
import { fuse, runScalarsOf, type Step, writesOf } from "./fuse.ts";
import { type KernelSource, type Launch, RUN_SCALARS, RUN_WORDS } from "./kernel.ts";
import type { BoundEpilogue, BoundPrologue, Lowering, Operand } from "./lower.ts";
import { aligned, bytesOf, Workspace } from "./memory.ts";
import { pack, planStorage, type Storage } from "./plan.ts";
import { CONSTANT, INPUT, sizeOf, STATE, storageOf, type Tensor } from "./tensor.ts";

/** What to compile. */
export interface ProgramSpec {
  /** Shown in errors and profiles. */
  name: string;
  /** Tensors to be read after a run, by name. */
  outputs?: Record<string, Tensor>;
  /** Pairs [state, new value], applied by every run. */
  updates?: readonly (readonly [Tensor, Tensor])[];
}

/** Where a program finds its memory. */
export interface ProgramMemory {
  /** The window of a state tensor. */
  state?(name: string): BufferView;
  /** Buffers for intermediate values; private ones if absent. */
  workspace?: Workspace;
}

/** Arguments of one run. */
export interface RunOptions {
  /** Random key, see `key` in `random.ts`. */
  key?: number;
  /** Index of the first sequence in the global batch. */
  sequence?: number;
  /** Scalar inputs, by name. */
  scalars?: Record<string, number>;
  /** Tensor inputs, by name; those left out keep their contents. */
  inputs?: Record<string, Float32Array | Uint32Array>;
}

/** A kernel with what it binds. */
export interface LoweredLaunch {
  launch: Launch;
  operands: Record<string, Operand | undefined>;
  step: number;
}

/** Memory that one step needs. */
export interface ScratchRequest {
  bytes: number;
  step: number;
}

/** What kernels are generated for: a {@link Device}, or one that is not here. */
export type KernelTarget = Pick<Device, "deviceClass" | "subgroupSize">;

/** A program without memory. Made by {@link lowerProgram}. */
export interface LoweredProgram {
  /** Steps after fusion. */
  steps: Step[];
  /** Storage of every tensor that lies in memory. */
  storage: Map<Tensor, Storage>;
  /** Scalar inputs, in the order of the run block. */
  scalarNames: string[];
  /** Kernels with what they bind, in order. */
  lowered: LoweredLaunch[];
  /** Memory that single steps need. */
  scratch: ScratchRequest[];
}

/** A compiled program. Made by {@link compile}. */
export class Program {
  /** Name given to {@link compile}. */
  readonly name: string;
  /** The prepared dispatches, in order. */
  readonly dispatches: readonly PreparedDispatch[];
  /** Steps after fusion, for inspection. */
  readonly steps: readonly Step[];
  /** Bytes of intermediate values. */
  readonly workspaceBytes: number;
  /** For every state that it updates: how many dispatches it takes until the new value is there. */
  readonly written: ReadonlyMap<string, number>;

  readonly #device: Device;
  readonly #inputs: Map<string, { view: BufferView; elements: number; dtype: string }>;
  readonly #outputs: Map<string, { view: BufferView; bytes: number; dtype: string }>;
  readonly #run: GPUBuffer;
  readonly #runWords = new Uint32Array(RUN_WORDS);
  readonly #runFloats = new Float32Array(this.#runWords.buffer);
  readonly #scalarNames: string[];
  readonly #owned: GPUBuffer[];

  /** Use {@link compile}. */
  constructor(parts: {
    name: string;
    device: Device;
    dispatches: PreparedDispatch[];
    steps: Step[];
    workspaceBytes: number;
    written: Map<string, number>;
    inputs: Map<string, { view: BufferView; elements: number; dtype: string }>;
    outputs: Map<string, { view: BufferView; bytes: number; dtype: string }>;
    run: GPUBuffer;
    scalarNames: string[];
    owned: GPUBuffer[];
  }) {
    this.name = parts.name;
    this.#device = parts.device;
    this.dispatches = parts.dispatches;
    this.steps = parts.steps;
    this.workspaceBytes = parts.workspaceBytes;
    this.written = parts.written;
    this.#inputs = parts.inputs;
    this.#outputs = parts.outputs;
    this.#run = parts.run;
    this.#scalarNames = parts.scalarNames;
    this.#owned = parts.owned;
  }

  /**
   * Submits one run and returns at once. Creates no GPU object and waits for nothing.
   *
   * @throws {Error} if an input or scalar is missing or of the wrong size, or the GPU failed earlier
   */
  run(options: RunOptions = {}): void {
    const encoder = this.#begin(options);
    const pass = encoder.beginComputePass();
    record(pass, this.dispatches as PreparedDispatch[]);
    pass.end();
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  /**
   * One run in several submissions, one per step of the iteration: what a part has written can be fetched
   * while the device works on the next.
   *
   * @param ends rising numbers of dispatches after which to cut; the rest of the program is the last part
   * @throws {Error} as {@link Program.run} does
   *
   * @example
   * ```ts ignore
   * for (const end of program.runInParts(options, [program.written.get("gradient")!])) {
   *   console.log(`submitted up to dispatch ${end}`);
   * }
   * ```
   */
  *runInParts(options: RunOptions, ends: readonly number[]): Generator<number> {
    let encoder = this.#begin(options);
    let done = 0;
    for (const end of [...ends, this.dispatches.length]) {
      const pass = encoder.beginComputePass();
      record(pass, this.dispatches.slice(done, end));
      pass.end();
      this.#device.gpu.queue.submit([encoder.finish()]);
      yield done = end;
      encoder = this.#device.gpu.createCommandEncoder();
    }
  }

  #begin({ key = 0, sequence = 0, scalars = {}, inputs = {} }: RunOptions): GPUCommandEncoder {
    this.#device.check();
    this.#runWords[0] = key;
    this.#runWords[1] = sequence;
    for (const [i, name] of this.#scalarNames.entries()) {
      const value = scalars[name];
      if (value === undefined) throw new Error(`${this.name}: scalar input ${name} is missing`);
      this.#runFloats[RUN_SCALARS + i] = value;
    }
    this.#device.write(this.#run, 0, this.#runWords);
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
    return this.#device.gpu.createCommandEncoder();
  }

  /** Reads an output of the last run. Costs 10 ms or more. */
  async read(name: string): Promise<Float32Array | Uint32Array> {
    const found = this.#outputs.get(name);
    if (!found) throw new Error(`${this.name} has no output ${name}`);
    const bytes = await this.#device.read(found.view.buffer, found.view.offset, found.bytes);
    return found.dtype === "f32" ? new Float32Array(bytes) : new Uint32Array(bytes);
  }

  /**
   * Copies an output of the last run to another buffer of the device. Returns at once: many small results
   * can be collected so, and read together.
   *
   * @param offset bytes, a multiple of 4
   */
  copy(name: string, to: GPUBuffer, offset: number): void {
    const found = this.#outputs.get(name);
    if (!found) throw new Error(`${this.name} has no output ${name}`);
    if (offset % 4 !== 0 || offset + found.bytes > to.size) {
      throw new RangeError(`${this.name}: no room for ${name} at byte ${offset} of ${to.size}`);
    }
    const encoder = this.#device.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(found.view.buffer, found.view.offset, to, offset, found.bytes);
    this.#device.gpu.queue.submit([encoder.finish()]);
  }

  /**
   * Runs once with a timestamp around every dispatch. Needs the feature `timestamp-query`.
   *
   * @returns kernel names and their times in milliseconds, in order
   */
  async profile(options: RunOptions = {}): Promise<{ name: string; milliseconds: number }[]> {
    const { gpu } = this.#device;
    if (!gpu.features.has("timestamp-query")) {
      throw new Error("profile: the adapter has no timestamp-query");
    }
    const encoder = this.#begin(options);
    const count = this.dispatches.length * 2;
    // A query set holds 4,096 queries at most.
    const sets: GPUQuerySet[] = [];
    for (let done = 0; done < count; done += 4096) {
      sets.push(gpu.createQuerySet({ type: "timestamp", count: Math.min(4096, count - done) }));
    }
    for (const [i, dispatch] of this.dispatches.entries()) {
      const querySet = sets[Math.floor(i * 2 / 4096)];
      const at = i * 2 % 4096;
      const pass = encoder.beginComputePass({
        timestampWrites: { querySet, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 },
      });
      record(pass, [dispatch]);
      pass.end();
    }
    const bytes = sets.length * 4096 * 8;
    const resolved = gpu.createBuffer({ size: bytes, usage: 0x200 | 0x4 });
    for (const [i, set] of sets.entries()) {
      encoder.resolveQuerySet(set, 0, set.count, resolved, i * 4096 * 8);
    }
    gpu.queue.submit([encoder.finish()]);
    const times = new BigUint64Array(await this.#device.read(resolved, 0, bytes));
    resolved.destroy();
    for (const set of sets) set.destroy();
    return this.dispatches.map(({ name }, i) => ({
      name,
      milliseconds: Number(times[2 * i + 1] - times[2 * i]) / 1e6,
    }));
  }

  /** Frees what the program owns; state and workspace belong to others. */
  destroy(): void {
    for (const buffer of this.#owned) this.#device.destroyBuffer(buffer);
  }
}

/**
 * Compiles a graph for a device.
 *
 * @throws {Error} if a kernel cannot be generated, or memory does not fit the device's limits
 */
export function compile(device: Device, spec: ProgramSpec, memory: ProgramMemory = {}): Program {
  const outputs = Object.entries(spec.outputs ?? {});
  const { steps, storage, scalarNames, lowered, scratch } = lowerProgram(device, spec);
  const owned: GPUBuffer[] = [];
  const workspace = memory.workspace ?? new Workspace(device);
  const { views, scratchViews, inputs, workspaceBytes } = allocate(
    device,
    storage,
    scratch,
    steps.length,
    workspace,
    memory,
    owned,
  );
  const run = device.createUniform(RUN_BYTES, `${spec.name} run block`);
  owned.push(run);

  const viewOf = (o: Operand): BufferView => {
    const whole = o.tensor
      ? views.get(storage.get(storageOf(o.tensor))!)!
      : scratchViews[o.scratch!];
    const offset = o.offset ?? 0;
    const size = Math.ceil((o.bytes ?? whole.size - offset) / 16) * 16;
    return { buffer: whole.buffer, offset: whole.offset + offset, size };
  };
  const bound = lowered.map(({ launch, operands }) => {
    const windows = launch.source.bindings.map(({ name }) => {
      const operand = operands[name];
      if (!operand) throw new Error(`${launch.source.name}: no operand for ${name}`);
      return viewOf(operand);
    });
    return { launch: { ...launch, source: withoutConflicts(launch.source, windows) }, windows };
  });
  const params = device.uploadParams(bound.map(({ launch }) => launch));
  const paramsBuffer = params.find((p) => p)?.buffer;
  if (paramsBuffer) owned.push(paramsBuffer);
  const runView = { buffer: run, offset: 0, size: RUN_BYTES };
  const dispatches = bound.map(({ launch, windows }, i) =>
    device.prepare(launch, windows, params[i], runView)
  );
  const outputViews = new Map(outputs.map(([name, t]) => [name, {
    view: viewOf({ tensor: t }),
    bytes: bytesOf(t),
    dtype: t.dtype,
  }]));
  return new Program({
    name: spec.name,
    device,
    dispatches,
    steps,
    workspaceBytes,
    written: writtenAfter(lowered, steps, storage, spec.updates ?? []),
    inputs,
    outputs: outputViews,
    run,
    scalarNames,
    owned,
  });
}

/** After how many dispatches every updated state has its new value. */
function writtenAfter(
  lowered: readonly LoweredLaunch[],
  steps: readonly Step[],
  storage: ReadonlyMap<Tensor, Storage>,
  updates: readonly (readonly [Tensor, Tensor])[],
): Map<string, number> {
  const last = new Map<Storage, number>();
  for (const [i, { step, operands }] of lowered.entries()) {
    // Behind the last step come copies.
    const written = step < steps.length ? writesOf(steps[step]) : [operands.c!.tensor!];
    for (const t of written) last.set(storage.get(t)!, i + 1);
  }
  return new Map(updates.map(([s]) => [s.node.attrs.name, last.get(storage.get(s)!) ?? 0]));
}

/** The part of compiling that needs no device: steps, who shares memory with whom, kernels. */
export function lowerProgram(target: KernelTarget, spec: ProgramSpec): LoweredProgram {
  const outputs = Object.values(spec.outputs ?? {});
  const updates = spec.updates ?? [];
  const steps = fuse([...outputs, ...updates.map(([, value]) => value)]);
  const { storage, copies } = planStorage(steps, outputs, updates);
  const scalarNames = runScalarsOf(steps);
  if (RUN_SCALARS + scalarNames.length > RUN_WORDS) {
    throw new Error(
      `${spec.name}: ${scalarNames.length} scalar inputs, at most ${RUN_WORDS - RUN_SCALARS}`,
    );
  }
  const scratch: ScratchRequest[] = [];
  const lowered: LoweredLaunch[] = [];
  const words = scalarWords(scalarNames);
  for (const [k, step] of steps.entries()) {
    lowerStep(target, step, k, storage, words, lowered, scratch);
  }
  for (const [from, to] of copies) lowered.push({ ...copyLaunch(from, to), step: steps.length });
  return { steps, storage, scalarNames, lowered, scratch };
}

/** Generates the kernels of one step. */
function lowerStep(
  target: KernelTarget,
  step: Step,
  k: number,
  storage: Map<Tensor, Storage>,
  scalarWord: (name: string) => number,
  lowered: LoweredLaunch[],
  scratch: ScratchRequest[],
): void {
  const shared = (a: Tensor, b: Tensor) => {
    const s = storage.get(storageOf(a));
    return s !== undefined && s === storage.get(storageOf(b));
  };
  const context = (prefix: string, inPlace: boolean) => ({
    scalarWord,
    prefix,
    inPlace: (t: Tensor) => inPlace && shared(t, step.result),
  });
  if (!step.anchor) {
    lowered.push({ ...pointwiseKernel(step.epilogue, step.result, context("z", true)), step: k });
    return;
  }
  const { anchor } = step;
  const to: Lowering = {
    deviceClass: target.deviceClass,
    subgroupSize: target.subgroupSize,
    at: (tensor, offset, bytes) => ({ tensor, offset, bytes }),
    scratch(bytes) {
      scratch.push({ bytes, step: k });
      return { scratch: scratch.length - 1 };
    },
    emit: (launch, operands) => lowered.push({ launch, operands, step: k }),
    epilogue: (): BoundEpilogue =>
      groupEpilogue(step.epilogue, anchor.outputs[0], step.result, context("z", true)),
    prologue: (): BoundPrologue =>
      groupPrologue(step.prologue, anchor.inputs[0], context("a", false)),
    shares: shared,
  };
  anchor.primitive.lower!(anchor, to);
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
  memory: ProgramMemory,
  owned: GPUBuffer[],
) {
  const views = new Map<Storage, BufferView>();
  const inputs = new Map<string, { view: BufferView; elements: number; dtype: string }>();
  for (const s of new Set(storage.values())) {
    if (!s.source) continue;
    const { node, shape, dtype } = s.source;
    const { name, data } = node.attrs;
    if (node.primitive === STATE) {
      if (!memory.state) throw new Error(`state ${name}: the program was given no state memory`);
      views.set(s, memory.state(name));
      continue;
    }
    const buffer = device.createBuffer(aligned(s.bytes), name);
    owned.push(buffer);
    const view = { buffer, offset: 0, size: buffer.size };
    views.set(s, view);
    if (node.primitive === CONSTANT) device.write(buffer, 0, data!);
    if (node.primitive === INPUT) inputs.set(name, { view, elements: sizeOf(shape), dtype });
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
  return { views, scratchViews, inputs, workspaceBytes: sizes.reduce((a, b) => a + b, 0) };
}

/**
 * A buffer may not be bound for reading and for writing in one dispatch, even in windows that do not
 * overlap: then all its bindings are declared writable.
 */
function withoutConflicts(source: KernelSource, windows: readonly BufferView[]): KernelSource {
  const written = new Set(
    windows.filter((_, i) => source.bindings[i].access === "read_write").map((v) => v.buffer),
  );
  if (!windows.some((v, i) => source.bindings[i].access === "read" && written.has(v.buffer))) {
    return source;
  }
  const bindings = source.bindings.map((b, i) => ({
    ...b,
    access: written.has(windows[i].buffer) ? "read_write" as const : b.access,
  }));
  return { ...source, bindings };
}

/** Copies a tensor, for updates that could not be made in place. */
function copyLaunch(
  from: Tensor,
  to: Tensor,
): { launch: Launch; operands: Record<string, Operand> } {
  const threads = 64;
  const count = Math.ceil(sizeOf(from.shape) / 4);
  return {
    launch: {
      source: {
        name: "copy",
        bindings: [
          { name: "a", type: "array<vec4u>", access: "read" },
          { name: "c", type: "array<vec4u>", access: "read_write" },
        ],
        params: ["count"],
        body:
          `@compute @workgroup_size(${threads}) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) n: vec3u) {
  for (var i = id.x; i < P.count; i += n.x * ${threads}u) { c[i] = a[i]; }
}`,
      },
      params: [count],
      grid: [Math.min(4096, Math.ceil(count / threads)), 1, 1],
    },
    operands: { a: { tensor: from }, c: { tensor: to } },
  };
}
