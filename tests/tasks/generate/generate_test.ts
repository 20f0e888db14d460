/** Generation: the searches on made-up logits, the whole on small random models and a golden one. */
import assert from "node:assert/strict";
import {
  declareParameters,
  decode,
  encode,
  foreignNames,
  initialize,
  languageModel,
  type ModelConfig,
  parameterShapes,
  preset,
  transpose,
} from "../../../models/mod.ts";
import {
  type Device,
  evaluate,
  input,
  key,
  Random,
  StateMemory,
  UserError,
} from "../../../ops/mod.ts";
import type { Decoder } from "../../../tasks/generate/decoder.ts";
import {
  argMax,
  Beams,
  Chain,
  draw,
  type GeneratedIds,
  runSearches,
  sampleWeights,
  type SearchLimits,
} from "../../../tasks/generate/search.ts";
import {
  generate,
  type GenerateOptions,
  type GenerationModel,
  Generator,
  textOf,
} from "../../../tasks/generate/generate.ts";
import { encodePrompt } from "../../../tasks/prompts/ids.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";
import { cpuTest, openTestDevice } from "../../device.ts";
import { goldenJson, goldenTensors, hasGolden, releasedConfig } from "../../models/golden.ts";

const LINES = ["to be or not to be", "that is the question"];
const tokenizer = new Tokenizer(
  await trainTokenizer(LINES, { vocabSize: 264, lowercase: true, sentinels: 8 }),
);
const { bos, eos, pad } = tokenizer;

Deno.test("textOf: special ids and rows of the token table that are no ids say nothing", () => {
  const ids = [...tokenizer.encode("to be")].filter((id) => id !== eos);
  const padded = [tokenizer.rows + 7, ...ids, eos, pad, tokenizer.rows];
  assert.equal(textOf(tokenizer, padded), tokenizer.decode(ids));
});

// ---- Searches on logits that are a function of the text so far ----

const VOCABULARY = 7;
const LIMITS: SearchLimits = { end: 2, pad: 1, maxTokens: 4 };

function logitsAfter(ids: readonly number[], seed: number): number[] {
  const random = new Random(key(seed, ...ids));
  return Array.from({ length: VOCABULARY }, () => 2 * random.normal());
}

/** A decoder that needs no device. */
function madeUp(prompts: number, beams: number): Decoder {
  let rows: number[][];
  return {
    shape: { prompts, beams, source: 1, slots: LIMITS.maxTokens },
    begin: () => rows = Array.from({ length: prompts * beams }, () => []),
    step(tokens, parents) {
      rows = rows.map((_, i) => [...rows[i - i % beams + parents[i]], tokens[i]]);
      const logits = rows.flatMap((ids, i) => logitsAfter(ids.slice(1), Math.floor(i / beams)));
      return Promise.resolve(Float32Array.from(logits));
    },
    destroy: () => {},
  };
}

/** Every text there is, with its score. */
function* everyText(seed: number, ids: number[] = [], score = 0): Iterable<GeneratedIds> {
  if (ids.at(-1) === LIMITS.end || ids.length === LIMITS.maxTokens) return yield { ids, score };
  const logits = Float32Array.from(logitsAfter(ids, seed));
  const all = Math.log(logits.reduce((sum, x) => sum + Math.exp(x), 0));
  for (let id = 0; id < VOCABULARY; id++) {
    if (id !== LIMITS.pad) yield* everyText(seed, [...ids, id], score + logits[id] - all);
  }
}

Deno.test("Beams: with room for every beginning it finds the best text there is", async () => {
  const prompts = 5, beams = VOCABULARY ** 3;
  for (const penalty of [0, 1, 2]) {
    const searches = Array.from({ length: prompts }, () => new Beams(LIMITS, beams, penalty));
    const found = await runSearches(madeUp(prompts, beams), new Uint32Array(), searches, 0);
    for (const [seed, { ids, score }] of found.entries()) {
      const rank = (text: GeneratedIds) => text.score / text.ids.length ** penalty;
      const best = [...everyText(seed)].reduce((a, b) => rank(b) > rank(a) ? b : a);
      assert.deepEqual(ids, best.ids);
      assert.ok(Math.abs(score - best.score) < 1e-5);
    }
  }
});

Deno.test("Beams: with one beam it is greedy, and more beams find no worse on the whole", async () => {
  const prompts = 40;
  const totals: number[] = [];
  const greedy = Array.from(
    { length: prompts },
    () => new Chain(LIMITS, (logits) => argMax(logits, LIMITS.pad)),
  );
  const chains = await runSearches(madeUp(prompts, 1), new Uint32Array(), greedy, 0);
  for (const beams of [1, 2, 3]) {
    const searches = Array.from({ length: prompts }, () => new Beams(LIMITS, beams, 0));
    const found = await runSearches(madeUp(prompts, beams), new Uint32Array(), searches, 0);
    if (beams === 1) same(found, chains, "one beam");
    totals.push(found.reduce((sum, { score }) => sum + score, 0));
  }
  assert.ok(totals[0] < totals[1] && totals[1] < totals[2], `${totals}`);
});

Deno.test("Chain and Beams: a text ends with its end token, or at the most tokens", async () => {
  for (const beams of [1, 3]) {
    const searches = Array.from(
      { length: 30 },
      () =>
        beams === 1
          ? new Chain(LIMITS, (logits) => argMax(logits, LIMITS.pad))
          : new Beams(LIMITS, beams, 1),
    );
    const found = await runSearches(madeUp(30, beams), new Uint32Array(), searches, 0);
    const ended = found.filter(({ ids }) => ids.at(-1) === LIMITS.end);
    assert.ok(ended.length > 0 && ended.length < found.length, `${ended.length} ended`);
    for (const { ids } of found) {
      assert.ok(ids.slice(0, -1).every((id) => id !== LIMITS.end));
      assert.ok(ids.at(-1) === LIMITS.end || ids.length === LIMITS.maxTokens);
      assert.ok(!ids.includes(LIMITS.pad));
    }
  }
});

Deno.test("argMax: the first of equals, never padding", () => {
  assert.equal(argMax(Float32Array.of(1, 3, 3, 2), 9), 1);
  assert.equal(argMax(Float32Array.of(1, 3, 3, 2), 1), 2);
  assert.equal(argMax(Float32Array.of(5, 1, 1), 0), 1);
});

Deno.test("sampleWeights: temperature, then topK, then topP", () => {
  const logits = Float32Array.from([0.1, 0.9, 0.2, 0.4, 0.3], Math.log);
  const shares = (settings: { temperature?: number; topK?: number; topP?: number }) => {
    const all = { temperature: 1, topK: 0, topP: 1, ...settings };
    const weights = sampleWeights(logits, 1, all);
    const total = weights.reduce((a, b) => a + b, 0);
    return Array.from(weights, (weight) => Number((weight / total).toFixed(4)));
  };
  assert.deepEqual(shares({}), [0.1, 0, 0.2, 0.4, 0.3]);
  assert.deepEqual(shares({ temperature: 0.5 }), [0.0333, 0, 0.1333, 0.5333, 0.3]);
  assert.deepEqual(shares({ topK: 2 }), [0, 0, 0, 0.5714, 0.4286]);
  assert.deepEqual(shares({ topK: 99 }), shares({}));
  // .4 alone is not enough, .4 + .3 is; of the two best, .57 is enough.
  assert.deepEqual(shares({ topP: 0.69 }), [0, 0, 0, 0.5714, 0.4286]);
  assert.deepEqual(shares({ topP: 0.71 }), [0, 0, 0.2222, 0.4444, 0.3333]);
  assert.deepEqual(shares({ topP: 0.56, topK: 2 }), [0, 0, 0, 1, 0]);
  assert.deepEqual(shares({ topP: 1e-9 }), [0, 0, 0, 1, 0]);
  const equals = sampleWeights(new Float32Array(6), 1, { temperature: 1, topK: 3, topP: 1 });
  assert.deepEqual([...equals], [1, 0, 1, 1, 0, 0]);
});

Deno.test("draw: as often as the weights say, and never what has none", () => {
  const random = new Random(4), counts = [0, 0, 0, 0];
  for (let i = 0; i < 4000; i++) counts[draw(Float64Array.of(1, 0, 2, 1), random)]++;
  assert.equal(counts[1], 0);
  for (const [id, share] of [[0, 0.25], [2, 0.5], [3, 0.25]]) {
    assert.ok(Math.abs(counts[id] / 4000 - share) < 0.03, `${counts}`);
  }
});

Deno.test("encodePrompt: white space is one space, and </s> stays when the text is cut", () => {
  const ids = encodePrompt(tokenizer, "  to\tbe \n\n or ", 99);
  assert.deepEqual(ids, encodePrompt(tokenizer, "to be or", 99));
  assert.deepEqual([ids[0], ids.at(-1)], [bos, eos]);
  assert.deepEqual(ids.subarray(1, -1), tokenizer.encode("to be or"));
  const cut = encodePrompt(tokenizer, "to be or", 4);
  assert.deepEqual([...cut], [bos, ...tokenizer.encode("to be or").subarray(0, 2), eos]);
  assert.throws(() => encodePrompt(tokenizer, "to be", 1), RangeError);
});

// ---- Whole generators on a device ----

let shared: Promise<Device> | undefined;

/** One device for the whole file. */
const device = () => shared ??= openTestDevice();

/** Weights large enough that different texts have different continuations. */
async function randomModel(sizes: Partial<ModelConfig>): Promise<GenerationModel> {
  const config: ModelConfig = {
    ...preset("tiny").model,
    clmHead: "linear",
    vocabSize: tokenizer.rows,
    sentinels: tokenizer.sentinels,
    dModel: 16,
    heads: 2,
    dFf: 32,
    encoderLayers: 1,
    decoderLayers: 1,
    ...sizes,
  };
  const values = initialize(config, 1), random = new Random(7);
  return await modelOf(config, (name) => {
    const spread = /bias$|gain$/.test(name) ? 0.3 : 0.6;
    return values(name).map((x) => x + spread * random.normal());
  });
}

async function modelOf(
  config: ModelConfig,
  values: (name: string) => Float32Array,
): Promise<GenerationModel> {
  const shapes = parameterShapes(config, ["main"]);
  const parameters = new StateMemory(await device(), shapes, "parameters");
  for (const name of shapes.keys()) parameters.write(name, values(name));
  return { device: await device(), config, parameters, tokenizer, start: eos, maxSource: 100 };
}

const PROMPTS = [
  "to be",
  "that is the question, or is it not?",
  "or",
  "not " + "to be ".repeat(20),
];
const WAYS: Record<string, GenerateOptions> = {
  greedy: { maxTokens: 20 },
  beam: { strategy: "beam", beams: 3, maxTokens: 12 },
  "sample": { strategy: "sample", maxTokens: 20, temperature: 0.8, topK: 40, topP: 0.9, seed: 3 },
};
const SIZES: Record<string, [Partial<ModelConfig>, number]> = {
  "one layer, three prompts": [{}, 3],
  "three layers, one prompt": [{ decoderLayers: 3, heads: 4 }, 1],
  "a head of its own, two layers, four prompts": [{ decoderLayers: 2, clmHead: "roberta" }, 4],
};

for (const [size, [sizes, count]] of Object.entries(SIZES)) {
  cpuTest(`Generator: with and without cached keys and values the same; ${size}`, async () => {
    const model = await randomModel(sizes);
    const cached = new Generator(model), plain = new Generator(model, { cached: false });
    for (const [way, options] of Object.entries(WAYS)) {
      const prompts = PROMPTS.slice(0, count);
      const expected = await plain.generate(prompts, options);
      // Twice: what the first run leaves in the caches must not matter.
      for (let run = 0; run < 2; run++) {
        same(await cached.generate(prompts, options), expected, way);
      }
      const texts = new Set(expected.map(({ ids }) => ids.join()));
      assert.equal(texts.size, count, `${way}: the prompts have the same answer`);
    }
    cached.destroy();
    plain.destroy();
    model.parameters.destroy();
  });
}

cpuTest("Generator: a prompt's answer does not depend on those beside it", async () => {
  const model = await randomModel({ decoderLayers: 2 });
  const together = new Generator(model, { batch: 3 }), alone = new Generator(model, { batch: 1 });
  for (const [way, options] of Object.entries(WAYS)) {
    const answers = await together.generate(PROMPTS, options);
    same(await alone.generate(PROMPTS, options), answers, way);
    if (options.strategy === "sample") continue;
    for (const [i, prompt] of PROMPTS.entries()) {
      same(await alone.generate([prompt], options), [answers[i]], way);
    }
  }
  together.destroy();
  alone.destroy();
  model.parameters.destroy();
});

cpuTest(
  "Generator: scores are those of teacher forcing; beams are no worse than greedy",
  async () => {
    const model = await randomModel({ decoderLayers: 2 });
    const generator = new Generator(model);
    const ways: Record<string, GenerateOptions> = {
      ...WAYS,
      "one beam": { strategy: "beam", beams: 1, maxTokens: 20 },
      "many beams": { strategy: "beam", beams: 8, maxTokens: 20, lengthPenalty: 0 },
      "hot": { strategy: "sample", temperature: 5, maxTokens: 40 },
    };
    const answers: Record<string, GeneratedIds[]> = {};
    const weights: Record<string, Float32Array> = {};
    for (const name of model.parameters.names) weights[name] = await model.parameters.read(name);
    for (const [way, options] of Object.entries(ways)) {
      answers[way] = await generator.generate(PROMPTS, options);
      for (const [i, { ids, score }] of answers[way].entries()) {
        const source = encodePrompt(tokenizer, PROMPTS[i], model.maxSource);
        const expected = teacherForced(model, weights, source, ids);
        assert.ok(Math.abs(score - expected) < 1e-3, `${way}: ${score}, expected ${expected}`);
      }
    }
    same(answers["one beam"], answers.greedy, "one beam");
    for (const [i, { score }] of answers.greedy.entries()) {
      assert.ok(answers["many beams"][i].score >= score - 1e-4);
    }
    generator.destroy();
    model.parameters.destroy();
  },
);

cpuTest("Generator: answers end with </s>, and their pieces make up their text", async () => {
  const model = await randomModel({});
  const generator = new Generator(model);
  const prompts = Array.from({ length: 8 }, (_, i) => "to be ".repeat(i + 1));
  for (const strategy of ["greedy", "beam", "sample"] as const) {
    const pieces = prompts.map(() => "");
    const onToken = (text: string, prompt: number) => pieces[prompt] += text;
    const options = { strategy, maxTokens: 64, temperature: 3, onToken };
    const answers = await generator.generate(prompts, options);
    for (const [i, { text, ids }] of answers.entries()) {
      assert.equal(pieces[i], text);
      assert.equal(text, tokenizer.decode(ids.filter((id) => id !== eos && id !== bos)));
      assert.ok(ids.slice(0, -1).every((id) => id !== eos && id !== pad));
      assert.ok(ids.length === 64 || ids.at(-1) === eos);
    }
    if (strategy === "sample") assert.ok(answers.some(({ ids }) => ids.length < 64));
  }
  generator.destroy();
  model.parameters.destroy();
});

cpuTest("Generator: calls at once take turns, and sizes seen before make no buffers", async () => {
  const model = await randomModel({});
  const generator = new Generator(model);
  const ways = Object.values(WAYS);
  const first = [];
  for (const options of ways) first.push(await generator.generate(PROMPTS, options));
  const { buffersCreated, allocatedBytes } = model.device;
  const again = await Promise.all(ways.map((options) => generator.generate(PROMPTS, options)));
  assert.deepEqual(again, first);
  assert.equal(model.device.buffersCreated, buffersCreated);
  assert.equal(model.device.allocatedBytes, allocatedBytes);
  assert.deepEqual(await generator.generate([]), []);
  assert.equal(await generate(model, PROMPTS[0], WAYS.greedy), first[0][0].text);
  assert.notDeepEqual(await generator.generate(PROMPTS, { ...WAYS.sample, seed: 4 }), first[2]);
  generator.destroy();
  model.parameters.destroy();
});

cpuTest("Generator: mistakes are named in one line", async () => {
  const model = await randomModel({ maxPositions: 40, positionRows: 42 });
  const generator = new Generator({ ...model, maxSource: 40 });
  const cases: [string[], GenerateOptions, string][] = [
    [[" \n"], {}, "prompt: expected some text, got nothing"],
    [["to be", ""], {}, "prompt 2: expected some text, got nothing"],
    [
      ["to be"],
      { maxTokens: 41 },
      "maxTokens: expected an integer from 1 to 40, the model's positions, got 41",
    ],
    [["to be"], { maxTokens: 0 }, "maxTokens: expected an integer from 1 to 40"],
    [["to be"], { temperature: 0 }, "temperature: expected a number above 0, got 0"],
    [["to be"], { topP: 0 }, "topP: expected a number above 0 and of at most 1, got 0"],
    [["to be"], { topP: 1.5 }, "topP: expected a number above 0 and of at most 1, got 1.5"],
    [["to be"], { topK: -1 }, "topK: expected an integer of at least 0, got -1"],
    [["to be"], { beams: 0 }, "beams: expected an integer from 1 to 135, got 0"],
    [["to be"], { lengthPenalty: NaN }, "lengthPenalty: expected a number, got NaN"],
  ];
  for (const [prompts, options, message] of cases) {
    await assert.rejects(generator.generate(prompts, options), (error: Error) => {
      assert.ok(error instanceof UserError && error.message.startsWith(message), error.message);
      return true;
    });
  }
  // The last position is within reach.
  const [{ ids }] = await generator.generate(["to be ".repeat(99)], { maxTokens: 40 });
  assert.ok(ids.length <= 40);
  generator.destroy();
  model.parameters.destroy();
});

for (const name of ["tiny", "tiny_large_buckets"]) {
  cpuTest(`Generator: greedy answers of the released layout, ${name}`, async () => {
    const folder = `metro_hf/${name}`;
    const config = releasedConfig(goldenJson(`${folder}/config.json`));
    const tensors = goldenTensors(`${folder}/model.safetensors`);
    const names = foreignNames(config, "release", ["main"]);
    const model = await modelOf(config, (ours) => {
      const { name, shape, transposed } = names.get(ours)!;
      const { values } = tensors.get(name)!;
      return transposed ? transpose(values, shape[0], shape[1]) : values;
    });
    const { input_ids, greedy } = goldenJson<Record<"input_ids" | "greedy", number[][]>>(
      `${folder}/expected.json`,
    );
    const sources = input_ids.map((row) => Uint32Array.from(row.filter((id) => id !== pad)));
    for (const cached of [true, false]) {
      const generator = new Generator({ ...model, maxSource: 256 }, { cached });
      const answers = await generator.generateIds(sources, { maxTokens: 16 });
      assert.deepEqual(answers.map(({ ids }) => ids), greedy);
      const beams = await generator.generateIds(sources, {
        strategy: "beam",
        beams: 1,
        maxTokens: 16,
      });
      assert.deepEqual(beams.map(({ ids }) => ids), greedy);
      generator.destroy();
    }
    model.parameters.destroy();
  }, { ignore: !hasGolden });
}

function same(got: GeneratedIds[], expected: GeneratedIds[], way: string): void {
  assert.deepEqual(got.map(({ ids }) => ids), expected.map(({ ids }) => ids), way);
  for (const [i, { score }] of got.entries()) {
    const difference = Math.abs(score - expected[i].score);
    assert.ok(difference < 1e-4, `${way}: ${score}, expected ${expected[i].score}`);
  }
}

/** Sum of the log-probabilities of an answer, in float64 on the host. */
function teacherForced(
  { config, start }: GenerationModel,
  weights: Record<string, Float32Array>,
  source: Uint32Array,
  ids: readonly number[],
): number {
  const parameters = declareParameters(config, ["main"]);
  const memoryTokens = input("source", [1, source.length], "u32");
  const tokens = input("tokens", [1, ids.length], "u32");
  const memory = encode(parameters, config, memoryTokens);
  const h = decode(parameters, config, tokens, { memory, memoryTokens });
  const targets = input("targets", [1, ids.length], "u32");
  const [nll] = evaluate([languageModel(parameters, config, "clm", h, targets).nll], {
    values: { ...weights, source, tokens: [start, ...ids.slice(0, -1)], targets: [...ids] },
  });
  return -Array.from(nll).reduce((a, b) => a + b);
}
