import assert from "node:assert/strict";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { compileTemplate } from "../../../tasks/jinja/evaluate.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { repr } from "../../../tasks/jinja/python.ts";
import { adaptRow, Float, type Row } from "../../../tasks/rows/mod.ts";
import { made, readRowText, rowText } from "../../../tasks/rows/stored.ts";
import { index, inFolder, rowsIn, stream, table } from "./rows_folder.ts";

Deno.test("JSON Lines: blank lines, a byte order mark, carriage returns, no newline at the end", () =>
  inFolder(
    { "d/train.jsonl": '\ufeff{"a":"é 👩"}\r\n\r\n \n{"a":null}\n{"a":[1,{"b":true}]}' },
    async (dir) => {
      assert.deepEqual(await rowsIn(dir), [{ a: "é 👩" }, { a: null }, { a: [1, { b: true }] }]);
      const { parts } = await index(dir);
      assert.ok(parts[0].path.endsWith("/d/train.jsonl") && !parts[0].path.includes(".cache"));
    },
  ));

Deno.test("JSON: whole floats stay floats, long integers keep their digits", () =>
  inFolder({
    "d/train.jsonl":
      '{"a":1.0,"b":[-0.0, 2e3 ,1.5],"c":" :1.0, ","d":{"e":100.00}}\n{"a":1,"b":[9007199254740991]}\n' +
      '{"a":-12345678901234567890,"b":1e400}',
  }, async (dir) => {
    const rows = await rowsIn(dir);
    assert.deepEqual(rows, [
      {
        a: new Float(1),
        b: [new Float(-0), new Float(2000), 1.5],
        c: " :1.0, ",
        d: { e: new Float(100) },
      },
      { a: 1, b: [9007199254740991], c: null, d: null },
      { a: -12345678901234567890n, b: Infinity, c: null, d: null },
    ]);
    assert.equal(JSON.stringify(rows[0].b), "[-0.0,2000.0,1.5]");
  }));

Deno.test("names: hyphens become underscores, StoryCloze's columns get the Hub's names", () =>
  inFolder({
    "d/train.jsonl": '{"a-b-c":{"d-e":1}}',
    "sc/2016/train.csv":
      'InputStoryid,InputSentence1,RandomFifthSentenceQuiz2,AnswerRightEnding\nx-1,"Hi, you",Bye,2\n',
  }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [{ a_b_c: { "d-e": 1 } }]);
    assert.deepEqual(await stream(dir, undefined, "sc/2016"), [
      {
        story_id: "x-1",
        input_sentence_1: "Hi, you",
        sentence_quiz2: "Bye",
        answer_right_ending: 2,
      },
    ]);
  }));

const ROWS = [{ n: 0, t: "zero" }, { n: 1, t: 'a "q", [b] {c} \\' }, { n: 2, t: "é\n👩" }];
const LINES = ROWS.map((row) => JSON.stringify(row)).join("\n");

for (
  const [name, content] of Object.entries<string | Uint8Array>({
    "train.jsonl": LINES,
    "train.jsonl.gz": gzipSync(LINES),
    "train.json": `\ufeff \n${JSON.stringify(ROWS, null, 2)}\n`,
    "train.json.gz": gzipSync(JSON.stringify(ROWS)),
    "train.csv": 'n,t\n0,zero\n1,"a ""q"", [b] {c} \\"\n2,"é\n👩"',
    "train.csv.gz": gzipSync('\ufeffn,t\r\n0,zero\r\n1,"a ""q"", [b] {c} \\"\r\n\r\n2,"é\n👩"\r\n'),
    "train.parquet": table({ n: [0, 1, 2], t: ROWS.map(({ t }) => t) }),
  })
) {
  Deno.test(`${name}: gives the same rows, streamed and by number`, () =>
    inFolder({ [`d/${name}`]: content }, async (dir) => {
      assert.deepEqual(await rowsIn(dir), ROWS);
    }));
}

Deno.test("a .json file may also hold lines", () =>
  inFolder({ "d/train.json": LINES }, async (dir) => assert.deepEqual(await rowsIn(dir), ROWS)));

Deno.test("JSON array: elements that straddle reads, nested and long", async () => {
  const rows = Array.from({ length: 3000 }, (_, i) => ({ i, t: `"],[{\\${"é".repeat(i % 300)}` }));
  await inFolder({ "d/train.json": JSON.stringify(rows) }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), rows);
  });
});

Deno.test("CSV: the type of a column is what all its cells are, over all shards", () =>
  inFolder({
    "d/train-00000-of-00002.csv": "i,f,b,t,e,big\n1,1,True,1,,1\n,2.5,False,x,,2\n",
    "d/train-00001-of-00002.csv": "i,f,b,t,e,big\n-7,,true,,,9007199254740993\n+8,1e1,,3,,0\n",
  }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [
      { i: 1, f: new Float(1), b: true, t: "1", e: null, big: 1 },
      { i: null, f: 2.5, b: false, t: "x", e: null, big: 2 },
      { i: -7, f: null, b: true, t: null, e: null, big: 9007199254740993n },
      { i: 8, f: new Float(10), b: null, t: "3", e: null, big: 0 },
    ]);
  }));

Deno.test("CSV: quotes, commas, line ends and quotes that are text", () =>
  inFolder({ "d/train.csv": 'a,b\n"x,y","1\r\n""2""\n"\n it"s ,"" \n"p"q,\r\n' }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [
      { a: "x,y", b: '1\r\n"2"\n' },
      { a: ' it"s ', b: " " },
      { a: "pq", b: null },
    ]);
  }));

Deno.test("CSV: a cell of many reads and many lines", async () => {
  const cell = 'é "q", \n'.repeat(80_000);
  const csv = `a,b\n1,"${cell.replaceAll('"', '""')}"\n2,x\n`;
  await inFolder({ "d/train.csv": csv }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [{ a: 1, b: cell }, { a: 2, b: "x" }]);
  });
});

const NESTED = {
  id: [1n, 2n ** 60n, null, -4n],
  choices: [
    { text: ["a", null, "c"], label: [1, 2.5, null] },
    { text: [], label: null },
    null,
    { text: null, label: [3] },
  ],
  people: [[{ name: "x", age: 1n }, { name: null, age: null }], [], null, [null, {
    name: "y",
    age: 3n,
  }]],
  f: [1, 0.25, null, NaN],
};
const list = (name: string, ...element: object[]) => [
  { name, repetition_type: "OPTIONAL", num_children: 1, converted_type: "LIST" },
  { name: "list", repetition_type: "REPEATED", num_children: 1 },
  ...element,
];
const leaf = (name: string, type: string) =>
  type === "STRING"
    ? { name, type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" }
    : { name, type, repetition_type: "OPTIONAL" };
const struct = (name: string, children: number) => ({
  name,
  repetition_type: "OPTIONAL",
  num_children: children,
});
const NESTED_SCHEMA = [
  { name: "root", num_children: 4 },
  leaf("id", "INT64"),
  struct("choices", 2),
  ...list("text", leaf("element", "STRING")),
  ...list("label", leaf("element", "DOUBLE")),
  ...list("people", struct("element", 2), leaf("name", "STRING"), leaf("age", "INT64")),
  leaf("f", "FLOAT"),
];

for (
  const [codec, compress] of Object.entries({
    UNCOMPRESSED: undefined,
    SNAPPY: undefined,
    GZIP: gzipSync,
    ZSTD: zstdCompressSync,
  })
) {
  Deno.test(`Parquet, ${codec}: nested values, nulls, 64 bits and floats`, () => {
    const compressors = compress &&
      { [codec]: (bytes: Uint8Array) => new Uint8Array(compress(bytes)) };
    const bytes = table(NESTED, { schema: NESTED_SCHEMA, codec, compressors });
    return inFolder({ "d/train.parquet": bytes }, async (dir) => {
      assert.deepEqual(await rowsIn(dir), [
        {
          id: 1,
          choices: { text: ["a", null, "c"], label: [new Float(1), 2.5, null] },
          people: [{ name: "x", age: 1 }, { name: null, age: null }],
          f: new Float(1),
        },
        { id: 1152921504606846976n, choices: { text: [], label: null }, people: [], f: 0.25 },
        { id: null, choices: null, people: null, f: null },
        {
          id: -4,
          choices: { text: null, label: [new Float(3)] },
          people: [null, { name: "y", age: 3 }],
          f: NaN,
        },
      ]);
    });
  });
}

Deno.test("Parquet: dates and times are printed as Python prints them", () => {
  const time = {
    name: "time",
    type: "INT64",
    converted_type: "TIMESTAMP_MICROS",
    repetition_type: "OPTIONAL",
  };
  const bytes = table(
    { day: [new Date(0), new Date("2020-02-29")], time: [-1n, 86_400_000_000n] },
    {
      schema: [
        { name: "root", num_children: 2 },
        { name: "day", type: "INT32", converted_type: "DATE", repetition_type: "OPTIONAL" },
        time,
      ],
    },
  );
  return inFolder({ "d/train.parquet": bytes }, async (dir) => {
    const template = compileTemplate("{{ day }} {{ time }}");
    assert.deepEqual((await rowsIn(dir)).map((row) => template.render(row)), [
      "1970-01-01 1969-12-31 23:59:59.999999",
      "2020-02-29 1970-01-02 00:00:00",
    ]);
  });
});

Deno.test("Parquet: maps and JSON are objects", () => {
  const schema = [
    { name: "root", num_children: 2 },
    { name: "map", repetition_type: "OPTIONAL", num_children: 1, converted_type: "MAP" },
    { name: "key_value", repetition_type: "REPEATED", num_children: 2 },
    { ...leaf("key", "STRING"), repetition_type: "REQUIRED" },
    leaf("value", "DOUBLE"),
    { name: "json", type: "BYTE_ARRAY", converted_type: "JSON", repetition_type: "OPTIONAL" },
  ];
  const json = [{ a: [1, { b: 0.5 }] }, null];
  const map = [{ x: 1, y: null }, null];
  return inFolder({ "d/train.parquet": table({ map, json }, { schema }) }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [
      { map: { x: new Float(1), y: null }, json: json[0] },
      { map: null, json: null },
    ]);
  });
});

Deno.test("shards are read in their order, an empty one among them is no mistake", () =>
  inFolder({
    "d/train-00002-of-00003.jsonl": '{"a":3}\n{"a":4}',
    "d/train-00000-of-00003.jsonl": '{"a":1}\n\n{"a":2}\n',
    "d/train-00001-of-00003.jsonl": "",
    "p/train-00000-of-00002-0123abcdef.parquet": table({ a: [1, 2, 3] }),
    "p/train-00001-of-00002-4567abcdef.parquet": table({ a: [4] }),
  }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [1, 2, 3, 4].map((a) => ({ a })));
    assert.deepEqual((await index(dir)).parts.map(({ firstRow }) => firstRow), [0, 2, 2]);
    assert.deepEqual(await stream(dir, undefined, "p"), [1, 2, 3, 4].map((a) => ({ a })));
  }));

Deno.test("trec: either pair of names serves templates of both versions", () => {
  const row = { text: "Who ?", label_coarse: 3, label_fine: 30 };
  assert.deepEqual(adaptRow("trec", row), { ...row, coarse_label: 3, fine_label: 30 });
  assert.deepEqual(adaptRow("CogComp/trec", { fine_label: 4 }, ["label_fine", "text"]), {
    fine_label: 4,
    label_fine: 4,
  });
  assert.equal(adaptRow("ag_news", row), row);
});

Deno.test("a field that a row lacks is null there, in objects and lists, too; one that none has is missing", () =>
  inFolder({
    "d/train-00000-of-00002.jsonl": '{"a":1,"o":{"x":1}}\n{"b":[{"y":1},{"z":2}],"a":2}',
    "d/train-00001-of-00002.jsonl": '{"o":{"w":3},"__proto__":4,"b":[]}',
    "p/train-00000-of-00002.parquet": table({ a: [1] }),
    "p/train-00001-of-00002.parquet": table({ b: ["x"] }),
    "c/train-00000-of-00002.csv": "a\n1\n",
    "c/train-00001-of-00002.csv": "b\n2\n",
  }, async (dir) => {
    const rows = await rowsIn(dir);
    const own = (value: unknown) => Object.fromEntries([["__proto__", value]]);
    assert.deepEqual(
      rows,
      [
        { a: 1, o: { x: 1, w: null }, b: null, ...own(null) },
        { b: [{ y: 1, z: null }, { z: 2, y: null }], a: 2, o: null, ...own(null) },
        { o: { w: 3, x: null }, ...own(4), b: [], a: null },
      ].map((row) => Object.fromEntries(Object.entries(row))),
    );
    assert.deepEqual(rows.map((row) => Object.hasOwn(row, "none")), [false, false, false]);
    for (const dataset of ["p", "c"]) {
      const [first, second] = await stream(dir, undefined, dataset);
      assert.deepEqual([first.b, second.a], [null, null], dataset);
    }
  }));

Deno.test("the order of rows does not change which fields they have", () => {
  const random = new Random(key(5));
  const rows = Array.from({ length: 20 }, () =>
    Object.fromEntries(
      ["a", "b", "c"].filter(() => random.below(2)).map((name) => [name, random.below(2) ? 1 : {}]),
    ));
  const sorted = (all: Row[]) =>
    all.map((row) => JSON.stringify(Object.entries(row).sort())).sort();
  return inFolder({
    "d/train.jsonl": rows.map((row) => JSON.stringify(row)).join("\n"),
    "e/train.jsonl": rows.toReversed().map((row) => JSON.stringify(row)).join("\n"),
  }, async (dir) => {
    assert.deepEqual(sorted(await stream(dir, undefined, "e")), sorted(await rowsIn(dir)));
  });
});

Deno.test("JSON Lines: lines that carriage returns end are rows, those inside a row are white space", async () => {
  const rows = [{ a: "x" }, { a: "y\r\n" }, { a: "z" }];
  const lines = rows.map((row) => JSON.stringify(row));
  for (const end of ["\n", "\r\n", "\r"]) {
    await inFolder({ "d/train.jsonl": `${lines.join(end)}${end}` }, async (dir) => {
      assert.deepEqual(await rowsIn(dir), rows, JSON.stringify(end));
    });
  }
  const mixed = `{"a":\r1}\r\n{"a":2}\r\r{"a":3}\n{"a":4}\r{"a":5}`;
  await inFolder({ "d/train.jsonl": mixed }, async (dir) => {
    assert.deepEqual(await rowsIn(dir), [1, 2, 3, 4, 5].map((a) => ({ a })));
  });
});

Deno.test("CSV: records end with a newline, a carriage return, or both; in quotes these are text", async () => {
  const random = new Random(key(9));
  const pieces = ["\r", "\n", "\r\n", ",", '"', "a", "é", " "];
  const cell = () =>
    "t" + Array.from({ length: random.below(5) }, () => pieces[random.below(8)]).join("");
  const quoted = (text: string) =>
    /[",\r\n]/.test(text) || random.below(3) === 0 ? `"${text.replaceAll('"', '""')}"` : text;
  for (let i = 0; i < 40; i++) {
    const rows = Array.from({ length: 1 + random.below(5) }, () => ({ a: cell(), b: cell() }));
    const end = () => ["\n", "\r\n", "\r"][i % 4] ?? ["\n", "\r\n", "\r"][random.below(3)];
    const text = ["a,b", ...rows.map(({ a, b }) => `${quoted(a)},${quoted(b)}`)]
      .map((line) => line + end()).join(random.below(2) ? end() : "");
    await inFolder({ "d/train.csv": text }, async (dir) => {
      assert.deepEqual(await rowsIn(dir), rows, JSON.stringify(text));
    });
  }
});

Deno.test("JSON Lines: NaN and the infinities are numbers as Python prints them", () =>
  inFolder({
    "d/train.jsonl": '{"a": NaN, "b": [Infinity, -Infinity], "c": "NaN", "d": 1.0}',
    "e/train.json": '[{"a": NaN}]',
  }, async (dir) => {
    const [row] = await rowsIn(dir);
    const template = compileTemplate("{{ a }} {{ b }} {{ c }} {{ d }}");
    assert.equal(template.render(row), "nan [inf, -inf] NaN 1.0");
    assert.deepEqual(await stream(dir, undefined, "e"), [{ a: NaN }]);
  }));

Deno.test("rows that were converted are the same again: dates, decimals, bytes, keys, marks", () => {
  const row = {
    day: made("date", 18262),
    at: made("time", 3_723_000_000),
    when: made("moment", "1577934245000001", "UTC", 7),
    there: made("moment", "1577934245000000", "Europe/Paris", 0),
    long: made("duration", "-1000000"),
    price: made("decimal", "110", 2),
    raw: made("bytes", "AP8="),
    big: 2n ** 70n,
    numbers: [NaN, -Infinity, new Float(2), 0.1, -1],
    keys: new Map<unknown, unknown>([[2, "b"], [1, made("decimal", "5", 0)]]),
    nested: { $: ["float", "NaN"] },
    other: { $: 1, x: 2 },
  };
  const again = readRowText(rowText(row));
  assert.equal(rowText(again), rowText(row));
  const expected = "{'day': datetime.date(2020, 1, 1), 'at': datetime.time(1, 2, 3), " +
    "'when': Timestamp('2020-01-02 03:04:05.000001007+00:00', tz='UTC'), " +
    "'there': datetime.datetime(2020, 1, 2, 4, 4, 5, tzinfo=zoneinfo.ZoneInfo(key='Europe/Paris')), " +
    "'long': datetime.timedelta(days=-1, seconds=86399), 'price': Decimal('1.10'), " +
    "'raw': b'\\x00\\xff', 'big': 1180591620717411303424, " +
    "'numbers': [nan, -inf, 2.0, 0.1, -1], 'keys': {2: 'b', 1: Decimal('5')}, " +
    "'nested': {'$': ['float', 'NaN']}, 'other': {'$': 1, 'x': 2}}";
  assert.equal(repr(again), expected);
  assert.equal(repr(row), repr(again));
});
