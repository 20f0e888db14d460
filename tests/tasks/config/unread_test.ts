// No option in vain: each either changes what is computed or what is computed on, or it is refused; and it is
// refused only where it would change nothing.

import assert from "node:assert/strict";
import { topological } from "../../../ops/graph/tensor.ts";
import type { ProgramSpec } from "../../../ops/program/compile.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import type { Option } from "../../../tasks/command/options.ts";
import {
  type GivenPretrain,
  modelConfig,
  objectiveConfig,
  PRETRAIN_CONFIG,
  type PretrainConfig,
  resolvePretrain,
} from "../../../tasks/config/pretrain.ts";
import { expectAllRead, READ_UNDER } from "../../../tasks/config/unread.ts";
import { metroObjective, t5Objective } from "../../../tasks/train/objective.ts";
import { microSpec } from "../../../tasks/train/programs.ts";

const LENGTH = 48, ROWS = 3, REAL = 200;
const SMALL: GivenPretrain = {
  ...{ vocabSize: 260, sequenceLength: LENGTH, dModel: 16, heads: 2, dFf: 32 },
  ...{ encoderLayers: 1, decoderLayers: 1, relativeMaxDistance: 128, dropout: 0.1 },
};

/** A program as text: every node with its attributes and its operands. */
function textOf({ outputs = {}, updates = [] }: ProgramSpec): string {
  const nodes = topological([...Object.values(outputs), ...updates.flat()]);
  const numbers = new Map(nodes.map((node, i) => [node, i]));
  return nodes.map(({ primitive, inputs, attrs }) => {
    const operands = inputs.map(({ node, index }) => `${numbers.get(node)}.${index}`);
    return `${primitive.name} ${operands} ${JSON.stringify(attrs)}`;
  }).join("\n");
}

/** All that training computes in a few micro-batches: the program, what goes in, how losses are weighed. */
function everything(config: PretrainConfig): string {
  const model = modelConfig(config, REAL + LENGTH, LENGTH);
  const objective = config.objective === "metro"
    ? metroObjective(model, objectiveConfig(config), 1)
    : t5Objective(model, 1, config.labelSmoothing);
  const tokens = Uint32Array.from({ length: ROWS * LENGTH }, (_, i) => {
    return i % LENGTH === 0 ? 0 : i % LENGTH === LENGTH - 1 ? 2 : 4 + (i * 37) % (REAL - 4);
  });
  const batches = [0, 1, 2].map((k) =>
    objective.prepare({
      ...{ epoch: 0, length: LENGTH, rows: ROWS, blocks: [0, 1, 2], tokens },
      lengths: new Uint32Array(ROWS).fill(LENGTH),
      sequences: [0, 1, 2].map((i): [number, number] => [k, 3 * k + i]),
      realTokens: tokens.length,
    })
  );
  const counts = { selected: 9, tokens: 144, targets: 30 };
  const scalars = objective.scalars(counts, { selected: 20, tokens: 400, targets: 70 });
  const inputs = batches.map(({ inputs, counts }) => [
    counts,
    Object.entries(inputs).map(([name, values]) => [name, [...values]]),
  ]);
  const program = textOf(microSpec(model, objective, { rows: ROWS, length: LENGTH }, true));
  const weights = Object.entries(scalars).filter(([name]) =>
    program.includes(`runScalar  {"name":"${name}"}`)
  );
  return [program, JSON.stringify([inputs, weights])].join("\n");
}

/** Other values of an option than a present one. */
function others(option: Option, value: unknown): unknown[] {
  if (option.type === "choice") return option.choices.filter((choice) => choice !== value);
  if (option.type === "boolean") return [!value];
  if (option.type === "integer") return [2 * (value as number), 1 + (value as number)];
  return value === 0 ? [0.25] : [(value as number) / 2, 0];
}

/** Settings under which some others are not read. */
const UNDER: GivenPretrain[] = [
  { objective: "metro" },
  { objective: "metro", preset: "base", rtdHead: "simple" },
  { objective: "metro", rtdHead: "none" },
  { objective: "metro", maskedPositionsOnly: "none" },
  { objective: "metro", maskedPositionsOnly: "both", spanLength: 3, spanStdev: 1 },
  { objective: "metro", weightedLmLoss: true, mlmHead: "linear", clmHead: "linear" },
  { objective: "metro", copyMechanism: true },
  { objective: "metro", keepShare: 0.2, randomShare: 0.3, maskSpecials: true },
  { objective: "t5" },
  { objective: "t5", preset: "base", labelSmoothing: 0.1 },
];
const OPTIONS = Object.entries(PRETRAIN_CONFIG) as [keyof PretrainConfig, Option][];
const TESTED = OPTIONS.filter(([, { group }]) => group === "Model" || group === "Objective");

Deno.test("every option of model and objective is read, or refused where nothing reads it", () => {
  const read = new Set<string>(), refused = new Set<string>();
  for (const under of UNDER) {
    const base = { ...SMALL, ...under }, config = resolvePretrain(base, []);
    const before = everything(config);
    for (const [name, option] of TESTED) {
      const accepted: boolean[] = [], what = `under ${JSON.stringify(under)}`;
      for (const value of others(option, config[name])) {
        const given = { ...base, [name]: value };
        let changed: PretrainConfig;
        try {
          changed = resolvePretrain(given, []);
        } catch (error) {
          assert.ok(error instanceof UserError, what);
          assert.match(error.message, /^--[a-z-]+(, --[a-z-]+)*: expected /, what);
          continue;
        }
        const same = everything(changed) === before;
        try {
          expectAllRead({ ...under, [name]: value }, changed);
        } catch (error) {
          assert.ok(error instanceof UserError);
          assert.match(
            error.message,
            /^--[a-z-]+: goes with .*, else nothing reads it; leave it out$/,
          );
          // The option itself is in vain, or makes another in vain that is given.
          if (
            error.message.startsWith(`--${name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}:`)
          ) {
            assert.ok(same, `${name} ${value} is refused, but changes something, ${what}`);
            refused.add(name);
          }
          continue;
        }
        accepted.push(same);
        if (!same) read.add(name);
      }
      // Two choices may mean the same under others; not all.
      assert.ok(
        !accepted.every(Boolean) || accepted.length === 0,
        `${name} changes nothing, ${what}`,
      );
    }
  }
  assert.deepEqual(TESTED.map(([name]) => name).filter((name) => !read.has(name)), []);
  const conditional = Object.keys(READ_UNDER).filter((name) => TESTED.some(([n]) => n === name));
  assert.deepEqual([...refused].sort(), conditional.sort());
});

for (
  const [given, message] of [
    [{ tokenizer: "x/tokenizer.json", lowercase: true }, /^--lowercase: goes with --tokenizer bpe/],
    [{ packing: "concat", longLines: "crop" }, /^--long-lines: goes with --packing complete_doc/],
    [{ heldOut: 0, evaluateTokens: 100 }, /^--evaluate-tokens: goes with --held-out above 0/],
  ] as [GivenPretrain, RegExp][]
) {
  Deno.test(`refused: ${message.source}`, () => {
    assert.throws(() => expectAllRead(given, resolvePretrain(given, [])), {
      name: "UserError",
      message,
    });
  });
}

for (
  const [given, message] of [
    [{ maskProbability: 0 }, /^--mask-probability: expected a share above 0/],
    [{ spanLength: 1000 }, /^--span-length: expected at most --sequence-length \d+, got 1000$/],
    [{ mlmWeight: 0, rtdWeight: 0, clmWeight: 0 }, /^--mlm-weight, --rtd-weight, --clm-weight: /],
    [
      { rtdHead: "none", mlmWeight: 0, clmWeight: 0 },
      /^--mlm-weight, --rtd-weight, --clm-weight: /,
    ],
    [{ dModel: 1024, heads: 4 }, /^--heads: expected at least 8, .* got 4$/],
    [{ dModel: 30, heads: 2 }, /^--d-model: expected a multiple of 4, .* got 30$/],
    [{ heads: 3 }, /^--heads: expected a divisor of 128, got 3$/],
    [{ relativeBuckets: 6 }, /^--relative-buckets: expected a multiple of 4, got 6$/],
    [{ spanStdev: 1 }, /^--span-stdev: expected 0 where spanLength is 1, got 1$/],
  ] as [GivenPretrain, RegExp][]
) {
  Deno.test(`refused in the words of the flags: ${message.source}`, () => {
    assert.throws(() => resolvePretrain(given, []), { name: "UserError", message });
  });
}
