/** The METRO objective against steps of the reference implementation, in float64 on the host. */
import assert from "node:assert/strict";
import { evaluate, grad, type Tensor, type Values } from "../../ops/mod.ts";
import { lossScalars, metro, METRO_SUMS, metroInputs, metroLogits } from "../../models/metro.ts";
import { layOutMetroBatch } from "../../models/metro_batch.ts";
import { declareParameters } from "../../models/parameters.ts";
import {
  fromReference,
  goldenConfig,
  goldenJson,
  type GoldenStep,
  goldenTensors,
  hasGolden,
} from "./golden.ts";

for (const name of ["tiny_lm", "tiny_all_positions", "tiny_weighted_shared_norm"]) {
  Deno.test({
    name: `metro: losses, logits and gradients of golden step ${name}`,
    ignore: !hasGolden,
    fn: () => checkStep(`metro_step/${name}`),
  });
}

function checkStep(folder: string): void {
  const golden = goldenJson<GoldenStep>(`${folder}/step.json`);
  const { model, objective } = goldenConfig(golden);
  const { batch, counts } = layOut(golden, model, objective);
  const [rows, length] = [golden.batch.tokens.length, golden.batch.tokens[0].length];
  const weights = fromReference(model, goldenTensors(`${folder}/params_before.safetensors`));

  const parameters = declareParameters(model);
  assert.deepEqual(Object.keys(weights).sort(), Object.keys(parameters).sort());
  const inputs = metroInputs(objective, rows, length, { givenNoise: true });
  const { loss, sums } = metro(parameters, model, objective, inputs);
  const logits = metroLogits(parameters, model, inputs, inputs.noise!);
  const names = Object.keys(parameters);
  const outputs: Record<string, Tensor> = { loss, ...sums, ...logits };
  const gradients = grad(loss, names.map((name) => parameters[name]));
  const [step] = golden.steps;
  const values = evaluate([...Object.values(outputs), ...gradients], {
    values: { ...weights, ...batch, noise: step.noise.flat() },
    run: { scalars: lossScalars(objective, counts, counts) },
  });
  const value = Object.fromEntries(
    Object.keys(outputs).map((name, i) => [name, values[i]]),
  ) as Record<string, Values>;

  // Losses and metrics.
  const size = step.sample_size;
  const all = objective.maskedPositionsOnly === "none";
  close(value.loss[0], step.loss, "loss");
  close(value.mlmNll[0] / counts.selected, step.mlm, "mlm");
  close(value.clmLoss[0] / size, step.clm, "clm");
  close(value.rtdLoss[0] / counts.tokens, step.rtd, "rtd");
  assert.equal(size, all ? counts.tokens : counts.selected);
  assert.equal(value.mlmCorrect[0], step.mlm_correct);
  assert.equal(value.rtdReplaced[0], step.replaced_total);
  assert.equal(value.rtdReplacedPredicted[0], step.rtd_replaced_correct);
  assert.equal(value.clmReplacedCorrect[0], step.clm_replaced_correct);
  for (const name of METRO_SUMS) assert.ok(Number.isFinite(value[name][0]), name);

  // Logits, at tokens.
  const expected = goldenTensors(`${folder}/logits.safetensors`);
  const tokens = golden.batch.tokens.flat();
  const slots = Array.from(batch.positions.keys()).filter((i) =>
    batch.positions[i] < tokens.length
  );
  const real = Array.from(tokens.keys()).filter((i) => tokens[i] !== 1);
  const rowsOf = (x: ArrayLike<number>, rows: number[], width: number) =>
    rows.flatMap((r) => Array.prototype.slice.call(x, r * width, (r + 1) * width));
  const V = model.vocabSize;
  compare(rowsOf(value.mlm, slots, V), expected.get("mlm_logits")!.values, "mlm logits");
  for (const [name, width] of [["clm", V], ["rtd", 1]] as const) {
    const golden = rowsOf(expected.get(`${name}_logits`)!.values, real, width);
    compare(rowsOf(value[name], real, width), golden, `${name} logits`);
  }

  // Every gradient.
  const reference = fromReference(model, goldenTensors(`${folder}/grads.safetensors`));
  for (const [i, name] of names.entries()) {
    const got = values[Object.keys(outputs).length + i];
    compare(got, reference[name], `gradient of ${name}`);
  }
}

function layOut(
  { batch }: GoldenStep,
  model: Parameters<typeof layOutMetroBatch>[0],
  objective: Parameters<typeof layOutMetroBatch>[1],
) {
  const selected = batch.selected.map((row) =>
    Uint32Array.from(row.keys()).filter((position) => row[position] === 1)
  );
  const tokens = Uint32Array.from(batch.tokens.flat());
  const aux = Uint32Array.from(batch.aux_input.flat());
  const length = batch.tokens[0].length;
  const { inputs, counts } = layOutMetroBatch(
    model,
    objective,
    { tokens, length, sequences: [] },
    aux,
    selected,
  );
  assert.deepEqual(inputs.decoderTokens, Uint32Array.from(batch.decoder_input.flat()));
  return { batch: inputs, counts };
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
