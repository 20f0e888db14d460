// Matrix products on the CPU against plain loops, one thread by hand: what no operand holds is NaN.

import assert from "node:assert/strict";
import {
  blocksOf,
  matmulLaunch,
  type MatmulSpec,
  PANEL,
  SLICE,
  TILE_ROWS,
} from "../../../ops/cpu/matmul.ts";
import { assemble } from "../../../ops/cpu/kernel.ts";
import { type Finish, finishOf } from "../../../ops/cpu/pointwise.ts";
import { Random } from "../../../ops/graph/random.ts";
import { input } from "../../../ops/graph/tensor.ts";
import type { Lowering, Operand } from "../../../ops/program/lowering.ts";
import { Machine, NARROW, WIDE } from "./machine.ts";

type Layout = "NN" | "NT" | "TN";
const LAYOUTS: readonly Layout[] = ["NN", "NT", "TN"];
const layout = (name: Layout) => ({ transA: name[0] === "T", transB: name[1] === "T" });

/** Stores C and does nothing else to it. */
function store({ m, n, batch = 1 }: MatmulSpec, to: Operand): Finish {
  const c = input("c", [batch, m, n]);
  return finishOf([], c, c, { at: () => to } as unknown as Lowering);
}

/** Operands as they are stored; between the rows of A is NaN. */
function operandsOf(spec: MatmulSpec, value: (random: Random) => number) {
  const { m, n, k, batch = 1, transA } = spec;
  const [stored, width] = transA ? [k, m] : [m, k], { lda = width } = spec;
  const random = new Random(m * 1e6 + n * 1e3 + k);
  const a = new Float32Array(batch * stored * lda).fill(NaN);
  for (let row = 0; row < batch * stored; row++) {
    for (let i = 0; i < width; i++) a[row * lda + i] = value(random);
  }
  return { a, b: Float32Array.from({ length: batch * k * n }, () => value(random)), lda };
}

type Operands = ReturnType<typeof operandsOf>;

/** C in plain loops, rows after rows. */
function byLoops(spec: MatmulSpec, { a, b, lda }: Operands): Float32Array {
  const { m, n, k, batch = 1, transA, transB } = spec;
  const c = new Float32Array(batch * m * n);
  for (let z = 0; z < batch; z++) {
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let sum = 0;
        for (let s = 0; s < k; s++) {
          const atA = transA ? (z * k + s) * lda + i : (z * m + i) * lda + s;
          const atB = transB ? (z * n + j) * k + s : (z * k + s) * n + j;
          sum += a[atA] * b[atB];
        }
        c[(z * m + i) * n + j] = sum;
      }
    }
  }
  return c;
}

/** C as the kernel computes it, its pieces shared among so many threads, one after the other. */
function run(machine: Machine, spec: MatmulSpec, { a, b }: Operands, threads = 1): Float32Array {
  machine.reset();
  const { m, n, batch = 1 } = spec, c = machine.operand(batch * m * n * 4);
  const launch = matmulLaunch(spec, machine.put(a), machine.put(b), store(spec, c));
  machine.run(launch, new Uint32Array(4), threads);
  return machine.get(c, batch * m * n);
}

/** Whole numbers whose products and sums float32 holds exactly. */
const whole = (random: Random) => random.below(9) - 4;

function assertExact(machine: Machine, spec: MatmulSpec): void {
  const operands = operandsOf(spec, whole);
  const got = run(machine, spec, operands), expected = byLoops(spec, operands);
  const wrong = got.findIndex((x, i) => x !== expected[i]);
  const what = JSON.stringify(spec);
  assert.ok(wrong < 0, `${what}: ${got[wrong]} at ${wrong}, expected ${expected[wrong]}`);
}

/** m, n, k: less than a tile, whole tiles and panels, one more and one less, k of one slice and of several. */
const SIZES = [
  [1, 1, 1],
  [1, 9, 4],
  [5, 7, 3],
  [6, 8, 4],
  [7, 17, 5],
  [12, 16, SLICE],
  [13, 15, SLICE + 1],
  [31, 33, 2 * SLICE - 1],
  [1, 300, 700],
  [193, 1, 9],
  [199, 131, 66],
];

for (const kind of [NARROW, WIDE]) {
  const machine = new Machine(kind);
  const width = kind.wide ? 64 : 32;

  for (const name of LAYOUTS) {
    Deno.test(`matmul ${name} with ${width}-bit addresses is exact on whole numbers`, () => {
      for (const [m, n, k] of SIZES) {
        assertExact(machine, { m, n, k, ...layout(name), threads: 2 });
      }
      assertExact(machine, { m: 9, n: 10, k: 11, batch: 5, ...layout(name), threads: 2 });
      assertExact(machine, { m: 70, n: 20, k: 270, batch: 2, ...layout(name), threads: 2 });
    });

    Deno.test(`matmul ${name} with ${width}-bit addresses: rows of A that lie apart`, () => {
      for (const [m, n, k] of [[7, 9, 5], [20, 9, 300], [150, 24, 20]]) {
        const own = name === "TN" ? m : k;
        // Also at multiples of 2 KiB, where a slice of A is copied.
        for (const lda of [own + 1, own + 6, Math.ceil(own / 512) * 512, 1024]) {
          assertExact(machine, { m, n, k, lda, ...layout(name), threads: 1 });
          assertExact(machine, { m, n, k, lda, batch: 2, ...layout(name), threads: 1 });
        }
      }
    });
  }

  Deno.test(`matmul with ${width}-bit addresses: contiguous rows of 2 and 4 KiB`, () => {
    for (const [m, n, k] of [[14, 11, 512], [140, 11, 1024], [512, 9, 10], [1024, 9, 300]]) {
      for (const name of LAYOUTS) assertExact(machine, { m, n, k, ...layout(name), threads: 1 });
    }
  });
}

Deno.test("matmul without fused multiplication is exact on whole numbers", () => {
  const machine = new Machine({ ...NARROW, fused: false });
  for (const name of LAYOUTS) {
    assertExact(machine, { m: 31, n: 33, k: 300, ...layout(name), threads: 1 });
  }
});

Deno.test("matmul of random shapes is exact on whole numbers", () => {
  const random = new Random(20240502), machine = new Machine(NARROW);
  for (let i = 0; i < 80; i++) {
    const [m, n] = [1 + random.below(150), 1 + random.below(150)], k = 1 + random.below(600);
    const name = LAYOUTS[random.below(3)], batch = 1 + random.below(3);
    const lda = (name === "TN" ? m : k) + random.below(2) * random.below(20);
    assertExact(machine, { m, n, k, lda, batch, ...layout(name), threads: 1 + random.below(9) });
  }
});

Deno.test("matmul gives the same bits however C is cut, and on any number of threads", () => {
  const machine = new Machine(NARROW);
  for (const name of LAYOUTS) {
    const sizes = { m: 210, n: 190, k: 300, ...layout(name) };
    const operands = operandsOf({ ...sizes, threads: 1 }, (random) => random.normal());
    const one = run(machine, { ...sizes, threads: 1 }, operands);
    const expected = byLoops({ ...sizes, threads: 1 }, operands);
    assert.ok(one.every((x, i) => Math.abs(x - expected[i]) < 1e-4));
    const cuts = new Set<string>();
    for (const threads of [1, 2, 7, 40]) {
      const { rows, cols } = blocksOf({ ...sizes, threads });
      cuts.add(`${rows} × ${cols}`);
      assert.deepEqual(run(machine, { ...sizes, threads }, operands, threads), one);
    }
    assert.ok(cuts.size > 1, `all cut into ${[...cuts]}`);
  }
});

Deno.test("blocksOf: whole tiles and panels that cover C once and fit a thread's memory", () => {
  const random = new Random(3);
  const size = () => 1 + random.below(2 ** (1 + random.below(16)));
  for (let i = 0; i < 3000; i++) {
    const name = LAYOUTS[random.below(3)], [m, n, k] = [size(), size(), size()];
    const lda = random.below(4) === 0 ? 512 * Math.ceil((name === "TN" ? m : k) / 512) : undefined;
    const threads = 1 + random.below(64), batch = 1 + random.below(4);
    const spec = { m, n, k, lda, batch, threads, ...layout(name) };
    const { rows, cols, down, across } = blocksOf(spec), what = JSON.stringify(spec);
    assert.ok(rows > 0 && rows % TILE_ROWS === 0 && cols > 0 && cols % PANEL === 0, what);
    assert.ok(down * rows >= m && (down - 1) * rows < m, what);
    assert.ok(across * cols >= n && (across - 1) * cols < n, what);
    assert.ok(rows * cols * 4 <= 66 * 1024, `${what}: C of ${rows} × ${cols}`);
    assert.ok(cols * SLICE * 4 <= 128 * 1024, `${what}: B of ${cols}`);
    const isPacked = spec.transA || (lda ?? k) % 512 === 0;
    assert.ok(rows <= (isPacked ? 132 : 192), `${what}: A of ${rows}`);
  }
});

Deno.test("matmuls of all sizes share their kernels, one for each n modulo 4", () => {
  const launch = (change: Partial<MatmulSpec>) => {
    const spec = { m: 5, n: 6, k: 7, batch: 2, threads: 2, ...change };
    return matmulLaunch(spec, {}, {}, store(spec, {}));
  };
  for (const name of LAYOUTS) {
    const { source } = launch(layout(name));
    const other = launch({ m: 512, n: 10, k: 999, batch: 3, lda: 2048, ...layout(name) });
    assert.equal(other.source.key, source.key);
    for (const kind of [NARROW, WIDE]) {
      assert.ok(WebAssembly.validate(assemble(source, kind)));
    }
  }
  assert.throws(() => launch({ transA: true, transB: true }), /both operands transposed/);
});
