import assert from "node:assert/strict";
import { attentionBackward, attentionForward } from "../../../ops/gpu/attention.ts";
import type { Dispatch } from "../../../ops/gpu/kernel.ts";
import { Random } from "../../../ops/graph/random.ts";
import {
  type AttentionInputs,
  attentionReference,
  attentionReferenceBackward,
} from "../../../ops/primitives/attention_reference.ts";
import type { AttentionSpec } from "../../../ops/primitives/attention_spec.ts";
import { gpuTest, softwareDevice } from "../../gpu.ts";
import { runKernels } from "./run_kernels.ts";

const SMALL: AttentionSpec = {
  batch: 2,
  heads: 3,
  queryLength: 33,
  keyLength: 33,
  headDim: 8,
  causal: false,
  bias: false,
  dropout: 0,
  stream: 11,
};

const spec = (change: Partial<AttentionSpec>): AttentionSpec => ({ ...SMALL, ...change });

interface Case extends Required<AttentionInputs> {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  mask: Uint32Array;
  bias: Float32Array;
  gOut: Float32Array;
}

/** Random arguments; the mask has holes, and the last sequence may attend nowhere if `empty`. */
function randomCase(s: AttentionSpec, empty = false): Case {
  const random = new Random(s.queryLength * 1000 + s.keyLength);
  const normal = (n: number) => Float32Array.from({ length: n }, () => random.normal());
  const width = s.heads * s.headDim;
  const mask = Uint32Array.from(
    { length: s.batch * s.keyLength },
    (_, n) => {
      if (empty && n >= (s.batch - 1) * s.keyLength) return 0;
      return s.segments ? random.below(4) : Number(random.below(5) > 0);
    },
  );
  return {
    q: normal(s.batch * s.queryLength * width),
    k: normal(s.batch * s.keyLength * width),
    v: normal(s.batch * s.keyLength * width),
    mask,
    bias: normal((s.queryLength + s.keyLength - 1) * s.heads),
    gOut: normal(s.batch * s.queryLength * width),
    runKey: 0x12345678,
    firstSequence: 5,
  };
}

/** Runs forward and backward; outputs start as NaN, so that an element left out cannot pass. */
async function run(s: AttentionSpec, c: Case): Promise<Record<string, Float32Array>> {
  const rows = s.batch * s.heads * s.queryLength;
  const { launches, scratch } = attentionBackward(s);
  const all: Dispatch[] = [attentionForward(s), ...launches];
  const sizes: Record<string, number> = {
    out: c.q.length,
    lse: rows,
    dq: c.q.length,
    dk: c.k.length,
    dv: c.v.length,
    dbias: c.bias.length,
  };
  for (const name in scratch) sizes[name] = scratch[name] / 4;
  const { q, k, v, mask, bias, gOut } = c;
  const memory: Record<string, Float32Array | Uint32Array> = { q, k, v, mask, bias, gOut };
  for (const name in sizes) memory[name] = new Float32Array(sizes[name]).fill(NaN);
  const results = ["out", "lse", "dq", "dk", "dv", ...(s.bias ? ["dbias"] : [])];
  return await runKernels(await softwareDevice(), all, memory, results, [
    c.runKey,
    c.firstSequence,
  ]);
}

function assertClose(name: string, actual: ArrayLike<number>, expected: ArrayLike<number>): void {
  assert.equal(actual.length, expected.length, name);
  const size = Array.from(expected).reduce((max, x) => Math.max(max, Math.abs(x)), 1e-3);
  for (let n = 0; n < expected.length; n++) {
    const error = Math.abs(actual[n] - expected[n]);
    assert.ok(error <= 1e-4 * size, `${name}[${n}] is ${actual[n]}, expected ${expected[n]}`);
  }
}

async function assertMatchesReference(s: AttentionSpec, empty = false): Promise<void> {
  const c = randomCase(s, empty);
  const actual = await run(s, c);
  const forward = attentionReference(s, c);
  assertClose("out", actual.out, forward.out);
  forward.lse.forEach((expected, n) => {
    if (expected === -Infinity) {
      assert.ok(Number.isFinite(actual.lse[n]), `lse[${n}] of a row without keys`);
    } else {
      assert.ok(Math.abs(actual.lse[n] - expected) < 1e-3, `lse[${n}] is ${actual.lse[n]}`);
    }
  });
  const gradients = attentionReferenceBackward(s, c, c.gOut);
  assertClose("dq", actual.dq, gradients.dq);
  assertClose("dk", actual.dk, gradients.dk);
  assertClose("dv", actual.dv, gradients.dv);
  if (s.bias) assertClose("dbias", actual.dbias, gradients.dbias);
}

Deno.test("attentionReferenceBackward agrees with finite differences", () => {
  const s = spec({
    batch: 1,
    heads: 2,
    queryLength: 4,
    keyLength: 5,
    headDim: 4,
    causal: true,
    bias: true,
    dropout: 0.2,
  });
  const c = randomCase(s);
  const loss = (changed: Partial<AttentionInputs>): number =>
    attentionReference(s, { ...c, ...changed }).out
      .reduce((sum, x, n) => sum + x * c.gOut[n], 0);
  const gradients = attentionReferenceBackward(s, c, c.gOut);
  for (const name of ["q", "k", "v", "bias"] as const) {
    const expected = gradients[`d${name}`];
    for (let n = 0; n < expected.length; n++) {
      const moved = (step: number) => Float64Array.from(c[name], (x, m) => m === n ? x + step : x);
      const slope = (loss({ [name]: moved(1e-5) }) - loss({ [name]: moved(-1e-5) })) / 2e-5;
      assert.ok(Math.abs(slope - expected[n]) < 1e-7, `d${name}[${n}]`);
    }
  }
});

const matches = (name: string, change: Partial<AttentionSpec>, empty = false) =>
  gpuTest(
    `attention on a GPU matches the reference: ${name}`,
    () => assertMatchesReference(spec({ ...change }), empty),
  );
matches("full, mask with holes", {});
matches("a sequence without keys", { causal: true }, true);
matches("causal, odd length 7", { causal: true, queryLength: 7, keyLength: 7 });
matches("cross-attention, fewer keys", { queryLength: 33, keyLength: 7 });
matches("cross-attention, fewer queries", { queryLength: 7, keyLength: 33 });
matches("several blocks of rows", { batch: 1, queryLength: 150, keyLength: 141, causal: true });
matches("bias", { bias: true });
matches("bias, more keys than queries, a sequence without keys", {
  bias: true,
  queryLength: 7,
  keyLength: 33,
}, true);
matches("bias, causal, several blocks of rows", {
  bias: true,
  causal: true,
  heads: 1,
  queryLength: 150,
  keyLength: 70,
});
matches("segments", { segments: true });
matches("segments, causal, bias, several blocks of rows", {
  segments: true,
  causal: true,
  bias: true,
  batch: 1,
  queryLength: 150,
  keyLength: 150,
});
matches("not scaled, causal, bias", { scale: 1, causal: true, bias: true });
matches("dropout", { dropout: 0.3 });
matches("dropout and bias", { dropout: 0.3, bias: true });

gpuTest(
  "attention on a GPU matches the reference at head width 20",
  () => assertMatchesReference(spec({ headDim: 20, bias: true, queryLength: 20, keyLength: 20 })),
);

gpuTest(
  "attention on a GPU matches the reference at head width 36",
  () => assertMatchesReference(spec({ headDim: 36, causal: true, dropout: 0.1 })),
);

gpuTest("attention on a GPU gives the same bits twice", async () => {
  const s = spec({ bias: true, dropout: 0.3 });
  const c = randomCase(s);
  assert.deepEqual(await run(s, c), await run(s, c));
});

gpuTest("attention dropout on a GPU keeps its fraction", async () => {
  // Equal scores and values of 1: an output is the kept fraction of its row, scaled.
  const s = spec({
    batch: 8,
    heads: 4,
    queryLength: 64,
    keyLength: 64,
    dropout: 0.3,
  });
  const c = randomCase(s);
  const { out } = await run(s, { ...c, q: c.q.fill(0), v: c.v.fill(1), mask: c.mask.fill(1) });
  const mean = out.reduce((sum, x) => sum + x, 0) / out.length;
  // 131,072 draws: the standard deviation of the mean is 0.0018.
  assert.ok(Math.abs(mean - 1) < 0.009, `mean ${mean}`);
});

gpuTest("attention dropout on a GPU follows the global sequence", async () => {
  const two = spec({ dropout: 0.3 });
  const c = randomCase(two);
  const both = await run(two, c);
  // The second sequence alone, in a batch that starts one sequence later.
  const second = <T extends Float32Array | Uint32Array>(x: T): T => x.slice(x.length / 2) as T;
  const one = await run({ ...two, batch: 1 }, {
    ...c,
    q: second(c.q),
    k: second(c.k),
    v: second(c.v),
    mask: second(c.mask),
    gOut: second(c.gOut),
    firstSequence: c.firstSequence + 1,
  });
  for (const name in one) assert.deepEqual(one[name], second(both[name]), name);
});

Deno.test("attention kernels stay within 16 KiB of workgroup memory", () => {
  for (let headDim = 4; headDim <= 128; headDim += 4) {
    const s = spec({ headDim, bias: true });
    for (const { source } of [attentionForward(s), ...attentionBackward(s).launches]) {
      let bytes = 0;
      for (const [, type, n] of source.body.matchAll(/workgroup> \w+: array<(\w+), (\d+)>/g)) {
        bytes += Number(n) * (type === "vec4f" ? 16 : 4);
      }
      assert.ok(bytes <= 16384, `${source.name} at width ${headDim}: ${bytes} bytes`);
    }
  }
});

Deno.test("attention refuses what it cannot do", () => {
  assert.throws(() => attentionForward(spec({ headDim: 6 })), /head width 6/);
  assert.throws(() => attentionForward(spec({ dropout: 1 })), /dropout 1/);
  assert.throws(() => attentionBackward(spec({ keyLength: 0 })), /keyLength is 0/);
});
