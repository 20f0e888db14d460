import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { lock } from "../../../tasks/files/lock.ts";
import {
  expectPackable,
  isFresh,
  isPackedBy,
  packCorpus,
  type PackRequest,
} from "../../../tasks/text/pack.ts";
import { expectNoOtherText } from "../../../tasks/text/same_text.ts";
import { openPacked, type PartName, readManifest } from "../../../tasks/text/packed.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";

/** One id per byte, and one for each line's added leading space. */
const bytes = new Tokenizer(
  await trainTokenizer(["a"], { vocabSize: 260, lowercase: false, sentinels: 4 }),
);
const [BOS, EOS] = [bytes.bos, bytes.eos];

type Options = Partial<PackRequest> & { rows?: number };

/** Packs documents (each a list of lines) in a folder that exists only for `body`. */
async function packed(
  documents: string[][],
  options: Options,
  body: (dir: string, request: PackRequest) => Promise<void> | void,
): Promise<void> {
  const dir = await Deno.makeTempDir();
  try {
    const text = documents.map((lines) => lines.join("\n") + "\n").join("\n");
    await Deno.writeTextFile(`${dir}/corpus.txt`, text);
    const request: PackRequest = {
      paths: [`${dir}/corpus.txt`],
      tokenizer: bytes,
      out: `${dir}/packed`,
      heldOut: 0,
      ...options,
    };
    await packCorpus(request);
    await body(dir, request);
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

function blocks(dir: string, part: PartName = "train"): number[][] {
  const opened = openPacked(dir, part);
  const all = Array.from({ length: opened.count }, (_, i) => [...opened.read(i)]);
  assert.deepEqual(all.map((block) => block.length), all.map((_, i) => opened.length(i)));
  assert.equal(opened.maxLength, Math.max(0, ...all.map((block) => block.length)));
  assert.equal(opened.tokens, all.flat().length);
  opened.close();
  return all;
}

function lineIds(line: string): number[] {
  return [...bytes.encode(line), EOS];
}

Deno.test("complete_doc: whole lines until the block is full, documents never mixed", () => {
  const [a, b, c, d] = ["aaa", "bbb", "ccc", "d"];
  return packed([[a, b, c], [d]], { block: 12 }, (dir) => {
    assert.deepEqual(blocks(`${dir}/packed`), [
      [BOS, ...lineIds(a), ...lineIds(b)], // 11 ids; a third line would need 16
      [BOS, ...lineIds(c)],
      [BOS, ...lineIds(d)],
    ]);
  });
});

Deno.test("complete_doc: a line that fills the block stays whole, a lone </s> is dropped", () =>
  packed([["a".repeat(6), "b".repeat(7)]], { block: 9 }, (dir) => {
    assert.deepEqual(blocks(`${dir}/packed`), [
      [BOS, ...lineIds("a".repeat(6))],
      [BOS, ...lineIds("b".repeat(7)).slice(0, 8)], // the ninth id would be a block of its own
    ]);
  }));

Deno.test("longLines split: the pieces are consecutive, the next line joins the last piece", () => {
  const long = "abcdefghijklmnopqrst";
  return packed([["x", long, "y"]], { block: 10, longLines: "split" }, (dir, request) => {
    const all = blocks(`${dir}/packed`);
    assert.deepEqual(all.flatMap((block) => block.slice(1)), ["x", long, "y"].flatMap(lineIds));
    assert.deepEqual(all.map((block) => block.length), [4, 10, 10, 8]);
    assert.equal(readManifest(request.out).cropped, 0);
  });
});

Deno.test("longLines crop: one window, the same each time, another for another seed", async () => {
  const long = Array.from({ length: 60 }, (_, i) => String.fromCharCode(48 + i)).join("");
  const starts = new Set<number>();
  for (const seed of [1, 1, 2, 3]) {
    await packed([[long, "y"]], { block: 10, longLines: "crop", seed }, (dir, request) => {
      const all = blocks(`${dir}/packed`);
      const ids = lineIds(long);
      const start = ids.indexOf(all[0][1]);
      starts.add(start);
      assert.deepEqual(all, [
        [BOS, ...ids.slice(start, start + 9)],
        [BOS, ...lineIds("y")],
      ]);
      assert.equal(readManifest(request.out).cropped, ids.length - 9);
    });
  }
  assert.ok(starts.size === 2 || starts.size === 3, `${starts.size} windows`);
});

Deno.test("concat: one stream cut into full blocks, the remainder kept", () => {
  const documents = [["abc", "de"], ["fghijklm"], ["n"]];
  return packed(documents, { block: 6, rule: "concat" }, (dir) => {
    const all = blocks(`${dir}/packed`);
    assert.deepEqual(all.flatMap((block) => block.slice(1)), documents.flat().flatMap(lineIds));
    assert.ok(all.slice(0, -1).every((block) => block.length === 6 && block[0] === BOS));
  });
});

Deno.test("concat: a remainder of one id is dropped", () =>
  packed([["abcdefgh"]], { block: 10, rule: "concat" }, (dir) => {
    assert.deepEqual(blocks(`${dir}/packed`), [[BOS, ...lineIds("abcdefgh").slice(0, 9)]]);
  }));

Deno.test("held-out documents are a fraction, disjoint, and the same for the same seed", async () => {
  const documents = Array.from({ length: 400 }, (_, i) => [`document ${i}`]);
  const split = async (seed: number): Promise<string[][]> => {
    let parts: string[][] = [];
    await packed(documents, { heldOut: 0.1, seed }, (dir) => {
      parts = (["train", "heldout"] as const).map((part) =>
        blocks(`${dir}/packed`, part).map((block) => bytes.decode(block.slice(1, -1)).trim())
      );
      const { train, heldout } = readManifest(`${dir}/packed`);
      assert.deepEqual([train.documents + heldout.documents, train.lines + heldout.lines], [
        400,
        400,
      ]);
    });
    return parts;
  };
  const [train, heldout] = await split(1);
  assert.ok(heldout.length > 20 && heldout.length < 65, `${heldout.length} of 400`);
  assert.deepEqual([...train, ...heldout].sort(), documents.flat().sort());
  assert.deepEqual(await split(1), [train, heldout]);
  assert.notDeepEqual(await split(2), [train, heldout]);
});

Deno.test("two documents are enough for both parts, whatever the seed and the fraction", async () => {
  for (const heldOut of [0.0001, 0.5, 0.9999]) {
    for (const seed of [1, 2, 3]) {
      await packed([["a"], ["b"]], { heldOut, seed }, (dir) => {
        assert.equal(blocks(`${dir}/packed`, "train").length, 1);
        assert.equal(blocks(`${dir}/packed`, "heldout").length, 1);
      });
    }
  }
  await packed([["a"]], { heldOut: 0.9 }, (dir) => {
    assert.equal(blocks(`${dir}/packed`, "train").length, 1);
    assert.equal(blocks(`${dir}/packed`, "heldout").length, 0);
  });
});

Deno.test("ids beyond 65,535 are stored in 32 bits", () => {
  const json = structuredClone(bytes.json);
  json.added_tokens = json.added_tokens.filter((token) => !token.content.startsWith("<sen"));
  const vocab = (json.model as { vocab: Record<string, number> }).vocab;
  // Pieces that no merge leads to, and one token after them.
  for (let id = Object.keys(vocab).length; id < 70_000; id++) vocab[`never ${id}`] = id;
  json.added_tokens.push({ id: 70_000, content: "<far>", special: true });
  return packed([["a<far>"]], { tokenizer: new Tokenizer(json) }, (dir) => {
    assert.equal(readManifest(`${dir}/packed`).dtype, "u32");
    assert.equal(blocks(`${dir}/packed`)[0].at(-2), 70_000);
  });
});

Deno.test("blocks read the same over many pages of the index and many flushes", async () => {
  const documents = Array.from({ length: 3000 }, (_, i) => [`${i} `.repeat(1 + i % 50)]);
  await packed(documents, { block: 256, workers: 1 }, (dir) => {
    const part = openPacked(`${dir}/packed`, "train");
    assert.equal(part.count, 3000);
    for (let i = 0; i < part.count; i += 7) {
      const at = (i * 1789) % 3000;
      assert.deepEqual([...part.read(at)], [BOS, ...lineIds(documents[at][0].trim())]);
    }
    assert.throws(() => part.read(3000), RangeError);
    assert.throws(() => part.length(-1), RangeError);
    part.close();
  });
});

Deno.test("several workers write the same bytes", () => {
  const documents = Array.from({ length: 5000 }, (_, i) => [`line ${i} `.repeat(9), "next"]);
  return packed(documents, { heldOut: 0.05 }, async (dir, request) => {
    const other = { ...request, out: `${dir}/other`, workers: 2 };
    await packCorpus(other);
    const manifest = (dir: string) => {
      const { files, ...rest } = readManifest(dir);
      // How fresh a file was when it was packed is no matter of threads.
      return { ...rest, sha256: "", files: files.map((file) => ({ ...file, changed: 0 })) };
    };
    assert.deepEqual(manifest(request.out), manifest(other.out));
    for (const { name } of Deno.readDirSync(request.out)) {
      if (name === "corpus.json") continue;
      const [one, two] = [request.out, other.out].map((out) => Deno.readFileSync(`${out}/${name}`));
      assert.ok(one.length === two.length && one.every((byte, i) => byte === two[i]), name);
    }
  });
});

Deno.test("a packed corpus is fresh until a file, the tokenizer or the rule changes", () =>
  packed([["a"], ["b"]], { heldOut: 0.5 }, async (dir, request) => {
    assert.ok(await isFresh(request.out, request));
    assert.ok(await isFresh(request.out, { ...request, workers: 2, block: undefined }));
    assert.ok(!await isFresh(request.out, { ...request, block: 64 }));
    assert.ok(!await isFresh(request.out, { ...request, seed: 5 }));
    const other = structuredClone(bytes.json);
    other.added_tokens.pop();
    assert.ok(!await isFresh(request.out, { ...request, tokenizer: new Tokenizer(other) }));
    assert.ok(!await isFresh(`${dir}/none`, request));
    await Deno.writeTextFile(`${dir}/corpus.txt`, "more\n", { append: true });
    assert.ok(!await isFresh(request.out, request));
    await packCorpus(request);
    assert.ok(await isFresh(request.out, request));
  }));

Deno.test("nothing half-written stays, and the earlier corpus survives a failure", () =>
  packed([["a"], ["b"]], {}, async (dir, request) => {
    const before = blocks(request.out);
    await Deno.writeTextFile(`${dir}/bad.jsonl`, '{"text":"good"}\n{bad');
    const bad = { ...request, paths: [`${dir}/bad.jsonl`] };
    await assert.rejects(packCorpus(bad), /bad\.jsonl:2/);
    await assert.rejects(packCorpus({ ...bad, workers: 2 }), /bad\.jsonl:2/);
    assert.deepEqual(blocks(request.out), before);
    const names = [...Deno.readDirSync(dir)].map((entry) => entry.name).sort();
    assert.deepEqual(names, ["bad.jsonl", "corpus.txt", "packed"]);
  }));

Deno.test("bad requests and damaged files are each one clear line", () =>
  packed([["a"], ["b"]], {}, async (dir, request) => {
    await assert.rejects(packCorpus({ ...request, block: 2 }), /block length.*got 2/);
    await assert.rejects(packCorpus({ ...request, heldOut: 1 }), /held-out fraction.*got 1/);
    await assert.rejects(packCorpus({ ...request, out: dir }), /holds other files/);
    await assert.rejects(packCorpus({ ...request, out: `${dir}/corpus.txt` }), UserError);
    assert.throws(() => openPacked(`${dir}/none`, "train"), /not a packed corpus/);
    await Deno.truncate(`${request.out}/train.tokens.bin`, 3);
    assert.throws(() => openPacked(request.out, "train"), /train\.tokens\.bin: 3 bytes instead of/);
    await Deno.remove(`${request.out}/train.index.bin`);
    assert.throws(() => openPacked(request.out, "train"), /train\.index\.bin: cannot be read/);
    await Deno.writeTextFile(`${request.out}/corpus.json`, '{"format":99}');
    assert.throws(() => openPacked(request.out, "train"), /format 99/);
  }));

Deno.test("a packed corpus is fresh by contents: touched or moved text is, other bytes of the same size and date are not", () =>
  packed([["a"], ["b"]], {}, async (dir, request) => {
    const text = `${dir}/corpus.txt`, { mtime } = Deno.statSync(text);
    Deno.utimeSync(text, 1, 1);
    assert.ok(await isFresh(request.out, request));
    Deno.renameSync(text, `${dir}/moved.txt`);
    const moved = { ...request, paths: [`${dir}/moved.txt`] };
    assert.ok(await isFresh(request.out, moved));
    assert.ok(isPackedBy(request.out, moved));
    const contents = Deno.readTextFileSync(`${dir}/moved.txt`);
    Deno.writeTextFileSync(`${dir}/moved.txt`, contents.replace("a", "c"));
    Deno.utimeSync(`${dir}/moved.txt`, mtime!, mtime!);
    assert.ok(!await isFresh(request.out, moved));
    assert.ok(isPackedBy(request.out, moved), "whatever the text");
  }));

Deno.test("text that is gone is no other text; what was not packed is named", () =>
  packed([["a"], ["b"]], {}, async (dir, request) => {
    const { files } = readManifest(request.out), text = `${dir}/corpus.txt`;
    const look = (...paths: string[]) => expectNoOtherText(files, paths);
    assert.deepEqual(await look(text), []);
    Deno.copyFileSync(text, `${dir}/copy.txt`);
    assert.deepEqual(await look(text, `${dir}/copy.txt`, `${dir}/*.txt`), []);
    Deno.writeTextFileSync(`${dir}/more.txt`, "more\n");
    await assert.rejects(look(dir), /more\.txt: this text was added after/);
    Deno.removeSync(`${dir}/more.txt`);
    Deno.writeTextFileSync(text, "b\n\na\n");
    await assert.rejects(look(text), /corpus\.txt: this text changed after/);
    Deno.removeSync(text);
    assert.deepEqual(await look(text, `${dir}/*.md`, `${dir}/copy.txt`), [text, `${dir}/*.md`]);
  }));

Deno.test("a corpus that is to be kept is used if it is the same, and never replaced", () =>
  packed([["a"], ["b"]], {}, async (_dir, request) => {
    const before = blocks(request.out), keep = { ...request, keep: true };
    assert.deepEqual((await packCorpus(keep)).rule, readManifest(request.out).rule);
    await assert.rejects(packCorpus({ ...keep, seed: 9 }), /other text, tokenizer or settings/);
    assert.deepEqual(blocks(request.out), before);
    await packCorpus({ ...request, seed: 9 });
    assert.equal(readManifest(request.out).rule.seed, 9);
  }));

Deno.test("what killed processes have left is removed; what one is packing is not touched", () =>
  packed([["a"], ["b"]], {}, async (dir, request) => {
    const names = () => [...Deno.readDirSync(dir)].map(({ name }) => name).sort();
    const before = names(), others = ["packed.packing-notes", "other.packing-12"];
    for (const name of [...others, "packed.packing-12", "packed.packing-345-old"]) {
      Deno.mkdirSync(`${dir}/${name}`);
      Deno.writeTextFileSync(`${dir}/${name}/train.tokens.bin`, "half");
    }
    Deno.writeTextFileSync(`${dir}/packed.lock`, '{"pid":1}');
    await packCorpus(request);
    assert.deepEqual(names(), [...before, ...others].sort());
    const options = { what: "x", doing: "packing", otherwise: "wait" };
    using _held = await lock(`${dir}/packed.lock`, options);
    await assert.rejects(packCorpus(request), /packed: in use by process \d+.* \(packing\)/);
    await packCorpus({ ...request, keep: true }); // it is there: nothing is written
    Deno.removeSync(request.out, { recursive: true });
    await assert.rejects(expectPackable(request.out), /in use/);
  }));
