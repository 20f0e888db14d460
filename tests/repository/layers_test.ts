// The house rules that a reader relies on, checked on the sources themselves.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";

const ROOT = join(import.meta.dirname!, "..", "..");
/** From the bottom up: a layer may import from itself and from those before it. */
const LAYERS = ["ops", "models", "tasks", "scripts"];
/**
 * The floors of a layer, from the bottom up: folders, "" being the layer's own files. Those of one floor are
 * strangers.
 */
const FLOORS: Record<string, string[][]> = {
  ops: [["graph"], ["primitives"], ["program"], ["gpu", "cpu"], [""]],
  models: [["formats"], [""]],
  tasks: [
    ["command", "files"],
    ["parallel"],
    ["devices"],
    ["config", "jinja", "reports", "tokenizer"],
    ["rows", "checkpoints", "text"],
    ["prompts"],
    ["train", "evaluate", "generate"],
    ["", "analyze", "bench", "verify"],
    ["launch", "plan"],
  ],
};

async function sources(): Promise<{ path: string; layer: string; text: string }[]> {
  const found = [];
  for (const layer of LAYERS) {
    for (const entry of await readdir(join(ROOT, layer), { recursive: true })) {
      if (!entry.endsWith(".ts")) continue;
      const path = join(layer, entry);
      found.push({ path, layer, text: await readFile(join(ROOT, path), "utf8") });
    }
  }
  return found;
}

/** Specifiers of a module's imports and re-exports, those in comments left out. */
function importsOf(text: string): string[] {
  const code = text.replace(/\/\*[\s\S]*?\*\//g, "");
  return [...code.matchAll(/^(?:import|export)\b[^;]*?from\s+"([^"]+)"/gm)].map((m) => m[1]);
}

Deno.test("imports point down: scripts, tasks, models, ops", async () => {
  for (const { path, layer, text } of await sources()) {
    for (const specifier of importsOf(text).filter((s) => s.startsWith("."))) {
      const target = normalize(join(dirname(path), specifier)).split(/[\\/]/)[0];
      const allowed = LAYERS.slice(0, LAYERS.indexOf(layer) + 1);
      assert.ok(
        allowed.includes(target),
        `${path} imports ${specifier}: ${layer} is below ${target}`,
      );
    }
  }
});

/** Imports within a layer that leave their folder; lists of what a layer publishes have all folders' names. */
async function crossings(layer: string) {
  const found = [];
  for (const { path, text } of await sources()) {
    if (!path.startsWith(layer) || path === join(layer, "mod.ts")) continue;
    for (const specifier of importsOf(text).filter((s) => s.startsWith("."))) {
      const [from, to] = [dirname(path), dirname(normalize(join(dirname(path), specifier)))];
      if (from !== to && to.split(/[\\/]/)[0] === layer) found.push({ path, specifier, from, to });
    }
  }
  return found;
}

for (const [layer, floors] of Object.entries(FLOORS)) {
  Deno.test(`${layer} has floors: a folder imports those below it`, async () => {
    const folderOf = (path: string) => path.split(/[\\/]/)[1] ?? "";
    const floorOf = (folder: string) => floors.findIndex((folders) => folders.includes(folder));
    for (const { path } of await sources()) {
      if (!path.startsWith(layer)) continue;
      assert.ok(floorOf(folderOf(dirname(path))) >= 0, `${path} is on no floor`);
    }
    for (const { path, specifier, from, to } of await crossings(layer)) {
      const [folder, target] = [folderOf(from), folderOf(to)];
      assert.ok(
        target === folder || floorOf(target) < floorOf(folder),
        `${path} imports ${specifier}: ${layer}/${folder} is not above ${layer}/${target}`,
      );
    }
  });

  Deno.test(`${layer} has no circle of folders, nor of a folder and what lies in it`, async () => {
    const below = new Map<string, Set<string>>();
    for (const { from, to } of await crossings(layer)) {
      below.set(from, (below.get(from) ?? new Set()).add(to));
    }
    // What imports nothing that is left cannot be part of a circle.
    for (let before = -1; before !== below.size;) {
      before = below.size;
      for (const [folder, others] of below) {
        if (![...others].some((other) => below.has(other))) below.delete(folder);
      }
    }
    assert.deepEqual([...below.keys()], [], "folders that import one another");
  });
}

Deno.test("nothing but the targets knows WebGPU or WebAssembly", async () => {
  // Finding an adapter and looking at it is not computing on it.
  const exceptions = ["ops/open_device.ts", "tasks/devices/setup.ts", "tasks/devices/doctor.ts"];
  for (const { path, text } of await sources()) {
    if (/^ops[\\/](gpu|cpu)[\\/]/.test(path)) continue;
    if (exceptions.includes(path.replaceAll("\\", "/"))) continue;
    const code = text.replace(/\/\*[\s\S]*?\*\/|\/\/.*/g, "");
    assert.ok(!/\bGPU[A-Z]\w+|\bWebAssembly\./.test(code), `${path} uses a target's own types`);
  }
});

Deno.test("ops and models run in a browser: no Deno, no node modules, no packages", async () => {
  for (const { path, layer, text } of await sources()) {
    if (layer !== "ops" && layer !== "models") continue;
    const code = text.replace(/\/\*[\s\S]*?\*\//g, "");
    assert.ok(!/\bDeno\./.test(code), `${path} uses Deno`);
    const foreign = importsOf(text).filter((s) => !s.startsWith("."));
    assert.deepEqual(foreign, [], `${path} imports packages`);
  }
});

Deno.test("nothing imports from a registry that is not npm, and versions are exact", async () => {
  for (const { path, text } of await sources()) {
    for (const specifier of importsOf(text)) {
      assert.ok(!/^(jsr|https?):/.test(specifier), `${path} imports ${specifier}`);
    }
  }
  const { imports } = JSON.parse(await readFile(join(ROOT, "deno.json"), "utf8"));
  for (const [name, target] of Object.entries<string>(imports)) {
    assert.match(target, /^npm:.+@\d+\.\d+\.\d+$/, `${name} is not pinned`);
  }
});

Deno.test("mod.ts files hold exports only", async () => {
  const layers = ["ops", "models", "tasks"].map((l) => join(l, "mod.ts"));
  for (const path of ["mod.ts", ...layers]) {
    const text = await readFile(join(ROOT, path), "utf8");
    const code = text.replace(/\/\*[\s\S]*?\*\//g, "").replace(
      /export\s+[\s\S]*?from\s+"[^"]+";/g,
      "",
    );
    assert.equal(code.trim(), "", `${path} holds more than exports`);
  }
});

Deno.test("percentages are written in one place, where what is no number becomes a dash", async () => {
  for (const { path, text } of await sources()) {
    if (path === join("tasks", "command", "number_text.ts")) continue;
    const code = text.replace(/\/\*[\s\S]*?\*\//g, "");
    assert.doesNotMatch(code, /\b100 \* .*\.toFixed|\* 100\)\.toFixed|\.toFixed\(\d*\)\} ?%/, path);
  }
});
