import assert from "node:assert/strict";
import { parseShardIndex } from "../../../models/formats/shard_index.ts";
import { assertUserError, fuzz, joined } from "../../fuzz.ts";

const parse = (json: unknown) => {
  const text = typeof json === "string" ? json : JSON.stringify(json);
  return parseShardIndex(new TextEncoder().encode(text), ".bin");
};

Deno.test("an index maps tensors to files", () => {
  const weight_map = { "a.b": "pytorch_model-00001-of-00002.bin", "__proto__": "m=2 (x).bin" };
  const honest = { metadata: { total_size: 8 }, weight_map: { ...weight_map } };
  assert.deepEqual([...parse(honest)], [["a.b", "pytorch_model-00001-of-00002.bin"]]);
  assert.deepEqual([...parse(`{"weight_map":{"__proto__":"m.bin"}}`)], [["__proto__", "m.bin"]]);
});

Deno.test("indexes that lie are refused", () => {
  const assertRefused = (json: unknown, message: RegExp) =>
    assert.throws(() => parse(json), (error) => {
      assertUserError(error);
      assert.match(error.message, message);
      return true;
    });
  for (
    const file of [
      "../m.bin",
      "/etc/m.bin",
      "a/m.bin",
      "a\\m.bin",
      "C:m.bin",
      "..bin",
      "m\0.bin",
      "m\n.bin",
      ".bin",
      "",
      "m.safetensors",
      "pytorch_model.bin.index.json",
      "http://m.bin",
      7,
      null,
      ["m.bin"],
    ]
  ) {
    assertRefused(
      { weight_map: { w: file } },
      /^weight_map: w: expected the plain name of a \.bin/,
    );
  }
  assertRefused({}, /^weight_map: expected an object/);
  assertRefused({ weight_map: ["m.bin"] }, /^weight_map: expected an object/);
  assertRefused([], /^not a JSON object/);
  assertRefused("{", /^not JSON/);
  assertRefused(`{"weight_map":{"w":"1.bin","w":"2.bin"}}`, /^w is listed twice$/);
  assertRefused(`{"weight_map":{"w":"1.bin"},"weight_map":{}}`, /^weight_map is listed twice$/);
  assertRefused(`{"x":${"[".repeat(1e5)}${"]".repeat(1e5)}}`, /nested too deeply/);
});

Deno.test("10,000 damaged indexes are read or refused, never anything else", async () => {
  const index = joined(`{"metadata":{"n":[1,2]},"weight_map":{"a":"m-1.bin","b\\n":"m-2.bin"}}`);
  const outcome = await fuzz([index], 10_000, (bytes) => parseShardIndex(bytes, ".bin"));
  assert.ok(outcome.read > 50 && outcome.refused > 5000, JSON.stringify(outcome));
});
