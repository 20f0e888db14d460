/** Decoding position by position against decoding everything at once, in float64 on the host. */
import assert from "node:assert/strict";
import { crossCache, decodeStep, FIRST_POSITION, greedyStep } from "../../models/generation.ts";
import {
  declareParameters,
  decode,
  initialize,
  type ModelConfig,
  parameterShapes,
  preset,
} from "../../models/mod.ts";
import type { KeysAndValues } from "../../models/layers.ts";
import { languageModelLogits } from "../../models/heads.ts";
import { SPECIAL } from "../../models/config.ts";
import { input, interpret, state, type Tensor } from "../../ops/mod.ts";
import { Random } from "../../ops/graph/random.ts";
import type { Values } from "../../ops/graph/tensor.ts";

const MODEL: ModelConfig = {
  ...preset("tiny").model,
  clmHead: "linear",
  vocabSize: 48,
  sentinels: 8,
  dModel: 16,
  heads: 2,
  dFf: 24,
  encoderLayers: 1,
  decoderLayers: 2,
};
const { dModel, decoderLayers } = MODEL;
const SLOTS = 6;

const random = new Random(5);
const uniform = (count: number) =>
  Float32Array.from({ length: count }, () => 2 * random.uniform() - 1);
const parameters = declareParameters(MODEL, ["main"]);
const weights: Record<string, Float32Array> = {};
for (const name of parameterShapes(MODEL, ["main"]).keys()) {
  weights[name] = initialize(MODEL, 1)(name).map((x) => x + 0.2 * (2 * random.uniform() - 1));
}

/** State of the self-attentions, with what other prompts have left in it: that must not matter. */
function selfCache(
  rows: number,
): { self: KeysAndValues[]; values: Record<string, ArrayLike<number>> } {
  const shape = [rows, SLOTS, dModel];
  const self = Array.from({ length: decoderLayers }, (_, i) => ({
    keys: state(`keys ${i}`, shape),
    values: state(`values ${i}`, shape),
  }));
  const names = tensorsOf(self).map((t) => t.node.attrs.name);
  return {
    self,
    values: Object.fromEntries(names.map((n) => [n, uniform(rows * SLOTS * dModel)])),
  };
}

const tensorsOf = (self: readonly KeysAndValues[]) =>
  self.flatMap(({ keys, values }) => [keys, values]);

/** What all steps read besides tokens and the self-attentions' state. */
function given(rows: number, mask: readonly Uint32Array[]) {
  const prompts = mask.length, source = mask[0].length;
  return {
    positions: input("positions", [rows], "u32"),
    cross: crossCache(parameters, MODEL, state("memory", [prompts, source, dModel])),
    memoryMask: input("mask", [prompts, source], "u32"),
  };
}

/** Runs a graph again and again, with the values of its states at the end of the run before. */
class Replay {
  readonly #outputs: readonly Tensor[];
  readonly #updates: readonly (readonly [Tensor, Tensor])[];
  readonly #values: Record<string, ArrayLike<number>>;

  constructor(
    outputs: readonly Tensor[],
    updates: readonly (readonly [Tensor, Tensor])[],
    values: Record<string, ArrayLike<number>>,
  ) {
    this.#outputs = outputs;
    this.#updates = updates;
    this.#values = { ...values };
  }

  run(inputs: Record<string, ArrayLike<number>>): Values[] {
    const results = interpret([...this.#outputs, ...this.#updates.map(([, value]) => value)], {
      values: { ...this.#values, ...inputs },
    });
    const outputs = results.slice(0, this.#outputs.length);
    for (const [i, [t]] of this.#updates.entries()) {
      this.#values[t.node.attrs.name] = results[outputs.length + i];
    }
    return outputs;
  }
}

function pairs(self: readonly KeysAndValues[], next: readonly KeysAndValues[]): [Tensor, Tensor][] {
  const values = tensorsOf(next);
  return tensorsOf(self).map((t, i) => [t, values[i]]);
}

/** Rows and prompts side by side through `decodeStep`; returns hidden rows, position by position. */
function stepper(
  mask: readonly Uint32Array[],
  memory: Float32Array,
  rows: number,
  reorder: boolean,
) {
  const { self, values } = selfCache(rows);
  const next = decodeStep(parameters, MODEL, {
    ...given(rows, mask),
    tokens: input("tokens", [rows], "u32"),
    self,
    origins: reorder ? input("origins", [rows, SLOTS], "u32") : undefined,
  });
  const replay = new Replay([next.hidden], pairs(self, next.self), {
    ...weights,
    ...values,
    memory,
    mask: mask.flatMap((m) => [...m]),
  });
  let position = FIRST_POSITION;
  return (tokens: number[], parents: number[] = []): Values =>
    replay.run({
      tokens,
      positions: new Array(rows).fill(position++),
      origins: parents.flatMap((row) =>
        Array.from({ length: SLOTS }, (_, slot) => row * SLOTS + slot)
      ),
    })[0];
}

/** Hidden rows of whole sequences, [rows, length, hidden]. */
function whole(ids: number[][], mask: Uint32Array[], memory: Float32Array): Values {
  const rows = ids.length, source = mask[0].length, perPrompt = rows / mask.length;
  const repeat = <T>(values: ArrayLike<T>, size: number) =>
    ids.flatMap((_, row) => {
      const from = Math.floor(row / perPrompt) * size;
      return Array.prototype.slice.call(values, from, from + size) as T[];
    });
  const memoryTokens = input("source", [rows, source], "u32");
  const h = decode(parameters, MODEL, input("tokens", [rows, ids[0].length], "u32"), {
    memory: state("memory", [rows, source, dModel]),
    memoryTokens,
  });
  const sources = mask.flatMap((m) => Array.from(m, (seen) => seen ? 9 : 1));
  return interpret([h], {
    values: {
      ...weights,
      tokens: ids.flat(),
      source: repeat(sources, source),
      memory: repeat(memory, source * dModel),
    },
  })[0];
}

const MASK = [Uint32Array.of(1, 1, 1, 0, 0), Uint32Array.of(1, 1, 1, 1, 1)];

Deno.test("decodeStep: position by position equals decode", () => {
  const memory = uniform(2 * 5 * dModel);
  const ids = [[2, 17, 30, 4, 44, 9], [2, 5, 5, 23, 0, 11]];
  const expected = whole(ids, MASK, memory);
  const step = stepper(MASK, memory, 2, false);
  for (let t = 0; t < SLOTS; t++) {
    const hidden = step(ids.map((row) => row[t]));
    for (const row of [0, 1]) {
      const from = (row * SLOTS + t) * dModel;
      near(hidden.slice(row * dModel, (row + 1) * dModel), expected.slice(from, from + dModel));
    }
  }
});

Deno.test("decodeStep: rows that go on from other rows equal decode of what they then hold", () => {
  const memory = uniform(2 * 5 * dModel), beams = 3;
  const step = stepper(MASK, memory, 2 * beams, true);
  let texts: number[][] = Array.from({ length: 2 * beams }, () => []);
  for (let t = 0; t < SLOTS; t++) {
    const parents = texts.map((_, row) => row - row % beams + random.below(beams));
    const tokens = texts.map(() => 4 + random.below(40));
    texts = parents.map((parent, row) => [...texts[parent], tokens[row]]);
    const hidden = step(tokens, parents);
    const expected = whole(texts, MASK, memory);
    for (const row of texts.keys()) {
      const from = (row * (t + 1) + t) * dModel;
      near(hidden.slice(row * dModel, (row + 1) * dModel), expected.slice(from, from + dModel));
    }
  }
});

Deno.test("greedyStep: the most probable token but padding, with its log-probability", () => {
  const memory = uniform(2 * 5 * dModel), rows = 2;
  // Padding is what the model likes best at one position; its embedding is read nowhere else.
  const first = stepper(MASK, memory, rows, false)([SPECIAL.eos, SPECIAL.eos]);
  const table = weights["embed.tokens"].slice();
  table.set(first.slice(0, dModel).map((x) => 3 * x), SPECIAL.pad * dModel);

  const { self, values } = selfCache(rows);
  const tokens = state("tokens", [rows], "u32");
  const chosen = state("chosen", [rows, SLOTS], "u32"), logProbs = state("logProbs", [rows, SLOTS]);
  const inputs = { ...given(rows, MASK), tokens, self };
  const next = greedyStep(parameters, MODEL, { ...inputs, chosen, logProbs });
  const { hidden } = decodeStep(parameters, MODEL, inputs);
  const replay = new Replay([
    languageModelLogits(parameters, MODEL, "clm", hidden),
    next.tokens,
    next.chosen,
    next.logProbs,
  ], [
    ...pairs(self, next.self),
    [tokens, next.tokens],
    [chosen, next.chosen],
    [logProbs, next.logProbs],
  ], {
    ...weights,
    ...values,
    "embed.tokens": table,
    memory,
    mask: MASK.flatMap((m) => [...m]),
    tokens: [SPECIAL.eos, SPECIAL.eos],
    chosen: new Array(rows * SLOTS).fill(0),
    logProbs: new Array(rows * SLOTS).fill(0),
  });
  for (let t = 0; t < SLOTS; t++) {
    const [logits, best, ids, scores] = replay.run({
      positions: [FIRST_POSITION + t, FIRST_POSITION + t],
    });
    for (const row of [0, 1]) {
      const own = Array.from(logits.slice(row * 48, (row + 1) * 48));
      const allowed = own.map((x, id) => id === SPECIAL.pad ? -Infinity : x);
      if (t === 0 && row === 0) assert.equal(own.indexOf(Math.max(...own)), SPECIAL.pad);
      const expected = allowed.indexOf(Math.max(...allowed));
      assert.deepEqual([best[row], ids[row * SLOTS + t]], [expected, expected]);
      const all = Math.log(own.reduce((sum, x) => sum + Math.exp(x), 0));
      near([scores[row * SLOTS + t]], [own[expected] - all]);
    }
  }
  const dense = { ...MODEL, clmHead: "roberta" as const };
  assert.throws(
    () => greedyStep(parameters, dense, { ...inputs, chosen, logProbs }),
    /the head is roberta/,
  );
});

function near(got: ArrayLike<number>, expected: ArrayLike<number>): void {
  assert.equal(got.length, expected.length);
  for (let i = 0; i < got.length; i++) {
    assert.ok(Math.abs(got[i] - expected[i]) < 1e-9, `${i}: ${got[i]}, expected ${expected[i]}`);
  }
}
