import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { transpose } from "../../../models/names.ts";
import { encodeHeader } from "../../../models/formats/safetensors.ts";
import { openWeights } from "../../../tasks/files/weights.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";
import { assertUserError, fuzz, joined } from "../../fuzz.ts";
import { type TestStorage, type TestTensor, torchFile } from "../../models/formats/torch_file.ts";

type Files = Readonly<Record<string, Uint8Array | string>>;

/** Runs with a folder of these files, which it can change. */
async function inFolder(files: Files, work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "weights-"));
  try {
    for (const [name, contents] of Object.entries(files)) {
      await writeFile(join(folder, name), contents);
    }
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** All values by name; closes the files. */
async function readAll(folder: string): Promise<Record<string, number[]>> {
  const weights = await openWeights(folder);
  try {
    const all: Record<string, number[]> = {};
    for (const name of weights.tensors.keys()) all[name] = [...await weights.read(name)];
    return all;
  } finally {
    await weights.close();
  }
}

async function assertRefused(files: Files, message: RegExp): Promise<void> {
  await inFolder(files, async (folder) => {
    await assert.rejects(readAll(folder), (error) => {
      assertUserError(error);
      assert.ok(error.message.startsWith(folder));
      assert.match(error.message.slice(folder.length), message);
      return true;
    });
  });
}

const f32 = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);

/** A safetensors file of vectors of 32-bit floats. */
function safetensors(vectors: Readonly<Record<string, number[]>>): Uint8Array {
  const specs = Object.entries(vectors).map(([name, { length }]) => ({ name, shape: [length] }));
  const { bytes, tensors } = encodeHeader(specs, {});
  return joined(bytes, ...Array.from(tensors.keys(), (name) => f32(...vectors[name])));
}

/** The same in PyTorch's format. */
function torch(vectors: Readonly<Record<string, number[]>>): Uint8Array {
  const storages: Record<string, TestStorage> = {};
  const tensors: TestTensor[] = Object.entries(vectors).map(([name, values], i) => {
    const { length } = values;
    storages[i] = { type: "FloatStorage", elements: length, bytes: f32(...values) };
    return { name, key: `${i}`, shape: [length], strides: [1] };
  });
  return torchFile(storages, tensors);
}

const index = (weight_map: Readonly<Record<string, unknown>>) =>
  JSON.stringify({ metadata: { total_size: 20 }, weight_map });

Deno.test({
  name: "both files of a released model hold the same tensors, and tied ones are known as such",
  ignore: !hasGolden,
  async fn() {
    const golden = goldenPath("metro_hf/tiny");
    const bin = await readFile(join(golden, "pytorch_model.bin"));
    await inFolder({ "pytorch_model.bin": bin }, async (folder) => {
      const [safe, torch] = [await openWeights(golden), await openWeights(folder)];
      assert.deepEqual(safe.files, [join(golden, "model.safetensors")]);
      assert.deepEqual(torch.files, [join(folder, "pytorch_model.bin")]);
      for (const [name, { shape, dtype }] of safe.tensors) {
        const same = torch.tensors.get(name);
        assert.deepEqual([same?.shape, same?.dtype], [shape, dtype]);
        const values = await safe.read(name);
        assert.deepEqual(await torch.read(name), values);
        if (shape.length !== 2) continue;
        const there: number[] = [];
        await torch.readInto(name, (part) => void there.push(...part), { transposed: true });
        assert.deepEqual(Float32Array.from(there), transpose(values, shape[0], shape[1]));
      }
      // What safetensors cannot hold twice is tied, and so is every tied tensor's other name.
      const only = [...torch.tensors.keys()].filter((name) => !safe.tensors.has(name));
      const tied = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"];
      assert.deepEqual(torch.aliases("shared.weight"), tied);
      assert.deepEqual(torch.aliases("lm_head.weight"), ["shared.weight", ...tied.slice(0, 2)]);
      for (const name of only) {
        assert.ok(torch.aliases(name).some((other) => safe.tensors.has(other)));
      }
      assert.deepEqual(safe.aliases("shared.weight"), []);
      await Promise.all([safe.close(), torch.close()]);
    });
  },
});

Deno.test("shards of both kinds read like one file", async () => {
  const [one, two] = [{ a: [1, 2], b: [3] }, { c: [4, 5] }];
  const whole = { ...one, ...two };
  for (
    const [base, extension, write] of [
      ["model.safetensors", "safetensors", safetensors],
      ["pytorch_model.bin", "bin", torch],
    ] as const
  ) {
    const map = { a: `x-1.${extension}`, b: `x-1.${extension}`, c: `x-2.${extension}` };
    await inFolder({ [base]: write(whole) }, async (folder) => {
      assert.deepEqual(await readAll(folder), whole);
    });
    const shards = { [`x-1.${extension}`]: write(one), [`x-2.${extension}`]: write(two) };
    const name = `${base}.index.json`;
    await inFolder({ [name]: index(map), ...shards }, async (folder) => {
      assert.deepEqual(await readAll(folder), whole);
    });

    const refused = (files: Files, message: RegExp) =>
      assertRefused({ [name]: index(map), ...shards, ...files }, message);
    await assertRefused(
      { [name]: index(map), [`x-1.${extension}`]: write(one) },
      /its shard x-2\./,
    );
    await refused({ [`x-2.${extension}`]: write({}) }, /tensor c is not in x-2.*should have it$/);
    await refused({ [name]: index({ ...map, a: map.c }) }, /tensor a is not in x-2/);
    await refused(
      { [`x-2.${extension}`]: write({ c: [4], b: [3] }) },
      /tensor b is in .*x-1.*, too$/,
    );
    await refused({ [name]: index({ ...map, c: name }) }, /c: expected the plain name of a \./);
    await refused(
      { [name]: index({ ...map, c: `../x-2.${extension}` }) },
      /expected the plain name/,
    );
    await refused({ [name]: "{" }, /index\.json: not JSON/);
    await refused({ [`x-2.${extension}`]: index(map) }, /x-2\.\w+: /);
  }
});

Deno.test("of several files the first is read: safetensors before PyTorch's, whole before shards", async () => {
  const shards = { "s.safetensors": safetensors({ w: [2] }), "t.bin": torch({ w: [4] }) };
  const inOrder = {
    "model.safetensors": safetensors({ w: [1] }),
    "model.safetensors.index.json": index({ w: "s.safetensors" }),
    "pytorch_model.bin": torch({ w: [3] }),
    "pytorch_model.bin.index.json": index({ w: "t.bin" }),
  };
  await inFolder({ ...shards, ...inOrder }, async (folder) => {
    for (const [i, name] of Object.keys(inOrder).entries()) {
      assert.deepEqual(await readAll(folder), { w: [i + 1] });
      await rm(join(folder, name));
    }
  });
});

Deno.test("what is not there is named", async () => {
  await assertRefused(
    { "config.json": "{}" },
    /: expected weights \(model\.safetensors, model\.safetensors\.index\.json, pytorch_model\.bin, pytorch_model\.bin\.index\.json\), found none of these$/,
  );
  await assert.rejects(
    openWeights("no-such-folder"),
    /^UserError: no-such-folder: no such file or folder/,
  );
  await inFolder({ "model.safetensors": safetensors({ w: [1] }) }, async (folder) => {
    const weights = await openWeights(folder);
    for (const work of [() => weights.read("v"), () => weights.readInto("v", () => {})]) {
      await assert.rejects(work, /: has no tensor v; is it from another model\?$/);
    }
    assert.throws(() => weights.aliases("v"), /has no tensor v/);
    await weights.close();
  });
  await inFolder({}, async (folder) => {
    await mkdir(join(folder, "model.safetensors"));
    await assert.rejects(
      openWeights(folder),
      /model\.safetensors: .*expected a file, got a folder/,
    );
  });
});

Deno.test("damage and malice are reported with the file's name", async () => {
  const malicious = torchFile({}, [], {
    edit: () => [{ name: "m/data.pkl", bytes: joined("cos\nsystem\n(X\x02\0\0\0lstR.") }],
  });
  await assertRefused(
    { "pytorch_model.bin": malicious },
    /^.pytorch_model\.bin: refused: it names the global os\.system; only tensors are read$/,
  );
  const cut = safetensors({ w: [1, 2, 3] }).slice(0, -1);
  await assertRefused({ "model.safetensors": cut }, /^.model\.safetensors: cut short/);
  const ids: TestStorage = { type: "IntStorage", elements: 1, bytes: new Uint8Array(4) };
  await assertRefused(
    {
      "pytorch_model.bin": torchFile({ ids }, [{
        name: "i",
        key: "ids",
        shape: [1],
        strides: [1],
      }]),
    },
    /^.pytorch_model\.bin: tensor i: expected elements of type F32, F16, BF16 or F64, got I32$/,
  );
  await inFolder({ "model.safetensors": safetensors({ w: [1, 2, 3] }) }, async (folder) => {
    const weights = await openWeights(folder);
    await truncate(join(folder, "model.safetensors"), 70);
    await assert.rejects(weights.read("w"), /tensor w: cut short while it was being read$/);
    await weights.close();
  });
});

Deno.test("large tensors come in parts of 16 MiB, half-precision ones widened", async () => {
  const rows = 2100, columns = 2500, count = rows * columns;
  const { bytes } = encodeHeader([{ name: "w", shape: [rows, columns], dtype: "BF16" }], {});
  // The bits of value i are i's, but for the exponents of infinities.
  const bits = Uint16Array.from({ length: count }, (_, i) => i & 0xbfff);
  const file = joined(bytes, new Uint8Array(bits.buffer));
  const expected = new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer);
  await inFolder({ "model.safetensors": file }, async (folder) => {
    const weights = await openWeights(folder);
    for (const transposed of [false, true]) {
      const values = new Float32Array(count), parts: [number, number][] = [];
      await weights.readInto("w", (part, first) => {
        values.set(part, first);
        parts.push([first, part.length]);
      }, { transposed });
      assert.deepEqual(parts, [[0, 1 << 22], [1 << 22, count - (1 << 22)]]);
      assert.ok(
        Buffer.from(values.buffer).equals(
          Buffer.from((transposed ? transpose(expected, rows, columns) : expected).buffer),
        ),
      );
    }
    await weights.close();
  });
});

Deno.test("an error of the writer passes through", async () => {
  await inFolder({ "model.safetensors": safetensors({ w: [1] }) }, async (folder) => {
    const weights = await openWeights(folder);
    const broken = () => Promise.reject(new RangeError("device lost"));
    await assert.rejects(weights.readInto("w", broken), /^RangeError: device lost$/);
    await weights.close();
  });
});

Deno.test("damaged folders are read or refused, and no file stays open", async () => {
  const map = { a: "x-1.bin", c: "x-2.bin" };
  const shards = [torch({ a: [1, 2] }), torch({ c: [3] })];
  const files: Files = {
    "pytorch_model.bin.index.json": index(map),
    "x-1.bin": shards[0],
    "x-2.bin": shards[1],
  };
  // Where the system tells: Linux.
  const openFiles = () => readdir("/proc/self/fd").then((names) => names.length, () => 0);
  await inFolder(files, async (folder) => {
    const before = await openFiles();
    for (const [name, contents] of Object.entries(files)) {
      await fuzz([joined(contents)], 300, async (bytes) => {
        await writeFile(join(folder, name), bytes);
        await readAll(folder);
      });
      await writeFile(join(folder, name), contents);
    }
    assert.deepEqual(await readAll(folder), { a: [1, 2], c: [3] });
    assert.equal(await openFiles(), before);
  });
});
