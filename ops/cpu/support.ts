/**
 * What the runtime's WebAssembly can do, found by asking it.
 *
 * @module
 */

import { type Code, type MemoryKind, Module, v } from "./assembler.ts";

/** What there is to compute with. */
export interface CpuSupport {
  /** 128-bit vectors. */
  vectors: boolean;
  /** Multiplication and addition as one operation. */
  fused: boolean;
  /** Memory that threads share, and threads. */
  shared: boolean;
  /** Memory with 64-bit addresses. */
  wide: boolean;
  /** Threads that run at the same time. */
  cores: number;
}

const PLAIN: MemoryKind = { wide: false, shared: false, fused: false };

/** True if the runtime accepts a module that stores the value. */
function accepts(kind: MemoryKind, value: (module: Module) => Code): boolean {
  const module = new Module(kind);
  const pointer = kind.wide ? "i64" : "i32";
  const f = module.func([pointer]);
  f.store(f.param(0), value(module));
  return WebAssembly.validate(module.bytes(f));
}

let known: CpuSupport | undefined;

/** Asks the runtime, once. */
export function supportOf(): CpuSupport {
  if (known) return known;
  const vectors = accepts(PLAIN, () => v.float(1));
  const fused = accepts({ ...PLAIN, fused: true }, () => ({
    type: "v128",
    bytes: [v.float(1).bytes, v.float(1).bytes, v.float(1).bytes, 0xfd, 0x85, 0x02],
  }));
  const wide = accepts({ ...PLAIN, wide: true }, () => v.float(1));
  const shared = typeof SharedArrayBuffer !== "undefined" && typeof Worker !== "undefined" &&
    (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false &&
    accepts({ ...PLAIN, shared: true }, () => v.float(1));
  const cores = globalThis.navigator?.hardwareConcurrency ?? 1;
  return known = { vectors, fused, shared, wide, cores };
}
