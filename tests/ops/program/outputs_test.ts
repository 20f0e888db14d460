// Whatever a graph may end in can be read after a run, and be a state's new value: numbers that are only
// expressions, sources and views of them, on both kinds of device.

import assert from "node:assert/strict";
import {
  add,
  compile,
  constant,
  type Device,
  gatherRows,
  grad,
  input,
  interpret,
  matmul,
  mul,
  reshape,
  runScalar,
  scalar,
  state,
  sum,
  sumRows,
  type Tensor,
  toFloat,
} from "../../../ops/mod.ts";
import { topological } from "../../../ops/graph/tensor.ts";
import { Random } from "../../../ops/graph/random.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { gpuTest, softwareDevice } from "../../gpu.ts";

const VALUES = { s: Float32Array.of(5, -6), t: Float32Array.of(7), i: Float32Array.of(1, 2) };
const RUN = { key: 1, sequence: 0, scalars: { r: 0.25 } };

const s = state("s", [2]), t = state("t", [1]), i = input("i", [2]);

/** Graphs may end in these. */
function endings(): Record<string, Tensor> {
  const loss = sum(mul(i, scalar(3))), two = scalar(2);
  return {
    literal: scalar(3.5),
    "literal of integers": scalar(4_000_000_000, "u32"),
    "scalar of the run": runScalar("r"),
    "view of a literal": reshape(scalar(-2), [1, 1]),
    "view of a view of a scalar of the run": reshape(reshape(runScalar("r"), [1]), [1, 1, 1]),
    "sum of literals": add(scalar(1), scalar(2)),
    "gradient that is a literal": grad(reshape(t, []), [t])[0],
    "gradient of a sum": grad(loss, [i])[0],
    constant: constant(Float32Array.of(8, 9), [2]),
    "constant of integers": constant(Uint32Array.of(3, 4_294_967_295), [2]),
    "view of a constant": reshape(constant(Float32Array.of(8, 9), [2]), [2, 1]),
    input: i,
    "view of an input": reshape(i, [1, 2]),
    state: s,
    "view of a state": reshape(s, [2, 1]),
    "something computed": add(s, i),
    "a view of something computed": reshape(add(s, i), [1, 2]),
    "integers as floats": toFloat(scalar(7, "u32")),
    "sum of a literal": sum(scalar(3)),
    "sum over a view of a scalar of the run": sumRows(reshape(runScalar("r"), [1, 1])),
    "product with a view of a literal": matmul(reshape(i, [2, 1]), reshape(scalar(3), [1, 1])),
    "product of a view of a literal": matmul(reshape(scalar(3), [1, 1]), reshape(i, [1, 2])),
    "a literal and a view of it": add(mul(i, two), reshape(two, [1])),
    "rows by a literal": gatherRows(reshape(i, [2, 1]), reshape(scalar(1, "u32"), [1])),
    "rows of a literal": gatherRows(
      reshape(scalar(4), [1, 1]),
      constant(Uint32Array.of(0, 0), [2]),
    ),
  };
}

async function check(
  device: Device,
  outputs: Record<string, Tensor>,
  updates: [Tensor, Tensor][],
  what: string,
): Promise<void> {
  const program = compile(device, { name: what, outputs, updates });
  try {
    for (const node of topological([...Object.values(outputs), ...updates.flat()])) {
      const name = node.attrs?.name as keyof typeof VALUES;
      if (node.primitive.name === "state") program.write(name, VALUES[name]);
    }
    // Twice: the second run finds what the first has left.
    let values: Record<string, ArrayLike<number>> = VALUES;
    for (let round = 0; round < 2; round++) {
      program.run({ ...RUN, inputs: { i: VALUES.i } });
      const tensors = [...Object.values(outputs), ...updates.map(([, value]) => value)];
      const expected = interpret(tensors, { values, run: RUN });
      for (const [k, name] of Object.keys(outputs).entries()) {
        assert.deepEqual([...await program.read(name)], [...expected[k]], `${what}: ${name}`);
      }
      const changed = updates.map(([{ node }], k) => [
        node.attrs.name,
        expected[Object.keys(outputs).length + k],
      ]);
      values = { ...values, ...Object.fromEntries(changed) };
    }
    for (const [{ node }] of updates) {
      const { name } = node.attrs;
      assert.deepEqual([...await program.read(name)], [...values[name] as number[]], what);
    }
  } finally {
    program.destroy();
  }
}

async function checkAll(device: Device): Promise<void> {
  for (const [name, tensor] of Object.entries(endings())) {
    await check(device, { x: tensor }, [], name);
    await check(device, { x: tensor, y: tensor }, [], `${name}, twice`);
  }
  await check(device, endings(), [], "all at once");

  const single = {
    literal: scalar(3.5),
    "scalar of the run": runScalar("r"),
    input: i,
  };
  for (const [name, value] of Object.entries(single)) {
    const into = name === "input" ? s : t;
    const shaped = reshape(value, into.shape);
    await check(device, {}, [[into, shaped]], `${name} into a state`);
    await check(device, { x: value }, [[into, shaped]], `${name} into a state and an output`);
    await check(
      device,
      { old: into, next: add(into, shaped) },
      [[into, shaped]],
      `${name}, with the old state`,
    );
  }
  await check(
    device,
    { old: t, view: reshape(t, [1, 1]) },
    [[t, add(t, t)]],
    "a state before its update",
  );

  const random = new Random(11), names = Object.keys(endings());
  for (let round = 0; round < 20; round++) {
    const all = endings();
    const chosen = names.filter(() => random.below(3) === 0);
    const outputs = Object.fromEntries(chosen.map((name) => [name, all[name]]));
    // The same input once more: both are one.
    const value = random.below(2) ? add(s, input("i", [2])) : i;
    await check(device, outputs, random.below(2) ? [[s, value]] : [], chosen.join(", "));
  }
}

cpuTest("CPU: everything that a graph may end in", async () => {
  const device = await openTestDevice();
  await checkAll(device);
  device.destroy();
});

gpuTest("GPU: everything that a graph may end in", async () => {
  await checkAll(await softwareDevice());
});

cpuTest("a state that a program updates is declared once, or compiling says so", async () => {
  const device = await openTestDevice(), again = state("s", [2]);
  const refused = (outputs: Record<string, Tensor>, updates: [Tensor, Tensor][], message: RegExp) =>
    assert.throws(() => compile(device, { name: "twice", outputs, updates }), message);
  refused(
    { x: add(again, i) },
    [[s, add(s, i)]],
    /^Error: state s: is declared twice in a program that/,
  );
  refused({}, [[s, add(again, i)]], /^Error: state s: is declared twice/);
  refused({}, [[s, add(s, i)], [again, i]], /^Error: state s: is updated twice$/);
  // Whatever is only read may be declared as often as one likes.
  await check(device, { x: add(again, s), y: again }, [], "read twice");
  device.destroy();
});
