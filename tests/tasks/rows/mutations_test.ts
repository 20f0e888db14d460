// Files of rows with random damage give rows, or one line that names the file; never anything else.

import assert from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { key, Random } from "../../../ops/graph/random.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { readRows } from "../../../tasks/rows/mod.ts";
import { inFolder, table, utf8, write } from "./rows_folder.ts";

/** Of each file; `METRO_MUTATIONS=3000` for more. */
const MUTATIONS = Number(Deno.env.get("METRO_MUTATIONS") ?? 60);

const ROWS = [
  { id: 1, text: "é 👩", more: { a: [1, 2.5], b: null } },
  { id: 2, text: 'a "quoted", text', more: { a: [], b: "x" } },
  { id: 3, text: "\n\t\\", more: null },
];
const CSV = 'id,text,n\r\n1,"a ""q"", b",2.5\n2,"x\r\ny",\n3,z,1e3\n';
const LINES = ROWS.map((row) => JSON.stringify(row)).join("\n");
const COLUMNS = {
  id: Array.from({ length: 50 }, (_, i) => BigInt(i) ** 9n),
  text: Array.from({ length: 50 }, (_, i) => i % 7 ? `row ${i % 5}` : null),
  list: Array.from({ length: 50 }, (_, i) => ({ a: [i, null], b: `é${i}` })),
};

const FILES: Record<string, Uint8Array> = {
  "train.jsonl": utf8(LINES),
  "train.json": utf8(JSON.stringify(ROWS, null, 1)),
  "train.csv": utf8(CSV),
  "train.jsonl.gz": gzipSync(LINES),
  "train.parquet": table(COLUMNS, { codec: "UNCOMPRESSED", rowGroupSize: 20 }),
  "train-00000-of-00001.parquet": table(COLUMNS, { codec: "SNAPPY", rowGroupSize: 20 }),
};

const WORDS = [
  "\r",
  "\n",
  '"',
  ",",
  "{",
  "[",
  "\0",
  "\ufeff",
  "NaN",
  "1e999",
  "\\u",
  "]".repeat(3000),
];

/** Flips bits, cuts, doubles, and puts in numbers and signs that mean something. */
function mutated(bytes: Uint8Array, random: Random): Uint8Array {
  let out = Array.from(bytes);
  for (let times = 1 + random.below(3); times > 0; times--) {
    const at = random.below(Math.max(1, out.length));
    const length = random.below(40);
    const kind = random.below(7);
    if (kind === 0) out[at] ^= 1 << random.below(8);
    else if (kind === 1) out[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
    else if (kind === 2) out = out.slice(0, at);
    else if (kind === 3) out.splice(at, length);
    else if (kind === 4) out.splice(at, 0, ...out.slice(at, at + length));
    else if (kind === 5) { for (let i = at; i < Math.min(at + 5, out.length); i++) out[i] = 0xff; }
    else out.splice(at, 0, ...utf8(WORDS[random.below(WORDS.length)]));
  }
  return Uint8Array.from(out);
}

for (const [number, [name, good]] of Object.entries(FILES).entries()) {
  Deno.test(`${name}: whatever is damaged, there are rows or one line`, () =>
    inFolder({}, async (dir) => {
      const random = new Random(key(17, number));
      let refused = 0;
      for (let i = 0; i < MUTATIONS; i++) {
        const bytes = mutated(good, random);
        await write(`${dir}/d/${name}`, bytes);
        const messages: string[] = [];
        const onBad = (error: UserError) => void messages.push(error.message);
        for await (const { row } of readRows(dir, "d", "train", { onBad })) {
          assert.equal(typeof row, "object");
        }
        for (const message of messages) {
          assert.ok(message.includes(name) && !message.includes("\n"), message);
        }
        refused += Math.min(1, messages.length);
      }
      assert.ok(refused > 0, "the damage is felt");
    }));
}
