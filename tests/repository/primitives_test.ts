// The list of primitives is closed: the sources, the targets and the page on architecture name the same ones.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LOWERINGS as CPU_LOWERINGS } from "../../ops/cpu/target.ts";
import { LOWERINGS as GPU_LOWERINGS } from "../../ops/gpu/target.ts";
import { RESHAPE } from "../../ops/graph/tensor.ts";
import { PRIMITIVES } from "../../ops/primitives/list.ts";
import { GATHER } from "../../ops/primitives/rows.ts";

const ROOT = join(import.meta.dirname!, "..", "..");
const names = [...PRIMITIVES.keys()].sort();

Deno.test("every primitive says what it is", () => {
  for (const [name, primitive] of PRIMITIVES) {
    assert.equal(primitive.name, name);
    assert.equal(typeof primitive.infer, "function", name);
    assert.equal(typeof primitive.reference, "function", name);
    // A pointwise operation has no kernels of its own for others to ride along with.
    const anchors = primitive.hasEpilogue || primitive.hasPrologue || primitive.inPlace;
    assert.ok(!(primitive.pointwise && anchors), name);
  }
});

for (
  const [target, lowerings] of Object.entries({ WebGPU: GPU_LOWERINGS, "the CPU": CPU_LOWERINGS })
) {
  Deno.test(`${target} has kernels for what is not pointwise, and for nothing else`, () => {
    const anchors = [...PRIMITIVES.values()]
      .filter((p) => !p.pointwise && p !== GATHER && p !== RESHAPE).map((p) => p.name);
    assert.deepEqual(Object.keys(lowerings).sort(), anchors.sort());
  });
}

Deno.test("ARCHITECTURE.md lists the primitives", async () => {
  const text = await readFile(join(ROOT, "ARCHITECTURE.md"), "utf8");
  const [, list] = text.match(/\*\*Primitives\.\*\*([\s\S]*?)\n\n/)!;
  const [closed] = list.split("Everything else is composition");
  const listed = [...closed.matchAll(/`([^`]+)`/g)].flatMap(([, words]) => words.split(/\s+/));
  assert.deepEqual(listed.sort(), names);
});
