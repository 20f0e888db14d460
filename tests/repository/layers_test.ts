// The house rules that a reader relies on, checked on the sources themselves.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { dirname, join, normalize } from "node:path";

const ROOT = join(import.meta.dirname!, "..", "..");
/** From the bottom up: a layer may import from itself and from those before it. */
const LAYERS = ["ops", "models", "tasks", "scripts"];
/** The floors of ops, from the bottom up: folders, "" being ops itself. Those of one floor are strangers. */
const FLOORS = [["graph"], ["primitives"], ["program"], ["gpu", "cpu"], [""]];

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

Deno.test("ops has floors: graph, primitives, program, targets, and what puts them together", async () => {
  const folderOf = (path: string) => dirname(path).split(/[\\/]/)[1] ?? "";
  const floorOf = (folder: string) => FLOORS.findIndex((folders) => folders.includes(folder));
  for (const { path, layer, text } of await sources()) {
    if (layer !== "ops") continue;
    const folder = folderOf(path), floor = floorOf(folder);
    assert.ok(floor >= 0, `${path} is on no floor`);
    for (const specifier of importsOf(text)) {
      const target = folderOf(normalize(join(dirname(path), specifier)));
      assert.ok(
        target === folder || floorOf(target) < floor,
        `${path} imports ${specifier}: ops/${folder} is not above ops/${target}`,
      );
    }
  }
});

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
