// A packed corpus that was damaged or edited: either nothing of it is used, or what is read is what was
// packed.
import assert from "node:assert/strict";
import { readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { packCorpus } from "../../../tasks/text/pack.ts";
import { openPacked, type PartName, readManifest } from "../../../tasks/text/packed.ts";
import { sealed } from "../../../tasks/files/seal.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";
import { fuzz, fuzzJson } from "../../fuzz.ts";

const tokenizer = new Tokenizer(
  await trainTokenizer(["a"], { vocabSize: 260, lowercase: false, sentinels: 4 }),
);
let folder: string, packed: string;

Deno.test.beforeAll(async () => {
  folder = await Deno.makeTempDir();
  packed = join(folder, "packed");
  const documents = Array.from({ length: 30 }, (_, i) => `document ${i}\n${"word ".repeat(i % 9)}`);
  await writeFile(join(folder, "a.txt"), documents.join("\n\n"));
  await packCorpus({
    paths: [join(folder, "a.txt")],
    tokenizer,
    block: 24,
    heldOut: 0.1,
    out: packed,
  });
});
Deno.test.afterAll(() => Deno.remove(folder, { recursive: true }));

/** Everything that a job takes from a packed corpus. */
function contents(): unknown {
  return (["train", "heldout"] as PartName[]).map((name) => {
    const part = openPacked(packed, name);
    try {
      const { count, tokens, maxLength } = part;
      const blocks = Array.from({ length: count }, (_, i) => [...part.read(i)]);
      const lengths = blocks.map((_, i) => part.length(i));
      return { count, tokens, maxLength, blocks, lengths };
    } finally {
      part.close();
    }
  });
}

Deno.test("any byte of a packed corpus damaged: the same blocks, or one line", async () => {
  const whole = contents();
  for (const name of await readdir(packed)) {
    const path = join(packed, name), good = new Uint8Array(await readFile(path));
    const read = async (bytes: Uint8Array) => {
      await writeFile(path, bytes);
      assert.deepEqual(contents(), whole);
    };
    const { refused } = await fuzz([good], 40, read);
    assert.ok(refused > 25, `${name}: ${refused}`);
    await writeFile(path, good);
  }
  assert.deepEqual(contents(), whole);
});

Deno.test("any value of corpus.json changed: the same blocks, or one line", async () => {
  const whole = contents(), path = join(packed, "corpus.json");
  const good = await readFile(path, "utf8");
  const { refused } = await fuzzJson(JSON.parse(good), 100, async (text) => {
    await writeFile(path, text);
    assert.deepEqual(contents(), whole);
  });
  assert.ok(refused > 50, String(refused));
  await writeFile(path, good);
});

Deno.test("fields of corpus.json are checked by their types, too, should it have no checksum", async () => {
  const path = join(packed, "corpus.json"), good = await readFile(path, "utf8");
  const { sha256: _, ...manifest } = JSON.parse(good);
  const message = async (change: object) => {
    await writeFile(path, JSON.stringify({ ...manifest, ...change }));
    try {
      return readManifest(packed) && "read";
    } catch (error) {
      return (error as Error).message.split("corpus.json: ")[1];
    }
  };
  const again = "; delete the folder to have it packed again";
  assert.equal(await message({}), "read");
  assert.equal(await message({ dtype: "u8" }), `dtype: expected one of u16, u32, got u8${again}`);
  assert.equal(
    await message({ train: { ...manifest.train, blocks: -1 } }),
    `train.blocks: expected a whole number of at least 0, got -1${again}`,
  );
  await writeFile(path, "null");
  assert.throws(() => readManifest(packed), /corpus\.json: expected an object, got null; delete/);
  await writeFile(path, good);
});

Deno.test("an id that the vocabulary has not is refused, whatever the checksums say", async () => {
  const path = join(packed, "corpus.json"), good = await readFile(path, "utf8");
  const { sha256: _, ...manifest } = JSON.parse(good);
  await writeFile(path, JSON.stringify(sealed({ ...manifest, ids: 5 })));
  const part = openPacked(packed, "train");
  assert.throws(() => part.read(0), /train\.tokens\.bin: block 0 was changed since it was packed/);
  part.close();
  await writeFile(path, good);
});

Deno.test("the two parts of a corpus do not pass for each other", async () => {
  const at = (name: string) => join(packed, name);
  for (const kind of ["tokens.bin", "index.bin"]) {
    await rename(at(`train.${kind}`), at("aside"));
    await rename(at(`heldout.${kind}`), at(`train.${kind}`));
    assert.throws(() => openPacked(packed, "train"), /bytes instead of|was changed/);
    await rename(at(`train.${kind}`), at(`heldout.${kind}`));
    await rename(at("aside"), at(`train.${kind}`));
  }
  contents();
});
