// How expressions become WGSL; that the text computes what it should is for the cases to show.

import assert from "node:assert/strict";
import { printExpression } from "../../../ops/gpu/wgsl.ts";
import { type Expression, mixed, x } from "../../../ops/graph/expression.ts";

function print(e: Expression, width: 1 | 4, args = ["a", "b[i]"]) {
  const params: number[] = [];
  const param = (value: number) => `P.p${params.push(value) - 1}`;
  return { ...printExpression(e, args, { width, flat: "at", prefix: "v", param }), params };
}

const a = x.argument(0, "f32"), b = x.argument(1, "f32");

Deno.test("what is used twice is declared once, names and parameters excepted", () => {
  const square = x.mul(b, b);
  const { statements, value } = print(x.add(square, x.mul(square, a)), 1);
  assert.deepEqual(statements, ["let v_0 = b[i];", "let v_1 = (v_0 * v_0);"]);
  assert.equal(value, "(v_1 + (v_1 * a))");
});

Deno.test("what is the same for four elements is computed once, and spread where they differ", () => {
  const bits = x.xor(x.xor(x.runKey, x.parameter(5)), x.place);
  const { value, params, usesRun } = print(x.float(bits), 4);
  assert.equal(
    value,
    "vec4f((vec4u((R[0].x ^ P.p0)) ^ (vec4u(at) + vec4u(0u, 1u, 2u, 3u))))",
  );
  assert.deepEqual(params, [5]);
  assert.ok(usesRun);
  assert.equal(print(x.literal(2), 4).value, "vec4f(2.0)");
});

Deno.test("numbers are written so that WGSL takes them for what they are", () => {
  assert.equal(print(x.add(a, x.literal(-3)), 1).value, "(a + (-3.0))");
  assert.equal(print(x.literal(1e30), 1).value, "1.0000000150474662e+30");
  assert.equal(print(x.literal(-1, "u32"), 1).value, "4294967295u");
  assert.throws(() => print(x.literal(Infinity), 1), /Infinity has no WGSL literal/);
});

Deno.test("a condition chooses between its second and its third operand", () => {
  const { value } = print(x.select(x.greater(a, x.literal(0)), a, x.literal(1)), 4);
  assert.equal(value, "select(vec4f(1.0), a, (a > vec4f(0.0)))");
});

Deno.test("the text of a mixing grows with its steps, not with its paths", () => {
  let e: Expression = x.argument(0, "u32");
  for (let i = 0; i < 20; i++) e = mixed(e);
  assert.ok(print(e, 4).statements.join("\n").length < 10_000);
});
