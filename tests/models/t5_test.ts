/** The T5 family: golden checkpoints with what Hugging Face's T5 computes, and what holds without them. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkModelConfig, specialIds, type T5Model } from "../../models/config.ts";
import { crossCache, decodeStep, FIRST_POSITION } from "../../models/generation.ts";
import { languageModelLogits } from "../../models/heads.ts";
import { initialize } from "../../models/initialize.ts";
import { foreignNames, foreignShapes, ourNames } from "../../models/names.ts";
import { declareParameters, parameterShapes } from "../../models/parameters.ts";
import { preset } from "../../models/presets.ts";
import { seq2seq, seq2seqInputs } from "../../models/t5.ts";
import { decode, encode } from "../../models/transformer.ts";
import { compile, type Device, grad, input, interpret, state, StateMemory } from "../../ops/mod.ts";
import { key, Random } from "../../ops/graph/random.ts";
import { Generator } from "../../tasks/generate/generate.ts";
import { seq2seqObjective } from "../../tasks/train/objective.ts";
import { Ranker } from "../../tasks/evaluate/rank.ts";
import { restoreRun, saveRun } from "../../tasks/checkpoints/run_folder.ts";
import { Tokenizer } from "../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../tasks/tokenizer/train_bpe.ts";
import { Trainer, wholeUpdate } from "../../tasks/train/trainer.ts";
import { cpuTest, openTestDevice } from "../device.ts";
import { goldenJson, goldenModel, goldenTensors, hasGolden } from "./golden.ts";

const GOLDEN = ["t5_relu_tied", "t5_v1_1_gated_untied"] as const;

interface Expected {
  input_ids: number[][];
  labels: number[][];
  scores: number[];
  greedy: number[][];
}

const expectedOf = (folder: string) => goldenJson<Expected>(`${folder}/expected.json`);
const unpadded = (row: number[]) => Uint32Array.from(row.slice(0, row.indexOf(1) + 1));

let device: Device;
cpuTest("a device opens", async () => {
  device = await openTestDevice();
});

// ---- Golden checkpoints ----

for (const name of GOLDEN) {
  const folder = `t5_hf/${name}`;
  Deno.test({
    name: `${name}: names and shapes of the file`,
    ignore: !hasGolden,
    fn() {
      const { config } = goldenModel(folder);
      const tensors = goldenTensors(`${folder}/model.safetensors`);
      const names = foreignNames(config, "release", ["main"]);
      assert.deepEqual(
        new Map(Array.from(names.values(), ({ name, shape }) => [name, shape])),
        new Map(Array.from(tensors, ([name, { shape }]) => [name, shape])),
      );
    },
  });

  Deno.test({
    name: `${name}: logits`,
    ignore: !hasGolden,
    fn() {
      const { config, weights } = goldenModel(folder);
      const { input_ids: source, labels } = expectedOf(folder);
      const parameters = declareParameters(config, ["main"]);
      const memoryTokens = input("source", [source.length, source[0].length], "u32");
      const tokens = input("target", [labels.length, labels[0].length], "u32");
      const memory = encode(parameters, config, memoryTokens);
      const h = decode(parameters, config, tokens, { memory, memoryTokens });
      const [logits] = interpret([languageModelLogits(parameters, config, "clm", h)], {
        values: {
          ...weights,
          source: source.flat(),
          target: labels.flatMap((row) => [0, ...row.slice(0, -1)]),
        },
      });
      const expected = goldenTensors(`${folder}/expected_logits.safetensors`).get("logits")!;
      const largest = expected.values.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
      for (const [i, label] of labels.flat().entries()) {
        if (label === 0) continue;
        for (let v = i * config.vocabSize; v < (i + 1) * config.vocabSize; v++) {
          assert.ok(Math.abs(logits[v] - expected.values[v]) < 1e-4 * largest, `logit ${v}`);
        }
      }
    },
  });

  cpuTest(`${name}: scores, among other choices in the same row`, async () => {
    const { input_ids, labels, scores } = expectedOf(folder);
    const targets = labels.map(unpadded);
    const model = await loaded(folder);
    const ranker = new Ranker(model);
    const got = await ranker.scores(input_ids.map((row, i) => ({
      source: unpadded(row),
      choices: [targets[(i + 1) % 3], targets[i], targets[(i + 2) % 3]],
    })));
    for (const [i, expected] of scores.entries()) {
      assert.ok(Math.abs(got[i][1] / expected - 1) < 1e-4, `${got[i][1]}, expected ${expected}`);
    }
    ranker.destroy();
    model.destroy();
  }, { ignore: !hasGolden });

  cpuTest(`${name}: greedy answers, with and without kept keys and values`, async () => {
    const { input_ids, greedy } = expectedOf(folder);
    const model = await loaded(folder);
    let scores: number[] | undefined;
    for (const cached of [true, false]) {
      const generator = new Generator(model, { cached });
      for (const strategy of ["greedy", "beam"] as const) {
        const answers = await generator.generateIds(input_ids.map(unpadded), {
          strategy,
          beams: 1,
          maxTokens: 16,
        });
        const way = `${strategy}, cached: ${cached}`;
        assert.deepEqual(answers.map(({ ids }) => ids), greedy, way);
        // The first way chooses on the device, the others on the host.
        const got = answers.map(({ score }) => score);
        scores ??= got;
        for (const [i, score] of got.entries()) {
          assert.ok(
            Math.abs(score / scores[i] - 1) < 1e-4,
            `${way}: ${score}, before ${scores[i]}`,
          );
        }
      }
      generator.destroy();
    }
    model.destroy();
  }, { ignore: !hasGolden });
}

async function loaded(folder: string) {
  const { config, weights } = goldenModel(folder);
  const parameters = new StateMemory(device, parameterShapes(config, ["main"]), "parameters");
  for (const [name, values] of Object.entries(weights)) parameters.write(name, values);
  // Nobody asks it: prompts and answers are ids.
  const options = { vocabSize: 260, lowercase: true, sentinels: 8 };
  return {
    device,
    config,
    parameters,
    tokenizer: new Tokenizer(await trainTokenizer(["a word"], options)),
    start: specialIds(config).start,
    maxSource: 64,
    maxTarget: 16,
    name: folder,
    trainedOn: [],
    destroy: () => parameters.destroy(),
  };
}

// ---- Random weights ----

/** Heads that are wider together than the model is, and more layers than one, on both sides. */
const SMALL: T5Model = {
  ...preset("tiny").model,
  vocabSize: 40,
  sentinels: 0,
  dModel: 16,
  heads: 3,
  dFf: 24,
  encoderLayers: 2,
  decoderLayers: 2,
  auxLayers: 0,
  relativeBuckets: 8,
  relativeMaxDistance: 16,
  rtdHead: "none",
  clmHead: "linear",
  dropout: 0.1,
  layerNormEps: 1e-6,
  t5: {
    headWidth: 8,
    feedForward: "relu",
    tiedHead: true,
    scaleOutputs: true,
    relativeTables: "stack",
    pad: 0,
    eos: 1,
    start: 0,
  },
};
const GATED: T5Model["t5"] = {
  ...SMALL.t5,
  feedForward: "gated-gelu",
  tiedHead: false,
  scaleOutputs: false,
};
const KINDS: Record<string, T5Model> = {
  "version 1.0": SMALL,
  "version 1.1": { ...SMALL, t5: GATED },
  "version 1.1, one table and no scale": { ...SMALL, t5: { ...GATED, tiedHead: true } },
  "version 1.0 with heads of 6": { ...SMALL, t5: { ...SMALL.t5, headWidth: 6 } },
  "UMT5": { ...SMALL, t5: { ...GATED, relativeTables: "layer" } },
};

function randomWeights(config: T5Model): Record<string, Float32Array> {
  return Object.fromEntries(Array.from(parameterShapes(config), ([name, shape]) => {
    const random = new Random(key(3, ...new TextEncoder().encode(name)));
    const length = shape.reduce((a, b) => a * b, 1), mean = name.endsWith(".gain") ? 1 : 0;
    return [name, Float32Array.from({ length }, () => mean + 0.3 * random.normal())];
  }));
}

for (const [kind, config] of Object.entries(KINDS)) {
  cpuTest(`seq2seq, ${kind}: loss and gradients under dropout equal the reference's`, async () => {
    const shapes = parameterShapes(config), weights = randomWeights(config);
    const parameters = declareParameters(config);
    const { loss } = seq2seq(parameters, config, seq2seqInputs(2, { source: 11, target: 7 }));
    const wrt = [...shapes.keys()];
    const outputs = [loss, ...grad(loss, wrt.map((name) => parameters[name]))];
    const random = new Random(8);
    const ids = (length: number, used: number) =>
      Array.from({ length }, (_, i) => i < used ? 2 + random.below(38) : 0);
    const targets = [...ids(7, 7), ...ids(7, 4)];
    const inputs = {
      source: Uint32Array.from([...ids(11, 11), ...ids(11, 6)]),
      decoderTokens: Uint32Array.from([0, ...targets.slice(0, 6), 0, ...targets.slice(7, 13)]),
      targets: Uint32Array.from(targets),
    };
    const run = { key: 77, sequence: 5, scalars: { clmScale: 1 / 11 } };
    const expected = interpret(outputs, { values: { ...weights, ...inputs }, run });

    const memory = new StateMemory(device, shapes, "parameters");
    for (const name of wrt) memory.write(name, weights[name]);
    const named = Object.fromEntries(outputs.map((t, i) => [["loss", ...wrt][i], t]));
    const program = compile(device, { name: kind, outputs: named }, {
      state: memory,
    });
    program.run({ ...run, inputs });
    for (const [i, name] of ["loss", ...wrt].entries()) {
      const got = await program.read(name) as Float32Array;
      const largest = Float64Array.from(expected[i]).reduce(
        (max, x) => Math.max(max, Math.abs(x)),
        0,
      );
      assert.ok(largest > 0, `${name} takes part`);
      for (let k = 0; k < got.length; k++) {
        const error = Math.abs(got[k] - expected[i][k]);
        assert.ok(error < 1e-4 * largest, `${name}[${k}]: ${got[k]}, expected ${expected[i][k]}`);
      }
    }
    program.destroy();
    memory.destroy();
  });

  Deno.test(`decodeStep, ${kind}: rows at different positions equal decode`, () => {
    const slots = 6, width = config.heads * config.t5.headWidth, { dModel, vocabSize } = config;
    const parameters = declareParameters(config), weights = randomWeights(config);
    const random = new Random(4);
    const memoryValues = Float64Array.from({ length: 2 * 5 * dModel }, () => random.normal());
    const ids = [0, 1].map(() => [0, ...Array.from({ length: slots - 1 }, () => random.below(40))]);
    const memory = state("memory", [2, 5, dModel]);

    const memoryTokens = input("source", [2, 5], "u32");
    const tokens = input("tokens", [2, slots], "u32");
    const [whole] = interpret([
      languageModelLogits(
        parameters,
        config,
        "clm",
        decode(parameters, config, tokens, { memory, memoryTokens }),
      ),
    ], {
      values: {
        ...weights,
        memory: memoryValues,
        source: [5, 6, 7, 0, 0, 5, 6, 7, 8, 9],
        tokens: ids.flat(),
      },
    });

    const self = [0, 1].map((i) => ({
      keys: state(`keys ${i}`, [2, slots, width]),
      values: state(`values ${i}`, [2, slots, width]),
    }));
    const step = decodeStep(parameters, config, {
      tokens: input("now", [2], "u32"),
      positions: input("positions", [2], "u32"),
      self,
      cross: crossCache(parameters, config, memory),
      memoryMask: input("mask", [2, 5], "u32"),
    });
    const logits = languageModelLogits(parameters, config, "clm", step.hidden);
    const caches = self.flatMap(({ keys, values }) => [keys, values]);
    const next = step.self.flatMap(({ keys, values }) => [keys, values]);
    const kept: Record<string, ArrayLike<number>> = {};
    for (const t of caches) kept[t.node.attrs.name] = new Float64Array(2 * slots * width).fill(9);
    // The second row lags one position behind the first, and starts twice.
    for (let t = 0; t < slots; t++) {
      const places = [t, Math.max(0, t - 1)];
      const results = interpret([logits, ...next], {
        values: {
          ...weights,
          ...kept,
          memory: memoryValues,
          mask: [1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
          now: places.map((at, row) => ids[row][at]),
          positions: places.map((at) => FIRST_POSITION + at),
        },
      });
      for (const [i, cache] of caches.entries()) kept[cache.node.attrs.name] = results[1 + i];
      for (const [row, at] of places.entries()) {
        for (let v = 0; v < vocabSize; v++) {
          const expected = whole[(row * slots + at) * vocabSize + v];
          assert.ok(Math.abs(results[0][row * vocabSize + v] - expected) < 1e-9);
        }
      }
    }
  });

  Deno.test(`names, ${kind}: there and back, with every alias of the token table`, () => {
    const there = foreignNames(config, "release", ["main"]);
    assert.deepEqual(there, foreignNames(config, "reference", ["main"]));
    const back = ourNames(config, "release", ["main"]);
    for (const [ours, { name }] of there) assert.equal(back.get(name), ours);
    assert.equal(back.get("decoder.embed_tokens.weight"), "embed.tokens");
    assert.equal(back.get("lm_head.weight"), config.t5.tiedHead ? "embed.tokens" : "clm.tokens");
    const shapes = foreignShapes(config, "release", ["main"]);
    assert.deepEqual(shapes.get("encoder.embed_tokens.weight"), [40, 16]);
    assert.deepEqual(shapes.get("decoder.block.1.layer.1.EncDecAttention.o.weight"), [
      16,
      config.heads * config.t5.headWidth,
    ]);
    assert.equal(shapes.has("encoder.block.1.layer.0.layer_norm.bias"), false);
  });
}

Deno.test("UMT5 with the same relative table in every layer is a T5, with another one is not", () => {
  const umt5 = KINDS.UMT5, oneTable = { ...umt5, t5: GATED };
  const logitsOf = (config: T5Model, weights: Record<string, Float32Array>) => {
    const parameters = declareParameters(config);
    const memoryTokens = input("source", [1, 9], "u32"), tokens = input("target", [1, 7], "u32");
    const memory = encode(parameters, config, memoryTokens);
    const h = decode(parameters, config, tokens, { memory, memoryTokens });
    return interpret([languageModelLogits(parameters, config, "clm", h)], {
      values: { ...weights, source: [5, 6, 7, 8, 9, 4, 3, 1, 0], target: [0, 5, 9, 7, 3, 8, 2] },
    })[0];
  };
  const weights = randomWeights(umt5);
  const shared = { ...weights };
  for (const stack of ["encoder", "decoder"]) {
    shared[`${stack}.1.attention.relative`] = weights[`${stack}.0.attention.relative`];
  }
  const expected = logitsOf(oneTable, weights);
  assert.deepEqual(logitsOf(umt5, shared), expected);
  for (const stack of ["encoder", "decoder"]) {
    const name = `${stack}.1.attention.relative`;
    assert.notDeepEqual(logitsOf(umt5, { ...shared, [name]: weights[name] }), expected);
  }
});

cpuTest("a T5 is finetuned: the loss falls, and its checkpoint is read as it was", async () => {
  const model = KINDS["version 1.1"], weights = randomWeights(model);
  const adamw = { beta1: 0.9, beta2: 0.98, epsilon: 1e-6, weightDecay: 0, clipNorm: 1 };
  const objective = seq2seqObjective(model, 0);
  const trainer = new Trainer(device, model, objective, adamw, 1);
  trainer.initialize((name) => weights[name]);
  const inputs = {
    source: Uint32Array.of(9, 8, 7, 1, 5, 6, 1, 0),
    decoderTokens: Uint32Array.of(0, 4, 0, 0, 0, 5, 6, 0),
    targets: Uint32Array.of(4, 1, 0, 0, 5, 6, 1, 0),
  };
  const batch = { rows: 2, length: 4, target: 4, inputs, counts: { targets: 5 }, tokens: 12 };
  const loss = async () => {
    trainer.evaluate(batch, 0);
    return (await trainer.takeSums("heldout")).clmNll[0] / 5;
  };
  const before = await loss();
  for (let update = 0; update < 20; update++) {
    await trainer.update(wholeUpdate([batch]), { update, learningRate: 0.01 });
  }
  const after = await loss();
  assert.ok(after < before / 2, `${before} before, ${after} after`);

  const run = await mkdtemp(join(tmpdir(), "t5-"));
  await saveRun(run, trainer, { update: 20 });
  const read = new Trainer(device, model, objective, adamw, 1);
  assert.deepEqual(await restoreRun(run, read), { update: 20 });
  const reader = trainer.parameters.reader(), again = read.parameters.reader();
  for (const name of trainer.shapes.keys()) {
    assert.deepEqual(await again(name), await reader(name), name);
  }
  await rm(run, { recursive: true });
  trainer.destroy();
  read.destroy();
});

Deno.test("checkModelConfig: a T5's fields are named where they are wrong", () => {
  checkModelConfig(SMALL);
  const wrong: [object, RegExp][] = [
    [
      { t5: { ...SMALL.t5, headWidth: 132 } },
      /headWidth: expected a positive .* at most 128, got 132/,
    ],
    [{ t5: { ...SMALL.t5, eos: 40 } }, /eos: expected an id below 40, got 40/],
    [{ t5: { ...SMALL.t5, feedForward: "swish" } }, /feedForward: .* got 'swish'/],
    [{ relativeMaxDistance: 4 }, /relativeMaxDistance: expected an integer above 4/],
    [{ auxLayers: 1 }, /auxLayers: expected 0/],
    [{ rtdHead: "simple" }, /rtdHead: expected none/],
    [{ clmHead: "roberta" }, /clmHead: expected linear/],
  ];
  for (const [change, message] of wrong) {
    assert.throws(() => checkModelConfig({ ...SMALL, ...change } as T5Model), message);
  }
});

Deno.test("initialize: a T5 is refused", () => {
  assert.throws(() => initialize(SMALL, 1), /weights of a T5 are loaded/);
});

cpuTest("the device closes", () => Promise.resolve(device.destroy()));
