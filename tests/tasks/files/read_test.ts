import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { readBlocks } from "../../../tasks/files/lines.ts";
import { openParquet } from "../../../tasks/files/parquet.ts";
import { readJson } from "../../../tasks/files/json.ts";
import {
  namesIn,
  openRegular,
  openRegularSync,
  readError,
  readText,
  readWhole,
} from "../../../tasks/files/read.ts";
import { openWeights } from "../../../tasks/files/weights.ts";
import { expandMixture } from "../../../tasks/prompts/mixture.ts";
import { openTemplates } from "../../../tasks/prompts/templates.ts";
import { readRows } from "../../../tasks/rows/mod.ts";
import { listCorpus } from "../../../tasks/text/corpus.ts";
import { loadTokenizer } from "../../../tasks/tokenizer/load.ts";

/** All ways to read a file as a whole, or to open it. */
const READERS: Record<string, (path: string) => unknown> = {
  readWhole,
  readText,
  openRegular,
  openRegularSync,
  readJson,
  openParquet,
  readBlocks: (path) => Array.fromAsync(readBlocks(path, "whole")),
};

/** What a job gives such a place to read, by the name that the job wants. */
const JOBS: Record<string, (folder: string) => unknown> = {
  "a.txt": (folder) => listCorpus([`${folder}/a.txt`]),
  "a.jsonl": (folder) => listCorpus([folder]),
  "mixture.txt": (folder) => expandMixture([`${folder}/mixture.txt`], () => []),
  "tokenizer.json": (folder) => loadTokenizer(folder),
  "sp.model": (folder) => loadTokenizer(folder),
  "model.safetensors": (folder) => openWeights(folder),
  "model.safetensors.index.json": (folder) => openWeights(folder),
  "pytorch_model.bin": (folder) => openWeights(folder),
  "d/train.jsonl": (folder) => readRows(folder, "d", "train").next(),
  "d/train.csv": (folder) => readRows(folder, "d", "train").next(),
  "d/train.json": (folder) => readRows(folder, "d", "train").next(),
  "d/train.jsonl.gz": (folder) => readRows(folder, "d", "train").next(),
  "d/train.parquet": (folder) => readRows(folder, "d", "train").next(),
  "d/templates.yaml": (folder) => openTemplates(folder).of("d"),
};

async function messageOf(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    assert.ok(error instanceof UserError, String((error as Error).stack));
    assert.ok(!error.message.includes("\n"), error.message);
    return error.message;
  }
  throw new Error("nothing was refused");
}

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function pipe(path: string): Promise<void> {
  await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
  const { success } = await new Deno.Command("mkfifo", { args: [path] }).output();
  assert.ok(success);
}

const unix = Deno.build.os !== "windows";

Deno.test("what is no regular file is refused by its kind, and never waited for", async () => {
  if (!unix) return;
  await inFolder(async (folder) => {
    await pipe(`${folder}/pipe`);
    await Deno.symlink("pipe", `${folder}/link`);
    using _ = Deno.listen({ transport: "unix", path: `${folder}/socket` });
    const kinds = {
      [`${folder}/pipe`]: "a pipe",
      [`${folder}/link`]: "a pipe",
      [`${folder}/socket`]: "a socket",
      "/dev/zero": "a device",
      [folder]: "a folder",
    };
    for (const [path, kind] of Object.entries(kinds)) {
      for (const [name, read] of Object.entries(READERS)) {
        const message = await messageOf(() => read(path));
        assert.ok(
          message.startsWith(`${path}: cannot be read: expected a file, got ${kind};`),
          name,
        );
      }
    }
  });
});

for (const [name, job] of Object.entries(JOBS)) {
  Deno.test(`a pipe in place of ${name} is refused, and not waited for`, async () => {
    if (!unix) return;
    await inFolder(async (folder) => {
      await pipe(`${folder}/${name}`);
      const message = await messageOf(() => job(folder));
      assert.match(message, /cannot be read: expected a file, got a pipe|no templates|no dataset/);
    });
  });
}

Deno.test("what the system refuses is one line that names the file", async () => {
  await inFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/file`, "");
    await Deno.symlink("circle", `${folder}/circle`);
    await Deno.symlink("nothing", `${folder}/dangling`);
    const long = `${folder}/${"n".repeat(5000)}`;
    const refused: Record<string, RegExp> = {
      [`${folder}/none`]: /none: cannot be read: no such file or folder; check the path$/,
      [`${folder}/dangling`]: /dangling: cannot be read: no such file/,
      [`${folder}/file/below`]: /below: cannot be read: part of the path is a file/,
      [`${folder}/circle`]: /circle: cannot be read: its links lead in a circle/,
      [`${folder}/nul\0`]: /cannot be read: no file has such a name/,
      [long]: /…n+: cannot be read: the name is too long for the file system; check the path$/,
    };
    for (const [path, message] of Object.entries(refused)) {
      for (const read of [...Object.values(READERS), namesIn]) {
        assert.match(await messageOf(() => read(path)), message);
      }
    }
  });
});

Deno.test("every code of the system becomes one line; mistakes of ours keep theirs", () => {
  const withCode = (code: string) => Object.assign(new Error("said by the system"), { code });
  for (const code of ["EACCES", "EPERM", "EIO", "ESTALE", "EMFILE", "ENFILE", "EINVAL", "EXDEV"]) {
    const error = readError("a.txt", withCode(code));
    assert.ok(error instanceof UserError && error.message.startsWith("a.txt: cannot be read: "));
  }
  for (const error of [new TypeError("x is not a function"), withCode("ERR_INTERNAL"), 7]) {
    assert.equal(readError("a.txt", error), error);
  }
  const said = new UserError("said already");
  assert.equal(readError("a.txt", said), said);
});

Deno.test("a file that is read whole has a limit, and is UTF-8 without its mark", async () => {
  await inFolder(async (folder) => {
    const path = `${folder}/a`;
    await Deno.writeTextFile(path, "\ufeffé\ufeff");
    assert.equal(readText(path), "é\ufeff");
    assert.equal(readWhole(path, 8).length, 8);
    assert.match(await messageOf(() => readWhole(path, 7)), /expected at most 7 bytes, got 8/);
    await Deno.writeFile(path, Uint8Array.of(97, 0xff));
    assert.match(await messageOf(() => readText(path)), /a: not valid UTF-8/);
    // Sparse: it takes no room on the disk, and would take all of the memory.
    await Deno.truncate(path, 2 ** 40);
    assert.match(await messageOf(() => readText(path)), /expected at most 268435456 bytes/);
  });
});
