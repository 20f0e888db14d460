import assert from "node:assert/strict";
import type { Epilogue } from "../../../ops/gpu/kernel.ts";
import {
  chooseTile,
  matmul,
  matmulReference,
  type MatmulSpec,
  matmulWidth,
  type Tile,
} from "../../../ops/gpu/matmul.ts";
import { gpuTest, softwareDevice } from "../../gpu.ts";
import { runKernels } from "./run_kernels.ts";

/** Numbers in [-1, 1), the same on each call. */
function values(count: number, seed: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const hash = Math.imul(i + seed * 7919 + 1, 0x9e3779b1);
    return (Math.imul(hash ^ (hash >>> 15), 0x85ebca6b) >>> 8) / (1 << 23) - 1;
  });
}

interface Sizes {
  a: number;
  b: number;
  c: number;
}

/** Elements of the buffers of `spec`. */
function sizes(spec: MatmulSpec): Sizes {
  const { m, n, k, batch = 1, transA = false, transB = false } = spec;
  const [rowsA, colsA] = transA ? [k, m] : [m, k];
  const [rowsB, colsB] = transB ? [n, k] : [k, n];
  const sizeA = rowsA * (spec.lda ?? colsA);
  const sizeB = (spec.bRows ?? rowsB) * (spec.ldb ?? colsB);
  return {
    a: sizeA + (batch - 1) * (spec.strideA ?? sizeA),
    b: sizeB + (batch - 1) * (spec.strideB ?? sizeB),
    c: batch * m * (spec.ldc ?? n),
  };
}

/** Runs the launches; C starts as NaN, so that a cell left out shows. */
async function run(
  spec: MatmulSpec,
  a: Float32Array,
  b: Float32Array,
  extra: Record<string, Float32Array> = {},
): Promise<Float32Array> {
  const { launches, scratchBytes } = matmul(spec);
  const c = new Float32Array(sizes(spec).c).fill(NaN);
  const host: Record<string, Float32Array> = { a, b, c, ...extra };
  if (scratchBytes > 0) host.partials = new Float32Array(scratchBytes / 4).fill(NaN);
  return (await runKernels(await softwareDevice(), launches, host, ["c"])).c;
}

/** Compares a run with the reference (passed through `after`), to 1e-5 of the largest magnitude. */
async function check(
  spec: MatmulSpec,
  extra: Record<string, Float32Array> = {},
  after: (value: number, col: number) => number = (value) => value,
): Promise<void> {
  const { m, n, ldc = n, batch = 1 } = spec;
  const size = sizes(spec);
  const a = values(size.a, 1);
  const b = values(size.b, 2);
  if (spec.bRows !== undefined && !spec.transB) clearColumns(spec, a);
  const got = await run(spec, a, b, extra);
  const want = matmulReference(spec, a, b);
  const largest = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  for (let row = 0; row < batch * m; row++) {
    for (let col = 0; col < n; col++) {
      const x = got[row * ldc + col];
      const y = after(want[row * n + col], col);
      // NaN, a cell never written, must fail too.
      if (!(Math.abs(x - y) <= 1e-5 * largest)) {
        assert.fail(`${JSON.stringify(spec)}: [${row}, ${col}] is ${x}, expected ${y}`);
      }
    }
    for (let col = n; col < ldc; col++) {
      assert.ok(Number.isNaN(got[row * ldc + col]), `written past the row at [${row}, ${col}]`);
    }
  }
}

/** Zeros in A at the steps of k whose row of B does not exist. */
function clearColumns({ m, k, transA, bRows = k, lda }: MatmulSpec, a: Float32Array): void {
  for (let row = 0; row < m; row++) {
    for (let i = bRows; i < k; i++) a[transA ? i * (lda ?? m) + row : row * (lda ?? k) + i] = 0;
  }
}

const block = (size: 64 | 128, splits: number): Tile => ({
  kind: "block",
  block: size,
  cell: size === 64 ? 4 : 8,
  splits,
});

const biasRelu: Epilogue = {
  bindings: [
    { name: "bias", type: "array<vec4f>", access: "read" },
    { name: "c", type: "array<vec4f>", access: "read_write" },
  ],
  params: ["columns"],
  values: [],
  functions: "fn relu(x: vec4f) -> vec4f { return max(x, vec4f()); }",
  usesRun: false,
  store: (value, row, col) =>
    `c[(${row} * P.columns + ${col}) / 4u] = relu(${value} + bias[${col} / 4u]);`,
};

/** A multiplication followed by bias and ReLU. */
function checkBiasRelu(spec: MatmulSpec): Promise<void> {
  const bias = values(spec.n, 3);
  const epilogue = { ...biasRelu, values: [spec.n] };
  return check({ ...spec, epilogue }, { bias }, (x, col) => Math.max(x + bias[col], 0));
}

gpuTest("odd sizes fall back to scalars in every layout", async () => {
  const odd = { m: 7, n: 45, k: 9, batch: 2 };
  assert.equal(matmulWidth(odd), 1);
  await check(odd);
  await check({ ...odd, transB: true, ldb: 11, bRows: 43 });
  await check({ ...odd, transA: true, batch: 1, bRows: 6, ldc: 50 });
  // More workgroups than one dimension of a grid allows.
  await check({ m: 1, n: 3, k: 1, batch: 66_000 });
});

gpuTest("blocks compute NN, aligned and with edges, batches and missing rows", async () => {
  await check({ m: 128, n: 64, k: 64, tile: block(64, 1) });
  await check({ m: 70, n: 36, k: 44, batch: 2, tile: block(64, 1) });
  await check({ m: 64, n: 64, k: 64, bRows: 61, ldb: 68, tile: block(64, 1) });
  await check({ m: 140, n: 132, k: 20, tile: block(128, 1) });
});

gpuTest("blocks compute NT with missing rows, and TN with padded rows", async () => {
  await check({
    ...{ m: 70, n: 100, k: 40, batch: 2, strideB: 0, bRows: 97 },
    ...{ transB: true, tile: block(64, 1) },
  });
  await check({
    ...{ m: 130, n: 260, k: 20, lda: 132 },
    ...{ transA: true, tile: block(128, 1) },
  });
});

gpuTest("split sums run the epilogue once, after adding in order", async () => {
  const split = { transA: true, tile: block(64, 3) } as const;
  await check({ ...split, m: 66, n: 68, k: 200, lda: 68, batch: 2 });
  await checkBiasRelu({ ...split, m: 66, n: 68, k: 200, lda: 68 });
});

gpuTest("an epilogue gets every value with its row and column", async () => {
  await checkBiasRelu({ m: 70, n: 36, k: 44, tile: block(64, 1) });
});

gpuTest("no cell is left out, whatever the size", async () => {
  for (let m = 1; m < 40; m += 6) {
    for (const n of [4, 28, 36, 68]) {
      await check({ m: 3 * m, n: n + 64, k: 4, tile: block(64, 1) });
    }
  }
});

gpuTest("two runs give the same bits", async () => {
  const spec: MatmulSpec = { m: 66, n: 68, k: 200, transA: true, lda: 68 };
  const size = sizes(spec);
  const a = values(size.a, 1);
  const b = values(size.b, 2);
  const tile = block(64, 3);
  const first = await run({ ...spec, tile }, a, b);
  assert.deepEqual(await run({ ...spec, tile }, a, b), first);
});

Deno.test("grids cover the output and stay within limits", () => {
  for (const m of [1, 33, 640, 4096, 100_000]) {
    for (const n of [4, 64, 192, 2048, 30_000]) {
      for (const batch of m * n < 10_000 ? [1, 70_000] : [1]) {
        const { launches, scratchBytes } = matmul({ m, n, k: 64, batch });
        assert.ok(scratchBytes <= 128 << 20);
        const { source, params, grid } = launches[0];
        const p = Object.fromEntries(source.params.map((name, i) => [name, params[i]]));
        const tile = chooseTile({ m, n, k: 64, batch });
        assert.ok(tile.kind === "block");
        const { block } = tile;
        assert.ok(p.tilesM * block >= m && (p.tilesM - 1) * block < m);
        assert.ok(p.tilesN * block >= n && (p.tilesN - 1) * block < n);
        assert.ok(grid[0] * grid[1] >= p.groups && Math.max(...grid) <= 65535);
        assert.ok(p.groups >= p.tilesM * p.tilesN * batch);
      }
    }
  }
});

Deno.test("sizes change params, not text", () => {
  const text = (m: number, n: number, k: number) => matmul({ m, n, k }).launches[0].source.body;
  assert.equal(text(1024, 1024, 1024), text(2048, 512, 128));
});

Deno.test("senseless sizes are refused with what was expected", () => {
  assert.throws(() => matmul({ m: 0, n: 4, k: 4 }), /m is 0, expected a positive integer/);
  assert.throws(() => matmul({ m: 4, n: 4, k: 4, lda: 3 }), /lda 3/);
  assert.throws(
    () => matmul({ m: 4, n: 4, k: 4, transA: true, transB: true }),
    /both operands transposed/,
  );
});
