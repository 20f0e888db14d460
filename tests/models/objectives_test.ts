/** The objectives on the host, in float64: what holds whatever the weights are. */
import assert from "node:assert/strict";
import { grad, interpret, sum, type Tensor } from "../../ops/mod.ts";
import { maskId, type ModelConfig, type ObjectiveConfig, SPECIAL } from "../../models/config.ts";
import { languageModel, languageModelLogits } from "../../models/heads.ts";
import { initialize } from "../../models/initialize.ts";
import { lossScalars, metro, metroInputs, metroLogits, metroTokens } from "../../models/metro.ts";
import {
  layOutMetroBatch,
  type MetroBatch,
  NONE,
  prepareMetroBatch,
  slotsPerSequence,
} from "../../models/metro_batch.ts";
import { declareParameters, parameterShapes } from "../../models/parameters.ts";
import { preset } from "../../models/presets.ts";
import { ROC_THRESHOLDS } from "../../models/roc.ts";
import { prepareT5Batch, seq2seq, seq2seqInputs, t5Lengths } from "../../models/t5.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { input, state } from "../../ops/graph/tensor.ts";

const model: ModelConfig = {
  ...preset("tiny").model,
  clmHead: "linear",
  vocabSize: 60,
  sentinels: 20,
  dModel: 16,
  heads: 2,
  dFf: 24,
  encoderLayers: 1,
  decoderLayers: 1,
  maxPositions: 62,
  positionRows: 64,
  dropout: 0,
  auxDropout: 0,
};
const { objective } = preset("tiny");
const parameters = declareParameters(model);

/** Weights large enough that every path matters. */
const weights = Object.fromEntries(Array.from(parameterShapes(model), ([name]) => {
  const random = new Random(key(9, ...new TextEncoder().encode(name)));
  return [name, initialize(model, 3)(name).map((x) => x + 0.2 * random.normal())];
}));

/** Rows of some lengths, padded to the longest; 0 is an unused row. */
function tokenBatch(lengths: number[], columns = Math.max(...lengths)) {
  const tokens = new Uint32Array(lengths.length * columns).fill(SPECIAL.pad);
  for (const [row, length] of lengths.entries()) {
    const random = new Random(row + length);
    for (let i = 0; i < length; i++) tokens[row * columns + i] = 4 + random.below(36);
  }
  const used = lengths.filter((length) => length > 0);
  return { tokens, length: columns, sequences: used.map((length, row) => [length, row] as const) };
}

/** Loss, gradients and sums of a batch. */
function run(
  config: ObjectiveConfig,
  { inputs, counts }: MetroBatch,
  { update = counts, rows = 3, sequence = 0, noise }: {
    update?: typeof counts;
    rows?: number;
    sequence?: number;
    noise?: Uint32Array;
  } = {},
) {
  const length = inputs.tokens.length / rows;
  const program = metroInputs(config, rows, length, { givenNoise: noise !== undefined });
  const outputs = metro(parameters, model, config, program);
  const names = Object.keys(parameters);
  const gradients = grad(outputs.loss, names.map((name) => parameters[name]));
  const sums = Object.entries(outputs.sums);
  const values = interpret(
    [outputs.loss, outputs.noise, ...sums.map(([, sum]) => sum), ...gradients],
    {
      values: { ...weights, ...inputs, ...(noise && { noise }) },
      run: { key: 5, sequence, scalars: lossScalars(config, counts, update) },
    },
  );
  return {
    loss: values[0][0],
    noise: values[1] as Uint32Array,
    sums: Object.fromEntries(sums.map(([name], i) => [name, values[2 + i][0]])),
    gradients: values.slice(2 + sums.length),
  };
}

Deno.test("prepareMetroBatch: a sequence's masks do not depend on its batch", () => {
  const { tokens, sequences } = tokenBatch([20, 14, 17], 20);
  const whole = prepareMetroBatch(model, objective, { tokens, length: 20, sequences }, 1);
  const last = { tokens: tokens.slice(40), length: 20, sequences: sequences.slice(2) };
  const alone = prepareMetroBatch(model, objective, last, 1);
  assert.deepEqual(alone.inputs.auxTokens, whole.inputs.auxTokens.slice(40));
  const otherSeed = prepareMetroBatch(model, objective, { tokens, length: 20, sequences }, 2);
  assert.notDeepEqual(otherSeed.inputs.inverse, whole.inputs.inverse);
});

Deno.test("prepareMetroBatch: positions and inverse point at each other, within tokens", () => {
  const batch = tokenBatch([20, 0, 17]);
  const { inputs, counts } = prepareMetroBatch(model, objective, batch, 1);
  const slots = inputs.positions.filter((position) => position !== NONE);
  assert.equal(slots.length, counts.selected);
  assert.equal(counts.tokens, 37);
  for (const [slot, position] of inputs.positions.entries()) {
    if (position === NONE) continue;
    assert.equal(inputs.inverse[position], slot);
    assert.notEqual(inputs.tokens[position], SPECIAL.pad);
    assert.equal(
      Math.floor(slot / slotsPerSequence(objective, 20)),
      Math.floor(position / 20),
    );
  }
  assert.equal(inputs.inverse.filter((slot) => slot !== NONE).length, counts.selected);
  for (const [i, token] of inputs.tokens.entries()) {
    if (inputs.inverse[i] === NONE) assert.equal(inputs.auxTokens[i], token);
  }
});

Deno.test("prepareMetroBatch: too long a sequence is the user's mistake", () => {
  assert.throws(() => prepareMetroBatch(model, objective, tokenBatch([63]), 1), {
    name: "UserError",
    message: /expected at most 62 positions, got 63/,
  });
});

Deno.test("metro: noise differs from the tokens at selected positions only", () => {
  const batch = prepareMetroBatch(model, objective, tokenBatch([20, 12, 17]), 1);
  const { noise, sums } = run(objective, batch);
  const { tokens, inverse } = batch.inputs;
  let replaced = 0;
  for (const [i, token] of noise.entries()) {
    if (inverse[i] === NONE) assert.equal(token, tokens[i]);
    else if (token !== tokens[i]) replaced++;
  }
  assert.ok(replaced > 0);
  assert.equal(sums.rtdReplaced, replaced);
  assert.equal(sums.clmReplaced, replaced);
  assert.equal(sums.clmReplaced + sums.clmOther, batch.counts.selected);
});

Deno.test("metro: tokens above thresholds are counted where the RTD loss counts them", () => {
  for (const maskedPositionsOnly of ["lm", "none", "both"] as const) {
    const config = { ...objective, maskedPositionsOnly };
    const { inputs, counts } = prepareMetroBatch(model, config, tokenBatch([20, 0, 12, 17]), 1);
    const program = metroInputs(config, 4, 20);
    const { sums, noise } = metro(parameters, model, config, program);
    const { rtd } = metroLogits(parameters, model, program, noise);
    const [above, replacedAbove, seen, logits] = interpret(
      [sums.rtdAbove, sums.rtdReplacedAbove, noise, rtd!],
      { values: { ...weights, ...inputs }, run: { key: 5, sequence: 0 } },
    );
    const chosen = maskedPositionsOnly === "both"
      ? inputs.positions.filter((position) => position !== NONE)
      : Array.from(inputs.tokens.keys()).filter((i) => inputs.tokens[i] !== SPECIAL.pad);
    const expected = Array.from(ROC_THRESHOLDS, (threshold) => {
      const here = Array.from(chosen).filter((i) => logits[i] > Math.fround(threshold));
      const replaced = here.filter((i) => seen[i] !== inputs.tokens[i]);
      return [here.length, replaced.length];
    });
    assert.deepEqual(Array.from(above, (n, i) => [n, replacedAbove[i]]), expected);
    assert.equal(above[0], maskedPositionsOnly === "both" ? counts.selected : counts.tokens);
    assert.ok(replacedAbove[0] > 0);
  }
});

Deno.test("metro: unused rows contribute nothing", () => {
  for (const maskedPositionsOnly of ["lm", "none", "both"] as const) {
    const config = { ...objective, maskedPositionsOnly, weightedLmLoss: true };
    const full = tokenBatch([20, 12, 17]), padded = tokenBatch([20, 12, 17, 0]);
    const a = run(config, prepareMetroBatch(model, config, full, 1));
    const b = run(config, prepareMetroBatch(model, config, padded, 1), { rows: 4 });
    assert.deepEqual(b.sums, a.sums);
    near(b.loss, a.loss);
    for (const [i, gradient] of b.gradients.entries()) nearAll(gradient, a.gradients[i]);
  }
});

Deno.test("metro: padding does not change the losses", () => {
  const config = { ...objective, weightedLmLoss: true };
  const [short, long] = [4, 8].map((columns) =>
    run(config, prepareMetroBatch(model, config, tokenBatch([4, 4, 3], columns), 1))
  );
  for (const name of Object.keys(short.sums)) near(long.sums[name], short.sums[name]);
});

Deno.test("metro: a batch without any token has loss and gradients 0", () => {
  const config = { ...objective, weightedLmLoss: true, divideByMeanWeight: true };
  const batch = prepareMetroBatch(model, config, tokenBatch([0, 0, 0], 8), 1);
  const { loss, gradients } = run(config, batch);
  assert.equal(loss, 0);
  for (const gradient of gradients) assert.ok(gradient.every((x) => x === 0));
});

Deno.test("metro: micro-batches add up to the whole update", () => {
  for (const maskedPositionsOnly of ["lm", "none", "both"] as const) {
    const config = { ...objective, maskedPositionsOnly, rtdAverage: "tokens" as const };
    const { tokens, length, sequences } = tokenBatch([20, 12, 17]);
    const whole = prepareMetroBatch(model, config, { tokens, length, sequences }, 1);
    const { selected, tokens: count } = whole.counts;
    const expected = run(config, whole);
    const parts = sequences.map((sequence, row) => {
      const part = {
        tokens: tokens.slice(row * length, (row + 1) * length),
        length,
        sequences: [sequence],
      };
      const micro = prepareMetroBatch(model, config, part, 1);
      return run(config, micro, { update: whole.counts, rows: 1, sequence: row });
    });
    // Sampling, too, numbers sequences through the update.
    assert.deepEqual(parts.flatMap(({ noise }) => Array.from(noise)), Array.from(expected.noise));
    assert.ok(selected > 0 && count === 49);
    // With `none`, the MLM loss is averaged by micro-batch, as the reference does.
    if (maskedPositionsOnly === "none") continue;
    near(parts.reduce((total, part) => total + part.loss, 0), expected.loss);
    for (const [i, gradient] of expected.gradients.entries()) {
      nearAll(
        gradient.map((_, k) => parts.reduce((total, p) => total + p.gradients[i][k], 0)),
        gradient,
      );
    }
  }
});

Deno.test("lossScalars: the RTD loss by micro-batch, or by token", () => {
  const micro = { selected: 10, tokens: 100 }, update = { selected: 40, tokens: 200 };
  const rtd = (change: Partial<ObjectiveConfig>) =>
    lossScalars({ ...objective, ...change }, micro, update).rtdScale;
  near(rtd({ rtdAverage: "microBatch" }), 50 * (10 / 40) / 100);
  near(rtd({ rtdAverage: "tokens" }), 50 / 200);
  near(rtd({ maskedPositionsOnly: "both" }), 50 / 40);
  near(rtd({ maskedPositionsOnly: "none" }), 50 / 200);
  const nothing = { selected: 0, tokens: 0 };
  for (const maskedPositionsOnly of ["lm", "none", "both"] as const) {
    const none = lossScalars({ ...objective, maskedPositionsOnly }, nothing, nothing);
    assert.deepEqual(none, { mlmScale: 0, clmScale: 0, rtdScale: 0 });
  }
});

Deno.test("metro: weights of mean 1 leave the size of the CLM loss as it is", () => {
  const batch = prepareMetroBatch(model, objective, tokenBatch([20, 12, 17]), 1);
  const plain = run(objective, batch).sums;
  const weighted = run({ ...objective, weightedLmLoss: true }, batch).sums;
  const normalised = run({ ...objective, weightedLmLoss: true, divideByMeanWeight: true }, batch);
  assert.ok(weighted.clmLoss < 0.8 * plain.clmLoss);
  assert.ok(Math.abs(normalised.sums.clmLoss / plain.clmLoss - 1) < 0.1);
  near(weighted.clmNll, plain.clmNll);
});

Deno.test("metro: the RTD head reads the decoder if asked", () => {
  const batch = prepareMetroBatch(model, objective, tokenBatch([20, 12, 17]), 1);
  const encoder = run(objective, batch).sums;
  const decoder = run({ ...objective, rtdLocation: "decoder" }, batch).sums;
  assert.notEqual(decoder.rtdLoss, encoder.rtdLoss);
  assert.equal(decoder.clmLoss, encoder.clmLoss);
});

Deno.test("metro: copying helps where the noise is right, and costs where it is wrong", () => {
  const batch = prepareMetroBatch(model, objective, tokenBatch([20, 12, 17]), 1);
  const { tokens } = batch.inputs;
  const loss = (copyMechanism: boolean, noise: Uint32Array) =>
    run({ ...objective, copyMechanism }, batch, { noise }).sums.clmLoss;
  assert.ok(loss(true, tokens) < loss(false, tokens));
  const wrong = tokens.map((id) => id === SPECIAL.pad ? id : 4 + (id - 3) % 36);
  assert.ok(loss(true, wrong) > loss(false, wrong));
});

Deno.test("metro: a model without RTD head has two losses", () => {
  const headless = { ...model, rtdHead: "none" as const };
  const batch = prepareMetroBatch(headless, objective, tokenBatch([20, 12, 17]), 1);
  const p = declareParameters(headless);
  const { loss, sums } = metro(p, headless, objective, metroInputs(objective, 3, 20));
  const [total, mlm, clm] = interpret([loss, sums.mlmNll, sums.clmNll], {
    values: { ...weights, ...batch.inputs },
    run: { scalars: lossScalars(objective, batch.counts, batch.counts) },
  });
  near(total[0], (mlm[0] + clm[0]) / batch.counts.selected);
});

Deno.test("metro: every head and sharing mode reaches every parameter", () => {
  for (const share of ["none", "token", "token_pos", "token_pos_norm"] as const) {
    for (const head of ["linear", "roberta"] as const) {
      const config = { ...model, share, mlmHead: head, clmHead: head, rtdHead: "simple" as const };
      const p = declareParameters(config);
      const { loss } = metro(p, config, objective, metroInputs(objective, 2, 12));
      assert.equal(grad(loss, Object.values(p)).length, Object.keys(p).length);
    }
  }
});

Deno.test("metro: a fresh RTD head is undecided, at a loss of ln 2", () => {
  const values = Object.fromEntries(
    Array.from(parameterShapes(model).keys(), (name) => [name, initialize(model, 1)(name)]),
  );
  const batch = prepareMetroBatch(model, objective, tokenBatch([20, 12, 17]), 1);
  const { sums } = metro(parameters, model, objective, metroInputs(objective, 3, 20));
  const [rtd, predicted] = interpret([sums.rtdLoss, sums.rtdPredicted], {
    values: { ...values, ...batch.inputs },
    run: { scalars: lossScalars(objective, batch.counts, batch.counts) },
  });
  near(rtd[0] / batch.counts.tokens, Math.LN2);
  // An undecided logit of 0 counts as "replaced".
  assert.equal(predicted[0], batch.counts.tokens);
});

Deno.test("languageModel: label smoothing equals its definition on whole logits", () => {
  const h = state("h", [5, 16]), targets = input("targets", [5], "u32");
  for (const head of ["mlm", "clm"] as const) {
    const smooth = languageModel(parameters, model, head, h, targets, { labelSmoothing: 0.1 });
    const plain = languageModel(parameters, model, head, h, targets);
    const all = languageModelLogits(parameters, model, head, h);
    const random = new Random(2);
    const values = {
      ...weights,
      h: Float32Array.from({ length: 80 }, () => random.normal()),
      targets: Uint32Array.of(3, 59, 0, 7, 7),
    };
    const [loss, nll, logits] = interpret([smooth.loss, plain.nll, all], { values });
    for (let row = 0; row < 5; row++) {
      const x = Array.from(logits.subarray(row * 60, (row + 1) * 60));
      const normaliser = Math.log(x.reduce((total, z) => total + Math.exp(z), 0));
      const everyNll = x.reduce((total, z) => total + normaliser - z, 0);
      const share = 0.1 / 59;
      near(loss[row], (1 - 0.1 - share) * nll[row] + share * everyNll);
    }
    const reached = grad(sum(smooth.loss), [parameters["embed.tokens"]]);
    assert.deepEqual(reached[0].shape, [60, 16]);
  }
});

Deno.test("prepareT5Batch and seq2seq: unused rows contribute nothing", () => {
  const results = [[20, 12], [20, 12, 0]].map((lengths) => {
    const { inputs, counts } = prepareT5Batch(model, tokenBatch(lengths), 1);
    const sizes = t5Lengths(20);
    const { loss, sums } = seq2seq(parameters, model, seq2seqInputs(lengths.length, sizes));
    const outputs: Tensor[] = [loss, sums.clmTokens, ...grad(loss, [parameters["embed.tokens"]])];
    return interpret(outputs, {
      values: { ...weights, ...inputs },
      run: { scalars: { clmScale: 1 / counts.targets } },
    });
  });
  near(results[1][0][0], results[0][0][0]);
  near(results[1][1][0], results[0][1][0]);
  nearAll(results[1][2], results[0][2]);
});

Deno.test("prepareT5Batch: decoder inputs are the targets, one later", () => {
  const { inputs, counts } = prepareT5Batch(model, tokenBatch([40, 25]), 1);
  const { target } = t5Lengths(40);
  for (const row of [0, 1]) {
    const targets = inputs.targets.subarray(row * target, (row + 1) * target);
    const end = targets.indexOf(SPECIAL.pad);
    assert.equal(targets[end - 1], maskId(model));
    const decoder = inputs.decoderTokens.subarray(row * target, (row + 1) * target);
    assert.equal(decoder[0], maskId(model));
    assert.deepEqual(decoder.subarray(1, end), targets.subarray(0, end - 1));
    assert.ok(decoder.subarray(end).every((token) => token === SPECIAL.pad));
  }
  assert.equal(counts.targets, inputs.targets.filter((token) => token !== SPECIAL.pad).length);
  assert.equal(counts.truncated, 0);
});

Deno.test("prepareT5Batch: sequences practically never outgrow the static lengths", () => {
  const { model } = preset("base");
  for (const length of [64, 128, 256, 512]) {
    const rows = 64, tokens = new Uint32Array(rows * length).fill(9);
    for (let epoch = 0; epoch < 8; epoch++) {
      const sequences = Array.from({ length: rows }, (_, i) => [epoch, i] as const);
      assert.equal(prepareT5Batch(model, { tokens, length, sequences }, 1).counts.truncated, 0);
    }
  }
});

function near(got: number, expected: number): void {
  assert.ok(
    Math.abs(got - expected) <= 1e-9 * Math.max(1, Math.abs(expected)),
    `${got}, ${expected}`,
  );
}

function nearAll(got: ArrayLike<number>, expected: ArrayLike<number>): void {
  assert.equal(got.length, expected.length);
  for (let i = 0; i < got.length; i++) near(got[i], expected[i]);
}

Deno.test("metroTokens: what is seen of each token adds up to the objective's sums", () => {
  for (const rtdLocation of ["encoder", "decoder"] as const) {
    const config: ObjectiveConfig = { ...objective, rtdLocation, maskProbability: 0.3 };
    const batch = prepareMetroBatch(model, config, tokenBatch([20, 14, 17], 20), 1);
    const { inputs: { tokens, inverse, positions } } = batch;
    const { sums, noise: trained } = run(config, batch);
    const outputs = metroTokens(parameters, model, config, metroInputs(config, 3, 20));
    const [noise, correction, replacedness] = interpret(
      [outputs.noise, outputs.correction, outputs.replacedness!],
      { values: { ...weights, ...batch.inputs }, run: { key: 5 } },
    );
    assert.deepEqual(noise, trained);
    const all = Array.from(tokens.keys()).filter((i) => tokens[i] !== SPECIAL.pad);
    const count = (holds: (i: number) => boolean) => all.filter(holds).length;
    const isReplaced = (i: number) => noise[i] !== tokens[i];
    const isRight = (i: number) => correction[i] === tokens[i];
    const isSelected = (i: number) => inverse[i] !== NONE;
    assert.ok(positions.some((position) => position !== NONE));
    assert.equal(count(isReplaced), sums.rtdReplaced);
    assert.equal(count((i) => replacedness[i] >= 0.5), sums.rtdPredicted);
    assert.equal(
      count((i) => isReplaced(i) && replacedness[i] >= 0.5),
      sums.rtdReplacedPredicted,
    );
    assert.equal(count((i) => isReplaced(i) && isRight(i)), sums.clmReplacedCorrect);
    assert.equal(
      count((i) => isSelected(i) && !isReplaced(i) && isRight(i)),
      sums.clmOtherCorrect,
    );
  }
});

Deno.test("the paper's example of an ambiguous target: one source, two targets, each right", () => {
  // Table 9: the sentence 1 2 3 4 5, two choices of hidden tokens, guesses of which some are right.
  const sentence = [11, 12, 13, 14, 15];
  const config: ObjectiveConfig = {
    ...{ ...objective, decoderTarget: "maskedTokens", maskProbability: 0.6 },
  };
  const layOut = (selected: number[]) => {
    const tokens = Uint32Array.from(sentence), seen = tokens.slice();
    for (const i of selected) seen[i] = maskId(model);
    const batch = { tokens, length: 5, sequences: [] };
    return layOutMetroBatch(model, config, batch, seen, [Uint32Array.from(selected)]);
  };
  // Hidden 2 3 4 and guessed 2, x, 4; hidden 3 4 and guessed x, 4.
  const first = layOut([1, 2, 3]), second = layOut([2, 3]);
  const noise = Uint32Array.of(11, 12, 19, 14, 15);
  const passed = [first, second].map((batch) => run(config, batch, { rows: 1, noise }));
  assert.deepEqual(passed[0].noise, passed[1].noise);
  const written = [first, second].map(({ inputs }) =>
    Array.from(inputs.positions.filter((i) => i !== NONE), (i) => sentence[i])
  );
  assert.deepEqual(written, [[12, 13, 14], [13, 14]]);
  const start = maskId(model);
  assert.deepEqual(first.inputs.decoderTokens.slice(0, 3), Uint32Array.of(start, 12, 13));
  assert.deepEqual(second.inputs.decoderTokens.slice(0, 2), Uint32Array.of(start, 13));
  // Of what they write, 2 of 3 and 1 of 2 tokens stand in the source as they are.
  assert.deepEqual(passed.map(({ sums }) => sums.clmOther), [2, 1]);
  assert.deepEqual(passed.map(({ sums }) => sums.clmReplaced), [1, 1]);
});
