// METRO against a second implementation, written from the paper alone (metro_by_hand.ts): every variant of
// the objective in float64 and on the CPU device, and its gradients by finite differences. Needs no file
// from outside.

import assert from "node:assert/strict";
import {
  declareParameters,
  lossScalars,
  metro,
  metroInputs,
  type ModelConfig,
  type ObjectiveConfig,
  parameterShapes,
  prepareMetroBatch,
  preset,
} from "../../models/mod.ts";
import { metroLogits } from "../../models/metro.ts";
import { NONE } from "../../models/metro_batch.ts";
import { relativeBucket } from "../../models/relative.ts";
import { SPECIAL } from "../../models/config.ts";
import { compile, type Device, grad, interpret, openDevice, StateMemory } from "../../ops/mod.ts";
import { key, Random } from "../../ops/graph/random.ts";
import {
  type HandLosses,
  type HandWeights,
  isSlope,
  logitsByHand,
  lossesByHand,
  relativeRow,
  sequencesOf,
} from "./metro_by_hand.ts";

const MODEL: ModelConfig = {
  ...preset("base", "paper").model,
  ...{ vocabSize: 41, sentinels: 8, dModel: 12, heads: 3, dFf: 20 },
  ...{ encoderLayers: 2, decoderLayers: 2, auxLayers: 1 },
  ...{ relativeBuckets: 8, relativeMaxDistance: 9, maxPositions: 24, positionRows: 26 },
  ...{ dropout: 0, auxDropout: 0 },
};
const OBJECTIVE: ObjectiveConfig = {
  ...preset("base", "paper").objective,
  ...{ maskProbability: 0.3, rtdWeight: 5 },
};

interface Variant {
  model?: Partial<ModelConfig>;
  objective?: Partial<ObjectiveConfig>;
}

/** The objective of the paper, the variants of its Table 4, and the parts on which sources disagree. */
const VARIANTS: Record<string, Variant> = {
  "the paper's: CLM on selected positions, RTD on the encoder, linear LM heads": {},
  "CLM on all positions": { objective: { maskedPositionsOnly: "none" } },
  "CLM and RTD on selected positions": { objective: { maskedPositionsOnly: "both" } },
  "the selected tokens alone as the decoder's target": {
    objective: { decoderTarget: "maskedTokens" },
  },
  "the selected tokens alone, weighted, RTD on selected positions": {
    objective: {
      ...{ decoderTarget: "maskedTokens", maskedPositionsOnly: "both", weightedLmLoss: true },
    },
  },
  "copying into the selected tokens alone": {
    objective: { decoderTarget: "maskedTokens", copyMechanism: true },
  },
  "copy mechanism": { objective: { copyMechanism: true } },
  "copy mechanism on all positions": {
    objective: { copyMechanism: true, maskedPositionsOnly: "none" },
  },
  "RTD on the decoder": { objective: { rtdLocation: "decoder" } },
  "RTD on the decoder, projection layer on CLM": {
    model: { clmHead: "roberta" },
    objective: { rtdLocation: "decoder" },
  },
  "the code's: weighted CLM, dense MLM head": {
    model: { mlmHead: "roberta" },
    objective: { weightedLmLoss: true, keepShare: 0.1, randomShare: 0.1 },
  },
  "weights divided by their mean, on selected positions": {
    objective: { weightedLmLoss: true, divideByMeanWeight: true, maskedPositionsOnly: "both" },
  },
  "weighted CLM on all positions": {
    objective: { weightedLmLoss: true, maskedPositionsOnly: "none" },
  },
  "a simple RTD head, nothing shared": { model: { rtdHead: "simple", share: "none" } },
  "no RTD head": { model: { rtdHead: "none" } },
  "shared positions": { model: { share: "token_pos" } },
  "shared positions and norm, label smoothing": {
    model: { share: "token_pos_norm" },
    objective: { labelSmoothing: 0.1 },
  },
  "other weights in equation 13": {
    objective: { mlmWeight: 0.5, rtdWeight: 50, clmWeight: 2 },
  },
};

/** Rows of different lengths; the last one is unused. */
const LENGTHS = [14, 9, 11, 0], LENGTH = 14;

/** A batch and, in place of samples, noise of all kinds: right guesses, wrong ones, and a pad. */
function batchOf(model: ModelConfig, objective: ObjectiveConfig) {
  const random = new Random(8);
  const tokens = new Uint32Array(LENGTHS.length * LENGTH).fill(SPECIAL.pad);
  for (const [row, used] of LENGTHS.entries()) {
    for (let i = 0; i < used; i++) {
      tokens[row * LENGTH + i] = i === 0 ? SPECIAL.bos : 4 + random.below(29);
    }
  }
  const sequences = LENGTHS.filter((used) => used > 0).map((_, row) => [0, row] as const);
  const { inputs, counts } = prepareMetroBatch(
    model,
    objective,
    { tokens, length: LENGTH, sequences },
    3,
  );
  const noise = tokens.slice();
  const selected = Array.from(noise.keys()).filter((i) => inputs.inverse[i] !== NONE);
  for (const i of selected) if (random.below(3) > 0) noise[i] = 4 + random.below(37);
  noise[selected[1]] = SPECIAL.pad;
  return { inputs: { ...inputs, noise }, counts };
}

/** Weights large enough that every path matters, as float32 holds them. */
function weightsOf(model: ModelConfig): Record<string, Float64Array> {
  return Object.fromEntries(Array.from(parameterShapes(model), ([name, shape]) => {
    const random = new Random(key(4, ...new TextEncoder().encode(name)));
    const size = shape.reduce((a, b) => a * b, 1);
    const middle = name.endsWith(".gain") ? 1 : 0;
    return [
      name,
      Float64Array.from({ length: size }, () => {
        return Math.fround(middle + 0.4 * random.normal());
      }),
    ];
  }));
}

/** A variant with its model, batch, weights and graph. */
function prepared({ model: modelChange, objective: objectiveChange }: Variant) {
  const model = { ...MODEL, ...modelChange }, objective = { ...OBJECTIVE, ...objectiveChange };
  const batch = batchOf(model, objective), weights = weightsOf(model);
  const parameters = declareParameters(model);
  const symbols = metroInputs(objective, LENGTHS.length, LENGTH, { givenNoise: true });
  const graph = metro(parameters, model, objective, symbols);
  const scalars = lossScalars(objective, batch.counts, batch.counts);
  return { model, objective, weights, parameters, symbols, graph, scalars, ...batch };
}

type Prepared = ReturnType<typeof prepared>;

/** The losses of a variant by hand, with other weights in place of its own if given. */
function byHand(
  { model, objective, inputs, ...own }: Prepared,
  weights: HandWeights = own.weights,
) {
  const sequences = sequencesOf(inputs, LENGTH);
  const read = (w: HandWeights) =>
    sequences.map((sequence) => logitsByHand(w, model, sequence, objective.rtdLocation));
  const logits = read(weights), held = weights === own.weights ? logits : read(own.weights);
  return { logits, losses: lossesByHand(logits, sequences, objective, held) };
}

/** Equations 10 to 13 of the sums that the graph gives. */
function lossesOf(
  { objective: { maskedPositionsOnly: only }, counts }: Prepared,
  sum: Record<"loss" | "mlmNll" | "rtdLoss" | "clmLoss", number>,
): HandLosses {
  const { selected, tokens } = counts;
  return {
    mlm: sum.mlmNll / selected,
    rtd: sum.rtdLoss / (only === "both" ? selected : tokens),
    clm: sum.clmLoss / (only === "none" ? tokens : selected),
    total: sum.loss,
  };
}

function assertLosses(got: HandLosses, expected: HandLosses, tolerance: number): void {
  for (const name of ["mlm", "rtd", "clm", "total"] as const) {
    near(got[name], expected[name], tolerance, name);
  }
}

function near(got: number, expected: number, tolerance: number, what: string): void {
  const error = Math.abs(got - expected) / Math.max(1, Math.abs(expected));
  assert.ok(error <= tolerance, `${what}: ${got}, by hand ${expected}`);
}

for (const [name, variant] of Object.entries(VARIANTS)) {
  Deno.test(`metro in float64 equals the paper by hand: ${name}`, () => {
    const p = prepared(variant), { logits, losses } = byHand(p);
    const heads = metroLogits(p.parameters, p.model, p.symbols, p.symbols.noise!, p.objective);
    const { loss, sums: { mlmNll, rtdLoss, clmLoss } } = p.graph;
    const outputs = { loss, mlmNll, rtdLoss, clmLoss, clmLogits: heads.clm, mlmLogits: heads.mlm };
    const values = interpret(Object.values(outputs), {
      values: { ...p.weights, ...p.inputs },
      run: { scalars: p.scalars },
    });
    const [total, mlm, rtd, clm] = values.map(([first]) => first);
    assertLosses(
      lossesOf(p, { loss: total, mlmNll: mlm, rtdLoss: rtd, clmLoss: clm }),
      losses,
      1e-9,
    );

    const vocab = p.model.vocabSize, slots = p.inputs.positions.length / LENGTHS.length;
    const columns = p.inputs.decoderTokens.length / LENGTHS.length;
    for (const [row, { clm, mlm }] of logits.entries()) {
      for (const [i, expected] of clm.entries()) {
        const at = (row * columns + i) * vocab;
        for (const [id, x] of expected.entries()) near(values[4][at + id], x, 1e-9, "CLM logit");
      }
      for (const [slot, expected] of mlm.entries()) {
        const at = (row * slots + slot) * vocab;
        for (const [id, x] of expected.entries()) near(values[5][at + id], x, 1e-9, "MLM logit");
      }
    }
  });
}

for (const [name, variant] of Object.entries(VARIANTS)) {
  Deno.test(`metro's gradient is the finite difference of the paper by hand: ${name}`, () => {
    const p = prepared(variant), names = Object.keys(p.parameters);
    const all = interpret(grad(p.graph.loss, names.map((name) => p.parameters[name])), {
      values: { ...p.weights, ...p.inputs },
      run: { scalars: p.scalars },
    });
    const gradients = Object.fromEntries(names.map((name, n) => [name, Array.from(all[n])]));
    checkSlope(p, gradients, names);
    // Tensor by tensor once; the variants differ in the heads.
    if (variant !== Object.values(VARIANTS)[0]) return;
    for (const name of names) checkSlope(p, gradients, [name]);
  });
}

/** Checks gradients along a random direction, which no single wrong number of them escapes. */
function checkSlope(p: Prepared, gradients: Record<string, number[]>, names: readonly string[]) {
  const random = new Random(names.length);
  const direction = Object.fromEntries(names.map((name) => {
    return [name, gradients[name].map(() => random.normal() / Math.sqrt(names.length))];
  }));
  let slope = 0;
  for (const name of names) direction[name].forEach((d, i) => slope += d * gradients[name][i]);
  const loss = (weights: HandWeights) => byHand(p, weights).losses.total;
  assert.ok(isSlope(loss, p.weights, direction, slope), `${names.join(", ")}: ${slope}`);
}

Deno.test("metro on the CPU device equals the paper by hand", async () => {
  const device = await openDevice({ adapter: "cpu", threads: 1 });
  try {
    for (const variant of Object.values(VARIANTS)) {
      const p = prepared(variant);
      assertLosses(await onDevice(device, p), byHand(p).losses, 1e-5);
    }
  } finally {
    device.destroy();
  }
});

async function onDevice(device: Device, p: Prepared): Promise<HandLosses> {
  const memory = new StateMemory(device, parameterShapes(p.model), "parameters");
  for (const name of memory.names) memory.write(name, Float32Array.from(p.weights[name]));
  const { loss, sums: { mlmNll, rtdLoss, clmLoss } } = p.graph;
  const hasRtd = p.model.rtdHead !== "none";
  const outputs = { loss, mlmNll, clmLoss, ...(hasRtd && { rtdLoss }) };
  const program = compile(device, { name: "metro", outputs }, {
    state: memory,
  });
  program.run({ inputs: p.inputs, scalars: p.scalars });
  const read = async (name: string) => (await program.read(name))[0];
  const sums = {
    loss: await read("loss"),
    mlmNll: await read("mlmNll"),
    clmLoss: await read("clmLoss"),
    rtdLoss: hasRtd ? await read("rtdLoss") : 0,
  };
  program.destroy();
  memory.destroy();
  return lossesOf(p, sums);
}

Deno.test("micro-batches add up to the whole update, whichever way the RTD loss is averaged", () => {
  for (const rtdAverage of ["tokens", "microBatch"] as const) {
    const p = prepared({ objective: { rtdAverage } }), { logits } = byHand(p);
    const sequences = sequencesOf(p.inputs, LENGTH);
    let expected = 0, got = 0;
    for (const [from, to] of [[0, 1], [1, 3]]) {
      const some = sequences.slice(from, to);
      const selected = some.reduce((n, s) => n + s.selected.length, 0);
      const tokens = some.reduce((n, s) => n + s.original.length, 0);
      const { mlm, rtd, clm } = lossesByHand(logits.slice(from, to), some, p.objective);
      const share = selected / p.counts.selected;
      const rtdShare = rtdAverage === "tokens" ? tokens / p.counts.tokens : share;
      expected += share * (mlm + clm) + p.objective.rtdWeight * rtdShare * rtd;

      const symbols = metroInputs(p.objective, to - from, LENGTH, { givenNoise: true });
      const { loss } = metro(p.parameters, p.model, p.objective, symbols);
      const scalars = lossScalars(p.objective, { selected, tokens }, p.counts);
      const values = { ...p.weights, ...rowsOf(p.inputs, from, to) };
      got += interpret([loss], { values, run: { scalars } })[0][0];
    }
    near(got, expected, 1e-9, rtdAverage);
  }
});

/** Some rows of a batch as a batch of their own: what points into it is counted from the first of them. */
function rowsOf(inputs: Prepared["inputs"], from: number, to: number) {
  const slots = inputs.positions.length / LENGTHS.length;
  const before: Record<string, number> = { positions: from * LENGTH, inverse: from * slots };
  return Object.fromEntries(
    Object.entries(inputs).map(([name, ids]) => {
      const width = ids.length / LENGTHS.length;
      const rows = ids.slice(from * width, to * width);
      return [name, rows.map((x) => x === NONE ? NONE : x - (before[name] ?? 0))];
    }),
  );
}

Deno.test("the by-hand rule of relative positions has the published tables, and METRO's is the same", () => {
  // Last distance of each row past the exact ones, of 32 rows up to 128: 8 to 14, and 15 for all others.
  const last = [8, 11, 17, 26, 38, 57, 85];
  const base = { relativeBuckets: 32, relativeMaxDistance: 128 };
  for (let n = 0; n < 1024; n++) {
    const far = last.findIndex((most) => n <= most);
    const expected = n <= 8 ? n : far < 0 ? 15 : 8 + far;
    assert.equal(relativeRow(n, base), 15 + expected);
    assert.equal(relativeRow(-n, base), 15 - expected);
  }
  for (
    const [relativeBuckets, relativeMaxDistance] of [[32, 128], [64, 128], [128, 128], [128, 256]]
  ) {
    const config = { relativeBuckets, relativeMaxDistance };
    for (let n = -1023; n < 1024; n++) {
      assert.equal(relativeBucket(n, config), relativeRow(n, config));
      assert.ok(relativeRow(n, config) < relativeBuckets - 1, "the last row is never used");
    }
  }
});
