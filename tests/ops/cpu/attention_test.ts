// Attention on the CPU against the float64 reference, one thread by hand: what no operand holds is NaN.

import assert from "node:assert/strict";
import {
  attentionBackward,
  attentionForward,
  type AttentionGradOperands,
} from "../../../ops/cpu/attention.ts";
import { assemble } from "../../../ops/cpu/kernel.ts";
import {
  type AttentionInputs,
  attentionReference,
  attentionReferenceBackward,
} from "../../../ops/primitives/attention_reference.ts";
import type { AttentionSpec } from "../../../ops/primitives/attention_spec.ts";
import type { Operand } from "../../../ops/program/lowering.ts";
import { RUN_KEY, RUN_SEQUENCE } from "../../../ops/program/device.ts";
import { Random } from "../../../ops/graph/random.ts";
import { Machine, NARROW, WIDE } from "./machine.ts";

interface Case extends Required<AttentionInputs> {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  mask: Uint32Array;
  bias: Float32Array;
  gOut: Float32Array;
}

type Mask = "holes" | "all" | "empty" | "short";

/** Random arguments. With mask `empty`, the last sequence may attend nowhere. */
function randomCase(s: AttentionSpec, kind: Mask): Case {
  const random = new Random(s.queryLength * 1000 + s.keyLength);
  const normal = (n: number) => Float32Array.from({ length: n }, () => random.normal());
  const width = s.heads * s.headDim;
  const mask = Uint32Array.from({ length: s.batch * s.keyLength }, (_, n) => {
    const b = Math.floor(n / s.keyLength), j = n % s.keyLength;
    if (kind === "empty" && b === s.batch - 1) return 0;
    if (kind === "short" && j > s.keyLength / (b + 2)) return 0;
    if (s.segments) return random.below(4);
    return kind === "all" ? 1 : Number(random.below(5) > 0);
  });
  const tables = s.ownBias ? s.batch : 1;
  return {
    q: normal(s.batch * s.queryLength * width),
    k: normal(s.batch * s.keyLength * width),
    v: normal(s.batch * s.keyLength * width),
    mask,
    bias: normal(tables * (s.queryLength + s.keyLength - 1) * s.heads),
    gOut: normal(s.batch * s.queryLength * width),
    runKey: 0x12345678,
    firstSequence: 5,
  };
}

type Results = Record<string, Float32Array>;

function run(machine: Machine, s: AttentionSpec, c: Case, threads?: number): Results {
  machine.reset();
  const sizes: Record<string, number> = {
    out: c.q.length,
    lse: s.batch * s.heads * s.queryLength,
    dq: c.q.length,
    dk: c.k.length,
    dv: c.v.length,
    dbias: c.bias.length,
  };
  const operands: Record<string, Operand> = {};
  for (const name of ["q", "k", "v", "mask", "bias", "gOut"] as const) {
    operands[name] = machine.put(c[name]);
  }
  for (const name in sizes) operands[name] = machine.operand(sizes[name] * 4);
  const o = operands as unknown as AttentionGradOperands;
  const launches = [attentionForward(s, o)];
  if (!s.ownBias) launches.push(...attentionBackward(s, o, (bytes) => machine.operand(bytes)));
  const block = new Uint32Array(4);
  block[RUN_KEY] = c.runKey;
  block[RUN_SEQUENCE] = c.firstSequence;
  for (const launch of launches) machine.run(launch, block, threads);
  const names = s.ownBias ? ["out", "lse"] : ["out", "lse", "dq", "dk", "dv"];
  if (s.bias && !s.ownBias) names.push("dbias");
  return Object.fromEntries(names.map((name) => [name, machine.get(operands[name], sizes[name])]));
}

function assertClose(
  name: string,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  least = 1e-3,
): void {
  assert.equal(actual.length, expected.length, name);
  const size = Array.from(expected).reduce((max, x) => Math.max(max, Math.abs(x)), least);
  for (let n = 0; n < expected.length; n++) {
    const error = Math.abs(actual[n] - expected[n]);
    assert.ok(error <= 2e-5 * size, `${name}[${n}] is ${actual[n]}, expected ${expected[n]}`);
  }
}

function assertMatchesReference(machine: Machine, s: AttentionSpec, mask: Mask): void {
  const c = randomCase(s, mask);
  const actual = run(machine, s, c);
  const like = { ...s, deviceClass: "software" } as const;
  const forward = attentionReference(like, c);
  assertClose("out", actual.out, forward.out);
  const nowhere = Math.fround(1e20);
  assertClose(
    "lse",
    actual.lse.map((x) => x === nowhere ? 0 : x),
    forward.lse.map((x) => x === -Infinity ? 0 : x),
  );
  forward.lse.forEach((x, n) =>
    assert.equal(actual.lse[n] === nowhere, x === -Infinity, `lse ${n}`)
  );
  if (s.ownBias) return;
  const gradients = attentionReferenceBackward(like, c, c.gOut);
  assertClose("dv", actual.dv, gradients.dv);
  // A score's gradient is a difference of terms of the order of 1, and 0 where there is only one key.
  for (const name of ["dq", "dk"] as const) assertClose(name, actual[name], gradients[name], 1);
  if (s.bias) assertClose("dbias", actual.dbias, gradients.dbias, 1);
}

const SMALL: AttentionSpec = {
  batch: 2,
  heads: 2,
  queryLength: 33,
  keyLength: 33,
  headDim: 8,
  causal: false,
  bias: false,
  dropout: 0,
  stream: 11,
};

const square = (length: number) => ({ queryLength: length, keyLength: length });
const CASES: [name: string, change: Partial<AttentionSpec>, mask?: Mask][] = [
  ["one query, one key", square(1)],
  ["one key without bias or mask", square(1), "empty"],
  ["length 7, causal, width 4", { ...square(7), causal: true, headDim: 4 }],
  ["length 64, bias, dropout, width 32", { ...square(64), bias: true, dropout: 0.1, headDim: 32 }],
  ["length 128, width 64", { ...square(128), headDim: 64 }, "all"],
  ["length 200, bias, causal, width 20", { ...square(200), bias: true, causal: true, headDim: 20 }],
  ["length 513, width 4", { ...square(513), batch: 1, headDim: 4 }],
  [
    "length 513, all options, width 128",
    {
      ...square(513),
      batch: 1,
      heads: 1,
      headDim: 128,
      causal: true,
      segments: true,
      bias: true,
      dropout: 0.1,
      scale: 0.05,
    },
  ],
  ["a sequence without keys", { causal: true }, "empty"],
  ["a sequence without keys, bias", { bias: true, dropout: 0.3 }, "empty"],
  ["keys that end early", { ...square(200), bias: true }, "short"],
  ["keys that end early, causal", { ...square(200), causal: true }, "short"],
  ["fewer keys", { queryLength: 200, keyLength: 7, bias: true }],
  ["fewer queries", { queryLength: 7, keyLength: 200, bias: true }],
  ["one query", { queryLength: 1, keyLength: 128, bias: true, headDim: 20 }],
  ["one key", { queryLength: 128, keyLength: 1, bias: true, headDim: 20 }],
  ["fewer keys, causal", { queryLength: 200, keyLength: 130, causal: true }],
  ["fewer queries, causal", { queryLength: 64, keyLength: 200, causal: true, bias: true }],
  ["segments", { ...square(64), segments: true }],
  ["segments, causal, bias", { ...square(200), segments: true, causal: true, bias: true }],
  ["a bias for each sequence", { ...square(200), bias: true, ownBias: true, batch: 3 }],
  ["own bias, causal", { queryLength: 7, keyLength: 33, bias: true, ownBias: true, causal: true }],
  ["not scaled", { ...square(64), scale: 1, bias: true, headDim: 4 }],
  ["dropout, width 64", { ...square(128), dropout: 0.1, headDim: 64 }],
  ["many queries", { queryLength: 1000, keyLength: 20, heads: 1, batch: 1 }],
];

for (const kind of [NARROW, WIDE]) {
  const machine = new Machine(kind);
  for (const [name, change, mask = "holes"] of CASES) {
    Deno.test(`attention with ${kind.wide ? 64 : 32}-bit addresses: ${name}`, () => {
      assertMatchesReference(machine, { ...SMALL, ...change }, mask);
    });
  }
}

Deno.test("attention without fused multiplication", () => {
  const machine = new Machine({ ...NARROW, fused: false });
  const change = { ...square(64), bias: true, dropout: 0.1, headDim: 32 };
  assertMatchesReference(machine, { ...SMALL, ...change }, "holes");
});

Deno.test("attention of random shapes and options matches the reference", () => {
  const random = new Random(20240501);
  const flip = () => random.below(2) === 1;
  const machines = [NARROW, WIDE].map((kind) => new Machine(kind));
  for (let n = 0; n < 60; n++) {
    const longest = n % 6 === 0 ? 300 : 40;
    const queryLength = 1 + random.below(longest);
    const segments = random.below(4) === 0;
    const bias = flip();
    const s: AttentionSpec = {
      batch: 1 + random.below(3),
      heads: 1 + random.below(3),
      queryLength,
      keyLength: segments || flip() ? queryLength : 1 + random.below(longest),
      headDim: 4 * (1 + random.below(longest > 40 ? 8 : 32)),
      causal: flip(),
      segments,
      bias,
      ownBias: bias && random.below(4) === 0,
      scale: flip() ? undefined : random.uniform(),
      dropout: flip() ? 0 : random.uniform() * 0.5,
      stream: random.bits(),
    };
    const mask = (["holes", "all", "empty", "short"] as const)[random.below(4)];
    try {
      assertMatchesReference(machines[n % 2], s, mask);
    } catch (error) {
      throw new Error(`case ${n}: ${JSON.stringify(s)}, mask ${mask}`, { cause: error });
    }
  }
});

Deno.test("attention gives the same bits whatever the number of threads", () => {
  const machine = new Machine(NARROW);
  const s = { ...SMALL, ...square(200), bias: true, causal: true, dropout: 0.3 };
  const c = randomCase(s, "holes");
  const one = run(machine, s, c);
  for (const threads of [1, 3]) assert.deepEqual(run(machine, s, c, threads), one);
});

Deno.test("attention dropout keeps its fraction", () => {
  // Equal scores and values of 1: an output is the kept fraction of its row, scaled.
  const s = { ...SMALL, ...square(64), batch: 8, heads: 4, dropout: 0.3 };
  const c = randomCase(s, "all");
  const { out } = run(new Machine(NARROW), s, { ...c, q: c.q.fill(0), v: c.v.fill(1) });
  const mean = out.reduce((sum, x) => sum + x, 0) / out.length;
  // 131,072 draws: the standard deviation of the mean is 0.0018.
  assert.ok(Math.abs(mean - 1) < 0.009, `mean ${mean}`);
});

Deno.test("attention of every length shares its kernel", () => {
  const o = {} as AttentionGradOperands;
  const keys = (change: Partial<AttentionSpec>) => {
    const s = { ...SMALL, bias: true, ...change };
    return [attentionForward(s, o), ...attentionBackward(s, o, () => ({}))].map((l) =>
      l.source.key
    );
  };
  const change = { ...square(7), batch: 3, heads: 5, dropout: 0, scale: 1, stream: 4 };
  assert.deepEqual(keys(change), keys({}));
});

Deno.test("attention on any width fits into a thread's memory", () => {
  const o = {} as AttentionGradOperands;
  for (let headDim = 4; headDim <= 128; headDim += 4) {
    const s = { ...SMALL, headDim, bias: true, causal: true };
    for (const { source } of [attentionForward(s, o), ...attentionBackward(s, o, () => ({}))]) {
      assert.ok(WebAssembly.validate(assemble(source, WIDE)), `${source.key}`);
    }
  }
});

Deno.test("attention refuses what it cannot do", () => {
  const o = {} as AttentionGradOperands;
  const forward = (change: Partial<AttentionSpec>) => attentionForward({ ...SMALL, ...change }, o);
  assert.throws(() => forward({ headDim: 6 }), /head width 6/);
  assert.throws(() => forward({ dropout: 1 }), /dropout 1/);
  assert.throws(() => forward({ keyLength: 0 }), /keyLength is 0/);
  const own = { ...SMALL, bias: true, ownBias: true };
  assert.throws(() => attentionBackward(own, o, () => ({})), /no derivative/);
});
