/**
 * Functions that WebAssembly does not have, on four lanes at a time: polynomials after Moshier's Cephes
 * library (`expf.c`, `logf.c`), whose coefficients these are.
 *
 * Largest errors over all floats in the range (`tests/ops/cpu/math_test.ts`): `exp` 2 units in the last
 * place, 0 below −87.3, infinity above 88.3; `log` 2 units in the last place, −∞ at 0, NaN below.
 *
 * @module
 */

import { type Code, type Func, v } from "./assembler.ts";

/** c0·x^n + c1·x^(n−1) + … + cn, by Horner's rule. */
function polynomial(f: Func, x: Code, coefficients: readonly number[]): Code {
  const [first, ...rest] = coefficients;
  return rest.reduce<Code>((sum, c) => f.madd(sum, x, f.float(c)), f.float(first));
}

/** e^x. */
export function exp(f: Func, value: Code): Code {
  const x = f.local("v128", value);
  const low = f.float(-87.3);
  const clamped = f.local("v128", v.max(v.min(x, f.float(88.8)), low));
  const n = f.local("v128", v.nearest(v.mul(clamped, f.float(Math.LOG2E))));
  // ln 2 in two parts, of which the first has few digits: the product with n is exact.
  const r = f.local(
    "v128",
    f.madd(n, f.float(2.12194440e-4), f.madd(n, f.float(-0.693359375), clamped)),
  );
  const tail = polynomial(f, r, [
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
  ]);
  const power = v.shl(v.iAdd(v.toInt(n), f.int(127)), 23);
  const sum = v.add(f.madd(tail, v.mul(r, r), r), f.float(1));
  return v.andNot(v.mul(sum, power), v.lt(x, low));
}

/** Natural logarithm. */
export function log(f: Func, value: Code): Code {
  const x = f.local("v128", value);
  const smallest = f.float(1.17549435e-38);
  const normal = f.local("v128", v.max(x, smallest));
  // m in [√½, √2): the exponent counts from there.
  const shifted = f.local("v128", v.iSub(normal, f.int(0x3f3504f3)));
  const e = f.local("v128", v.fromInt(v.shrS(shifted, 23)));
  const m = v.iAdd(v.and(shifted, f.int(0x007fffff)), f.int(0x3f3504f3));
  const r = f.local("v128", v.sub(m, f.float(1)));
  const square = f.local("v128", v.mul(r, r));
  const tail = polynomial(f, r, [
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
  ]);
  const small = f.madd(
    e,
    f.float(-2.12194440e-4),
    f.madd(f.float(-0.5), square, v.mul(v.mul(tail, r), square)),
  );
  const result = f.madd(e, f.float(0.693359375), v.add(r, small));
  const infinite = v.iEq(x, f.int(0x7f800000));
  const ofZero = v.select(v.iEq(v.shl(x, 1), f.int(0)), f.float(-Infinity), f.float(NaN));
  return v.select(infinite, x, v.select(v.gt(x, f.float(0)), result, ofZero));
}

/** The sum of four lanes, in all of them. */
export function total(f: Func, value: Code): Code {
  const a = f.local("v128", value);
  const b = f.local("v128", v.add(a, v.shuffle(a, a, [2, 3, 0, 1])));
  return v.add(b, v.shuffle(b, b, [1, 0, 3, 2]));
}

/** The largest of four lanes, in all of them. */
export function largest(f: Func, value: Code): Code {
  const a = f.local("v128", value);
  const b = f.local("v128", v.max(a, v.shuffle(a, a, [2, 3, 0, 1])));
  return v.max(b, v.shuffle(b, b, [1, 0, 3, 2]));
}

/** `mix32` of `ops/graph/random.ts`, on four lanes. */
export function mix32(f: Func, value: Code): Code {
  const step = (x: Code, shift: number, factor: number): Code => {
    const bits = f.local("v128", x);
    return v.iMul(v.xor(bits, v.shrU(bits, shift)), f.int(factor));
  };
  const bits = f.local("v128", step(step(value, 16, 0x21f0aaad), 15, 0xd35a2d97));
  return v.xor(bits, v.shrU(bits, 15));
}
