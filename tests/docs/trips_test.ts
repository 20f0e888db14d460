// ARCHITECTURE.md, "Four trips": each file imports the next one, and those named beside it.

import assert from "node:assert/strict";
import { dirname, join, normalize } from "node:path";
import { declares, isThere, linksOf, sectionOf, textOf } from "./pages.ts";

const PAGE = "ARCHITECTURE.md";
/** The trips, and how many files each may have. */
const MOST = {
  "A pretraining batch": 12,
  "A prompt in finetuning": 14,
  "An answer choice": 12,
  "A gradient of two ranks": 9,
};

/** What one import, re-export or `new URL` names: a file, and which names; all of them if undefined. */
interface Import {
  path: string;
  names?: string[];
}

function importsOf(path: string): Import[] {
  const code = textOf(path).replace(/\/\*[\s\S]*?\*\//g, "");
  const at = (specifier: string) => normalize(join(dirname(path), specifier)).replaceAll("\\", "/");
  const from = [...code.matchAll(/^(?:import|export)\b([^;]*?)\bfrom\s+"(\.[^"]+)"/gm)];
  const urls = [...code.matchAll(/new URL\(\s*"(\.[^"]+)",\s*import\.meta\.url/g)];
  return [
    ...from.map(([, what, specifier]) => ({
      path: at(specifier),
      names: what.match(/\{([^}]*)\}/)?.[1].split(",")
        .map((name) => name.trim().replace(/^type /, "").split(" as ")[0]).filter(Boolean),
    })),
    ...urls.map(([, specifier]) => ({ path: at(specifier) })),
  ];
}

/** Whether a file uses another: by itself, or something of it by way of a `mod.ts`. */
function uses(path: string, other: string): boolean {
  return importsOf(path).some(({ path: imported, names }) => {
    if (imported === other) return true;
    if (!imported.endsWith("/mod.ts") || !names) return false;
    const source = textOf(other);
    return importsOf(imported).some((exported) =>
      exported.path === other &&
      names.some((name) => declares(source, name) && (exported.names?.includes(name) ?? true))
    );
  });
}

for (const [trip, most] of Object.entries(MOST)) {
  Deno.test(`${trip}: each file imports the next`, () => {
    const section = sectionOf(textOf(PAGE), `### ${trip}`);
    const stops = section.split(/^\d+\. /m).slice(1)
      .map((stop) => linksOf(PAGE, stop).map(({ path }) => path));
    const files = new Set(stops.flat());
    assert.ok(stops.length > 3, "too few stops");
    assert.ok(files.size <= most, `${files.size} files, expected at most ${most}`);
    for (const file of files) assert.ok(isThere(file), `${file} is not there`);
    for (const [i, [here, ...beside]] of stops.entries()) {
      const next = stops[i + 1]?.[0];
      for (const other of next ? [next, ...beside] : beside) {
        assert.ok(uses(here, other), `${here} does not import ${other}`);
      }
    }
  });
}
