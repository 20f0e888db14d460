import assert from "node:assert/strict";
import { relativeBucket, relativeBuckets, t5Bucket, t5Buckets } from "../../models/relative.ts";

/** "bucket:last distance", as the reference gives them; the first entry is the last exact bucket. */
const GOLDEN: Record<string, string> = {
  "32/128": "8:8 9:11 10:17 11:26 12:38 13:57 14:85 15:1024",
  "64/128": "16:16 17:18 18:21 19:24 20:27 21:31 22:36 23:42 24:48 25:55 26:63 27:73 28:83 29:96 " +
    "30:110 31:1024",
  "128/256":
    "32:32 33:34 34:36 35:39 36:41 37:44 38:47 39:51 40:54 41:58 42:62 43:66 44:71 45:76 " +
    "46:81 47:87 48:93 49:99 50:106 51:114 52:122 53:130 54:139 55:149 56:159 57:170 58:182 59:195 " +
    "60:208 61:223 62:238 63:1024",
  "128/128":
    "34:34 35:36 36:38 37:39 38:41 39:43 40:45 41:47 42:49 43:52 44:54 45:57 46:59 47:62 " +
    "48:65 49:68 50:71 51:74 52:77 53:81 54:85 55:88 56:93 57:97 58:101 59:106 60:111 61:116 62:121 " +
    "63:1024",
};

for (const [name, table] of Object.entries(GOLDEN)) {
  Deno.test(`relativeBucket: golden table ${name}, in both directions`, () => {
    const [buckets, distance] = name.split("/").map(Number);
    const config = { relativeBuckets: buckets, relativeMaxDistance: distance };
    const middle = buckets / 2 - 1;
    const entries = table.split(" ").map((entry) => entry.split(":").map(Number));
    for (let n = 0; n < 1024; n++) {
      const expected = n <= entries[0][1] ? n : entries.find(([, last]) => n <= last)![0];
      assert.equal(relativeBucket(n, config), middle + expected, `distance ${n}`);
      assert.equal(relativeBucket(-n, config), middle - expected, `distance ${-n}`);
      assert.equal(relativeBucket(n, config, 1024), middle + expected, `distance ${n} of 1024`);
    }
  });
}

Deno.test("relativeBuckets: one per relative position, from the farthest key before", () => {
  const config = { relativeBuckets: 128, relativeMaxDistance: 256 };
  const rows = relativeBuckets(512, 300, config);
  assert.equal(rows.length, 811);
  assert.equal(rows[0], relativeBucket(-511, config));
  assert.equal(rows[511], 63);
  assert.equal(rows[810], relativeBucket(299, config));
});

Deno.test("relativeBucket: few positions leave the far buckets out", () => {
  const config = { relativeBuckets: 32, relativeMaxDistance: 128 };
  assert.equal(relativeBucket(-63, config, 64), 0);
  assert.equal(relativeBucket(63, config, 64), 28);
});

/** "bucket:last distance" of T5 with 32 buckets up to 128, from the last exact bucket on. */
const T5: Record<"encoder" | "decoder", string> = {
  encoder: "7:7 8:11 9:15 10:22 11:31 12:45 13:63 14:90 15:1023",
  decoder: "15:15 16:18 17:20 18:23 19:26 20:30 21:34 22:39 23:45 24:51 25:58 26:66 27:76 28:86 " +
    "29:98 30:112 31:1023",
};

for (const [stack, table] of Object.entries(T5)) {
  Deno.test(`t5Bucket: the buckets of the ${stack}`, () => {
    const config = { relativeBuckets: 32, relativeMaxDistance: 128 };
    const bidirectional = stack === "encoder";
    const entries = table.split(" ").map((entry) => entry.split(":").map(Number));
    for (let n = 0; n < 1024; n++) {
      const expected = n <= entries[0][1] ? n : entries.find(([, last]) => n <= last)![0];
      assert.equal(t5Bucket(-n, config, bidirectional), expected, `distance ${n}`);
      const after = bidirectional && n > 0 ? 16 + expected : 0;
      assert.equal(t5Bucket(n, config, bidirectional), after, `distance ${-n}`);
    }
    const rows = t5Buckets(512, 300, config, bidirectional);
    assert.equal(rows.length, 811);
    assert.equal(rows[0], t5Bucket(-511, config, bidirectional));
    assert.equal(rows[810], t5Bucket(299, config, bidirectional));
  });
}
