// What primitives state about themselves, without a device.

import assert from "node:assert/strict";
import {
  attention,
  grad,
  input,
  interpret,
  scale,
  state,
  sum,
  type Tensor,
} from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import { CASES, lossOf } from "./cases.ts";
import { attentionReference } from "../../ops/primitives/attention_reference.ts";
import { assertClose, RUN, type SourceValues, valuesFor } from "./run.ts";

const x = (name: string, ...shape: number[]) => state(name, shape);

/** Directional derivative of the loss by central differences of the reference. */
function assertGradient(
  loss: Tensor,
  wrt: Tensor[],
  values: SourceValues,
  what: string,
) {
  const grads = interpret(grad(loss, wrt), { values, run: RUN });
  const random = new Random(99);
  for (const [i, w] of wrt.entries()) {
    const { name } = w.node.attrs;
    const direction = Float64Array.from(values[name], () => random.uniform() - 0.5);
    const at = (h: number) => {
      const moved = Float64Array.from(values[name], (x, k) => x + h * direction[k]);
      return interpret([loss], { values: { ...values, [name]: moved }, run: RUN })[0][0];
    };
    const h = 1e-5;
    const want = (at(h) - at(-h)) / (2 * h);
    const got = Array.from(grads[i]).reduce((s, g, k) => s + g * direction[k], 0);
    assert.ok(
      Math.abs(got - want) <= 1e-5 * Math.max(1, Math.abs(want)),
      `${what}: derivative by ${name}: got ${got}, want ${want}`,
    );
  }
}

for (const [name, make] of Object.entries(CASES)) {
  const c = make(), { wrt = [], ids = 2 } = c;
  if (wrt.length === 0) continue;
  Deno.test(`${name}: derivatives equal finite differences`, () => {
    const loss = lossOf(c);
    assertGradient(loss, wrt, valuesFor([loss], ids), name);
  });
}

Deno.test("scale by one is free, by another number is a product", () => {
  const a = x("a", 2);
  assert.equal(scale(a, 1), a);
  assert.deepEqual([...interpret([scale(a, 3)], { values: { a: [1, 2] } })[0]], [3, 6]);
});

Deno.test("a bias for each sequence is that of attention one by one, and has no derivative", () => {
  const q = x("q", 2, 3, 8), k = x("k", 2, 4, 8), mask = input("mask", [2, 4], "u32");
  const bias = x("bias", 2, 6, 2);
  const own = attention(q, k, k, mask, { heads: 2, bias });
  const values = valuesFor([own], 2);
  const [together] = interpret([own], { values });
  const part = <T extends Float32Array | Uint32Array>(values: T, i: number) =>
    values.subarray(i * values.length / 2, (i + 1) * values.length / 2) as T;
  for (const i of [0, 1]) {
    const one = attention(
      x("q", 1, 3, 8),
      x("k", 1, 4, 8),
      x("k", 1, 4, 8),
      input("mask", [1, 4], "u32"),
      {
        heads: 2,
        bias: x("bias", 6, 2),
      },
    );
    const own = Object.fromEntries(Object.entries(values).map(([n, v]) => [n, part(v, i)]));
    const [alone] = interpret([one], { values: own });
    assert.deepEqual([...alone], [...together.slice(i * 24, (i + 1) * 24)]);
  }
  assert.throws(() => grad(sum(own), [q]), /no derivative with a bias for each sequence/);
});

Deno.test("attention: heads of any width up to 128 are what the formula says", () => {
  const heads = 2, batch = 2, queryLength = 3, keyLength = 4;
  for (const headDim of [1, 2, 3, 4, 5, 6, 7, 8, 13, 126, 127, 128]) {
    for (const own of [undefined, 0.3]) {
      const width = heads * headDim, options = { heads, dropout: 0.3, stream: 5, scale: own };
      const [q, k, v] = [queryLength, keyLength, keyLength].map((length, i) => {
        return x("qkv"[i], batch, length, width);
      });
      const bias = x("bias", queryLength + keyLength - 1, heads);
      const mask = input("mask", [batch, keyLength], "u32");
      const y = attention(q, k, v, mask, { ...options, bias });
      const values = valuesFor([y], 2);
      const { q: qs, k: ks, v: vs, mask: seen, bias: biases } = values;
      const { out } = attentionReference(
        { ...options, batch, queryLength, keyLength, headDim, causal: false, bias: true },
        {
          ...{ q: qs, k: ks, v: vs, mask: seen, bias: biases },
          ...{ runKey: RUN.key, firstSequence: RUN.sequence },
        },
      );
      const [got] = interpret([y], { values, run: RUN });
      assertClose(got, out, 1e-12, `width ${headDim}`);
    }
  }
  const wide = x("wide", 1, 2, 129);
  const mask = input("mask", [1, 2], "u32");
  assert.throws(() => attention(wide, wide, wide, mask, { heads: 1 }), /at most 128/);
});
