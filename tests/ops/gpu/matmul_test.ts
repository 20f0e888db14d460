import assert from "node:assert/strict";
import { openDevice } from "../../ops/device.ts";
import type { Epilogue } from "../../ops/kernel.ts";
import {
  chooseTile,
  matmul,
  matmulReference,
  type MatmulSpec,
  matmulWidth,
  type Tile,
} from "../../ops/kernels/matmul.ts";
import { gpuTest } from "../gpu.ts";

const device = await openDevice();
const { subgroupSize } = device;

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
  const buffers = Object.fromEntries(
    Object.entries(host).map(([name, data]) => {
      const buffer = device.createBuffer(data.byteLength, name);
      device.write(buffer, 0, data);
      return [name, buffer];
    }),
  );
  const params = device.uploadParams(launches);
  try {
    device.submit(launches.map((launch, i) => {
      const views = launch.source.bindings.map(({ name }) => {
        const buffer = buffers[name];
        return { buffer, offset: 0, size: buffer.size };
      });
      return device.prepare(launch, views, params[i], undefined);
    }));
    return new Float32Array(await device.read(buffers.c, 0, c.byteLength));
  } finally {
    for (const buffer of Object.values(buffers)) device.destroyBuffer(buffer);
    device.destroyBuffer(params.find((view) => view)!.buffer);
  }
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

const small: Tile = { kind: "registers", rows: 8, vecs: 1 };
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

gpuTest("register tiles compute NN, aligned and with edges, batches and row strides", async () => {
  const deviceClass = "software";
  await check({
    m: 64,
    n: 128,
    k: 36,
    deviceClass,
    tile: { kind: "registers", rows: 16, vecs: 2 },
  });
  await check({ m: 13, n: 36, k: 20, batch: 3, deviceClass, tile: small });
  await check({ m: 9, n: 32, k: 8, lda: 12, ldb: 40, ldc: 48, deviceClass, tile: small });
  await check({ m: 9, n: 32, k: 8, batch: 2, strideA: 0, strideB: 512, deviceClass, tile: small });
  await check({ m: 8, n: 32, k: 8, bRows: 5, deviceClass, tile: small });
  // More workgroups than one dimension of a grid allows.
  await check({ m: 8, n: 4, k: 4, batch: 66_000, deviceClass, tile: small });
});

gpuTest("register tiles compute NT, aligned and with edges, batches and missing rows", async () => {
  const nt = { transB: true, deviceClass: "software", tile: small } as const;
  await check({ ...nt, m: 24, n: 64, k: 36 });
  await check({ ...nt, m: 13, n: 36, k: 20, batch: 2 });
  await check({ ...nt, m: 13, n: 36, k: 8, bRows: 33, lda: 16, ldb: 24 });
});

gpuTest("register tiles compute TN, aligned and with edges and a shared operand", async () => {
  const tn = { transA: true, deviceClass: "software", tile: small } as const;
  await check({ ...tn, m: 16, n: 64, k: 36 });
  await check({ ...tn, m: 22, n: 36, k: 12, lda: 24, batch: 2, strideB: 0 });
});

gpuTest("the chosen register tile computes a large product", async () => {
  await check({ m: 64, n: 256, k: 64, deviceClass: "software" });
});

gpuTest("subgroup broadcasts give the same products", async () => {
  const base = { deviceClass: "software", subgroupSize } as const;
  const tile: Tile = { kind: "registers", rows: 16, vecs: 1 };
  await check({ ...base, m: 32, n: 64, k: 20, tile });
  await check({ ...base, m: 21, n: 36, k: 12, batch: 2, tile });
  await check({ ...base, m: 21, n: 36, k: 12, transB: true, bRows: 34, tile });
  await check({ ...base, m: 22, n: 36, k: 12, lda: 24, transA: true, tile });
  await check({ ...base, m: 32, n: 32, k: 12, transA: true, tile: { ...tile, rows: 32 } });
}, { ignore: subgroupSize === 0 });

gpuTest("odd sizes fall back to scalars in every layout and class", async () => {
  for (const deviceClass of ["software", "gpu"] as const) {
    const odd = { m: 7, n: 45, k: 9, batch: 2, deviceClass };
    assert.equal(matmulWidth(odd), 1);
    await check(odd);
    await check({ ...odd, transB: true, ldb: 11, bRows: 43 });
    await check({ ...odd, transA: true, batch: 1, bRows: 6, ldc: 50 });
  }
});

gpuTest("blocks compute NN, aligned and with edges, batches and missing rows", async () => {
  const nn = { deviceClass: "gpu" } as const;
  await check({ ...nn, m: 128, n: 64, k: 64, tile: block(64, 1) });
  await check({ ...nn, m: 70, n: 36, k: 44, batch: 2, tile: block(64, 1) });
  await check({ ...nn, m: 64, n: 64, k: 64, bRows: 61, ldb: 68, tile: block(64, 1) });
  await check({ ...nn, m: 140, n: 132, k: 20, tile: block(128, 1) });
});

gpuTest("blocks compute NT with missing rows, and TN with padded rows", async () => {
  await check({
    ...{ m: 70, n: 100, k: 40, batch: 2, strideB: 0, bRows: 97, deviceClass: "gpu" },
    ...{ transB: true, tile: block(64, 1) },
  });
  await check({
    ...{ m: 130, n: 260, k: 20, lda: 132, deviceClass: "gpu" },
    ...{ transA: true, tile: block(128, 1) },
  });
});

gpuTest("split sums run the epilogue once, after adding in order", async () => {
  const split = { transA: true, deviceClass: "gpu", tile: block(64, 3) } as const;
  await check({ ...split, m: 66, n: 68, k: 200, lda: 68, batch: 2 });
  await checkBiasRelu({ ...split, m: 66, n: 68, k: 200, lda: 68 });
});

gpuTest("an epilogue gets every value with its row and column", async () => {
  await checkBiasRelu({ m: 13, n: 36, k: 20, deviceClass: "software", tile: small });
  await checkBiasRelu({ m: 70, n: 36, k: 44, deviceClass: "gpu", tile: block(64, 1) });
});

gpuTest("no cell is left out, whatever the size", async () => {
  for (let m = 1; m < 40; m += 6) {
    for (const n of [4, 28, 36, 68]) {
      await check({ m, n, k: 4, deviceClass: "software", tile: small });
      await check({ m: 3 * m, n: n + 64, k: 4, deviceClass: "gpu", tile: block(64, 1) });
    }
  }
});

gpuTest("two runs give the same bits", async () => {
  const spec: MatmulSpec = { m: 66, n: 68, k: 200, transA: true, lda: 68, deviceClass: "gpu" };
  for (const tile of [block(64, 3), small]) {
    const size = sizes(spec);
    const a = values(size.a, 1);
    const b = values(size.b, 2);
    const first = await run({ ...spec, tile }, a, b);
    assert.deepEqual(await run({ ...spec, tile }, a, b), first);
  }
});

Deno.test("grids cover the output and stay within limits", () => {
  for (const deviceClass of ["software", "gpu"] as const) {
    for (const m of [1, 33, 640, 4096, 100_000]) {
      for (const n of [4, 64, 192, 2048, 30_000]) {
        for (const batch of m * n < 10_000 ? [1, 70_000] : [1]) {
          const { launches, scratchBytes } = matmul({ m, n, k: 64, batch, deviceClass });
          assert.ok(scratchBytes <= 128 << 20);
          const { source, params, grid } = launches[0];
          const p = Object.fromEntries(source.params.map((name, i) => [name, params[i]]));
          const tile = chooseTile({ m, n, k: 64, batch, deviceClass });
          assert.notEqual(tile.kind, "scalar");
          const [rows, cols] = tile.kind === "registers"
            ? [tile.rows, 32 * tile.vecs]
            : tile.kind === "block"
            ? [tile.block, tile.block]
            : [0, 0];
          assert.ok(p.tilesM * rows >= m && (p.tilesM - 1) * rows < m);
          assert.ok(p.tilesN * cols >= n && (p.tilesN - 1) * cols < n);
          assert.ok(grid[0] * grid[1] >= p.groups && Math.max(...grid) <= 65535);
          assert.ok(p.groups >= p.tilesM * p.tilesN * batch);
        }
      }
    }
  }
});

Deno.test("sizes change params, not text", () => {
  const text = (m: number, n: number, k: number) =>
    matmul({ m, n, k, deviceClass: "software" }).launches[0].source.body;
  assert.equal(text(1024, 1024, 1024), text(2048, 512, 128));
});

Deno.test("senseless sizes are refused with what was expected", () => {
  const gpu = { deviceClass: "gpu" } as const;
  assert.throws(() => matmul({ m: 0, n: 4, k: 4, ...gpu }), /m is 0, expected a positive integer/);
  assert.throws(() => matmul({ m: 4, n: 4, k: 4, lda: 3, ...gpu }), /lda 3/);
  assert.throws(
    () => matmul({ m: 4, n: 4, k: 4, transA: true, transB: true, ...gpu }),
    /both operands transposed/,
  );
});
