import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { indexRows, openRows } from "../../../tasks/rows/mod.ts";
import { byNumber, index, inFolder, userError, write } from "./rows_folder.ts";

Deno.test("by number: rows of any length in any order, from JSON Lines and from a conversion", async () => {
  const rows = Array.from({ length: 4000 }, (_, i) => ({ i, t: "é".repeat((i * 7919) % 500) }));
  rows[1234].t = "x".repeat(300_000); // longer than several pages
  const lines = rows.map((row) => JSON.stringify(row)).join("\n");
  for (const [name, content] of [["train.jsonl", lines], ["train.jsonl.gz", gzipSync(lines)]]) {
    await inFolder({ [`d/${name}`]: content }, async (dir) => {
      const reader = openRows(await index(dir));
      assert.equal(reader.count, 4000);
      for (let k = 0; k < 4000; k++) {
        const i = (k * 2741) % 4000;
        assert.deepEqual(reader.read(i), rows[i]);
      }
      assert.throws(() => reader.read(4000), /row 4000: d train has 4000 rows/);
      assert.throws(() => reader.read(0.5), RangeError);
      reader.close();
    });
  }
});

Deno.test("real rows of the Hub", async () => {
  const folder = new URL("../../../../shared/data/t0", import.meta.url).pathname;
  if (!existsSync(folder)) return console.log("skipped: no shared/data/t0 beside the repository");
  await inFolder({}, async (cache) => {
    const copa = await indexRows({
      folder,
      dataset: "super_glue/copa",
      split: "validation",
      cache,
    });
    const trec = await indexRows({ folder, dataset: "trec", split: "train", cache });
    assert.equal(copa.count, 100);
    const [first, second] = [openRows(copa), openRows(trec)];
    assert.deepEqual(
      Object.keys(first.read(99)).sort(),
      "choice1 choice2 idx label premise question".split(" "),
    );
    assert.equal(typeof second.read(trec.count - 1).label_coarse, "number");
    first.close();
    second.close();
  });
});

Deno.test("a fresh cache is used again, a stale or damaged one is made anew", () =>
  inFolder({ "d/train.csv": "a\n1\n", "e/train.jsonl": "{}" }, async (dir) => {
    const made = await index(dir);
    const [{ path, offsets }] = made.parts;
    const before = Deno.statSync(path).mtime;
    assert.deepEqual(await index(dir), made);
    assert.deepEqual(Deno.statSync(path).mtime, before);

    await write(`${dir}/d/train.csv`, "a\n1\n2\n");
    assert.deepEqual(await byNumber(dir), [{ a: 1 }, { a: 2 }]);
    assert.throws(() => openRows(made), userError("changed since it was indexed"));
    await Deno.remove(offsets);
    assert.deepEqual(await byNumber(dir), [{ a: 1 }, { a: 2 }]);
    await Deno.writeTextFile(`${dir}/.cache/d/train.index.json`, "{");
    assert.deepEqual(await byNumber(dir), [{ a: 1 }, { a: 2 }]);

    await write(`${dir}/d/train.csv`, "a\n1,2\n");
    await assert.rejects(index(dir), userError("train.csv:2:"));
    const left = [...Deno.readDirSync(`${dir}/.cache/d`)].map(({ name }) => name).sort();
    assert.deepEqual(left, ["train-00000.offsets.bin", "train.index.json", "train.jsonl"]);
    const request = { folder: dir, dataset: "e", split: "train" };
    await assert.rejects(indexRows({ ...request, cache: dir }), userError("another folder"));
    await write(`${dir}/file`, "");
    const blocked = indexRows({ ...request, cache: `${dir}/file` });
    await assert.rejects(blocked, userError("file: cannot be written"));
  }));
