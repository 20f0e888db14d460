import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { gzipSync } from "node:zlib";
import { parquetWriteBuffer } from "hyparquet-writer";
import { UserError } from "../../../ops/graph/errors.ts";
import {
  listCorpus,
  readDocuments,
  type ReadOptions,
  sampleLines,
} from "../../../tasks/text/corpus.ts";

async function inFolder(files: Record<string, string | Uint8Array>, body: Body): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    for (const [name, content] of Object.entries(files)) {
      const folder = name.includes("/") ? `${dir}/${name.slice(0, name.lastIndexOf("/"))}` : dir;
      await Deno.mkdir(folder, { recursive: true });
      const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
      await Deno.writeFile(`${dir}/${name}`, bytes);
    }
    await body(dir);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}
type Body = (dir: string) => Promise<void> | void;

async function read(paths: string[], options?: ReadOptions): Promise<string[][]> {
  return (await Array.fromAsync(readDocuments(paths, options))).map((document) => document.lines);
}

function parquet(columns: { name: string; data: unknown[] }[], rowGroupSize = 2): Uint8Array {
  return new Uint8Array(parquetWriteBuffer({ columnData: columns as never, rowGroupSize }));
}

function userError(...parts: string[]): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof UserError, String(error));
    for (const part of parts) assert.ok(error.message.includes(part), error.message);
    assert.ok(!error.message.includes("\n"), "one line");
    return true;
  };
}

Deno.test("text: blank lines separate documents, lines are trimmed", () =>
  inFolder({ "a.txt": "\n one \r\ntwo\n\n \t\n\nthree\n \nfour" }, async (dir) => {
    assert.deepEqual(await read([`${dir}/a.txt`]), [["one", "two"], ["three"], ["four"]]);
  }));

Deno.test("text: a byte order mark at the beginning is not text", () =>
  inFolder({ "a.txt": "\ufeffone\n" }, async (dir) => {
    assert.deepEqual(await read([dir]), [["one"]]);
  }));

Deno.test("JSON Lines: the text's newlines give the lines", () =>
  inFolder(
    { "a.jsonl": '{"text":"a\\n\\n b","x":1}\n\n{"text":""}\n{"text":"c"}' },
    async (dir) => {
      assert.deepEqual(await read([dir]), [["a", "b"], ["c"]]);
    },
  ));

Deno.test("gzip: several members in one file are one text", () =>
  inFolder({
    "a.txt.gz": new Uint8Array(Buffer.concat([gzipSync("one\n"), gzipSync("two\n\nthree")])),
    "b.jsonl.gz": gzipSync('{"text":"four"}'),
  }, async (dir) => {
    assert.deepEqual(await read([dir]), [["one", "two"], ["three"], ["four"]]);
  }));

Deno.test("Parquet: the column text, over several row groups, nulls left out", () =>
  inFolder({
    "a.parquet": parquet([
      { name: "id", data: [1, 2, 3, 4, 5] },
      { name: "text", data: ["a\nb", null, "é 👩", "", "d"] },
    ]),
  }, async (dir) => {
    assert.deepEqual(await read([dir]), [["a", "b"], ["é 👩"], ["d"]]);
  }));

Deno.test("folders are searched to the bottom, sorted, other files skipped; each file once", () =>
  inFolder(
    { "b/x.txt": "2", "a/y/z.txt": "1", "c.jsonl": '{"text":"3"}', "README.md": "no" },
    async (dir) => {
      assert.deepEqual(await read([dir, `${dir}/c.jsonl`]), [["1"], ["2"], ["3"]]);
    },
  ));

Deno.test("globs: *, **, ?, braces and character sets", () =>
  inFolder(
    { "s1.txt": "1", "s2.txt": "2", "t.jsonl": '{"text":"t"}', "d/e/s3.txt": "3", "(x).txt": "x" },
    (dir) => {
      const names = (glob: string) =>
        listCorpus([`${dir}/${glob}`]).map(({ path }) => path.slice(dir.length + 1));
      assert.deepEqual(names("s?.txt"), ["s1.txt", "s2.txt"]);
      assert.deepEqual(names("s[2-9].txt"), ["s2.txt"]);
      assert.deepEqual(names("**/*.txt"), ["(x).txt", "d/e/s3.txt", "s1.txt", "s2.txt"]);
      assert.deepEqual(names("{s1.*,t.jsonl}"), ["s1.txt", "t.jsonl"]);
      assert.deepEqual(names("d/*/s3.txt"), ["d/e/s3.txt"]);
      assert.deepEqual(names("(x).*"), ["(x).txt"]);
    },
  ));

Deno.test("a document beyond the limit is split at a line end, an endless line at a space", () =>
  inFolder(
    { "a.txt": "aaaa\nbbbb\ncccc\n", "b.txt": "dd ee ff gg hh", "c.txt": "😀😀😀😀😀😀" },
    async (dir) => {
      const documents = await read([dir], { maxDocument: 11 });
      assert.deepEqual(documents, [
        ["aaaa", "bbbb"],
        ["cccc"],
        ["dd ee ff gg"],
        ["hh"],
        ["😀😀😀😀😀"],
        ["😀"],
      ]);
    },
  ));

Deno.test("a file of one line of many megabytes streams in pieces and loses nothing", async () => {
  const text = "wörd ".repeat(600_000);
  await inFolder({ "a.txt": text }, async (dir) => {
    const documents = await read([dir]);
    assert.ok(documents.length > 2);
    assert.ok(documents.flat().every((line) => line.length <= 1_000_000));
    assert.equal(documents.flat().join(" "), text.trim());
  });
});

Deno.test("characters that straddle a read are whole", async () => {
  const text = Array.from({ length: 40_000 }, (_, i) => `${"€".repeat(i % 7)}${i}`).join("\n");
  await inFolder({ "a.txt": text }, async (dir) => {
    assert.equal((await read([dir])).flat().join("\n"), text);
  });
});

Deno.test("sampleLines takes an equal share of every file", () =>
  inFolder(
    { "a.txt": "aaaaaaaaaa\n\n".repeat(50), "b.txt": "bbbbbbbbbb\n\n".repeat(50) },
    async (dir) => {
      const lines = await Array.fromAsync(sampleLines([dir], 40));
      assert.deepEqual(lines.map((line) => line[0]), ["a", "a", "b", "b"]);
    },
  ));

Deno.test("invalid UTF-8 is refused with file and line", async () => {
  const lines = "good\n".repeat(70_000); // beyond one read
  const bytes = new Uint8Array([...new TextEncoder().encode(lines), 0x61, 0xff, 0x0a]);
  await inFolder({ "a.txt": bytes }, async (dir) => {
    await assert.rejects(read([dir]), userError(`a.txt:70001:`, "UTF-8"));
  });
});

Deno.test("broken JSON and a record without text are refused with file and line", () =>
  inFolder({
    "a.jsonl": '{"text":"a"}\n\n{"text":',
    "b.jsonl": '{"text":"a"}\n{"body":"a"}',
    "c.jsonl": "null",
    "d.jsonl": '{"text":3}',
  }, async (dir) => {
    await assert.rejects(read([`${dir}/a.jsonl`]), userError("a.jsonl:3:", "not JSON"));
    await assert.rejects(read([`${dir}/b.jsonl`]), userError("b.jsonl:2:", '"text"'));
    await assert.rejects(read([`${dir}/c.jsonl`]), userError("c.jsonl:1:", '"text"'));
    await assert.rejects(read([`${dir}/d.jsonl`]), userError("d.jsonl:1:", "string"));
  }));

Deno.test("broken and unsuitable Parquet is refused with the file and the reason", () => {
  const good = parquet([{ name: "text", data: ["a", "b", "c"] }]);
  return inFolder({
    "cut.parquet": good.subarray(0, good.length - 9),
    "empty.parquet": "",
    "other.parquet": parquet([{ name: "body", data: ["a"] }]),
    "number.parquet": parquet([{ name: "text", data: [1, 2] }]),
  }, async (dir) => {
    await assert.rejects(read([`${dir}/cut.parquet`]), userError("cut.parquet"));
    await assert.rejects(read([`${dir}/empty.parquet`]), userError("empty.parquet"));
    await assert.rejects(read([`${dir}/other.parquet`]), userError("other.parquet", "body"));
    await assert.rejects(read([`${dir}/number.parquet`]), userError("number.parquet", "row 0"));
  });
});

Deno.test("a cut or false gzip file is refused with its name", () =>
  inFolder(
    { "cut.txt.gz": gzipSync("x".repeat(100)).subarray(0, 20), "no.txt.gz": "plain" },
    async (dir) => {
      await assert.rejects(read([`${dir}/cut.txt.gz`]), userError("cut.txt.gz"));
      await assert.rejects(read([`${dir}/no.txt.gz`]), userError("no.txt.gz"));
    },
  ));

Deno.test("missing paths, empty matches, unknown kinds and no text are each one clear line", () =>
  inFolder({ "a.csv": "x", "blank.txt": " \n\n" }, async (dir) => {
    assert.throws(() => listCorpus([]), userError("no corpus"));
    assert.throws(() => listCorpus([`${dir}/none.txt`]), userError("none.txt", "no such file"));
    assert.throws(() => listCorpus([`${dir}/*.jsonl`]), userError("*.jsonl", "matches no"));
    assert.throws(() => listCorpus([`${dir}/a.csv`]), userError("a.csv", ".txt", ".parquet"));
    await Deno.mkdir(`${dir}/empty`);
    assert.throws(() => listCorpus([`${dir}/empty`]), userError("empty", "holds no"));
    await assert.rejects(read([`${dir}/blank.txt`]), userError("no text", "blank.txt"));
  }));

Deno.test("a file is read once, whatever links and spellings lead to it", () =>
  inFolder({ "c/sub/a.txt": "one\n", "e/é #%.txt": "two\n", "e/-x.txt": "three" }, async (dir) => {
    await Deno.symlink(".", `${dir}/c/latest`);
    await Deno.symlink("sub/a.txt", `${dir}/c/b.txt`);
    const texts = async (...paths: string[]) => (await read(paths)).flat();
    assert.deepEqual(await texts(`${dir}/c`), ["one"]);
    const spellings = [`${dir}/c/sub/a.txt`, `${dir}/c/./sub/../b.txt`, `${dir}/c/latest/b.txt`];
    assert.deepEqual(await texts(...spellings, `${dir}/c/**/*.txt`), ["one"]);
    assert.deepEqual(listCorpus(spellings).map(({ path }) => path), [spellings[0]]);
    assert.deepEqual(await texts(`${dir}/e`), ["three", "two"]);
    assert.deepEqual(await texts(`${dir}/e/é #%.txt`, `${dir}/e/[-]*`), ["two", "three"]);
  }));

Deno.test("links to nothing and patterns that are none are one line each", () =>
  inFolder({ "t/a.txt": "one\n" }, async (dir) => {
    assert.throws(() => listCorpus([`${dir}/[z-a].txt`]), userError("[z-a].txt: matches no"));
    assert.throws(() => listCorpus([`${dir}/[.txt`]), userError("[.txt: matches no"));
    await Deno.writeTextFile(`${dir}/[.txt`, "bracket");
    assert.deepEqual(await read([`${dir}/[.txt`]), [["bracket"]]);
    await Deno.symlink("/no/such/file.txt", `${dir}/t/b.txt`);
    await Deno.symlink("/no/such/notes", `${dir}/t/notes`);
    for (const path of ["t", "t/*.txt", "t/b.txt"]) {
      assert.throws(() => listCorpus([`${dir}/${path}`]), userError("t/b.txt: cannot be read: no"));
    }
  }));

Deno.test("lines end with a newline, a carriage return, or both", async () => {
  const expected = [["one", "two"], ["three"]];
  const lines = ["one", "two", "", "three", ""];
  for (const end of ["\n", "\r\n", "\r"]) {
    const text = lines.join(end);
    const record = JSON.stringify({ text: "one\rtwo\r\n" }) + end +
      JSON.stringify({ text: "three" });
    await inFolder({
      "a.txt": text,
      "b.txt": `\ufeff${text}`,
      "c.txt.gz": gzipSync(text),
      ...(end === "\r" ? {} : { "d.jsonl": record }),
    }, async (dir) => {
      const { length } = listCorpus([dir]);
      assert.deepEqual(await read([dir]), Array(length).fill(expected).flat(), JSON.stringify(end));
    });
  }
  // Longer than a block: a carriage return ends it, and its newline is in the next one.
  const long = `${"x".repeat(999_990)}\r\n\r\n`.repeat(3);
  await inFolder({ "a.txt": long.replaceAll("\n", ""), "b.txt": long }, async (dir) => {
    assert.equal((await read([`${dir}/a.txt`])).length, 3);
    assert.deepEqual(await read([`${dir}/a.txt`]), await read([`${dir}/b.txt`]));
  });
});

Deno.test("a text that is null is none, in JSON Lines as in Parquet", () =>
  inFolder({
    "a.jsonl": '{"text":null}\n{"text":"a", "score": NaN}\n{"text":null, "b": -Infinity}',
    "b.parquet": parquet([{ name: "text", data: [null, "b"] }]),
  }, async (dir) => assert.deepEqual(await read([dir]), [["a"], ["b"]])));

Deno.test("a file that unpacks to what no text does is refused", () =>
  inFolder({ "bomb.txt.gz": gzipSync(new Uint8Array(1 << 28)) }, async (dir) => {
    await assert.rejects(read([dir]), userError("bomb.txt.gz: unpacks to more than 200 times"));
  }));
