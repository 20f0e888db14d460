import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { parquetMetadata } from "hyparquet";
import { parquetWriteBuffer } from "hyparquet-writer";
import { key, Random } from "../../../ops/graph/random.ts";
import type { ParquetField } from "../../../tasks/files/parquet.ts";
import { assemble, levelsOf, type Shape } from "../../../tasks/files/parquet_nesting.ts";
import { repr } from "../../../tasks/jinja/python.ts";
import { parquetRows } from "../../../tasks/rows/parquet.ts";

type Kind = "REQUIRED" | "OPTIONAL" | "REPEATED";

function field(
  name: string,
  kind: Kind,
  children: ParquetField[] = [],
  says?: string,
): ParquetField {
  const type = children.length > 0 ? undefined : "INT32";
  return { children, element: { name, repetition_type: kind, type, converted_type: says } };
}

const SHAPE: Shape = {
  list: (items) => items,
  map: (entries) => new Map(entries),
  struct: (values, { children }) =>
    Object.fromEntries(children.map(({ element }, i) => [element.name, values[i]])),
};

/** Columns by their paths: `[repetition, definition, value]` for each entry. */
type Columns = Record<string, [repetition: number, definition: number, value?: unknown][]>;

function assembled(column: ParquetField, columns: Columns, rows: number): unknown[] {
  const [node] = levelsOf([column], 100);
  const streams = node.leaves.map(({ path }) => {
    const entries = columns[path.join(".")];
    return {
      repetitions: Uint8Array.from(entries, ([repetition]) => repetition),
      definitions: Uint8Array.from(entries, ([, definition]) => definition),
      values: entries.filter((entry) => entry.length === 3).map(([, , value]) => value),
    };
  });
  return assemble(node, streams, rows, SHAPE);
}

Deno.test("nesting: the two documents of the Dremel paper, from its figure of the columns", () => {
  const document = field("Document", "REQUIRED", [
    field("DocId", "REQUIRED"),
    field("Links", "OPTIONAL", [field("Backward", "REPEATED"), field("Forward", "REPEATED")]),
    field("Name", "REPEATED", [
      field("Language", "REPEATED", [field("Code", "REQUIRED"), field("Country", "OPTIONAL")]),
      field("Url", "OPTIONAL"),
    ]),
  ]);
  const columns: Columns = {
    "Document.DocId": [[0, 0, 10], [0, 0, 20]],
    "Document.Name.Url": [[0, 2, "http://A"], [1, 2, "http://B"], [1, 1], [0, 2, "http://C"]],
    "Document.Links.Forward": [[0, 2, 20], [1, 2, 40], [1, 2, 60], [0, 2, 80]],
    "Document.Links.Backward": [[0, 1], [0, 2, 10], [1, 2, 30]],
    "Document.Name.Language.Code": [[0, 2, "en-us"], [2, 2, "en"], [1, 1], [1, 2, "en-gb"], [0, 1]],
    "Document.Name.Language.Country": [[0, 3, "us"], [2, 2], [1, 1], [1, 3, "gb"], [0, 1]],
  };
  assert.deepEqual(assembled(document, columns, 2), [
    {
      DocId: 10,
      Links: { Backward: [], Forward: [20, 40, 60] },
      Name: [
        {
          Language: [{ Code: "en-us", Country: "us" }, { Code: "en", Country: null }],
          Url: "http://A",
        },
        { Language: [], Url: "http://B" },
        { Language: [{ Code: "en-gb", Country: "gb" }], Url: null },
      ],
    },
    {
      DocId: 20,
      Links: { Backward: [10, 30], Forward: [80] },
      Name: [{ Language: [], Url: "http://C" }],
    },
  ]);
});

Deno.test("nesting: lists of every age, maps with and without values, and lists without a list", () => {
  const three = (kind: Kind) =>
    field("a", kind, [field("list", "REPEATED", [field("x", "OPTIONAL")])], "LIST");
  const two = field("a", "OPTIONAL", [field("x", "REPEATED")], "LIST");
  const tuple = field(
    "a",
    "OPTIONAL",
    [field("a_tuple", "REPEATED", [field("x", "REQUIRED")])],
    "LIST",
  );
  const array = field(
    "a",
    "OPTIONAL",
    [field("array", "REPEATED", [field("x", "REQUIRED")])],
    "LIST",
  );
  const pairs = field(
    "a",
    "OPTIONAL",
    [field("pair", "REPEATED", [field("x", "REQUIRED"), field("y", "REQUIRED")])],
    "LIST",
  );
  const map = field(
    "a",
    "OPTIONAL",
    [field("key_value", "REPEATED", [field("key", "REQUIRED"), field("value", "OPTIONAL")])],
    "MAP",
  );
  const keys = field(
    "a",
    "OPTIONAL",
    [field("key_value", "REPEATED", [field("key", "REQUIRED")])],
    "MAP",
  );
  const none: [number, number] = [0, 0];
  const table: [string, ParquetField, Columns, unknown[]][] = [
    ["optional list", three("OPTIONAL"), {
      "a.list.x": [none, [0, 1], [0, 2], [0, 3, 7], [1, 2], [1, 3, 8]],
    }, [null, [], [null], [7, null, 8]]],
    ["required list", three("REQUIRED"), { "a.list.x": [none, [0, 1], [0, 2, 7]] }, [[], [null], [
      7,
    ]]],
    ["two levels", two, { "a.x": [none, [0, 1], [0, 2, 7], [1, 2, 8]] }, [null, [], [7, 8]]],
    ["tuple", tuple, { "a.a_tuple.x": [none, [0, 1], [0, 2, 7]] }, [null, [], [{ x: 7 }]]],
    ["array", array, { "a.array.x": [none, [0, 1], [0, 2, 7]] }, [null, [], [{ x: 7 }]]],
    ["pairs", pairs, {
      "a.pair.x": [none, [0, 2, 7], [1, 2, 8]],
      "a.pair.y": [none, [0, 2, 1], [1, 2, 2]],
    }, [null, [{ x: 7, y: 1 }, { x: 8, y: 2 }]]],
    ["map", map, {
      "a.key_value.key": [none, [0, 1], [0, 2, "k"], [1, 2, "l"]],
      "a.key_value.value": [none, [0, 1], [0, 3, 7], [1, 2]],
    }, [null, new Map(), new Map([["k", 7], ["l", null]])]],
    ["keys", keys, { "a.key_value.key": [none, [0, 1], [0, 2, 7]] }, [null, [], [7]]],
    ["no list", field("a", "REPEATED"), { a: [none, [0, 1, 7], [1, 1, 8]] }, [[], [7, 8]]],
  ];
  for (const [what, column, columns, expected] of table) {
    assert.deepEqual(assembled(column, columns, expected.length), expected, what);
  }
});

Deno.test("nesting: levels that contradict one another are damage", () => {
  const column = field("a", "OPTIONAL", [field("x", "OPTIONAL"), field("y", "OPTIONAL")]);
  const fewer: Columns = { "a.x": [[0, 2, 1], [0, 1]], "a.y": [[0, 2, 1]] };
  assert.throws(() => assembled(column, fewer, 2), /fewer values than rows/);
  assert.throws(() => assembled(column, fewer, 1), /more values than rows/);
  let deep = field("a", "OPTIONAL");
  for (let i = 0; i < 101; i++) deep = field("a", "OPTIONAL", [deep]);
  assert.throws(() => levelsOf([deep], 100), /nested in more than 100/);
});

interface Typed {
  elements: object[];
  value(random: Random): unknown;
}

/** A random type, as the writer wants it, and random values of it. */
function randomType(random: Random, name: string, depth: number): Typed {
  const kind = random.below(depth > 2 ? 3 : 6);
  const optional = { name, repetition_type: "OPTIONAL" };
  const maybe = (value: (random: Random) => unknown) => (random: Random) =>
    random.below(4) === 0 ? null : value(random);
  if (kind < 3) {
    const [type, value] = [
      ["INT32", (r: Random) => r.below(2 ** 32) - 2 ** 31],
      ["DOUBLE", (r: Random) => r.uniform()],
      ["BYTE_ARRAY", (r: Random) => ["", "a", "é👩", "x".repeat(r.below(30))][r.below(4)]],
    ][kind] as [string, (random: Random) => unknown];
    const text = type === "BYTE_ARRAY" ? { converted_type: "UTF8" } : {};
    return { elements: [{ ...optional, type, ...text }], value: maybe(value) };
  }
  if (kind === 3) {
    const fields = Array.from(
      { length: 1 + random.below(3) },
      (_, i) => randomType(random, `f${i}`, depth + 1),
    );
    return {
      elements: [
        { ...optional, num_children: fields.length },
        ...fields.flatMap((f) => f.elements),
      ],
      value: maybe((r) => Object.fromEntries(fields.map((f, i) => [`f${i}`, f.value(r)]))),
    };
  }
  const item = randomType(random, "element", depth + 1);
  return {
    elements: [
      { ...optional, num_children: 1, converted_type: "LIST" },
      { name: "list", repetition_type: "REPEATED", num_children: 1 },
      ...item.elements,
    ],
    value: maybe((r) => Array.from({ length: r.below(4) }, () => item.value(r))),
  };
}

Deno.test("random tables come back as they were written", async () => {
  const random = new Random(key(23));
  const path = await Deno.makeTempFile({ suffix: ".parquet" });
  for (let i = 0; i < 60; i++) {
    const types = Array.from(
      { length: 1 + random.below(3) },
      (_, c) => randomType(random, `c${c}`, 0),
    );
    const count = [1, 3, 200][random.below(3)];
    const rows = Array.from({ length: count }, () => types.map((type) => type.value(random)));
    const bytes = parquetWriteBuffer({
      columnData: types.map((_, c) => ({ name: `c${c}`, data: rows.map((row) => row[c]) })),
      schema: [{ name: "root", num_children: types.length }, ...types.flatMap((t) => t.elements)],
      codec: ["UNCOMPRESSED", "SNAPPY"][random.below(2)],
      rowGroupSize: [2, 1000][random.below(2)],
    } as never);
    await Deno.writeFile(path, new Uint8Array(bytes));
    const read: string[] = [];
    const bad = (error: Error) => assert.fail(error.message);
    for await (const batch of parquetRows(path, bad)) {
      read.push(...batch.map(({ row }) => repr(Object.values(row))));
    }
    assert.deepEqual(read, rows.map(repr), `table ${i}`);
  }
  await Deno.remove(path);
});

const SHARED = new URL("../../../../shared/cases/27-parquet-testing/files/", import.meta.url);

Deno.test({
  name: "files of Apache's parquet-testing are read as pyarrow reads them",
  ignore: !existsSync(SHARED),
  async fn() {
    const expected: Record<string, Record<string, string[]>> = {
      "datapage_v2_empty_datapage.snappy.parquet": { value: ["None"] },
      "repeated_primitive_no_list.parquet": {
        Int32_list: ["[0, 1, 2, 3]", "[]", "[4]", "[5, 6, 7, 8]"],
      },
      "map_no_value.parquet": {
        my_map_no_v: ["[1, 2, 3]", "[4, 5, 6]", "[7, 8, 9]"],
        my_list: ["[1, 2, 3]", "[4, 5, 6]", "[7, 8, 9]"],
      },
    };
    for (const [file, columns] of Object.entries(expected)) {
      const rows = (await Array.fromAsync(parquetRows(new URL(file, SHARED).pathname, (e) => {
        throw e;
      }))).flat();
      for (const [name, values] of Object.entries(columns)) {
        assert.deepEqual(rows.map(({ row }) => repr(row[name])), values, `${file} ${name}`);
      }
    }
  },
});

/** A file of one group whose footer is made to say something else. */
function lying(change: (bytes: Uint8Array, at: (what: number[]) => number) => void): Uint8Array {
  const columnData = [{ name: "n", data: Array.from({ length: 77 }, (_, i) => i % 3 ? 1 : null) }];
  const bytes = new Uint8Array(parquetWriteBuffer({ columnData, codec: "UNCOMPRESSED" } as never));
  change(bytes, (what) => {
    for (let i = bytes.length - what.length; i >= 0; i--) {
      if (what.every((byte, j) => bytes[i + j] === byte)) return i;
    }
    return assert.fail("not found");
  });
  return bytes;
}

Deno.test("counts that lie are damage, whatever they would take", async () => {
  const path = await Deno.makeTempFile({ suffix: ".parquet" });
  const [seventySeven, most] = [[0x9a, 0x01], [0xfe, 0x7f]]; // 77 and 8191 as zigzag varints
  const good = lying(() => {});
  assert.equal(Number(parquetMetadata(good.buffer as ArrayBuffer).num_rows), 77);
  let lies = 0;
  for (let i = 0; i + 1 < good.length; i++) {
    if (good[i] !== seventySeven[0] || good[i + 1] !== seventySeven[1]) continue;
    lies++;
    const bad = good.slice();
    bad.set(most, i);
    await Deno.writeFile(path, bad);
    const messages: string[] = [];
    for await (const batch of parquetRows(path, (error) => messages.push(error.message))) {
      assert.equal(batch.length, 77, "the number of all rows is only repeated");
    }
    assert.ok(messages.every((message) => /: damaged: /.test(message)), messages.join());
  }
  assert.ok(lies >= 3, "in the page, the column, the group");
  await Deno.remove(path);
});
