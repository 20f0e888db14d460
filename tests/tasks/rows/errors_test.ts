import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { gzipSync } from "node:zlib";
import { parquetMetadata } from "hyparquet";
import { UserError } from "../../../ops/graph/errors.ts";
import { datasetsIn, readRows, splitsOf } from "../../../tasks/rows/mod.ts";
import { compileTemplate } from "../../../tasks/jinja/evaluate.ts";
import { assertBad, inFolder, rowsIn, table, userError, utf8 } from "./rows_folder.ts";

Deno.test("datasets and splits are found, and the nearest are named", () =>
  inFolder({
    "super_glue/copa/train.jsonl": "{}",
    "super_glue/copa/validation-00000-of-00001.parquet": "",
    "super_glue/copa/dataset_infos.json": "{}",
    "anli/dev_r1.csv.gz": "",
    "user/set/config/test.json": "",
    "notes/README.md": "",
    ".hidden/d/train.jsonl": "{}",
    "twice/train.jsonl": "{}",
    "twice/train.csv": "",
    "cut/train-00000-of-00003.jsonl": "{}",
    "cut/train-00002-of-00003.jsonl": "{}",
  }, async (dir) => {
    const datasets = ["anli", "cut", "super_glue/copa", "twice", "user/set/config"];
    assert.deepEqual(datasetsIn(dir), datasets);
    assert.deepEqual(splitsOf(dir, "super_glue/copa"), ["train", "validation"]);
    assert.deepEqual(splitsOf(dir, "anli"), ["dev_r1"]);
    assert.throws(
      () => splitsOf(dir, "superglue/copa"),
      userError("did you mean super_glue/copa?"),
    );
    assert.throws(() => splitsOf(dir, "super_glue"), userError("there are super_glue/copa"));
    assert.throws(() => splitsOf(dir, "zzz"), userError("zzz", "anli, cut"));
    assert.throws(() => datasetsIn(`${dir}/none`), userError("none: no such folder"));
    assert.throws(
      () => splitsOf(`${dir}/notes`, "x"),
      userError("nor any other", "copa/train.jsonl"),
    );
    const first = (dataset: string, split: string) => readRows(dir, dataset, split).next();
    await assert.rejects(first("anli", "dev_r2"), userError("dev_r2", "there are dev_r1"));
    await assert.rejects(first("twice", "train"), userError("train.csv and train.jsonl"));
    await assert.rejects(first("cut", "train"), userError("lacks the shard numbered 1 of 3"));
  }));

Deno.test("bad rows are named by file and line, or skipped", async () => {
  const invalid = Buffer.concat([utf8('{"a":1}\n{"a":"'), Buffer.of(0xff), utf8('"}\n{"a":3}\n')]);
  const kept = [{ a: 1 }, { a: 3 }];
  await assertBad({ "d/train.jsonl": invalid }, ["train.jsonl:2:", "UTF-8"], kept);
  await assertBad({ "d/train.jsonl.gz": gzipSync(invalid) }, ["train.jsonl.gz:2:", "UTF-8"], kept);
  await assertBad(
    { "d/train.jsonl": '{"a":1}\n{"a":\n{"a":3}' },
    ["train.jsonl:2:", "not JSON"],
    kept,
  );
  await assertBad(
    { "d/train.jsonl": '{"a":1}\n{"a":3}\n[1]' },
    ["train.jsonl:3:", "an array"],
    kept,
  );
  await assertBad(
    { "d/train.json": '[{"a":1},\n{"a"\n:},{"a":3}]' },
    ["json, row 1:", "JSON"],
    kept,
  );
  await assertBad({ "d/train.json": '[{"a":1},{"a":3},"x"]' }, ["json, row 2:", "a string"], kept);
  await assertBad({ "d/train.json": '[{"a":1},{"a":3},{"a"' }, ["train.json:", "cut off"], kept);
  await assertBad({ "d/train.json": '[{"a":1},{"a":3}] x' }, ["train.json:", "more text"], kept);
  await assertBad(
    { "d/train.csv": "a\n1\n2,\n3" },
    ["train.csv:3:", "2 cells", "header has 1"],
    kept,
  );
  await assertBad({ "d/train.csv": 'a\n1\n3\n"2\n2' }, ["train.csv:4:", "never closed"], kept);
  const csv = Buffer.concat([utf8('a,b\n1,\n"x\n'), Buffer.of(0xff), utf8('\n",2\n3,4\n')]);
  const closed = Buffer.concat([utf8('a\n1\n"x\n'), Buffer.of(0xe2), utf8('"\n3\n')]);
  await assertBad({ "d/train.csv": closed }, ["train.csv:4:", "UTF-8"], kept);
  const typed = [{ a: 1, b: null }, { a: 3, b: 4 }];
  await assertBad({ "d/train.csv": csv }, ["train.csv:4:", "UTF-8"], typed);
});

Deno.test("files without rows and broken files are named", async () => {
  for (const name of ["train.jsonl", "train.json", "train.csv", "train.jsonl.gz"]) {
    const content = name.endsWith(".gz") ? gzipSync("\n") : "\n";
    await assertBad({ [`d/${name}`]: content }, [name, "holds no rows"], []);
  }
  await assertBad({ "d/train.csv": "a,b\n" }, ["train.csv", "holds no rows"], []);
  await assertBad({ "d/train.csv": "a,b,a\n1,2,3" }, ["train.csv", '"a" twice'], []);
  await assertBad({ "d/train.parquet": "" }, ["train.parquet", "not readable as Parquet"], []);
  await assertBad({ "d/train.jsonl.gz": "plain" }, ["train.jsonl.gz", "cannot be read"], []);
});

Deno.test("a damaged Parquet page costs its row group, an undecodable text only who reads it", async () => {
  const text = (i: number) => `${i} `.repeat(400 + i);
  const good = table({ t: [0, 1, 2, 3, 4, 5].map(text) }, { dictionarySize: 0 });
  const [, group] = parquetMetadata(good.buffer as ArrayBuffer).row_groups;
  const page = Number(group.columns[0].meta_data!.data_page_offset);
  const damaged = good.slice();
  damaged.fill(0xff, page + 40, page + 60);
  const kept = [0, 1, 4, 5].map((i) => ({ t: text(i) }));
  await assertBad(
    { "d/train.parquet": damaged },
    ["train.parquet, row group 1 (rows 2 to 3)"],
    kept,
  );

  const plain = table({ t: ["good", "b#d", "fine"] }, { codec: "UNCOMPRESSED", statistics: false });
  plain[Buffer.from(plain).indexOf("b#d") + 1] = 0xff;
  await inFolder({ "d/train.parquet": plain }, async (dir) => {
    const rows = await rowsIn(dir);
    assert.deepEqual([rows[0], rows[2]], [{ t: "good" }, { t: "fine" }]);
    assert.equal(compileTemplate("{{ u }} fine").render(rows[1]), " fine");
    assert.throws(
      () => compileTemplate("{{ t }}").render(rows[1]),
      /column "t" .* not valid UTF-8/,
    );
  });
});

Deno.test("the callback may throw to stop", () =>
  inFolder({ "d/train.jsonl": "1\n2\n3" }, async (dir) => {
    let count = 0;
    const onBad = () => {
      count++;
      throw new UserError("enough");
    };
    await assert.rejects(readRows(dir, "d", "train", { onBad }).next(), userError("enough"));
    assert.equal(count, 1);
  }));

Deno.test("what would take all memory is refused before it does", async () => {
  const fields = Array.from({ length: 20_001 }, (_, i) => `"f${i}":1`).join();
  await assertBad(
    { "d/train.jsonl": `{"a":1}\n{${fields}}` },
    ["jsonl:2:", "at most 20000 fields"],
    [
      { a: 1 },
    ],
  );
  const cells = ",".repeat(20_001);
  await assertBad({ "d/train.csv": `a\n1\n${cells}\n` }, ["csv:3:", "20000 cells"], [{ a: 1 }]);
  const deep = "[".repeat(100_000) + "]".repeat(100_000);
  await assertBad({ "d/train.jsonl": `{"a":${deep}}\n{"a":1}` }, ["jsonl:1:", "900 brackets"], [
    { a: 1 },
  ]);
  const long = `{"a":"${"x".repeat(17 << 20)}"}`;
  await assertBad({ "d/train.jsonl": `{"a":1}\n${long}` }, ["jsonl:2:", "more than 16 MB"], [
    { a: 1 },
  ]);
  await inFolder(
    { "d/train.parquet": table({ a: ["x".repeat(17 << 20)], b: [1] }) },
    async (dir) => {
      const [row] = await rowsIn(dir);
      assert.equal(compileTemplate("{{ b }}").render(row), "1");
      assert.throws(() => compileTemplate("{{ a }}").render(row), /"a" of more than 16 MB/);
    },
  );
});
