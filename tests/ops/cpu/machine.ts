/**
 * One thread of the CPU by hand, to run kernels on: what no operand holds is NaN, before and behind it.
 */

import assert from "node:assert/strict";
import { type MemoryKind, NARROW_PAGES, WIDE_PAGES } from "../../../ops/cpu/assembler.ts";
import { argumentBytes, assemble, type CpuLaunch, SCRATCH_BYTES } from "../../../ops/cpu/kernel.ts";
import type { Operand } from "../../../ops/program/lowering.ts";

/** 32-bit addresses. */
export const NARROW: MemoryKind = { wide: false, shared: true, fused: true };
/** 64-bit addresses. */
export const WIDE: MemoryKind = { wide: true, shared: true, fused: true };
const PAGES = 1024;

/** A memory and one thread that runs launches in it. */
export class Machine {
  readonly kind: MemoryKind;
  readonly floats: Float32Array;
  readonly words: Uint32Array;
  readonly #memory: WebAssembly.Memory;
  readonly #kernels = new Map<string, (...pointers: (number | bigint)[]) => void>();
  readonly #addresses = new Map<Operand, number>();
  #end = PAGES * 65536;

  constructor(kind: MemoryKind) {
    this.kind = kind;
    this.#memory = new WebAssembly.Memory(
      (kind.wide
        ? { initial: BigInt(PAGES), maximum: BigInt(WIDE_PAGES), shared: true, address: "i64" }
        : { initial: PAGES, maximum: NARROW_PAGES, shared: true }) as WebAssembly.MemoryDescriptor,
    );
    this.floats = new Float32Array(this.#memory.buffer);
    this.words = new Uint32Array(this.#memory.buffer);
    this.reset();
  }

  /** Forgets all operands. What is read without having been written is NaN. */
  reset(): void {
    this.floats.fill(NaN, 0, this.#end / 4);
    this.#addresses.clear();
    this.#end = 65536;
  }

  #allocate(bytes: number): number {
    const at = this.#end;
    // Numbers between operands, so that a store behind the end is seen.
    this.#end = Math.ceil((at + bytes + 64) / 64) * 64;
    assert.ok(this.#end < PAGES * 65536, "too large a case");
    return at;
  }

  /** Memory of so many bytes, for launches to write. */
  operand(bytes: number): Operand {
    const operand = {};
    this.#addresses.set(operand, this.#allocate(bytes));
    return operand;
  }

  /** Memory with these contents. */
  put(data: Float32Array | Uint32Array): Operand {
    const operand = this.operand(data.byteLength);
    const at = this.#addresses.get(operand)! / 4;
    if (data instanceof Float32Array) this.floats.set(data, at);
    else this.words.set(data, at);
    return operand;
  }

  /** What is in a memory, behind whose end nothing may have been stored. */
  get(operand: Operand, length: number): Float32Array {
    const at = this.#addresses.get(operand)! / 4;
    const behind = this.floats.subarray(at + length, at + length + 16);
    assert.ok(behind.every(Number.isNaN), "nothing is stored behind an operand");
    return this.floats.slice(at, at + length);
  }

  /** Runs a launch, its items shared among threads of which one works after the other. */
  run(launch: CpuLaunch, run: Uint32Array, threads = 1): void {
    let kernel = this.#kernels.get(launch.source.key);
    if (!kernel) {
      const module = new WebAssembly.Module(assemble(launch.source, this.kind));
      const instance = new WebAssembly.Instance(module, { e: { m: this.#memory } });
      this.#kernels.set(launch.source.key, kernel = instance.exports.f as typeof kernel & object);
    }
    const { operands, params, items } = launch;
    const block = this.#allocate(argumentBytes(launch)), counter = this.#allocate(4);
    const runBlock = this.#allocate(run.byteLength);
    this.words.set(run, runBlock / 4);
    const pointers = [runBlock, ...operands.map((o) => this.#addresses.get(o)!)];
    pointers.forEach((at, i) => this.words.set([at, 0], block / 4 + 2 + 2 * i));
    this.words.set(params, block / 4 + 4 + 2 * operands.length);
    this.words[counter / 4] = 0;
    for (let thread = 1; thread <= threads; thread++) {
      this.words[block / 4] = Math.floor(items * thread / threads);
      if (thread > 1) this.words[counter / 4]--; // the number that told the thread before to stop
      const scratch = this.#allocate(SCRATCH_BYTES);
      const address = (n: number) => this.kind.wide ? BigInt(n) : n;
      kernel(address(block), address(counter), address(scratch));
    }
  }
}
