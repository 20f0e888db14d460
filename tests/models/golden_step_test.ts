/** The METRO objective against steps of the reference implementation, in float64 on the host. */
import assert from "node:assert/strict";
import { grad, interpret, type Tensor } from "../../ops/mod.ts";
import type { Values } from "../../ops/graph/tensor.ts";
import { lossScalars, metro, METRO_SUMS, metroInputs, metroLogits } from "../../models/metro.ts";
import { declareParameters } from "../../models/parameters.ts";
import { readStepFolder } from "../../tasks/verify/step_folder.ts";
import { goldenPath, hasGolden } from "./golden.ts";

for (const name of ["tiny_lm", "tiny_all_positions", "tiny_weighted_shared_norm"]) {
  Deno.test({
    name: `metro: losses, logits and gradients of golden step ${name}`,
    ignore: !hasGolden,
    fn: () => checkStep(goldenPath(`metro_step/${name}`)),
  });
}

async function checkStep(path: string): Promise<void> {
  const golden = await readStepFolder(path);
  const { model, objective, counts, rows, length } = golden;
  const parameters = declareParameters(model);
  assert.deepEqual(Object.keys(golden.before).sort(), Object.keys(parameters).sort());
  const inputs = metroInputs(objective, rows, length, { givenNoise: true });
  const { loss, sums } = metro(parameters, model, objective, inputs);
  const logits = metroLogits(parameters, model, inputs, inputs.noise!);
  const names = Object.keys(parameters);
  const outputs: Record<string, Tensor> = { loss, ...sums, ...logits };
  const gradients = grad(loss, names.map((name) => parameters[name]));
  const [step] = golden.updates;
  const values = interpret([...Object.values(outputs), ...gradients], {
    values: { ...golden.before, ...golden.inputs, noise: step.noise },
    run: { scalars: lossScalars(objective, counts, counts) },
  });
  const value = Object.fromEntries(
    Object.keys(outputs).map((name, i) => [name, values[i]]),
  ) as Record<string, Values>;

  // Losses and metrics.
  const all = objective.maskedPositionsOnly === "none";
  const size = all ? counts.tokens : counts.selected;
  close(value.loss[0], step.losses.total, "loss");
  close(value.mlmNll[0] / counts.selected, step.losses.mlm, "mlm");
  close(value.clmLoss[0] / size, step.losses.clm, "clm");
  close(value.rtdLoss[0] / counts.tokens, step.losses.rtd, "rtd");
  assert.equal(size, step.counts.sample_size);
  assert.equal(value.mlmCorrect[0], step.counts.mlm_correct);
  assert.equal(value.rtdReplaced[0], step.counts.replaced_total);
  assert.equal(value.rtdReplacedPredicted[0], step.counts.rtd_replaced_correct);
  assert.equal(value.clmReplacedCorrect[0], step.counts.clm_replaced_correct);
  for (const name in METRO_SUMS) assert.ok(Array.from(value[name]).every(Number.isFinite), name);

  // Logits, at tokens.
  const { positions, tokens } = golden.inputs;
  const slots = Array.from(positions.keys()).filter((i) => positions[i] < tokens.length);
  const real = Array.from(tokens.keys()).filter((i) => tokens[i] !== 1);
  const rowsOf = (x: ArrayLike<number>, rows: number[], width: number) =>
    rows.flatMap((r) => Array.prototype.slice.call(x, r * width, (r + 1) * width));
  const V = model.vocabSize;
  compare(rowsOf(value.mlm, slots, V), golden.logits.mlm, "mlm logits");
  for (const [name, width] of [["clm", V], ["rtd", 1]] as const) {
    const expected = rowsOf(golden.logits[name]!, real, width);
    compare(rowsOf(value[name], real, width), expected, `${name} logits`);
  }

  // Every gradient.
  for (const [i, name] of names.entries()) {
    const got = values[Object.keys(outputs).length + i];
    compare(got, golden.gradients[name], `gradient of ${name}`);
  }
}

function close(got: number, expected: number, what: string): void {
  assert.ok(
    Math.abs(got - expected) < 2e-5 * Math.abs(expected),
    `${what}: ${got} for ${expected}`,
  );
}

/** Fails where a difference exceeds a ten-thousandth of the largest magnitude expected. */
function compare(got: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(got.length, expected.length, what);
  let difference = 0, largest = 0;
  for (let i = 0; i < got.length; i++) {
    difference = Math.max(difference, Math.abs(got[i] - expected[i]));
    largest = Math.max(largest, Math.abs(expected[i]));
  }
  // Some gradients are 0 but for rounding: the bias of keys moves no softmax.
  const scale = Math.max(largest, 1e-3);
  assert.ok(difference < 1e-4 * scale, `${what}: off by ${difference} of ${largest}`);
}
