import assert from "node:assert/strict";
import { readFloats } from "../../../models/formats/stored.ts";
import { readTorchZip } from "../../../models/formats/torch_zip.ts";
import { assertUserError, fuzz, joined } from "../../fuzz.ts";
import {
  little,
  source,
  type TestEntry,
  type TestStorage,
  type TestTensor,
  torchFile,
  zip,
} from "./torch_file.ts";

const floats = (...values: number[]): TestStorage => ({
  type: "FloatStorage",
  elements: values.length,
  bytes: new Uint8Array(Float32Array.from(values).buffer),
});
const MATRIX: TestTensor = { name: "w", key: "0", shape: [2, 3], strides: [3, 1] };
const SIX = { "0": floats(1, 2, 3, 4, 5, 6) };

/** All float tensors of a file. */
async function readAll(bytes: Uint8Array<ArrayBuffer>): Promise<Map<string, number[]>> {
  const file = source(bytes), all = new Map<string, number[]>();
  for (const [name, tensor] of await readTorchZip(file)) {
    const values: number[] = [];
    await readFloats(file, tensor, (part) => void values.push(...part));
    all.set(name, values);
  }
  return all;
}

async function assertRefused(bytes: Uint8Array<ArrayBuffer>, message: RegExp): Promise<void> {
  await assert.rejects(readAll(bytes), (error) => {
    assertUserError(error);
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("tensors of every float type, in archives of 32 and of 64 bits", async () => {
  const storages: Record<string, TestStorage> = {
    f32: floats(1.5, -2, 3),
    f64: {
      type: "DoubleStorage",
      elements: 1,
      bytes: new Uint8Array(Float64Array.of(0.1).buffer),
    },
    f16: { type: "HalfStorage", elements: 2, bytes: joined(little(0x3c00, 2), little(0xc000, 2)) },
    bf16: {
      type: "BFloat16Storage",
      elements: 2,
      bytes: joined(little(0x3f80, 2), little(0xc000, 2)),
    },
  };
  const tensors = Object.entries(storages).map(([key, { elements }]) => {
    return { name: `t.${key}`, key, shape: [elements], strides: [1] };
  });
  for (const wide of [false, true]) {
    const values = await readAll(torchFile(storages, tensors, { wide }));
    assert.deepEqual(Object.fromEntries(values), {
      "t.f32": [1.5, -2, 3],
      "t.f64": [Math.fround(0.1)],
      "t.f16": [1, -2],
      "t.bf16": [1, -2],
    });
  }
});

Deno.test("views of one storage: tied, transposed, sliced, empty and scalar", async () => {
  const values = await readAll(torchFile(SIX, [
    MATRIX,
    { ...MATRIX, name: "tied" },
    { name: "transposed", key: "0", shape: [3, 2], strides: [1, 3] },
    { name: "column", key: "0", shape: [2], strides: [3], offset: 1 },
    { name: "corner", key: "0", shape: [2, 2], strides: [3, 1], offset: 1 },
    { name: "unit", key: "0", shape: [1, 6, 1], strides: [0, 1, 99] },
    { name: "empty", key: "0", shape: [0, 3], strides: [0, 0], offset: 6 },
    { name: "scalar", key: "0", shape: [], strides: [], offset: 5 },
  ]));
  assert.deepEqual(Object.fromEntries(values), {
    w: [1, 2, 3, 4, 5, 6],
    tied: [1, 2, 3, 4, 5, 6],
    transposed: [1, 4, 2, 5, 3, 6],
    column: [2, 5],
    corner: [2, 3, 5, 6],
    unit: [1, 2, 3, 4, 5, 6],
    empty: [],
    scalar: [6],
  });
});

Deno.test("views that leave their storage or overlap themselves are refused", async () => {
  const cases: [Partial<TestTensor>, RegExp][] = [
    [{ offset: 1 }, /^tensor w: shape \[2,3\] by \[3,1\] from 1 leaves its storage of 6$/],
    [{ shape: [3, 3] }, /leaves its storage/],
    [{ shape: [2, 3], strides: [4, 1] }, /leaves its storage/],
    [{ shape: [0], strides: [1], offset: 7 }, /leaves its storage/],
    [{ shape: [2e9], strides: [2e9] }, /leaves its storage/],
    [{ shape: [2e9, 2e9], strides: [2e9, 1] }, /impossible shape/],
    [{ shape: [1e9, 2 ** 31 - 1, 1e9, 0], strides: [1, 1, 1, 1] }, /impossible shape/],
    [{ shape: [2, 3], strides: [0, 1] }, /^tensor w: shape \[2,3\] overlaps itself by \[0,1\]$/],
    [{ shape: [2, 3], strides: [2, 1] }, /overlaps itself/],
    [{ shape: [1e9], strides: [0] }, /overlaps itself/],
  ];
  for (const [change, message] of cases) {
    await assertRefused(torchFile(SIX, [{ ...MATRIX, ...change }]), message);
  }
  const wrong = { "0": { ...SIX["0"], elements: 7 } };
  await assertRefused(
    torchFile(wrong, [MATRIX]),
    /storage has 24 bytes, expected 7 elements of F32/,
  );
});

Deno.test("integers are listed, not read as floats", async () => {
  const ids = { type: "LongStorage", elements: 1, bytes: new Uint8Array(8) };
  const file = source(torchFile({ ids }, [{ name: "ids", key: "ids", shape: [1], strides: [1] }]));
  const tensor = (await readTorchZip(file)).get("ids")!;
  assert.equal(tensor.dtype, "I64");
  await assert.rejects(
    readFloats(file, tensor, () => {}),
    /expected elements of type F32.*got I64/,
  );
});

Deno.test("archives that lie are refused", async () => {
  const change = (edit: (entries: TestEntry[]) => TestEntry[]) =>
    torchFile(SIX, [MATRIX], { edit });
  const storage = (lie: Partial<TestEntry>) =>
    change((entries) => entries.map((e) => e.name === "m/data/0" ? { ...e, ...lie } : e));
  const also = (...more: TestEntry[]) => change((entries) => [...entries, ...more]);
  const without = (name: string) => change((entries) => entries.filter((e) => e.name !== name));
  const bytes = joined("x");

  await assertRefused(storage({ method: 8 }), /^entry m\/data\/0: compressed by method 8/);
  await assertRefused(storage({ flags: 1 }), /encrypted/);
  await assertRefused(storage({ stored: 23 }), /23 bytes stored for 24/);
  await assertRefused(storage({ size: 4000 }), /^entry m\/data\/0 overlaps what follows it/);
  await assertRefused(storage({ size: 0xffffffff }), /a 64-bit size is missing/);
  await assertRefused(storage({ size: 28 }), /overlaps what follows it/);
  await assertRefused(storage({ header: 0 }), /overlaps what follows it/);
  await assertRefused(storage({ header: 1e9 }), /overlaps what follows it/);
  await assertRefused(storage({ header: 3 }), /overlaps what follows it/);
  await assertRefused(storage({ localName: "m/data/1" }), /its own header has another name/);
  await assertRefused(storage({ name: "m/data/1" }), /^tensor w: there is no storage 0$/);
  await assertRefused(also({ name: "m/byteorder", bytes }), /two entries m\/byteorder/);
  await assertRefused(also({ name: "n/data.pkl", bytes }), /one data.pkl in the archive, got 2/);
  await assertRefused(without("m/data.pkl"), /one data.pkl in the archive, got 0/);
  for (
    const name of ["../x", "m/../../x", "/etc/x", "m\\x", "C:x", "m/x\0", "m//x", "./x", "", "m/"]
  ) {
    await assertRefused(
      also({ name, bytes }),
      /^refused: the archive has an entry .*no plain path$/,
    );
  }
  await assertRefused(also({ name: "\xff", bytes }), /not UTF-8/);
  const big = change((entries) =>
    entries.map((e) => e.name === "m/byteorder" ? { ...e, bytes: joined("big") } : e)
  );
  await assertRefused(big, /^expected a little-endian file, got big/);

  const stray = torchFile(SIX, [{ ...MATRIX, key: "0" }]);
  await assertRefused(stray.slice(0, -1), /cut short: the archive has no end record/);
  await assertRefused(joined(stray, "x"), /no end record/);
  const directory = (field: number, value: number, bytes: 2 | 4 = 4) => {
    const lying = stray.slice();
    lying.set(little(value, bytes), lying.length - 22 + field);
    return lying;
  };
  await assertRefused(directory(12, 0xfffffff0), /does not lie before its end record/);
  await assertRefused(directory(16, 0xfffffff0), /does not lie before its end record/);
  await assertRefused(directory(16, 1), /directory is malformed at entry 0/);
  await assertRefused(directory(12, 46), /directory is malformed at entry 0/);
  await assertRefused(directory(10, 9, 2), /has 3 entries, expected 9$/);
  const wide = torchFile(SIX, [MATRIX], { wide: true });
  wide.set(little(2 ** 52, 8), wide.length - 22 - 20 + 8);
  await assertRefused(wide, /64-bit end record is not where it should be/);
});

Deno.test("what is no archive of PyTorch's is refused", async () => {
  await assertRefused(joined(), /^not a PyTorch file: expected a zip archive$/);
  await assertRefused(joined(`{"json": true}`), /^not a PyTorch file/);
  const old = joined(0x80, 2, 0x8a, 10, "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.");
  await assertRefused(old, /^the format of PyTorch before 1.6 is not read/);
  await assertRefused(zip([{ name: "readme.txt", bytes: joined("x") }]), /one data.pkl/);
  const hostile = zip([{ name: "m/data.pkl", bytes: joined("cos\nsystem\n(X\x02\0\0\0lstR.") }]);
  await assertRefused(hostile, /^refused: it names the global os.system; only tensors are read$/);
});

Deno.test("10,000 damaged archives are read or refused, never anything else", async () => {
  const views = [MATRIX, { name: "t", key: "0", shape: [3, 2], strides: [1, 3] }];
  const files = [torchFile(SIX, views), torchFile(SIX, views, { wide: true })];
  const outcome = await fuzz(files, 10_000, readAll);
  assert.ok(outcome.read > 50 && outcome.refused > 5000, JSON.stringify(outcome));
});
