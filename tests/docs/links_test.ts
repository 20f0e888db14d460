// Every link of the pages leads somewhere, and every page can be reached from README in one click.

import assert from "node:assert/strict";
import { anchorsOf, isThere, linksOf, PAGES, textOf } from "./pages.ts";

Deno.test("links within the project point to files and headings that are there", () => {
  for (const page of PAGES) {
    for (const { path, anchor } of linksOf(page)) {
      assert.ok(isThere(path), `${page} links to ${path}, which is not there`);
      if (anchor === undefined) continue;
      const anchors = anchorsOf(textOf(path));
      assert.ok(anchors.includes(anchor), `${page} links to ${path}#${anchor}, a missing heading`);
    }
  }
});

Deno.test("README links to every page of docs/", () => {
  const linked = linksOf("README.md").map(({ path }) => path);
  for (const page of PAGES.filter((page) => page.startsWith("docs/"))) {
    assert.ok(linked.includes(page), `README.md has no link to ${page}`);
  }
});

Deno.test("the picture of METRO is the same in light and in dark", () => {
  const [light, dark] = ["docs/metro.svg", "docs/metro-dark.svg"].map(textOf);
  const shape = (picture: string) => picture.replace(/<style>[\s\S]*<\/style>/, "");
  assert.equal(shape(light), shape(dark));
  assert.notEqual(light, dark);
});

Deno.test("source files that ARCHITECTURE names are there", () => {
  const text = textOf("ARCHITECTURE.md");
  const names = [...text.matchAll(/`([\w/.]+\.ts)`/g)].map(([, name]) => name);
  const folders = [
    "",
    "tests/repository/",
    ...inside("ops"),
    ...inside("models"),
    ...inside("tasks"),
  ];
  for (const name of new Set(names)) {
    assert.ok(folders.some((folder) => isThere(folder + name)), `ARCHITECTURE.md names ${name}`);
  }
});

/** A folder of the project and those in it, with a slash at the end. */
function inside(folder: string): string[] {
  const root = new URL(`../../${folder}/`, import.meta.url);
  const folders = [...Deno.readDirSync(root)].filter((entry) => entry.isDirectory);
  return [`${folder}/`, ...folders.map(({ name }) => `${folder}/${name}/`)];
}
