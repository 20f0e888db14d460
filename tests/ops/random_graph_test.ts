// What random graphs are worth: that nothing is missing from them.

import assert from "node:assert/strict";
import { topological } from "../../ops/graph/tensor.ts";
import { PRIMITIVES } from "../../ops/primitives/list.ts";
import { randomGraph } from "./random_graph.ts";

Deno.test("a hundred random graphs have every primitive in them, and updates in place", () => {
  const missing = new Set(PRIMITIVES.keys());
  let updates = 0;
  for (let seed = 0; seed < 100; seed++) {
    const graph = randomGraph(seed);
    updates += graph.updates!.length;
    const all = [...graph.outputs, ...graph.updates!.flat()];
    for (const { primitive } of topological(all)) missing.delete(primitive.name);
  }
  assert.deepEqual([...missing], []);
  assert.ok(updates > 50, `${updates} updates`);
});

Deno.test("a seed stands for one graph", () => {
  const [a, b] = [randomGraph(5), randomGraph(5)];
  assert.deepEqual(a.parts, b.parts);
  assert.deepEqual(a.values, b.values);
});
