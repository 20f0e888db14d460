// Polynomials against the runtime's own functions in double precision, over the range of 32-bit floats.

import assert from "node:assert/strict";
import { type Code, type Func, i32, Module, v } from "../../../ops/cpu/assembler.ts";
import { exp, largest, log, mix32, total } from "../../../ops/cpu/math.ts";
import { supportOf } from "../../../ops/cpu/support.ts";
import { mix32 as mixed, Random } from "../../../ops/graph/random.ts";

const memory = new WebAssembly.Memory({ initial: 64, maximum: 65536 });
const floats = new Float32Array(memory.buffer), words = new Uint32Array(memory.buffer);
const COUNT = 1 << 18;

/** Applies a function to the first numbers of the memory, in place. */
function apply(make: (f: Func, x: Code) => Code): void {
  const module = new Module({ wide: false, shared: false, fused: supportOf().fused });
  const f = module.func(["i32", "i32", "i32"]);
  const at = f.local("i32");
  f.for(at, i32.const(COUNT * 4), 16, () => f.store(at, make(f, v.load(at))));
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(module.bytes(f)), {
    e: { m: memory },
  });
  (exports.f as (...args: number[]) => void)(0, 0, 0);
}

/** Distance of two neighbouring floats at x. */
function unit(x: number): number {
  return 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(x)))) - 23);
}

/** The largest error of a function over numbers, in units of the last place. */
function worst(
  make: (f: Func, x: Code) => Code,
  exact: (x: number) => number,
  number: (i: number) => number,
): number {
  for (let i = 0; i < COUNT; i++) floats[i] = number(i);
  const inputs = floats.slice(0, COUNT);
  apply(make);
  let error = 0;
  for (let i = 0; i < COUNT; i++) {
    const want = exact(inputs[i]);
    error = Math.max(error, Math.abs(floats[i] - want) / unit(want));
  }
  return error;
}

Deno.test("exp is within 2 units of the last place from −87 to 88, 0 below, infinite above", () => {
  assert.ok(worst(exp, Math.exp, (i) => -87.2 + 175.4 * i / COUNT) <= 2);
  assert.ok(worst(exp, Math.exp, (i) => (i - COUNT / 2) * 1e-6) <= 2);
  floats.set([-87.4, -1e30, -Infinity, 89, 1e30, Infinity, NaN, 0]);
  apply(exp);
  assert.deepEqual([...floats.slice(0, 6)], [0, 0, 0, Infinity, Infinity, Infinity]);
  assert.equal(floats[7], 1);
});

Deno.test("log is within 2 units of the last place over all positive floats", () => {
  assert.ok(worst(log, Math.log, (i) => 2 ** (-125 + 252 * i / COUNT)) <= 2);
  // Near 1, where the logarithm is small, too.
  assert.ok(worst(log, Math.log, (i) => 1 + (i + 1) * 2 ** -20) <= 2);
  assert.ok(worst(log, Math.log, (i) => 1 - (i + 1) * 2 ** -19.5) <= 2);
  floats.set([0, -0, -1, Infinity, 1, -Infinity, 1, 1]);
  apply(log);
  assert.deepEqual([...floats.slice(0, 6)], [-Infinity, -Infinity, NaN, Infinity, 0, NaN]);
});

Deno.test("random bits are those of the host", () => {
  const random = new Random(5);
  for (let i = 0; i < COUNT; i++) words[i] = random.bits();
  const inputs = words.slice(0, COUNT);
  apply(mix32);
  for (let i = 0; i < COUNT; i++) assert.equal(words[i], mixed(inputs[i]));
});

Deno.test("sums and maxima of lanes stand in all lanes", () => {
  floats.set([1, 2, 3, 5, -4, -3, -8, -9]);
  apply(total);
  assert.deepEqual([...floats.slice(0, 8)], [11, 11, 11, 11, -24, -24, -24, -24]);
  floats.set([1, 2, 3, 5, -4, -3, -8, -9]);
  apply(largest);
  assert.deepEqual([...floats.slice(0, 8)], [5, 5, 5, 5, -3, -3, -3, -3]);
});
