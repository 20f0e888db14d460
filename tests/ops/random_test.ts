import assert from "node:assert/strict";
import { key, permute } from "../../ops/graph/random.ts";

function order(n: number, orderKey: number): number[] {
  return Array.from({ length: n }, (_, i) => permute(i, n, orderKey));
}

Deno.test("permute is a bijection for every size", () => {
  const sizes = [...Array(66).keys()].slice(1).concat(255, 256, 257, 1000, 4096, 4097, 65537);
  for (const n of sizes) {
    for (const seed of [0, 1, 0xffffffff]) {
      assert.equal(new Set(order(n, seed)).size, n);
      assert.ok(order(n, seed).every((i) => i >= 0 && i < n));
    }
  }
});

Deno.test("permute handles more items than 32 bits count", () => {
  const n = 2 ** 40 + 12345;
  const images = Array.from({ length: 2000 }, (_, i) => permute(n - 1 - i, n, 5));
  assert.equal(new Set(images).size, 2000);
  assert.ok(images.every((i) => Number.isInteger(i) && i >= 0 && i < n));
  assert.ok(Math.max(...images) > n * 0.99 && Math.min(...images) < n * 0.01);
});

Deno.test("different keys give different orders, the same key the same", () => {
  const orders = Array.from({ length: 50 }, (_, epoch) => order(40, key(1, epoch)).join());
  assert.equal(new Set(orders).size, 50);
  assert.equal(orders[3], order(40, key(1, 3)).join());
});

Deno.test("every item is about as likely at every position", () => {
  for (const n of [2, 3, 7, 20]) {
    const keys = 4000;
    const hits = Array.from({ length: n }, () => new Array<number>(n).fill(0));
    for (let k = 0; k < keys; k++) {
      for (const [at, i] of order(n, key(9, k)).entries()) hits[at][i]++;
    }
    const expected = keys / n;
    const chi2 = hits.flat().reduce((sum, hit) => sum + (hit - expected) ** 2 / expected, 0);
    const freedom = (n - 1) ** 2;
    assert.ok(
      chi2 < freedom + 5 * Math.sqrt(2 * freedom),
      `n ${n}: chi² ${chi2}, ${freedom} degrees`,
    );
  }
});

Deno.test("neighbours do not stay neighbours", () => {
  const n = 10_000;
  const shuffled = order(n, 3);
  const kept = shuffled.filter((at, i) => i > 0 && Math.abs(at - shuffled[i - 1]) === 1).length;
  assert.ok(kept < 12, `${kept} of ${n} pairs, 2 expected`);
});
