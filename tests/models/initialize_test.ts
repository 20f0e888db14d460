import assert from "node:assert/strict";
import { initialize } from "../../models/initialize.ts";
import { parameterShapes } from "../../models/parameters.ts";
import { relativeBucket } from "../../models/relative.ts";
import { preset } from "../../models/presets.ts";

const { model: base } = preset("base");

function moments(values: Float32Array) {
  let sum = 0, squares = 0, largest = 0;
  for (const x of values) {
    sum += x;
    squares += x * x;
    largest = Math.max(largest, Math.abs(x));
  }
  const mean = sum / values.length;
  return { mean, deviation: Math.sqrt(squares / values.length - mean * mean), largest };
}

Deno.test("initialize: deviations of the reference, its accidents included", () => {
  const values = initialize(base, 1), large = initialize(preset("large++").model, 1);
  const expected: [Float32Array, number][] = [
    [values("encoder.0.attention.q.weight"), 0.0255],
    [values("decoder.11.cross.out.weight"), 0.0255],
    [values("encoder.3.ffn.in.weight"), 0.0128],
    [values("decoder.3.ffn.out.weight"), 0.0255],
    [values("encoder.embed.positions"), 0.0255],
    [values("embed.tokens").subarray(0, 2_000_000), 0.00388],
    [values("aux.0.attention.q.weight"), 0.02],
    [values("aux.3.ffn.out.weight"), 0.02],
    [values("aux.embed.positions"), 0.02],
    [values("mlm.dense.weight"), 1 / Math.sqrt(3 * 768)],
    [values("rtd.dense.weight"), 1 / Math.sqrt(3 * 768)],
    [large("encoder.0.attention.q.weight"), 0.0221],
    [large("encoder.0.ffn.in.weight"), 0.011],
    [large("encoder.0.ffn.out.weight"), 0.0221],
    [large("decoder.embed.positions"), 0.0221],
  ];
  for (const [index, [tensor, deviation]] of expected.entries()) {
    const got = moments(tensor);
    assert.ok(Math.abs(got.deviation / deviation - 1) < 0.005, `${index}: ${got.deviation}`);
    assert.ok(Math.abs(got.mean) < 5 * deviation / Math.sqrt(tensor.length), `${index}`);
  }
});

Deno.test("initialize: bounds of the uniform tensors", () => {
  const values = initialize(base, 1);
  assert.ok(moments(values("encoder.embed.positions")).largest <= 0.0442);
  assert.ok(moments(values("mlm.dense.bias")).largest <= 1 / Math.sqrt(768));
  assert.ok(moments(values("mlm.dense.bias")).largest > 0.9 / Math.sqrt(768));
});

Deno.test("initialize: constants", () => {
  const values = initialize(base, 1);
  const all = (name: string, value: number) =>
    assert.ok(values(name).every((x) => x === value), name);
  all("encoder.0.attention.q.bias", 0);
  all("encoder.0.attention.relative", 0);
  all("encoder.0.attention.norm.gain", 1);
  all("aux.0.ffn.in.bias", 0);
  all("mlm.bias", 0);
  all("rtd.out.weight", 0);
  all("rtd.out.bias", 0);
  // Unlike the main model's, the auxiliary model's relative tables start at random.
  assert.ok(values("aux.0.attention.relative").every((x) => x !== 0));
  // The pad row is 0 in position tables, but not in the token table.
  const padRow = (name: string) => values(name).subarray(768, 2 * 768);
  assert.ok(padRow("encoder.embed.positions").every((x) => x === 0));
  assert.ok(padRow("embed.tokens").some((x) => x !== 0));
});

Deno.test("initialize: every tensor of every part, a function of seed and name", () => {
  const { model } = preset("tiny");
  const values = initialize(model, 5), again = initialize(model, 5), other = initialize(model, 6);
  for (const [name, shape] of parameterShapes(model)) {
    assert.equal(values(name).length, shape.reduce((a, b) => a * b, 1));
  }
  const name = "encoder.0.ffn.in.weight";
  assert.deepEqual(values(name), again(name));
  assert.notDeepEqual(values(name), other(name));
  assert.notDeepEqual(values(name), values("encoder.1.ffn.in.weight"));
  assert.throws(() => values("decoder.9.ffn.in.weight"), /no parameter decoder.9/);
});

Deno.test("initialize: short runs start from tokens above positions, and from heads that look at near ones", () => {
  const short = initialize(base, 1, "short"), reference = initialize(base, 1);
  const ratio = (name: string) =>
    moments(short(name)).deviation / moments(reference(name)).deviation;
  assert.ok(Math.abs(moments(short("embed.tokens").subarray(0, 2_000_000)).deviation - 0.1) < 5e-4);
  for (const stack of ["encoder", "decoder"]) {
    assert.ok(Math.abs(ratio(`${stack}.embed.positions`) - 0.3) < 1e-3);
  }
  const relative = short("encoder.11.attention.relative");
  for (const [head, delta] of [-1, 1, -2, 2, -3, 3].entries()) {
    const column = relative.filter((_, i) => i % base.heads === head);
    assert.equal(column.indexOf(Math.max(...column)), relativeBucket(delta, base, 1024));
  }
  for (const map of ["in", "out"]) {
    assert.ok(Math.abs(ratio(`encoder.0.ffn.${map}.weight`) - 2) < 0.01);
    assert.deepEqual(
      short(`decoder.0.ffn.${map}.weight`),
      reference(`decoder.0.ffn.${map}.weight`),
    );
  }
  assert.deepEqual(short("aux.0.attention.relative"), reference("aux.0.attention.relative"));
});
