import assert from "node:assert/strict";
import { key, Random } from "../../../ops/graph/random.ts";
import { filesBelow, filesMatching } from "../../../tasks/files/find.ts";

async function withFiles(
  names: readonly string[],
  work: (folder: string) => Promise<void> | void,
): Promise<void> {
  const folder = await Deno.realPath(await Deno.makeTempDir());
  try {
    for (const name of names) {
      const path = `${folder}/${name}`;
      await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await Deno.writeTextFile(path, name);
    }
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const NAMES = ["[.txt", "a.txt", "b.txt", "z.txt", "{q.txt", "a/b/c.txt", "a/y.txt", "a-b/x.txt"];

/** What a shell or Python's glob gives for these, by hand. */
const PATTERNS: Record<string, string[]> = {
  "*.txt": ["[.txt", "a.txt", "b.txt", "z.txt", "{q.txt"],
  "?.txt": ["[.txt", "a.txt", "b.txt", "z.txt"],
  "[a-b].txt": ["a.txt", "b.txt"],
  "[ab].txt": ["a.txt", "b.txt"],
  "[!a].txt": ["[.txt", "b.txt", "z.txt"],
  "[^a].txt": ["[.txt", "b.txt", "z.txt"],
  "[z-a].txt": [],
  "[b-az].txt": ["z.txt"],
  "[.txt": ["[.txt"],
  "[[].txt": ["[.txt"],
  "[]a].txt": ["a.txt"],
  "[a-].txt": ["a.txt"],
  "[\\a].txt": ["a.txt"],
  "a.(txt)": [],
  "{a,z}.txt": ["a.txt", "z.txt"],
  "{a,a-b}/*.txt": ["a/y.txt", "a-b/x.txt"],
  "a{/{b,none}/c,}.txt": ["a/b/c.txt", "a.txt"],
  "{q.txt": ["{q.txt"],
  "{q.{txt,none}": ["{q.txt"],
  "*/*.txt": ["a/y.txt", "a-b/x.txt"],
  "**/c.txt": ["a/b/c.txt"],
  "**/*.txt": ["[.txt", "a/b/c.txt", "a/y.txt", "a-b/x.txt", "a.txt", "b.txt", "z.txt", "{q.txt"],
  "a/**": ["a/b/c.txt", "a/y.txt"],
  "a": [],
  "*": ["[.txt", "a.txt", "b.txt", "z.txt", "{q.txt"],
  "none/*": [],
};

Deno.test("patterns match what they match in a shell", () =>
  withFiles(NAMES, (folder) => {
    for (const [pattern, expected] of Object.entries(PATTERNS)) {
      const found = filesMatching(`${folder}/${pattern}`);
      assert.deepEqual(found, expected.map((name) => `${folder}/${name}`), pattern);
    }
  }));

Deno.test("any text is a pattern: random ones never fail, and find themselves where they are names", () =>
  withFiles(NAMES, (folder) => {
    const random = new Random(key(11));
    const signs = [
      "[",
      "]",
      "{",
      "}",
      ",",
      "*",
      "**",
      "?",
      "!",
      "^",
      "-",
      "\\",
      "a",
      "b",
      "/",
      "é",
    ];
    for (let i = 0; i < 500; i++) {
      const pattern = Array.from(
        { length: 1 + random.below(8) },
        () => signs[random.below(signs.length)],
      ).join("");
      const found = filesMatching(`${folder}/${pattern}*`);
      const all = new Set(filesBelow(folder));
      for (const file of found) assert.ok(all.has(file), `${pattern} found ${file}`);
      assert.equal(new Set(found).size, found.length, pattern);
    }
  }));

Deno.test("a link to a folder above it ends a walk, and so do loops of several folders", () =>
  withFiles(["c/sub/a.txt", "d/b.txt", "e/c.txt"], async (folder) => {
    await Deno.symlink(".", `${folder}/c/latest`);
    await Deno.symlink("../..", `${folder}/c/sub/up`);
    await Deno.symlink("../e", `${folder}/d/to-e`);
    await Deno.symlink("../d", `${folder}/e/to-d`);
    const names = (files: string[]) => files.map((file) => file.split("/").at(-1)).sort();
    assert.deepEqual(names(filesBelow(`${folder}/c`)), ["a.txt", "b.txt", "c.txt"]);
    assert.deepEqual(names(filesBelow(`${folder}/d`)), ["b.txt", "c.txt"]);
    assert.deepEqual(names(filesBelow(folder)), ["a.txt", "b.txt", "c.txt"]);
    assert.deepEqual(names(filesMatching(`${folder}/**/*.txt`)), ["a.txt", "b.txt", "c.txt"]);
    assert.deepEqual(filesMatching(`${folder}/c/latest/s*/*.txt`), [
      `${folder}/c/latest/sub/a.txt`,
    ]);
  }));
