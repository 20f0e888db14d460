/**
 * The device's side of generation: programs that turn the tokens so far into logits.
 *
 * @module
 */

import {
  declareParameters,
  decode,
  encode,
  type ModelConfig,
  type Parameters,
  specialIds,
} from "../../models/mod.ts";
import { attentionWidth } from "../../models/config.ts";
import {
  crossCache,
  decodeStep,
  type DecodeStepInputs,
  FIRST_POSITION,
  greedyStep,
} from "../../models/generation.ts";
import type { KeysAndValues } from "../../models/layers.ts";
import { languageModelLogits } from "../../models/heads.ts";
import {
  compile,
  type Device,
  gatherRows,
  input,
  type Program,
  type ProgramSpec,
  reshape,
  state,
  StateMemory,
  type Tensor,
  Workspace,
} from "../../ops/mod.ts";

/** Static sizes of a decoder. */
export interface DecoderShape {
  /** Prompts at a time. */
  prompts: number;
  /** Rows per prompt: beams, else 1. */
  beams: number;
  /** Length of the prompts, padded. */
  source: number;
  /** Most tokens that can be generated. */
  slots: number;
}

/** Tokens that were chosen on the device. */
export interface ChosenTokens {
  /** All tokens so far, [rows, slots]. */
  ids: Uint32Array;
  /** Their log-probabilities. */
  logProbs: Float32Array;
}

/** Something that predicts the next tokens of rows of tokens, all of one length. */
export interface Decoder {
  /** Sizes. */
  readonly shape: DecoderShape;
  /** Reads new prompts, u32 [prompts, source], right-padded; all rows are empty again. */
  begin(source: Uint32Array): void;
  /**
   * Appends a token to every row and predicts the next.
   *
   * @param tokens one per row; the start symbol first
   * @param parents the row that each row goes on from, among those of its prompt
   * @returns logits, [rows, vocabulary]
   */
  step(tokens: Uint32Array, parents: Uint32Array): Promise<Float32Array>;
  /**
   * Appends the most probable tokens, several to every row, without asking between them. Absent where a
   * decoder cannot.
   *
   * @param start the start symbol
   * @param count how many
   */
  ahead?(start: number, count: number): Promise<ChosenTokens>;
  /** Frees its programs. */
  destroy(): void;
}

/** A decoder that can choose tokens itself. */
export type GreedyDecoder = Decoder & Required<Pick<Decoder, "ahead">>;

/** Whether a decoder can choose tokens itself. */
export function canGoAhead(decoder: Decoder): decoder is GreedyDecoder {
  return decoder.ahead !== undefined;
}

/** A model, and the memory that its decoders share: only one of them is in use at a time. */
export class DecoderMemory {
  /** Device of the parameters. */
  readonly device: Device;
  /** The model. */
  readonly config: ModelConfig;
  readonly #parameters: StateMemory;
  readonly #workspace: Workspace;
  readonly #states = new Map<string, StateMemory>();

  /** Starts without any memory of its own. */
  constructor(device: Device, config: ModelConfig, parameters: StateMemory) {
    this.device = device;
    this.config = config;
    this.#parameters = parameters;
    this.#workspace = new Workspace(device);
  }

  /** Memory for some state; the same for the same names and shapes. */
  of(tensors: readonly Tensor[]): StateMemory {
    const entries = tensors.map((t): [string, readonly number[]] => [t.node.attrs.name, t.shape]);
    const id = JSON.stringify(entries);
    let memory = this.#states.get(id);
    if (!memory) {
      this.#states.set(id, memory = new StateMemory(this.device, entries, "generation state"));
    }
    return memory;
  }

  /** Compiles a program that uses the parameters and some state. */
  compile(spec: ProgramSpec, ...states: StateMemory[]): Program {
    return compile(this.device, spec, {
      workspace: this.#workspace,
      view: (name) => (states.find((memory) => memory.has(name)) ?? this.#parameters).view(name),
    });
  }

  /** Frees everything but the parameters. */
  destroy(): void {
    for (const memory of this.#states.values()) memory.destroy();
    this.#workspace.destroy();
  }
}

/** Keeps keys and values: a step costs one position. */
export class CachedDecoder implements Decoder {
  /** Sizes. */
  readonly shape: DecoderShape;
  readonly ahead: Decoder["ahead"];
  readonly #memory: DecoderMemory;
  readonly #parameters: Parameters;
  readonly #inputs: Pick<DecodeStepInputs, "positions" | "self" | "cross" | "memoryMask">;
  readonly #self: StateMemory;
  readonly #cross: StateMemory;
  readonly #encode: Program;
  #step?: Program;
  #greedy?: { program: Program; chosen: StateMemory };
  #length = 0;

  /** Compiles the program that reads prompts; the others follow when they are needed. */
  constructor(memory: DecoderMemory, shape: DecoderShape) {
    const { config } = memory, { prompts, beams, source, slots } = shape;
    this.#memory = memory;
    this.shape = shape;
    this.#parameters = declareParameters(config, ["main"]);
    const rows = prompts * beams, { decoderLayers } = config, width = attentionWidth(config);
    const self = declareCache("self", decoderLayers, [rows, slots, width]);
    const cross = declareCache("cross", decoderLayers, [prompts, source, width]);
    const memoryMask = state("memoryMask", [prompts, source], "u32");
    this.#inputs = { positions: input("positions", [rows], "u32"), self, cross, memoryMask };
    this.#self = memory.of(tensorsOf(self));
    this.#cross = memory.of([...tensorsOf(cross), memoryMask]);
    const tokens = input("source", [prompts, source], "u32");
    const encoded = encode(this.#parameters, config, tokens);
    this.#encode = memory.compile({
      name: `encode ${prompts}×${source}`,
      updates: updatesOf(cross, crossCache(this.#parameters, config, encoded)),
    }, this.#cross);
    if (config.clmHead === "linear") this.ahead = (start, count) => this.#ahead(start, count);
  }

  begin(source: Uint32Array): void {
    this.#length = 0;
    const { pad } = specialIds(this.#memory.config);
    this.#cross.write("memoryMask", source.map((id) => id === pad ? 0 : 1));
    this.#encode.run({ inputs: { source } });
  }

  async step(tokens: Uint32Array, parents: Uint32Array): Promise<Float32Array> {
    const program = this.#step ??= this.#compileStep();
    const origins = this.#origins(parents);
    program.run({ inputs: { tokens, positions: this.#nextPositions(), origins } });
    return await program.read("logits") as Float32Array;
  }

  destroy(): void {
    this.#encode.destroy();
    this.#step?.destroy();
    this.#greedy?.program.destroy();
  }

  async #ahead(start: number, count: number): Promise<ChosenTokens> {
    const { program, chosen } = this.#greedy ??= this.#compileGreedy();
    const { prompts, beams, slots } = this.shape, rows = prompts * beams;
    if (this.#length === 0) chosen.write("tokens", new Uint32Array(rows).fill(start));
    for (let i = 0; i < count; i++) program.run({ inputs: { positions: this.#nextPositions() } });
    // All in one piece: what costs time is reading at all.
    const { buffer, size } = chosen.slab(0);
    const bytes = await this.#memory.device.read(buffer, 0, size);
    const at = (name: string) => [chosen.view(name).offset, rows * slots] as const;
    return {
      ids: new Uint32Array(bytes, ...at("chosen")),
      logProbs: new Float32Array(bytes, ...at("logProbs")),
    };
  }

  #compileStep(): Program {
    const { config } = this.#memory, { prompts, beams, slots } = this.shape;
    const rows = prompts * beams;
    const { hidden, self } = decodeStep(this.#parameters, config, {
      ...this.#inputs,
      tokens: input("tokens", [rows], "u32"),
      origins: beams > 1 ? input("origins", [rows, slots], "u32") : undefined,
    });
    return this.#memory.compile(
      {
        name: `decode ${rows}×1`,
        outputs: { logits: languageModelLogits(this.#parameters, config, "clm", hidden) },
        updates: updatesOf(this.#inputs.self, self),
      },
      this.#self,
      this.#cross,
    );
  }

  #compileGreedy(): { program: Program; chosen: StateMemory } {
    const { config } = this.#memory, { prompts, beams, slots } = this.shape;
    const rows = prompts * beams;
    const tokens = state("tokens", [rows], "u32");
    const chosen = state("chosen", [rows, slots], "u32");
    const logProbs = state("logProbs", [rows, slots]);
    const memory = this.#memory.of([tokens, chosen, logProbs]);
    const next = greedyStep(this.#parameters, config, {
      ...this.#inputs,
      tokens,
      chosen,
      logProbs,
    });
    const program = this.#memory.compile(
      {
        name: `decode ${rows}×1, greedily`,
        updates: [
          [tokens, next.tokens],
          [chosen, next.chosen],
          [logProbs, next.logProbs],
          ...updatesOf(this.#inputs.self, next.self),
        ],
      },
      this.#self,
      this.#cross,
      memory,
    );
    return { program, chosen: memory };
  }

  #nextPositions(): Uint32Array {
    const { prompts, beams } = this.shape;
    return new Uint32Array(prompts * beams).fill(FIRST_POSITION + this.#length++);
  }

  /** Where each slot's contents come from, for `decodeStep`. */
  #origins(parents: Uint32Array): Uint32Array {
    const { beams, slots } = this.shape;
    return Uint32Array.from({ length: parents.length * slots }, (_, i) => {
      const row = Math.floor(i / slots);
      return (row - row % beams + parents[row]) * slots + i % slots;
    });
  }
}

/** Keeps tokens alone, and runs the whole decoder for every token: slow, and plainly right. */
export class PlainDecoder implements Decoder {
  /** Sizes. */
  readonly shape: DecoderShape;
  readonly #pad: number;
  readonly #encode: Program;
  readonly #decode: Program;
  #source = new Uint32Array();
  #rows: number[][] = [];

  /** Compiles its programs. */
  constructor(memory: DecoderMemory, shape: DecoderShape) {
    const { config } = memory, { prompts, beams, source, slots } = shape;
    this.shape = shape;
    this.#pad = specialIds(config).pad;
    const rows = prompts * beams, { dModel } = config;
    const parameters = declareParameters(config, ["main"]);
    const memoryTokens = input("source", [rows, source], "u32");
    const encoded = state("encoded", [rows, source, dModel]);
    const encodedMemory = memory.of([encoded]);
    this.#encode = memory.compile({
      name: `encode ${rows}×${source}`,
      updates: [[encoded, encode(parameters, config, memoryTokens)]],
    }, encodedMemory);

    const tokens = input("tokens", [rows, slots], "u32");
    const hidden = decode(parameters, config, tokens, { memory: encoded, memoryTokens });
    const last = gatherRows(reshape(hidden, [rows * slots, dModel]), input("last", [rows], "u32"));
    this.#decode = memory.compile({
      name: `decode ${rows}×${slots}`,
      outputs: { logits: languageModelLogits(parameters, config, "clm", last) },
    }, encodedMemory);
  }

  begin(source: Uint32Array): void {
    const { prompts, beams, source: length } = this.shape;
    this.#rows = Array.from({ length: prompts * beams }, () => []);
    this.#source = new Uint32Array(prompts * beams * length);
    for (const row of this.#rows.keys()) {
      const from = Math.floor(row / beams) * length;
      this.#source.set(source.subarray(from, from + length), row * length);
    }
    this.#encode.run({ inputs: { source: this.#source } });
  }

  async step(tokens: Uint32Array, parents: Uint32Array): Promise<Float32Array> {
    const { beams, slots } = this.shape;
    this.#rows = this.#rows.map((_, row) => [
      ...this.#rows[row - row % beams + parents[row]],
      tokens[row],
    ]);
    const all = new Uint32Array(tokens.length * slots).fill(this.#pad);
    for (const [row, ids] of this.#rows.entries()) all.set(ids, row * slots);
    const last = Uint32Array.from(this.#rows, (ids, row) => row * slots + ids.length - 1);
    this.#decode.run({ inputs: { tokens: all, last, source: this.#source } });
    return await this.#decode.read("logits") as Float32Array;
  }

  destroy(): void {
    this.#encode.destroy();
    this.#decode.destroy();
  }
}

function declareCache(name: string, layers: number, shape: readonly number[]): KeysAndValues[] {
  return Array.from({ length: layers }, (_, i) => ({
    keys: state(`${name}.${i}.keys`, shape),
    values: state(`${name}.${i}.values`, shape),
  }));
}

function tensorsOf(cache: readonly KeysAndValues[]): Tensor[] {
  return cache.flatMap(({ keys, values }) => [keys, values]);
}

function updatesOf(
  cache: readonly KeysAndValues[],
  next: readonly KeysAndValues[],
): [Tensor, Tensor][] {
  const values = tensorsOf(next);
  return tensorsOf(cache).map((t, i) => [t, values[i]]);
}
