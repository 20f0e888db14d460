import assert from "node:assert/strict";
import { foreignNames, foreignShapes, ourNames } from "../../models/names.ts";
import {
  declareParameters,
  parameterCount,
  parameterShapes,
  PARTS,
} from "../../models/parameters.ts";
import { preset } from "../../models/presets.ts";
import { decode, encode } from "../../models/transformer.ts";
import { languageModelLogits } from "../../models/heads.ts";
import { input, interpret } from "../../ops/mod.ts";
import { readStepFolder } from "../../tasks/verify/step_folder.ts";
import { goldenJson, goldenModel, goldenPath, goldenTensors, hasGolden } from "./golden.ts";

Deno.test("foreignNames: the release has 526 tensors of base, 1042 of large++, tied ones included", () => {
  for (
    const [name, count, parameters] of [
      ["base", 526, 225_618_432],
      ["base++", 526, 249_604_608],
      ["large++", 1042, 773_644_288],
    ] as const
  ) {
    const { model } = preset(name, "release");
    assert.equal(ourNames(model, "release", ["main"]).size, count);
    const unique = foreignNames(model, "release", ["main"]);
    let numbers = 0;
    for (const { shape } of unique.values()) numbers += shape.reduce((a, b) => a * b, 1);
    assert.equal(numbers, parameterCount(model, ["main"]));
    assert.equal(numbers, parameters);
    const shapes = foreignShapes(model, "release", ["main"]);
    assert.equal(shapes.size, count);
    for (const { name, shape, aliases = [] } of unique.values()) {
      for (const theirs of [name, ...aliases]) assert.deepEqual(shapes.get(theirs), shape);
    }
    assert.deepEqual(unique.get("embed.tokens")!.aliases, [
      "encoder.embed_tokens.weight",
      "decoder.embed_tokens.weight",
      "lm_head.weight",
    ]);
  }
});

Deno.test("foreignNames and ourNames are inverse, in both schemes", () => {
  for (const share of ["none", "token", "token_pos", "token_pos_norm"] as const) {
    const model = { ...preset("tiny").model, share, clmHead: "roberta" as const };
    const there = foreignNames(model, "reference", PARTS);
    const back = ourNames(model, "reference", PARTS);
    for (const [ours, { name }] of there) assert.equal(back.get(name), ours);
    assert.deepEqual([...there.keys()], [...parameterShapes(model).keys()]);
    assert.equal(new Set(Array.from(there.values(), ({ name }) => name)).size, there.size);
    for (const ours of back.values()) assert.ok(there.has(ours), ours);
  }
  assert.throws(
    () => foreignNames(preset("base").model, "release", PARTS),
    /the release scheme has no name for rtd/,
  );
});

for (const name of ["tiny_lm", "tiny_all_positions", "tiny_weighted_shared_norm"]) {
  Deno.test({
    name: `foreignNames: names and shapes of golden step ${name}`,
    ignore: !hasGolden,
    async fn() {
      const { model } = await readStepFolder(goldenPath(`metro_step/${name}`));
      const tensors = goldenTensors(`metro_step/${name}/params_before.safetensors`);
      const expected = new Map(Array.from(tensors, ([name, { shape }]) => [name, shape]));
      const names = Array.from(foreignNames(model, "reference", PARTS).values());
      assert.deepEqual(new Map(names.map(({ name, shape }) => [name, shape])), expected);
    },
  });
}

for (const name of ["tiny", "tiny_large_buckets"]) {
  Deno.test({
    name: `foreignNames, encode and decode: logits of the released layout, ${name}`,
    ignore: !hasGolden,
    fn: () => checkReleased(`metro_hf/${name}`),
  });
}

function checkReleased(folder: string): void {
  const { config: model, weights } = goldenModel(folder);
  const tensors = goldenTensors(`${folder}/model.safetensors`);
  for (const { name, shape } of foreignNames(model, "release", ["main"]).values()) {
    assert.deepEqual(tensors.get(name)!.shape, shape);
  }
  const { input_ids: source, labels } = goldenJson<Record<"input_ids" | "labels", number[][]>>(
    `${folder}/expected.json`,
  );
  const shifted = labels.map((row) => [2, ...row.slice(0, -1)]);
  const parameters = declareParameters(model, ["main"]);
  const memoryTokens = input("source", [source.length, source[0].length], "u32");
  const tokens = input("target", [labels.length, labels[0].length], "u32");
  const memory = encode(parameters, model, memoryTokens);
  const h = decode(parameters, model, tokens, { memory, memoryTokens });
  const [logits] = interpret([languageModelLogits(parameters, model, "clm", h)], {
    values: { ...weights, source: source.flat(), target: shifted.flat() },
  });
  const expected = goldenTensors(`${folder}/expected_logits.safetensors`).get("logits")!.values;
  for (const [i, label] of labels.flat().entries()) {
    if (label === 1) continue;
    for (let v = i * model.vocabSize; v < (i + 1) * model.vocabSize; v++) {
      assert.ok(
        Math.abs(logits[v] - expected[v]) < 1e-4,
        `logit ${v}: ${logits[v]}, ${expected[v]}`,
      );
    }
  }
}
